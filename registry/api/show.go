package api

import (
	"github.com/gin-gonic/gin"

	"nearsight/registry"
)

// show answers GET and HEAD of an image record.
func (a *API) show(c *gin.Context) {
	if hasBody(c.Request) {
		a.fail(c, errUnwantedBody)
		return
	}
	img, err := a.images.Get(c.Request.Context(), c.Param("id"))
	if err != nil {
		a.fail(c, err)
		return
	}
	a.writeDocument(c, a.imageDocument(img))
}

// imageDocument returns the JSON document of an image.
func (a *API) imageDocument(img *registry.Image) document {
	d := newDocument(appendImage(make([]byte, 0, 1024), img, &a.places))
	d.open = img.Visibility == registry.Public
	d.key = img.ID
	return d
}
