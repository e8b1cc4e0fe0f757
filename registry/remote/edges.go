package remote

import (
	"context"
	"fmt"
	"unicode/utf8"

	"nearsight/registry"
)

// Announce implements registry.Edges.
func (c *Central) Announce(ctx context.Context, e registry.Edge) error {
	if !utf8.ValidString(e.Name) { // JSON would make another name of it
		return fmt.Errorf("announce edge %.80q: %w: its name is not UTF-8", e.Name, registry.ErrInvalid)
	}
	if _, err := c.post(ctx, "/nearsight/edges", e, c.silence, maxError); err != nil {
		return fmt.Errorf("announce edge %.80q: %w", e.Name, err)
	}
	return nil
}

// Edges implements registry.Edges.
func (c *Central) Edges(ctx context.Context) ([]registry.Edge, error) {
	const doing = "list edges"
	a, err := c.call(ctx, "GET", "/nearsight/edges", "", nil, c.silence, maxAnswer)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", doing, err)
	}
	var list struct {
		Edges []registry.Edge `json:"edges"`
	}
	if err := a.decode(&list); err != nil {
		return nil, fmt.Errorf("%s: %w", doing, err)
	}
	edges := make([]registry.Edge, len(list.Edges))
	for i, e := range list.Edges {
		e.StartedAt, e.SeenAt = e.StartedAt.UTC(), e.SeenAt.UTC()
		edges[i] = e
	}
	return edges, nil
}
