package cache

import (
	"context"
	"errors"
	"fmt"
	"math/bits"

	"nearsight/origin"
)

var (
	// errStall: the origin gave too little for too long.
	errStall = fmt.Errorf("stalled: %w", origin.ErrUnavailable)
	// errAgain tells a waiter that its flight ended before its chunk's turn.
	errAgain = errors.New("flight ended early")
	// errLost tells a reader that the data file is another one than before.
	errLost = errors.New("data file changed")
)

// A flight makes chunks of one extent sendable: it verifies those that are on
// disk and fetches the others, run by run. It belongs to the entry: readers
// join and leave, and it goes on to its end. Its errors go to those who wait
// for one of its chunks, and to nobody else.
type flight struct {
	e     *entry
	df    *dataFile
	x     *extent
	src   Source
	owner *Reader // who began it
	held  bool    // memory for buf
	gap   int     // as many zeros in a row, in chunks, are read over

	// Under e.mu. Bits are chunks of the extent.
	want    uint64                // still to do
	waiting map[int]chan struct{} // closed when the chunk was dealt with
	passed  map[int][]byte        // chunks that could not be kept, for who waits
	failed  uint64                // chunks given up, with err
	err     error

	// The flight's own.
	sums     []byte
	reserved int64
	roomFor  uint64 // chunks that may be written
	written  uint64 // chunks that were, or in part
	file     *openFile
	buf      []byte
}

// wait returns when chunk i can be sent, or was given up. A nil slice means that
// its ok bit was set; otherwise the slice is the chunk, verified but not kept. It
// begins a flight for the missing chunks from i to before end if there is none.
// The caller has pinned the extent.
func (e *entry) wait(ctx context.Context, r *Reader, i, end int) (chunk []byte, joined bool, err error) {
	df, bit := r.df, i%chunksPerExtent
	x := &df.extents[i/chunksPerExtent]
	foreign := 0 // failures of flights that others began
	for first := true; ; first = false {
		e.mu.Lock()
		if x.missing(1<<bit) == 0 {
			e.mu.Unlock()
			return nil, joined, nil
		}
		fl := e.flightOf(x, bit)
		if fl != nil && fl.far(bit) {
			fl.yield(span(i, end))
			fl = nil
		}
		if fl == nil {
			if fl = e.begin(r, x, span(i, end), false); fl == nil {
				e.mu.Unlock()
				return nil, joined, ErrClosed
			}
		} else if first {
			joined = fl.owner != r
		}
		done := fl.waiting[bit]
		if done == nil {
			done = make(chan struct{})
			fl.waiting[bit] = done
		}
		e.mu.Unlock()
		select {
		case <-done:
		case <-ctx.Done():
			return nil, joined, context.Cause(ctx)
		}
		e.mu.Lock()
		chunk, failed, err := fl.passed[bit], fl.failed&(1<<bit) != 0, fl.err
		e.mu.Unlock()
		if chunk != nil {
			return chunk, joined, nil
		}
		if df.fate.Load() == lost {
			return nil, joined, errLost
		}
		if failed && !errors.Is(err, errAgain) {
			// A flight of somebody else's may have failed for a chunk or by a
			// source that is not this reader's: it tries for itself, once.
			if foreign++; fl.owner == r || foreign > 1 || errors.Is(err, errLost) {
				return nil, joined, err
			}
		}
	}
}

// farAway is how many chunks a flight may have to do before one that somebody
// waits for: a range waits for its own chunks, not for a fill that is on its way
// there.
const farAway = 4

// yield leaves chunks to the flight that is begun next. Who waits for one of them
// looks again and finds that one. The caller holds mu.
func (fl *flight) yield(mask uint64) {
	fl.want &^= mask
	for bit, done := range fl.waiting {
		if mask&(1<<bit) != 0 {
			close(done)
			delete(fl.waiting, bit)
		}
	}
}

// far says whether the flight has much to do before the chunk, and nobody waits
// for that one yet. The caller holds mu.
func (fl *flight) far(bit int) bool {
	before := fl.want & (1<<bit - 1)
	return bits.OnesCount64(before) > farAway && fl.waiting[bit] == nil
}

// span returns the bits of the chunks from i to before end in i's extent.
func span(i, end int) uint64 {
	first := i % chunksPerExtent
	n := min(end-i, chunksPerExtent-first)
	return (^uint64(0) >> (chunksPerExtent - n)) << first
}

