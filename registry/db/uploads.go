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
// upload or a copy writes it, in staged while it waits for its import, in locations
// while an image has it, dead in objects until it is deleted. Each step from one to the next is one transaction.

// Begin implements registry.Uploads. ErrConflict also if loc is in the books
// already.
func (d *DB) Begin(ctx context.Context, id string, loc origin.Location) (*registry.Image, error) {
	return d.begin(ctx, fmt.Sprintf("begin upload to image %.80q", id), id, registry.Saving, loc)
}

// begin moves the image to a status in which it waits for the data of loc.
func (d *DB) begin(ctx context.Context, doing, id string, to registry.Status, loc origin.Location) (next *registry.Image, err error) {
	err = d.write(ctx, doing, func(c *change) error {
		old, err := load(ctx, c.txn, id)
		if err != nil {
			return err
		}
		next = old.Clone()
		if err := next.Become(to); err != nil {
			return err
		}
		if err := c.start(ctx, id, loc, false); err != nil {
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
	if err := checkSummary(sum); err != nil {
		return nil, fmt.Errorf("%s: %w", doing, err)
	}
	var next *registry.Image
	var lost error // the upload is, but the books are right and are kept
	err := d.write(ctx, doing, func(c *change) error {
		next, lost = nil, nil
		ended, err := c.end(ctx, id, loc)
		if err != nil {
			return err
		}
		old, err := load(ctx, c.txn, id)
		switch {
		case errors.Is(err, registry.ErrNotFound):
			lost = fmt.Errorf("%s: %w", doing, err)
			return c.orphan(ctx, id, loc, c.at)
		case err != nil:
			return err
		case ended == nothing && old.Digest == sum.Digest && slices.Contains(old.Locations, loc):
			next = old // done before, by a call that did not hear of it
			return nil
		case ended == aCopy && old.Status != registry.Importing:
			return fmt.Errorf("%w: it is a copy that is under way, and no upload", registry.ErrConflict)
		case ended == nothing && old.Status == registry.Importing && isForeign(loc.URL): // nobody wrote it
		case ended == nothing:
			lost = fmt.Errorf("%s: %w: the upload is not under way any more", doing, registry.ErrConflict)
			return c.orphan(ctx, id, loc, c.at)
		}
		next = old.Clone()
		if err := c.activate(ctx, old, next, loc, sum); err != nil {
			return err
		}
		return c.unstage(ctx, id)
	})
	if err != nil {
		return nil, err
	}
	return next, lost
}

// activate makes next, a copy of old, active with the data of sum at loc, and
// stores it.
func (c *change) activate(ctx context.Context, old, next *registry.Image, loc origin.Location, sum origin.Summary) error {
	if err := next.Become(registry.Active); err != nil {
		return err
	}
	next.Locations = []origin.Location{loc}
	next.ActivatedAt = c.at
	if err := c.describe(ctx, next, sum); err != nil {
		return err
	}
	return c.store(ctx, old, next, registry.EventData)
}

// checkSummary sees that sum does not contradict itself.
func checkSummary(sum origin.Summary) error {
	m, err := origin.DecodeManifest(sum.Manifest)
	if err != nil {
		return fmt.Errorf("%w: %w", registry.ErrInvalid, err)
	}
	if m.Size != sum.Size {
		return fmt.Errorf("%w: the manifest is of %d bytes, not %d", registry.ErrInvalid, m.Size, sum.Size)
	}
	return nil
}

// storeManifest notes what the data with the digest of sum is.
func (c *change) storeManifest(ctx context.Context, sum origin.Summary) error {
	_, err := c.ExecContext(ctx, "INSERT INTO manifests (digest, encoded) VALUES (?, ?) ON CONFLICT (digest) DO NOTHING",
		sum.Digest, sum.Manifest)
	return err
}

// describe notes that the data of img is what sum says.
func (c *change) describe(ctx context.Context, img *registry.Image, sum origin.Summary) error {
	if err := c.storeManifest(ctx, sum); err != nil {
		return err
	}
	setSize(img, sum.Size)
	img.Checksum, img.HashAlgo, img.HashValue = sum.MD5, "sha512", sum.SHA512
	img.Digest = sum.Digest
	return nil
}

// setSize notes how many bytes of data img has: of raw data the disk has as many.
func setSize(img *registry.Image, size int64) {
	img.Size = &size
	if img.DiskFormat == "raw" {
		img.VirtualSize = &size
	}
}

// Abort implements registry.Uploads. The image goes back to queued only if this
// is the upload that it waits for: a late abort does not touch the next one, and
// that of a copy touches none.
func (d *DB) Abort(ctx context.Context, id string, loc origin.Location) error {
	return d.write(ctx, fmt.Sprintf("abort upload to image %.80q", id), func(c *change) error {
		var finished bool
		err := c.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM locations WHERE url = ? AND image_id = ?)
			OR EXISTS (SELECT 1 FROM staged WHERE url = ? AND image_id = ?)`, loc.URL, id, loc.URL, id).Scan(&finished)
		if err != nil {
			return err
		}
		if finished {
			return fmt.Errorf("%w: the upload was finished", registry.ErrConflict)
		}
		ended, err := c.end(ctx, id, loc)
		if err != nil {
			return err
		}
		if err := c.orphan(ctx, id, loc, c.at); err != nil || ended != anUpload {
			return err
		}
		old, err := load(ctx, c.txn, id)
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
	err = d.read(ctx, "list unfinished uploads", func(tx txn) error {
		uploads, err = liveObjects(ctx, tx, "TRUE")
		return err
	})
	if err != nil {
		return nil, err
	}
	return uploads, nil
}

// Orphans implements registry.Uploads.
func (d *DB) Orphans(ctx context.Context, after string, limit int) (locs []origin.Location, err error) {
	err = d.read(ctx, "list orphans", func(tx txn) error {
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

// start notes that an upload or a copy to the image id begins to write loc.
// ErrConflict if loc is in the books already.
func (c *change) start(ctx context.Context, id string, loc origin.Location, isCopy bool) error {
	if loc.URL == "" {
		return fmt.Errorf("%w: location without a URL", registry.ErrInvalid)
	}
	known, err := knows(ctx, c.txn, loc.URL)
	if err != nil {
		return err
	}
	if known {
		return fmt.Errorf("%w: the location is in use", registry.ErrConflict)
	}
	_, err = c.ExecContext(ctx, "INSERT INTO objects (url, validator, image_id, state, since, is_copy, process) VALUES (?, ?, ?, 'live', ?, ?, ?)",
		loc.URL, loc.Validator, id, toMicros(c.at), isCopy, c.process)
	return err
}

// knows reports whether url is in the books.
func knows(ctx context.Context, tx txn, url string) (known bool, err error) {
	err = tx.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM objects WHERE url = ?)
		OR EXISTS (SELECT 1 FROM locations WHERE url = ?)
		OR EXISTS (SELECT 1 FROM staged WHERE url = ?)`, url, url, url).Scan(&known)
	return known, err
}

// What end found under way.
type ending int

const (
	nothing ending = iota
	anUpload
	aCopy
)

// end takes loc out of what is under way and says what it was.
func (c *change) end(ctx context.Context, id string, loc origin.Location) (ending, error) {
	var isCopy bool
	err := c.QueryRowContext(ctx, "DELETE FROM objects WHERE url = ? AND image_id = ? AND state = 'live' RETURNING is_copy",
		loc.URL, id).Scan(&isCopy)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return nothing, nil
	case err != nil:
		return nothing, err
	case isCopy:
		return aCopy, nil
	}
	return anUpload, nil
}

// orphan notes that loc, which no upload to the image id writes any more, is to
// be deleted from a time on; unless an image or another image's upload has it, or
// it is not ours to delete.
func (c *change) orphan(ctx context.Context, id string, loc origin.Location, from time.Time) error {
	if isForeign(loc.URL) {
		return nil
	}
	_, err := c.ExecContext(ctx, `INSERT INTO objects (url, validator, image_id, state, since)
		SELECT ?, ?, ?, 'dead', ? WHERE NOT EXISTS (SELECT 1 FROM locations WHERE url = ?)
			AND NOT EXISTS (SELECT 1 FROM staged WHERE url = ?)
		ON CONFLICT (url) DO NOTHING`, loc.URL, loc.Validator, id, toMicros(from), loc.URL, loc.URL)
	return err
}
