package cache

import (
	"time"

	"golang.org/x/sys/unix"
)

// freeEvery is how long a reading of the file system's free space is good for.
const freeEvery = time.Second

// complainEvery is the time between two log records about a disk that cannot be
// written: a full one would fill the log as well.
const complainEvery = 10 * time.Second

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
		if x != nil && !c.evict(x) || x == nil && !c.warmColdest() {
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
	if c.minFree <= 0 || c.freeAt.IsZero() {
		return c.budget
	}
	return min(c.budget, c.used+c.freeBytes-c.minFree)
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
	if fresh || unix.Statfs(c.dir, &st) != nil {
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
		c.counters.noWrite.Add(1)
		c.log.Warn("cannot evict", "digest", df.e.digest, "err", err)
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
	if err != nil {
		if !df.same() { // whoever took the file took its space too
			return nil
		}
		return err
	}
	defer df.put(f)
	length := df.e.chunk * chunksPerExtent
	return punch(f, int64(x.index)*length, length)
}

// adopt charges a data file that was just attached, and offers its extents.
func (c *Cache) adopt(df *dataFile) {
	if df.local {
		return
	}
	c.budgetMu.Lock()
	defer c.budgetMu.Unlock()
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

// claim and unclaim count bytes that are in use whatever the budget says.
func (c *Cache) claim(n int64) {
	c.budgetMu.Lock()
	c.used += n
	c.budgetMu.Unlock()
}

func (c *Cache) unclaim(n int64) { c.claim(-n) }

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

// warmUp takes e off the cold list: from now on its extents are counted one by
// one. The caller holds e.turn.
func (c *Cache) warmUp(e *entry) {
	c.budgetMu.Lock()
	defer c.budgetMu.Unlock()
	for i, f := range c.cold {
		if f == e {
			c.cold = append(c.cold[:i], c.cold[i+1:]...)
			c.used -= e.coldBytes
			return
		}
	}
}

// warmColdest opens the entry that was not used since the start and is the
// oldest on disk, so that its extents can go. One whose manifest is gone or
// damaged goes as a whole. It reports false if there is none.
func (c *Cache) warmColdest() bool {
	c.budgetMu.Lock()
	var e *entry
	for _, f := range c.cold {
		if !f.pinned.Load() {
			e = f
			break
		}
	}
	c.budgetMu.Unlock()
	if e == nil || c.ctx.Err() != nil {
		return false
	}
	if e.coldData {
		if _, err := e.open(c.ctx, noSource{}); err == nil {
			return true
		}
	}
	return e.drop() == nil
}

// writeFailed counts, and now and then logs, that the disk could not be written.
func (c *Cache) writeFailed(what string, err error) {
	c.counters.noWrite.Add(1)
	now := time.Now().UnixNano()
	if last := c.complained.Load(); now-last > int64(complainEvery) && c.complained.CompareAndSwap(last, now) {
		c.log.Warn("the cache cannot write", "what", what, "err", err)
	}
}
