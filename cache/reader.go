package cache

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"time"
)

const (
	// window is how many extents a long read keeps in flight, its own included.
	window = 3
	// farthest is how many extents ahead it looks for those: over what is there
	// already, and over zeros, which go out faster than anything comes in.
	farthest = 256
)

// A Reader serves one request. It is not safe for concurrent use.
type Reader struct {
	c   *Cache
	e   *entry
	df  *dataFile
	src Source

	file    *openFile // nil until it is needed
	extent  int       // pinned, or -1
	now     time.Time // when the request began, if it was told: see Reopen
	looked  time.Time // at the data file, by a request that knew its time
	here    uint64    // chunks of it that were there when the reader came
	section Section   // what is being sent
	sums    []byte    // of extent sumsOf, for Options.VerifyAlways
	sumsOf  int

	passed  []byte // a chunk that could not be kept, and which it is
	passedI int
	noRoom  bool // the last chunk could not be kept
	joined  bool // the last wait was for somebody else's flight
}

// An Outcome says what a read found.
type Outcome struct {
	Chunks    int  // of the range
	Present   int  // of these, here already, or known to be zeros
	Collapsed bool // the first missing chunk was being fetched already for somebody else
	Stored    bool // what is fetched will be kept
}

// Probe says how many of the chunks of n bytes from off are here. It asks
// nobody and waits for nothing.
func (r *Reader) Probe(off, n int64) Outcome {
	o := Outcome{Stored: r.df.keeps()}
	if n <= 0 {
		return o
	}
	i, end := int(off/r.e.chunk), int((off+n-1)/r.e.chunk)+1
	o.Chunks = end - i
	for i < end {
		x := i / chunksPerExtent
		mask := span(i, end)
		o.Present += bits.OnesCount64(mask & (r.df.extents[x].have.Load() | r.e.zero[x]))
		i = min((x+1)*chunksPerExtent, end)
	}
	return o
}

// Ready waits until the byte at off can be sent, and says what it found in the
// n bytes from there. Where these begin with known zeros, and no source has given any
// byte of the data since the start, it waits for the first byte that one must give. Errors are the source's, ErrCorrupt, ErrClosed or ctx's.
func (r *Reader) Ready(ctx context.Context, off, n int64) (Outcome, error) {
	if n <= 0 {
		return r.Probe(off, n), nil
	}
	// First, because what is said must be said of the data file that is read.
	if err := r.enter(ctx, int(off/r.e.chunk)/chunksPerExtent); err != nil {
		return Outcome{}, err
	}
	o := r.Probe(off, n)
	at := r.doubtful(off, n)
	chunk, err := r.prepare(ctx, at, off+n-at)
	o.Collapsed = r.joined
	if chunk != nil {
		o.Stored = false
	}
	return o, err
}

// doubtful returns where Ready waits: at off, but for zeros before what a source would
// have to be asked for that never answered. They need nobody, and would be on their way
// already when it turns out that the rest is lost.
func (r *Reader) doubtful(off, n int64) int64 {
	e := r.e
	i, end := int(off/e.chunk), int((off+n-1)/e.chunk)+1
	if e.answered.Load() || e.zero[i/chunksPerExtent]&(1<<(i%chunksPerExtent)) == 0 {
		return off
	}
	for ; i < end; i = (i/chunksPerExtent + 1) * chunksPerExtent {
		if missing := r.df.extents[i/chunksPerExtent].missing(span(i, end)); missing != 0 {
			first := i - i%chunksPerExtent + bits.TrailingZeros64(missing)
			return int64(first) * e.chunk
		}
	}
	return off
}

