package api

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"nearsight/registry"
)

func TestCreatedImageHasEveryField(t *testing.T) {
	g := newRig(t)
	w := g.want(201, "POST /v2/images", `{"id":"`+id1+`","name":"n","disk_format":"qcow2","container_format":"bare",
		"min_ram":1,"min_disk":2,"tags":["b","a","b"],"protected":true,"os_hidden":true,"owner":"o","visibility":"public","trait:X":"required"}`)
	if l := w.Header().Get("Location"); l != "http://example.com/v2/images/"+id1 {
		t.Errorf("Location %q", l)
	}
	img := g.get(id1)
	at := img.CreatedAt.Format("2006-01-02T15:04:05Z")
	want := `{"id":"` + id1 + `","name":"n","status":"queued","visibility":"public","protected":true,"os_hidden":true,` +
		`"checksum":null,"os_hash_algo":null,"os_hash_value":null,"owner":"o","size":null,"virtual_size":null,` +
		`"container_format":"bare","disk_format":"qcow2","min_ram":1,"min_disk":2,"tags":["a","b"],` +
		`"created_at":"` + at + `","updated_at":"` + at + `","self":"/v2/images/` + id1 + `","file":"/v2/images/` + id1 + `/file",` +
		`"schema":"/v2/schemas/image","trait:X":"required"}`
	if got := w.Body.String(); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if got := g.want(200, "GET /v2/images/"+id1, "").Body.String(); got != want {
		t.Errorf("show differs: %s", got)
	}
}

