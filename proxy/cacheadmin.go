package proxy

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/gin-gonic/gin"

	"nearsight/cache"
	"nearsight/origin"
	"nearsight/registry"
)

const (
	// digestsPerQuery is how many digests one query to the registry names.
	digestsPerQuery = 200
	// progressEvery is the time between two lines of progress.
	progressEvery = 250 * time.Millisecond
)

// forAdmins is gin middleware of nearsight's own routes: those who may not run
// servers get 403.
func (p *Proxy) forAdmins(c *gin.Context) {
	c.Header("Cache-Control", "no-store")
	if err := registry.CallerOf(c.Request.Context()).MayAtAll(registry.RunServers); err != nil {
		p.fail(c, err)
		c.Abort()
	}
}

// registerCache adds the administration of the cache. Errors are problem
// documents (RFC 9457).
//
//	GET    /nearsight/cache                   200 {"entries":[ENTRY...]}, by digest
//	GET    /nearsight/cache/stats             200 the fields of cache.Stats in snake_case
//	GET    /nearsight/cache/images/:id        200 ENTRY; 404 if nothing of it is cached
//	DELETE /nearsight/cache/images/:id        204; drops it, pinned or not
//	PUT    /nearsight/cache/images/:id/pin    204
//	DELETE /nearsight/cache/images/:id/pin    204
//	POST   /nearsight/cache/images/:id/warm   lines; the result is ENTRY
//	POST   /nearsight/cache/images/:id/scrub  lines; the result is {"chunks":N,"bad":N}
//	POST   /nearsight/cache/scrub             the same, for all entries
//
// An image without data is answered with 409. ENTRY is
//
//	{"digest":TEXT, "size":BYTES, "zero":BYTES, "stored":BYTES, "verified":BYTES,
//	 "pinned":BOOL, "local":BOOL, "last_used":TIME or null,
//	 "images":[{"id":TEXT, "name":TEXT or null}...]}
//
// with the meanings of cache.EntryInfo; zero is -1 while it is not known.
//
// Lines are 200 application/x-ndjson: any number of {"done":BYTES,"total":BYTES},
// then one of {"result":...} and {"error":TEXT}. Work that fails before there is
// any progress is answered with its own status. It ends when the client leaves.
func (p *Proxy) registerCache(e *gin.Engine) {
	g := e.Group("/nearsight", p.forAdmins).Group("/cache")
	get := func(path string, h gin.HandlerFunc) {
		g.GET(path, h)
		g.HEAD(path, h)
	}
	get("", p.listCache)
	get("/stats", p.cacheStats)
	g.POST("/scrub", func(c *gin.Context) { p.scrub(c, "") })
	get("/images/:id", p.withImage(p.showCached))
	g.DELETE("/images/:id", p.withImage(func(c *gin.Context, img *registry.Image) {
		p.done(c, p.cache.Drop(img.Digest))
	}))
	g.PUT("/images/:id/pin", p.withImage(func(c *gin.Context, img *registry.Image) {
		p.done(c, p.cache.Pin(c.Request.Context(), img.Digest, *img.Size, p.source(img)))
	}))
	g.DELETE("/images/:id/pin", p.withImage(func(c *gin.Context, img *registry.Image) {
		p.done(c, p.cache.Unpin(img.Digest))
	}))
	g.POST("/images/:id/warm", p.withImage(p.warm))
	g.POST("/images/:id/scrub", p.withImage(func(c *gin.Context, img *registry.Image) { p.scrub(c, img.Digest) }))
}

// withImage returns a handler that looks up the image that the path names and
// calls h if it has data.
func (p *Proxy) withImage(h func(*gin.Context, *registry.Image)) gin.HandlerFunc {
	return func(c *gin.Context) {
		img, err := p.records.Get(c.Request.Context(), c.Param("id"))
		if err == nil && (img.Digest == "" || img.Size == nil) {
			err = fmt.Errorf("%w: the image is %s and has no data to cache", registry.ErrConflict, img.Status)
		}
		if err != nil {
			p.fail(c, err)
			return
		}
		exchangeOf(c.Writer).digest = img.Digest
		h(c, img)
	}
}

// done answers a call that has nothing to show.
func (p *Proxy) done(c *gin.Context, err error) {
	if err != nil {
		p.fail(c, err)
		return
	}
	c.Writer.WriteHeader(http.StatusNoContent)
	c.Writer.WriteHeaderNow()
}

type cacheEntry struct {
	Digest   origin.Digest `json:"digest"`
	Size     int64         `json:"size"`
	Zero     int64         `json:"zero"`
	Stored   int64         `json:"stored"`
	Verified int64         `json:"verified"`
	Pinned   bool          `json:"pinned"`
	Local    bool          `json:"local"`
	LastUsed *time.Time    `json:"last_used"`
	Images   []cacheImage  `json:"images"`
}

type cacheImage struct {
	ID   string  `json:"id"`
	Name *string `json:"name"`
}