// Sum returns the SHA-256 of the n bytes from off where the manifest has it: when
// they are exactly one chunk.
func (r *Reader) Sum(ctx context.Context, off, n int64) (s [sha256.Size]byte, ok bool) {
	i := int(off / r.e.chunk)
	if n <= 0 || off%r.e.chunk != 0 || i >= r.e.chunks || n != r.e.chunkLen(i) {
		return s, false
	}
	sums, err := r.e.sums(ctx, i/chunksPerExtent, r.src)
	if err != nil {
		return s, false // the answer is as good without
	}
	return sum(sums, i), true
}

// Send writes n bytes from offset off to w, each verified, fetching what is
// missing, and returns how many it wrote. What is on disk, and known zeros, go by
// io.Copy from a *Section.
func (r *Reader) Send(ctx context.Context, w io.Writer, off, n int64) (int64, error) {
	sent := int64(0)
	for idle := 0; sent < n; {
		at, left := off+sent, n-sent
		chunk, err := r.prepare(ctx, at, left)
		if err != nil {
			return sent, err
		}
		k, err := r.sendRun(w, at, left, chunk)
		sent += k
		if err != nil {
			return sent, err
		}
		if k > 0 {
			idle = 0
		} else if idle++; idle > attempts {
			return sent, fmt.Errorf("%s keeps changing: %w", r.df.path, ErrNoRoom)
		}
	}
	return sent, nil
}

// Close ends the request. Reopen may follow.
func (r *Reader) Close() error {
	r.letGo()
	r.passed, r.noRoom, r.joined = nil, false, false
	return nil
}

// Reopen begins another request for the same data with a Reader that was closed,
// as Cache.Get would at now, but it allocates nothing while the data file is the one it
// was. Its errors are those of Get.
func (r *Reader) Reopen(ctx context.Context, now time.Time) error {
	// Whether the data file is still what it was is looked at when an extent is
	// entered.
	r.now = now
	if r.e.data.Load() != r.df {
		size := r.e.size
		again, err := r.c.Get(ctx, r.e.digest, size, r.src)
		if err != nil {
			return err
		}
		*r = *again
		r.now = now
		return nil
	}
	r.e.use(now)
	return nil
}

// leave lets go of a data file that is in doubt, to have it looked at again.
func (r *Reader) leave() {
	r.letGo()
	r.looked = time.Time{}
}

// letGo gives back what the reader holds of its data file.
func (r *Reader) letGo() {
	if r.extent >= 0 {
		r.df.extents[r.extent].unpin()
		r.extent = -1
	}
	r.file.release()
	r.file = nil
}

// prepare makes the chunk at off sendable: from memory, if it returns one, else
// from the data file or, for known zeros, from nowhere.
func (r *Reader) prepare(ctx context.Context, off, n int64) ([]byte, error) {
	e := r.e
	i, end := int(off/e.chunk), int((off+n-1)/e.chunk)+1
	for range attempts {
		if err := r.enter(ctx, i/chunksPerExtent); err != nil {
			return nil, err
		}
		x := &r.df.extents[r.extent]
		if x.missing(1<<(i%chunksPerExtent)) == 0 {
			r.lookAhead(i, end)
			return nil, nil
		}
		if r.passed != nil && r.passedI == i {
			return r.passed, nil
		}
		r.passed = nil
		end = r.guess(i, end)
		chunk, joined, err := e.wait(ctx, r, i, end)
		r.joined = joined
		if err == nil {
			r.passed, r.passedI, r.noRoom = chunk, i, chunk != nil
			r.lookAhead(i, end) // not before: the first byte would have to share the way
			return chunk, nil
		}
		if !errors.Is(err, errLost) {
			return nil, err
		}
		r.leave()
	}
	return nil, fmt.Errorf("%s keeps changing: %w", r.df.path, ErrNoRoom)
}