func TestCreatedImageHasDefaults(t *testing.T) {
	g := newRig(t)
	v := decode(t, g.want(201, "POST /v2/images", `{}`))
	for name, want := range map[string]any{
		"status": "queued", "visibility": "shared", "protected": false, "os_hidden": false, "min_ram": 0.0, "min_disk": 0.0,
		"name": nil, "owner": nil, "disk_format": nil, "container_format": nil, "size": nil, "schema": "/v2/schemas/image",
	} {
		if got, ok := v[name]; !ok || got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
	if tags, ok := v["tags"].([]any); !ok || len(tags) != 0 {
		t.Errorf("tags are %v", v["tags"])
	}
}

func TestCreate(t *testing.T) {
	g := newRig(t)
	g.create(`"id":"` + id1 + `"`)
	g.create(`"id":"` + id2 + `"`)
	g.want(204, "DELETE /v2/images/"+id2, "")
	many := func(n int, f func(int) string) string {
		var items []string
		for i := range n {
			items = append(items, f(i))
		}
		return strings.Join(items, ",")
	}
	property := func(i int) string { return fmt.Sprintf(`"p%d":"x"`, i) }
	tag := func(i int) string { return fmt.Sprintf(`"t%d"`, i) }
	for _, tt := range []struct {
		name, body string
		status     int
	}{
		{"nothing", ``, 400},
		{"blanks", ` `, 400},
		{"malformed", `{"name":`, 400},
		{"trailing garbage", `{} x`, 400},
		{"two documents", `{}{}`, 400},
		{"a list, a 500 of Glance [R]", `[]`, 400},
		{"a scalar", `7`, 400},
		{"null", `null`, 400},
		{"not UTF-8", "{\"name\":\"\xff\"}", 400},
		{"deep", `{"x":` + strings.Repeat("[", 20000) + strings.Repeat("]", 20000) + `}`, 400},
		{"larger than 1 MiB", `{"x":"` + strings.Repeat("a", 1<<20) + `"}`, 413},

		{"name null", `{"name":null}`, 201},
		{"name with separators", `{"name":"a/b\\c:d"}`, 201},
		{"name beyond ASCII", `{"name":"Größe 日本 🐧"}`, 201},
		{"name of 255 characters", `{"name":"` + strings.Repeat("é", 255) + `"}`, 201},
		{"name of 256 characters", `{"name":"` + strings.Repeat("é", 256) + `"}`, 400},
		{"name with a line break", `{"name":"a\nb"}`, 400},
		{"name with NUL", `{"name":"a\u0000b"}`, 400},
		{"name a number", `{"name":7}`, 400},
		{"names are case-sensitive", `{"NAME":"custom"}`, 201},
		{"of two equal names the last counts", `{"min_ram":"x","min_ram":5}`, 201},
		{"bad id", `{"id":"x"}`, 400},
		{"id null", `{"id":null}`, 400},
		{"id in use", `{"id":"` + id1 + `"}`, 409},
		{"id of a deleted image (OSSN-0075) [R]", `{"id":"` + id2 + `"}`, 409},
		{"owner as admin", `{"owner":"p"}`, 201},
		{"owner null as admin", `{"owner":null}`, 201},
		{"public as admin", `{"visibility":"public"}`, 201},
		{"community", `{"visibility":"community"}`, 201},
		{"unknown visibility", `{"visibility":"secret"}`, 400},
		{"visibility null", `{"visibility":null}`, 400},
		{"visibility all is for lists", `{"visibility":"all"}`, 400},
		{"protected a string", `{"protected":"true"}`, 400},
		{"os_hidden null", `{"os_hidden":null}`, 400},
		{"formats null", `{"disk_format":null,"container_format":null}`, 201},
		{"tempest: unknown container format", `{"container_format":"wrong"}`, 400},
		{"tempest: unknown disk format", `{"disk_format":"wrong"}`, 400},
		{"empty disk format", `{"disk_format":""}`, 400},
		{"min_ram at its end [R]", `{"min_ram":2147483647}`, 201},
		{"min_ram beyond its end [R]", `{"min_ram":2147483648}`, 400},
		{"min_disk negative", `{"min_disk":-1}`, 400},
		{"min_disk null", `{"min_disk":null}`, 400},
		{"min_disk a string", `{"min_disk":"1"}`, 400},
		{"min_disk with a fraction", `{"min_disk":1.0}`, 400},
		{"min_disk a huge number", `{"min_disk":1e999}`, 400},
		{"tags null", `{"tags":null}`, 400},
		{"tags a string", `{"tags":"a"}`, 400},
		{"tag a number", `{"tags":[1]}`, 400},
		{"tag of 256 characters", `{"tags":["` + strings.Repeat("t", 256) + `"]}`, 400},
		{"tag with a control character", `{"tags":["\u0007"]}`, 400},
		{"128 tags", `{"tags":[` + many(128, tag) + `]}`, 201},
		{"129 tags", `{"tags":[` + many(129, tag) + `]}`, 413},
		{"129 tags, two of them equal", `{"tags":["t0",` + many(128, tag) + `]}`, 201},

		{"property of openstacksdk", `{"owner_specified.openstack.md5":""}`, 201},
		{"property of several lines", `{"description":"a\n\tb"}`, 201},
		{"property with NUL", `{"description":"a\u0000"}`, 400},
		{"property null", `{"x":null}`, 400},
		{"property a number", `{"x":1}`, 400},
		{"property true", `{"x":true}`, 400},
		{"property an object", `{"x":{}}`, 400},
		{"property named by a blank, as no patch could", `{" ":"x"}`, 400},
		{"half a surrogate pair", `{"name":"\ud800"}`, 400},
		{"the other half", `{"name":"\uDC00x"}`, 400},
		{"two first halves", `{"x":"\ud800\ud800"}`, 400},
		{"a first half before another escape", `{"x":"\ud800\n"}`, 400},
		{"half a pair in a name", `{"\ud800":"x"}`, 400},
		{"a whole pair", `{"name":"\ud83d\udc27"}`, 201},
		{"a backslash before ud800", `{"name":"\\ud800"}`, 201},
		{"property without a name", `{"":"x"}`, 400},
		{"property name of 255 characters", `{"` + strings.Repeat("k", 255) + `":"x"}`, 201},
		{"property name of 256 characters", `{"` + strings.Repeat("k", 256) + `":"x"}`, 400},
		{"128 properties", `{` + many(128, property) + `}`, 201},
		{"129 properties", `{` + many(129, property) + `}`, 413},
		{"kernel_id", `{"kernel_id":"` + id1 + `"}`, 201},
		{"kernel_id null", `{"kernel_id":null}`, 201},
		{"kernel_id that is none", `{"kernel_id":"x"}`, 400},
		{"ramdisk_id that is none", `{"ramdisk_id":""}`, 400},
		{"key deletion policy", `{"cinder_encryption_key_deletion_policy":"do_not_delete"}`, 201},
		{"unknown key deletion policy", `{"cinder_encryption_key_deletion_policy":"x"}`, 400},
		{"internal names of Glance are properties", `{"image_id":"x","extra_properties":"y","member":"z"}`, 201},

		{"reserved location", `{"location":"x"}`, 403},
		{"reserved deleted", `{"deleted":"x"}`, 403},
		{"reserved deleted_at", `{"deleted_at":"x"}`, 403},
		{"tempest: reserved os_glance_foo", `{"os_glance_foo":"x"}`, 403},
		{"forbidden comes before wrong", `{"min_ram":"x","status":7}`, 403},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := g.do("POST /v2/images", tt.body)
			if w.Code != tt.status {
				t.Errorf("status %d, want %d: %s", w.Code, tt.status, w.Body)
			}
		})
	}
	for _, name := range []string{"direct_url", "self", "file", "schema", "stores", "status", "size", "virtual_size", "checksum",
		"created_at", "updated_at", "locations", "os_hash_algo", "os_hash_value"} {
		t.Run("read-only "+name, func(t *testing.T) {
			if w := g.do("POST /v2/images", `{"`+name+`":"x"}`); w.Code != 403 {
				t.Errorf("status %d: %s", w.Code, w.Body)
			}
		})
	}
}

