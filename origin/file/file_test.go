package file

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"nearsight/origin"
	"nearsight/origin/origintest"
)

func openStore(t testing.TB, dir string) *Store {
	t.Helper()
	s, err := Open(Options{Dir: dir, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// files returns the names in dir.
func files(t *testing.T, dir string) []string {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, de := range list {
		names = append(names, de.Name())
	}
	return names
}

// opens returns an opener of stores of n directories, which must be clean in the
// end.
func opens(n int) func(t *testing.T) origin.WriteStore {
	return func(t *testing.T) origin.WriteStore {
		var dirs []Dir
		for range n {
			dirs = append(dirs, Dir{Path: t.TempDir()})
		}
		t.Cleanup(func() {
			for _, dir := range dirs {
				for _, name := range files(t, dir.Path) {
					if strings.HasPrefix(name, tempPrefix) {
						t.Errorf("%s was left", name)
					}
				}
			}
		})
		if n == 1 {
			return openStore(t, dirs[0].Path)
		}
		s := openDirs(t, dirs...)
		// Every Put finds another order of directories.
		var turn atomic.Int64
		s.space = func(*os.File) (int64, int64, error) { return 1<<40 + turn.Add(1)*7919%1000, 1 << 50, nil }
		return s
	}
}

func openDirs(t testing.TB, dirs ...Dir) *Store {
	t.Helper()
	s, err := Open(Options{Dirs: dirs, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestStore(t *testing.T) {
	for _, n := range []int{1, 3} {
		t.Run(fmt.Sprintf("%d directories", n), func(t *testing.T) {
			origintest.TestStore(t, opens(n))
			origintest.TestList(t, opens(n))
		})
	}
}

func TestLimitedStore(t *testing.T) {
	origintest.TestStore(t, func(t *testing.T) origin.WriteStore {
		return origin.Limit(openStore(t, t.TempDir()), 1<<30)
	})
}

func TestLocations(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	s := openStore(t, dir)
	if err := os.WriteFile(filepath.Join(dir, "..", "secret"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ name, url string }{
		{"no key", "file://default/"},
		{"no name", "file:///key"},
		{"another store", "file://other/key"},
		{"another scheme", "http://default/key"},
		{"upper-case scheme", "FILE://default/key"},
		{"the directory", "file://default/."},
		{"its parent", "file://default/.."},
		{"a file beside it", "file://default/../secret"},
		{"escaped separators", "file://default/..%2Fsecret"},
		{"an absolute path", "file://default//etc/passwd"},
		{"a separator", "file://default/a/b"},
		{"a backslash", `file://default/a\b`},
		{"NUL", "file://default/a\x00b"},
		{"a control character", "file://default/a\nb"},
		{"not ASCII", "file://default/é"},
		{"a temporary file", "file://default/.tmp-0123456789abcdef"},
		{"a name too long", "file://default/" + strings.Repeat("a", 256)},
		{"a name too long for a temporary file", "file://default/" + strings.Repeat("a", 251)},
		{"a query", "file://default/key?x"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			loc := origin.Location{URL: tt.url}
			_, statErr := s.Stat(t.Context(), loc)
			_, openErr := s.Open(t.Context(), loc, 0, -1)
			_, putErr := s.Put(t.Context(), loc, -1, strings.NewReader("x"))
			_, pathErr := s.LocalPath(loc)
			for _, err := range []error{statErr, openErr, putErr, pathErr, s.Delete(t.Context(), loc)} {
				if !errors.Is(err, origin.ErrLocation) {
					t.Errorf("error %v; want %v", err, origin.ErrLocation)
				}
			}
		})
	}
	if loc := s.Locate("7b1c"); !strings.HasPrefix(loc.URL, "file://default/7b1c.") || len(loc.URL) != len("file://default/7b1c.")+16 {
		t.Errorf("Locate = %q", loc.URL)
	}
	if got := files(t, dir); len(got) != 0 {
		t.Errorf("directory holds %q", got)
	}
}

func FuzzPath(f *testing.F) {
	for _, url := range []string{"file://default/a", "file://default/../a", "file://default/..", "file://default/a.b_c-d", "x"} {
		f.Add(url)
	}
	s := &Store{prefix: "file://default/"}
	d := &directory{path: "/store"}
	f.Fuzz(func(t *testing.T, url string) {
		key, err := s.key(origin.Location{URL: url})
		if err != nil {
			return
		}
		for _, name := range []string{key, tempPrefix + key} {
			path := d.join(name)
			if filepath.Dir(path) != d.path || filepath.Base(path) != name || len(name) > 255 || s.prefix+key != url {
				t.Errorf("%q leads to %q", url, path)
			}
		}
	})
}

func TestOddFilesAreNoObjects(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir)
	target := filepath.Join(t.TempDir(), "target")
	if err := errors.Join(
		os.WriteFile(target, []byte("secret"), 0o600),
		os.Symlink(target, filepath.Join(dir, "link")),
		os.Mkdir(filepath.Join(dir, "dir"), 0o700),
		unix.Mkfifo(filepath.Join(dir, "pipe"), 0o600),
	); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"link", "dir", "pipe"} {
		loc := origin.Location{URL: "file://default/" + key}
		if _, err := s.Open(t.Context(), loc, 0, -1); !errors.Is(err, origin.ErrNotFound) {
			t.Errorf("Open of a %s: %v", key, err)
		}
		if _, err := s.Stat(t.Context(), loc); !errors.Is(err, origin.ErrNotFound) {
			t.Errorf("Stat of a %s: %v", key, err)
		}
	}
}

func TestHoles(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir)
	data := make([]byte, 8<<20+100) // ends with a hole
	data[0], data[5<<20] = 1, 1
	loc, err := s.Put(t.Context(), s.Locate("sparse"), -1, bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	path, err := s.LocalPath(loc)
	if err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	if used := st.Blocks * 512; used > 4*holeSize {
		t.Errorf("two blocks of data use %d bytes of disk", used)
	}
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, data) {
		t.Errorf("other bytes came back, error %v", err)
	}
}

// asNobody runs f as a user without rights. Only this thread changes, and it
// ends with the goroutine.
func asNobody(t *testing.T, f func()) {
	if os.Geteuid() != 0 {
		f()
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if err := syscall.Setfsuid(65534); err != nil {
			t.Error(err)
			return
		}
		f()
	}()
	<-done
}

func TestOpenRefusesABadDirectory(t *testing.T) {
	base := t.TempDir()
	for dir := base; dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	file, unwritable, closed := filepath.Join(base, "file"), filepath.Join(base, "unwritable"), filepath.Join(base, "closed")
	if err := errors.Join(
		os.WriteFile(file, nil, 0o600), os.Mkdir(unwritable, 0o555), os.Mkdir(closed, 0o000),
	); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, dir string
		want      error
	}{
		{"a file", file, syscall.ENOTDIR},
		{"below a file", filepath.Join(file, "x"), syscall.ENOTDIR},
		{"without the right to write", unwritable, syscall.EACCES},
		{"without any right", closed, syscall.EACCES},
		{"where none can be made", filepath.Join(unwritable, "new"), syscall.EACCES},
	} {
		t.Run(tt.name, func(t *testing.T) {
			asNobody(t, func() {
				_, err := Open(Options{Dir: tt.dir})
				if !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.dir) {
					t.Errorf("error %v; want one about %s that says: %v", err, tt.dir, tt.want)
				}
			})
		})
	}
	for _, name := range []string{"a/b", "..", "a b"} {
		if _, err := Open(Options{Dir: base, Name: name}); err == nil {
			t.Errorf("a store named %q was opened", name)
		}
	}
}

func TestUnreadableObjectIsUnavailable(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir)
	loc, err := s.Put(t.Context(), s.Locate("x"), -1, strings.NewReader("x"))
	if err != nil {
		t.Fatal(err)
	}
	path, _ := s.LocalPath(loc)
	if err := os.Chmod(path, 0); err != nil {
		t.Fatal(err)
	}
	asNobody(t, func() {
		if _, err := s.Open(t.Context(), loc, 0, -1); !errors.Is(err, origin.ErrUnavailable) || errors.Is(err, fs.ErrPermission) {
			t.Errorf("Open without permission: %v", err)
		}
	})
}

func BenchmarkOpenRead(b *testing.B) {
	s := openStore(b, b.TempDir())
	const size = 64 << 20
	loc, err := s.Put(b.Context(), s.Locate("bench"), size, bytes.NewReader(bytes.Repeat([]byte("nearsight"), size/9+1)[:size]))
	if err != nil {
		b.Fatal(err)
	}
	buf := make([]byte, 256<<10)
	for _, bb := range []struct {
		name string
		n    int64
	}{{"64MiB", size}, {"64KiB", 64 << 10}} {
		b.Run(bb.name, func(b *testing.B) {
			b.SetBytes(bb.n)
			for b.Loop() {
				o, err := s.Open(b.Context(), loc, 0, bb.n)
				if err != nil {
					b.Fatal(err)
				}
				if n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, o.Body, buf); n != bb.n || err != nil {
					b.Fatal(n, err)
				}
				o.Body.Close()
			}
		})
	}
}
