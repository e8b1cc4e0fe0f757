package db

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"nearsight/origin"
	"nearsight/registry"
)

// isForeign says whether url is of a store that takes no data from us: nobody of
// ours wrote the object, and nobody of ours deletes it.
func isForeign(url string) bool {
	scheme, _, _ := strings.Cut(url, ":")
	return strings.EqualFold(scheme, "http") || strings.EqualFold(scheme, "https")
}

// AddLocation implements registry.Locations. ErrConflict also if an upload, another
// copy or a deletion has the URL. Two images may have the same URL: the object goes
// with the last of them. ErrInvalid also if size is not that of an active image.
func (d *DB) AddLocation(ctx context.Context, id string, loc origin.Location, size int64,
	metadata map[string]string) (next *registry.Image, err error) {
	err = d.write(ctx, fmt.Sprintf("add a location to image %.80q", id), func(c *change) error {
		old, err := load(ctx, c.txn, id)
		if err != nil {
			return err
		}
		next = old.Clone()
		kind := registry.EventUpdate
		switch old.Status {
		case registry.Queued:
			if err := next.Become(registry.Active); err != nil {
				return err
			}
			next.ActivatedAt = c.at
			if size >= 0 {
				setSize(next, size)
			}
			kind = registry.EventData
		case registry.Active:
			if size >= 0 && old.Size != nil && *old.Size != size {
				return fmt.Errorf("%w: the image has %d bytes, and the location %d", registry.ErrInvalid, *old.Size, size)
			}
		default:
			return fmt.Errorf("%w: image is %s: a location can be added only while it is queued or active", registry.ErrConflict, old.Status)
		}
		if err := d.addTo(next, loc, size, metadata); err != nil {
			return err
		}
		if err := c.arrive(ctx, id, loc); err != nil {
			return err
		}
		return c.store(ctx, old, next, kind)
	})
	if err != nil {
		return nil, err
	}
	return next, nil
}

// addTo makes loc the last location of img, which is not stored yet.
func (d *DB) addTo(img *registry.Image, loc origin.Location, size int64, metadata map[string]string) error {
	if size < -1 {
		return fmt.Errorf("%w: size %d", registry.ErrInvalid, size)
	}
	if place(img, loc.URL) >= 0 {
		return fmt.Errorf("%w: the image has this location already", registry.ErrConflict)
	}
	if err := d.roomFor(img); err != nil {
		return err
	}
	img.Locations = append(img.Locations, loc)
	if len(metadata) > 0 {
		if img.LocationMetadata == nil {
			img.LocationMetadata = map[string]map[string]string{}
		}
		img.LocationMetadata[loc.URL] = maps.Clone(metadata)
	}
	return img.Validate(d.limits)
}

// roomFor sees that img may have one location more.
func (d *DB) roomFor(img *registry.Image) error {
	if most := d.limits.Locations; most >= 0 && len(img.Locations) >= most {
		return fmt.Errorf("%w: %d locations, more than %d", registry.ErrTooLarge, len(img.Locations)+1, most)
	}
	return nil
}

// place returns which location of img has the URL, or -1.
func place(img *registry.Image, url string) int {
	return slices.IndexFunc(img.Locations, func(loc origin.Location) bool { return loc.URL == url })
}

// arrive ends the copy to the image id that wrote loc, if one did. ErrConflict if
// the object is in another state of the books than that.
func (c *change) arrive(ctx context.Context, id string, loc origin.Location) error {
	var whose, state string
	var isCopy bool
	err := c.QueryRowContext(ctx, "SELECT image_id, state, is_copy FROM objects WHERE url = ?", loc.URL).Scan(&whose, &state, &isCopy)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return nil
	case err != nil:
		return err
	case state == "dead":
		return fmt.Errorf("%w: the data at the location is about to be deleted", registry.ErrConflict)
	case whose != id || !isCopy:
		return fmt.Errorf("%w: the location is in use", registry.ErrConflict)
	}
	_, err = c.end(ctx, id, loc)
	return err
}

// RemoveLocation implements registry.Locations. ErrConflict for an image that is
// not active.
func (d *DB) RemoveLocation(ctx context.Context, id, url string) (next *registry.Image, err error) {
	err = d.write(ctx, fmt.Sprintf("remove a location of image %.80q", id), func(c *change) error {
		old, err := load(ctx, c.txn, id)
		if err != nil {
			return err
		}
		i := place(old, url)
		switch {
		case i < 0:
			return fmt.Errorf("%w: the image has no such location", registry.ErrNotFound)
		case old.Status != registry.Active:
			return fmt.Errorf("%w: image is %s: a location can be removed only while it is active", registry.ErrConflict, old.Status)
		case len(old.Locations) == 1:
			return fmt.Errorf("%w: it is the last location of the image", registry.ErrForbidden)
		}
		next = old.Clone()
		next.Locations = slices.Delete(next.Locations, i, i+1)
		if delete(next.LocationMetadata, url); len(next.LocationMetadata) == 0 {
			next.LocationMetadata = nil
		}
		if err := c.store(ctx, old, next, registry.EventUpdate); err != nil {
			return err
		}
		return c.orphan(ctx, id, old.Locations[i], c.at.Add(max(d.grace, 0)))
	})
	if err != nil {
		return nil, err
	}
	return next, nil
}

