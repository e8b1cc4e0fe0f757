package registry

import (
	"context"
	"time"
)

// An Edge is a node that serves images from its cache, as it announced itself. Its JSON
// form is the one that nodes and clients speak.
type Edge struct {
	// Name is its identity. URL is where other nodes reach it.
	Name      string    `json:"name"`
	URL       string    `json:"url"`
	Version   string    `json:"version"`
	StartedAt time.Time `json:"started_at"` // in UTC
	SeenAt    time.Time `json:"seen_at"`    // of the latest announcement, the registry's to set

	Revision int64 `json:"revision"` // the latest that it heard of
	// Heard is false while it is cut off from the events.
	Heard bool `json:"heard"`

	Budget int64 `json:"budget"` // bytes of its cache
	Used   int64 `json:"used"`
	Images int   `json:"images"` // of which it has anything
	// Hits and Misses are bytes served since it started: from its cache, and those
	// it fetched.
	Hits   int64 `json:"hits"`
	Misses int64 `json:"misses"`
}

// Edges is the list of edges.
type Edges interface {
	// Announce adds the edge, or puts what it says now in the place of what it said.
	Announce(ctx context.Context, e Edge) error
	// Edges returns those that announced themselves within a day, by name.
	Edges(ctx context.Context) ([]Edge, error)
}
