package api

import (
	"fmt"
	"net/http"
	"net/url"
	"reflect"
	"strings"
	"testing"
	"time"

	"nearsight/registry"
)

func ptr[T any](v T) *T { return &v }

// The parameters of the reference's list, one row each, as queries.
func TestListParametersBecomeQueries(t *testing.T) {
	type q = registry.Query
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	match := func(column string, values ...string) q {
		return q{Match: []registry.Match{{Column: column, Values: values}}}
	}
	bound := func(column string, lo, hi *int64) q {
		return q{Bounds: []registry.Bound{{Column: column, Min: lo, Max: hi}}}
	}
	when := func(op string, t time.Time) q {
		return q{Times: []registry.TimeBound{{Column: "created_at", Op: op, Time: t}}}
	}
	sort := func(orders ...registry.Order) q { return q{Sort: orders} }
	nothing := bound("size", ptr(int64(1)), ptr(int64(0)))
	a := New(Options{})
	for _, tt := range []struct {
		query string
		want  q // Limit 25 if 0
	}{
		{"", q{}},
		{"&&", q{}},
		{"limit=7", q{Limit: 7}},
		{"limit=7&limit=8", q{Limit: 8}},
		{"limit=5000", q{Limit: 1000}},
		{"limit=99999999999999999999999", q{Limit: 1000}},
		{"marker=" + id1, q{Marker: id1}},

		{"name=a", match("name", "a")},
		{"name=a%20b", match("name", "a b")},
		{"name=a+b", match("name", "a b")},
		{"name=a;b", match("name", "a;b")},
		{"name=a,b", match("name", "a,b")},
		{"name=eq:a:b", match("name", "a:b")},
		{"name=in:a,b", match("name", "a", "b")},
		{"name=in:a", match("name", "a")},
		{"name=in:", match("name", "")},
		{"name=in:a,,b", match("name", "a", "", "b")},
		{`name=in:a,"b,c",d`, match("name", "a", "b,c", "d")},
		{`name=in:"a\"b",c`, match("name", `a"b`, "c")},
		{"name=2026-01-02T03:04:05Z", match("name", "2026-01-02T03:04:05Z")},
		{"status=nope", match("status", "nope")},
		{"id=" + id1, match("id", id1)},
		{"container_format=in:bare,ovf", match("container_format", "bare", "ovf")},
		{"disk_format=raw", match("disk_format", "raw")},
		{"owner=in:a,b", match("owner", "in:a,b")},
		{"checksum=x", match("checksum", "x")},
		{"os_hash_value=x", match("os_hash_value", "x")},
		{"name=a&name=b", q{Match: []registry.Match{{Column: "name", Values: []string{"a"}}, {Column: "name", Values: []string{"b"}}}}},

		{"size=5", bound("size", ptr(int64(5)), ptr(int64(5)))},
		{"min_ram=5", bound("min_ram", ptr(int64(5)), ptr(int64(5)))},
		{"size=big", nothing},
		{"size_min=5", bound("size", ptr(int64(5)), nil)},
		{"size_max=5", bound("size", nil, ptr(int64(5)))},
		{"min_ram_max=-5", bound("min_ram", nil, ptr(int64(-5)))},
		{"min_disk_min=5", bound("min_disk", ptr(int64(5)), nil)},
		{"virtual_size_min=5", bound("virtual_size", ptr(int64(5)), nil)},
		{"virtual_size_max=5", bound("virtual_size", nil, ptr(int64(5)))},
		{"virtual_size=5", bound("virtual_size", ptr(int64(5)), ptr(int64(5)))},
		{"size_max=99999999999999999999", bound("size", nil, ptr(int64(1<<63-1)))},

		{"created_at=gt:2026-01-02T03:04:05Z", when("gt", at)},
		{"created_at=gte:2026-01-02T03:04:05", when("gte", at)},
		{"created_at=lt:2026-01-02T04:04:05%2B01:00", when("lt", at)},
		{"created_at=lte:2026-01-02T03:04:05.999Z", when("lte", at)},
		{"created_at=eq:20260102T030405Z", when("eq", at)},
		{"created_at=neq:2026-01-02%2003:04:05", when("neq", at)},
		{"created_at=2026-01-02T03:04:05Z", when("eq", at)},
		{"created_at=gt:2026-01-02", when("gt", time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC))},

		{"visibility=public", q{Visibility: "public"}},
		{"visibility=all", q{Visibility: registry.AllVisibilities}},
		{"member_status=rejected", q{MemberStatus: registry.Rejected}},
		{"member_status=all", q{MemberStatus: registry.AllMemberStatuses}},
		{"os_hidden=TRUE", q{Hidden: ptr(true)}},
		{"os_hidden=False", q{Hidden: ptr(false)}},
		{"protected=true", q{Protected: ptr(true)}},
		{"protected=false", q{Protected: ptr(false)}},
		{"tag=a&tag=b&tag=a", q{Tags: []string{"a", "b"}}},
		{"hw_disk_bus=scsi&os_type=linux", q{Properties: map[string]string{"hw_disk_bus": "scsi", "os_type": "linux"}}},
		{"x=1&x=1", q{Properties: map[string]string{"x": "1"}}},
		{"x=1&x=2", q{Properties: map[string]string{"x": "1"}, Bounds: nothing.Bounds}},

		{"sort=name", sort(registry.Order{Key: "name", Desc: true})},
		{"sort=name:asc,size", sort(registry.Order{Key: "name"}, registry.Order{Key: "size", Desc: true})},
		{"sort_key=name", sort(registry.Order{Key: "name", Desc: true})},
		{"sort_key=name&sort_key=size&sort_dir=asc", sort(registry.Order{Key: "name"}, registry.Order{Key: "size"})},
		{"sort_key=name&sort_dir=asc&sort_key=size&sort_dir=desc", sort(registry.Order{Key: "name"}, registry.Order{Key: "size", Desc: true})},
		{"sort_dir=asc", sort(registry.Order{Key: "created_at"})},
		{"sort_key=id&sort_key=id", sort(registry.Order{Key: "id", Desc: true})},
	} {
		t.Run(tt.query, func(t *testing.T) {
			params, err := parseParams(tt.query)
			if err != nil {
				t.Fatal(err)
			}
			got, err := a.query(params)
			if err != nil {
				t.Fatal(err)
			}
			if tt.want.Limit == 0 {
				tt.want.Limit = 25
			}
			if !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got  %+v\nwant %+v", got, tt.want)
			}
		})
	}
}

