package guard_test

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"nearsight/origin"
	"nearsight/origin/guard"
	"nearsight/origin/origintest"
)

// once is a guard that repeats nothing.
func once(o guard.Options) guard.Options {
	o.Attempts, o.Log = 1, quiet
	return o
}

func TestTheBreakerOpensAndCloses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f origintest.Fake
		var l log
		loc := f.Add("i", []byte("x"))
		s := guard.NewWriter(&f, once(guard.Options{Name: "far", Failures: 3, Cooldown: 10 * time.Second, Observer: &l}))
		stat := func() error { return do(t.Context(), s, "stat", loc) }
		f.Inject(origintest.Faults{Stat: errors.Join(origin.ErrUnavailable, errors.New("no route"))})
		opened := time.Now().UTC()
		for range 3 {
			stat()
		}
		if s.State(loc) != guard.Open {
			t.Fatalf("after three failures it is %v", s.State(loc))
		}
		time.Sleep(4 * time.Second)
		err := stat()
		var wait interface{ RetryAfter() time.Duration }
		if !errors.Is(err, origin.ErrUnavailable) || !errors.As(err, &wait) || wait.RetryAfter() != 6*time.Second {
			t.Errorf("an open breaker says %v", err)
		}
		for _, want := range []string{"far", "no route", opened.Format(time.RFC3339)} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%q does not say %q", err, want)
			}
		}
		if f.Stats.Load() != 3 {
			t.Errorf("the store was asked %d times; want 3", f.Stats.Load())
		}

		time.Sleep(6 * time.Second) // the trial fails
		if err := stat(); !strings.Contains(err.Error(), "no route") || f.Stats.Load() != 4 || s.State(loc) != guard.Open {
			t.Errorf("the trial: %v, %d calls, %v", err, f.Stats.Load(), s.State(loc))
		}
		stat()
		time.Sleep(10 * time.Second) // the trial succeeds
		f.Inject(origintest.Faults{})
		if err := stat(); err != nil || s.State(loc) != guard.Closed {
			t.Errorf("the second trial: %v, %v", err, s.State(loc))
		}
		// The next failure is no new beginning.
		f.Inject(origintest.Faults{Stat: origin.ErrUnavailable})
		stat()
		stat()
		if s.State(loc) != guard.Open {
			t.Errorf("after a relapse it is %v", s.State(loc))
		}
		want := []guard.State{guard.Open, guard.HalfOpen, guard.Open, guard.HalfOpen, guard.Closed, guard.Open}
		if !slices.Equal(l.states, want) {
			t.Errorf("states %v; want %v", l.states, want)
		}
	})
}

func TestWhatCountsAgainstTheStore(t *testing.T) {
	four := int64(4)
	canceled, cancel := context.WithCancel(context.Background())
	cancel()
	for _, tt := range []struct {
		name   string
		op     string
		faults origintest.Faults
		ctx    context.Context
		state  guard.State
	}{
		{"no answer", "stat", origintest.Faults{Stat: origin.ErrUnavailable}, nil, guard.Open},
		{"a deletion that is not done", "delete", origintest.Faults{Delete: origin.ErrUnavailable}, nil, guard.Open},
		{"bodies that break off", "open", origintest.Faults{Cut: &four}, nil, guard.Open},
		{"bodies that stop", "open", origintest.Faults{Stall: &four}, nil, guard.Open},
		{"what is not there", "stat", origintest.Faults{Stat: origin.ErrNotFound}, nil, guard.Closed},
		{"what changed", "open", origintest.Faults{Open: origin.ErrChanged}, nil, guard.Closed},
		{"bad locations", "open", origintest.Faults{Open: origin.ErrLocation}, nil, guard.Closed},
		{"callers who left", "open", origintest.Faults{Open: origin.ErrUnavailable}, canceled, guard.Closed},
		{"a full store", "delete", origintest.Faults{Delete: origin.ErrFull}, nil, guard.Closed},
		{"nothing", "open", origintest.Faults{}, nil, guard.Closed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var f origintest.Fake
				loc := f.Add("i", []byte("abcdefgh"))
				f.Inject(tt.faults)
				s := guard.NewWriter(&f, once(guard.Options{}))
				ctx := tt.ctx
				if ctx == nil {
					ctx = t.Context()
				}
				for range 5 {
					do(ctx, s, tt.op, loc)
				}
				if s.State(loc) != tt.state {
					t.Errorf("five times: %v; want %v", s.State(loc), tt.state)
				}
			})
		})
	}
}

