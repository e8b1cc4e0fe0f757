package file

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"nearsight/origin"
)

// List implements origin.ListStore. Leftovers are the temporary files that nobody
// writes any more, or that Put has made this instant. One that lies beside its
// whole object, from a crash between two steps of Put, is not listed, since the
// object has the same location: the next Open that is not AsIs removes it. An object that is moved
// to another directory meanwhile may be missing.
func (s *Store) List(ctx context.Context) iter.Seq2[origin.Held, error] {
	return func(yield func(origin.Held, error) bool) {
		for i, d := range s.dirs {
			if more, err := s.listDir(ctx, i, yield); err != nil {
				if err != ctx.Err() {
					err = fmt.Errorf("list %s: %w: %v", s.prefix, origin.ErrUnavailable, d.named(err))
				}
				yield(origin.Held{}, err)
				return
			} else if !more {
				return
			}
		}
	}
}

// listDir yields what directory i has, and says whether yield wants more.
func (s *Store) listDir(ctx context.Context, i int, yield func(origin.Held, error) bool) (more bool, err error) {
	d := s.dirs[i]
	if err := ctx.Err(); err != nil {
		return false, err
	}
	if err := d.same(); err != nil {
		return false, err
	}
	// All at once: they are thousands, and what is deleted between two reads of
	// a directory confuses some file systems.
	names, err := os.ReadDir(d.path)
	if err != nil {
		return false, err
	}
	for _, de := range names {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		held, err := s.held(i, de.Name())
		if errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return false, err
		}
		if !yield(held, nil) {
			return false, nil
		}
	}
	return true, d.same() // otherwise what was missing only seemed to be deleted
}

// held describes the file called name in directory i. It returns fs.ErrNotExist
// if that is neither an object nor a leftover.
func (s *Store) held(i int, name string) (origin.Held, error) {
	key, partial := strings.CutPrefix(name, tempPrefix)
	if !validKey(key) {
		return origin.Held{}, fs.ErrNotExist
	}
	path := s.dirs[i].join(name)
	fi, err := os.Lstat(path)
	if err != nil {
		return origin.Held{}, err
	}
	if !fi.Mode().IsRegular() {
		return origin.Held{}, fs.ErrNotExist
	}
	shadows := s.dirs[:i] // the object may be on its way to another directory
	if partial {
		f, err := lockLeftover(path)
		if errors.Is(err, unix.EWOULDBLOCK) {
			return origin.Held{}, fs.ErrNotExist
		} else if err != nil {
			return origin.Held{}, err
		}
		f.Close()
		shadows = s.dirs
	}
	if holds(shadows, key) {
		return origin.Held{}, fs.ErrNotExist
	}
	return origin.Held{
		Location: origin.Location{URL: s.prefix + key},
		Size:     fi.Size(),
		ModTime:  fi.ModTime().UTC(),
		Partial:  partial,
	}, nil
}

// holds says whether one of the directories has a file of the name.
func holds(dirs []*directory, name string) bool {
	for _, d := range dirs {
		if _, err := os.Lstat(d.join(name)); err == nil {
			return true
		}
	}
	return false
}
