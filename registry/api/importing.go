package api

import (
	"encoding/json"
	"net/http"
	"slices"

	"github.com/gin-gonic/gin"

	"nearsight/origin"
	"nearsight/registry"
)

// copyImage is the one import method that there is: from one store to others.
const copyImage = "copy-image"

// importMethods returns the methods that are enabled.
func (a *API) importMethods() []string {
	if a.copy == nil {
		return []string{}
	}
	return []string{copyImage}
}

// listImportMethods answers GET of the import methods.
func (a *API) listImportMethods(c *gin.Context) {
	if hasBody(c.Request) {
		a.fail(c, errUnwantedBody)
		return
	}
	type methods struct {
		Description string   `json:"description"`
		Type        string   `json:"type"`
		Value       []string `json:"value"`
	}
	a.writeDocument(c, newDocument(encodeJSON(map[string]methods{
		"import-methods": {"Import methods available.", "array", a.importMethods()},
	})))
}

// importData answers POST of an import: the image's data is copied to further
// stores, each on its own. A copy that fails leaves the others as they are,
// whatever all_stores_must_succeed says: the image has its data in any case.
func (a *API) importData(c *gin.Context) {
	if err := a.startCopies(c.Writer, c.Request, c.Param("id")); err != nil {
		a.fail(c, err)
		return
	}
	h := c.Writer.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Length", "0")
	writeBody(c.Writer, http.StatusAccepted, nil)
}

// startCopies keeps the order of Glance's checks, because clients tell a 409 from
// a 400.
func (a *API) startCopies(w http.ResponseWriter, r *http.Request, id string) error {
	body, err := a.readBody(w, r)
	if err != nil {
		return err
	}
	wanted, err := a.parseImport(body)
	if err != nil {
		return err
	}
	img, err := a.images.Get(r.Context(), id)
	switch {
	case err != nil:
		return err
	case img.Status != registry.Active:
		return refuse(http.StatusConflict, "the image is %s; only an active one can be copied", img.Status)
	case img.Digest == "":
		return refuse(http.StatusConflict, "the data of the image is not hashed yet, so that a copy could not be verified")
	}
	targets, err := a.targets(wanted, r.Header.Get(storeHeader), img)
	if err != nil {
		return err
	}
	for _, store := range targets {
		if err := a.copy(r.Context(), id, store); err != nil {
			return err
		}
	}
	return nil
}

// A wish is the body of an import.
type wish struct {
	stores      []string
	all         bool
	mustSucceed bool
}

// parseImport reads {"method": {"name": ...}, "stores": [...], ...}.
func (a *API) parseImport(body []byte) (wish, error) {
	wanted := wish{mustSucceed: true}
	fields, err := decodeObject(body)
	if err != nil {
		return wanted, err
	}
	method, err := decodeObject(fields["method"])
	if err != nil {
		return wanted, refuse(http.StatusBadRequest, "an import needs a method, which is an object")
	}
	name, ok := decodeString(method["name"])
	if !ok || name == "" {
		return wanted, refuse(http.StatusBadRequest, "the method of an import needs a name")
	}
	if !slices.Contains(a.importMethods(), name) {
		return wanted, refuse(http.StatusBadRequest, "import method %.80q is not enabled here", name)
	}
	if raw, found := fields["stores"]; found && !isNull(raw) {
		if wanted.stores, err = decodeNames(raw); err != nil {
			return wanted, err
		}
	}
	for name, to := range map[string]*bool{"all_stores": &wanted.all, "all_stores_must_succeed": &wanted.mustSucceed} {
		raw, found := fields[name]
		if !found {
			continue
		}
		if *to = string(raw) == "true"; !*to && string(raw) != "false" {
			return wanted, wrongType(name, "true or false")
		}
	}
	return wanted, nil
}

// decodeNames reads an array of names that are not empty.
func decodeNames(raw json.RawMessage) ([]string, error) {
	elements, err := decodeArray(raw)
	if err != nil {
		return nil, wrongType("stores", "an array of names")
	}
	var names []string
	for _, e := range elements {
		name, ok := decodeString(e)
		if !ok || name == "" {
			return nil, wrongType("stores", "an array of names")
		}
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names, nil
}

// targets returns the stores to which img is to be copied. header is the one that
// X-Image-Meta-Store names.
func (a *API) targets(wanted wish, header string, img *registry.Image) ([]string, error) {
	if !a.places.several {
		if !wanted.mustSucceed {
			return nil, refuse(http.StatusBadRequest, "all_stores_must_succeed means nothing where there is one store only")
		}
		return nil, refuse(http.StatusBadRequest, "the image is in the one store that there is")
	}
	names := wanted.stores
	switch {
	case wanted.all && (len(names) > 0 || header != ""):
		return nil, refuse(http.StatusBadRequest, "all_stores leaves no stores to be named")
	case len(names) > 0 && header != "":
		return nil, refuse(http.StatusBadRequest, "the stores are named in the body, and another one in x-image-meta-store")
	case wanted.all:
		names = a.places.writable()
	case header != "":
		names = []string{header}
	case len(names) == 0:
		names = []string{a.places.stores.Default()}
	}
	have := a.places.names(img.Locations)
	var targets []string
	for _, name := range names {
		switch {
		case !a.knows(name):
			return nil, refuse(http.StatusConflict, "there is no store %.80q here", name)
		case !slices.Contains(a.places.writable(), name):
			return nil, refuse(http.StatusBadRequest, "store %.80q is read-only", name)
		case !slices.Contains(have, name):
			targets = append(targets, name)
		case !wanted.all:
			return nil, refuse(http.StatusBadRequest, "the image is in store %.80q already", name)
		}
	}
	return targets, nil
}

// storeHeader names the field by which a client chooses the store of an upload.
const storeHeader = "X-Image-Meta-Store"

// storeOf returns the store that an upload goes to: the one that its header
// names, as long as there is a choice.
func (a *API) storeOf(r *http.Request) (origin.WriteStore, error) {
	name := r.Header.Get(storeHeader)
	if name == "" || !a.places.several {
		return a.store, nil
	}
	s, err := a.places.stores.Writer(name)
	if err != nil {
		if a.knows(name) {
			return nil, refuse(http.StatusBadRequest, "store %.80q is read-only", name)
		}
		return nil, refuse(http.StatusBadRequest, "%s", explain(err, origin.ErrLocation)) // it lists those that there are
	}
	return s, nil
}
