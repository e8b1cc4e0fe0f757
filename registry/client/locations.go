package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
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

// A Store is a place where the server keeps data.
type Store struct {
	ID          string
	Description string
	Kind        string // file, s3, swift, http, ...
	Default     bool   // takes uploads that name no store
	ReadOnly    bool   // takes none
	Weight      int    // of several stores the server reads the heaviest
	Properties  map[string]string
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
		body, tag, err := c.callIf(ctx, "", http.MethodGet, imagePath(id), "", nil)
		if err != nil {
			return nil, err
		}
		var shown struct {
			Locations []Location `json:"locations"`
		}
		if err := json.Unmarshal(body, &shown); err != nil {
			return nil, fmt.Errorf("%w: %w", errAnswer, err)
		}
		i := slices.IndexFunc(shown.Locations, func(l Location) bool { return l.URL == rawURL })
		if i < 0 {
			return nil, fmt.Errorf("image %s has no such location: %w", id, registry.ErrNotFound)
		}
		img, err := readImage(c.removeAt(ctx, id, i, tag))
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
	body, _, err := c.callIf(ctx, tag, http.MethodPatch, imagePath(id), patchType, doc)
	return body, err
}

// Stores returns the stores of the server, in its order. ErrNotFound if there is
// only one: it has no name then.
func (c *Client) Stores(ctx context.Context) ([]Store, error) {
	var answer struct {
		Stores []struct {
			ID          string            `json:"id"`
			Description string            `json:"description"`
			Default     string            `json:"default"`   // "true" or missing
			ReadOnly    string            `json:"read-only"` // the same
			Type        string            `json:"type"`
			Weight      int               `json:"weight"`
			Properties  map[string]string `json:"properties"`
		} `json:"stores"`
	}
	if err := c.getJSON(ctx, "/v2/info/stores/detail", &answer); err != nil {
		return nil, err
	}
	stores := make([]Store, 0, len(answer.Stores))
	for _, s := range answer.Stores {
		stores = append(stores, Store{s.ID, s.Description, s.Type, s.Default == "true", s.ReadOnly == "true", s.Weight, s.Properties})
	}
	return stores, nil
}

// CopyTo has the data of the image id copied to further stores; none means all
// that take data and lack it. It returns when the copies are ordered: each shows
// among the Locations when it is whole.
//
// ErrInvalid if a store that is named has the data already or takes none;
// ErrConflict if there is no such store or the image is not active and hashed.
func (c *Client) CopyTo(ctx context.Context, id string, stores ...string) error {
	if err := checkID(id); err != nil {
		return err
	}
	wish := map[string]any{"method": map[string]string{"name": "copy-image"}}
	if len(stores) > 0 {
		wish["stores"] = stores
	} else {
		wish["all_stores"] = true
	}
	doc, err := json.Marshal(wish)
	if err != nil {
		return err
	}
	_, err = c.call(ctx, http.MethodPost, imagePath(id)+"/import", "application/json", doc)
	return err
}

// RemoveFrom deletes the data of the image id in one store. ErrNotFound if it is
// not there; ErrForbidden if it is nowhere else.
func (c *Client) RemoveFrom(ctx context.Context, id, store string) error {
	if err := checkID(id); err != nil {
		return err
	}
	if store == "" {
		return fmt.Errorf("%w: the store has no name", registry.ErrInvalid)
	}
	_, err := c.call(ctx, http.MethodDelete, "/v2/stores/"+url.PathEscape(store)+"/"+id, "", nil)
	return err
}

// UploadTo is Upload to the store of that name. ErrInvalid if there is none such,
// or if it takes no data. A server with one store takes any name.
func (c *Client) UploadTo(ctx context.Context, store, id string, r io.Reader, size int64) error {
	return c.upload(ctx, store, id, r, size)
}
