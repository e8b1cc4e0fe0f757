package api

import (
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/gin-gonic/gin"

	"nearsight/origin"
	"nearsight/registry"
)

// Stores is what the API needs to know of the stores; an *origin.Set is one. What
// it says of its members never changes.
type Stores interface {
	// Members returns the stores in the order of the configuration.
	Members() []origin.Member
	// Default returns the name of the store that takes data when none is named.
	Default() string
	// Writer returns the store of that name for writing. The error is
	// origin.ErrLocation for an unknown name and origin.ErrReadOnly for a store
	// that takes no data.
	Writer(name string) (origin.WriteStore, error)
	// NameOf returns the name of the store that loc belongs to.
	NameOf(loc origin.Location) (string, bool)
	// Order returns the locations with the one that should be read first first.
	Order(locs []origin.Location, prefer string) []origin.Location
}

// places says what users are told about where data is.
type places struct {
	stores    Stores // nil: one store, which has no name
	several   bool   // there is more than one, and so their names are shown
	locations bool   // images show their locations
	directURL bool   // images show the URL of the best one
	withheld  bool   // both are shown as if there were none
}

// order returns the locations as they are shown: best first.
func (p *places) order(locs []origin.Location) []origin.Location {
	if p.stores == nil {
		return locs
	}
	return p.stores.Order(locs, "")
}

// nameOf returns the name of the store that loc belongs to, "" if it has none.
func (p *places) nameOf(loc origin.Location) string {
	if p.stores == nil {
		return ""
	}
	name, _ := p.stores.NameOf(loc)
	return name
}

// names returns the stores that have locs, best first, each once.
func (p *places) names(locs []origin.Location) []string {
	var names []string
	for _, loc := range p.order(locs) {
		if name := p.nameOf(loc); name != "" && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

// writable returns the names of the stores that take data, in the order of the
// configuration.
func (p *places) writable() []string {
	if p.stores == nil {
		return nil
	}
	var names []string
	for _, m := range p.stores.Members() {
		if _, err := p.stores.Writer(m.Name); err == nil {
			names = append(names, m.Name)
		}
	}
	return names
}

// appendTo appends the members locations, direct_url and stores of an image, as
// far as they are shown.
func (p *places) appendTo(b []byte, img *registry.Image) []byte {
	if !p.locations && (!p.directURL && !p.several || len(img.Locations) == 0) {
		return b
	}
	ordered := p.order(img.Locations)
	shown := ordered
	if p.withheld {
		shown = nil
	}
	if p.locations {
		b = append(b, `,"locations":`...)
		b = p.appendLocations(b, img, shown)
	}
	if p.directURL && len(shown) > 0 {
		b = append(b, `,"direct_url":`...)
		b = appendString(b, ordered[0].URL)
	}
	if p.several && len(ordered) > 0 {
		if names := p.names(ordered); len(names) > 0 {
			b = append(b, `,"stores":`...)
			b = appendString(b, strings.Join(names, ","))
		}
	}
	return b
}

// appendLocations appends the array of an image's locations in the given order.
func (p *places) appendLocations(b []byte, img *registry.Image, ordered []origin.Location) []byte {
	b = append(b, '[')
	for i, loc := range ordered {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, `{"url":`...)
		b = appendString(b, loc.URL)
		b = append(b, `,"metadata":{`...)
		metadata := img.LocationMetadata[loc.URL]
		if name := p.nameOf(loc); p.several && name != "" {
			metadata = maps.Clone(metadata)
			if metadata == nil {
				metadata = make(map[string]string, 1)
			}
			metadata[storeKey] = name
		}
		for k, key := range slices.Sorted(maps.Keys(metadata)) {
			if k > 0 {
				b = append(b, ',')
			}
			b = appendString(b, key)
			b = append(b, ':')
			b = appendString(b, metadata[key])
		}
		b = append(b, `}}`...)
	}
	return append(b, ']')
}

// A storeInfo is a store as the API shows it. The flags are strings, as Glance
// has them, or missing.
type storeInfo struct {
	ID          string `json:"id"`
	Description string `json:"description,omitempty"`
	Default     string `json:"default,omitempty"`
	ReadOnly    string `json:"read-only,omitempty"`
	*storeDetail
}

// A storeDetail is what operators are told beside.
type storeDetail struct {
	Type       string            `json:"type"`
	Weight     int               `json:"weight"`
	Properties map[string]string `json:"properties"`
}

// listStores answers GET of the stores, for users.
func (a *API) listStores(c *gin.Context) { a.writeStores(c, false) }

// listStoreDetails answers GET of the stores, for operators.
func (a *API) listStoreDetails(c *gin.Context) { a.writeStores(c, true) }

// writeStores answers with the stores. Clients take a 404 for "there is only one
// store".
func (a *API) writeStores(c *gin.Context, detail bool) {
	switch {
	case hasBody(c.Request):
		a.fail(c, errUnwantedBody)
		return
	case !a.places.several:
		a.fail(c, refuse(http.StatusNotFound, "this server has one store only, and it has no name"))
		return
	}
	if detail {
		if err := registry.CallerOf(c.Request.Context()).MayAtAll(registry.DetailStores); err != nil {
			a.fail(c, err)
			return
		}
	}
	writable := a.places.writable()
	list := []storeInfo{}
	for _, m := range a.places.stores.Members() {
		info := storeInfo{ID: m.Name, Description: m.Description}
		if m.Name == a.places.stores.Default() {
			info.Default = "true"
		}
		if !slices.Contains(writable, m.Name) {
			info.ReadOnly = "true"
		}
		if detail {
			info.storeDetail = &storeDetail{m.Kind, m.Weight, m.Properties}
			if m.Properties == nil {
				info.Properties = map[string]string{}
			}
		}
		list = append(list, info)
	}
	a.writeDocument(c, newDocument(encodeJSON(map[string]any{"stores": list})))
}
