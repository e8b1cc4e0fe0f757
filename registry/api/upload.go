package api

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"

	"github.com/gin-gonic/gin"

	"nearsight/origin"
	"nearsight/registry"
)

// upload answers PUT of an image's data. Every refusal that the header and the
// record allow comes before the first byte of the body is asked for, so that a
// client which sent Expect: 100-continue keeps its bytes (RFC 9110, section
// 10.1.1).
func (a *API) upload(c *gin.Context) {
	w, r, id := c.Writer, c.Request, c.Param("id")
	plan, err := a.planUpload(r)
	if err == nil {
		err = a.checkUpload(r, id)
	}
	if err != nil {
		a.refuseUpload(c, err)
		return
	}
	// The books are kept whatever the client does meanwhile: a step that was
	// given up in the middle could be done or not.
	books := context.WithoutCancel(r.Context())
	loc := a.store.Locate(id)
	if _, err := a.uploads.Begin(books, id, loc); err != nil {
		a.refuseUpload(c, err)
		return
	}
	body := newUploadBody(w, r, plan, a.stallTimeout)
	img, err := a.bringIn(r.Context(), books, id, loc, body, plan)
	if err == nil {
		w.Header().Set("Etag", dataTag(img))
		noContent(w)
		return
	}
	if abortErr := a.uploads.Abort(books, id, loc); abortErr != nil {
		a.log.ErrorContext(books, "upload could not be aborted", "image", id, "location", loc.URL, "err", abortErr)
	}
	a.wake()
	var refused *statusError
	if body.err == nil || errors.As(body.err, &refused) {
		a.refuseUpload(c, err)
		return
	}
	// The client left, or its body broke off: there is nobody to tell, and no
	// answer may look as if the data were here.
	a.log.InfoContext(books, "upload broke off", "image", id, "bytes", body.n, "err", body.err)
	panic(http.ErrAbortHandler)
}

// refuseUpload answers err and leaves the rest of the body where it is.
func (a *API) refuseUpload(c *gin.Context, err error) {
	c.Writer.Header().Set("Connection", "close")
	a.fail(c, err)
}

// bringIn brings the body into the store and makes the image active.
func (a *API) bringIn(ctx, books context.Context, id string, loc origin.Location, body *uploadBody, plan uploadPlan) (*registry.Image, error) {
	loc, sum, err := origin.Ingest(ctx, a.store, loc, plan.size, body)
	if err != nil {
		if body.err != nil {
			return nil, body.err // what a store makes of it says less
		}
		return nil, err
	}
	if err := plan.digests.check(body, sum); err != nil {
		return nil, err
	}
	img, err := a.uploads.Finish(books, id, loc, sum)
	if errors.Is(err, registry.ErrNotFound) {
		return nil, refuse(http.StatusGone, "the image was deleted during the upload")
	}
	return img, err
}

// An uploadPlan is what the header of an upload says about its body.
type uploadPlan struct {
	size    int64 // expected length, or -1
	limit   int64 // largest length, or -1
	digests digests
}

// planUpload reads the header of an upload.
func (a *API) planUpload(r *http.Request) (uploadPlan, error) {
	plan := uploadPlan{size: r.ContentLength, limit: max(a.maxImageSize, -1)}
	if t := mediaType(r); t != "application/octet-stream" {
		return plan, refuse(http.StatusUnsupportedMediaType, "image data must have the type application/octet-stream, not %.80q", t)
	}
	if coding := r.Header.Get("Content-Encoding"); coding != "" && !strings.EqualFold(coding, "identity") {
		return plan, refuse(http.StatusUnsupportedMediaType, "image data must come without a content coding, not as %.80q", coding)
	}
	if r.Header.Get("Content-Range") != "" {
		return plan, refuse(http.StatusBadRequest, "image data is uploaded whole; Content-Range has no meaning here")
	}
	if text := r.Header.Get("X-Openstack-Image-Size"); text != "" {
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil || n < 0 {
			return plan, refuse(http.StatusBadRequest, "x-openstack-image-size %.80q is not a number of bytes", text)
		}
		if plan.size >= 0 && plan.size != n {
			return plan, sizeMismatch(plan.size, n)
		}
		plan.size = n
	}
	if plan.limit >= 0 && plan.size > plan.limit {
		return plan, tooLarge(plan.limit)
	}
	var err error
	plan.digests, err = parseDigests(r.Header)
	return plan, err
}

// checkUpload holds the conditions of r against the data that the image id has.
// An image never changes its data, so all that they can tell is 412 from 409.
func (a *API) checkUpload(r *http.Request, id string) error {
	if !registry.ValidID(id) {
		return registry.ErrNotFound
	}
	if !conditional(r) {
		return nil
	}
	img, err := a.images.Get(r.Context(), id)
	if err != nil {
		return err
	}
	if precondition(r, dataTag(img)) != 0 {
		return errPrecondition
	}
	return nil
}

// dataTag returns the strong entity tag of the image's data, "" if it has none.
func dataTag(img *registry.Image) string {
	if img.Status != registry.Active && img.Status != registry.Deactivated {
		return ""
	}
	return `"` + string(img.Digest) + `"`
}

func sizeMismatch(got, want int64) error {
	return refuse(http.StatusBadRequest, "the data has %d bytes, not the %d that x-openstack-image-size says", got, want)
}

func tooLarge(limit int64) error {
	return refuse(http.StatusRequestEntityTooLarge, "the image is larger than %d bytes", limit)
}
