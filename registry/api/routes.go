// Package api speaks the Images API v2 over any registry.Images. It owns the
// routes, the shapes of the JSON, and the one map from errors to statuses.
//
// The calls about image data are divided: this package takes uploads, and
// package proxy, on the same gin.Engine, answers GET and HEAD of
// /v2/images/:id/file.
package api

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/gin-gonic/gin"

	"nearsight/origin"
	"nearsight/registry"
	"nearsight/registry/identity"
	"nearsight/registry/metadef"
)

const (
	defaultLimit        = 25
	defaultMaxLimit     = 1000
	defaultMaxImageSize = 1 << 40
	defaultMaxUploads   = 32
	defaultStallTimeout = 120 * time.Second

	// defaultFinishPatience is longer than a restart of a database takes.
	defaultFinishPatience = 30 * time.Second

	// maxBody bounds a JSON document, in bytes.
	maxBody = 1 << 20
)

// Options says what an API works on.
type Options struct {
	// Images, Uploads and Store are required: the records, the books of the
	// data on its way in, and the place for new data.
	Images  registry.Images
	Uploads registry.Uploads
	Store   origin.WriteStore
	// Wake is called after a delete and after a failed upload, when there may
	// be objects to remove. It must return at once. nil means that nobody waits.
	Wake func()
	// Abort is called with an upload that failed and whose Uploads.Abort failed
	// too: it sees to it that the image becomes queued again. It must return at
	// once. nil means that nobody does, as long as the process runs.
	Abort func(id string, loc origin.Location)
	// Locations keeps the books of images registered by URL and of copies. nil
	// means that locations are neither shown nor changed: such calls are 403.
	Locations registry.Locations
	// HideLocations leaves them out of the images all the same, and
	// ShowDirectURL puts the URL of the best one there.
	HideLocations, ShowDirectURL bool
	// Stores names the stores: locations are ordered by it, and if there is more
	// than one, clients are told of them and choose. Store is then the same set,
	// or a store like its default. nil means that there is one store, Store.
	Stores Stores
	// Check says whether a URL may be read on behalf of a stranger. Its refusal
	// is an origin.ErrLocation whose text is for the one who gave the URL. nil
	// means that images cannot be registered by URL.
	Check func(ctx context.Context, url string) error
	// Stat looks at locations before they are registered. nil means Store.
	Stat origin.Store
	// Hash is called when there may be data without a digest. It must return at
	// once. nil means that nobody waits.
	Hash func()
	// Imports says what can be imported; the zero value: nothing.
	Imports Imports
	// Quotas bound what projects have; nil means not at all.
	Quotas *registry.Quotas

	// Generation returns a number that is another one after every change of an
	// image, at the latest when the change is acknowledged, and 0 while that
	// cannot be said: pages of lists are remembered by it. nil means that none
	// is.
	Generation func() uint64

	// Metadefs keeps metadata definitions. nil means that there are none.
	Metadefs metadef.Catalogue
	// Identity names the callers of requests. nil means that they are not told
	// apart: each is registry.Everybody. Anonymous lets in those who send no token,
	// as strangers (registry.Caller.Stranger).
	Identity  identity.Identifier
	Anonymous bool
	// URLKeys sign and verify signed URLs for image data. nil means that there are
	// none.
	URLKeys *identity.URLKeys
	// Nodes says which other servers are nodes of the same registry, and what they get.
	Nodes Nodes
	// CacheCalls says that the calls about the cache are answered here too, by
	// package proxy: versions tell of it.
	CacheCalls bool

	// V1 says that package v1 answers the calls of the API of 2011 on the same
	// engine: versions tell of it, and paths without a version are its.
	V1 bool

	// MaxImageSize is the largest upload, in bytes. 0 means 1 TiB, negative
	// unlimited.
	MaxImageSize int64
	// MaxUploads is how many uploads are taken at a time; each needs 2 MiB of
	// memory. 0 means 32.
	MaxUploads int
	// StallTimeout ends an upload that brings fewer than 64 KiB in so long, and
	// the wait for other bodies. 0 means 120 s.
	StallTimeout time.Duration
	// DefaultLimit is the length of a page of the list when the client names
	// none, MaxLimit the largest that it can have. 0 means 25 and 1000.
	DefaultLimit, MaxLimit int
	// Limits are those by which Images checks a record: the schemas list its
	// formats, and single values of a patch are held against it.
	Limits registry.Limits
	// PublicURL is the base of the absolute URLs in answers, as
	// https://images.example.org without a path of ours. Empty means what the
	// request's Host says.
	PublicURL string
	// Log gets what no client can be told. nil means slog.Default().
	Log *slog.Logger
}

