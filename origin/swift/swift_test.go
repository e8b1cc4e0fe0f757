package swift

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"nearsight/origin"
	"nearsight/origin/origintest"
)

// small makes s write large objects of small ones.
func small(s *Store) *Store {
	s.block, s.o.SegmentSize = 16<<10, 60<<10
	return s
}

// dynamic makes s believe that there are no static manifests.
func dynamic(s *Store) *Store {
	l := silentLimits
	s.limits.Store(&l)
	return small(s)
}

func TestStore(t *testing.T) {
	l := newLab(t)
	for _, tt := range []struct {
		name string
		open func(t *testing.T) *Store
	}{
		{"plain objects", func(t *testing.T) *Store { return l.open(t, Options{}) }},
		{"static large objects in several containers", func(t *testing.T) *Store { return small(l.open(t, Options{Containers: 3})) }},
		{"dynamic large objects", func(t *testing.T) *Store { return dynamic(l.open(t, Options{})) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			origintest.TestStore(t, func(t *testing.T) origin.WriteStore {
				s := tt.open(t)
				t.Cleanup(func() { wantNoLeftovers(t, s) })
				return s
			})
		})
	}
}

// wantNoLeftovers checks that every segment belongs to an object.
func wantNoLeftovers(t *testing.T, s *Store) {
	t.Helper()
	for h, err := range s.List(context.Background()) {
		if err != nil {
			t.Fatal(err)
		}
		if h.Partial {
			t.Errorf("%s was left, %d bytes", h.Location.URL, h.Size)
		}
	}
}

func put(t testing.TB, s *Store, id string, size int64, data []byte) origin.Location {
	t.Helper()
	loc, err := s.Put(t.Context(), s.Locate(id), size, bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	return loc
}

func read(s *Store, ctx context.Context, loc origin.Location, off, n int64) ([]byte, error) {
	o, err := s.Open(ctx, loc, off, n)
	if err != nil {
		return nil, err
	}
	defer o.Body.Close()
	return io.ReadAll(o.Body)
}

func TestShape(t *testing.T) {
	l := newLab(t)
	data := origintest.Data(200<<10, 1)
	for _, tt := range []struct {
		name     string
		open     func(*Store) *Store
		size     int64 // said beforehand
		length   int
		field    string // of the object's header
		segments int
	}{
		{"nothing is a plain object", small, -1, 0, "", 0},
		{"what fits into a block is a plain object", small, -1, 16 << 10, "", 0},
		{"what fits into a segment is a plain object if its size is known", small, 60 << 10, 60 << 10, "", 0},
		{"and a large one of one segment if not", small, -1, 60 << 10, "X-Static-Large-Object", 1},
		{"a longer one has several", small, 200 << 10, 200 << 10, "X-Static-Large-Object", 4},
		{"also if its size is not known", small, -1, 180 << 10, "X-Static-Large-Object", 3},
		{"without static manifests it is a dynamic one", dynamic, -1, 200 << 10, "X-Object-Manifest", 4},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := tt.open(l.open(t, Options{}))
			loc := put(t, s, "shape", tt.size, data[:tt.length])
			key, _ := s.key(loc)
			h, err := s.ask(t.Context(), call{method: http.MethodHead, container: s.o.Container, object: key})
			if err != nil {
				t.Fatal(err)
			}
			for _, field := range []string{"X-Static-Large-Object", "X-Object-Manifest"} {
				if (h.Get(field) != "") != (field == tt.field) {
					t.Errorf("%s: %q", field, h.Get(field))
				}
			}
			if parts := names(t, s, segments(s.o.Container)); len(parts) != tt.segments {
				t.Errorf("segments %v; want %d", parts, tt.segments)
			}
			if err := s.Delete(t.Context(), loc); err != nil {
				t.Fatal(err)
			}
			if rest := names(t, s, segments(s.o.Container)); len(rest) > 0 {
				t.Errorf("segments %v are left", rest)
			}
		})
	}
}

