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

// errElsewhere: the bytes were wrong, and the source will ask another place.
var errElsewhere = fmt.Errorf("%w; there is another place", ErrCorrupt)

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
		run := runLength(todo&^have, fl.zeros(), bit, fl.gap)
		if err := fl.fetch(ctx, bit, run); err != nil {
			return err
		}
	}
}

// zeros returns the chunks of the extent that are zeros, which are never wanted.
func (fl *flight) zeros() uint64 { return fl.e.zero[fl.x.index] }

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
	if fl.df.readChunk(fl.file.File, i, buf) == nil && sha256.Sum256(buf) == sum(fl.sums, i) {
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
// again for the rest when a body breaks off. Zeros among them are read over. It ends
// early when somebody else has taken the next one over. Where chunks cannot be kept
// it brings them one at a time, for those who wait.
func (fl *flight) fetch(ctx context.Context, bit, run int) error {
	e := fl.e
	if !fl.room(span(bit, bit+run) &^ fl.zeros()) {
		if !fl.awaited(bit) {
			return errAgain
		}
		run = 1
	}
	first := fl.x.index*chunksPerExtent + bit
	done, failures := 0, 0
	for done < run {
		if fl.zeros()&(1<<(bit+done)) != 0 {
			done++ // the last one is none
			continue
		}
		n, err := fl.fetchOnce(ctx, first+done, run-done)
		done += n
		if err == nil || errors.Is(err, errAgain) || errors.Is(err, errLost) {
			return err
		}
		if errors.Is(err, errElsewhere) {
			continue // at once, and no failure of the place that is asked now
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
	body := &watched{r: obj.Body, watch: watch, stall: c.stall}
	for ; done < run; done++ {
		bit, bytes := (i+done)%chunksPerExtent, &c.counters.filled
		over := fl.zeros()&(1<<bit) != 0
		if over {
			bytes = &c.counters.overread
		} else if fl.todo()&(1<<bit) == 0 {
			return done, nil // taken over
		}
		buf := fl.buf[:e.chunkLen(i+done)]
		n, err := io.ReadFull(body, buf)
		bytes.Add(int64(n))
		if err != nil {
			return done, fmt.Errorf("%w: %w", origin.ErrUnavailable, err)
		}
		if over {
			continue // nobody is ever sent these bytes: they need not be right
		}
		if sha256.Sum256(buf) != sum(fl.sums, i+done) {
			c.counters.corrupt.Add(1)
			if b, ok := obj.Body.(Doubted); ok && b.Wrong() {
				return done, errElsewhere
			}
			return done, ErrCorrupt
		}
		c.counters.verified.Add(1)
		if !e.answered.Load() { // many would write to the same memory
			e.answered.Store(true)
		}
		if fl.file != nil && !fl.df.keepsSize(fl.file.File) {
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
	since int // bytes since the watch was set
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.r.Read(p)
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
