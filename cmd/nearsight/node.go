package main

import (
	"context"
	"errors"
	"fmt"
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
	"nearsight/registry/bus"
	"nearsight/registry/db"
	"nearsight/registry/task"
)

// A node is the parts of a server, put together and not yet running.
type node struct {
	data         string
	grace, stall time.Duration
	log          *slog.Logger
	stopping     atomic.Bool

	handler, admin http.Handler
	direct         func(remote string) wire.Answerer // nil: all requests are the handler's
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

	limits := registry.Limits{
		Properties: c.Images.MaxProperties, Tags: c.Images.MaxTags, Locations: c.Images.MaxLocations,
		DiskFormats: c.Images.DiskFormats, ContainerFormats: c.Images.ContainerFormats,
	}
	var events *bus.Local // set before the first change
	records, err := db.Open(ctx, db.Options{
		Path: filepath.Join(c.Data, "registry.db"), Limits: limits,
		Notify: func(revision int64) { events.Notify(revision) },
	})
	if err != nil {
		return nil, err
	}
	n.closers = append(n.closers, records.Close)
	events = bus.New(records)
	metrics := prometheus.NewRegistry()
	metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	stores, check, err := openStores(ctx, c, guard.NewMetrics(metrics), log)
	if err != nil {
		return nil, err
	}
	kept, err := openCache(c, log)
	if err != nil {
		return nil, err
	}
	n.closers = append(n.closers, kept.Close)
	reaper := &task.Reaper{Uploads: records, Store: stores, Log: log}
	// Uploads that a crash cut will not go on: nobody else uploads here.
	if err := reaper.AbortUnfinished(ctx); err != nil {
		return nil, err
	}
	n.assemble(c, parts{limits, records, events, stores, check, kept, reaper, metrics})
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
}

// assemble connects them.
func (n *node) assemble(c Config, p parts) {
	images := proxy.NewRecords(proxy.RecordsOptions{
		Images: p.records, Log: p.records, Events: p.events,
		Size: c.Cache.Records, Absent: c.Cache.UnknownRecords, Logger: n.log,
	})
	places := images.Locations(p.records)
	// Several, so that a server of a stranger that sends little keeps nobody else.
	hasher := &task.Hasher{Locations: places, Images: images, Store: p.stores, Workers: 4, Log: n.log}
	copier := &task.Copier{Images: images, Locations: places, Stores: p.stores, Abort: p.reaper.Abort, Log: n.log}
	calls := api.New(api.Options{
		Images: images, Uploads: images.Uploads(p.records), Store: p.stores, Wake: p.reaper.Wake, Abort: p.reaper.Abort,
		Locations: places, Stores: p.stores, Check: p.check, Hash: hasher.Wake, Copy: copier.Copy, Generation: images.Generation,
		MaxImageSize: int64(c.Images.MaxSize), StallTimeout: c.Server.StallTimeout,
		DefaultLimit: c.Images.PageSize, MaxLimit: c.Images.MaxPageSize,
		Limits: p.limits, PublicURL: c.Server.PublicURL, Log: n.log,
	})
	edge := proxy.New(proxy.Options{
		Records: images, API: calls, Cache: p.cache, Store: p.stores, Stores: p.stores, Log: n.log,
		Metrics: p.metrics, Version: readVersion().Version,
	})
	n.handler = edge.Handler()
	if c.Server.Direct {
		n.direct = edge.Direct
	}
	n.admin = edge.AdminHandler(proxy.Check{Name: "running", Run: func(context.Context) error {
		if n.stopping.Load() {
			return errors.New("being stopped")
		}
		return nil
	}})
	n.parts = append(n.parts, edge.Run, p.reaper.Run, hasher.Run, copier.Run, p.cache.Run)
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
