package db

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"time"

	"nearsight/origin"
	"nearsight/registry"
)

// An object is in one place of the books at a time: live in objects while an
// upload writes it, in locations while an image has it, dead in objects until
// it is deleted. Each step from one to the next is one transaction.

// Begin implements registry.Uploads. ErrConflict also if loc is in the books
// already.
func (d *DB) Begin(ctx context.Context, id string, loc origin.Location) (next *registry.Image, err error) {
	err = d.write(ctx, fmt.Sprintf("begin upload to image %.80q", id), func(c *change) error {
		old, err := load(ctx, c.Tx, id)
		if err != nil {
			return err
		}
		next = old.Clone()
		if err := next.Become(registry.Saving); err != nil {
			return err
		}
		if loc.URL == "" {
			return fmt.Errorf("%w: location without a URL", registry.ErrInvalid)
		}
		var known bool
		err = c.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM objects WHERE url = ?)
			OR EXISTS (SELECT 1 FROM locations WHERE url = ?)`, loc.URL, loc.URL).Scan(&known)
		if err != nil {
			return err
		}
		if known {
			return fmt.Errorf("%w: the location is in use", registry.ErrConflict)
		}
		_, err = c.ExecContext(ctx, "INSERT INTO objects (url, validator, image_id, state, since) VALUES (?, ?, ?, 'live', ?)",
			loc.URL, loc.Validator, id, toMicros(c.at))
		if err != nil {
			return err
		}
		return c.store(ctx, old, next, registry.EventUpdate)
	})
	if err != nil {
		return nil, err
	}
	return next, nil
}

// Finish implements registry.Uploads. ErrConflict also if loc has other data, or
// was never begun. It trusts sum, as origin.Ingest made it, that its digest is
// the manifest's.
func (d *DB) Finish(ctx context.Context, id string, loc origin.Location, sum origin.Summary) (*registry.Image, error) {
	doing := fmt.Sprintf("finish upload to image %.80q", id)
	m, err := origin.DecodeManifest(sum.Manifest)
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", doing, registry.ErrInvalid, err)
	}
	if m.Size != sum.Size {
		return nil, fmt.Errorf("%s: %w: the manifest is of %d bytes, not %d", doing, registry.ErrInvalid, m.Size, sum.Size)
	}
	var next *registry.Image
	var lost error // the upload is, but the books are right and are kept
	err = d.write(ctx, doing, func(c *change) error {
		live, err := c.end(ctx, id, loc)
		if err != nil {
			return err
		}
		old, err := load(ctx, c.Tx, id)
		switch {
		case errors.Is(err, registry.ErrNotFound):
			lost = fmt.Errorf("%s: %w", doing, err)
			return c.orphan(ctx, id, loc, c.at)
		case err != nil:
			return err
		case !live && old.Digest == sum.Digest && slices.Contains(old.Locations, loc):
			next = old // done before, by a call that did not hear of it
			return nil
		case !live:
			lost = fmt.Errorf("%s: %w: the upload is not under way any more", doing, registry.ErrConflict)
			return c.orphan(ctx, id, loc, c.at)
		}
		_, err = c.ExecContext(ctx, "INSERT INTO manifests (digest, encoded) VALUES (?, ?) ON CONFLICT (digest) DO NOTHING",
			sum.Digest, sum.Manifest)
		if err != nil {
			return err
		}
		next = old.Clone()
		if err := setData(next, loc, sum); err != nil {
			return err
		}
		next.ActivatedAt = c.at
		return c.store(ctx, old, next, registry.EventData)
	})
	if err != nil {
		return nil, err
	}
	return next, lost
}

// setData makes img active with the data of sum.
func setData(img *registry.Image, loc origin.Location, sum origin.Summary) error {
	if err := img.Become(registry.Active); err != nil {
		return err
	}
	img.Size = &sum.Size
	if img.DiskFormat == "raw" {
		img.VirtualSize = &sum.Size
	}
	img.Checksum, img.HashAlgo, img.HashValue = sum.MD5, "sha512", sum.SHA512
	img.Digest = sum.Digest
	img.Locations = []origin.Location{loc}
	return nil
}

// Abort implements registry.Uploads. The image goes back to queued only if this
// is the upload that it waits for: a late abort does not touch the next one.
func (d *DB) Abort(ctx context.Context, id string, loc origin.Location) error {
	return d.write(ctx, fmt.Sprintf("abort upload to image %.80q", id), func(c *change) error {
		var finished bool
		err := c.QueryRowContext(ctx, "SELECT EXISTS (SELECT 1 FROM locations WHERE url = ?)", loc.URL).Scan(&finished)
		if err != nil {
			return err
		}
		if finished {
			return fmt.Errorf("%w: the upload was finished", registry.ErrConflict)
		}
		live, err := c.end(ctx, id, loc)
		if err != nil {
			return err
		}
		if err := c.orphan(ctx, id, loc, c.at); err != nil || !live {
			return err
		}
		old, err := load(ctx, c.Tx, id)
		if errors.Is(err, registry.ErrNotFound) {
			return nil // deleted meanwhile
		}
		if err != nil {
			return err
		}
		next := old.Clone()
		if err := next.Become(registry.Queued); err != nil {
			return err
		}
		return c.store(ctx, old, next, registry.EventUpdate)
	})
}

// Unfinished implements registry.Uploads.
func (d *DB) Unfinished(ctx context.Context) (uploads []registry.Upload, err error) {
	err = d.read(ctx, "list unfinished uploads", func(tx *sql.Tx) error {
		rows, err := tx.QueryContext(ctx, "SELECT image_id, url, validator FROM objects WHERE state = 'live' ORDER BY since, url")
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var u registry.Upload
			if err := rows.Scan(&u.ImageID, &u.Location.URL, &u.Location.Validator); err != nil {
				return err
			}
			uploads = append(uploads, u)
		}
		return rows.Err()
	})
	if err != nil {
		return nil, err
	}
	return uploads, nil
}

// Orphans implements registry.Uploads.
func (d *DB) Orphans(ctx context.Context, after string, limit int) (locs []origin.Location, err error) {
	err = d.read(ctx, "list orphans", func(tx *sql.Tx) error {
		rows, err := tx.QueryContext(ctx, `SELECT url, validator FROM objects
			WHERE url > ? AND state = 'dead' AND since <= ? ORDER BY url LIMIT ?`,
			after, toMicros(d.now()), max(limit, 0))
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var loc origin.Location
			if err := rows.Scan(&loc.URL, &loc.Validator); err != nil {
				return err
			}
			locs = append(locs, loc)
		}
		return rows.Err()
	})
	if err != nil {
		return nil, err
	}
	return locs, nil
}

// Forget implements registry.Uploads.
func (d *DB) Forget(ctx context.Context, loc origin.Location) error {
	return d.write(ctx, "forget orphan "+loc.URL, func(c *change) error {
		_, err := c.ExecContext(ctx, "DELETE FROM objects WHERE url = ? AND state = 'dead'", loc.URL)
		return err
	})
}

// end takes loc out of the uploads under way and reports whether it was one of
// them.
func (c *change) end(ctx context.Context, id string, loc origin.Location) (live bool, err error) {
	res, err := c.ExecContext(ctx, "DELETE FROM objects WHERE url = ? AND image_id = ? AND state = 'live'", loc.URL, id)
	if err != nil {
		return false, err
	}
	n, err := res.RowsAffected()
	return n > 0, err
}

// orphan notes that loc, which no upload to the image id writes any more, is to
// be deleted from a time on; unless an image or another image's upload has it.
func (c *change) orphan(ctx context.Context, id string, loc origin.Location, from time.Time) error {
	_, err := c.ExecContext(ctx, `INSERT INTO objects (url, validator, image_id, state, since)
		SELECT ?, ?, ?, 'dead', ? WHERE NOT EXISTS (SELECT 1 FROM locations WHERE url = ?)
		ON CONFLICT (url) DO NOTHING`, loc.URL, loc.Validator, id, toMicros(from), loc.URL)
	return err
}
