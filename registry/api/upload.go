package api

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/gin-gonic/gin"

	"nearsight/origin"
	"nearsight/registry"
)

const (
	firstRetry = 250 * time.Millisecond // of Uploads.Finish; doubled each time
	lastRetry  = 4 * time.Second
)

// upload answers PUT of an image's data.
func (a *API) upload(c *gin.Context) {
	img, err := a.receive(c.Writer, c.Request, c.Param("id"))
	if err != nil {
		a.fail(c, err)
		return
	}
	c.Writer.Header().Set("Etag", dataTag(img))
	noContent(c.Writer)
}

// receive makes the image active with the body of r. Every refusal that the
// header and the record allow comes before the first byte of the body is asked
// for, so that a client which sent Expect: 100-continue keeps its bytes (RFC
// 9110, section 10.1.1).
func (a *API) receive(w http.ResponseWriter, r *http.Request, id string) (*registry.Image, error) {
	plan, err := a.planUpload(r)
	if err != nil {
		return nil, err
	}
	return a.take(w, r, id, plan)
}

// take brings in the body of r as plan says.
func (a *API) take(w http.ResponseWriter, r *http.Request, id string, plan uploadPlan) (*registry.Image, error) {
	if err := a.checkUpload(r, id); err != nil {
		return nil, err
	}
	if err := a.checkRoom(r, id, &plan); err != nil {
		return nil, err
	}
	select {
	case a.uploading <- struct{}{}:
		defer func() { <-a.uploading }()
	default:
		return nil, refuse(http.StatusServiceUnavailable, "%d uploads are under way, as many as this server takes", cap(a.uploading))
	}
	// The context of r ends when the client sends no more, also after the last
	// byte of a whole body. One that is cut or silent makes its Read fail.
	ctx := context.WithoutCancel(r.Context())
	loc := plan.store.Locate(id)
	begun, err := plan.begin(ctx, id, loc)
	if err != nil {
		if status, _ := statusOf(ctx, err); status >= 500 { // it may have begun
			a.giveUp(ctx, id, loc)
		}
		return nil, err
	}
	if err := registry.CallerOf(ctx).May(registry.Modify, begun); err != nil { // it was another's by then
		a.giveUp(ctx, id, loc)
		return nil, err
	}
	img, err := a.bringIn(ctx, id, loc, newUploadBody(w, r, plan, a.stallTimeout), plan)
	if err != nil {
		a.giveUp(ctx, id, loc)
	}
	return img, err
}

// giveUp makes the image queued again, now or later.
func (a *API) giveUp(ctx context.Context, id string, loc origin.Location) {
	err := a.uploads.Abort(ctx, id, loc)
	if err != nil && !errors.Is(err, registry.ErrConflict) { // that would be a Finish which was stored
		a.log.ErrorContext(ctx, "upload could not be aborted yet", "image", id, "location", loc.URL, "err", err)
		a.abort(id, loc)
	}
	a.wake()
}

// bringIn brings the body into the store and makes the image active.
func (a *API) bringIn(ctx context.Context, id string, loc origin.Location, body *uploadBody, plan uploadPlan) (*registry.Image, error) {
	loc, sum, err := origin.Ingest(ctx, plan.store, loc, plan.size, body)
	switch {
	case body.err != nil:
		return nil, body.err // what a store makes of it says less
	case errors.Is(err, origin.ErrSize):
		return nil, sizeMismatch(body.n, plan.size)
	case err != nil:
		return nil, err
	}
	if err := plan.digests.check(body, sum); err != nil {
		return nil, err
	}
	img, err := a.finish(ctx, plan.finish, id, loc, sum)
	if errors.Is(err, registry.ErrNotFound) {
		return nil, refuse(http.StatusGone, "the image was deleted during the upload")
	}
	return img, err
}

// finish has patience with a registry that cannot be asked: the data is stored, and
// to send it again would take longer.
func (a *API) finish(ctx context.Context, finish finisher, id string, loc origin.Location, sum origin.Summary) (*registry.Image, error) {
	end := time.Now().Add(a.finishPatience)
	for wait := firstRetry; ; wait = min(2*wait, lastRetry) {
		img, err := finish(ctx, id, loc, sum)
		if !errors.Is(err, registry.ErrUnavailable) || time.Now().Add(wait).After(end) {
			return img, err
		}
		time.Sleep(wait)
	}
}

// An uploadPlan is what the header of an upload says about its body.
type uploadPlan struct {
	store   origin.WriteStore
	size    int64 // expected length, or -1
	limit   int64 // largest length, or -1
	digests digests
	staged  bool // the data waits for its import
	// begin and finish keep the books: those of uploads, or those of stages.
	begin  func(context.Context, string, origin.Location) (*registry.Image, error)
	finish finisher
}

// A finisher says that data is whole, as Uploads.Finish.
type finisher func(context.Context, string, origin.Location, origin.Summary) (*registry.Image, error)

// planUpload reads the header of an upload.
func (a *API) planUpload(r *http.Request) (uploadPlan, error) {
	plan := uploadPlan{size: r.ContentLength, limit: max(a.maxImageSize, -1), begin: a.uploads.Begin, finish: a.uploads.Finish}
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
		n, err := strconv.ParseUint(text, 10, 63) // digits only
		if err != nil {
			return plan, refuse(http.StatusBadRequest, "x-openstack-image-size %.80q is not a number of bytes", text)
		}
		if plan.size >= 0 && plan.size != int64(n) {
			return plan, sizeMismatch(plan.size, int64(n))
		}
		plan.size = int64(n)
	}
	if plan.limit >= 0 && plan.size > plan.limit {
		return plan, tooLarge(plan.limit)
	}
	var err error
	if plan.store, err = a.storeOf(r); err != nil {
		return plan, err
	}
	plan.digests, err = parseDigests(r.Header)
	return plan, err
}

// checkUpload holds the caller and the conditions of r against the image id and the
// data that it has. An image never changes its data, so all that conditions can tell
// is 412 from 409.
func (a *API) checkUpload(r *http.Request, id string) error {
	img, err := a.find(r.Context(), id, registry.Modify)
	if err != nil {
		return err
	}
	if conditional(r) && precondition(r, dataTag(img)) != 0 {
		return errPrecondition
	}
	return nil
}

// dataTag returns the strong entity tag of the image's data, "" if it has none or
// if that is not known yet.
func dataTag(img *registry.Image) string {
	if img.Digest == "" || img.Status != registry.Active && img.Status != registry.Deactivated {
		return ""
	}
	return `"` + string(img.Digest) + `"`
}

func sizeMismatch(got, want int64) error {
	return refuse(http.StatusBadRequest, "%d bytes of data came, not the %d that were announced", got, want)
}

func tooLarge(limit int64) error {
	return refuse(http.StatusRequestEntityTooLarge, "the image is larger than %d bytes", limit)
}
