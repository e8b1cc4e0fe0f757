package api

import (
	"net/http"
	"strings"
	"testing"
)

func TestRoutes(t *testing.T) {
	g := newRig(t)
	g.create(`"id":"` + id1 + `"`)
	for _, tt := range []struct {
		name, line string
		status     int
		field      string // of the response, "Name: value"
	}{
		{"the root lists the versions [R]", "GET /", 300, "Content-Type: application/json"},
		{"HEAD of the root", "HEAD /", 300, ""},
		{"glanceclient wants 200 from /versions", "GET /versions", 200, ""},
		{"health", "GET /healthcheck", 200, ""},
		{"unknown version [R]", "GET /v3/images", 300, ""},
		{"API of 2011, not here yet", "GET /v1/images", 300, ""},
		{"version that is not advertised", "GET /v2.99/images", 300, ""},
		{"unknown path at the top [R]", "GET /nope", 300, ""},
		{"a post to an unknown version [R]", "POST /v3/images", 300, ""},
		{"version without a slash [R]", "GET /v2", 302, "Location: http://example.com/v2/"},
		{"version without a path [R]", "GET /v2/", 404, ""},
		{"minor version without a path", "GET /v2.1/", 404, ""},
		{"tempest: show of the null id", "GET /v2/images/", 404, ""},
		{"tempest: delete of the null id", "DELETE /v2/images/", 404, ""},
		{"no file of the null id", "GET /v2/images//file", 204, ""}, // the stand-in answers all ids
		{"unknown path below the version", "GET /v2/nope", 404, ""},
		{"members of nobody yet", "GET /v2/images/" + id1 + "/members", 200, ""},
		{"no member of the null id", "GET /v2/images/" + id1 + "/members/", 404, ""},
		{"wrong method on members", "DELETE /v2/images/" + id1 + "/members", 405, "Allow: GET, HEAD, OPTIONS, POST"},
		{"wrong method on a member", "POST /v2/images/" + id1 + "/members/x", 405, "Allow: DELETE, GET, HEAD, OPTIONS, PUT"},
		{"an import of nothing", "POST /v2/images/" + id1 + "/import", 400, ""},
		{"staging comes later", "PUT /v2/images/" + id1 + "/stage", 404, ""},
		{"wrong method on locations", "PUT /v2/images/" + id1 + "/locations", 405, "Allow: GET, HEAD, OPTIONS, POST"},
		{"an invented action", "POST /v2/images/" + id1 + "/actions/explode", 404, ""},
		{"wrong method on an action", "GET /v2/images/" + id1 + "/actions/deactivate", 405, "Allow: OPTIONS, POST"},
		{"tasks come later", "GET /v2/tasks", 404, ""},
		{"the cache API comes later", "GET /v2/cache", 404, ""},
		{"there is one store", "GET /v2/info/stores", 404, ""},
		{"minor version as prefix [R]", "GET /v2.0/images/" + id1, 200, ""},
		{"current minor version as prefix [R]", "GET /v2.9/images/" + id1, 200, ""},
		{"absolute form", "GET http://example.com/v2/images/" + id1, 200, ""},

		{"known path, wrong method [R]", "PUT /v2/images/" + id1, 405, "Allow: DELETE, GET, HEAD, OPTIONS, PATCH"},
		{"wrong method on the list", "DELETE /v2/images", 405, "Allow: GET, HEAD, OPTIONS, POST"},
		{"wrong method on data (T1)", "POST /v2/images/" + id1 + "/file", 405, "Allow: GET, HEAD, OPTIONS, PUT"},
		{"wrong method on a tag", "GET /v2/images/" + id1 + "/tags/x", 405, "Allow: DELETE, OPTIONS, PUT"},
		{"wrong method on a schema", "POST /v2/schemas/image", 405, "Allow: GET, HEAD, OPTIONS"},
		{"wrong method on the root", "DELETE /", 405, "Allow: GET, HEAD, OPTIONS"},
		{"invented method (T1)", "FROBNICATE /v2/images/" + id1, 405, "Allow: DELETE, GET, HEAD, OPTIONS, PATCH"},
		{"methods are case-sensitive (T1)", "get /v2/images/" + id1, 405, ""},
		{"TRACE (T1)", "TRACE /v2/images/" + id1, 405, ""},
		{"PURGE (T4)", "PURGE /v2/images/" + id1, 405, ""},
		{"PURGE of the unknown (T4)", "PURGE /nope", 405, "Allow: GET, HEAD, OPTIONS"},
		{"OPTIONS (T2)", "OPTIONS /v2/images/" + id1 + "/file", 204, "Allow: GET, HEAD, OPTIONS, PUT"},
		{"OPTIONS is not stored (T2)", "OPTIONS /v2/images", 204, "Cache-Control: no-store"},
		{"OPTIONS of the server (T2)", "OPTIONS *", 204, "Allow: DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"},
		{"OPTIONS of the unknown", "OPTIONS /v2/nope", 404, ""},

		{"encoded slash (H6)", "GET /v2/images%2F" + id1, 404, ""},
		{"encoded way out (H6)", "GET /v2/images/..%2f..%2fetc", 404, ""},
		{"dot segment (H6)", "GET /v2/x/../images/" + id1, 404, ""},
		{"encoded dot segment (H6)", "GET /v2/x/%2e%2e/images/" + id1, 404, ""},
		{"NUL (H6)", "GET /v2/images/" + id1 + "%00", 400, ""},
		{"not UTF-8", "GET /v2/images/%ff", 400, ""},
		{"decoded once (H6)", "GET /v2/images/%2531", 404, ""},
		{"escapes that need not be", "GET /v2/%69mages/" + id1, 200, ""},

		{"errors are not stored (F2)", "GET /v2/images/" + absent, 404, "Cache-Control: no-store"},
		{"unknown path of nearsight's own", "GET /nearsight/nope", 404, "Content-Type: application/problem+json"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := g.do(tt.line, "")
			if w.Code != tt.status {
				t.Errorf("status %d, want %d: %s", w.Code, tt.status, w.Body)
			}
			if name, value, _ := strings.Cut(tt.field, ": "); name != "" && w.Header().Get(name) != value {
				t.Errorf("%s %q, want %q", name, w.Header().Get(name), value)
			}
			if strings.HasPrefix(tt.line, "HEAD") || w.Code == http.StatusNoContent {
				if w.Body.Len() > 0 {
					t.Errorf("a body of %d bytes", w.Body.Len())
				}
			}
		})
	}
}

