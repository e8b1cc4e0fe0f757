package web

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"nearsight/origin"
)

// What the server hears is half of the contract.
func TestRequestFields(t *testing.T) {
	for _, tt := range []struct {
		name, validator string
		off, n          int64
		want            map[string]string
	}{
		{"the whole", "", 0, -1, nil},
		{"the first bytes", "", 0, 3, map[string]string{"Range": "bytes=0-2"}},
		{"to the end", "", 5, -1, map[string]string{"Range": "bytes=5-"}},
		{"no sum overflows", "", 5, 1<<63 - 1, map[string]string{"Range": "bytes=5-"}},
		{"the last byte there can be", "", 1<<63 - 1, 1, map[string]string{"Range": "bytes=9223372036854775807-9223372036854775807"}},
		{"a strong ETag is a condition", tag, 0, -1, map[string]string{"If-Match": tag}},
		{"a time is a condition", modified, 0, -1, map[string]string{"If-Unmodified-Since": longAgo}},
		{"a list of ETags is none", `"a", "b"`, 0, -1, nil},
		{"a weak ETag is none", `W/"a"`, 0, -1, nil},
		{"a line break is none", "\"a\r\nX: y\"", 0, -1, nil},
		{"a time that is none", modifiedPrefix + "now\r\nX: y", 0, -1, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			heard := make(chan http.Header, 1)
			srv := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				heard <- r.Header.Clone()
				w.WriteHeader(http.StatusNotFound)
			}))
			s := newStore(t, Options{Guard: onLoopback()})
			if _, err := s.Open(t.Context(), origin.Location{URL: srv.URL, Validator: tt.validator}, tt.off, tt.n); !errors.Is(err, origin.ErrNotFound) {
				t.Fatal(err)
			}
			got := <-heard
			want := map[string]string{"Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": "nearsight"}
			for name, value := range tt.want {
				want[name] = value
			}
			for name := range got {
				if got.Get(name) != want[name] {
					t.Errorf("%s: %q; want %q", name, got.Get(name), want[name])
				}
			}
			if len(got) != len(want) {
				t.Errorf("fields %v; want %v", got, want)
			}
		})
	}
}

// A fragment is of the image, to tell it from others of the same URL, and not of
// the request.
func TestFragmentsAreNotSent(t *testing.T) {
	srv := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.RequestURI != "/data?x=y" {
			t.Errorf("asked for %q", r.RequestURI)
		}
		io.WriteString(w, digits)
	}))
	s := newStore(t, Options{Guard: onLoopback()})
	for _, fragment := range []string{"#", "#new", "#a?b#c%20d"} {
		info, err := s.Stat(t.Context(), origin.Location{URL: srv.URL + "/data?x=y" + fragment})
		if err != nil || info.Size != int64(len(digits)) {
			t.Errorf("with %q: %+v, %v", fragment, info, err)
		}
	}
}

func TestRedirects(t *testing.T) {
	var elsewhere atomic.Int64
	// A server that nobody may ask, although it listens.
	ln, err := net.Listen("tcp", "127.0.0.2:0")
	if err != nil {
		t.Fatal(err)
	}
	forbidden := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere.Add(1) }))
	forbidden.Listener.Close()
	forbidden.Listener = ln
	forbidden.Start()
	defer forbidden.Close()
	for _, tt := range []struct {
		name, to string
		status   int
		err      error
		says     string
	}{
		{"to a path", "/data", 301, nil, ""},
		{"to a relative path", "data", 302, nil, ""},
		{"to see other", "/data", 303, nil, ""},
		{"for a time", "/data", 307, nil, ""},
		{"for good", "/data#fragment", 308, nil, ""},
		{"five times", "/5", 302, nil, ""},
		{"six times", "/6", 302, origin.ErrUnavailable, "more than 5"},
		{"in circles", "/start", 302, origin.ErrUnavailable, "more than 5"},
		{"to nowhere", "", 302, origin.ErrUnavailable, "nowhere"},
		{"to no URL", "http://%zz/", 302, origin.ErrUnavailable, "malformed"},
		{"to a file", "file:///etc/passwd", 302, origin.ErrLocation, "scheme"},
		{"to a forbidden address", forbidden.URL, 302, origin.ErrLocation, "loopback"},
		{"to metadata", "http://169.254.169.254/latest/meta-data", 302, origin.ErrLocation, "metadata"},
		{"to a name of a forbidden address", "http://inside.example/", 302, origin.ErrLocation, "private"},
		{"with a password", "http://user:secret@127.0.0.1/", 302, origin.ErrLocation, "password"},
		{"with a choice", "/data", 300, origin.ErrUnavailable, "300"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			srv := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				to := tt.to
				switch path := r.URL.Path; {
				case path == "/data":
					io.WriteString(w, digits)
					return
				case path == "/2":
					to = "/data"
				case path != "/start":
					to = fmt.Sprint("/", path[1]-'1')
				}
				if to != "" {
					w.Header().Set("Location", to)
				}
				w.WriteHeader(tt.status)
			}))
			g := onLoopback()
			g.Resolver = lookup{"inside.example": {"10.0.0.7"}}
			s := newStore(t, Options{Guard: g})
			o, err := s.Open(t.Context(), origin.Location{URL: srv.URL + "/start"}, 0, -1)
			if tt.err != nil {
				if !errors.Is(err, tt.err) || !strings.Contains(err.Error(), tt.says) || strings.Contains(err.Error(), "secret") {
					t.Errorf("error %v; want %v, with %q", err, tt.err, tt.says)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer o.Body.Close()
			if got, err := io.ReadAll(o.Body); err != nil || string(got) != digits {
				t.Errorf("%q, %v", got, err)
			}
		})
	}
	if n := elsewhere.Load(); n != 0 {
		t.Errorf("the forbidden server got %d requests", n)
	}
}

