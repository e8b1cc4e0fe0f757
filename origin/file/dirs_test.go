package file

import (
	"bytes"
	"errors"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"nearsight/origin"
	"nearsight/origin/origintest"
)

func TestOpenRefusesBadOptions(t *testing.T) {
	base := t.TempDir()
	inner := filepath.Join(base, "a", "inner")
	if err := errors.Join(
		os.MkdirAll(inner, 0o700), os.Mkdir(filepath.Join(base, "b"), 0o700),
		os.Symlink(filepath.Join(base, "a"), filepath.Join(base, "link")),
	); err != nil {
		t.Fatal(err)
	}
	dirs := func(names ...string) (dirs []Dir) {
		for _, name := range names {
			dirs = append(dirs, Dir{Path: filepath.Join(base, name)})
		}
		return dirs
	}
	for _, tt := range []struct {
		name string
		o    Options
		says string // "" means that they are good
	}{
		{"two directories", Options{Dirs: dirs("a", "b")}, ""},
		{"names that begin alike", Options{Dirs: dirs("new", "newer")}, ""},
		{"neither Dir nor Dirs", Options{}, "no directory"},
		{"both", Options{Dir: base, Dirs: dirs("a")}, "both"},
		{"a directory without a path", Options{Dirs: append(dirs("a"), Dir{})}, "no path"},
		{"one twice", Options{Dirs: dirs("a", "b", "a")}, "is in"},
		{"one twice, written in another way", Options{Dirs: dirs("a", "b/../a")}, "is in"},
		{"one twice by a link", Options{Dirs: dirs("a", "link")}, "is in"},
		{"one in another", Options{Dirs: dirs("a", "a/inner")}, "is in"},
		{"one around another", Options{Dirs: dirs("a/inner", "a")}, "is in"},
		{"one deep in another, which is new", Options{Dirs: dirs("b", "b/x/y/z")}, "is in"},
		{"one in another by a link", Options{Dirs: dirs("link/inner", "a")}, "is in"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Open(tt.o)
			if tt.says == "" && err != nil || tt.says != "" && (err == nil || !strings.Contains(err.Error(), tt.says)) {
				t.Errorf("error %v; want one that says %q", err, tt.says)
			}
		})
	}
}