func TestVersionsAreOnlyThoseThatAreTrue(t *testing.T) {
	for _, tt := range []struct {
		name string
		has  features
		want string
	}{
		{"images alone", features{}, "v2.15 v2.9 v2.7 v2.5 v2.4 v2.3 v2.2 v2.1 v2.0"},
		{"imports", features{imports: true}, "v2.15 v2.9 v2.7 v2.6 v2.5 v2.4 v2.3 v2.2 v2.1 v2.0"},
		{"several stores without imports", features{stores: true}, "v2.15 v2.9 v2.8 v2.7 v2.5 v2.4 v2.3 v2.2 v2.1 v2.0"},
		{"the cache", features{cache: true}, "v2.18 v2.16 v2.15 v2.14 v2.9 v2.7 v2.5 v2.4 v2.3 v2.2 v2.1 v2.0"},
		{"all but the cache", features{stores: true, imports: true, locations: true},
			"v2.17 v2.15 v2.13 v2.12 v2.11 v2.10 v2.9 v2.8 v2.7 v2.6 v2.5 v2.4 v2.3 v2.2 v2.1 v2.0"},
		{"all", features{true, true, true, true},
			"v2.18 v2.17 v2.16 v2.15 v2.14 v2.13 v2.12 v2.11 v2.10 v2.9 v2.8 v2.7 v2.6 v2.5 v2.4 v2.3 v2.2 v2.1 v2.0"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := strings.Join(versions(tt.has), " "); got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
		})
	}
	g := newRig(t)
	w := g.want(300, "GET /", "")
	current := ""
	for _, v := range decode(t, w)["versions"].([]any) {
		v := v.(map[string]any)
		if v["status"] == "CURRENT" {
			current += v["id"].(string)
		}
		link := v["links"].([]any)[0].(map[string]any)
		if link["rel"] != "self" || link["href"] != "http://example.com/v2/" {
			t.Errorf("link %v", link)
		}
	}
	if current != "v2.15" {
		t.Errorf("%q is current", current)
	}
	if same := g.want(200, "GET /versions", ""); same.Body.String() != w.Body.String() {
		t.Error("/versions and / differ")
	}
	if g := newRig(t, func(o *Options) { o.CacheCalls = true }); g.api.versions[0] != "v2.18" {
		t.Errorf("with the calls of the cache %s is current", g.api.versions[0])
	}
}

func TestPublicURLIsTheBaseOfLinks(t *testing.T) {
	g := newRig(t, func(o *Options) { o.PublicURL = "https://images.example.org/" })
	if w := g.do("GET /", ""); !strings.Contains(w.Body.String(), `"href":"https://images.example.org/v2/"`) {
		t.Error(w.Body)
	}
	w := g.want(201, "POST /v2/images", `{"id":"`+id1+`"}`)
	if l := w.Header().Get("Location"); l != "https://images.example.org/v2/images/"+id1 {
		t.Errorf("Location %q", l)
	}
}

func TestVersionCanComeInAccept(t *testing.T) {
	g := newRig(t)
	g.create(`"id":"` + id1 + `"`)
	for _, tt := range []struct {
		name, target, accept string
		status               int
	}{
		{"major version [R]", "/images/" + id1, "application/vnd.openstack.images-v2", 200},
		{"minor version", "/images/" + id1, "application/vnd.openstack.images-v2.7", 200},
		{"path with a version wins", "/v2/images/" + id1, "application/vnd.openstack.images-v2", 200},
		{"unknown version", "/images/" + id1, "application/vnd.openstack.images-v5", 300},
		{"without it there is no such path", "/images/" + id1, "application/json", 300},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if w := g.do("GET "+tt.target, "", "Accept: "+tt.accept); w.Code != tt.status {
				t.Errorf("status %d, want %d", w.Code, tt.status)
			}
		})
	}
}

func TestRequestIDs(t *testing.T) {
	g := newRig(t)
	const field = "X-OpenStack-Request-ID: "
	for _, tt := range []struct {
		name, sent, got string
		status          int
	}{
		{"the client's is adopted", "req-abc", "req-abc", 404},
		{"with the prefix [R]", "abc", "req-abc", 404},
		{"64 characters", strings.Repeat("a", 64), "req-" + strings.Repeat("a", 64), 404},
		{"65 characters", strings.Repeat("a", 65), "", 431},
		{"one that would break a log is replaced", "a\tb=c", "", 404},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := g.do("GET /v2/images/"+absent, "", field+tt.sent)
			got := w.Header().Get("x-openstack-request-id")
			if w.Code != tt.status || tt.got != "" && got != tt.got || got == tt.sent && tt.got == "" {
				t.Errorf("status %d, id %q", w.Code, got)
			}
		})
	}
	a, b := g.do("GET /", ""), g.do("GET /", "")
	if a.Header().Get(RequestIDHeader) == b.Header().Get(RequestIDHeader) {
		t.Error("two requests share an id")
	}
}
