package api

import (
	"bytes"
	"net/http"

	"github.com/gin-gonic/gin"

	"nearsight/registry"
)

// schema answers GET and HEAD of a JSON schema. Clients build their models from
// these, and check our answers against them.
func (a *API) schema(c *gin.Context) {
	if hasBody(c.Request) {
		a.fail(c, errUnwantedBody)
		return
	}
	d, ok := a.schemas[c.Param("name")]
	if !ok {
		a.fail(c, refuse(http.StatusNotFound, "there is no such schema"))
		return
	}
	a.writeDocument(c, d)
}

// A property is one member of a schema.
type property struct {
	name string

	Type        any           `json:"type"` // string, or []string{"null", ...}
	Description string        `json:"description"`
	ReadOnly    bool          `json:"readOnly,omitempty"`
	IsBase      *bool         `json:"is_base,omitempty"` // nil: it is
	Enum        []any         `json:"enum,omitempty"`
	MaxLength   int           `json:"maxLength,omitempty"` // characters
	Pattern     string        `json:"pattern,omitempty"`
	Items       *propertyItem `json:"items,omitempty"`
}

// A propertyItem describes the elements of an array.
type propertyItem struct {
	Type       string   `json:"type"`
	MaxLength  int      `json:"maxLength,omitempty"`
	Required   []string `json:"required,omitempty"`
	Properties any      `json:"properties,omitempty"`
}

const idPattern = "^([0-9a-fA-F]){8}-([0-9a-fA-F]){4}-([0-9a-fA-F]){4}-([0-9a-fA-F]){4}-([0-9a-fA-F]){12}$"

// nullable is the type of a field that can be unset.
func nullable(t string) []string { return []string{"null", t} }

// enum returns the values that a field can have.
func enum(words ...string) []any {
	values := make([]any, len(words))
	for i, word := range words {
		values[i] = word
	}
	return values
}

// schemas returns the schemas by name. The formats are those of the limits.
func schemas(limits registry.Limits) map[string]document {
	var image bytes.Buffer
	image.WriteString(`{"name":"image","properties":{`)
	for i, p := range append(baseProperties(limits), listedProperties()...) {
		if i > 0 {
			image.WriteByte(',')
		}
		image.Write(appendString(nil, p.name))
		image.WriteByte(':')
		image.Write(encodeJSON(p))
	}
	image.WriteString(`},"additionalProperties":{"type":"string"},"links":[` +
		`{"rel":"self","href":"{self}"},{"rel":"enclosure","href":"{file}"},{"rel":"describedby","href":"{schema}"}]}`)

	images := `{"name":"images","properties":{"images":{"type":"array","items":` + image.String() + `},` +
		`"first":{"type":"string"},"next":{"type":"string"},"schema":{"type":"string"}},"links":[` +
		`{"rel":"first","href":"{first}"},{"rel":"next","href":"{next}"},{"rel":"describedby","href":"{schema}"}]}`

	byName := make(map[string]document)
	for name, text := range map[string]string{"image": image.String(), "images": images} {
		d := newDocument([]byte(text))
		d.open = true
		byName[name] = d
	}
	return byName
}

// baseProperties describes the fields that every image has, and the two that it
// has when data locations are shown. stores is not among them: glance of
// python-glanceclient makes an option of every property of the schema that it
// has kept, and falls over its own --stores.
func baseProperties(limits registry.Limits) []property {
	formats := func(names []string) []any { return append([]any{nil}, enum(names...)...) }
	return []property{
		{name: "id", Type: "string", Description: "An identifier for the image", Pattern: idPattern},
		{name: "name", Type: nullable("string"), Description: "Descriptive name for the image", MaxLength: 255},
		{name: "status", Type: "string", Description: "Status of the image", ReadOnly: true,
			Enum: enum("queued", "saving", "active", "killed", "deleted", "uploading", "importing", "pending_delete", "deactivated")},
		{name: "visibility", Type: "string", Description: "Scope of image accessibility",
			Enum: enum("community", "public", "private", "shared")},
		{name: "protected", Type: "boolean", Description: "If true, image will not be deletable."},
		{name: "os_hidden", Type: "boolean", Description: "If true, image will not appear in default image list response."},
		{name: "checksum", Type: nullable("string"), Description: "MD5 of the image data, in hex", ReadOnly: true, MaxLength: 32},
		{name: "os_hash_algo", Type: nullable("string"), Description: "Algorithm of os_hash_value", ReadOnly: true, MaxLength: 64},
		{name: "os_hash_value", Type: nullable("string"), Description: "Secure hash of the image data, in hex", ReadOnly: true, MaxLength: 128},
		{name: "owner", Type: nullable("string"), Description: "Owner of the image", MaxLength: 255},
		{name: "size", Type: nullable("integer"), Description: "Size of the image data in bytes", ReadOnly: true},
		{name: "virtual_size", Type: nullable("integer"), Description: "Virtual size of the image in bytes", ReadOnly: true},
		{name: "container_format", Type: nullable("string"), Description: "Format of the container", Enum: formats(limits.ContainerFormats)},
		{name: "disk_format", Type: nullable("string"), Description: "Format of the disk", Enum: formats(limits.DiskFormats)},
		{name: "min_ram", Type: "integer", Description: "Amount of RAM (in MB) required to boot the image."},
		{name: "min_disk", Type: "integer", Description: "Amount of disk space (in GB) required to boot the image."},
		{name: "tags", Type: "array", Description: "List of strings related to the image", Items: &propertyItem{Type: "string", MaxLength: 255}},
		{name: "created_at", Type: "string", Description: "Date and time of image registration", ReadOnly: true},
		{name: "updated_at", Type: "string", Description: "Date and time of the last image modification", ReadOnly: true},
		{name: "self", Type: "string", Description: "An image self url", ReadOnly: true},
		{name: "file", Type: "string", Description: "An image file url", ReadOnly: true},
		{name: "schema", Type: "string", Description: "An image schema url", ReadOnly: true},
		{name: "direct_url", Type: "string", Description: "URL to access the image data kept in a store", ReadOnly: true},
		{name: "locations", Type: "array", Description: "URLs of the image data, and what is known about them",
			Items: &propertyItem{Type: "object", Required: []string{"url", "metadata"}, Properties: map[string]any{
				"url":      map[string]any{"type": "string", "maxLength": 255},
				"metadata": map[string]any{"type": "object"},
			}}},
	}
}

// listedProperties describes custom properties that have a meaning by
// agreement.
func listedProperties() []property {
	list := []property{
		{name: "kernel_id", Type: nullable("string"), Description: "ID of the image to be used as the kernel of an AMI-style image", Pattern: idPattern},
		{name: "ramdisk_id", Type: nullable("string"), Description: "ID of the image to be used as the ramdisk of an AMI-style image", Pattern: idPattern},
		{name: "instance_uuid", Type: "string", Description: "ID of the instance that the image was made from"},
		{name: "architecture", Type: "string", Description: "Operating system architecture"},
		{name: "os_distro", Type: "string", Description: "Common name of operating system distribution"},
		{name: "os_version", Type: "string", Description: "Operating system version as specified by the distributor."},
		{name: "description", Type: "string", Description: "A human-readable string describing this image."},
		{name: "cinder_encryption_key_id", Type: "string", Description: "Identifier of the key for an encrypted volume"},
		{name: "cinder_encryption_key_deletion_policy", Type: "string", Description: "Whether the key is deleted with the image",
			Enum: enum("on_image_deletion", "do_not_delete")},
	}
	notBase := false
	for i := range list {
		list[i].IsBase = &notBase
	}
	return list
}
