package api

import (
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/gin-gonic/gin"

	"nearsight/registry"
	"nearsight/registry/metadef"
)

const namespacesPath = "/v2/metadefs/namespaces"

// A namespaceKind is a kind of definitions that a namespace is shown with, and the
// member of its document that has them.
type namespaceKind struct {
	kind   metadef.Kind
	member string
}

var namespaceKinds = []namespaceKind{
	{metadef.ResourceType, "resource_type_associations"},
	{metadef.Property, "properties"},
	{metadef.Object, "objects"},
	{metadef.Tag, "tags"},
}

// registerMetadefs adds the routes of metadata definitions, if there is a
// catalogue.
func (a *API) registerMetadefs(r *gin.Engine) {
	if a.metadefs == nil {
		return
	}
	get := func(r gin.IRoutes, path string, h gin.HandlerFunc) {
		r.GET(path, h)
		r.HEAD(path, h)
	}
	get(r, "/v2/schemas/metadefs/:name", a.metadefSchema)
	get(r, "/v2/metadefs/resource_types", a.listResourceTypes)
	all := r.Group(namespacesPath)
	get(all, "", a.listNamespaces)
	all.POST("", a.mayWriteMetadefs, a.createNamespace)
	one := r.Group(namespacesPath+"/:namespace", a.seesNamespace)
	get(one, "", a.showNamespace)
	one.PUT("", a.mayWriteMetadefs, a.replaceNamespace)
	one.DELETE("", a.mayWriteMetadefs, a.deleteNamespace)
	for _, k := range definitionKinds {
		kind := k.kind
		get(one, "/"+k.path, func(c *gin.Context) { a.listDefinitions(c, kind) })
		one.POST("/"+k.path, a.mayWriteMetadefs, func(c *gin.Context) { a.define(c, kind) })
		one.DELETE("/"+k.path+"/:definition", a.mayWriteMetadefs, func(c *gin.Context) { a.undefine(c, kind, c.Param("definition")) })
		if kind == metadef.ResourceType {
			continue
		}
		one.DELETE("/"+k.path, a.mayWriteMetadefs, func(c *gin.Context) { a.undefine(c, kind, "") })
		get(one, "/"+k.path+"/:definition", func(c *gin.Context) { a.showDefinition(c, kind) })
		one.PUT("/"+k.path+"/:definition", a.mayWriteMetadefs, func(c *gin.Context) { a.redefine(c, kind) })
	}
	one.POST("/tags/:definition", a.mayWriteMetadefs, a.addDefinitionTag)
}

// mayWriteMetadefs answers for those who may only look. It comes after
// seesNamespace: what somebody does not see is 404 for every call.
func (a *API) mayWriteMetadefs(c *gin.Context) {
	if err := registry.CallerOf(c.Request.Context()).MayAtAll(registry.WriteMetadefs); err != nil {
		a.fail(c, err)
		c.Abort()
	}
}

// seesNamespace answers for namespaces that the caller does not see.
func (a *API) seesNamespace(c *gin.Context) {
	n, err := a.metadefs.Namespace(c.Request.Context(), c.Param("namespace"))
	if err == nil && !n.SeenBy(registry.CallerOf(c.Request.Context())) {
		err = refuse(http.StatusNotFound, "there is no namespace %.80q", c.Param("namespace"))
	}
	if err != nil {
		a.fail(c, err)
		c.Abort()
	}
}

// A namespaceBody is a namespace as clients write it.
type namespaceBody struct {
	namespace   metadef.Namespace
	definitions []metadef.Definition
}

// parseNamespace reads the body of a create or a replacement. What it does not name
// has its default.
func parseNamespace(body []byte, owner string) (namespaceBody, error) {
	var n namespaceBody
	n.namespace.Owner = owner
	fields, err := decodeObject(body)
	if err != nil {
		return n, err
	}
	if err := checkMembers("namespace", fields, namespaceMembers); err != nil {
		return n, err
	}
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		raw := fields[name]
		text, _ := decodeString(raw)
		switch name {
		case "namespace":
			n.namespace.Name = text
		case "display_name", "description":
			if isNull(raw) {
				break
			}
			if name == "display_name" {
				n.namespace.DisplayName = &text
			} else {
				n.namespace.Description = &text
			}
		case "visibility":
			if n.namespace.Public = text == "public"; !n.namespace.Public && text != "private" {
				return n, wrongType(name, "public or private")
			}
		case "protected":
			n.namespace.Protected = string(raw) == "true"
		case "owner":
			n.namespace.Owner = text
		}
	}
	if n.namespace.Name == "" {
		return n, refuse(http.StatusBadRequest, "a namespace needs a name, in the attribute namespace")
	}
	for _, k := range namespaceKinds {
		if raw, found := fields[k.member]; found {
			found, err := parseDefinitions(k.kind, raw)
			if err != nil {
				return n, err
			}
			n.definitions = append(n.definitions, found...)
		}
	}
	return n, nil
}

