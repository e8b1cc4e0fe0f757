package api

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"

	"github.com/gin-gonic/gin"

	"nearsight/registry"
	"nearsight/registry/task"
)

// This file is what the other face of the same registry, the API of 2011 in
// package v1, takes from this one: the way of data, the errors, the bounds.

// Refuse returns an error that Fail answers with status and this explanation. %q
// puts strings between quotation marks; a precision bounds them.
func Refuse(status int, format string, args ...any) error { return refuse(status, format, args...) }

// Base returns the start of absolute URLs in answers to r, without a slash at its
// end.
func (a *API) Base(r *http.Request) string { return a.base(r) }

// Prepare sets an engine to take paths as they are, and to answer for those and for
// methods that it does not have. A redirect from /v2/images/ to /v2/images would turn
// "no such image" into a list.
func (a *API) Prepare(r *gin.Engine) {
	r.RedirectTrailingSlash = false
	r.RedirectFixedPath = false
	r.RemoveExtraSlash = false
	r.UseRawPath = false // paths are decoded once; Wrap refuses encoded slashes
	r.UseEscapedPath = false
	r.HandleMethodNotAllowed = true
	r.NoRoute(func(c *gin.Context) {
		FailStatus(c.Writer, c.Request, http.StatusNotFound, "there is nothing at this path")
	})
	r.NoMethod(a.noMethod)
}

// Fail answers a request with the status of err, before anything was written. It
// keeps in the log what the client is not told.
func (a *API) Fail(c *gin.Context, err error) { a.fail(c, err) }

// CheckID answers for an :id that is none, and so names no image.
func (a *API) CheckID(c *gin.Context) { a.checkID(c) }

// Wake says that there may be objects to remove.
func (a *API) Wake() { a.wake() }

// Limits are those by which records are checked.
func (a *API) Limits() registry.Limits { return a.limits }

// PageLimits are the length of a page of a list when the client names none, and
// the largest that it can have.
func (a *API) PageLimits() (usual, largest int) { return a.defaultLimit, a.maxLimit }

// ReadObject reads the body of r, a JSON object of at most 1 MiB.
func (a *API) ReadObject(w http.ResponseWriter, r *http.Request) (map[string]json.RawMessage, error) {
	body, err := a.readBody(w, r)
	if err != nil {
		return nil, err
	}
	return decodeObject(body)
}

// RefuseBody returns the refusal of a request that brings a body to a call that
// takes none, or nil.
func RefuseBody(r *http.Request) error {
	if hasBody(r) {
		return errUnwantedBody
	}
	return nil
}

// WriteJSON answers with v as a JSON document, which must not fail to be one.
// Caching is up to the caller.
func WriteJSON(w http.ResponseWriter, r *http.Request, status int, v any) {
	writeJSON(w, r, status, encodeJSON(v))
}

// WriteEmpty answers without a body.
func WriteEmpty(w http.ResponseWriter, status int) {
	if status != http.StatusNoContent {
		w.Header().Set("Content-Length", "0")
	}
	writeBody(w, status, nil)
}

// Property reads the value of a custom property and returns what puts it into an
// image. What the Images API v2 has another meaning for can be none.
func (a *API) Property(name, value string) (func(*registry.Image), error) {
	if settable(name) || name == "id" {
		return nil, refuse(http.StatusForbidden, "%q is an attribute, and cannot be a property", name)
	}
	if err := checkName(name); err != nil {
		return nil, err
	}
	raw := json.RawMessage(appendString(nil, value))
	if value == "" && (name == "kernel_id" || name == "ramdisk_id") {
		raw = json.RawMessage("null")
	}
	return a.parseField(name, raw)
}

// Receive makes the queued image id active with the body of r, as an upload of the
// Images API v2 does with the same header fields; image data must be as long as
// size says, -1 for any length. When it fails after it began, the image is queued
// again.
func (a *API) Receive(w http.ResponseWriter, r *http.Request, id string, size int64) (*registry.Image, error) {
	plan, err := a.planUpload(r)
	if err != nil {
		return nil, err
	}
	switch {
	case size >= 0 && plan.size >= 0 && plan.size != size:
		return nil, sizeMismatch(plan.size, size)
	case size >= 0 && plan.limit >= 0 && size > plan.limit:
		return nil, tooLarge(plan.limit)
	case size >= 0:
		plan.size = size
	}
	return a.take(w, r, id, plan)
}

// CheckURL refuses what cannot be the URL of somebody else's data, whoever asks:
// other schemes than http and https, and credentials.
func CheckURL(url string) error {
	if len(url) > maxURL {
		return refuse(http.StatusBadRequest, "the URL of a location has more than %d bytes", maxURL)
	}
	return (&location{url: url}).checkForeign()
}

// AddByURL makes the queued image id active with the data at url, which has size
// bytes, -1 if nobody said so.
func (a *API) AddByURL(ctx context.Context, id, url string, size int64) (*registry.Image, error) {
	if a.locations == nil {
		return nil, errNoLocations
	}
	if err := CheckURL(url); err != nil {
		return nil, err
	}
	f, err := a.probe(ctx, location{url: url})
	switch {
	case err != nil:
		return nil, err
	case f.size < 0:
		f.size = size
	case size >= 0 && size != f.size:
		return nil, refuse(http.StatusBadRequest, "the location has %d bytes, not %d", f.size, size)
	}
	img, err := a.locations.AddLocation(ctx, id, f.Location, f.size, nil)
	if err != nil {
		return nil, err
	}
	a.hash()
	return img, nil
}

// Downloads reports whether ImportURL can work.
func (a *API) Downloads() bool { return slices.Contains(a.imports.Methods, task.WebDownload) }

// ImportURL begins to bring the data at url to the queued image id, as an import by
// web-download that r asks for, and returns the image as it is then.
func (a *API) ImportURL(w http.ResponseWriter, r *http.Request, id, url string) (*registry.Image, error) {
	body := encodeJSON(map[string]any{"method": map[string]string{"name": task.WebDownload, "uri": url}})
	wanted, err := a.parseImport(body)
	if err != nil {
		return nil, err
	}
	if err := a.beginImport(w, r, id, body, wanted); err != nil {
		return nil, err
	}
	return a.images.Get(r.Context(), id)
}

// Create adds an image of the caller's (registry.CallerOf), as a create of the Images
// API v2 does: ErrForbidden if it is not the caller's to add, and ErrTooLarge if the
// owner has as many as may be.
func (a *API) Create(ctx context.Context, img *registry.Image) (*registry.Image, error) {
	caller := registry.CallerOf(ctx)
	if err := caller.MayAtAll(registry.CreateImages); err != nil {
		return nil, err
	}
	if err := mayCreate(caller, img); err != nil {
		return nil, err
	}
	if err := a.quotas.ForImage(ctx, ownerOf(img)); err != nil {
		return nil, err
	}
	return a.images.Create(ctx, img)
}
