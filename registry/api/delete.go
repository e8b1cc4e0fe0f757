package api

import (
	"net/http"

	"github.com/gin-gonic/gin"

	"nearsight/registry"
)

// delete answers DELETE of an image, in whatever state it is.
func (a *API) delete(c *gin.Context) {
	r, id := c.Request, c.Param("id")
	if hasBody(r) {
		a.fail(c, errUnwantedBody)
		return
	}
	err := a.images.Delete(r.Context(), id, func(img *registry.Image) error { return a.checkMetadata(r, img) })
	if err != nil {
		a.fail(c, err)
		return
	}
	a.wake()
	noContent(c.Writer)
}

// checkMetadata holds the conditions of r, a request for a change, against the
// record that is about to be changed.
func (a *API) checkMetadata(r *http.Request, img *registry.Image) error {
	if conditional(r) && precondition(r, a.imageDocument(img).tag) != 0 {
		return errPrecondition
	}
	return nil
}

// conditional reports whether r depends on the current representation.
func conditional(r *http.Request) bool {
	return len(r.Header["If-Match"]) > 0 || len(r.Header["If-None-Match"]) > 0
}
