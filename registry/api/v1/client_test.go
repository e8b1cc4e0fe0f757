package v1_test

import (
	"errors"
	"io"
	"strings"
	"testing"

	"nearsight/registry/api/v1/v1test"
)

// TestAClientOf2011 goes through what the documents of its time show.
func TestAClientOf2011(t *testing.T) {
	for _, base := range []string{"", "/v1", "/v1.0", "/v1.1"} {
		t.Run("at "+base, func(t *testing.T) {
			g := newRig(t, "")
			c := &v1test.Client{Base: g.api + base}
			meta := v1test.Meta{"name": "debian", "disk-format": "raw", "container_format": "ovf", "is-public": "True", "property-distro": "squeeze"}

			img, err := c.AddImage(meta, io.MultiReader(strings.NewReader("in "), strings.NewReader("chunks"))) // as a file object
			if err != nil {
				t.Fatal(err)
			}
			id := img["id"].(string)
			got, data, err := c.GetImage(id)
			if err != nil || string(data) != "in chunks" || got["name"] != "debian" || got["property-distro"] != "squeeze" || got["size"] != "9" {
				t.Errorf("%v %q %v", got, data, err)
			}
			if got, err = c.GetImageMeta(id); err != nil || got["container-format"] != "ovf" || got["status"] != "active" {
				t.Errorf("%v %v", got, err)
			}
			for _, list := range []func(string) ([]map[string]any, error){c.GetImages, c.GetImagesDetailed} {
				if images, err := list("name=debian"); err != nil || len(images) != 1 || images[0]["id"] != id {
					t.Errorf("%v %v", images, err)
				}
			}
			// It sends back all that it was told.
			got["name"] = "lenny"
			if img, err = c.UpdateImage(id, got, nil); err != nil || img["name"] != "lenny" {
				t.Errorf("%v %v", img, err)
			}
			if _, err := c.UpdateImage(id, nil, strings.NewReader("other")); !errors.Is(err, v1test.ErrDuplicate) {
				t.Errorf("data twice: %v", err)
			}
			if _, err := c.AddImage(v1test.Meta{"id": id}, nil); !errors.Is(err, v1test.ErrDuplicate) {
				t.Errorf("an id twice: %v", err)
			}
			if _, err := c.AddImage(v1test.Meta{"disk-format": "bread"}, nil); !errors.Is(err, v1test.ErrInvalid) {
				t.Errorf("no format: %v", err)
			}

			img, err = c.AddImage(v1test.Meta{"name": "later", "disk-format": "ami"}, nil)
			if err != nil || img["status"] != "queued" {
				t.Fatal(img, err)
			}
			later := img["id"].(string)
			if _, _, err := c.GetImage(later); !errors.Is(err, v1test.ErrNotFound) {
				t.Errorf("data of a queued image: %v", err)
			}
			if img, err = c.UpdateImage(later, v1test.Meta{"property-kernel": "k"}, strings.NewReader("late")); err != nil || img["status"] != "active" {
				t.Errorf("%v %v", img, err)
			}

			if err := c.AddMember(later, "blue", `{"member":{"can_share":true}}`); err != nil {
				t.Error(err)
			}
			if members, err := c.GetImageMembers(later); err != nil || len(members) != 1 || members[0]["member_id"] != "blue" || members[0]["can_share"] != true {
				t.Errorf("%v %v", members, err)
			}
			if shared, err := c.GetMemberImages("blue"); err != nil || len(shared) != 1 || shared[0]["image_id"] != later {
				t.Errorf("%v %v", shared, err)
			}
			if err := c.ReplaceMembers(later, `{"memberships":[{"member_id":"green"}]}`); err != nil {
				t.Error(err)
			}
			if err := c.DeleteMember(later, "green"); err != nil {
				t.Error(err)
			}
			for _, id := range []string{id, later} {
				if err := c.DeleteImage(id); err != nil {
					t.Error(err)
				}
				if _, err := c.GetImageMeta(id); !errors.Is(err, v1test.ErrNotFound) {
					t.Errorf("after the delete: %v", err)
				}
			}
		})
	}
}
