package remote_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"nearsight/registry"
	"nearsight/registry/remote"
)

// happened is what an answer says of the event of a revision.
func happened(revision int) string {
	return fmt.Sprintf(`{"revision":%d,"image":"%s","kind":"update","digest":"","at":"2026-01-02T03:04:05Z"}`, revision, id1)
}

func TestAnswersBecomeEventsAndSignsOfLife(t *testing.T) {
	for _, tt := range []struct {
		name    string
		after   int64
		answers []string // 200s of the node API, one after the other; then nothing comes
		want    string   // revisions, + for a sign of life
		err     error
		says    string
	}{
		{"nothing happened", 4, []string{`{"revision":4,"proved":true,"events":[]}`}, "4+", nil, ""},
		{"nothing ever happened", 0, []string{`{"revision":0,"proved":true,"events":[]}`}, "0+", nil, ""},
		{"an event of which it is not known whether it is the last", 4, []string{`{"revision":5,"proved":false,"events":[` + happened(5) + `]}`}, "5", nil, ""},
		{"an event that is the last", 4, []string{`{"revision":5,"proved":true,"events":[` + happened(5) + `]}`}, "5 5+", nil, ""},
		{"more than an answer has", 4, []string{`{"revision":9,"proved":true,"events":[` + happened(5) + `]}`, `{"revision":6,"proved":true,"events":[` + happened(6) + `]}`}, "5 6 6+", nil, ""},
		{"an answer that knows more members and kinds", 4, []string{`{"revision":5,"proved":true,"more":1,"events":[` + strings.Replace(happened(5), "update", "rename", 1) + `]}`}, "5 5+", nil, ""},

		{"a gap", 4, []string{`{"revision":6,"proved":true,"events":[` + happened(6) + `]}`}, "", registry.ErrUnavailable, "revision 4 is followed by 6"},
		{"a gap after an event", 4, []string{`{"revision":7,"proved":true,"events":[` + happened(5) + "," + happened(7) + `]}`}, "", registry.ErrUnavailable, "revision 5 is followed by 7"},
		{"an event from before", 4, []string{`{"revision":5,"proved":true,"events":[` + happened(4) + `]}`}, "", registry.ErrUnavailable, ""},
		{"events that are held back", 4, []string{`{"revision":5,"proved":true,"events":[]}`}, "", registry.ErrUnavailable, "do not come"},
		{"nothing, but that is not known", 4, []string{`{"revision":4,"proved":false,"events":[]}`}, "", registry.ErrUnavailable, "does not know"},
		{"an event ahead of the registry", 4, []string{`{"revision":4,"proved":true,"events":[` + happened(5) + `]}`}, "", registry.ErrUnavailable, ""},
		{"an event about nothing", 4, []string{`{"revision":5,"proved":true,"events":[{"revision":5,"image":"x","kind":"update"}]}`}, "", registry.ErrUnavailable, "about no image"},
		{"a sign of life among the events", 4, []string{`{"revision":5,"proved":true,"events":[{"revision":5,"image":"` + id1 + `","kind":""}]}`}, "", registry.ErrUnavailable, ""},
		{"a negative revision", 0, []string{`{"revision":-1,"proved":true,"events":[]}`}, "", registry.ErrUnavailable, ""},
		{"no JSON", 4, []string{`<html>`}, "", registry.ErrUnavailable, "cannot be understood"},
		{"nothing at all", 0, []string{``}, "", registry.ErrUnavailable, "cannot be understood"},
		{"a registry that was put back", 4, []string{`{"revision":3,"proved":true,"events":[]}`}, "", nil, "ends at revision 3"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ctx, stop := context.WithCancel(t.Context())
			defer stop()
			n := 0
			c := overWire(t, func(r *http.Request) (*http.Response, error) {
				if n++; n > len(tt.answers) {
					stop()
					return nil, ctx.Err()
				}
				return said(tt.answers[n-1]), nil
			}, nil)
			var got []string
			var failure error
			for e, err := range c.Watch(ctx, tt.after) {
				if failure != nil {
					t.Error("there is more after an error")
				}
				switch {
				case err != nil:
					failure = err
				case e.Kind == registry.EventNone:
					got = append(got, fmt.Sprint(e.Revision, "+"))
				default:
					got = append(got, fmt.Sprint(e.Revision))
					if e.ImageID != id1 || !e.At.Equal(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)) || e.At.Location() != time.UTC {
						t.Errorf("event %+v", e)
					}
				}
			}
			if strings.Join(got, " ") != tt.want || tt.err != nil && !errors.Is(failure, tt.err) {
				t.Errorf("got %v, %v; want %s, %v", got, failure, tt.want, tt.err)
			}
			if (failure != nil) != (tt.err != nil || tt.says != "") || tt.says != "" && !strings.Contains(failure.Error(), tt.says) {
				t.Errorf("error %v, which should say %q", failure, tt.says)
			}
		})
	}
}