func TestGoodCallsForgiveBadOnes(t *testing.T) {
	for _, tt := range []struct {
		name      string
		good, bad int // in turn, a hundred times
		state     guard.State
	}{
		{"half of them fail", 1, 1, guard.Closed},
		{"more than half fail", 1, 2, guard.Open},
		{"few fail", 9, 1, guard.Closed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var f origintest.Fake
				loc := f.Add("i", []byte("x"))
				s := guard.New(&f, once(guard.Options{}))
				for range 100 {
					f.Inject(origintest.Faults{})
					for range tt.good {
						s.Stat(t.Context(), loc)
					}
					f.Inject(origintest.Faults{Stat: origin.ErrUnavailable})
					for range tt.bad {
						s.Stat(t.Context(), loc)
					}
				}
				if s.State(loc) != tt.state {
					t.Errorf("%v; want %v", s.State(loc), tt.state)
				}
			})
		})
	}
}

func TestOneCallFindsOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f origintest.Fake
		loc := f.Add("i", []byte("abcdefgh"))
		f.Inject(origintest.Faults{Open: origin.ErrUnavailable})
		s := guard.NewWriter(&f, once(guard.Options{Failures: 1}))
		do(t.Context(), s, "open", loc)
		time.Sleep(10 * time.Second)

		// One whose caller leaves found nothing out, so the next one does.
		gate := origintest.NewGate(0)
		f.Inject(origintest.Faults{Gate: gate})
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := do(ctx, s, "open", loc); !errors.Is(err, context.Canceled) {
				t.Errorf("the one that left: %v", err)
			}
		})
		<-gate.Reached
		if s.State(loc) != guard.HalfOpen {
			t.Errorf("while one finds out: %v", s.State(loc))
		}
		asked := f.Opens.Load()
		for range 10 {
			if err := do(t.Context(), s, "open", loc); !errors.Is(err, origin.ErrUnavailable) {
				t.Errorf("while one finds out, another says %v", err)
			}
		}
		if f.Opens.Load() != asked {
			t.Errorf("%d calls went through beside it", f.Opens.Load()-asked)
		}
		cancel()
		wg.Wait()

		// The first byte is answer enough; the rest may take its time.
		gate = origintest.NewGate(4)
		f.Inject(origintest.Faults{Gate: gate})
		wg.Go(func() {
			if err := do(t.Context(), s, "open", loc); err != nil {
				t.Errorf("the one that found out: %v", err)
			}
		})
		<-gate.Reached
		if s.State(loc) != guard.Closed {
			t.Errorf("after the first byte: %v", s.State(loc))
		}
		close(gate.Pass)
		wg.Wait()
	})
}

// A store whose bodies always break off after some bytes is not kept alive by
// these bytes, neither before nor after the breaker opens.
func TestAnAnswerThatBreaksOffIsAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f origintest.Fake
		loc := f.Add("i", []byte("abcdefgh"))
		four := int64(4)
		f.Inject(origintest.Faults{Cut: &four})
		for _, failures := range []int{1, 2, 5} {
			s := guard.NewWriter(&f, once(guard.Options{Failures: failures}))
			for range failures {
				if err := do(t.Context(), s, "open", loc); !errors.Is(err, io.ErrUnexpectedEOF) {
					t.Errorf("error %v; want %v", err, io.ErrUnexpectedEOF)
				}
			}
			for range 3 {
				if s.State(loc) != guard.Open {
					t.Errorf("with %d failures it is %v", failures, s.State(loc))
				}
				time.Sleep(10 * time.Second)
				do(t.Context(), s, "open", loc)
			}
		}
	})
}

