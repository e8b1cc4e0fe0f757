package v1

import (
	"encoding/json"
	"net/http"
	"strconv"
	"strings"

	"github.com/gin-gonic/gin"

	"nearsight/registry"
	"nearsight/registry/api"
)

// A Registry answers the calls of the Registry API, by which the image servers of
// 2011 kept their records. It is for admins. It is safe for concurrent use.
//
// The records are those of this server, which knows what it says of data: an image
// becomes active by its upload here, or by a location of http or https that is
// looked at; what is said of size and checksum must agree with what is known.
type Registry struct{ v *API }

// NewRegistry returns the Registry API over the same images. It starts nothing.
func NewRegistry(v *API) *Registry { return &Registry{v} }

// Register adds the routes to r, in the form that API.Register has them in.
func (g *Registry) Register(r gin.IRouter) {
	routes := r.Group("", g.admins)
	get := func(path string, h gin.HandlerFunc) {
		routes.GET(path, h)
		routes.HEAD(path, h)
	}
	brief := g.v.list(func(_ *http.Request, img *registry.Image) any { return newBriefly(img) })
	get("/v1", brief)
	get("/v1/images", brief)
	get("/v1/images/detail", g.v.list(func(_ *http.Request, img *registry.Image) any { return newRecord(img) }))
	get("/v1/shared-images/:member", g.v.shared)
	routes.POST("/v1/images", g.create)
	image := routes.Group("/v1/images/:id", g.v.api.CheckID)
	image.GET("", g.show)
	image.HEAD("", g.show)
	image.PUT("", g.update)
	image.DELETE("", g.v.delete)
	image.GET("/members", g.v.members)
	image.PUT("/members", g.v.replaceMembers)
	image.PUT("/members/:member", g.v.putMember)
	image.DELETE("/members/:member", g.v.deleteMember)
}

// admins lets nobody else in.
func (g *Registry) admins(c *gin.Context) {
	if err := registry.CallerOf(c.Request.Context()).MayAtAll(registry.RunServers); err != nil {
		g.v.api.Fail(c, err)
		c.Abort()
	}
}

// A record is an image in the Registry API.
type record struct {
	fully
	Location *string `json:"location"`
}

func newRecord(img *registry.Image) record {
	r := record{fully: newFully(img)}
	if len(img.Locations) > 0 {
		r.Location = &img.Locations[0].URL
	}
	return r
}

func (g *Registry) answer(c *gin.Context, img *registry.Image) {
	api.WriteJSON(c.Writer, c.Request, http.StatusOK, map[string]any{"image": newRecord(img)})
}

// show answers GET of an image.
func (g *Registry) show(c *gin.Context) {
	img, err := g.v.find(c.Request.Context(), c.Param("id"), registry.Show)
	if err != nil {
		g.v.api.Fail(c, err)
		return
	}
	c.Writer.Header().Set("Cache-Control", "private, no-cache")
	g.answer(c, img)
}

// create answers POST of an image, whose status is active unless another is said.
func (g *Registry) create(c *gin.Context) {
	img, err := g.add(c.Writer, c.Request)
	if err != nil {
		g.v.api.Fail(c, err)
		return
	}
	noStore(c.Writer)
	g.answer(c, img)
}

func (g *Registry) add(w http.ResponseWriter, r *http.Request) (*registry.Image, error) {
	wanted, err := g.wanted(w, r)
	if err != nil {
		return nil, err
	}
	if wanted.status == "" {
		wanted.status = registry.Active
	}
	ctx := r.Context()
	from := wanted.registers()
	draft := newDraft(ctx, wanted)
	if err := wanted.move(draft); err != nil {
		return nil, err
	}
	if err := wanted.alter(draft, false); err != nil {
		return nil, err
	}
	if err := from.fits(draft); err != nil {
		return nil, err
	}
	draft.Status = registry.Queued
	img, err := g.v.api.Create(ctx, draft)
	switch {
	case err != nil:
		return nil, err
	case !from.none():
		filled, err := g.v.api.AddByURL(ctx, img.ID, from.location, wanted.size)
		if err != nil {
			g.v.kill(ctx, img.ID, nil)
		}
		return filled, err
	case wanted.status == registry.Killed:
		return g.v.images.Update(ctx, img.ID, func(img *registry.Image) error { return wanted.move(img) })
	}
	return img, nil
}

// update answers PUT of an image: what the document says changes, and properties that
// it does not name go if the header says so.
func (g *Registry) update(c *gin.Context) {
	img, err := g.change(c.Writer, c.Request, c.Param("id"))
	if err != nil {
		g.v.api.Fail(c, err)
		return
	}
	noStore(c.Writer)
	g.answer(c, img)
}

