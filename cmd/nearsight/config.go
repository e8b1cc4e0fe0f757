package main

import (
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"nearsight/registry"
	"nearsight/registry/bus"
	"nearsight/registry/identity/keystone"
)

// Config holds every setting of the server. The comments here are the manual:
// each setting is section.key in the configuration file, NEARSIGHT_SECTION_KEY
// in the environment, and a few are flags of serve. Flags override the
// environment, which overrides the file. deploy/nearsight.yaml shows them all.
//
// Sizes are bytes, or a number with KiB, MiB, GiB or TiB. Durations have units:
// 90s, 1h30m. Lists are comma-separated outside the file. Relative paths are
// relative to the working directory.
type Config struct {
	// Data is the directory of all that the server keeps. It is made if
	// missing, and one server at a time uses it. Flag --data.
	Data string `key:"data"`

	// Role is what the server does. none: all of it. central: the same, for edges
	// elsewhere. edge: it serves image data and records from its cache, and passes all
	// else on to a central. Flag --role.
	Role string `key:"role" oneof:"none central edge"`

	// Central is where an edge finds its registry.
	Central struct {
		// URL has the URLs of the centrals of one registry: the first that can be
		// reached is asked.
		URL List `key:"url"`
		// CAFile has certificates of authorities to trust, in PEM, in the place of
		// the system's. Cert and Key are the files of the certificate that an edge
		// shows.
		CAFile string `key:"ca_file"`
		Cert   string `key:"cert"`
		Key    string `key:"key"`
	}

	// Nodes says by what the servers of one registry know each other.
	Nodes struct {
		// Secret is the same for all of them, or else stands in SecretFile. Empty:
		// there is none.
		Secret     string `key:"secret"`
		SecretFile string `key:"secret_file"`
		// CA is the file of the authorities whose certificates make a node of their
		// holder, in PEM.
		CA string `key:"ca"`
	}

	Database struct {
		// URL is that of a PostgreSQL database, as postgres://user:password@host/name.
		// Several centrals may use one. Empty: a file in Data, for one server.
		URL string `key:"url"`
	}

	// Events are what centrals tell of changes.
	Events struct {
		// Redis has the URL of a Redis by which they are told faster: as
		// redis://host:6379, rediss:// with TLS, or redis+sentinel://. Empty: none.
		Redis string `key:"redis"`
		// Stream names the stream there. Registries that share a Redis need one each.
		Stream string `key:"stream"`
		// KeepFor is how long events are kept for edges that are away, and Keep how
		// many are in any case. Who was away for longer begins anew.
		KeepFor time.Duration `key:"keep_for" min:"1m"`
		Keep    int           `key:"keep" min:"1"`
	}

	// Staleness bounds how old the records may be that are served.
	Staleness struct {
		// Max is how long what is remembered is believed without a sign of life from
		// the registry. After that each record is proved before it is used.
		Max time.Duration `key:"max" min:"3s"`
		// IfError is how long the records of public images serve while the registry
		// cannot be asked, and IfErrorPrivate how long others do. 0s: not at all.
		IfError        time.Duration `key:"if_error"`
		IfErrorPrivate time.Duration `key:"if_error_private"`
	}

	Edge struct {
		// Name is what the edge is called. Empty: as the machine.
		Name string `key:"name"`
		// Advertise is the URL by which centrals reach it. Empty: they do not.
		Advertise string `key:"advertise"`
		// Heartbeat is how often it says that it is there.
		Heartbeat time.Duration `key:"heartbeat" min:"1s"`
		// Trust are the networks of proxies in front whose word on who asked is
		// passed on (X-Forwarded-For and its like), as 10.0.0.0/8.
		Trust List `key:"trust"`
	}

	Server struct {
		// Listen is the address of the API and of image data. Port 0 picks a
		// free one. Flag --listen.
		Listen HostPort `key:"listen"`
		// Admin is the address of /healthz, /readyz and /metrics. Flag --admin.
		Admin HostPort `key:"admin"`
		// PublicURL is the base of the URLs in answers, for servers behind a
		// front, without a path. Empty: the Host that the client asked for.
		PublicURL string `key:"public_url"`
		// ShutdownGrace is how long downloads and uploads may go on after
		// SIGTERM or SIGINT. A second signal cuts them at once.
		ShutdownGrace time.Duration `key:"shutdown_grace"`
		// StallTimeout ends a connection whose other side takes no byte, or
		// whose upload brings less than 64 KiB, for so long.
		StallTimeout time.Duration `key:"stall_timeout" min:"1s"`
		// Direct answers plain requests for image data straight from the
		// connection, without net/http: the same answers, faster. Off is for
		// finding faults.
		Direct bool `key:"direct"`
		// V1 has the Images API v1, the one of 2011, answered beside v2.
		V1 bool `key:"v1"`
		// InsecureAllowRemote lets the addresses be reached from other
		// machines although callers are not told apart (identity.kind none):
		// whoever reaches the API is admin. Flag --insecure-allow-remote.
		InsecureAllowRemote bool `key:"insecure_allow_remote"`
	}

	Registry struct {
		// Listen is the address of the Registry API of 2011, by which admins keep
		// records. off: there is none. Flag --registry-listen.
		Listen OptionalHostPort `key:"listen"`
	}

	Identity struct {
		// Kind says by what callers are known. none: they are not told apart,
		// and everybody is admin. tokens: by those of the file Tokens. keystone: by
		// those of OpenStack's identity service, see Keystone. central: an edge asks
		// its central, unless it is told otherwise.
		Kind string `key:"kind" oneof:"none tokens keystone central"`
		// Tokens is the file of hashed tokens; nearsight token makes it. It is
		// read again when it changes.
		Tokens string `key:"tokens"`
		// Anonymous lets in those who send no token, to read what is public.
		Anonymous bool `key:"anonymous"`
		// Cache is how long an answer of keystone about a token is believed: one that
		// is revoked is good for so long at most.
		Cache time.Duration `key:"cache" min:"1s"`
		// SigningKeys is the file of the keys of signed URLs: lines of an id and a
		// secret, of which the last signs and all verify. It is read again when it
		// changes. Empty: there are no signed URLs.
		SigningKeys string `key:"signing_keys"`
	}

	// Keystone is OpenStack's identity service, for identity.kind keystone.
	Keystone struct {
		// AuthURL is that of its API v3. PublicURL, if set, is told to clients that
		// come without a token.
		AuthURL   string `key:"auth_url"`
		PublicURL string `key:"public_url"`
		// User, with Password and in UserDomain, has the role service or admin on
		// Project in ProjectDomain, to ask about tokens. Empty domains: Default.
		User          string `key:"user"`
		Password      string `key:"password"`
		UserDomain    string `key:"user_domain"`
		Project       string `key:"project"`
		ProjectDomain string `key:"project_domain"`
		// Or an application credential.
		ApplicationCredentialID     string `key:"application_credential_id"`
		ApplicationCredentialSecret string `key:"application_credential_secret"`
		// CAFile has certificates of authorities to trust, in PEM, in the place of
		// the system's.
		CAFile string `key:"ca_file"`
	}

	TLS struct {
		// Cert is the file of the certificate, with those between it and its
		// authority, and Key that of its key, in PEM. All listeners speak TLS with
		// them. The files are read again when they change, and on SIGHUP. Empty:
		// no TLS.
		Cert string `key:"cert"`
		Key  string `key:"key"`
		// ClientCA is the file of the authorities that vouch for clients. Who
		// shows no certificate of theirs is not spoken to. Empty: none is asked for.
		ClientCA string `key:"client_ca"`
	}

	// Limits bound what one caller may ask for: a project, or else a user, or else an
	// address. More is refused with 429. 0 means no bound; nodes are not bound.
	Limits struct {
		// RequestsPerSecond is the lasting rate of requests, and Burst how many
		// may come at once after a rest; 0 means one second's. Tokens that name
		// nobody are counted by the address that they come from.
		RequestsPerSecond int `key:"requests_per_second"`
		Burst             int `key:"burst"`
		// Concurrent bounds the requests that are answered at a time, and Uploads
		// those of them that bring image data.
		Concurrent int `key:"concurrent"`
		Uploads    int `key:"uploads"`
		// Callers is how many callers are remembered that ask for nothing now.
		Callers int `key:"callers" min:"1"`
	}

	Cache struct {
		// Dir holds the cached data. Empty: the folder cache of Data. It needs
		// a file system that can punch holes (ext4, XFS, btrfs, tmpfs).
		Dir string `key:"dir"`
		// Budget bounds the disk use of Dir: a size, or a percentage of the
		// size of its file system, which then counts as 1 GiB at least.
		Budget Budget `key:"budget"`
		// MinFree is the free space that the file system keeps: below it the
		// budget counts as used up.
		MinFree Size `key:"min_free"`
		// Verify says when bytes are hashed. fill: when they come from the
		// origin, at their first use after a start, and by scrubbing. always:
		// also whenever they are sent, for those who trust neither disk nor
		// neighbours; that costs 0.6 CPU-seconds a GiB.
		Verify string `key:"verify" oneof:"fill always"`
		// Local says what to do with images whose origin is a file on the same
		// file system. share: serve them in place, verified like all else; a
		// second copy on the same disk helps nobody. copy: copy them.
		Local string `key:"local" oneof:"share copy"`
		// Policy says what goes first when the budget is used up: s3fifo or lru.
		Policy string `key:"policy" oneof:"s3fifo lru"`
		// OpenFiles bounds the idle file descriptors that are kept open.
		OpenFiles int `key:"open_files" min:"1"`
		// FillMemory bounds the memory of all fills under way.
		FillMemory Size `key:"fill_memory" min:"1MiB"`
		// FillStall is how long an origin may take for 64 KiB before the fill
		// asks anew.
		FillStall time.Duration `key:"fill_stall" min:"1ms"`
		// ScrubRate is the pace of the background check of the disk, a second.
		ScrubRate Size `key:"scrub_rate" min:"64KiB"`
		// ScrubInterval is the time from one pass to the next; 0s means never.
		ScrubInterval time.Duration `key:"scrub_interval"`
		// Records is how many image records are kept in memory, and
		// UnknownRecords how many ids that name no image.
		Records        int `key:"records" min:"1"`
		UnknownRecords int `key:"unknown_records" min:"1"`
		// API has the calls of the Images API about the cache answered.
		API bool `key:"api"`
	}

	Origin struct {
		// Store names the store that takes uploads which name none: default, or
		// one of Stores.
		Store string `key:"store"`
		// Dir holds the image data for good, as a store of files that is called
		// default. Empty: the folder images of Data. A store of that name among
		// Stores takes its place.
		Dir string `key:"dir"`
		// URLs lets images be registered that lie at http and https URLs of
		// others. A store of kind http among Stores says which may be read;
		// without one, any at a public address.
		URLs bool `key:"urls"`
		// RateLimit bounds how fast all reads of Dir together go, in bytes a
		// second, to protect a shared disk; such a store is not served in
		// place. 0 means unbounded.
		RateLimit Size `key:"rate_limit"`
		// OrphanGrace is how long after an upload was cut off its data is
		// looked for again, because a store may finish late what it was asked
		// to keep.
		OrphanGrace time.Duration `key:"orphan_grace" min:"1ms"`
	}

	// Stores are further places where image data is kept, by name. In the
	// environment they are NEARSIGHT_STORES_NAME_KEY.
	Stores map[string]*Store

	Import struct {
		// Methods are the ways of importing data that are enabled, as far as
		// they can work.
		Methods Methods `key:"methods"`
		// Staging names the store that takes data which waits for its import.
		// Empty: that of Origin.Store. What is imported into that store stays
		// where it is, and is copied to others.
		Staging string `key:"staging"`
		// Workers is how many imports, copies and the like are done at a time.
		Workers int `key:"workers" min:"1"`
		// Regions are registries that images are imported from, each as NAME=URL
		// of its Images API. They get the tokens of those who ask for it.
		Regions Regions `key:"regions"`
	}

	// Quota bounds what the images of each project take; 0 means no bound. All but
	// UserStorage are soft: what is under way is not cut.
	Quota struct {
		// ImageSizeTotal bounds the bytes that are stored, and ImageStageTotal
		// those that wait for their import.
		ImageSizeTotal  Size `key:"image_size_total"`
		ImageStageTotal Size `key:"image_stage_total"`
		// ImageCountTotal bounds the number of images, and ImageCountUploading
		// that of uploads and imports under way.
		ImageCountTotal     int `key:"image_count_total"`
		ImageCountUploading int `key:"image_count_uploading"`
		// UserStorage bounds the bytes that are stored, and cuts an upload or a
		// download that would bring more.
		UserStorage Size `key:"user_storage"`
	}

	Images struct {
		// MaxSize bounds the size of an upload.
		MaxSize Size `key:"max_size" min:"1"`
		// MaxProperties, MaxTags, MaxMembers and MaxLocations bound the number of an
		// image's properties, its tags, the projects that it is shared with, and the
		// places where its data is.
		MaxProperties int `key:"max_properties" min:"1"`
		MaxTags       int `key:"max_tags" min:"1"`
		MaxMembers    int `key:"max_members" min:"1"`
		MaxLocations  int `key:"max_locations" min:"1"`
		// DiskFormats and ContainerFormats are the formats that images may have.
		DiskFormats      []string `key:"disk_formats"`
		ContainerFormats []string `key:"container_formats"`
		// PageSize is how many images a page of the list has if the client
		// does not say, MaxPageSize how many it may ask for.
		PageSize    int `key:"page_size" min:"1"`
		MaxPageSize int `key:"max_page_size" min:"1"`
	}

	Log struct {
		// Level is the least important kind of line that is written.
		Level string `key:"level" oneof:"debug info warn error"`
		// Format is json or text. Lines go to standard error.
		Format string `key:"format" oneof:"json text"`
	}
}

