package proxy

import (
	"fmt"
	"net/http"

	"github.com/gin-gonic/gin"

	"nearsight/registry"
	"nearsight/registry/api"
)

// A download is one request for the data of an image.
type download struct {
	c      *gin.Context
	caller *registry.Caller
	img    *registry.Image
	prefer []string // names of stores that are read first
	dress
}

// A dress is what answers with data have besides what every one has, in the terms of
// one API.
type dress struct {
	// tag is the entity tag, in its quotes, of data that has a digest; "" means that
	// the digest is.
	tag string
	// fields, if not nil, adds to the header of answers that have or stand for the
	// data: 200, 206, 304. It comes last.
	fields func(h http.Header)
}

// mayDownload returns nil if the caller may have the data of img. It is asked of what
// is in the cache as of what is not, and before any condition is looked at.
func mayDownload(caller *registry.Caller, img *registry.Image) error {
	if err := caller.May(registry.Download, img); err != nil {
		return err
	}
	if img.Status == registry.Deactivated && caller.May(registry.ReadDeactivate, img) != nil {
		return fmt.Errorf("%w: the image is deactivated", registry.ErrForbidden)
	}
	return nil
}

// refused answers a caller who may not have the data of img, which is now what d is
// about, or for whom there is none. It reports whether it did.
func (p *Proxy) refused(d *download, img *registry.Image) bool {
	d.img = img
	if err := mayDownload(d.caller, img); err != nil {
		p.fail(d.c, err)
		return true
	}
	w := d.c.Writer
	switch img.Status {
	case registry.Active, registry.Deactivated:
		if img.Digest != "" && img.Size == nil {
			api.FailStatus(w, d.c.Request, http.StatusServiceUnavailable, "the data of the image is not known well enough yet")
			return true
		}
		return false
	case registry.Deleted, registry.PendingDelete:
		p.fail(d.c, registry.ErrNotFound)
	default:
		w.Header().Set("Cache-Control", "no-store")
		w.WriteHeader(http.StatusNoContent)
		w.WriteHeaderNow()
	}
	return true
}

// setValidators sets the fields that 200, 206 and 304 have in common.
func (p *Proxy) setValidators(h http.Header, d *download, rep representation) {
	setValidators(h, d.img, rep)
	p.setFreshness(h, d.img)
}

// wear adds what the dress has, when all else is set.
func (d *dress) wear(h http.Header) {
	if d.fields != nil {
		d.fields(h)
	}
}

// setFreshness sets how long an answer with the data of img may be kept by others,
// and whom it depends on.
func (p *Proxy) setFreshness(h http.Header, img *registry.Image) {
	h["Cache-Control"] = []string{freshness(img, p.open(img))}
	if p.identity != nil && !p.open(img) {
		h["Vary"] = []string{"Authorization, X-Auth-Token"}
	}
}

// open reports whether everybody may have the data of img, who sends no token too.
// Deactivated data is for admins.
func (p *Proxy) open(img *registry.Image) bool {
	switch {
	case img.Status != registry.Active:
		return false
	case p.identity == nil:
		return img.Visibility == registry.Public || img.Visibility == registry.Community
	}
	return p.anonymous && img.Visibility == registry.Public
}
