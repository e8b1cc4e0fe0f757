package file

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// tempPrefix and the key of an object are the name of the temporary file that is
// to become it.
const tempPrefix = ".tmp-"

var errBusy = errors.New("somebody else is writing it")

// createTemp makes the temporary file of the key and locks it against sweep. What
// a crashed writer left in its place is removed.
func createTemp(dir, key string) (*os.File, error) {
	path := filepath.Join(dir, tempPrefix+key)
	for {
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if errors.Is(err, fs.ErrExist) {
			if gone, err := removeLeftover(path); err != nil {
				return nil, err
			} else if !gone {
				return nil, errBusy
			}
			continue
		} else if err != nil {
			return nil, err
		}
		// Whoever was faster only looks, or removes the file: wait for that.
		err = lock(f, 0)
		if err == nil && isAt(f, path) {
			return f, nil
		}
		f.Close()
		if err != nil {
			os.Remove(path)
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
	}
}

// lock locks f against all others. With unix.LOCK_NB it does not wait, and the
// error is unix.EWOULDBLOCK.
func lock(f *os.File, flags int) error {
	for {
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|flags); err != unix.EINTR {
			return err
		}
	}
}

// isAt says whether the file at path is f and not another one.
func isAt(f *os.File, path string) bool {
	mine, err := f.Stat()
	if err != nil {
		return false
	}
	fi, err := os.Lstat(path)
	return err == nil && os.SameFile(mine, fi)
}

// lockLeftover opens and locks the temporary file at path if nobody writes it any
// more. If somebody does, it returns unix.EWOULDBLOCK, and fs.ErrNotExist if there
// is none. The caller closes the file.
func lockLeftover(path string) (*os.File, error) {
	// For writing, because NFS locks for writers only what they may write.
	f, err := os.OpenFile(path, os.O_WRONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	err = lock(f, unix.LOCK_NB)
	if err == nil && !isAt(f, path) {
		err = fs.ErrNotExist // its writer has finished; the name may be another's
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// removeLeftover removes the temporary file at path unless somebody writes it, and
// says whether it is gone.
func removeLeftover(path string) (gone bool, err error) {
	f, err := lockLeftover(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return true, nil
	case errors.Is(err, unix.EWOULDBLOCK):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("lock %s: %w", path, err)
	}
	defer f.Close() // after the removal: a writer that gets the lock now sees it
	return true, removeIfThere(path)
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
		gone, err := removeLeftover(filepath.Join(dir, de.Name()))
		if err != nil {
			return removed, fmt.Errorf("sweep: %w", err)
		}
		if gone {
			removed++
		}
	}
	return removed, nil
}
