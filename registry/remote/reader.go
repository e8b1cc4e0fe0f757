package remote

import (
	"context"
	"fmt"
	"slices"
	"time"

	"nearsight/origin"
	"nearsight/registry"
)

const (
	// maxManifest is the length of the longest manifest, in bytes, and some more.
	maxManifest = origin.MaxChunks*32 + 1<<10
	// maxPage is how many images a central lists at a time.
	maxPage = 1000
)

// Get implements registry.Reader.
func (c *Central) Get(ctx context.Context, id string) (*registry.Image, error) {
	doing := fmt.Sprintf("get image %.80q", id)
	if !registry.ValidID(id) {
		return nil, fmt.Errorf("%s: %w", doing, registry.ErrNotFound)
	}
	a, err := c.call(ctx, "GET", "/nearsight/records/"+id, "", nil, c.silence, maxRecord)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", doing, err)
	}
	var img *registry.Image
	if err := a.decode(&img); err != nil {
		return nil, fmt.Errorf("%s: %w", doing, err)
	}
	if err := c.take(img); err != nil {
		return nil, fmt.Errorf("%s: %w", doing, err)
	}
	if img.ID != id {
		return nil, fmt.Errorf("%s: %w", doing, unavailable("it answers with image %.80q", img.ID))
	}
	return img, nil
}

// List implements registry.Reader. It asks for a longer list page by page.
func (c *Central) List(ctx context.Context, q registry.Query) ([]*registry.Image, error) {
	var images []*registry.Image
	for limit := q.Limit; ; {
		q.Limit = min(limit-len(images), maxPage)
		page, err := c.page(ctx, q)
		if err != nil {
			return nil, fmt.Errorf("list images: %w", err)
		}
		images = append(images, page...)
		if len(page) < maxPage || len(images) == limit {
			return images, nil
		}
		q.Marker = page[len(page)-1].ID
	}
}

// page returns at most maxPage images.
func (c *Central) page(ctx context.Context, q registry.Query) ([]*registry.Image, error) {
	a, err := c.post(ctx, "/nearsight/records/list", q, c.silence, maxAnswer)
	if err != nil {
		return nil, err
	}
	var list struct {
		Images []*registry.Image `json:"images"`
	}
	if err := a.decode(&list); err != nil {
		return nil, err
	}
	if len(list.Images) > max(q.Limit, 0) {
		return nil, unavailable("it lists %d images, and %d were asked for", len(list.Images), q.Limit)
	}
	for _, img := range list.Images {
		if err := c.take(img); err != nil {
			return nil, err
		}
	}
	return list.Images, nil
}

// Manifest implements registry.Reader. What it returns has the digest.
func (c *Central) Manifest(ctx context.Context, digest origin.Digest) ([]byte, error) {
	doing := fmt.Sprintf("manifest %.80q", digest)
	if _, err := origin.ParseDigest(string(digest)); err != nil {
		return nil, fmt.Errorf("%s: %w", doing, registry.ErrNotFound)
	}
	a, err := c.call(ctx, "GET", "/nearsight/manifests/"+string(digest), "", nil, c.silence, maxManifest)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", doing, err)
	}
	if got := origin.DigestOf(a.body); got != digest {
		return nil, fmt.Errorf("%s: %w", doing, unavailable("what it sends has the digest %s", got))
	}
	return a.body, nil
}

// take checks a record that came and makes it ours: normalized, since members are
// searched for, and with the locations that can be read here.
func (c *Central) take(img *registry.Image) error {
	if img == nil {
		return unavailable("its answer has no image")
	}
	bad := func(what string) error {
		return unavailable("the record %.80q has no proper %s", img.ID, what)
	}
	switch {
	case !registry.ValidID(img.ID):
		return bad("id")
	case !slices.Contains([]registry.Status{
		registry.Queued, registry.Saving, registry.Uploading, registry.Importing, registry.Active,
		registry.Deactivated, registry.Killed, registry.PendingDelete, registry.Deleted,
	}, img.Status):
		return bad("status")
	case !slices.Contains([]registry.Visibility{registry.Public, registry.Community, registry.Shared, registry.Private}, img.Visibility):
		return bad("visibility")
	case img.Revision < 0:
		return bad("revision")
	case img.Size != nil && *img.Size < 0, img.VirtualSize != nil && *img.VirtualSize < 0:
		return bad("size")
	case img.MinRAM < 0, img.MinDisk < 0:
		return bad("minimum")
	}
	if img.Digest != "" {
		if _, err := origin.ParseDigest(string(img.Digest)); err != nil {
			return bad("digest")
		}
	}
	for _, t := range []*time.Time{&img.CreatedAt, &img.UpdatedAt, &img.ActivatedAt} {
		*t = t.UTC()
	}
	img.Normalize()
	c.relocate(img)
	return nil
}

// relocate puts one location at the central in the place of those that are not read
// here.
func (c *Central) relocate(img *registry.Image) {
	mine := make([]origin.Location, 0, len(img.Locations))
	for _, loc := range img.Locations {
		if c.reads(loc) {
			mine = append(mine, loc)
		}
	}
	if len(mine) == len(img.Locations) {
		return
	}
	for _, loc := range img.Locations {
		if !c.reads(loc) {
			delete(img.LocationMetadata, loc.URL)
		}
	}
	img.Locations = append(mine, origin.Location{URL: centralPrefix + img.ID, Validator: string(img.Digest)})
}
