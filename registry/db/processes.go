package db

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"nearsight/registry"
)

const (
	// beatEvery is how often a process says that it is there, and processLife how long
	// after the last time it counts as gone.
	beatEvery   = 5 * time.Second
	processLife = 30 * time.Second
)

// beat says that this process is there. One that was not heard of for so long that it
// counted as gone begins anew.
func (d *DB) beat(ctx context.Context) error {
	return d.write(ctx, "say that this process is there", func(c *change) error {
		gone := toMicros(c.at.Add(-processLife))
		if _, err := c.ExecContext(ctx, "DELETE FROM processes WHERE seen_at <= ?", gone); err != nil {
			return err
		}
		_, err := c.ExecContext(ctx, `INSERT INTO processes (name, since, seen_at) VALUES (?, ?, ?)
			ON CONFLICT (name) DO UPDATE SET seen_at = excluded.seen_at`, c.process, toMicros(c.at), toMicros(c.at))
		return err
	})
}

// Abandoned returns the uploads and copies under way, oldest first, of other processes
// that are gone: that Run, in them, has said nothing for half a minute. One that comes
// back finds its uploads aborted if somebody aborted them meanwhile.
//
// Where nobody could say anything, because the database was away, nobody is gone: it
// returns none before this process itself was heard of for half a minute without a
// break. A file is open in one process alone: all others are gone.
func (d *DB) Abandoned(ctx context.Context) (uploads []registry.Upload, err error) {
	err = d.write(ctx, "look for uploads of processes that are gone", func(c *change) error {
		uploads = nil
		if d.server != nil {
			if long, err := c.hasLasted(ctx); err != nil || !long {
				return err
			}
		}
		uploads, err = liveObjects(ctx, c.txn, `process <> ? AND NOT EXISTS (SELECT 1 FROM processes
			WHERE processes.name = objects.process AND seen_at > ?)`, c.process, toMicros(c.at.Add(-processLife)))
		return err
	})
	if err != nil {
		return nil, err
	}
	return uploads, nil
}

// hasLasted reports whether this process was heard of for a process's life.
func (c *change) hasLasted(ctx context.Context) (bool, error) {
	var since, seen time.Time
	err := c.QueryRowContext(ctx, "SELECT since, seen_at FROM processes WHERE name = ?", c.process).Scan(micros{&since}, micros{&seen})
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	return c.at.Sub(since) >= processLife && c.at.Sub(seen) < processLife, err
}

// liveObjects returns what is under way and meets a condition.
func liveObjects(ctx context.Context, tx txn, condition string, args ...any) (uploads []registry.Upload, err error) {
	rows, err := tx.QueryContext(ctx, "SELECT image_id, url, validator, is_copy FROM objects WHERE state = 'live' AND "+
		condition+" ORDER BY since, url", args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var u registry.Upload
		if err := rows.Scan(&u.ImageID, &u.Location.URL, &u.Location.Validator, &u.Copy); err != nil {
			return nil, fmt.Errorf("an object under way: %w", err)
		}
		uploads = append(uploads, u)
	}
	return uploads, rows.Err()
}
