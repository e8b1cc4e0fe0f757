package api

import (
	"fmt"
	"strings"
	"testing"

	"nearsight/registry"
)

// Images API v2, section 8: each call by each kind of caller. The image is shared with
// guest; third is a member too.
func TestMembers(t *testing.T) {
	third := caller("third", "member")
	const member, unknown = "/members/guest", "/members/nobody"
	g := newLocationRig(t)
	for _, tt := range []struct {
		name       string
		v          registry.Visibility
		by         *registry.Caller
		line, body string
		status     int
	}{
		{"the owner shares", registry.Shared, owner, "POST /members", `{"member":"new"}`, 200},
		{"an admin shares", registry.Shared, admin, "POST /members", `{"member":"new"}`, 200},
		{"the owner shares with itself [R]", registry.Shared, owner, "POST /members", `{"member":"own"}`, 200},
		{"a reader of the owner's project shares", registry.Shared, ownReader, "POST /members", `{"member":"new"}`, 403},
		{"a member shares on", registry.Shared, guest, "POST /members", `{"member":"new"}`, 403},
		{"to whom it is invisible shares", registry.Shared, outsider, "POST /members", `{"member":"new"}`, 404},
		{"sharing twice", registry.Shared, owner, "POST /members", `{"member":"guest"}`, 409},
		{"nothing is sent", registry.Shared, owner, "POST /members", ``, 400},
		{"no object is sent", registry.Shared, owner, "POST /members", `["new"]`, 400},
		{"no member is named", registry.Shared, owner, "POST /members", `{}`, 400},
		{"the name is empty", registry.Shared, owner, "POST /members", `{"member":""}`, 400},
		{"the name is null", registry.Shared, owner, "POST /members", `{"member":null}`, 400},
		{"the name is a number", registry.Shared, owner, "POST /members", `{"member":1}`, 400},
		{"the name is too long", registry.Shared, owner, "POST /members", `{"member":"` + strings.Repeat("x", 256) + `"}`, 400},
		{"the name has a control character", registry.Shared, owner, "POST /members", `{"member":"a\nb"}`, 400},
		{"a private image", registry.Private, owner, "POST /members", `{"member":"new"}`, 403},
		{"a public image", registry.Public, owner, "POST /members", `{"member":"new"}`, 403},
		{"a community image", registry.Community, owner, "POST /members", `{"member":"new"}`, 403},
		{"a public image, by an admin", registry.Public, admin, "POST /members", `{"member":"new"}`, 403},
		{"a public image of others", registry.Public, outsider, "POST /members", `{"member":"new"}`, 403},

		{"the owner lists", registry.Shared, owner, "GET /members", "", 200},
		{"a reader of the owner's project lists", registry.Shared, ownReader, "GET /members", "", 200},
		{"a member lists", registry.Shared, guest, "GET /members", "", 200},
		{"an admin lists", registry.Shared, admin, "GET /members", "", 200},
		{"to whom it is invisible lists", registry.Shared, outsider, "GET /members", "", 404},
		{"a private image is listed", registry.Private, owner, "GET /members", "", 403},
		{"a public image is listed", registry.Public, outsider, "GET /members", "", 403},
		{"a list with a body [R]", registry.Shared, owner, "GET /members", "x", 400},

		{"the owner looks at one", registry.Shared, owner, "GET " + member, "", 200},
		{"a reader of the owner's project looks", registry.Shared, ownReader, "GET " + member, "", 200},
		{"a member looks at itself", registry.Shared, guest, "GET " + member, "", 200},
		{"a member looks at another", registry.Shared, third, "GET " + member, "", 404},
		{"an admin looks", registry.Shared, admin, "GET " + member, "", 200},
		{"the owner looks at none", registry.Shared, owner, "GET " + unknown, "", 404},
		{"to whom it is invisible looks", registry.Shared, outsider, "GET " + member, "", 404},
		{"one of a private image", registry.Private, owner, "GET " + member, "", 404},
		{"one of a public image of others", registry.Public, outsider, "GET " + member, "", 404},
		{"one with a body [R]", registry.Shared, owner, "GET " + member, "x", 400},

		{"a member accepts", registry.Shared, guest, "PUT " + member, `{"status":"accepted"}`, 200},
		{"a member rejects", registry.Shared, guest, "PUT " + member, `{"status":"rejected"}`, 200},
		{"a member waits", registry.Shared, guest, "PUT " + member, `{"status":"pending"}`, 200},
		{"an admin accepts", registry.Shared, admin, "PUT " + member, `{"status":"accepted"}`, 200},
		{"tempest: the owner accepts", registry.Shared, owner, "PUT " + member, `{"status":"accepted"}`, 403},
		{"a reader of the owner's project accepts", registry.Shared, ownReader, "PUT " + member, `{"status":"accepted"}`, 403},
		{"a reader of the member's project accepts", registry.Shared, guestReads, "PUT " + member, `{"status":"accepted"}`, 403},
		{"a member accepts for another", registry.Shared, third, "PUT " + member, `{"status":"accepted"}`, 404},
		{"to whom it is invisible accepts", registry.Shared, outsider, "PUT " + member, `{"status":"accepted"}`, 404},
		{"nobody is accepted for", registry.Shared, admin, "PUT " + unknown, `{"status":"accepted"}`, 404},
		{"tempest: an unknown status", registry.Shared, guest, "PUT " + member, `{"status":"notavalidstatus"}`, 400},
		{"all is no status", registry.Shared, guest, "PUT " + member, `{"status":"all"}`, 400},
		{"no status", registry.Shared, guest, "PUT " + member, `{}`, 400},
		{"an empty status", registry.Shared, guest, "PUT " + member, `{"status":""}`, 400},
		{"a status that is true", registry.Shared, guest, "PUT " + member, `{"status":true}`, 400},
		{"no body", registry.Shared, guest, "PUT " + member, ``, 400},
		{"one of a private image accepts", registry.Private, guest, "PUT " + member, `{"status":"accepted"}`, 404},
		{"an admin on a private image", registry.Private, admin, "PUT " + member, `{"status":"accepted"}`, 403},

		{"the owner ends it", registry.Shared, owner, "DELETE " + member, "", 204},
		{"an admin ends it", registry.Shared, admin, "DELETE " + member, "", 204},
		{"a reader of the owner's project ends it", registry.Shared, ownReader, "DELETE " + member, "", 403},
		{"the member itself ends it", registry.Shared, guest, "DELETE " + member, "", 403},
		{"another member ends it", registry.Shared, third, "DELETE " + member, "", 404},
		{"to whom it is invisible ends it", registry.Shared, outsider, "DELETE " + member, "", 404},
		{"the owner ends nothing", registry.Shared, owner, "DELETE " + unknown, "", 404},
		{"one of a private image is ended", registry.Private, owner, "DELETE " + member, "", 403},
		{"the end with a body [R]", registry.Shared, owner, "DELETE " + member, "x", 400},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g.TB = t
			id := g.image(tt.v, isQueued)
			g.update(id, func(img *registry.Image) error { return img.AddMember(registry.Member{Project: "third"}) })
			g.as(tt.by)
			method, path, _ := strings.Cut(tt.line, " ")
			g.want(tt.status, method+" /v2/images/"+id+path, tt.body)
		})
	}
	g.TB = t
	for _, line := range []string{"GET /members", "GET /members/x", "DELETE /members/x"} {
		method, path, _ := strings.Cut(line, " ")
		g.want(404, method+" /v2/images/"+absent+path, "")
	}
	g.want(404, "POST /v2/images/"+absent+"/members", `{"member":"x"}`)
	g.want(404, "PUT /v2/images/"+absent+"/members/x", `{"status":"accepted"}`)
}

