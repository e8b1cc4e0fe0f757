package task

import (
	"context"
	"encoding/json"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"nearsight/origin"
	"nearsight/origin/origintest"
	"nearsight/registry"
)

// A handler does what a test says.
type handler struct {
	do    func(ctx context.Context, j *Job) error
	calls atomic.Int32
	ended atomic.Int32
}

func (h *handler) Do(ctx context.Context, j *Job) error {
	h.calls.Add(1)
	if h.do == nil {
		return nil
	}
	return h.do(ctx, j)
}

func (h *handler) End(*Job, error) func(*registry.Image) error {
	h.ended.Add(1)
	return release
}

// with has tasks of type import done by h.
func (s *site) with(h Handler) *site {
	s.runner.Handlers = map[string]Handler{registry.TaskImport: h}
	return s
}

// import_ adds a task of type import.
func (s *site) import_(t *testing.T) *registry.Task {
	t.Helper()
	return s.add(t, New(registry.TaskImport, s.queue(t), Download{}), func(img *registry.Image) error { return img.Become(registry.Importing) })
}

func TestATaskIsDoneAtOnceAndOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &handler{}
		s := newSite(t).with(h)
		s.run(t)
		other := s.newRunner()
		other.Handlers = s.runner.Handlers
		runTask(t, other.Run)
		time.Sleep(time.Second)
		var tasks []*registry.Task
		for range 20 {
			tasks = append(tasks, s.import_(t))
		}
		time.Sleep(time.Second) // long before anybody looks again
		for _, task := range tasks {
			if got := s.wantEnd(t, task.ID, registry.TaskSuccess); got.Attempts != 1 {
				t.Errorf("%d attempts", got.Attempts)
			}
		}
		if h.calls.Load() != 20 {
			t.Errorf("%d calls", h.calls.Load())
		}
	})
}

func TestATaskOfAnotherProcessIsFoundSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t).with(&handler{})
		s.run(t)
		time.Sleep(time.Minute)
		task, err := s.AddTask(t.Context(), New(registry.TaskImport, "", Download{}), nil)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(defaultPoll + time.Second)
		s.wantEnd(t, task.ID, registry.TaskSuccess)
	})
}

func TestOnlySoManyTasksAreDoneAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var now, most atomic.Int32
		s := newSite(t).with(&handler{do: func(ctx context.Context, _ *Job) error {
			most.Store(max(most.Load(), now.Add(1)))
			defer now.Add(-1)
			return sleep(ctx, time.Minute)
		}})
		s.runner.Workers = 3
		s.run(t)
		for range 7 {
			s.import_(t)
		}
		time.Sleep(4 * time.Minute)
		if most.Load() != 3 {
			t.Errorf("%d at a time", most.Load())
		}
	})
}

func TestALeaseIsHeldForAsLongAsTheWorkTakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &handler{do: func(ctx context.Context, j *Job) error {
			j.Begin("counting", 10)
			for range 10 {
				if err := sleep(ctx, time.Minute); err != nil {
					return err
				}
				j.Add(1)
			}
			return nil
		}}
		s := newSite(t).with(h)
		s.run(t)
		task := s.import_(t)
		time.Sleep(5*time.Minute + 30*time.Second)
		if got := s.task(t, task.ID); string(got.Result) != `{"bytes":5,"size":10}` || got.Message != "counting" {
			t.Errorf("task %s, %s", got.Result, got.Message)
		}
		time.Sleep(5 * time.Minute)
		if s.wantEnd(t, task.ID, registry.TaskSuccess); h.calls.Load() != 1 {
			t.Errorf("%d calls", h.calls.Load())
		}
	})
}

// Others may have taken the task up when the registry was away for a lease.
func TestWorkStopsWhenTheLeaseIsLost(t *testing.T) {
	for _, tt := range []struct {
		name string
		err  error
		in   time.Duration
	}{
		{"another one has it", registry.ErrConflict, reportEvery + time.Second},
		{"the registry fails", errors.New("broken"), defaultLease + reportEvery + time.Second},
		{"the registry does not answer", errHangs, defaultLease + time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				stopped := make(chan error, 1)
				h := &handler{do: func(ctx context.Context, _ *Job) error {
					<-ctx.Done()
					stopped <- context.Cause(ctx)
					return ctx.Err()
				}}
				s := newSite(t).with(h)
				s.runner.Workers = 1
				stop := s.run(t)
				task := s.import_(t)
				time.Sleep(time.Second)
				s.mu.Lock()
				s.renewing = tt.err
				s.mu.Unlock()
				time.Sleep(tt.in)
				select {
				case err := <-stopped:
					if !errors.Is(err, errLost) {
						t.Error(err)
					}
				default:
					t.Error("it goes on")
				}
				stop()
				if got := s.task(t, task.ID); got.Status == registry.TaskFailure || h.ended.Load() > 0 {
					t.Errorf("task is %s", got.Status)
				}
			})
		})
	}
}

func TestAStoppedServerGivesItsTasksBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		s.web.publish(away, noise(1, 3<<20))
		gate := origintest.NewGate(1 << 20)
		s.web.Inject(origintest.Faults{Gate: gate})
		stop := s.run(t)
		id := s.queue(t)
		task := s.order(t, id, webDownload, "b")
		<-gate.Reached
		stop()
		if got := s.task(t, task.ID); got.Status != registry.TaskPending {
			t.Errorf("task is %s", got.Status)
		}
		s.web.Inject(origintest.Faults{})
		s.runner = s.newRunner()
		s.reaper = &Reaper{Uploads: s.books, Store: s.stores, Log: s.log.logger()}
		s.run(t)
		time.Sleep(time.Second) // nobody waits for the lease
		if got := s.wantEnd(t, task.ID, registry.TaskSuccess); got.Attempts != 2 {
			t.Errorf("%d attempts", got.Attempts)
		}
		settle()
		s.wantData(t, id, noise(1, 3<<20), "b")
	})
}

// The process dies: what it wrote is cleared away, and the task is taken up when its
// lease has run out.
func TestTasksGoOnAfterACrash(t *testing.T) {
	for _, restart := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			s := newSite(t)
			data := noise(1, 3<<20)
			s.web.publish(away, data)
			id := s.queue(t)
			task := s.order(t, id, webDownload, "b", "c")
			if _, err := s.LeaseTask(t.Context(), "the dead", defaultLease); err != nil {
				t.Fatal(err)
			}
			loc, err := s.b.Put(t.Context(), s.b.Locate(id), -1, &counted{r: noiseReader(), job: &Job{}, limit: -1})
			if err != nil {
				t.Fatal(err)
			}
			if err := s.BeginCopy(t.Context(), id, origin.Location{URL: loc.URL}); err != nil {
				t.Fatal(err)
			}
			if restart { // and not another process that goes on
				if err := s.reaper.AbortUnfinished(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			s.run(t)
			time.Sleep(defaultLease + defaultPoll + time.Second)
			if got := s.wantEnd(t, task.ID, registry.TaskSuccess); got.Attempts != 2 {
				t.Errorf("%d attempts", got.Attempts)
			}
			settle()
			s.wantData(t, id, data, "b", "c")
		})
	}
}

// The process dies after the image became active, and before it said so.
func TestAnImportThatWasDoneIsDone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		data := noise(1, 600_000)
		s.web.publish(away, data)
		id := s.queue(t)
		task := s.order(t, id, lenient, "b", "c")
		// The first store has it, the second does not.
		loc := s.b.Locate(id)
		if err := s.BeginCopy(t.Context(), id, loc); err != nil {
			t.Fatal(err)
		}
		loc, sum, err := origin.Ingest(t.Context(), s.b, loc, int64(len(data)), readerOf(data))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Finish(t.Context(), id, loc, sum); err != nil {
			t.Fatal(err)
		}
		s.web.set(errDown) // nobody asks for it again
		s.run(t)
		settle()
		s.wantEnd(t, task.ID, registry.TaskSuccess)
		if img := s.get(t, id); len(img.Locations) != 2 {
			t.Errorf("locations %v; log:\n%s", img.Locations, s.log.all())
		}
	})
}

func TestATaskIsNotTakenUpForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &handler{do: func(context.Context, *Job) error { return registry.ErrUnavailable }}
		s := newSite(t).with(h)
		s.run(t)
		task := s.import_(t)
		settle()
		s.wantEnd(t, task.ID, registry.TaskFailure)
		if img := s.get(t, task.ImageID); h.calls.Load() != maxAttempts || img.Status != registry.Queued {
			t.Errorf("%d calls, image is %s", h.calls.Load(), img.Status)
		}
	})
}

func TestATaskOfAnUnknownTypeFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		s.run(t)
		id := s.queue(t)
		task := s.add(t, New("conjure", id, json.RawMessage(`{}`)), func(img *registry.Image) error { return img.Become(registry.Importing) })
		settle()
		s.wantEnd(t, task.ID, registry.TaskFailure)
		if img := s.get(t, id); img.Status != registry.Queued {
			t.Errorf("image is %s", img.Status)
		}
	})
}

func TestTheEndOfATaskIsWrittenDownInTheEnd(t *testing.T) {
	for _, done := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			s := newSite(t).with(&handler{})
			s.fail(3, errors.New("broken"), done)
			s.run(t)
			task := s.import_(t)
			settle()
			s.wantEnd(t, task.ID, registry.TaskSuccess)
		})
	}
}

func TestDeletingTheImageStopsTheWorkWithinSeconds(t *testing.T) {
	for _, method := range []string{"copy-image", "web-download"} {
		t.Run(method, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t)
				data := noise(1, 3<<20)
				s.web.publish(away, data)
				gate := origintest.NewGate(1 << 20)
				s.a.Inject(origintest.Faults{Gate: gate})
				s.web.Inject(origintest.Faults{Gate: gate})
				s.run(t)
				var task *registry.Task
				if method == "copy-image" {
					task = s.copy(t, s.upload(t, s.a, data).ID, "b")
				} else {
					task = s.order(t, s.queue(t), webDownload, "b")
				}
				<-gate.Reached
				if err := s.Delete(t.Context(), task.ImageID, nil); err != nil {
					t.Fatal(err)
				}
				time.Sleep(reportEvery + time.Second)
				if s.b.Len() != 0 {
					t.Error("there is an object")
				}
				s.wantEnd(t, task.ID, registry.TaskFailure)
				settle()
				s.wantHeld(t, 0)
				if s.log.with("level=WARN") != 0 {
					t.Errorf("log:\n%s", s.log.all())
				}
			})
		})
	}
}
