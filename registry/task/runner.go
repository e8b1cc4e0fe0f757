package task

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"nearsight/registry"
)

const (
	// defaultLease is how long a task waits for the process that held it to come
	// back after a crash.
	defaultLease = 30 * time.Second
	// defaultPoll is how long a task that another process added waits at most.
	defaultPoll = 5 * time.Second
	// reportEvery is how old the progress of a task is at most, and how long the
	// work on a deleted image goes on.
	reportEvery = 2 * time.Second
	// maxAttempts bounds how often a task is taken up again, so that one that
	// kills its process does not do so for ever.
	maxAttempts = 5
	// lastWords bounds what is still told to the registry at a shutdown.
	lastWords = 5 * time.Second
)

// errLost: somebody else has the lease, or the task was ended: by the deletion of
// its image, say.
var errLost = errors.New("the task was ended, or its lease is lost")

// A Handler does the tasks of one type. A task may come again after a crash, with
// more Attempts: what was done before must do no harm.
type Handler interface {
	// Do does a task until ctx ends, and leaves nothing behind that it did not
	// bring to an end. An error that wraps registry.ErrUnavailable lets the task
	// be taken up again later, any other one is why it failed.
	Do(ctx context.Context, j *Job) error
	// End returns what is to be changed of the image as the task ends, because
	// of err or, if that is nil, with success. It is not called before Do, but
	// for a task that was taken up too often.
	End(j *Job, err error) func(*registry.Image) error
}

// A Job is a task that is being worked on.
type Job struct {
	// Task is what it was when its lease was taken. Handlers may set Result.
	*registry.Task
	bytes, size atomic.Int64
	doing       atomic.Pointer[string]
	failed      []string // stores, see Importer
}

// Begin says that work of size bytes begins, -1 if that is unknown; doing is for
// people.
func (j *Job) Begin(doing string, size int64) {
	j.doing.Store(&doing)
	j.bytes.Store(0)
	j.size.Store(size)
}

// Add says that n of the bytes are done.
func (j *Job) Add(n int) { j.bytes.Add(int64(n)) }

// progress returns what is told about a task that is not ended.
func (j *Job) progress() (message string, result json.RawMessage) {
	if doing := j.doing.Load(); doing != nil {
		message = *doing
	}
	if size := j.size.Load(); size >= 0 {
		return message, fmt.Appendf(nil, `{"bytes":%d,"size":%d}`, j.bytes.Load(), size)
	}
	return message, fmt.Appendf(nil, `{"bytes":%d}`, j.bytes.Load())
}

// A Runner does tasks. Several processes may do those of one registry: who has the
// lease of a task works on it, tells how far it is, and stops when it has the lease
// no more.
//
// Tasks and Handlers must be set, and nothing may be changed after the first use.
type Runner struct {
	Tasks registry.Tasks
	// Handlers do the tasks, by type. One of another type fails.
	Handlers map[string]Handler
	// Workers is how many tasks are done at a time; 0 means two.
	Workers int
	// Lease is the time after which others take up the task of a process that
	// died; 0 means 30 s.
	Lease time.Duration
	// Every is the time from one look for tasks to the next if nobody calls
	// Wake; 0 means 5 s.
	Every time.Duration
	// Log gets what was done and what failed; nil means slog.Default().
	Log *slog.Logger

	once sync.Once
	news bell
}

func (r *Runner) bell() bell {
	r.once.Do(func() { r.news = make(bell, 1) })
	return r.news
}

// Wake says that there is a new task. It never blocks, and is not lost when Run is
// busy or begins later.
func (r *Runner) Wake() { r.bell().ring() }

// Run does tasks until ctx ends, and returns nil then. Those under way are given
// back, for the next process.
func (r *Runner) Run(ctx context.Context) error {
	workers := make(chan struct{}, orDefault(r.Workers, 2))
	var jobs sync.WaitGroup
	repeat(ctx, r.bell(), orDefault(r.Every, defaultPoll), func(ctx context.Context) error {
		return r.look(ctx, workers, &jobs)
	}, func(err error, retry time.Duration) {
		orLog(r.Log).Warn("looking for tasks failed", "err", err, "retry", retry)
	})
	jobs.Wait()
	return nil
}

