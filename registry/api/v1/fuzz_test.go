package v1

import (
	"encoding/json"
	"net/http"
	"net/textproto"
	"strings"
	"testing"

	"nearsight/registry"
	"nearsight/registry/api"
)

// altered applies what was read to a new image, twice: the second time changes nothing.
func altered(t *testing.T, m meta) {
	v := New(Options{API: api.New(api.Options{})})
	w, err := v.read(m)
	if err != nil {
		return
	}
	img := newDraft(t.Context(), w)
	if w.alter(img, true) != nil {
		return
	}
	again := img.Clone()
	if err := w.alter(again, true); err != nil {
		t.Fatalf("the second time: %v", err)
	}
	if next, err := img.Amended(again); err != nil || next != img {
		t.Fatalf("the second time it becomes another: %v, %v", next, err)
	}
	for name := range img.Properties {
		if strings.HasPrefix(name, "os_glance") || name == "status" || name == "owner" {
			t.Fatalf("property %q", name)
		}
	}
	// What was stored can be told.
	img.ID, img.Status = "11111111-1111-4111-8111-111111111111", registry.Queued
	if img.Validate(registry.Limits{}.WithDefaults()) != nil {
		return
	}
	h := http.Header{}
	v.setMeta(h, &http.Request{Host: "host"}, img)
	for name, values := range h {
		if !isToken(name) || len(values) != 1 || line(values[0]) != values[0] {
			t.Fatalf("field %q: %q", name, values)
		}
	}
	if _, err := json.Marshal(newRecord(img)); err != nil {
		t.Fatal(err)
	}
}

func FuzzMetaOf(f *testing.F) {
	for _, s := range []string{
		"X-Image-Meta-Name: a\nX-Image-Meta-Disk-Format: ami\nx-image-meta-property-K: v",
		"X-Image-Meta-Disk_format: raw\nX-Image-Meta-Disk-Format: qcow2",
		"X-Image-Meta-Size: 18446744073709551616\nX-Image-Meta-Is_public: on",
		"X-Image-Meta-Property-Os_glance_x: 1\nX-Image-Meta-Property-: 2\nX-Image-Meta-: 3",
		"X-Image-Meta-Location: file:///etc/passwd\nX-Image-Meta-Checksum: d41d8cd98f00b204e9800998ecf8427e\nX-Image-Meta-Owner: ",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		h := http.Header{}
		for field := range strings.SplitSeq(text, "\n") {
			name, value, _ := strings.Cut(field, ": ")
			name = textproto.CanonicalMIMEHeaderKey(name)
			h[name] = append(h[name], value)
		}
		m, err := metaOf(h)
		if err == nil {
			altered(t, m)
		}
	})
}

func FuzzMetaOfJSON(f *testing.F) {
	for _, s := range []string{
		`{"name":"a","status":"queued","disk_format":"ami","properties":{"k":"v","n":1.5e3,"b":true,"z":null}}`,
		`{"size":"19","min_ram":5,"is_public":1,"protected":"yes","owner":null,"location":"http://a/b"}`,
		`{"name":{},"properties":[]}`, `[]`, `null`, `{"properties":{"owner":"x","os_glance_a":""}}`,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		m, err := metaOfJSON(json.RawMessage(text))
		if err == nil {
			altered(t, m)
		}
	})
}

func FuzzSearch(f *testing.F) {
	for _, s := range []string{
		"", "name=a&limit=5&marker=x", "sort_key=size&sort_dir=asc", "is_public=None&deleted=True", "property-a=b&property-=",
		"changes-since=2011-02-22T19:20:53Z", "size_min=1&size_max=2&min_ram=3", "%zz", "a=%00&limit=99999999999999999999", "protected=f&status=saving",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, query string) {
		for _, c := range []*registry.Caller{{Stranger: true}, {Project: "p", Roles: []string{"member"}}, registry.Everybody()} {
			s, err := newSearch(query, c, 25, 1000)
			if err != nil {
				continue
			}
			if s.Limit < 0 || s.Limit > 1000 || s.Caller == nil {
				t.Fatalf("%+v", s)
			}
			if !c.Is("admin") && (s.Caller != c || s.Visibility != "" || s.notPublic) {
				t.Fatalf("more than the caller may see: %+v", s)
			}
		}
	})
}
