// Package proxy answers HTTP at the edge, out of cache and registry.
//
// It serves the data of images itself, verified and with the ranges and
// conditions of RFC 9110, and puts package api's calls on the same engine. Its
// memory of records (Records) and its cache are kept right by the registry's
// events.
//
// The way of a download: proxy.go routes it, access.go records it, data.go
// gathers what is needed, records.go knows the image, download.go says whether
// the caller may have it, range.go decides the status, header.go says what the
// data is, source.go fetches what the cache lacks, and wire carries it. relay.go is the way of data that has no digest yet.
package proxy

import (
	"context"
	"errors"
	"log/slog"
	"net/http"

	"github.com/gin-gonic/gin"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"nearsight/cache"
	"nearsight/origin"
	"nearsight/registry"
	"nearsight/registry/api"
	v1 "nearsight/registry/api/v1"
	"nearsight/registry/identity"
)

// maxForget is how many digests of deleted images may wait to be dropped from
// the cache.
const maxForget = 1024

// Options say what a Proxy works on. Records, API, Cache and Store are required.
type Options struct {
	Records *Records
	// API answers the calls about records, and knows who the callers are. It should
	// work on Records, and on Records.Uploads, so that it reads what it wrote.
	API   *api.API
	Cache *cache.Cache
	// Store has the data of every location. It may be an origin.LocalStore.
	Store origin.Store
	// Stores names and ranks the stores that Store is made of. nil means that
	// there is one, and locations are read in the order of the record.
	Stores Stores
	// Log gets the access records; nil means slog.Default().
	Log *slog.Logger
	// Metrics is where the metrics are registered, once for a registry; nil
	// means one of its own.
	Metrics *prometheus.Registry
	// CacheCalls has the calls of the Images API about the cache answered; API must
	// have been told the same.
	CacheCalls bool
	// V1 answers the calls of the API of 2011; API must have been told of it. nil
	// means that there are none.
	V1 *v1.API
	// Limits bound what one caller may ask for; the zero value: nothing.
	Limits Limits
	// Pass makes an edge of the proxy: it takes what is not answered here. API is then
	// asked for nothing but who the callers are. nil means that API answers.
	Pass *Pass
	// Version is shown in the metrics; "" means "unknown".
	Version string
}

// A Proxy is safe for concurrent use.
type Proxy struct {
	records *Records
	api     *api.API
	cache   *cache.Cache
	store   origin.Store
	stores  Stores // nil: one
	streams streams
	doubts  doubts
	warming warming
	tallies tallies
	views   views
	limiter *limiter // nil: callers are not bound

	cacheCalls bool
	v1         *v1.API // nil: it is not there

	pass      *Pass // nil: no edge
	documents documents

	// Of the API: who names the callers, nil if they are not told apart; whether
	// those are let in who name themselves by nothing.
	identity  identity.Identifier
	anonymous bool
	known     identity.Rememberer // identity, if it can; else nil

	log      *slog.Logger
	registry *prometheus.Registry
	metrics  *metrics
}

// New returns a Proxy. It starts nothing. It panics if the metrics are
// registered at o.Metrics already.
func New(o Options) *Proxy {
	p := &Proxy{records: o.Records, api: o.API, cache: o.Cache, store: o.Store, stores: o.Stores, log: o.Log, registry: o.Metrics, cacheCalls: o.CacheCalls, v1: o.V1, pass: o.Pass}
	if p.log == nil {
		p.log = slog.Default()
	}
	if p.registry == nil {
		p.registry = prometheus.NewRegistry()
	}
	if o.Version == "" {
		o.Version = "unknown"
	}
	p.metrics = newMetrics(p.registry, p.cache, o.Version)
	p.registry.MustRegister(newRecordsCollector(p.records))
	p.limiter = newLimiter(o.Limits, p.registry)
	p.identity, p.anonymous = p.api.Identity()
	p.known, _ = p.identity.(identity.Rememberer)
	p.warming.wake = make(chan struct{}, 1)
	p.doubts.stores, p.doubts.lies, p.doubts.log = p.stores, p.metrics.lies, p.log
	return p
}

// Handler returns the handler of the API listener: the Images API, the data of
// images, and the administration of the cache.
func (p *Proxy) Handler() http.Handler {
	gin.SetMode(gin.ReleaseMode) // gin has no other place for it; it only writes less
	e := gin.New()               // no Recovery: it would make a whole answer of one cut short
	e.Use(noteRoute)
	if p.pass != nil {
		p.api.Prepare(e)
	} else {
		p.api.Register(e)
	}
	e.GET("/v2/images/:id/file", p.getData)
	e.HEAD("/v2/images/:id/file", p.getData)
	p.registerViews(e)
	p.registerCache(e)
	if p.cacheCalls {
		p.registerCacheCalls(e)
	}
	if p.v1 != nil {
		p.v1.Register(e, p.sendV1)
	}
	var h http.Handler = e
	if p.pass != nil {
		h = p.edge(e)
	}
	return p.observe(wellFormed(p.limitGuesses(p.api.Wrap(p.limitCallers(h)))))
}

// Run keeps records and cache right by the registry's events until ctx ends, and
// returns nil then.
func (p *Proxy) Run(ctx context.Context) error {
	defer p.streams.closeParked()
	forget := make(chan origin.Digest, maxForget)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		return p.records.Run(ctx, func(e registry.Event) {
			if e.Kind != registry.EventDelete || e.Digest == "" {
				return
			}
			select {
			case forget <- e.Digest:
			default: // it is never read again, and so among the first to be evicted
			}
		})
	})
	g.Go(func() error {
		for {
			select {
			case digest := <-forget:
				if err := p.dropUnowned(ctx, digest); err != nil && ctx.Err() == nil {
					p.log.Warn("the data of a deleted image stays in the cache until it is evicted", "digest", digest, "err", err)
				}
			case <-ctx.Done():
				return nil
			}
		}
	})
	for range warmers {
		g.Go(func() error { return p.warmQueued(ctx) })
	}
	return g.Wait()
}

// dropUnowned drops the data of the digest from the cache if no image has it.
func (p *Proxy) dropUnowned(ctx context.Context, digest origin.Digest) error {
	owners, err := p.imagesOf(ctx, []origin.Digest{digest})
	if err != nil || len(owners) > 0 {
		return err
	}
	if err := p.cache.Drop(digest); !errors.Is(err, cache.ErrNotCached) {
		return err
	}
	return nil
}

// imagesOf returns the images with these data, by digest. digests should be few:
// they stand in one query.
func (p *Proxy) imagesOf(ctx context.Context, digests []origin.Digest) (map[origin.Digest][]*registry.Image, error) {
	const page = 1000
	found := make(map[origin.Digest][]*registry.Image)
	for _, hidden := range []bool{false, true} { // a query sees one kind only
		q := registry.Query{Digests: digests, Visibility: registry.AllVisibilities, Hidden: &hidden, Limit: page}
		for {
			images, err := p.records.List(ctx, q)
			if err != nil {
				return nil, err
			}
			for _, img := range images {
				found[img.Digest] = append(found[img.Digest], img)
			}
			if len(images) < page {
				break
			}
			q.Marker = images[page-1].ID
		}
	}
	return found, nil
}
