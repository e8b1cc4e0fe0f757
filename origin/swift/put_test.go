package swift

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"nearsight/origin"
	"nearsight/origin/origintest"
)

// What arrived broken must not be kept, whoever broke it.
func TestWrongSums(t *testing.T) {
	l := newLab(t)
	for _, tt := range []struct {
		name string
		size int64
		path string // of the PUT whose body is changed
	}{
		{"a small object that breaks on the way is refused", 10 << 10, "/image."},
		{"a longer plain object that breaks on the way is deleted", 50 << 10, "/image."},
		{"a segment that breaks on the way ends the upload", 200 << 10, "/00000001"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := l.newMiddle(t, func(lab http.Handler, w http.ResponseWriter, r *http.Request) bool {
				if r.Method == "PUT" && strings.Contains(r.URL.Path, tt.path) {
					r.Body = io.NopCloser(flip{r.Body})
				}
				return false
			})
			s := small(l.open(t, Options{AuthURL: m.URL + "/auth/v1.0"}))
			loc := s.Locate("image")
			_, err := s.Put(t.Context(), loc, tt.size, bytes.NewReader(origintest.Data(int(tt.size), 1)))
			wantErr(t, "Put", err, origin.ErrUnavailable)
			_, err = s.Stat(t.Context(), loc)
			wantErr(t, "Stat", err, origin.ErrNotFound)
			wantNoLeftovers(t, s)
		})
	}
}

// flip changes what it reads.
type flip struct{ io.Reader }

func (f flip) Read(b []byte) (int, error) {
	n, err := f.Reader.Read(b)
	if n > 0 {
		b[0] ^= 1
	}
	return n, err
}

// refuse answers 401 to the nth request, from 1, that match picks, and counts the
// logins.
func refuse(t *testing.T, l lab, nth int32, match func(r *http.Request) bool) (*httptest.Server, *atomic.Int32) {
	var seen, logins atomic.Int32
	m := l.newMiddle(t, func(lab http.Handler, w http.ResponseWriter, r *http.Request) bool {
		if strings.HasPrefix(r.URL.Path, "/auth") {
			logins.Add(1)
		} else if match(r) && seen.Add(1) == nth {
			w.WriteHeader(http.StatusUnauthorized)
			return true
		}
		return false
	})
	return m, &logins
}

func TestTokenExpires(t *testing.T) {
	l := newLab(t)
	data := origintest.Data(300<<10, 1)
	for _, tt := range []struct {
		name  string
		nth   int32
		match func(r *http.Request) bool
	}{
		{"when an upload looks for its object", 1, func(r *http.Request) bool { return r.Method == "HEAD" }},
		{"when a segment is sent", 3, func(r *http.Request) bool {
			return r.Method == "PUT" && strings.Contains(r.URL.Path, "_segments/")
		}},
		{"between two segments", 3, func(r *http.Request) bool {
			return r.Method == "HEAD" && strings.HasSuffix(r.URL.Path, "_segments")
		}},
		{"when the manifest is sent", 1, func(r *http.Request) bool { return r.URL.Query().Has("multipart-manifest") }},
		{"when the object is opened", 1, func(r *http.Request) bool { return r.Header.Get("Range") == "bytes=0-149999" }},
		{"between two ranged reads", 1, func(r *http.Request) bool { return r.Header.Get("Range") == "bytes=150000-" }},
		{"when segments are listed", 1, func(r *http.Request) bool { return r.URL.Query().Has("prefix") }},
		{"when segments are deleted", 4, func(r *http.Request) bool { return r.Method == "DELETE" }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m, logins := refuse(t, l, tt.nth, tt.match)
			s := small(l.open(t, Options{AuthURL: m.URL + "/auth/v1.0"}))
			loc := put(t, s, "image", -1, data)
			head, err := read(s, t.Context(), loc, 0, 150000)
			if err != nil {
				t.Fatal(err)
			}
			tail, err := read(s, t.Context(), loc, 150000, -1)
			if err != nil || !bytes.Equal(append(head, tail...), data) {
				t.Errorf("read %d bytes, %v", len(head)+len(tail), err)
			}
			if err := s.Delete(t.Context(), loc); err != nil {
				t.Error(err)
			}
			if n := logins.Load(); n < 2 {
				t.Errorf("%d logins; want another one", n)
			}
			wantNoLeftovers(t, s)
		})
	}
}

// A server that reads all before it answers leaves nothing to send again.
func TestTokenExpiresTooLate(t *testing.T) {
	l := newLab(t)
	m, _ := refuse(t, l, 2, func(r *http.Request) bool {
		if r.Method != "PUT" || !strings.Contains(r.URL.Path, "_segments/") {
			return false
		}
		var b bytes.Buffer
		io.Copy(&b, r.Body)
		r.Body = io.NopCloser(&b)
		return true
	})
	s := small(l.open(t, Options{AuthURL: m.URL + "/auth/v1.0"}))
	loc := s.Locate("image")
	_, err := s.Put(t.Context(), loc, -1, bytes.NewReader(make([]byte, 300<<10)))
	wantErr(t, "Put", err, origin.ErrUnavailable)
	wantNoLeftovers(t, s)
}

