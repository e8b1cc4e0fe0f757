package client

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"nearsight/origin"
	"nearsight/registry"
)

// notProperties are the members of an image's JSON form that are fields; every
// other one is a custom property (Images API v2, "the image resource").
var notProperties = []string{
	"id", "name", "status", "visibility", "protected", "os_hidden", "checksum",
	"os_hash_algo", "os_hash_value", "owner", "size", "virtual_size",
	"container_format", "disk_format", "min_ram", "min_disk", "tags",
	"created_at", "updated_at", "self", "file", "schema", "locations",
	"direct_url", "stores",
}

// wireImage is the JSON form of an image but for its custom properties.
type wireImage struct {
	ID              string              `json:"id"`
	Name            *string             `json:"name"`
	Status          registry.Status     `json:"status"`
	Visibility      registry.Visibility `json:"visibility"`
	Protected       bool                `json:"protected"`
	Hidden          bool                `json:"os_hidden"`
	Checksum        *string             `json:"checksum"`
	HashAlgo        *string             `json:"os_hash_algo"`
	HashValue       *string             `json:"os_hash_value"`
	Owner           *string             `json:"owner"`
	Size            *int64              `json:"size"`
	VirtualSize     *int64              `json:"virtual_size"`
	ContainerFormat *string             `json:"container_format"`
	DiskFormat      *string             `json:"disk_format"`
	MinRAM          int                 `json:"min_ram"`
	MinDisk         int                 `json:"min_disk"`
	Tags            []string            `json:"tags"`
	CreatedAt       time.Time           `json:"created_at"`
	UpdatedAt       time.Time           `json:"updated_at"`
}

// MarshalImage returns the JSON form that the API gives an image, without
// self, file and schema, which say where the server keeps it.
func MarshalImage(img *registry.Image) ([]byte, error) {
	w := wireImage{
		ID: img.ID, Name: img.Name, Status: img.Status, Visibility: img.Visibility,
		Protected: img.Protected, Hidden: img.Hidden,
		Checksum: known(img.Checksum), HashAlgo: known(img.HashAlgo), HashValue: known(img.HashValue),
		Owner: img.Owner, Size: img.Size, VirtualSize: img.VirtualSize,
		ContainerFormat: known(img.ContainerFormat), DiskFormat: known(img.DiskFormat),
		MinRAM: img.MinRAM, MinDisk: img.MinDisk, Tags: append([]string{}, img.Tags...),
		CreatedAt: img.CreatedAt.UTC().Truncate(time.Second),
		UpdatedAt: img.UpdatedAt.UTC().Truncate(time.Second),
	}
	b, err := json.Marshal(w)
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", img.ID, err)
	}
	b = b[:len(b)-1]
	for _, name := range slices.Sorted(maps.Keys(img.Properties)) {
		if slices.Contains(notProperties, name) {
			return nil, fmt.Errorf("image %s: %w: a property cannot be called %q", img.ID, registry.ErrInvalid, name)
		}
		member, err := json.Marshal(map[string]string{name: img.Properties[name]})
		if err != nil {
			return nil, fmt.Errorf("image %s: %w", img.ID, err)
		}
		b = append(append(b, ','), member[1:len(member)-1]...)
	}
	return append(b, '}'), nil
}

// UnmarshalImage reads the JSON form of an image. Members that are neither
// fields nor strings are left out: they come from servers that know more.
func UnmarshalImage(b []byte) (*registry.Image, error) {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(b, &members); err != nil {
		return nil, fmt.Errorf("image: %w", err)
	}
	// By name and not into a struct, whose fields would also take a property
	// that differs in case alone.
	img := &registry.Image{}
	d := memberDecoder{members: members}
	d.field("id", &img.ID)
	d.field("name", &img.Name)
	d.field("status", &img.Status)
	d.field("visibility", &img.Visibility)
	d.field("protected", &img.Protected)
	d.field("os_hidden", &img.Hidden)
	d.field("checksum", &img.Checksum)
	d.field("os_hash_algo", &img.HashAlgo)
	d.field("os_hash_value", &img.HashValue)
	d.field("owner", &img.Owner)
	d.field("size", &img.Size)
	d.field("virtual_size", &img.VirtualSize)
	d.field("container_format", &img.ContainerFormat)
	d.field("disk_format", &img.DiskFormat)
	d.field("min_ram", &img.MinRAM)
	d.field("min_disk", &img.MinDisk)
	d.field("tags", &img.Tags)
	d.field("created_at", &img.CreatedAt)
	d.field("updated_at", &img.UpdatedAt)
	var locations []Location
	d.field("locations", &locations)
	switch {
	case d.err != nil:
		return nil, d.err
	case !IsID(img.ID):
		return nil, fmt.Errorf("image: %.80q is no id", img.ID)
	case img.Size != nil && *img.Size < 0:
		return nil, fmt.Errorf("image %s: a size of %d bytes", img.ID, *img.Size)
	}
	for _, l := range locations {
		img.Locations = append(img.Locations, origin.Location{URL: l.URL})
		if len(l.Metadata) == 0 {
			continue
		}
		if img.LocationMetadata == nil {
			img.LocationMetadata = make(map[string]map[string]string)
		}
		img.LocationMetadata[l.URL] = l.Metadata
	}
	slices.Sort(img.Tags)
	for name, raw := range members {
		var value string
		if raw[0] != '"' || slices.Contains(notProperties, name) || json.Unmarshal(raw, &value) != nil {
			continue
		}
		if img.Properties == nil {
			img.Properties = make(map[string]string)
		}
		img.Properties[name] = value
	}
	return img, nil
}

// A memberDecoder decodes members of a JSON object until the first fails.
type memberDecoder struct {
	members map[string]json.RawMessage
	err     error
}

// field decodes the member name into v. What is null or missing leaves v alone.
func (d *memberDecoder) field(name string, v any) {
	raw, ok := d.members[name]
	if !ok || d.err != nil || string(raw) == "null" {
		return
	}
	if err := json.Unmarshal(raw, v); err != nil {
		d.err = fmt.Errorf("image: %s: %w", name, err)
	}
}

// newImage returns the JSON document that creates img: what is set of it.
func newImage(img *registry.Image) ([]byte, error) {
	m := make(map[string]any, len(img.Properties)+8)
	for name, value := range img.Properties {
		if slices.Contains(notProperties, name) {
			return nil, fmt.Errorf("%w: a property cannot be called %q", registry.ErrInvalid, name)
		}
		m[name] = value
	}
	set := func(name string, value any, isSet bool) {
		if isSet {
			m[name] = value
		}
	}
	set("id", img.ID, img.ID != "")
	set("name", img.Name, img.Name != nil)
	set("owner", img.Owner, img.Owner != nil)
	set("visibility", img.Visibility, img.Visibility != "")
	set("protected", true, img.Protected)
	set("os_hidden", true, img.Hidden)
	set("disk_format", img.DiskFormat, img.DiskFormat != "")
	set("container_format", img.ContainerFormat, img.ContainerFormat != "")
	set("min_ram", img.MinRAM, img.MinRAM != 0)
	set("min_disk", img.MinDisk, img.MinDisk != 0)
	set("tags", img.Tags, len(img.Tags) > 0)
	return json.Marshal(m)
}

// known returns nil for "".
func known(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// readImage decodes an answer that is an image.
func readImage(body []byte, err error) (*registry.Image, error) {
	if err != nil {
		return nil, err
	}
	img, err := UnmarshalImage(body)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errAnswer, err)
	}
	return img, nil
}

// errAnswer begins the text of errors about answers that make no sense.
var errAnswer = errors.New("the server's answer is not understood")
