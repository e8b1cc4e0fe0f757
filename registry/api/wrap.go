package api

import (
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/gin-gonic/gin"
	"github.com/google/uuid"
)

const (
	requestIDHeader = "X-Openstack-Request-Id"
	maxRequestID    = 64 // characters of a client's request id

	// vendorType in Accept stands for a version in the path.
	vendorType = "application/vnd.openstack.images-"
)

// Wrap does what must happen before h routes a request: it names the request,
// refuses paths that two readers could read differently, and turns every way
// of saying the version (/v2.9/images, or the vendor type in Accept) into /v2.
//
// It also bounds the wait for a body that nobody reads: net/http takes the rest
// of it from the connection, before or after the answer. Who reads a body moves
// the deadline along.
func (a *API) Wrap(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength != 0 {
			http.NewResponseController(w).SetReadDeadline(time.Now().Add(a.stallTimeout))
			if r.Method == http.MethodGet || r.Method == http.MethodHead {
				// Nobody reads this body. Were net/http to read it away under a
				// long download, the deadline would end that.
				w.Header().Set("Connection", "close")
			}
		}
		if len(r.TransferEncoding) > 0 {
			// net/http drops a Content-Length that came beside it; what a proxy
			// in front made of the two is unknown (RFC 9112, section 6.1).
			w.Header().Set("Connection", "close")
		}
		if !nameRequest(w, r) {
			return
		}
		if r.Method == http.MethodOptions && r.URL.Path == "*" {
			allow(w, []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"})
			noContent(w)
			return
		}
		if err := checkPath(r.URL); err != nil {
			Fail(w, r, err)
			return
		}
		if path := a.versioned(r); path != r.URL.Path {
			r = withPath(r, path)
		}
		h.ServeHTTP(w, r)
	})
}

// checkPath refuses what could mean another path to somebody else: encoded
// slashes, dot segments, control characters.
func checkPath(u *url.URL) error {
	if u.RawPath != "" && strings.Contains(strings.ToLower(u.RawPath), "%2f") {
		return refuse(http.StatusNotFound, "there is nothing at this path")
	}
	if !utf8.ValidString(u.Path) || hasControl(u.Path) {
		return refuse(http.StatusBadRequest, "the path has control characters or is not UTF-8")
	}
	if !strings.Contains(u.Path, "/.") {
		return nil
	}
	for segment := range strings.SplitSeq(u.Path, "/") {
		if segment == "." || segment == ".." {
			return refuse(http.StatusNotFound, "there is nothing at this path")
		}
	}
	return nil
}

// hasControl reports whether s has a control character (C0, DEL, C1).
func hasControl(s string) bool {
	return strings.ContainsFunc(s, func(c rune) bool { return c < ' ' || c >= 0x7f && c < 0xa0 })
}

// versioned returns the path of r with the version as /v2, however the client
// said it. The path of an unknown version stays as it is and has no route.
func (a *API) versioned(r *http.Request) string {
	path := r.URL.Path
	if path == "" { // an absolute-form target without a path
		return "/"
	}
	first, rest, more := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	if more {
		rest = "/" + rest
	}
	switch {
	case first == "v2":
		return path
	case knownVersion(first):
		return "/v2" + rest
	case first == "versions", first == "healthcheck", first == "nearsight", looksVersioned(first):
		return path
	}
	if accept := r.Header.Get("Accept"); strings.HasPrefix(accept, vendorType) {
		if v := accept[len(vendorType):]; v == "v2" || knownVersion(v) {
			return "/v2" + path
		}
	}
	return path
}

// looksVersioned reports whether a path segment is v and a number.
func looksVersioned(segment string) bool {
	return len(segment) > 1 && segment[0] == 'v' && segment[1] >= '0' && segment[1] <= '9'
}

// withPath returns a copy of r for another path.
func withPath(r *http.Request, path string) *http.Request {
	r2 := new(http.Request)
	*r2 = *r
	u := *r.URL
	u.Path, u.RawPath = path, ""
	r2.URL = &u
	return r2
}

// RequestID puts an x-openstack-request-id on every response. It adopts the
// client's, as Glance does: with req- in front, 431 when it is longer than 64
// characters. One with characters that do not belong into a log is replaced.
func RequestID() gin.HandlerFunc {
	return func(c *gin.Context) {
		if !nameRequest(c.Writer, c.Request) {
			c.Abort()
		}
	}
}

// nameRequest sets the request id of the response, unless it has one. It
// reports false when it refused the request instead.
func nameRequest(w http.ResponseWriter, r *http.Request) bool {
	h := w.Header()
	if h.Get(requestIDHeader) != "" {
		return true
	}
	id := r.Header.Get(requestIDHeader)
	switch {
	case len(id) > maxRequestID:
		h.Set(requestIDHeader, newRequestID())
		FailStatus(w, r, http.StatusRequestHeaderFieldsTooLarge, "x-openstack-request-id is longer than 64 characters")
		return false
	case id == "", strings.ContainsFunc(id, notInRequestID):
		id = newRequestID()
	case !strings.HasPrefix(id, "req-"):
		id = "req-" + id
	}
	h.Set(requestIDHeader, id)
	return true
}

func newRequestID() string { return "req-" + uuid.NewString() }

func notInRequestID(c rune) bool {
	switch {
	case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_', c == '.':
		return false
	}
	return true
}
