package api

import (
	"context"
	"maps"
	"net/http"
	"slices"
	"strconv"

	"nearsight/origin"
	"nearsight/registry"
)

// A relocation is a patch with changes of locations, thought through on a copy of
// the image.
type relocation struct {
	draft *registry.Image
	steps []step
	// metadata are those of locations that stay, by URL.
	metadata map[string]map[string]string
	// claims are the hashes that the data of a queued image is said to have, nil
	// for none.
	claims *hashes
}

// A step adds a location or removes one.
type step struct {
	add    *location
	remove string // URL
}

// relocate is Images.Update for changes among which are some of locations. All of
// them are tried on a copy first, and every new location is looked at, so that
// what is wrong with one leaves the image as it is. The registry then makes the
// changes of fields at once and those of locations one by one: only another
// change of the image in between can stop it halfway.
func (a *API) relocate(r *http.Request, id string, changes []change) (*registry.Image, error) {
	ctx := r.Context()
	img, err := a.images.Get(ctx, id)
	if err != nil {
		return nil, err
	}
	if err := a.mayPatch(r, img, changes); err != nil {
		return nil, err
	}
	p := relocation{draft: img.Clone(), metadata: make(map[string]map[string]string)}
	var fields []change
	for _, ch := range changes {
		if ch.name == "locations" {
			err = a.plan(&p, ch)
		} else {
			fields = append(fields, ch)
			err = ch.apply(p.draft)
		}
		if err != nil {
			return nil, err
		}
	}
	if err := a.checkPlan(&p); err != nil {
		return nil, err
	}
	probed, err := a.probeSteps(ctx, img, p.steps)
	if err != nil {
		return nil, err
	}
	img, err = a.images.Update(ctx, id, func(img *registry.Image) error {
		if err := a.mayPatch(r, img, changes); err != nil {
			return err
		}
		setLocationMetadata(img, p.metadata)
		return applyAll(fields, img)
	})
	if err != nil {
		return nil, err
	}
	for i, s := range p.steps {
		if s.add == nil {
			img, err = a.locations.RemoveLocation(ctx, id, s.remove)
		} else {
			f := probed[i]
			img, err = a.locations.AddLocation(ctx, id, f.Location, f.size, f.metadata)
		}
		if err != nil {
			return nil, err
		}
	}
	if p.claims != nil { // before somebody reads the data
		if img, err = a.claim(ctx, id, p.claims); err != nil {
			return nil, err
		}
	}
	a.moved(img, p.steps)
	return img, nil
}

// claim notes what a client says of the data of an image that has just got its first
// location.
func (a *API) claim(ctx context.Context, id string, h *hashes) (*registry.Image, error) {
	return a.images.Update(ctx, id, func(img *registry.Image) error {
		h.claim(img)
		return nil
	})
}

// moved wakes who has work now.
func (a *API) moved(img *registry.Image, steps []step) {
	if slices.ContainsFunc(steps, func(s step) bool { return s.add == nil }) {
		a.wake()
	}
	if img.Status == registry.Active && img.Digest == "" {
		a.hash()
	}
}

// probeSteps looks at the locations that the steps add, and returns what it found
// by step. Another location of data that there is already must have its size; the
// bytes themselves are verified whenever they are read.
func (a *API) probeSteps(ctx context.Context, img *registry.Image, steps []step) ([]found, error) {
	probed := make([]found, len(steps))
	size := int64(-1)
	if img.Size != nil {
		size = *img.Size
	}
	for i, s := range steps {
		if s.add == nil {
			continue
		}
		f, err := a.probe(ctx, *s.add)
		if err != nil {
			return nil, err
		}
		if size >= 0 && f.size >= 0 && f.size != size {
			return nil, refuse(http.StatusBadRequest, "there are %d bytes at the location, and the image has %d", f.size, size)
		}
		size = max(size, f.size)
		probed[i] = f
	}
	return probed, nil
}

// checkPlan refuses what the registry would refuse after the first of several
// changes.
func (a *API) checkPlan(p *relocation) error {
	setLocationMetadata(p.draft, p.metadata)
	for _, s := range p.steps {
		if s.add == nil {
			continue
		}
		own, err := a.ownMetadata(*s.add)
		if err != nil {
			return err
		}
		setLocationMetadata(p.draft, map[string]map[string]string{s.add.url: own})
	}
	return p.draft.Validate(a.limits)
}

