package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"nearsight/origin"
	"nearsight/origin/file"
	"nearsight/origin/guard"
	"nearsight/origin/s3"
	"nearsight/origin/swift"
	"nearsight/origin/web"
)

// A Store is the configuration of one place where image data is kept for good. A
// setting that its kind has no use for is an error, unless it is at its default.
type Store struct {
	// Kind is file, s3, swift or http. http is for reading images at the URLs of
	// others; there is one store of this kind at most.
	Kind string `key:"kind" oneof:"file s3 swift http"`
	// Description is for people.
	Description string `key:"description"`
	// Weight says which of an image's stores is read first: that with the most.
	Weight int `key:"weight"`

	// Dirs are the directories of a file store, each as PATH or PATH=WEIGHT: an
	// image goes to the one with the greatest weight that has room.
	Dirs []string `key:"dirs" for:"file"`

	// Bucket, and the folder Prefix in it, are where an s3 store keeps images.
	Bucket string `key:"bucket" for:"s3"`
	Prefix string `key:"prefix" for:"s3"`
	// Endpoint is the URL of the S3 server; empty: AWS.
	Endpoint string `key:"endpoint" for:"s3"`
	// Addressing is virtual (the bucket is part of the host's name) or path.
	// Empty: virtual at AWS, path elsewhere.
	Addressing string `key:"addressing" for:"s3" oneof:"virtual path"`
	// AccessKey, SecretKey and SessionToken are the credentials; empty: those
	// of the usual environment, files and services of AWS, of Profile if set.
	AccessKey    string `key:"access_key" for:"s3"`
	SecretKey    string `key:"secret_key" for:"s3"`
	SessionToken string `key:"session_token" for:"s3"`
	Profile      string `key:"profile" for:"s3"`
	// SSE is AES256 or aws:kms, with SSEKeyID; StorageClass is the server's word.
	SSE          string `key:"sse" for:"s3"`
	SSEKeyID     string `key:"sse_key_id" for:"s3"`
	StorageClass string `key:"storage_class" for:"s3"`
	// NoChecksums leaves out the checksums that old servers refuse.
	NoChecksums bool `key:"no_checksums" for:"s3"`
	// PartSize is the least part of an upload; Concurrency how many are sent
	// side by side. Together they bound the memory of an upload. 0: 16MiB and 3.
	PartSize    Size `key:"part_size" for:"s3"`
	Concurrency int  `key:"concurrency" for:"s3"`

	// AuthURL is where a swift store logs in; AuthVersion 0 is what it says.
	AuthURL     string `key:"auth_url" for:"swift"`
	AuthVersion int    `key:"auth_version" for:"swift"`
	// User and Password, in Domain, and Project, in ProjectDomain; or
	// an application credential.
	User                        string `key:"user" for:"swift"`
	Password                    string `key:"password" for:"swift"`
	Domain                      string `key:"domain" for:"swift"`
	Project                     string `key:"project" for:"swift"`
	ProjectDomain               string `key:"project_domain" for:"swift"`
	ApplicationCredentialID     string `key:"application_credential_id" for:"swift"`
	ApplicationCredentialSecret string `key:"application_credential_secret" for:"swift"`
	// Interface is public, internal or admin; empty: public.
	Interface string `key:"interface" for:"swift" oneof:"public internal admin"`
	// Container holds the images, spread over Containers of them if that is
	// more than 1, and must not change then. Empty: nearsight.
	Container  string `key:"container" for:"swift"`
	Containers int    `key:"containers" for:"swift"`
	// SegmentSize is the length above which an image is stored in segments, and
	// that of these. 0: 1GiB.
	SegmentSize Size `key:"segment_size" for:"swift"`

	// Region is that of an s3 or swift store.
	Region string `key:"region" for:"s3 swift"`
	// CAFile has certificates of authorities to trust, in PEM.
	CAFile string `key:"ca_file" for:"s3 swift http"`

	// Allow are networks whose addresses may be read although they are not
	// public, as 10.0.0.0/8: loopback, private, link-local and the like are
	// refused otherwise.
	Allow []string `key:"allow" for:"http"`
	// AllowHosts, if set, are the only hosts that may be read; DenyHosts may not.
	AllowHosts []string `key:"allow_hosts" for:"http"`
	DenyHosts  []string `key:"deny_hosts" for:"http"`
	// AllowPorts are ports and ranges as 8000-8999. Empty: 80 and 443.
	AllowPorts []string `key:"allow_ports" for:"http"`
	// Logins is a file with a line for each server that wants credentials:
	// its URL (scheme://host[:port]) and USER:PASSWORD, or a field of the header
	// as Name: value.
	Logins string `key:"logins" for:"http"`
}

