package registry

import (
	"context"
	"time"
)

// An Edge is a node that serves images from its cache, as it announced itself.
type Edge struct {
	// Name is its identity. URL is where other nodes reach it.
	Name, URL string
	Version   string
	StartedAt time.Time // in UTC
	SeenAt    time.Time // of the latest announcement, the registry's to set

	Revision int64 // the latest that it heard of
	// Heard is false while it is cut off from the events.
	Heard bool

	Budget, Used int64 // bytes of its cache
	Images       int   // of which it has anything
	// Hits and Misses are bytes served since it started: from its cache, and those
	// it fetched.
	Hits, Misses int64
}

// Edges is the list of edges.
type Edges interface {
	// Announce adds the edge, or puts what it says now in the place of what it said.
	Announce(ctx context.Context, e Edge) error
	// Edges returns those that announced themselves within a day, by name.
	Edges(ctx context.Context) ([]Edge, error)
}
