package v1_test

import (
	"crypto/md5"
	"encoding/hex"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"testing/iotest"

	"nearsight/registry"
	"nearsight/registry/api"
	"nearsight/registry/api/v1/v1test"
)

func sum(data string) string {
	m := md5.Sum([]byte(data))
	return hex.EncodeToString(m[:])
}

func TestAnImageComesWithItsBody(t *testing.T) {
	g := newRig(t, "")
	resp, body := g.want(201, "POST /v1/images", "the data", octets, raw, bare,
		"X-Image-Meta-Name: debian", "X-Image-Meta-Is-Public: True", "X-Image-Meta-Size: 8", "X-Image-Meta-Checksum: "+sum("the data"),
		"X-Image-Meta-Min-Ram: 512", "X-Image-Meta-Min_disk: 4", "X-Image-Meta-Protected: on", "X-Image-Meta-Property-Kernel-Args: quiet",
		"X-Image-Meta-Created-At: 1999-01-01T00:00:00", "X-Image-Meta-Deleted: True", "X-Image-Meta-Status: queued", "X-Image-Meta-Type: machine",
		"X-Image-Meta-Properties: {}")
	id := resp.Header.Get("X-Image-Meta-Id")
	if got, want := resp.Header.Get("Location"), g.api+"/v1/images/"+id; got != want {
		t.Errorf("Location: %q, want %q", got, want)
	}
	if got, want := resp.Header.Get("ETag"), `"`+sum("the data")+`"`; got != want {
		t.Errorf("ETag: %q, want %q", got, want)
	}
	var answer struct{ Image map[string]any }
	if err := json.Unmarshal([]byte(body), &answer); err != nil {
		t.Fatal(err)
	}
	img := g.image(id)
	for name, want := range map[string]any{
		"id": id, "uri": g.api + "/v1/images/" + id, "name": "debian", "status": "active", "size": 8.0, "disk_format": "raw",
		"container_format": "bare", "checksum": sum("the data"), "owner": nil, "is_public": true, "protected": true,
		"min_ram": 512.0, "min_disk": 4.0, "deleted": false, "deleted_at": nil,
		"created_at": img.CreatedAt.Format("2006-01-02T15:04:05.000000"), "updated_at": img.UpdatedAt.Format("2006-01-02T15:04:05.000000"),
	} {
		if got, ok := answer.Image[name]; !ok || got != want {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
		delete(answer.Image, name)
	}
	if p := answer.Image["properties"].(map[string]any); len(p) != 1 || p["kernel_args"] != "quiet" || len(answer.Image) != 1 {
		t.Errorf("and besides: %v", answer.Image)
	}
	if img.Visibility != registry.Public || img.Status != registry.Active {
		t.Errorf("the record: %+v", img)
	}
}

func TestThereAreFourWaysIn(t *testing.T) {
	for _, tt := range []struct {
		name   string
		body   string
		fields []string
		status registry.Status
		size   int64 // -1: unknown
	}{
		{"a body", "data", []string{octets, raw, bare}, registry.Active, 4},
		{"a location", "", []string{raw, bare, "X-Image-Meta-Location: WEB/a"}, registry.Active, 14},
		{"a location and its size", "", []string{raw, bare, "X-Image-Meta-Location: WEB/a", "X-Image-Meta-Size: 14"}, registry.Active, 14},
		{"a location that does not say its size", "", []string{raw, bare, "X-Image-Meta-Location: WEB/endless", "X-Image-Meta-Size: 77"}, registry.Active, 77},
		{"nothing", "", nil, registry.Queued, -1},
		{"nothing but a type", "", []string{octets}, registry.Queued, -1},
		{"a copy", "", []string{raw, bare, "X-Glance-Api-Copy-From: WEB/a"}, registry.Importing, -1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := newRig(t, "")
			for i := range tt.fields {
				tt.fields[i] = strings.Replace(tt.fields[i], "WEB", g.web.URL, 1)
			}
			resp, body := g.want(201, "POST /v1/images", tt.body, tt.fields...)
			img := g.image(resp.Header.Get("X-Image-Meta-Id"))
			if img.Status != tt.status {
				t.Errorf("status %s, want %s", img.Status, tt.status)
			}
			if tt.size >= 0 && (img.Size == nil || *img.Size != tt.size) || tt.size < 0 && img.Size != nil {
				t.Errorf("size %v, want %d", img.Size, tt.size)
			}
			if strings.Contains(body, g.web.URL) || resp.Header.Get("X-Image-Meta-Location") != "" {
				t.Errorf("the location is told: %s", body)
			}
			if want := "saving"; tt.status == registry.Importing && resp.Header.Get("X-Image-Meta-Status") != want {
				t.Errorf("shown as %q, want %q", resp.Header.Get("X-Image-Meta-Status"), want)
			}
		})
	}
}

