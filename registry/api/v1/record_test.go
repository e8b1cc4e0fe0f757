package v1_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"nearsight/registry"
	"nearsight/registry/api/v1/v1test"
)

func TestTheRegistryAPIHasTheseDocuments(t *testing.T) {
	g := newRig(t, "")
	g.add("data", "X-Image-Meta-Name: a", "X-Image-Meta-Is-Public: True", "X-Image-Meta-Property-K: v")
	g.add("data", "X-Image-Meta-Name: b")
	const brief = "checksum container_format disk_format id name size"
	const full = "checksum container_format created_at deleted deleted_at disk_format id is_public location min_disk min_ram name owner properties protected size status updated_at"
	for path, want := range map[string]string{
		"/": brief, "/images": brief, "/images/": brief, "/v1": brief, "/v1/": brief, "/v1/images": brief, "/v1.0/images": brief,
		"/images/detail": full, "/v1/images/detail": full,
	} {
		resp, body := g.ask(g.records, "GET "+path, "")
		var list struct{ Images []map[string]any }
		if err := json.Unmarshal([]byte(body), &list); err != nil || resp.StatusCode != 200 || len(list.Images) != 1 {
			t.Fatalf("%s: %d, %s, %v", path, resp.StatusCode, body, err)
		}
		var names []string
		for name := range list.Images[0] {
			names = append(names, name)
		}
		slices.Sort(names)
		if got := strings.Join(names, " "); got != want {
			t.Errorf("%s: %s", path, got)
		}
	}
	for _, path := range []string{"/v2/images", "/versions", "/healthcheck", "/nearsight/cache", "/other"} {
		if resp, _ := g.ask(g.records, "GET "+path, ""); resp.StatusCode != 404 {
			t.Errorf("%s: %d", path, resp.StatusCode)
		}
	}
}

func TestARecordIsKept(t *testing.T) {
	g := newRig(t, "")
	c := g.registry()
	web := g.web.URL + "/a"
	img, err := c.AddImage(map[string]any{
		"name": "kernel", "status": "queued", "disk_format": "aki", "container_format": "aki", "size": "19", "is_public": true, "location": nil,
		"store": "file", "type": "kernel", "created_at": "2011-01-01T00:00:00", "deleted": true, "properties": map[string]any{"arch": "x86", "n": 5, "nil": nil},
	})
	if err != nil {
		t.Fatal(err)
	}
	id := img["id"].(string)
	if img["status"] != "queued" || img["is_public"] != true || img["deleted"] != false || img["location"] != nil ||
		fmt.Sprint(img["properties"]) != "map[arch:x86 n:5 nil:]" {
		t.Errorf("%v", img)
	}
	// What the image server of 2011 did during an upload of its own.
	if img, err = c.UpdateImage(id, map[string]any{"status": "saving"}, false); err != nil || img["status"] != "queued" {
		t.Errorf("saving: %v, %v", img, err)
	}
	if img, err = c.UpdateImage(id, map[string]any{"status": "active", "location": web, "size": 14, "checksum": sum("from elsewhere")}, false); err != nil {
		t.Fatal(err)
	}
	if img["status"] != "active" || img["location"] != web || img["size"] != 14.0 || len(img["properties"].(map[string]any)) != 3 {
		t.Errorf("active: %v", img)
	}
	if img, err = c.UpdateImage(id, map[string]any{"name": "k", "status": "active", "location": web, "size": 14, "properties": map[string]any{"arch": "arm"}}, true); err != nil ||
		img["name"] != "k" || fmt.Sprint(img["properties"]) != "map[arch:arm]" {
		t.Errorf("changed: %v, %v", img, err)
	}
	if img, err := c.GetImage(id); err != nil || img["name"] != "k" || img["location"] != web {
		t.Errorf("got: %v, %v", img, err)
	}
	if err := c.DeleteImage(id); err != nil {
		t.Error(err)
	}
	if _, err := c.GetImage(id); !errors.Is(err, v1test.ErrNotFound) {
		t.Errorf("after the delete: %v", err)
	}
	if _, err := c.AddImage(map[string]any{"id": id, "status": "queued"}); !errors.Is(err, v1test.ErrDuplicate) {
		t.Errorf("its id: %v", err)
	}
}