// check finds settings that the kind has no use for, and those that are missing.
func (s *Store) check(name string, all settings) error {
	if s.Kind == "" {
		return fmt.Errorf("stores.%s: a store needs a kind: file, s3, swift or http", name)
	}
	var problems []error
	for key, setting := range all {
		if rest, ok := strings.CutPrefix(key, "stores."+name+"."); ok && setting.source != "default" {
			if kinds := setting.tag.Get("for"); kinds != "" && !slices.Contains(strings.Fields(kinds), s.Kind) {
				problems = append(problems, fmt.Errorf("%s: stores.%s.%s is not for a store of kind %s", setting.source, name, rest, s.Kind))
			}
		}
	}
	for _, need := range []struct{ kind, key, value string }{
		{"file", "dirs", strings.Join(s.Dirs, ",")}, {"s3", "bucket", s.Bucket}, {"swift", "auth_url", s.AuthURL},
	} {
		if need.kind == s.Kind && need.value == "" {
			problems = append(problems, fmt.Errorf("stores.%s: a store of kind %s needs %s", name, s.Kind, need.key))
		}
	}
	return errors.Join(problems...)
}

// checkOrigin finds settings of origin that the stores would not heed.
func (c *Config) checkOrigin(all settings) error {
	var problems []error
	refuse := func(name, format string, args ...any) {
		problems = append(problems, fmt.Errorf("%s: %s: %w", all[name].source, name, fmt.Errorf(format, args...)))
	}
	if s := c.Stores["default"]; s != nil {
		if all["origin.dir"].source != "default" {
			refuse("origin.dir", "the store called default is one of stores, and its directories stand there")
		}
		if c.Origin.RateLimit > 0 && s.Kind != "file" {
			refuse("origin.rate_limit", "it is for a store of files, and the one called default is of kind %s", s.Kind)
		}
	}
	if s := c.Stores["web"]; s != nil && s.Kind != "http" && c.Origin.URLs && all["origin.urls"].source != "default" && !c.hasURLs() {
		refuse("origin.urls", "the store called web is not of kind http: give it another name, or name one of kind http")
	}
	return errors.Join(problems...)
}

// hasURLs says whether there is a store for the URLs of others among those named.
func (c *Config) hasURLs() bool {
	for _, s := range c.Stores {
		if s.Kind == "http" {
			return true
		}
	}
	return false
}

// withImplied returns the stores, with those that are there without being named:
// the directory of origin, called default, and the URLs of others, called web.
func (c *Config) withImplied() map[string]*Store {
	stores := map[string]*Store{}
	for name, s := range c.Stores {
		stores[name] = s
	}
	if stores["default"] == nil {
		stores["default"] = &Store{Kind: "file", Dirs: []string{orBelow(c.Origin.Dir, c.Data, "images")}}
	}
	if c.Origin.URLs && !c.hasURLs() && stores["web"] == nil {
		stores["web"] = &Store{Kind: "http"}
	}
	return stores
}

// openStores opens every store, each behind a guard, and returns them as one.
// check is what a URL must pass to be registered; nil if there is no store for
// URLs. It asks no server. asIs leaves directories as they are: see file.Options.
func openStores(ctx context.Context, c Config, asIs bool, metrics *guard.Metrics, log *slog.Logger) (set *origin.Set, check func(context.Context, string) error, err error) {
	stores := c.withImplied()
	members, check, err := openMembers(ctx, c, stores, asIs, metrics, log)
	if err != nil {
		return nil, nil, err
	}
	set, err = origin.NewSet(c.Origin.Store, members...)
	return set, check, err
}

// openMembers opens stores, in the order of their names.
func openMembers(ctx context.Context, c Config, stores map[string]*Store, asIs bool, metrics *guard.Metrics, log *slog.Logger) (members []origin.Member, check func(context.Context, string) error, err error) {
	names := make([]string, 0, len(stores))
	for name := range stores {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		s := stores[name]
		m := origin.Member{Name: name, Kind: s.Kind, Description: s.Description, Weight: s.Weight}
		o := guard.Options{Name: name, Observer: metrics.Store(name), Log: log}
		var err error
		switch s.Kind {
		case "http":
			var store *web.Store
			var addresses web.Guard
			if store, addresses, err = s.openWeb(); err == nil {
				m.Store, check = guard.New(store, o), addresses.Check
			}
		default:
			var store origin.WriteStore
			if store, m.Properties, err = s.openWriter(ctx, name, asIs, log); err == nil {
				m.Store = guard.NewWriter(store, o)
				if name == "default" && s.Kind == "file" && c.Origin.RateLimit > 0 {
					m.Store = origin.Limit(guard.NewWriter(store, o), int64(c.Origin.RateLimit)) // outside: waiting for a turn is no silence
				}
			}
		}
		if err != nil {
			return nil, nil, fmt.Errorf("store %s: %w", name, err)
		}
		members = append(members, m)
	}
	return members, check, apart(stores)
}

