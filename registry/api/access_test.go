package api

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"nearsight/registry"
)

func caller(project string, roles ...string) *registry.Caller {
	return &registry.Caller{Project: project, Roles: roles}
}

// The callers of the tests about who may do what.
var (
	owner         = caller("own", "member")
	ownReader     = caller("own", "reader")
	guest         = caller("guest", "member") // shared images are shared with it
	guestReads    = caller("guest", "reader")
	outsider      = caller("other", "member")
	outsiderReads = caller("other", "reader")
	service       = caller("", "service")
	admin         = caller("ops", "admin")
	stranger      = &registry.Caller{Stranger: true}
)

// A state is what an image must be for a call to be possible.
type state int

const (
	isQueued state = iota
	isActive
	isDeactivated
	isTwice // active, with a location in the store web beside its data
)

// image makes an image of the project own that is shared with the project guest if
// its visibility is shared.
func (g *locationRig) image(v registry.Visibility, s state) (id string) {
	g.Helper()
	asked := g.caller
	g.as(registry.Everybody())
	defer g.as(asked)
	id = g.create(`"name":"secret","owner":"own","tags":["t"],"visibility":"` + string(v) + `",` + formats)
	g.update(id, func(img *registry.Image) error { return img.AddMember(registry.Member{Project: "guest"}) })
	if s == isQueued {
		return id
	}
	g.put(id, "hello")
	switch s {
	case isTwice:
		g.want(200, "PATCH /v2/images/"+id, `[{"add":"/locations/-","value":`+locationText(hello, `{}`)+`}]`, v20)
	case isDeactivated:
		g.update(id, func(img *registry.Image) error {
			img.Status = registry.Deactivated
			return nil
		})
	}
	return id
}

func (g *rig) update(id string, change func(*registry.Image) error) {
	g.Helper()
	if _, err := g.db.Update(context.Background(), id, change); err != nil {
		g.Fatal(err)
	}
}

