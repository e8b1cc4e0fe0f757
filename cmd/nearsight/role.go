package main

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"log/slog"
	"net/netip"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"nearsight/proxy"
	"nearsight/registry"
	"nearsight/registry/bus"
	"nearsight/registry/db"
	"nearsight/registry/task"
)

const (
	roleCentral = "central"
	roleEdge    = "edge"

	// pulseEvery is how often a server of a database that others change too asks it for
	// a sign of life.
	pulseEvery = time.Second
	// abandonedEvery is how often what dead centrals left is looked for, and pruneEvery
	// how often old events are forgotten.
	abandonedEvery = 30 * time.Second
	pruneEvery     = time.Hour
)

// A List is any number of words, also none.
type List []string

// UnmarshalText reads words with commas between them.
func (l *List) UnmarshalText(text []byte) error {
	*l = strings.FieldsFunc(string(text), func(r rune) bool { return r == ',' || r == ' ' })
	return nil
}

// setForRole sets what has another default in some roles.
func (c *Config) setForRole(all settings) {
	if c.Role != roleEdge {
		return
	}
	if all["identity.kind"].source == "default" {
		c.Identity.Kind = "central"
	}
	if all["registry.listen"].source == "default" {
		c.Registry.Listen = ""
	}
}

// checkRole finds settings that do not go with the role.
func (c *Config) checkRole(refuse func(name, format string, args ...any)) {
	if c.Nodes.Secret != "" && c.Nodes.SecretFile != "" && c.Role != "none" {
		refuse("nodes.secret_file", "the secret stands in nodes.secret already")
	}
	switch c.Role {
	case roleCentral:
		if c.Nodes.Secret == "" && c.Nodes.SecretFile == "" && c.Nodes.CA == "" && c.Identity.Kind != "none" {
			refuse("nodes.secret", "edges must be known by something: by a secret (nodes.secret, nodes.secret_file), or by certificates (nodes.ca)")
		}
	case roleEdge:
		c.checkEdge(refuse)
	}
	if c.Role != roleEdge && c.Identity.Kind == "central" {
		refuse("identity.kind", "a central knows its callers itself; edges ask it")
	}
}

// checkEdge finds settings that make no edge.
func (c *Config) checkEdge(refuse func(name, format string, args ...any)) {
	if len(c.Central.URL) == 0 {
		refuse("central.url", "an edge needs the URL of its central")
	}
	if _, err := c.centrals(); err != nil {
		refuse("central.url", "%w", err)
	}
	if (c.Central.Cert == "") != (c.Central.Key == "") {
		refuse("central.cert", "a certificate and its key go together")
	}
	if c.Edge.Advertise != "" && !isHTTP(c.Edge.Advertise) {
		refuse("edge.advertise", "%q is not like https://edge-1.example.org:9292", withoutUser(c.Edge.Advertise))
	}
	if _, err := c.trusted(); err != nil {
		refuse("edge.trust", "%w", err)
	}
	if c.Edge.Name != "" && strings.Trim(c.Edge.Name, edgeNameCharacters) != "" {
		refuse("edge.name", "%q has other characters than letters, digits, '.', '_' and '-'", c.Edge.Name)
	}
	if c.Database.URL != "" {
		refuse("database.url", "an edge has no database; its central has")
	}
	if c.Registry.Listen != "" {
		refuse("registry.listen", "an edge does not serve the Registry API; its central does")
	}
	if c.Stores["central"] != nil {
		refuse("stores.central.kind", "the store of that name is the central itself")
	}
}

const edgeNameCharacters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"

// centrals returns the URLs of the centrals.
func (c *Config) centrals() ([]*url.URL, error) {
	var urls []*url.URL
	for _, text := range c.Central.URL {
		u, err := url.Parse(text)
		if !isHTTP(text) || err != nil || strings.Trim(u.Path, "/") != "" {
			return nil, fmt.Errorf("%.100q is not like https://central.example.org:9292", withoutUser(text))
		}
		urls = append(urls, &url.URL{Scheme: u.Scheme, Host: u.Host})
	}
	return urls, nil
}

// trusted returns the networks of proxies in front.
func (c *Config) trusted() ([]netip.Prefix, error) {
	var networks []netip.Prefix
	for _, text := range c.Edge.Trust {
		network, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, fmt.Errorf("%.100q is not a network like 10.0.0.0/8", text)
		}
		networks = append(networks, network)
	}
	return networks, nil
}

