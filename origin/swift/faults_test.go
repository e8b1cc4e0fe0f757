package swift

import (
	"log/slog"
	"net/url"
	"testing"
	"time"

	"nearsight/origin"
	"nearsight/origin/guard"
	"nearsight/origin/origintest"
)

// What every store does when its server, or the way there, is in trouble: as
// the program has it, and alone and with segments.
func TestTrouble(t *testing.T) {
	l := newLab(t)
	u, err := url.Parse(l.authURL)
	if err != nil {
		t.Fatal(err)
	}
	server := u.Scheme + "://" + u.Host
	open := func(t *testing.T, url string) *Store { return l.open(t, Options{AuthURL: url + u.Path}) }
	t.Run("guarded", func(t *testing.T) {
		origintest.TestTrouble(t, server, func(t *testing.T, url string) origin.WriteStore {
			return guard.NewWriter(open(t, url), guard.Options{
				Backoff: time.Nanosecond, Cooldown: time.Nanosecond, Log: slog.New(slog.DiscardHandler),
			})
		})
	})
	t.Run("alone, in segments", func(t *testing.T) {
		origintest.TestTrouble(t, server, func(t *testing.T, url string) origin.WriteStore {
			s := open(t, url)
			s.block, s.o.SegmentSize = 64<<10, 1200<<10 // longer than where uploads are reset
			t.Cleanup(func() { wantNoLeftovers(t, s) })
			return s
		})
	})
}
