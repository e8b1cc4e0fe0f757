package identity

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"sync/atomic"
	"syscall"
	"time"
)

// looks is how often a file is looked at for a change.
const looks = time.Second

// A follower keeps in force what a file says. A version that cannot be read is
// logged, and the one before stays in force.
type follower[T any] struct {
	path          string
	read          func(path string) (T, version, error)
	broken, fresh string // messages for the log
	log           *slog.Logger
	now           atomic.Pointer[T]
	busy          chan struct{} // has an element while somebody looks at the file
	seen          version       // of the file that was looked at last; for who is busy
	unread        bool          // it could not be read, as for want of descriptors
}

// open reads the file for the first time.
func (f *follower[T]) open() error {
	if f.log == nil {
		f.log = slog.Default()
	}
	f.busy = make(chan struct{}, 1)
	said, seen, err := f.read(f.path)
	if err != nil {
		return err
	}
	f.seen = seen
	f.now.Store(&said)
	return nil
}

// Run follows the file until ctx ends, and returns nil then.
func (f *follower[T]) Run(ctx context.Context) error {
	often := time.NewTicker(looks)
	defer often.Stop()
	for {
		select {
		case <-often.C:
			f.look(ctx) // fails with ctx alone
		case <-ctx.Done():
			return nil
		}
	}
}

// look reads the file if it is another than before, or was not read then. It fails only
// if ctx ends first.
func (f *follower[T]) look(ctx context.Context) error {
	select {
	case f.busy <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { <-f.busy }()
	var now version // zero if it is not there
	if info, err := os.Stat(f.path); err == nil {
		now = versionOf(info)
	}
	changed := now != f.seen
	if !changed && !f.unread {
		return nil
	}
	f.seen = now
	said, seen, err := f.read(f.path)
	if err != nil {
		var failed *fs.PathError // of the file, and not of what is in it
		if f.unread = errors.As(err, &failed); changed {
			f.log.Error(f.broken, "err", err)
		}
		return nil
	}
	f.seen, f.unread = seen, false
	f.now.Store(&said)
	f.log.Info(f.fresh)
	return nil
}

// A version tells whether a file is the same as before.
type version struct {
	device, inode uint64
	size          int64
	modified      int64 // nanoseconds
	mode          fs.FileMode
}

func versionOf(info fs.FileInfo) version {
	v := version{size: info.Size(), modified: info.ModTime().UnixNano(), mode: info.Mode()}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		v.device, v.inode = uint64(st.Dev), st.Ino
	}
	return v
}

// readText reads a file of at most limit bytes, and refuses one that everybody can
// read or write. what it has is for the errors.
func readText(path, what string, limit int64) ([]byte, version, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, version{}, fmt.Errorf("read %s: %w", what, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, version{}, fmt.Errorf("read %s: %w", what, err)
	}
	v := versionOf(info)
	if perm := info.Mode().Perm(); perm&0o007 != 0 {
		return nil, v, fmt.Errorf("%s of %s are not used, because everybody on this machine can reach the file (mode %04o): chmod 600 %[2]s", what, path, perm)
	}
	text, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, v, fmt.Errorf("read %s: %w", what, err)
	}
	if int64(len(text)) > limit {
		return nil, v, fmt.Errorf("%s of %s: the file is larger than %d bytes", what, path, limit)
	}
	return text, v, nil
}
