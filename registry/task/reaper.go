// Package task does the slow work behind the registry.
package task

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"nearsight/origin"
	"nearsight/registry"
)

const (
	defaultEvery = time.Minute
	// defaultGrace is more than a store that answers at all takes to commit what
	// it was given.
	defaultGrace = time.Minute
	// maxDeleted orphans are remembered as deleted once. Those beyond are deleted
	// at each look until there is room for them.
	maxDeleted = 10_000
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

// A Reaper clears away what uploads, copies and deleted images leave. It aborts
// uploads and copies whose end nobody else could write down, and deletes the
// objects that no image refers to: those of deleted images and of removed
// locations, and what failed or crashed uploads and copies left.
//
// It first deletes the object and then forgets the orphan, so that no crash leaks
// an object. So it may delete an object twice, which no store minds; but never
// too early, because the registry lists as orphans only what no image can come
// to refer to again.
//
// A store may finish what it was asked to commit after the one who asked is dead,
// and after there was nothing to delete. So what an upload or a copy left is
// deleted at once, and again after Grace, and forgotten only then. A location
// with a validator was finished, and is forgotten at once.
//
// An orphan of a store that takes no data is forgotten, because there is nothing of
// ours to delete. One of a store that is not configured is kept for the day when it
// is again; the log hears of each such store once.
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
	// Grace is how long after its first deletion the object of an upload or
	// copy that was not finished is deleted again, and how late a store may
	// finish one without leaving it for ever; up to Every or Grace later, the
	// shorter of them. After a restart it begins anew. 0 means a minute, and
	// less than 0 none.
	Grace time.Duration

	once             sync.Once
	orphaned, failed bell

	mu     sync.Mutex
	aborts []registry.Upload // to be made

	// Used by Run alone.
	unknown map[string]bool      // stores that the log has heard of, see storeOf
	deleted map[string]time.Time // by URL, orphans that were deleted once, and when
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

// Abort has Run abort the upload or copy to loc, at once and then until it succeeds. It is
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

// AbortUnfinished aborts the uploads and copies that an earlier process left, and
// leaves to Run what fails, on a full disk for example. It is called before the
// first upload or copy of this process begins, which must be the only one that
// writes. The error is that of the registry if it cannot tell which there are.
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

func (r *Reaper) log() *slog.Logger { return orLog(r.Log) }

func (r *Reaper) grace() time.Duration {
	if r.Grace < 0 {
		return 0
	}
	return orDefault(r.Grace, defaultGrace)
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
	every := orDefault(r.Every, defaultEvery)
	if grace := r.grace(); grace > 0 {
		every = min(every, grace) // what was deleted at one look is due at the next
	}
	repeat(ctx, wake, every, do, func(err error, retry time.Duration) {
		r.log().Warn("clearing away failed", "err", err, "retry", retry)
	})
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
				continue
			case errors.Is(err, origin.ErrLocation):
				r.tellOnce(loc, err)
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

// drop deletes the object of one orphan, and then the orphan if nothing can come
// to be in its place.
func (r *Reaper) drop(ctx context.Context, loc origin.Location) error {
	first, again := r.deleted[loc.URL]
	if again && time.Since(first) < r.grace() {
		return nil // others do not wait for it
	}
	dctx, cancel := context.WithTimeout(ctx, deleteTimeout)
	defer cancel()
	err := r.Store.Delete(dctx, loc)
	if err != nil && !errors.Is(err, origin.ErrReadOnly) {
		return fmt.Errorf("delete %s: %w", loc.URL, err)
	}
	if loc.Validator == "" && err == nil && !again && r.grace() > 0 {
		r.wait(loc)
		return nil
	}
	if err := r.Uploads.Forget(ctx, loc); err != nil {
		return fmt.Errorf("forget %s: %w", loc.URL, err)
	}
	delete(r.deleted, loc.URL)
	r.log().Debug("orphaned data deleted", "location", loc.URL)
	return nil
}

// wait notes that the object of an orphan was deleted once.
func (r *Reaper) wait(loc origin.Location) {
	if r.deleted == nil {
		r.deleted = make(map[string]time.Time)
	}
	if len(r.deleted) < maxDeleted {
		r.deleted[loc.URL] = time.Now()
	}
}

// tellOnce says that orphans of loc's store cannot be deleted, because it is not
// there.
func (r *Reaper) tellOnce(loc origin.Location, err error) {
	name := storeOf(loc)
	if r.unknown[name] {
		return
	}
	if r.unknown == nil {
		r.unknown = make(map[string]bool)
	}
	r.unknown[name] = true
	r.log().Warn("orphaned data that no configured store can delete is kept", "store", name, "err", err)
}

// storeOf returns scheme and name of the store of loc, without what follows: that
// of a malformed location may be anything.
func storeOf(loc origin.Location) string {
	scheme, rest, _ := strings.Cut(loc.URL, "://")
	name, _, _ := strings.Cut(rest, "/")
	return scheme + "://" + name
}
