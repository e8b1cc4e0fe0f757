package v1_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gin-gonic/gin"
	"go.uber.org/goleak"

	"nearsight/cache"
	"nearsight/origin"
	"nearsight/origin/origintest"
	"nearsight/proxy"
	"nearsight/registry"
	"nearsight/registry/api"
	v1 "nearsight/registry/api/v1"
	"nearsight/registry/api/v1/v1test"
	"nearsight/registry/bus"
	"nearsight/registry/db"
	"nearsight/registry/identity"
)

func TestMain(m *testing.M) {
	gin.SetMode(gin.ReleaseMode)
	goleak.VerifyTestMain(m)
}

// callers are known by tokens that are their names.
var callers = map[string]*registry.Caller{
	"admin":  {Roles: []string{"admin"}},
	"boss":   {Project: "bosses", Roles: []string{"admin"}},
	"red":    {Project: "red", Roles: []string{"member"}},
	"blue":   {Project: "blue", Roles: []string{"member"}},
	"green":  {Project: "green", Roles: []string{"member"}},
	"reader": {Project: "red", Roles: []string{"reader"}},
}

type names struct{}

func (names) Identify(_ context.Context, token string) (*registry.Caller, error) {
	if c := callers[token]; c != nil {
		return c, nil
	}
	return nil, identity.ErrUnknown
}

// A rig is a server in this process, with both listeners, and a web server beside.
type rig struct {
	testing.TB
	db           *db.DB
	store        *origintest.Fake
	api, records string // URLs, as http://127.0.0.1:1
	web          *httptest.Server
	token        string // of the requests that follow
}

// newRig makes one. Its callers are told apart if any is named; it makes the requests.
func newRig(t testing.TB, token string, changes ...func(*api.Options)) *rig {
	t.Helper()
	g := &rig{TB: t, store: &origintest.Fake{}, token: token}
	g.web = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "", time.Unix(1300000000, 0), strings.NewReader("from elsewhere"))
	}))
	t.Cleanup(g.web.Close)
	dir := t.TempDir()
	var local *bus.Local
	var err error
	g.db, err = db.Open(t.Context(), db.Options{Path: filepath.Join(dir, "db"), Grace: -1, Notify: func(n int64) { local.Notify(n) }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.db.Close() })
	local = bus.New(g.db)
	kept, err := cache.Open(cache.Options{Dir: filepath.Join(dir, "cache"), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { kept.Close() })
	quiet := slog.New(slog.DiscardHandler)
	records := proxy.NewRecords(proxy.RecordsOptions{Images: g.db, Log: g.db, Events: local, Logger: quiet})
	o := api.Options{
		Images: records, Uploads: records.Uploads(g.db), Store: g.store, Locations: records.Locations(g.db),
		Check:   func(context.Context, string) error { return nil },
		Stat:    webStat{g.web.URL},
		Imports: api.Imports{Tasks: records.Tasks(g.db)},
		V1:      true, MaxLimit: 3, DefaultLimit: 2, Log: quiet,
	}
	if token != "" {
		o.Identity, o.Anonymous = names{}, true
	}
	for _, change := range changes {
		change(&o)
	}
	calls := api.New(o)
	old := v1.New(v1.Options{API: calls, Images: records, Log: quiet})
	edge := proxy.New(proxy.Options{Records: records, API: calls, Cache: kept, Store: g.store, V1: old, CacheCalls: true, Log: quiet})
	for to, h := range map[*string]http.Handler{&g.api: edge.Handler(), &g.records: edge.RegistryHandler(v1.NewRegistry(old))} {
		s := httptest.NewServer(h)
		t.Cleanup(s.Close)
		*to = s.URL
	}
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	return g
}

// webStat says how long what lies at a web server is.
type webStat struct{ base string }

func (s webStat) Stat(_ context.Context, loc origin.Location) (origin.Info, error) {
	if !strings.HasPrefix(loc.URL, s.base) || strings.HasSuffix(loc.URL, "/absent") {
		return origin.Info{}, origin.ErrNotFound
	}
	if strings.HasSuffix(loc.URL, "/endless") {
		return origin.Info{Size: -1}, nil
	}
	return origin.Info{Size: int64(len("from elsewhere"))}, nil
}

