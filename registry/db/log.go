package db

import (
	"context"
	"fmt"
	"time"

	"nearsight/origin"
	"nearsight/registry"
)

// Since implements registry.Log. With a limit of 0 it does not look what was pruned.
func (d *DB) Since(ctx context.Context, revision int64, limit int) (events []registry.Event, err error) {
	if limit <= 0 {
		return nil, nil
	}
	revision = max(revision, 0)
	err = d.read(ctx, "read events", func(tx txn) error {
		if events, err = since(ctx, tx, revision, limit); err != nil {
			return err
		}
		pruned, err := pruned(ctx, tx, events, revision)
		if err == nil && pruned {
			err = fmt.Errorf("%w: after revision %d", registry.ErrTooOld, revision)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return events, nil
}

// pruned reports whether there were others between a revision and the first of the
// events that are kept of those after it.
func pruned(ctx context.Context, tx txn, events []registry.Event, revision int64) (bool, error) {
	if len(events) > 0 {
		return events[0].Revision > revision+1, nil
	}
	latest, err := latestRevision(ctx, tx)
	return latest > revision, err
}

func since(ctx context.Context, tx txn, revision int64, limit int) (events []registry.Event, err error) {
	rows, err := tx.QueryContext(ctx, `SELECT revision, image_id, kind, digest, at FROM events
		WHERE revision > ? ORDER BY revision LIMIT ?`, revision, limit)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var e registry.Event
		if err := rows.Scan(&e.Revision, &e.ImageID, &e.Kind, &e.Digest, micros{&e.At}); err != nil {
			return nil, err
		}
		events = append(events, e)
	}
	return events, rows.Err()
}

// Revision implements registry.Log.
func (d *DB) Revision(ctx context.Context) (revision int64, err error) {
	err = d.read(ctx, "read the revision", func(tx txn) error {
		revision, err = latestRevision(ctx, tx)
		return err
	})
	return revision, err
}

func latestRevision(ctx context.Context, tx txn) (revision int64, err error) {
	err = tx.QueryRowContext(ctx, "SELECT revision FROM counter").Scan(&revision)
	return revision, err
}

// event takes the next revision for a change of the image id and logs it.
func (c *change) event(ctx context.Context, id string, kind registry.EventKind, digest origin.Digest) (int64, error) {
	err := c.QueryRowContext(ctx, "UPDATE counter SET revision = revision + 1 RETURNING revision").Scan(&c.revision)
	if err != nil {
		return 0, err
	}
	_, err = c.ExecContext(ctx, "INSERT INTO events (revision, image_id, kind, digest, at) VALUES (?, ?, ?, ?, ?)",
		c.revision, id, kind, digest, toMicros(c.at))
	return c.revision, err
}

// pruneAtOnce bounds the events that one change forgets: others wait for it.
const pruneAtOnce = 5000

// PruneEvents implements registry.Pruner. What remains has no gap: where clocks went
// back, an event from before that comes after one that is kept is kept too.
func (d *DB) PruneEvents(ctx context.Context, before time.Time, keep int) (int64, error) {
	var all int64
	for {
		var n int64
		err := d.write(ctx, "forget old events", func(c *change) (err error) {
			n, err = c.prune(ctx, before, max(keep, 0))
			return err
		})
		all += n
		if err != nil || n < pruneAtOnce {
			return all, err
		}
	}
}

// prune forgets the oldest events that may be forgotten, pruneAtOnce at most.
func (c *change) prune(ctx context.Context, before time.Time, keep int) (int64, error) {
	done, err := c.ExecContext(ctx, `DELETE FROM events WHERE revision < (
		SELECT COALESCE(MIN(CASE WHEN at >= ? THEN revision END), MAX(revision) + 1)
		FROM (SELECT revision, at FROM events WHERE revision <= (SELECT revision FROM counter) - ?
			ORDER BY revision LIMIT ?) AS oldest)`, toMicros(before), keep, pruneAtOnce)
	if err != nil {
		return 0, err
	}
	return done.RowsAffected()
}
