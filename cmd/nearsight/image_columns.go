package main

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"

	"nearsight/registry"
)

// A column is something that a table shows of each image.
type column struct {
	name string // as in the API
	text func(*registry.Image) string
}

// imageColumns are those that there are, but for custom properties.
var imageColumns = [...]column{
	{"id", func(img *registry.Image) string { return img.ID }},
	{"name", func(img *registry.Image) string { return deref(img.Name) }},
	{"status", func(img *registry.Image) string { return string(img.Status) }},
	{"disk_format", func(img *registry.Image) string { return img.DiskFormat }},
	{"container_format", func(img *registry.Image) string { return img.ContainerFormat }},
	{"size", func(img *registry.Image) string { return bytesText(img.Size) }},
	{"virtual_size", func(img *registry.Image) string { return bytesText(img.VirtualSize) }},
	{"visibility", func(img *registry.Image) string { return string(img.Visibility) }},
	{"owner", func(img *registry.Image) string { return deref(img.Owner) }},
	{"protected", func(img *registry.Image) string { return strconv.FormatBool(img.Protected) }},
	{"os_hidden", func(img *registry.Image) string { return strconv.FormatBool(img.Hidden) }},
	{"min_ram", func(img *registry.Image) string { return strconv.Itoa(img.MinRAM) }},
	{"min_disk", func(img *registry.Image) string { return strconv.Itoa(img.MinDisk) }},
	{"checksum", func(img *registry.Image) string { return img.Checksum }},
	{"os_hash_algo", func(img *registry.Image) string { return img.HashAlgo }},
	{"os_hash_value", func(img *registry.Image) string { return img.HashValue }},
	{"tags", func(img *registry.Image) string { return strings.Join(img.Tags, ",") }},
	{"stores", func(img *registry.Image) string { return strings.Join(storesOf(img), ",") }},
	{"created_at", func(img *registry.Image) string { return timeText(img.CreatedAt) }},
	{"updated_at", func(img *registry.Image) string { return timeText(img.UpdatedAt) }},
	{"properties", func(img *registry.Image) string { return pairsText(img.Properties) }},
}

const (
	briefColumns = "id,name,status,disk_format,size,visibility,created_at"
	longColumns  = "id,name,status,disk_format,container_format,size,visibility,owner,protected,min_ram,min_disk,checksum,tags,created_at,updated_at,properties"
)

func bytesText(n *int64) string {
	if n == nil {
		return ""
	}
	return humanBytes(*n)
}

// parseColumns reads the names of columns. One that is none of imageColumns is the
// custom property of that name.
func parseColumns(names string) ([]column, error) {
	var columns []column
	for name := range strings.SplitSeq(names, ",") {
		name = strings.TrimSpace(name)
		if name == "" {
			return nil, usagef("--columns %q is not NAME,NAME,...", names)
		}
		i := slices.IndexFunc(imageColumns[:], func(c column) bool { return c.name == strings.ToLower(name) })
		if i < 0 {
			columns = append(columns, column{name, func(img *registry.Image) string { return img.Properties[name] }})
			continue
		}
		columns = append(columns, imageColumns[i])
	}
	return columns, nil
}

// heading returns what stands above a column.
func (c column) heading() string {
	switch c.name {
	case "disk_format":
		return "FORMAT"
	case "container_format":
		return "CONTAINER"
	case "os_hidden":
		return "HIDDEN"
	}
	return strings.ToUpper(strings.TrimSuffix(c.name, "_at"))
}

// only returns what columns show of an image whose JSON form is raw, as it is there.
func only(img *registry.Image, raw json.RawMessage, columns []column) (json.RawMessage, error) {
	var all map[string]json.RawMessage
	if err := json.Unmarshal(raw, &all); err != nil {
		return nil, err
	}
	some := make(map[string]any, len(columns))
	for _, c := range columns {
		some[c.name] = all[c.name] // nil is written as null
		if c.name == "properties" {
			some[c.name] = img.Properties
		}
	}
	return json.Marshal(some)
}
