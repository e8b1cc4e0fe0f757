package main

import (
	"fmt"
	"log/slog"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"nearsight/origin"
	"nearsight/origin/web"
	"nearsight/proxy"
	"nearsight/registry"
	"nearsight/registry/api"
	"nearsight/registry/client"
	"nearsight/registry/task"
)

// importMethods are those that there are.
var importMethods = [...]string{task.GlanceDirect, task.WebDownload, task.CopyImage, task.GlanceDownload}

// Methods are ways of importing data.
type Methods []string

// UnmarshalText reads a list with commas.
func (m *Methods) UnmarshalText(text []byte) error {
	*m = strings.FieldsFunc(string(text), func(r rune) bool { return r == ',' || r == ' ' })
	for _, method := range *m {
		if !slices.Contains(importMethods[:], method) {
			return fmt.Errorf("%q is not one of %s", method, strings.Join(importMethods[:], ", "))
		}
	}
	return nil
}

// Regions are other registries: the URLs of their image endpoints, by name.
type Regions map[string]string

// UnmarshalText reads a list of NAME=URL with commas.
func (m *Regions) UnmarshalText(text []byte) error {
	*m = Regions{}
	for _, item := range strings.FieldsFunc(string(text), func(r rune) bool { return r == ',' || r == ' ' }) {
		name, endpoint, _ := strings.Cut(item, "=")
		u, err := url.Parse(endpoint)
		if err != nil || name == "" || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" {
			return fmt.Errorf("%q is not like east=https://images.east.example.org", name)
		}
		(*m)[name] = endpoint
	}
	return nil
}

// names returns the names of the regions.
func (m Regions) names() []string {
	var names []string
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// peer returns another registry, for a caller with that token.
func (m Regions) peer(region, token string) (*task.Peer, error) {
	endpoint := strings.TrimRight(m[region], "/")
	if endpoint == "" {
		return nil, fmt.Errorf("%w: there is no region %.80q here", registry.ErrInvalid, region)
	}
	endpoint = strings.TrimSuffix(endpoint, "/v2")
	records, err := client.New(client.Options{Server: endpoint, Token: token})
	if err != nil {
		return nil, fmt.Errorf("region %s: %w", region, err)
	}
	data, err := openPeer(endpoint, token)
	if err != nil {
		return nil, fmt.Errorf("region %s: %w", region, err)
	}
	return &task.Peer{
		Get:    records.Get,
		Store:  data,
		Locate: func(id string) origin.Location { return origin.Location{URL: endpoint + "/v2/images/" + id + "/file"} },
		Close: func() {
			records.Close()
			data.Close()
		},
	}, nil
}

// openPeer opens the data of another registry. The operator named its server, which
// may be at any address, and no other is asked.
func openPeer(endpoint, token string) (*web.Store, error) {
	u, err := url.Parse(endpoint)
	if err != nil {
		return nil, err
	}
	server := u.Scheme + "://" + u.Host
	host := web.Host{URL: server, Header: map[string]string{"X-Auth-Token": token}}
	if token == "" {
		host.Header = nil
	}
	return web.New(web.Options{Hosts: []web.Host{host}, Guard: web.Guard{
		Allow:      []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")},
		AllowHosts: []string{u.Hostname()},
		AllowPorts: []web.Ports{{First: 1, Last: 65535}},
	}})
}

// quotasOf returns the quotas, nil if there are none.
func quotasOf(c Config, usages registry.Usages) *registry.Quotas {
	q := registry.Quotas{
		Size: int64(c.Quota.ImageSizeTotal), Stage: int64(c.Quota.ImageStageTotal),
		Images: int64(c.Quota.ImageCountTotal), Uploading: int64(c.Quota.ImageCountUploading),
		Storage: int64(c.Quota.UserStorage),
	}
	if q == (registry.Quotas{}) {
		return nil
	}
	q.Usages = usages
	return &q
}

// openImports returns what the API says of imports, and who does them.
func openImports(c Config, p parts, images *proxy.Records, quotas *registry.Quotas, log *slog.Logger) (api.Imports, *task.Runner) {
	tasks, stages := images.Tasks(p.records), images.Stages(p.records)
	importer := &task.Importer{
		Images: images, Uploads: images.Uploads(p.records), Locations: images.Locations(p.records), Stages: stages,
		Stores: p.stores, Abort: p.reaper.Abort, Wake: p.reaper.Wake,
		Peer: c.Import.Regions.peer, Room: quotas.Room, Limit: int64(c.Images.MaxSize), Log: log,
	}
	runner := &task.Runner{Tasks: tasks, Handlers: importer.Handlers(), Workers: c.Import.Workers, Log: log}
	return api.Imports{
		Tasks: tasks, Wake: runner.Wake, Methods: c.Import.Methods,
		Stages: stages, Staging: p.staging, Regions: c.Import.Regions.names(),
	}, runner
}

// openStaging returns the store that takes data which waits for its import.
func openStaging(c Config, stores *origin.Set) (origin.WriteStore, error) {
	w, err := stores.Writer(c.Import.Staging)
	if err != nil {
		return nil, fmt.Errorf("import.staging: %w", err)
	}
	return w, nil
}
