package api

import (
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode/utf8"
)

const (
	// RequestIDHeader names the field with the id of a request.
	RequestIDHeader = "X-Openstack-Request-Id"
	maxRequestID    = 64 // characters of a client's request id

	// vendorType in Accept stands for a version in the path.
	vendorType = "application/vnd.openstack.images-"
)

// Wrap does what must happen before h routes a request: it names the request,
// refuses paths that two readers could read differently, turns every way of
// saying the version (/v2.9/images, or the vendor type in Accept) into /v2, and
// finds out who makes it (Authenticate), but for the versions and the healthcheck.
//
// And it looks after the body. The wait for one that nobody reads is bounded,
// since net/http may take it from the connection before the answer; who reads it
// moves the deadline along. What is still on its way after the answer is read
// away.
func (a *API) Wrap(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if len(r.TransferEncoding) > 0 || !r.ProtoAtLeast(1, 1) && r.ContentLength != 0 {
			// net/http drops a Content-Length that came beside it, and in
			// HTTP/1.0 the coding; what a proxy in front made of the two is
			// unknown (RFC 9112, section 6.1).
			w.Header().Set("Connection", "close")
		}
		if r.ContentLength == 0 {
			a.route(w, r, h)
			return
		}
		http.NewResponseController(w).SetReadDeadline(time.Now().Add(a.stallTimeout))
		if r.Method == http.MethodGet || r.Method == http.MethodHead {
			// Nobody reads this body. Were net/http to read it away under a
			// long download, the deadline would end that.
			w.Header().Set("Connection", "close")
		}
		r, body := watchBody(r)
		a.route(w, r, h)
		body.drain(w, min(drainSilence, a.stallTimeout))
	})
}

// route names the request, checks its target and hands it to h.
func (a *API) route(w http.ResponseWriter, r *http.Request, h http.Handler) {
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
	if !openToAll(r.URL.Path) {
		if r = a.identify(w, r); r == nil {
			return
		}
	}
	h.ServeHTTP(w, r)
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

// versioned returns the path of r with the version as /v2 or /v1, however the
// client said it: no version at all was the first one. Of a slash at the end only v1
// takes no notice. The path of an unknown version stays as it is and has no route.
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
	case a.knownVersion(first):
		return "/v2" + rest
	case a.old && oldVersion(first):
		return oldPath(rest)
	case first == "versions", first == "healthcheck", first == "nearsight", looksVersioned(first):
		return path
	}
	if accept := r.Header.Get("Accept"); strings.HasPrefix(accept, vendorType) {
		if v := accept[len(vendorType):]; v == "v2" || a.knownVersion(v) {
			return "/v2" + path
		} else if a.old && oldVersion(v) {
			return oldPath(path)
		}
	}
	switch first {
	case "images", "shared-images", "cached_images", "queued_images":
		if a.old {
			return oldPath(path)
		}
	}
	return path
}

// oldPath returns a path of the API of 2011 with its version. Its calls about the cache
// are those of v2.
func oldPath(path string) string {
	path = strings.TrimSuffix(path, "/")
	if strings.HasPrefix(path, "/cached_images") || strings.HasPrefix(path, "/queued_images") {
		return "/v2" + path
	}
	return "/v1" + path
}

// oldVersion reports whether v is a version of the API of 2011.
func oldVersion(v string) bool { return v == "v1" || v == "v1.0" || v == "v1.1" }

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

// nameRequest puts an x-openstack-request-id on the response. It adopts the
// client's, as Glance does: with req- in front, 431 when it is longer than 64
// characters. One with characters that do not belong into a log is replaced. It
// reports false when it refused the request.
func nameRequest(w http.ResponseWriter, r *http.Request) bool {
	h := w.Header()
	id := r.Header.Get(RequestIDHeader)
	switch {
	case len(id) > maxRequestID:
		h.Set(RequestIDHeader, newRequestID())
		FailStatus(w, r, http.StatusRequestHeaderFieldsTooLarge, "x-openstack-request-id is longer than 64 characters")
		return false
	case id == "", strings.ContainsFunc(id, notInRequestID):
		id = newRequestID()
	case !strings.HasPrefix(id, "req-"):
		id = "req-" + id
	}
	h.Set(RequestIDHeader, id)
	return true
}

func newRequestID() string { return string(AppendRequestID(nil)) }

// AppendRequestID appends a new request id to b: req- and a random UUID. Nobody
// is harmed by one that could be guessed, so it costs no call of the kernel.
func AppendRequestID(b []byte) []byte {
	var id [16]byte
	binary.NativeEndian.PutUint64(id[:8], rand.Uint64())
	binary.NativeEndian.PutUint64(id[8:], rand.Uint64())
	id[6] = id[6]&0x0f | 0x40 // version 4
	id[8] = id[8]&0x3f | 0x80 // of RFC 9562
	b = append(b, "req-"...)
	b = append(hex.AppendEncode(b, id[:4]), '-')
	b = append(hex.AppendEncode(b, id[4:6]), '-')
	b = append(hex.AppendEncode(b, id[6:8]), '-')
	b = append(hex.AppendEncode(b, id[8:10]), '-')
	return hex.AppendEncode(b, id[10:])
}

func notInRequestID(c rune) bool {
	switch {
	case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_', c == '.':
		return false
	}
	return true
}
