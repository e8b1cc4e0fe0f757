package proxy

import (
	"context"
	"io"
	"slices"
	"sync"
	"time"

	"nearsight/origin"
)

const (
	// maxParked reads wait for their next part at a time; each is a connection
	// to a server.
	maxParked = 16
	// parkedFor is how long each waits: a reader that goes on does so at once.
	parkedFor = 10 * time.Second
)

// streams read parts of objects also from servers that send all from the first
// byte on, whatever they are asked for. What lies before a part is read and
// dropped; what comes after it is left to the next part, for which the read is
// parked: so a download from front to back reads such an object a few times, for
// the parts that are read side by side, and not once for every part.
type streams struct {
	mu     sync.Mutex
	parked []*stream // the oldest first
}

// A stream is a read of a whole object.
type stream struct {
	loc    origin.Location
	size   int64 // -1: unknown
	pos    int64 // of the next byte
	body   io.ReadCloser
	cancel context.CancelFunc // ends the body
	idle   *time.Timer        // while it is parked
}

func (s *stream) close() {
	s.cancel()
	s.body.Close()
}

// open is store.Open with n >= 0.
func (p *streams) open(ctx context.Context, store origin.Store, loc origin.Location, off, n int64) (*origin.Object, error) {
	if off > 0 {
		if s := p.take(loc, off); s != nil {
			return p.part(ctx, s, off, n), nil
		}
	}
	obj, err := store.Open(ctx, loc, off, n)
	if err != nil || !isWhole(obj, off) {
		return obj, err
	}
	obj.Body.Close() // it would end with ctx
	s, err := beginStream(ctx, store, loc)
	if err != nil {
		return nil, err
	}
	return p.part(ctx, s, off, n), nil
}

// isWhole reports whether obj is the whole, although what was asked for begins at
// off.
func isWhole(obj *origin.Object, off int64) bool {
	return off > 0 && obj.Offset == 0 && obj.Length == obj.Size && (obj.Size < 0 || off < obj.Size)
}

// beginStream begins to read all of an object. ctx bounds the call, and not the
// read.
func beginStream(ctx context.Context, store origin.Store, loc origin.Location) (*stream, error) {
	free, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, cancel)
	obj, err := store.Open(free, loc, 0, -1)
	if err != nil {
		cancel()
		if end := ctx.Err(); end != nil {
			err = end
		}
		return nil, err
	}
	stop() // if it is too late for that, the body fails, as it should
	return &stream{loc: loc, size: obj.Size, pos: obj.Offset, body: obj.Body, cancel: cancel}, nil
}

// take returns the parked read of loc that has the least to drop before off, or
// nil.
func (p *streams) take(loc origin.Location, off int64) *stream {
	p.mu.Lock()
	defer p.mu.Unlock()
	best := -1
	for i, s := range p.parked {
		if s.loc == loc && s.pos <= off && (best < 0 || s.pos > p.parked[best].pos) {
			best = i
		}
	}
	if best < 0 {
		return nil
	}
	s := p.parked[best]
	p.parked = slices.Delete(p.parked, best, best+1)
	s.idle.Stop()
	return s
}

// park keeps a read for a while.
func (p *streams) park(s *stream) {
	p.mu.Lock()
	s.idle = time.AfterFunc(parkedFor, func() {
		if p.remove(s) {
			s.close()
		}
	})
	p.parked = append(p.parked, s)
	var oldest *stream
	if len(p.parked) > maxParked {
		oldest = p.parked[0]
		oldest.idle.Stop()
		p.parked = slices.Delete(p.parked, 0, 1)
	}
	p.mu.Unlock()
	if oldest != nil {
		oldest.close()
	}
}

// remove reports whether s was parked, and is no more.
func (p *streams) remove(s *stream) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := slices.Index(p.parked, s)
	if i >= 0 {
		p.parked = slices.Delete(p.parked, i, i+1)
	}
	return i >= 0
}

// closeParked ends the reads that wait.
func (p *streams) closeParked() {
	p.mu.Lock()
	parked := p.parked
	p.parked = nil
	p.mu.Unlock()
	for _, s := range parked {
		s.idle.Stop()
		s.close()
	}
}

// part returns n bytes of s from off on. Its body ends with ctx.
func (p *streams) part(ctx context.Context, s *stream, off, n int64) *origin.Object {
	if s.size >= 0 {
		n = min(n, max(s.size-off, 0))
	}
	return &origin.Object{
		Info: origin.Info{Size: s.size, Validator: s.loc.Validator}, Offset: off, Length: n,
		Body: &streamPart{ctx: ctx, streams: p, stream: s, stop: context.AfterFunc(ctx, s.cancel), skip: off - s.pos, left: n},
	}
}

// A streamPart is the body of a part.
type streamPart struct {
	ctx        context.Context
	streams    *streams
	stream     *stream     // nil: closed
	stop       func() bool // reports whether the part's context had not ended
	skip, left int64
	broken     bool
}

// Read implements io.Reader.
func (b *streamPart) Read(p []byte) (int, error) {
	if err := b.ctx.Err(); err != nil {
		return 0, b.fail(err)
	}
	for b.skip > 0 && len(p) > 0 {
		n, err := b.stream.body.Read(p[:min(int64(len(p)), b.skip)])
		b.skip -= int64(n)
		b.stream.pos += int64(n)
		if err != nil {
			return 0, b.fail(err)
		}
	}
	if b.left == 0 {
		return 0, io.EOF
	}
	n, err := b.stream.body.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	b.stream.pos += int64(n)
	if err != nil {
		err = b.fail(err)
	}
	return n, err
}

// fail notes that nothing comes any more.
func (b *streamPart) fail(err error) error {
	b.broken = true
	if err == io.EOF && b.left > 0 {
		return io.ErrUnexpectedEOF
	}
	return err
}

// Close parks the read, if there is more to be read from it.
func (b *streamPart) Close() error {
	s := b.stream
	if s == nil {
		return nil
	}
	b.stream, b.skip, b.left = nil, 0, 0
	if !b.stop() || b.broken || s.pos == s.size {
		s.close()
	} else {
		b.streams.park(s)
	}
	return nil
}
