package api

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"nearsight/origin"
	"nearsight/registry"
)

func TestErrorsBecomeStatuses(t *testing.T) {
	for _, tt := range []struct {
		err    error
		status int
		retry  string
	}{
		{registry.ErrNotFound, 404, ""},
		{registry.ErrInvalid, 400, ""},
		{registry.ErrForbidden, 403, ""},
		{registry.ErrConflict, 409, ""},
		{registry.ErrTooLarge, 413, ""},
		{registry.ErrUnavailable, 503, "5"},
		{origin.ErrNotFound, 502, ""},
		{origin.ErrChanged, 502, ""},
		{origin.ErrUnavailable, 503, "5"},
		{origin.ErrFull, 413, ""},
		{origin.ErrSize, 400, ""},
		{origin.ErrExists, 500, ""},
		{origin.ErrLocation, 502, ""},
		{context.DeadlineExceeded, 504, ""},
		{context.Canceled, 503, "5"},
		{&http.MaxBytesError{}, 413, ""},
		{errors.New("disk /srv/secret on fire"), 500, ""},
		{refuse(429, "slower"), 429, "1"},
		{&cutError{5, errors.New("reset")}, 400, ""},
	} {
		t.Run(tt.err.Error(), func(t *testing.T) {
			w := httptest.NewRecorder()
			h := w.Header()
			for _, name := range []string{"ETag", "Last-Modified", "Content-Length", "Content-Range", "Content-Disposition",
				"Content-Digest", "Accept-Ranges", "Cache-Control", "Cache-Status", "Cache-Groups", "CDN-Cache-Control", "Repr-Digest", "xkey"} {
				h.Set(name, "left over")
			}
			h.Set("Allow", "GET")
			Fail(w, httptest.NewRequest("GET", "/v2/images", nil), fmt.Errorf("open /srv/secret: %w", tt.err))
			if w.Code != tt.status || h.Get("Retry-After") != tt.retry {
				t.Errorf("status %d, Retry-After %q", w.Code, h.Get("Retry-After"))
			}
			for name, values := range h {
				if values[0] == "left over" {
					t.Errorf("%s was kept", name)
				}
			}
			if h.Get("Cache-Control") != "no-store" || h.Get("Allow") != "GET" || h.Get("Content-Length") != fmt.Sprint(w.Body.Len()) {
				t.Errorf("header %v", h)
			}
			if w.Code >= 500 && strings.Contains(w.Body.String(), "secret") {
				t.Errorf("the client reads %q", w.Body)
			}
		})
	}
}

// Texts for people: what was being done is the log's, and quotation marks are
// not escaped as in Go.
func TestClientsReadWhatIsWrong(t *testing.T) {
	for _, tt := range []struct {
		err  error
		says string
	}{
		{fmt.Errorf("get image %q: %w", id1, registry.ErrNotFound), "image not found"},
		{fmt.Errorf("create image %s: %w: the id is or was in use", id1, registry.ErrConflict), "the id is or was in use"},
		{fmt.Errorf("update: %w", fmt.Errorf("%w: name: too long", registry.ErrInvalid)), "name: too long"},
		{refuse(400, "path %.80q has %d parts, not %s", `/a"b\c`, 2, "one"), `path "/a"b\c" has 2 parts, not one`},
		{refuse(400, "%.3q", "éééé"), `"ééé..."`},
		{refuse(400, "%q", "a\nb"), "\"a\uFFFDb\""},
	} {
		t.Run(tt.says, func(t *testing.T) {
			w := httptest.NewRecorder()
			Fail(w, httptest.NewRequest("GET", "/v2/images", nil), tt.err)
			if _, body, _ := strings.Cut(w.Body.String(), "\n\n"); body != tt.says+"\n" {
				t.Errorf("%q", w.Body)
			}
		})
	}
}

// A logOf keeps what a rig's API logs.
func logOf(o *Options) *bytes.Buffer {
	b := new(bytes.Buffer)
	o.Log = slog.New(slog.NewTextHandler(b, nil))
	return b
}

func TestAClientThatLeftIsNoFailure(t *testing.T) {
	var log *bytes.Buffer
	g := newRig(t, func(o *Options) { log = logOf(o) })
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	w := httptest.NewRecorder()
	g.ServeHTTP(w, httptest.NewRequestWithContext(ctx, "GET", "/v2/images", nil))
	if w.Code != StatusClientLeft || log.Len() > 0 {
		t.Errorf("status %d, log %q", w.Code, log)
	}
}

