package api

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"nearsight/registry"
)

const (
	// maxEvents bounds the events in one answer.
	maxEvents = 1000
	// keepEvents is how many of the latest events are remembered at least: nodes
	// that keep up never make anybody read the log.
	keepEvents = 4096
	// proofPatience bounds the question for the revision. A node gives up earlier.
	proofPatience = 5 * time.Second

	// The wait before the events are watched anew grows from firstWatch to lastWatch.
	firstWatch = 50 * time.Millisecond
	lastWatch  = 2 * time.Second
)

// A feed hears the events once for all who wait for them, and remembers the latest.
//
// It brings news soon; that there is none it does not know, since it may have gone deaf.
// So who is to be told that nothing happened is told by the log. One question to the log
// does for all who began to wait before it: about one a second, however many wait.
type feed struct {
	log    registry.Log
	events registry.Events
	logger *slog.Logger

	mu       sync.Mutex
	recent   []registry.Event // the latest that were heard, without a gap
	revision int64            // up to which it heard; -1 while it does not
	highest  int64            // that was ever known
	grown    chan struct{}    // closed when any of that changes, then made anew
	proof    *proof           // the latest, or the one that is being asked for
}

// A proof says that the registry was at a revision at some time after it was asked. The
// rest is set before done is closed.
type proof struct {
	asked    time.Time
	done     chan struct{}
	revision int64
	err      error
}

// news is what a node is told that asked what there is after a revision.
type news struct {
	revision int64 // that the registry has, at least
	proved   bool  // it was at revision, and not ahead, at some time since it was asked
	events   []registry.Event
}

func newFeed(log registry.Log, events registry.Events, logger *slog.Logger) *feed {
	return &feed{log: log, events: events, logger: logger, revision: -1, grown: make(chan struct{})}
}

// Run follows the events for the nodes that wait for them, until ctx ends, and returns
// nil then. Without it they get them late.
func (a *API) Run(ctx context.Context) error {
	if a.nodes.feed != nil {
		a.nodes.feed.run(ctx)
	}
	return nil
}

func (f *feed) run(ctx context.Context) {
	wait := firstWatch
	for {
		err := f.follow(ctx, func() { wait = firstWatch })
		f.set(-1)
		if ctx.Err() != nil {
			return
		}
		f.logger.Warn("the events are not heard; nodes get them late", "err", err)
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return
		}
		wait = min(2*wait, lastWatch)
	}
}

// follow hears events until that fails, and calls heard with each.
func (f *feed) follow(ctx context.Context, heard func()) error {
	revision, err := f.log.Revision(ctx)
	if err != nil {
		return err
	}
	f.set(revision)
	for e, err := range f.events.Watch(ctx, revision) {
		switch {
		case err != nil:
			return err
		case e.Kind == registry.EventNone:
			continue
		case e.Revision != revision+1:
			return fmt.Errorf("revision %d is followed by %d", revision, e.Revision)
		}
		revision = e.Revision
		f.add(e)
		heard()
	}
	return ctx.Err()
}

// set forgets the events; those after revision will be heard, or none if it is -1.
func (f *feed) set(revision int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.recent, f.revision, f.highest = nil, revision, max(f.highest, revision)
	f.wake()
}

func (f *feed) add(e registry.Event) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.recent) >= 2*keepEvents {
		f.recent = slices.Clone(f.recent[len(f.recent)-keepEvents:])
	}
	f.recent = append(f.recent, e)
	f.revision, f.highest = e.Revision, max(f.highest, e.Revision)
	f.wake()
}

// wake wakes all who wait. The caller holds mu.
func (f *feed) wake() {
	close(f.grown)
	f.grown = make(chan struct{})
}

// known returns a revision that the registry has, or had, at least.
func (f *feed) known() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.highest
}

// recall returns the events after a revision from memory, at most maxEvents. heard is
// false if memory does not reach there. grown is closed when it knows more.
func (f *feed) recall(after int64) (n news, heard bool, grown <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n.revision = f.revision
	first := f.revision - int64(len(f.recent)) // recent has what comes after it
	if f.revision < 0 || after > f.revision || after < first {
		return n, false, f.grown
	}
	n.events = slices.Clone(f.recent[after-first:][:min(f.revision-after, maxEvents)])
	return n, true, f.grown
}

// next returns what happened after a revision as soon as there is something, or that
// there is nothing when wait is over.
func (f *feed) next(ctx context.Context, after int64, wait time.Duration) (news, error) {
	asked := time.Now()
	over := time.NewTimer(wait)
	defer over.Stop()
	for {
		n, heard, grown := f.recall(after)
		if !heard || wait == 0 {
			since := asked
			if !heard {
				// Too far back; or we have not come so far, and only the log can say
				// whether anybody has. Another look must see more than the first.
				since = time.Now()
			}
			var err error
			if n, err = f.read(ctx, after, since); err != nil || n.revision < after || wait == 0 {
				return n, err
			}
		}
		if len(n.events) > 0 {
			return n, nil
		}
		select {
		case <-grown:
		case <-over.C:
			wait = 0
		case <-ctx.Done():
			return news{}, ctx.Err()
		}
	}
}

// read returns what happened after a revision, and where the registry was at some time
// after asked: from memory if that has it all.
func (f *feed) read(ctx context.Context, after int64, asked time.Time) (news, error) {
	revision, err := f.prove(ctx, asked)
	if err != nil || revision <= after {
		return news{revision: revision, proved: true}, err
	}
	n, heard, _ := f.recall(after)
	if !heard || n.revision < revision {
		if n.events, err = f.log.Since(ctx, after, maxEvents); err != nil {
			return news{}, err
		}
	}
	n.revision, n.proved = revision, true
	if k := len(n.events); k > 0 {
		n.revision = max(revision, n.events[k-1].Revision)
	}
	return n, nil
}

// prove returns the revision of the registry at some time after since.
func (f *feed) prove(ctx context.Context, since time.Time) (int64, error) {
	for {
		p, mine := f.join(since)
		if mine {
			f.ask(ctx, p)
		}
		select {
		case <-p.done:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
		if p.err != nil || !p.asked.Before(since) {
			return p.revision, p.err
		}
	}
}

// join returns the proof that there is, or that is being asked for, or a new one, for
// which the caller must ask.
func (f *feed) join(since time.Time) (p *proof, mine bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if p := f.proof; p != nil {
		select {
		case <-p.done:
			if p.err == nil && !p.asked.Before(since) {
				return p, false
			}
		default:
			return p, false
		}
	}
	f.proof = &proof{asked: time.Now(), done: make(chan struct{})}
	return f.proof, true
}

// ask asks the log for the sake of all who wait for p, also if the caller gives up.
func (f *feed) ask(ctx context.Context, p *proof) {
	p.err = fmt.Errorf("%w: the question for its revision was not answered", registry.ErrUnavailable)
	defer func() {
		f.mu.Lock()
		f.highest = max(f.highest, p.revision)
		f.mu.Unlock()
		close(p.done)
	}()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), proofPatience)
	defer cancel()
	revision, err := f.log.Revision(ctx)
	if err != nil {
		err = fmt.Errorf("prove the revision: %w", err)
	}
	p.revision, p.err = revision, err
}
