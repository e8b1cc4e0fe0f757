package origin

import (
	"context"
	"crypto/md5"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"
)

var (
	// ErrSize: the data is longer or shorter than it was said to be.
	ErrSize = errors.New("wrong size")
	// ErrRead: whoever sends the data failed, and not the store.
	ErrRead = errors.New("reading the data failed")
)

const (
	// A block is as long as the smallest chunk, so that it never holds parts
	// of two chunks.
	blockSize = MinChunkSize
	// ringSize blocks, 2 MiB, let the slowest hash lag behind the disk by the
	// time of a write without stopping it.
	ringSize = 8
	// discardTimeout bounds the deletion of an object that turned out useless.
	discardTimeout = time.Minute
)

// A Summary is what one pass over an upload learned about its bytes.
type Summary struct {
	Size     int64
	MD5      string // hex
	SHA512   string // hex
	Manifest []byte // encoded, see DecodeManifest
	Digest   Digest // of Manifest
}

// Ingest stores r at loc, which came from s.Locate, and learns its Summary in
// the same pass. size is the length of r in bytes, or -1 if that is unknown. The
// result is loc with its Validator set.
//
// After any error nothing is left in the store, unless its text says that the
// object could not be deleted. The error wraps ErrRead and its cause if r
// failed, ErrSize if r was longer or shorter than size, the cause of ctx if that
// ended, and otherwise what the store said. Of several failures it is the first.
//
// It takes 2 MiB of memory, and at the end twice the manifest, which has at most
// 8 MiB. It stops as soon as anything fails, but it has to wait for a Read of r
// and for the store: to stop a silent sender, make its Read fail (a deadline).
//
// A stream of unknown length that outgrows 64 GiB is read back from the store
// once, because its chunks turned out to be longer than those that were summed.
func Ingest(ctx context.Context, s WriteStore, loc Location, size int64, r io.Reader) (Location, Summary, error) {
	return ingest(ctx, s, loc, size, r, MaxChunks)
}

// ingest is Ingest with a bound on the sums kept for a stream of unknown length.
func ingest(ctx context.Context, s WriteStore, loc Location, size int64, r io.Reader, maxSums int) (Location, Summary, error) {
	stored, sum, err := onePass(ctx, s, loc, size, r, maxSums)
	if err != nil {
		return loc, Summary{}, err
	}
	if sum.Manifest == nil {
		// The SHA-256 of a long chunk does not follow from those of its parts,
		// so there is no way around a second look at the bytes. To keep sums
		// for every chunk size at once would cost all uploads for the sake of
		// very few: who sends more than 64 GiB mostly says so.
		if sum.Manifest, err = readBack(ctx, s, stored, sum); err != nil {
			return loc, Summary{}, discard(ctx, s, stored, err)
		}
	}
	sum.Digest = DigestOf(sum.Manifest)
	return stored, sum, nil
}

// onePass reads r once. The Manifest of its Summary is nil if maxSums were not
// enough; its Digest is always left out.
func onePass(ctx context.Context, s WriteStore, loc Location, size int64, r io.Reader, maxSums int) (Location, Summary, error) {
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)

	blocks, chunk := ringSize, int64(MinChunkSize)
	if size >= 0 {
		blocks = int(min(ringSize, size/blockSize+1))
		chunk, maxSums = ChunkSize(size), Chunks(size)
	}
	md5, sha512, sums := md5.New(), sha512.New(), newChunkSums(chunk, maxSums)
	p := newPipe(blocks)
	body := &pipeReader{ctx: ctx, in: p.reader()}
	var stored Location
	var put bool
	var wg sync.WaitGroup
	for _, w := range []io.Writer{md5, sha512, sums} {
		in := p.reader()
		wg.Go(func() { hashAll(w, in) })
	}
	wg.Go(func() {
		var err error
		if stored, err = s.Put(ctx, loc, size, body); err != nil {
			fail(fmt.Errorf("store %s: %w", loc.URL, err))
			return
		}
		put = true
		if !body.ended.Load() {
			fail(fmt.Errorf("store %s: the store did not read to the end: %w", loc.URL, ErrUnavailable))
		}
	})
	total := p.copy(ctx, fail, size, r)
	wg.Wait()

	if err := context.Cause(ctx); err != nil {
		if put {
			err = discard(ctx, s, loc, err)
		}
		return loc, Summary{}, err
	}
	sum := Summary{
		Size:   total,
		MD5:    hex.EncodeToString(md5.Sum(nil)),
		SHA512: hex.EncodeToString(sha512.Sum(nil)),
	}
	if b, ok := sums.end(); ok {
		sum.Manifest = (&Manifest{Size: total, Sums: b}).Encode()
	}
	return stored, sum, nil
}

