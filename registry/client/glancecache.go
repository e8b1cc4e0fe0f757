package client

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"time"

	"nearsight/registry"
)

// A CachedImage is an image in the cache of the server, as the Images API tells of
// it. Cache tells more, of nearsight servers.
type CachedImage struct {
	ID           string
	Hits         int64
	LastAccessed time.Time // zero: never
	LastModified time.Time
	Size         int64 // in bytes
}

// GlanceCache returns what the cache of this one server holds, and the ids of those
// that it will fetch. ErrNotFound if it has no cache; ErrForbidden for anybody but
// admins, as of all calls whose names begin so.
func (c *Client) GlanceCache(ctx context.Context) (cached []CachedImage, queued []string, err error) {
	var doc struct {
		Cached []struct {
			ID           string  `json:"image_id"`
			Hits         int64   `json:"hits"`
			LastAccessed float64 `json:"last_accessed"` // seconds since 1970
			LastModified float64 `json:"last_modified"` // the same
			Size         int64   `json:"size"`
		} `json:"cached_images"`
		Queued []string `json:"queued_images"`
	}
	if err := c.getJSON(ctx, "/v2/cache", &doc); err != nil {
		return nil, nil, err
	}
	for _, e := range doc.Cached {
		cached = append(cached, CachedImage{e.ID, e.Hits, epoch(e.LastAccessed), epoch(e.LastModified), e.Size})
	}
	return cached, doc.Queued, nil
}

// epoch returns the time of so many seconds since 1970, the zero time for none.
func epoch(seconds float64) time.Time {
	if !(seconds > 0 && seconds < 1e11) {
		return time.Time{}
	}
	whole, part := math.Modf(seconds)
	return time.Unix(int64(whole), int64(part*1e9)).UTC()
}

// GlanceCacheQueue has the server fetch the image id into its cache. ErrInvalid if
// the image is not active.
func (c *Client) GlanceCacheQueue(ctx context.Context, id string) error {
	return c.glanceCacheCall(ctx, http.MethodPut, id)
}

// GlanceCacheDelete takes the image id out of the cache and its queue. It is no
// error if it was in neither.
func (c *Client) GlanceCacheDelete(ctx context.Context, id string) error {
	return c.glanceCacheCall(ctx, http.MethodDelete, id)
}

func (c *Client) glanceCacheCall(ctx context.Context, method, id string) error {
	if err := checkID(id); err != nil {
		return err
	}
	_, err := c.call(ctx, method, "/v2/cache/"+id, "", nil)
	return err
}

// GlanceCacheClear empties the "cache", its "queue", or with "" both.
func (c *Client) GlanceCacheClear(ctx context.Context, target string) error {
	m := message{method: http.MethodDelete, path: "/v2/cache"}
	switch target {
	case "":
	case "cache", "queue":
		m.fields = http.Header{"X-Image-Cache-Clear-Target": {target}}
	default:
		return fmt.Errorf("%w: %q is neither cache nor queue", registry.ErrInvalid, target)
	}
	_, err := c.exchange(ctx, m)
	return err
}

// GlanceCacheClean drops what is not valid in the cache.
func (c *Client) GlanceCacheClean(ctx context.Context) error {
	_, err := c.call(ctx, http.MethodPost, "/v2/cache/clean", "", nil)
	return err
}

// GlanceCachePrune drops what is above the cache's bound, and returns how much that
// was.
func (c *Client) GlanceCachePrune(ctx context.Context) (files, bytes int64, err error) {
	var doc struct {
		Files int64 `json:"total_files_pruned"`
		Bytes int64 `json:"total_bytes_pruned"`
	}
	const path = "/v2/cache/prune"
	body, err := c.call(ctx, http.MethodPost, path, "", nil)
	if err != nil {
		return 0, 0, err
	}
	err = decode(path, body, &doc)
	return doc.Files, doc.Bytes, err
}

// GlanceCacheNodes returns the URLs of the servers that have the image id in their
// cache. ErrConflict if the server does not know about others.
func (c *Client) GlanceCacheNodes(ctx context.Context, id string) ([]string, error) {
	if err := checkID(id); err != nil {
		return nil, err
	}
	var urls []string
	err := c.getJSON(ctx, "/v2/cache/nodes/"+id, &urls)
	return urls, err
}