func TestCredentialsGoToTheirHostAlone(t *testing.T) {
	type heard struct{ auth, key string }
	seen := make(chan heard, 10)
	handler := func(to *string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			seen <- heard{r.Header.Get("Authorization"), r.Header.Get("X-Api-Key")}
			if *to != "" {
				w.Header().Set("Location", *to)
				w.WriteHeader(http.StatusFound)
			}
		})
	}
	var toB, toA string
	a, b := serve(t, handler(&toB)), serve(t, handler(&toA))
	s := newStore(t, Options{Guard: onLoopback(), Hosts: []Host{
		{URL: a.URL + "/", User: "me", Password: "secret", Header: map[string]string{"x-api-key": "key"}},
	}})
	open := func(url string) {
		t.Helper()
		o, err := s.Open(t.Context(), origin.Location{URL: url}, 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		o.Body.Close()
	}
	known := heard{"Basic bWU6c2VjcmV0", "key"}

	toB = b.URL
	open(a.URL)
	if first, second := <-seen, <-seen; first != known || second != (heard{}) {
		t.Errorf("from the host to another they heard %v, then %v", first, second)
	}
	toB, toA = "", a.URL
	open(b.URL)
	if first, second := <-seen, <-seen; first != (heard{}) || second != known {
		t.Errorf("from another to the host they heard %v, then %v", first, second)
	}
	open(strings.Replace(a.URL, "http://127.0.0.1", "HTTP://[::ffff:127.0.0.1]", 1))
	if got := <-seen; got != known {
		t.Errorf("under another spelling of its name the host heard %v", got)
	}
}

func TestNewRefuses(t *testing.T) {
	dir := t.TempDir()
	empty := filepath.Join(dir, "empty.pem")
	if err := os.WriteFile(empty, []byte("nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		o    Options
	}{
		{"a host without scheme", Options{Hosts: []Host{{URL: "images.example", Password: "secret"}}}},
		{"a host with a path", Options{Hosts: []Host{{URL: "https://images.example/x", Password: "secret"}}}},
		{"a host with a password in it", Options{Hosts: []Host{{URL: "https://me:secret@images.example"}}}},
		{"a host that is none", Options{Hosts: []Host{{URL: "https://me:secret@:x"}}}},
		{"a host of another scheme", Options{Hosts: []Host{{URL: "ftp://images.example", Password: "secret"}}}},
		{"a host twice", Options{Hosts: []Host{{URL: "https://images.example", Password: "secret"}, {URL: "https://Images.Example.:443/"}}}},
		{"a field of ours", Options{Hosts: []Host{{URL: "https://images.example", Header: map[string]string{"range": "secret"}}}}},
		{"a field without a name", Options{Hosts: []Host{{URL: "https://images.example", Header: map[string]string{"": "secret"}}}}},
		{"a field of two lines", Options{Hosts: []Host{{URL: "https://images.example", Header: map[string]string{"X-Key": "secret\r\nHost: x"}}}}},
		{"a missing certificate", Options{CAFiles: []string{filepath.Join(dir, "none.pem")}}},
		{"an empty certificate", Options{CAFiles: []string{empty}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := New(tt.o); err == nil || strings.Contains(err.Error(), "secret") {
				t.Errorf("error %v", err)
			}
		})
	}
}
