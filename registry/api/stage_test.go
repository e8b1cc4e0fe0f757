package api

import (
	"strings"
	"testing"

	"nearsight/registry"
)

func TestStage(t *testing.T) {
	const size = "x-openstack-image-size: "
	for _, tt := range []struct {
		name   string
		image  string
		fields []string
		option func(*Options)
		caller *registry.Caller
		status int
	}{
		{"octets", formats, []string{octets}, nil, nil, 204},
		{"formats need not be set yet", `"name":"x"`, []string{octets}, nil, nil, 204},
		{"no type", formats, nil, nil, nil, 415},
		{"another size than expected", formats, []string{octets, size + "7"}, nil, nil, 400},
		{"larger than allowed", formats, []string{octets}, func(o *Options) { o.MaxImageSize = 4 }, nil, 413},
		{"glance-direct is not enabled", formats, []string{octets}, func(o *Options) { o.Imports.Methods = []string{"copy-image"} }, nil, 404},
		{"a reader", formats, []string{octets}, nil, &registry.Caller{Project: "p", Roles: []string{"reader"}}, 403},
		{"another project", formats, []string{octets}, nil, &registry.Caller{Project: "q", Roles: []string{"member"}}, 404},
	} {
		t.Run(tt.name, func(t *testing.T) {
			changes := []func(*Options){}
			if tt.option != nil {
				changes = append(changes, tt.option)
			}
			g := newImportRig(t, changes...)
			g.create(`"id":"` + id1 + `","owner":"p",` + tt.image)
			if tt.caller != nil {
				g.as(tt.caller)
			}
			w := g.want(tt.status, "PUT /v2/images/"+id1+"/stage", "hello", tt.fields...)
			img := g.get(id1)
			switch {
			case tt.status != 204:
				if img.Status != registry.Queued || img.Size != nil {
					t.Errorf("image is %s", img.Status)
				}
			case img.Status != registry.Uploading || img.Size == nil || *img.Size != 5 || img.HashValue != "" || img.Checksum != "" || w.Body.Len() > 0:
				t.Errorf("image is %+v", img)
			}
		})
	}
}

func TestStagedDataIsStagedOnceAndImportedWhole(t *testing.T) {
	g := newImportRig(t)
	const direct = `{"method":{"name":"glance-direct"}}`
	g.want(404, "PUT /v2/images/"+id1+"/stage", "hello", octets)
	g.create(`"id":"` + id1 + `","name":"x"`)
	g.want(204, "PUT /v2/images/"+id1+"/stage", "hello", octets)
	g.want(409, "PUT /v2/images/"+id1+"/stage", "hello", octets)
	g.want(409, "PUT /v2/images/"+id1+"/file", "hello", octets)
	g.want(409, "POST /v2/images/"+id1+"/import", direct) // no formats: and they are settled while it is uploading
	g.want(204, "DELETE /v2/images/"+id1, "")
	if n := len(g.orphans()); n != 1 {
		t.Errorf("%d orphans", n)
	}

	g.create(`"id":"` + id2 + `",` + formats)
	g.want(409, "POST /v2/images/"+id2+"/import", direct)
	g.want(204, "PUT /v2/images/"+id2+"/stage", "hello", octets)
	g.want(409, "POST /v2/images/"+id2+"/import", `{"method":{"name":"web-download","uri":"http://example.org/x"}}`)
	g.want(202, "POST /v2/images/"+id2+"/import", direct)
	if img := g.get(id2); img.Status != registry.Importing {
		t.Errorf("image is %s", img.Status)
	}
	g.want(409, "POST /v2/images/"+id2+"/import", direct)
}

func TestLocationsWithHashesBecomeTasks(t *testing.T) {
	const body = `{"url":"` + hello + `","validation_data":{"os_hash_algo":"md5","os_hash_value":"5d41402abc4b2a76b9719d911017c592"}}`
	g := newImportRig(t)
	g.create(`"id":"` + id1 + `",` + formats)
	g.want(202, "POST /v2/images/"+id1+"/locations", body)
	tasks := g.tasks(id1)
	if len(tasks) != 1 || tasks[0].Type != registry.TaskLocationImport || !strings.Contains(string(tasks[0].Input), `"loc_url":"`+hello+`"`) {
		t.Errorf("tasks %v", tasks)
	}
	if img := g.get(id1); img.Status != registry.Importing {
		t.Errorf("image is %s", img.Status)
	}
	g.want(409, "POST /v2/images/"+id1+"/locations", body)
}