func TestAFullStoreIsLogged(t *testing.T) {
	var log *bytes.Buffer
	f := &faults{put: fmt.Errorf("write x: %w", origin.ErrFull)}
	g := newRig(t, f.use, func(o *Options) { log = logOf(o) })
	g.create(`"id":"` + id1 + `",` + formats)
	g.want(413, "PUT /v2/images/"+id1+"/file", "data", octets)
	if !strings.Contains(log.String(), "level=ERROR") || !strings.Contains(log.String(), "store full") || !strings.Contains(log.String(), id1) {
		t.Errorf("log %q", log)
	}
}

func TestUnsatisfiableRangeKeepsItsContentRange(t *testing.T) {
	w := httptest.NewRecorder()
	w.Header().Set("Content-Range", "bytes */5")
	FailStatus(w, httptest.NewRequest("GET", "/v2/images/x/file", nil), 416, "beyond the end")
	if w.Header().Get("Content-Range") != "bytes */5" {
		t.Error(w.Header())
	}
}

// The bodies of errors, as the reference's section 0 has them [R].
func TestErrorBodiesFollowAccept(t *testing.T) {
	const (
		plain   = "text/plain; charset=UTF-8"
		html    = "text/html; charset=UTF-8"
		json    = "application/json"
		problem = "application/problem+json"
	)
	for _, tt := range []struct{ name, path, accept, want string }{
		{"nothing", "/v2/x", "", plain},
		{"something else", "/v2/x", "image/png", plain},
		{"garbage", "/v2/x", ";;q=,/,", plain},
		{"a browser", "/v2/x", "text/html,application/xhtml+xml,*/*;q=0.8", html},
		{"glanceclient", "/v2/x", "*/*", html},
		{"JSON before anything", "/v2/x", "application/json, */*", html},
		{"gophercloud", "/v2/x", "application/json", json},
		{"JSON with a parameter", "/v2/x", "application/json;charset=utf-8", json},
		{"JSON preferred", "/v2/x", "text/html;q=0.4, application/json;q=0.5", json},
		{"JSON refused", "/v2/x", "application/json;q=0", plain},
		{"all but HTML", "/v2/x", "*/*, text/html;q=0", json},
		{"any application type", "/v2/x", "application/*", json},
		{"problem documents, named", "/v2/x", "application/problem+json", problem},
		{"problem documents beside JSON", "/v2/x", "application/json, application/problem+json", problem},
		{"problem documents less liked", "/v2/x", "application/json, application/problem+json;q=0.1", json},
		{"a weight out of bounds", "/v2/x", "application/json;q=2", plain},
		{"nearsight's own routes", "/nearsight/x", "text/html", problem},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := httptest.NewRequest("GET", tt.path, nil)
			r.Header.Set("Accept", tt.accept)
			w := httptest.NewRecorder()
			w.Header().Set(RequestIDHeader, "req-7")
			FailStatus(w, r, 404, `no <b> & "c"`)
			if got := w.Header().Get("Content-Type"); got != tt.want {
				t.Fatalf("Content-Type %q, want %q", got, tt.want)
			}
			want := map[string]string{
				plain:   "404 Not Found\n\nno <b> & \"c\"\n",
				html:    "<html>\n<head>\n<title>404 Not Found</title>\n</head>\n<body>\n<h1>404 Not Found</h1>\n<p>no &lt;b&gt; &amp; \"c\"</p>\n</body>\n</html>\n",
				json:    `{"message":"no <b> & \"c\"","code":"404 Not Found","title":"Not Found"}`,
				problem: `{"type":"about:blank","title":"Not Found","status":404,"detail":"no <b> & \"c\"","instance":"req-7"}`,
			}[tt.want]
			if w.Body.String() != want {
				t.Errorf("body %q, want %q", w.Body, want)
			}
		})
	}
}

func TestErrorOnHEADHasNoBody(t *testing.T) {
	g := newRig(t)
	get, head := g.do("GET /v2/images/"+absent, ""), g.do("HEAD /v2/images/"+absent, "")
	if head.Code != 404 || head.Body.Len() != 0 || head.Header().Get("Content-Length") != get.Header().Get("Content-Length") {
		t.Errorf("%d with %q and %v", head.Code, head.Body, head.Header())
	}
}

func TestLongExplanationsAreCut(t *testing.T) {
	w := httptest.NewRecorder()
	FailStatus(w, httptest.NewRequest("GET", "/v2/x", nil), 400, strings.Repeat("é", 5000)+"\xff")
	if w.Body.Len() > maxDetail+100 || !strings.HasSuffix(w.Body.String(), "é ...\n") {
		t.Errorf("%d bytes: %q", w.Body.Len(), w.Body.String()[w.Body.Len()-10:])
	}
}