// Whatever request of an upload fails, and whether or not it was done
// nevertheless, nothing of the object stays.
func TestPutFailsAtEveryStep(t *testing.T) {
	l := newLab(t)
	for _, open := range []func(*Store) *Store{small, dynamic} {
		for _, done := range []bool{false, true} {
			for step := int32(1); ; step++ {
				var seen atomic.Int32
				var undoing, reached atomic.Bool
				m := l.newMiddle(t, func(lab http.Handler, w http.ResponseWriter, r *http.Request) bool {
					if strings.HasPrefix(r.URL.Path, "/auth") || undoing.Load() || seen.Add(1) != step {
						return false
					}
					reached.Store(true)
					undoing.Store(true)
					if done {
						lab.ServeHTTP(httptest.NewRecorder(), r)
					}
					panic(http.ErrAbortHandler)
				})
				s := open(l.open(t, Options{AuthURL: m.URL + "/auth/v1.0"}))
				// A transport sends a GET again when a connection that had
				// served already breaks: no step would fail then.
				s.transport.DisableKeepAlives = true
				loc := s.Locate("image")
				_, err := s.Put(t.Context(), loc, -1, bytes.NewReader(origintest.Data(100<<10, 1)))
				if !reached.Load() {
					if err != nil || step < 6 {
						t.Errorf("with %d steps: %v", step-1, err)
					}
					break
				}
				what := fmt.Sprintf("step %d, done: %v", step, done)
				wantErr(t, "Put, "+what, err, origin.ErrUnavailable)
				_, err = s.Stat(t.Context(), loc)
				wantErr(t, "Stat, "+what, err, origin.ErrNotFound)
				for _, c := range []string{s.o.Container, segments(s.o.Container)} {
					if left := names(t, s, c); len(left) > 0 {
						t.Errorf("%s: %v is left in %s", what, left, c)
					}
				}
			}
		}
	}
}

// A silent sender is not a silent store.
func TestWatchRestsWhileTheSenderIsWaitedFor(t *testing.T) {
	w := newWatch(time.Hour, func(error) {})
	reads := 0
	r := readFunc(func(b []byte) (int, error) {
		if reads++; reads > 2 && w.timer.Stop() {
			t.Error("the watch runs on")
		}
		return len(b), nil
	})
	src, err := newSource(t.Context(), r, -1, 16)
	if err != nil {
		t.Fatal(err)
	}
	a := newPiece(src, 1<<20, false).attach(w)
	for range 10 {
		if _, err := io.ReadFull(a, make([]byte, 16)); err != nil {
			t.Fatal(err)
		}
		if !w.timer.Stop() {
			t.Error("the watch does not run while the store has to take data")
		}
		w.turn()
	}
	w.rest()
	if reads < 10 {
		t.Errorf("%d reads", reads)
	}
}

type readFunc func(b []byte) (int, error)

func (f readFunc) Read(b []byte) (int, error) { return f(b) }

func TestSilentStoreEndsPut(t *testing.T) {
	s := fake(t, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
	})
	if _, err := s.login(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	s.o.Timeout = 100 * time.Millisecond
	u := &upload{s: s, key: "k", id: "u", container: "c", src: bytesSource([]byte("data"))}
	_, err := u.plain(t.Context(), 4, http.Header{})
	wantErr(t, "PUT", err, origin.ErrUnavailable)
	if err == nil || !strings.Contains(err.Error(), "silent") {
		t.Errorf("error %q does not say why", err)
	}
}

// Without /info manifests are dynamic. Where these do not work either, the object
// would be empty: it must be found out.
func TestNoManifestsAtAll(t *testing.T) {
	l := newLab(t)
	m := l.newMiddle(t, func(_ http.Handler, w http.ResponseWriter, r *http.Request) bool {
		r.Header.Del("X-Object-Manifest")
		if r.URL.Path == "/info" {
			w.WriteHeader(http.StatusForbidden)
			return true
		}
		return false
	})
	s := small(l.open(t, Options{AuthURL: m.URL + "/auth/v1.0"}))
	loc := s.Locate("image")
	_, err := s.Put(t.Context(), loc, -1, bytes.NewReader(make([]byte, 100<<10)))
	wantErr(t, "Put", err, origin.ErrUnavailable)
	_, err = s.Stat(t.Context(), loc)
	wantErr(t, "Stat", err, origin.ErrNotFound)
	wantNoLeftovers(t, s)
}

// A dynamic manifest stands for what is listed, and listings lag behind.
func TestListingLagsBehind(t *testing.T) {
	l := newLab(t)
	data := origintest.Data(100<<10, 1)
	var asked atomic.Int32
	m := l.newMiddle(t, func(_ http.Handler, w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Query().Has("prefix") && asked.Add(1) <= 2 {
			io.WriteString(w, "[]")
			return true
		}
		return false
	})
	s := dynamic(l.open(t, Options{AuthURL: m.URL + "/auth/v1.0"}))
	loc := put(t, s, "image", -1, data)
	if got, err := read(s, t.Context(), loc, 0, -1); err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes read, %v", len(got), err)
	}
}

func TestListingNeverComes(t *testing.T) {
	s := fake(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "[]") })
	if _, err := s.login(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	s.o.Timeout = 100 * time.Millisecond
	u := &upload{s: s, key: "k", id: "u", container: "c"}
	wantErr(t, "awaitListing", u.awaitListing(t.Context(), []part{{"/c_segments/k/u/00000000", "x", 1}}), origin.ErrUnavailable)
}
