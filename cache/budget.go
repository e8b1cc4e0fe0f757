package cache

import (
	"errors"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// freeEvery is how long a reading of the file system's free space is good for.
const freeEvery = time.Second

// reserve promises n bytes of disk to the caller, evicting what it must. It
// reports false if nothing more can go: then the caller does without.
func (c *Cache) reserve(n int64) bool {
	if n == 0 {
		return true
	}
	if n > c.budget {
		return false
	}
	c.readFree()
	c.budgetMu.Lock()
	for c.used+n > c.limit() {
		x := c.policy.victim()
		c.budgetMu.Unlock()
		if x != nil && !c.evict(x) || x == nil && !c.openColdest() && !c.dropIdlest() {
			return false
		}
		c.budgetMu.Lock()
	}
	c.used += n
	c.reserved += n
	c.freeBytes -= n
	c.budgetMu.Unlock()
	return true
}

// spend turns a reservation into disk use.
func (c *Cache) spend(n int64) {
	c.budgetMu.Lock()
	c.reserved -= n
	c.budgetMu.Unlock()
}

// limit is the budget, or less where the file system is short of space. The
// caller holds budgetMu.
func (c *Cache) limit() int64 {
	limit := c.budget
	if c.minFree > 0 && !c.freeAt.IsZero() {
		limit = min(limit, c.used+c.freeBytes-c.minFree)
	}
	if !c.fullUntil.IsZero() && time.Now().Before(c.fullUntil) {
		limit = min(limit, c.used) // something must go before anything comes
	}
	return limit
}

// readFree asks the file system for its free space, now and then.
func (c *Cache) readFree() {
	if c.minFree <= 0 {
		return
	}
	now := time.Now()
	c.budgetMu.Lock()
	fresh := now.Sub(c.freeAt) < freeEvery
	c.budgetMu.Unlock()
	var st unix.Statfs_t
	if fresh || unix.Statfs(c.path, &st) != nil {
		return
	}
	c.budgetMu.Lock()
	c.freeAt, c.freeBytes = now, int64(st.Bavail)*st.Bsize-c.reserved
	c.budgetMu.Unlock()
}

// commit turns the part of a reservation that became the chunks in mask of x
// into disk use, and gives back the rest.
func (c *Cache) commit(x *extent, mask uint64, reserved int64) {
	e := x.df.e
	c.budgetMu.Lock()
	defer c.budgetMu.Unlock()
	c.used -= reserved
	c.reserved -= reserved
	if x.df.retired() || mask&^x.disk == 0 {
		return
	}
	c.used += e.charge(x.index, x.disk|mask) - e.charge(x.index, x.disk)
	x.disk |= mask
	c.offer(x)
}

// offer tells the policy of an extent that takes up space. The caller holds
// budgetMu.
func (c *Cache) offer(x *extent) {
	if x.queue == notQueued && x.disk != 0 && !x.df.e.pinned.Load() {
		c.policy.add(x)
	}
}

// evict frees the space of a victim, which policy.victim took off its queue and
// shut: bits first, then the hole. It reports false if the space stays in use.
func (c *Cache) evict(x *extent) bool {
	df := x.df
	df.evictMu.Lock()
	defer df.evictMu.Unlock()
	defer x.pins.Add(-evicting)
	have := x.have.Swap(0)
	x.ok.Store(0)
	err := df.punchExtent(x)
	c.budgetMu.Lock()
	defer c.budgetMu.Unlock()
	if df.retired() {
		return true // its space was given back with the file
	}
	if err != nil {
		x.have.Store(have)
		c.offer(x)
		c.writeFailed("punch a hole", err)
		return false
	}
	n := df.e.charge(x.index, x.disk)
	x.disk = 0
	c.used -= n
	c.freeBytes += n
	c.counters.evicted.Add(n)
	return true
}

func (df *dataFile) punchExtent(x *extent) error {
	f, err := df.file()
	if errors.Is(err, errLost) {
		return nil // whoever took the file took its space too
	}
	if err != nil {
		return err
	}
	defer f.release()
	length := df.e.chunk * chunksPerExtent
	return punch(f.File, int64(x.index)*length, length)
}

// adopt puts a data file that was just attached into use: it charges it, and
// offers its extents.
func (c *Cache) adopt(df *dataFile) {
	c.budgetMu.Lock()
	defer c.budgetMu.Unlock()
	df.e.data.Store(df)
	if df.local {
		return
	}
	for i := range df.extents {
		x := &df.extents[i]
		c.used += df.e.charge(i, x.disk)
		c.offer(x)
	}
}

// release is the inverse of adopt and commit, for a data file that is lost.
func (c *Cache) release(df *dataFile) {
	c.budgetMu.Lock()
	defer c.budgetMu.Unlock()
	for i := range df.extents {
		x := &df.extents[i]
		if x.queue != notQueued {
			c.policy.remove(x)
		}
		c.used -= df.e.charge(i, x.disk)
		x.disk = 0
	}
}

// claim counts n bytes that are in use whatever the budget says, or -n that are
// no longer.
func (c *Cache) claim(n int64) {
	c.budgetMu.Lock()
	c.used += n
	c.budgetMu.Unlock()
}

// setPinned takes the extents of e out of the policy's reach, or puts them back.
func (c *Cache) setPinned(e *entry, pinned bool) {
	c.budgetMu.Lock()
	defer c.budgetMu.Unlock()
	e.pinned.Store(pinned)
	df := e.data.Load()
	if df == nil || df.retired() {
		return
	}
	for i := range df.extents {
		x := &df.extents[i]
		if pinned && x.queue != notQueued {
			c.policy.remove(x)
		} else if !pinned {
			c.offer(x)
		}
	}
}

// countExactly takes e off the cold list: what it has is counted one by one from
// now on. The caller holds e.turn.
func (c *Cache) countExactly(e *entry) {
	c.budgetMu.Lock()
	defer c.budgetMu.Unlock()
	if i := slices.Index(c.cold, e); i >= 0 {
		c.cold = slices.Delete(c.cold, i, i+1)
		c.used -= e.coldBytes
	}
}

// openColdest opens the entry that was not used since the start and is the
// oldest on disk, so that its extents can go. One whose manifest is gone or
// damaged goes as a whole. It reports false if there is none.
func (c *Cache) openColdest() bool {
	c.budgetMu.Lock()
	cold := slices.Clone(c.cold)
	c.budgetMu.Unlock()
	for _, e := range cold {
		if e.pinned.Load() || c.ctx.Err() != nil {
			continue
		}
		err := os.ErrNotExist
		if e.coldData {
			_, err = e.open(c.ctx, noSource{})
		}
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, ErrCorrupt) {
			err = e.drop()
		}
		if err == nil {
			return true
		}
	}
	return false
}

