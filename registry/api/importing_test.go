package api

import (
	"context"
	"strings"
	"testing"

	"nearsight/registry"
	"nearsight/registry/task"
)

// importRig is a rig with several stores that imports, in which nobody does the
// tasks.
type importRig struct {
	*locationRig
	wakes int
}

func newImportRig(t testing.TB, changes ...func(*Options)) *importRig {
	t.Helper()
	g := &importRig{}
	g.locationRig = newLocationRig(t, append([]func(*Options){func(o *Options) {
		o.Imports = Imports{
			Tasks: o.Images.(registry.Tasks), Wake: func() { g.wakes++ },
			Stages: o.Images.(registry.Stages), Staging: o.Store, Regions: []string{"east"},
		}
	}}, changes...)...)
	return g
}

// tasks returns those of an image.
func (g *importRig) tasks(id string) []*registry.Task {
	g.Helper()
	tasks, err := g.db.ListTasks(context.Background(), registry.TaskQuery{ImageID: id, Limit: 9})
	if err != nil {
		g.Fatal(err)
	}
	return tasks
}

// done ends the task of an image.
func (g *importRig) done(id string) {
	g.Helper()
	ctx := context.Background()
	t, err := g.db.LeaseTask(ctx, "test", 1e9)
	if err != nil {
		g.Fatal(err)
	}
	t.Status = registry.TaskSuccess
	err = g.db.EndTask(ctx, t, "test", func(img *registry.Image) error {
		delete(img.Properties, task.TaskProperty)
		if img.Status == registry.Importing {
			return img.Become(registry.Queued)
		}
		return nil
	})
	if err != nil || t.ImageID != id {
		g.Fatalf("image %s: %v", t.ImageID, err)
	}
}

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
		{"a method that there is not", `{"method":{"name":"conjure"}}`, "", 400, ""},
		{"nothing", ``, "", 400, ""},
		{"as long as may be", `{` + method + `,"stores":["slow"],"x":"` + strings.Repeat("x", maxImport-57) + `"}`, "", 202, "slow"},
		{"longer than a task shall keep", `{` + method + `,"stores":["slow"],"x":"` + strings.Repeat("x", maxImport-56) + `"}`, "", 413, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := newImportRig(t)
			g.create(`"id":"` + id1 + `",` + formats)
			g.put(id1, "hello")
			fields := []string{"X-Openstack-Request-Id: req-of-the-call"}
			if tt.field != "" {
				fields = append(fields, tt.field)
			}
			w := g.want(tt.status, "POST /v2/images/"+id1+"/import", tt.body, fields...)
			tasks := g.tasks(id1)
			if tt.status != 202 {
				if len(tasks) > 0 || g.wakes > 0 {
					t.Errorf("%d tasks", len(tasks))
				}
				return
			}
			want := `{"image_id":"` + id1 + `","import_req":` + tt.body + `,"backend":["` + tt.copies + `"]}`
			if len(tasks) != 1 || string(tasks[0].Input) != want || tasks[0].RequestID != "req-of-the-call" ||
				w.Body.Len() > 0 || g.wakes != 1 {
				t.Errorf("tasks %v, body %q", tasks, w.Body)
			}
			if img := g.get(id1); img.Status != registry.Active || img.Properties[task.ImportingProperty] != tt.copies ||
				img.Properties[task.TaskProperty] != tasks[0].ID {
				t.Errorf("image is %s, %v", img.Status, img.Properties)
			}
		})
	}
}

func TestWhatCannotBeCopied(t *testing.T) {
	const body = `{"method":{"name":"copy-image"},"stores":["slow"]}`
	g := newImportRig(t)
	g.want(404, "POST /v2/images/"+id1+"/import", body)
	g.create(`"id":"` + id1 + `",` + formats)
	g.want(409, "POST /v2/images/"+id1+"/import", body) // queued
	g.want(202, "POST /v2/images/"+id1+"/locations", `{"url":"`+hello+`"}`)
	g.want(409, "POST /v2/images/"+id1+"/import", body) // not hashed
	g.create(`"id":"` + id2 + `",` + formats)
	g.put(id2, "hello")
	g.want(405, "GET /v2/images/"+id2+"/import", "")
	g.want(202, "POST /v2/images/"+id2+"/import", body)
	g.want(409, "POST /v2/images/"+id2+"/import", body) // another is under way
	g.done(id2)
	g.want(202, "POST /v2/images/"+id2+"/import", body)
	g.done(id2)
	g.api.places.several = false
	g.want(400, "POST /v2/images/"+id2+"/import", `{"method":{"name":"copy-image"},"all_stores":true}`)
	g.want(400, "POST /v2/images/"+id2+"/import", `{"method":{"name":"copy-image"},"all_stores_must_succeed":false}`)
}