// A file that an operator moves is found, before, after, and when there is only
// a part of it in the new place.
func TestMovedFileIsFound(t *testing.T) {
	s := openDirs(t, Dir{Path: t.TempDir()}, Dir{Path: t.TempDir()}, Dir{Path: t.TempDir()})
	rooms(s, 0, 0, 100<<20)
	data := origintest.Data(1<<20, 1)
	loc, err := s.Put(t.Context(), s.Locate("moved"), -1, bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	key, _ := s.key(loc)
	reads := func(dir int) {
		t.Helper()
		o, err := s.Open(t.Context(), loc, 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		defer o.Body.Close()
		if got, err := io.ReadAll(o.Body); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%d bytes came, error %v", len(got), err)
		}
		if path, err := s.LocalPath(loc); err != nil || path != s.dirs[dir].join(key) {
			t.Errorf("its path is %s, error %v; want it in directory %d", path, err, dir)
		}
	}
	reads(2)
	write(t, s.dirs[0].join(key), "a part")
	reads(2)
	if text, err := exec.Command("mv", "-f", s.dirs[2].join(key), s.dirs[0].join(key)).CombinedOutput(); err != nil {
		t.Fatalf("mv: %v: %s", err, text)
	}
	reads(0)
	if err := os.Rename(s.dirs[0].join(key), s.dirs[1].join(key)); err != nil {
		t.Fatal(err)
	}
	reads(1)
	write(t, s.dirs[0].join(key), "another")
	write(t, s.dirs[2].join(key), "another")
	reads(1)
	if err := s.Delete(t.Context(), loc); err != nil {
		t.Fatal(err)
	}
	for i, d := range s.dirs {
		if got := files(t, d.path); len(got) != 0 {
			t.Errorf("directory %d holds %q after Delete", i, got)
		}
	}
}

// With one directory away, the others serve; what is not in them may be in it.
// One that moves to where we have just looked is there all the same.
func TestFileThatMovesBehindOurBack(t *testing.T) {
	for name, copied := range map[string]int{"not there yet": 0, "half there": 1} {
		t.Run(name, func(t *testing.T) {
			a, b := t.TempDir(), t.TempDir()
			s := openDirs(t, Dir{Path: a}, Dir{Path: b})
			rooms(s, 0, 100<<20)
			loc, err := s.Put(t.Context(), s.Locate("moving"), -1, strings.NewReader("data"))
			if err != nil {
				t.Fatal(err)
			}
			key, _ := s.key(loc)
			if copied > 0 {
				write(t, filepath.Join(a, key), "da")
			}
			err = s.find("stat", loc, func(path string) error {
				fi, err := os.Lstat(path)
				if err == nil {
					err = check(loc, fi)
				}
				if filepath.Dir(path) == a && err != nil { // now mv is done with it
					if err := os.Rename(filepath.Join(b, key), filepath.Join(a, key)); err != nil {
						t.Error(err)
					}
				}
				return err
			})
			if err != nil {
				t.Errorf("it is not found: %v", err)
			}
		})
	}
}

func TestOneDirectoryAway(t *testing.T) {
	base := t.TempDir()
	s := openDirs(t, Dir{filepath.Join(base, "a"), 1}, Dir{filepath.Join(base, "b"), 2}, Dir{filepath.Join(base, "c"), 0})
	inB, err := s.Put(t.Context(), s.Locate("b"), 1, strings.NewReader("b"))
	if err != nil || where(s, inB) != 1 {
		t.Fatal(where(s, inB), err)
	}
	b := s.dirs[1].path
	if err := os.Rename(b, b+".away"); err != nil {
		t.Fatal(err)
	}
	inA, err := s.Put(t.Context(), s.Locate("a"), 1, strings.NewReader("a"))
	if err != nil || where(s, inA) != 0 {
		t.Fatal(where(s, inA), err)
	}
	if _, err := s.Stat(t.Context(), inA); err != nil {
		t.Error(err)
	}
	_, statErr := s.Stat(t.Context(), inB)
	_, openErr := s.Open(t.Context(), inB, 0, -1)
	_, pathErr := s.LocalPath(inB)
	_, _, roomErr := s.Room()
	for _, err := range []error{statErr, openErr, pathErr, roomErr, s.Delete(t.Context(), inB), s.Delete(t.Context(), inA)} {
		if !errors.Is(err, origin.ErrUnavailable) || errors.Is(err, origin.ErrNotFound) || !strings.Contains(err.Error(), b) {
			t.Errorf("error %v; want %v, about %s", err, origin.ErrUnavailable, b)
		}
	}
	if where(s, inA) != -1 {
		t.Error("Delete left the object that it could delete")
	}
	if err := os.Rename(b+".away", b); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Stat(t.Context(), inB); err != nil {
		t.Errorf("after it came back: %v", err)
	}
	if err := s.Delete(t.Context(), inA); err != nil {
		t.Errorf("after it came back: %v", err)
	}
}

// An unmounted file system leaves an empty directory: its objects are not lost,
// and nothing may be written in its place.
func TestDirectoryReplaced(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	s := openStore(t, dir)
	loc, err := s.Put(t.Context(), s.Locate("x"), -1, strings.NewReader("x"))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Rename(dir, dir+".away"), os.Mkdir(dir, 0o700)); err != nil {
		t.Fatal(err)
	}
	_, statErr := s.Stat(t.Context(), loc)
	_, openErr := s.Open(t.Context(), loc, 0, -1)
	_, putErr := s.Put(t.Context(), s.Locate("y"), -1, strings.NewReader("y"))
	for _, err := range []error{statErr, openErr, putErr, s.Delete(t.Context(), loc)} {
		if !errors.Is(err, origin.ErrUnavailable) {
			t.Errorf("error %v; want %v", err, origin.ErrUnavailable)
		}
	}
	if err := errors.Join(os.Remove(dir), os.Rename(dir+".away", dir)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Stat(t.Context(), loc); err != nil {
		t.Errorf("after it came back: %v", err)
	}
}

func TestRoom(t *testing.T) {
	a, b := t.TempDir(), t.TempDir()
	s, err := Open(Options{Dirs: []Dir{{Path: a}, {Path: b}}, Reserve: 10})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name                         string
		free, total                  int64 // of the file system that both are on
		err                          error
		wantFree, wantTotal, reserve int64
	}{
		{"a file system counts once", 100, 1000, nil, 90, 1000, 10},
		{"the reserve is not for us", 9, 1000, nil, 0, 1000, 10},
		{"without a reserve", 9, 1000, nil, 9, 1000, -1},
		{"it does not tell", math.MaxInt64, math.MaxInt64, nil, math.MaxInt64, math.MaxInt64, -1},
		{"it cannot be asked", 0, 0, syscall.EIO, 0, 0, 10},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s.reserve = tt.reserve
			s.space = func(*os.File) (int64, int64, error) { return tt.free, tt.total, tt.err }
			free, total, err := s.Room()
			if free != tt.wantFree || total != tt.wantTotal || (err != nil) != (tt.err != nil) {
				t.Errorf("Room = %d, %d, %v; want %d, %d", free, total, err, tt.wantFree, tt.wantTotal)
			}
			if err != nil && !errors.Is(err, origin.ErrUnavailable) {
				t.Errorf("error %v; want %v", err, origin.ErrUnavailable)
			}
		})
	}
	if got := add(math.MaxInt64-1, 2); got != math.MaxInt64 {
		t.Errorf("add overflows to %d", got)
	}
}