// A segment of another length or content must never be served as the object.
func TestChangedSegment(t *testing.T) {
	l := newLab(t)
	for _, tt := range []struct {
		name string
		open func(*Store) *Store
	}{{"static", small}, {"dynamic", dynamic}} {
		t.Run(tt.name+" objects notice another segment", func(t *testing.T) {
			s := tt.open(l.open(t, Options{}))
			data := origintest.Data(200<<10, 1)
			loc := put(t, s, "changed", -1, data)
			bare := origin.Location{URL: loc.URL}
			for _, at := range []string{"no segment", "the third"} {
				if at == "the third" {
					parts := names(t, s, segments(s.o.Container))
					for name, n := range parts {
						if strings.HasSuffix(name, "/00000002") {
							body := bytesPiece(make([]byte, n))
							if _, err := s.ask(t.Context(), call{method: http.MethodPut, container: segments(s.o.Container), object: name, body: body}); err != nil {
								t.Fatal(err)
							}
						}
					}
				}
				for _, from := range []int64{0, 130 << 10} {
					got, err := read(s, t.Context(), loc, from, -1)
					if at == "no segment" {
						if err != nil || !bytes.Equal(got, data[from:]) {
							t.Errorf("from %d on: %d bytes, %v", from, len(got), err)
						}
						continue
					}
					if err == nil || !bytes.HasPrefix(data[from:], got) {
						t.Errorf("%s changed, from %d on: %d bytes, error %v", at, from, len(got), err)
					}
				}
			}
			_, err := s.Open(t.Context(), loc, 130<<10, 10)
			if !errors.Is(err, origin.ErrChanged) {
				t.Errorf("Open of the changed segment: %v; want ErrChanged", err)
			}
			if err := s.Delete(t.Context(), bare); err != nil {
				t.Error(err)
			}
		})
	}
}

// leave writes segments as a Put does that its process does not survive.
func leave(t *testing.T, s *Store, key string, n int) {
	t.Helper()
	u := &upload{s: s, key: key, id: origin.RandomName(), container: s.container(key)}
	data := origintest.Data(n, 1)
	var err error
	if u.src, err = newSource(t.Context(), bytes.NewReader(data), -1, s.block); err != nil {
		t.Fatal(err)
	}
	for u.src.more() {
		if _, err := u.send(t.Context(), s.o.SegmentSize, 0); err != nil {
			t.Fatal(err)
		}
	}
}

func TestList(t *testing.T) {
	l := newLab(t)
	for _, containers := range []int{0, 4} {
		for _, open := range []func(*Store) *Store{small, dynamic} {
			s := open(l.open(t, Options{Containers: containers}))
			want := make(map[string]string)
			say := func(h origin.Held) string { return fmt.Sprintf("%d %v", h.Size, h.Partial) }
			for h, err := range s.List(t.Context()) {
				t.Fatalf("an empty store has %+v, %v", h, err)
			}
			for i, n := range []int{0, 1, 60 << 10, 200 << 10} {
				// Names one of which begins with the other.
				loc := put(t, s, strings.Repeat("a", i+1), -1, origintest.Data(n, 1))
				want[loc.URL] = say(origin.Held{Size: int64(n)})
			}
			leave(t, s, "a", 150<<10)
			leave(t, s, "b", 20<<10)
			leave(t, s, "b", 30<<10)
			want[s.prefix+"a"] = say(origin.Held{Size: 150 << 10, Partial: true})
			want[s.prefix+"b"] = say(origin.Held{Size: 50 << 10, Partial: true})
			got := make(map[string]string)
			for h, err := range s.List(t.Context()) {
				if err != nil {
					t.Fatal(err)
				}
				if h.Location.Validator != "" || h.ModTime.IsZero() || got[h.Location.URL] != "" {
					t.Errorf("listed twice or malformed: %+v", h)
				}
				got[h.Location.URL] = say(h)
			}
			if fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("List = %v\nwant   %v", got, want)
			}
			for url, what := range got {
				loc := origin.Location{URL: url}
				if _, err := s.Stat(t.Context(), loc); errors.Is(err, origin.ErrNotFound) != strings.HasSuffix(what, "true") {
					t.Errorf("%s is %s, and Stat says %v", url, what, err)
				}
				if err := s.Delete(t.Context(), loc); err != nil {
					t.Error(err)
				}
			}
			for i := range max(containers, 1) {
				c := s.containerAt(i)
				if rest := len(names(t, s, c)) + len(names(t, s, segments(c))); rest > 0 {
					t.Errorf("%d objects are left in %s", rest, c)
				}
			}
		}
	}
}