// The order of Glance's checks: what stands earlier here is found first.
func TestImportsAreCheckedInOrder(t *testing.T) {
	const good = `{"method":{"name":"web-download","uri":"http://example.org/x"},"stores":["slow"]}`
	owner := &registry.Caller{Project: "p", Roles: []string{"member"}}
	for _, tt := range []struct {
		name, body string
		image      string // the JSON of its making, "" for none
		caller     *registry.Caller
		status     int
		says       string
	}{
		{"it is in order", good, formats, owner, 202, ""},
		{"the method comes before the image", `{"method":{"name":"conjure"}}`, "", owner, 400, "not enabled"},
		{"no image", good, "", owner, 404, ""},
		{"an image that the caller does not see", good, formats, &registry.Caller{Project: "q", Roles: []string{"member"}}, 404, ""},
		{"the status comes before the formats", `{"method":{"name":"glance-direct"}}`, `"name":"x"`, owner, 409, "is queued"},
		{"the formats come before the arguments", `{"method":{"name":"web-download"}}`, `"name":"x"`, owner, 409, "disk_format"},
		{"one format", `{"method":{"name":"web-download"}}`, `"disk_format":"raw"`, owner, 409, "container_format"},
		{"the arguments come before the rights", `{"method":{"name":"web-download"}}`, formats + `,"visibility":"community"`,
			&registry.Caller{Project: "q", Roles: []string{"member"}}, 400, "uri"},
		{"the rights come before the stores", `{"method":{"name":"web-download","uri":"http://example.org/x"},"stores":["tape"]}`,
			formats + `,"visibility":"community"`, &registry.Caller{Project: "q", Roles: []string{"member"}}, 403, "may not"},
		{"a reader of the project", good, formats, &registry.Caller{Project: "p", Roles: []string{"reader"}}, 403, "may not"},
		{"the stores come before the filter", `{"method":{"name":"web-download","uri":"http://127.0.0.1/x"},"stores":["tape"]}`, formats, owner, 409, "tape"},
		{"a read-only store", `{"method":{"name":"web-download","uri":"http://example.org/x"},"stores":["web"]}`, formats, owner, 400, "read-only"},
		{"the filter is the last", `{"method":{"name":"web-download","uri":"http://127.0.0.1/x"},"stores":["slow"]}`, formats, owner, 400, "loopback"},
		{"an empty uri", `{"method":{"name":"web-download","uri":""}}`, formats, owner, 400, "uri"},
		{"a uri that is none", `{"method":{"name":"web-download","uri":"somewhere"}}`, formats, owner, 400, "uri"},
		{"a uri that is no text", `{"method":{"name":"web-download","uri":7}}`, formats, owner, 400, "uri"},
		{"credentials in the uri", `{"method":{"name":"web-download","uri":"http://me:secret@example.org/x"}}`, formats, owner, 400, "credentials"},
		{"no region", `{"method":{"name":"glance-download","glance_image_id":"` + id2 + `"}}`, formats, owner, 400, "glance_region"},
		{"no image there", `{"method":{"name":"glance-download","glance_region":"east"}}`, formats, owner, 400, "glance_image_id"},
		{"an id that is none", `{"method":{"name":"glance-download","glance_region":"east","glance_image_id":"x"}}`, formats, owner, 400,
			"image id does not look like a UUID"},
		{"an unknown region", `{"method":{"name":"glance-download","glance_region":"west","glance_image_id":"` + id2 + `"}}`, formats, owner, 400, "west"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := newImportRig(t)
			if tt.image != "" {
				g.create(`"id":"` + id1 + `","owner":"p",` + tt.image)
			}
			g.as(tt.caller)
			w := g.want(tt.status, "POST /v2/images/"+id1+"/import", tt.body)
			if !strings.Contains(w.Body.String(), tt.says) || strings.Contains(w.Body.String(), "secret") {
				t.Errorf("it says %s", w.Body)
			}
			if tt.status == 202 && g.get(id1).Status != registry.Importing || tt.status != 202 && tt.image != "" && g.get(id1).Status != registry.Queued {
				t.Errorf("image is %s", g.get(id1).Status)
			}
		})
	}
}