// A history answers questions for events as a central does, at the pace of the test's
// time.
type history struct {
	every  time.Duration // from one event to the next; 0: none comes
	rtt    time.Duration
	start  time.Time
	asked  []time.Duration // the wait of each question
	active int
	most   int
}

func (h *history) revision() int {
	if h.every == 0 {
		return 0
	}
	return int(time.Since(h.start) / h.every)
}

func (h *history) RoundTrip(r *http.Request) (*http.Response, error) {
	h.active++
	h.most = max(h.most, h.active)
	defer func() { h.active-- }()
	q, _ := url.ParseQuery(r.URL.RawQuery)
	var after int
	fmt.Sscan(q.Get("after"), &after)
	wait, err := time.ParseDuration(q.Get("wait"))
	if err != nil {
		return nil, err
	}
	h.asked = append(h.asked, wait)
	time.Sleep(h.rtt / 2)
	proved := wait == 0
	if h.revision() <= after {
		next := wait
		if h.every > 0 {
			next = min(wait, time.Until(h.start.Add(time.Duration(after+1)*h.every)))
		}
		select {
		case <-time.After(next):
		case <-r.Context().Done():
			return nil, r.Context().Err()
		}
		proved = h.revision() <= after
	}
	now := h.revision()
	var events []string
	for n := after + 1; n <= now; n++ {
		events = append(events, happened(n))
	}
	time.Sleep(h.rtt / 2)
	return said(fmt.Sprintf(`{"revision":%d,"proved":%v,"events":[%s]}`, now, proved, strings.Join(events, ","))), nil
}

func TestSignsOfLifeComeEverySecondHoweverMuchHappens(t *testing.T) {
	for _, tt := range []struct {
		name  string
		every time.Duration
	}{
		{"nothing", 0},
		{"an event now and then", 900 * time.Millisecond},
		{"events all the time", time.Millisecond},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := &history{every: tt.every, rtt: 10 * time.Millisecond, start: time.Now()}
				c := overWire(t, h.RoundTrip, nil)
				ctx, stop := context.WithTimeout(t.Context(), time.Minute)
				defer stop()
				last, signs, revision := time.Now(), 0, int64(0)
				for e, err := range c.Watch(ctx, 0) {
					if err != nil {
						t.Fatal(err)
					}
					if e.Kind != registry.EventNone {
						if revision++; e.Revision != revision {
							t.Fatalf("event %d after %d", e.Revision, revision-1)
						}
						continue
					}
					if e.Revision != revision {
						t.Errorf("a sign of life of %d after event %d", e.Revision, revision)
					}
					if d := time.Since(last); d > 1100*time.Millisecond {
						t.Errorf("%v without a sign of life", d)
					}
					last = time.Now()
					signs++
				}
				if signs < 55 || h.most != 1 {
					t.Errorf("%d signs of life in a minute, %d questions at a time", signs, h.most)
				}
				if tt.every == 0 && len(h.asked) > 65 {
					t.Errorf("%d questions in a minute in which nothing happened", len(h.asked))
				}
			})
		})
	}
}

// What a central said before this process was stopped is no sign of life after it.
func TestAnOldAnswerWithEventsIsNoSignOfLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := 0
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		c := overWire(t, func(*http.Request) (*http.Response, error) {
			if n++; n == 1 {
				return said(`{"revision":1,"proved":true,"events":[` + happened(1) + `]}`), nil
			}
			stop()
			return nil, ctx.Err()
		}, nil)
		for e, err := range c.Watch(ctx, 0) {
			if err != nil || e.Kind == registry.EventNone {
				t.Errorf("%+v, %v", e, err)
			}
			time.Sleep(time.Minute)
		}
	})
}

