package file

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"nearsight/origin"
	"nearsight/origin/origintest"
)

// failAt makes the step op of s fail with errno: before it is done, or after.
func failAt(s *Store, op string, errno syscall.Errno, done bool) {
	s.step = func(o string, f func() error) error {
		if o != op {
			return f()
		}
		if done {
			if err := f(); err != nil {
				return err
			}
		}
		return &os.PathError{Op: op, Path: "x", Err: errno}
	}
}

// Every step fails, once without and once with its effect. Nothing must be left,
// now and for a store that is opened anew; and the location can be used again.
func TestPutFaults(t *testing.T) {
	data := origintest.Data(1<<20, 1)
	for _, op := range []string{"create", "write", "truncate", "sync", "link", "remove", "sync dir"} {
		for _, done := range []bool{false, true} {
			for errno, want := range map[syscall.Errno]error{
				syscall.EIO: origin.ErrUnavailable, syscall.ENOSPC: origin.ErrFull, syscall.EDQUOT: origin.ErrFull,
				syscall.ENOENT: origin.ErrUnavailable, syscall.EROFS: origin.ErrUnavailable,
			} {
				t.Run(fmt.Sprintf("%s fails with %v, done %v", op, errno, done), func(t *testing.T) {
					dir := t.TempDir()
					s := openStore(t, dir)
					kept, err := s.Put(t.Context(), s.Locate("kept"), -1, strings.NewReader("kept"))
					if err != nil {
						t.Fatal(err)
					}
					loc := s.Locate("faulty")
					failAt(s, op, errno, done)
					if _, err := s.Put(t.Context(), loc, -1, bytes.NewReader(data)); !errors.Is(err, want) {
						t.Errorf("error %v; want %v", err, want)
					}
					if got := files(t, dir); len(got) != 1 {
						t.Errorf("directory holds %q", got)
					}
					again := openStore(t, dir)
					if got, err := again.Put(t.Context(), loc, -1, bytes.NewReader(data)); err != nil {
						t.Errorf("second try: %v", err)
					} else if info, err := again.Stat(t.Context(), got); err != nil || info.Size != int64(len(data)) {
						t.Errorf("after the second try: %+v, %v", info, err)
					}
					if _, err := again.Stat(t.Context(), kept); err != nil {
						t.Errorf("the other object: %v", err)
					}
				})
			}
		}
	}
}

// The object of somebody else is never removed by a Put that failed.
func TestPutFaultBesideAnObject(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir)
	loc := s.Locate("raced")
	s.step = func(op string, f func() error) error {
		if op == "link" {
			key, _ := s.key(loc)
			if err := os.WriteFile(filepath.Join(dir, key), []byte("theirs"), 0o600); err != nil {
				return err
			}
		}
		return f()
	}
	if _, err := s.Put(t.Context(), loc, -1, strings.NewReader("mine")); !errors.Is(err, origin.ErrExists) {
		t.Errorf("error %v; want %v", err, origin.ErrExists)
	}
	o, err := s.Open(t.Context(), loc, 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer o.Body.Close()
	if got, _ := io.ReadAll(o.Body); string(got) != "theirs" {
		t.Errorf("it reads %q", got)
	}
}

func TestDeleteFaults(t *testing.T) {
	for _, op := range []string{"delete", "sync dir"} {
		for _, done := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s fails, done %v", op, done), func(t *testing.T) {
				dir := t.TempDir()
				s := openStore(t, dir)
				loc, err := s.Put(t.Context(), s.Locate("x"), -1, strings.NewReader("x"))
				if err != nil {
					t.Fatal(err)
				}
				failAt(s, op, syscall.EIO, done)
				if err := s.Delete(t.Context(), loc); !errors.Is(err, origin.ErrUnavailable) {
					t.Errorf("error %v; want %v", err, origin.ErrUnavailable)
				}
				synced := false
				again := openStore(t, dir)
				again.step = func(op string, f func() error) error {
					synced = synced || op == "sync dir"
					return f()
				}
				if err := again.Delete(t.Context(), loc); err != nil || !synced {
					t.Errorf("second try: error %v, directory synced %v", err, synced)
				}
				if got := files(t, dir); len(got) != 0 {
					t.Errorf("directory holds %q", got)
				}
			})
		}
	}
}

