package client

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	partSuffix    = ".part"
	versionSuffix = ".part.json"

	// holeSize is the length of the blocks that become holes, in bytes: that of
	// a qcow2 cluster. Smaller holes cost the file system more than they save.
	holeSize = 64 << 10
)

var zeros [holeSize]byte

// A partVersion says which bytes a partial file holds.
type partVersion struct {
	Hash string `json:"hash"` // of the whole data, with its algorithm
	ETag string `json:"etag"` // "" if the server gave none that is strong
}

// A part is a partial file that this process has locked. Bytes are appended;
// its length says how many are there.
type part struct {
	target string
	f      *os.File
	off    int64  // bytes that are there or in block
	block  []byte // the last of them, not written: less than holeSize
}

// openPart opens the partial file of target and locks it.
func openPart(target string) (*part, error) {
	for {
		f, err := os.OpenFile(target+partSuffix, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o666)
		if err != nil {
			return nil, err
		}
		same, err := lockPart(f)
		if err != nil {
			f.Close()
			return nil, err
		}
		if same {
			info, err := f.Stat()
			if err != nil {
				f.Close()
				return nil, err
			}
			return &part{target: target, f: f, off: info.Size(), block: make([]byte, 0, holeSize)}, nil
		}
		f.Close()
	}
}

// lockPart locks f and reports whether its name still means it: whoever held
// the lock may have finished, and then f is the target. It may be the target too
// while it still has its name, if a process was killed in renameNew; then the name
// goes away, so that nothing is written into what is finished.
func lockPart(f *os.File) (same bool, err error) {
	info, err := f.Stat()
	if err != nil {
		return false, err
	}
	if !info.Mode().IsRegular() {
		return false, fmt.Errorf("%s is not a regular file", f.Name())
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return false, fmt.Errorf("another save has locked %s", f.Name())
	} else if err != nil {
		return false, fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	named, err := os.Lstat(f.Name())
	switch {
	case errors.Is(err, os.ErrNotExist):
		return false, nil
	case err != nil || !os.SameFile(info, named):
		return false, err
	}
	if st, ok := named.Sys().(*syscall.Stat_t); ok && st.Nlink > 1 {
		return false, os.Remove(f.Name())
	}
	return true, nil
}

// version returns what setVersion noted, or the zero value: then nothing is
// known about the bytes.
func (p *part) version() (v partVersion) {
	b, err := os.ReadFile(p.target + versionSuffix)
	if err != nil || json.Unmarshal(b, &v) != nil {
		return partVersion{}
	}
	return v
}

// setVersion notes what the bytes are that will be written, before the first.
func (p *part) setVersion(v partVersion) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(p.target+versionSuffix, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW, 0o666)
	if err != nil {
		return err
	}
	_, err = f.Write(append(b, '\n'))
	return errors.Join(err, f.Close())
}

// reset forgets all bytes.
func (p *part) reset() error {
	p.off, p.block = 0, p.block[:0]
	return p.f.Truncate(0)
}

// Write appends b, in whole blocks as far as it goes.
func (p *part) Write(b []byte) (int, error) {
	total := len(b)
	for len(b) > 0 {
		n := min(int64(len(b)), holeSize-p.off%holeSize)
		if len(p.block) == 0 && (p.off+n)%holeSize == 0 {
			if err := p.put(b[:n], p.off); err != nil {
				return total - len(b), err
			}
			p.off += n
		} else {
			p.block = append(p.block, b[:n]...)
			p.off += n
			if p.off%holeSize == 0 {
				if err := p.putBlock(); err != nil {
					return total - len(b), err
				}
			}
		}
		b = b[n:]
	}
	return total, nil
}

// put writes b at off, or leaves a hole.
func (p *part) put(b []byte, off int64) error {
	if bytes.Equal(b, zeros[:len(b)]) {
		return nil
	}
	_, err := p.f.WriteAt(b, off)
	return err
}

// putBlock writes the block that was begun. If it cannot, its bytes are lost.
func (p *part) putBlock() error {
	start := p.off - int64(len(p.block))
	err := p.put(p.block, start)
	if err != nil {
		p.off = start
	}
	p.block = p.block[:0]
	return err
}

// flush writes what Write kept and sets the file's length.
func (p *part) flush() error {
	return errors.Join(p.putBlock(), p.f.Truncate(p.off))
}

// commit makes the file durable and gives it the target's name. Without
// overwrite an existing target is left alone.
func (p *part) commit(overwrite bool) error {
	if err := p.flush(); err != nil {
		return err
	}
	if err := p.f.Sync(); err != nil {
		return err
	}
	rename := renameNew
	if overwrite {
		rename = os.Rename
	}
	if err := rename(p.f.Name(), p.target); err != nil {
		return err
	}
	os.Remove(p.target + versionSuffix) // one that stays behind does no harm
	dir, err := os.Open(filepath.Dir(p.target))
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := dir.Sync(); err != nil && !errors.Is(err, unix.EINVAL) { // some cannot sync directories
		return err
	}
	return nil
}

// renameNew renames a file unless the new name is taken. A link says so in one
// step; where the file system has none, a moment is left in between.
func renameNew(from, to string) error {
	err := os.Link(from, to)
	if err == nil {
		return os.Remove(from)
	}
	if errors.Is(err, os.ErrExist) {
		return fmt.Errorf("%s: %w", to, os.ErrExist)
	}
	if _, err := os.Lstat(to); !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%s: %w", to, os.ErrExist)
	}
	return os.Rename(from, to)
}

// remove deletes the partial file.
func (p *part) remove() {
	// What cannot be removed is found out by the next save: no hash is
	// trusted that was not computed.
	os.Remove(p.target + versionSuffix)
	os.Remove(p.f.Name())
}

// close gives up the lock.
func (p *part) close() { p.f.Close() }