func TestASilentCentralIsUnavailable(t *testing.T) {
	calls := map[string]func(*remote.Central, context.Context) error{
		"watch": func(c *remote.Central, ctx context.Context) error {
			for _, err := range c.Watch(ctx, 0) {
				return err
			}
			return nil
		},
		"get": func(c *remote.Central, ctx context.Context) error {
			_, err := c.Get(ctx, id1)
			return err
		},
		"identify": func(c *remote.Central, ctx context.Context) error {
			_, err := c.Identify(ctx, "token")
			return err
		},
	}
	for name, call := range calls {
		for _, part := range []string{"no answer", "half an answer", "an answer byte by byte"} {
			t.Run(name+", "+part, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					c := overWire(t, func(r *http.Request) (*http.Response, error) {
						if part == "no answer" {
							<-r.Context().Done()
							return nil, r.Context().Err()
						}
						resp := said("")
						resp.Body = &slowBody{ctx: r.Context(), endless: part == "an answer byte by byte"}
						return resp, nil
					}, nil)
					start := time.Now()
					if err := call(c, t.Context()); !errors.Is(err, registry.ErrUnavailable) {
						t.Errorf("error %v", err)
					}
					if d := time.Since(start); part != "an answer byte by byte" && d > 10*time.Second {
						t.Errorf("it took %v", d)
					}
				})
			})
		}
	}
}

// A slowBody yields one byte, and then nothing, or one each second for a while.
type slowBody struct {
	ctx     context.Context
	n       int
	endless bool
}

func (b *slowBody) Read(p []byte) (int, error) {
	if b.n++; b.n == 1 || b.endless && b.n < 100 {
		time.Sleep(time.Second)
		p[0] = ' '
		return 1, b.ctx.Err()
	}
	<-b.ctx.Done()
	return 0, b.ctx.Err()
}

func (b *slowBody) Close() error { return nil }

func TestEventsThatAreNotKeptAreTooOld(t *testing.T) {
	c := overWire(t, func(*http.Request) (*http.Response, error) {
		return reply(410, `{"detail":"events after revision 3 are not kept any more"}`, "Nearsight-Revision: 9"), nil
	}, nil)
	if _, err := c.Since(t.Context(), 3, 10); !errors.Is(err, registry.ErrTooOld) || errors.Is(err, registry.ErrUnavailable) {
		t.Errorf("Since: %v", err)
	}
	for _, err := range c.Watch(t.Context(), 3) {
		if !errors.Is(err, registry.ErrTooOld) {
			t.Errorf("Watch: %v", err)
		}
	}
}

func TestMoreEventsThanAnAnswerHasAreAskedForAgain(t *testing.T) {
	c := newCentral(t, nil, nil)
	const n = 2500
	for range n {
		if _, err := c.db.Create(t.Context(), &registry.Image{Visibility: registry.Private}); err != nil {
			t.Fatal(err)
		}
	}
	r := c.remote(nil)
	for _, limit := range []int{0, 1, 999, 1000, 1001, 2000, n, n + 1} {
		events, err := r.Since(t.Context(), 0, limit)
		if want := min(limit, n); err != nil || len(events) != want || want > 0 && events[want-1].Revision != int64(want) {
			t.Errorf("limit %d: %d events, %v", limit, len(events), err)
		}
	}
	// From before what the central remembers, and in its memory.
	seen := int64(0)
	for e, err := range r.Watch(t.Context(), 0) {
		if err != nil {
			t.Fatal(err)
		}
		if seen = e.Revision; e.Kind == registry.EventNone && seen == n {
			break
		}
	}
}

func TestAWatcherFromBeforeWhatIsKeptIsTold(t *testing.T) {
	c := newCentral(t, nil, nil)
	r := c.remote(nil)
	for range 10 {
		if _, err := c.db.Create(t.Context(), &registry.Image{Visibility: registry.Private}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.db.PruneEvents(t.Context(), time.Now().Add(time.Hour), 2); err != nil {
		t.Fatal(err)
	}
	again := newCentralOver(t, c)
	if _, err := again.Since(t.Context(), 3, 10); !errors.Is(err, registry.ErrTooOld) {
		t.Errorf("a central that was started again: %v", err)
	}
	if events, err := again.Since(t.Context(), 8, 10); err != nil || len(events) != 2 {
		t.Errorf("what is kept: %v, %v", events, err)
	}
	if revision, err := r.Revision(t.Context()); err != nil || revision != 10 {
		t.Errorf("revision %d, %v", revision, err)
	}
}