// Images API v2, "Default policy": each call about a record by each kind of caller.
func TestAccess(t *testing.T) {
	columns := []struct {
		name   string
		caller *registry.Caller
		v      registry.Visibility
	}{
		{"a reader of the owner's project", ownReader, registry.Private},
		{"a member of the owner's project", owner, registry.Private},
		{"a reader of the project that it is shared with", guestReads, registry.Shared},
		{"a member of the project that it is shared with", guest, registry.Shared},
		{"a reader of another project, public", outsiderReads, registry.Public},
		{"a member of another project, public", outsider, registry.Public},
		{"a member of another project, community", outsider, registry.Community},
		{"a service, public", service, registry.Public},
		{"a stranger, public", stranger, registry.Public},
		{"an admin", admin, registry.Private},
		{"one who is told apart from nobody", registry.Everybody(), registry.Private},
		{"a member of another project, shared", outsider, registry.Shared},
		{"a former guest", guest, registry.Private},
		{"a service, private", service, registry.Private},
		{"a stranger, community", stranger, registry.Community},
		{"nobody", &registry.Caller{}, registry.Public},
	}
	add := `[{"op":"add","path":"/locations/-","value":` + locationText(again, `{}`) + `}]`
	for _, tt := range []struct {
		name  string
		state state
		line  string // ID stands for the image's id
		body  string
		field string
		ok    int
		cells string // per column: y for ok, n for 403, a dot for 404
	}{
		//                                                              own guest other srv str adm unseen
		{"show", isQueued, "GET /v2/images/ID", "", "", 200, "          yy  yy    yyy   y   y   yy  ....."},
		{"head", isActive, "HEAD /v2/images/ID", "", "", 200, "         yy  yy    yyy   y   y   yy  ....."},
		{"patch a name", isActive, "PATCH /v2/images/ID", `[{"op":"replace","path":"/name","value":"x"}]`, v21, 200,
			"ny  nn    nnn   n   n   yy  ....."},
		{"patch nothing", isActive, "PATCH /v2/images/ID", `[]`, v21, 200, "ny nn nnn n n yy ....."},
		{"patch what is not there", isActive, "PATCH /v2/images/ID", `[{"op":"remove","path":"/y"}]`, v21, 409, "ny nn nnn n n yy ....."},
		{"make community", isActive, "PATCH /v2/images/ID", `[{"op":"replace","path":"/visibility","value":"community"}]`, v21, 200,
			"ny nn nnn n n yy ....."},
		{"make public", isActive, "PATCH /v2/images/ID", `[{"op":"replace","path":"/visibility","value":"public"}]`, v21, 200,
			"nn nn nnn n n yy ....."},
		{"give away", isActive, "PATCH /v2/images/ID", `[{"op":"replace","path":"/owner","value":"other"}]`, v21, 200,
			"nn nn nnn n n yy ....."},
		{"give to the owner again", isActive, "PATCH /v2/images/ID", `[{"op":"add","path":"/owner","value":"own"}]`, v21, 200,
			"nn nn nnn n n yy ....."},
		{"add a tag", isActive, "PUT /v2/images/ID/tags/x", "", "", 204, "ny nn nnn n n yy ....."},
		{"remove a tag", isActive, "DELETE /v2/images/ID/tags/t", "", "", 204, "ny nn nnn n n yy ....."},
		{"remove no tag", isActive, "DELETE /v2/images/ID/tags/x", "", "", 404, "ny nn nnn n n yy ....."},
		{"delete", isActive, "DELETE /v2/images/ID", "", "", 204, "ny nn nnn n n yy ....."},
		{"upload", isQueued, "PUT /v2/images/ID/file", "data", octets, 204, "ny nn nnn n n yy ....."},
		{"upload again", isActive, "PUT /v2/images/ID/file", "data", octets, 409, "ny nn nnn n n yy ....."},
		{"deactivate", isActive, "POST /v2/images/ID/actions/deactivate", "", "", 204, "ny nn nnn n n yy ....."},
		{"reactivate", isDeactivated, "POST /v2/images/ID/actions/reactivate", "", "", 204, "ny nn nnn n n yy ....."},
		{"list locations", isActive, "GET /v2/images/ID/locations", "", "", 200, "nn nn nnn y n yy ....."},
		{"register a location", isQueued, "POST /v2/images/ID/locations", `{"url":"` + hello + `"}`, "", 202, "ny nn nnn y n yy ....."},
		{"patch a location in", isActive, "PATCH /v2/images/ID", add, v21, 200, "ny nn nnn n n yy ....."},
		{"patch a location out", isTwice, "PATCH /v2/images/ID", `[{"op":"remove","path":"/locations/1"}]`, v21, 200,
			"nn nn nnn n n yy ....."},
		{"delete from a store", isTwice, "DELETE /v2/stores/web/ID", "", "", 204, "nn nn nnn n n yy ....."},
		// Those about members are 403 unless it is shared, see members_test.go.
		{"list members", isQueued, "GET /v2/images/ID/members", "", "", 200, "nn yy nnn n n nn ....."},
		{"add a member", isQueued, "POST /v2/images/ID/members", `{"member":"new"}`, "", 200, "nn nn nnn n n nn ....."},
	} {
		g := newLocationRig(t)
		cells := strings.ReplaceAll(tt.cells, " ", "")
		if len(cells) != len(columns) {
			t.Fatalf("%s has %d cells, not %d", tt.name, len(cells), len(columns))
		}
		for i, column := range columns {
			t.Run(tt.name+" by "+column.name, func(t *testing.T) {
				g.TB = t
				id := g.image(column.v, tt.state)
				before := g.get(id)
				g.as(column.caller)
				var fields []string
				if tt.field != "" {
					fields = []string{tt.field}
				}
				w := g.do(strings.ReplaceAll(tt.line, "ID", id), tt.body, fields...)
				want := map[byte]int{'y': tt.ok, 'n': 403, '.': 404}[cells[i]]
				if w.Code != want {
					t.Fatalf("status %d, want %d: %s", w.Code, want, w.Body)
				}
				if strings.Contains(w.Body.String(), "secret") && w.Code >= 300 {
					t.Errorf("a refusal tells of the image: %s", w.Body)
				}
				if after := g.get2(id); w.Code >= 400 && (after == nil || after.Revision != before.Revision) {
					t.Errorf("refused, and done: %+v", after)
				}
				if cells[i] != '.' || strings.HasPrefix(tt.line, "HEAD") {
					return
				}
				// What is invisible is as what is not there.
				if no := g.do(strings.ReplaceAll(tt.line, "ID", absent), tt.body, fields...); no.Code != 404 || no.Body.String() != w.Body.String() {
					t.Errorf("told apart: %d %s, %d %s", w.Code, w.Body, no.Code, no.Body)
				}
			})
		}
	}
}