func TestListEndsWhenTold(t *testing.T) {
	s := small(newLab(t).open(t, Options{}))
	for range 3 {
		put(t, s, "image", -1, []byte("x"))
	}
	n := 0
	for range s.List(t.Context()) {
		n++
		break
	}
	if n != 1 {
		t.Errorf("%d were yielded", n)
	}
}

func TestForeignObjectsAreNotListed(t *testing.T) {
	s := newLab(t).open(t, Options{})
	loc := put(t, s, "image", -1, []byte("x"))
	for _, c := range []string{s.o.Container, segments(s.o.Container)} {
		if err := s.ensure(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"dir/file", ".hidden", "un quoted"} {
			if c != s.o.Container && name == "dir/file" {
				continue // might be a segment
			}
			if _, err := s.ask(t.Context(), call{method: http.MethodPut, container: c, object: name, body: bytesPiece(nil)}); err != nil {
				t.Fatal(err)
			}
		}
	}
	var got []string
	for h, err := range s.List(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, h.Location.URL)
	}
	if !slices.Equal(got, []string{loc.URL}) {
		t.Errorf("List = %v; want %s alone", got, loc.URL)
	}
}

func TestSegmentsGrow(t *testing.T) {
	const g = 1 << 30
	l := limits{segments: 1000, size: 5 * g}
	for _, tt := range []struct {
		name string
		size int64
		i    int
		want int64
	}{
		{"the first are as asked", g, 249, g},
		{"then they double", g, 250, 2 * g},
		{"and again", g, 500, 4 * g},
		{"up to what the store takes", g, 750, 5 * g},
		{"which is the most at all times", 9 * g, 0, 5 * g},
		{"and no number overflows", 1<<63 - 1, 999, 5 * g},
	} {
		if got := l.segment(tt.size, tt.i); got != tt.want {
			t.Errorf("%s: segment %d of %d has %d bytes; want %d", tt.name, tt.i, tt.size, got, tt.want)
		}
	}
}

func TestTooManySegments(t *testing.T) {
	s := small(newLab(t).open(t, Options{}))
	s.limits.Store(&limits{slo: true, segments: 2, size: 60 << 10})
	loc := s.Locate("long")
	_, err := s.Put(t.Context(), loc, -1, bytes.NewReader(make([]byte, 200<<10)))
	if !errors.Is(err, origin.ErrFull) {
		t.Errorf("Put: %v; want ErrFull", err)
	}
	wantNoLeftovers(t, s)
}

// The name of a container may have what means something in a URL.
func TestAnOddContainer(t *testing.T) {
	l := newLab(t)
	for _, open := range []func(*Store) *Store{small, dynamic} {
		s := open(l.open(t, Options{Container: "test %41?#ä-" + origin.RandomName()}))
		data := origintest.Data(100<<10, 1)
		loc, err := s.Put(t.Context(), s.Locate("image"), -1, bytes.NewReader(data))
		if err != nil {
			t.Error(err)
			continue
		}
		if got, err := read(s, t.Context(), loc, 0, -1); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		if err := s.Delete(t.Context(), loc); err != nil {
			t.Error(err)
		}
	}
}