// BeginCopy implements registry.Locations. ErrNotFound if there is no such image;
// ErrConflict if it is neither active nor importing, or loc is in the books already; ErrTooLarge if
// AddLocation would say so. What is not ours nobody writes: it is checked and not
// noted, and any number of images may have it.
func (d *DB) BeginCopy(ctx context.Context, id string, loc origin.Location) error {
	return d.write(ctx, fmt.Sprintf("begin a copy of image %.80q", id), func(c *change) error {
		img, err := load(ctx, c.txn, id)
		if err != nil {
			return err
		}
		if img.Status != registry.Active && img.Status != registry.Importing {
			return fmt.Errorf("%w: image is %s: data can be copied only while it is active or importing", registry.ErrConflict, img.Status)
		}
		if err := d.roomFor(img); err != nil {
			return err
		}
		if !isForeign(loc.URL) {
			return c.start(ctx, id, loc, true)
		}
		if place(img, loc.URL) >= 0 {
			return fmt.Errorf("%w: the image has this location already", registry.ErrConflict)
		}
		return nil
	})
}

// Hashed implements registry.Locations. ErrConflict also if the location was
// recorded with another validator, for these are not its bytes then; or if somebody
// said that the data has other hashes. It trusts sum as Finish does.
func (d *DB) Hashed(ctx context.Context, id string, loc origin.Location, sum origin.Summary) (next *registry.Image, err error) {
	doing := fmt.Sprintf("note the hashes of image %.80q", id)
	if err := checkSummary(sum); err != nil {
		return nil, fmt.Errorf("%s: %w", doing, err)
	}
	err = d.write(ctx, doing, func(c *change) error {
		old, err := load(ctx, c.txn, id)
		if err != nil {
			return err
		}
		switch {
		case old.Digest != "":
			return fmt.Errorf("%w: the image has a digest already", registry.ErrConflict)
		case place(old, loc.URL) != 0:
			return fmt.Errorf("%w: the location is not the first of the image any more", registry.ErrConflict)
		case old.Locations[0].Validator != "" && old.Locations[0].Validator != loc.Validator:
			return fmt.Errorf("%w: the location was recorded with another validator", registry.ErrConflict)
		}
		if err := agree(old, sum); err != nil {
			return err
		}
		next = old.Clone()
		next.Locations[0] = loc
		if err := c.describe(ctx, next, sum); err != nil {
			return err
		}
		return c.store(ctx, old, next, registry.EventData)
	})
	if err != nil {
		return nil, err
	}
	return next, nil
}

// agree holds what a client said of the data of img against what it is.
func agree(img *registry.Image, sum origin.Summary) error {
	is := map[string]string{"sha512": sum.SHA512, "md5": sum.MD5}[img.HashAlgo]
	switch {
	case img.Checksum != "" && !strings.EqualFold(img.Checksum, sum.MD5),
		img.HashValue != "" && is != "" && !strings.EqualFold(img.HashValue, is):
		return fmt.Errorf("%w: the data does not have the hashes that it was said to have", registry.ErrConflict)
	}
	return nil
}

// Unhashed implements registry.Locations.
func (d *DB) Unhashed(ctx context.Context, after string, limit int) ([]*registry.Image, error) {
	return d.byID(ctx, "list images without a digest", "status = 'active' AND digest IS NULL", after, limit)
}

// Placed implements registry.Books.
func (d *DB) Placed(ctx context.Context, after string, limit int) ([]*registry.Image, error) {
	return d.byID(ctx, "list images with locations",
		"EXISTS (SELECT 1 FROM locations WHERE image_id = images.id)", after, limit)
}

// byID returns a page of the images for which the condition holds.
func (d *DB) byID(ctx context.Context, doing, condition, after string, limit int) (images []*registry.Image, err error) {
	err = d.read(ctx, doing, func(tx txn) error {
		w := new(where)
		w.and(condition)
		w.and("id > ?", after)
		images, err = page(ctx, tx, w, everything(), []sortKey{{column: "id"}}, limit)
		return err
	})
	if err != nil {
		return nil, err
	}
	return images, nil
}

// Knows implements registry.Books.
func (d *DB) Knows(ctx context.Context, url string) (known bool, err error) {
	err = d.read(ctx, "look a location up", func(tx txn) error {
		known, err = knows(ctx, tx, url)
		return err
	})
	return known, err
}
