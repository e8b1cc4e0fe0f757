package api

import (
	"net/http"
	"strings"

	"github.com/gin-gonic/gin"

	"nearsight/registry"
)

// list answers GET and HEAD of the list of images.
func (a *API) list(c *gin.Context) {
	caller := registry.CallerOf(c.Request.Context())
	if err := caller.MayAtAll(registry.ListImages); err != nil {
		a.fail(c, err)
		return
	}
	key := pageKey(caller, c.Request.URL.RawQuery)
	known, now, ok := a.pages.get(key)
	if ok {
		a.writeDocument(c, known)
		return
	}
	params, err := parseParams(c.Request.URL.RawQuery)
	if err != nil {
		a.fail(c, err)
		return
	}
	q, err := a.query(params)
	if err != nil {
		a.fail(c, err)
		return
	}
	q.Caller = caller
	images, err := a.images.List(c.Request.Context(), q)
	if err != nil {
		a.fail(c, err)
		return
	}
	b := append(make([]byte, 0, 512+1024*len(images)), `{"images":[`...)
	for i, img := range images {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendImage(b, img, a.placesFor(caller, img))
	}
	first := firstPage(params)
	b = append(b, `],"schema":"/v2/schemas/images","first":`...)
	b = appendString(b, pageLink(first, ""))
	if q.Limit > 0 && len(images) == q.Limit {
		b = append(b, `,"next":`...)
		b = appendString(b, pageLink(first, images[len(images)-1].ID))
	}
	b = append(b, '}')
	d := newDocument(b)
	a.pages.put(key, now, d)
	a.writeDocument(c, d)
}

// firstPage returns the query without its marker, in the client's own spelling
// and with every repeated parameter. Clients look for the text limit=N in it.
func firstPage(params []param) string {
	var pieces []string
	for _, p := range params {
		if p.name != "marker" {
			pieces = append(pieces, p.raw)
		}
	}
	return strings.Join(pieces, "&")
}

// pageLink returns the path of the page after marker, "" for the first one.
func pageLink(query, marker string) string {
	if marker != "" {
		if query != "" {
			query += "&"
		}
		query += "marker=" + marker
	}
	if query != "" {
		query = "?" + query
	}
	return "/v2/images" + query
}

// badQuery refuses a parameter of the list.
func badQuery(name, format string, args ...any) error {
	return refuse(http.StatusBadRequest, "parameter %.80q: "+format, append([]any{name}, args...)...)
}
