package file

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"nearsight/origin"
)

const (
	// holeSize bytes of zeros, aligned, are left out. Smaller holes would cost
	// more in extents of the file than they save in space.
	holeSize = 64 << 10
	// writeSize bytes are collected before they are written, so that a slow
	// sender makes no small writes.
	writeSize = 4 * holeSize
	// lookSize bytes are written between two looks at the free space. A look
	// costs a microsecond on a local disk and a round trip on a network one.
	lookSize = 4 * writeSize
)

// Put implements origin.WriteStore. Zeros become holes. An error of r is wrapped,
// and origin.ErrRead with it.
//
// Of several directories it takes the one of the greatest weight that has room for
// size, or the one with the most room if none has or size is unknown; if that
// fails before r was asked for a byte, it takes the next. It is origin.ErrFull when
// none has room, or when the free space would fall below Options.Reserve: not
// because of size, since nobody knows yet how much of it is zeros, but at the first
// byte that is too much.
//
// Two Puts of the Store at one location wait for each other. Other stores that
// share a directory have locations of their own, as long as they use Locate.
func (s *Store) Put(ctx context.Context, loc origin.Location, size int64, r io.Reader) (origin.Location, error) {
	if err := ctx.Err(); err != nil {
		return loc, err
	}
	key, err := s.key(loc)
	if err != nil {
		return loc, err
	}
	release, err := s.claim(ctx, key)
	if err != nil {
		return loc, err
	}
	defer release()
	if holds(s.dirs, key) { // link would find it too, in one directory and after all the writing
		return loc, failedWrite("put", loc, fs.ErrExist)
	}
	p, w, err := s.begin(key, size)
	if err != nil {
		return loc, fmt.Errorf("put %s: %w", loc.URL, err)
	}
	if p.fits {
		p.due.Add(size)
		defer p.due.Add(-size)
	}
	info, err := s.put(ctx, w, p.join(key), size, r)
	switch {
	case err == nil:
		return origin.Location{URL: loc.URL, Validator: info.Validator}, nil
	case errors.Is(err, origin.ErrRead), errors.Is(err, origin.ErrSize), errors.Is(err, ctx.Err()):
		return loc, fmt.Errorf("put %s: %w", loc.URL, err)
	}
	return loc, failedWrite("put", loc, p.named(err))
}

