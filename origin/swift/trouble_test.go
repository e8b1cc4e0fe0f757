package swift

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"nearsight/origin"
)

// fake returns a store whose server logs everybody in, and leaves the rest to
// answer.
func fake(t testing.TB, answer http.HandlerFunc) *Store {
	t.Helper()
	var srv *httptest.Server
	srv = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/auth") {
			w.Header().Set("X-Storage-Url", srv.URL+"/v1/AUTH_fake")
			w.Header().Set("X-Auth-Token", "a-token")
			return
		}
		answer(w, r)
	}))
	s := newStore(t, Options{AuthURL: srv.URL + "/auth/v1.0", User: "u", Key: "a-secret-key"})
	t.Cleanup(func() {
		srv.CloseClientConnections()
		srv.Close()
	})
	return s
}

var sentinels = []error{
	origin.ErrNotFound, origin.ErrUnavailable, origin.ErrChanged,
	origin.ErrFull, origin.ErrExists, origin.ErrLocation,
}

func wantErr(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: error %v; want %v", what, err, want)
	}
	for _, s := range sentinels {
		if s != want && errors.Is(err, s) {
			t.Errorf("%s: error %q wraps %q besides %q", what, err, s, want)
		}
	}
	if err != nil && (strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "a-token")) {
		t.Errorf("%s: error %q tells a secret", what, err)
	}
}

func TestStatusMeans(t *testing.T) {
	for _, tt := range []struct {
		name       string
		method     string // 2xx, or 404 for HEAD, for the others
		status     int
		retryAfter string
		want       error
		wait       time.Duration
	}{
		{"404 to a read is not found", "GET", 404, "", origin.ErrNotFound, 0},
		{"412 to a read is changed", "GET", 412, "", origin.ErrChanged, 0},
		{"409 to a read is a broken manifest", "GET", 409, "", origin.ErrChanged, 0},
		{"401 twice is unavailable", "GET", 401, "", origin.ErrUnavailable, 0},
		{"403 is unavailable", "GET", 403, "", origin.ErrUnavailable, 0},
		{"429 says when", "GET", 429, "7", origin.ErrUnavailable, 7 * time.Second},
		{"498 says when", "GET", 498, "1", origin.ErrUnavailable, time.Second},
		{"503 says when, but not beyond a day", "GET", 503, "99999999999", origin.ErrUnavailable, 24 * time.Hour},
		{"503 may say nonsense", "GET", 503, "soon", origin.ErrUnavailable, 0},
		{"503 may name a time that is past", "GET", 503, "Mon, 02 Jan 2006 15:04:05 GMT", origin.ErrUnavailable, 0},
		{"500 is unavailable", "GET", 500, "", origin.ErrUnavailable, 0},
		{"a redirect is not followed", "GET", 302, "", origin.ErrUnavailable, 0},
		{"412 to a write is exists", "PUT", 412, "", origin.ErrExists, 0},
		{"413 to a write is full", "PUT", 413, "", origin.ErrFull, 0},
		{"507 to a write is full", "PUT", 507, "", origin.ErrFull, 0},
		{"404 to a write is a container that vanished", "PUT", 404, "", origin.ErrUnavailable, 0},
		{"422 to a write is data that broke on the way", "PUT", 422, "", origin.ErrUnavailable, 0},
		{"503 to a write says when", "PUT", 503, "3", origin.ErrUnavailable, 3 * time.Second},
		{"404 to a deletion is what is wanted", "DELETE", 404, "", nil, 0},
		{"403 to a deletion is unavailable", "DELETE", 403, "", origin.ErrUnavailable, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := fake(t, func(w http.ResponseWriter, r *http.Request) {
				switch {
				case r.Method == tt.method && strings.Contains(r.URL.Path, "/nearsight/"):
					w.Header().Set("Retry-After", tt.retryAfter)
					w.Header().Set("Location", "/elsewhere")
					w.WriteHeader(tt.status)
					io.WriteString(w, "you sent a-token and the secret")
				case r.Method == "HEAD" && strings.Contains(r.URL.Path, "/nearsight/"):
					w.WriteHeader(404)
				case r.URL.Path == "/elsewhere":
					t.Error("followed")
				case r.Method == "GET" && r.URL.RawQuery != "":
					io.WriteString(w, "[]")
				}
			})
			var err error
			loc := s.Locate("image")
			switch tt.method {
			case "GET":
				_, err = s.Open(t.Context(), loc, 1, 2)
			case "PUT":
				_, err = s.Put(t.Context(), loc, -1, strings.NewReader("data"))
			case "DELETE":
				err = s.Delete(t.Context(), loc)
			}
			wantErr(t, tt.method, err, tt.want)
			var after interface{ RetryAfter() time.Duration }
			if errors.As(err, &after) && after.RetryAfter() != tt.wait || tt.wait > 0 && after == nil {
				t.Errorf("RetryAfter of %v; want %v", err, tt.wait)
			}
		})
	}
}

