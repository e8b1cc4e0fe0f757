package v1

import (
	"context"
	"errors"
	"mime"
	"net/http"

	"github.com/gin-gonic/gin"

	"nearsight/registry"
	"nearsight/registry/api"
)

const (
	copyFromHeader   = "X-Glance-Api-Copy-From"
	purgePropsHeader = "X-Glance-Registry-Purge-Props"
)

// A source is where the data of an image shall come from.
type source struct {
	body          bool   // the request's
	location, url string // it stays there; it is copied from there
}

func (s source) none() bool { return s == source{} }

// sourceOf returns where a request says that the data is, which must be in one place.
func (v *API) sourceOf(r *http.Request, w *wish) (source, error) {
	s := source{body: r.ContentLength != 0, location: w.location, url: r.Header.Get(copyFromHeader)}
	n := 0
	for _, there := range []bool{s.body, s.location != "", s.url != ""} {
		if there {
			n++
		}
	}
	if n > 1 {
		return s, api.Refuse(http.StatusBadRequest, "the data of an image comes in the body, from a location, or is copied from somewhere, and only one of these")
	}
	switch {
	case s.location != "":
		return s, api.CheckURL(s.location)
	case s.url != "" && !v.api.Downloads():
		return s, api.Refuse(http.StatusBadRequest, "this server copies no data from URLs")
	case s.url != "":
		return s, api.CheckURL(s.url)
	}
	return s, nil
}

// create answers POST of an image: a record, and its data if it brings any.
func (v *API) create(c *gin.Context) {
	img, err := v.add(c.Writer, c.Request)
	if err != nil {
		v.api.Fail(c, err)
		return
	}
	v.answer(c, http.StatusCreated, img)
}

// answer answers a call that changed an image with what it is now, in the header and
// the body.
func (v *API) answer(c *gin.Context, status int, img *registry.Image) {
	h := c.Writer.Header()
	noStore(c.Writer)
	v.wear(h, c.Request, img)
	if tag := tagOf(img); tag != "" {
		h["Etag"] = []string{tag}
	}
	api.WriteJSON(c.Writer, c.Request, status, map[string]any{"image": v.detail(c.Request, img)})
}

// add makes an image. All that can be refused before its data comes is; a failure
// after that leaves it killed.
func (v *API) add(w http.ResponseWriter, r *http.Request) (*registry.Image, error) {
	ctx := r.Context()
	wanted, from, err := v.wanted(r)
	if err != nil {
		return nil, err
	}
	draft := newDraft(ctx, wanted)
	if err := wanted.alter(draft, false); err != nil {
		return nil, err
	}
	if err := from.fits(draft); err != nil {
		return nil, err
	}
	img, err := v.api.Create(ctx, draft)
	if err != nil || from.none() {
		return img, err
	}
	filled, err := v.fill(w, r, img.ID, from, wanted)
	if err != nil {
		v.kill(ctx, img.ID, nil)
	}
	return filled, err
}

// wanted reads the header of a request.
func (v *API) wanted(r *http.Request) (*wish, source, error) {
	m, err := metaOf(r.Header)
	if err != nil {
		return nil, source{}, err
	}
	w, err := v.read(m)
	if err != nil {
		return nil, source{}, err
	}
	from, err := v.sourceOf(r, w)
	return w, from, err
}

// suits checks that an image is in the status for data from there.
func (s source) suits(img *registry.Image) error {
	switch {
	case s.none() || img.Status == registry.Queued:
		return nil
	case s.body:
		return api.Refuse(http.StatusConflict, "the image is %s: its data can come only while it is queued", string(statusOf(img)))
	}
	return api.Refuse(http.StatusBadRequest, "the image is %s: it can get a location only while it is queued", string(statusOf(img)))
}

// fits checks that a queued image has what it needs before there is data.
func (s source) fits(img *registry.Image) error {
	if s.none() {
		return nil
	}
	return img.Clone().Become(registry.Active)
}

// fill brings the data of a queued image.
func (v *API) fill(w http.ResponseWriter, r *http.Request, id string, from source, wanted *wish) (*registry.Image, error) {
	switch {
	case from.location != "":
		return v.api.AddByURL(r.Context(), id, from.location, wanted.size)
	case from.url != "":
		return v.api.ImportURL(w, r, id, from.url)
	}
	// A client of 2011 would take another status for a failure of the server.
	if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || t != "application/octet-stream" {
		return nil, api.Refuse(http.StatusBadRequest, "image data must have the Content-Type application/octet-stream, not %.80q", r.Header.Get("Content-Type"))
	}
	return v.api.Receive(w, r, id, wanted.size)
}

// update answers PUT of an image: its metadata changes, and data comes to it if it is
// queued.
func (v *API) update(c *gin.Context) {
	img, err := v.change(c.Writer, c.Request, c.Param("id"))
	if err != nil {
		v.api.Fail(c, err)
		return
	}
	v.answer(c, http.StatusOK, img)
}

func (v *API) change(w http.ResponseWriter, r *http.Request, id string) (*registry.Image, error) {
	ctx := r.Context()
	caller := registry.CallerOf(ctx)
	if _, err := v.find(ctx, id, registry.Modify); err != nil { // before what is wrong with the rest
		return nil, err
	}
	wanted, from, err := v.wanted(r)
	if err != nil {
		return nil, err
	}
	// A PUT says all the properties that there are to be, but not one that brings
	// data, which may be the second half of a POST.
	purge := !from.body
	if text := r.Header.Get(purgePropsHeader); text != "" {
		purge = purge && truth(text)
	}
	img, err := v.images.Update(ctx, id, func(img *registry.Image) error {
		if err := caller.May(registry.Modify, img); err != nil {
			return err
		}
		before := img.Clone()
		if err := from.suits(img); err != nil {
			return err
		}
		if err := wanted.settled(img); err != nil {
			return err
		}
		if err := wanted.alter(img, purge); err != nil {
			return err
		}
		if err := mayBecome(caller, before, img); err != nil {
			return err
		}
		return from.fits(img)
	})
	if err != nil || from.none() {
		return img, err
	}
	filled, err := v.fill(w, r, id, from, wanted)
	if err != nil {
		v.kill(ctx, id, img)
	}
	return filled, err
}

// errUntouched is the end of a kill of an image that nothing happened to.
var errUntouched = errors.New("the image is as it was")

// kill gives up an image whose data failed to come: in this API it cannot be tried
// again. One that is still what it was, because no data was taken, stays so.
func (v *API) kill(ctx context.Context, id string, was *registry.Image) {
	ctx = context.WithoutCancel(ctx)
	_, err := v.images.Update(ctx, id, func(img *registry.Image) error {
		if was != nil && img.Revision == was.Revision || img.Status != registry.Queued {
			return errUntouched
		}
		img.Status = registry.Killed
		return nil
	})
	if err != nil && !errors.Is(err, errUntouched) && !errors.Is(err, registry.ErrNotFound) {
		v.log.ErrorContext(ctx, "an image whose upload failed could not be killed, and stays queued", "image", id, "err", err)
	}
}
