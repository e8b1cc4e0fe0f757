// Package v1 speaks the Images API v1, as it was from 2011 to 2018, and the Registry
// API of those years. Both are other faces of the registry that package api shows:
// what is stored through one the other shows.
//
// An image says there in header fields x-image-meta-* what it says here in JSON. In
// the Images API v1 it is public or it is not: what is not is shared with its
// members, as long as the newer API makes it neither private nor the community's.
// Images that are staged or imported are "saving".
//
// Not kept are deleted images, so that neither the filter deleted nor changes-since
// finds any, and the size and checksum of images without data.
package v1

import (
	"context"
	"log/slog"
	"net/http"

	"github.com/gin-gonic/gin"

	"nearsight/registry"
	"nearsight/registry/api"
)

// Options says what an API works on. API and Images are required.
type Options struct {
	// API is the other face: uploads, locations, imports and errors are its affair. It
	// works on Images too.
	API    *api.API
	Images registry.Images
	// Log gets what no client can be told. nil means slog.Default().
	Log *slog.Logger
}

// An API answers the calls of the Images API v1. It is safe for concurrent use.
type API struct {
	api    *api.API
	images registry.Images
	log    *slog.Logger
}

// New returns an API. It starts nothing.
func New(o Options) *API {
	v := &API{api: o.API, images: o.Images, log: o.Log}
	if v.log == nil {
		v.log = slog.Default()
	}
	return v
}

// A Sender answers a GET for the data of an image, which the caller may have. tag is
// the entity tag that it has here, "" for none, and wear adds the fields of this API
// to an answer that is no error.
type Sender func(c *gin.Context, img *registry.Image, tag string, wear func(http.Header))

// Register adds the routes to r. Their one form is that of api.API.Wrap, which turns
// all others into it: /v1/... without a slash at the end.
func (v *API) Register(r gin.IRouter, send Sender) {
	get := func(path string, h gin.HandlerFunc) {
		r.GET(path, h)
		r.HEAD(path, h)
	}
	get("/v1", v.list(v.brief))
	get("/v1/images", v.list(v.brief))
	get("/v1/images/detail", v.list(v.detail))
	get("/v1/shared-images/:member", v.shared)
	r.POST("/v1/images", v.create)
	image := r.Group("/v1/images/:id", v.api.CheckID)
	image.GET("", v.show(send))
	image.HEAD("", v.head)
	image.PUT("", v.update)
	image.DELETE("", v.delete)
	image.GET("/members", v.members)
	image.PUT("/members", v.replaceMembers)
	image.PUT("/members/:member", v.putMember)
	image.DELETE("/members/:member", v.deleteMember)
}

// find returns an image that the caller may do something with.
func (v *API) find(ctx context.Context, id string, a registry.Action) (*registry.Image, error) {
	img, err := v.images.Get(ctx, id)
	if err != nil {
		return nil, err
	}
	return img, registry.CallerOf(ctx).May(a, img)
}

// delete answers DELETE of an image.
func (v *API) delete(c *gin.Context) {
	if err := v.remove(c.Request, c.Param("id")); err != nil {
		v.api.Fail(c, err)
		return
	}
	noStore(c.Writer)
	api.WriteEmpty(c.Writer, http.StatusOK)
}

func (v *API) remove(r *http.Request, id string) error {
	if err := api.RefuseBody(r); err != nil {
		return err
	}
	ctx := r.Context()
	err := v.images.Delete(ctx, id, func(img *registry.Image) error {
		return registry.CallerOf(ctx).May(registry.Remove, img)
	})
	if err == nil {
		v.api.Wake()
	}
	return err
}

func noStore(w http.ResponseWriter) { w.Header().Set("Cache-Control", "no-store") }
