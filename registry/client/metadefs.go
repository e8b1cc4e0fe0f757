package client

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"nearsight/registry"
)

// A Namespace is a catalogue of the properties that images and other resources may
// have, for programs that show forms (Images API v2, "metadefs").
type Namespace struct {
	Name        string              `json:"namespace"`
	DisplayName string              `json:"display_name,omitempty"`
	Description string              `json:"description,omitempty"`
	Visibility  registry.Visibility `json:"visibility,omitempty"` // public or private
	Protected   bool                `json:"protected"`            // cannot be deleted
	Owner       string              `json:"owner,omitempty"`
	CreatedAt   time.Time           `json:"created_at,omitzero"` // the server's to say, in UTC
	UpdatedAt   time.Time           `json:"updated_at,omitzero"`
}

// A DefinitionKind is a kind of what a Namespace defines.
type DefinitionKind string

const (
	PropertyDefinitions DefinitionKind = "properties"
	ObjectDefinitions   DefinitionKind = "objects"
	TagDefinitions      DefinitionKind = "tags"
	// ResourceTypes are what the namespace is meant for, such as OS::Glance::Image.
	ResourceTypes DefinitionKind = "resource_types"
)

// A Definition is one entry of a Namespace.
type Definition struct {
	Name string
	// Document is the entry as a JSON object, for clients to read; schemas tell
	// what may be in it (Client.Schema, metadefs/property ...).
	Document json.RawMessage
}

// A NamespaceQuery says which namespaces are listed. The zero value is all that the
// caller sees.
type NamespaceQuery struct {
	Visibility    registry.Visibility // public or private, "" for both
	ResourceTypes []string            // those that are meant for one of these
	Sort          registry.Order      // keys: namespace, created_at, updated_at; "" is the last made first
	Marker        string              // the name of the one before the first
	Limit         int                 // length of a page, 0 leaves it to the server
}

const namespacesPath = "/v2/metadefs/namespaces"

// Namespaces yields the namespaces that match q, page by page as List does.
func (c *Client) Namespaces(ctx context.Context, q NamespaceQuery) iter.Seq2[*Namespace, error] {
	v := url.Values{}
	set := func(name, value string) {
		if value != "" {
			v.Set(name, value)
		}
	}
	set("visibility", string(q.Visibility))
	set("resource_types", strings.Join(q.ResourceTypes, ","))
	set("marker", q.Marker)
	if q.Limit > 0 {
		v.Set("limit", strconv.Itoa(q.Limit))
	}
	if q.Sort.Key != "" {
		v.Set("sort_key", q.Sort.Key)
		v.Set("sort_dir", direction(q.Sort))
	}
	return func(yield func(*Namespace, error) bool) {
		pages(v, yield, func(query string) ([]*Namespace, string, error) {
			var list struct {
				Namespaces []*Namespace `json:"namespaces"`
				Next       string       `json:"next"`
			}
			if err := c.getJSON(ctx, withQuery(namespacesPath, query), &list); err != nil {
				return nil, "", err
			}
			if slices.Contains(list.Namespaces, nil) {
				return nil, "", fmt.Errorf("%w: a namespace that is null", errAnswer)
			}
			return list.Namespaces, list.Next, nil
		})
	}
}

// Namespace returns a namespace by its name. ErrNotFound if there is none such that
// the caller sees.
func (c *Client) Namespace(ctx context.Context, name string) (*Namespace, error) {
	return c.namespace(ctx, http.MethodGet, name, nil)
}

// CreateNamespace adds an empty namespace, for admins. ErrConflict if the name is
// taken.
func (c *Client) CreateNamespace(ctx context.Context, n *Namespace) (*Namespace, error) {
	doc, err := json.Marshal(n)
	if err != nil {
		return nil, err
	}
	return readNamespace(c.call(ctx, http.MethodPost, namespacesPath, "application/json", doc))
}

// ReplaceNamespace gives a namespace other attributes, and another name if n has one.
// What is not set of n has its default then; what the namespace defines stays.
func (c *Client) ReplaceNamespace(ctx context.Context, name string, n *Namespace) (*Namespace, error) {
	return c.namespace(ctx, http.MethodPut, name, n)
}

func (c *Client) namespace(ctx context.Context, method, name string, n *Namespace) (*Namespace, error) {
	path, err := namespacePath(name)
	if err != nil {
		return nil, err
	}
	m := message{method: method, path: path}
	if n != nil {
		m.contentType = "application/json"
		if m.body, err = json.Marshal(n); err != nil {
			return nil, err
		}
	}
	r, err := c.exchange(ctx, m)
	return readNamespace(r.body, err)
}

// DeleteNamespace removes a namespace with all that it defines. ErrForbidden if it is
// protected.
func (c *Client) DeleteNamespace(ctx context.Context, name string) error {
	path, err := namespacePath(name)
	if err != nil {
		return err
	}
	_, err = c.call(ctx, http.MethodDelete, path, "", nil)
	return err
}

