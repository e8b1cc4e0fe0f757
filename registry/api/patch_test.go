package api

import (
	"fmt"
	"strings"
	"testing"
)

const (
	v21 = "Content-Type: " + patchV21
	v20 = "Content-Type: " + patchV20
)

func TestPatch(t *testing.T) {
	g := newRig(t)
	g.create(`"id":"` + id1 + `","name":"old","tags":["t"],"x":"old","trait:A/B":"1",` + formats)
	g.put(id1, "data")
	op := func(op, path, value string) string {
		return fmt.Sprintf(`[{"op":%q,"path":%q,"value":%s}]`, op, path, value)
	}
	long := strings.Repeat("n", 256)
	for _, tt := range []struct {
		name, field, body string
		status            int
	}{
		{"RFC 6902", "Content-Type: application/json-patch+json", `[]`, 415},
		{"no type", "", `[]`, 415},
		{"JSON", "Content-Type: application/json", `[]`, 415},
		{"v2.1 with a parameter", v21 + "; charset=utf-8", `[]`, 200},
		{"v2.0, nothing to do", v20, `[]`, 200},

		{"an object", v21, `{}`, 400},
		{"null", v21, `null`, 400},
		{"empty", v21, ``, 400},
		{"malformed", v21, `[`, 400},
		{"an element that is no object", v21, `[1]`, 400},
		{"an element that is null", v21, `[null]`, 400},
		{"no op", v21, `[{"path":"/x","value":"y"}]`, 400},
		{"op test", v21, op("test", "/x", `"y"`), 400},
		{"op move", v21, `[{"op":"move","from":"/x","path":"/y"}]`, 400},
		{"op copy", v21, `[{"op":"copy","from":"/x","path":"/y"}]`, 400},
		{"op a number", v21, `[{"op":1,"path":"/x","value":"y"}]`, 400},
		{"no path", v21, `[{"op":"add","value":"y"}]`, 400},
		{"path a number", v21, `[{"op":"add","path":1,"value":"y"}]`, 400},
		{"add without a value", v21, `[{"op":"add","path":"/x"}]`, 400},
		{"replace without a value", v21, `[{"op":"replace","path":"/x"}]`, 400},
		{"v2.1 form in v2.0", v20, op("replace", "/x", `"y"`), 400},
		{"v2.0 form in v2.1", v21, `[{"replace":"/x","value":"y"}]`, 400},
		{"v2.0, two operations in one", v20, `[{"add":"/y","replace":"/x","value":"y"}]`, 400},
		{"v2.0, path a number", v20, `[{"add":1,"value":"y"}]`, 400},
		{"v2.0, no value", v20, `[{"add":"/y"}]`, 400},
		{"path without /", v21, op("add", "x", `"y"`), 400},
		{"path of nothing", v21, op("add", "", `"y"`), 400},
		{"path of a slash", v21, op("add", "/", `"y"`), 400},
		{"// inside", v21, op("add", "/a//b", `"y"`), 400},
		{"trailing /", v21, op("add", "/a/", `"y"`), 400},
		{"~ at the end", v21, op("add", "/a~", `"y"`), 400},
		{"~2", v21, op("add", "/a~2", `"y"`), 400},
		{"~~1", v21, op("add", "/a~~1", `"y"`), 400},
		{"too deep", v21, op("add", "/a/b", `"y"`), 400},
		{"/tags/-", v21, op("add", "/tags/-", `"y"`), 400},

		{"locations are not exposed: add", v21, op("add", "/locations/-", `{}`), 403},
		{"locations are not exposed: replace", v21, op("replace", "/locations", `[]`), 403},
		{"locations are not exposed: remove", v21, `[{"op":"remove","path":"/locations/0"}]`, 403},
		{"locations, too flat", v21, op("add", "/locations", `[]`), 400},
		{"locations, too deep", v21, op("replace", "/locations/0", `{}`), 400},

		{"null name", v21, op("replace", "/name", `null`), 200},
		{"name too long", v21, op("replace", "/name", `"`+long+`"`), 400},
		{"name with a control character", v21, op("replace", "/name", `"a\u001bb"`), 400},
		{"a wrong value is wrong although a right one follows", v21,
			`[{"op":"replace","path":"/name","value":7},{"op":"replace","path":"/name","value":"y"}]`, 400},
		{"visibility", v21, op("replace", "/visibility", `"public"`), 200},
		{"unknown visibility", v21, op("replace", "/visibility", `"x"`), 400},
		{"protected", v21, op("replace", "/protected", `true`), 200},
		{"protected a string", v21, op("replace", "/protected", `"true"`), 400},
		{"os_hidden", v21, op("add", "/os_hidden", `true`), 200},
		{"min_ram null", v21, op("replace", "/min_ram", `null`), 400},
		{"min_ram negative", v21, op("replace", "/min_ram", `-1`), 400},
		{"owner as admin", v21, op("replace", "/owner", `"p"`), 200},
		{"tags, whole", v21, op("replace", "/tags", `["b","a","b"]`), 200},
		{"tags null", v21, op("replace", "/tags", `null`), 400},
		{"disk_format while active", v21, op("replace", "/disk_format", `"qcow2"`), 403},
		{"the same disk_format while active counts too", v21, op("replace", "/disk_format", `"raw"`), 403},
		{"container_format while active", v21, op("add", "/container_format", `"ovf"`), 403},
		{"unknown disk_format is wrong first", v21, op("replace", "/disk_format", `"x"`), 400},

		{"add a property", v21, op("add", "/new", `"y"`), 200},
		{"add over a property", v21, op("add", "/x", `"y"`), 200},
		{"replace a property", v21, op("replace", "/x", `"z"`), 200},
		{"replace what is absent", v21, op("replace", "/absent", `"y"`), 409},
		{"remove what is absent", v21, `[{"op":"remove","path":"/absent"}]`, 409},
		{"property null", v21, op("add", "/x", `null`), 400},
		{"property a number", v21, op("add", "/x", `1`), 400},
		{"property name too long", v21, op("add", "/"+long, `"y"`), 400},
		{"escapes", v21, op("replace", "/trait:A~1B", `"2"`), 200},
		{"kernel_id", v21, op("add", "/kernel_id", `"`+id2+`"`), 200},
		{"kernel_id that is none", v21, op("add", "/kernel_id", `"x"`), 400},
		{"internal names are properties", v21, op("add", "/image_id", `"y"`), 200},
		{"remove a base field", v21, `[{"op":"remove","path":"/name"}]`, 403},
		{"remove a property", v21, `[{"op":"remove","path":"/new"}]`, 200},
		{"in order", v21, `[{"op":"add","path":"/p","value":"1"},{"op":"replace","path":"/p","value":"2"},{"op":"remove","path":"/p"}]`, 200},
		{"stores, replaced", v21, op("replace", "/stores", `"a"`), 409},
		{"stores, removed", v21, `[{"op":"remove","path":"/stores"}]`, 409},
		{"stores, added", v21, op("add", "/stores", `"a"`), 403},

		{"tempest: replace the name", v20, `[{"replace":"/name","value":"new"}]`, 200},
		{"v2.0, add over a property", v20, `[{"add":"/x","value":"y"}]`, 409},
		{"v2.0, add over a base field", v20, `[{"add":"/name","value":"y"}]`, 409},
		{"v2.0, add a property", v20, `[{"add":"/y","value":"y"}]`, 200},
		{"v2.0, replace what is absent", v20, `[{"replace":"/absent","value":"y"}]`, 409},
		{"v2.0, remove a property", v20, `[{"remove":"/y"}]`, 200},
		{"v2.0, remove a base field", v20, `[{"remove":"/tags"}]`, 403},

		{"tempest: reserved os_glance_foo", v21, op("add", "/os_glance_foo", `"y"`), 403},
		{"reserved, removed", v21, `[{"op":"remove","path":"/os_glance_foo"}]`, 403},
		{"reserved location", v21, op("add", "/location", `"y"`), 403},
		{"reserved deleted", v21, op("replace", "/deleted", `"y"`), 403},
		{"reserved deleted_at", v21, op("replace", "/deleted_at", `"y"`), 403},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := g.get(id1).Revision
			w := g.do("PATCH /v2/images/"+id1, tt.body, tt.field)
			if w.Code != tt.status {
				t.Fatalf("status %d, want %d: %s", w.Code, tt.status, w.Body)
			}
			switch w.Code {
			case 200:
				if show := g.do("GET /v2/images/"+id1, ""); show.Body.String() != w.Body.String() || show.Header().Get("ETag") != w.Header().Get("ETag") {
					t.Errorf("answer %s, image %s", w.Body, show.Body)
				}
			case 415:
				if w.Header().Get("Accept-Patch") != patchV21+", "+patchV20 {
					t.Errorf("Accept-Patch %q", w.Header().Get("Accept-Patch"))
				}
				fallthrough
			default:
				if g.get(id1).Revision != before {
					t.Error("a refused patch changed the image")
				}
			}
		})
	}
	for _, name := range []string{"created_at", "updated_at", "status", "checksum", "size", "virtual_size",
		"direct_url", "self", "file", "schema", "id", "os_hash_algo", "os_hash_value"} {
		t.Run("read-only "+name, func(t *testing.T) {
			g.want(403, "PATCH /v2/images/"+id1, op("replace", "/"+name, `"y"`), v21)
			g.want(403, "PATCH /v2/images/"+id1, op("add", "/"+name, `"y"`), v21)
			g.want(403, "PATCH /v2/images/"+id1, `[{"remove":"/`+name+`"}]`, v20)
		})
	}
}