func TestOnlyAdminsCopyToStores(t *testing.T) {
	g := newImportRig(t)
	g.create(`"id":"` + id1 + `","owner":"p",` + formats)
	g.put(id1, "hello")
	g.as(&registry.Caller{Project: "p", Roles: []string{"member"}})
	g.want(403, "POST /v2/images/"+id1+"/import", `{"method":{"name":"copy-image"},"stores":["slow"]}`)
}

// In single-store mode what is said about stores means nothing.
func TestImportsWhereThereIsOneStore(t *testing.T) {
	for _, body := range []string{
		`{"method":{"name":"web-download","uri":"http://example.org/x"},"all_stores":true}`,
		`{"method":{"name":"web-download","uri":"http://example.org/x"},"stores":["tape"]}`,
	} {
		g := newImportRig(t)
		g.api.places.several = false
		g.create(`"id":"` + id1 + `",` + formats)
		g.want(202, "POST /v2/images/"+id1+"/import", body, "X-Image-Meta-Store: tape")
		if got := string(g.tasks(id1)[0].Input); !strings.HasSuffix(got, `"backend":["main"]}`) {
			t.Errorf("input %s", got)
		}
	}
	g := newImportRig(t)
	g.api.places.several = false
	g.create(`"id":"` + id1 + `",` + formats)
	g.want(400, "POST /v2/images/"+id1+"/import", `{"method":{"name":"web-download","uri":"http://example.org/x"},"all_stores_must_succeed":false}`)
}

func TestTheTokenOfAnImportIsNotShown(t *testing.T) {
	g := newImportRig(t)
	g.create(`"id":"` + id1 + `",` + formats)
	g.want(202, "POST /v2/images/"+id1+"/import",
		`{"method":{"name":"glance-download","glance_region":"east","glance_image_id":"`+id2+`"}}`, "X-Auth-Token: sesame")
	if w := g.want(200, "GET /v2/images/"+id1+"/tasks", ""); strings.Contains(w.Body.String(), "sesame") {
		t.Errorf("%s", w.Body)
	}
	if w := g.want(200, "GET /v2/tasks/"+g.tasks(id1)[0].ID, ""); strings.Contains(w.Body.String(), "sesame") {
		t.Errorf("%s", w.Body)
	}
	if got, err := g.db.LeaseTask(t.Context(), "test", 1e9); err != nil || got.Secret != "sesame" {
		t.Errorf("the worker gets %q, %v", got.Secret, err)
	}
}

func TestImportMethodsAreListed(t *testing.T) {
	for _, tt := range []struct {
		name, want string
		g          func() *rig
	}{
		{"all that can work", `["glance-direct","web-download","copy-image","glance-download"]`, func() *rig { return newImportRig(t).rig }},
		{"those that are enabled", `["copy-image"]`, func() *rig {
			return newImportRig(t, func(o *Options) { o.Imports.Methods = []string{"copy-image"} }).rig
		}},
		{"without URLs and regions", `["glance-direct","copy-image"]`, func() *rig {
			return newImportRig(t, func(o *Options) { o.Check, o.Imports.Regions = nil, nil }).rig
		}},
		{"without tasks", `[]`, func() *rig { return newRig(t) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if w := tt.g().want(200, "GET /v2/info/import", ""); w.Body.String() !=
				`{"import-methods":{"description":"Import methods available.","type":"array","value":`+tt.want+`}}` {
				t.Errorf("%s", w.Body)
			}
		})
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
		`{"method":{"name":"web-download","uri":"http://example.org/hello.img"},"all_stores":true}`,
		`{"method":{"name":"glance-download","glance_region":"east","glance_image_id":"x"}}`,
		`{"type":"import","input":{"import_from":"http://example.org/x","import_from_format":"raw","image_properties":{"name":"x"}}}`,
	} {
		f.Add(seed)
	}
	g := newImportRig(f)
	g.create(`"id":"` + id1 + `",` + formats)
	g.create(`"id":"` + id2 + `",` + formats)
	g.put(id2, "hello")
	f.Fuzz(func(t *testing.T, body string) {
		g.TB = t
		g.neverFails(g.do("PATCH /v2/images/"+id1, body, v21))
		g.neverFails(g.do("PATCH /v2/images/"+id2, body, v21))
		g.neverFails(g.do("POST /v2/images/"+id1+"/locations", body))
		g.neverFails(g.do("POST /v2/images/"+id1+"/import", body))
		g.neverFails(g.do("POST /v2/images/"+id2+"/import", body))
		g.neverFails(g.do("POST /v2/tasks", body))
		g.neverFails(g.want(200, "GET /v2/images/"+id2, ""))
	})
}
