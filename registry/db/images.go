package db

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"

	"github.com/google/uuid"

	"nearsight/origin"
	"nearsight/registry"
)

// Get implements registry.Reader.
func (d *DB) Get(ctx context.Context, id string) (img *registry.Image, err error) {
	err = d.read(ctx, fmt.Sprintf("get image %.80q", id), func(tx txn) error {
		img, err = load(ctx, tx, id)
		return err
	})
	if err != nil {
		return nil, err
	}
	return img, nil
}

// Manifest implements registry.Reader.
func (d *DB) Manifest(ctx context.Context, digest origin.Digest) (encoded []byte, err error) {
	err = d.read(ctx, fmt.Sprintf("get manifest %.80q", digest), func(tx txn) error {
		if !isText(string(digest)) {
			return registry.ErrNotFound
		}
		err := tx.QueryRowContext(ctx, "SELECT encoded FROM manifests WHERE digest = ?", digest).Scan(&encoded)
		if errors.Is(err, sql.ErrNoRows) {
			return registry.ErrNotFound
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return encoded, nil
}

// Create implements registry.Images. The image is shared if it has no
// visibility. img itself is left alone.
func (d *DB) Create(ctx context.Context, img *registry.Image) (*registry.Image, error) {
	next := img.Draft()
	if next.ID == "" {
		next.ID = uuid.NewString()
	}
	if next.Visibility == "" {
		next.Visibility = registry.Shared
	}
	if err := next.Validate(d.limits); err != nil {
		return nil, err
	}
	err := d.write(ctx, "create image "+next.ID, func(c *change) error {
		var taken bool
		err := c.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM images WHERE id = ?)
			OR EXISTS (SELECT 1 FROM tombstones WHERE id = ?)`, next.ID, next.ID).Scan(&taken)
		if err != nil {
			return err
		}
		if taken {
			return fmt.Errorf("%w: the id is or was in use", registry.ErrConflict)
		}
		next.CreatedAt = c.at
		return c.store(ctx, nil, next, registry.EventCreate)
	})
	if err != nil {
		return nil, err
	}
	return next, nil
}

// Update implements registry.Images. alter runs inside the write transaction:
// it must not write to the database itself.
func (d *DB) Update(ctx context.Context, id string, alter func(*registry.Image) error) (next *registry.Image, err error) {
	err = d.write(ctx, fmt.Sprintf("update image %.80q", id), func(c *change) error {
		old, err := load(ctx, c.txn, id)
		if err != nil {
			return err
		}
		if next, err = d.amend(old, alter); err != nil {
			return err
		}
		return c.storeAmended(ctx, old, next)
	})
	if err != nil {
		return nil, err
	}
	return next, nil
}

// A step is one of an image's status.
type step struct{ from, to registry.Status }

// amend returns old as alter wants it, checked, or old itself if alter changes
// nothing. Besides the steps that are free it may make those that are named.
func (d *DB) amend(old *registry.Image, alter func(*registry.Image) error, steps ...step) (*registry.Image, error) {
	next, err := altered(old, alter, steps...)
	if err != nil || next == old {
		return next, err
	}
	return next, next.Validate(d.limits)
}

// altered is amend for a change that no limit may stop.
func altered(old *registry.Image, alter func(*registry.Image) error, steps ...step) (*registry.Image, error) {
	draft := old.Clone()
	if err := alter(draft); err != nil {
		return nil, refusal{err}
	}
	to := draft.Status
	moves := slices.Contains(steps, step{old.Status, to})
	if moves {
		draft.Status = old.Status
	}
	next, err := old.Amended(draft)
	if err != nil {
		return nil, err
	}
	if moves {
		next = next.Clone()
		if err := next.Become(to); err != nil {
			return nil, err
		}
	}
	return next, nil
}

// storeAmended stores what amend returned.
func (c *change) storeAmended(ctx context.Context, old, next *registry.Image) error {
	if next == old {
		return nil
	}
	next.UpdatedAt = c.at
	if membersAlone(old, next) {
		next.UpdatedAt = old.UpdatedAt
	}
	return c.put(ctx, old, next, registry.EventUpdate)
}

// membersAlone reports whether nothing but members differs.
func membersAlone(old, next *registry.Image) bool {
	rest := next.Clone()
	rest.Members = old.Members
	same, err := old.Amended(rest)
	return err == nil && same == old
}

// Delete implements registry.Images. An upload that is under way keeps its
// location until it ends, by Finish or Abort: an object deleted before would be
// written after. check runs inside the write transaction, as in Update.
func (d *DB) Delete(ctx context.Context, id string, check func(*registry.Image) error) error {
	return d.write(ctx, fmt.Sprintf("delete image %.80q", id), func(c *change) error {
		img, err := load(ctx, c.txn, id)
		if err != nil {
			return err
		}
		if img.Protected {
			return fmt.Errorf("%w: the image is protected", registry.ErrForbidden)
		}
		if check != nil {
			if err := check(img); err != nil {
				return refusal{err}
			}
		}
		if _, err := c.event(ctx, id, registry.EventDelete, img.Digest); err != nil {
			return err
		}
		if err := c.unstage(ctx, id); err != nil {
			return err
		}
		if err := c.failTasks(ctx, id, "the image was deleted"); err != nil {
			return err
		}
		if _, err := c.ExecContext(ctx, "DELETE FROM images WHERE id = ?", id); err != nil {
			return err
		}
		if _, err := c.ExecContext(ctx, "INSERT INTO tombstones (id, deleted_at) VALUES (?, ?)", id, toMicros(c.at)); err != nil {
			return err
		}
		for _, loc := range img.Locations {
			if err := c.orphan(ctx, id, loc, c.at.Add(max(d.grace, 0))); err != nil {
				return err
			}
		}
		return c.dropManifest(ctx, img.Digest)
	})
}

// dropManifest forgets a manifest that no data has any more.
func (c *change) dropManifest(ctx context.Context, digest origin.Digest) error {
	_, err := c.ExecContext(ctx, `DELETE FROM manifests WHERE digest = ?
		AND NOT EXISTS (SELECT 1 FROM images WHERE images.digest = manifests.digest)
		AND NOT EXISTS (SELECT 1 FROM staged WHERE staged.digest = manifests.digest)`, digest)
	return err
}