func TestPatchIsAllOrNothing(t *testing.T) {
	g := newRig(t)
	g.create(`"id":"` + id1 + `","name":"old","x":"old"`)
	g.want(409, "PATCH /v2/images/"+id1, `[{"op":"replace","path":"/name","value":"new"},{"op":"replace","path":"/x","value":"new"},{"op":"remove","path":"/absent"}]`, v21)
	if img := g.get(id1); *img.Name != "old" || img.Properties["x"] != "old" {
		t.Errorf("name %q, x %q", *img.Name, img.Properties["x"])
	}
}

func TestPatchOfQueuedImageSetsFormats(t *testing.T) {
	g := newRig(t)
	g.create(`"id":"` + id1 + `"`)
	w := g.want(200, "PATCH /v2/images/"+id1, `[{"op":"replace","path":"/disk_format","value":"qcow2"},{"op":"add","path":"/container_format","value":"bare"},
		{"op":"add","path":"/ramdisk_id","value":"`+id2+`"},{"op":"replace","path":"/ramdisk_id","value":null}]`, v21)
	v := decode(t, w)
	if v["disk_format"] != "qcow2" || v["container_format"] != "bare" {
		t.Errorf("%v", v)
	}
	if _, found := v["ramdisk_id"]; found {
		t.Error("a null ramdisk_id is still there")
	}
}

