package guard_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"nearsight/origin"
	"nearsight/origin/file"
	"nearsight/origin/guard"
	"nearsight/origin/origintest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// quiet keeps the changes of breakers out of the tests' output.
var quiet = slog.New(slog.DiscardHandler)

func TestAGuardKeepsTheContract(t *testing.T) {
	t.Run("memory", func(t *testing.T) {
		origintest.TestStore(t, func(*testing.T) origin.WriteStore {
			return guard.NewWriter(new(origintest.Fake), guard.Options{Log: quiet})
		})
	})
	t.Run("file", func(t *testing.T) {
		origintest.TestStore(t, func(t *testing.T) origin.WriteStore {
			return guard.NewWriter(openFiles(t), guard.Options{Log: quiet})
		})
	})
}

func openFiles(t *testing.T) *file.Store {
	t.Helper()
	s, err := file.Open(file.Options{Dir: t.TempDir(), Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestAbilitiesAreReachedThroughTheGuard(t *testing.T) {
	files := openFiles(t)
	for _, s := range []origin.Store{guard.New(files, guard.Options{}), guard.NewWriter(files, guard.Options{})} {
		if _, ok := s.(origin.LocalStore); ok {
			t.Errorf("%T claims to be what it may not be", s)
		}
		if local, ok := origin.As[origin.LocalStore](s); !ok || local != origin.LocalStore(files) {
			t.Errorf("%T hides the files", s)
		}
	}
	if _, ok := origin.Store(guard.New(files, guard.Options{})).(origin.WriteStore); ok {
		t.Error("a guard for reading writes")
	}
	fake := guard.NewWriter(new(origintest.Fake), guard.Options{})
	if _, ok := origin.As[origin.LocalStore](fake); ok {
		t.Error("a store in memory has files")
	}
}

// A log is an Observer that remembers.
type log struct {
	mu       sync.Mutex
	requests []string
	times    []time.Duration
	bytes    map[guard.Direction]int
	states   []guard.State
}

func (l *log) Request(op string, outcome guard.Outcome, dur time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.requests = append(l.requests, op+" "+string(outcome))
	l.times = append(l.times, dur)
}

func (l *log) Bytes(d guard.Direction, n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.bytes == nil {
		l.bytes = make(map[guard.Direction]int)
	}
	l.bytes[d] += n
}

func (l *log) Breaker(_, to guard.State) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.states = append(l.states, to)
}

func (l *log) want(t *testing.T, requests ...string) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	if !slices.Equal(l.requests, requests) {
		t.Errorf("the observer heard of %q; want %q", l.requests, requests)
	}
}

// busy is what a server says that wants to be left alone.
type busy time.Duration

func (b busy) Error() string             { return "busy" }
func (b busy) Unwrap() error             { return origin.ErrUnavailable }
func (b busy) RetryAfter() time.Duration { return time.Duration(b) }

func TestWhatIsRepeated(t *testing.T) {
	broken := fmt.Errorf("503: %w", origin.ErrUnavailable)
	for _, tt := range []struct {
		name     string
		err      error
		calls    int64
		min, max time.Duration // of the whole
	}{
		{"a store that does not answer is asked three times", broken, 3, 0, 300 * time.Millisecond},
		{"one that says when is asked then", busy(time.Second), 3, 2 * time.Second, 2300 * time.Millisecond},
		{"one that says late is not asked again", busy(time.Minute), 1, 0, 0},
		{"what is not there is not asked for again", origin.ErrNotFound, 1, 0, 0},
		{"what changed is not", origin.ErrChanged, 1, 0, 0},
		{"a bad location is not", origin.ErrLocation, 1, 0, 0},
		{"an unknown error is not", errors.New("odd"), 1, 0, 0},
	} {
		for _, op := range []string{"stat", "open", "delete"} {
			t.Run(op+": "+tt.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					var f origintest.Fake
					loc := f.Add("i", []byte("x"))
					f.Inject(origintest.Faults{Stat: tt.err, Open: tt.err, Delete: tt.err})
					s := guard.NewWriter(&f, guard.Options{Log: quiet})
					start := time.Now()
					err := do(t.Context(), s, op, loc)
					took := time.Since(start)
					if !errors.Is(err, tt.err) {
						t.Errorf("error %v; want %v", err, tt.err)
					}
					if calls := f.Stats.Load() + f.Opens.Load() + f.Deletes.Load(); calls != tt.calls || took < tt.min || took > tt.max {
						t.Errorf("%d calls in %v; want %d in %v to %v", calls, took, tt.calls, tt.min, tt.max)
					}
				})
			})
		}
	}
}

