package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"nearsight/registry"
	"nearsight/registry/bus"
)

// A ledger is a log of which the events that are heard may fall behind.
type ledger struct {
	bus *bus.Local

	mu       sync.Mutex
	events   []registry.Event
	pruned   int   // events that are not kept
	deaf     bool  // what happens is not heard
	err      error // of every read
	reads    int   // of the revision
	searches int   // for events
}

func newLedger() *ledger {
	l := &ledger{}
	l.bus = bus.New(l)
	return l
}

// happen adds n events.
func (l *ledger) happen(n int) {
	l.mu.Lock()
	for range n {
		l.events = append(l.events, registry.Event{Revision: int64(len(l.events) + 1), ImageID: id1, Kind: registry.EventUpdate})
	}
	revision, deaf := len(l.events), l.deaf
	l.mu.Unlock()
	if !deaf {
		l.bus.Notify(int64(revision))
	}
}

func (l *ledger) Revision(context.Context) (int64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.reads++
	return int64(len(l.events)), l.err
}

func (l *ledger) Since(_ context.Context, after int64, limit int) ([]registry.Event, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.searches++
	switch {
	case l.err != nil:
		return nil, l.err
	case after < int64(l.pruned):
		return nil, registry.ErrTooOld
	case after >= int64(len(l.events)):
		return nil, nil
	}
	rest := l.events[after:]
	return rest[:min(len(rest), limit)], nil
}

// counted returns how often the revision and events were read since the last time.
func (l *ledger) counted() (reads, searches int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	reads, searches = l.reads, l.searches
	l.reads, l.searches = 0, 0
	return reads, searches
}

// change does something to the ledger.
func (l *ledger) change(do func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	do()
}

// follow has a feed follow a ledger until the function returned is called.
func follow(t *testing.T, l *ledger) (f *feed, stop func()) {
	f = newFeed(l, l.bus, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { f.run(ctx) })
	return f, func() {
		cancel()
		running.Wait()
	}
}

// tell says what an answer has: the revision, * if it is proved, and the events.
func tell(n news, err error) string {
	if err != nil {
		return err.Error()
	}
	s := fmt.Sprint(n.revision)
	if n.proved {
		s += "*"
	}
	switch k := len(n.events); k {
	case 0:
	case 1:
		s += fmt.Sprint(" ", n.events[0].Revision)
	default:
		s += fmt.Sprint(" ", n.events[0].Revision, "-", n.events[k-1].Revision)
	}
	return s
}

func TestWhoAsksForNewsGetsThemSoon(t *testing.T) {
	down := fmt.Errorf("%w: no connection", registry.ErrUnavailable)
	for _, tt := range []struct {
		name  string
		setup func(l *ledger) // before anybody listens
		then  func(l *ledger) // when all do
		after int64
		wait  time.Duration
		later func(l *ledger) // after 300 ms
		want  string
		took  time.Duration
	}{
		{"nothing ever happened", nil, nil, 0, time.Second, nil, "0*", time.Second},
		{"nothing happened, and nobody waits", func(l *ledger) { l.happen(3) }, nil, 3, 0, nil, "3*", 0},
		{"nothing happens", func(l *ledger) { l.happen(3) }, nil, 3, time.Second, nil, "3*", time.Second},
		{"something happens", func(l *ledger) { l.happen(3) }, nil, 3, time.Second, func(l *ledger) { l.happen(1) }, "4 4", 300 * time.Millisecond},
		{"something happened since it was started", func(l *ledger) { l.happen(3) }, func(l *ledger) { l.happen(2) }, 3, time.Second, nil, "5 4-5", 0},
		{"something happened before it was started", func(l *ledger) { l.happen(3) }, nil, 1, time.Second, nil, "3* 2-3", 0},
		{"something happened, and nobody waits", nil, func(l *ledger) { l.happen(2) }, 0, 0, nil, "2* 1-2", 0},
		{"more than an answer has", nil, func(l *ledger) { l.happen(2500) }, 0, time.Second, nil, "2500 1-1000", 0},
		{"the rest of it", nil, func(l *ledger) { l.happen(2500) }, 2000, time.Second, nil, "2500 2001-2500", 0},
		{"more than is remembered", nil, func(l *ledger) {
			for range 20 {
				l.happen(1000)
				synctest.Wait()
			}
		}, 10, time.Second, nil, "20000* 11-1010", 0},

		{"it hears nothing, and nothing happens", func(l *ledger) { l.happen(3) }, func(l *ledger) { l.change(func() { l.deaf = true }) }, 3, time.Second, nil, "3*", time.Second},
		{"it hears nothing, and something happens", func(l *ledger) { l.happen(3) }, func(l *ledger) { l.change(func() { l.deaf = true }) }, 3, time.Second,
			func(l *ledger) { l.happen(1) }, "4* 4", time.Second},
		{"another central was faster", func(l *ledger) { l.happen(3) }, func(l *ledger) { l.change(func() { l.deaf = true }); l.happen(1) }, 4, time.Second, nil, "4*", time.Second},
		{"the log was put back", func(l *ledger) { l.happen(3) }, nil, 9, time.Second, nil, "3*", 0},
		{"what is asked for is not kept", func(l *ledger) { l.happen(9); l.pruned = 5 }, nil, 3, time.Second, nil, registry.ErrTooOld.Error(), 0},
		{"what is kept", func(l *ledger) { l.happen(9); l.pruned = 5 }, nil, 5, time.Second, nil, "9* 6-9", 0},
		{"the log cannot be asked whether nothing happened", func(l *ledger) { l.happen(3) }, func(l *ledger) { l.change(func() { l.err = down }) }, 3, time.Second, nil,
			"prove the revision: " + down.Error(), time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLedger()
				if tt.setup != nil {
					tt.setup(l)
				}
				f, stop := follow(t, l)
				defer stop()
				synctest.Wait()
				if tt.then != nil {
					tt.then(l)
					synctest.Wait()
				}
				if tt.later != nil {
					time.AfterFunc(300*time.Millisecond, func() { tt.later(l) })
				}
				start := time.Now()
				got := tell(f.next(t.Context(), tt.after, tt.wait))
				if took := time.Since(start); got != tt.want || took != tt.took {
					t.Errorf("%s after %v, want %s after %v", got, took, tt.want, tt.took)
				}
			})
		})
	}
}

