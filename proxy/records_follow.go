package proxy

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"nearsight/registry"
)

const (
	// The wait before the event stream is tried again grows from firstRetry to
	// lastRetry. It stays well below the 5 s in which a reader may believe that
	// it hears all events.
	firstRetry = 50 * time.Millisecond
	lastRetry  = 2 * time.Second
)

// RecordsState says how well Records follows the registry.
type RecordsState struct {
	// Fresh: memory answers. Otherwise records are proved before they are used.
	Fresh bool
	// Heard is up to when all changes were heard of, zero if they never were.
	Heard time.Time
	// Revision is that of the latest event heard, 0 before the first.
	Revision int64
	// Known is how many records are remembered.
	Known int
	// ServedStale is how often a record was served that could not be proved.
	ServedStale int64
}

// State returns how well the registry is being followed.
func (r *Records) State() RecordsState {
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	s := RecordsState{Fresh: r.fresh(now), Heard: r.heardAt(), Revision: max(0, r.revision), Known: r.known.Len(), ServedStale: r.servedStale.Load()}
	if s.Fresh && r.maxStaleness <= 0 {
		s.Heard = now
	}
	return s
}

// Live reports whether the events are heard, so that memory answers.
func (r *Records) Live() bool { return r.fresh(time.Now()) }

// Run follows the events until ctx ends, and returns nil then. each, if not nil,
// is called with every event after its image was forgotten; it must not block.
// When the stream breaks it is taken up where it broke; everything is forgotten
// only if that cannot be. An event may come twice.
func (r *Records) Run(ctx context.Context, each func(registry.Event)) error {
	defer r.end()
	wait := firstRetry
	for {
		err := r.follow(ctx, func(e registry.Event) {
			wait = firstRetry
			if each != nil && e.Kind != registry.EventNone {
				each(e)
			}
		})
		r.broke(err)
		if ctx.Err() != nil {
			return nil
		}
		r.logger.Warn("the event stream broke; records are proved before they are used until it is back", "revision", r.State().Revision, "err", err)
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return nil
		}
		wait = min(2*wait, lastRetry)
	}
}

// follow hears events until the stream breaks.
//
// The revision from which it watches is read before anything is remembered: so
// every later change of what is remembered has an event that will come.
func (r *Records) follow(ctx context.Context, each func(registry.Event)) error {
	// What an answer says was so when it was asked for, however long it then lay
	// somewhere: in a process that was stopped, for one.
	asked := time.Now()
	now, err := r.log.Revision(ctx)
	if err != nil {
		return fmt.Errorf("revision of the registry: %w", err)
	}
	last := r.resume(now, asked)
	if r.pulse > 0 {
		var pulse sync.WaitGroup
		defer pulse.Wait()
		watching, stop := context.WithCancel(ctx)
		defer stop()
		pulse.Go(func() { r.feelPulse(watching) })
	}
	asked = time.Now()
	for e, err := range r.events.Watch(ctx, last) {
		if err != nil {
			return fmt.Errorf("watch events after %d: %w", last, err)
		}
		if last, err = r.hear(e, asked); err != nil {
			return err
		}
		each(e)
		asked = time.Now()
	}
	return errors.New("the event stream ended")
}

// A sign says that the registry was at a revision when it was asked for it.
type sign struct {
	revision int64
	asked    time.Time
}

// resume begins to follow from the latest event heard, and returns its revision. now
// is the registry's, when it was asked. At the start, and when the registry was put
// back to an earlier state, everything is forgotten.
func (r *Records) resume(now int64, asked time.Time) int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.noteReached(true)
	if r.revision < 0 || now < r.revision {
		r.purge()
		r.revision = now
	}
	r.see(sign{now, asked})
	return r.revision
}

// see notes a sign of life. All before it is heard of as soon as the events up to its
// revision are. The caller holds mu.
func (r *Records) see(s sign) {
	r.sign = s
	if r.revision >= s.revision {
		r.heardUpTo(s.asked)
	}
}

// hear deals with what the stream brings when it was asked for more, and returns the
// revision up to which it was heard then.
func (r *Records) hear(e registry.Event, asked time.Time) (int64, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case e.Kind == registry.EventNone && e.Revision > r.revision, e.Revision > r.revision+1:
		return r.revision, fmt.Errorf("events between the revisions %d and %d are missing", r.revision, e.Revision)
	case e.Kind == registry.EventNone:
		if r.revision >= r.sign.revision {
			r.heardUpTo(asked)
		}
		return r.revision, nil
	}
	r.generation.Add(1)
	least := max(e.Revision, r.least(e.ImageID))
	r.known.Remove(e.ImageID)
	delete(r.loads, e.ImageID)
	r.missing.Add(e.ImageID, missingRecord{revision: least, deleted: e.Kind == registry.EventDelete})
	r.revision = max(r.revision, e.Revision)
	r.see(r.sign)
	return r.revision, nil
}

// feelPulse asks the registry for signs of life until ctx ends.
func (r *Records) feelPulse(ctx context.Context) {
	t := time.NewTicker(r.pulse)
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
		asked := time.Now()
		now, err := r.log.Revision(ctx)
		r.mu.Lock()
		switch {
		case errors.Is(err, registry.ErrUnavailable):
			r.noteReached(false)
		case err == nil:
			r.noteReached(true)
			r.see(sign{now, asked})
		}
		r.mu.Unlock()
	}
}

// heardUpTo notes that all changes before t were heard of. The caller holds mu.
func (r *Records) heardUpTo(t time.Time) {
	if d := int64(t.Sub(r.epoch)); d > r.heard.Load() {
		r.heard.Store(d)
	}
	r.live.Store(true)
}

// broke notes that the stream is heard no more.
func (r *Records) broke(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.live.Load() && r.maxStaleness <= 0 { // this process made all the changes until now
		r.heardUpTo(time.Now())
	}
	r.live.Store(false)
	if errors.Is(err, registry.ErrUnavailable) {
		r.noteReached(false)
	}
	if errors.Is(err, registry.ErrTooOld) {
		r.purge()
	}
}

// end forgets everything: nobody listens any more.
func (r *Records) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.purge()
}

// purge forgets everything; nothing is remembered until it is known from which
// revision on events are heard. The caller holds mu.
func (r *Records) purge() {
	r.known.Purge()
	r.missing.Purge()
	clear(r.loads)
	r.generation.Add(1)
	r.revision = -1
	r.heard.Store(0)
	r.live.Store(false)
}

// overtake makes sure that no record of image id is believed that is older than one
// of a revision, which somebody is shown. It reports false if that one is older itself
// than what is remembered.
func (r *Records) overtake(id string, revision int64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	least := r.least(id)
	if revision <= least {
		return revision == least
	}
	delete(r.loads, id)
	if least > 0 {
		r.generation.Add(1)
		r.known.Remove(id)
		m, _ := r.missing.Peek(id)
		r.missing.Add(id, missingRecord{revision: revision, deleted: m.deleted})
	}
	return true
}

// forget makes sure that nothing read before now is remembered about id.
func (r *Records) forget(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.generation.Add(1)
	least := r.least(id)
	r.known.Remove(id)
	delete(r.loads, id)
	m, ok := r.missing.Peek(id)
	switch {
	case ok && m.deleted:
	case least > 0:
		r.missing.Add(id, missingRecord{revision: least})
	case ok:
		r.missing.Remove(id)
	}
}