func (webStat) Open(context.Context, origin.Location, int64, int64) (*origin.Object, error) {
	return nil, origin.ErrUnavailable
}

// client returns a client of 2011 that speaks for the rig's caller.
func (g *rig) client() *v1test.Client {
	return &v1test.Client{Base: g.api + "/v1", Token: strings.TrimSuffix(g.token, "nobody")}
}

func (g *rig) registry() *v1test.RegistryClient {
	return &v1test.RegistryClient{Client: v1test.Client{Base: g.records, Token: g.token}}
}

// do makes a request of the API listener: "METHOD target", a body, and fields as
// "Name: value".
func (g *rig) do(line, body string, fields ...string) (*http.Response, string) {
	g.Helper()
	return g.ask(g.api, line, body, fields...)
}

func (g *rig) ask(base, line, body string, fields ...string) (*http.Response, string) {
	g.Helper()
	method, target, _ := strings.Cut(line, " ")
	var r io.Reader
	if body != "" {
		r = strings.NewReader(body)
	}
	req, err := http.NewRequest(method, base+target, r)
	if err != nil {
		g.Fatal(err)
	}
	if g.token != "" && g.token != "nobody" {
		req.Header.Set("X-Auth-Token", g.token)
	}
	for _, f := range fields {
		name, value, _ := strings.Cut(f, ": ")
		req.Header[name] = append(req.Header[name], value) // as it is spelled
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		g.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		g.Fatal(err)
	}
	if resp.Header.Get("Cache-Control") == "" {
		g.Errorf("%s: status %d without Cache-Control", line, resp.StatusCode)
	}
	return resp, string(text)
}

// want does a request and checks its status.
func (g *rig) want(status int, line, body string, fields ...string) (*http.Response, string) {
	g.Helper()
	resp, text := g.do(line, body, fields...)
	if resp.StatusCode != status {
		g.Fatalf("%s: status %d, want %d: %s", line, resp.StatusCode, status, text)
	}
	return resp, text
}

const (
	octets = "Content-Type: application/octet-stream"
	raw    = "X-Image-Meta-Disk-Format: raw"
	bare   = "X-Image-Meta-Container-Format: bare"
	absent = "99999999-9999-4999-8999-999999999999"
)

// add makes an active image with data and returns its id.
func (g *rig) add(data string, fields ...string) string {
	g.Helper()
	fields = append(fields, octets, raw, bare)
	resp, _ := g.want(201, "POST /v1/images", data, fields...)
	return resp.Header.Get("X-Image-Meta-Id")
}

// reserve makes a queued one.
func (g *rig) reserve(fields ...string) string {
	g.Helper()
	resp, _ := g.want(201, "POST /v1/images", "", fields...)
	return resp.Header.Get("X-Image-Meta-Id")
}

// image returns the record of an image.
func (g *rig) image(id string) *registry.Image {
	g.Helper()
	img, err := g.db.Get(g.Context(), id)
	if err != nil {
		g.Fatal(err)
	}
	return img
}

// change alters the record of an image behind the API's back.
func (g *rig) change(id string, alter func(*registry.Image)) {
	g.Helper()
	if _, err := g.db.Update(g.Context(), id, func(img *registry.Image) error { alter(img); return nil }); err != nil {
		g.Fatal(err)
	}
}

// every returns all images there are.
func (g *rig) every() []*registry.Image {
	g.Helper()
	all, err := g.db.List(g.Context(), registry.Query{Visibility: registry.AllVisibilities, Limit: 100})
	if err != nil {
		g.Fatal(err)
	}
	return all
}

// twoStores are one store under two names.
type twoStores struct{ origin.WriteStore }

func (s twoStores) Members() []origin.Member {
	return []origin.Member{{Name: "first", Store: s}, {Name: "second", Store: s}}
}
func (twoStores) Default() string { return "first" }
func (s twoStores) Writer(name string) (origin.WriteStore, error) {
	if name != "first" && name != "second" {
		return nil, fmt.Errorf("%w: there is no store %q", origin.ErrLocation, name)
	}
	return s.WriteStore, nil
}
func (twoStores) NameOf(origin.Location) (string, bool)                    { return "first", true }
func (twoStores) Order(locs []origin.Location, _ string) []origin.Location { return locs }
