// Package file keeps image data as files in one directory.
//
// An object is the file DIR/KEY, and its location is file://NAME/KEY. The
// directory is flat: there are as many files as images, some thousands, which
// every file system finds by name as fast as a few; sub-folders would each need
// to be made and synced before an object in them is durable.
//
// While it is written, an object is a file DIR/.tmp-*, locked by its writer. It
// gets its name by link(2), which replaces nothing. An unnamed file (O_TMPFILE)
// would leave nothing to sweep after a crash, but network file systems have none,
// and one way for all is worth more than the sweep costs.
package file

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"nearsight/origin"
)

// defaultReserve holds the write-ahead log of a busy registry many times.
const defaultReserve = 64 << 20

// Options configure a Store. Only Dir is required.
type Options struct {
	// Dir holds the objects. It is made if missing. Several stores, of one
	// process or more, may share it.
	Dir string
	// Name is the store's name in its locations; "" means "default". It has
	// only letters, digits, '.', '_' and '-', and begins with none of these
	// three.
	Name string
	// Reserve is the free space, in bytes, that Put leaves to others on the
	// file system, above all to a database there, which could not even write
	// down that an upload failed; 0 means 64 MiB and less than 0 means none.
	// Each upload under way may look at the free space up to 1 MiB late.
	Reserve int64
	// Log gets what was swept at Open; nil means slog.Default().
	Log *slog.Logger
}

// A Store is an origin.WriteStore and an origin.LocalStore. A read that hangs in
// the file system (a network one, its server gone) cannot be called off: ctx
// ends a body between two reads.
type Store struct {
	dir    string // absolute
	self   fs.FileInfo
	prefix string // of locations
	// reserve is the least free space in bytes, and free what there is on the
	// file system of a file. Tests let it shrink.
	reserve int64
	free    func(f *os.File) (int64, error)
	// step does f, which is the step of writing called op. Tests let it fail,
	// before or after.
	step func(op string, f func() error) error
}

var _ interface {
	origin.WriteStore
	origin.LocalStore
} = (*Store)(nil)

