package client

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"nearsight/origin"
)

// A CacheEntry describes what the server's cache holds of one image's data.
type CacheEntry struct {
	Digest   origin.Digest `json:"digest"`
	Size     int64         `json:"size"`      // of the data, in bytes
	Zero     int64         `json:"zero"`      // of these, known to be zeros; -1 while unknown
	Stored   int64         `json:"stored"`    // bytes on disk
	Verified int64         `json:"verified"`  // bytes that were verified since the server started
	Pinned   bool          `json:"pinned"`    // never evicted
	Local    bool          `json:"local"`     // served in place from a file of the origin
	LastUsed *time.Time    `json:"last_used"` // nil: not since the server started
	Images   []CacheImage  `json:"images"`    // those with this data
}

// A CacheImage names an image.
type CacheImage struct {
	ID   string  `json:"id"`
	Name *string `json:"name"` // nil if it has none
}

// CacheStats are the counters of the server's cache since it started, and
// gauges of now.
type CacheStats struct {
	Budget         int64 `json:"budget"`   // bytes of disk
	Used           int64 `json:"used"`     // bytes of disk
	Reserved       int64 `json:"reserved"` // of Used: promised to fills under way
	Entries        int64 `json:"entries"`
	Flights        int64 `json:"flights"`         // fills under way
	HitBytes       int64 `json:"hit_bytes"`       // sent without waiting for a fill
	MissBytes      int64 `json:"miss_bytes"`      // sent after waiting for one
	ZeroBytes      int64 `json:"zero_bytes"`      // of HitBytes: known to be zeros
	FilledBytes    int64 `json:"filled_bytes"`    // received from origins
	OverreadBytes  int64 `json:"overread_bytes"`  // besides: zeros that were read over, which took fewer requests
	VerifiedChunks int64 `json:"verified_chunks"` // found right, from origin or disk
	DamagedChunks  int64 `json:"damaged_chunks"`  // found wrong on disk
	CorruptChunks  int64 `json:"corrupt_chunks"`  // found wrong when they came from the origin
	EvictedBytes   int64 `json:"evicted_bytes"`
	UncachedBytes  int64 `json:"uncached_bytes"` // passed through for want of room
	LostFiles      int64 `json:"lost_files"`     // changed, cut or removed on disk
	Stalls         int64 `json:"stalls"`         // fills that brought nothing for too long
	FillErrors     int64 `json:"fill_errors"`
	WriteErrors    int64 `json:"write_errors"` // of the disk
}

// Cache returns what the server's cache holds, by digest.
func (c *Client) Cache(ctx context.Context) ([]CacheEntry, error) {
	var list struct {
		Entries []CacheEntry `json:"entries"`
	}
	err := c.getJSON(ctx, "/nearsight/cache", &list)
	return list.Entries, err
}

// CacheEntry returns what the cache holds of the image id. ErrNotFound if that
// is nothing.
func (c *Client) CacheEntry(ctx context.Context, id string) (CacheEntry, error) {
	var e CacheEntry
	if err := checkID(id); err != nil {
		return e, err
	}
	err := c.getJSON(ctx, cachePath(id, ""), &e)
	return e, err
}

// CacheStats returns the counters of the server's cache.
func (c *Client) CacheStats(ctx context.Context) (CacheStats, error) {
	var s CacheStats
	err := c.getJSON(ctx, "/nearsight/cache/stats", &s)
	return s, err
}

// CacheDrop forgets the cached bytes of the image id, pinned or not.
func (c *Client) CacheDrop(ctx context.Context, id string) error {
	return c.cacheCall(ctx, http.MethodDelete, id, "")
}

// CachePin keeps the bytes of the image id in the cache from now on; it fetches
// none.
func (c *Client) CachePin(ctx context.Context, id string) error {
	return c.cacheCall(ctx, http.MethodPut, id, "/pin")
}

// CacheUnpin lets the bytes of the image id be evicted again.
func (c *Client) CacheUnpin(ctx context.Context, id string) error {
	return c.cacheCall(ctx, http.MethodDelete, id, "/pin")
}

// CacheWarm fetches into the cache what it lacks of the image id, and returns
// what it has then. progress, if not nil, is called from the calling goroutine
// with bytes done and in all. The work ends when ctx does.
func (c *Client) CacheWarm(ctx context.Context, id string, progress func(done, total int64)) (CacheEntry, error) {
	var e CacheEntry
	if err := checkID(id); err != nil {
		return e, err
	}
	err := c.cacheWork(ctx, cachePath(id, "/warm"), progress, &e)
	return e, err
}

// A CacheScrub is what a scrub found.
type CacheScrub struct {
	Chunks int64 `json:"chunks"` // looked at
	Bad    int64 `json:"bad"`    // of these, damaged; they are fetched again when they are needed
}

// CacheScrub verifies all that the cache holds of the image id, or of all images
// if id is "". progress is as for CacheWarm.
func (c *Client) CacheScrub(ctx context.Context, id string, progress func(done, total int64)) (CacheScrub, error) {
	var s CacheScrub
	path := "/nearsight/cache/scrub"
	if id != "" {
		if err := checkID(id); err != nil {
			return s, err
		}
		path = cachePath(id, "/scrub")
	}
	err := c.cacheWork(ctx, path, progress, &s)
	return s, err
}

func cachePath(id, rest string) string { return "/nearsight/cache/images/" + id + rest }

func (c *Client) cacheCall(ctx context.Context, method, id, rest string) error {
	if err := checkID(id); err != nil {
		return err
	}
	_, err := c.call(ctx, method, cachePath(id, rest), "", nil)
	return err
}

// getJSON decodes the answer to a GET into v.
func (c *Client) getJSON(ctx context.Context, path string, v any) error {
	body, err := c.call(ctx, http.MethodGet, path, "", nil)
	if err != nil {
		return err
	}
	return decode(path, body, v)
}

func decode(path string, body []byte, v any) error {
	if err := json.Unmarshal(body, v); err != nil {
		return fmt.Errorf("%w: %s: %w", errAnswer, path, err)
	}
	return nil
}

// cacheWork starts work at the server, follows it until its result and decodes
// that into v.
func (c *Client) cacheWork(ctx context.Context, path string, progress func(done, total int64), v any) error {
	req, err := c.request(ctx, http.MethodPost, path, nil)
	if err != nil {
		return err
	}
	resp, err := c.send(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	result, err := readWork(resp.Body, progress)
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		return err
	}
	if err := json.Unmarshal(result, v); err != nil {
		return fmt.Errorf("%w: result: %w", errAnswer, err)
	}
	return nil
}

// readWork reads the lines of application/x-ndjson that tell of work: any
// number with progress, then one with the result or an error.
func readWork(r io.Reader, progress func(done, total int64)) (json.RawMessage, error) {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if len(lines.Bytes()) == 0 {
			continue
		}
		var line struct {
			Done   int64           `json:"done"`
			Total  int64           `json:"total"`
			Result json.RawMessage `json:"result"`
			Error  *string         `json:"error"`
		}
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			return nil, fmt.Errorf("%w: progress: %w", errAnswer, err)
		}
		switch {
		case line.Error != nil:
			return nil, errors.New("the server failed: " + clip(*line.Error, maxMessage))
		case line.Result != nil:
			return line.Result, nil
		case progress != nil:
			progress(line.Done, line.Total)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, &unavailable{"the connection broke", err}
	}
	return nil, &unavailable{"the answer ended without a result", nil}
}
