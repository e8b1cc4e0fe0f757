package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"nearsight/registry"
)

// A Version is a version of the API that the server speaks.
type Version struct {
	ID     string // v2.17
	Status string // CURRENT: the latest; SUPPORTED, DEPRECATED, EXPERIMENTAL
	URL    string // what its paths are below
}

// Versions returns the versions that the server speaks, in its order. It needs no
// token.
func (c *Client) Versions(ctx context.Context) ([]Version, error) {
	var doc struct {
		Versions []struct {
			ID     string `json:"id"`
			Status string `json:"status"`
			Links  []struct {
				Rel  string `json:"rel"`
				Href string `json:"href"`
			} `json:"links"`
		} `json:"versions"`
	}
	if err := c.getJSON(ctx, "/versions", &doc); err != nil {
		return nil, err
	}
	versions := make([]Version, 0, len(doc.Versions))
	for _, v := range doc.Versions {
		version := Version{ID: v.ID, Status: v.Status}
		for _, l := range v.Links {
			if l.Rel == "self" {
				version.URL = l.Href
			}
		}
		versions = append(versions, version)
	}
	return versions, nil
}

// A Quota is what a project may have of something, and what it has.
type Quota struct {
	Limit int64 `json:"limit"` // less than 0: any
	Usage int64 `json:"usage"`
}

// Usage returns the quotas of the caller's project by name: image_size_total and
// image_stage_total in MiB, image_count_total and image_count_uploading in images.
// There are none where the server has no limits.
func (c *Client) Usage(ctx context.Context) (map[string]Quota, error) {
	var doc struct {
		Usage map[string]Quota `json:"usage"`
	}
	err := c.getJSON(ctx, "/v2/info/usage", &doc)
	return doc.Usage, err
}

// ImportMethods returns the methods of Import that the server has.
func (c *Client) ImportMethods(ctx context.Context) ([]string, error) {
	var doc struct {
		Methods struct {
			Value []string `json:"value"`
		} `json:"import-methods"`
	}
	err := c.getJSON(ctx, "/v2/info/import", &doc)
	return doc.Methods.Value, err
}

// Schema returns the JSON schema of that name: image, images, member, members, task,
// tasks, metadefs/namespace ... ErrNotFound if there is none.
func (c *Client) Schema(ctx context.Context, name string) (json.RawMessage, error) {
	parts := strings.Split(name, "/")
	for i, part := range parts {
		escaped, err := segment("schema", part)
		if err != nil {
			return nil, err
		}
		parts[i] = escaped
	}
	var doc json.RawMessage
	err := c.getJSON(ctx, "/v2/schemas/"+strings.Join(parts, "/"), &doc)
	return doc, err
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

// Stores returns the stores of the server, in its order, with as much as the caller
// may know: only admins and services are told Kind, Weight and Properties.
// ErrNotFound if there is only one store: it has no name then.
func (c *Client) Stores(ctx context.Context) ([]Store, error) {
	stores, err := c.StoreDetails(ctx)
	if errors.Is(err, registry.ErrForbidden) && !errors.Is(err, ErrUnauthorized) {
		return c.stores(ctx, "/v2/info/stores")
	}
	return stores, err
}

// StoreDetails is Stores for admins and services: for others it is ErrForbidden.
func (c *Client) StoreDetails(ctx context.Context) ([]Store, error) {
	return c.stores(ctx, "/v2/info/stores/detail")
}

func (c *Client) stores(ctx context.Context, path string) ([]Store, error) {
	var doc struct {
		Stores []struct {
			ID          string                     `json:"id"`
			Description string                     `json:"description"`
			Default     string                     `json:"default"`   // "true" or missing
			ReadOnly    string                     `json:"read-only"` // the same
			Type        string                     `json:"type"`
			Weight      int                        `json:"weight"`
			Properties  map[string]json.RawMessage `json:"properties"`
		} `json:"stores"`
	}
	if err := c.getJSON(ctx, path, &doc); err != nil {
		return nil, err
	}
	stores := make([]Store, 0, len(doc.Stores))
	for _, s := range doc.Stores {
		store := Store{s.ID, s.Description, s.Type, s.Default == "true", s.ReadOnly == "true", s.Weight, nil}
		for name, raw := range s.Properties {
			if store.Properties == nil {
				store.Properties = make(map[string]string, len(s.Properties))
			}
			store.Properties[name] = text(raw)
		}
		stores = append(stores, store)
	}
	return stores, nil
}

// text returns a JSON string as what it says, and anything else as it is written:
// some servers have numbers and booleans here.
func text(raw json.RawMessage) string {
	var s string
	if json.Unmarshal(raw, &s) == nil {
		return s
	}
	return string(raw)
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
