package web

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/url"
)

// unbounded is the left of a body whose length nobody knows.
const unbounded = math.MaxInt64

// A body yields at most left bytes more of r. If it is exact, r was said to hold
// exactly these.
type body struct {
	ctx   context.Context
	url   *url.URL
	r     io.ReadCloser
	left  int64
	exact bool
}

func (b *body) Read(p []byte) (int, error) {
	if err := b.ctx.Err(); err != nil {
		return 0, err
	}
	if len(p) == 0 {
		return 0, nil
	}
	if b.left == 0 {
		return 0, b.end()
	}
	n, err := b.r.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	if err == io.EOF && b.exact && b.left > 0 {
		err = io.ErrUnexpectedEOF
	}
	return n, b.failed(err)
}

// end makes sure that nothing follows the last byte. It also gives the
// connection back for the next request.
func (b *body) end() error {
	if !b.exact {
		return io.EOF
	}
	n, err := io.ReadFull(b.r, make([]byte, 1))
	if n > 0 {
		err = oddAnswer("more data than it said")
	}
	return b.failed(err)
}

// failed translates an error of r.
func (b *body) failed(err error) error {
	switch {
	case err == nil, err == io.EOF:
		return err
	case errors.Is(err, io.ErrUnexpectedEOF):
		return io.ErrUnexpectedEOF
	}
	if end := b.ctx.Err(); end != nil {
		return end
	}
	return fmt.Errorf("read %s: %w", shown(b.url), unanswered(b.ctx, err))
}

// Close ends the transfer, if it still goes on, together with its connection.
func (b *body) Close() error { return b.r.Close() }
