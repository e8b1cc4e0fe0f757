package client_test

import (
	"context"
	"errors"
	"log"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"

	"github.com/gin-gonic/gin"

	"nearsight/cache"
	"nearsight/origin"
	"nearsight/origin/origintest"
	"nearsight/proxy"
	"nearsight/registry"
	"nearsight/registry/api"
	v1 "nearsight/registry/api/v1"
	"nearsight/registry/bus"
	"nearsight/registry/client"
	"nearsight/registry/db"
	"nearsight/registry/identity"
	"nearsight/registry/task"
)

// callers are known by tokens that are their names.
var callers = map[string]*registry.Caller{
	"admin": {Project: "admins", Roles: []string{"admin"}},
	"red":   {Project: "red", Roles: []string{"member"}},
	"blue":  {Project: "blue", Roles: []string{"member"}},
}

type names struct{}

func (names) Identify(_ context.Context, token string) (*registry.Caller, error) {
	if c := callers[token]; c != nil {
		return c, nil
	}
	return nil, identity.ErrUnknown
}

// A site is what nearsight serve has, in this process: two stores, the workers, and
// both listeners.
type site struct {
	URL, RegistryURL string
	stop             []func() // from the last to the first
}

// newSite starts a site. It is for examples too, which have no test to fail.
func newSite() *site {
	gin.SetMode(gin.ReleaseMode)
	s := &site{}
	dir := must(os.MkdirTemp("", "site"))
	s.later(func() { os.RemoveAll(dir) })
	quiet := slog.New(slog.DiscardHandler)
	var local *bus.Local
	books := must(db.Open(context.Background(), db.Options{Path: filepath.Join(dir, "db"), Grace: -1, Notify: func(n int64) { local.Notify(n) }}))
	s.later(func() { books.Close() })
	local = bus.New(books)
	kept := must(cache.Open(cache.Options{Dir: filepath.Join(dir, "cache"), Log: quiet}))
	s.later(func() { kept.Close() })
	stores := must(origin.NewSet("disk",
		origin.Member{Name: "disk", Kind: "fake", Store: &origintest.Fake{Name: "disk"}, Weight: 1},
		origin.Member{Name: "fast", Kind: "fake", Store: &origintest.Fake{Name: "fast"}, Weight: 2},
	))
	records := proxy.NewRecords(proxy.RecordsOptions{Images: books, Log: books, Events: local, Logger: quiet})
	reaper := &task.Reaper{Uploads: records.Uploads(books), Store: stores, Log: quiet, Grace: -1}
	importer := &task.Importer{
		Images: records, Uploads: records.Uploads(books), Locations: records.Locations(books), Stages: records.Stages(books),
		Stores: stores, Abort: reaper.Abort, Wake: reaper.Wake, Log: quiet,
	}
	runner := &task.Runner{Tasks: records.Tasks(books), Handlers: importer.Handlers(), Log: quiet}
	s.run(reaper.Run, runner.Run)
	staging := must(stores.Writer("disk"))
	calls := api.New(api.Options{
		Images: records, Uploads: records.Uploads(books), Store: stores, Stores: stores, Locations: records.Locations(books),
		Wake: reaper.Wake, Abort: reaper.Abort, Identity: names{}, Metadefs: books, V1: true, DefaultLimit: 2, Log: quiet,
		Imports: api.Imports{Tasks: records.Tasks(books), Wake: runner.Wake, Stages: records.Stages(books), Staging: staging},
	})
	old := v1.New(v1.Options{API: calls, Images: records, Log: quiet})
	edge := proxy.New(proxy.Options{Records: records, API: calls, Cache: kept, Store: stores, Stores: stores, V1: old, Log: quiet})
	both := httptest.NewServer(edge.Handler())
	s.later(both.Close)
	registryAPI := httptest.NewServer(edge.RegistryHandler(v1.NewRegistry(old)))
	s.later(registryAPI.Close)
	s.URL, s.RegistryURL = both.URL, registryAPI.URL
	return s
}

func (s *site) later(f func()) { s.stop = append(s.stop, f) }

// run runs these until the site is closed.
func (s *site) run(parts ...func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	for _, part := range parts {
		running.Go(func() {
			if err := part(ctx); err != nil && !errors.Is(err, context.Canceled) {
				log.Print(err)
			}
		})
	}
	s.later(func() {
		cancel()
		running.Wait()
	})
}

// Close stops the site and removes what it kept.
func (s *site) Close() {
	for i := len(s.stop) - 1; i >= 0; i-- {
		s.stop[i]()
	}
}

// as returns a client for one of callers.
func (s *site) as(caller string) *client.Client {
	c := must(client.New(client.Options{Server: s.URL, Token: caller}))
	s.later(c.Close)
	return c
}

func must[T any](v T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return v
}
