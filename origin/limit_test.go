package origin_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"nearsight/origin"
	"nearsight/origin/file"
	"nearsight/origin/guard"
	"nearsight/origin/origintest"
)

func TestLimitPaces(t *testing.T) {
	for _, tt := range []struct {
		name    string
		rate    int64 // bytes per second
		readers int
		size    int
		want    time.Duration // of all, less the first piece that is free
	}{
		{"one reader gets the rate", 1 << 20, 1, 4 << 20, 4 * time.Second},
		{"readers share it", 1 << 20, 4, 1 << 20, 4 * time.Second},
		{"a rate below a piece", 1000, 2, 3000, 6 * time.Second},
		{"one byte per second", 1, 1, 5, 5 * time.Second},
		{"no bound", 0, 4, 1 << 20, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var f origintest.Fake
				loc := f.Add("i", make([]byte, tt.size))
				s := origin.Limit(&f, tt.rate)
				start := time.Now()
				var wg sync.WaitGroup
				for range tt.readers {
					wg.Go(func() {
						o, err := s.Open(t.Context(), loc, 0, -1)
						if err != nil {
							t.Error(err)
							return
						}
						defer o.Body.Close()
						if n, err := io.Copy(io.Discard, o.Body); n != int64(tt.size) || err != nil {
							t.Errorf("%d bytes, %v", n, err)
						}
					})
				}
				wg.Wait()
				free := time.Duration(0)
				if tt.rate > 0 {
					free = time.Duration(float64(min(tt.rate, 64<<10)) / float64(tt.rate) * float64(time.Second))
				}
				// The clock of synctest is exact; a nanosecond per wait is lost to rounding.
				if got, want := time.Since(start), max(tt.want-free, 0); (got - want).Abs() > time.Millisecond {
					t.Errorf("it took %v; want %v", got, want)
				}
			})
		})
	}
}

func TestLimitEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f origintest.Fake
		loc := f.Add("i", make([]byte, 10000))
		s := origin.Limit(&f, 1000)
		// The deadline is no reason to give up before it.
		ctx, cancel := context.WithTimeout(t.Context(), 2500*time.Millisecond)
		defer cancel()
		o, err := s.Open(ctx, loc, 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		n, err := io.Copy(io.Discard, o.Body)
		if n < 3000 || !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 2500*time.Millisecond {
			t.Errorf("%d bytes and %v after %v", n, err, time.Since(start))
		}
	})
}

func TestLimitHidesThePath(t *testing.T) {
	files, err := file.Open(file.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	for _, rate := range []int64{0, 1 << 20} {
		s := origin.Limit(files, rate)
		if _, ok := s.(origin.LocalStore); ok {
			t.Errorf("a store limited to %d is a LocalStore", rate)
		}
		if _, err := s.Put(t.Context(), s.Locate("i"), 3, bytes.NewReader([]byte("abc"))); err != nil {
			t.Errorf("Put: %v", err)
		}
	}
}

func TestLimitShowsTheList(t *testing.T) {
	for name, rate := range map[string]int64{"no bound": 0, "a bound": 1 << 30} {
		t.Run(name, func(t *testing.T) {
			origintest.TestList(t, func(t *testing.T) origin.WriteStore {
				files, err := file.Open(file.Options{Dir: t.TempDir()})
				if err != nil {
					t.Fatal(err)
				}
				return origin.Limit(guard.NewWriter(files, guard.Options{}), rate)
			})
		})
	}
	if _, ok := origin.As[origin.ListStore](origin.Limit(new(origintest.Fake), 1)); ok {
		t.Error("a store in memory lists")
	}
}

// Around a guard, the wait for other readers is no silence of the store.
func TestTheWaitOfALimitIsNoSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f origintest.Fake
		loc := f.Add("i", make([]byte, 1000))
		s := origin.Limit(guard.NewWriter(&f, guard.Options{FirstByte: time.Second, Stall: time.Second}), 1000)
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				o, err := s.Open(t.Context(), loc, 0, -1)
				if err != nil {
					t.Error(err)
					return
				}
				defer o.Body.Close()
				if _, err := io.Copy(io.Discard, o.Body); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	})
}

func TestLimitKeepsTheContract(t *testing.T) {
	origintest.TestStore(t, func(*testing.T) origin.WriteStore {
		return origin.Limit(new(origintest.Fake), 1<<30)
	})
}
