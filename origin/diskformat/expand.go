package diskformat

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"io"

	"github.com/klauspost/compress/zstd"
)

const (
	expandFree  = 64 << 20 // bytes that may come out whatever went in
	expandRatio = 200      // of what comes out to what goes in, after that
)

// Compression returns how a file is compressed by the start of it, of 6 bytes or more:
// gzip, zip, xz, zstd, or "" if in none of these ways.
func Compression(head []byte) string {
	for _, c := range []struct{ kind, magic string }{
		{"gzip", "\x1f\x8b\x08"},
		{"zip", "PK\x03\x04"},
		{"xz", "\xfd7zXZ\x00"},
		{"zstd", "\x28\xb5\x2f\xfd"},
	} {
		if bytes.HasPrefix(head, []byte(c.magic)) {
			return c.kind
		}
	}
	return ""
}

// Expand returns what is compressed in r, one layer of it (rule O2). kind is gzip, zip
// or zstd; a zip must have exactly one member. No name in it is looked at.
//
// It reads r as it is read, in constant memory, and not before. Errors of r come back
// as they are; else they are a *Refusal: expand-limit if more than the largest disk
// comes out, or more than 200 times what went in once that is 64 MiB, or a zstd window
// has more than 8 MiB; expand-names if there are more members; expand-corrupt if
// lengths or checksums are wrong, or there is no such kind.
func Expand(r io.Reader, kind string, l Limits) io.Reader {
	e := &expander{limits: l.WithDefaults()}
	e.in.r = r
	e.buf = bufio.NewReaderSize(&e.in, 64<<10)
	switch kind {
	case "gzip":
		e.open = func() (io.Reader, error) { return gzip.NewReader(e.buf) }
	case "zip":
		e.open = func() (io.Reader, error) { return newZipReader(e.buf) }
	case "zstd":
		e.open = e.openZstd
	default:
		e.open = func() (io.Reader, error) {
			return nil, refuse("expand-corrupt", "data that is compressed as %.20q cannot be expanded", kind)
		}
	}
	return e
}

// An expander is what Expand returns.
type expander struct {
	limits Limits
	in     counted
	buf    *bufio.Reader
	open   func() (io.Reader, error)

	from io.Reader // nil before the first byte
	out  int64     // bytes that came out
	err  error     // which ended it
}

// A counted reader notes how much was read, and the error that was not the end.
type counted struct {
	r   io.Reader
	n   int64
	err error
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	if err != nil && !errors.Is(err, io.EOF) {
		c.err = err
	}
	return n, err
}

// Read implements io.Reader.
func (e *expander) Read(p []byte) (int, error) {
	if e.err != nil {
		return 0, e.err
	}
	if e.from == nil {
		if e.from, e.err = e.open(); e.err != nil {
			e.err = e.explain(e.err)
			return 0, e.err
		}
	}
	n, err := e.from.Read(p)
	e.out += int64(n)
	switch {
	case e.out > e.limits.VirtualSize:
		err = refuse("expand-limit", "more than %d bytes come out", e.limits.VirtualSize)
	case e.out > expandFree && e.out/expandRatio > e.in.n:
		err = refuse("expand-limit", "more than %d times as much comes out", expandRatio)
	case err != nil && !errors.Is(err, io.EOF):
		err = e.explain(err)
	}
	if e.err = err; err != nil && e.from != nil {
		if c, ok := e.from.(interface{ Close() }); ok {
			c.Close()
		}
	}
	return n, err
}

// explain returns what an error of a decoder is to the caller.
func (e *expander) explain(err error) error {
	var r *Refusal
	switch {
	case e.in.err != nil:
		return e.in.err
	case errors.As(err, &r):
		return err
	case errors.Is(err, zstd.ErrWindowSizeExceeded), errors.Is(err, zstd.ErrDecoderSizeExceeded):
		return refuse("expand-limit", "a zstd window of more than %d bytes", zstdWindow)
	}
	return refuse("expand-corrupt", "the compressed data is damaged: %v", err)
}

// openZstd reads zstd frames in the caller's own goroutine.
func (e *expander) openZstd() (io.Reader, error) {
	return zstd.NewReader(e.buf, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxWindow(zstdWindow), zstd.WithDecoderMaxMemory(1<<62)) // what comes out is limited by Read
}
