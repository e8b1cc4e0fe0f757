package file

import (
	"bytes"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"nearsight/origin"
	"nearsight/origin/origintest"
)

// rooms makes the file system of each directory of s look as if it had so many
// bytes free, beside the reserve.
func rooms(s *Store, free ...int64) {
	s.space = func(f *os.File) (int64, int64, error) {
		for i, d := range s.dirs {
			if f.Name() == d.path || filepath.Dir(f.Name()) == d.path {
				return free[i] + s.reserve, 1 << 50, nil
			}
		}
		return 0, 0, unix.ENOENT
	}
}

// where returns the number of the directory that has the object at loc, or -1.
func where(s *Store, loc origin.Location) int {
	key, _ := s.key(loc)
	for i := range s.dirs {
		if holds(s.dirs[i:i+1], key) {
			return i
		}
	}
	return -1
}

func TestPutChoosesADirectory(t *testing.T) {
	const mib = 1 << 20
	for _, tt := range []struct {
		name    string
		weights []int
		free    []int64
		size    int64
		want    int // -1 means that all are full
	}{
		{"the greatest weight goes first", []int{1, 3, 2}, []int64{100 * mib, 100 * mib, 900 * mib}, mib, 1},
		{"equal weights: the one with more room", []int{1, 1, 1}, []int64{10 * mib, 30 * mib, 20 * mib}, mib, 1},
		{"all equal: the first", []int{0, 0, 0}, []int64{10 * mib, 10 * mib, 10 * mib}, mib, 0},
		{"the greatest weight that has room", []int{3, 2, 1}, []int64{2 * mib, 5 * mib, 900 * mib}, 4 * mib, 1},
		{"to the last byte", []int{2, 1}, []int64{4 * mib, 900 * mib}, 4 * mib, 0},
		{"and no further", []int{2, 1}, []int64{4*mib - 1, 900 * mib}, 4 * mib, 1},
		{"negative weights", []int{-2, -1, 0}, []int64{10 * mib, 10 * mib, 0}, mib, 1},
		{"none has room for all of it: most room, for it may have holes", []int{3, 2, 1}, []int64{2 * mib, 3 * mib, 2 * mib}, 4 * mib, 1},
		{"unknown size: most room", []int{3, 2, 1}, []int64{20 * mib, 30 * mib, 90 * mib}, -1, 2},
		{"unknown size, equal room: the greatest weight", []int{1, 2, 1}, []int64{20 * mib, 20 * mib, 20 * mib}, -1, 1},
		{"an unknown size does not go where all is full", []int{9, 1}, []int64{0, 20 * mib}, -1, 1},
		{"nothing fits everywhere: weight", []int{1, 2}, []int64{20 * mib, 10 * mib}, 0, 1},
		{"all are full", []int{1, 2}, []int64{mib - 1, 0}, 4 * mib, -1},
		{"all are full, for an unknown size", []int{1, 2}, []int64{mib - 1, 0}, -1, -1},
		{"a file system that does not tell has room", []int{1, 2}, []int64{math.MaxInt64 - defaultReserve, mib}, 4 * mib, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var dirs []Dir
			for _, w := range tt.weights {
				dirs = append(dirs, Dir{t.TempDir(), w})
			}
			s := openDirs(t, dirs...)
			rooms(s, tt.free...)
			r := bytes.NewReader(make([]byte, max(tt.size, 0)))
			loc, err := s.Put(t.Context(), s.Locate("x"), tt.size, r)
			if got := where(s, loc); got != tt.want {
				t.Errorf("it is in directory %d, error %v; want %d", got, err, tt.want)
			}
			if tt.want >= 0 {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if !errors.Is(err, origin.ErrFull) || int64(r.Len()) != max(tt.size, 0) {
				t.Errorf("error %v, %d bytes unread; want %v, none read", err, r.Len(), origin.ErrFull)
			}
			for _, d := range dirs {
				if !strings.Contains(err.Error(), d.Path) {
					t.Errorf("error %q does not say what is the matter with %s", err, d.Path)
				}
				if got := files(t, d.Path); len(got) != 0 {
					t.Errorf("%s holds %q", d.Path, got)
				}
			}
		})
	}
}