// createNamespace answers POST of a namespace.
func (a *API) createNamespace(c *gin.Context) {
	ctx := c.Request.Context()
	body, err := a.readBody(c.Writer, c.Request)
	if err != nil {
		a.fail(c, err)
		return
	}
	wanted, err := parseNamespace(body, registry.CallerOf(ctx).Project)
	if err != nil {
		a.fail(c, err)
		return
	}
	n, err := a.metadefs.CreateNamespace(ctx, &wanted.namespace, wanted.definitions)
	if err != nil {
		a.fail(c, err)
		return
	}
	c.Writer.Header().Set("Location", a.base(c.Request)+namespacePath(n.Name))
	a.answerNamespace(c, http.StatusCreated, n)
}

// replaceNamespace answers PUT of a namespace: its own attributes, not what it
// defines.
func (a *API) replaceNamespace(c *gin.Context) {
	ctx := c.Request.Context()
	body, err := a.readBody(c.Writer, c.Request)
	if err != nil {
		a.fail(c, err)
		return
	}
	wanted, err := parseNamespace(body, "")
	if err != nil {
		a.fail(c, err)
		return
	}
	n, err := a.metadefs.UpdateNamespace(ctx, c.Param("namespace"), func(n *metadef.Namespace) error {
		if wanted.namespace.Owner == "" {
			wanted.namespace.Owner = n.Owner
		}
		*n = wanted.namespace
		return nil
	})
	if err != nil {
		a.fail(c, err)
		return
	}
	a.answerNamespace(c, http.StatusOK, n)
}

// deleteNamespace answers DELETE of a namespace.
func (a *API) deleteNamespace(c *gin.Context) {
	if hasBody(c.Request) {
		a.fail(c, errUnwantedBody)
		return
	}
	if err := a.metadefs.DeleteNamespace(c.Request.Context(), c.Param("namespace")); err != nil {
		a.fail(c, err)
		return
	}
	noContent(c.Writer)
}

// answerNamespace answers a call that changed a namespace.
func (a *API) answerNamespace(c *gin.Context, status int, n *metadef.Namespace) {
	doc, err := a.namespaceDocument(c.Request.Context(), n, "", namespaceKinds...)
	if err != nil {
		a.fail(c, err)
		return
	}
	a.writeUnstored(c, status, doc)
}

// writeUnstored answers with a document that no cache may keep.
func (a *API) writeUnstored(c *gin.Context, status int, doc any) {
	c.Writer.Header().Set("Cache-Control", "no-store")
	writeJSON(c.Writer, c.Request, status, encodeJSON(doc))
}

func namespacePath(name string) string { return namespacesPath + "/" + url.PathEscape(name) }

// namespaceDocument returns the JSON form of a namespace with what it defines of
// some kinds. With a resource type, its properties have the prefix that they have
// there.
func (a *API) namespaceDocument(ctx context.Context, n *metadef.Namespace, resourceType string, kinds ...namespaceKind) (map[string]any, error) {
	visibility := "private"
	if n.Public {
		visibility = "public"
	}
	doc := map[string]any{
		"namespace": n.Name, "visibility": visibility, "protected": n.Protected, "owner": n.Owner,
		"created_at": timeText(n.CreatedAt), "updated_at": timeText(n.UpdatedAt),
		"self": namespacePath(n.Name), "schema": "/v2/schemas/metadefs/namespace",
	}
	if n.DisplayName != nil {
		doc["display_name"] = *n.DisplayName
	}
	if n.Description != nil {
		doc["description"] = *n.Description
	}
	prefix := ""
	for _, k := range kinds {
		found, err := a.metadefs.Definitions(ctx, n.Name, k.kind)
		if err != nil {
			return nil, err
		}
		if k.kind == metadef.ResourceType {
			prefix = prefixFor(found, resourceType)
		}
		if k.kind == metadef.Property {
			doc[k.member] = properties(found, prefix)
			continue
		}
		list := []map[string]any{}
		for _, def := range found {
			list = append(list, definitionDocument(n.Name, def))
		}
		doc[k.member] = list
	}
	return doc, nil
}

