package api

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"nearsight/registry"
)

// Whatever strangers write, the answer is theirs or a refusal: no panic, and
// nothing that blames the server.

func (g *rig) neverFails(w *httptest.ResponseRecorder) {
	g.Helper()
	if w.Code >= 500 || w.Code < 200 {
		g.Errorf("status %d: %s", w.Code, w.Body)
	}
	if w.Header().Get("Content-Type") == "application/json" && w.Code < 300 {
		decode(g, w)
	}
}

func FuzzPatch(f *testing.F) {
	g := newRig(f)
	for _, seed := range []string{
		`[]`, `[{"op":"add","path":"/x","value":"y"}]`, `[{"op":"remove","path":"/x"}]`, `[{"op":"replace","path":"/name","value":null}]`,
		`[{"add":"/x","value":"y"}]`, `[{"replace":"/tags","value":["a"]}]`, `[{"remove":"/locations/0"}]`, `[{"op":"replace","path":"/min_ram","value":1e9}]`,
		`[{"op":"add","path":"/~0~1","value":"\ud800"}]`, `[{"op":"replace","path":"/disk_format","value":"raw"}]`, `{`, `[[[[`, `[null]`, "[{\"op\":\"\xff\"}]",
	} {
		f.Add(true, seed)
		f.Add(false, seed)
	}
	g.create(`"id":"` + id1 + `","x":"y"`)
	f.Fuzz(func(t *testing.T, old bool, body string) {
		g.TB = t
		form := v21
		if old {
			form = v20
		}
		g.neverFails(g.do("PATCH /v2/images/"+id1, body, form))
		g.neverFails(g.want(200, "GET /v2/images/"+id1, ""))
	})
}

func FuzzCreate(f *testing.F) {
	g := newRig(f)
	for _, seed := range []string{
		`{}`, `{"name":"n","tags":["a","a"],"min_ram":5}`, `{"id":"` + id1 + `"}`, `{"visibility":"public","protected":true,"os_hidden":false}`,
		`{"disk_format":"raw","container_format":null}`, `{"kernel_id":null}`, `{"a":"\u0000"}`, `{"min_disk":1e400}`, `[`, `null`, `{"x":"\ud800\udc00"}`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, body string) {
		g.TB = t
		w := g.do("POST /v2/images", body)
		g.neverFails(w)
		if w.Code == http.StatusCreated {
			target := strings.TrimPrefix(w.Header().Get("Location"), "http://example.com")
			if show := g.want(200, "GET "+target, ""); show.Body.String() != w.Body.String() {
				t.Errorf("created %s, shown %s", w.Body, show.Body)
			}
			if img := decode(g, w); img["protected"] == true {
				return
			}
			g.want(204, "DELETE "+target, "")
		}
	})
}

func FuzzList(f *testing.F) {
	g := newRig(f)
	g.create(`"name":"n","tags":["a"],"x":"y"`)
	for _, seed := range []string{
		"", "limit=1&marker=" + id1, `name=in:a,"b\",c"`, "created_at=gt:2026-01-02T03:04:05Z", "sort=name:asc,size", "sort_key=id&sort_dir=asc&sort_key=size",
		"tag=a&tag=b", "x=y", "size_min=-1&size_max=99999999999999999999", "os_hidden=TRUE", "%zz", "a=%00", ";=;", "created_at=0001-01-01T00:00:00%2B23:59",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, query string) {
		r := httptest.NewRequest("GET", "/v2/images", nil)
		r.URL.RawQuery = query
		w := httptest.NewRecorder()
		g.ServeHTTP(w, r)
		g.TB = t
		g.neverFails(w)
		if w.Code != http.StatusOK {
			return
		}
		// The first page leads to itself.
		first, _ := decode(g, w)["first"].(string)
		r.URL.RawQuery = strings.TrimPrefix(strings.TrimPrefix(first, "/v2/images"), "?")
		again := httptest.NewRecorder()
		g.ServeHTTP(again, r)
		if again.Code != http.StatusOK || decode(g, again)["first"] != first {
			t.Errorf("first page %q: status %d, %s", first, again.Code, again.Body)
		}
	})
}

func FuzzMembers(f *testing.F) {
	g := newLocationRig(f)
	for _, seed := range []string{
		`{"member":"p"}`, `{"member":""}`, `{"member":null}`, `{"member":{"member":"x"}}`, `{"status":"accepted"}`, `{"status":"ACCEPTED","status":"rejected"}`,
		`{"member":"\ud800"}`, `{"member":"a\u0000"}`, `[]`, `{`, `7`, "{\"member\":\"\xff\"}",
	} {
		f.Add(seed, "guest")
		f.Add(seed, "%")
	}
	id := g.image(registry.Shared, isQueued)
	f.Fuzz(func(t *testing.T, body, member string) {
		g.TB = t
		one := "/v2/images/" + id + "/members/" + url.PathEscape(member)
		w := g.do("POST /v2/images/"+id+"/members", body)
		g.neverFails(w)
		if w.Code == http.StatusOK { // so that there are never too many
			project := decode(g, w)["member_id"].(string)
			if project != "guest" {
				g.update(id, func(img *registry.Image) error { return img.RemoveMember(project) })
			}
		}
		g.neverFails(g.do("PUT "+one, body))
		g.neverFails(g.do("GET "+one, ""))
		if list := decode(g, g.want(200, "GET /v2/images/"+id+"/members", ""))["members"].([]any); len(list) != 1 {
			t.Errorf("%v", list)
		}
	})
}

