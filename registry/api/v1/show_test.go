package v1_test

import (
	"net/http"
	"strings"
	"testing"

	"nearsight/registry"
)

func TestHeadTellsAllInBothSpellings(t *testing.T) {
	g := newRig(t, "")
	id := g.add("the data", "X-Image-Meta-Name: debian", "X-Image-Meta-Is_public: yes", "X-Image-Meta-Property-Os_type: linux")
	g.change(id, func(img *registry.Image) {
		img.Properties["no token"] = "1"
		img.Properties["Lines"] = "one\r\nX-Evil: two"
	})
	img := g.image(id)
	resp, body := g.want(200, "HEAD /v1/images/"+id, "")
	made, changed := img.CreatedAt.Format("2006-01-02T15:04:05.000000"), img.UpdatedAt.Format("2006-01-02T15:04:05.000000")
	want := map[string]string{
		"id": id, "uri": g.api + "/v1/images/" + id, "name": "debian", "status": "active", "size": "8", "checksum": sum("the data"),
		"disk_format": "raw", "disk-format": "raw", "container_format": "bare", "container-format": "bare", "owner": "",
		"is_public": "True", "is-public": "True", "protected": "False", "min_ram": "0", "min-ram": "0", "min_disk": "0", "min-disk": "0",
		"created_at": made, "created-at": made, "updated_at": changed, "updated-at": changed,
		"deleted_at": "", "deleted-at": "", "deleted": "False", "property-os_type": "linux", "property-lines": "one  X-Evil: two",
	}
	for name, values := range resp.Header {
		rest, ok := strings.CutPrefix(strings.ToLower(name), "x-image-meta-")
		if !ok {
			continue
		}
		if value, ok := want[rest]; !ok || len(values) != 1 || values[0] != value {
			t.Errorf("%s: %q, want %q", name, values, value)
		}
		delete(want, rest)
	}
	for name := range want {
		t.Errorf("no field for %s", name)
	}
	for name, want := range map[string]string{
		"Content-Length": "8", "Content-Type": "application/octet-stream", "Etag": `"` + sum("the data") + `"`, "Location": g.api + "/v1/images/" + id, "X-Evil": "",
	} {
		if got := resp.Header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if body != "" {
		t.Errorf("a body: %q", body)
	}
}

func TestGetGivesFieldsAndData(t *testing.T) {
	g := newRig(t, "")
	id := g.add("the data", "X-Image-Meta-Name: debian", "X-Image-Meta-Is-Public: True")
	tag := `"` + sum("the data") + `"`
	for _, tt := range []struct {
		name, field string
		status      int
		body        string
		meta        bool
	}{
		{"all of it", "", 200, "the data", true},
		{"a range", "Range: bytes=4-", 206, "data", true},
		{"a range of what it still is", "Range: bytes=4-|If-Range: " + tag, 206, "data", true},
		{"a range of what it was", `Range: bytes=4-|If-Range: "other"`, 200, "the data", true},
		{"not modified", "If-None-Match: " + tag, 304, "", true},
		{"not what is meant", `If-Match: "other"`, 412, "", false},
		{"no such range", "Range: bytes=8-", 416, "", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var fields []string
			if tt.field != "" {
				fields = strings.Split(tt.field, "|")
			}
			resp, body := g.want(tt.status, "GET /v1/images/"+id, "", fields...)
			if tt.meta != (resp.Header.Get("X-Image-Meta-Name") == "debian") {
				t.Errorf("fields: %v", resp.Header)
			}
			if !tt.meta {
				return
			}
			if body != tt.body || resp.Header.Get("ETag") != tag || resp.Header.Get("Cache-Control") == "" ||
				strings.Contains(resp.Header.Get("Cache-Control"), "max-age") {
				t.Errorf("%q, %v", body, resp.Header)
			}
			if tt.status == 200 && (resp.ContentLength != 8 || resp.Header.Get("Content-Type") != "application/octet-stream") {
				t.Errorf("%v", resp.Header)
			}
		})
	}
}