func TestShow(t *testing.T) {
	g := newRig(t)
	g.create(`"id":"` + id1 + `"`)
	for _, tt := range []struct {
		name, line, body string
		status           int
	}{
		{"an image", "GET /v2/images/" + id1, "", 200},
		{"tempest: an unknown image", "GET /v2/images/" + absent, "", 404},
		{"what is no id", "GET /v2/images/cirros", "", 404},
		{"ids are case-sensitive", "GET /v2/images/" + strings.Replace(absent, "9", "A", 8), "", 404},
		{"a body [R]", "GET /v2/images/" + id1, "x", 400},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if w := g.do(tt.line, tt.body); w.Code != tt.status {
				t.Errorf("status %d, want %d: %s", w.Code, tt.status, w.Body)
			}
		})
	}
}

// http-semantics.md: V2, C0, C1, C5, T3, F4, F9, section 0.
func TestMetadataIsConditional(t *testing.T) {
	g := newRig(t)
	g.create(`"id":"` + id1 + `","visibility":"public"`)
	g.create(`"id":"` + id2 + `"`)
	for _, target := range []string{"/v2/images/" + id1, "/v2/images/" + id2, "/v2/images?name=x", "/v2/schemas/image"} {
		t.Run(target, func(t *testing.T) {
			get, head := g.want(200, "GET "+target, ""), g.want(200, "HEAD "+target, "")
			if head.Body.Len() != 0 || !maps.EqualFunc(without(get.Header()), without(head.Header()), slices.Equal) {
				t.Errorf("HEAD has %v, GET %v", head.Header(), get.Header())
			}
			if get.Header().Get("Accept-Ranges") != "" || get.Header().Get("Content-Length") != fmt.Sprint(get.Body.Len()) {
				t.Errorf("header %v", get.Header())
			}
			tag := get.Header().Get("ETag")
			if !strings.HasPrefix(tag, `"m-`) {
				t.Fatalf("ETag %q", tag)
			}
			for _, tt := range []struct {
				name   string
				fields []string
				status int
			}{
				{"same tag", []string{"If-None-Match: " + tag}, 304},
				{"weak tag", []string{"If-None-Match: W/" + tag}, 304},
				{"in a list", []string{`If-None-Match: "a,b", ` + tag}, 304},
				{"on the second line", []string{`If-None-Match: "x"`, "If-None-Match: " + tag}, 304},
				{"any", []string{"If-None-Match: *"}, 304},
				{"other tag", []string{`If-None-Match: "x"`}, 200},
				{"tag and one character", []string{"If-None-Match: " + strings.TrimSuffix(tag, `"`) + `x"`}, 200},
				{"unquoted", []string{"If-None-Match: " + strings.Trim(tag, `"`)}, 200},
				{"empty", []string{"If-None-Match: "}, 200},
				{"a comma in a tag does not end it", []string{`If-None-Match: "a,` + tag}, 200},
				{"If-Match of the tag", []string{"If-Match: " + tag}, 200},
				{"If-Match of a weak tag", []string{"If-Match: W/" + tag}, 412},
				{"If-Match of another comes first", []string{`If-Match: "x"`, "If-None-Match: " + tag}, 412},
				{"dates do not count", []string{"If-Modified-Since: " + time.Now().Add(time.Hour).UTC().Format(http.TimeFormat)}, 200},
			} {
				t.Run(tt.name, func(t *testing.T) {
					w := g.do("GET "+target, "", tt.fields...)
					if w.Code != tt.status {
						t.Fatalf("status %d, want %d", w.Code, tt.status)
					}
					if w.Code == 304 {
						for _, name := range []string{"ETag", "Cache-Control", "Vary", "xkey", "Cache-Groups"} {
							if w.Header().Get(name) != get.Header().Get(name) {
								t.Errorf("304 has %s %q, not %q", name, w.Header().Get(name), get.Header().Get(name))
							}
						}
						if w.Body.Len() != 0 || w.Header().Get("Content-Type") != "" {
							t.Errorf("304 with %q of %q", w.Body, w.Header().Get("Content-Type"))
						}
					}
				})
			}
		})
	}
	t.Run("nothing there is not found first (C0)", func(t *testing.T) {
		g.want(404, "GET /v2/images/"+absent, "", "If-None-Match: *")
	})
	t.Run("a change changes the tag (V2)", func(t *testing.T) {
		tag := g.do("GET /v2/images/"+id1, "").Header().Get("ETag")
		g.want(204, "PUT /v2/images/"+id1+"/tags/x", "")
		if g.do("GET /v2/images/"+id1, "").Header().Get("ETag") == tag {
			t.Error("the tag is the same")
		}
	})
	t.Run("open and private differ (F3)", func(t *testing.T) {
		open, private := g.do("GET /v2/images/"+id1, "").Header(), g.do("GET /v2/images/"+id2, "").Header()
		if open.Get("Cache-Control") != openFreshness || open.Get("Vary") != "" || open.Get("xkey") != "img-"+id1 {
			t.Errorf("open: %v", open)
		}
		if private.Get("Cache-Control") != "private, no-cache" || private.Get("Vary") != "Authorization, X-Auth-Token" || private.Get("xkey") != "" {
			t.Errorf("private: %v", private)
		}
	})
}

