package proxy

import (
	"bytes"
	"context"
	"errors"
	"io"
	"iter"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"nearsight/cache"
	"nearsight/origin"
	"nearsight/origin/origintest"
	"nearsight/proxy/wire"
	"nearsight/registry"
	"nearsight/registry/api"
	"nearsight/registry/bus"
	"nearsight/registry/db"
	"nearsight/registry/identity"
)

// A site is a whole server in this process, over a store in memory.
type site struct {
	t       testing.TB
	store   *origintest.Fake
	db      *db.DB
	records *Records
	cache   *cache.Cache
	metrics *prometheus.Registry
	proxy   *Proxy
	log     *logBuffer
	addr    string // of the API listener
	plain   string // of one where every request takes the ordinary way
	client  *http.Client
}

// A siteConfig changes what a site is made of.
type siteConfig struct {
	store  origin.WriteStore               // instead of the fake
	cache  cache.Options                   // Dir is set
	handle func(http.Handler) http.Handler // around the whole

	identity  identity.Identifier // nil: nobody is told apart
	anonymous bool
	limits    Limits
}

func newSite(t testing.TB, cfg siteConfig) *site {
	t.Helper()
	s := &site{t: t, store: &origintest.Fake{}, metrics: prometheus.NewRegistry(), log: &logBuffer{}}
	var store origin.WriteStore = s.store
	if cfg.store != nil {
		store = cfg.store
	}
	dir := t.TempDir()
	var local *bus.Local
	var err error
	s.db, err = db.Open(t.Context(), db.Options{Path: filepath.Join(dir, "db"), Notify: func(r int64) { local.Notify(r) }})
	if err != nil {
		t.Fatal(err)
	}
	local = bus.New(s.db)
	cfg.cache.Dir = filepath.Join(dir, "cache")
	if cfg.cache.Log == nil {
		cfg.cache.Log = slog.New(slog.DiscardHandler)
	}
	if s.cache, err = cache.Open(cfg.cache); err != nil {
		t.Fatal(err)
	}
	events := &watchedEvents{Events: local, watching: make(chan struct{})}
	s.records = NewRecords(RecordsOptions{Images: s.db, Log: s.db, Events: events})
	quiet := slog.New(slog.DiscardHandler)
	stores, _ := store.(Stores) // an origin.Set
	s.proxy = New(Options{
		Records: s.records, Stores: stores,
		API: api.New(api.Options{
			Images: s.records, Uploads: s.records.Uploads(s.db), Store: store, Log: quiet,
			Identity: cfg.identity, Anonymous: cfg.anonymous, CacheCalls: true,
		}),
		CacheCalls: true,
		Cache:      s.cache, Store: store, Metrics: s.metrics, Version: "test", Limits: cfg.limits,
		Log: slog.New(slog.NewJSONHandler(s.log, nil)),
	})
	handler := s.proxy.Handler()
	if cfg.handle != nil {
		handler = cfg.handle(handler)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.addr = l.Addr().String()
	s.client = &http.Client{Transport: &http.Transport{DisableCompression: true}}
	server := Server(handler, quiet)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	wires := &wire.Server{}
	if cfg.handle == nil { // which is the ordinary way's
		wires.NewAnswerer = s.proxy.Direct
	}
	running.Go(func() { wires.Serve(l) })
	running.Go(func() { server.Serve(wires.Rest(l)) })
	ordinary, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.plain = ordinary.Addr().String()
	running.Go(func() { server.Serve(ordinary) })
	running.Go(func() { s.proxy.Run(ctx) })
	<-events.watching
	t.Cleanup(func() {
		s.client.CloseIdleConnections()
		server.Close()
		cut, now := context.WithCancel(context.Background())
		now()
		wires.Shutdown(cut)
		cancel()
		running.Wait()
		if err := s.cache.Close(); err != nil {
			t.Error(err)
		}
		if err := s.db.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// watchedEvents closes watching when it is first watched: records are kept then.
type watchedEvents struct {
	registry.Events
	watching chan struct{}
	once     sync.Once
}

func (w *watchedEvents) Watch(ctx context.Context, revision int64) iter.Seq2[registry.Event, error] {
	w.once.Do(func() { close(w.watching) })
	return w.Events.Watch(ctx, revision)
}

// A logBuffer keeps what is logged.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.b.Reset()
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// pattern returns n bytes that depend on seed and do not repeat.
func pattern(n int, seed byte) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// add stores data as a new active image and returns its record. change, if not
// nil, alters the record before.
func (s *site) add(data []byte, change func(*registry.Image)) *registry.Image {
	s.t.Helper()
	ctx := s.t.Context()
	name := "debian"
	img := &registry.Image{Name: &name, DiskFormat: "raw", ContainerFormat: "bare", Visibility: registry.Public}
	if change != nil {
		change(img)
	}
	img, err := s.records.Create(ctx, img)
	if err != nil {
		s.t.Fatal(err)
	}
	store := s.proxy.store.(origin.WriteStore)
	loc := store.Locate(img.ID)
	uploads := s.records.Uploads(s.db)
	if _, err := uploads.Begin(ctx, img.ID, loc); err != nil {
		s.t.Fatal(err)
	}
	loc, sum, err := origin.Ingest(ctx, store, loc, int64(len(data)), bytes.NewReader(data))
	if err != nil {
		s.t.Fatal(err)
	}
	if img, err = uploads.Finish(ctx, img.ID, loc, sum); err != nil {
		s.t.Fatal(err)
	}
	return img
}

// An answer is a response read to its end.
type answer struct {
	*http.Response
	body []byte
	err  error // of reading the body
}

// do sends a request for a path with fields like "Name: value".
func (s *site) do(method, path string, fields ...string) answer {
	s.t.Helper()
	a, err := s.try(method, path, fields...)
	if err != nil {
		s.t.Fatal(err)
	}
	return a
}

// try is do for goroutines that may not end the test.
func (s *site) try(method, path string, fields ...string) (answer, error) {
	req, err := http.NewRequest(method, "http://"+s.addr+path, nil)
	if err != nil {
		return answer{}, err
	}
	for _, f := range fields {
		name, value, _ := strings.Cut(f, ":")
		req.Header.Add(name, strings.TrimSpace(value))
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return answer{resp, body, err}, nil
}

func (s *site) file(method string, img *registry.Image, fields ...string) answer {
	s.t.Helper()
	return s.do(method, "/v2/images/"+img.ID+"/file", fields...)
}

// raw writes bytes to a new connection and returns all that comes back until the
// server closes it: the last request must make it do so.
func (s *site) raw(request string) string {
	s.t.Helper()
	c, err := net.Dial("tcp", s.addr)
	if err != nil {
		s.t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, request); err != nil {
		s.t.Fatal(err)
	}
	c.SetReadDeadline(time.Now().Add(20 * time.Second)) // only for a server that does not close
	got, err := io.ReadAll(c)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		s.t.Fatalf("the connection stays open after %.200q", got)
	}
	return string(got)
}

// metric returns the sum of a metric over all its labels.
func (s *site) metric(name string) float64 {
	s.t.Helper()
	families, err := s.metrics.Gather()
	if err != nil {
		s.t.Fatal(err)
	}
	sum := 0.0
	for _, f := range families {
		if f.GetName() == name {
			for _, m := range f.Metric {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}
