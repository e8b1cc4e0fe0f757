package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"nearsight/cache"
	"nearsight/origin"
	"nearsight/origin/guard"
	"nearsight/proxy"
	"nearsight/proxy/wire"
	"nearsight/registry"
	"nearsight/registry/api"
	v1 "nearsight/registry/api/v1"
	"nearsight/registry/bus"
	"nearsight/registry/db"
	"nearsight/registry/identity"
	"nearsight/registry/task"
)

// A node is the parts of a server, put together and not yet running.
type node struct {
	data         string
	grace, stall time.Duration
	log          *slog.Logger
	stopping     atomic.Bool

	urlKeys        *identity.URLKeys // nil: there are no signed URLs
	handler, admin http.Handler
	registry       http.Handler                      // of the Registry API
	direct         func(remote string) wire.Answerer // nil: all requests are the handler's
	face           *tlsFace                          // nil: no TLS
	parts          []func(context.Context) error     // each runs until its context ends
	closers        []func() error                    // in the order of opening
}

// newNode builds a node; the data directory is locked. It takes no longer when
// more is stored or cached.
func newNode(ctx context.Context, c Config, log *slog.Logger) (_ *node, err error) {
	n := &node{data: c.Data, grace: c.Server.ShutdownGrace, stall: c.Server.StallTimeout, log: log}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.close())
		}
	}()

	metrics := prometheus.NewRegistry()
	metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	if err := n.openFace(c); err != nil {
		return nil, err
	}
	if n.urlKeys, err = n.openURLKeys(c); err != nil {
		return nil, err
	}
	if c.Role == roleEdge {
		if err := n.openEdge(ctx, c, metrics); err != nil {
			return nil, err
		}
		return n, nil
	}
	limits := registry.Limits{
		Properties: c.Images.MaxProperties, Tags: c.Images.MaxTags, Members: c.Images.MaxMembers, Locations: c.Images.MaxLocations,
		DiskFormats: c.Images.DiskFormats, ContainerFormats: c.Images.ContainerFormats,
	}
	var events *bus.Local // set before the first change
	base := c.database()
	base.Limits, base.Log, base.Notify = limits, log, func(revision int64) { events.Notify(revision) }
	records, err := db.Open(ctx, base)
	if err != nil {
		return nil, err
	}
	n.closers = append(n.closers, records.Close)
	events = bus.New(records)
	if err := n.publish(c, events); err != nil {
		return nil, err
	}
	stores, check, err := openStores(ctx, c, false, guard.NewMetrics(metrics), log)
	if err != nil {
		return nil, err
	}
	kept, err := openCache(c, log)
	if err != nil {
		return nil, err
	}
	n.closers = append(n.closers, kept.Close)
	reaper := &task.Reaper{Uploads: records, Store: stores, Grace: c.Origin.OrphanGrace, Log: log}
	if err := n.inherit(ctx, c, records, reaper); err != nil {
		return nil, err
	}
	n.forgetEvents(c, records)
	callers, err := n.openIdentity(c)
	if err != nil {
		return nil, err
	}
	staging, err := openStaging(c, stores)
	if err != nil {
		return nil, err
	}
	nodes := api.Nodes{Images: records, Log: records, Events: events, Edges: records}
	if nodes.Secret, err = c.nodeSecret(); err != nil {
		return nil, err
	}
	if nodes.CA, err = c.nodeAuthorities(); err != nil {
		return nil, err
	}
	n.assemble(c, parts{limits, records, events, stores, check, kept, reaper, metrics, callers, staging, nodes})
	return n, nil
}

// parts are those that a node is made of, opened.
type parts struct {
	limits  registry.Limits
	records *db.DB
	events  registry.Events
	stores  *origin.Set
	check   func(ctx context.Context, url string) error
	cache   *cache.Cache
	reaper  *task.Reaper
	metrics *prometheus.Registry
	callers identity.Identifier // nil: they are not told apart
	staging origin.WriteStore
	nodes   api.Nodes
}