// showNamespace answers GET and HEAD of a namespace.
func (a *API) showNamespace(c *gin.Context) {
	n, err := a.metadefs.Namespace(c.Request.Context(), c.Param("namespace"))
	if err != nil {
		a.fail(c, err)
		return
	}
	doc, err := a.namespaceDocument(c.Request.Context(), n, c.Query("resource_type"), namespaceKinds...)
	if err != nil {
		a.fail(c, err)
		return
	}
	a.writeDocument(c, newDocument(encodeJSON(doc)))
}

// listNamespaces answers GET and HEAD of the list of namespaces.
func (a *API) listNamespaces(c *gin.Context) {
	params, err := parseParams(c.Request.URL.RawQuery)
	if err != nil {
		a.fail(c, err)
		return
	}
	q, err := a.namespaceQuery(params)
	if err != nil {
		a.fail(c, err)
		return
	}
	ctx := c.Request.Context()
	q.Caller = registry.CallerOf(ctx)
	found, err := a.metadefs.Namespaces(ctx, q)
	if err != nil {
		a.fail(c, err)
		return
	}
	list := []map[string]any{}
	for _, n := range found {
		doc, err := a.namespaceDocument(ctx, n, "", namespaceKinds[0])
		if err != nil {
			a.fail(c, err)
			return
		}
		list = append(list, doc)
	}
	first := firstPage(params)
	doc := map[string]any{
		"namespaces": list, "schema": "/v2/schemas/metadefs/namespaces", "first": linkTo(namespacesPath, first, ""),
	}
	if q.Limit > 0 && len(found) == q.Limit {
		doc["next"] = linkTo(namespacesPath, first, found[len(found)-1].Name)
	}
	a.writeDocument(c, newDocument(encodeJSON(doc)))
}

// linkTo returns the path of the page after marker, "" for the first one.
func linkTo(path, query, marker string) string {
	if marker != "" {
		if query != "" {
			query += "&"
		}
		query += "marker=" + url.QueryEscape(marker)
	}
	if query != "" {
		query = "?" + query
	}
	return path + query
}

// namespaceQuery translates the parameters of a list. Those that it does not know
// mean nothing, as in Glance.
func (a *API) namespaceQuery(params []param) (metadef.Query, error) {
	q := metadef.Query{Limit: a.defaultLimit}
	order := registry.Order{Key: "created_at", Desc: true}
	for _, p := range params {
		var err error
		switch p.name {
		case "limit":
			q.Limit, err = a.limit(p)
		case "marker":
			q.Marker = p.value
		case "sort_key":
			order.Key = p.value
			err = oneOf(p, "namespace", "created_at", "updated_at")
		case "sort_dir":
			order.Desc = p.value == "desc"
			err = oneOf(p, "asc", "desc")
		case "visibility":
			public := p.value == "public"
			q.Public, err = &public, oneOf(p, "public", "private")
		case "resource_types":
			q.ResourceTypes = strings.Split(p.value, ",")
			if len(q.ResourceTypes) > maxAlternatives {
				err = badQuery(p.name, "there are more than %d", maxAlternatives)
			}
		}
		if err != nil {
			return metadef.Query{}, err
		}
	}
	q.Sort = []registry.Order{order}
	return q, nil
}

// listResourceTypes answers GET and HEAD of the known resource types.
func (a *API) listResourceTypes(c *gin.Context) {
	names, err := a.metadefs.ResourceTypes(c.Request.Context())
	if err != nil {
		a.fail(c, err)
		return
	}
	list := make([]map[string]string, len(names))
	for i, name := range names {
		list[i] = map[string]string{"name": name}
	}
	a.writeDocument(c, newDocument(encodeJSON(map[string]any{"resource_types": list})))
}

// decodeDocument returns the members of a stored document.
func decodeDocument(raw json.RawMessage) map[string]any {
	doc := map[string]any{}
	if len(raw) > 0 {
		d := json.NewDecoder(strings.NewReader(string(raw)))
		d.UseNumber()  // numbers go out as they came
		d.Decode(&doc) // it was checked when it came
	}
	return doc
}