// without returns the header but the request id.
func without(h http.Header) http.Header {
	h = h.Clone()
	h.Del(RequestIDHeader)
	return h
}

func TestDelete(t *testing.T) {
	g := newRig(t)
	g.create(`"id":"` + id1 + `",` + formats)
	g.put(id1, "data")
	g.create(`"id":"` + id2 + `","protected":true`)
	tag := g.do("GET /v2/images/"+id1, "").Header().Get("ETag")
	for _, tt := range []struct {
		name, id, body, field string
		status, wakes         int
	}{
		{"a body [R]", id1, "x", "", 400, 0},
		{"a protected image, also for admins", id2, "", "", 403, 0},
		{"tempest: an unknown image", absent, "", "", 404, 0},
		{"what is no id", "x", "", "", 404, 0},
		{"another version than the client saw", id1, "", `If-Match: "m-0"`, 412, 0},
		{"an unknown image on condition", absent, "", `If-Match: "m-0"`, 404, 0},
		{"the version that the client saw", id1, "", "If-Match: " + tag, 204, 1},
		{"tempest: twice", id1, "", "", 404, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := g.do("DELETE /v2/images/"+tt.id, tt.body, tt.field)
			if w.Code != tt.status || int(g.wakes.Load()) != tt.wakes {
				t.Errorf("status %d, %d wakes; want %d, %d: %s", w.Code, g.wakes.Load(), tt.status, tt.wakes, w.Body)
			}
			if w.Code == 204 && w.Body.Len() > 0 {
				t.Errorf("204 with %q", w.Body)
			}
		})
	}
	if n := len(g.orphans()); n != 1 {
		t.Errorf("%d orphans", n)
	}
}