// An API answers the calls of the Images API v2. It is safe for concurrent use.
type API struct {
	images  registry.Images
	uploads registry.Uploads
	store   origin.WriteStore
	wake    func()
	abort   func(id string, loc origin.Location)

	locations registry.Locations // nil: not exposed
	places    places
	check     func(ctx context.Context, url string) error // nil: no URLs
	stat      origin.Store
	hash      func()
	imports   Imports
	quotas    *registry.Quotas

	identity            identity.Identifier // nil: callers are not told apart
	urlKeys             *identity.URLKeys   // nil: no URL is signed
	anonymous           bool
	everybody, stranger *registry.Caller
	old                 bool // the API of 2011 is there too
	nodes               nodes

	uploading              chan struct{} // has one element for each upload under way
	maxImageSize           int64         // negative: unlimited
	stallTimeout           time.Duration
	finishPatience         time.Duration // for Uploads.Finish while the registry cannot be asked
	defaultLimit, maxLimit int
	limits                 registry.Limits
	publicURL              string
	log                    *slog.Logger

	pages          *pages
	versions       []string            // that are advertised, latest first
	schemas        map[string]document // by name
	metadefs       metadef.Catalogue   // nil: none
	metadefSchemas map[string]document
}

// New returns an API. It starts nothing.
func New(o Options) *API {
	a := &API{
		images:    o.Images,
		uploads:   o.Uploads,
		store:     o.Store,
		wake:      o.Wake,
		abort:     o.Abort,
		locations: o.Locations,
		places: places{
			stores:    o.Stores,
			several:   o.Stores != nil && len(o.Stores.Members()) > 1,
			locations: o.Locations != nil && !o.HideLocations,
			directURL: o.ShowDirectURL,
		},
		check:          o.Check,
		stat:           o.Stat,
		hash:           o.Hash,
		imports:        o.Imports.withDefaults(o.Check != nil),
		quotas:         o.Quotas,
		metadefs:       o.Metadefs,
		metadefSchemas: metadefSchemas(),
		identity:       o.Identity,
		urlKeys:        o.URLKeys,
		anonymous:      o.Anonymous && o.Identity != nil,
		old:            o.V1,
		everybody:      registry.Everybody(),
		stranger:       &registry.Caller{Stranger: true},
		maxImageSize:   o.MaxImageSize,
		stallTimeout:   o.StallTimeout,
		finishPatience: defaultFinishPatience,
		defaultLimit:   o.DefaultLimit,
		maxLimit:       o.MaxLimit,
		limits:         o.Limits.WithDefaults(),
		publicURL:      strings.TrimRight(o.PublicURL, "/"),
		log:            o.Log,
		schemas:        schemas(o.Limits.WithDefaults()),
	}
	if a.wake == nil {
		a.wake = func() {}
	}
	if a.abort == nil {
		a.abort = func(string, origin.Location) {}
	}
	if a.stat == nil {
		a.stat = o.Store
	}
	if a.hash == nil {
		a.hash = func() {}
	}
	if o.Generation == nil {
		o.Generation = func() uint64 { return 0 }
	}
	a.pages = newPages(o.Generation)
	if o.MaxUploads <= 0 {
		o.MaxUploads = defaultMaxUploads
	}
	a.uploading = make(chan struct{}, o.MaxUploads)
	if a.maxImageSize == 0 {
		a.maxImageSize = defaultMaxImageSize
	}
	if a.stallTimeout <= 0 {
		a.stallTimeout = defaultStallTimeout
	}
	if a.maxLimit <= 0 {
		a.maxLimit = defaultMaxLimit
	}
	if a.defaultLimit <= 0 {
		a.defaultLimit = defaultLimit
	}
	a.defaultLimit = min(a.defaultLimit, a.maxLimit)
	if a.log == nil {
		a.log = slog.Default()
	}
	a.openNodes(o.Nodes)
	a.versions = versions(features{
		stores:    a.places.several,
		imports:   len(a.importMethods()) > 0,
		locations: a.locations != nil,
		cache:     o.CacheCalls,
	})
	return a
}

