package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"nearsight/origin"
	"nearsight/origin/guard"
	"nearsight/proxy"
	"nearsight/registry"
	"nearsight/registry/api"
	"nearsight/registry/bus"
	"nearsight/registry/client"
	"nearsight/registry/identity"
	"nearsight/registry/remote"
)

// openEdge adds to the node what makes an edge of it.
func (n *node) openEdge(ctx context.Context, c Config, metrics *prometheus.Registry) error {
	secret, err := c.nodeSecret()
	if err != nil {
		return err
	}
	config, err := c.centralTLS()
	if err != nil {
		return err
	}
	var stores *origin.Set // set before the first record
	urls, err := c.centrals()
	if err != nil {
		return err
	}
	transport := proxy.NewCentrals(urls, config)
	n.closers = append(n.closers, transport.Close)
	central, err := remote.New(remote.Options{
		URL: urls[0].String(), Secret: secret, Transport: transport, KeepIfError: c.Staleness.IfErrorPrivate,
		Reads: func(loc origin.Location) bool {
			name, ok := stores.NameOf(loc)
			return ok && name != remote.Name
		},
	})
	if err != nil {
		return err
	}
	if stores, err = openEdgeStores(ctx, c, central, guard.NewMetrics(metrics), n); err != nil {
		return err
	}
	events, err := c.edgeEvents(central, n)
	if err != nil {
		return err
	}
	kept, err := openCache(c, n.log)
	if err != nil {
		return err
	}
	n.closers = append(n.closers, kept.Close)
	var callers identity.Identifier = central
	if c.Identity.Kind != "central" {
		if callers, err = n.openIdentity(c); err != nil {
			return err
		}
	}
	authorities, err := c.nodeAuthorities()
	if err != nil {
		return err
	}
	o := c.memory(n.log)
	o.Images, o.Log, o.Events = proxy.ReadOnly(central), central, events
	records := proxy.NewRecords(o)
	calls := api.New(api.Options{
		Images: records, Store: stores, Stores: stores,
		StallTimeout: c.Server.StallTimeout, PublicURL: c.Server.PublicURL, Log: n.log,
		Identity: callers, Anonymous: c.Identity.Anonymous, URLKeys: n.urlKeys, CacheCalls: c.Cache.API, V1: c.Server.V1,
		Nodes: api.Nodes{Secret: secret, CA: authorities},
	})
	name, err := c.edgeName()
	if err != nil {
		return err
	}
	trusted, err := c.trusted()
	if err != nil {
		return err
	}
	p := proxy.New(proxy.Options{
		Records: records, API: calls, Cache: kept, Store: stores, Stores: stores, Log: n.log,
		Metrics: metrics, Version: readVersion().Version, CacheCalls: c.Cache.API, Limits: proxy.Limits(c.Limits),
		Pass: proxy.NewPass(proxy.PassOptions{
			Centrals: transport, Records: records, Name: name, Trusted: trusted, Stall: c.Server.StallTimeout, Log: n.log,
		}),
	})
	n.serveBy(c, p)
	n.parts = append(n.parts, p.Run, kept.Run, n.announce(c, name, p, central))
	return nil
}

// announce returns what tells the central that the edge is there.
func (n *node) announce(c Config, name string, p *proxy.Proxy, central registry.Edges) func(context.Context) error {
	started := time.Now().UTC()
	tell := func(ctx context.Context) {
		e := p.Describe()
		e.Name, e.URL, e.Version, e.StartedAt = name, c.Edge.Advertise, readVersion().Version, started
		if err := central.Announce(ctx, e); err != nil && ctx.Err() == nil {
			n.log.Debug("the central does not hear that this edge is there", "err", err)
		}
	}
	again := every(c.Edge.Heartbeat, tell)
	return func(ctx context.Context) error {
		tell(ctx)
		return again(ctx)
	}
}

// edgeName returns what the edge is called.
func (c *Config) edgeName() (string, error) {
	if c.Edge.Name != "" {
		return c.Edge.Name, nil
	}
	name, err := os.Hostname()
	if err != nil {
		return "", fmt.Errorf("edge.name is not set, and the machine has no name: %w", err)
	}
	return name, nil
}

// centralTLS returns how an edge speaks TLS to its central, as itself.
func (c *Config) centralTLS() (*tls.Config, error) {
	config, err := client.Options{CAFile: c.Central.CAFile, CertFile: c.Central.Cert, KeyFile: c.Central.Key}.TLS()
	if err != nil {
		return nil, fmt.Errorf("central: %w", err)
	}
	return config, nil
}

// edgeEvents returns the events of the registry: by Redis where there is one.
func (c *Config) edgeEvents(central *remote.Central, n *node) (registry.Events, error) {
	if c.Events.Redis == "" {
		return central, nil
	}
	server, err := bus.ParseServer(c.Events.Redis)
	if err != nil {
		return nil, fmt.Errorf("events.redis: %w", err)
	}
	return bus.NewRedis(bus.RedisOptions{Server: server, Stream: c.Events.Stream, Log: central, Fallback: central, Logger: n.log}), nil
}

// openEdgeStores opens the stores that the edge reads itself, as they are, and adds the
// central, which has the rest.
func openEdgeStores(ctx context.Context, c Config, central *remote.Central, metrics *guard.Metrics, n *node) (*origin.Set, error) {
	o := guard.Options{Name: remote.Name, Observer: metrics.Store(remote.Name), Log: n.log}
	// Of a store of its own an edge need not ask others, so that comes first.
	members := []origin.Member{{Name: remote.Name, Kind: remote.Kind, Weight: -1 << 20, Store: notWritten{guard.New(central.Store(), o)}}}
	own, _, err := openMembers(ctx, c, c.Stores, true, metrics, n.log)
	if err != nil {
		return nil, err
	}
	return origin.NewSet(remote.Name, slices.Concat(members, own)...)
}

// notWritten is a store that takes no data.
type notWritten struct{ origin.Store }

func (notWritten) Locate(id string) origin.Location { return origin.Location{} }

func (notWritten) Put(context.Context, origin.Location, int64, io.Reader) (origin.Location, error) {
	return origin.Location{}, origin.ErrReadOnly
}

func (notWritten) Delete(context.Context, origin.Location) error { return origin.ErrReadOnly }
