package registry

import (
	"context"
	"fmt"
)

// Quotas bound what the images of a project take. They are soft, but for Storage:
// what is under way is not cut, and the next is refused. A bound of 0 is none. A nil
// *Quotas bounds nothing, and so do all where an image has no owner.
type Quotas struct {
	// Usages counts. It must be set.
	Usages Usages
	// Size bounds Usage.Bytes and Stage bounds Usage.Staged, in bytes.
	Size, Stage int64
	// Images and Uploading bound the counts of the same names.
	Images, Uploading int64
	// Storage bounds Usage.Bytes too, and cuts what goes beyond it: see Room.
	Storage int64
}

// Soft reports whether there is any bound but Storage.
func (q *Quotas) Soft() bool {
	return q != nil && (q.Size > 0 || q.Stage > 0 || q.Images > 0 || q.Uploading > 0)
}

// ForImage returns ErrTooLarge if owner may have no further image.
func (q *Quotas) ForImage(ctx context.Context, owner string) error {
	return q.check(ctx, owner, func(u Usage) error { return within("images", u.Images, 1, q.Images) })
}

// ForUpload returns ErrTooLarge if owner may not bring in size bytes more, 0 for an
// unknown number.
func (q *Quotas) ForUpload(ctx context.Context, owner string, size int64) error {
	return q.check(ctx, owner, func(u Usage) error {
		if err := within("bytes of image data", u.Bytes, size, q.Size); err != nil {
			return err
		}
		return within("uploads and imports under way", u.Uploading, 1, q.Uploading)
	})
}

// ForStage is ForUpload for data that waits for its import.
func (q *Quotas) ForStage(ctx context.Context, owner string, size int64) error {
	return q.check(ctx, owner, func(u Usage) error {
		if err := within("bytes of staged data", u.Staged, size, q.Stage); err != nil {
			return err
		}
		return within("uploads and imports under way", u.Uploading, 1, q.Uploading)
	})
}

// ForImport returns ErrTooLarge if owner may not import size bytes, 0 for an unknown
// number. Those of a download are on their way like staged ones.
func (q *Quotas) ForImport(ctx context.Context, owner string, size int64, download bool) error {
	return q.check(ctx, owner, func(u Usage) error {
		if err := within("bytes of image data", u.Bytes, size, q.Size); err != nil || !download {
			return err
		}
		return within("bytes of staged data", u.Staged, 0, q.Stage)
	})
}

// Room returns how many bytes the images of owner may still take by Storage, or -1
// for any number.
func (q *Quotas) Room(ctx context.Context, owner string) (int64, error) {
	if q == nil || q.Storage <= 0 || owner == "" {
		return -1, nil
	}
	u, err := q.Usages.Usage(ctx, owner)
	return max(q.Storage-u.Bytes, 0), err
}

// check holds what owner has against bounds.
func (q *Quotas) check(ctx context.Context, owner string, bounds func(Usage) error) error {
	if !q.Soft() || owner == "" {
		return nil
	}
	u, err := q.Usages.Usage(ctx, owner)
	if err != nil {
		return fmt.Errorf("count what a project has: %w", err)
	}
	return bounds(u)
}

func within(what string, used, more, limit int64) error {
	if limit > 0 && used+more > limit {
		return fmt.Errorf("%w: the project has %d %s, and may have %d", ErrTooLarge, used, what, limit)
	}
	return nil
}
