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
	tempPrefix = ".tmp-"
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
// and origin.ErrRead with it. It is origin.ErrFull when the free space would fall
// below Options.Reserve: not because of size, since nobody knows yet how much of
// it is zeros, but at the first byte that is too much.
func (s *Store) Put(ctx context.Context, loc origin.Location, size int64, r io.Reader) (origin.Location, error) {
	if err := ctx.Err(); err != nil {
		return loc, err
	}
	path, err := s.path(loc)
	if err != nil {
		return loc, err
	}
	info, err := s.put(ctx, path, size, r)
	switch {
	case err == nil:
		return origin.Location{URL: loc.URL, Validator: info.Validator}, nil
	case errors.Is(err, origin.ErrRead), errors.Is(err, origin.ErrSize), errors.Is(err, ctx.Err()):
		return loc, fmt.Errorf("put %s: %w", loc.URL, err)
	}
	return loc, failedWrite("put", loc, err)
}

// put writes a temporary file, gives it its name and makes that durable.
func (s *Store) put(ctx context.Context, path string, size int64, r io.Reader) (info origin.Info, err error) {
	if err := s.sameDir(); err != nil {
		return info, err
	}
	if _, err := os.Lstat(path); err == nil {
		return info, fs.ErrExist // link would find it too, after all the writing
	}
	f, err := createTemp(s.dir)
	if err != nil {
		return info, err
	}
	defer func() {
		if err != nil {
			s.undo(f, path)
		}
		f.Close() // and so unlock; nothing unwritten is left to fail
	}()
	if err := s.write(ctx, f, size, r); err != nil {
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
	return describe(fi), s.step("sync dir", func() error { return syncDir(s.dir) })
}

// undo removes what a failed put left, also when the step that failed was done
// nevertheless, as over a network: but never the object of somebody else. What
// it cannot remove, the next Open or a Delete will.
func (s *Store) undo(f *os.File, path string) {
	os.Remove(f.Name())
	mine, err := f.Stat()
	if err != nil {
		return
	}
	if fi, err := os.Lstat(path); err == nil && os.SameFile(fi, mine) {
		os.Remove(path)
		syncDir(s.dir)
	}
}

// write copies r to f.
func (s *Store) write(ctx context.Context, f *os.File, size int64, r io.Reader) error {
	buf := make([]byte, writeSize)
	var pos int64
	w := writer{s: s, f: f}
	if err := w.look(); err != nil { // before r is asked for a byte
		return err
	}
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
	return s.step("truncate", func() error { return f.Truncate(pos) })
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
	free, err := w.s.free(w.f)
	if err != nil {
		return err
	}
	if free-lookSize < w.s.reserve {
		return fmt.Errorf("%d bytes are free, and %d stay so: %w", free, w.s.reserve, unix.ENOSPC)
	}
	w.room = lookSize
	return nil
}

// freeSpace returns how many bytes may still be written on the file system of f.
func freeSpace(f *os.File) (int64, error) {
	var st unix.Statfs_t
	for {
		err := unix.Fstatfs(int(f.Fd()), &st)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return 0, os.NewSyscallError("fstatfs", err)
		}
		break
	}
	if st.Blocks == 0 {
		return math.MaxInt64, nil // some file systems in user space do not tell
	}
	unit := max(st.Frsize, 1) // not Bsize, which some make larger for faster copies
	return int64(min(st.Bavail, uint64(math.MaxInt64/unit))) * unit, nil
}

// isZero compares b with itself, one byte further on: all are equal if each is
// equal to the next.
func isZero(b []byte) bool {
	return b[0] == 0 && bytes.Equal(b[1:], b[:len(b)-1])
}

// createTemp makes a temporary file and locks it against sweep.
func createTemp(dir string) (*os.File, error) {
	for {
		f, err := os.OpenFile(filepath.Join(dir, tempPrefix+random()), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return nil, err
		}
		var st unix.Stat_t
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			err = unix.Fstat(int(f.Fd()), &st)
		}
		if err == nil && st.Nlink > 0 {
			return f, nil
		}
		f.Close()
		// Without an error, or with EWOULDBLOCK, a sweep was faster than the
		// lock and removed the file: take another.
		if err != nil && err != unix.EWOULDBLOCK {
			os.Remove(f.Name())
			return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
		}
	}
}

// sweep removes the temporary files that nobody writes any more, and counts them.
func sweep(dir string) (removed int, err error) {
	names, err := os.ReadDir(dir)
	if err != nil {
		return 0, err
	}
	for _, de := range names {
		if !strings.HasPrefix(de.Name(), tempPrefix) {
			continue
		}
		path := filepath.Join(dir, de.Name())
		// For writing, because NFS locks for writers only what they may write.
		f, err := os.OpenFile(path, os.O_WRONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
		if errors.Is(err, fs.ErrNotExist) {
			continue // its writer has finished
		} else if err != nil {
			return removed, err
		}
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			err = removeIfThere(path)
			removed++
		}
		f.Close() // after the removal: a writer that gets the lock now sees it
		if err != nil && err != unix.EWOULDBLOCK {
			return removed, fmt.Errorf("sweep %s: %w", path, err)
		}
	}
	return removed, nil
}

// syncDir makes names in dir durable. File systems that cannot do this (EINVAL)
// need it not.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); !errors.Is(err, unix.EINVAL) {
		return err
	}
	return nil
}
