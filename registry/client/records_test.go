package client

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"nearsight/origin"
	"nearsight/registry"
)

func listError(q registry.Query) func(context.Context, *Client) error {
	return func(ctx context.Context, c *Client) error {
		for _, err := range c.List(ctx, q) {
			return err
		}
		return nil
	}
}

func TestListFilters(t *testing.T) {
	one, two, no := int64(1), int64(2), false
	q := registry.Query{
		Match: []registry.Match{
			{Column: "name", Values: []string{"a:b,c"}},
			{Column: "status", Values: []string{"active", `q"\`}},
			{Column: "owner", Values: []string{"p"}},
		},
		Bounds:     []registry.Bound{{Column: "size", Min: &one, Max: &two}},
		Times:      []registry.TimeBound{{Column: "created_at", Op: "gte", Time: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)}},
		Visibility: registry.AllVisibilities, Hidden: &no, Protected: &no,
		Tags: []string{"t", "u"}, Properties: map[string]string{"os_distro": "debian"},
		Sort:   []registry.Order{{Key: "name"}, {Key: "size", Desc: true}},
		Marker: testID, Limit: 3,
	}
	want := url.Values{
		"name": {"eq:a:b,c"}, "status": {`in:"active","q\"\\"`}, "owner": {"p"},
		"size_min": {"1"}, "size_max": {"2"}, "created_at": {"gte:2026-01-02T03:04:05Z"},
		"visibility": {"all"}, "os_hidden": {"false"}, "protected": {"false"},
		"tag": {"t", "u"}, "os_distro": {"debian"}, "sort": {"name:asc,size:desc"},
		"marker": {testID}, "limit": {"3"},
	}
	if got, err := queryValues(q); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("query %v, %v; want %v", got, err, want)
	}
}

func TestListPages(t *testing.T) {
	id := func(n int) string { return fmt.Sprintf("00000000-0000-0000-0000-%012d", n) }
	for _, tt := range []struct {
		name  string
		pages map[string]string // by query
		stop  int               // after so many images; 0: never
		ids   []string
		err   string
	}{
		{"follows to the last page", map[string]string{
			"":           page("/v2/images?marker=1", id(1), id(2)),
			"marker=1":   page("/v2/images?marker=2&x", id(3)),
			"marker=2&x": page(""),
		}, 0, []string{id(1), id(2), id(3)}, ""},
		{"asks for no page that is not wanted", map[string]string{"": page("/v2/images?marker=1", id(1), id(2))}, 2, []string{id(1), id(2)}, ""},
		{"is not sent to another place", map[string]string{
			"":         page("http://elsewhere.invalid/v2/images?marker=1", id(1)),
			"marker=1": page("", id(2)),
		}, 0, []string{id(1), id(2)}, ""},
		{"does not go round in circles", map[string]string{
			"":         page("/v2/images?marker=1"),
			"marker=1": page("/v2/images?marker=1"),
		}, 0, nil, "the same page again"},
		{"wants a query", map[string]string{"": page("/v2/images")}, 0, nil, "next page"},
		{"ends with the error of a page", map[string]string{"": page("/v2/images?marker=1", id(1))}, 0, []string{id(1)}, "404"},
		{"ends with an image that is none", map[string]string{"": `{"images":[{"id":7}]}`}, 0, nil, "not understood: image: id:"},
		{"ends with a list that is none", map[string]string{"": `{"images":7}`}, 0, nil, "not understood: list:"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body, ok := tt.pages[r.URL.RawQuery]
				if !ok {
					w.WriteHeader(404)
				}
				io.WriteString(w, body)
			}))
			var ids []string
			var failed error
			for img, err := range c.List(t.Context(), registry.Query{}) {
				if failed = err; err != nil {
					continue // there must be nothing after it
				}
				if ids = append(ids, img.ID); len(ids) == tt.stop {
					break
				}
			}
			if !slices.Equal(ids, tt.ids) || (failed == nil) != (tt.err == "") || failed != nil && !strings.Contains(failed.Error(), tt.err) {
				t.Errorf("%q, %v; want %q, %q", ids, failed, tt.ids, tt.err)
			}
		})
	}
}

// page returns the JSON of a page.
func page(next string, ids ...string) string {
	images := []map[string]string{}
	for _, id := range ids {
		images = append(images, map[string]string{"id": id})
	}
	b, _ := json.Marshal(map[string]any{"images": images, "next": next})
	return string(b)
}

func TestUnmarshalImage(t *testing.T) {
	const text = `{"id":"` + testID + `","name":"Debian","status":"active","visibility":"public","protected":true,
		"os_hidden":false,"checksum":"d41d","os_hash_algo":"sha512","os_hash_value":"cf83","owner":null,"size":0,
		"virtual_size":10737418240,"container_format":"bare","disk_format":"qcow2","min_ram":512,"min_disk":10,
		"tags":["b","a"],"created_at":"2026-01-02T03:04:05Z","updated_at":"2026-01-02T03:04:06Z",
		"self":"/v2/images/x","file":"/v2/images/x/file","schema":"/v2/schemas/image",
		"locations":[{"url":"file:///x","metadata":{}}],"stores":"a,b","Name":"a property","os_distro":"debian","newer":{"a":1}}`
	name, size, virtual := "Debian", int64(0), int64(10<<30)
	want := &registry.Image{
		ID: testID, Name: &name, Status: registry.Active, Visibility: registry.Public, Protected: true,
		DiskFormat: "qcow2", ContainerFormat: "bare", MinRAM: 512, MinDisk: 10, Size: &size, VirtualSize: &virtual,
		Checksum: "d41d", HashAlgo: "sha512", HashValue: "cf83", Locations: []origin.Location{{URL: "file:///x"}},
		Tags: []string{"a", "b"}, Properties: map[string]string{"Name": "a property", "os_distro": "debian"},
		CreatedAt: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), UpdatedAt: time.Date(2026, 1, 2, 3, 4, 6, 0, time.UTC),
	}
	got, err := UnmarshalImage([]byte(text))
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v; want %+v", got, err, want)
	}
	for _, bad := range []string{
		``, `null`, `[]`, `7`, `{}`, `{"id":"x"}`, `{"id":null}`, minimal[:20],
		`{"id":"` + testID + `","size":-1}`, `{"id":"` + testID + `","size":"1"}`, `{"id":"` + testID + `","size":1e99}`,
		`{"id":"` + testID + `","tags":[1]}`, `{"id":"` + testID + `","created_at":"yesterday"}`,
	} {
		if img, err := UnmarshalImage([]byte(bad)); err == nil {
			t.Errorf("%s became %+v", bad, img)
		}
	}
}

func FuzzUnmarshalImage(f *testing.F) {
	f.Add([]byte(minimal))
	f.Add([]byte(`{"id":"` + testID + `","name":null,"size":1,"tags":["a","a"],"created_at":"2026-01-02T03:04:05Z","a/b":"\ud800","n":1}`))
	f.Add([]byte(`{"id":"` + testID + `","ID":"x","tags":null,"locations":[null],"":""}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		img, err := UnmarshalImage(b)
		if err != nil {
			return
		}
		text, err := MarshalImage(img)
		if err != nil {
			return // such as a year that JSON cannot write
		}
		again, err := UnmarshalImage(text)
		if err != nil {
			t.Fatalf("%s was written and cannot be read: %v", text, err)
		}
		second, err := MarshalImage(again)
		if err != nil || string(second) != string(text) || !maps.Equal(img.Properties, again.Properties) {
			t.Errorf("written as %s and then as %s (%v)", text, second, err)
		}
	})
}