// nodeSecret returns what the servers of one registry know each other by, "" for
// nothing.
func (c *Config) nodeSecret() (string, error) {
	if c.Nodes.SecretFile == "" {
		return c.Nodes.Secret, nil
	}
	text, err := readSmall(c.Nodes.SecretFile)
	if err != nil {
		return "", fmt.Errorf("nodes.secret_file: %w", err)
	}
	secret := strings.TrimSpace(string(text))
	if secret == "" {
		return "", fmt.Errorf("nodes.secret_file: %s is empty", c.Nodes.SecretFile)
	}
	return secret, nil
}

// nodeAuthorities returns those whose certificates make nodes, nil for none.
func (c *Config) nodeAuthorities() (cas []*x509.Certificate, err error) {
	if c.Nodes.CA == "" {
		return nil, nil
	}
	text, err := readSmall(c.Nodes.CA)
	if err != nil {
		return nil, fmt.Errorf("nodes.ca: %w", err)
	}
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		ca, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("nodes.ca: %s: %w", c.Nodes.CA, err)
		}
		cas = append(cas, ca)
	}
	if len(cas) == 0 {
		return nil, fmt.Errorf("nodes.ca: %s has no certificate in PEM", c.Nodes.CA)
	}
	return cas, nil
}

// database says where the registry is kept.
func (c *Config) database() db.Options {
	if c.Database.URL != "" {
		return db.Options{URL: c.Database.URL}
	}
	return db.Options{Path: filepath.Join(c.Data, "registry.db")}
}

// memory returns how records are remembered.
func (c *Config) memory(log *slog.Logger) proxy.RecordsOptions {
	o := proxy.RecordsOptions{
		Size: c.Cache.Records, Absent: c.Cache.UnknownRecords, Logger: log,
		StaleIfError: c.Staleness.IfError, StaleIfErrorPrivate: c.Staleness.IfErrorPrivate,
	}
	switch {
	case c.Role == roleEdge:
		o.MaxStaleness = c.Staleness.Max
	case c.Database.URL != "": // others change it too, and need not be heard of when it is away
		o.MaxStaleness, o.Pulse = c.Staleness.Max, pulseEvery
	}
	return o
}

// publish adds what brings the events to Redis, if there is one.
func (n *node) publish(c Config, events *bus.Local) error {
	if c.Events.Redis == "" {
		return nil
	}
	server, err := bus.ParseServer(c.Events.Redis)
	if err != nil {
		return fmt.Errorf("events.redis: %w", err)
	}
	n.parts = append(n.parts, bus.NewPublisher(bus.PublisherOptions{Server: server, Stream: c.Events.Stream, Local: events, Log: n.log}).Run)
	return nil
}

// inherit ends what a process that is gone left unfinished: at once where only one
// writes, and otherwise when it has been silent for some time.
func (n *node) inherit(ctx context.Context, c Config, records *db.DB, reaper *task.Reaper) error {
	if c.Database.URL == "" {
		return reaper.AbortUnfinished(ctx)
	}
	n.parts = append(n.parts, every(abandonedEvery, func(ctx context.Context) {
		uploads, err := records.Abandoned(ctx)
		if err != nil {
			n.log.Warn("uploads of servers that are gone cannot be looked for", "err", err)
		}
		for _, u := range uploads {
			n.log.Info("an upload is aborted: the server that took it is gone", "image", u.ImageID)
			reaper.Abort(u.ImageID, u.Location)
		}
	}))
	return nil
}

// forgetEvents adds what prunes old events.
func (n *node) forgetEvents(c Config, records registry.Pruner) {
	n.parts = append(n.parts, every(pruneEvery, func(ctx context.Context) {
		pruned, err := records.PruneEvents(ctx, time.Now().Add(-c.Events.KeepFor), c.Events.Keep)
		if err != nil && ctx.Err() == nil {
			n.log.Warn("old events cannot be forgotten", "err", err)
		} else if pruned > 0 {
			n.log.Info("old events are forgotten", "events", pruned)
		}
	}))
}

// every returns a part that does one thing again and again, the first time after one
// interval.
func every(interval time.Duration, do func(context.Context)) func(context.Context) error {
	return func(ctx context.Context) error {
		t := time.NewTicker(interval)
		defer t.Stop()
		for {
			select {
			case <-t.C:
				do(ctx)
			case <-ctx.Done():
				return nil
			}
		}
	}
}
