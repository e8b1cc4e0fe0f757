package v1_test

import (
	"slices"
	"strings"
	"testing"

	"nearsight/registry"
)

func TestMembers(t *testing.T) {
	for _, tt := range []struct {
		name, line, body string
		status           int
		members          string // afterwards: project, + if it may share, status
	}{
		{"are listed", "GET /members", "", 200, "blue accepted"},
		{"are added", "PUT /members/green", "", 204, "blue accepted, green pending"},
		{"are added with a right", "PUT /members/green", `{"member":{"can_share":true}}`, 204, "blue accepted, green+ pending"},
		{"are added by an empty document", "PUT /members/green", `{}`, 204, "blue accepted, green pending"},
		{"are changed", "PUT /members/blue", `{"member":{"can_share":true}}`, 204, "blue+ accepted"},
		{"stay as they are", "PUT /members/blue", "", 204, "blue accepted"},
		{"are removed", "DELETE /members/blue", "", 204, ""},
		{"cannot be removed twice", "DELETE /members/green", "", 404, "blue accepted"},
		{"are replaced", "PUT /members", `{"memberships":[{"member_id":"green","can_share":true},{"member_id":"blue"}]}`, 204, "blue accepted, green+ pending"},
		{"are replaced by none", "PUT /members", `{"memberships":[]}`, 204, ""},
		{"are not named twice", "PUT /members", `{"memberships":[{"member_id":"a"},{"member_id":"a"}]}`, 400, "blue accepted"},
		{"need a name", "PUT /members", `{"memberships":[{"can_share":true}]}`, 400, "blue accepted"},
		{"need a list", "PUT /members", `{"memberships":{}}`, 400, "blue accepted"},
		{"need a list that is there", "PUT /members", `{}`, 400, "blue accepted"},
		{"need JSON", "PUT /members", `member`, 400, "blue accepted"},
		{"share or not", "PUT /members/green", `{"member":{"can_share":"maybe"}}`, 400, "blue accepted"},
		{"are objects", "PUT /members/green", `{"member":[]}`, 400, "blue accepted"},
		{"have names of a bounded length", "PUT /members/" + strings.Repeat("x", 256), "", 400, "blue accepted"},
		{"are not shown one by one", "GET /members/blue", "", 405, "blue accepted"},
		{"are not posted", "POST /members", `{}`, 405, "blue accepted"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := newRig(t, "red")
			id := g.reserve()
			g.change(id, func(img *registry.Image) {
				img.Members = []registry.Member{{Project: "blue", Status: registry.Accepted}}
			})
			method, rest, _ := strings.Cut(tt.line, " ")
			_, body := g.want(tt.status, method+" /v1/images/"+id+rest, tt.body)
			if want := `{"members":[{"member_id":"blue","can_share":false}]}`; tt.status == 200 && body != want {
				t.Errorf("%s, want %s", body, want)
			}
			if tt.status == 204 && body != "" {
				t.Errorf("a body: %q", body)
			}
			var got []string
			for _, m := range g.image(id).Members {
				if m.CanShare {
					m.Project += "+"
				}
				got = append(got, m.Project+" "+string(m.Status))
			}
			if s := strings.Join(got, ", "); s != tt.members {
				t.Errorf("members %s, want %s", s, tt.members)
			}
		})
	}
}

// TestWhoMayDoWhat is a table of callers and calls: each cell is a status.
func TestWhoMayDoWhat(t *testing.T) {
	order := []string{"admin", "red", "reader", "blue", "green", "nobody"} // owner red, member blue
	g := newRig(t, "red")
	for _, tt := range []struct {
		visibility registry.Visibility
		line       string
		fields     []string
		want       [6]int
	}{
		{registry.Public, "HEAD", nil, [6]int{200, 200, 200, 200, 200, 200}},
		{registry.Shared, "HEAD", nil, [6]int{200, 200, 200, 200, 404, 404}},
		{registry.Private, "HEAD", nil, [6]int{200, 200, 200, 404, 404, 404}},
		{registry.Community, "HEAD", nil, [6]int{200, 200, 200, 200, 200, 404}},
		{registry.Public, "GET", nil, [6]int{200, 200, 403, 200, 200, 200}},
		{registry.Shared, "GET", nil, [6]int{200, 200, 403, 200, 404, 404}},
		{registry.Private, "GET", nil, [6]int{200, 200, 403, 404, 404, 404}},
		{registry.Public, "PUT", nil, [6]int{200, 200, 403, 403, 403, 403}},
		{registry.Shared, "PUT", nil, [6]int{200, 200, 403, 403, 404, 404}},
		{registry.Private, "PUT", nil, [6]int{200, 200, 403, 404, 404, 404}},
		{registry.Shared, "PUT", []string{"X-Image-Meta-Is-Public: True"}, [6]int{200, 403, 403, 403, 404, 404}},
		{registry.Shared, "PUT", []string{"X-Image-Meta-Owner: blue"}, [6]int{200, 403, 403, 403, 404, 404}},
		{registry.Shared, "PUT", []string{"X-Image-Meta-Owner: red"}, [6]int{200, 200, 403, 403, 404, 404}},
		{registry.Public, "DELETE", nil, [6]int{200, 200, 403, 403, 403, 403}},
		{registry.Shared, "DELETE", nil, [6]int{200, 200, 403, 403, 404, 404}},
		{registry.Shared, "GET /members", nil, [6]int{200, 200, 200, 200, 404, 401}},
		{registry.Private, "GET /members", nil, [6]int{200, 200, 200, 404, 404, 401}},
		{registry.Shared, "PUT /members/x", nil, [6]int{204, 204, 403, 403, 404, 401}},
		{registry.Public, "PUT /members/x", nil, [6]int{403, 403, 403, 403, 403, 401}},
		{registry.Private, "PUT /members/x", nil, [6]int{403, 403, 403, 404, 404, 401}},
		{registry.Shared, "DELETE /members/blue", nil, [6]int{204, 204, 403, 403, 404, 401}},
	} {
		for i, who := range order {
			t.Run(string(tt.visibility)+" "+tt.line+strings.Join(tt.fields, "")+" by "+who, func(t *testing.T) {
				g.TB, g.token = t, "red"
				id := g.add("data")
				g.change(id, func(img *registry.Image) {
					img.Visibility = tt.visibility
					img.Members = []registry.Member{{Project: "blue", Status: registry.Pending}}
				})
				g.token = who
				method, rest, _ := strings.Cut(tt.line, " ")
				g.want(tt.want[i], method+" /v1/images/"+id+rest, "", tt.fields...)
			})
		}
	}
}

