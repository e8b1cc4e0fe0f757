// Package task does the slow work behind the registry.
package task

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"nearsight/origin"
	"nearsight/registry"
)

const (
	defaultEvery = time.Minute
	// firstRetry is doubled from failure to failure, up to Every.
	firstRetry = time.Second
	// pageSize orphans are asked for at once.
	pageSize = 100
	// deleteTimeout bounds one deletion, so that a store that hangs does not
	// keep the objects of others.
	deleteTimeout = time.Minute
	// maxAborts uploads are remembered. There is never more than one for each
	// upload that runs or failed since the registry last took a change, so it
	// takes a registry that accepts uploads and refuses to end them.
	maxAborts = 1000
)

// A Reaper clears away what uploads and deleted images leave. It aborts uploads
// whose end nobody else could write down, and deletes the objects that no image
// refers to: those of deleted images, and what failed or crashed uploads left.
//
// It first deletes the object and then forgets the orphan, so that no crash leaks
// an object. So it may delete an object twice, which no store minds; but never
// too early, because the registry lists as orphans only what no image can come
// to refer to again.
//
// Uploads and Store must be set, and nothing may be changed after the first use.
type Reaper struct {
	Uploads registry.Uploads
	Store   origin.WriteStore
	// Log gets what could not be done; nil means slog.Default().
	Log *slog.Logger
	// Every is the time from one look at the orphans to the next if nobody
	// calls Wake, and the longest time between attempts at what fails; 0
	// means a minute.
	Every time.Duration

	once             sync.Once
	orphaned, failed bell

	mu     sync.Mutex
	aborts []registry.Upload // to be made
}

// A bell can be rung before somebody listens, and never blocks.
type bell chan struct{}

func (b bell) ring() {
	select {
	case b <- struct{}{}:
	default:
	}
}

// bells returns what Wake and Abort ring.
func (r *Reaper) bells() (orphaned, failed bell) {
	r.once.Do(func() { r.orphaned, r.failed = make(bell, 1), make(bell, 1) })
	return r.orphaned, r.failed
}

// Wake says that there are new orphans. It never blocks, and is not lost when Run
// is busy or begins later; but after a failure Run waits its time nevertheless.
func (r *Reaper) Wake() {
	orphaned, _ := r.bells()
	orphaned.ring()
}

// Abort has Run abort the upload to loc, at once and then until it succeeds. It is
// for whoever could not abort it, or does not know whether it began: without
// it the image would stay in saving. It never blocks. What a crash forgets
// AbortUnfinished finds.
func (r *Reaper) Abort(id string, loc origin.Location) {
	r.mu.Lock()
	full := len(r.aborts) >= maxAborts
	if !full {
		r.aborts = append(r.aborts, registry.Upload{ImageID: id, Location: loc})
	}
	r.mu.Unlock()
	if full {
		r.log().Error("too many failed uploads; this one ends at the next start", "image", id, "location", loc.URL)
		return
	}
	_, failed := r.bells()
	failed.ring()
}

// AbortUnfinished aborts the uploads that an earlier process left, and leaves to
// Run what fails, on a full disk for example. It is called before the first
// upload of this process begins, which must be the only one that uploads. The
// error is that of the registry if it cannot tell which uploads there are.
func (r *Reaper) AbortUnfinished(ctx context.Context) error {
	uploads, err := r.Uploads.Unfinished(ctx)
	if err != nil {
		return fmt.Errorf("abort unfinished uploads: %w", err)
	}
	r.mu.Lock()
	r.aborts = append(r.aborts, uploads...)
	r.mu.Unlock()
	if err := r.abort(ctx); err != nil {
		r.log().Warn("clearing away failed", "err", err)
	}
	return ctx.Err()
}

func (r *Reaper) log() *slog.Logger {
	if r.Log == nil {
		return slog.Default()
	}
	return r.Log
}

// Run aborts and deletes until ctx ends, and returns nil then. Neither waits for
// the other: a store that hangs keeps no image in saving.
func (r *Reaper) Run(ctx context.Context) error {
	orphaned, failed := r.bells()
	var aborting sync.WaitGroup
	aborting.Go(func() { r.repeat(ctx, failed, r.abort) })
	r.repeat(ctx, orphaned, r.reap)
	aborting.Wait()
	return nil
}

// repeat does one thing when the bell rings and every now and then, until ctx
// ends.
func (r *Reaper) repeat(ctx context.Context, wake bell, do func(context.Context) error) {
	every := r.Every
	if every <= 0 {
		every = defaultEvery
	}
	var retry time.Duration // 0: the last time did not fail
	for {
		wait, wake := every, wake
		if err := do(ctx); err == nil {
			retry = 0
		} else if ctx.Err() == nil {
			retry = min(max(2*retry, firstRetry), every)
			wait, wake = retry, nil
			r.log().Warn("clearing away failed", "err", err, "retry", wait)
		}
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-wake:
			t.Stop()
		case <-t.C:
		}
	}
}

// abort tries once to abort each upload that is to be; the error tells of the
// first that remains.
func (r *Reaper) abort(ctx context.Context) error {
	r.mu.Lock()
	todo := r.aborts
	r.aborts = nil
	r.mu.Unlock()
	var left []registry.Upload
	var first error
	for _, u := range todo {
		err := r.Uploads.Abort(ctx, u.ImageID, u.Location)
		switch {
		case err == nil:
			r.Wake() // it made an orphan
		case errors.Is(err, registry.ErrConflict): // it was finished, and is no failure
		default:
			left = append(left, u)
			if first == nil {
				first = err
			}
		}
	}
	if first == nil {
		return nil
	}
	r.mu.Lock()
	r.aborts = append(left, r.aborts...)
	r.mu.Unlock()
	return fmt.Errorf("%d unfinished uploads remain: %w", len(left), first)
}

// reap tries every orphan once. One that fails stops none of the others; the
// error tells of the first.
func (r *Reaper) reap(ctx context.Context) error {
	failed := 0
	var first error
	for after := ""; ; {
		orphans, err := r.Uploads.Orphans(ctx, after, pageSize)
		if err != nil {
			return errors.Join(first, fmt.Errorf("list orphans: %w", err))
		}
		for _, loc := range orphans {
			err := r.drop(ctx, loc)
			switch {
			case ctx.Err() != nil:
				return ctx.Err()
			case err == nil:
				r.log().Debug("orphaned data deleted", "location", loc.URL)
				continue
			case first == nil:
				first = err
			}
			failed++
		}
		if len(orphans) < pageSize {
			break
		}
		after = orphans[len(orphans)-1].URL
	}
	if first != nil {
		return fmt.Errorf("%d orphaned objects remain: %w", failed, first)
	}
	return nil
}

// drop deletes the object of one orphan and then the orphan.
func (r *Reaper) drop(ctx context.Context, loc origin.Location) error {
	dctx, cancel := context.WithTimeout(ctx, deleteTimeout)
	defer cancel()
	if err := r.Store.Delete(dctx, loc); err != nil {
		return fmt.Errorf("delete %s: %w", loc.URL, err)
	}
	if err := r.Uploads.Forget(ctx, loc); err != nil {
		return fmt.Errorf("forget %s: %w", loc.URL, err)
	}
	return nil
}
