package proxy

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"github.com/gin-gonic/gin"

	"nearsight/cache"
	"nearsight/origin"
	"nearsight/registry"
	"nearsight/registry/api"
)

// registerCacheCalls adds the calls of the Images API about the cache of this node,
// and those that were there before them. They are for those who have the duty
// ManageCache.
//
// An image counts as cached once there is anything of it, and nobody waits for its
// being fetched. hits, and last_modified, which is when something of it was fetched
// last, are in memory alone: after a start they are 0, and the time at which the
// image got its data. What was not read since the start was last accessed then too.
func (p *Proxy) registerCacheCalls(e *gin.Engine) {
	g := e.Group("/v2", func(c *gin.Context) {
		c.Header("Cache-Control", "no-store")
		if err := registry.CallerOf(c.Request.Context()).MayAtAll(registry.ManageCache); err != nil {
			p.fail(c, err)
			c.Abort()
		} else if c.Request.ContentLength != 0 {
			api.FailStatus(c.Writer, c.Request, http.StatusBadRequest, "this call takes no body")
			c.Abort()
		}
	})
	get := func(path string, h gin.HandlerFunc) {
		g.GET(path, h)
		g.HEAD(path, h)
	}
	status := func(status int, do func(c *gin.Context) error) gin.HandlerFunc {
		return func(c *gin.Context) {
			if err := do(c); err != nil {
				p.fail(c, err)
				return
			}
			c.Writer.WriteHeader(status)
			c.Writer.WriteHeaderNow()
		}
	}
	get("/cache", p.listCached)
	g.PUT("/cache/:id", status(http.StatusAccepted, p.queueImage))
	g.DELETE("/cache/:id", status(http.StatusNoContent, p.uncacheImage))
	g.DELETE("/cache", p.clearCache)
	get("/cache/nodes/:id", p.cacheNodes)
	g.POST("/cache/clean", status(http.StatusOK, func(c *gin.Context) error {
		_, err := p.cache.Scrub(c.Request.Context(), "", nil)
		return err
	}))
	g.POST("/cache/prune", p.pruneCache)

	get("/cached_images", p.listCachedAlone)
	g.DELETE("/cached_images", p.counted(p.dropAll))
	g.DELETE("/cached_images/:id", status(http.StatusOK, p.uncacheImage))
	get("/queued_images", func(c *gin.Context) {
		writeJSON(c, struct {
			Queued []string `json:"queued_images"`
		}{p.warming.ids()})
	})
	g.PUT("/queued_images/:id", status(http.StatusOK, p.queueImage))
	g.DELETE("/queued_images", p.counted(func() int { return p.warming.remove("") }))
	g.DELETE("/queued_images/:id", status(http.StatusOK, func(c *gin.Context) error {
		if p.warming.remove(c.Param("id")) == 0 {
			return fmt.Errorf("%w: the image does not wait to be cached", registry.ErrNotFound)
		}
		return nil
	}))
}

// counted answers a call that removes things, with their number.
func (p *Proxy) counted(do func() int) gin.HandlerFunc {
	return func(c *gin.Context) {
		writeJSON(c, struct {
			Deleted int `json:"num_deleted"`
		}{do()})
	}
}

// A cachedImage is an image of which the cache has something. Times are in seconds
// since 1970.
type cachedImage struct {
	ID           string  `json:"image_id"`
	Hits         int64   `json:"hits"`
	LastAccessed float64 `json:"last_accessed"`
	LastModified float64 `json:"last_modified"`
	Size         int64   `json:"size"` // of all its data
}

func (p *Proxy) listCached(c *gin.Context) {
	queued := p.warming.ids()
	cached, err := p.cachedImages(c.Request.Context(), queued)
	if err != nil {
		p.fail(c, err)
		return
	}
	writeJSON(c, struct {
		Cached []cachedImage `json:"cached_images"`
		Queued []string      `json:"queued_images"`
	}{cached, queued})
}

func (p *Proxy) listCachedAlone(c *gin.Context) {
	cached, err := p.cachedImages(c.Request.Context(), p.warming.ids())
	if err != nil {
		p.fail(c, err)
		return
	}
	writeJSON(c, struct {
		Cached []cachedImage `json:"cached_images"`
	}{cached})
}