// tmpfs mounts a small file system.
func tmpfs(t *testing.T, size string) string {
	dir := t.TempDir()
	if err := unix.Mount("nearsight-test", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// Real file systems that are really full. Only root can mount them.
func TestFullFileSystems(t *testing.T) {
	if os.Geteuid() != 0 {
		return
	}
	const mib = 1 << 20
	dirs := []Dir{{tmpfs(t, "4m"), 2}, {tmpfs(t, "16m"), 1}}
	s, err := Open(Options{Dirs: dirs, Reserve: mib})
	if err != nil {
		t.Fatal(err)
	}
	if free, total, err := s.Room(); free != 18*mib || total != 20*mib || err != nil {
		t.Errorf("Room = %d, %d, %v; want 18 MiB, 20 MiB", free, total, err)
	}
	noise := bytes.Repeat([]byte("noise"), 3*mib/5)
	store := func(known bool) (origin.Location, error) {
		size := int64(-1)
		if known {
			size = int64(len(noise))
		}
		return s.Put(t.Context(), s.Locate("x"), size, bytes.NewReader(noise))
	}
	var locs []origin.Location
	for i, want := range []int{0, 1, 1, 1, 1, 1} {
		loc, err := store(i%2 == 0)
		if got := where(s, loc); err != nil || got != want {
			t.Fatalf("upload %d is in directory %d, error %v; want %d", i, got, err, want)
		}
		locs = append(locs, loc)
	}
	for _, known := range []bool{true, false} {
		if _, err := store(known); !errors.Is(err, origin.ErrFull) {
			t.Errorf("with both full: %v; want %v", err, origin.ErrFull)
		}
	}
	if err := s.Delete(t.Context(), locs[0]); err != nil {
		t.Fatal(err)
	}
	// From one file system to another.
	key, _ := s.key(locs[1])
	if text, err := exec.Command("mv", s.dirs[1].join(key), s.dirs[0].path).CombinedOutput(); err != nil {
		t.Fatalf("mv: %v: %s", err, text)
	}
	o, err := s.Open(t.Context(), locs[1], 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer o.Body.Close()
	if got, err := io.ReadAll(o.Body); where(s, locs[1]) != 0 || !bytes.Equal(got, noise) {
		t.Errorf("what was moved yields %d bytes and %v", len(got), err)
	}
	if loc, err := store(true); err != nil || where(s, loc) != 1 {
		t.Errorf("with room again: directory %d, error %v", where(s, loc), err)
	}
}
