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

	"go.uber.org/goleak"

	"nearsight/origin"
	"nearsight/origin/origintest"
	"nearsight/registry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A fakeUploads knows orphans only.
type fakeUploads struct {
	registry.Uploads
	mu        sync.Mutex
	orphans   []origin.Location
	looks     int
	listErr   error
	forgetErr error
}

func (u *fakeUploads) add(locs ...origin.Location) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.orphans = append(u.orphans, locs...)
}

func (u *fakeUploads) fail(list, forget error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.listErr, u.forgetErr = list, forget
}

func (u *fakeUploads) left() (orphans, looks int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return len(u.orphans), u.looks
}

func (u *fakeUploads) Orphans(ctx context.Context, limit int) ([]origin.Location, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.looks++
	if u.listErr != nil {
		return nil, u.listErr
	}
	return slices.Clone(u.orphans[:min(limit, len(u.orphans))]), ctx.Err()
}

func (u *fakeUploads) Forget(_ context.Context, loc origin.Location) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.forgetErr != nil {
		return u.forgetErr
	}
	u.orphans = slices.DeleteFunc(u.orphans, func(o origin.Location) bool { return o == loc })
	return nil
}

// start runs a reaper in a bubble of synctest.
func start(t *testing.T, u *fakeUploads, s origin.WriteStore) *Reaper {
	r := &Reaper{Uploads: u, Store: s, Log: slog.New(slog.DiscardHandler)}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- r.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return r
}

func TestReaperDeletesWhatIsThereAndWhatComes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s origintest.Fake
		var u fakeUploads
		kept := s.Add("kept", []byte("x"))
		for i := range 3*pageSize + 1 {
			u.add(s.Add(fmt.Sprint(i), []byte("x")))
		}
		u.add(s.Locate("never written"))
		r := start(t, &u, &s)
		synctest.Wait()
		if orphans, _ := u.left(); orphans != 0 || s.Len() != 1 {
			t.Errorf("at the start: %d orphans and %d objects are left; want 0 and 1", orphans, s.Len())
		}

		u.add(s.Add("late", []byte("x")))
		r.Wake()
		r.Wake()
		synctest.Wait()
		if orphans, _ := u.left(); orphans != 0 || s.Len() != 1 {
			t.Errorf("after Wake: %d orphans and %d objects are left; want 0 and 1", orphans, s.Len())
		}

		u.add(s.Add("later", []byte("x")))
		time.Sleep(defaultEvery + time.Second) // the clock of the bubble
		synctest.Wait()
		if orphans, _ := u.left(); orphans != 0 || s.Len() != 1 {
			t.Errorf("after a minute: %d orphans and %d objects are left; want 0 and 1", orphans, s.Len())
		}
		if _, err := s.Stat(t.Context(), kept); err != nil {
			t.Errorf("the object that is no orphan: %v", err)
		}
	})
}

func TestReaperIsNotDeafBeforeItRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s origintest.Fake
		var u fakeUploads
		r := &Reaper{Uploads: &u, Store: &s}
		r.Wake()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- r.Run(ctx) }()
		synctest.Wait()
		if _, looks := u.left(); looks != 2 {
			t.Errorf("%d looks; want one at the start and one for Wake", looks)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// Each step fails, and works again later: the object goes once at least, the
// orphan is not forgotten before, and the attempts become rarer.
func TestReaperFaults(t *testing.T) {
	down := errors.New("down")
	for _, tt := range []struct {
		name    string
		faults  origintest.Faults
		list    error
		forget  error
		objects int // while it fails
		deletes int64
	}{
		{name: "the registry cannot list", list: down, objects: 1, deletes: 1},
		{name: "the store cannot delete", faults: origintest.Faults{Delete: origin.ErrUnavailable}, objects: 1, deletes: 9},
		{name: "the store deletes and says that it failed", faults: origintest.Faults{Delete: origin.ErrUnavailable, DeleteDone: true}, deletes: 9},
		{name: "the registry cannot forget", forget: down, deletes: 9},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var s origintest.Fake
				var u fakeUploads
				u.add(s.Add("orphan", []byte("x")))
				s.Inject(tt.faults)
				u.fail(tt.list, tt.forget)
				r := start(t, &u, &s)
				// At 0, 1, 3, 7, 15, 31, 63 s, and from there every minute.
				time.Sleep(130 * time.Second)
				r.Wake() // which is no reason to hurry
				synctest.Wait()
				orphans, looks := u.left()
				if orphans != 1 || s.Len() != tt.objects || looks < 8 || looks > 16 {
					t.Errorf("while it fails: %d orphans, %d objects, %d looks; want 1, %d, 8 to 16", orphans, s.Len(), looks, tt.objects)
				}
				s.Inject(origintest.Faults{})
				u.fail(nil, nil)
				time.Sleep(time.Minute)
				synctest.Wait()
				if orphans, _ := u.left(); orphans != 0 || s.Len() != 0 || s.Deletes.Load() != tt.deletes {
					t.Errorf("afterwards: %d orphans, %d objects, %d deletes; want 0, 0, %d", orphans, s.Len(), s.Deletes.Load(), tt.deletes)
				}
			})
		})
	}
}

// Orphans that can never be deleted, here because they are of another store, do
// not keep those behind them.
func TestReaperPassesWhatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s origintest.Fake
		var u fakeUploads
		const stuck = 2*pageSize + 3
		for i := range stuck {
			u.add(origin.Location{URL: fmt.Sprintf("other://store/%d", i)})
		}
		for i := range pageSize {
			u.add(s.Add(fmt.Sprint(i), []byte("x")))
		}
		start(t, &u, &s)
		synctest.Wait()
		if orphans, _ := u.left(); orphans != stuck || s.Len() != 0 {
			t.Errorf("%d orphans and %d objects are left; want %d and none", orphans, s.Len(), stuck)
		}
	})
}

// A store that hangs does not keep the objects behind it for ever.
func TestReaperLeavesAStoreThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var u fakeUploads
		s := &hangingStore{}
		u.add(origin.Location{URL: "hang"}, s.Add("i", []byte("x")))
		start(t, &u, s)
		time.Sleep(deleteTimeout + time.Second)
		synctest.Wait()
		if orphans, _ := u.left(); orphans != 1 || s.Len() != 0 {
			t.Errorf("%d orphans and %d objects are left; want 1 and none", orphans, s.Len())
		}
	})
}

type hangingStore struct{ origintest.Fake }

func (s *hangingStore) Delete(ctx context.Context, loc origin.Location) error {
	if loc.URL == "hang" {
		<-ctx.Done()
		return ctx.Err()
	}
	return s.Fake.Delete(ctx, loc)
}
