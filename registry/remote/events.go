package remote

import (
	"context"
	"fmt"
	"iter"
	"net/url"
	"strconv"
	"time"

	"nearsight/origin"
	"nearsight/registry"
)

// freshness is how long after its question an answer with events passes for a sign of
// life that is as young as the watcher's wish for it.
const freshness = 250 * time.Millisecond

// An event is a registry.Event in JSON.
type event struct {
	Revision int64              `json:"revision"`
	ImageID  string             `json:"image"`
	Kind     registry.EventKind `json:"kind"`
	Digest   origin.Digest      `json:"digest"`
	At       time.Time          `json:"at"`
}

// news is what happened after a revision.
type news struct {
	// Revision is that of the registry, which has at least that. Proved: it was there
	// at some time since it was asked.
	Revision int64   `json:"revision"`
	Proved   bool    `json:"proved"`
	Events   []event `json:"events"`
}

// Revision implements registry.Log.
func (c *Central) Revision(ctx context.Context) (int64, error) {
	n, err := c.ask(ctx, "", 0)
	if err != nil {
		return 0, fmt.Errorf("revision of the registry: %w", err)
	}
	return n.Revision, nil
}

// Since implements registry.Log. It asks several times for more events than an answer
// has.
func (c *Central) Since(ctx context.Context, revision int64, limit int) ([]registry.Event, error) {
	revision = max(revision, 0)
	var events []registry.Event
	for len(events) < limit {
		n, err := c.poll(ctx, revision, 0)
		if err != nil {
			return nil, fmt.Errorf("events after %d: %w", revision, err)
		}
		if len(n.Events) == 0 {
			break
		}
		for _, e := range n.Events[:min(len(n.Events), limit-len(events))] {
			events = append(events, registry.Event(e))
		}
		revision = n.Events[len(n.Events)-1].Revision
	}
	return events, nil
}

// Watch implements registry.Events by one question after the other. It fails at once if
// the registry ends before revision: it was put back to an earlier state then.
//
// A sign of life is no older than the watcher's wish for the next event: before that
// nobody asked. While so much happens that every answer has events it is 250 ms older at
// most.
func (c *Central) Watch(ctx context.Context, revision int64) iter.Seq2[registry.Event, error] {
	return func(yield func(registry.Event, error) bool) {
		last := revision
		var signed time.Time // when the last sign of life was given
		for ctx.Err() == nil {
			asked := time.Now()
			n, err := c.poll(ctx, last, max(0, c.wait-asked.Sub(signed)))
			if err == nil && n.Revision < last {
				err = fmt.Errorf("the registry ends at revision %d", n.Revision)
			}
			if err != nil {
				if ctx.Err() == nil {
					yield(registry.Event{}, fmt.Errorf("watch events after %d: %w", last, err))
				}
				return
			}
			for _, e := range n.Events {
				if !yield(registry.Event(e), nil) || ctx.Err() != nil {
					return
				}
				last = e.Revision
			}
			if n.Proved && n.Revision <= last && (len(n.Events) == 0 || time.Since(asked) < freshness) {
				signed = time.Now()
				if !yield(registry.Event{Revision: last}, nil) {
					return
				}
			}
		}
	}
}

// poll asks for the events after a revision, for which the central may wait, and checks
// that they follow it.
func (c *Central) poll(ctx context.Context, after int64, wait time.Duration) (*news, error) {
	wait = wait.Truncate(time.Millisecond)
	q := url.Values{"after": {strconv.FormatInt(max(after, 0), 10)}, "wait": {wait.String()}}
	n, err := c.ask(ctx, q.Encode(), wait)
	if err != nil {
		return nil, err
	}
	last := after
	for _, e := range n.Events {
		switch {
		case e.Revision != last+1:
			return nil, unavailable("revision %d is followed by %d", last, e.Revision)
		case !registry.ValidID(e.ImageID):
			return nil, unavailable("event %d is about no image", e.Revision)
		case e.Kind == registry.EventNone:
			return nil, unavailable("event %d is none", e.Revision)
		}
		last = e.Revision
	}
	switch {
	case len(n.Events) > 0 && n.Revision < last:
		return nil, unavailable("the registry is at revision %d, and has event %d", n.Revision, last)
	case len(n.Events) == 0 && n.Revision > last:
		return nil, unavailable("the registry is at revision %d, and the events after %d do not come", n.Revision, last)
	case len(n.Events) == 0 && !n.Proved:
		return nil, unavailable("it does not know whether anything happened after %d", last)
	}
	return n, nil
}

// ask sends a question for events.
func (c *Central) ask(ctx context.Context, query string, wait time.Duration) (*news, error) {
	a, err := c.call(ctx, "GET", "/nearsight/events", query, nil, wait+c.prompt, maxAnswer)
	if err != nil {
		return nil, err
	}
	var n news
	if err := a.decode(&n); err != nil {
		return nil, err
	}
	if n.Revision < 0 {
		return nil, unavailable("it is at revision %d", n.Revision)
	}
	for i := range n.Events {
		n.Events[i].At = n.Events[i].At.UTC()
	}
	return &n, nil
}