// readBack makes the encoded manifest of the object at loc by reading it, and
// sees that these are the bytes that were sent.
func readBack(ctx context.Context, s Store, loc Location, sum Summary) ([]byte, error) {
	o, err := s.Open(ctx, loc, 0, -1)
	if err != nil {
		return nil, fmt.Errorf("read back %s: %w", loc.URL, err)
	}
	defer o.Body.Close()
	h, sums := sha512.New(), newChunkSums(ChunkSize(sum.Size), Chunks(sum.Size))
	if _, err := io.CopyBuffer(io.MultiWriter(h, sums), o.Body, make([]byte, blockSize)); err != nil {
		return nil, fmt.Errorf("read back %s: %w", loc.URL, err)
	}
	b, ok := sums.end()
	if !ok || hex.EncodeToString(h.Sum(nil)) != sum.SHA512 {
		return nil, fmt.Errorf("read back %s: not the bytes that were stored: %w", loc.URL, ErrChanged)
	}
	return (&Manifest{Size: sum.Size, Sums: b}).Encode(), nil
}

// discard deletes the object that the failure made useless, also when ctx has
// ended, and returns the failure.
func discard(ctx context.Context, s WriteStore, loc Location, failure error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), discardTimeout)
	defer cancel()
	if err := s.Delete(ctx, loc); err != nil {
		return fmt.Errorf("%w (and %s could not be deleted: %v)", failure, loc.URL, err)
	}
	return failure
}

// A block travels from the sender through all readers and back.
type block struct {
	data  []byte
	users atomic.Int32 // readers that still need it
	home  chan<- *block
}

// done says that one reader has finished. It never blocks.
func (b *block) done() {
	if b.users.Add(-1) == 0 {
		b.home <- b
	}
}

// A pipe hands every block of a stream to each of its readers. There is a fixed
// number of blocks, and every channel has room for all of them: so only the
// sender ever waits, for the slowest reader to give one back.
type pipe struct {
	free    chan *block
	readers []chan *block
}

func newPipe(blocks int) *pipe {
	p := &pipe{free: make(chan *block, blocks)}
	for range blocks {
		p.free <- &block{data: make([]byte, blockSize), home: p.free}
	}
	return p
}

// reader adds a reader: the channel is closed after the last block. Whether the
// stream was whole then, the context says.
func (p *pipe) reader() <-chan *block {
	ch := make(chan *block, cap(p.free))
	p.readers = append(p.readers, ch)
	return ch
}

// copy sends r to the readers and returns its length. It ends with r, with ctx,
// and by ending ctx with the reason why the stream is not whole.
func (p *pipe) copy(ctx context.Context, fail context.CancelCauseFunc, size int64, r io.Reader) int64 {
	defer func() {
		for _, ch := range p.readers {
			close(ch)
		}
	}()
	var total int64
	for {
		var b *block
		select {
		case b = <-p.free:
		case <-ctx.Done():
			return total
		}
		n, err := fill(ctx, r, b.data[:blockSize])
		total += int64(n)
		switch {
		case size >= 0 && total > size:
			fail(fmt.Errorf("%w: expected %d bytes, received at least %d", ErrSize, size, total))
			return total
		case err == io.EOF && size >= 0 && total < size:
			fail(fmt.Errorf("%w: expected %d bytes, received %d", ErrSize, size, total))
			return total
		case err != nil && err != io.EOF:
			fail(fmt.Errorf("%w: after %d bytes: %w", ErrRead, total, err))
			return total
		}
		if n > 0 {
			b.data = b.data[:n]
			b.users.Store(int32(len(p.readers)))
			for _, ch := range p.readers {
				ch <- b
			}
		}
		if err == io.EOF {
			return total
		}
	}
}

// fill reads until b is full, r ends (io.EOF) or ctx does.
func fill(ctx context.Context, r io.Reader, b []byte) (n int, err error) {
	for n < len(b) && err == nil {
		if err = context.Cause(ctx); err != nil {
			break
		}
		var k int
		k, err = r.Read(b[n:])
		n += k
	}
	return n, err
}

// hashAll writes all blocks to w, whose writes never fail.
func hashAll(w io.Writer, in <-chan *block) {
	for b := range in {
		w.Write(b.data)
		b.done()
	}
}

// A pipeReader shows the blocks to the store. It remains harmless when the store
// goes on reading after its Put has returned, as HTTP transports do.
type pipeReader struct {
	ctx   context.Context
	in    <-chan *block
	cur   *block
	rest  []byte      // of cur
	ended atomic.Bool // all was read
}

func (p *pipeReader) Read(b []byte) (int, error) {
	if err := context.Cause(p.ctx); err != nil {
		return 0, err
	}
	if len(b) == 0 {
		return 0, nil
	}
	if p.cur == nil {
		select {
		case next, ok := <-p.in:
			if err := context.Cause(p.ctx); err != nil {
				return 0, err // closed because of it
			}
			if !ok {
				p.ended.Store(true)
				return 0, io.EOF
			}
			p.cur, p.rest = next, next.data
		case <-p.ctx.Done():
			return 0, context.Cause(p.ctx)
		}
	}
	n := copy(b, p.rest)
	if p.rest = p.rest[n:]; len(p.rest) == 0 {
		p.cur.done()
		p.cur = nil
	}
	return n, nil
}
