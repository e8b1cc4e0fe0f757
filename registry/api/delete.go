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
	if err := a.remove(r, id); err != nil {
		a.fail(c, err)
		return
	}
	a.wake()
	noContent(c.Writer)
}

// remove deletes the image under the conditions of r. That an image is protected is
// for those to know who see it, and the registry looks at that first.
func (a *API) remove(r *http.Request, id string) error {
	if _, err := a.find(r.Context(), id, registry.Remove); err != nil {
		return err
	}
	return a.images.Delete(r.Context(), id, func(img *registry.Image) error {
		return a.mayChange(r, img, registry.Remove)
	})
}

// mayChange is for the moment of a change, in which no other comes between: whether
// the caller of r may do action, and whether the conditions of r hold.
func (a *API) mayChange(r *http.Request, img *registry.Image, action registry.Action) error {
	if err := registry.CallerOf(r.Context()).May(action, img); err != nil {
		return err
	}
	return a.checkMetadata(r, img)
}

// checkMetadata holds the conditions of r, a request for a change, against the
// record that is about to be changed.
func (a *API) checkMetadata(r *http.Request, img *registry.Image) error {
	if conditional(r) && precondition(r, a.imageDocument(registry.CallerOf(r.Context()), img).tag) != 0 {
		return errPrecondition
	}
	return nil
}

// conditional reports whether r depends on the current representation.
func conditional(r *http.Request) bool {
	return len(r.Header["If-Match"]) > 0 || len(r.Header["If-None-Match"]) > 0
}