// do makes the call, and reads what it opens.
func do(ctx context.Context, s origin.WriteStore, op string, loc origin.Location) error {
	switch op {
	case "stat":
		_, err := s.Stat(ctx, loc)
		return err
	case "delete":
		return s.Delete(ctx, loc)
	}
	o, err := s.Open(ctx, loc, 0, -1)
	if err != nil {
		return err
	}
	defer o.Body.Close()
	_, err = io.Copy(io.Discard, o.Body)
	return err
}

func TestACallThatIsRepeatedSucceeds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f origintest.Fake
		loc := f.Add("i", []byte("x"))
		f.Inject(origintest.Faults{Open: origin.ErrUnavailable, Nth: 1})
		var l log
		s := guard.NewWriter(&f, guard.Options{Observer: &l})
		if err := do(t.Context(), s, "open", loc); err != nil {
			t.Error(err)
		}
		l.want(t, "open unavailable", "open ok")
	})
}

func TestAWaitEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f origintest.Fake
		loc := f.Add("i", []byte("x"))
		f.Inject(origintest.Faults{Stat: busy(2 * time.Second)})
		s := guard.New(&f, guard.Options{Log: quiet})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		_, err := s.Stat(ctx, loc)
		if !errors.Is(err, origin.ErrUnavailable) || time.Since(start) != time.Second || f.Stats.Load() != 1 {
			t.Errorf("%v after %v and %d calls", err, time.Since(start), f.Stats.Load())
		}
	})
}

// A putStore puts in its own way.
type putStore struct {
	*origintest.Fake
	put func(ctx context.Context, nth int64, r io.Reader) error
}

func (s putStore) Put(ctx context.Context, loc origin.Location, _ int64, r io.Reader) (origin.Location, error) {
	return loc, s.put(ctx, s.Puts.Add(1), r)
}

func TestAnUploadIsRepeatedUntilItIsRead(t *testing.T) {
	broken := fmt.Errorf("reset: %w", origin.ErrUnavailable)
	sender := errors.New("client went away")
	all := func(r io.Reader) error { _, err := io.Copy(io.Discard, r); return err }
	for _, tt := range []struct {
		name     string
		put      func(ctx context.Context, nth int64, r io.Reader) error
		r        io.Reader // nil: three bytes
		want     error
		requests []string
	}{
		{"it fails before it begins", func(_ context.Context, nth int64, r io.Reader) error {
			if nth < 3 {
				return broken
			}
			return all(r)
		}, nil, nil, []string{"put unavailable", "put unavailable", "put ok"}},
		{"it fails after a byte", func(_ context.Context, _ int64, r io.Reader) error {
			if _, err := r.Read(make([]byte, 1)); err != nil {
				return err
			}
			return broken
		}, nil, origin.ErrUnavailable, []string{"put unavailable"}},
		{"the sender fails", func(_ context.Context, _ int64, r io.Reader) error { return all(r) },
			iotest.ErrReader(sender), sender, []string{"put data"}},
		{"the sender is a store that fails", func(_ context.Context, _ int64, r io.Reader) error { return all(r) },
			iotest.ErrReader(broken), origin.ErrUnavailable, []string{"put data"}},
		{"the length is wrong", func(_ context.Context, _ int64, r io.Reader) error {
			return errors.Join(all(r), origin.ErrSize)
		}, nil, origin.ErrSize, []string{"put data"}},
		{"the store is full", func(context.Context, int64, io.Reader) error { return origin.ErrFull },
			nil, origin.ErrFull, []string{"put full"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var l log
				f := new(origintest.Fake)
				s := guard.NewWriter(putStore{f, tt.put}, guard.Options{Observer: &l, Log: quiet, Failures: 10})
				r := tt.r
				if r == nil {
					r = strings.NewReader("abc")
				}
				_, err := s.Put(t.Context(), s.Locate("i"), -1, r)
				if !errors.Is(err, tt.want) || (err == nil) != (tt.want == nil) {
					t.Errorf("error %v; want %v", err, tt.want)
				}
				l.want(t, tt.requests...)
			})
		})
	}
}