// look begins tasks as long as there are any, each as soon as a worker is free.
func (r *Runner) look(ctx context.Context, workers chan struct{}, jobs *sync.WaitGroup) error {
	for {
		w := &worker{pool: workers}
		if w.take(ctx) != nil {
			return nil
		}
		holder := rand.Text() // who lost a lease must not take it for the next one's
		t, err := r.Tasks.LeaseTask(ctx, holder, orDefault(r.Lease, defaultLease))
		if err != nil {
			w.give()
			if errors.Is(err, registry.ErrNotFound) {
				return nil
			}
			return err
		}
		jobs.Go(func() {
			defer w.give()
			r.work(ctx, holder, t)
		})
	}
}

// work does a task whose lease it has.
func (r *Runner) work(ctx context.Context, holder string, t *registry.Task) {
	began := time.Now()
	j := &Job{Task: t}
	log := orLog(r.Log).With("task", t.ID, "type", t.Type, "image", t.ImageID)
	held, stop := r.hold(ctx, holder, j)
	defer stop()
	h := r.Handlers[t.Type]
	var err error
	switch {
	case h == nil:
		h, err = noHandler{}, fmt.Errorf("this server does no tasks of type %.40q", t.Type)
	case t.Attempts > maxAttempts:
		err = fmt.Errorf("given up: it was taken up %d times, and never came to an end", maxAttempts)
	default:
		err = h.Do(held, j)
	}
	switch {
	case held.Err() != nil:
		r.leave(ctx, holder, j, log)
	case errors.Is(err, registry.ErrUnavailable):
		log.Warn("a task waits for its next attempt", "err", err)
	default:
		r.end(held, holder, j, h, err, log.With("dur", time.Since(began)))
	}
}

// hold renews the lease until stop is called, which waits. The context ends when
// the lease is lost.
func (r *Runner) hold(ctx context.Context, holder string, j *Job) (_ context.Context, stop func()) {
	lease := orDefault(r.Lease, defaultLease)
	ctx, cancel := context.WithCancelCause(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		end := time.Now().Add(lease)
		for sleep(ctx, min(lease/3, reportEvery)) == nil {
			now := time.Now()
			switch err := r.renew(ctx, holder, j, end); {
			case err == nil:
				end = now.Add(lease)
			case isDecided(err), !time.Now().Before(end):
				cancel(errLost)
			}
		}
	}()
	return ctx, func() {
		cancel(nil)
		<-done
	}
}

// renew prolongs the lease, and waits for that no longer than the lease lasts.
func (r *Runner) renew(ctx context.Context, holder string, j *Job, end time.Time) error {
	ctx, cancel := context.WithDeadline(ctx, end)
	defer cancel()
	message, result := j.progress()
	return r.Tasks.RenewTask(ctx, j.ID, holder, orDefault(r.Lease, defaultLease), message, result)
}

// leave gives a task up that others may do, or that nobody needs to.
func (r *Runner) leave(ctx context.Context, holder string, j *Job, log *slog.Logger) {
	if ctx.Err() == nil {
		log.Info("a task was given up, because it was ended or its lease was lost")
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastWords)
	defer cancel()
	if err := r.Tasks.ReleaseTask(ctx, j.ID, holder); err != nil {
		log.Warn("a task could not be given back, and waits for the end of its lease", "err", err)
	}
}

// end ends a task, again and again for as long as the lease is held.
func (r *Runner) end(ctx context.Context, holder string, j *Job, h Handler, err error, log *slog.Logger) {
	t := *j.Task
	t.Status, t.Message = registry.TaskSuccess, ""
	if err != nil {
		t.Status, t.Message, t.Result = registry.TaskFailure, reason(err), nil
	}
	for wait := firstRetry; ; wait = min(2*wait, maxPause) {
		failed := r.Tasks.EndTask(ctx, &t, holder, h.End(j, err))
		switch {
		case failed != nil && !isDecided(failed) && sleep(ctx, wait) == nil:
			continue
		case failed != nil:
			log.Warn("the end of a task could not be written down", "err", failed, "status", t.Status)
		case err != nil:
			log.Warn("a task failed", "err", err)
		default:
			log.Info("a task is done")
		}
		return
	}
}

// noHandler is for tasks of unknown types.
type noHandler struct{}

func (noHandler) Do(context.Context, *Job) error { return nil }

// End leaves the image alone, but for one that waits for what nobody will do.
func (noHandler) End(*Job, error) func(*registry.Image) error { return release }

// release lets an image that was being imported be queued again.
func release(img *registry.Image) error {
	delete(img.Properties, TaskProperty)
	if img.Status == registry.Importing {
		return img.Become(registry.Queued)
	}
	return nil
}
