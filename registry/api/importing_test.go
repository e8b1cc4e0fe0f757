package api

import (
	"context"
	"strings"
	"testing"

	"nearsight/registry"
)

func TestCopiesToOtherStores(t *testing.T) {
	const method = `"method":{"name":"copy-image"}`
	for _, tt := range []struct {
		name, body, field string
		status            int
		copies            string
	}{
		{"to one store", `{` + method + `,"stores":["slow"]}`, "", 202, "slow"},
		{"to the store of the header", `{` + method + `}`, "X-Image-Meta-Store: slow", 202, "slow"},
		{"to one store, named twice", `{` + method + `,"stores":["slow","slow"]}`, "", 202, "slow"},
		{"to all: the read-only one is none", `{` + method + `,"all_stores":true,"all_stores_must_succeed":false}`, "", 202, "slow"},
		{"to all, as tempest says it", `{` + method + `,"all_stores":true,"stores":[]}`, "", 202, "slow"},
		{"to the default, where it is", `{` + method + `}`, "", 400, ""},
		{"to where it is", `{` + method + `,"stores":["slow","main"]}`, "", 400, ""},
		{"to an unknown store", `{` + method + `,"stores":["tape"]}`, "", 409, ""},
		{"to a read-only store", `{` + method + `,"stores":["web"]}`, "", 400, ""},
		{"to all and to one", `{` + method + `,"all_stores":true,"stores":["slow"]}`, "", 400, ""},
		{"to all and to that of the header", `{` + method + `,"all_stores":true}`, "X-Image-Meta-Store: slow", 400, ""},
		{"to one and to that of the header", `{` + method + `,"stores":["slow"]}`, "X-Image-Meta-Store: slow", 400, ""},
		{"stores that are no array", `{` + method + `,"stores":"slow"}`, "", 400, ""},
		{"stores that are no names", `{` + method + `,"stores":[1]}`, "", 400, ""},
		{"a flag that is none", `{` + method + `,"all_stores":"true"}`, "", 400, ""},
		{"another flag that is none", `{` + method + `,"all_stores_must_succeed":1}`, "", 400, ""},
		{"no method", `{}`, "", 400, ""},
		{"a method that is no object", `{"method":"copy-image"}`, "", 400, ""},
		{"a method without a name", `{"method":{}}`, "", 400, ""},
		{"a method that is not enabled", `{"method":{"name":"web-download","uri":"http://example.org/x"}}`, "", 400, ""},
		{"nothing", ``, "", 400, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := newLocationRig(t)
			g.create(`"id":"` + id1 + `",` + formats)
			g.put(id1, "hello")
			fields := []string{}
			if tt.field != "" {
				fields = append(fields, tt.field)
			}
			w := g.want(tt.status, "POST /v2/images/"+id1+"/import", tt.body, fields...)
			if got := strings.Join(g.copies, ","); got != tt.copies || w.Code == 202 && w.Body.Len() > 0 {
				t.Errorf("copies to %q, body %q", got, w.Body)
			}
			if strings.Contains(tt.body, "web-download") && !strings.Contains(w.Body.String(), "web-download") {
				t.Errorf("the method is not named: %s", w.Body)
			}
		})
	}
}

func TestWhatCannotBeCopied(t *testing.T) {
	const body = `{"method":{"name":"copy-image"},"stores":["slow"]}`
	g := newLocationRig(t)
	g.want(404, "POST /v2/images/"+id1+"/import", body)
	g.create(`"id":"` + id1 + `",` + formats)
	g.want(409, "POST /v2/images/"+id1+"/import", body) // queued
	g.want(202, "POST /v2/images/"+id1+"/locations", `{"url":"`+hello+`"}`)
	g.want(409, "POST /v2/images/"+id1+"/import", body) // not hashed
	g.create(`"id":"` + id2 + `",` + formats)
	g.put(id2, "hello")
	g.api.copy = func(context.Context, string, string) error { return registry.ErrConflict }
	g.want(409, "POST /v2/images/"+id2+"/import", body)
	g.want(405, "GET /v2/images/"+id2+"/import", "")
	g.api.places.several = false
	g.want(400, "POST /v2/images/"+id2+"/import", `{"method":{"name":"copy-image"},"all_stores":true}`)
	g.want(400, "POST /v2/images/"+id2+"/import", `{"method":{"name":"copy-image"},"all_stores_must_succeed":false}`)
}

func TestImportMethodsAreListed(t *testing.T) {
	for methods, g := range map[string]*rig{`["copy-image"]`: newLocationRig(t).rig, `[]`: newRig(t)} {
		if w := g.want(200, "GET /v2/info/import", ""); w.Body.String() !=
			`{"import-methods":{"description":"Import methods available.","type":"array","value":`+methods+`}}` {
			t.Errorf("%s", w.Body)
		}
	}
}

// Whatever strangers write, nothing breaks.
func FuzzLocations(f *testing.F) {
	for _, seed := range []string{
		`[{"op":"add","path":"/locations/-","value":{"url":"http://example.org/hello.img","metadata":{"store":"web"}}}]`,
		`[{"op":"replace","path":"/locations","value":[{"url":"http://example.org/hello.img","metadata":{}}]}]`,
		`[{"op":"remove","path":"/locations/0"}]`,
		`[{"op":"add","path":"/locations/9","value":{"url":"HTTP://%41","metadata":{"":""},"validation_data":{"checksum":"x"}}}]`,
		`[{"op":"replace","path":"/locations","value":[null]}]`,
		`{"url":"http://example.org/hello.img","validation_data":{"os_hash_algo":"md5","os_hash_value":"x"}}`,
		`{"method":{"name":"copy-image"},"stores":["slow"],"all_stores":false}`,
	} {
		f.Add(seed)
	}
	g := newLocationRig(f)
	g.create(`"id":"` + id1 + `",` + formats)
	g.create(`"id":"` + id2 + `",` + formats)
	g.put(id2, "hello")
	f.Fuzz(func(t *testing.T, body string) {
		g.TB = t
		g.neverFails(g.do("PATCH /v2/images/"+id1, body, v21))
		g.neverFails(g.do("PATCH /v2/images/"+id2, body, v21))
		g.neverFails(g.do("POST /v2/images/"+id1+"/locations", body))
		g.neverFails(g.do("POST /v2/images/"+id2+"/import", body))
		g.neverFails(g.want(200, "GET /v2/images/"+id2, ""))
	})
}
