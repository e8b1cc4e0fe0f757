package file

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"

	"nearsight/origin"
)

// A directory is one that was found in order.
type directory struct {
	path   string // absolute
	self   fs.FileInfo
	weight int
	// due is the size of the objects, in bytes, that are being written here
	// because they fit.
	due atomic.Int64
}

func openDir(dir Dir, o Options) (*directory, error) {
	if dir.Path == "" {
		return nil, errors.New("it has no path")
	}
	path, err := filepath.Abs(dir.Path)
	if err != nil {
		return nil, err
	}
	if !o.AsIs {
		if err := makeDir(path); err != nil {
			return nil, err
		}
	}
	d := &directory{path: path, weight: dir.Weight}
	if d.self, err = os.Stat(path); err != nil {
		return nil, err
	}
	if o.AsIs {
		if !d.self.IsDir() {
			return nil, syscall.ENOTDIR
		}
		return d, nil
	}
	return d, prepare(path, o.Log)
}

// prepare removes what crashed writers left in the directory at path, and sees that
// it can be written: better now than in the middle of an upload.
func prepare(path string, log *slog.Logger) error {
	n, err := sweep(path)
	if err != nil {
		return err
	}
	if n > 0 {
		log.Info("removed unfinished uploads", "dir", path, "files", n)
	}
	f, err := createTemp(path, origin.RandomName())
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

// apart refuses directories of which one is another one, or lies in another one,
// whatever their paths look like.
func apart(dirs []*directory) error {
	for i, d := range dirs {
		path, err := filepath.EvalSymlinks(d.path)
		if err != nil {
			return fmt.Errorf("directory %s: %w", d.path, err)
		}
		for up := path; ; up = filepath.Dir(up) {
			fi, err := os.Stat(up)
			if err != nil {
				return fmt.Errorf("directory %s: %w", d.path, err)
			}
			for j, other := range dirs {
				if i != j && os.SameFile(fi, other.self) {
					return fmt.Errorf("directory %s is, or is in, directory %s", d.path, other.path)
				}
			}
			if up == filepath.Dir(up) {
				break
			}
		}
	}
	return nil
}

// same finds out that the directory is not the one that was opened, because its
// file system was unmounted, for example. Nothing must be written there then, and
// what it lacks is not lost.
func (d *directory) same() error {
	fi, err := os.Stat(d.path)
	if err != nil {
		return errors.New(reason(err).Error()) // not fs.ErrNotExist: that is about objects
	}
	return d.is(fi)
}

func (d *directory) is(fi fs.FileInfo) error {
	if !os.SameFile(fi, d.self) {
		return errors.New("it is not the one that was opened")
	}
	return nil
}

// join returns the path of the file called name in d.
func (d *directory) join(name string) string { return filepath.Join(d.path, name) }

// named says which directory the error is about.
func (d *directory) named(err error) error {
	return fmt.Errorf("directory %s: %w", d.path, reason(err))
}

func (d *directory) sync() error { return syncDir(d.path) }

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

// A place is a directory that may take an object.
type place struct {
	*directory
	room int64 // bytes that may be written there
	fits bool  // the whole object has room, even if it is without zeros
	err  error // why it takes none
}

// places returns the directories in the order in which to try them for an object
// of size bytes, or -1.
func (s *Store) places(size int64) []place {
	var ps []place
	for _, d := range s.dirs {
		p := place{directory: d}
		free, _, _, err := s.measure(d)
		if err != nil {
			p.err = err
		} else {
			p.room = max(free-max(s.reserve, 0)-d.due.Load(), 0)
			p.fits = size >= 0 && size <= p.room
		}
		ps = append(ps, p)
	}
	slices.SortStableFunc(ps, comparePlaces)
	return ps
}

// comparePlaces puts first where the object fits, by weight and then room, and
// after that where it may, by room and then weight: the more of that there is, the
// more likely it suffices for what has an unknown size, or unknown holes.
func comparePlaces(a, b place) int {
	room, weight := cmp.Compare(b.room, a.room), cmp.Compare(b.weight, a.weight)
	switch {
	case a.fits != b.fits:
		if a.fits {
			return -1
		}
		return 1
	case a.fits:
		return cmp.Or(weight, room)
	}
	return cmp.Or(room, weight)
}

// Room returns how many bytes Put may still write, which leaves out
// Options.Reserve, and how many the file systems of the directories have
// together. A file system of several directories counts once. Both are
// math.MaxInt64 if one does not tell. The error, if a directory is away, wraps
// origin.ErrUnavailable.
func (s *Store) Room() (free, total int64, err error) {
	seen := make(map[uint64]bool)
	for _, d := range s.dirs {
		f, t, device, err := s.measure(d)
		if err != nil {
			return 0, 0, fmt.Errorf("room: %w: %v", origin.ErrUnavailable, d.named(err))
		}
		if seen[device] {
			continue
		}
		seen[device] = true
		free = add(free, max(f-max(s.reserve, 0), 0))
		total = add(total, t)
	}
	return free, total, nil
}

// add adds what is not negative, and stays at the greatest number.
func add(a, b int64) int64 {
	if a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
}

// measure returns the space of d's file system, and which one that is.
func (s *Store) measure(d *directory) (free, total int64, device uint64, err error) {
	f, err := os.Open(d.path)
	if err != nil {
		return 0, 0, 0, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return 0, 0, 0, err
	}
	if err := d.is(fi); err != nil {
		return 0, 0, 0, err
	}
	free, total, err = s.space(f)
	return free, total, uint64(fi.Sys().(*syscall.Stat_t).Dev), err
}

// space returns how many bytes may still be written on the file system of f, and
// how many it has. Both are math.MaxInt64 if it does not tell, as some in user
// space.
func space(f *os.File) (free, total int64, err error) {
	var st unix.Statfs_t
	for {
		err := unix.Fstatfs(int(f.Fd()), &st)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return 0, 0, os.NewSyscallError("fstatfs", err)
		}
		break
	}
	if st.Blocks == 0 {
		return math.MaxInt64, math.MaxInt64, nil
	}
	unit := max(st.Frsize, 1) // not Bsize, which some make larger for faster copies
	bytes := func(blocks uint64) int64 { return int64(min(blocks, uint64(math.MaxInt64/unit))) * unit }
	return bytes(st.Bavail), bytes(st.Blocks), nil
}
