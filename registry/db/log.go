package db

import (
	"context"
	"database/sql"

	"nearsight/origin"
	"nearsight/registry"
)

// Since implements registry.Log.
func (d *DB) Since(ctx context.Context, revision int64, limit int) (events []registry.Event, err error) {
	err = d.read(ctx, "read events", func(tx *sql.Tx) error {
		rows, err := tx.QueryContext(ctx, `SELECT revision, image_id, kind, digest FROM events
			WHERE revision > ? ORDER BY revision LIMIT ?`, revision, max(limit, 0))
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var e registry.Event
			if err := rows.Scan(&e.Revision, &e.ImageID, &e.Kind, &e.Digest); err != nil {
				return err
			}
			events = append(events, e)
		}
		return rows.Err()
	})
	if err != nil {
		return nil, err
	}
	return events, nil
}

// Revision implements registry.Log.
func (d *DB) Revision(ctx context.Context) (revision int64, err error) {
	err = d.read(ctx, "read the revision", func(tx *sql.Tx) error {
		return tx.QueryRowContext(ctx, "SELECT revision FROM counter").Scan(&revision)
	})
	return revision, err
}

// event takes the next revision for a change of the image id and logs it.
func (c *change) event(ctx context.Context, id string, kind registry.EventKind, digest origin.Digest) (int64, error) {
	err := c.QueryRowContext(ctx, "UPDATE counter SET revision = revision + 1 RETURNING revision").Scan(&c.revision)
	if err != nil {
		return 0, err
	}
	_, err = c.ExecContext(ctx, "INSERT INTO events (revision, image_id, kind, digest) VALUES (?, ?, ?, ?)",
		c.revision, id, kind, digest)
	return c.revision, err
}
