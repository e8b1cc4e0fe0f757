package api

import (
	"net/http"

	"github.com/gin-gonic/gin"

	"nearsight/registry"
)

// registerActions adds the calls that move an image between active and deactivated.
func (a *API) registerActions(image gin.IRoutes) {
	image.POST("/actions/:action", a.act)
}

// act answers POST of an action. What is so already is no error.
func (a *API) act(c *gin.Context) {
	r := c.Request
	if hasBody(r) {
		a.fail(c, errUnwantedBody)
		return
	}
	from, to := registry.Active, registry.Deactivated
	switch c.Param("action") {
	case "deactivate":
	case "reactivate":
		from, to = to, from
	default:
		a.fail(c, refuse(http.StatusNotFound, "there is no action %.80q", c.Param("action")))
		return
	}
	_, err := a.images.Update(r.Context(), c.Param("id"), func(img *registry.Image) error {
		if err := a.mayChange(r, img, registry.Deactivate); err != nil {
			return err
		}
		switch img.Status {
		case from:
			img.Status = to
		case to:
		default:
			return refuse(http.StatusForbidden, "the image is %s, and only an active one can be deactivated and reactivated", img.Status)
		}
		return nil
	})
	if err != nil {
		a.fail(c, err)
		return
	}
	noContent(c.Writer)
}
