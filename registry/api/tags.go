package api

import (
	"net/http"
	"slices"

	"github.com/gin-gonic/gin"

	"nearsight/registry"
)

// addTag answers PUT of a tag. A tag that is there already is no error.
func (a *API) addTag(c *gin.Context) {
	tag := c.Param("tag")
	a.changeTags(c, func(img *registry.Image) error {
		if i, found := slices.BinarySearch(img.Tags, tag); !found {
			img.Tags = slices.Insert(slices.Clone(img.Tags), i, tag)
		}
		return nil
	})
}

// removeTag answers DELETE of a tag.
func (a *API) removeTag(c *gin.Context) {
	tag := c.Param("tag")
	a.changeTags(c, func(img *registry.Image) error {
		i, found := slices.BinarySearch(img.Tags, tag)
		if !found {
			return refuse(http.StatusNotFound, "the image has no tag %.80q", tag)
		}
		img.Tags = slices.Delete(slices.Clone(img.Tags), i, i+1)
		return nil
	})
}

// changeTags does a change of the image's tags and answers without a body.
func (a *API) changeTags(c *gin.Context, change func(*registry.Image) error) {
	r, id := c.Request, c.Param("id")
	if hasBody(r) {
		a.fail(c, errUnwantedBody)
		return
	}
	_, err := a.images.Update(r.Context(), id, func(img *registry.Image) error {
		if err := registry.CallerOf(r.Context()).May(registry.Modify, img); err != nil {
			return err
		}
		return change(img)
	})
	if err != nil {
		a.fail(c, err)
		return
	}
	noContent(c.Writer)
}