func TestTags(t *testing.T) {
	g := newRig(t)
	g.create(`"id":"` + id1 + `","tags":["old"]`)
	tags := "/v2/images/" + id1 + "/tags/"
	for _, tt := range []struct {
		name, line, body string
		status           int
		after            string
	}{
		{"a new tag", "PUT " + tags + "new", "", 204, "new old"},
		{"a tag that is there", "PUT " + tags + "new", "", 204, "new old"},
		{"a blank", "PUT " + tags + "a%20b", "", 204, "a b new old"},
		{"an encoded slash", "PUT " + tags + "a%2Fb", "", 404, "a b new old"},
		{"255 characters", "PUT " + tags + strings.Repeat("é", 255), "", 204, "a b new old " + strings.Repeat("é", 255)},
		{"256 characters", "PUT " + tags + strings.Repeat("t", 256), "", 400, ""},
		{"a control character", "PUT " + tags + "a%07", "", 400, ""},
		{"no tag", "PUT " + tags, "", 404, ""},
		{"a body", "PUT " + tags + "x", "x", 400, ""},
		{"remove", "DELETE " + tags + "a%20b", "", 204, "new old " + strings.Repeat("é", 255)},
		{"tempest: remove what is absent", "DELETE " + tags + "a%20b", "", 404, ""},
		{"remove with a body", "DELETE " + tags + "new", "x", 400, ""},
		{"tempest: unknown image", "PUT /v2/images/" + absent + "/tags/x", "", 404, ""},
		{"tempest: remove of unknown image", "DELETE /v2/images/" + absent + "/tags/x", "", 404, ""},
		{"what is no id", "PUT /v2/images/x/tags/x", "", 404, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := g.do(tt.line, tt.body)
			if w.Code != tt.status {
				t.Errorf("status %d, want %d: %s", w.Code, tt.status, w.Body)
			}
			if after := strings.Join(g.get(id1).Tags, " "); tt.after != "" && after != tt.after {
				t.Errorf("tags %q, want %q", after, tt.after)
			}
		})
	}
	t.Run("one too many", func(t *testing.T) {
		for i := range 125 {
			g.want(204, fmt.Sprintf("PUT %st%d", tags, i), "")
		}
		g.want(413, "PUT "+tags+"last", "")
	})
}

func TestSchemas(t *testing.T) {
	g := newRig(t, func(o *Options) { o.Limits.DiskFormats = []string{"raw", "gpt"} })
	for name, status := range map[string]int{
		"image": 200, "images": 200, "member": 200, "members": 200, "task": 200, "tasks": 200, "nope": 404,
	} {
		w := g.want(status, "GET /v2/schemas/"+name, "")
		if status == 200 && decode(t, w)["name"] != name {
			t.Errorf("schema %s has the name %v", name, decode(t, w)["name"])
		}
	}
	var s struct {
		Properties map[string]struct {
			Type     any
			ReadOnly bool
			Enum     []any
			IsBase   *bool `json:"is_base"`
		}
		AdditionalProperties map[string]string
	}
	if err := json.Unmarshal(g.do("GET /v2/schemas/image", "").Body.Bytes(), &s); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(s.Properties["disk_format"].Enum); got != "[<nil> raw gpt]" {
		t.Errorf("disk_format is one of %s", got) // nova reads it
	}
	if _, ok := s.Properties["stores"]; ok {
		t.Error("glance cannot start with stores in the schema")
	}
	if p := s.Properties["kernel_id"]; p.IsBase == nil || *p.IsBase {
		t.Error("kernel_id is said to be a base property")
	}
	// glanceclient holds every answer of a create or update against the schema.
	id := g.create(`"x":"y","kernel_id":"` + id1 + `",` + formats)
	g.put(id, "data")
	for _, id := range []string{id, g.create(``)} {
		for name, value := range decode(t, g.do("GET /v2/images/"+id, "")) {
			p, known := s.Properties[name]
			if !known {
				if _, ok := value.(string); !ok || s.AdditionalProperties["type"] != "string" {
					t.Errorf("%s is %v", name, value)
				}
				continue
			}
			word := map[string]string{"<nil>": "null", "string": "string", "bool": "boolean", "float64": "integer", "[]interface {}": "array"}[fmt.Sprintf("%T", value)]
			if !slices.Contains(strings.Fields(strings.Trim(fmt.Sprint(p.Type), "[]")), word) {
				t.Errorf("%s is %v, a %s, and its type %v", name, value, word, p.Type)
			}
			if len(p.Enum) > 0 && !slices.Contains(p.Enum, value) {
				t.Errorf("%s is %v, none of %v", name, value, p.Enum)
			}
		}
	}
}