func setLocationMetadata(img *registry.Image, by map[string]map[string]string) {
	if len(by) == 0 {
		return
	}
	all := maps.Clone(img.LocationMetadata)
	if all == nil {
		all = make(map[string]map[string]string)
	}
	for u, metadata := range by {
		delete(all, u)
		if len(metadata) > 0 {
			all[u] = metadata
		}
	}
	img.LocationMetadata = all
}

// plan tries a change of locations on the draft.
func (a *API) plan(p *relocation, ch change) error {
	queued := p.draft.Status == registry.Queued
	if !queued && p.draft.Status != registry.Active {
		return refuse(http.StatusConflict, "locations cannot change while the image is %s", p.draft.Status)
	}
	switch {
	case ch.op == "remove":
		return a.planRemove(p, ch.at)
	case ch.op == "add":
		if n, ok := position(ch.at); ch.at != "-" && (!ok || n > len(p.draft.Locations)) {
			return refuse(http.StatusBadRequest, "%.80q is no place among %d locations", ch.at, len(p.draft.Locations))
		}
		return a.planAdd(p, ch.locations[0])
	case len(ch.locations) == 0:
		return refuse(http.StatusForbidden, "the locations cannot be replaced by none")
	case len(p.draft.Locations) > 0:
		return a.planMetadata(p, ch.locations)
	}
	for _, l := range ch.locations {
		if err := a.planAdd(p, l); err != nil {
			return err
		}
	}
	return nil
}

func (a *API) planAdd(p *relocation, l location) error {
	if err := l.checkForeign(); err != nil {
		return err
	}
	if slices.ContainsFunc(p.draft.Locations, func(have origin.Location) bool { return have.URL == l.url }) {
		return refuse(http.StatusBadRequest, "the image has this location already")
	}
	if most := a.limits.Locations; most >= 0 && len(p.draft.Locations) >= most {
		return refuse(http.StatusRequestEntityTooLarge, "%d locations, more than %d", len(p.draft.Locations)+1, most)
	}
	if l.hashes != nil {
		if err := l.hashes.check(p.draft); err != nil {
			return err
		}
	}
	if p.draft.Status == registry.Queued {
		if err := p.draft.Become(registry.Active); err != nil {
			return err
		}
		if p.claims = l.hashes; p.claims != nil {
			p.claims.claim(p.draft)
		}
	}
	p.draft.Locations = append(p.draft.Locations, origin.Location{URL: l.url})
	p.steps = append(p.steps, step{add: &l})
	return nil
}

func (a *API) planRemove(p *relocation, at string) error {
	n, ok := position(at)
	switch {
	case p.draft.Status != registry.Active:
		return refuse(http.StatusConflict, "locations cannot be removed while the image is %s", p.draft.Status)
	case !ok || n >= len(p.draft.Locations):
		return refuse(http.StatusBadRequest, "%.80q is none of %d locations", at, len(p.draft.Locations))
	case len(p.draft.Locations) == 1:
		return refuse(http.StatusForbidden, "the last location cannot be removed")
	}
	gone := a.places.order(p.draft.Locations)[n].URL // the client counts what it was shown
	p.draft.Locations = slices.DeleteFunc(p.draft.Locations, func(have origin.Location) bool { return have.URL == gone })
	p.steps = append(p.steps, step{remove: gone})
	return nil
}

// planMetadata takes a list of all locations that differs in metadata alone.
func (a *API) planMetadata(p *relocation, locations []location) error {
	have := make(map[string]bool)
	for _, loc := range p.draft.Locations {
		have[loc.URL] = true
	}
	for _, l := range locations {
		if !have[l.url] {
			return refuse(http.StatusBadRequest, "locations can be added and removed, and their metadata replaced, but not their URLs")
		}
		delete(have, l.url)
		if l.hashes != nil {
			if err := l.hashes.check(p.draft); err != nil {
				return err
			}
		}
		own, err := a.ownMetadata(l)
		if err != nil {
			return err
		}
		if added := p.adding(l.url); added != nil {
			added.metadata = own
		} else {
			p.metadata[l.url] = own
		}
	}
	if len(have) > 0 {
		return refuse(http.StatusBadRequest, "%d locations are missing: they are removed one by one", len(have))
	}
	return nil
}

// adding returns the location of that URL if a step adds it, or nil.
func (p *relocation) adding(url string) *location {
	for _, s := range p.steps {
		if s.add != nil && s.add.url == url {
			return s.add
		}
	}
	return nil
}

// position reads the index in the path of a location.
func position(at string) (int, bool) {
	n, err := strconv.ParseUint(at, 10, 31)
	return int(n), err == nil
}
