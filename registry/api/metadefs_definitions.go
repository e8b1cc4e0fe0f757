package api

import (
	"encoding/json"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gin-gonic/gin"

	"nearsight/registry/metadef"
)

// A definitionKind says how a kind of definition looks in the API.
type definitionKind struct {
	kind    metadef.Kind
	path    string             // below the namespace
	list    string             // member of the answer to a list
	schema  string             // of the list, "" for none
	members map[string]jsonSet // what one may have
}

var definitionKinds = []definitionKind{
	{metadef.Property, "properties", "properties", "", propertyMembers},
	{metadef.Object, "objects", "objects", "/v2/schemas/metadefs/objects", objectMembers},
	{metadef.Tag, "tags", "tags", "/v2/schemas/metadefs/tags", tagMembers},
	{metadef.ResourceType, "resource_types", "resource_type_associations", "", associationMembers},
}

// A jsonSet is the set of JSON types that a member may have.
type jsonSet uint8

const (
	jsonString jsonSet = 1 << iota
	jsonNumber
	jsonInteger // not negative
	jsonBool
	jsonArray
	jsonObject
	jsonNull
	jsonIgnored // the server's own: whatever a client sends back
	jsonAny     = jsonString | jsonNumber | jsonInteger | jsonBool | jsonArray | jsonObject | jsonNull
)

var (
	namespaceMembers = map[string]jsonSet{
		"namespace": jsonString, "display_name": jsonString | jsonNull, "description": jsonString | jsonNull,
		"visibility": jsonString, "protected": jsonBool, "owner": jsonString,
		"resource_type_associations": jsonArray, "properties": jsonObject, "objects": jsonArray, "tags": jsonArray,
		"created_at": jsonIgnored, "updated_at": jsonIgnored, "schema": jsonIgnored, "self": jsonIgnored,
	}
	propertyMembers = map[string]jsonSet{
		"name": jsonString, "title": jsonString, "description": jsonString | jsonNull, "operators": jsonArray,
		"type": jsonString | jsonArray, "required": jsonArray, "minimum": jsonNumber, "maximum": jsonNumber,
		"maxLength": jsonInteger, "minLength": jsonInteger, "pattern": jsonString, "enum": jsonArray, "readonly": jsonBool,
		"default": jsonAny, "items": jsonObject, "maxItems": jsonInteger, "minItems": jsonInteger,
		"uniqueItems": jsonBool, "additionalItems": jsonBool,
	}
	objectMembers = map[string]jsonSet{
		"name": jsonString, "description": jsonString | jsonNull, "required": jsonArray, "properties": jsonObject,
		"created_at": jsonIgnored, "updated_at": jsonIgnored, "schema": jsonIgnored, "self": jsonIgnored,
	}
	tagMembers         = map[string]jsonSet{"name": jsonString, "created_at": jsonIgnored, "updated_at": jsonIgnored}
	associationMembers = map[string]jsonSet{
		"name": jsonString, "prefix": jsonString | jsonNull, "properties_target": jsonString | jsonNull,
		"created_at": jsonIgnored, "updated_at": jsonIgnored,
	}
)

// has reports whether a JSON value is of a type in the set.
func (s jsonSet) has(raw json.RawMessage) bool {
	if s&jsonIgnored != 0 {
		return true
	}
	switch raw[0] {
	case '"':
		return s&jsonString != 0
	case '[':
		return s&jsonArray != 0
	case '{':
		return s&jsonObject != 0
	case 't', 'f':
		return s&jsonBool != 0
	case 'n':
		return s&jsonNull != 0
	}
	if s&jsonNumber != 0 {
		return true
	}
	_, err := strconv.ParseUint(string(raw), 10, 63)
	return s&jsonInteger != 0 && err == nil
}

// checkMembers holds a JSON object against what it may have: the schemas are closed.
func checkMembers(what string, fields map[string]json.RawMessage, may map[string]jsonSet) error {
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		set, known := may[name]
		switch {
		case !known:
			return refuse(http.StatusBadRequest, "a %s has no attribute %.80q", what, name)
		case !set.has(fields[name]):
			return refuse(http.StatusBadRequest, "attribute %.80q of a %s has a value of a wrong type", name, what)
		}
	}
	return nil
}

// parseDefinition reads one definition. name is known where the document has none:
// that of a property is the member that holds it.
func parseDefinition(kind metadef.Kind, raw json.RawMessage, name string) (metadef.Definition, error) {
	fields, err := decodeObject(raw)
	if err != nil {
		return metadef.Definition{}, err
	}
	i := slices.IndexFunc(definitionKinds, func(k definitionKind) bool { return k.kind == kind })
	what := strings.ReplaceAll(string(kind), "_", " ")
	if err := checkMembers(what, fields, definitionKinds[i].members); err != nil {
		return metadef.Definition{}, err
	}
	if text, ok := decodeString(fields["name"]); ok {
		name = text
	}
	if err := metadef.CheckName(what, name); err != nil {
		return metadef.Definition{}, err
	}
	doc := map[string]json.RawMessage{}
	for member, value := range fields {
		if member != "name" && definitionKinds[i].members[member]&jsonIgnored == 0 {
			doc[member] = value
		}
	}
	switch kind {
	case metadef.Property:
		err = checkProperty(name, doc)
	case metadef.Object:
		err = checkObject(name, doc)
	}
	def := metadef.Definition{Kind: kind, Name: name}
	if len(doc) > 0 {
		def.Document = encodeJSON(doc)
	}
	return def, err
}