// enter pins extent x of a data file that is still the one it was.
func (r *Reader) enter(ctx context.Context, x int) error {
	fate := r.df.fate.Load()
	if r.extent == x && fate != lost {
		return nil
	}
	df := r.df
	if fate != dropped && !r.lookedJustNow() || r.file == nil && fate != live {
		var err error
		if df, err = r.e.open(ctx, r.src); err != nil {
			return err
		}
		r.looked = r.now
	}
	if df != r.df {
		r.letGo()
		r.e, r.df = df.e, df // also another entry, if it was dropped and made anew
	} else if r.extent >= 0 {
		df.extents[r.extent].unpin()
	}
	r.extent = x
	to := &df.extents[x]
	to.pin()
	r.here = to.have.Load()
	r.c.policy.touch(to)
	return nil
}

// lookEvery is how old a look at the data file may be when a client asks for one
// range after the other. Sending takes as long, and nobody looks meanwhile.
const lookEvery = time.Millisecond

// lookedJustNow says that the reader's last request, moments ago, found the data
// file to be what it was.
func (r *Reader) lookedJustNow() bool {
	return r.extent < 0 && !r.looked.IsZero() && r.now.Sub(r.looked) < lookEvery && r.df.fate.Load() == live
}

// lookAhead begins to fetch what a long read will want next.
func (r *Reader) lookAhead(i, end int) {
	if r.noRoom { // nor would there be for what would come
		return
	}
	first := i/chunksPerExtent + 1
	last := min((end-1)/chunksPerExtent, i/chunksPerExtent+farthest)
	for n, ahead := first, 1; n <= last && ahead < window; n++ {
		x, mask := &r.df.extents[n], span(n*chunksPerExtent, end)
		if x.missing(mask) != 0 {
			r.e.fetchAhead(r, x, mask)
			ahead++
		}
	}
}

// sendRun writes from off on as much as is of one kind: a chunk in memory, known
// zeros, or verified bytes of the data file.
func (r *Reader) sendRun(w io.Writer, off, n int64, chunk []byte) (int64, error) {
	e := r.e
	i := int(off / e.chunk)
	inChunk := off - int64(i)*e.chunk
	if chunk != nil {
		k, err := w.Write(chunk[inChunk:min(inChunk+n, int64(len(chunk)))])
		r.c.counters.miss.Add(int64(k))
		return int64(k), err
	}
	bit := i % chunksPerExtent
	x := &r.df.extents[r.extent]
	zero := e.zero[r.extent]
	if zero&(1<<bit) != 0 {
		k, err := r.sendZeros(w, min(n, r.runBytes(i, zero)-inChunk))
		r.c.counters.hit.Add(k)
		r.c.counters.zero.Add(k)
		return k, err
	}
	if r.c.always {
		return r.sendChecked(w, i, inChunk, n)
	}
	run := x.ok.Load() &^ zero
	if r.here&(1<<bit) != 0 {
		run &= r.here
	} else {
		run &^= r.here
	}
	k, err := r.sendFile(w, off, min(n, r.runBytes(i, run)-inChunk))
	r.count(bit, k)
	return k, err
}

// count counts n bytes sent, as a hit if their chunk was there from the first.
func (r *Reader) count(bit int, n int64) {
	if r.here&(1<<bit) != 0 {
		r.c.counters.hit.Add(n)
	} else {
		r.c.counters.miss.Add(n)
	}
}

// runBytes returns the bytes of chunk i and of those after it in its extent
// whose bits are set in mask. The bit of i may have been cleared just now: then
// it is none.
func (r *Reader) runBytes(i int, mask uint64) int64 {
	n := bits.TrailingZeros64(^(mask >> (i % chunksPerExtent)))
	return max(0, min(int64(n)*r.e.chunk, r.e.size-int64(i)*r.e.chunk))
}

func (r *Reader) sendZeros(w io.Writer, n int64) (sent int64, err error) {
	for sent < n {
		r.section = Section{r.c.zeros, 0, min(n-sent, zeroFileSize)}
		k, err := io.Copy(w, &r.section)
		sent += k
		if err != nil {
			return sent, err
		}
	}
	return sent, nil
}

