package api

import (
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"nearsight/registry"
)

// A setter puts a value that was read and checked into an image. It may run
// more than once, and shares nothing with the image afterwards.
type setter func(*registry.Image)

// settable reports whether name is a base field that clients set.
func settable(name string) bool {
	switch name {
	case "name", "owner", "visibility", "protected", "os_hidden",
		"disk_format", "container_format", "min_ram", "min_disk", "tags":
		return true
	}
	return false
}

// checkName refuses names that are not the client's to set, at creation and
// later. The id is the client's at creation only.
func checkName(name string) error {
	switch name {
	case "direct_url", "self", "file", "schema", "stores", "status", "size", "virtual_size", "checksum",
		"os_hash_algo", "os_hash_value", "created_at", "updated_at":
		return refuse(http.StatusForbidden, "attribute %q is read-only", name)
	case "locations":
		return errNoLocations
	case "location", "deleted", "deleted_at":
		return refuse(http.StatusForbidden, "attribute %q is reserved", name)
	}
	if strings.HasPrefix(name, "os_glance") {
		return refuse(http.StatusForbidden, "attribute %.80q is reserved, like all that begin with os_glance", name)
	}
	return nil
}

// parseField reads the value for a settable base field or a custom property,
// and checks it as if it were all that the image has.
func (a *API) parseField(name string, raw json.RawMessage) (setter, error) {
	set, err := decodeField(name, raw)
	if err != nil {
		return nil, err
	}
	probe := registry.Image{
		ID:         "00000000-0000-4000-8000-000000000000",
		Status:     registry.Queued,
		Visibility: registry.Shared,
	}
	set(&probe)
	if err := probe.Validate(a.limits); err != nil {
		return nil, err
	}
	return set, nil
}

// decodeField checks the JSON type of a value; its bounds are the registry's.
func decodeField(name string, raw json.RawMessage) (setter, error) {
	switch name {
	case "name", "owner":
		s, ok := decodeString(raw)
		if !ok && !isNull(raw) {
			return nil, wrongType(name, "a string or null")
		}
		var value *string
		if ok {
			value = &s
		}
		return func(img *registry.Image) {
			if name == "name" {
				img.Name = value
			} else {
				img.Owner = value
			}
		}, nil
	case "disk_format", "container_format":
		s, ok := decodeString(raw)
		if !ok && !isNull(raw) || ok && s == "" {
			return nil, wrongType(name, "the name of a format or null")
		}
		return func(img *registry.Image) {
			if name == "disk_format" {
				img.DiskFormat = s
			} else {
				img.ContainerFormat = s
			}
		}, nil
	case "visibility":
		s, ok := decodeString(raw)
		if !ok {
			return nil, wrongType(name, "a string")
		}
		return func(img *registry.Image) { img.Visibility = registry.Visibility(s) }, nil
	case "protected", "os_hidden":
		value := string(raw) == "true"
		if !value && string(raw) != "false" {
			return nil, wrongType(name, "true or false")
		}
		return func(img *registry.Image) {
			if name == "protected" {
				img.Protected = value
			} else {
				img.Hidden = value
			}
		}, nil
	case "min_ram", "min_disk":
		n, err := strconv.Atoi(string(raw))
		if err != nil {
			return nil, wrongType(name, "an integer from 0 to 2147483647")
		}
		return func(img *registry.Image) {
			if name == "min_ram" {
				img.MinRAM = n
			} else {
				img.MinDisk = n
			}
		}, nil
	case "tags":
		return decodeTags(raw)
	}
	return decodeProperty(name, raw)
}

// decodeTags reads a set of tags.
func decodeTags(raw json.RawMessage) (setter, error) {
	elements, err := decodeArray(raw)
	if err != nil {
		return nil, wrongType("tags", "an array of strings")
	}
	tags := make([]string, 0, len(elements))
	for _, e := range elements {
		tag, ok := decodeString(e)
		if !ok {
			return nil, wrongType("tags", "an array of strings")
		}
		tags = append(tags, tag)
	}
	slices.Sort(tags)
	tags = slices.Compact(tags)
	return func(img *registry.Image) { img.Tags = slices.Clone(tags) }, nil
}

// decodeProperty reads a custom property, which is a string. For the two that
// the schema lets be null, null means that there is none.
func decodeProperty(name string, raw json.RawMessage) (setter, error) {
	if strings.TrimSpace(name) == "" { // a patch could not name it
		return nil, refuse(http.StatusBadRequest, "a property needs a name")
	}
	value, ok := decodeString(raw)
	nullable := name == "kernel_id" || name == "ramdisk_id"
	switch {
	case ok && nullable && !registry.ValidID(value):
		return nil, wrongType(name, "the id of an image or null")
	case ok && name == "cinder_encryption_key_deletion_policy" && value != "on_image_deletion" && value != "do_not_delete":
		return nil, wrongType(name, "on_image_deletion or do_not_delete")
	case ok:
	case nullable && isNull(raw):
		return func(img *registry.Image) { delete(img.Properties, name) }, nil
	default:
		return nil, wrongType(name, "a string, as every custom property")
	}
	return func(img *registry.Image) {
		if img.Properties == nil {
			img.Properties = make(map[string]string)
		}
		img.Properties[name] = value
	}, nil
}

func wrongType(name, want string) error {
	return refuse(http.StatusBadRequest, "attribute %.80q must be %s", name, want)
}