// Images API v2, section 11: what tempest and glanceclient look for.
func TestSchemasOfMembersAndTasks(t *testing.T) {
	g := newRig(t)
	names := func(v any) string { return strings.Join(slices.Sorted(maps.Keys(v.(map[string]any))), " ") }
	const brief = "created_at expires_at id image_id owner request_id schema self status type updated_at user_id"
	for _, tt := range []struct{ name, properties, item, links string }{
		{"image", "", "", "self enclosure describedby"},
		{"images", "first images next schema", "", "first next describedby"},
		{"member", "created_at image_id member_id schema status updated_at", "", ""},
		{"members", "members schema", "created_at image_id member_id schema status updated_at", "describedby"},
		{"task", "created_at expires_at id image_id input message owner request_id result schema self status type updated_at user_id", "", ""},
		{"tasks", "first next schema tasks", brief, "describedby"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v := decode(t, g.want(200, "GET /v2/schemas/"+tt.name, ""))
			properties := v["properties"].(map[string]any)
			if got := names(properties); tt.properties != "" && got != tt.properties {
				t.Errorf("properties %s, want %s", got, tt.properties)
			}
			if tt.item != "" {
				if got := names(properties[tt.name].(map[string]any)["items"].(map[string]any)["properties"]); got != tt.item {
					t.Errorf("items have %s, want %s", got, tt.item)
				}
			}
			var links []string
			list, _ := v["links"].([]any)
			for _, l := range list {
				links = append(links, l.(map[string]any)["rel"].(string))
			}
			if got := strings.Join(links, " "); got != tt.links {
				t.Errorf("links %s, want %s", got, tt.links)
			}
			if _, more := v["additionalProperties"]; more != (tt.name == "image") {
				t.Errorf("additionalProperties %v", v["additionalProperties"])
			}
			g.want(405, "PUT /v2/schemas/"+tt.name, "x")
		})
	}
	member := decode(t, g.want(200, "GET /v2/schemas/member", ""))["properties"].(map[string]any)
	if got := fmt.Sprint(member["status"].(map[string]any)["enum"]); got != "[pending accepted rejected]" {
		t.Errorf("a member is one of %s", got)
	}
	task := decode(t, g.want(200, "GET /v2/schemas/task", ""))["properties"].(map[string]any)
	for name, want := range map[string]string{"type": "[import api_image_import location_import]", "status": "[pending processing success failure]"} {
		if got := fmt.Sprint(task[name].(map[string]any)["enum"]); got != want {
			t.Errorf("%s is one of %s", name, got)
		}
	}
}

func TestImageTextIsJSON(t *testing.T) {
	all := new(strings.Builder)
	for c := range rune(0x250) {
		all.WriteRune(c)
	}
	all.WriteString("\u2028\U0001F427\xff\xc3(\xed\xa0\x80")
	s := all.String()
	size := int64(1) << 62
	img := &registry.Image{ID: id1, Name: &s, Owner: &s, Size: &size, Tags: []string{s, "b"}, Properties: map[string]string{s: s, "a": ""}}
	text := appendImage(nil, img, &places{})
	var got map[string]any
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	clean := strings.ToValidUTF8(s[:len(s)-6], "") // what follows is not UTF-8
	if name := got["name"].(string); !strings.HasPrefix(name, clean) || !strings.Contains(name, "\uFFFD") || strings.Contains(name, "\xff") {
		t.Errorf("name %q", name)
	}
	if string(text) != string(appendImage(nil, img, &places{})) {
		t.Error("two texts of one image differ")
	}
}