// What uploads under way still need is not given away a second time.
func TestPutCountsOnWhatIsDue(t *testing.T) {
	s := openDirs(t, Dir{t.TempDir(), 2}, Dir{t.TempDir(), 1})
	rooms(s, 10<<20, 100<<20)
	var first, second, third origin.Location
	var err error
	put := func(size int64, before func()) origin.Location {
		r := &hookedReader{bytes.NewReader(make([]byte, size)), before}
		loc, err2 := s.Put(t.Context(), s.Locate("x"), size, r)
		err = errors.Join(err, err2)
		return loc
	}
	first = put(6<<20, func() {
		if second == (origin.Location{}) {
			second = put(6<<20, func() {})
			third = put(4<<20, func() {})
		}
	})
	after := put(10<<20, func() {})
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range map[origin.Location]int{first: 0, second: 1, third: 0, after: 0} {
		if got := where(s, i); got != want {
			t.Errorf("%s is in directory %d; want %d", i.URL, got, want)
		}
	}
}

// A hookedReader calls before at every Read.
type hookedReader struct {
	r      io.Reader
	before func()
}

func (h *hookedReader) Read(b []byte) (int, error) {
	h.before()
	return h.r.Read(b)
}

// A directory that takes no object is passed over, as long as nothing was read;
// then what the store says is the worst of it.
func TestPutGoesOnToTheNextDirectory(t *testing.T) {
	const mib = 1 << 20
	for _, tt := range []struct {
		name string
		errs []error // of making the file, in the order of weight
		read bool    // the error comes at the first write instead
		want int
		err  error
	}{
		{"the first has no more file names", []error{syscall.ENOSPC, nil, nil}, false, 1, nil},
		{"two have a quota", []error{syscall.EDQUOT, syscall.EDQUOT, nil}, false, 2, nil},
		{"the first is read-only", []error{syscall.EROFS, nil, nil}, false, 1, nil},
		{"all are full", []error{syscall.ENOSPC, syscall.EDQUOT, syscall.ENOSPC}, false, -1, origin.ErrFull},
		{"one of them may come back", []error{syscall.ENOSPC, syscall.EIO, syscall.ENOSPC}, false, -1, origin.ErrUnavailable},
		{"what was read cannot be read again", []error{syscall.ENOSPC, nil, nil}, true, -1, origin.ErrFull},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := openDirs(t, Dir{t.TempDir(), 3}, Dir{t.TempDir(), 2}, Dir{t.TempDir(), 1})
			rooms(s, 100*mib, 100*mib, 100*mib)
			i := 0
			s.step = func(op string, f func() error) error {
				if (tt.read && op == "write" || !tt.read && op == "create") && i < len(tt.errs) {
					i++
					if tt.errs[i-1] != nil {
						return &os.PathError{Op: op, Path: "x", Err: tt.errs[i-1]}
					}
				}
				return f()
			}
			loc, err := s.Put(t.Context(), s.Locate("x"), mib, bytes.NewReader(origintest.Data(mib, 1)))
			if got := where(s, loc); got != tt.want || !errors.Is(err, tt.err) {
				t.Errorf("it is in directory %d, error %v; want %d, %v", got, err, tt.want, tt.err)
			}
			for _, d := range s.dirs {
				if got := files(t, d.path); tt.want < 0 && len(got) != 0 {
					t.Errorf("%s holds %q", d.path, got)
				}
			}
		})
	}
}

// No two directories get an object of one key, whoever comes first.
func TestNoKeyTwice(t *testing.T) {
	s := openDirs(t, Dir{t.TempDir(), 2}, Dir{t.TempDir(), 1})
	rooms(s, 100<<20, 100<<20)
	for i, d := range s.dirs {
		loc := s.Locate("x")
		key, _ := s.key(loc)
		write(t, d.join(key), "theirs")
		if _, err := s.Put(t.Context(), loc, 4, strings.NewReader("mine")); !errors.Is(err, origin.ErrExists) {
			t.Errorf("with an object in directory %d: %v; want %v", i, err, origin.ErrExists)
		}
	}

	// The second Put finds another directory the better one, and waits.
	loc := s.Locate("raced")
	started, finish := make(chan struct{}), make(chan struct{})
	first, second := make(chan error), make(chan error)
	go func() {
		_, err := s.Put(t.Context(), loc, -1, &gateReader{started: started, finish: finish})
		first <- err
	}()
	<-started
	rooms(s, 1<<20, 200<<20)
	go func() {
		_, err := s.Put(t.Context(), loc, -1, strings.NewReader("second"))
		second <- err
	}()
	close(finish)
	if err := <-first; err != nil {
		t.Errorf("the first Put: %v", err)
	}
	if err := <-second; !errors.Is(err, origin.ErrExists) {
		t.Errorf("the second Put: %v; want %v", err, origin.ErrExists)
	}
	if h := held(t, s)["raced"+strings.TrimPrefix(loc.URL, s.prefix+"raced")]; h.Size != 1 {
		t.Errorf("it is listed as %+v; want what the first Put wrote", h)
	}
	if len(s.puts) != 0 {
		t.Errorf("%d claims are left", len(s.puts))
	}
}
