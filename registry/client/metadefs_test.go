package client_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"nearsight/registry"
	"nearsight/registry/client"
)

func TestMetadefs(t *testing.T) {
	s := newSite()
	defer s.Close()
	ctx := t.Context()
	admin, red := s.as("admin"), s.as("red")
	for _, name := range []string{"OS::A", "b", "c"} {
		n, err := admin.CreateNamespace(ctx, &client.Namespace{Name: name, DisplayName: "shown", Visibility: registry.Public})
		want(t, "create", err, nil)
		if n.Name != name || n.DisplayName != "shown" || n.CreatedAt.IsZero() {
			t.Errorf("namespace %+v", n)
		}
	}
	_, err := admin.CreateNamespace(ctx, &client.Namespace{Name: "b"})
	want(t, "create twice", err, registry.ErrConflict)
	_, err = red.CreateNamespace(ctx, &client.Namespace{Name: "d"})
	want(t, "create of members", err, registry.ErrForbidden)

	const ns = "OS::A"
	for _, tt := range []struct {
		kind       client.DefinitionKind
		doc, other map[string]any
	}{
		{client.PropertyDefinitions, map[string]any{"name": "cpus", "title": "CPUs", "type": "integer"}, map[string]any{"name": "cpus", "title": "Cores", "type": "integer"}},
		{client.ObjectDefinitions, map[string]any{"name": "o"}, map[string]any{"name": "o", "description": "d"}},
		{client.TagDefinitions, map[string]any{"name": "t"}, map[string]any{"name": "u"}},
		{client.ResourceTypes, map[string]any{"name": "OS::Glance::Image", "prefix": "hw_"}, nil},
	} {
		t.Run(string(tt.kind), func(t *testing.T) {
			name := tt.doc["name"].(string)
			want(t, "define", admin.Define(ctx, ns, tt.kind, tt.doc), nil)
			want(t, "define of members", red.Define(ctx, ns, tt.kind, tt.doc), registry.ErrForbidden)
			found, err := red.Definitions(ctx, ns, tt.kind)
			want(t, "list", err, nil)
			if len(found) != 1 || found[0].Name != name || !strings.HasPrefix(string(found[0].Document), "{") {
				t.Errorf("definitions %+v", found)
			}
			if tt.other != nil {
				one, err := red.Definition(ctx, ns, tt.kind, name)
				want(t, "show", err, nil)
				if one.Name != name {
					t.Errorf("definition %+v", one)
				}
				want(t, "redefine", admin.Redefine(ctx, ns, tt.kind, name, tt.other), nil)
				name = tt.other["name"].(string)
			}
			want(t, "undefine", admin.Undefine(ctx, ns, tt.kind, name), nil)
			want(t, "undefine twice", admin.Undefine(ctx, ns, tt.kind, name), registry.ErrNotFound)
		})
	}
	_, err = red.Definitions(ctx, ns, "verbs")
	want(t, "definitions of no kind", err, registry.ErrInvalid)
	want(t, "a tag", admin.Define(ctx, ns, client.TagDefinitions, map[string]any{"name": "x"}), nil)
	want(t, "a tag more", admin.Define(ctx, ns, client.TagDefinitions, map[string]any{"name": "w"}), nil)
	tags, err := red.Definitions(ctx, ns, client.TagDefinitions)
	want(t, "tags", err, nil)
	if len(tags) != 2 || tags[0].Name != "w" {
		t.Errorf("tags %+v", tags)
	}

	var names []string
	for n, err := range red.Namespaces(ctx, client.NamespaceQuery{Visibility: registry.Public, Sort: registry.Order{Key: "namespace"}, Limit: 2}) {
		want(t, "list", err, nil)
		names = append(names, n.Name)
	}
	if !slices.Equal(names, []string{"OS::A", "b", "c"}) {
		t.Errorf("namespaces %q", names)
	}
	n, err := admin.ReplaceNamespace(ctx, "b", &client.Namespace{Name: "bb", Protected: true})
	want(t, "replace", err, nil)
	if n.Name != "bb" || !n.Protected {
		t.Errorf("namespace %+v", n)
	}
	want(t, "delete", admin.DeleteNamespace(ctx, "bb"), registry.ErrForbidden)
	want(t, "delete", admin.DeleteNamespace(ctx, ns), nil)
	_, err = red.Namespace(ctx, ns)
	want(t, "show what was deleted", err, registry.ErrNotFound)
	_, err = red.Namespace(ctx, "..")
	want(t, "show what is none", err, registry.ErrInvalid)
	types, err := red.KnownResourceTypes(ctx)
	want(t, "resource types", err, nil)
	if !slices.Contains(types, "OS::Glance::Image") {
		t.Errorf("resource types %q", types)
	}
}

func TestMetadefsThatMakeNoSense(t *testing.T) {
	for _, body := range []string{`{}`, `[]`, `{"namespaces":[null]}`, `{"tags":[{}]}`, `{"properties":[]}`} {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, body) }))
		c, err := client.New(client.Options{Server: s.URL})
		want(t, "new", err, nil)
		_, err = c.Namespace(t.Context(), "n")
		_, err2 := c.Definition(t.Context(), "n", client.TagDefinitions, "t")
		_, err3 := c.Definitions(t.Context(), "n", client.TagDefinitions)
		_, err4 := c.Definitions(t.Context(), "n", client.PropertyDefinitions)
		for i, err := range []error{err, err2, err3, err4} {
			if err == nil || !strings.Contains(err.Error(), "not understood") {
				t.Errorf("%s, call %d: error %v", body, i, err)
			}
		}
		for n, err := range c.Namespaces(t.Context(), client.NamespaceQuery{}) {
			if err == nil {
				t.Errorf("%s: %+v", body, n)
			}
		}
		c.Close()
		s.Close()
	}
}