// dropIdlest drops the entry without data on disk that was not used for the
// longest time: its manifest takes up space too. It reports false if there is
// none.
func (c *Cache) dropIdlest() bool {
	var idlest *entry
	for _, e := range c.all() {
		if e.idle() && (idlest == nil || e.lastUsed.Load() < idlest.lastUsed.Load()) {
			idlest = e
		}
	}
	if idlest == nil {
		return false
	}
	select {
	case idlest.turn <- struct{}{}:
	default:
		return false
	}
	defer func() { <-idlest.turn }()
	return idlest.dropNow() == nil
}

// idle says whether the entry takes up space for nothing.
func (e *entry) idle() bool {
	df := e.data.Load()
	if df == nil || e.pinned.Load() {
		return false
	}
	e.mu.Lock()
	flying := len(e.flying)
	e.mu.Unlock()
	e.c.budgetMu.Lock()
	defer e.c.budgetMu.Unlock()
	for i := range df.extents {
		if x := &df.extents[i]; x.disk != 0 || x.pins.Load() != 0 {
			return false
		}
	}
	return flying == 0
}

// writeFailed counts and reports that the disk could not be written. A full one
// counts as a budget used up, for a while.
func (c *Cache) writeFailed(what string, err error) {
	c.counters.noWrite.Add(1)
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		c.budgetMu.Lock()
		c.fullUntil = time.Now().Add(freeEvery)
		c.budgetMu.Unlock()
	}
	c.complain("the cache cannot write", "what", what, "err", err)
}

// damaged counts and reports a chunk on disk that was found wrong.
func (c *Cache) damaged(df *dataFile, i int) {
	c.counters.damaged.Add(1)
	c.complain("a chunk on disk was damaged", "digest", df.e.digest, "chunk", i, "file", df.path)
}

// complain logs a warning, unless there were many just now: a disk that fails
// would fill the log as well. Counters tell of them all.
func (c *Cache) complain(msg string, args ...any) {
	if c.complaints.Allow() {
		c.log.Warn(msg, args...)
	}
}
