package swift

import (
	"cmp"
	"context"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"

	"nearsight/origin"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// quiet is for servers in whose connections errors are made.
var quiet = log.New(io.Discard, "", 0)

// A lab is a real Swift.
type lab struct{ authURL, user, key string }

func newLab(t testing.TB) lab {
	t.Helper()
	l := lab{os.Getenv("SWIFT_AUTH_URL"), os.Getenv("SWIFT_USER"), os.Getenv("SWIFT_KEY")}
	if l.authURL == "" || l.user == "" || l.key == "" {
		t.Fatal("SWIFT_AUTH_URL, SWIFT_USER and SWIFT_KEY are not set: run deploy/lab/swift.sh start, and export what it prints")
	}
	return l
}

// open returns a store with containers of its own, which vanish with the test.
func (l lab) open(t testing.TB, o Options) *Store {
	t.Helper()
	o.AuthURL = cmp.Or(o.AuthURL, l.authURL)
	o.User, o.Key, o.Container = l.user, l.key, cmp.Or(o.Container, "test-"+origin.RandomName())
	s := newStore(t, o)
	t.Cleanup(func() { l.sweep(t, s) })
	return s
}

// newStore returns a store whose connections end with the test.
func newStore(t testing.TB, o Options) *Store {
	t.Helper()
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.transport.CloseIdleConnections)
	return s
}

// sweep deletes the containers of s, with all that is in them, over a connection
// that nothing disturbs.
func (l lab) sweep(t testing.TB, s *Store) {
	ctx := context.Background() // that of t has ended
	o := s.o
	o.AuthURL, o.Timeout = l.authURL, 0
	direct, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	defer direct.transport.CloseIdleConnections()
	for i := range max(s.o.Containers, 1) {
		c := s.containerAt(i)
		for _, c := range []string{c, segments(c)} {
			for name := range names(t, direct, c) {
				if err := direct.remove(ctx, c, name); err != nil {
					t.Error(err)
				}
			}
			_, err := direct.ask(ctx, call{method: http.MethodDelete, container: c})
			if err != nil && !errors.Is(err, origin.ErrNotFound) {
				t.Errorf("delete container %s: %v", c, err)
			}
		}
	}
}

// newMiddle puts a proxy before the lab. Tempauth answers with the address that
// it was asked at, so all goes through the proxy.
func (l lab) newMiddle(t testing.TB, answer func(lab http.Handler, w http.ResponseWriter, r *http.Request) bool) *httptest.Server {
	t.Helper()
	u, err := url.Parse(l.authURL)
	if err != nil {
		t.Fatal(err)
	}
	// A token may expire at any time. A proxy that takes the body before the lab
	// has said 100 makes it too late to send that again; and so would one on a
	// connection that is to serve again.
	transport := &http.Transport{ExpectContinueTimeout: time.Minute}
	through := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host, r.Out.Host = u.Scheme, u.Host, r.In.Host
			r.Out.Close = r.In.Close
		},
		Transport:     transport,
		FlushInterval: -1,
		ErrorLog:      quiet,
	}
	m := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !answer(through, w, r) {
			through.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(func() {
		m.CloseClientConnections()
		m.Close()
		transport.CloseIdleConnections()
	})
	return m
}

// names returns what is in a container, and how long it is.
func names(t testing.TB, s *Store, container string) map[string]int64 {
	t.Helper()
	found := make(map[string]int64)
	for e, err := range s.walk(context.Background(), container, "") {
		if err != nil {
			t.Fatal(err)
		}
		found[e.Name] = e.Bytes
	}
	return found
}