func TestASilentStoreIsCutOff(t *testing.T) {
	three, none := int64(3), int64(0)
	for _, tt := range []struct {
		name  string
		stall *int64
		took  time.Duration
	}{
		{"before its first byte", &none, 2 * time.Second},
		{"in the middle", &three, 5 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var f origintest.Fake
				var l log
				loc := f.Add("i", []byte("abcdef"))
				f.Inject(origintest.Faults{Stall: tt.stall})
				s := guard.NewWriter(&f, guard.Options{FirstByte: 2 * time.Second, Stall: 5 * time.Second, Observer: &l, Log: quiet})
				start := time.Now()
				err := do(t.Context(), s, "open", loc)
				if !errors.Is(err, origin.ErrUnavailable) || errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), tt.took.String()) {
					t.Errorf("error %v", err)
				}
				if took := time.Since(start); took != tt.took {
					t.Errorf("it took %v; want %v", took, tt.took)
				}
				l.want(t, "open stalled")
			})
		})
	}
}

func TestASlowReaderIsNoSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f origintest.Fake
		loc := f.Add("i", []byte("abcdef"))
		s := guard.New(&f, guard.Options{})
		o, err := s.Open(t.Context(), loc, 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		defer o.Body.Close()
		got, b := 0, make([]byte, 1)
		for {
			time.Sleep(time.Hour)
			n, err := o.Body.Read(b)
			if got += n; err == io.EOF {
				break
			} else if err != nil {
				t.Fatal(err)
			}
		}
		if got != 6 {
			t.Errorf("%d bytes", got)
		}
	})
}

// A hangStore answers nothing until its context ends.
type hangStore struct{ *origintest.Fake }

func (hangStore) Stat(ctx context.Context, _ origin.Location) (origin.Info, error) {
	<-ctx.Done()
	return origin.Info{}, ctx.Err()
}

func (hangStore) Open(ctx context.Context, _ origin.Location, _, _ int64) (*origin.Object, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func (hangStore) Delete(ctx context.Context, _ origin.Location) error {
	<-ctx.Done()
	return ctx.Err()
}

func TestAStoreThatHangsIsAskedOnce(t *testing.T) {
	for op, limit := range map[string]time.Duration{"stat": 8 * time.Second, "open": 8 * time.Second, "delete": 5 * time.Minute} {
		t.Run(op, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var l log
				s := guard.NewWriter(hangStore{new(origintest.Fake)}, guard.Options{Observer: &l})
				start := time.Now()
				err := do(t.Context(), s, op, origin.Location{URL: "fake://fake/i"})
				if !errors.Is(err, origin.ErrUnavailable) || time.Since(start) != limit {
					t.Errorf("%v after %v; want %v after %v", err, time.Since(start), origin.ErrUnavailable, limit)
				}
				l.want(t, op+" stalled")

				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				if err := do(ctx, s, op, origin.Location{URL: "fake://fake/i"}); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, origin.ErrUnavailable) {
					t.Errorf("after the caller's deadline: %v", err)
				}
				l.want(t, op+" stalled", op+" canceled")
			})
		})
	}
}

// A slowReader takes an hour for every byte.
type slowReader struct{ left int }

func (r *slowReader) Read(p []byte) (int, error) {
	if r.left == 0 {
		return 0, io.EOF
	}
	time.Sleep(time.Hour)
	r.left--
	p[0] = 'x'
	return 1, nil
}

func TestAnUploadThatIsNotTakenIsCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l log
		kept := make(chan io.Reader, 1)
		s := guard.NewWriter(putStore{new(origintest.Fake), func(ctx context.Context, nth int64, r io.Reader) error {
			if nth == 1 {
				_, err := io.Copy(io.Discard, r)
				return err
			}
			if _, err := r.Read(make([]byte, 1)); err != nil {
				return err
			}
			kept <- r
			<-ctx.Done()
			return ctx.Err()
		}}, guard.Options{PutStall: time.Minute, Observer: &l, Log: quiet})
		if _, err := s.Put(t.Context(), s.Locate("i"), 3, &slowReader{3}); err != nil {
			t.Errorf("a slow sender: %v", err)
		}
		start := time.Now()
		_, err := s.Put(t.Context(), s.Locate("i"), -1, bytes.NewReader(make([]byte, 10)))
		if !errors.Is(err, origin.ErrUnavailable) || time.Since(start) != time.Minute {
			t.Errorf("a store that takes nothing: %v after %v", err, time.Since(start))
		}
		// Transports go on reading after the end, and learn that it is over.
		if n, err := (<-kept).Read(make([]byte, 1)); n != 0 || err == nil {
			t.Errorf("a read after the end: %d bytes, %v", n, err)
		}
		l.want(t, "put ok", "put stalled")
		if l.bytes[guard.Written] != 4 {
			t.Errorf("%d bytes written; want 4", l.bytes[guard.Written])
		}
	})
}