func TestDataIsThereOnlyWhileTheImageIsActive(t *testing.T) {
	g := newRig(t, "red")
	for _, tt := range []struct {
		status   registry.Status
		shown    string
		data     int
		asAdmin  int
		hasBytes bool
	}{
		{registry.Queued, "queued", 404, 404, false},
		{registry.Saving, "saving", 404, 404, false},
		{registry.Uploading, "saving", 404, 404, false},
		{registry.Killed, "killed", 404, 404, false},
		{registry.Active, "active", 200, 200, true},
		{registry.Deactivated, "deactivated", 403, 200, true},
	} {
		t.Run(string(tt.status), func(t *testing.T) {
			g.token = "red"
			var id string
			if tt.hasBytes {
				id = g.add("data")
			} else {
				id = g.reserve(raw, bare)
			}
			var err error
			switch loc := g.store.Locate(id); tt.status {
			case registry.Saving:
				_, err = g.db.Begin(t.Context(), id, loc)
			case registry.Uploading:
				_, err = g.db.BeginStage(t.Context(), id, loc)
			case registry.Killed, registry.Deactivated:
				g.change(id, func(img *registry.Image) { img.Status = tt.status })
			}
			if err != nil {
				t.Fatal(err)
			}
			resp, _ := g.want(200, "HEAD /v1/images/"+id, "")
			if got := resp.Header.Get("X-Image-Meta-Status"); got != tt.shown {
				t.Errorf("shown as %q, want %q", got, tt.shown)
			}
			g.want(tt.data, "GET /v1/images/"+id, "")
			g.token = "admin"
			g.want(tt.asAdmin, "GET /v1/images/"+id, "")
		})
	}
	g.want(404, "GET /v1/images/"+absent, "")
	g.want(404, "HEAD /v1/images/"+absent, "")
	g.want(404, "GET /v1/images/7", "")
}

func TestEverySpellingOfThePathIsTheSame(t *testing.T) {
	g := newRig(t, "")
	id := g.add("data", "X-Image-Meta-Is-Public: True")
	const accept = "Accept: application/vnd.openstack.images-"
	for _, tt := range []struct {
		line   string
		fields []string
		status int
	}{
		{"GET /images", nil, 200},
		{"GET /images/", nil, 200},
		{"GET /images/detail", nil, 200},
		{"GET /images/detail/", nil, 200},
		{"GET /images/" + id, nil, 200},
		{"GET /images/" + id + "/", nil, 200},
		{"HEAD /images/" + id, nil, 200},
		{"GET /images/" + id + "/members", nil, 200},
		{"GET /shared-images/red", nil, 200},
		{"GET /v1", nil, 200},
		{"GET /v1/", nil, 200},
		{"GET /v1/images", nil, 200},
		{"GET /v1/images/", nil, 200},
		{"GET /v1.0/images", nil, 200},
		{"GET /v1.1/images/detail", nil, 200},
		{"GET /images", []string{accept + "v1"}, 200},
		{"GET /images", []string{accept + "v1.1"}, 200},
		{"GET /", []string{accept + "v1"}, 200},
		{"GET /v1/cached_images", nil, 200},
		{"GET /v1/queued_images/", nil, 200},
		{"GET /cached_images", nil, 200},
		{"DELETE /v1/cached_images", nil, 200},
		{"POST /images/", nil, 201},
		{"GET /", nil, 300},
		{"GET /images//", nil, 404},
		{"GET /v1/image", nil, 404},
		{"GET /v1/images/" + id + "/members/red", nil, 405},
		{"POST /v1/images/" + id + "/members/red", nil, 405},
		{"PATCH /v1/images", nil, 405},
		{"GET /v1.2/images", nil, 300},
		{"GET /v3/images", nil, 300},
	} {
		t.Run(tt.line+strings.Join(tt.fields, ""), func(t *testing.T) {
			g.want(tt.status, tt.line, "", tt.fields...)
		})
	}
	_, body := g.want(200, "GET /images", "", accept+"v2")
	if !strings.Contains(body, `"schema"`) {
		t.Errorf("not the newer API's: %s", body)
	}
	_, body = g.want(200, "GET /versions", "")
	for _, id := range []string{`{"id":"v1.1","status":"SUPPORTED"`, `{"id":"v1.0","status":"SUPPORTED"`} {
		if !strings.Contains(body, id) {
			t.Errorf("no %s in %s", id, body)
		}
	}
}

func TestDelete(t *testing.T) {
	g := newRig(t, "")
	for _, id := range []string{g.add("data"), g.reserve()} {
		_, body := g.want(200, "DELETE /v1/images/"+id, "")
		if body != "" {
			t.Errorf("a body: %q", body)
		}
		g.want(404, "DELETE /v1/images/"+id, "")
		g.want(404, "HEAD /v1/images/"+id, "")
		if resp, _ := g.do("GET /v2/images/"+id, ""); resp.StatusCode != http.StatusNotFound {
			t.Errorf("the newer API has it: %d", resp.StatusCode)
		}
	}
	id := g.reserve("X-Image-Meta-Protected: True")
	g.want(403, "DELETE /v1/images/"+id, "")
	g.want(400, "DELETE /v1/images/"+id, "a body")
}
