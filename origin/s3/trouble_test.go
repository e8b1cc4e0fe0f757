package s3

import (
	"log/slog"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"nearsight/origin"
	"nearsight/origin/guard"
	"nearsight/origin/origintest"
)

// hasty makes s wait no longer than a test can bear, between two attempts and for
// the end of what cannot be called off.
func hasty(s *Store) *Store {
	o := s.client.Options()
	o.Retryer = retry.AddWithMaxBackoffDelay(o.Retryer, time.Microsecond)
	s.client, s.grace = s3.New(o), time.Second
	return s
}

// What every store does when its server, or the way there, is in trouble: alone,
// as the program has it, and with uploads in parts that no real server takes.
func TestTrouble(t *testing.T) {
	open := func(t *testing.T, url string) *Store {
		o := lab(t)
		o.Endpoint = url
		return hasty(openStore(t, o))
	}
	t.Run("alone", func(t *testing.T) {
		origintest.TestTrouble(t, lab(t).Endpoint, func(t *testing.T, url string) origin.WriteStore { return open(t, url) })
	})
	t.Run("guarded", func(t *testing.T) {
		origintest.TestTrouble(t, lab(t).Endpoint, func(t *testing.T, url string) origin.WriteStore {
			return guard.NewWriter(open(t, url), guard.Options{
				Backoff: time.Nanosecond, Cooldown: time.Nanosecond, Log: slog.New(slog.DiscardHandler),
			})
		})
	})
	t.Run("in parts", func(t *testing.T) {
		f := newFake(t)
		origintest.TestTrouble(t, f.URL, func(t *testing.T, url string) origin.WriteStore {
			o := f.options()
			o.Endpoint = url
			s := hasty(openStore(t, o))
			s.o.PartSize = 1200 << 10 // longer than where uploads are reset
			return s
		})
		if objects, uploads := f.left(); objects+uploads > 0 {
			t.Errorf("%d objects and %d uploads are left", objects, uploads)
		}
	})
}
