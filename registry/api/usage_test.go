package api

import (
	"strings"
	"testing"

	"nearsight/registry"
)

const mib = 1 << 20

// quotaRig is an importRig with quotas, and images of project p.
func quotaRig(t *testing.T, q registry.Quotas) *importRig {
	g := newImportRig(t, func(o *Options) {
		q.Usages = o.Images.(registry.Usages)
		o.Quotas = &q
	})
	g.as(&registry.Caller{Project: "p", Roles: []string{"member"}})
	return g
}

func TestUsage(t *testing.T) {
	for _, tt := range []struct {
		name   string
		quotas registry.Quotas
		want   string
	}{
		{"no quotas", registry.Quotas{}, `{"usage":{}}`},
		{"the old one alone", registry.Quotas{Storage: 7}, `{"usage":{}}`},
		{"some", registry.Quotas{Size: 5 * mib, Images: 9}, `{"usage":{"image_count_total":{"limit":9,"usage":2},` +
			`"image_count_uploading":{"limit":-1,"usage":1},"image_size_total":{"limit":5,"usage":2},"image_stage_total":{"limit":-1,"usage":1}}}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := quotaRig(t, tt.quotas)
			if tt.quotas.Images > 0 {
				g.create(`"id":"` + id1 + `",` + formats)
				g.put(id1, strings.Repeat("x", 2*mib))
				g.create(`"id":"` + id2 + `",` + formats)
				g.want(204, "PUT /v2/images/"+id2+"/stage", strings.Repeat("x", mib), octets)
			}
			if w := g.want(200, "GET /v2/info/usage", ""); w.Body.String() != tt.want {
				t.Errorf("%s", w.Body)
			}
		})
	}
}

// Quotas are soft: what is under way is not cut, and the next is refused.
func TestQuotas(t *testing.T) {
	data := strings.Repeat("x", 1000)
	file, stage, imports := "PUT /v2/images/"+id2+"/file", "PUT /v2/images/"+id2+"/stage", "POST /v2/images/"+id2+"/import"
	const web = `{"method":{"name":"web-download","uri":"http://example.org/x"}}`
	for _, tt := range []struct {
		name   string
		quotas registry.Quotas
		first  string // call that takes 1000 bytes
		line   string
		body   string
		status int
	}{
		{"as many bytes as allowed", registry.Quotas{Size: 2000}, "file", file, data, 204},
		{"one byte more", registry.Quotas{Size: 1999}, "file", file, data, 413},
		{"a download while there is room", registry.Quotas{Size: 1000}, "file", imports, web, 202},
		{"a download when there is more than allowed", registry.Quotas{Size: 999}, "file", imports, web, 202},
		{"staged bytes are not stored ones", registry.Quotas{Size: 1000}, "stage", file, data, 204},
		{"as many staged bytes as allowed", registry.Quotas{Stage: 2000}, "stage", stage, data, 204},
		{"one staged byte more", registry.Quotas{Stage: 1999}, "stage", stage, data, 413},
		{"stored bytes are not staged ones", registry.Quotas{Stage: 1000}, "file", stage, data, 204},
		{"uploads that ended do not count", registry.Quotas{Uploading: 1}, "file", file, data, 204},
		{"one upload too many", registry.Quotas{Uploading: 1}, "stage", file, data, 413},
		{"one stage too many", registry.Quotas{Uploading: 1}, "stage", stage, data, 413},
		{"an image too many", registry.Quotas{Images: 2}, "file", "POST /v2/images", "{}", 413},
		{"one image more", registry.Quotas{Images: 3}, "file", "POST /v2/images", "{}", 201},
		{"room for all", registry.Quotas{Storage: 2000}, "file", file, data, 204},
		{"no room for all", registry.Quotas{Storage: 1999}, "file", file, data, 413},
		{"no room for a stage", registry.Quotas{Storage: 1999}, "file", stage, data, 413},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := quotaRig(t, tt.quotas)
			g.create(`"id":"` + id1 + `",` + formats)
			if tt.quotas.Size == 999 { // the first is let through as long as nobody knows its length
				g.api.quotas.Size = 1000
			}
			g.want(204, "PUT /v2/images/"+id1+"/"+tt.first, data, octets)
			if tt.quotas.Size == 999 {
				g.api.quotas.Size, tt.status = 999, 413
			}
			g.create(`"id":"` + id2 + `",` + formats)
			w := g.want(tt.status, tt.line, tt.body, octets)
			if tt.status == 413 && (!strings.Contains(w.Body.String(), "project") || g.get(id2).Status != registry.Queued) {
				t.Errorf("image is %s: %s", g.get(id2).Status, w.Body)
			}
			if g.as(&registry.Caller{Project: "q", Roles: []string{"member"}}); tt.line == "POST /v2/images" {
				g.want(201, tt.line, tt.body) // another project has its own
			}
		})
	}
}

// Who may not change an image does not learn what its project has.
func TestQuotasAreNobodyElsesBusiness(t *testing.T) {
	g := quotaRig(t, registry.Quotas{Size: 4})
	g.create(`"id":"` + id1 + `","visibility":"community",` + formats)
	g.chunked("PUT /v2/images/"+id1+"/file", "hello", octets)
	g.create(`"id":"` + id2 + `","visibility":"community",` + formats)
	const web = `{"method":{"name":"web-download","uri":"http://example.org/x"}}`
	for project, status := range map[string]int{"p": 413, "q": 403} {
		g.as(&registry.Caller{Project: project, Roles: []string{"member"}})
		if w := g.want(status, "POST /v2/images/"+id2+"/import", web); strings.Contains(w.Body.String(), "bytes") != (project == "p") {
			t.Errorf("project %s: %s", project, w.Body)
		}
	}
}

// A body that does not say its length is cut where there is no room any more.
func TestTheStorageQuotaCutsABody(t *testing.T) {
	g := quotaRig(t, registry.Quotas{Storage: 999})
	g.create(`"id":"` + id1 + `",` + formats)
	w := g.chunked("PUT /v2/images/"+id1+"/file", strings.Repeat("x", 1000), octets)
	if w.Code != 413 || g.get(id1).Status != registry.Queued {
		t.Errorf("status %d, image is %s", w.Code, g.get(id1).Status)
	}
}

// Who has no project has no quota.
func TestQuotasAreOfProjects(t *testing.T) {
	g := quotaRig(t, registry.Quotas{Images: 1, Size: 1})
	g.as(registry.Everybody())
	g.create(`"id":"` + id1 + `",` + formats)
	g.put(id1, "hello")
	g.create(`"id":"` + id2 + `"`)
}
