package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
)

// pieceSize is how many bytes a parallel download asks for at a time: large enough
// that a round trip does not count, small enough that some of them fit in memory.
const pieceSize = 4 << 20

// A window is the part of an image that several connections fetch at the same time,
// for a transfer that takes its pieces in order. Its calls come from one goroutine.
type window struct {
	t       *transfer
	pieces  []*piece // in order, the first begins at t.off
	spare   [][]byte // buffers of pieces that were taken
	shown   bool     // the server has shown that it has ranges; until then there is one piece
	serial  bool     // it has none
	running sync.WaitGroup
}

// A piece is a range that one connection fetches.
type piece struct {
	off  int64
	buf  []byte        // as long as the range
	done chan struct{} // nil: nobody fetches it yet

	// What follows may be read when done is closed.
	n    int // bytes of buf that came
	etag string
	err  error // why that is not all
}

// errNoRanges: the server sent something else in the place of a piece.
var errNoRanges = errors.New("the server has no ranges")

// next writes the first piece, or what came of it. An error may be that of a piece
// which broke: the next call fetches the rest, while the others go on. Pieces are
// fetched until ctx ends, which is the same for all calls; after that, wait.
func (w *window) next(ctx context.Context) error {
	if w.serial {
		return w.t.attempt(ctx)
	}
	w.fill(ctx)
	p := w.pieces[0]
	select {
	case <-p.done:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if errors.Is(p.err, errNoRanges) {
		w.serial = true
		return w.t.attempt(ctx)
	}
	if err := w.t.learn(p.etag); err != nil {
		return err
	}
	if err := w.t.write(p.buf[:p.n]); err != nil {
		return err
	}
	if p.err != nil {
		w.pieces[0] = &piece{off: w.t.off, buf: p.buf[p.n:]}
		return p.err
	}
	w.pieces = w.pieces[1:]
	w.spare = append(w.spare, p.buf[:0])
	w.shown = true
	return nil
}

// fill adds pieces and has those fetched that nobody fetches.
func (w *window) fill(ctx context.Context) {
	limit := 1
	if w.shown {
		limit = w.t.opt.Parallel
	}
	end := w.t.off
	if n := len(w.pieces); n > 0 {
		last := w.pieces[n-1]
		end = last.off + int64(len(last.buf))
	}
	for len(w.pieces) < limit && end < w.t.size {
		size := min(w.t.c.piece, w.t.size-end)
		w.pieces = append(w.pieces, &piece{off: end, buf: w.buffer(int(size))})
		end += size
	}
	etag := w.t.etag
	for _, p := range w.pieces {
		if p.done == nil {
			p.done = make(chan struct{})
			w.running.Go(func() { w.fetch(ctx, p, etag) })
		}
	}
}

// buffer returns a buffer of n bytes.
func (w *window) buffer(n int) []byte {
	if last := len(w.spare) - 1; last >= 0 {
		b := w.spare[last]
		w.spare = w.spare[:last]
		if cap(b) >= n {
			return b[:n]
		}
	}
	return make([]byte, n)
}

// fetch fills p.
func (w *window) fetch(ctx context.Context, p *piece, etag string) {
	defer close(p.done)
	ctx, stall, cancel := w.t.watched(ctx)
	defer cancel()
	obj, err := w.t.open(ctx, Range{Offset: p.off, Length: int64(len(p.buf)), ETag: etag})
	if err != nil {
		p.err = err
		return
	}
	defer obj.Body.Close()
	p.etag = obj.Validator
	if obj.Offset != p.off || obj.Length != int64(len(p.buf)) {
		p.err = errNoRanges
		return
	}
	for p.n < len(p.buf) {
		stall.Reset(w.t.opt.Stall)
		n, err := obj.Body.Read(p.buf[p.n:])
		p.n += n
		if err != nil && p.n < len(p.buf) {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			p.err = &unavailable{fmt.Sprintf("the connection broke at byte %d of %d", p.off+int64(p.n), w.t.size), err}
			return
		}
	}
}

// wait returns when nothing is fetched any more.
func (w *window) wait() { w.running.Wait() }