// get2 is get, and nil for an image that is not there.
func (g *rig) get2(id string) *registry.Image {
	img, _ := g.db.Get(context.Background(), id)
	return img
}

func TestCreatingForWhom(t *testing.T) {
	for _, tt := range []struct {
		name   string
		caller *registry.Caller
		body   string
		status int
		owner  any // in the answer
	}{
		{"a member for its project", owner, `{}`, 201, "own"},
		{"a member that names its project", owner, `{"owner":"own"}`, 201, "own"},
		{"a member for another project", owner, `{"owner":"other"}`, 403, nil},
		{"a member for nobody", owner, `{"owner":null}`, 403, nil},
		{"a member, community", owner, `{"visibility":"community"}`, 201, "own"},
		{"a member, private", owner, `{"visibility":"private"}`, 201, "own"},
		{"a member, public", owner, `{"visibility":"public"}`, 403, nil},
		{"a member without a project", caller("", "member"), `{}`, 403, nil},
		{"a reader", ownReader, `{}`, 403, nil},
		{"a reader, and nonsense", ownReader, `nonsense`, 403, nil},
		{"a service", service, `{}`, 403, nil},
		{"a stranger", stranger, `{}`, 403, nil},
		{"nobody", &registry.Caller{}, `{}`, 403, nil},
		{"an admin for its project", admin, `{}`, 201, "ops"},
		{"an admin for another project", admin, `{"owner":"other"}`, 201, "other"},
		{"an admin for nobody", admin, `{"owner":null}`, 201, nil},
		{"an admin, public", admin, `{"visibility":"public"}`, 201, "ops"},
		{"an admin without a project", registry.Everybody(), `{}`, 201, nil},
		{"an id in use by another project", owner, `{"id":"` + id1 + `"}`, 409, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := newRig(t)
			g.create(`"id":"` + id1 + `","owner":"other","visibility":"private"`)
			g.as(tt.caller)
			w := g.want(tt.status, "POST /v2/images", tt.body)
			if tt.status == 201 && decode(t, w)["owner"] != tt.owner {
				t.Errorf("owner %v", decode(t, w)["owner"])
			}
		})
	}
}

func TestAProtectedImageThatIsInvisibleIsNotFound(t *testing.T) {
	g := newRig(t)
	g.create(`"id":"` + id1 + `","owner":"own","protected":true,"visibility":"private"`)
	g.create(`"id":"` + id2 + `","owner":"own","protected":true,"visibility":"public"`)
	g.as(outsider)
	g.want(404, "DELETE /v2/images/"+id1, "")
	g.want(404, "DELETE /v2/images/"+id1, "", `If-Match: "m-0"`)
	g.want(403, "DELETE /v2/images/"+id2, "")
	g.as(owner)
	g.want(403, "DELETE /v2/images/"+id1, "")
	g.as(admin)
	g.want(403, "DELETE /v2/images/"+id1, "")
}

// What may be done is decided when it is done.
func TestAnImageThatIsGivenAwayMeanwhileIsAnothers(t *testing.T) {
	for name, line := range map[string]string{
		"patch":    "PATCH /v2/images/" + id1,
		"delete":   "DELETE /v2/images/" + id1,
		"tag":      "PUT /v2/images/" + id1 + "/tags/x",
		"upload":   "PUT /v2/images/" + id1 + "/file",
		"member":   "POST /v2/images/" + id1 + "/members",
		"location": "PATCH /v2/images/" + id1 + "?",
	} {
		t.Run(name, func(t *testing.T) {
			g := newLocationRig(t, func(o *Options) { o.Images = &givenAway{Images: o.Images} })
			g.create(`"id":"` + id1 + `","owner":"own","visibility":"private",` + formats)
			g.as(owner)
			body, field := "", "X: y"
			switch name {
			case "patch":
				body, field = `[{"op":"replace","path":"/name","value":"mine"}]`, v21
			case "location":
				body, field = `[{"op":"add","path":"/locations/-","value":`+locationText(hello, `{}`)+`}]`, v21
			case "upload":
				body, field = "data", octets
			case "member":
				body = `{"member":"x"}`
			}
			g.want(404, line, body, field)
			img := g.get(id1)
			if *img.Owner != "other" || img.Name != nil || len(img.Tags)+len(img.Members)+len(img.Locations) > 0 || img.Status != registry.Queued {
				t.Errorf("%+v", img)
			}
		})
	}
}

