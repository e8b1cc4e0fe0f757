package v1_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"nearsight/registry"
)

// listed returns the names in a list.
func (g *rig) listed(path string) []string {
	g.Helper()
	_, body := g.want(200, "GET "+path, "")
	var list struct {
		Images []map[string]any
		Shared []map[string]any `json:"shared_images"`
	}
	if err := json.Unmarshal([]byte(body), &list); err != nil {
		g.Fatal(err)
	}
	found := []string{}
	for _, img := range list.Images {
		found = append(found, img["name"].(string))
	}
	for _, img := range list.Shared {
		found = append(found, *g.image(img["image_id"].(string)).Name)
	}
	return found
}

func TestTheListsHaveTheseFields(t *testing.T) {
	g := newRig(t, "")
	g.add("data", "X-Image-Meta-Name: a", "X-Image-Meta-Is-Public: True", "X-Image-Meta-Property-K: v")
	for path, want := range map[string]string{
		"/v1/images": "checksum container_format disk_format id name size uri",
		"/v1/images/detail": "checksum container_format created_at deleted deleted_at disk_format id is_public min_disk min_ram name owner " +
			"properties protected size status updated_at uri",
	} {
		resp, body := g.want(200, "GET "+path, "")
		var list struct{ Images []map[string]any }
		if err := json.Unmarshal([]byte(body), &list); err != nil || len(list.Images) != 1 {
			t.Fatal(body, err)
		}
		var names []string
		for name := range list.Images[0] {
			names = append(names, name)
		}
		slices.Sort(names)
		if got := strings.Join(names, " "); got != want {
			t.Errorf("%s: %s", path, got)
		}
		if size := list.Images[0]["size"]; size != 4.0 || resp.Header.Get("Content-Type") != "application/json" {
			t.Errorf("size %v, %s", size, resp.Header.Get("Content-Type"))
		}
	}
}

func TestFilters(t *testing.T) {
	g := newRig(t, "")
	public := "X-Image-Meta-Is-Public: True"
	g.add("data", public, "X-Image-Meta-Name: a", "X-Image-Meta-Min-Ram: 64", "X-Image-Meta-Property-Arch: arm")
	g.add("longer data", public, "X-Image-Meta-Name: b", "X-Image-Meta-Min-Disk: 3", "X-Image-Meta-Protected: True")
	uploading := g.reserve(public, "X-Image-Meta-Name: c", "X-Image-Meta-Disk-Format: ami", "X-Image-Meta-Property-Arch: arm")
	if _, err := g.db.BeginStage(t.Context(), uploading, g.store.Locate(uploading)); err != nil {
		t.Fatal(err)
	}
	g.add("hidden", "X-Image-Meta-Name: d")
	g.change(g.add("common", "X-Image-Meta-Name: e"), func(img *registry.Image) { img.Visibility = registry.Community })
	future := time.Now().Add(time.Hour).UTC().Format("2006-01-02T15:04:05Z")
	for query, want := range map[string]string{
		"":                                  "a b c",
		"name=a":                            "a",
		"name=in:a,b":                       "",
		"disk_format=ami":                   "c",
		"container_format=bare":             "a b",
		"status=active":                     "a b",
		"status=saving":                     "c",
		"status=uploading":                  "c",
		"size_min=5":                        "b",
		"size_max=4":                        "a",
		"size_min=4&size_max=11":            "a b",
		"min_ram=64":                        "a",
		"min_disk=3":                        "b",
		"property-arch=arm":                 "a c",
		"property-arch=arm&name=a":          "a",
		"protected=True":                    "b",
		"protected=false":                   "a c",
		"changes-since=2011-02-22T19:20":    "400",
		"changes-since=2011-02-22":          "a b c",
		"changes-since=2011-02-22T19:20:53": "a b c",
		"changes-since=" + future:           "",
		"changes-since=yesterday":           "400",
		"is_public=True":                    "a b c",
		"is_public=False":                   "d e",
		"is_public=None":                    "a b c d e",
		"is_public=maybe":                   "400",
		"deleted=False":                     "a b c",
		"deleted=True":                      "",
		"deleted=None":                      "a b c",
		"deleted=maybe":                     "400",
		"size_min=big":                      "400",
		"size_max=-1":                       "400",
		"min_ram=x":                         "400",
		"protected=perhaps":                 "400",
		"unknown=1&owner=x":                 "a b c",
		"limit=-1":                          "400",
		"limit=x":                           "400",
		"limit=0":                           "",
		"sort_key=color":                    "400",
		"sort_dir=up":                       "400",
		"marker=" + absent:                  "400",
		"marker=7":                          "400",
		"name=%zz":                          "400",
		"name=%ff":                          "400",
		"name=%00":                          "400",
	} {
		for _, path := range []string{"/v1/images", "/v1/images/detail"} {
			if want == "400" {
				g.want(400, "GET "+path+"?"+query, "")
				continue
			}
			limit := "&limit=1000&sort_key=name&sort_dir=asc"
			if strings.Contains(query, "limit") {
				limit = ""
			}
			var got []string
			for marker := ""; ; { // pages have 3
				page := g.page(path + "?" + query + limit + marker)
				for _, img := range page {
					got = append(got, *img.Name)
				}
				if len(page) < 3 {
					break
				}
				marker = "&marker=" + page[2].ID
			}
			if strings.Join(got, " ") != want {
				t.Errorf("%s?%s: %v, want %s", path, query, got, want)
			}
		}
	}
}

// page returns the images of a list.
func (g *rig) page(path string) []*registry.Image {
	g.Helper()
	_, body := g.want(200, "GET "+path, "")
	var list struct{ Images []struct{ ID string } }
	if err := json.Unmarshal([]byte(body), &list); err != nil {
		g.Fatal(err)
	}
	var found []*registry.Image
	for _, img := range list.Images {
		found = append(found, g.image(img.ID))
	}
	return found
}

func TestPagesAndOrders(t *testing.T) {
	g := newRig(t, "")
	var ids []string
	for i := range 5 {
		ids = append(ids, g.add(strings.Repeat("x", 5-i), fmt.Sprint("X-Image-Meta-Name: ", i), "X-Image-Meta-Is-Public: True"))
	}
	for query, want := range map[string]string{
		"":                                  "4 3",
		"limit=3":                           "4 3 2",
		"limit=1000":                        "4 3 2", // as many as there may be
		"limit=99999999999999":              "4 3 2",
		"limit=1":                           "4",
		"marker=" + ids[3]:                  "2 1",
		"sort_dir=asc":                      "0 1",
		"sort_key=name":                     "4 3",
		"sort_key=name&sort_dir=asc":        "0 1",
		"sort_key=size&sort_dir=asc":        "4 3",
		"sort_key=size&marker=" + ids[1]:    "2 3",
		"is_public=True&marker=" + ids[1]:   "0",
		"is_public=False&marker=" + ids[1]:  "",
		"limit=2&limit=1&sort_key=name":     "4 3", // the first counts
		"sort_key=created_at&sort_dir=desc": "4 3",
	} {
		if got := strings.Join(g.listed("/v1/images?"+query), " "); got != want {
			t.Errorf("%s: %s, want %s", query, got, want)
		}
	}
}