func TestPostRefusals(t *testing.T) {
	const md5OfNothing = "d41d8cd98f00b204e9800998ecf8427e"
	for _, tt := range []struct {
		name   string
		body   string
		fields []string
		status int
		left   registry.Status // of the image that is left; "" for none
	}{
		{"another type", "data", []string{"Content-Type: text/plain", raw, bare}, 400, registry.Killed},
		{"no type", "data", []string{raw, bare}, 400, registry.Killed},
		{"size is more than came", "data", []string{octets, raw, bare, "X-Image-Meta-Size: 5"}, 400, registry.Killed},
		{"size is less than came", "data", []string{octets, raw, bare, "X-Image-Meta-Size: 3"}, 400, registry.Killed},
		{"another checksum", "data", []string{octets, raw, bare, "X-Image-Meta-Checksum: " + md5OfNothing}, 400, registry.Killed},
		{"larger than may be", "0123456789abcdefg", []string{octets, raw, bare}, 413, registry.Killed},
		{"announced larger than may be", "data", []string{octets, raw, bare, "X-Image-Meta-Size: 17"}, 400, registry.Killed},
		{"size is no number", "data", []string{octets, raw, bare, "X-Image-Meta-Size: big"}, 400, ""},
		{"size is negative", "data", []string{octets, raw, bare, "X-Image-Meta-Size: -1"}, 400, ""},
		{"checksum is none", "data", []string{octets, raw, bare, "X-Image-Meta-Checksum: abc"}, 400, ""},
		{"no formats", "data", []string{octets}, 400, ""},
		{"no container format", "data", []string{octets, raw}, 400, ""},
		{"no disk format", "data", []string{octets, bare}, 400, ""},
		{"unknown disk format", "", []string{"X-Image-Meta-Disk-Format: floppy", bare}, 400, ""},
		{"unknown container format", "", []string{raw, "X-Image-Meta-Container-Format: box"}, 400, ""},
		{"formats that do not go together", "", []string{"X-Image-Meta-Disk-Format: aki", bare}, 400, ""},
		{"formats that do not go together either", "", []string{"X-Image-Meta-Disk-Format: ami", "X-Image-Meta-Container-Format: ari"}, 400, ""},
		{"formats the other way", "", []string{raw, "X-Image-Meta-Container-Format: ami"}, 400, ""},
		{"unknown status", "", []string{"X-Image-Meta-Status: available"}, 400, ""},
		{"an id of the first years", "", []string{"X-Image-Meta-Id: 3"}, 400, ""},
		{"min_ram is no number", "", []string{"X-Image-Meta-Min-Ram: much"}, 400, ""},
		{"min_disk is out of range", "", []string{"X-Image-Meta-Min-Disk: 2147483648"}, 400, ""},
		{"name is too long", "", []string{"X-Image-Meta-Name: " + strings.Repeat("x", 256)}, 400, ""},
		{"two names", "", []string{"X-Image-Meta-Name: a", "x-image-meta-name: b"}, 400, ""},
		{"two spellings, two values", "", []string{raw, "X-Image-Meta-Disk_format: qcow2"}, 400, ""},
		{"a property of the server's", "", []string{"X-Image-Meta-Property-Os_glance_x: 1"}, 403, ""},
		{"a property called like an attribute", "", []string{"X-Image-Meta-Property-Owner: me"}, 403, ""},
		{"kernel_id is no id", "", []string{"X-Image-Meta-Property-Kernel_id: 5"}, 400, ""},
		{"a file", "", []string{raw, bare, "X-Image-Meta-Location: file:///etc/passwd"}, 400, ""},
		{"a store's", "", []string{raw, bare, "X-Image-Meta-Location: swift+http://u:p@host/c/o"}, 400, ""},
		{"credentials", "", []string{raw, bare, "X-Image-Meta-Location: http://u:secret@host/o"}, 400, ""},
		{"a location without formats", "", []string{"X-Image-Meta-Location: WEB/a"}, 400, ""},
		{"a location where nothing is", "", []string{raw, bare, "X-Image-Meta-Location: WEB/absent"}, 400, registry.Killed},
		{"a location of another size", "", []string{raw, bare, "X-Image-Meta-Location: WEB/a", "X-Image-Meta-Size: 15"}, 400, registry.Killed},
		{"a copy of a file", "", []string{raw, bare, "X-Glance-Api-Copy-From: file:///etc/passwd"}, 400, ""},
		{"a copy from swift", "", []string{raw, bare, "X-Glance-Api-Copy-From: swift://u:p@host/c/o"}, 400, ""},
		{"a body and a location", "data", []string{octets, raw, bare, "X-Image-Meta-Location: WEB/a"}, 400, ""},
		{"a location and a copy", "", []string{raw, bare, "X-Image-Meta-Location: WEB/a", "X-Glance-Api-Copy-From: WEB/a"}, 400, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := newRig(t, "", func(o *api.Options) { o.MaxImageSize = 16 })
			for i := range tt.fields {
				tt.fields[i] = strings.Replace(tt.fields[i], "WEB", g.web.URL, 1)
			}
			resp, body := g.want(tt.status, "POST /v1/images", tt.body, tt.fields...)
			if strings.Contains(body, "secret") || !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/plain") {
				t.Errorf("%s: %s", resp.Header.Get("Content-Type"), body)
			}
			all := g.every()
			if tt.left == "" && len(all) > 0 || tt.left != "" && (len(all) != 1 || all[0].Status != tt.left) {
				t.Errorf("left %+v, want %q", all, tt.left)
			}
			if n := g.store.Len(); n > 0 {
				orphans, err := g.db.Orphans(t.Context(), "", 10)
				if err != nil || len(orphans) != n {
					t.Errorf("%d objects, %d orphans, %v", n, len(orphans), err)
				}
			}
		})
	}
}

