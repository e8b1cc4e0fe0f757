// Package task does the slow work behind the registry.
package task

import (
	"context"
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
)

// A Reaper deletes the objects that no image refers to: those of deleted images,
// and what failed or crashed uploads left. It first deletes the object and then
// forgets the orphan, so that no crash leaks an object. So it may delete an
// object twice, which no store minds; but never too early, because the registry
// lists as orphans only what no image can come to refer to again.
//
// Uploads and Store must be set, and nothing may be changed after the first use.
type Reaper struct {
	Uploads registry.Uploads
	Store   origin.WriteStore
	// Log gets what could not be deleted; nil means slog.Default().
	Log *slog.Logger
	// Every is the time from one look at the orphans to the next if nobody
	// calls Wake, and the longest time between attempts at what fails; 0
	// means a minute.
	Every time.Duration

	once sync.Once
	wake chan struct{}
}

// bell returns the channel that Wake rings.
func (r *Reaper) bell() chan struct{} {
	r.once.Do(func() { r.wake = make(chan struct{}, 1) })
	return r.wake
}

// Wake says that there are new orphans. It never blocks, and is not lost when Run
// is busy or begins later; but after a failure Run waits its time nevertheless.
func (r *Reaper) Wake() {
	select {
	case r.bell() <- struct{}{}:
	default:
	}
}

// Run deletes orphans until ctx ends, and returns nil then.
func (r *Reaper) Run(ctx context.Context) error {
	log, every := r.Log, r.Every
	if log == nil {
		log = slog.Default()
	}
	if every <= 0 {
		every = defaultEvery
	}
	var retry time.Duration // 0: the last look had no failure
	for {
		wait, wake := every, r.bell()
		if err := r.reap(ctx, log); err == nil {
			retry = 0
		} else if ctx.Err() == nil {
			retry = min(max(2*retry, firstRetry), every)
			wait, wake = retry, nil
			log.Warn("orphaned data remains", "err", err, "retry", wait)
		}
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
			return nil
		case <-wake:
			t.Stop()
		case <-t.C:
		}
	}
}

// reap tries every orphan once. One that fails stops none of the others; the
// error tells of the first.
func (r *Reaper) reap(ctx context.Context, log *slog.Logger) error {
	failed := make(map[origin.Location]bool)
	var first error
	for {
		// Those that failed come first again, since they are the oldest.
		orphans, err := r.Uploads.Orphans(ctx, len(failed)+pageSize)
		if err != nil {
			return fmt.Errorf("list orphans: %w", err)
		}
		tried := false
		for _, loc := range orphans {
			if failed[loc] {
				continue
			}
			tried = true
			err := r.drop(ctx, loc)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err != nil {
				failed[loc] = true
				if first == nil {
					first = err
				}
				continue
			}
			log.Debug("orphaned data deleted", "location", loc.URL)
		}
		if !tried {
			if first != nil {
				return fmt.Errorf("%d not deleted: %w", len(failed), first)
			}
			return nil
		}
	}
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