// defaultConfig returns the settings of a server that is told nothing.
func defaultConfig() Config {
	var c Config
	c.Data = "nearsight-data"
	c.Role = "none"
	c.Central.URL = List{}
	c.Events.Stream = bus.DefaultStream
	c.Events.KeepFor = 7 * 24 * time.Hour
	c.Events.Keep = 100_000
	c.Staleness.Max = 5 * time.Second
	c.Staleness.IfError = 24 * time.Hour
	c.Staleness.IfErrorPrivate = 5 * time.Minute
	c.Edge.Heartbeat = 10 * time.Second
	c.Edge.Trust = List{}
	c.Server.Listen = "127.0.0.1:9292"
	c.Server.Admin = "127.0.0.1:9293"
	c.Server.ShutdownGrace = 30 * time.Second
	c.Server.StallTimeout = 120 * time.Second
	c.Server.Direct = true
	c.Server.V1 = true
	c.Registry.Listen = defaultRegistry
	c.Identity.Kind = "none"
	c.Identity.Cache = keystone.DefaultKeep
	c.Limits.Callers = 10000
	c.Cache.Budget = Budget{Percent: 10}
	c.Cache.MinFree = 1 << 30
	c.Cache.Verify = "fill"
	c.Cache.Local = "share"
	c.Cache.Policy = "s3fifo"
	c.Cache.OpenFiles = 512
	c.Cache.FillMemory = 32 << 20
	c.Cache.FillStall = 10 * time.Second
	c.Cache.ScrubRate = 16 << 20
	c.Cache.ScrubInterval = 7 * 24 * time.Hour
	c.Cache.Records = 10000
	c.Cache.UnknownRecords = 10000
	c.Cache.API = true
	c.Origin.Store = "default"
	c.Origin.URLs = true
	c.Origin.OrphanGrace = time.Minute
	c.Stores = map[string]*Store{}
	c.Import.Methods = slices.Clone(importMethods[:])
	c.Import.Workers = 2
	c.Import.Regions = Regions{}
	c.Images.MaxSize = 1 << 40
	limits := registry.Limits{}.WithDefaults()
	c.Images.MaxProperties = limits.Properties
	c.Images.MaxTags = limits.Tags
	c.Images.MaxMembers = limits.Members
	c.Images.MaxLocations = limits.Locations
	c.Images.DiskFormats = limits.DiskFormats
	c.Images.ContainerFormats = limits.ContainerFormats
	c.Images.PageSize = 25
	c.Images.MaxPageSize = 1000
	c.Log.Level = "info"
	c.Log.Format = "json"
	return c
}