// openWriter opens a store that takes uploads. The properties are what operators
// are told about it.
func (s *Store) openWriter(ctx context.Context, name string, asIs bool, log *slog.Logger) (store origin.WriteStore, properties map[string]string, err error) {
	switch s.Kind {
	case "file":
		o := file.Options{Name: name, AsIs: asIs, Log: log}
		for _, text := range s.Dirs {
			dir, err := parseDir(text)
			if err != nil {
				return nil, nil, err
			}
			o.Dirs = append(o.Dirs, dir)
		}
		store, err = file.Open(o)
		properties = map[string]string{"data_dir": strings.Join(s.Dirs, ",")}
	case "s3":
		store, err = s3.Open(ctx, s3.Options{
			Name: name, Bucket: s.Bucket, Prefix: s.Prefix, Endpoint: s.Endpoint, Region: s.Region,
			Addressing: s.Addressing, CAFile: s.CAFile, AccessKey: s.AccessKey, SecretKey: s.SecretKey,
			SessionToken: s.SessionToken, Profile: s.Profile, SSE: s.SSE, SSEKeyID: s.SSEKeyID,
			StorageClass: s.StorageClass, NoChecksums: s.NoChecksums, PartSize: int64(s.PartSize), Concurrency: s.Concurrency,
		})
		properties = map[string]string{"bucket": s.Bucket, "prefix": s.Prefix}
	case "swift":
		store, err = swift.New(swift.Options{
			Name: name, AuthURL: s.AuthURL, AuthVersion: s.AuthVersion, User: s.User, Key: s.Password, Domain: s.Domain,
			Project: s.Project, ProjectDomain: s.ProjectDomain, ApplicationCredentialID: s.ApplicationCredentialID,
			ApplicationCredentialSecret: s.ApplicationCredentialSecret, Region: s.Region, Interface: s.Interface,
			CAFile: s.CAFile, Container: s.Container, Containers: s.Containers, SegmentSize: int64(s.SegmentSize),
		})
		properties = map[string]string{"container": s.Container}
	}
	return store, properties, err
}

// parseDir reads PATH or PATH=WEIGHT.
func parseDir(text string) (file.Dir, error) {
	i := strings.LastIndexByte(text, '=')
	if i < 0 {
		return file.Dir{Path: text}, nil
	}
	weight, err := strconv.Atoi(text[i+1:])
	if err != nil || text[:i] == "" {
		return file.Dir{}, fmt.Errorf("dirs: %q is neither PATH nor PATH=WEIGHT", text)
	}
	return file.Dir{Path: text[:i], Weight: weight}, nil
}

// openWeb opens the store for the URLs of others.
func (s *Store) openWeb() (store *web.Store, g web.Guard, err error) {
	g = web.Guard{AllowHosts: s.AllowHosts, DenyHosts: s.DenyHosts}
	for _, text := range s.Allow {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, g, fmt.Errorf("allow: %q is not a network like 10.0.0.0/8", text)
		}
		g.Allow = append(g.Allow, prefix)
	}
	for _, text := range s.AllowPorts {
		var ports web.Ports
		if err := ports.UnmarshalText([]byte(text)); err != nil {
			return nil, g, fmt.Errorf("allow_ports: %w", err)
		}
		g.AllowPorts = append(g.AllowPorts, ports)
	}
	o := web.Options{Guard: g}
	if s.CAFile != "" {
		o.CAFiles = []string{s.CAFile}
	}
	if s.Logins != "" {
		if o.Hosts, err = readLogins(s.Logins); err != nil {
			return nil, g, err
		}
	}
	store, err = web.New(o)
	return store, g, err
}

// readLogins reads a file of credentials. Its errors show none.
func readLogins(path string) ([]web.Host, error) {
	f, err := os.Open(filepath.Clean(path))
	if err != nil {
		return nil, fmt.Errorf("logins: %w", err)
	}
	defer f.Close()
	byURL := map[string]*web.Host{}
	var order []string
	lines := bufio.NewScanner(f)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		url, rest, _ := strings.Cut(line, " ")
		rest = strings.TrimSpace(rest)
		name, value, ok := strings.Cut(rest, ":")
		if !ok || name == "" {
			return nil, fmt.Errorf("%s:%d: a line is URL USER:PASSWORD or URL Name: value", path, n)
		}
		host := byURL[url]
		if host == nil {
			host = &web.Host{URL: url, Header: map[string]string{}}
			byURL[url], order = host, append(order, url)
		}
		if field, ok := strings.CutPrefix(value, " "); ok {
			host.Header[name] = field
		} else {
			host.User, host.Password = name, value
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("logins: %w", err)
	}
	hosts := make([]web.Host, 0, len(order))
	for _, url := range order {
		hosts = append(hosts, *byURL[url])
	}
	return hosts, nil
}
