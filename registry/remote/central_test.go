package remote_test

import (
	"context"
	"iter"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gin-gonic/gin"
	"go.uber.org/goleak"

	"nearsight/origin"
	"nearsight/origin/file"
	"nearsight/registry"
	"nearsight/registry/api"
	"nearsight/registry/bus"
	"nearsight/registry/db"
	"nearsight/registry/registrytest"
	"nearsight/registry/remote"
)

func TestMain(m *testing.M) {
	gin.SetMode(gin.ReleaseMode)
	goleak.VerifyTestMain(m)
}

const secret = "a-secret-of-the-nodes-0123456789"

// A central is the registry of a server, with the node API on loopback.
type central struct {
	t     testing.TB
	db    *db.DB
	store *file.Store
	api   *api.API
	url   string
	asked atomic.Int64 // how often the log was asked for its revision
	ahead atomic.Int64 // by how much its clock is
}

// newCentral starts one. change alters what it is made of; around, if not nil, what
// answers.
func newCentral(t testing.TB, change func(*api.Options), around func(http.Handler) http.Handler) *central {
	t.Helper()
	c := &central{t: t}
	dir := t.TempDir()
	var local *bus.Local
	var err error
	c.db, err = db.Open(t.Context(), db.Options{
		Path: filepath.Join(dir, "registry.db"), Grace: -1, Notify: func(r int64) { local.Notify(r) },
		Now: func() time.Time { return time.Now().Add(time.Duration(c.ahead.Load())) },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.db.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	local = bus.New(c.db)
	if c.store, err = file.Open(file.Options{Dir: filepath.Join(dir, "images")}); err != nil {
		t.Fatal(err)
	}
	o := api.Options{
		Images: c.db, Uploads: c.db, Store: c.store, Log: slog.New(slog.DiscardHandler),
		Nodes: api.Nodes{Secret: secret, Images: c.db, Log: countingLog{c.db, &c.asked}, Events: local, Edges: c.db},
	}
	if change != nil {
		change(&o)
	}
	c.api = api.New(o)
	engine := gin.New()
	c.api.Register(engine)
	handler := c.api.Wrap(engine)
	if around != nil {
		handler = around(handler)
	}
	server := httptest.NewServer(handler)
	c.url = server.URL
	run(t, c.api.Run)
	t.Cleanup(server.Close)
	return c
}

// newCentralOver returns what another central over the same database looks like, that
// was just started.
func newCentralOver(t *testing.T, c *central) *remote.Central {
	o := api.Options{
		Images: c.db, Uploads: c.db, Store: c.store, Log: slog.New(slog.DiscardHandler),
		Nodes: api.Nodes{Secret: secret, Images: c.db, Log: c.db, Events: bus.New(c.db), Edges: c.db},
	}
	engine := gin.New()
	a := api.New(o)
	a.Register(engine)
	server := httptest.NewServer(a.Wrap(engine))
	run(t, a.Run)
	t.Cleanup(server.Close)
	return newRemote(t, server.URL, nil)
}

// run runs a part until the test ends.
func run(t testing.TB, part func(context.Context) error) {
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { part(ctx) })
	t.Cleanup(func() {
		stop()
		running.Wait()
	})
}

// countingLog counts the questions for the revision.
type countingLog struct {
	registry.Log
	asked *atomic.Int64
}

func (l countingLog) Revision(ctx context.Context) (int64, error) {
	l.asked.Add(1)
	return l.Log.Revision(ctx)
}

// remote returns the registry as an edge sees it.
func (c *central) remote(change func(*remote.Options)) *remote.Central {
	c.t.Helper()
	return newRemote(c.t, c.url, change)
}

func newRemote(t testing.TB, url string, change func(*remote.Options)) *remote.Central {
	t.Helper()
	o := remote.Options{URL: url, Secret: secret}
	if change != nil {
		change(&o)
	}
	r, err := remote.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

func readsAll(origin.Location) bool { return true }

// images are those of a registry that is read elsewhere than it is written.
type images struct {
	registry.Images
	reader registry.Reader
}

func (i images) Get(ctx context.Context, id string) (*registry.Image, error) {
	return i.reader.Get(ctx, id)
}

func (i images) List(ctx context.Context, q registry.Query) ([]*registry.Image, error) {
	return i.reader.List(ctx, q)
}

func (i images) Manifest(ctx context.Context, digest origin.Digest) ([]byte, error) {
	return i.reader.Manifest(ctx, digest)
}

// unsigned leaves out the signs of life, of which the suite knows nothing.
type unsigned struct{ registry.Events }

func (u unsigned) Watch(ctx context.Context, revision int64) iter.Seq2[registry.Event, error] {
	return func(yield func(registry.Event, error) bool) {
		for e, err := range u.Events.Watch(ctx, revision) {
			if (err != nil || e.Kind != registry.EventNone) && !yield(e, err) {
				return
			}
		}
	}
}

// A registry that is read, watched and listed from another node keeps its contracts. That
// it forgets events is another test's matter: a central remembers some that its log has
// forgotten.
func TestConformanceFromAnotherNode(t *testing.T) {
	registrytest.TestImages(t, func(t *testing.T) registrytest.Stack {
		c := newCentral(t, nil, nil)
		r := c.remote(func(o *remote.Options) { o.Reads = readsAll })
		return registrytest.Stack{
			Images: images{c.db, r}, Uploads: c.db, Locations: c.db, Books: c.db, Log: r, Events: unsigned{r},
			Tasks: c.db, Stages: c.db, Usages: c.db, Edges: r,
			Pass: func(d time.Duration) { c.ahead.Add(int64(d)) },
		}
	})
}

// BenchmarkDelivery is the time from before a change to its event at another node.
func BenchmarkDelivery(b *testing.B) {
	c := newCentral(b, nil, nil)
	r := c.remote(nil)
	ctx, stop := context.WithCancel(b.Context())
	defer stop()
	seen := make(chan int64)
	var watching sync.WaitGroup
	watching.Go(func() {
		for e, err := range r.Watch(ctx, 0) {
			if err != nil {
				b.Error(err)
				return
			}
			if e.Kind != registry.EventNone {
				seen <- e.Revision
			}
		}
	})
	var last int64
	for b.Loop() {
		img, err := c.db.Create(b.Context(), &registry.Image{Visibility: registry.Private})
		if err != nil {
			b.Fatal(err)
		}
		for last < img.Revision {
			last = <-seen
		}
	}
	stop()
	watching.Wait()
}

// BenchmarkGet is the time of one record from another node.
func BenchmarkGet(b *testing.B) {
	c := newCentral(b, nil, nil)
	img, err := c.db.Create(b.Context(), &registry.Image{Visibility: registry.Private})
	if err != nil {
		b.Fatal(err)
	}
	r := c.remote(nil)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.Get(b.Context(), img.ID); err != nil {
			b.Fatal(err)
		}
	}
}
