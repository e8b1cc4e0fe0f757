// Package api speaks the Images API v2 over any registry.Images. It owns the
// routes, the shapes of the JSON, and the one map from errors to statuses.
//
// The calls about image data are divided: this package takes uploads, and
// package proxy, on the same gin.Engine, answers GET and HEAD of
// /v2/images/:id/file.
package api

import (
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/gin-gonic/gin"

	"nearsight/origin"
	"nearsight/registry"
)

const (
	defaultLimit        = 25
	defaultMaxLimit     = 1000
	defaultMaxImageSize = 1 << 40
	defaultStallTimeout = 120 * time.Second

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

	// MaxImageSize is the largest upload, in bytes. 0 means 1 TiB, negative
	// unlimited.
	MaxImageSize int64
	// StallTimeout ends an upload that brings no byte for so long. 0 means 120 s.
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

	maxImageSize           int64 // negative: unlimited
	stallTimeout           time.Duration
	defaultLimit, maxLimit int
	limits                 registry.Limits
	publicURL              string
	log                    *slog.Logger

	schemas map[string]document // by name
}

// New returns an API. It starts nothing.
func New(o Options) *API {
	a := &API{
		images:       o.Images,
		uploads:      o.Uploads,
		store:        o.Store,
		wake:         o.Wake,
		maxImageSize: o.MaxImageSize,
		stallTimeout: o.StallTimeout,
		defaultLimit: o.DefaultLimit,
		maxLimit:     o.MaxLimit,
		limits:       o.Limits.WithDefaults(),
		publicURL:    strings.TrimRight(o.PublicURL, "/"),
		log:          o.Log,
		schemas:      schemas(o.Limits.WithDefaults()),
	}
	if a.wake == nil {
		a.wake = func() {}
	}
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
	return a
}

// Register adds the routes of the API to r, and with them the answers to
// unknown paths and methods of the whole engine, OPTIONS included. It sets the
// engine to take paths as they are: a redirect from /v2/images/ to /v2/images
// would turn "no such image" into a list.
func (a *API) Register(r *gin.Engine) {
	r.RedirectTrailingSlash = false
	r.RedirectFixedPath = false
	r.RemoveExtraSlash = false
	r.UseRawPath = false // paths are decoded once; Wrap refuses encoded slashes
	r.UseEscapedPath = false
	r.HandleMethodNotAllowed = true
	r.NoRoute(a.noRoute)
	r.NoMethod(a.noMethod)

	get := func(path string, h gin.HandlerFunc) {
		r.GET(path, h)
		r.HEAD(path, h)
	}
	get("/", a.discover)
	get("/versions", a.listVersions)
	get("/healthcheck", healthcheck)

	get("/v2/images", a.list)
	r.POST("/v2/images", a.create)
	get("/v2/images/:id", a.show)
	r.PATCH("/v2/images/:id", a.patch)
	r.DELETE("/v2/images/:id", a.delete)
	r.PUT("/v2/images/:id/file", a.upload)
	r.PUT("/v2/images/:id/tags/:tag", a.addTag)
	r.DELETE("/v2/images/:id/tags/:tag", a.removeTag)
	get("/v2/schemas/:name", a.schema)
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
	case strings.HasPrefix(path, "/v2/"), strings.HasPrefix(path, "/nearsight/"):
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

// fail is Fail, and keeps in the log what the client is not told.
func (a *API) fail(c *gin.Context, err error) {
	if status, _ := statusOf(err); status >= 500 {
		a.log.ErrorContext(c.Request.Context(), "request failed",
			"method", c.Request.Method, "route", c.FullPath(), "image", c.Param("id"),
			"status", status, "request_id", c.Writer.Header().Get(requestIDHeader), "err", err)
	}
	Fail(c.Writer, c.Request, err)
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
