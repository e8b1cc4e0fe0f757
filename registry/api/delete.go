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
	if conditional(r) {
		img, err := a.image(r.Context(), id)
		if err == nil && precondition(r, imageDocument(img).tag) != 0 {
			err = errPrecondition
		}
		if err != nil {
			a.fail(c, err)
			return
		}
	}
	err := registry.ErrNotFound
	if registry.ValidID(id) {
		err = a.images.Delete(r.Context(), id)
	}
	if err != nil {
		a.fail(c, err)
		return
	}
	a.wake()
	noContent(c.Writer)
}

// conditional reports whether r depends on the current representation.
func conditional(r *http.Request) bool {
	return len(r.Header["If-Match"]) > 0 || len(r.Header["If-None-Match"]) > 0
}
