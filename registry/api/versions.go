package api

import (
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/gin-gonic/gin"
)

// features are what some versions are about.
type features struct {
	stores    bool // there are several
	imports   bool // data is staged and imported, by tasks
	locations bool // they are registered
	cache     bool // is managed
}

// versions returns the minor versions of the Images API whose promises hold here,
// latest first; the first is the current one. They only advertise: one code answers
// them all.
func versions(has features) []string {
	var list []string
	for _, v := range []struct {
		id     string
		isTrue bool
	}{
		{"v2.18", has.cache},
		{"v2.17", has.locations},
		{"v2.16", has.cache},
		{"v2.15", true},
		{"v2.14", has.cache},
		{"v2.13", has.stores && has.imports},
		{"v2.12", has.stores && has.imports},
		{"v2.11", has.stores && has.imports},
		{"v2.10", has.stores && has.imports},
		{"v2.9", true},
		{"v2.8", has.stores},
		{"v2.7", true},
		{"v2.6", has.imports},
		{"v2.5", true},
		{"v2.4", true},
		{"v2.3", true},
		{"v2.2", true},
		{"v2.1", true},
		{"v2.0", true},
	} {
		if v.isTrue {
			list = append(list, v.id)
		}
	}
	return list
}

// knownVersion reports whether v is an advertised minor version.
func (a *API) knownVersion(v string) bool {
	return strings.HasPrefix(v, "v2.") && slices.Contains(a.versions, v)
}

// discover answers the root, and everything that is no version of ours.
func (a *API) discover(c *gin.Context) {
	a.writeVersions(c, http.StatusMultipleChoices)
}

// listVersions is discover for clients that take a 300 for an error.
func (a *API) listVersions(c *gin.Context) {
	a.writeVersions(c, http.StatusOK)
}

func (a *API) writeVersions(c *gin.Context, status int) {
	href := a.base(c.Request) + "/v2/"
	b := append(make([]byte, 0, 1024), `{"versions":[`...)
	for i, id := range a.versions {
		word := "SUPPORTED"
		if i == 0 {
			word = "CURRENT"
		} else {
			b = append(b, ',')
		}
		b = append(b, `{"id":"`+id+`","status":"`+word+`","links":[{"rel":"self","href":`...)
		b = appendString(b, href)
		b = append(b, `}]}`...)
	}
	if a.old {
		for _, id := range []string{"v1.1", "v1.0"} {
			b = append(b, `,{"id":"`+id+`","status":"SUPPORTED","links":[{"rel":"self","href":`...)
			b = appendString(b, a.base(c.Request)+"/v1/")
			b = append(b, `}]}`...)
		}
	}
	b = append(b, `]}`...)
	// The links depend on the Host; it is not worth storing.
	c.Writer.Header().Set("Cache-Control", "no-store")
	writeJSON(c.Writer, c.Request, status, b)
}

// healthcheck says that this listener answers.
func healthcheck(c *gin.Context) {
	body := []byte("OK")
	h := c.Writer.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Type", "text/plain; charset=UTF-8")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	if c.Request.Method == http.MethodHead {
		body = nil
	}
	writeBody(c.Writer, http.StatusOK, body)
}
