package db

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"

	"nearsight/origin"
	"nearsight/registry"
)

// A staged object is live in objects while it is written, like that of an upload,
// then in staged, then in locations or dead.

// BeginStage implements registry.Stages.
func (d *DB) BeginStage(ctx context.Context, id string, loc origin.Location) (*registry.Image, error) {
	return d.begin(ctx, fmt.Sprintf("begin to stage data for image %.80q", id), id, registry.Uploading, loc)
}

// FinishStage implements registry.Stages. It trusts sum as Finish does. Repeated it
// returns the image as it is, also when the data was adopted meanwhile.
func (d *DB) FinishStage(ctx context.Context, id string, loc origin.Location, sum origin.Summary) (*registry.Image, error) {
	doing := fmt.Sprintf("finish staging data for image %.80q", id)
	if err := checkSummary(sum); err != nil {
		return nil, fmt.Errorf("%s: %w", doing, err)
	}
	var next *registry.Image
	var lost error // see Finish
	err := d.write(ctx, doing, func(c *change) error {
		next, lost = nil, nil
		ended, err := c.end(ctx, id, loc)
		if err != nil {
			return err
		}
		old, err := load(ctx, c.txn, id)
		if errors.Is(err, registry.ErrNotFound) {
			lost = fmt.Errorf("%s: %w", doing, err)
			return c.orphan(ctx, id, loc, c.at)
		}
		if err != nil {
			return err
		}
		if ended == nothing {
			done, err := c.wasStaged(ctx, old, loc, sum.Digest)
			if err != nil {
				return err
			}
			if done {
				next = old
				return nil
			}
			lost = fmt.Errorf("%s: %w: it is not under way any more", doing, registry.ErrConflict)
			return c.orphan(ctx, id, loc, c.at)
		}
		if ended == aCopy || old.Status != registry.Uploading {
			return fmt.Errorf("%w: the location is not of data that is being staged", registry.ErrConflict)
		}
		if err := c.storeManifest(ctx, sum); err != nil {
			return err
		}
		_, err = c.ExecContext(ctx, "INSERT INTO staged (image_id, url, validator, size, md5, sha512, digest) VALUES (?, ?, ?, ?, ?, ?, ?)",
			id, loc.URL, loc.Validator, sum.Size, sum.MD5, sum.SHA512, sum.Digest)
		if err != nil {
			return err
		}
		next = old.Clone()
		next.Size = &sum.Size
		return c.store(ctx, old, next, registry.EventUpdate)
	})
	if err != nil {
		return nil, err
	}
	return next, lost
}

// wasStaged reports whether loc with that data is what img has staged, or had and
// adopted.
func (c *change) wasStaged(ctx context.Context, img *registry.Image, loc origin.Location, digest origin.Digest) (bool, error) {
	if img.Digest == digest && slices.Contains(img.Locations, loc) {
		return true, nil
	}
	var done bool
	err := c.QueryRowContext(ctx, "SELECT EXISTS (SELECT 1 FROM staged WHERE image_id = ? AND url = ? AND validator = ? AND digest = ?)",
		img.ID, loc.URL, loc.Validator, digest).Scan(&done)
	return done, err
}

// Staged implements registry.Stages.
func (d *DB) Staged(ctx context.Context, id string) (loc origin.Location, sum origin.Summary, err error) {
	err = d.read(ctx, fmt.Sprintf("look up the staged data of image %.80q", id), func(tx txn) error {
		loc, sum, err = staged(ctx, tx, id)
		return err
	})
	if err != nil {
		return origin.Location{}, origin.Summary{}, err
	}
	return loc, sum, nil
}

func staged(ctx context.Context, tx txn, id string) (loc origin.Location, sum origin.Summary, err error) {
	err = tx.QueryRowContext(ctx, `SELECT url, validator, size, md5, sha512, staged.digest, encoded
		FROM staged JOIN manifests ON manifests.digest = staged.digest WHERE image_id = ?`, id).
		Scan(&loc.URL, &loc.Validator, &sum.Size, &sum.MD5, &sum.SHA512, &sum.Digest, &sum.Manifest)
	if errors.Is(err, sql.ErrNoRows) {
		err = fmt.Errorf("%w: it has no staged data", registry.ErrNotFound)
	}
	return loc, sum, err
}

// Adopt implements registry.Stages. ErrConflict if the image is neither importing
// nor has its data, or if it has no staged data.
func (d *DB) Adopt(ctx context.Context, id string) (next *registry.Image, err error) {
	err = d.write(ctx, fmt.Sprintf("adopt the staged data of image %.80q", id), func(c *change) error {
		old, err := load(ctx, c.txn, id)
		if err != nil {
			return err
		}
		switch old.Status {
		case registry.Active, registry.Deactivated:
			next = old // done before, by a call that did not hear of it
			return nil
		case registry.Importing:
		default:
			return fmt.Errorf("%w: image is %s: data can be adopted only while it is importing", registry.ErrConflict, old.Status)
		}
		loc, sum, err := staged(ctx, c.txn, id)
		if errors.Is(err, registry.ErrNotFound) {
			return fmt.Errorf("%w: the image has no staged data", registry.ErrConflict)
		}
		if err != nil {
			return err
		}
		if _, err := c.ExecContext(ctx, "DELETE FROM staged WHERE image_id = ?", id); err != nil {
			return err
		}
		next = old.Clone()
		return c.activate(ctx, old, next, loc, sum)
	})
	if err != nil {
		return nil, err
	}
	return next, nil
}

// unstage makes the staged data of the image id, if there is any, an orphan.
func (c *change) unstage(ctx context.Context, id string) error {
	var loc origin.Location
	var digest origin.Digest
	err := c.QueryRowContext(ctx, "DELETE FROM staged WHERE image_id = ? RETURNING url, validator, digest", id).
		Scan(&loc.URL, &loc.Validator, &digest)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := c.orphan(ctx, id, loc, c.at); err != nil {
		return err
	}
	return c.dropManifest(ctx, digest)
}
