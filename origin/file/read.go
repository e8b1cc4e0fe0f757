package file

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"nearsight/origin"
)

// Stat implements origin.Store.
func (s *Store) Stat(ctx context.Context, loc origin.Location) (origin.Info, error) {
	if err := ctx.Err(); err != nil {
		return origin.Info{}, err
	}
	_, info, err := s.stat(loc)
	return info, err
}

// LocalPath implements origin.LocalStore.
func (s *Store) LocalPath(loc origin.Location) (string, error) {
	path, _, err := s.stat(loc)
	return path, err
}

// stat finds the file that loc means.
func (s *Store) stat(loc origin.Location) (path string, info origin.Info, err error) {
	err = s.find("stat", loc, func(at string) error {
		fi, err := os.Lstat(at)
		if err != nil {
			return err
		}
		if err := check(loc, fi); err != nil {
			return err
		}
		path, info = at, describe(fi)
		return nil
	})
	return path, info, err
}

// Open implements origin.Store. A negative offset is served as 0, and says so.
func (s *Store) Open(ctx context.Context, loc origin.Location, off, n int64) (*origin.Object, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var f *os.File
	var fi fs.FileInfo
	if err := s.find("open", loc, func(at string) (err error) {
		f, fi, err = openFile(loc, at)
		return err
	}); err != nil {
		return nil, err
	}
	info := describe(fi)
	off = max(off, 0)
	left := max(info.Size-off, 0)
	if n < 0 || n > left {
		n = left
	}
	return &origin.Object{Info: info, Offset: off, Length: n, Body: &body{ctx, f, fi, loc.URL, off, off + n}}, nil
}

// openFile opens the file at path, if it is the one that loc means.
func openFile(loc origin.Location, path string) (*os.File, fs.FileInfo, error) {
	// No link is followed out of the directory, and no pipe is waited for.
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, syscall.ELOOP) {
		return nil, nil, errNotRegular
	} else if err != nil {
		return nil, nil, err
	}
	fi, err := f.Stat()
	if err == nil {
		err = check(loc, fi)
	}
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return f, fi, nil
}

// find tries the path of loc in one directory after the other, until one has the
// object that loc means. Then it does not matter that another has none, or one
// that changed: a file may be on its way from directory to directory. If it came
// to one that had been tried and left one that had not, it is found the second
// time.
func (s *Store) find(op string, loc origin.Location, try func(path string) error) error {
	key, err := s.key(loc)
	if err != nil {
		return err
	}
	err = s.findKey(key, try)
	if len(s.dirs) > 1 && (errors.Is(err, origin.ErrNotFound) || errors.Is(err, origin.ErrChanged)) {
		err = s.findKey(key, try)
	}
	if err != nil {
		return fmt.Errorf("%s %s: %w", op, loc.URL, err)
	}
	return nil
}

func (s *Store) findKey(key string, try func(path string) error) error {
	var why error
	for _, d := range s.dirs {
		err := try(d.join(key))
		if err == nil {
			return nil
		}
		if errors.Is(err, fs.ErrNotExist) {
			err = d.same() // what a directory that is away has not, is not lost
		}
		if weight(err) < 0 {
			err = fmt.Errorf("%w: %v", origin.ErrUnavailable, d.named(err))
		}
		if weight(err) > weight(why) {
			why = err
		}
	}
	if why == nil {
		why = origin.ErrNotFound
	}
	return why
}

// weight orders the reasons for which a directory does not yield an object: the
// greatest is that of the store. It is negative for a reason without a sentinel.
func weight(err error) int {
	reasons := []error{nil, origin.ErrNotFound, origin.ErrChanged, origin.ErrUnavailable}
	return slices.IndexFunc(reasons, func(r error) bool { return errors.Is(err, r) })
}

var errNotRegular = fmt.Errorf("%w: it is not a regular file", origin.ErrNotFound)

// check finds out whether the file is the one that loc means.
func check(loc origin.Location, fi fs.FileInfo) error {
	if !fi.Mode().IsRegular() {
		return errNotRegular
	}
	if loc.Validator != "" && loc.Validator != describe(fi).Validator {
		return fmt.Errorf("%w: %s", origin.ErrChanged, difference(loc.Validator, fi))
	}
	return nil
}

func describe(fi fs.FileInfo) origin.Info {
	return origin.Info{
		Size:      fi.Size(),
		Validator: fmt.Sprintf("%x-%x", fi.Size(), fi.ModTime().UnixNano()),
		ModTime:   fi.ModTime().UTC(),
	}
}

// difference tells a person how the file differs from the one that had the
// validator.
func difference(validator string, fi fs.FileInfo) string {
	size, nanos, ok := parseValidator(validator)
	var is []string
	if ok && size != fi.Size() {
		is = append(is, fmt.Sprintf("its size is %d bytes and was %d", fi.Size(), size))
	}
	if ok && nanos != fi.ModTime().UnixNano() {
		is = append(is, fmt.Sprintf("its modification time is %s and was %s",
			fi.ModTime().UTC().Format(time.RFC3339Nano), time.Unix(0, nanos).UTC().Format(time.RFC3339Nano)))
	}
	if len(is) == 0 { // no validator of ours
		return fmt.Sprintf("its validator is %s and was %.80q", describe(fi).Validator, validator)
	}
	return strings.Join(is, ", ")
}

// parseValidator returns what describe made a validator of.
func parseValidator(v string) (size, nanos int64, ok bool) {
	first, second, _ := strings.Cut(v, "-")
	size, sizeErr := strconv.ParseInt(first, 16, 64)
	nanos, timeErr := strconv.ParseInt(second, 16, 64) // which may be negative
	return size, nanos, sizeErr == nil && timeErr == nil
}

// A body yields the bytes from pos to end of f, as long as f is what it was.
type body struct {
	ctx      context.Context
	f        *os.File
	was      fs.FileInfo
	url      string
	pos, end int64
}

func (b *body) Read(p []byte) (int, error) {
	if err := b.ctx.Err(); err != nil {
		return 0, err
	}
	if b.pos >= b.end {
		return 0, io.EOF
	}
	n, err := b.f.ReadAt(p[:min(int64(len(p)), b.end-b.pos)], b.pos)
	if err == nil || err == io.EOF {
		if err := b.unchanged(); err != nil {
			return 0, fmt.Errorf("read %s: %w", b.url, err)
		}
	}
	b.pos += int64(n)
	switch {
	case err == io.EOF && b.pos < b.end:
		err = io.ErrUnexpectedEOF // although the file has its size
	case err == io.EOF:
		err = nil // the next Read says it
	case err != nil:
		err = fmt.Errorf("read %s: %w: %v", b.url, origin.ErrUnavailable, reason(err))
	}
	return n, err
}

// unchanged finds out that somebody wrote to the file since it was opened: what
// was read after that is not of the object. It costs as little as a microsecond.
func (b *body) unchanged() error {
	is, err := b.f.Stat()
	if err != nil {
		return fmt.Errorf("%w: %v", origin.ErrUnavailable, reason(err))
	}
	if is.Size() != b.was.Size() || !is.ModTime().Equal(b.was.ModTime()) {
		return fmt.Errorf("%w: %s", origin.ErrChanged, difference(describe(b.was).Validator, is))
	}
	return nil
}

func (b *body) Close() error { return b.f.Close() }