func TestWhatTheRegistryRefuses(t *testing.T) {
	g := newRig(t, "")
	active := g.add("data")
	for _, tt := range []struct {
		name, line, body string
		status           int
	}{
		{"no document", "POST /images", "", 400},
		{"no JSON", "POST /images", "image", 400},
		{"no image", "POST /images", `{}`, 400},
		{"no object", "POST /images", `{"image":[]}`, 400},
		{"active, and no data", "POST /images", `{"image":{"name":"a","disk_format":"raw","container_format":"bare"}}`, 400},
		{"active, and a file", "POST /images", `{"image":{"disk_format":"raw","container_format":"bare","location":"file:///a"}}`, 400},
		{"active, and no formats", "POST /images", `{"image":{"location":"WEB/a"}}`, 400},
		{"active, and nothing there", "POST /images", `{"image":{"disk_format":"raw","container_format":"bare","location":"WEB/absent"}}`, 400},
		{"active, and another size", "POST /images", `{"image":{"disk_format":"raw","container_format":"bare","location":"WEB/a","size":5}}`, 400},
		{"active, by its location", "POST /images", `{"image":{"disk_format":"raw","container_format":"bare","location":"WEB/a","size":14}}`, 200},
		{"saving, with a location to be", "POST /images", `{"image":{"status":"saving","location":"file:///a"}}`, 200},
		{"killed", "POST /images", `{"image":{"status":"killed"}}`, 200},
		{"deleted", "POST /images", `{"image":{"status":"deleted"}}`, 400},
		{"unknown status", "POST /images", `{"image":{"status":"available"}}`, 400},
		{"unknown format", "POST /images", `{"image":{"status":"queued","disk_format":"floppy"}}`, 400},
		{"formats that do not go together", "POST /images", `{"image":{"status":"queued","disk_format":"ami","container_format":"bare"}}`, 400},
		{"size that is none", "POST /images", `{"image":{"status":"queued","size":"big"}}`, 400},
		{"size that is negative", "POST /images", `{"image":{"status":"queued","size":-1}}`, 400},
		{"an id of the first years", "POST /images", `{"image":{"status":"queued","id":3}}`, 400},
		{"a name that is an object", "POST /images", `{"image":{"status":"queued","name":{}}}`, 400},
		{"properties that are a list", "POST /images", `{"image":{"status":"queued","properties":["a"]}}`, 400},
		{"a property that is a list", "POST /images", `{"image":{"status":"queued","properties":{"a":[]}}}`, 400},
		{"a duplicate", "POST /images", `{"image":{"status":"queued","id":"ACTIVE"}}`, 409},
		{"unknown members", "POST /images", `{"image":{"status":"queued","store":{"a":1},"type":"x","members":[]}}`, 200},
		{"nobody's", "PUT /images/" + absent, `{"image":{}}`, 404},
		{"active to queued", "PUT /images/ACTIVE", `{"image":{"status":"queued"}}`, 400},
		{"active to killed", "PUT /images/ACTIVE", `{"image":{"status":"killed"}}`, 400},
		{"active to deleted", "PUT /images/ACTIVE", `{"image":{"status":"pending_delete"}}`, 400},
		{"another location", "PUT /images/ACTIVE", `{"image":{"status":"active","location":"WEB/a"}}`, 400},
		{"another size", "PUT /images/ACTIVE", `{"image":{"size":5}}`, 403},
		{"another id", "PUT /images/ACTIVE", `{"image":{"id":"` + absent + `"}}`, 403},
		{"nothing", "PUT /images/ACTIVE", `{"image":{}}`, 200},
		{"deactivated", "PUT /images/ACTIVE", `{"image":{"status":"deactivated"}}`, 200},
		{"active again", "PUT /images/ACTIVE", `{"image":{"status":"active"}}`, 200},
		{"no method", "PATCH /images/ACTIVE", `{}`, 405},
		{"no id", "GET /images/3", "", 404},
		{"no delete of what is not there", "DELETE /images/" + absent, "", 404},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := strings.NewReplacer("WEB", g.web.URL, "ACTIVE", active)
			resp, body := g.ask(g.records, r.Replace(tt.line), r.Replace(tt.body))
			if resp.StatusCode != tt.status {
				t.Errorf("status %d, want %d: %s", resp.StatusCode, tt.status, body)
			}
		})
	}
	if got := g.image(active).Status; got != registry.Active {
		t.Errorf("it is %s", got)
	}
}

func TestTheRegistryIsForAdmins(t *testing.T) {
	g := newRig(t, "red")
	id := g.add("data")
	for who, want := range map[string]int{"admin": 200, "boss": 200, "red": 403, "reader": 403, "nobody": 403, "stranger": 401} {
		g.token = who
		for _, line := range []string{
			"GET /", "GET /images", "GET /images/detail", "GET /images/" + id, "PUT /images/" + id, "GET /images/" + id + "/members", "GET /shared-images/blue",
		} {
			body := ""
			if strings.HasPrefix(line, "PUT") {
				body = `{"image":{}}`
			}
			if resp, text := g.ask(g.records, line, body); resp.StatusCode != want {
				t.Errorf("%s %s: %d, want %d: %s", who, line, resp.StatusCode, want, text)
			}
		}
	}
}