// assemble connects them.
func (n *node) assemble(c Config, p parts) {
	memory := c.memory(n.log)
	memory.Images, memory.Log, memory.Events = p.records, p.records, p.events
	images := proxy.NewRecords(memory)
	places := images.Locations(p.records)
	// Several, so that a server of a stranger that sends little keeps nobody else.
	hasher := &task.Hasher{Locations: places, Images: images, Store: p.stores, Workers: 4, Log: n.log}
	quotas := quotasOf(c, p.records)
	imports, runner := openImports(c, p, images, quotas, n.log)
	calls := api.New(api.Options{
		Images: images, Uploads: images.Uploads(p.records), Store: p.stores, Wake: p.reaper.Wake, Abort: p.reaper.Abort,
		Locations: places, Stores: p.stores, Check: p.check, Hash: hasher.Wake, Imports: imports, Quotas: quotas, Generation: images.Generation,
		MaxImageSize: int64(c.Images.MaxSize), StallTimeout: c.Server.StallTimeout,
		DefaultLimit: c.Images.PageSize, MaxLimit: c.Images.MaxPageSize,
		Limits: p.limits, PublicURL: c.Server.PublicURL, Log: n.log,
		Metadefs: p.records, Identity: p.callers, Anonymous: c.Identity.Anonymous, URLKeys: n.urlKeys, CacheCalls: c.Cache.API, V1: c.Server.V1,
		Nodes: p.nodes,
	})
	old := v1.New(v1.Options{API: calls, Images: images, Log: n.log})
	var beside *v1.API // nil: only the Registry API is there of it
	if c.Server.V1 {
		beside = old
	}
	edge := proxy.New(proxy.Options{
		Records: images, API: calls, Cache: p.cache, Store: p.stores, Stores: p.stores, Log: n.log,
		Metrics: p.metrics, Version: readVersion().Version, CacheCalls: c.Cache.API, V1: beside,
		Limits: proxy.Limits(c.Limits),
	})
	n.serveBy(c, edge)
	n.registry = edge.RegistryHandler(v1.NewRegistry(old))
	n.parts = append(n.parts, edge.Run, calls.Run, p.records.Run, p.reaper.Run, hasher.Run, runner.Run, p.cache.Run)
}

// serveBy has requests answered by p.
func (n *node) serveBy(c Config, p *proxy.Proxy) {
	n.handler = p.Handler()
	if c.Server.Direct && n.face == nil { // which only net/http speaks
		n.direct = p.Direct
	}
	n.admin = p.AdminHandler(proxy.Check{Name: "running", Run: func(context.Context) error {
		if n.stopping.Load() {
			return errors.New("being stopped")
		}
		return nil
	}})
}

// openIdentity returns who names the callers, nil if they are not told apart.
func (n *node) openIdentity(c Config) (identity.Identifier, error) {
	switch c.Identity.Kind {
	case "none":
		return nil, nil
	case "keystone":
		return openKeystone(c)
	}
	tokens, err := identity.Open(c.Identity.Tokens, n.log)
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w; nearsight token create --file %s makes it", err, c.Identity.Tokens)
	}
	if err != nil {
		return nil, err
	}
	n.parts = append(n.parts, tokens.Run)
	return tokens, nil
}

func openCache(c Config, log *slog.Logger) (*cache.Cache, error) {
	dir := orBelow(c.Cache.Dir, c.Data, "cache")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("cache directory: %w", err)
	}
	budget, err := c.Cache.Budget.of(dir)
	if err != nil {
		return nil, err
	}
	every := c.Cache.ScrubInterval
	if every == 0 {
		every = -1 // never
	}
	return cache.Open(cache.Options{
		Dir: dir, Budget: budget, MinFree: int64(c.Cache.MinFree),
		VerifyAlways: c.Cache.Verify == "always", CopyLocal: c.Cache.Local == "copy",
		OpenFiles: c.Cache.OpenFiles, FillMemory: int64(c.Cache.FillMemory), Stall: c.Cache.FillStall,
		ScrubRate: int64(c.Cache.ScrubRate), ScrubEvery: every, Policy: c.Cache.Policy, Log: log,
	})
}

// orBelow returns dir, or the folder of data if dir is not set.
func orBelow(dir, data, folder string) string {
	if dir != "" {
		return dir
	}
	return filepath.Join(data, folder)
}

// close closes what was opened, the last first.
func (n *node) close() error {
	var errs []error
	for i := len(n.closers) - 1; i >= 0; i-- {
		errs = append(errs, n.closers[i]())
	}
	return errors.Join(errs...)
}
