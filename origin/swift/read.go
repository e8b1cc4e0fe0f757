package swift

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"nearsight/origin"
)

// Open implements origin.Store. A negative offset is served as 0, and says so.
func (s *Store) Open(ctx context.Context, loc origin.Location, off, n int64) (*origin.Object, error) {
	key, err := s.key(loc)
	if err != nil {
		return nil, err
	}
	o, err := s.open(ctx, loc, key, max(off, 0), n)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", loc.URL, err)
	}
	return o, nil
}

func (s *Store) open(ctx context.Context, loc origin.Location, key string, off, n int64) (*origin.Object, error) {
	if n == 0 { // no Range says so
		return s.nothing(ctx, loc, key, off)
	}
	header := match(loc)
	if off > 0 || n > 0 {
		header.Set("Range", byteRange(off, n))
	}
	resp, err := s.do(ctx, call{method: http.MethodGet, container: s.container(key), object: key, header: header})
	if r, ok := errors.AsType[*refusal](err); ok && r.status == http.StatusRequestedRangeNotSatisfiable {
		return s.nothing(ctx, loc, key, off)
	}
	if err != nil {
		return nil, err
	}
	o, err := answered(loc, resp)
	if err != nil {
		resp.Body.Close()
		return nil, err
	}
	return o, nil
}

// nothing is an object of no bytes from off on.
func (s *Store) nothing(ctx context.Context, loc origin.Location, key string, off int64) (*origin.Object, error) {
	info, err := s.stat(ctx, loc, key)
	if err != nil {
		return nil, err
	}
	return &origin.Object{Info: info, Offset: off, Body: http.NoBody}, nil
}

// match makes the store itself compare the validator of loc.
func match(loc origin.Location) http.Header {
	h := http.Header{}
	if loc.Validator != "" {
		h.Set("If-Match", `"`+loc.Validator+`"`)
	}
	return h
}

// byteRange is RFC 9110, section 14.1.2. It leaves out the end when that is
// beyond all numbers.
func byteRange(off, n int64) string {
	if n < 0 || off > math.MaxInt64-n {
		return fmt.Sprintf("bytes=%d-", off)
	}
	return fmt.Sprintf("bytes=%d-%d", off, off+n-1)
}

// answered makes an object of a 200 or 206.
func answered(loc origin.Location, resp *http.Response) (*origin.Object, error) {
	var o origin.Object
	size := resp.ContentLength
	o.Length = size
	if resp.StatusCode == http.StatusPartialContent {
		field := resp.Header.Get("Content-Range")
		var ok bool
		if o.Offset, o.Length, size, ok = parseContentRange(field); !ok {
			return nil, fmt.Errorf("%w: it sent Content-Range %.100q", origin.ErrUnavailable, field)
		}
		if resp.ContentLength >= 0 && resp.ContentLength != o.Length {
			return nil, fmt.Errorf("%w: it sent Content-Range %.100q for %d bytes", origin.ErrUnavailable, field, resp.ContentLength)
		}
	}
	var err error
	if o.Info, err = describe(loc, resp.Header, size); err != nil {
		return nil, err
	}
	o.Body = &exact{resp.Body, o.Length}
	return &o, nil
}

// describe returns what the header says of the object at loc, if that is the one
// that loc means.
func describe(loc origin.Location, h http.Header, size int64) (origin.Info, error) {
	if size < 0 { // a DLO of more segments than one listing has
		return origin.Info{}, fmt.Errorf("%w: it does not tell the object's length", origin.ErrUnavailable)
	}
	info := origin.Info{Size: size, Validator: unquote(h.Get("Etag"))}
	if t, err := http.ParseTime(h.Get("Last-Modified")); err == nil {
		info.ModTime = t.UTC()
	}
	if loc.Validator != "" && loc.Validator != info.Validator {
		return origin.Info{}, fmt.Errorf("%w: validator %.100q, not %.100q", origin.ErrChanged, info.Validator, loc.Validator)
	}
	return info, nil
}

// unquote returns an ETag without its quotes: Swift quotes those of large objects
// and, unless it is configured to, not those of plain ones.
func unquote(etag string) string {
	if len(etag) >= 2 && etag[0] == '"' && etag[len(etag)-1] == '"' {
		return etag[1 : len(etag)-1]
	}
	return etag
}

// parseContentRange reads the field of a 206 to a request for one range (RFC
// 9110, section 14.4).
func parseContentRange(s string) (off, n, size int64, ok bool) {
	s, ok = strings.CutPrefix(s, "bytes ")
	span, total, ok1 := strings.Cut(s, "/")
	first, last, ok2 := strings.Cut(span, "-")
	off, err1 := number(first)
	end, err2 := number(last)
	size, err3 := number(total)
	if !ok || !ok1 || !ok2 || err1 != nil || err2 != nil || err3 != nil || off > end || end >= size {
		return 0, 0, 0, false
	}
	return off, end - off + 1, size, true
}

// number parses digits only, without a sign.
func number(s string) (int64, error) {
	n, err := strconv.ParseUint(s, 10, 63)
	return int64(n), err
}

// exact yields exactly left bytes.
type exact struct {
	io.ReadCloser
	left int64
}

func (e *exact) Read(p []byte) (int, error) {
	n, err := e.ReadCloser.Read(p[:min(int64(len(p)), e.left)])
	e.left -= int64(n)
	switch {
	case e.left == 0 && (err == nil || err == io.EOF):
		return n, io.EOF
	case err == io.EOF:
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// A watch ends a request when the store is silent for too long while it is its
// turn to do something.
type watch struct {
	limit time.Duration
	timer *time.Timer
}

// errSilent is why a watch ended its request.
var errSilent = errors.New("it was silent for too long")

func newWatch(limit time.Duration, end context.CancelCauseFunc) *watch {
	return &watch{limit, time.AfterFunc(limit, func() { end(errSilent) })}
}

// turn says that it is the store's turn, rest that it is ours.
func (w *watch) turn() { w.timer.Reset(w.limit) }
func (w *watch) rest() { w.timer.Stop() }

// A body is what the store answers to one request.
type body struct {
	ctx   context.Context // the caller's
	cause context.Context // the request's, below ctx
	in    io.ReadCloser
	w     *watch
	end   context.CancelCauseFunc
}

func (b *body) Read(p []byte) (int, error) {
	if err := b.ctx.Err(); err != nil {
		return 0, err
	}
	b.w.turn()
	n, err := b.in.Read(p)
	b.w.rest()
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		err = fmt.Errorf("read from swift: %w", failed(b.ctx, b.cause, err))
	}
	return n, err
}

func (b *body) Close() error {
	b.w.rest()
	b.end(nil)
	return b.in.Close()
}
