package api

import (
	"context"
	"strings"
	"testing"

	"nearsight/origin"
	"nearsight/registry"
)

const imported = "POST /v2/images/" + id1 + "/import"

// dataCalls bring data to the image id1, or to a further store.
var dataCalls = []struct{ name, line, body string }{
	{"upload", "PUT /v2/images/" + id1 + "/file", "hello"},
	{"stage", "PUT /v2/images/" + id1 + "/stage", "hello"},
	{"glance-direct", imported, `{"method":{"name":"glance-direct"}}`},
	{"web-download", imported, `{"method":{"name":"web-download","uri":"http://example.org/x"}}`},
	{"glance-download", imported, `{"method":{"name":"glance-download","glance_region":"east","glance_image_id":"` + id2 + `"}}`},
	{"copy-image", imported, `{"method":{"name":"copy-image"},"stores":["slow"]}`},
}

// to brings the image id1 to a status.
func (g *importRig) to(status registry.Status) {
	g.Helper()
	g.create(`"id":"` + id1 + `","owner":"p","visibility":"community",` + formats)
	var err error
	ctx := context.Background()
	switch status {
	case registry.Saving:
		_, err = g.db.Begin(ctx, id1, origin.Location{URL: "file://default/x"})
	case registry.Uploading:
		g.want(204, "PUT /v2/images/"+id1+"/stage", "hello", octets)
	case registry.Importing:
		g.want(202, imported, dataCalls[3].body)
	case registry.Active:
		g.put(id1, "hello")
	case registry.Deactivated:
		g.put(id1, "hello")
		g.want(204, "POST /v2/images/"+id1+"/actions/deactivate", "")
	case registry.Killed:
		_, err = g.db.Update(ctx, id1, func(img *registry.Image) error { img.Status = registry.Killed; return nil })
	case registry.Deleted:
		g.want(204, "DELETE /v2/images/"+id1, "")
		return
	}
	if err != nil || g.get(id1).Status != status {
		g.Fatalf("image is %s, %v", g.get(id1).Status, err)
	}
}

// Any step that the status machine does not have is a conflict, and changes nothing.
func TestDataCallsInEachStatus(t *testing.T) {
	for _, tt := range []struct {
		status registry.Status
		want   [6]int // in the order of dataCalls
	}{
		{registry.Queued, [6]int{204, 204, 409, 202, 202, 409}},
		{registry.Saving, [6]int{409, 409, 409, 409, 409, 409}},
		{registry.Uploading, [6]int{409, 409, 202, 409, 409, 409}},
		{registry.Importing, [6]int{409, 409, 409, 409, 409, 409}},
		{registry.Active, [6]int{409, 409, 409, 409, 409, 202}},
		{registry.Deactivated, [6]int{409, 409, 409, 409, 409, 409}},
		{registry.Killed, [6]int{409, 409, 409, 409, 409, 409}},
		{registry.Deleted, [6]int{404, 404, 404, 404, 404, 404}},
	} {
		for i, call := range dataCalls {
			t.Run(string(tt.status)+", "+call.name, func(t *testing.T) {
				g := newImportRig(t)
				g.to(tt.status)
				var revision int64
				if tt.status != registry.Deleted {
					revision = g.get(id1).Revision
				}
				w := g.want(tt.want[i], call.line, call.body, octets)
				if w.Code == 409 && (g.get(id1).Revision != revision || !strings.Contains(w.Body.String(), string(tt.status))) {
					t.Errorf("image is %s: %s", g.get(id1).Status, w.Body)
				}
			})
		}
	}
}

// To whom an image is invisible it is not found; to whom it is visible and who may not
// change it it is forbidden.
func TestDataCallsOfThoseWhoMayNot(t *testing.T) {
	for _, tt := range []struct {
		name   string
		caller *registry.Caller
		seen   bool // also while it is private
		status int
	}{
		{"a reader of the project", &registry.Caller{Project: "p", Roles: []string{"reader"}}, true, 403},
		{"another project", &registry.Caller{Project: "q", Roles: []string{"member"}}, false, 403},
		{"a service", &registry.Caller{Roles: []string{"service"}}, false, 403},
		{"nobody", &registry.Caller{}, false, 404},
		{"a stranger", &registry.Caller{Stranger: true}, false, 404},
		{"the bearer of a signed URL", &registry.Caller{Image: id1, Project: "p", Roles: []string{"admin"}}, true, 403},
		{"the bearer of another signed URL", &registry.Caller{Image: id2, Project: "p", Roles: []string{"admin"}}, false, 404},
	} {
		for i, call := range dataCalls {
			status := registry.Queued
			if i == 2 {
				status = registry.Uploading
			} else if i == 5 {
				status = registry.Active
			}
			g := newImportRig(t)
			g.to(status)
			for _, visibility := range []registry.Visibility{registry.Community, registry.Private} {
				if _, err := g.db.Update(t.Context(), id1, func(img *registry.Image) error { img.Visibility = visibility; return nil }); err != nil {
					t.Fatal(err)
				}
				want := tt.status
				if visibility == registry.Private && !tt.seen {
					want = 404
				}
				g.as(tt.caller)
				if w := g.do(call.line, call.body, octets); w.Code != want || g.get(id1).Status != status {
					t.Errorf("%s, %s of a %s image: status %d, want %d: %s", tt.name, call.name, visibility, w.Code, want, w.Body)
				}
				g.as(registry.Everybody())
			}
		}
	}
}