func TestAnIDThatIsTakenIsADuplicate(t *testing.T) {
	g := newRig(t, "")
	id := g.reserve("X-Image-Meta-Id: " + absent)
	if id != absent {
		t.Errorf("id %s", id)
	}
	g.want(409, "POST /v1/images", "data", octets, raw, bare, "X-Image-Meta-Id: "+absent)
	if img := g.image(absent); img.Status != registry.Queued {
		t.Errorf("the first one is %s", img.Status)
	}
}

func TestAnUnknownStoreIsRefused(t *testing.T) {
	g := newRig(t, "", func(o *api.Options) { o.Stores = twoStores{o.Store} })
	g.want(400, "POST /v1/images", "data", octets, raw, bare, "X-Image-Meta-Store: tape")
	g.want(201, "POST /v1/images", "data", octets, raw, bare, "X-Image-Meta-Store: second")
}

func TestAPartnerFormatIsCopied(t *testing.T) {
	for _, format := range []string{"ami", "ari", "aki"} {
		for _, field := range []string{"X-Image-Meta-Disk-Format: ", "X-Image-Meta-Container-Format: "} {
			g := newRig(t, "")
			resp, _ := g.want(201, "POST /v1/images", "data", octets, field+format)
			if img := g.image(resp.Header.Get("X-Image-Meta-Id")); img.DiskFormat != format || img.ContainerFormat != format {
				t.Errorf("%s%s: %s, %s", field, format, img.DiskFormat, img.ContainerFormat)
			}
		}
	}
}

func TestBooleans(t *testing.T) {
	g := newRig(t, "")
	for text, want := range map[string]bool{
		"true": true, "True": true, "TRUE": true, "1": true, "on": true, "yes": true, "t": true, "y": true,
		"false": false, "False": false, "0": false, "no": false, "2": false, "public": false, "": false, "None": false,
	} {
		id := g.reserve("X-Image-Meta-Is_public: " + text)
		if got := g.image(id).Visibility == registry.Public; got != want {
			t.Errorf("%q is %v, want %v", text, got, want)
		}
	}
}

func TestACutBodyLeavesTheImageKilled(t *testing.T) {
	g := newRig(t, "")
	body := strings.NewReader("half")
	_, err := g.client().AddImage(v1test.Meta{"disk-format": "raw", "container-format": "bare", "size": "8"},
		iotest.DataErrReader(struct{ *strings.Reader }{body}))
	if !errors.Is(err, v1test.ErrInvalid) {
		t.Errorf("got %v", err)
	}
	if all := g.every(); len(all) != 1 || all[0].Status != registry.Killed {
		t.Errorf("left %+v", all)
	}
}
