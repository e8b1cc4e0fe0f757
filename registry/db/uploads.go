package db

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

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
			return fmt.Errorf("%w: location %s is in use", registry.ErrConflict, loc.URL)
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

// Finish implements registry.Uploads. ErrConflict if the upload to loc was
// ended before; unless it was by Finish, loc is an orphan then.
func (d *DB) Finish(ctx context.Context, id string, loc origin.Location, sum origin.Summary) (*registry.Image, error) {
	doing := fmt.Sprintf("finish upload to image %.80q", id)
	if sum.Manifest == nil || sum.Manifest.Size != sum.Size {
		return nil, fmt.Errorf("%s: %w: the manifest is not of %d bytes", doing, registry.ErrInvalid, sum.Size)
	}
	encoded := sum.Manifest.Encode()
	if origin.DigestOf(encoded) != sum.Digest { // images share it by that name
		return nil, fmt.Errorf("%s: %w: digest %.80q is not the manifest's", doing, registry.ErrInvalid, sum.Digest)
	}
	var next *registry.Image
	var lost error // the upload is, but the books are right and are kept
	err := d.write(ctx, doing, func(c *change) error {
		old, err := load(ctx, c.Tx, id)
		if errors.Is(err, registry.ErrNotFound) {
			lost = fmt.Errorf("%s: %w", doing, err)
			return c.orphan(ctx, id, loc)
		}
		if err != nil {
			return err
		}
		live, err := c.endLive(ctx, id, loc)
		if err != nil {
			return err
		}
		if !live {
			lost = fmt.Errorf("%s: %w: no upload to %s is under way", doing, registry.ErrConflict, loc.URL)
			return c.orphan(ctx, id, loc)
		}
		_, err = c.ExecContext(ctx, "INSERT INTO manifests (digest, encoded) VALUES (?, ?) ON CONFLICT (digest) DO NOTHING",
			sum.Digest, encoded)
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

// Abort implements registry.Uploads. It may be repeated. ErrConflict, and
// nothing changes, if the upload was finished.
func (d *DB) Abort(ctx context.Context, id string, loc origin.Location) error {
	return d.write(ctx, fmt.Sprintf("abort upload to image %.80q", id), func(c *change) error {
		return c.abort(ctx, id, loc)
	})
}

// AbortAll implements registry.Uploads.
func (d *DB) AbortAll(ctx context.Context) error {
	return d.write(ctx, "abort all uploads", func(c *change) error {
		uploads, err := c.uploads(ctx)
		if err != nil {
			return err
		}
		for _, u := range uploads {
			if err := c.abort(ctx, u.id, u.loc); err != nil {
				return err
			}
		}
		return nil
	})
}

// Orphans implements registry.Uploads.
func (d *DB) Orphans(ctx context.Context, limit int) (locs []origin.Location, err error) {
	err = d.read(ctx, "list orphans", func(tx *sql.Tx) error {
		rows, err := tx.QueryContext(ctx, `SELECT url, validator FROM objects
			WHERE state = 'dead' ORDER BY since, url LIMIT ?`, max(limit, 0))
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

// Forget implements registry.Uploads. What is no orphan is left alone.
func (d *DB) Forget(ctx context.Context, loc origin.Location) error {
	return d.write(ctx, "forget orphan "+loc.URL, func(c *change) error {
		_, err := c.ExecContext(ctx, "DELETE FROM objects WHERE url = ? AND state = 'dead'", loc.URL)
		return err
	})
}

// An upload is one that is under way.
type upload struct {
	id  string
	loc origin.Location
}

func (c *change) uploads(ctx context.Context) (list []upload, err error) {
	rows, err := c.QueryContext(ctx, "SELECT image_id, url, validator FROM objects WHERE state = 'live' ORDER BY since, url")
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var u upload
		if err := rows.Scan(&u.id, &u.loc.URL, &u.loc.Validator); err != nil {
			return nil, err
		}
		list = append(list, u)
	}
	return list, rows.Err()
}

// abort ends the upload to loc. The image goes back to queued only if this is
// the upload that it waits for: a late abort does not touch the next one.
func (c *change) abort(ctx context.Context, id string, loc origin.Location) error {
	finished, err := c.finished(ctx, loc)
	if err != nil {
		return err
	}
	if finished {
		return fmt.Errorf("%w: the upload to %s was finished", registry.ErrConflict, loc.URL)
	}
	live, err := c.endLive(ctx, id, loc)
	if err != nil {
		return err
	}
	if err := c.orphan(ctx, id, loc); err != nil || !live {
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
}

// endLive takes loc out of the uploads under way and reports whether it was one
// of them.
func (c *change) endLive(ctx context.Context, id string, loc origin.Location) (bool, error) {
	res, err := c.ExecContext(ctx, "DELETE FROM objects WHERE url = ? AND image_id = ? AND state = 'live'", loc.URL, id)
	if err != nil {
		return false, err
	}
	n, err := res.RowsAffected()
	return n > 0, err
}

// orphan notes that loc is to be deleted, unless an image or another image's
// upload has it.
func (c *change) orphan(ctx context.Context, id string, loc origin.Location) error {
	if _, err := c.endLive(ctx, id, loc); err != nil {
		return err
	}
	if finished, err := c.finished(ctx, loc); err != nil || finished {
		return err
	}
	_, err := c.ExecContext(ctx, `INSERT INTO objects (url, validator, image_id, state, since)
		VALUES (?, ?, ?, 'dead', ?) ON CONFLICT (url) DO NOTHING`, loc.URL, loc.Validator, id, toMicros(c.at))
	return err
}

// finished reports whether loc is the place of an image's data.
func (c *change) finished(ctx context.Context, loc origin.Location) (yes bool, err error) {
	err = c.QueryRowContext(ctx, "SELECT EXISTS (SELECT 1 FROM locations WHERE url = ?)", loc.URL).Scan(&yes)
	return yes, err
}