func TestBadListParametersAreRefused(t *testing.T) {
	g := newRig(t)
	for _, query := range []string{
		"limit=", "limit=x", "limit=-1", "limit=1.5", "limit=-99999999999999999999",
		"marker=", "marker=x", "marker=" + absent,
		"sort_key=nope", "sort_key=", "sort_key=name&sort_dir=up", "sort_dir=asc&sort_dir=asc",
		"sort_key=name&sort_key=size&sort_key=id&sort_dir=asc&sort_dir=asc", "sort_key=name&sort_dir=asc&sort_dir=asc",
		"sort=", "sort=nope:asc", "sort=name:up", "sort=name,", "sort=name&sort_key=size", "sort=name&sort_dir=asc",
		"name=gt:a", "name=a:b", "status=neq:active", `name=in:"a`, `name=in:"a"b`, `name=in:a"b"`, `name=in:"a\"`,
		"name=in:" + strings.Repeat("a,", 1000),
		"created_at=x", "created_at=like:2026-01-02", "created_at=gt:", "created_at=in:2026-01-02", "updated_at=gt:2026-13-01",
		"size_min=x", "size_max=", "min_ram_min=1.5", "virtual_size_min=x", "virtual_size_max=", "min_disk_max=1e3",
		"visibility=secret", "visibility=", "member_status=x", "os_hidden=1", "protected=True", "protected=1",
		"changes-since=2026-01-02", "x=%zz", "x=%ff", "x=%00",
	} {
		t.Run(query, func(t *testing.T) {
			if w := g.do("GET /v2/images?"+strings.ReplaceAll(query, `"`, "%22"), ""); w.Code != http.StatusBadRequest {
				t.Errorf("status %d: %s", w.Code, w.Body)
			}
		})
	}
}

// names returns the names of the images on a page.
func (g *rig) names(target string) string {
	g.Helper()
	var names []string
	for _, img := range decode(g, g.want(200, "GET "+target, ""))["images"].([]any) {
		names = append(names, img.(map[string]any)["name"].(string))
	}
	return strings.Join(names, " ")
}