// claim waits until no other Put is at the key, and then keeps others waiting
// until release.
func (s *Store) claim(ctx context.Context, key string) (release func(), err error) {
	for {
		s.mu.Lock()
		other, busy := s.puts[key]
		mine := make(chan struct{})
		if !busy {
			s.puts[key] = mine
		}
		s.mu.Unlock()
		if !busy {
			return func() {
				s.mu.Lock()
				delete(s.puts, key)
				s.mu.Unlock()
				close(mine)
			}, nil
		}
		select {
		case <-other:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// begin makes the temporary file of the key in the first place that takes it. Its
// error is ErrFull when every directory is full, and otherwise ErrUnavailable.
func (s *Store) begin(key string, size int64) (place, *writer, error) {
	sentinel := origin.ErrFull
	var why []string
	for _, p := range s.places(size) {
		w, err := s.beginIn(p, key)
		if err == nil {
			return p, w, nil
		}
		if writeSentinel(err) != origin.ErrFull {
			sentinel = origin.ErrUnavailable
		}
		why = append(why, p.named(err).Error())
	}
	return place{}, nil, fmt.Errorf("%w: %s", sentinel, strings.Join(why, "; "))
}

func (s *Store) beginIn(p place, key string) (w *writer, err error) {
	if p.err != nil {
		return nil, p.err
	}
	w = &writer{s: s}
	err = s.step("create", func() (err error) {
		w.f, err = createTemp(p.path, key)
		return err
	})
	if err == nil {
		err = w.look() // before r is asked for a byte
	}
	if err != nil && w.f != nil {
		os.Remove(w.f.Name())
		w.f.Close()
	}
	return w, err
}

// put fills the temporary file of w, gives it the name path and makes that
// durable.
func (s *Store) put(ctx context.Context, w *writer, path string, size int64, r io.Reader) (info origin.Info, err error) {
	f := w.f
	defer func() {
		if err != nil {
			undo(f, path)
		}
		f.Close() // and so unlock; nothing unwritten is left to fail
	}()
	if err := s.write(ctx, w, size, r); err != nil {
		return info, err
	}
	if err := s.step("sync", f.Sync); err != nil {
		return info, err
	}
	fi, err := f.Stat()
	if err != nil {
		return info, err
	}
	if err := ctx.Err(); err != nil {
		return info, err
	}
	if err := s.step("link", func() error { return os.Link(f.Name(), path) }); err != nil {
		return info, err
	}
	if err := s.step("remove", func() error { return os.Remove(f.Name()) }); err != nil {
		return info, err
	}
	return describe(fi), s.step("sync dir", func() error { return syncDir(filepath.Dir(path)) })
}

// undo removes what a failed put left, also when the step that failed was done
// nevertheless, as over a network: but never the object of somebody else. What
// it cannot remove, the next Open or a Delete will.
func undo(f *os.File, path string) {
	if isAt(f, f.Name()) {
		os.Remove(f.Name())
	}
	if isAt(f, path) {
		os.Remove(path)
		syncDir(filepath.Dir(path))
	}
}

// write copies r to the file of w.
func (s *Store) write(ctx context.Context, w *writer, size int64, r io.Reader) error {
	buf := make([]byte, writeSize)
	var pos int64
	for {
		n, end, err := fill(ctx, r, buf)
		pos += int64(n)
		switch {
		case err != nil && err == ctx.Err():
			return err
		case err != nil:
			return fmt.Errorf("%w: after %d bytes: %w", origin.ErrRead, pos, err)
		case size >= 0 && (pos > size || end && pos < size):
			return fmt.Errorf("%w: expected %d bytes, received %d", origin.ErrSize, size, pos)
		}
		if err := w.writeData(buf[:n], pos-int64(n)); err != nil {
			return err
		}
		if end {
			break
		}
	}
	// What ends with a hole is too short until now.
	return s.step("truncate", func() error { return w.f.Truncate(pos) })
}

// fill reads until buf is full or r ends. It is not io.ReadFull: that one says
// io.ErrUnexpectedEOF at the end of r, and cut HTTP bodies say so too.
func fill(ctx context.Context, r io.Reader, buf []byte) (n int, end bool, err error) {
	for n < len(buf) {
		if err := ctx.Err(); err != nil {
			return n, false, err
		}
		k, err := r.Read(buf[n:])
		n += k
		if err == io.EOF {
			return n, true, nil
		} else if err != nil {
			return n, false, err
		}
	}
	return n, false, nil
}

// A writer fills one file.
type writer struct {
	s    *Store
	f    *os.File
	room int // bytes that may be written before the next look
}

// writeData writes b at pos, a multiple of holeSize, without its zeros.
func (w *writer) writeData(b []byte, pos int64) error {
	for len(b) > 0 {
		block := b[:min(len(b), holeSize)]
		if !isZero(block) {
			if w.room < len(block) {
				if err := w.look(); err != nil {
					return err
				}
			}
			if err := w.s.step("write", func() error { _, err := w.f.WriteAt(block, pos); return err }); err != nil {
				return err
			}
			w.room -= len(block)
		}
		b, pos = b[len(block):], pos+int64(len(block))
	}
	return nil
}

// look sees whether the reserve stays free when lookSize bytes more are written.
func (w *writer) look() error {
	if w.s.reserve < 0 {
		w.room = math.MaxInt
		return nil
	}
	free, _, err := w.s.space(w.f)
	if err != nil {
		return err
	}
	if free-lookSize < w.s.reserve {
		return fmt.Errorf("%d bytes are free, and %d stay so: %w", free, w.s.reserve, unix.ENOSPC)
	}
	w.room = lookSize
	return nil
}

// isZero compares b with itself, one byte further on: all are equal if each is
// equal to the next.
func isZero(b []byte) bool {
	return b[0] == 0 && bytes.Equal(b[1:], b[:len(b)-1])
}
