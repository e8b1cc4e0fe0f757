package v1_test

import (
	"maps"
	"strings"
	"testing"

	"nearsight/registry"
	"nearsight/registry/api"
)

func TestPutPurgesPropertiesThatItDoesNotName(t *testing.T) {
	for _, tt := range []struct {
		name, body string
		fields     []string
		want       map[string]string
	}{
		{"unless it says otherwise", "", []string{"X-Glance-Registry-Purge-Props: false"}, map[string]string{"a": "1", "b": "2", "os_glance_x": "own"}},
		{"and says so", "", []string{"X-Glance-Registry-Purge-Props: True"}, map[string]string{"os_glance_x": "own"}},
		{"silently", "", nil, map[string]string{"os_glance_x": "own"}},
		{"and keeps the rest", "", []string{"X-Image-Meta-Property-B: 3"}, map[string]string{"b": "3", "os_glance_x": "own"}},
		{"but not when it brings data", "data", []string{octets, "X-Image-Meta-Property-B: 3"}, map[string]string{"a": "1", "b": "3", "os_glance_x": "own"}},
		{"nor then when it says so", "data", []string{octets, "X-Glance-Registry-Purge-Props: true"}, map[string]string{"a": "1", "b": "2", "os_glance_x": "own"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := newRig(t, "")
			id := g.reserve(raw, bare, "X-Image-Meta-Property-A: 1", "X-Image-Meta-Property-B: 2")
			g.change(id, func(img *registry.Image) { img.Properties["os_glance_x"] = "own" })
			g.want(200, "PUT /v1/images/"+id, tt.body, tt.fields...)
			if got := g.image(id).Properties; !maps.Equal(got, tt.want) {
				t.Errorf("%v, want %v", got, tt.want)
			}
		})
	}
}

func TestPutChangesWhatItNames(t *testing.T) {
	g := newRig(t, "")
	id := g.add("data", "X-Image-Meta-Name: old", "X-Image-Meta-Min-Ram: 5")
	resp, body := g.want(200, "PUT /v1/images/"+id, "", "X-Image-Meta-Name: new", "X-Image-Meta-Is-Public: True", "X-Image-Meta-Protected: True",
		"X-Image-Meta-Id: "+id, "X-Image-Meta-Status: active", "X-Image-Meta-Size: 4", "X-Image-Meta-Checksum: "+sum("data"), "X-Image-Meta-Disk_format: raw")
	img := g.image(id)
	if *img.Name != "new" || img.Visibility != registry.Public || !img.Protected || img.MinRAM != 5 {
		t.Errorf("%+v", img)
	}
	if !strings.HasPrefix(body, `{"image":{"id":"`+id) || resp.Header.Get("X-Image-Meta-Name") != "new" || resp.Header.Get("ETag") == "" ||
		resp.Header.Get("Location") == "" {
		t.Errorf("%v %s", resp.Header, body)
	}
	g.want(200, "PUT /v1/images/"+id, "", "X-Image-Meta-Name: ", "X-Image-Meta-Is-Public: False", "X-Image-Meta-Min-Ram: ")
	if img := g.image(id); img.Name != nil || img.Visibility != registry.Shared || img.MinRAM != 0 {
		t.Errorf("%+v", img)
	}
	for _, v := range []registry.Visibility{registry.Private, registry.Community} {
		g.change(id, func(img *registry.Image) { img.Visibility = v })
		g.want(200, "PUT /v1/images/"+id, "", "X-Image-Meta-Is-Public: False")
		if got := g.image(id).Visibility; got != v {
			t.Errorf("%s became %s", v, got)
		}
	}
}

func TestDataComesLater(t *testing.T) {
	for _, tt := range []struct {
		name, body string
		fields     []string
		status     int
		is         registry.Status
	}{
		{"by a body", "data", []string{octets, "X-Image-Meta-Size: 4"}, 200, registry.Active},
		{"by a location", "", []string{"X-Image-Meta-Location: WEB/a"}, 200, registry.Active},
		{"by a copy", "", []string{"X-Glance-Api-Copy-From: WEB/a"}, 200, registry.Importing},
		{"not with another size", "data", []string{octets, "X-Image-Meta-Size: 5", "Content-Length: 4"}, 400, registry.Queued},
		{"not larger than may be", "0123456789abcdefg", []string{octets}, 413, registry.Queued},
		{"not with another checksum", "data", []string{octets, "X-Image-Meta-Checksum: " + sum("other")}, 400, registry.Killed},
		{"not with another type", "data", []string{"Content-Type: text/plain"}, 400, registry.Queued},
		{"not from where nothing is", "", []string{"X-Image-Meta-Location: WEB/absent"}, 400, registry.Queued},
		{"not from a file", "", []string{"X-Image-Meta-Location: file:///etc/passwd"}, 400, registry.Queued},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := newRig(t, "", func(o *api.Options) { o.MaxImageSize = 16 })
			for i := range tt.fields {
				tt.fields[i] = strings.Replace(tt.fields[i], "WEB", g.web.URL, 1)
			}
			id := g.reserve(raw, bare)
			g.want(tt.status, "PUT /v1/images/"+id, tt.body, tt.fields...)
			if got := g.image(id).Status; got != tt.is {
				t.Errorf("it is %s, want %s", got, tt.is)
			}
		})
	}
}

func TestPutRefusals(t *testing.T) {
	g := newRig(t, "")
	active, queued := g.add("data"), g.reserve()
	killed := g.reserve(raw, bare)
	g.change(killed, func(img *registry.Image) { img.Status = registry.Killed })
	for _, tt := range []struct {
		name, id, body string
		fields         []string
		status         int
	}{
		{"an image that is not there", absent, "", nil, 404},
		{"data for an active image", active, "more", []string{octets}, 409},
		{"data for a killed image", killed, "more", []string{octets}, 409},
		{"a location for an active image", active, "", []string{"X-Image-Meta-Location: http://host/a"}, 400},
		{"a copy for an active image", active, "", []string{"X-Glance-Api-Copy-From: http://host/a"}, 400},
		{"data before formats", queued, "data", []string{octets}, 400},
		{"another status", active, "", []string{"X-Image-Meta-Status: queued"}, 403},
		{"a status that is none", active, "", []string{"X-Image-Meta-Status: fine"}, 400},
		{"another id", active, "", []string{"X-Image-Meta-Id: " + absent}, 403},
		{"another size", active, "", []string{"X-Image-Meta-Size: 5"}, 403},
		{"another checksum", active, "", []string{"X-Image-Meta-Checksum: " + sum("x")}, 403},
		{"another format", active, "", []string{"X-Image-Meta-Disk-Format: qcow2"}, 403},
		{"an unknown format", queued, "", []string{"X-Image-Meta-Disk-Format: floppy"}, 400},
		{"formats that do not go together", queued, "", []string{"X-Image-Meta-Disk-Format: ami", bare}, 400},
		{"a size that is none", active, "", []string{"X-Image-Meta-Size: x"}, 400},
		{"a property of the server's", active, "", []string{"X-Image-Meta-Property-os_glance_import_task: 1"}, 403},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g.want(tt.status, "PUT /v1/images/"+tt.id, tt.body, tt.fields...)
		})
	}
	if img := g.image(active); img.Status != registry.Active || img.DiskFormat != "raw" {
		t.Errorf("%+v", img)
	}
}