func (p *Proxy) listCache(c *gin.Context) {
	entries, err := p.cacheEntries(c.Request.Context(), p.cache.List())
	if err != nil {
		p.fail(c, err)
		return
	}
	writeJSON(c, struct {
		Entries []cacheEntry `json:"entries"`
	}{entries})
}

func (p *Proxy) showCached(c *gin.Context, img *registry.Image) {
	entry, err := p.cacheEntry(c.Request.Context(), img.Digest)
	if err != nil {
		p.fail(c, err)
		return
	}
	writeJSON(c, entry)
}

// cacheEntry describes one entry.
func (p *Proxy) cacheEntry(ctx context.Context, digest origin.Digest) (cacheEntry, error) {
	info, err := p.cache.Entry(digest)
	if err != nil {
		return cacheEntry{}, err
	}
	entries, err := p.cacheEntries(ctx, []cache.EntryInfo{info})
	if err != nil {
		return cacheEntry{}, err
	}
	return entries[0], nil
}

// cacheEntries adds to what the cache knows the images that the registry knows.
func (p *Proxy) cacheEntries(ctx context.Context, infos []cache.EntryInfo) ([]cacheEntry, error) {
	entries := make([]cacheEntry, 0, len(infos))
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
			e := cacheEntry{
				Digest: info.Digest, Size: info.Size, Zero: info.Zero, Stored: info.Stored, Verified: info.Verified,
				Pinned: info.Pinned, Local: info.Local, Images: []cacheImage{},
			}
			if !info.LastUsed.IsZero() {
				e.LastUsed = &info.LastUsed
			}
			for _, img := range images[info.Digest] {
				e.Images = append(e.Images, cacheImage{img.ID, img.Name})
			}
			entries = append(entries, e)
		}
	}
	return entries, nil
}

func (p *Proxy) cacheStats(c *gin.Context) {
	s := p.cache.Stats()
	writeJSON(c, struct {
		Budget         int64 `json:"budget"`
		Used           int64 `json:"used"`
		Reserved       int64 `json:"reserved"`
		Entries        int   `json:"entries"`
		Flights        int   `json:"flights"`
		HitBytes       int64 `json:"hit_bytes"`
		MissBytes      int64 `json:"miss_bytes"`
		ZeroBytes      int64 `json:"zero_bytes"`
		FilledBytes    int64 `json:"filled_bytes"`
		OverreadBytes  int64 `json:"overread_bytes"`
		VerifiedChunks int64 `json:"verified_chunks"`
		DamagedChunks  int64 `json:"damaged_chunks"`
		CorruptChunks  int64 `json:"corrupt_chunks"`
		EvictedBytes   int64 `json:"evicted_bytes"`
		UncachedBytes  int64 `json:"uncached_bytes"`
		LostFiles      int64 `json:"lost_files"`
		Stalls         int64 `json:"stalls"`
		FillErrors     int64 `json:"fill_errors"`
		WriteErrors    int64 `json:"write_errors"`
	}(s))
}

func (p *Proxy) warm(c *gin.Context, img *registry.Image) {
	ctx := c.Request.Context()
	p.work(c, func(progress func(done, total int64)) (any, error) {
		if err := p.cache.Warm(ctx, img.Digest, *img.Size, p.source(img), progress); err != nil {
			return nil, err
		}
		return p.cacheEntry(ctx, img.Digest)
	})
}

func (p *Proxy) scrub(c *gin.Context, digest origin.Digest) {
	p.work(c, func(progress func(done, total int64)) (any, error) {
		return p.cache.Scrub(c.Request.Context(), digest, progress)
	})
}

// work answers with the progress of do and its result, line by line.
func (p *Proxy) work(c *gin.Context, do func(progress func(done, total int64)) (any, error)) {
	w := c.Writer
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	line := func(v any) {
		w.Write(append(encode(v), '\n')) // if the client left, its context ends the work
		w.Flush()
	}
	var last time.Time
	result, err := do(func(done, total int64) {
		if now := time.Now(); now.Sub(last) >= progressEvery {
			last = now
			line(struct {
				Done  int64 `json:"done"`
				Total int64 `json:"total"`
			}{done, total})
		}
	})
	switch {
	case err == nil:
		line(struct {
			Result any `json:"result"`
		}{result})
	case !w.Written():
		p.fail(c, err)
	default:
		exchangeOf(w).err = err
		line(struct {
			Error string `json:"error"`
		}{err.Error()})
	}
}

// writeJSON answers 200 with v.
func writeJSON(c *gin.Context, v any) {
	w, body := c.Writer, encode(v)
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(http.StatusOK)
	w.WriteHeaderNow()
	if c.Request.Method != http.MethodHead {
		w.Write(body) // a client that left needs no answer
	}
}

// encode is json.Marshal for values that cannot fail, without the escapes that
// are meant for HTML.
func encode(v any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		panic("proxy: " + err.Error()) // a value of ours that JSON cannot say
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}
