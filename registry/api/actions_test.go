package api

import (
	"testing"

	"nearsight/registry"
)

// Images API v2, section 8. Rights are in access_test.go.
func TestActions(t *testing.T) {
	for _, tt := range []struct {
		name   string
		state  state
		action string
		body   string
		status int
		then   registry.Status
	}{
		{"deactivate an active image", isActive, "deactivate", "", 204, registry.Deactivated},
		{"deactivate again", isDeactivated, "deactivate", "", 204, registry.Deactivated},
		{"deactivate what has no data", isQueued, "deactivate", "", 403, registry.Queued},
		{"reactivate", isDeactivated, "reactivate", "", 204, registry.Active},
		{"reactivate what is active", isActive, "reactivate", "", 204, registry.Active},
		{"reactivate what has no data", isQueued, "reactivate", "", 403, registry.Queued},
		{"an unknown action", isActive, "explode", "", 404, registry.Active},
		{"actions are case-sensitive", isActive, "Deactivate", "", 404, registry.Active},
		{"a body [R]", isActive, "deactivate", "x", 400, registry.Active},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := newLocationRig(t)
			id := g.image(registry.Shared, tt.state)
			before := g.get(id)
			g.as(owner)
			w := g.want(tt.status, "POST /v2/images/"+id+"/actions/"+tt.action, tt.body)
			img := g.get(id)
			if img.Status != tt.then {
				t.Errorf("status %s", img.Status)
			}
			if before.Status == img.Status && before.Revision != img.Revision {
				t.Error("nothing changed, and there is a revision of it")
			}
			if tt.status == 204 && w.Body.Len() > 0 {
				t.Errorf("a body: %s", w.Body)
			}
		})
	}
	g := newLocationRig(t)
	g.want(404, "POST /v2/images/"+absent+"/actions/deactivate", "")
	id := g.image(registry.Shared, isActive)
	g.want(412, "POST /v2/images/"+id+"/actions/deactivate", "", `If-Match: "m-0"`)
}
