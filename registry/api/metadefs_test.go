package api

import (
	"net/http"
	"strings"
	"testing"

	"nearsight/registry"
	"nearsight/registry/metadef"
)

// A metadefCall is one call and what must come of it.
type metadefCall struct {
	name, method, path, body string
	caller                   *registry.Caller // nil: an admin
	status                   int
	want                     []string // texts of the answer; with ! in front they must not be there
}

func TestMetadataDefinitions(t *testing.T) {
	const base = "/v2/metadefs"
	member := &registry.Caller{Project: "one", Roles: []string{"member"}}
	other := &registry.Caller{Project: "two", Roles: []string{"reader"}}
	nobody := &registry.Caller{}
	g := newRig(t, func(o *Options) { o.Metadefs = o.Images.(metadef.Catalogue) })
	for _, tt := range []metadefCall{
		{"none at first", "GET", "/namespaces", "", nil, 200, []string{`"namespaces":[]`, `"schema":"/v2/schemas/metadefs/namespaces"`, `"first":"/v2/metadefs/namespaces"`, `!next`}},
		{"there are resource types from the start", "GET", "/resource_types", "", other, 200, []string{`"OS::Nova::Server"`}},
		{"a namespace with all that is in it", "POST", "/namespaces", `{"namespace":"a","display_name":"A","visibility":"private","owner":"one",
			"resource_type_associations":[{"name":"OS::Nova::Server","prefix":"hw_","properties_target":"metadata"}],
			"properties":{"cpu":{"title":"CPU","type":"integer","minimum":1,"maximum":64,"operators":["<or>"]}},
			"objects":[{"name":"box","description":"a box","required":["w"],"properties":{"w":{"title":"W","type":"string"}}}],
			"tags":[{"name":"t1"}]}`, nil, 201, []string{`"self":"/v2/metadefs/namespaces/a"`, `"prefix":"hw_"`, `"minimum":1`, `"name":"box"`, `"name":"t1"`, `"schema":"/v2/schemas/metadefs/namespace"`}},
		{"its name is taken", "POST", "/namespaces", `{"namespace":"a"}`, nil, 409, nil},
		{"members of a project cannot write", "POST", "/namespaces", `{"namespace":"b"}`, member, 403, nil},
		{"a public one", "POST", "/namespaces", `{"namespace":"b","visibility":"public","protected":true}`, nil, 201, []string{`"visibility":"public"`}},
		{"without a name", "POST", "/namespaces", `{"display_name":"x"}`, nil, 400, nil},
		{"with what it does not have", "POST", "/namespaces", `{"namespace":"c","color":"red"}`, nil, 400, []string{"color"}},
		{"with a wrong visibility", "POST", "/namespaces", `{"namespace":"c","visibility":"shared"}`, nil, 400, nil},
		{"with a wrong type", "POST", "/namespaces", `{"namespace":"c","protected":"yes"}`, nil, 400, []string{"protected"}},
		{"with a property without a type", "POST", "/namespaces", `{"namespace":"c","properties":{"p":{"title":"P"}}}`, nil, 400, []string{"type"}},
		{"and nothing of it was stored", "GET", "/namespaces/c", "", nil, 404, nil},

		{"owners see theirs", "GET", "/namespaces/a", "", member, 200, []string{`"display_name":"A"`, `"cpu"`}},
		{"with the prefix of a resource type", "GET", "/namespaces/a?resource_type=OS::Nova::Server", "", member, 200, []string{`"hw_cpu"`}},
		{"others do not", "GET", "/namespaces/a", "", other, 404, nil},
		{"nor what is in it", "GET", "/namespaces/a/properties", "", other, 404, nil},
		{"nor learn that they might not write", "DELETE", "/namespaces/a", "", other, 404, nil},
		{"nor list it", "GET", "/namespaces", "", other, 200, []string{`"namespace":"b"`, `!"namespace":"a"`}},
		{"nor those without a role anything", "GET", "/namespaces", "", nobody, 200, []string{`"namespaces":[]`}},
		{"pages", "GET", "/namespaces?limit=1&sort_key=namespace&sort_dir=asc", "", nil, 200, []string{`"namespace":"a"`, `"next":"/v2/metadefs/namespaces?limit=1&sort_key=namespace&sort_dir=asc&marker=a"`}},
		{"the next page", "GET", "/namespaces?limit=1&sort_key=namespace&sort_dir=asc&marker=a", "", nil, 200, []string{`"namespace":"b"`}},
		{"by resource type", "GET", "/namespaces?resource_types=OS::Nova::Server,X", "", nil, 200, []string{`"namespace":"a"`, `!"namespace":"b"`}},
		{"by visibility", "GET", "/namespaces?visibility=private", "", nil, 200, []string{`"namespace":"a"`, `!"namespace":"b"`}},
		{"with a marker that is none", "GET", "/namespaces?marker=zz", "", nil, 400, nil},
		{"with a marker that one does not see", "GET", "/namespaces?marker=a", "", other, 400, nil},
		{"with a wrong order", "GET", "/namespaces?sort_key=owner", "", nil, 400, nil},
		{"with a wrong limit", "GET", "/namespaces?limit=-1", "", nil, 400, nil},

		{"properties are an object", "GET", "/namespaces/a/properties", "", member, 200, []string{`{"properties":{"cpu":{`}},
		{"a property", "POST", "/namespaces/a/properties", `{"name":"mem","title":"M","type":"integer"}`, nil, 201, []string{`"name":"mem"`}},
		{"a property twice", "POST", "/namespaces/a/properties", `{"name":"mem","title":"M","type":"integer"}`, nil, 409, nil},
		{"a property of a type that there is not", "POST", "/namespaces/a/properties", `{"name":"x","title":"M","type":"int"}`, nil, 400, nil},
		{"a property changes", "PUT", "/namespaces/a/properties/mem", `{"name":"memory","title":"M","type":"integer"}`, nil, 200, []string{`"memory"`}},
		{"and has its new name", "GET", "/namespaces/a/properties/memory", "", nil, 200, []string{`"title":"M"`}},
		{"and not its old one", "GET", "/namespaces/a/properties/mem", "", nil, 404, nil},
		{"a property goes", "DELETE", "/namespaces/a/properties/memory", "", nil, 204, nil},
		{"once", "DELETE", "/namespaces/a/properties/memory", "", nil, 404, nil},

		{"objects", "GET", "/namespaces/a/objects", "", nil, 200, []string{`"objects":[{`, `"self":"/v2/metadefs/namespaces/a/objects/box"`, `"schema":"/v2/schemas/metadefs/objects"`}},
		{"an object", "POST", "/namespaces/a/objects", `{"name":"bag"}`, nil, 201, []string{`"name":"bag"`}},
		{"an object with a bad property", "POST", "/namespaces/a/objects", `{"name":"bad","properties":{"p":{}}}`, nil, 400, nil},
		{"all objects go", "DELETE", "/namespaces/a/objects", "", nil, 204, nil},
		{"and are gone", "GET", "/namespaces/a/objects/box", "", nil, 404, nil},

		{"tags are replaced", "POST", "/namespaces/a/tags", `{"tags":[{"name":"t2"},{"name":"t3"}]}`, nil, 201, []string{`"t2"`}},
		{"so that the old are gone", "GET", "/namespaces/a/tags", "", nil, 200, []string{`"t3"`, `!"t1"`}},
		{"a tag twice in one call", "POST", "/namespaces/a/tags", `{"tags":[{"name":"t4"},{"name":"t4"}]}`, nil, 409, nil},
		{"and nothing changed", "GET", "/namespaces/a/tags", "", nil, 200, []string{`"t3"`, `!"t4"`}},
		{"one tag by its path", "POST", "/namespaces/a/tags/t5", "", nil, 201, []string{`"t5"`}},
		{"a tag is renamed", "PUT", "/namespaces/a/tags/t5", `{"name":"t6"}`, nil, 200, []string{`"t6"`}},
		{"tags without tags", "POST", "/namespaces/a/tags", `{}`, nil, 400, nil},

		{"associations", "GET", "/namespaces/a/resource_types", "", nil, 200, []string{`"resource_type_associations":[{`, `"properties_target":"metadata"`}},
		{"another", "POST", "/namespaces/a/resource_types", `{"name":"My::Type"}`, nil, 201, []string{`"My::Type"`}},
		{"is known from then on", "GET", "/resource_types", "", nil, 200, []string{`"My::Type"`}},
		{"goes", "DELETE", "/namespaces/a/resource_types/My::Type", "", nil, 204, nil},
		{"cannot be shown alone", "GET", "/namespaces/a/resource_types/My::Type", "", nil, 405, nil},

		{"a protected namespace stays", "DELETE", "/namespaces/b", "", nil, 403, nil},
		{"a namespace is renamed, and is not protected", "PUT", "/namespaces/b", `{"namespace":"bb","visibility":"public"}`, nil, 200, []string{`"namespace":"bb"`, `"protected":false`}},
		{"not to a name that is taken", "PUT", "/namespaces/bb", `{"namespace":"a"}`, nil, 409, nil},
		{"a namespace goes", "DELETE", "/namespaces/bb", "", nil, 204, nil},
		{"with a renamed one goes what is in it", "PUT", "/namespaces/a", `{"namespace":"aa"}`, nil, 200, nil},
		{"which was there", "GET", "/namespaces/aa/tags/t6", "", nil, 200, nil},
		{"to its end", "DELETE", "/namespaces/aa", "", nil, 204, nil},
		{"and is 404 then", "GET", "/namespaces/aa/tags", "", nil, 404, nil},
		{"slashes at the end are not tolerated", "GET", "/namespaces/", "", nil, 404, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			caller := tt.caller
			if caller == nil {
				caller = registry.Everybody()
			}
			g.as(caller)
			w := g.do(tt.method+" "+base+tt.path, tt.body)
			if w.Code != tt.status {
				t.Fatalf("status %d, not %d: %s", w.Code, tt.status, w.Body)
			}
			for _, want := range tt.want {
				unwanted, not := strings.CutPrefix(want, "!")
				if strings.Contains(w.Body.String(), unwanted) == not {
					t.Errorf("%s: %s", want, w.Body)
				}
			}
		})
	}
}

