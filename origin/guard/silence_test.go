package guard_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"nearsight/origin"
	"nearsight/origin/guard"
	"nearsight/origin/origintest"
)

// The query of a stranger's URL may be a signature.
func TestSilenceShowsNoSignature(t *testing.T) {
	for url, want := range map[string]string{
		"https://far.example/i?X-Signature=secret":           "https://far.example/i?...: ",
		"https://far.example/i?X-Signature=secret#secret":    "https://far.example/i?...: ",
		"https://far.example/i#secret?secret":                "https://far.example/i: ",
		"https://user:secret@far.example/i":                  "https://far.example/i: ",
		"https://user:secret@far.example?secret=me@home.org": "https://far.example?...: ",
		"s3://near/i": "s3://near/i: ",
	} {
		synctest.Test(t, func(t *testing.T) {
			loc := origin.Location{URL: url}
			s := guard.NewWriter(hangStore{new(origintest.Fake)}, once(guard.Options{Failures: 1}))
			for _, op := range []string{"stat", "open", "delete", "stat"} { // the last one is refused
				err := do(t.Context(), s, op, loc)
				if err == nil || strings.Contains(err.Error(), "secret") || !strings.Contains(err.Error(), want) {
					t.Errorf("%s of %s: %v; want %q in it", op, url, err, want)
				}
				if op != "stat" {
					time.Sleep(10 * time.Second) // for the next one to be let through
				}
			}
		})
	}
}

// An endlessStore has bodies that do not end where they should, but do nothing.
type endlessStore struct{ *origintest.Fake }

func (s endlessStore) Open(ctx context.Context, loc origin.Location, off, n int64) (*origin.Object, error) {
	o, err := s.Fake.Open(ctx, loc, off, n)
	if err == nil {
		o.Body = endlessBody{o.Body, ctx}
	}
	return o, err
}

type endlessBody struct {
	io.ReadCloser
	ctx context.Context
}

func (b endlessBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF {
		<-b.ctx.Done()
		err = b.ctx.Err()
	}
	return n, err
}

func TestSilenceBehindTheLastByte(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l log
		s := guard.NewWriter(endlessStore{new(origintest.Fake)}, once(guard.Options{Stall: 5 * time.Second, Observer: &l}))
		loc, err := s.Put(t.Context(), s.Locate("i"), -1, strings.NewReader("abc"))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		start := time.Now()
		err = do(ctx, s, "open", loc) // to the end
		if !errors.Is(err, origin.ErrUnavailable) || time.Since(start) != 5*time.Second {
			t.Errorf("a body that does not end: %v after %v", err, time.Since(start))
		}
		o, err := s.Open(ctx, loc, 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(o.Body, make([]byte, 3)); err != nil {
			t.Error(err)
		}
		cancel() // who has all the bytes may go
		o.Body.Close()
		l.want(t, "put ok", "open stalled", "open ok")
	})
}
