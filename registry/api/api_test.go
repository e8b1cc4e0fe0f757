package api

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gin-gonic/gin"
	"go.uber.org/goleak"

	"nearsight/origin"
	"nearsight/origin/file"
	"nearsight/registry"
	"nearsight/registry/db"
)

func TestMain(m *testing.M) {
	gin.SetMode(gin.ReleaseMode)
	goleak.VerifyTestMain(m)
}

const (
	id1    = "11111111-1111-4111-8111-111111111111"
	id2    = "22222222-2222-4222-8222-222222222222"
	absent = "99999999-9999-4999-8999-999999999999"
)

// A rig is the API over the registry and the store that a server has.
type rig struct {
	testing.TB
	http.Handler
	api   *API
	db    *db.DB
	store *file.Store
	wakes atomic.Int32
	// caller is who makes the requests; nil leaves it to Wrap.
	caller *registry.Caller
}

// as makes the requests from now on those of c.
func (g *rig) as(c *registry.Caller) { g.caller = c }

// named puts the rig's caller where authentication would.
func (g *rig) named(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if g.caller != nil {
			r = r.WithContext(registry.WithCaller(r.Context(), g.caller))
		}
		h.ServeHTTP(w, r)
	})
}

func newRig(t testing.TB, changes ...func(*Options)) *rig {
	t.Helper()
	dir := t.TempDir()
	g := &rig{TB: t, caller: registry.Everybody()}
	var err error
	if g.db, err = db.Open(context.Background(), db.Options{Path: filepath.Join(dir, "registry.db"), Grace: -1}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.db.Close() })
	if g.store, err = file.Open(file.Options{Dir: filepath.Join(dir, "images")}); err != nil {
		t.Fatal(err)
	}
	o := Options{
		Images: g.db, Uploads: g.db, Store: g.store,
		Wake: func() { g.wakes.Add(1) },
		Log:  slog.New(slog.DiscardHandler),
	}
	for _, change := range changes {
		change(&o)
	}
	g.api = New(o)
	g.api.finishPatience = 10 * time.Millisecond
	engine := gin.New()
	g.api.Register(engine)
	data := func(c *gin.Context) { noContent(c.Writer) } // package proxy's place
	engine.GET("/v2/images/:id/file", data)
	engine.HEAD("/v2/images/:id/file", data)
	g.Handler = g.api.Wrap(g.named(engine))
	return g
}

// do makes a request: "METHOD target", a body, and fields as "Name: value".
func (g *rig) do(line, body string, fields ...string) *httptest.ResponseRecorder {
	method, target, _ := strings.Cut(line, " ")
	var r io.Reader
	if body != "" {
		r = strings.NewReader(body)
	}
	req := httptest.NewRequest(method, target, r)
	for _, f := range fields {
		name, value, _ := strings.Cut(f, ": ")
		req.Header.Add(name, value)
	}
	w := httptest.NewRecorder()
	g.ServeHTTP(w, req)
	if id := w.Header().Get("X-Openstack-Request-Id"); !strings.HasPrefix(id, "req-") {
		g.Errorf("%s: request id %q", line, id)
	}
	if w.Header().Get("Cache-Control") == "" && !strings.HasSuffix(target, "/file") {
		g.Errorf("%s: status %d without Cache-Control", line, w.Code)
	}
	return w
}

// want does a request and checks its status.
func (g *rig) want(status int, line, body string, fields ...string) *httptest.ResponseRecorder {
	g.Helper()
	w := g.do(line, body, fields...)
	if w.Code != status {
		g.Fatalf("%s %s: status %d, want %d: %s", line, body, w.Code, status, w.Body)
	}
	return w
}

// create makes an image of the JSON members given and returns its id.
func (g *rig) create(members string) string {
	g.Helper()
	w := g.want(http.StatusCreated, "POST /v2/images", "{"+members+"}")
	return decode(g, w)["id"].(string)
}

const formats = `"disk_format":"raw","container_format":"bare"`

// put uploads data.
func (g *rig) put(id, data string) {
	g.Helper()
	g.want(http.StatusNoContent, "PUT /v2/images/"+id+"/file", data, octets)
}

const octets = "Content-Type: application/octet-stream"

func (g *rig) get(id string) *registry.Image {
	g.Helper()
	img, err := g.db.Get(context.Background(), id)
	if err != nil {
		g.Fatal(err)
	}
	return img
}

// orphans returns how many objects wait for deletion.
func (g *rig) orphans() []origin.Location {
	g.Helper()
	locs, err := g.db.Orphans(context.Background(), "", 100)
	if err != nil {
		g.Fatal(err)
	}
	return locs
}

func decode(t testing.TB, w *httptest.ResponseRecorder) map[string]any {
	t.Helper()
	var v map[string]any
	if err := json.Unmarshal(w.Body.Bytes(), &v); err != nil {
		t.Fatalf("%v in %q", err, w.Body)
	}
	return v
}
