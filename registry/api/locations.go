package api

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"slices"

	"github.com/gin-gonic/gin"

	"nearsight/origin"
	"nearsight/registry"
)

// listLocations answers GET of an image's locations.
func (a *API) listLocations(c *gin.Context) {
	if hasBody(c.Request) {
		a.fail(c, errUnwantedBody)
		return
	}
	if a.locations == nil || !a.places.locations && a.identity == nil { // then all are admins
		a.fail(c, errNoLocations)
		return
	}
	img, err := a.find(c.Request.Context(), c.Param("id"), registry.ListLocations)
	if err != nil {
		a.fail(c, err)
		return
	}
	a.writeDocument(c, newDocument(a.places.appendLocations(nil, img, a.places.order(img.Locations))))
}

// addLocation answers POST of the first location of a queued image.
func (a *API) addLocation(c *gin.Context) {
	if err := a.register(c.Writer, c.Request, c.Param("id")); err != nil {
		a.fail(c, err)
		return
	}
	h := c.Writer.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Length", "0")
	writeBody(c.Writer, http.StatusAccepted, nil)
}

func (a *API) register(w http.ResponseWriter, r *http.Request, id string) error {
	if a.locations == nil {
		return errNoLocations
	}
	body, err := a.readBody(w, r)
	if err != nil {
		return err
	}
	fields, err := decodeObject(body)
	if err != nil {
		return err
	}
	var l location
	if l.url, err = parseURL(fields["url"]); err != nil {
		return err
	}
	if err := l.checkForeign(); err != nil {
		return err
	}
	if raw, ok := fields["validation_data"]; ok && !isNull(raw) {
		if l.hashes, err = parseHashes(raw); err != nil {
			return err
		}
	}
	if l.hashes != nil {
		if err := l.hashes.wellFormed(http.StatusBadRequest); err != nil {
			return err
		}
	}
	ctx := r.Context()
	img, err := a.find(ctx, id, registry.AddLocation)
	switch {
	case err != nil:
		return err
	case img.Status != registry.Queued:
		return refuse(http.StatusConflict, "the image is %s, and not queued", img.Status)
	case l.hashes != nil && a.imports.Tasks == nil:
		return errNotCompared
	}
	if err := img.Clone().Become(registry.Active); err != nil {
		return err
	}
	f, err := a.probe(ctx, l)
	if err != nil {
		return err
	}
	if l.hashes != nil {
		return a.importLocation(w, r, id, l)
	}
	if _, err := a.locations.AddLocation(ctx, id, f.Location, f.size, f.metadata); err != nil {
		return err
	}
	defer a.hash()
	_, err = a.claim(ctx, id, &hashes{algo: "sha512"}) // clients see from it that hashes will come
	return err
}

// deleteFromStore answers DELETE of an image's data in one store.
func (a *API) deleteFromStore(c *gin.Context) {
	r, id, store := c.Request, c.Param("id"), c.Param("store")
	if hasBody(r) {
		a.fail(c, errUnwantedBody)
		return
	}
	if err := a.leaveStore(r.Context(), id, store); err != nil {
		a.fail(c, err)
		return
	}
	a.wake()
	noContent(c.Writer)
}

func (a *API) leaveStore(ctx context.Context, id, store string) error {
	switch {
	case !a.places.several:
		return refuse(http.StatusNotFound, "this server has one store only, and it has no name")
	case a.locations == nil:
		return errNoLocations
	}
	img, err := a.find(ctx, id, registry.DropLocation)
	switch {
	case err != nil:
		return err
	case !a.knows(store):
		return refuse(http.StatusConflict, "there is no store %.80q here", store)
	case img.Status != registry.Active:
		return refuse(http.StatusConflict, "the image is %s, and not active", img.Status)
	}
	var there []string
	for _, loc := range img.Locations {
		if a.places.nameOf(loc) == store {
			there = append(there, loc.URL)
		}
	}
	switch len(there) {
	case 0:
		return refuse(http.StatusNotFound, "the image is not in the store %.80q", store)
	case len(img.Locations):
		return refuse(http.StatusForbidden, "the image is in no other store")
	}
	for _, u := range there {
		if _, err := a.locations.RemoveLocation(ctx, id, u); err != nil {
			return err
		}
	}
	return nil
}

// knows says whether a store is called so.
func (a *API) knows(store string) bool {
	return slices.ContainsFunc(a.places.stores.Members(), func(m origin.Member) bool { return m.Name == store })
}

// ownMetadata returns the metadata of a location that is to be kept. Whoever
// writes a location back as it was shown names its store.
func (a *API) ownMetadata(l location) (map[string]string, error) {
	store, named := l.metadata[storeKey]
	if !named {
		return l.metadata, nil
	}
	if is := a.places.nameOf(origin.Location{URL: l.url}); store != is {
		return nil, refuse(http.StatusBadRequest, "the location is not in a store called %.80q", store)
	}
	own := maps.Clone(l.metadata)
	delete(own, storeKey)
	return own, nil
}

// A found is a location that was looked at.
type found struct {
	origin.Location
	size     int64 // -1: unknown
	metadata map[string]string
}

// probe looks at a location that a client names: whether it may be read, whether
// something is there, how much, and under which validator. Every refusal is a
// 400, for the URL is the client's.
func (a *API) probe(ctx context.Context, l location) (found, error) {
	f := found{Location: origin.Location{URL: l.url}, size: -1}
	var err error
	if f.metadata, err = a.ownMetadata(l); err != nil {
		return f, err
	}
	switch {
	case a.check == nil:
		return f, refuse(http.StatusBadRequest, "this server reads no data from URLs")
	case a.places.stores != nil && a.places.nameOf(f.Location) == "":
		return f, refuse(http.StatusBadRequest, "no store of this server reads such a URL")
	}
	if err := a.check(ctx, l.url); err != nil {
		return f, badLocation(err)
	}
	info, err := a.stat.Stat(ctx, f.Location)
	switch {
	case err != nil:
		return f, badLocation(err)
	case info.Size == 0:
		return f, refuse(http.StatusBadRequest, "there are no bytes at the location")
	}
	f.size, f.Validator = max(info.Size, -1), info.Validator
	return f, nil
}

// badLocation makes a refusal of an error about a location that a client named,
// if it is one. The reason why a store could not be asked may be about our
// network, and is not told.
func badLocation(err error) error {
	switch {
	case errors.Is(err, origin.ErrLocation):
		return refuse(http.StatusBadRequest, "the location may not be used: %s", explain(err, origin.ErrLocation))
	case errors.Is(err, origin.ErrNotFound):
		return refuse(http.StatusBadRequest, "there is nothing at the location")
	case errors.Is(err, origin.ErrUnavailable):
		return refuse(http.StatusBadRequest, "the location cannot be read: its server was not found, did not answer, or refused")
	}
	return err
}
