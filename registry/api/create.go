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
	body, err := a.readBody(w, r)
	if err != nil {
		a.fail(c, err)
		return
	}
	wanted, err := a.parseImage(body)
	if err != nil {
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
	d := a.imageDocument(img)
	h := c.Writer.Header()
	h.Set("Etag", d.tag)
	h.Set("Cache-Control", "no-store")
	writeJSON(c.Writer, c.Request, status, d.body)
}

// parseImage reads the body of a create. What may not be said at all comes
// before what is said wrongly.
func (a *API) parseImage(body []byte) (*registry.Image, error) {
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
	return img, nil
}

func parseID(raw json.RawMessage) (string, error) {
	id, ok := decodeString(raw)
	if !ok || !registry.ValidID(id) {
		return "", wrongType("id", "a UUID: hex digits in groups of 8-4-4-4-12")
	}
	return id, nil
}