func TestAMembersLife(t *testing.T) {
	g := newLocationRig(t)
	g.as(owner)
	id := g.create(`"name":"n",` + formats)
	members := "/v2/images/" + id + "/members"
	m := decode(t, g.want(200, "POST "+members, `{"member":"guest"}`))
	for name, want := range map[string]any{"member_id": "guest", "image_id": id, "status": "pending", "schema": "/v2/schemas/member"} {
		if m[name] != want {
			t.Errorf("%s is %v", name, m[name])
		}
	}
	if len(m) != 6 || m["created_at"] == "" || m["created_at"] != m["updated_at"] {
		t.Errorf("%v", m)
	}
	g.want(200, "POST "+members, `{"member":"third"}`)
	listed := func(query string) string {
		g.as(guest)
		return g.names("/v2/images" + query)
	}
	// tempest: what is in the lists of the other project by its answer.
	for _, tt := range []struct{ answer, list, all, pending, rejected string }{
		{"", "", "n", "n", ""},
		{"accepted", "n", "n", "", ""},
		{"rejected", "", "n", "", "n"},
		{"pending", "", "n", "n", ""},
	} {
		if tt.answer != "" {
			g.as(guest)
			if got := decode(t, g.want(200, "PUT "+members+"/guest", `{"status":"`+tt.answer+`"}`)); got["status"] != tt.answer {
				t.Errorf("%v", got)
			}
		}
		for query, want := range map[string]string{
			"": tt.list, "?member_status=all": tt.all, "?member_status=pending&visibility=shared": tt.pending, "?member_status=rejected": tt.rejected,
		} {
			if got := listed(query); got != want {
				t.Errorf("%q: %q lists %q, want %q", tt.answer, query, got, want)
			}
		}
		g.want(200, "GET /v2/images/"+id, "") // whatever was answered
	}
	own := decode(t, g.want(200, "GET "+members, ""))
	if list := own["members"].([]any); len(list) != 1 || list[0].(map[string]any)["member_id"] != "guest" || own["schema"] != "/v2/schemas/members" {
		t.Errorf("a member sees %v", own)
	}
	g.as(owner)
	if list := decode(t, g.want(200, "GET "+members, ""))["members"].([]any); len(list) != 2 {
		t.Errorf("the owner sees %v", list)
	}
	// Away from shared the rows are kept, and mean nothing.
	g.want(200, "PATCH /v2/images/"+id, `[{"op":"replace","path":"/visibility","value":"private"}]`, v21)
	g.want(403, "GET "+members, "")
	g.as(guest)
	g.want(404, "GET /v2/images/"+id, "")
	g.as(owner)
	g.want(200, "PATCH /v2/images/"+id, `[{"op":"replace","path":"/visibility","value":"shared"}]`, v21)
	g.as(guest)
	g.want(200, "GET "+members+"/guest", "")
	g.as(owner)
	g.want(204, "DELETE "+members+"/guest", "")
	g.as(guest)
	g.want(404, "GET /v2/images/"+id, "")
	g.as(owner)
	if again := decode(t, g.want(200, "POST "+members, `{"member":"guest"}`)); again["status"] != "pending" {
		t.Errorf("%v", again)
	}
}