// Register adds the routes of the API to r, and with them the answers to
// unknown paths and methods of the whole engine, OPTIONS included.
func (a *API) Register(r *gin.Engine) {
	a.Prepare(r)
	r.NoRoute(a.noRoute)

	get := func(r gin.IRoutes, path string, h gin.HandlerFunc) {
		r.GET(path, h)
		r.HEAD(path, h)
	}
	get(r, "/", a.discover)
	get(r, "/versions", a.listVersions)
	get(r, "/healthcheck", healthcheck)
	get(r, "/v2/schemas/:name", a.schema)

	get(r, "/v2/images", a.list)
	r.POST("/v2/images", a.create)
	image := r.Group("/v2/images/:id", a.checkID)
	get(image, "", a.show)
	image.PATCH("", a.patch)
	image.DELETE("", a.delete)
	image.PUT("/file", a.upload)
	image.PUT("/tags/:tag", a.addTag)
	image.DELETE("/tags/:tag", a.removeTag)
	get(image, "/locations", a.listLocations)
	image.POST("/locations", a.addLocation)
	image.POST("/import", a.importData)
	a.registerTasks(r)
	a.registerActions(image)
	a.registerMembers(image)
	a.registerMetadefs(r)
	a.registerSigned(r)
	a.registerNodes(r)

	get(r, "/v2/info/import", a.listImportMethods)
	get(r, "/v2/info/stores", a.listStores)
	get(r, "/v2/info/stores/detail", a.listStoreDetails)
	r.DELETE("/v2/stores/:store/:id", a.checkID, a.deleteFromStore)
}

// noRoute answers for paths that are nobody's.
func (a *API) noRoute(c *gin.Context) {
	w, r := c.Writer, c.Request
	switch path := r.URL.Path; {
	case path == "/v2":
		h := w.Header()
		h.Set("Location", a.base(r)+"/v2/")
		h.Set("Cache-Control", "no-store")
		writeBody(w, http.StatusFound, nil)
	case strings.HasPrefix(path, "/v2/"), strings.HasPrefix(path, "/nearsight/"), a.old && strings.HasPrefix(path, "/v1/"):
		FailStatus(w, r, http.StatusNotFound, "there is nothing at this path")
	case r.Method == http.MethodOptions:
		allow(w, []string{http.MethodGet, http.MethodHead})
		noContent(w)
	case slices.Contains([]string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"}, r.Method):
		a.discover(c)
	default:
		allow(w, []string{http.MethodGet, http.MethodHead})
		FailStatus(w, r, http.StatusMethodNotAllowed, "this method is not known here")
	}
}

// noMethod answers for paths that have other methods. gin has put those in
// Allow.
func (a *API) noMethod(c *gin.Context) {
	w, r := c.Writer, c.Request
	allow(w, strings.Split(w.Header().Get("Allow"), ", "))
	if r.Method == http.MethodOptions {
		noContent(w)
		return
	}
	FailStatus(w, r, http.StatusMethodNotAllowed, "this path does not have this method")
}

// allow sets Allow to methods and OPTIONS, which is everywhere.
func allow(w http.ResponseWriter, methods []string) {
	methods = append(methods, http.MethodOptions)
	slices.Sort(methods)
	w.Header().Set("Allow", strings.Join(slices.Compact(methods), ", "))
}

// noContent answers 204 to a call that asked for nothing to read.
func noContent(w http.ResponseWriter) {
	w.Header().Set("Cache-Control", "no-store")
	writeBody(w, http.StatusNoContent, nil)
}

// fail is Fail, and keeps in the log what the client is not told, or not there
// any more to be told.
func (a *API) fail(c *gin.Context, err error) {
	ctx := c.Request.Context()
	status, _ := statusOf(ctx, err)
	var cut *cutError
	level, worth := slog.LevelError, status >= 500 || errors.Is(err, origin.ErrFull)
	switch {
	case status == http.StatusServiceUnavailable: // it passes
		level = slog.LevelWarn
	case errors.As(err, &cut):
		level, worth = slog.LevelInfo, true
	}
	if worth {
		a.log.Log(ctx, level, "request failed",
			"method", c.Request.Method, "route", c.FullPath(), "image", c.Param("id"),
			"status", status, "request_id", c.Writer.Header().Get(RequestIDHeader), "err", err)
	}
	Fail(c.Writer, c.Request, err)
}

// checkID answers for what is no id and so names no image.
func (a *API) checkID(c *gin.Context) {
	if !registry.ValidID(c.Param("id")) {
		a.fail(c, registry.ErrNotFound)
		c.Abort()
	}
}

// base returns the start of absolute URLs, without a slash at its end.
func (a *API) base(r *http.Request) string {
	switch {
	case a.publicURL != "":
		return a.publicURL
	case r.Host == "": // HTTP/1.0: a path is a URL reference too
		return ""
	case r.TLS != nil:
		return "https://" + r.Host
	}
	return "http://" + r.Host
}