func TestPatchLimitsAndConditions(t *testing.T) {
	g := newRig(t)
	g.create(`"id":"` + id1 + `"`)
	var ops, tags []string
	for i := range 129 {
		ops = append(ops, fmt.Sprintf(`{"op":"add","path":"/p%d","value":"x"}`, i))
		tags = append(tags, fmt.Sprintf(`"t%d"`, i))
	}
	g.want(413, "PATCH /v2/images/"+id1, "["+strings.Join(ops, ",")+"]", v21)
	g.want(200, "PATCH /v2/images/"+id1, "["+strings.Join(ops, ",")+`,{"op":"remove","path":"/p0"}]`, v21)
	g.want(413, "PATCH /v2/images/"+id1, `[{"op":"replace","path":"/tags","value":[`+strings.Join(tags, ",")+`]}]`, v21)
	g.want(413, "PATCH /v2/images/"+id1, "["+strings.Repeat(" ", 1<<20)+"]", v21)

	g.want(404, "PATCH /v2/images/"+absent, `[]`, v21)
	g.want(404, "PATCH /v2/images/x", `[]`, v21)
	g.want(400, "PATCH /v2/images/"+absent, `{}`, v21)

	tag := g.do("GET /v2/images/"+id1, "").Header().Get("ETag")
	rename := `[{"op":"replace","path":"/name","value":"mine"}]`
	g.want(412, "PATCH /v2/images/"+id1, rename, v21, `If-Match: "m-0"`)
	g.want(412, "PATCH /v2/images/"+id1, rename, v21, "If-None-Match: *")
	w := g.want(200, "PATCH /v2/images/"+id1, rename, v21, "If-Match: "+tag)
	g.want(412, "PATCH /v2/images/"+id1, rename, v21, "If-Match: "+tag) // of two who saw the same, one is told
	g.want(200, "PATCH /v2/images/"+id1, rename, v21, "If-Match: "+w.Header().Get("ETag"))
}