// givenAway gives every image to another project after it was read.
type givenAway struct{ registry.Images }

func (g *givenAway) give(ctx context.Context, id string) {
	theirs := "other"
	g.Images.Update(ctx, id, func(img *registry.Image) error {
		img.Owner = &theirs
		return nil
	})
}

func (g *givenAway) Get(ctx context.Context, id string) (*registry.Image, error) {
	img, err := g.Images.Get(ctx, id)
	g.give(ctx, id)
	return img, err
}

func (g *givenAway) Update(ctx context.Context, id string, change func(*registry.Image) error) (*registry.Image, error) {
	g.give(ctx, id)
	return g.Images.Update(ctx, id, change)
}

func TestDeactivatedImagesKeepTheirPlaceToThemselves(t *testing.T) {
	g := newLocationRig(t, func(o *Options) { o.ShowDirectURL = true })
	id := g.image(registry.Public, isDeactivated)
	for _, tt := range []struct {
		name   string
		caller *registry.Caller
		shown  bool
	}{
		{"the owner", owner, false}, {"another", outsider, false}, {"a stranger", stranger, false}, {"an admin", admin, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g.TB = t
			g.as(tt.caller)
			w := g.want(200, "GET /v2/images/"+id, "")
			one := decode(t, w)
			listed := decode(t, g.want(200, "GET /v2/images?id="+id, ""))["images"].([]any)[0].(map[string]any)
			for _, v := range []map[string]any{one, listed} {
				_, direct := v["direct_url"]
				if n := len(v["locations"].([]any)); (n > 0) != tt.shown || direct != tt.shown || v["stores"] != "main" {
					t.Errorf("%d locations, direct_url %v, stores %v", n, direct, v["stores"])
				}
			}
			if cc := w.Header().Get("Cache-Control"); cc != privateFreshness {
				t.Errorf("Cache-Control %q of what is not the same for everybody", cc)
			}
		})
	}
	g.as(admin)
	g.want(204, "POST /v2/images/"+id+"/actions/reactivate", "")
	if cc := g.want(200, "GET /v2/images/"+id, "").Header().Get("Cache-Control"); cc != openFreshness {
		t.Errorf("Cache-Control %q", cc)
	}
}

// A remembered page is nobody's but whose it is.
func TestPagesAreNotSharedBetweenCallers(t *testing.T) {
	g := newLocationRig(t, func(o *Options) { o.Generation = func() uint64 { return 1 } })
	g.image(registry.Private, isQueued)
	for range 2 { // the second time from memory
		for _, tt := range []struct {
			caller *registry.Caller
			n      int
		}{{owner, 1}, {ownReader, 1}, {outsider, 0}, {guest, 0}, {stranger, 0}, {service, 0}, {admin, 1}, {registry.Everybody(), 1}, {caller(`own"`, "member"), 0}} {
			g.as(tt.caller)
			w := g.want(200, "GET /v2/images", "")
			if n := len(decode(t, w)["images"].([]any)); n != tt.n {
				t.Errorf("%+v sees %d images", tt.caller, n)
			}
			if cc := w.Header().Get("Cache-Control"); cc != privateFreshness {
				t.Errorf("Cache-Control %q", cc)
			}
		}
	}
	g.as(&registry.Caller{Project: "own"})
	g.want(403, "GET /v2/images", "")
}

func TestStoreDetailsAreForOperators(t *testing.T) {
	g := newLocationRig(t)
	for _, tt := range []struct {
		caller *registry.Caller
		detail int
	}{{owner, 403}, {stranger, 403}, {service, 200}, {admin, 200}} {
		g.as(tt.caller)
		g.want(http.StatusOK, "GET /v2/info/stores", "")
		g.want(tt.detail, "GET /v2/info/stores/detail", "")
	}
}