// A disk that grows full refuses data before it takes what others need: before
// the first byte is read, or when what is no hole has used up the rest. The
// object leaves nothing, and once there is room the location can be used.
func TestPutLeavesTheReserveFree(t *testing.T) {
	const mib = 1 << 20
	noise := bytes.Repeat([]byte("noise"), 20*mib/5)
	for _, tt := range []struct {
		name    string
		reserve int64
		free    int64 // at the start; what is written makes it less
		data    []byte
		err     error
		unread  bool // r was not asked for a byte
	}{
		{"there is room to spare", 64 * mib, 1 << 40, noise, nil, false},
		{"the default is 64 MiB", 0, 64 * mib, noise, origin.ErrFull, true},
		{"the default is no more than that", 0, 64*mib + 21*mib, noise, nil, false},
		{"the reserve is gone already", 8 * mib, 7 * mib, nil, origin.ErrFull, true},
		{"the reserve would be reached in the middle", 8 * mib, 20 * mib, noise, origin.ErrFull, false},
		{"holes need no room", 8 * mib, 10 * mib, make([]byte, 20*mib), nil, false},
		{"no reserve", -1, 0, noise, nil, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			s, err := Open(Options{Dir: dir, Reserve: tt.reserve})
			if err != nil {
				t.Fatal(err)
			}
			free := tt.free
			s.space = func(*os.File) (int64, int64, error) { return free, 1 << 50, nil }
			s.step = func(op string, f func() error) error {
				if op == "write" {
					free -= holeSize
				}
				return f()
			}
			loc, r := s.Locate("x"), bytes.NewReader(tt.data)
			_, err = s.Put(t.Context(), loc, int64(len(tt.data)), r)
			if !errors.Is(err, tt.err) {
				t.Fatalf("error %v; want %v", err, tt.err)
			}
			if unread := r.Len() == len(tt.data); unread != (tt.unread || len(tt.data) == 0) {
				t.Errorf("%d of %d bytes are unread", r.Len(), len(tt.data))
			}
			if tt.err == nil {
				return
			}
			if !tt.unread && free < tt.reserve {
				t.Errorf("%d bytes are free; want %d", free, tt.reserve)
			}
			if got := files(t, dir); len(got) != 0 {
				t.Errorf("directory holds %q", got)
			}
			free = 1 << 40
			if _, err := s.Put(t.Context(), loc, -1, strings.NewReader("x")); err != nil {
				t.Errorf("with room again: %v", err)
			}
		})
	}
}

func TestSpaceIsWhatTheSystemSays(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "x"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	free, total, err := space(f)
	if err != nil || free <= 0 || total < free {
		t.Errorf("%d bytes of %d free, %v", free, total, err)
	}
	f.Close()
	if free, _, err := space(f); err == nil {
		t.Errorf("%d bytes free on a closed file", free)
	}
}

// A reader's own errors are not taken for the disk's.
func TestReaderErrorIsNoStoreError(t *testing.T) {
	s := openStore(t, t.TempDir())
	r := io.MultiReader(strings.NewReader("x"), errReader{syscall.ENOSPC})
	_, err := s.Put(t.Context(), s.Locate("x"), -1, r)
	if !errors.Is(err, origin.ErrRead) || errors.Is(err, origin.ErrFull) || errors.Is(err, origin.ErrUnavailable) {
		t.Errorf("error %v; want %v alone", err, origin.ErrRead)
	}
}

type errReader struct{ err error }

func (r errReader) Read([]byte) (int, error) { return 0, r.err }