// cachedImages returns the images of which the cache has something, but for those
// that are queued.
func (p *Proxy) cachedImages(ctx context.Context, queued []string) ([]cachedImage, error) {
	infos := slices.DeleteFunc(p.cache.List(), func(i cache.EntryInfo) bool {
		return i.Stored == 0 && !i.Local && i.Zero < i.Size
	})
	cached := []cachedImage{}
	for some := range slices.Chunk(infos, digestsPerQuery) {
		digests := make([]origin.Digest, 0, len(some))
		for _, info := range some {
			digests = append(digests, info.Digest)
		}
		images, err := p.imagesOf(ctx, digests)
		if err != nil {
			return nil, err
		}
		for _, info := range some {
			for _, img := range images[info.Digest] {
				if !slices.Contains(queued, img.ID) {
					cached = append(cached, p.cachedImage(img, info))
				}
			}
		}
	}
	return cached, nil
}

func (p *Proxy) cachedImage(img *registry.Image, info cache.EntryInfo) cachedImage {
	t := p.tallies.of(img.ID)
	const second = 1e9
	one := cachedImage{ID: img.ID, Hits: t.hits.Load(), Size: info.Size}
	one.LastModified = float64(t.filled.Load()) / second
	if one.LastModified == 0 {
		one.LastModified = float64(img.ActivatedAt.UnixNano()) / second
	}
	one.LastAccessed = one.LastModified
	if !info.LastUsed.IsZero() {
		one.LastAccessed = float64(info.LastUsed.UnixNano()) / second
	}
	return one
}

// queueImage has the data of the image that the path names fetched.
func (p *Proxy) queueImage(c *gin.Context) error {
	img, err := p.records.Get(c.Request.Context(), c.Param("id"))
	if err == nil {
		err = cacheable(img)
	}
	if err != nil {
		return err
	}
	return p.warming.add(img.ID)
}

// uncacheImage drops what the cache has of the image that the path names, and takes
// it out of the queue.
func (p *Proxy) uncacheImage(c *gin.Context) error {
	img, err := p.records.Get(c.Request.Context(), c.Param("id"))
	if err != nil {
		return err
	}
	p.warming.remove(img.ID)
	if img.Digest == "" {
		return nil
	}
	if err := p.cache.Drop(img.Digest); !errors.Is(err, cache.ErrNotCached) {
		return err
	}
	return nil
}

// clearTarget names the field that says what a clear is about.
const clearTarget = "X-Image-Cache-Clear-Target"

// clearCache drops everything, pinned or not, empties the queue, or does both.
func (p *Proxy) clearCache(c *gin.Context) {
	target := c.Request.Header.Get(clearTarget)
	switch target {
	case "", "cache", "queue":
	default:
		api.FailStatus(c.Writer, c.Request, http.StatusBadRequest, "x-image-cache-clear-target must be cache or queue, or left out for both")
		return
	}
	if target != "cache" {
		p.warming.remove("")
	}
	if target != "queue" {
		p.dropAll()
	}
	p.done(c, nil)
}

// dropAll drops all entries and returns how many there were.
func (p *Proxy) dropAll() (dropped int) {
	for _, info := range p.cache.List() {
		if p.cache.Drop(info.Digest) == nil { // it fails where there is none any more
			dropped++
		}
	}
	return dropped
}

// cacheNodes would say which nodes have an image in their caches. They do not tell
// each other.
func (p *Proxy) cacheNodes(c *gin.Context) {
	if _, err := p.records.Get(c.Request.Context(), c.Param("id")); err != nil {
		p.fail(c, err)
		return
	}
	api.FailStatus(c.Writer, c.Request, http.StatusConflict, "each node knows its own cache only")
}

// pruneCache drops what was not used for the longest time until the cache is within
// its budget. That is nearly never needed: room is made before anything is fetched.
func (p *Proxy) pruneCache(c *gin.Context) {
	var pruned struct {
		Files int   `json:"total_files_pruned"`
		Bytes int64 `json:"total_bytes_pruned"`
	}
	infos := p.cache.List()
	slices.SortFunc(infos, func(a, b cache.EntryInfo) int { return a.LastUsed.Compare(b.LastUsed) })
	for _, info := range infos {
		if s := p.cache.Stats(); s.Used <= s.Budget {
			break
		}
		if info.Pinned || info.Stored == 0 || p.cache.Drop(info.Digest) != nil {
			continue
		}
		pruned.Files++
		pruned.Bytes += info.Stored
	}
	writeJSON(c, pruned)
}