func TestManyWhoWaitCostTheLogAsMuchAsOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger()
		f, stop := follow(t, l)
		defer stop()
		synctest.Wait()
		l.counted()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		var waiting sync.WaitGroup
		for i := range 200 {
			waiting.Go(func() {
				time.Sleep(time.Duration(i) * 5 * time.Millisecond)
				for ctx.Err() == nil {
					n, err := f.next(ctx, 0, time.Second)
					if err == nil && tell(n, nil) != "0*" {
						t.Errorf("%s", tell(n, nil))
					}
				}
			})
		}
		waiting.Wait()
		if reads, searches := l.counted(); reads > 70 || searches != 0 {
			t.Errorf("200 waiters read the revision %d times in a minute, and events %d times", reads, searches)
		}

		// And one event wakes them all without a look into the log.
		woken := make(chan string, 200)
		for range 200 {
			go func() { woken <- tell(f.next(t.Context(), 0, time.Second)) }()
		}
		synctest.Wait()
		l.counted()
		l.happen(1)
		for range 200 {
			if got := <-woken; got != "1 1" {
				t.Errorf("woken by %s", got)
			}
		}
		if _, searches := l.counted(); searches > 2 { // the feed's own watch
			t.Errorf("%d looks into the log", searches)
		}
	})
}

func TestAFailedProofIsToldToAllWhoWaitedForIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := &slowLog{ledger: newLedger()}
		f := newFeed(slow, slow.bus, slog.New(slog.DiscardHandler))
		results := make(chan error, 50)
		for range 50 {
			go func() {
				_, err := f.prove(t.Context(), time.Now())
				results <- err
			}()
		}
		start := time.Now()
		for range 50 {
			if err := <-results; !errors.Is(err, registry.ErrUnavailable) && !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("error %v", err)
			}
		}
		if took := time.Since(start); took > proofPatience || slow.asked != 1 {
			t.Errorf("%d questions, %v", slow.asked, took)
		}
		// Who gives up does not spoil it for the next.
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		slow.answers = true
		if _, err := f.prove(ctx, time.Now()); err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("given up: %v", err)
		}
		if n, err := f.prove(t.Context(), time.Now()); err != nil || n != 0 {
			t.Errorf("%d, %v", n, err)
		}
	})
}

// A slowLog answers when it is told to, else never.
type slowLog struct {
	*ledger
	answers bool
	asked   int
}

func (l *slowLog) Revision(ctx context.Context) (int64, error) {
	l.asked++
	if l.answers {
		return 0, nil
	}
	<-ctx.Done()
	return 0, ctx.Err()
}

// A broken stream ends each watch with an error.
type broken struct{ watches atomic.Int64 }

func (b *broken) Watch(context.Context, int64) iter.Seq2[registry.Event, error] {
	b.watches.Add(1)
	return func(yield func(registry.Event, error) bool) { yield(registry.Event{}, errors.New("broken")) }
}

func TestAFeedOutlastsItsStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, b := newLedger(), &broken{}
		l.happen(3)
		f := newFeed(l, b, slog.New(slog.DiscardHandler))
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { f.run(ctx) })
		time.AfterFunc(100*time.Millisecond, func() { l.happen(1) })
		if got := tell(f.next(ctx, 3, time.Second)); got != "4 4" && got != "4* 4" {
			t.Errorf("without a stream: %s", got)
		}
		time.Sleep(time.Minute)
		if n := b.watches.Load(); n < 10 || n > 50 {
			t.Errorf("%d watches in a minute", n)
		}
		cancel()
		running.Wait()
	})
}

