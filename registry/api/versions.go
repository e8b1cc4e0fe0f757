package api

import (
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/gin-gonic/gin"
)

// versions are the minor versions of the Images API whose promises hold here,
// latest first; the first is the current one. They only advertise: one code
// answers them all. v2.8 and v2.15 are about several stores. Not among them are
// v2.6 and what follows from it, which bring imports from elsewhere, and v2.17,
// since locations do not take hashes yet.
func versions(severalStores bool) []string {
	if severalStores {
		return []string{"v2.15", "v2.9", "v2.8", "v2.7", "v2.5", "v2.4", "v2.3", "v2.2", "v2.1", "v2.0"}
	}
	return []string{"v2.9", "v2.7", "v2.5", "v2.4", "v2.3", "v2.2", "v2.1", "v2.0"}
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