// check finds values that do not go together. source says where a setting came
// from.
func (c *Config) check(source func(name string) string) error {
	var problems []error
	refuse := func(name, format string, args ...any) {
		problems = append(problems, fmt.Errorf("%s: %s: %w", source(name), name, fmt.Errorf(format, args...)))
	}
	if c.Data == "" {
		refuse("data", "the data directory needs a name")
	}
	for name, addr := range map[string]HostPort{"server.listen": c.Server.Listen, "server.admin": c.Server.Admin, "registry.listen": HostPort(c.Registry.Listen)} {
		if addr == "" { // off
			continue
		}
		if !addr.loopback() && c.Identity.Kind == "none" && !c.Server.InsecureAllowRemote {
			refuse(name, "%s can be reached from other machines, and there is no authentication: everybody would be admin. "+
				"Listen on 127.0.0.1, or have callers told apart (identity.kind), or allow it with --insecure-allow-remote", addr)
		}
	}
	switch tokens := c.Identity.Kind == "tokens"; {
	case tokens && c.Identity.Tokens == "":
		refuse("identity.tokens", "the file of tokens needs a name; nearsight token create makes one")
	case !tokens && c.Identity.Tokens != "":
		refuse("identity.tokens", "there is a file of tokens, and identity.kind %s does not use it", c.Identity.Kind)
	case c.Identity.Kind == "none" && c.Identity.Anonymous:
		refuse("identity.anonymous", "with identity.kind %s everybody is let in as admin", c.Identity.Kind)
	}
	c.checkTLS(refuse)
	c.checkRole(refuse)
	c.checkIdentity(refuse)
	if u, err := url.Parse(c.Server.PublicURL); c.Server.PublicURL != "" &&
		(err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.User != nil) {
		refuse("server.public_url", "%q is not like https://images.example.org", withoutUser(c.Server.PublicURL))
	}
	if c.Images.PageSize > c.Images.MaxPageSize {
		refuse("images.page_size", "%d is more than images.max_page_size, %d", c.Images.PageSize, c.Images.MaxPageSize)
	}
	slices.SortFunc(problems, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return errors.Join(problems...)
}

// A Size is a number of bytes.
type Size int64

// UnmarshalText reads plain bytes, or a number with a unit.
func (s *Size) UnmarshalText(text []byte) error {
	number, unit := string(text), int64(1)
	for i, suffix := range []string{"KiB", "MiB", "GiB", "TiB"} {
		if n, ok := strings.CutSuffix(number, suffix); ok {
			number, unit = strings.TrimSpace(n), 1<<(10*(i+1))
			break
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n < 0 || n > math.MaxInt64/unit {
		return fmt.Errorf("%q is not a size: write bytes, or a whole number with KiB, MiB, GiB or TiB", text)
	}
	*s = Size(n * unit)
	return nil
}

// A Budget is a size, or a share of a file system when Percent is not 0.
type Budget struct {
	Bytes   Size
	Percent int
}

// UnmarshalText reads a size or a percentage.
func (b *Budget) UnmarshalText(text []byte) error {
	if number, ok := strings.CutSuffix(string(text), "%"); ok {
		n, err := strconv.Atoi(strings.TrimSpace(number))
		if err != nil || n < 1 || n > 100 {
			return fmt.Errorf("%q is not a percentage from 1%% to 100%%", text)
		}
		*b = Budget{Percent: n}
		return nil
	}
	var s Size
	if err := s.UnmarshalText(text); err != nil {
		return fmt.Errorf("%w, or a percentage like 10%%", err)
	}
	if s < 1<<20 {
		return fmt.Errorf("%q is too little: the cache needs 1MiB at least", text)
	}
	*b = Budget{Bytes: s}
	return nil
}

// of returns the budget in bytes for the file system that holds dir.
func (b Budget) of(dir string) (int64, error) {
	if b.Percent == 0 {
		return int64(b.Bytes), nil
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("size of the file system of %s: %w", dir, err)
	}
	return max(int64(st.Blocks)*st.Bsize/100*int64(b.Percent), 1<<30), nil
}

// A HostPort is an address to listen on.
type HostPort string

// UnmarshalText wants a host and a port number.
func (a *HostPort) UnmarshalText(text []byte) error {
	_, port, err := net.SplitHostPort(string(text))
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil {
		return fmt.Errorf("%q is not an address like 127.0.0.1:9292", text)
	}
	*a = HostPort(text)
	return nil
}

// loopback reports whether only this machine can reach the address.
func (a HostPort) loopback() bool {
	host, _, err := net.SplitHostPort(string(a))
	if err != nil {
		return false
	}
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.Unmap().IsLoopback()
}

// setText sets the field of a Config to what text says.
func setText(field reflect.Value, tag reflect.StructTag, text string) error {
	switch v := field.Addr().Interface().(type) {
	case interface{ UnmarshalText([]byte) error }:
		if err := v.UnmarshalText([]byte(text)); err != nil {
			return err
		}
	case *string:
		if words := strings.Fields(tag.Get("oneof")); len(words) > 0 && !slices.Contains(words, text) {
			return fmt.Errorf("%q is not one of %s", text, strings.Join(words, ", "))
		}
		if strings.ContainsRune(text, 0) {
			return fmt.Errorf("%q has a zero byte", text)
		}
		*v = text
	case *bool:
		if text != "true" && text != "false" {
			return fmt.Errorf("%q is neither true nor false", text)
		}
		*v = text == "true"
	case *int:
		n, err := strconv.Atoi(text)
		if err != nil || n < 0 {
			return fmt.Errorf("%q is not a number of things", text)
		}
		*v = n
	case *time.Duration:
		d, err := time.ParseDuration(text)
		if err != nil || d < 0 {
			return fmt.Errorf("%q is not a duration: write 30s, 5m or 24h", text)
		}
		*v = d
	case *[]string:
		*v = strings.FieldsFunc(text, func(r rune) bool { return r == ',' || r == ' ' })
		if len(*v) == 0 {
			return errors.New("the list is empty")
		}
	default:
		panic("config: no way to read a " + field.Type().String())
	}
	return checkLeast(field, tag)
}

// checkLeast compares a number with the least that its tag allows.
func checkLeast(field reflect.Value, tag reflect.StructTag) error {
	text := tag.Get("min")
	if text == "" {
		return nil
	}
	least := reflect.New(field.Type()).Elem()
	if err := setText(least, "", text); err != nil {
		panic("config: bad tag: " + err.Error())
	}
	if field.Int() < least.Int() {
		return fmt.Errorf("must be %s at least", text)
	}
	return nil
}