func TestWhoMayCreate(t *testing.T) {
	g := newRig(t, "red")
	for _, tt := range []struct {
		who    string
		field  string
		status int
		owner  string
	}{
		{"red", "X-Image-Meta-Name: a", 201, "red"},
		{"red", "X-Image-Meta-Owner: red", 201, "red"},
		{"red", "X-Image-Meta-Owner: blue", 403, ""},
		{"red", "X-Image-Meta-Is-Public: True", 403, ""},
		{"reader", "X-Image-Meta-Name: a", 403, ""},
		{"nobody", "X-Image-Meta-Name: a", 403, ""},
		{"stranger", "X-Image-Meta-Name: a", 401, ""},
		{"admin", "X-Image-Meta-Owner: blue", 201, "blue"},
		{"admin", "X-Image-Meta-Name: a", 201, ""},
		{"boss", "X-Image-Meta-Name: a", 201, "bosses"},
		{"boss", "X-Image-Meta-Owner: ", 201, ""},
		{"boss", "X-Image-Meta-Is-Public: True", 201, "bosses"},
	} {
		t.Run(tt.who+" "+tt.field, func(t *testing.T) {
			g.TB, g.token = t, tt.who
			before := len(g.every())
			resp, _ := g.want(tt.status, "POST /v1/images", "", tt.field)
			if got := resp.Header.Get("X-Image-Meta-Owner"); got != tt.owner {
				t.Errorf("owner %q, want %q", got, tt.owner)
			}
			if tt.status != 201 && len(g.every()) > before {
				t.Error("there is one nevertheless")
			}
		})
	}
}

func TestWhoSeesWhatInLists(t *testing.T) {
	g := newRig(t, "red")
	for _, owner := range []string{"red", "blue", "bosses"} {
		for _, v := range []registry.Visibility{registry.Public, registry.Shared, registry.Private, registry.Community} {
			g.token = "admin"
			id := g.reserve("X-Image-Meta-Owner: "+owner, "X-Image-Meta-Name: "+owner+"-"+string(v))
			g.change(id, func(img *registry.Image) {
				img.Visibility = v
				if v == registry.Shared && owner == "red" {
					img.Members = []registry.Member{{Project: "green", Status: registry.Rejected, CanShare: true}}
				}
			})
		}
	}
	const public = "blue-public bosses-public red-public"
	for _, tt := range []struct{ who, path, want string }{
		{"nobody", "/v1/images?", public},
		{"green", "/v1/images?", public + " red-shared"},
		{"green", "/v1/images?is_public=None&", public + " red-shared"},
		{"green", "/v1/images?is_public=False&", public + " red-shared"},
		{"red", "/v1/images/detail?", "blue-public bosses-public red-community red-private red-public red-shared"},
		{"reader", "/v1/images?", "blue-public bosses-public red-community red-private red-public red-shared"},
		{"admin", "/v1/images?", public},
		{"boss", "/v1/images?", "blue-public bosses-community bosses-private bosses-public bosses-shared red-public"},
		{"admin", "/v1/shared-images/green?", "red-shared"},
		{"admin", "/v1/shared-images/red?", ""},
		{"green", "/v1/shared-images/green?", "red-shared"},
	} {
		g.token = tt.who
		var got []string
		if strings.Contains(tt.path, "shared-images") {
			got = g.listed(tt.path)
		} else {
			for marker := ""; ; {
				page := g.page(tt.path + "limit=3" + marker)
				for _, img := range page {
					got = append(got, *img.Name)
				}
				if len(page) < 3 {
					break
				}
				marker = "&marker=" + page[2].ID
			}
		}
		slices.Sort(got)
		if s := strings.Join(got, " "); s != tt.want {
			t.Errorf("%s %s: %s, want %s", tt.who, tt.path, s, tt.want)
		}
	}
	g.token = "red"
	g.want(403, "GET /v1/shared-images/green", "")
	g.token = "nobody"
	g.want(401, "GET /v1/shared-images/green", "")
	// A marker that the caller does not see is as good as one that there is not.
	g.token = "admin"
	var private string
	for _, img := range g.every() {
		if *img.Name == "bosses-private" {
			private = img.ID
		}
	}
	g.token = "green"
	g.want(400, "GET /v1/images?marker="+private, "")
}
