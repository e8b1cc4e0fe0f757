package api

import (
	"net/http"
	"slices"

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
	d.open = a.anybody()
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
	const pageLinks = `{"rel":"first","href":"{first}"},{"rel":"next","href":"{next}"},`
	image := schemaText("image", append(baseProperties(limits), listedProperties()...),
		`,"additionalProperties":{"type":"string"},"links":[`+
			`{"rel":"self","href":"{self}"},{"rel":"enclosure","href":"{file}"},{"rel":"describedby","href":"{schema}"}]`)
	member := schemaText("member", memberProperties(), "")
	task := taskProperties()
	brief := slices.DeleteFunc(slices.Clone(task), func(p property) bool {
		return p.name == "input" || p.name == "result" || p.name == "message"
	})
	byName := make(map[string]document)
	for name, text := range map[string]string{
		"image":   image,
		"images":  collectionText("images", image, `,"first":{"type":"string"},"next":{"type":"string"}`, pageLinks),
		"member":  member,
		"members": collectionText("members", member, "", ""),
		"task":    schemaText("task", task, ""),
		"tasks":   collectionText("tasks", schemaText("task", brief, ""), `,"first":{"type":"string"},"next":{"type":"string"}`, ""),
	} {
		byName[name] = newDocument([]byte(text))
	}
	return byName
}

// schemaText returns the schema of one thing; more follows its properties.
func schemaText(name string, properties []property, more string) string {
	b := []byte(`{"name":`)
	b = appendString(b, name)
	b = append(b, `,"properties":{`...)
	for i, p := range properties {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendString(b, p.name)
		b = append(b, ':')
		b = append(b, encodeJSON(p)...)
	}
	b = append(b, '}')
	b = append(b, more...)
	return string(append(b, '}'))
}

// collectionText returns the schema of a list of what item describes.
func collectionText(name, item, properties, links string) string {
	return `{"name":"` + name + `","properties":{"` + name + `":{"type":"array","items":` + item + `}` + properties +
		`,"schema":{"type":"string"}},"links":[` + links + `{"rel":"describedby","href":"{schema}"}]}`
}

// memberProperties describes those with whom an image is shared.
func memberProperties() []property {
	return []property{
		{name: "member_id", Type: "string", Description: "An identifier for the image member (project)"},
		{name: "image_id", Type: "string", Description: "An identifier for the image", Pattern: idPattern},
		{name: "status", Type: "string", Description: "What the member says to the sharing", Enum: enum("pending", "accepted", "rejected")},
		{name: "created_at", Type: "string", Description: "Date and time of image member creation"},
		{name: "updated_at", Type: "string", Description: "Date and time of last modification of image member"},
		{name: "schema", Type: "string", Description: "An image member schema url", ReadOnly: true},
	}
}

// taskProperties describes slow work.
func taskProperties() []property {
	return []property{
		{name: "id", Type: "string", Description: "An identifier for the task", Pattern: idPattern},
		{name: "type", Type: "string", Description: "The type of task", Enum: enum(registry.TaskImport, registry.TaskImageImport, registry.TaskLocationImport)},
		{name: "status", Type: "string", Description: "The current status of the task",
			Enum: enum(string(registry.TaskPending), string(registry.TaskProcessing), string(registry.TaskSuccess), string(registry.TaskFailure))},
		{name: "input", Type: nullable("object"), Description: "What the task was asked for"},
		{name: "result", Type: nullable("object"), Description: "What came of the task, or how far it is"},
		{name: "owner", Type: nullable("string"), Description: "The project that asked for the task"},
		{name: "message", Type: nullable("string"), Description: "What is being done, or why it failed"},
		{name: "image_id", Type: nullable("string"), Description: "The image that the task is for"},
		{name: "request_id", Type: nullable("string"), Description: "The id of the request that asked for the task"},
		{name: "user_id", Type: nullable("string"), Description: "The user who asked for the task"},
		{name: "expires_at", Type: nullable("string"), Description: "Date and time when the task is forgotten"},
		{name: "created_at", Type: "string", Description: "Date and time when the task was made"},
		{name: "updated_at", Type: "string", Description: "Date and time of the last change of the task"},
		{name: "self", Type: "string", Description: "A task url"},
		{name: "schema", Type: "string", Description: "A task schema url"},
	}
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
