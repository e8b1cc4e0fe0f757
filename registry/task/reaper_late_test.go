package task

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"nearsight/origin"
	"nearsight/origin/origintest"
)

// A lateStore finishes what a dead writer asked it to commit some time after it
// was told to delete that: it has not heard of a deletion that came before.
type lateStore struct {
	origintest.Fake
	late map[string]time.Duration // by URL, after the first Delete

	mu      sync.Mutex
	commits sync.WaitGroup
	times   map[string][]time.Duration // by URL, of its Deletes since began
	began   time.Time
}

func (s *lateStore) Delete(ctx context.Context, loc origin.Location) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.times == nil {
		s.times = map[string][]time.Duration{}
	}
	s.times[loc.URL] = append(s.times[loc.URL], time.Since(s.began))
	if after, ok := s.late[loc.URL]; ok && len(s.times[loc.URL]) == 1 {
		s.commits.Go(func() {
			time.Sleep(after)
			s.Replace(loc, []byte("late"))
		})
	}
	return s.Fake.Delete(ctx, loc)
}

// A store that finishes a commit after the upload was aborted and its object
// deleted keeps nothing of it.
func TestReaperDeletesWhatAStoreCommitsLate(t *testing.T) {
	const never = -1
	for _, tt := range []struct {
		name      string
		grace     time.Duration
		validator string
		late      time.Duration
		deletes   []time.Duration
		objects   int
	}{
		{"at once", 0, "", 0, []time.Duration{0, time.Minute}, 0},
		{"within the grace", 0, "", 59 * time.Second, []time.Duration{0, time.Minute}, 0},
		{"after it, for the check to find", 0, "", 61 * time.Second, []time.Duration{0, time.Minute}, 1},
		{"not at all", 0, "", never, []time.Duration{0, time.Minute}, 0},
		{"within a shorter grace", 3 * time.Second, "", 2 * time.Second, []time.Duration{0, 3 * time.Second}, 0},
		{"within a longer grace", 150 * time.Second, "", 2 * time.Minute, []time.Duration{0, 3 * time.Minute}, 0},
		{"without a grace", -1, "", never, []time.Duration{0}, 0},
		{"never, for it had finished", 0, "v", never, []time.Duration{0}, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &lateStore{late: map[string]time.Duration{}, began: time.Now()}
				loc := s.Locate("a")
				if tt.late != never {
					s.late[loc.URL] = tt.late
				}
				loc.Validator = tt.validator
				var u fakeUploads
				u.add(loc)
				run(t, &Reaper{Uploads: &u, Store: s, Grace: tt.grace, Log: slog.New(slog.DiscardHandler)})
				time.Sleep(time.Hour)
				s.commits.Wait()
				if orphans, looks := u.left(); orphans != 0 || looks > 1300 {
					t.Errorf("%d orphans are left after %d looks", orphans, looks)
				}
				if !slices.Equal(s.times[loc.URL], tt.deletes) || s.Len() != tt.objects {
					t.Errorf("deleted at %v, %d objects; want %v, %d", s.times[loc.URL], s.Len(), tt.deletes, tt.objects)
				}
			})
		})
	}
}

// However many orphans wait, they do it together, and none is deleted more often
// when others come.
func TestReaperWaitsForAllAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &lateStore{late: map[string]time.Duration{}, began: time.Now()}
		var u fakeUploads
		const n = 3*pageSize + 1
		for i := range n {
			loc := s.Locate(fmt.Sprint(i))
			s.late[loc.URL] = 50 * time.Second
			u.add(loc)
		}
		r := &Reaper{Uploads: &u, Store: s, Log: slog.New(slog.DiscardHandler)}
		run(t, r)
		for range 40 { // uploads fail
			time.Sleep(time.Second)
			r.Wake()
		}
		synctest.Wait()
		if got := s.Deletes.Load(); got != n {
			t.Errorf("%d deletes while they wait, want %d", got, n)
		}
		time.Sleep(2*time.Minute - 41*time.Second)
		synctest.Wait()
		if orphans, _ := u.left(); orphans != 0 || s.Len() != 0 || s.Deletes.Load() != 2*n || len(r.deleted) != 0 {
			t.Errorf("%d orphans, %d objects, %d deletes, %d remembered", orphans, s.Len(), s.Deletes.Load(), len(r.deleted))
		}
	})
}

// A restart begins the grace anew, and a deletion that fails after it is repeated
// until it succeeds.
func TestReaperForgetsNothingOverARestartOrAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &lateStore{late: map[string]time.Duration{}, began: time.Now()}
		loc := s.Locate("a")
		s.late[loc.URL] = 100 * time.Second
		var u fakeUploads
		u.add(loc)
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Second)
		defer cancel()
		if err := (&Reaper{Uploads: &u, Store: s}).Run(ctx); err != nil {
			t.Error(err)
		}
		run(t, &Reaper{Uploads: &u, Store: s, Log: slog.New(slog.DiscardHandler)})
		time.Sleep(55 * time.Second)
		synctest.Wait()
		if orphans, _ := u.left(); orphans != 1 || s.Len() != 1 {
			t.Fatalf("%d orphans and %d objects while the grace goes on; want 1 and 1", orphans, s.Len())
		}
		u.fail(nil, errors.New("down"))
		s.Inject(origintest.Faults{Delete: origin.ErrUnavailable})
		time.Sleep(time.Minute)
		synctest.Wait()
		if orphans, _ := u.left(); orphans != 1 || s.Len() != 1 {
			t.Errorf("%d orphans and %d objects while the store is down; want 1 and 1", orphans, s.Len())
		}
		s.Inject(origintest.Faults{})
		time.Sleep(time.Minute)
		synctest.Wait()
		if orphans, _ := u.left(); orphans != 1 || s.Len() != 0 {
			t.Errorf("%d orphans and %d objects while the registry is down; want 1 and 0", orphans, s.Len())
		}
		u.fail(nil, nil)
		time.Sleep(time.Minute)
		synctest.Wait()
		if orphans, _ := u.left(); orphans != 0 || s.Len() != 0 {
			t.Errorf("%d orphans and %d objects are left", orphans, s.Len())
		}
	})
}

// What is beyond the bound of what is remembered is not forgotten by the registry
// either.
func TestReaperRemembersABoundedNumberOfDeletions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var u fakeUploads
		var s origintest.Fake
		var locs []origin.Location
		for i := range maxDeleted + 1 {
			locs = append(locs, s.Locate(fmt.Sprint(i)))
		}
		u.add(locs...)
		r := &Reaper{Uploads: &u, Store: &s, Log: slog.New(slog.DiscardHandler)}
		if err := r.reap(t.Context()); err != nil {
			t.Error(err)
		}
		if orphans, _ := u.left(); orphans != maxDeleted+1 || len(r.deleted) != maxDeleted {
			t.Errorf("%d orphans, %d remembered", orphans, len(r.deleted))
		}
		run(t, r)
		time.Sleep(4 * time.Minute)
		synctest.Wait()
		if orphans, _ := u.left(); orphans != 0 || len(r.deleted) != 0 {
			t.Errorf("%d orphans, %d remembered", orphans, len(r.deleted))
		}
	})
}
