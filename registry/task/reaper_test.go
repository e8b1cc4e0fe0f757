package task

import (
	"cmp"
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

// A fakeUploads knows orphans, sorted by URL, and uploads under way.
type fakeUploads struct {
	registry.Uploads
	mu        sync.Mutex
	orphans   []origin.Location
	looks     int
	listErr   error
	forgetErr error

	uploads   []registry.Upload
	aborts    int // calls of Abort
	unfinErr  error
	abortErrs []error // the next Aborts return these; then they succeed
}

func (u *fakeUploads) add(locs ...origin.Location) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.orphans = append(u.orphans, locs...)
	slices.SortFunc(u.orphans, func(a, b origin.Location) int { return cmp.Compare(a.URL, b.URL) })
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

func (u *fakeUploads) Orphans(ctx context.Context, after string, limit int) ([]origin.Location, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.looks++
	if u.listErr != nil {
		return nil, u.listErr
	}
	for i, loc := range u.orphans {
		if loc.URL > after {
			return slices.Clone(u.orphans[i:min(i+limit, len(u.orphans))]), ctx.Err()
		}
	}
	return nil, ctx.Err()
}

func (u *fakeUploads) begin(id string, loc origin.Location) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.uploads = append(u.uploads, registry.Upload{ImageID: id, Location: loc})
}

func (u *fakeUploads) failAborts(errs ...error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.abortErrs = errs
}

func (u *fakeUploads) Unfinished(ctx context.Context) ([]registry.Upload, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.Clone(u.uploads), errors.Join(u.unfinErr, ctx.Err())
}

func (u *fakeUploads) Abort(ctx context.Context, id string, loc origin.Location) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.aborts++
	if err := ctx.Err(); err != nil {
		return err
	}
	if len(u.abortErrs) > 0 {
		err := u.abortErrs[0]
		u.abortErrs = u.abortErrs[1:]
		return err
	}
	u.uploads = slices.DeleteFunc(u.uploads, func(o registry.Upload) bool { return o.ImageID == id && o.Location == loc })
	u.orphans = append(u.orphans, loc)
	return nil
}

// unfinished returns how many uploads are under way, and how many Aborts came.
func (u *fakeUploads) unfinished() (uploads, aborts int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return len(u.uploads), u.aborts
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

// start runs a reaper without a grace in a bubble of synctest.
func start(t *testing.T, u *fakeUploads, s origin.WriteStore) *Reaper {
	r := &Reaper{Uploads: u, Store: s, Log: slog.New(slog.DiscardHandler), Grace: -1}
	run(t, r)
	return r
}

func run(t *testing.T, r *Reaper) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- r.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
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
			u.add(origin.Location{URL: fmt.Sprintf("another://store/%d", i)}) // before those of the store
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

// What could not be aborted is, as soon as the registry takes it, and its object
// goes at once.
func TestReaperAbortsUntilItSucceeds(t *testing.T) {
	full := errors.New("disk full")
	for _, tt := range []struct {
		name    string
		errs    []error
		after   time.Duration
		aborts  int
		uploads int
	}{
		{"at once", nil, 0, 1, 0},
		{"at 1, 3 and 7 s", []error{full, full, full}, 7 * time.Second, 4, 0},
		{"every minute in the end", slices.Repeat([]error{full}, 8), 3*time.Minute + 4*time.Second, 9, 0},
		{"not when it was finished", []error{registry.ErrConflict}, time.Hour, 1, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var s origintest.Fake
				var u fakeUploads
				loc := s.Add("a", []byte("x"))
				u.begin("a", loc)
				u.failAborts(tt.errs...)
				r := start(t, &u, &s)
				synctest.Wait() // it has nothing to do
				r.Abort("a", loc)
				time.Sleep(tt.after)
				synctest.Wait()
				uploads, aborts := u.unfinished()
				if uploads != tt.uploads || s.Len() != tt.uploads || aborts != tt.aborts {
					t.Errorf("%d uploads, %d objects, %d aborts; want %d, %[4]d, %[5]d", uploads, s.Len(), aborts, tt.uploads, tt.aborts)
				}
			})
		})
	}
}

func TestReaperAbortsWhatAnEarlierProcessLeft(t *testing.T) {
	full := errors.New("disk full")
	synctest.Test(t, func(t *testing.T) {
		var s origintest.Fake
		var u fakeUploads
		for _, id := range []string{"a", "b", "c"} {
			u.begin(id, s.Add(id, []byte("x")))
		}
		u.failAborts(full, full)
		r := &Reaper{Uploads: &u, Store: &s, Log: slog.New(slog.DiscardHandler)}
		if err := r.AbortUnfinished(t.Context()); err != nil {
			t.Error(err)
		}
		if uploads, aborts := u.unfinished(); uploads != 2 || aborts != 3 {
			t.Errorf("at the start %d uploads remain after %d aborts; want 2 after 3", uploads, aborts)
		}
		u.begin("a", s.Add("a", []byte("x"))) // of this process
		run(t, r)
		synctest.Wait()
		if uploads, _ := u.unfinished(); uploads != 1 || s.Len() != 1 {
			t.Errorf("%d uploads and %d objects are left; want those of this process", uploads, s.Len())
		}
	})
}

func TestReaperSaysThatItCannotTellWhatIsUnfinished(t *testing.T) {
	u := fakeUploads{unfinErr: errors.New("down")}
	r := &Reaper{Uploads: &u, Store: &origintest.Fake{}}
	if err := r.AbortUnfinished(t.Context()); !errors.Is(err, u.unfinErr) {
		t.Errorf("error %v; want %v", err, u.unfinErr)
	}
}

func TestReaperRemembersABoundedNumberOfAborts(t *testing.T) {
	var u fakeUploads
	r := &Reaper{Uploads: &u, Store: &origintest.Fake{}, Log: slog.New(slog.DiscardHandler)}
	for range 2 * maxAborts {
		r.Abort("a", origin.Location{URL: "fake://fake/a"})
	}
	if err := r.abort(t.Context()); err != nil {
		t.Error(err)
	}
	if _, aborts := u.unfinished(); aborts != maxAborts {
		t.Errorf("%d aborts; want %d", aborts, maxAborts)
	}
}

// A store that hangs keeps no image in saving.
func TestReaperAbortsWhileTheStoreHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var u fakeUploads
		s := &hangingStore{}
		u.add(origin.Location{URL: "a hang"})
		loc := s.Locate("a")
		u.begin("a", loc)
		r := start(t, &u, s)
		synctest.Wait() // it hangs
		r.Abort("a", loc)
		synctest.Wait()
		if uploads, _ := u.unfinished(); uploads != 0 {
			t.Error("the upload waits for the store")
		}
	})
}

// A store that hangs does not keep the objects behind it for ever.
func TestReaperLeavesAStoreThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var u fakeUploads
		s := &hangingStore{}
		u.add(origin.Location{URL: "a hang"}, s.Add("i", []byte("x")))
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
	if loc.URL == "a hang" {
		<-ctx.Done()
		return ctx.Err()
	}
	return s.Fake.Delete(ctx, loc)
}