// Definitions returns what a namespace defines of one kind, by name.
func (c *Client) Definitions(ctx context.Context, namespace string, kind DefinitionKind) ([]Definition, error) {
	path, err := definitionPath(namespace, kind, nil)
	if err != nil {
		return nil, err
	}
	var doc map[string]json.RawMessage
	if err := c.getJSON(ctx, path, &doc); err != nil {
		return nil, err
	}
	if kind == PropertyDefinitions { // an object by name, and no list
		var byName map[string]json.RawMessage
		if err := decode(path, doc["properties"], &byName); err != nil {
			return nil, err
		}
		var found []Definition
		for _, name := range slices.Sorted(maps.Keys(byName)) {
			found = append(found, Definition{name, byName[name]})
		}
		return found, nil
	}
	member := string(kind)
	if kind == ResourceTypes {
		member = "resource_type_associations"
	}
	var list []json.RawMessage
	if err := decode(path, doc[member], &list); err != nil {
		return nil, err
	}
	var found []Definition
	for _, raw := range list {
		d, err := readDefinition(raw, nil)
		if err != nil {
			return nil, err
		}
		found = append(found, d)
	}
	slices.SortFunc(found, func(a, b Definition) int { return strings.Compare(a.Name, b.Name) })
	return found, nil
}

// Definition returns one entry of a namespace; there is no such call for ResourceTypes.
func (c *Client) Definition(ctx context.Context, namespace string, kind DefinitionKind, name string) (Definition, error) {
	path, err := definitionPath(namespace, kind, &name)
	if err != nil {
		return Definition{}, err
	}
	return readDefinition(c.call(ctx, http.MethodGet, path, "", nil))
}

// Define adds an entry to a namespace, for admins; doc must become a JSON object with a
// name. ErrConflict if there is one of that name.
func (c *Client) Define(ctx context.Context, namespace string, kind DefinitionKind, doc any) error {
	m := message{method: http.MethodPost, contentType: "application/json"}
	if kind == TagDefinitions {
		// Tags come as a list, which else would replace all that there are.
		doc = map[string]any{"tags": []any{doc}}
		m.fields = http.Header{"X-Openstack-Append": {"True"}}
	}
	var err error
	if m.path, err = definitionPath(namespace, kind, nil); err != nil {
		return err
	}
	if m.body, err = json.Marshal(doc); err != nil {
		return fmt.Errorf("definition: %w", err)
	}
	_, err = c.exchange(ctx, m)
	return err
}

// Redefine replaces an entry of a namespace, for admins; not for ResourceTypes.
func (c *Client) Redefine(ctx context.Context, namespace string, kind DefinitionKind, name string, doc any) error {
	path, err := definitionPath(namespace, kind, &name)
	if err != nil {
		return err
	}
	body, err := json.Marshal(doc)
	if err != nil {
		return fmt.Errorf("definition: %w", err)
	}
	_, err = c.call(ctx, http.MethodPut, path, "application/json", body)
	return err
}

// Undefine removes an entry of a namespace, for admins.
func (c *Client) Undefine(ctx context.Context, namespace string, kind DefinitionKind, name string) error {
	path, err := definitionPath(namespace, kind, &name)
	if err != nil {
		return err
	}
	_, err = c.call(ctx, http.MethodDelete, path, "", nil)
	return err
}

// KnownResourceTypes returns the names of what namespaces can be meant for.
func (c *Client) KnownResourceTypes(ctx context.Context) ([]string, error) {
	var doc struct {
		Types []struct {
			Name string `json:"name"`
		} `json:"resource_types"`
	}
	if err := c.getJSON(ctx, "/v2/metadefs/resource_types", &doc); err != nil {
		return nil, err
	}
	types := make([]string, 0, len(doc.Types))
	for _, t := range doc.Types {
		types = append(types, t.Name)
	}
	return types, nil
}

func namespacePath(name string) (string, error) {
	escaped, err := segment("namespace", name)
	return namespacesPath + "/" + escaped, err
}

// definitionPath returns the path of the entry of that name, or with nil of all.
func definitionPath(namespace string, kind DefinitionKind, name *string) (string, error) {
	path, err := namespacePath(namespace)
	if err != nil {
		return "", err
	}
	if !slices.Contains([]DefinitionKind{PropertyDefinitions, ObjectDefinitions, TagDefinitions, ResourceTypes}, kind) {
		return "", fmt.Errorf("%w: there are no definitions of kind %.80q", registry.ErrInvalid, kind)
	}
	path += "/" + string(kind)
	if name == nil {
		return path, nil
	}
	escaped, err := segment("definition", *name)
	return path + "/" + escaped, err
}

func readNamespace(body []byte, err error) (*Namespace, error) {
	if err != nil {
		return nil, err
	}
	var n Namespace
	if err := json.Unmarshal(body, &n); err != nil {
		return nil, fmt.Errorf("%w: namespace: %w", errAnswer, err)
	}
	if n.Name == "" {
		return nil, fmt.Errorf("%w: a namespace without a name", errAnswer)
	}
	return &n, nil
}

func readDefinition(body []byte, err error) (Definition, error) {
	if err != nil {
		return Definition{}, err
	}
	var d struct {
		Name string `json:"name"`
	}
	if err := json.Unmarshal(body, &d); err != nil {
		return Definition{}, fmt.Errorf("%w: definition: %w", errAnswer, err)
	}
	if d.Name == "" {
		return Definition{}, fmt.Errorf("%w: a definition without a name", errAnswer)
	}
	return Definition{d.Name, body}, nil
}
