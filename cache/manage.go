package cache

import (
	"context"
	"time"

	"nearsight/origin"
)

// EntryInfo describes one entry.
type EntryInfo struct {
	Digest   origin.Digest
	Size     int64     // of the data, in bytes
	Zero     int64     // of these, known to be zeros; -1 while unknown: not used since the start
	Stored   int64     // bytes on disk
	Verified int64     // bytes that were verified since the start
	Pinned   bool      // never evicted
	Local    bool      // served in place from a file of the origin: nothing is stored
	LastUsed time.Time // zero: not since the start
}

// List describes all entries, by digest.
func (c *Cache) List() []EntryInfo {
	list := []EntryInfo{}
	for _, e := range c.all() {
		list = append(list, e.info())
	}
	return list
}

// Entry describes one. ErrNotCached if there is none.
func (c *Cache) Entry(digest origin.Digest) (EntryInfo, error) {
	e, err := c.known(digest)
	if err != nil {
		return EntryInfo{}, err
	}
	return e.info(), nil
}

// Warm fetches and verifies all that is missing. progress, if not nil, is called
// now and then, from the calling goroutine, with bytes done and in all. ErrNoRoom
// if the data cannot be kept.
func (c *Cache) Warm(ctx context.Context, digest origin.Digest, size int64, src Source, progress func(done, total int64)) error {
	r, err := c.Get(ctx, digest, size, src)
	if err != nil {
		return err
	}
	defer r.Close()
	return r.warm(ctx, progress)
}

// Pin keeps the entry's bytes from eviction, now and after a restart; it makes
// the entry if there is none.
func (c *Cache) Pin(ctx context.Context, digest origin.Digest, size int64, src Source) error {
	r, err := c.Get(ctx, digest, size, src)
	if err != nil {
		return err
	}
	defer r.Close()
	return r.e.pin()
}

// Unpin is its inverse. ErrNotCached if there is no entry.
func (c *Cache) Unpin(digest origin.Digest) error {
	e, err := c.known(digest)
	if err != nil {
		return err
	}
	return e.unpin()
}

// Drop forgets the entry, pinned or not, and frees its space; readers at work
// end right. ErrNotCached if there is none.
func (c *Cache) Drop(digest origin.Digest) error {
	e, err := c.known(digest)
	if err != nil {
		return err
	}
	return e.drop()
}

// Stats are counters since the start and gauges of now.
type Stats struct {
	Budget, Used       int64 // bytes of disk
	Reserved           int64 // of Used: promised to fills under way
	Entries            int
	Flights            int   // fills under way
	HitBytes           int64 // sent without waiting for a fill
	MissBytes          int64 // sent after waiting for one
	ZeroBytes          int64 // of HitBytes: known to be zeros
	FilledBytes        int64 // received from origins, whatever became of them, but for these:
	OverreadBytes      int64 // zeros that were read over, to ask less often
	VerifiedChunks     int64 // hashed and found right, from origin or disk
	DamagedChunks      int64 // on disk, found wrong
	CorruptChunks      int64 // from the origin, found wrong
	EvictedBytes       int64
	UncachedBytes      int64 // passed through for want of room
	LostFiles          int64 // data files and manifests changed, cut or removed under us
	Stalls, FillErrors int64
	WriteErrors        int64 // of the disk
}

// Stats returns a snapshot.
func (c *Cache) Stats() Stats {
	n := &c.counters
	s := Stats{
		Budget: c.budget, Flights: int(n.flights.Load()),
		HitBytes: n.hit.Load(), MissBytes: n.miss.Load(), ZeroBytes: n.zero.Load(),
		FilledBytes: n.filled.Load(), OverreadBytes: n.overread.Load(), VerifiedChunks: n.verified.Load(),
		DamagedChunks: n.damaged.Load(), CorruptChunks: n.corrupt.Load(),
		EvictedBytes: n.evicted.Load(), UncachedBytes: n.uncached.Load(),
		LostFiles: n.lostFiles.Load(), Stalls: n.stalls.Load(),
		FillErrors: n.fillErrors.Load(), WriteErrors: n.noWrite.Load(),
	}
	c.budgetMu.Lock()
	s.Used, s.Reserved = c.used, c.reserved
	c.budgetMu.Unlock()
	c.entriesMu.RLock()
	s.Entries = len(c.entries)
	c.entriesMu.RUnlock()
	return s
}
