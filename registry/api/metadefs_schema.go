package api

import (
	"net/http"

	"github.com/gin-gonic/gin"
)

// metadefSchemas returns the schemas of metadata definitions, by name. Those of
// single things are closed.
func metadefSchemas() map[string]document {
	text := map[string]any{"type": "string"}
	named := map[string]any{"type": "string", "maxLength": 80}
	number := map[string]any{"type": "number"}
	count := map[string]any{"type": "integer", "minimum": 0}
	flag := map[string]any{"type": "boolean"}
	texts := map[string]any{"type": "array", "items": text}
	server := func(format string) map[string]any {
		s := map[string]any{"type": "string", "readOnly": true}
		if format != "" {
			s["format"] = format
		}
		return s
	}
	at, path := server("date-time"), server("")

	property := map[string]any{
		"name": named, "title": text, "description": text, "operators": texts,
		"type": map[string]any{"type": []string{"string", "array"}}, "required": texts,
		"minimum": number, "maximum": number, "maxLength": count, "minLength": count,
		"pattern": map[string]any{"type": "string", "format": "regex"}, "enum": map[string]any{"type": "array"},
		"readonly": flag, "default": map[string]any{}, "items": map[string]any{"type": "object"},
		"maxItems": count, "minItems": count, "uniqueItems": flag, "additionalItems": flag,
	}
	object := map[string]any{
		"name": named, "description": text, "required": texts, "properties": map[string]any{"type": "object"},
		"schema": path, "self": path, "created_at": at, "updated_at": at,
	}
	tag := map[string]any{"name": named, "created_at": at, "updated_at": at}
	association := map[string]any{
		"name": named, "prefix": named, "properties_target": named, "created_at": at, "updated_at": at,
	}
	namespace := map[string]any{
		"namespace": named, "display_name": named, "description": map[string]any{"type": "string", "maxLength": 500},
		"visibility": map[string]any{"type": "string", "enum": []string{"public", "private"}}, "protected": flag,
		"owner": map[string]any{"type": "string", "maxLength": 255}, "created_at": at, "updated_at": at, "schema": path, "self": path,
		"resource_type_associations": listOf(association), "properties": map[string]any{"type": "object"},
		"objects": listOf(object), "tags": listOf(tag),
	}
	schemas := map[string]document{}
	for _, s := range []struct {
		one, many, list string
		needed          []string
		members         map[string]any
		pages           bool
	}{
		{"namespace", "namespaces", "namespaces", []string{"namespace"}, namespace, true},
		{"property", "properties", "properties", []string{"name", "title", "type"}, property, true},
		{"object", "objects", "objects", []string{"name"}, object, true},
		{"tag", "tags", "tags", []string{"name"}, tag, true},
		{"resource_type_association", "resource_type_associations", "resource_type_associations", []string{"name"}, association, false},
	} {
		item := map[string]any{
			"name": s.one, "required": s.needed, "properties": s.members, "additionalProperties": false,
		}
		if s.one == "namespace" {
			item["definitions"] = map[string]any{"property": map[string]any{"type": "object", "additionalProperties": property}}
		}
		schemas[s.one] = newDocument(encodeJSON(item))
		schemas[s.many] = newDocument(encodeJSON(manyOf(s.many, s.list, item, s.pages)))
	}
	// Clients ask for these by the shorter name, and find the longer one inside.
	schemas["resource_type"] = schemas["resource_type_association"]
	schemas["resource_types"] = schemas["resource_type_associations"]
	return schemas
}

func listOf(members map[string]any) map[string]any {
	return map[string]any{"type": "array", "items": map[string]any{"type": "object", "properties": members}}
}

// manyOf returns the schema of a list of items.
func manyOf(name, list string, item map[string]any, pages bool) map[string]any {
	text := map[string]any{"type": "string"}
	items := map[string]any{"type": "array", "items": item}
	if list == "properties" { // these are an object by name
		items = map[string]any{"type": "object", "additionalProperties": item}
	}
	members := map[string]any{list: items, "schema": text}
	links := []map[string]string{}
	if pages {
		members["first"], members["next"] = text, text
		links = append(links, map[string]string{"rel": "first", "href": "{first}"}, map[string]string{"rel": "next", "href": "{next}"})
	}
	links = append(links, map[string]string{"rel": "describedby", "href": "{schema}"})
	return map[string]any{"name": name, "properties": members, "links": links}
}

// metadefSchema answers GET and HEAD of a schema of metadata definitions.
func (a *API) metadefSchema(c *gin.Context) {
	if hasBody(c.Request) {
		a.fail(c, errUnwantedBody)
		return
	}
	d, ok := a.metadefSchemas[c.Param("name")]
	if !ok {
		a.fail(c, refuse(http.StatusNotFound, "there is no such schema"))
		return
	}
	a.writeDocument(c, d)
}
