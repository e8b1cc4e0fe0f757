package remote_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"nearsight/registry"
	"nearsight/registry/api"
	"nearsight/registry/identity"
	"nearsight/registry/remote"
)

// people are known by NAME's.
type people struct{}

func (people) Identify(_ context.Context, token string) (*registry.Caller, error) {
	name, ok := strings.CutSuffix(token, "'s")
	switch {
	case token == "broken":
		return nil, errors.New("keystone is away")
	case !ok:
		return nil, identity.ErrUnknown
	}
	return &registry.Caller{Project: "p-" + name, User: name, Roles: []string{"member", "reader"}}, nil
}

func TestCallersAreWhoTheCentralSaysTheyAre(t *testing.T) {
	c := newCentral(t, func(o *api.Options) { o.Identity = people{} }, nil)
	r := c.remote(nil)
	if r.Remembered("anna's") != nil {
		t.Error("she is remembered before she came")
	}
	for range 2 {
		caller, err := r.Identify(t.Context(), "anna's")
		if err != nil || caller.Project != "p-anna" || caller.User != "anna" || !caller.Is("member") || caller.Is("admin") || caller.Is("node") {
			t.Fatalf("%+v, %v", caller, err)
		}
		if got := r.Remembered("anna's"); got != caller {
			t.Errorf("remembered %+v", got)
		}
	}
	for _, token := range []string{"", "nobody", "anna", "a b's", "ä's", "\xff's", secret, strings.Repeat("x", 20<<10) + "'s"} {
		if caller, err := r.Identify(t.Context(), token); !errors.Is(err, identity.ErrUnknown) {
			t.Errorf("%.20q: %+v, %v", token, caller, err)
		}
	}
	if _, err := r.Identify(t.Context(), "broken"); !errors.Is(err, registry.ErrUnavailable) || strings.Contains(err.Error(), "keystone") {
		t.Errorf("a central that cannot find out: %v", err)
	}
	open := newCentral(t, nil, nil).remote(nil)
	if caller, err := open.Identify(t.Context(), "anybody"); err != nil || !caller.Is("admin") || caller.Is("node") {
		t.Errorf("a central that tells nobody apart: %+v, %v", caller, err)
	}
}

// A desk answers questions about one token.
type desk struct {
	asked atomic.Int64
	reply atomic.Pointer[string] // nil: the wire is cut
}

func (d *desk) RoundTrip(r *http.Request) (*http.Response, error) {
	d.asked.Add(1)
	if body := bodyOf(r); body != `{"token":"t"}` {
		return reply(400, "", "Nearsight-Revision: 1"), nil
	}
	time.Sleep(10 * time.Millisecond)
	text := d.reply.Load()
	if text == nil {
		return nil, errCut
	}
	return said(*text), nil
}

func (d *desk) says(text string) { d.reply.Store(&text) }

const anna = `{"caller":{"project":"p","user":"anna","roles":["member"]},"expires_in":30}`

func TestACallerIsBelievedForALimitedTime(t *testing.T) {
	for _, tt := range []struct {
		name         string
		keep, expect time.Duration
		reply        string
	}{
		{"by default", 0, 10 * time.Second, anna},
		{"as configured", 3 * time.Second, 3 * time.Second, anna},
		{"not for longer than is safe", time.Hour, 30 * time.Second, anna},
		{"not for longer than the central says", 0, 2 * time.Second, strings.Replace(anna, "30", "2", 1)},
		{"not for as long as a strange central says", time.Hour, 30 * time.Second, strings.Replace(anna, "30", "9000000000000000000", 1)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := &desk{}
				d.says(tt.reply)
				c := overWire(t, d.RoundTrip, func(o *remote.Options) { o.Keep = tt.keep })
				start := time.Now()
				if _, err := c.Identify(t.Context(), "t"); err != nil {
					t.Fatal(err)
				}
				d.says(`{"caller":null,"expires_in":30}`) // revoked
				for c.Remembered("t") != nil {
					if _, err := c.Identify(t.Context(), "t"); err != nil {
						t.Fatal(err)
					}
					time.Sleep(100 * time.Millisecond)
				}
				if got := time.Since(start).Round(time.Second); got != tt.expect || d.asked.Load() != 1 {
					t.Errorf("believed for %v after %d questions, want %v after one", got, d.asked.Load(), tt.expect)
				}
				for range 10 {
					if _, err := c.Identify(t.Context(), "t"); !errors.Is(err, identity.ErrUnknown) {
						t.Fatalf("revoked, and then: %v", err)
					}
				}
				if d.asked.Load() != 2 {
					t.Errorf("%d questions about a token that is not known", d.asked.Load())
				}
				d.says(anna) // given out again
				time.Sleep(3 * time.Second)
				if _, err := c.Identify(t.Context(), "t"); err != nil {
					t.Errorf("a token that was new: %v", err)
				}
			})
		})
	}
}

func TestOneQuestionDoesForAllWhoWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &desk{}
		d.says(anna)
		c := overWire(t, d.RoundTrip, nil)
		gone, leave := context.WithCancel(t.Context())
		var all sync.WaitGroup
		for i := range 20 {
			all.Go(func() {
				ctx := t.Context()
				if i%2 == 0 {
					ctx = gone
				}
				caller, err := c.Identify(ctx, "t")
				if err == nil && caller.User == "anna" || i%2 == 0 && errors.Is(err, context.Canceled) {
					return
				}
				t.Errorf("%+v, %v", caller, err)
			})
		}
		synctest.Wait()
		leave()
		all.Wait()
		if d.asked.Load() != 1 {
			t.Errorf("%d questions", d.asked.Load())
		}
	})
}

func TestWithoutTheCentralKnownCallersAreBelievedForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &desk{}
		d.says(anna)
		c := overWire(t, d.RoundTrip, func(o *remote.Options) { o.Keep, o.KeepIfError = 5*time.Second, time.Minute })
		start := time.Now()
		if _, err := c.Identify(t.Context(), "t"); err != nil {
			t.Fatal(err)
		}
		d.reply.Store(nil)
		for {
			caller, err := c.Identify(t.Context(), "t")
			if err != nil {
				wantErr(t, "when it is over", err, registry.ErrUnavailable)
				break
			}
			if caller.User != "anna" {
				t.Fatalf("%+v", caller)
			}
			if c.Remembered("t") != nil && time.Since(start) > 6*time.Second {
				t.Fatal("the short way believes it too")
			}
			time.Sleep(10 * time.Millisecond)
		}
		if got := time.Since(start).Round(time.Second); got != time.Minute {
			t.Errorf("believed for %v", got)
		}
		if n := d.asked.Load(); n > 70 {
			t.Errorf("%d questions in a minute to a central that is away", n)
		}
		d.says(anna)
		if _, err := c.Identify(t.Context(), "t"); err != nil {
			t.Errorf("back again: %v", err)
		}
	})
}

func TestARevokedTokenIsNotBelievedWithoutTheCentralEither(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &desk{}
		d.says(anna)
		c := overWire(t, d.RoundTrip, func(o *remote.Options) { o.Keep, o.KeepIfError = time.Second, time.Hour })
		for _, text := range []string{anna, `{"caller":null,"expires_in":30}`} {
			d.says(text)
			c.Identify(t.Context(), "t")
			time.Sleep(10 * time.Second)
		}
		d.reply.Store(nil)
		_, err := c.Identify(t.Context(), "t")
		wantErr(t, "Identify", err, registry.ErrUnavailable)
	})
}

func TestAnAnswerAboutATokenThatIsNoneMeansNothing(t *testing.T) {
	for _, resp := range []*http.Response{
		said(``), said(`{}`), said(`{"caller":null}`), said(`{"caller":{"roles":["admin"]}}`), said(`{"caller":[],"expires_in":1}`), said(`{"caller":null,"expires_in":-1}`),
		reply(200, anna), reply(401, ""), reply(404, ""), reply(404, "", "Nearsight-Revision: 1"), reply(400, "", "Nearsight-Revision: 1"), reply(410, "", "Nearsight-Revision: 1"),
	} {
		c := overWire(t, func(*http.Request) (*http.Response, error) { return resp, nil }, nil)
		caller, err := c.Identify(t.Context(), "t")
		if caller != nil {
			t.Errorf("%+v", caller)
		}
		wantErr(t, "Identify", err, registry.ErrUnavailable)
	}
}