// fetchAhead begins a flight for what is missing of mask in x, unless there is no
// memory for one just now.
func (e *entry) fetchAhead(r *Reader, x *extent, mask uint64) {
	df := r.df
	if x.missing(mask) == 0 || !df.keeps() && x.have.Load()&mask == 0 {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	left := x.missing(mask)
	for _, fl := range e.flying[x.index] {
		if fl.df == df {
			left &^= fl.want
		}
	}
	if left == 0 || !e.c.fillMemory.TryAcquire(e.fillCost()) {
		return
	}
	if e.begin(r, x, mask, true) == nil {
		e.c.fillMemory.Release(e.fillCost())
	}
}

func (e *entry) fillCost() int64 { return min(e.chunk, e.c.fillSize) }

// flightOf returns the flight that will deal with the chunk, if any. The caller
// holds mu.
func (e *entry) flightOf(x *extent, bit int) *flight {
	for _, fl := range e.flying[x.index] {
		if fl.df == x.df && fl.want&(1<<bit) != 0 {
			return fl
		}
	}
	return nil
}

// begin starts a flight of r's for those chunks in mask that are missing and not under
// way already; nil if the cache was closed. The caller holds mu. held says that
// it holds the memory for the flight as well.
func (e *entry) begin(r *Reader, x *extent, mask uint64, held bool) *flight {
	end, err := e.c.begin()
	if err != nil {
		return nil
	}
	gap := e.gap
	if mask|e.zero[x.index] != e.mask(x.index) {
		gap = min(gap, shortGap)
	}
	for _, fl := range e.flying[x.index] {
		if fl.df == x.df {
			mask &^= fl.want
		}
	}
	fl := &flight{
		e: e, df: x.df, x: x, src: r.src, owner: r, held: held, gap: gap,
		want: x.missing(mask), waiting: make(map[int]chan struct{}),
	}
	e.flying[x.index] = append(e.flying[x.index], fl)
	e.c.counters.flights.Add(1)
	go func() {
		defer end()
		fl.run()
	}()
	return fl
}

// run deals with the wanted chunks in order.
func (fl *flight) run() {
	c := fl.e.c
	defer c.counters.flights.Add(-1)
	fl.x.pin()
	err := fl.work(c.ctx)
	fl.give()
	fl.file.release()
	fl.land(err)
	fl.x.unpin()
}

// take gets the flight memory for one chunk, of which there is only so much for
// all flights together; give gives it back. It is not held while an origin is
// asked, so that one that does not answer holds up nobody else.
func (fl *flight) take(ctx context.Context) error {
	c := fl.e.c
	if !fl.held {
		if err := c.fillMemory.Acquire(ctx, fl.e.fillCost()); err != nil {
			return err
		}
		fl.held = true
	}
	if fl.buf == nil {
		fl.buf = c.buffer(fl.e.chunk)
	}
	return nil
}

func (fl *flight) give() {
	c := fl.e.c
	if fl.buf != nil {
		c.unbuffer(fl.buf)
		fl.buf = nil
	}
	if fl.held {
		c.fillMemory.Release(fl.e.fillCost())
		fl.held = false
	}
}

// buffer returns n bytes of memory; unbuffer lets it be used again.
func (c *Cache) buffer(n int64) []byte {
	if n == origin.MinChunkSize {
		return *c.buffers.Get().(*[]byte)
	}
	return make([]byte, n)
}

func (c *Cache) unbuffer(b []byte) {
	if len(b) == origin.MinChunkSize {
		c.buffers.Put(&b)
	}
}

// land gives up what was not dealt with and ends the flight.
func (fl *flight) land(err error) {
	e, c := fl.e, fl.e.c
	c.commit(fl.x, fl.written, fl.reserved)
	if err == nil {
		err = errAgain
	} else if !errors.Is(err, errAgain) && !errors.Is(err, errLost) {
		if c.ctx.Err() != nil {
			err = ErrClosed
		} else {
			c.counters.fillErrors.Add(1)
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	fl.failed, fl.err, fl.want = fl.want, err, 0
	for _, done := range fl.waiting {
		close(done)
	}
	fl.waiting = nil
	list := e.flying[fl.x.index]
	for i, other := range list {
		if other == fl {
			list = append(list[:i:i], list[i+1:]...)
			break
		}
	}
	if len(list) == 0 {
		delete(e.flying, fl.x.index)
	} else {
		e.flying[fl.x.index] = list
	}
}

// settle marks a chunk as dealt with and wakes who waits for it.
func (fl *flight) settle(bit int, passed []byte) {
	fl.e.mu.Lock()
	defer fl.e.mu.Unlock()
	fl.want &^= 1 << bit
	done := fl.waiting[bit]
	if done == nil {
		return
	}
	if passed != nil {
		if fl.passed == nil {
			fl.passed = make(map[int][]byte)
		}
		fl.passed[bit] = passed
	}
	close(done)
	delete(fl.waiting, bit)
}
