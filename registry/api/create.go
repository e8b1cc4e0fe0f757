package api

import (
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/gin-gonic/gin"

	"nearsight/registry"
)

// create answers POST of a new image.
func (a *API) create(c *gin.Context) {
	w, r := c.Writer, c.Request
	caller := registry.CallerOf(r.Context())
	if err := caller.MayAtAll(registry.CreateImages); err != nil {
		a.fail(c, err)
		return
	}
	body, err := a.readBody(w, r)
	if err != nil {
		a.fail(c, err)
		return
	}
	wanted, err := a.parseImage(body, caller)
	if err != nil {
		a.fail(c, err)
		return
	}
	if err := a.quotas.ForImage(r.Context(), ownerOf(wanted)); err != nil {
		a.fail(c, err)
		return
	}
	img, err := a.images.Create(r.Context(), wanted)
	if err != nil {
		a.fail(c, err)
		return
	}
	h := w.Header()
	h.Set("Location", a.base(r)+"/v2/images/"+img.ID)
	if methods := a.importMethods(); len(methods) > 0 {
		h.Set("OpenStack-Image-Import-Methods", strings.Join(methods, ","))
	}
	if a.places.several {
		h.Set("OpenStack-Image-Store-Ids", strings.Join(a.places.writable(), ","))
	}
	a.writeChanged(c, http.StatusCreated, img)
}

// writeChanged answers a call that changed an image with what it is now. Only
// a GET may be stored, but the tag already serves for If-Match.
func (a *API) writeChanged(c *gin.Context, status int, img *registry.Image) {
	d := a.imageDocument(registry.CallerOf(c.Request.Context()), img)
	h := c.Writer.Header()
	h.Set("Etag", d.tag)
	h.Set("Cache-Control", "no-store")
	writeJSON(c.Writer, c.Request, status, d.body)
}

// parseImage reads the body of a create by the caller, who owns what it says nothing
// about. What may not be said at all comes before what is said wrongly.
func (a *API) parseImage(body []byte, caller *registry.Caller) (*registry.Image, error) {
	fields, err := decodeObject(body)
	if err != nil {
		return nil, err
	}
	names := slices.Sorted(maps.Keys(fields))
	for _, name := range names {
		if err := checkName(name); err != nil {
			return nil, err
		}
	}
	img := &registry.Image{Visibility: registry.Shared}
	if caller.Project != "" {
		img.Owner = &caller.Project
	}
	for _, name := range names {
		if name == "id" {
			if img.ID, err = parseID(fields[name]); err != nil {
				return nil, err
			}
			continue
		}
		set, err := a.parseField(name, fields[name])
		if err != nil {
			return nil, err
		}
		set(img)
	}
	return img, mayCreate(caller, img)
}

// mayCreate checks what only some callers may give to a new image. It is the
// caller's own whatever owner it shall have.
func mayCreate(caller *registry.Caller, img *registry.Image) error {
	own := registry.Image{Visibility: registry.Shared, Owner: &caller.Project}
	if img.Owner == nil && caller.Project != "" || img.Owner != nil && *img.Owner != caller.Project {
		if err := caller.May(registry.GiveAway, &own); err != nil {
			return err
		}
	}
	if img.Visibility == registry.Public {
		return caller.May(registry.Publicize, &own)
	}
	return nil
}

func parseID(raw json.RawMessage) (string, error) {
	id, ok := decodeString(raw)
	if !ok || !registry.ValidID(id) {
		return "", wrongType("id", "a UUID: hex digits in groups of 8-4-4-4-12")
	}
	return id, nil
}