// Ids in paths: whatever names no image is not found or a refusal, in every call.
func FuzzIDs(f *testing.F) {
	g := newLocationRig(f)
	for _, seed := range []string{id1, absent, "", "x", strings.ToUpper("aaaaaaaa-" + absent[9:]), id1 + "x", "..", "%", "\x00", "\xff", "a/b", "ü", "{" + id1 + "}", strings.Repeat("1", 36)} {
		f.Add(seed, seed)
	}
	g.create(`"id":"` + id1 + `"`)
	f.Fuzz(func(t *testing.T, id, other string) {
		g.TB = t
		there := registry.ValidID(id) && g.get2(id) != nil
		id, other = url.PathEscape(id), url.PathEscape(other)
		for _, line := range []string{
			"GET /v2/images/" + id, "GET /v2/images/" + id + "/members/" + other, "DELETE /v2/images/" + id + "/tags/" + other,
			"POST /v2/images/" + id + "/actions/" + other, "DELETE /v2/stores/" + other + "/" + id, "GET /v2/images/" + id + "/" + other, "GET /v2/schemas/" + other,
		} {
			if strings.HasSuffix(line, "activate") || strings.HasSuffix(line, "/.") || strings.HasSuffix(line, "/..") {
				continue
			}
			w := g.do(line, "")
			g.neverFails(w)
			if w.Code < 300 && !there && !strings.HasPrefix(line, "GET /v2/schemas/") && !strings.HasSuffix(line, "/file") && id != "" {
				t.Errorf("%s: status %d: %s", line, w.Code, w.Body)
			}
		}
	})
}

func FuzzAccept(f *testing.F) {
	g := newRig(f)
	for _, seed := range []string{
		"", "*/*", "application/json", "application/json, */*", "text/html;q=0.5, application/problem+json", ";;q=,/,", "a/b;q=NaN", "application/json;q=1e-400",
		"application/vnd.openstack.images-v2", "application/vnd.openstack.images-v2.9", "application/vnd.openstack.images-",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, accept string) {
		g.TB = t
		w := g.do("GET /v2/images/"+absent, "", "Accept: "+accept)
		if w.Code != 404 {
			t.Errorf("status %d", w.Code)
		}
		contentType := w.Header().Get("Content-Type")
		switch contentType {
		case "text/plain; charset=UTF-8", "text/html; charset=UTF-8", "application/json":
		case "application/problem+json":
			if !strings.Contains(strings.ToLower(accept), "application/problem+json") {
				t.Errorf("%q got a problem document", accept)
			}
		default:
			t.Errorf("Content-Type %q", contentType)
		}
		g.neverFails(g.do("GET /images/"+absent, "", "Accept: "+accept))
	})
}

func FuzzDigests(f *testing.F) {
	for _, seed := range []string{"", "sha-256=:AA==:", "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:;a=1, md5=x", "sha-512=::", "=,=,=:", `sha-256=":,"`} {
		f.Add(seed, "")
	}
	f.Fuzz(func(t *testing.T, repr, content string) {
		d, err := parseDigests(http.Header{"Repr-Digest": {repr}, "Content-Digest": {content}})
		if err == nil && (len(d.sha256)|32 != 32 || len(d.sha512)|64 != 64) {
			t.Errorf("digests of %d and %d bytes", len(d.sha256), len(d.sha512))
		}
	})
}

// A refused upload leaves the image queued.
func FuzzUploadFields(f *testing.F) {
	for _, seed := range [][5]string{
		{"application/octet-stream", "", "", "", ""},
		{"application/octet-stream;x", "4", "sha-256=:AA==:", "main", "\"x\""},
		{"Application/Octet-Stream", "-0", "md5=:AA==:", "tape", "*"},
		{"", "99999999999999999999", ",", "\x00", "W/\"\""},
	} {
		f.Add(seed[0], seed[1], seed[2], seed[3], seed[4])
	}
	g := newImportRig(f)
	f.Fuzz(func(t *testing.T, kind, size, digest, store, match string) {
		g.TB = t
		id := g.create(formats)
		for _, line := range []string{"PUT /v2/images/" + id + "/stage", "PUT /v2/images/" + id + "/file"} {
			w := g.do(line, "data", "Content-Type: "+kind, "X-Openstack-Image-Size: "+size, "Repr-Digest: "+digest, "X-Image-Meta-Store: "+store, "If-None-Match: "+match)
			g.neverFails(w)
			if status := g.get(id).Status; w.Code >= 400 && status != registry.Queued && status != registry.Uploading {
				t.Errorf("%s: status %d, image is %s", line, w.Code, status)
			}
		}
	})
}

func FuzzEntityTags(f *testing.F) {
	f.Add(`"m-1"`, true)
	f.Add(`W/"m-1", "a,b"`, false)
	f.Add(`*`, true)
	f.Fuzz(func(t *testing.T, line string, weak bool) {
		if anyTag([]string{line}, `"m-1"`, weak) && strings.TrimSpace(line) != "*" && !strings.Contains(line, `"m-1"`) {
			t.Errorf("%q matches", line)
		}
	})
}