// checkProperty holds a property against its schema.
func checkProperty(name string, doc map[string]json.RawMessage) error {
	for _, needed := range []string{"title", "type"} {
		if doc[needed] == nil {
			return refuse(http.StatusBadRequest, "property %.80q needs the attribute %s", name, needed)
		}
	}
	types := []json.RawMessage{doc["type"]}
	if doc["type"][0] == '[' {
		types, _ = decodeArray(doc["type"])
	}
	for _, raw := range types {
		t, _ := decodeString(raw)
		if !slices.Contains([]string{"array", "boolean", "integer", "number", "object", "string", "null"}, t) {
			return refuse(http.StatusBadRequest, "property %.80q has a type that is not one of array, boolean, integer, number, object, string, null", name)
		}
	}
	for _, texts := range []string{"operators", "required"} {
		if doc[texts] == nil {
			continue
		}
		var list []string
		if json.Unmarshal(doc[texts], &list) != nil {
			return refuse(http.StatusBadRequest, "attribute %s of property %.80q must be an array of strings", texts, name)
		}
	}
	return nil
}

// checkObject holds an object against its schema.
func checkObject(name string, doc map[string]json.RawMessage) error {
	if raw := doc["required"]; raw != nil {
		var list []string
		if json.Unmarshal(raw, &list) != nil {
			return refuse(http.StatusBadRequest, "attribute required of object %.80q must be an array of strings", name)
		}
	}
	if raw := doc["properties"]; raw != nil {
		_, err := parseDefinitions(metadef.Property, raw)
		return err
	}
	return nil
}

// parseDefinitions reads all of a kind: an object of properties by their names, or
// an array of others.
func parseDefinitions(kind metadef.Kind, raw json.RawMessage) ([]metadef.Definition, error) {
	var found []metadef.Definition
	if kind == metadef.Property {
		fields, err := decodeObject(raw)
		if err != nil {
			return nil, err
		}
		for _, name := range slices.Sorted(maps.Keys(fields)) {
			def, err := parseDefinition(kind, fields[name], name)
			if err != nil {
				return nil, err
			}
			found = append(found, def)
		}
		return found, nil
	}
	elements, err := decodeArray(raw)
	if err != nil {
		return nil, err
	}
	for _, e := range elements {
		def, err := parseDefinition(kind, e, "")
		if err != nil {
			return nil, err
		}
		found = append(found, def)
	}
	return found, nil
}

// definitionDocument returns the JSON form of a definition.
func definitionDocument(namespace string, def metadef.Definition) map[string]any {
	doc := decodeDocument(def.Document)
	doc["name"] = def.Name
	if def.Kind == metadef.Property {
		return doc
	}
	doc["created_at"], doc["updated_at"] = timeText(def.CreatedAt), timeText(def.UpdatedAt)
	if def.Kind == metadef.Object {
		doc["self"] = namespacePath(namespace) + "/objects/" + url.PathEscape(def.Name)
		doc["schema"] = "/v2/schemas/metadefs/object"
	}
	return doc
}

