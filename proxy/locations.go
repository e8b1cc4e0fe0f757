package proxy

import (
	"context"

	"nearsight/origin"
	"nearsight/registry"
)

// Locations returns l, with r forgetting every image that it changes before the
// change returns.
func (r *Records) Locations(l registry.Locations) registry.Locations { return locations{l, r} }

type locations struct {
	registry.Locations
	records *Records
}

func (l locations) AddLocation(ctx context.Context, id string, loc origin.Location, size int64, metadata map[string]string) (*registry.Image, error) {
	defer l.records.forget(id) // also after an error: the commit may have happened
	return l.Locations.AddLocation(ctx, id, loc, size, metadata)
}

func (l locations) RemoveLocation(ctx context.Context, id, url string) (*registry.Image, error) {
	defer l.records.forget(id)
	return l.Locations.RemoveLocation(ctx, id, url)
}

func (l locations) Hashed(ctx context.Context, id string, loc origin.Location, sum origin.Summary) (*registry.Image, error) {
	defer l.records.forget(id)
	return l.Locations.Hashed(ctx, id, loc, sum)
}
