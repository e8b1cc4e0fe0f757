package api

import (
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"strings"

	"github.com/gin-gonic/gin"
)

// The freshness of metadata, by who may see it.
const (
	openFreshness    = "public, max-age=5, stale-while-revalidate=30, stale-if-error=3600"
	privateFreshness = "private, no-cache"
)

// A document is a piece of metadata, ready to be sent.
type document struct {
	body []byte
	tag  string // the strong entity tag
	open bool   // the same for everybody
	key  string // the image that it is about, or ""
}

// anybody reports whether those who name themselves by nothing may read what is
// public: only then does everybody get the same.
func (a *API) anybody() bool { return a.identity == nil || a.anonymous }

// newDocument returns the document of body.
func newDocument(body []byte) document {
	return document{body: body, tag: metaTag(body)}
}

// metaTag returns the entity tag of a serialised document.
func metaTag(body []byte) string {
	sum := sha256.Sum256(body)
	b := append(make([]byte, 0, 36), `"m-`...)
	b = hex.AppendEncode(b, sum[:16])
	return string(append(b, '"'))
}

// writeDocument answers GET and HEAD with d, or with 304 or 412 if the request
// says so.
func (a *API) writeDocument(c *gin.Context, d document) {
	w, r := c.Writer, c.Request
	h := w.Header()
	verdict := precondition(r, d.tag)
	if verdict == http.StatusPreconditionFailed {
		a.fail(c, errPrecondition)
		return
	}
	h["Etag"] = []string{d.tag}
	if d.open {
		h["Cache-Control"] = []string{openFreshness}
		if d.key != "" {
			h["Xkey"] = []string{"img-" + d.key}
			h["Cache-Groups"] = []string{`"img-` + d.key + `"`}
		}
	} else {
		h["Cache-Control"] = []string{privateFreshness}
		h["Vary"] = []string{"Authorization, X-Auth-Token"}
	}
	if verdict == http.StatusNotModified {
		writeBody(w, http.StatusNotModified, nil)
		return
	}
	writeJSON(w, r, http.StatusOK, d.body)
}

var errPrecondition = refuse(http.StatusPreconditionFailed, "the representation is not the one that the request's condition names")

// precondition evaluates If-Match and If-None-Match (RFC 9110, section 13.2.2)
// against the strong tag of the current representation, "" if there is none. It
// returns 0 to go on, else 304 or 412. Metadata has no Last-Modified, so the
// fields with dates do not count.
func precondition(r *http.Request, tag string) int {
	if match := r.Header["If-Match"]; len(match) > 0 && !anyTag(match, tag, false) {
		return http.StatusPreconditionFailed
	}
	if none := r.Header["If-None-Match"]; len(none) > 0 && anyTag(none, tag, true) {
		if r.Method == http.MethodGet || r.Method == http.MethodHead {
			return http.StatusNotModified
		}
		return http.StatusPreconditionFailed
	}
	return 0
}

// anyTag reports whether one of the entity tags in the lines of a field is tag,
// by weak or strong comparison; * is any tag. Reading ends at what is no tag.
func anyTag(lines []string, tag string, weak bool) bool {
	if tag == "" {
		return false
	}
	for _, line := range lines {
		if strings.TrimSpace(line) == "*" {
			return true
		}
		for {
			line = strings.TrimLeft(line, " \t,")
			opaque, isWeak := strings.CutPrefix(line, "W/")
			if len(opaque) < 2 || opaque[0] != '"' {
				break
			}
			end := strings.IndexByte(opaque[1:], '"') + 2
			if end < 2 {
				break
			}
			if opaque[:end] == tag && (weak || !isWeak) {
				return true
			}
			line = strings.TrimLeft(opaque[end:], " \t")
			if line != "" && line[0] != ',' {
				break
			}
		}
	}
	return false
}
