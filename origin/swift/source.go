package swift

import (
	"context"
	"crypto/md5"
	"errors"
	"fmt"
	"hash"
	"io"
	"sync"

	"nearsight/origin"
)

// blockSize bytes are read ahead, and as many before them can be sent again. Of
// both there is one for each Put under way.
const blockSize = 1 << 20

// A source reads r one block ahead. So its last bytes go out only when it is
// known that r ends there, without an error and with the right length: what is
// sent with a Content-Length becomes visible with its last byte.
type source struct {
	ctx   context.Context
	r     io.Reader
	size  int64 // expected, or -1
	total int64 // read of r

	cur, next []byte
	off       int // of what comes next, in cur
	block     int // number of cur
	end       bool
	err       error // of r, or about its length; it stays
}

// newSource reads the first two blocks, of block bytes.
func newSource(ctx context.Context, r io.Reader, size int64, block int) (*source, error) {
	s := &source{ctx: ctx, r: r, size: size}
	length := int64(block)
	if size >= 0 && size < length {
		length = size + 1 // enough to see that it is longer
	}
	s.cur = s.fill(make([]byte, length))
	if s.err == nil && !s.end {
		s.next = s.fill(make([]byte, length))
	}
	return s, s.err
}

// bytesSource yields b.
func bytesSource(b []byte) *source { return &source{cur: b, end: true} }

// fill returns buf with the next bytes of r: all of it, unless r ends.
func (s *source) fill(buf []byte) []byte {
	n := 0
	for n < len(buf) && s.err == nil && !s.end {
		if s.err = s.ctx.Err(); s.err != nil {
			break
		}
		k, err := s.r.Read(buf[n:])
		n += k
		s.total += int64(k)
		switch {
		case err == io.EOF:
			s.end = true
		case err != nil:
			s.err = fmt.Errorf("%w: after %d bytes: %w", origin.ErrRead, s.total, err)
		}
		if s.err == nil && s.size >= 0 && (s.total > s.size || s.end && s.total < s.size) {
			s.err = fmt.Errorf("%w: expected %d bytes, received %d", origin.ErrSize, s.size, s.total)
		}
	}
	return buf[:n]
}

// whole says whether cur holds all of it.
func (s *source) whole() bool { return s.end && s.block == 0 && len(s.next) == 0 }

// more says whether there is more to send.
func (s *source) more() bool { return s.off < len(s.cur) || len(s.next) > 0 }

// advance goes on to the next block when cur is used up, and reads the one after.
func (s *source) advance() {
	if s.off == len(s.cur) && len(s.next) > 0 {
		s.cur, s.next, s.off = s.next, s.cur, 0
		s.block++
		s.next = s.fill(s.next[:cap(s.next)])
	}
}

// Read yields r, and io.EOF only at a good end.
func (s *source) Read(p []byte) (int, error) {
	s.advance()
	if s.err != nil {
		return 0, s.err
	}
	if s.off == len(s.cur) {
		return 0, io.EOF
	}
	n := copy(p, s.cur[s.off:])
	s.off += n
	return n, nil
}

// A piece is the body of one request: the next bytes of a source, summed as they
// go. A transport may go on reading when its request has failed, so each try
// reads through an attempt of its own, which detach cuts off.
type piece struct {
	length int64 // or -1: as it comes, up to limit

	mu         sync.Mutex
	src        *source
	limit      int64
	block, off int // where it began
	attempts   int
	n          int64 // taken
	sum        hash.Hash
}

// newPiece takes the next limit bytes of src. They are exactly so many if exact.
func newPiece(src *source, limit int64, exact bool) *piece {
	src.advance() // so that the first bytes are in the block that can be sent again
	p := &piece{length: -1, src: src, limit: limit, block: src.block, off: src.off, sum: md5.New()}
	if exact {
		p.length = limit
	}
	return p
}

// bytesPiece is a body of b.
func bytesPiece(b []byte) *piece { return newPiece(bytesSource(b), int64(len(b)), true) }

// An attempt reads a piece for one request.
type attempt struct {
	p  *piece
	w  *watch
	no int
}

func (p *piece) attach(w *watch) *attempt {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.attempts++
	return &attempt{p, w, p.attempts}
}

// detach waits until the last attempt reads no more.
func (p *piece) detach() {
	if p != nil {
		p.mu.Lock()
		p.attempts++
		p.mu.Unlock()
	}
}

// replayable says that all of it can be sent again, whatever happens.
func (p *piece) replayable() bool {
	return p.length >= 0 && p.length <= int64(len(p.src.cur)-p.off) && p.src.block == p.block
}

// rewind goes back to the beginning, if that is still there. No piece at all can
// always be sent again.
func (p *piece) rewind() bool {
	if p == nil {
		return true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.src.err != nil || p.src.block != p.block {
		return false
	}
	p.src.off, p.n = p.off, 0
	p.sum.Reset()
	return true
}

var errDetached = errors.New("the request has ended")

// Read implements io.Reader. Waiting for the sender is not the store's silence.
func (a *attempt) Read(b []byte) (int, error) {
	p := a.p
	p.mu.Lock()
	defer p.mu.Unlock()
	if a.no != p.attempts {
		return 0, errDetached
	}
	a.w.rest()
	defer a.w.turn()
	if p.n == p.limit {
		return 0, io.EOF
	}
	n, err := p.src.Read(b[:min(int64(len(b)), p.limit-p.n)])
	p.n += int64(n)
	p.sum.Write(b[:n])
	return n, err
}

// Close implements io.Closer, as a request needs it.
func (a *attempt) Close() error { return nil }
