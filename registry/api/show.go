package api

import (
	"context"
	"strconv"

	"github.com/gin-gonic/gin"

	"nearsight/registry"
)

// ImageRevisionHeader names the field with the revision of the record that an answer
// shows: an edge by which it goes believes no earlier one afterwards.
const ImageRevisionHeader = "Nearsight-Image-Revision"

// show answers GET and HEAD of an image record.
func (a *API) show(c *gin.Context) {
	r := c.Request
	if hasBody(r) {
		a.fail(c, errUnwantedBody)
		return
	}
	img, err := a.find(r.Context(), c.Param("id"), registry.Show)
	if err != nil {
		a.fail(c, err)
		return
	}
	c.Writer.Header()[ImageRevisionHeader] = []string{strconv.FormatInt(img.Revision, 10)}
	a.writeDocument(c, a.imageDocument(registry.CallerOf(r.Context()), img))
}

// find returns the image if the caller of ctx may do action with it.
func (a *API) find(ctx context.Context, id string, action registry.Action) (*registry.Image, error) {
	img, err := a.images.Get(ctx, id)
	if err != nil {
		return nil, err
	}
	if err := registry.CallerOf(ctx).May(action, img); err != nil {
		return nil, err
	}
	return img, nil
}

// imageDocument returns the JSON document of an image for a caller.
func (a *API) imageDocument(c *registry.Caller, img *registry.Image) document {
	p := a.placesFor(c, img)
	d := newDocument(appendImage(make([]byte, 0, 1024), img, p))
	d.open = a.anybody() && img.Visibility == registry.Public && img.Status != registry.Deactivated
	d.key = img.ID
	return d
}

// placesFor returns what the caller is told about where the data of img is: while it
// is deactivated none but admins learn how to get at it.
func (a *API) placesFor(c *registry.Caller, img *registry.Image) *places {
	p := &a.places
	if img.Status == registry.Deactivated && !c.Is("admin") {
		withheld := *p
		withheld.withheld = true
		p = &withheld
	}
	return p
}
