// Package bus delivers events: within one process, and from process to process
// through a stream of Redis. The log stays the truth; this is a matter of speed.
package bus

import (
	"context"
	"fmt"
	"iter"
	"sync"

	"nearsight/registry"
)

// batch is how many events are read from the log at a time.
const batch = 256

// A Local is registry.Events over a Log of the same process. It brings nothing
// but the news that there is news: what watchers get is read from the log, so
// a lost or late call of Notify loses nothing that the next one does not bring.
// It is safe for concurrent use.
type Local struct {
	log registry.Log

	mu       sync.Mutex
	revision int64         // the latest that Notify told of
	next     chan struct{} // closed when it grows, then made anew
}

var _ registry.Events = (*Local)(nil)

// New returns a Local over log. Nobody needs to stop it.
func New(log registry.Log) *Local {
	return &Local{log: log, next: make(chan struct{})}
}

// Notify wakes the watchers that have not seen revision. It never blocks, and
// an older revision than before wakes nobody.
func (l *Local) Notify(revision int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if revision > l.revision {
		l.revision = revision
		close(l.next)
		l.next = make(chan struct{})
	}
}

// growth returns a channel that is closed when Notify tells of news.
func (l *Local) growth() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.next
}

// Watch implements registry.Events. It fails at once if the log ends before
// revision: the log was put back to an earlier state then.
func (l *Local) Watch(ctx context.Context, revision int64) iter.Seq2[registry.Event, error] {
	return func(yield func(registry.Event, error) bool) {
		last := revision // of this run; the sequence may be run again
		latest, err := l.log.Revision(ctx)
		if err == nil && latest < last {
			err = fmt.Errorf("watch events: the log ends at revision %d, before %d", latest, last)
		}
		for err == nil {
			// Before the log is read, so that what comes after is not missed.
			growth := l.growth()
			var events []registry.Event
			if events, err = l.log.Since(ctx, last, batch); err != nil {
				break
			}
			for _, e := range events {
				if e.Revision != last+1 {
					err = fmt.Errorf("watch events: revision %d is followed by %d", last, e.Revision)
					break
				}
				if !yield(e, nil) {
					return
				}
				last = e.Revision
			}
			if len(events) > 0 {
				continue
			}
			select {
			case <-growth:
			case <-ctx.Done():
				return
			}
		}
		if ctx.Err() == nil {
			yield(registry.Event{}, err)
		}
	}
}