func TestListFinds(t *testing.T) {
	g := newRig(t)
	a := g.create(`"name":"a","tags":["x"],` + formats)
	g.put(a, "12345")
	g.create(`"name":"b","tags":["x","y"],"visibility":"public","os_type":"linux","min_ram":512,"disk_format":"qcow2"`)
	g.create(`"name":"c","protected":true,"owner":"p"`)
	g.create(`"name":"hidden","os_hidden":true`)
	for query, want := range map[string]string{
		"":                                     "a b c",
		"&name=in:a,c":                         "a c",
		"&status=active":                       "a",
		"&status=queued":                       "b c",
		"&status=unknown":                      "",
		"&size_min=5&size_max=5":               "a",
		"&size=4":                              "",
		"&min_ram_min=1":                       "b",
		"&disk_format=qcow2":                   "b",
		"&container_format=bare":               "a",
		"&visibility=public":                   "b",
		"&visibility=all":                      "a b c",
		"&tag=x":                               "a b",
		"&tag=x&tag=y":                         "b",
		"&os_type=linux":                       "b",
		"&no_such_property=1":                  "",
		"&protected=true":                      "c",
		"&owner=p":                             "c",
		"&os_hidden=true":                      "hidden",
		"&created_at=gt:1999-01-01":            "a b c",
		"&created_at=lt:1999-01-01":            "",
		"&checksum=" + strings.Repeat("0", 32): "",
	} {
		if got := g.names("/v2/images?sort=name:asc" + query); got != want {
			t.Errorf("%q finds %q, want %q", query, got, want)
		}
	}
	t.Run("a body is ignored [R]", func(t *testing.T) { g.want(200, "GET /v2/images", "x") })
}

func TestListPages(t *testing.T) {
	g := newRig(t)
	for i := range 5 {
		g.create(fmt.Sprintf(`"name":"n%d","tags":["a","b"]`, i))
	}
	const first = "/v2/images?sort_key=name&sort_key=id&sort_dir=asc&tag=a&tag=b&limit=2"
	var pages []string
	for target := first; target != ""; {
		v := decode(t, g.want(200, "GET "+target, ""))
		if v["first"] != first || v["schema"] != "/v2/schemas/images" {
			t.Errorf("first %v, schema %v", v["first"], v["schema"])
		}
		pages = append(pages, g.names(target))
		next, _ := v["next"].(string)
		if next != "" && !strings.HasPrefix(next, first+"&marker=") {
			t.Errorf("next %q", next) // repeated parameters are kept, and limit=2 as it was
		}
		target = next
	}
	if got := strings.Join(pages, "|"); got != "n0 n1|n2 n3|n4" {
		t.Errorf("pages %s", got)
	}
	for query, want := range map[string]string{
		"limit=0":           "",                                     // an empty page has no next
		"limit=6":           "",                                     // not full
		"limit=5":           "/v2/images?limit=5&marker=",           // full, and the next one empty
		"limit=1&name=n%32": "/v2/images?limit=1&name=n%32&marker=", // in the client's spelling
	} {
		v := decode(t, g.want(200, "GET /v2/images?"+query, ""))
		next, _ := v["next"].(string)
		if want == "" && next != "" || !strings.HasPrefix(next, want) {
			t.Errorf("%s: next %q, want %q", query, next, want)
		}
	}
	if v := decode(t, g.want(200, "GET /v2/images", "")); v["first"] != "/v2/images" {
		t.Errorf("first %v", v["first"])
	}
	full := newRig(t, func(o *Options) { o.DefaultLimit, o.MaxLimit = 1, 2 })
	for i := range 3 {
		full.create(fmt.Sprintf(`"name":"n%d"`, i))
	}
	next := decode(t, full.want(200, "GET /v2/images", ""))["next"].(string)
	if u, err := url.Parse(next); err != nil || u.Query().Get("marker") == "" {
		t.Errorf("next %q: %v", next, err)
	}
	if got := full.names("/v2/images?limit=99&sort=name:asc"); got != "n0 n1" {
		t.Errorf("a limit above the largest gives %q", got)
	}
}
