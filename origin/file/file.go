// Package file keeps image data as files in one directory or several.
//
// An object is the file DIR/KEY, and its location is file://NAME/KEY. The
// location does not say which of the directories it is: each is asked in turn,
// which costs a look at a handful of names, and an operator may move files from
// one to another (with mv, which keeps the time that the validator knows). The
// directories are flat: there are as many files as images, some thousands, which
// every file system finds by name as fast as a few; sub-folders would each need
// to be made and synced before an object in them is durable.
//
// While it is written, an object is a file DIR/.tmp-KEY, locked by its writer. It
// gets its name by link(2), which replaces nothing. An unnamed file (O_TMPFILE)
// would leave nothing to sweep after a crash, but network file systems have none,
// and one way for all is worth more than the sweep costs.
package file

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"sync"
	"syscall"

	"nearsight/origin"
)

// defaultReserve holds the write-ahead log of a busy registry many times.
const defaultReserve = 64 << 20

// Options configure a Store. Either Dir or Dirs is required.
type Options struct {
	// Dir holds the objects. It is made if missing. Several stores, of one
	// process or more, may share it.
	Dir string
	// Dirs hold the objects together, where Dir is not set. They are made if
	// missing, and none is another one or lies in another one. Two on one
	// file system are allowed, for it may have quotas.
	Dirs []Dir
	// Name is the store's name in its locations; "" means "default". It has
	// only letters, digits, '.', '_' and '-', and begins with none of these
	// three.
	Name string
	// Reserve is the free space, in bytes, that Put leaves to others on each
	// file system, above all to a database there, which could not even write
	// down that an upload failed; 0 means 64 MiB and less than 0 means none.
	// Each upload under way may look at the free space up to 1 MiB late.
	Reserve int64
	// AsIs opens the directories as they are, for who looks beside their server:
	// none is made, and nothing is written or removed before Put or Delete.
	AsIs bool
	// Log gets what was swept at Open; nil means slog.Default().
	Log *slog.Logger
}

// A Dir is one directory of a store.
type Dir struct {
	// Path is where it is.
	Path string
	// Weight is greater where objects shall go first. Equal weights, as that
	// of 0, mean: where there is more room. See Store.Put.
	Weight int
}

// A Store is an origin.WriteStore, an origin.ListStore and an origin.LocalStore.
// A read that hangs in the file system (a network one, its server gone) cannot be
// called off: ctx ends a body between two reads.
//
// The validator of a file is its size and its time. Whoever changes the bytes and
// restores both is not noticed here, but by the digest of the data.
type Store struct {
	dirs   []*directory
	prefix string // of locations
	// reserve is the least free space in bytes, and space what the file system
	// of a file has. Tests let it shrink.
	reserve int64
	space   func(f *os.File) (free, total int64, err error)
	// step does f, which is the step of writing called op. Tests let it fail,
	// before or after.
	step func(op string, f func() error) error

	mu sync.Mutex
	// puts has the keys that a Put is writing, and what is closed at its end.
	puts map[string]chan struct{}
}

var _ interface {
	origin.WriteStore
	origin.ListStore
	origin.LocalStore
} = (*Store)(nil)

// Open opens the store in the directories of o and removes what crashed writers
// left there, unless Options.AsIs. It fails if it cannot list and write each of them.
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
		space:   space,
		step:    func(_ string, f func() error) error { return f() },
		puts:    make(map[string]chan struct{}),
	}
	if err := s.open(o); err != nil {
		return nil, fmt.Errorf("file store %s: %w", o.Name, err)
	}
	return s, nil
}

func (s *Store) open(o Options) error {
	dirs := o.Dirs
	switch {
	case o.Dir != "" && len(dirs) > 0:
		return errors.New("both one directory and several are set")
	case o.Dir != "":
		dirs = []Dir{{Path: o.Dir}}
	case len(dirs) == 0:
		return errors.New("no directory is set")
	}
	for _, dir := range dirs {
		d, err := openDir(dir, o)
		if err != nil {
			return fmt.Errorf("directory %s: %w", dir.Path, err)
		}
		s.dirs = append(s.dirs, d)
	}
	return apart(s.dirs)
}

// Locate implements origin.WriteStore.
func (s *Store) Locate(id string) origin.Location {
	return origin.Location{URL: s.prefix + origin.NewKey(id)}
}

// key returns the file name of the object at loc, or ErrLocation.
func (s *Store) key(loc origin.Location) (string, error) {
	key, ok := strings.CutPrefix(loc.URL, s.prefix)
	if !ok || !validKey(key) {
		return "", fmt.Errorf("%w: %.300q is not a file of this store (%sKEY)", origin.ErrLocation, loc.URL, s.prefix)
	}
	return key, nil
}

// validKey says whether key is a plain file name, and not that of a temporary
// file: it cannot lead out of the directory.
func validKey(key string) bool {
	// 255 is NAME_MAX of Linux, and a temporary file has the key in its name.
	return origin.ValidKey(key) && len(tempPrefix+key) <= 255
}

// Delete implements origin.WriteStore. It is durable, also when the object was
// gone already: the deletion that failed to become so may be repeated. A
// directory that is away may hold the object, so that it fails, after it has
// done its work in the others.
func (s *Store) Delete(ctx context.Context, loc origin.Location) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	key, err := s.key(loc)
	if err != nil {
		return err
	}
	var failed error
	for _, d := range s.dirs {
		if err := s.deleteIn(d, key); err != nil && failed == nil {
			failed = failedWrite("delete", loc, d.named(err))
		}
	}
	return failed
}

// deleteIn removes the object of the key from d, and what a Put left of it there.
func (s *Store) deleteIn(d *directory, key string) error {
	if err := d.same(); err != nil {
		return err
	}
	if err := s.step("delete", func() error {
		if _, err := removeLeftover(d.join(tempPrefix + key)); err != nil {
			return err
		}
		return removeIfThere(d.join(key))
	}); err != nil {
		return err
	}
	return s.step("sync dir", d.sync)
}

func removeIfThere(path string) error {
	if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// failedWrite makes a sentinel out of what the system said to a writer.
func failedWrite(op string, loc origin.Location, err error) error {
	return fmt.Errorf("%s %s: %w: %v", op, loc.URL, writeSentinel(err), reason(err))
}

func writeSentinel(err error) error {
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT), errors.Is(err, syscall.EFBIG):
		return origin.ErrFull
	case errors.Is(err, fs.ErrExist):
		return origin.ErrExists
	}
	return origin.ErrUnavailable
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