func (g *Registry) change(w http.ResponseWriter, r *http.Request, id string) (*registry.Image, error) {
	ctx := r.Context()
	if _, err := g.v.find(ctx, id, registry.Modify); err != nil {
		return nil, err
	}
	wanted, err := g.wanted(w, r)
	if err != nil {
		return nil, err
	}
	purge := truth(r.Header.Get(purgePropsHeader))
	var from source
	img, err := g.v.images.Update(ctx, id, func(img *registry.Image) error {
		if from = wanted.registers(); has(img, from.location) {
			from = source{}
		}
		if err := from.suits(img); err != nil {
			return err
		}
		status := wanted.status
		settled := *wanted
		settled.status = "" // which moves here
		if err := settled.settled(img); err != nil {
			return err
		}
		if err := wanted.alter(img, purge); err != nil {
			return err
		}
		if err := from.fits(img); err != nil || !from.none() || status == "" {
			return err
		}
		return wanted.move(img)
	})
	if err != nil || from.none() {
		return img, err
	}
	return g.v.api.AddByURL(ctx, id, from.location, wanted.size)
}

func has(img *registry.Image, url string) bool {
	for _, loc := range img.Locations {
		if loc.URL == url {
			return true
		}
	}
	return false
}

// registers returns the location that makes an image active. One that is said with
// another status is passed over: it is where data is going to be.
func (w *wish) registers() source {
	if w.status != registry.Active {
		return source{}
	}
	return source{location: w.location}
}

// move brings an image into the status that was said, as far as that is true of it. A
// server that is about to bring data says saving; here it stays queued until it has.
func (w *wish) move(img *registry.Image) error {
	is := statusOf(img)
	switch {
	case w.status == is, w.status == registry.Saving && is == registry.Queued:
		return nil
	case w.status == registry.Active && is == registry.Queued && w.location != "":
		return nil // it becomes so by its location
	case w.status == registry.Active && is != registry.Deactivated:
		return api.Refuse(http.StatusBadRequest, "an image becomes active by its data: by an upload here, or by a location of http or https")
	case w.status == registry.Killed && is == registry.Queued:
		img.Status = registry.Killed
		return nil
	case w.status == registry.Active, w.status == registry.Deactivated && is == registry.Active:
		img.Status = w.status
		return nil
	}
	return api.Refuse(http.StatusBadRequest, "the image is %s, and cannot be made %s here", string(is), string(w.status))
}

// wanted reads the body {"image": {...}} of a request.
func (g *Registry) wanted(w http.ResponseWriter, r *http.Request) (*wish, error) {
	body, err := g.v.api.ReadObject(w, r)
	if err != nil {
		return nil, err
	}
	m, err := metaOfJSON(body["image"])
	if err != nil {
		return nil, err
	}
	wanted, err := g.v.read(m)
	if err == nil && wanted.registers().location != "" {
		err = api.CheckURL(wanted.location)
	}
	return wanted, err
}

// metaOfJSON reads what a registry's client says about an image. Numbers and booleans
// may be texts.
func metaOfJSON(raw json.RawMessage) (meta, error) {
	m := meta{map[string]string{}, map[string]string{}}
	var image map[string]json.RawMessage
	if json.Unmarshal(raw, &image) != nil || image == nil {
		return m, api.Refuse(http.StatusBadRequest, `an image is like {"image": {"name": "..."}}`)
	}
	for name, raw := range image {
		if name == "properties" {
			continue
		}
		// What is neither text, number, boolean nor null has no meaning in any field.
		if text, ok := scalar(raw); ok {
			m.fields[name] = text
		} else if meant(name) {
			return m, api.Refuse(http.StatusBadRequest, "member %.80q of the image is neither text nor number", name)
		}
	}
	raw, ok := image["properties"]
	if !ok || string(raw) == "null" {
		return m, nil
	}
	var properties map[string]json.RawMessage
	if json.Unmarshal(raw, &properties) != nil {
		return m, api.Refuse(http.StatusBadRequest, "properties must be an object")
	}
	for name, raw := range properties {
		text, ok := scalar(raw)
		if !ok {
			return m, api.Refuse(http.StatusBadRequest, "property %.80q is neither text nor number", name)
		}
		m.properties[name] = text
	}
	return m, nil
}

// meant reports whether a field of that name means something.
func meant(name string) bool {
	switch name {
	case "id", "name", "owner", "disk_format", "container_format", "is_public", "protected", "min_ram", "min_disk",
		"size", "status", "checksum", "location":
		return true
	}
	return false
}

// scalar returns a JSON value as the text that a header field would have.
func scalar(raw json.RawMessage) (string, bool) {
	var v any
	d := json.NewDecoder(strings.NewReader(string(raw)))
	d.UseNumber()
	if d.Decode(&v) != nil {
		return "", false
	}
	switch v := v.(type) {
	case nil:
		return "", true
	case string:
		return v, true
	case bool:
		return strconv.FormatBool(v), true
	case json.Number:
		return v.String(), true
	}
	return "", false
}
