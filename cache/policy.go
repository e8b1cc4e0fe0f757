package cache

import "github.com/hashicorp/golang-lru/v2/simplelru"

// A policy decides which extent goes next. All calls but touch are made under
// Cache.budgetMu.
type policy interface {
	// touch notes that a request began to read x: at most once for each
	// extent and request. It takes no lock.
	touch(x *extent)
	// add puts x, which is in no queue, under the policy's care.
	add(x *extent)
	// remove takes x out of it.
	remove(x *extent)
	// victim removes the extent that should go and returns it with
	// pins == evicting, so that no reader can pin it. It returns nil if every
	// extent is pinned. The caller adds -evicting to pins when it is done.
	victim() *extent
}

// Values of extent.queue.
const (
	notQueued int8 = iota
	inSmall
	inMain
)

// queue is a list of extents; the oldest is at the tail.
type queue struct {
	head, tail *extent
	len        int
	id         int8
}

func (q *queue) push(x *extent) {
	x.queue, x.next, x.prev = q.id, q.head, nil
	if q.head != nil {
		q.head.prev = x
	} else {
		q.tail = x
	}
	q.head = x
	q.len++
}

func (q *queue) remove(x *extent) {
	if x.prev != nil {
		x.prev.next = x.next
	} else {
		q.head = x.next
	}
	if x.next != nil {
		x.next.prev = x.prev
	} else {
		q.tail = x.prev
	}
	x.queue, x.prev, x.next = notQueued, nil, nil
	q.len--
}

// shut takes x for eviction, unless somebody has it pinned.
func shut(x *extent) bool { return x.pins.CompareAndSwap(0, evicting) }

// s3fifo is S3-FIFO (Yang et al., SOSP 2023): new extents enter a small queue
// and reach the main one only if they are read again, so that a crowd of images
// read once does not push out what is read all day. On request traces of VM
// images it asked the origin for 15-20 % less than LRU.
type s3fifo struct {
	small, main queue
	ghosts      *simplelru.LRU[ghost, struct{}] // what left small not long ago
}

// ghost names an extent that is gone.
type ghost struct {
	digest uint64
	index  int
}

const (
	maxFreq    = 3  // 2 bits, as in the paper
	smallShare = 10 // small holds a tenth
	minGhosts  = 1024
)

// newS3FIFO returns a policy for about size extents.
func newS3FIFO(size int) *s3fifo {
	ghosts, _ := simplelru.NewLRU[ghost, struct{}](max(size, minGhosts), nil) // fails only for sizes below 1
	return &s3fifo{small: queue{id: inSmall}, main: queue{id: inMain}, ghosts: ghosts}
}

func ghostOf(x *extent) ghost { return ghost{digestWord(x.df.e.digest), x.index} }

func (p *s3fifo) touch(x *extent) {
	for n := x.freq.Load(); n < maxFreq; n = x.freq.Load() {
		if x.freq.CompareAndSwap(n, n+1) {
			return
		}
	}
}

func (p *s3fifo) add(x *extent) {
	// The request that filled the extent is no second use of it.
	x.freq.Store(0)
	if p.ghosts.Remove(ghostOf(x)) {
		p.main.push(x)
	} else {
		p.small.push(x)
	}
}

func (p *s3fifo) of(x *extent) *queue {
	if x.queue == inSmall {
		return &p.small
	}
	return &p.main
}

func (p *s3fifo) remove(x *extent) { p.of(x).remove(x) }

func (p *s3fifo) victim() *extent {
	// Each extent moves at most once to main and is passed maxFreq times there.
	// A queue in which so many were pinned in a row has nothing to give.
	pinnedSmall, pinnedMain := 0, 0
	for tries := (maxFreq + 3) * (p.small.len + p.main.len); tries > 0; tries-- {
		small, main := pinnedSmall < p.small.len, pinnedMain < p.main.len
		q, pinned := &p.main, &pinnedMain
		if small && (!main || p.small.len*smallShare > p.small.len+p.main.len) {
			q, pinned = &p.small, &pinnedSmall
		} else if !main {
			return nil
		}
		x := q.tail
		q.remove(x)
		switch n := x.freq.Load(); {
		case q == &p.small && n > 1:
			x.freq.Store(0)
			p.main.push(x)
			*pinned = 0
		case q == &p.main && n > 0:
			x.freq.Store(n - 1)
			p.main.push(x)
			*pinned = 0
		case !shut(x):
			q.push(x)
			*pinned++
		default:
			if q == &p.small {
				p.ghosts.Add(ghostOf(x), struct{}{})
			}
			return x
		}
	}
	return nil
}

// lru is least recently used, by the second-chance approximation that lets touch
// do without a lock. It is here to be compared with.
type lru struct{ list queue }

func newLRU() *lru { return &lru{list: queue{id: inMain}} }

func (p *lru) touch(x *extent)  { x.freq.Store(1) }
func (p *lru) add(x *extent)    { x.freq.Store(0); p.list.push(x) }
func (p *lru) remove(x *extent) { p.list.remove(x) }

func (p *lru) victim() *extent {
	for tries := 2 * p.list.len; tries > 0; tries-- {
		x := p.list.tail
		p.list.remove(x)
		if x.freq.Swap(0) == 0 && shut(x) {
			return x
		}
		p.list.push(x)
	}
	return nil
}
