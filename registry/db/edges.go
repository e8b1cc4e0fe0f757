package db

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"nearsight/registry"
)

const (
	// edgeLife is how long an edge is listed that does not announce itself.
	edgeLife = 24 * time.Hour
	// maxEdgeName bounds the name of an edge, in bytes.
	maxEdgeName = 255
)

// Announce implements registry.Edges. ErrInvalid for a name that is empty, too long or
// no line of text. Edges that are not listed any more it deletes.
func (d *DB) Announce(ctx context.Context, e registry.Edge) error {
	doing := fmt.Sprintf("announce edge %.80q", e.Name)
	if e.Name == "" || len(e.Name) > maxEdgeName || !utf8.ValidString(e.Name) || strings.ContainsFunc(e.Name, unicode.IsControl) {
		return fmt.Errorf("%s: %w: its name is not a line of 1 to %d bytes", doing, registry.ErrInvalid, maxEdgeName)
	}
	return d.write(ctx, doing, func(c *change) error {
		e.SeenAt = c.at
		said, err := json.Marshal(e)
		if err != nil {
			return err
		}
		if _, err := c.ExecContext(ctx, "DELETE FROM edges WHERE seen_at <= ?", toMicros(c.at.Add(-edgeLife))); err != nil {
			return err
		}
		_, err = c.ExecContext(ctx, `INSERT INTO edges (name, said, seen_at) VALUES (?, ?, ?)
			ON CONFLICT (name) DO UPDATE SET said = excluded.said, seen_at = excluded.seen_at`,
			e.Name, string(said), toMicros(c.at))
		return err
	})
}

// Edges implements registry.Edges.
func (d *DB) Edges(ctx context.Context) (edges []registry.Edge, err error) {
	err = d.read(ctx, "list edges", func(tx txn) error {
		rows, err := tx.QueryContext(ctx, "SELECT said FROM edges WHERE seen_at > ? ORDER BY name", toMicros(d.now().Add(-edgeLife)))
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var said string
			if err := rows.Scan(&said); err != nil {
				return err
			}
			var e registry.Edge
			if err := json.Unmarshal([]byte(said), &e); err != nil {
				return fmt.Errorf("what an edge said: %w", err)
			}
			edges = append(edges, e)
		}
		return rows.Err()
	})
	if err != nil {
		return nil, err
	}
	return edges, nil
}