// A crash leaves temporary files, at any point of Put. Open removes them, but
// not the one that is still being written, and never an object.
func TestSweep(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir)
	if err := os.WriteFile(filepath.Join(dir, tempPrefix+"crashed"), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	// Killed between link and remove: one file with two names.
	linked, err := s.Put(t.Context(), s.Locate("linked"), -1, strings.NewReader("whole"))
	if err != nil {
		t.Fatal(err)
	}
	path, _ := s.LocalPath(linked)
	if err := os.Link(path, filepath.Join(dir, tempPrefix+"linked")); err != nil {
		t.Fatal(err)
	}

	started, finish := make(chan struct{}), make(chan struct{})
	put := make(chan error)
	go func() {
		r := &gateReader{started: started, finish: finish}
		_, err := s.Put(context.WithoutCancel(t.Context()), s.Locate("live"), -1, r)
		put <- err
	}()
	<-started
	openStore(t, dir)
	var temps int
	for _, name := range files(t, dir) {
		if strings.HasPrefix(name, tempPrefix) {
			temps++
		}
	}
	if temps != 1 {
		t.Errorf("after the sweep, %q; want one temporary file", files(t, dir))
	}
	close(finish)
	if err := <-put; err != nil {
		t.Errorf("the Put that was under way: %v", err)
	}
	if _, err := s.Stat(t.Context(), linked); err != nil {
		t.Errorf("the linked object: %v", err)
	}
	openStore(t, dir)
	if got := files(t, dir); len(got) != 2 {
		t.Errorf("directory holds %q; want the two objects", got)
	}
}

// Who looks beside the server of a store changes nothing: what a crash left is listed,
// and a directory that is missing is not made.
func TestAStoreOpenedAsItIsChangesNothing(t *testing.T) {
	dir := t.TempDir()
	left := filepath.Join(dir, tempPrefix+"crashed")
	if err := os.WriteFile(left, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	before, err := os.Stat(dir)
	if err != nil {
		t.Fatal(err)
	}
	s, err := Open(Options{Dir: dir, AsIs: true})
	if err != nil {
		t.Fatal(err)
	}
	after, err := os.Stat(dir)
	if err != nil || !after.ModTime().Equal(before.ModTime()) {
		t.Errorf("the directory was changed at %v (%v)", after.ModTime(), err)
	}
	var found []origin.Held
	for held, err := range s.List(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, held)
	}
	if len(found) != 1 || !found[0].Partial || found[0].Size != 4 {
		t.Fatalf("listed %+v; want the leftover", found)
	}
	if err := s.Delete(t.Context(), found[0].Location); err != nil {
		t.Error(err)
	}
	if got := files(t, dir); len(got) != 0 {
		t.Errorf("%q are left", got)
	}
	for _, missing := range []string{filepath.Join(dir, "missing"), left} {
		if _, err := Open(Options{Dir: missing, AsIs: true}); err == nil {
			t.Errorf("a store was opened at %s", missing)
		}
		if _, err := os.Stat(missing); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is there: %v", missing, err)
		}
	}
	if err := os.WriteFile(left, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(Options{Dir: left, AsIs: true}); !errors.Is(err, syscall.ENOTDIR) {
		t.Errorf("a file is opened as a directory: %v", err)
	}
}

// A gateReader yields one byte and waits before the end.
type gateReader struct {
	started, finish chan struct{}
	n               int
}

func (r *gateReader) Read(b []byte) (int, error) {
	if r.n++; r.n == 1 {
		return copy(b, "x"), nil
	}
	close(r.started)
	<-r.finish
	return 0, io.EOF
}

func TestSweepWhilePutsBegin(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 200 {
			if _, err := sweep(dir); err != nil {
				t.Errorf("sweep: %v", err)
				return
			}
		}
	}()
	for range 200 {
		if _, err := s.Put(t.Context(), s.Locate("x"), -1, strings.NewReader("x")); err != nil {
			t.Errorf("Put: %v", err)
			break
		}
	}
	<-done
}

func TestIsZero(t *testing.T) {
	for _, n := range []int{1, 2, 3, 100, holeSize} {
		b := make([]byte, n)
		if !isZero(b) {
			t.Errorf("%d zeros are not", n)
		}
		for _, i := range []int{0, n / 2, n - 1} {
			b[i] = 1
			if isZero(b) {
				t.Errorf("%d bytes with a one at %d are", n, i)
			}
			b[i] = 0
		}
		if n > 1 && isZero(bytes.Repeat([]byte{7}, n)) {
			t.Errorf("%d sevens are", n)
		}
	}
}