func timeText(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05Z") }

// prefixFor returns what the properties of a namespace begin with at a resource
// type, which is "" for none.
func prefixFor(associations []metadef.Definition, resourceType string) string {
	for _, def := range associations {
		if def.Name == resourceType {
			prefix, _ := decodeDocument(def.Document)["prefix"].(string)
			return prefix
		}
	}
	return ""
}

// properties returns the JSON form of properties: an object by their names.
func properties(found []metadef.Definition, prefix string) map[string]any {
	docs := map[string]any{}
	for _, def := range found {
		docs[prefix+def.Name] = decodeDocument(def.Document)
	}
	return docs
}

// listDefinitions answers GET and HEAD of all definitions of a kind.
func (a *API) listDefinitions(c *gin.Context, kind metadef.Kind) {
	ctx, namespace := c.Request.Context(), c.Param("namespace")
	found, err := a.metadefs.Definitions(ctx, namespace, kind)
	if err != nil {
		a.fail(c, err)
		return
	}
	if kind == metadef.Property {
		prefix := ""
		if t := c.Query("resource_type"); t != "" {
			associations, err := a.metadefs.Definitions(ctx, namespace, metadef.ResourceType)
			if err != nil {
				a.fail(c, err)
				return
			}
			prefix = prefixFor(associations, t)
		}
		a.writeDocument(c, newDocument(encodeJSON(map[string]any{"properties": properties(found, prefix)})))
		return
	}
	a.writeDocument(c, newDocument(encodeJSON(definitionList(namespace, kind, found))))
}

func definitionList(namespace string, kind metadef.Kind, found []metadef.Definition) map[string]any {
	list := []map[string]any{}
	for _, def := range found {
		list = append(list, definitionDocument(namespace, def))
	}
	doc := map[string]any{}
	for _, k := range definitionKinds {
		if k.kind == kind {
			doc[k.list] = list
			if k.schema != "" {
				doc["schema"] = k.schema
				doc["first"] = namespacePath(namespace) + "/" + k.path
			}
		}
	}
	return doc
}

// showDefinition answers GET and HEAD of a definition.
func (a *API) showDefinition(c *gin.Context, kind metadef.Kind) {
	def, err := a.metadefs.Definition(c.Request.Context(), c.Param("namespace"), kind, c.Param("definition"))
	if err != nil {
		a.fail(c, err)
		return
	}
	a.writeDocument(c, newDocument(encodeJSON(definitionDocument(c.Param("namespace"), def))))
}

// define answers POST of a new definition, or of a whole set of tags.
func (a *API) define(c *gin.Context, kind metadef.Kind) {
	body, err := a.readBody(c.Writer, c.Request)
	if err != nil {
		a.fail(c, err)
		return
	}
	namespace := c.Param("namespace")
	if kind == metadef.Tag {
		a.defineTags(c, body)
		return
	}
	def, err := parseDefinition(kind, body, "")
	if err != nil {
		a.fail(c, err)
		return
	}
	added, err := a.metadefs.Define(c.Request.Context(), namespace, kind, []metadef.Definition{def}, false)
	if err != nil {
		a.fail(c, err)
		return
	}
	if kind == metadef.Property || kind == metadef.Object {
		c.Writer.Header().Set("Location", a.base(c.Request)+c.Request.URL.EscapedPath()+"/"+url.PathEscape(def.Name))
	}
	a.writeUnstored(c, http.StatusCreated, definitionDocument(namespace, added[0]))
}

// defineTags takes {"tags": [...]} in the place of those that there are or, if
// X-Openstack-Append says so, beside them.
func (a *API) defineTags(c *gin.Context, body []byte) {
	fields, err := decodeObject(body)
	if err != nil {
		a.fail(c, err)
		return
	}
	tags, err := parseDefinitions(metadef.Tag, fields["tags"])
	if err != nil {
		a.fail(c, refuse(http.StatusBadRequest, "attribute tags must be an array of tags: %s", err.Error()))
		return
	}
	appended := strings.EqualFold(c.GetHeader("X-Openstack-Append"), "true")
	added, err := a.metadefs.Define(c.Request.Context(), c.Param("namespace"), metadef.Tag, tags, !appended)
	if err != nil {
		a.fail(c, err)
		return
	}
	a.writeUnstored(c, http.StatusCreated, definitionList(c.Param("namespace"), metadef.Tag, added))
}

// addDefinitionTag answers POST of one tag, whose name is in the path.
func (a *API) addDefinitionTag(c *gin.Context) {
	if hasBody(c.Request) {
		a.fail(c, errUnwantedBody)
		return
	}
	tag := metadef.Definition{Kind: metadef.Tag, Name: c.Param("definition")}
	added, err := a.metadefs.Define(c.Request.Context(), c.Param("namespace"), metadef.Tag, []metadef.Definition{tag}, false)
	if err != nil {
		a.fail(c, err)
		return
	}
	a.writeUnstored(c, http.StatusCreated, definitionDocument(c.Param("namespace"), added[0]))
}

// redefine answers PUT of a definition, which may bring another name along.
func (a *API) redefine(c *gin.Context, kind metadef.Kind) {
	body, err := a.readBody(c.Writer, c.Request)
	if err != nil {
		a.fail(c, err)
		return
	}
	name := c.Param("definition")
	def, err := parseDefinition(kind, body, name)
	if err != nil {
		a.fail(c, err)
		return
	}
	if def, err = a.metadefs.Redefine(c.Request.Context(), c.Param("namespace"), name, def); err != nil {
		a.fail(c, err)
		return
	}
	a.writeUnstored(c, http.StatusOK, definitionDocument(c.Param("namespace"), def))
}

// undefine answers DELETE of a definition, or of all of a kind if name is "".
func (a *API) undefine(c *gin.Context, kind metadef.Kind, name string) {
	if hasBody(c.Request) {
		a.fail(c, errUnwantedBody)
		return
	}
	if err := a.metadefs.Undefine(c.Request.Context(), c.Param("namespace"), kind, name); err != nil {
		a.fail(c, err)
		return
	}
	noContent(c.Writer)
}
