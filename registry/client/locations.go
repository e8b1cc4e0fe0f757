package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"nearsight/registry"
)

// removeAttempts is how often RemoveLocation looks again when others change the
// image at the same time.
const removeAttempts = 5

// A Location is a place where an image's data is.
type Location struct {
	URL string `json:"url"`
	// Metadata is what was written beside it. Where the server has several
	// stores it says under "store" which one it is.
	Metadata map[string]string `json:"metadata"`
}

// UnmarshalJSON implements json.Unmarshaler. Metadata that is no string is left
// out: servers of others have such.
func (l *Location) UnmarshalJSON(b []byte) error {
	var wire struct {
		URL      string                     `json:"url"`
		Metadata map[string]json.RawMessage `json:"metadata"`
	}
	if err := json.Unmarshal(b, &wire); err != nil {
		return err
	}
	*l = Location{URL: wire.URL, Metadata: make(map[string]string, len(wire.Metadata))}
	for key, raw := range wire.Metadata {
		var value string
		if raw[0] == '"' && json.Unmarshal(raw, &value) == nil {
			l.Metadata[key] = value
		}
	}
	return nil
}

// Locations returns where the data of the image id is, best first. ErrForbidden
// if the server does not tell.
func (c *Client) Locations(ctx context.Context, id string) ([]Location, error) {
	if err := checkID(id); err != nil {
		return nil, err
	}
	var list []Location
	err := c.getJSON(ctx, imagePath(id)+"/locations", &list)
	return list, err
}

// AddLocation tells the server that the data of the image id is at an http or
// https URL, and returns the record. A queued image becomes active with it; the
// digests come later, when the server has read the data. metadata may be nil.
//
// ErrInvalid if the server may not or cannot read the URL, or if the image has it
// already; ErrConflict if the image is neither queued nor active.
func (c *Client) AddLocation(ctx context.Context, id, rawURL string, metadata map[string]string) (*registry.Image, error) {
	if metadata == nil {
		metadata = map[string]string{}
	}
	return c.Patch(ctx, id, Change{Op: "add", Path: "/locations/-", Value: Location{rawURL, metadata}})
}

// RemoveLocation takes a location away from the image id and returns the record.
// The server deletes the data there, if it wrote it. ErrNotFound if the image has
// no such location; ErrForbidden for the last one.
func (c *Client) RemoveLocation(ctx context.Context, id, rawURL string) (*registry.Image, error) {
	if err := checkID(id); err != nil {
		return nil, err
	}
	// A patch names a location by its place among the others, which is of one
	// version of the record only.
	for try := 1; ; try++ {
		a, err := c.exchange(ctx, message{method: http.MethodGet, path: imagePath(id)})
		if err != nil {
			return nil, err
		}
		var shown struct {
			Locations []Location `json:"locations"`
		}
		if err := json.Unmarshal(a.body, &shown); err != nil {
			return nil, fmt.Errorf("%w: %w", errAnswer, err)
		}
		i := slices.IndexFunc(shown.Locations, func(l Location) bool { return l.URL == rawURL })
		if i < 0 {
			return nil, fmt.Errorf("image %s has no such location: %w", id, registry.ErrNotFound)
		}
		img, err := readImage(c.removeAt(ctx, id, i, a.header.Get("ETag")))
		var refused *Error
		if errors.As(err, &refused) && refused.Status == http.StatusPreconditionFailed && try < removeAttempts {
			continue
		}
		return img, err
	}
}

// removeAt removes location i of the version of the record that tag names.
func (c *Client) removeAt(ctx context.Context, id string, i int, tag string) ([]byte, error) {
	doc, err := json.Marshal([]Change{{Op: "remove", Path: fmt.Sprintf("/locations/%d", i)}})
	if err != nil {
		return nil, err
	}
	m := message{method: http.MethodPatch, path: imagePath(id), contentType: patchType, body: doc}
	if tag != "" {
		m.fields = http.Header{"If-Match": {tag}}
	}
	a, err := c.exchange(ctx, m)
	return a.body, err
}