func TestRetryAfterMayBeADate(t *testing.T) {
	h := http.Header{"Retry-After": {time.Now().Add(time.Hour).UTC().Format(http.TimeFormat)}}
	if d := retryAfter(h); d < 50*time.Minute || d > time.Hour {
		t.Errorf("in an hour is in %v", d)
	}
}

func TestStrangeAnswers(t *testing.T) {
	for _, tt := range []struct {
		name   string
		answer http.HandlerFunc
		want   error // of Open or of the body
	}{
		{"a 206 without a range", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(206) }, origin.ErrUnavailable},
		{"a 206 for another length than it sends", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Range", "bytes 1-4/9")
			w.Header().Set("Content-Length", "2")
			w.WriteHeader(206)
			io.WriteString(w, "ab")
		}, origin.ErrUnavailable},
		{"a 200 of unknown length", func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, "ab")
			w.(http.Flusher).Flush()
		}, origin.ErrUnavailable},
		{"a 206 that ends early", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Range", "bytes 1-4/9")
			w.WriteHeader(206)
			w.(http.Flusher).Flush()
			io.WriteString(w, "ab")
		}, io.ErrUnexpectedEOF},
		{"a 200 that ends early", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "9")
			io.WriteString(w, "ab")
		}, io.ErrUnexpectedEOF},
		{"another object than its precondition", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Etag", `"other"`)
			io.WriteString(w, "abc")
		}, origin.ErrChanged},
		{"a header that never comes", func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, origin.ErrUnavailable},
		{"a body that stalls", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "9")
			w.Header().Set("Etag", "mine")
			io.WriteString(w, "ab")
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		}, origin.ErrUnavailable},
		{"a connection that breaks", func(w http.ResponseWriter, r *http.Request) { panic(http.ErrAbortHandler) }, origin.ErrUnavailable},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := fake(t, func(w http.ResponseWriter, r *http.Request) {
				if w.Header().Set("Etag", "mine"); r.Header.Get("If-Match") != `"mine"` {
					t.Errorf("If-Match %q", r.Header.Get("If-Match"))
				}
				tt.answer(w, r)
			})
			if strings.Contains(tt.name, "stalls") || strings.Contains(tt.name, "never") {
				s.o.Timeout = 100 * time.Millisecond
			}
			loc := s.Locate("image")
			loc.Validator = "mine"
			_, err := read(s, t.Context(), loc, 1, 4)
			wantErr(t, "read", err, tt.want)
		})
	}
}

func TestARangeThatIsIgnoredIsToldAsItIs(t *testing.T) {
	s := fake(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "all of it") })
	o, err := s.Open(t.Context(), s.Locate("image"), 4, 2)
	if err != nil {
		t.Fatal(err)
	}
	defer o.Body.Close()
	if got, err := io.ReadAll(o.Body); err != nil || string(got) != "all of it" || o.Offset != 0 || o.Length != 9 {
		t.Errorf("%d+%d: %q, %v", o.Offset, o.Length, got, err)
	}
}

func TestNobodyListens(t *testing.T) {
	srv := httptest.NewServer(http.NotFoundHandler())
	s := newStore(t, Options{AuthURL: srv.URL + "/auth/v1.0", User: "u", Key: "a-secret-key"})
	srv.Close()
	_, err := s.Stat(t.Context(), s.Locate("image"))
	wantErr(t, "Stat", err, origin.ErrUnavailable)
	_, err = s.Put(t.Context(), s.Locate("image"), 1, strings.NewReader("x"))
	wantErr(t, "Put", err, origin.ErrUnavailable)
	for _, err := range s.List(t.Context()) {
		wantErr(t, "List", err, origin.ErrUnavailable)
	}
}