// What began before the breaker opened says nothing about the time after.
func TestLateEndsAreNotCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f origintest.Fake
		loc := f.Add("i", []byte("abcdefgh"))
		s := guard.NewWriter(&f, once(guard.Options{Failures: 1}))
		gate := origintest.NewGate(4)
		f.Inject(origintest.Faults{Gate: gate})
		var wg sync.WaitGroup
		wg.Go(func() { do(t.Context(), s, "open", loc) })
		<-gate.Reached
		f.Inject(origintest.Faults{Open: origin.ErrUnavailable})
		do(t.Context(), s, "open", loc)
		close(gate.Pass)
		wg.Wait()
		if s.State(loc) != guard.Open {
			t.Errorf("an old body that ended well made it %v", s.State(loc))
		}
	})
}

// A hostStore fails for the hosts that begin with bad.
type hostStore struct{ calls int }

func (s *hostStore) Stat(_ context.Context, loc origin.Location) (origin.Info, error) {
	s.calls++
	if strings.Contains(loc.URL, "://bad") {
		return origin.Info{}, origin.ErrUnavailable
	}
	return origin.Info{}, nil
}

func (s *hostStore) Open(context.Context, origin.Location, int64, int64) (*origin.Object, error) {
	return nil, origin.ErrUnavailable
}

func TestHostsDoNotSufferForEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var store hostStore
		var l log
		s := guard.New(&store, once(guard.Options{Failures: 1, Observer: &l}))
		bad, good := origin.Location{URL: "https://BAD.example:81/a"}, origin.Location{URL: "https://good.example/a"}
		bad.URL = strings.ToLower(bad.URL)
		s.Stat(t.Context(), bad)
		s.Stat(t.Context(), origin.Location{URL: "https://bad.example:81?b"})
		if _, err := s.Stat(t.Context(), good); err != nil || store.calls != 2 {
			t.Errorf("the other host: %v; %d calls", err, store.calls)
		}
		l.want(t, "stat unavailable", "stat refused", "stat ok")

		// However many hosts there are, those that nobody asks for are forgotten.
		for i := range 3000 {
			s.Stat(t.Context(), origin.Location{URL: "https://bad" + strings.Repeat("x", i) + "/"})
		}
		if s.State(bad) != guard.Closed {
			t.Error("three thousand hosts are remembered")
		}
		open := 0
		for _, state := range l.states {
			if state == guard.Open {
				open++
			} else {
				open--
			}
		}
		if open != 1000 {
			t.Errorf("the observer believes in %d open breakers; want 1000", open)
		}
	})
}

func TestTheBreakerIsSafeForConcurrentUse(t *testing.T) {
	var f origintest.Fake
	loc := f.Add("i", []byte("abcdefgh"))
	s := guard.NewWriter(&f, once(guard.Options{Failures: 2, Cooldown: time.Nanosecond}))
	four := int64(4)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 200 {
				if i == 0 {
					f.Inject([]origintest.Faults{{}, {Open: origin.ErrUnavailable}, {Cut: &four}}[j%3])
				}
				do(t.Context(), s, "open", loc)
			}
		})
	}
	wg.Wait()
	f.Inject(origintest.Faults{})
	if err := do(t.Context(), s, "open", loc); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// Whoever finds out may take hours, since an upload does that. The others need not
// wait for it longer than for an open breaker.
func TestAnotherCallFindsOutInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f origintest.Fake
		loc := f.Add("i", []byte("x"))
		s := guard.NewWriter(&f, once(guard.Options{Failures: 1, Cooldown: 10 * time.Second}))
		f.Inject(origintest.Faults{Stat: origin.ErrUnavailable})
		do(t.Context(), s, "stat", loc)
		time.Sleep(10 * time.Second)
		f.Inject(origintest.Faults{})
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := s.Put(t.Context(), s.Locate("slow"), 2, &slowReader{2}); err != nil {
				t.Errorf("the upload: %v", err)
			}
		})
		synctest.Wait()
		err := do(t.Context(), s, "stat", loc)
		var wait interface{ RetryAfter() time.Duration }
		if !errors.As(err, &wait) || wait.RetryAfter() != 10*time.Second {
			t.Errorf("while the upload finds out: %v", err)
		}
		time.Sleep(10 * time.Second)
		if err := do(t.Context(), s, "stat", loc); err != nil || s.State(loc) != guard.Closed {
			t.Errorf("after that: %v, %v", err, s.State(loc))
		}
		wg.Wait()
		if s.State(loc) != guard.Closed {
			t.Errorf("after the upload: %v", s.State(loc))
		}
	})
}
