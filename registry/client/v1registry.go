package client

import (
	"context"
	"encoding/json"
	"iter"
	"net/http"
	"strconv"
)

// A RegistryV1 speaks the Registry API of 2011, by which the servers of that time
// kept records (port 9191). Errors are as of V1.
type RegistryV1 struct{ c *Client }

// NewRegistryV1 returns a client for opt.Server. It does not connect.
func NewRegistryV1(opt Options) (*RegistryV1, error) {
	c, err := New(opt)
	if err != nil {
		return nil, err
	}
	return &RegistryV1{c}, nil
}

// Close closes the connections that are idle. The client can still be used.
func (r *RegistryV1) Close() { r.c.Close() }

// registryImages is without /v1, which the registries of 2011 do not know.
const registryImages = "/images"

// Images yields the public images, with few of their fields, as V1.Images does.
func (r *RegistryV1) Images(ctx context.Context, q V1Query) iter.Seq2[*V1Image, error] {
	return r.c.v1List(ctx, registryImages, q)
}

// ImagesDetailed is Images with all fields, the location too.
func (r *RegistryV1) ImagesDetailed(ctx context.Context, q V1Query) iter.Seq2[*V1Image, error] {
	return r.c.v1List(ctx, registryImages+"/detail", q)
}

// Image returns the record of an image.
func (r *RegistryV1) Image(ctx context.Context, id string) (*V1Image, error) {
	path, err := v1Path(registryImages, id)
	if err != nil {
		return nil, err
	}
	body, err := r.c.call(ctx, http.MethodGet, path, "", nil)
	if err != nil {
		return nil, err
	}
	return readV1Image(body)
}

// AddImage adds a record and returns it. "" as the status means active, which needs
// a location.
func (r *RegistryV1) AddImage(ctx context.Context, img *V1Image) (*V1Image, error) {
	return r.write(ctx, http.MethodPost, registryImages, img, nil)
}

// UpdateImage changes what is set of img and returns the record. purge removes the
// properties that img has not.
func (r *RegistryV1) UpdateImage(ctx context.Context, id string, img *V1Image, purge bool) (*V1Image, error) {
	path, err := v1Path(registryImages, id)
	if err != nil {
		return nil, err
	}
	return r.write(ctx, http.MethodPut, path, img, http.Header{"X-Glance-Registry-Purge-Props": {strconv.FormatBool(purge)}})
}

// DeleteImage removes a record.
func (r *RegistryV1) DeleteImage(ctx context.Context, id string) error {
	path, err := v1Path(registryImages, id)
	if err != nil {
		return err
	}
	_, err = r.c.call(ctx, http.MethodDelete, path, "", nil)
	return err
}

func (r *RegistryV1) write(ctx context.Context, method, path string, img *V1Image, fields http.Header) (*V1Image, error) {
	doc, err := json.Marshal(map[string]any{"image": v1Fields(img)})
	if err != nil {
		return nil, err
	}
	a, err := r.c.exchange(ctx, message{method: method, path: path, contentType: "application/json", body: doc, fields: fields})
	if err != nil {
		return nil, err
	}
	return readV1Image(a.body)
}

// v1Fields returns the JSON form of what is set of img.
func v1Fields(img *V1Image) map[string]any {
	m := make(map[string]any)
	set := func(name string, value any, isSet bool) {
		if isSet {
			m[name] = value
		}
	}
	set("id", img.ID, img.ID != "")
	set("name", img.Name, img.Name != "")
	set("status", img.Status, img.Status != "")
	set("size", img.Size, img.Size != nil)
	set("disk_format", img.DiskFormat, img.DiskFormat != "")
	set("container_format", img.ContainerFormat, img.ContainerFormat != "")
	set("is_public", img.Public, img.Public != nil)
	set("protected", img.Protected, img.Protected != nil)
	set("min_ram", img.MinRAM, img.MinRAM != nil)
	set("min_disk", img.MinDisk, img.MinDisk != nil)
	set("owner", img.Owner, img.Owner != "")
	set("checksum", img.Checksum, img.Checksum != "")
	set("location", img.Location, img.Location != "")
	set("properties", img.Properties, img.Properties != nil)
	return m
}