// open gets this reader a descriptor of its own.
func (r *Reader) open() error {
	if r.file != nil {
		return nil
	}
	f, err := r.df.file()
	r.file = f
	return err
}

// sendFile writes n verified bytes of the data file from off on. Fewer, without
// an error, means that the file was cut: the caller comes back and finds out.
func (r *Reader) sendFile(w io.Writer, off, n int64) (int64, error) {
	if n <= 0 {
		return 0, nil
	}
	if err := r.open(); err != nil {
		if errors.Is(err, errLost) {
			r.leave() // the next enter finds out
			return 0, nil
		}
		return 0, fmt.Errorf("read %s: %w", r.df.path, err)
	}
	r.section = Section{r.file.File, off, n}
	sent, err := io.Copy(w, &r.section)
	if err == nil && sent < n {
		r.leave() // and look again which file this is
	}
	if err != nil && r.unreadable(int((off+sent)/r.e.chunk)) {
		return sent, nil
	}
	return sent, err
}

// unreadable tells, after sending failed, whether that was the disk's fault and
// not the client's. The chunk is forgotten then, to be fetched anew.
func (r *Reader) unreadable(i int) bool {
	if i >= r.e.chunks || i/chunksPerExtent != r.extent {
		return false
	}
	buf := r.c.buffer(r.e.chunk)
	defer r.c.unbuffer(buf)
	if r.df.readChunk(r.file.File, i, buf[:r.e.chunkLen(i)]) == nil {
		return false
	}
	r.df.extents[r.extent].forget(1 << (i % chunksPerExtent))
	r.c.damaged(r.df, i)
	r.c.files.drop(r.df) // it may be the descriptor that is bad
	r.leave()
	return true
}

// sendChecked writes from one chunk after hashing it, for Options.VerifyAlways.
func (r *Reader) sendChecked(w io.Writer, i int, inChunk, n int64) (int64, error) {
	e, x, bit := r.e, &r.df.extents[r.extent], uint64(1)<<(i%chunksPerExtent)
	whole := r.c.buffer(e.chunk)
	defer r.c.unbuffer(whole)
	buf := whole[:e.chunkLen(i)]
	if r.sumsOf != x.index {
		sums, err := e.sums(r.c.ctx, x.index, r.src)
		if err != nil {
			return 0, err
		}
		r.sums, r.sumsOf = sums, x.index
	}
	if err := r.open(); err != nil && !errors.Is(err, errLost) {
		return 0, fmt.Errorf("read %s: %w", r.df.path, err)
	} else if err == nil && r.df.readChunk(r.file.File, i, buf) == nil && sha256.Sum256(buf) == sum(r.sums, i) {
		k, err := w.Write(buf[inChunk:min(inChunk+n, int64(len(buf)))])
		r.count(i%chunksPerExtent, int64(k))
		return int64(k), err
	}
	if x.ok.Load()&bit != 0 {
		x.forget(bit)
		r.c.damaged(r.df, i)
	}
	r.leave()
	return 0, nil
}

// warm makes every chunk sendable in turn.
func (r *Reader) warm(ctx context.Context, progress func(done, total int64)) error {
	last := time.Now()
	for i := range r.e.chunks {
		off := int64(i) * r.e.chunk
		chunk, err := r.prepare(ctx, off, r.e.size-off)
		if err != nil {
			return err
		}
		if chunk != nil {
			return fmt.Errorf("warm %s: chunk %d: %w", r.e.digest, i, ErrNoRoom)
		}
		if progress != nil && time.Since(last) > 200*time.Millisecond {
			last = time.Now()
			progress(off, r.e.size)
		}
	}
	if o := r.Probe(0, r.e.size); o.Present < o.Chunks {
		return fmt.Errorf("warm %s: %d of %d chunks were evicted for others: %w", r.e.digest, o.Chunks-o.Present, o.Chunks, ErrNoRoom)
	}
	if progress != nil {
		progress(r.e.size, r.e.size)
	}
	return nil
}