func TestMetadefSchemas(t *testing.T) {
	g := newRig(t, func(o *Options) { o.Metadefs = o.Images.(metadef.Catalogue) })
	for _, name := range []string{
		"namespace", "namespaces", "resource_type", "resource_types", "property", "properties", "object", "objects", "tag", "tags",
	} {
		w := g.do("GET /v2/schemas/metadefs/"+name, "")
		if w.Code != http.StatusOK || !strings.Contains(w.Body.String(), `"name":"`+strings.Replace(name, "resource_type", "resource_type_association", 1)+`"`) {
			t.Errorf("%s: %d %s", name, w.Code, w.Body)
		}
	}
	if w := g.do("GET /v2/schemas/metadefs/other", ""); w.Code != http.StatusNotFound {
		t.Errorf("another: %d", w.Code)
	}
}

func FuzzParseDefinitions(f *testing.F) {
	f.Add(`{"namespace":"a","properties":{"p":{"title":"t","type":"string"}},"objects":[{"name":"o"}],"tags":[{"name":"t"}]}`)
	f.Add(`{"namespace":"a","resource_type_associations":[{"name":"n","prefix":null}],"properties":{"p":{"title":"t","type":[]}}}`)
	f.Fuzz(func(t *testing.T, body string) {
		n, err := parseNamespace([]byte(body), "")
		if err != nil {
			return
		}
		for _, def := range n.definitions {
			if def.Validate() == nil {
				definitionDocument(n.namespace.Name, def)
			}
		}
	})
}