func TestMembersLeaveTheImageAsItIs(t *testing.T) {
	g := newLocationRig(t)
	id := g.image(registry.Shared, isQueued)
	g.as(owner)
	before := g.want(200, "GET /v2/images/"+id, "")
	g.want(200, "POST /v2/images/"+id+"/members", `{"member":"new"}`)
	if after := g.want(200, "GET /v2/images/"+id, ""); after.Body.String() != before.Body.String() {
		t.Errorf("before %s\nafter  %s", before.Body, after.Body)
	}
}

func TestTooManyMembersAreRefused(t *testing.T) {
	g := newLocationRig(t)
	id := g.image(registry.Shared, isQueued) // has one
	g.update(id, func(img *registry.Image) error {
		for i := range 126 {
			img.Members = append(img.Members, registry.Member{Project: fmt.Sprint("p", i), Status: registry.Pending})
		}
		return nil
	})
	g.as(owner)
	g.want(200, "POST /v2/images/"+id+"/members", `{"member":"the128th"}`)
	g.want(413, "POST /v2/images/"+id+"/members", `{"member":"the129th"}`)
	g.want(204, "DELETE /v2/images/"+id+"/members/the128th", "")
	g.want(200, "POST /v2/images/"+id+"/members", `{"member":"the129th"}`)
}

func TestMemberAnswersFitTheirSchema(t *testing.T) {
	g := newLocationRig(t)
	id := g.image(registry.Shared, isQueued)
	properties := decode(t, g.want(200, "GET /v2/schemas/member", ""))["properties"].(map[string]any)
	for name, value := range decode(t, g.want(200, "GET /v2/images/"+id+"/members/guest", "")) {
		p, ok := properties[name].(map[string]any)
		if _, text := value.(string); !ok || !text || p["type"] != "string" {
			t.Errorf("%s is %v, and the schema says %v", name, value, properties[name])
		}
	}
	list := decode(t, g.want(200, "GET /v2/schemas/members", ""))
	if list["name"] != "members" || list["properties"].(map[string]any)["members"] == nil {
		t.Errorf("%v", list)
	}
}