func TestEventsForNodes(t *testing.T) {
	g := newRig(t, withNodes)
	g.create(`"id":"` + id1 + `"`)
	w := g.want(200, "GET /nearsight/events?after=0&wait=30s", "")
	var got struct {
		Revision int64
		Proved   bool
		Events   []struct {
			Revision    int64
			Image, Kind string
			Digest      *string
			At          time.Time
		}
	}
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if got.Revision != 1 || len(got.Events) != 1 || got.Events[0].Image != id1 || got.Events[0].Kind != "create" || got.Events[0].Digest == nil ||
		got.Events[0].At.IsZero() || w.Header().Get(RevisionHeader) != "1" || w.Header().Get("Cache-Control") != "no-store" {
		t.Errorf("%s, %v", w.Body, w.Header())
	}
	for target, want := range map[string]string{
		"": `{"revision":1,"proved":true,"events":[]}`, "?after=1": `{"revision":1,"proved":true,"events":[]}`,
		"?after=1&wait=1ms": `{"revision":1,"proved":true,"events":[]}`, "?after=9&wait=30s": `{"revision":1,"proved":true,"events":[]}`,
	} {
		if w := g.want(200, "GET /nearsight/events"+target, ""); w.Body.String() != want {
			t.Errorf("%s: %s", target, w.Body)
		}
	}
	for _, query := range []string{"after=x", "after=-1", "after=", "after=9223372036854775808", "wait=31s", "wait=1", "wait=-1s", "after=1&after=2", "since=1", "%"} {
		g.want(400, "GET /nearsight/events?"+query, "")
	}
	g.want(405, "POST /nearsight/events", "")
	if _, err := g.db.PruneEvents(t.Context(), time.Now().Add(time.Hour), 0); err != nil {
		t.Fatal(err)
	}
	g.want(410, "GET /nearsight/events?after=0", "")
}

func TestOnlySoManyWait(t *testing.T) {
	for _, tt := range []struct {
		name      string
		all, each int
		remotes   []string // of those who wait, and then of one more
		refused   bool
	}{
		{"as many as there may be", 2, 9, []string{"10.0.0.1:1", "10.0.0.2:1"}, false},
		{"one more", 2, 9, []string{"10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1"}, true},
		{"one more of an address", 9, 2, []string{"[fd00::1]:1", "[fd00::1]:2", "[fd00::1]:3"}, true},
		{"one of another address", 9, 2, []string{"10.0.0.1:1", "10.0.0.1:2", "10.0.0.2:3"}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := newRig(t, withNodes, func(o *Options) { o.Nodes.Waiters, o.Nodes.WaitersEach = tt.all, tt.each })
			ask := func(ctx context.Context, remote, wait string) *httptest.ResponseRecorder {
				r := httptest.NewRequestWithContext(ctx, "GET", "/nearsight/events?after=0&wait="+wait, nil)
				r.RemoteAddr = remote
				w := httptest.NewRecorder()
				g.ServeHTTP(w, r)
				return w
			}
			ctx, leave := context.WithCancel(t.Context())
			var waiting sync.WaitGroup
			last := len(tt.remotes) - 1
			for _, remote := range tt.remotes[:last] {
				waiting.Go(func() { ask(ctx, remote, "30s") })
			}
			for g.api.nodes.waiters.count() < last {
				runtime.Gosched()
			}
			w := ask(ctx, tt.remotes[last], "1ms")
			if refused := w.Code == http.StatusServiceUnavailable; refused != tt.refused || refused && w.Header().Get("Retry-After") != "1" {
				t.Errorf("status %d, %v", w.Code, w.Header())
			}
			if w := ask(ctx, tt.remotes[last], "0s"); w.Code != 200 {
				t.Errorf("who does not wait gets %d", w.Code)
			}
			leave()
			waiting.Wait()
			if n := g.api.nodes.waiters.count(); n != 0 || len(g.api.nodes.waiters.each) != 0 {
				t.Errorf("%d wait when all have left", n)
			}
			if w := ask(t.Context(), tt.remotes[last], "1ms"); w.Code != 200 {
				t.Errorf("then: status %d", w.Code)
			}
		})
	}
}

func (l *waiters) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all
}

func BenchmarkNews(b *testing.B) {
	l := newLedger()
	f := newFeed(l, l.bus, slog.New(slog.DiscardHandler))
	f.set(0)
	for range 1000 {
		l.happen(1)
		f.add(l.events[len(l.events)-1])
	}
	b.ReportAllocs()
	for b.Loop() {
		if n, err := f.next(b.Context(), 990, time.Second); err != nil || len(n.events) != 10 {
			b.Fatal(n, err)
		}
	}
}