// Open opens the store in o.Dir and removes what crashed writers left there. It
// fails if it cannot list and write the directory.
func Open(o Options) (*Store, error) {
	if o.Name == "" {
		o.Name = "default"
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if o.Reserve == 0 {
		o.Reserve = defaultReserve
	}
	if !validKey(o.Name) {
		return nil, fmt.Errorf("file store: bad name %q", o.Name)
	}
	s := &Store{
		prefix:  "file://" + o.Name + "/",
		reserve: o.Reserve,
		free:    freeSpace,
		step:    func(_ string, f func() error) error { return f() },
	}
	if err := s.open(o.Dir, o.Log); err != nil {
		return nil, fmt.Errorf("file store %s: directory %s: %w", o.Name, o.Dir, err)
	}
	return s, nil
}

func (s *Store) open(dir string, log *slog.Logger) (err error) {
	if dir == "" {
		return errors.New("none is set")
	}
	if s.dir, err = filepath.Abs(dir); err != nil {
		return err
	}
	if err := makeDir(s.dir); err != nil {
		return err
	}
	if s.self, err = os.Stat(s.dir); err != nil {
		return err
	}
	n, err := sweep(s.dir)
	if err != nil {
		return err
	}
	if n > 0 {
		log.Info("removed unfinished uploads", "dir", s.dir, "files", n)
	}
	// Better now than in the middle of an upload.
	f, err := createTemp(s.dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return os.Remove(f.Name())
}

// makeDir makes dir durably, with its parents, unless it is there.
func makeDir(dir string) error {
	info, err := os.Stat(dir)
	switch {
	case err == nil && info.IsDir():
		return nil
	case err == nil:
		return syscall.ENOTDIR
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	parent := filepath.Dir(dir)
	if err := makeDir(parent); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncDir(parent)
}

// Locate implements origin.WriteStore.
func (s *Store) Locate(id string) origin.Location {
	return origin.Location{URL: s.prefix + id + "." + random()}
}

func random() string {
	var b [8]byte
	rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// path returns the path of the object at loc, or ErrLocation.
func (s *Store) path(loc origin.Location) (string, error) {
	key, ok := strings.CutPrefix(loc.URL, s.prefix)
	if !ok || !validKey(key) {
		return "", fmt.Errorf("%w: %.300q is not a file of this store (%sKEY)", origin.ErrLocation, loc.URL, s.prefix)
	}
	return filepath.Join(s.dir, key), nil
}

// validKey says whether key is a plain file name, and not that of a temporary
// file: it cannot lead out of the directory.
func validKey(key string) bool {
	// 255 is NAME_MAX of Linux.
	if key == "" || len(key) > 255 || strings.ContainsRune("._-", rune(key[0])) {
		return false
	}
	for _, c := range []byte(key) {
		if (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') && c != '.' && c != '_' && c != '-' {
			return false
		}
	}
	return true
}

// Stat implements origin.Store.
func (s *Store) Stat(ctx context.Context, loc origin.Location) (origin.Info, error) {
	if err := ctx.Err(); err != nil {
		return origin.Info{}, err
	}
	path, err := s.path(loc)
	if err != nil {
		return origin.Info{}, err
	}
	fi, err := os.Lstat(path)
	if err != nil {
		return origin.Info{}, s.failedRead("stat", loc, err)
	}
	return check(loc, fi)
}

// LocalPath implements origin.LocalStore.
func (s *Store) LocalPath(loc origin.Location) (string, error) {
	if _, err := s.Stat(context.Background(), loc); err != nil {
		return "", err
	}
	return s.path(loc)
}

// check describes the file, if it is the one that loc means.
func check(loc origin.Location, fi fs.FileInfo) (origin.Info, error) {
	if !fi.Mode().IsRegular() {
		return origin.Info{}, fmt.Errorf("%s: not a regular file: %w", loc.URL, origin.ErrNotFound)
	}
	info := describe(fi)
	if loc.Validator != "" && loc.Validator != info.Validator {
		return origin.Info{}, fmt.Errorf("%s: %w: validator %s, not %s", loc.URL, origin.ErrChanged, info.Validator, loc.Validator)
	}
	return info, nil
}

func describe(fi fs.FileInfo) origin.Info {
	return origin.Info{
		Size:      fi.Size(),
		Validator: fmt.Sprintf("%x-%x", fi.Size(), fi.ModTime().UnixNano()),
		ModTime:   fi.ModTime().UTC(),
	}
}

// Open implements origin.Store. A negative offset is served as 0, and says so.
func (s *Store) Open(ctx context.Context, loc origin.Location, off, n int64) (*origin.Object, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	path, err := s.path(loc)
	if err != nil {
		return nil, err
	}
	// No link is followed out of the directory, and no pipe is waited for.
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, syscall.ELOOP) {
		return nil, fmt.Errorf("open %s: a symbolic link: %w", loc.URL, origin.ErrNotFound)
	} else if err != nil {
		return nil, s.failedRead("open", loc, err)
	}
	fi, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, s.failedRead("open", loc, err)
	}
	info, err := check(loc, fi)
	if err != nil {
		f.Close()
		return nil, err
	}
	off = max(off, 0)
	left := max(info.Size-off, 0)
	if n < 0 || n > left {
		n = left
	}
	return &origin.Object{Info: info, Offset: off, Length: n, Body: &body{ctx, f, loc.URL, off, off + n}}, nil
}

// A body yields the bytes from pos to end of f.
type body struct {
	ctx      context.Context
	f        *os.File
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
	b.pos += int64(n)
	switch {
	case err == io.EOF && b.pos < b.end:
		err = io.ErrUnexpectedEOF // the file was cut under us
	case err == io.EOF:
		err = nil // the next Read says it
	case err != nil:
		err = fmt.Errorf("read %s: %w: %v", b.url, origin.ErrUnavailable, reason(err))
	}
	return n, err
}

func (b *body) Close() error { return b.f.Close() }

// Delete implements origin.WriteStore. It is durable, also when the object was
// gone already: the deletion that failed to become so may be repeated.
func (s *Store) Delete(ctx context.Context, loc origin.Location) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	path, err := s.path(loc)
	if err != nil {
		return err
	}
	err = s.sameDir()
	if err == nil {
		err = s.step("delete", func() error { return removeIfThere(path) })
	}
	if err == nil {
		err = s.step("sync dir", func() error { return syncDir(s.dir) })
	}
	if err != nil {
		return failedWrite("delete", loc, err)
	}
	return nil
}

func removeIfThere(path string) error {
	if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// sameDir finds out that the directory is not the one that was opened, because
// its file system was unmounted, for example. Nothing must be written there
// then, and what it lacks is not lost.
func (s *Store) sameDir() error {
	fi, err := os.Stat(s.dir)
	if err != nil {
		return fmt.Errorf("directory %s: %v", s.dir, reason(err))
	}
	if !os.SameFile(fi, s.self) {
		return fmt.Errorf("directory %s is not the one that was opened", s.dir)
	}
	return nil
}

// failedRead makes a sentinel out of what the system said to a reader.
func (s *Store) failedRead(op string, loc origin.Location, err error) error {
	sentinel := origin.ErrUnavailable
	if errors.Is(err, fs.ErrNotExist) {
		if away := s.sameDir(); away != nil {
			err = away
		} else {
			sentinel = origin.ErrNotFound
		}
	}
	return fmt.Errorf("%s %s: %w: %v", op, loc.URL, sentinel, reason(err))
}

// failedWrite does so for a writer.
func failedWrite(op string, loc origin.Location, err error) error {
	sentinel := origin.ErrUnavailable
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT), errors.Is(err, syscall.EFBIG):
		sentinel = origin.ErrFull
	case errors.Is(err, fs.ErrExist):
		sentinel = origin.ErrExists
	}
	return fmt.Errorf("%s %s: %w: %v", op, loc.URL, sentinel, reason(err))
}

// reason leaves out the path that the errors of package os begin with.
func reason(err error) error {
	var pe *fs.PathError
	var le *os.LinkError
	switch {
	case errors.As(err, &pe):
		return pe.Err
	case errors.As(err, &le):
		return le.Err
	}
	return err
}
