package cache

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"math/rand/v2"
	"os"
	"time"

	"nearsight/origin"
)

const (
	// stallBytes is what an origin must deliver within Options.Stall.
	stallBytes = 64 << 10
	// attempts is how often in a row a fill asks an origin that gives nothing.
	attempts = 3
	// backoff is how long it waits before it asks again, doubled each time.
	backoff = 50 * time.Millisecond
)

var (
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
	file     *os.File
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
	for _, fl := range e.flying[x.index] {
		if fl.df == df {
			mask &^= fl.want
		}
	}
	if mask = x.missing(mask); mask == 0 || !e.c.fillMemory.TryAcquire(e.fillCost()) {
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
	for _, fl := range e.flying[x.index] {
		if fl.df == x.df {
			mask &^= fl.want
		}
	}
	fl := &flight{
		e: e, df: x.df, x: x, src: r.src, owner: r, held: held,
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
	fl.df.put(fl.file)
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

// awaited says whether somebody waits for the chunk now.
func (fl *flight) awaited(bit int) bool {
	fl.e.mu.Lock()
	defer fl.e.mu.Unlock()
	return fl.waiting[bit] != nil
}

func (fl *flight) work(ctx context.Context) (err error) {
	e := fl.e
	if fl.sums, err = e.sums(ctx, fl.x.index, fl.src); err != nil {
		return err
	}
	if fl.file, err = fl.df.file(); errors.Is(err, errLost) {
		return err
	} else if err != nil && !fl.df.none {
		e.c.writeFailed("open a data file", err)
	}
	for {
		todo := fl.todo()
		if todo == 0 {
			return nil
		}
		bit := bits.TrailingZeros64(todo)
		have := fl.x.have.Load()
		if fl.file == nil {
			have = 0 // whatever is there cannot be read
		}
		if have&(1<<bit) != 0 {
			if err := fl.take(ctx); err != nil {
				return err
			}
			if fl.verify(bit) {
				continue
			}
			have = fl.x.have.Load()
		}
		// the run of chunks to fetch: up to the next that is here or not wanted
		if err := fl.fetch(ctx, bit, bits.TrailingZeros64(^(todo &^ have >> bit))); err != nil {
			return err
		}
	}
}

// todo returns the chunks still to be dealt with.
func (fl *flight) todo() uint64 {
	fl.e.mu.Lock()
	defer fl.e.mu.Unlock()
	return fl.want
}

// verify hashes a chunk that seems to be on disk. One that is damaged is
// forgotten; it will be fetched over.
func (fl *flight) verify(bit int) bool {
	c := fl.e.c
	i := fl.x.index*chunksPerExtent + bit
	buf := fl.buf[:fl.e.chunkLen(i)]
	if fl.df.readChunk(fl.file, i, buf) == nil && sha256.Sum256(buf) == sum(fl.sums, i) {
		fl.x.ok.Or(1 << bit)
		c.counters.verified.Add(1)
		fl.settle(bit, nil)
		return true
	}
	fl.x.forget(1 << bit)
	c.damaged(fl.df, i)
	return false
}

// forget clears what is known of chunks. Their space stays charged: it is still
// in use, and what comes next is written over it. A hole must not be punched
// here, since somebody may just be sending from this extent.
func (x *extent) forget(mask uint64) {
	x.ok.And(^mask)
	x.have.And(^mask)
}

// fetch brings chunks from bit on, asking the source for run of them at once, and
// again for the rest when a body breaks off. It ends early when somebody else has
// taken the next one over. Where chunks cannot be kept it brings them one at a
// time, for those who wait.
func (fl *flight) fetch(ctx context.Context, bit, run int) error {
	e := fl.e
	if !fl.room(span(bit, bit+run)) {
		if !fl.awaited(bit) {
			return errAgain
		}
		run = 1
	}
	first := fl.x.index*chunksPerExtent + bit
	done, failures := 0, 0
	for done < run {
		n, err := fl.fetchOnce(ctx, first+done, run-done)
		done += n
		if err == nil || errors.Is(err, errAgain) || errors.Is(err, errLost) {
			return err
		}
		if n > 0 {
			failures = 0
		}
		failures++
		if failures == attempts || ctx.Err() != nil || errors.Is(err, origin.ErrNotFound) || errors.Is(err, origin.ErrChanged) {
			return fmt.Errorf("fetch chunk %d of %s: %w", first+done, e.digest, err)
		}
		e.c.complain("a fill asks again", "digest", e.digest, "chunk", first+done, "err", err)
		if err := sleep(ctx, backoff<<failures/2+rand.N(backoff)); err != nil {
			return err
		}
	}
	return nil
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// room reserves space for the chunks in mask, but for those that have it still.
func (fl *flight) room(mask uint64) bool {
	if !fl.df.keeps() || fl.file == nil {
		return false
	}
	c := fl.e.c
	c.budgetMu.Lock()
	disk := fl.x.disk
	c.budgetMu.Unlock()
	disk |= fl.written
	n := fl.e.charge(fl.x.index, disk|mask) - fl.e.charge(fl.x.index, disk)
	if !c.reserve(n) {
		return false
	}
	fl.reserved += n
	fl.roomFor |= mask
	return true
}

// fetchOnce asks the source once for run chunks from i on, and reports how many
// came whole and right. Fewer without an error means that the next one is somebody
// else's.
func (fl *flight) fetchOnce(ctx context.Context, i, run int) (done int, err error) {
	e, c := fl.e, fl.e.c
	off := int64(i) * e.chunk
	want := min(int64(run)*e.chunk, e.size-off)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watch := time.AfterFunc(c.stall, func() {
		c.counters.stalls.Add(1)
		cancel(errStall)
	})
	defer watch.Stop()
	defer func() {
		if err != nil && context.Cause(ctx) == errStall {
			err = errStall
		}
	}()
	fl.give()
	obj, err := fl.src.Open(ctx, off, want)
	if err != nil {
		return 0, err
	}
	defer obj.Body.Close()
	// Only an answer about exactly these bytes of exactly this object counts
	// (RFC 9110, section 15.3.7).
	if obj.Offset != off || obj.Length != want || obj.Size != e.size {
		return 0, fmt.Errorf("asked for %d bytes at %d of %d and was given %d at %d of %d: %w",
			want, off, e.size, obj.Length, obj.Offset, obj.Size, origin.ErrUnavailable)
	}
	if err := fl.take(ctx); err != nil {
		return 0, err
	}
	watch.Reset(c.stall) // waiting for memory was no fault of the origin's
	body := &watched{r: obj.Body, watch: watch, stall: c.stall, c: c}
	for ; done < run; done++ {
		if fl.todo()&(1<<((i+done)%chunksPerExtent)) == 0 {
			return done, nil // taken over
		}
		buf := fl.buf[:e.chunkLen(i+done)]
		if _, err := io.ReadFull(body, buf); err != nil {
			return done, fmt.Errorf("%w: %w", origin.ErrUnavailable, err)
		}
		if sha256.Sum256(buf) != sum(fl.sums, i+done) {
			c.counters.corrupt.Add(1)
			return done, ErrCorrupt
		}
		c.counters.verified.Add(1)
		if fl.file != nil && !fl.df.keepsSize(fl.file) {
			return done, errLost // a write could make a cut file look whole
		}
		if !fl.keep(i+done, buf) && done+1 < run && !fl.awaited((i+done+1)%chunksPerExtent) {
			return done + 1, errAgain // nobody would get what comes next
		}
	}
	return done, nil
}

// watched is a body that is being watched for stalls.
type watched struct {
	r     io.Reader
	watch *time.Timer
	stall time.Duration
	c     *Cache
	since int // bytes since the watch was set
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.r.Read(p)
	w.c.counters.filled.Add(int64(n))
	if w.since += n; w.since >= stallBytes {
		w.since = 0
		w.watch.Reset(w.stall)
	}
	return n, err
}

// keep writes a verified chunk and lets it be sent. One that cannot be written is
// passed from memory to those who wait for it now; keep reports false then.
func (fl *flight) keep(i int, buf []byte) bool {
	c := fl.e.c
	bit := i % chunksPerExtent
	if fl.roomFor&(1<<bit) != 0 {
		_, err := fl.file.WriteAt(buf, int64(i)*fl.e.chunk)
		fl.written |= 1 << bit // or a part of it: charged all the same
		if err == nil {
			fl.x.have.Or(1 << bit)
			fl.x.ok.Or(1 << bit)
			fl.settle(bit, nil)
			return true
		}
		c.writeFailed("write a chunk", err)
	}
	c.counters.uncached.Add(int64(len(buf)))
	fl.settle(bit, bytes.Clone(buf))
	return false
}
