package api

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"

	"nearsight/registry"
)

// A modelImage is what the rules are about, and nothing else of an image.
type modelImage struct {
	id, owner  string // owner "" for none
	visibility registry.Visibility
	status     registry.Status
	protected  bool
	hidden     bool
	secret     string // its name, which nobody learns who does not see it
	members    map[string]registry.MemberStatus
}

// A world is an API and the model of what it must do. The rules are written here from
// the reference, apart from those of package registry.
type world struct {
	*locationRig
	rand    *rand.Rand
	images  []*modelImage
	gone    []*modelImage
	callers []*registry.Caller
	secrets int
	log     []string // of what was done
}

func (w *world) is(c *registry.Caller, role string) bool { return slices.Contains(c.Roles, role) }

func (w *world) sees(c *registry.Caller, m *modelImage) bool {
	switch {
	case w.is(c, "admin"), m.visibility == registry.Public:
		return true
	case c.Stranger:
		return false
	case m.owner == "", m.owner == c.Project, m.visibility == registry.Community:
		return true
	}
	_, member := m.members[c.Project]
	return m.visibility == registry.Shared && member
}

// mayWrite: members of the owner's project, and admins.
func (w *world) mayWrite(c *registry.Caller, m *modelImage) bool {
	return w.is(c, "admin") || w.is(c, "member") && m.owner == c.Project
}

// lists reports whether an image that is seen is in a list.
func (w *world) lists(c *registry.Caller, m *modelImage, visibility, memberStatus, hidden string) bool {
	if !w.sees(c, m) || m.hidden != (hidden == "true") {
		return false
	}
	if visibility != "" && visibility != "all" && visibility != string(m.visibility) {
		return false
	}
	switch {
	case m.owner == c.Project, m.owner == "": // what is nobody's is everybody's
		return true
	case m.visibility == registry.Community:
		return visibility == "community" || visibility == "all"
	case w.is(c, "admin"), m.visibility == registry.Public:
		return true
	}
	if memberStatus == "" {
		memberStatus = "accepted"
	}
	return memberStatus == "all" || memberStatus == string(m.members[c.Project])
}

// ask makes a request of c, and holds the answer against all that c may not know.
func (w *world) ask(c *registry.Caller, line, body string, fields ...string) *httptest.ResponseRecorder {
	w.Helper()
	w.as(c)
	rec := w.do(line, body, fields...)
	answer := rec.Body.String() + fmt.Sprint(rec.Header())
	for _, m := range w.images {
		if w.sees(c, m) {
			continue
		}
		learns := func(what string) bool { return strings.Contains(answer, what) && !strings.Contains(line+body, what) }
		if learns(m.secret) || learns(m.id) {
			w.Fatalf("%s\n%+v learns of %+v by %s %s: %s", strings.Join(w.log, "\n"), c, m, line, body, answer)
		}
	}
	return rec
}

// does is ask for a call that the model knows the answer of.
func (w *world) does(c *registry.Caller, status int, line, body string, fields ...string) {
	w.Helper()
	w.log = append(w.log, fmt.Sprintf("%+v: %s %s", *c, line, body))
	if rec := w.ask(c, line, body, fields...); rec.Code != status {
		w.Fatalf("%s\nstatus %d, want %d: %s", strings.Join(w.log, "\n"), rec.Code, status, rec.Body)
	}
}

func pick[T any](w *world, from []T) T { return from[w.rand.IntN(len(from))] }

// verdict is the status of a call about m: hidden from who does not see it, then
// forbidden, else ok.
func (w *world) verdict(c *registry.Caller, m *modelImage, allowed bool, ok int) int {
	switch {
	case !w.sees(c, m):
		return 404
	case !allowed:
		return 403
	}
	return ok
}

var allVisibilities = []registry.Visibility{registry.Public, registry.Community, registry.Shared, registry.Private}

// step does something.
func (w *world) step() {
	c := pick(w, w.callers)
	if len(w.images) < 3 || len(w.images) < 12 && w.rand.IntN(5) == 0 {
		w.create(c)
		return
	}
	m := pick(w, w.images)
	for range w.rand.IntN(2) * len(w.callers) { // every other time by one who may
		if w.mayWrite(c, m) {
			break
		}
		c = pick(w, w.callers)
	}
	target := "/v2/images/" + m.id
	admin := w.is(c, "admin")
	switch w.rand.IntN(12) {
	case 0:
		w.secrets++
		name := fmt.Sprintf("secret-%d.", w.secrets)
		status := w.verdict(c, m, w.mayWrite(c, m), 200)
		w.does(c, status, "PATCH "+target, `[{"op":"replace","path":"/name","value":"`+name+`"}]`, v21)
		if status == 200 {
			m.secret = name
		}
	case 1, 2:
		v := pick(w, allVisibilities)
		status := w.verdict(c, m, w.mayWrite(c, m) && (admin || v != registry.Public), 200)
		w.does(c, status, "PATCH "+target, fmt.Sprintf(`[{"op":"replace","path":"/visibility","value":%q}]`, v), v21)
		if status == 200 {
			m.visibility = v
		}
	case 3:
		to := pick(w, []string{"red", "blue", ""})
		value := "null"
		if to != "" {
			value = `"` + to + `"`
		}
		status := w.verdict(c, m, admin, 200)
		w.does(c, status, "PATCH "+target, `[{"op":"replace","path":"/owner","value":`+value+`}]`, v21)
		if status == 200 {
			m.owner = to
		}
	case 4:
		flag := pick(w, []string{"protected", "os_hidden"})
		value := w.rand.IntN(3) == 0
		status := w.verdict(c, m, w.mayWrite(c, m), 200)
		w.does(c, status, "PATCH "+target, fmt.Sprintf(`[{"op":"replace","path":"/%s","value":%v}]`, flag, value), v21)
		if status == 200 && flag == "protected" {
			m.protected = value
		} else if status == 200 {
			m.hidden = value
		}
	case 5, 6:
		w.share(c, m)
	case 7:
		w.answer(c, m)
	case 8:
		w.unshare(c, m)
	case 9:
		ok := 204
		if m.status != registry.Queued {
			ok = 409
		}
		status := w.verdict(c, m, w.mayWrite(c, m), ok)
		w.does(c, status, "PUT "+target+"/file", "data", octets)
		if status == 204 {
			m.status = registry.Active
		}
	case 11: // a task that nobody works on
		w.ask(c, "POST "+target+"/import", `{"method":{"name":"copy-image"},"stores":["slow"]}`)
	case 10:
		if w.rand.IntN(2) == 0 {
			w.deactivate(c, m)
			return
		}
		status := w.verdict(c, m, w.mayWrite(c, m) && !m.protected, 204)
		w.does(c, status, "DELETE "+target, "")
		if status == 204 {
			w.images = slices.DeleteFunc(w.images, func(have *modelImage) bool { return have == m })
			w.gone = append(w.gone, m)
		}
	}
}

func (w *world) create(c *registry.Caller) {
	w.secrets++
	m := &modelImage{
		id: fmt.Sprintf("%08d-0000-4000-8000-000000000000", w.secrets), owner: c.Project, visibility: pick(w, allVisibilities),
		status: registry.Queued, secret: fmt.Sprintf("secret-%d.", w.secrets), members: map[string]registry.MemberStatus{},
	}
	status := 201
	if !w.is(c, "member") && !w.is(c, "admin") || m.visibility == registry.Public && !w.is(c, "admin") {
		status = 403
	}
	w.does(c, status, "POST /v2/images", fmt.Sprintf(`{"id":%q,"name":%q,"visibility":%q,%s}`, m.id, m.secret, m.visibility, formats))
	if status == 201 {
		w.images = append(w.images, m)
	}
}

func (w *world) share(c *registry.Caller, m *modelImage) {
	with, ok := pick(w, []string{"red", "blue", "green"}), 200
	if _, have := m.members[with]; have {
		ok = 409
	}
	status := w.verdict(c, m, w.mayWrite(c, m) && m.visibility == registry.Shared, ok)
	w.does(c, status, "POST /v2/images/"+m.id+"/members", `{"member":"`+with+`"}`)
	if status == 200 {
		m.members[with] = registry.Pending
	}
}

// row is the status of a call about the member of that project, for who may.
func (w *world) row(c *registry.Caller, m *modelImage, project string, allowed bool, ok int) int {
	own := m.owner != "" && m.owner == c.Project
	_, member := m.members[c.Project]
	_, there := m.members[project]
	switch {
	case !w.sees(c, m):
		return 404
	case m.visibility != registry.Shared, !own && !member && !w.is(c, "admin"):
		return 403
	case !there, !own && !w.is(c, "admin") && project != c.Project:
		return 404
	}
	return w.verdict(c, m, allowed, ok)
}

func (w *world) answer(c *registry.Caller, m *modelImage) {
	project := pick(w, []string{"red", "blue", "green"})
	said := pick(w, []registry.MemberStatus{registry.Pending, registry.Accepted, registry.Rejected})
	may := w.is(c, "admin") || w.is(c, "member") && project == c.Project && m.owner != c.Project
	status := w.row(c, m, project, may, 200)
	w.does(c, status, "PUT /v2/images/"+m.id+"/members/"+project, fmt.Sprintf(`{"status":%q}`, said))
	if status == 200 {
		m.members[project] = said
	}
}

func (w *world) unshare(c *registry.Caller, m *modelImage) {
	project := pick(w, []string{"red", "blue", "green"})
	status := w.row(c, m, project, w.mayWrite(c, m), 204)
	w.does(c, status, "DELETE /v2/images/"+m.id+"/members/"+project, "")
	if status == 204 {
		delete(m.members, project)
	}
}

func (w *world) deactivate(c *registry.Caller, m *modelImage) {
	action, to := "deactivate", registry.Deactivated
	if w.rand.IntN(2) == 0 {
		action, to = "reactivate", registry.Active
	}
	status := w.verdict(c, m, w.mayWrite(c, m) && m.status != registry.Queued, 204)
	w.does(c, status, "POST /v2/images/"+m.id+"/actions/"+action, "")
	if status == 204 {
		m.status = to
	}
}

// look holds all that c can read against the model.
func (w *world) look(c *registry.Caller) {
	for _, m := range w.images {
		seen := w.sees(c, m)
		code := w.verdict(c, m, true, 200)
		if rec := w.ask(c, "GET /v2/images/"+m.id, ""); rec.Code != code {
			w.Fatalf("%s\n%+v shows %+v: status %d", strings.Join(w.log, "\n"), c, m, rec.Code)
		}
		if w.rand.IntN(3) > 0 { // the rest is dear
			continue
		}
		for _, call := range []string{
			"HEAD /v2/images/ID", "GET /v2/images/ID/members", "GET /v2/images/ID/members/red", "GET /v2/images/ID/tasks", "GET /v2/images/ID/locations",
			"POST /v2/images/ID/actions/x", "DELETE /v2/images/ID/tags/none", "DELETE /v2/stores/web/ID", "DELETE /v2/images/ID/members/none",
		} {
			rec := w.ask(c, strings.ReplaceAll(call, "ID", m.id), "")
			if unknown := w.ask(c, strings.ReplaceAll(call, "ID", absent), ""); !seen && (rec.Code != unknown.Code || rec.Body.String() != unknown.Body.String()) {
				w.Fatalf("%s\n%+v tells %+v from nothing by %s: %d %s, %d %s", strings.Join(w.log, "\n"), c, m, call, rec.Code, rec.Body, unknown.Code, unknown.Body)
			}
		}
		rec, unknown := w.ask(c, "GET /v2/images?marker="+m.id, ""), w.ask(c, "GET /v2/images?marker="+absent, "")
		if seen && rec.Code != 200 || !seen && (rec.Code != 400 || strings.ReplaceAll(rec.Body.String(), m.id, absent) != unknown.Body.String()) {
			w.Fatalf("%s\n%+v and the marker of %+v: status %d: %s", strings.Join(w.log, "\n"), c, m, rec.Code, rec.Body)
		}
		for _, filter := range []string{"id=" + m.id, "name=" + m.secret, "owner=" + m.owner, "name=in:x," + m.secret + "&visibility=all&member_status=all", "tag=t", "sort=name:asc"} {
			w.ask(c, "GET /v2/images?"+filter, "") // which looks for what it must not say
		}
	}
	for _, m := range w.gone {
		if rec := w.ask(c, "GET /v2/images/"+m.id, ""); rec.Code != 404 {
			w.Fatalf("%s\ndeleted, and shown: %+v", strings.Join(w.log, "\n"), m)
		}
	}
	for _, call := range []string{"GET /v2/tasks", "GET /v2/info/usage", "GET /v2/images?os_hidden=true&visibility=all"} {
		w.ask(c, call, "")
	}
	for _, visibility := range []string{"", "all", "public", "community", "shared", "private"} {
		for _, memberStatus := range []string{"", "all", "pending", "accepted", "rejected"} {
			hidden := pick(w, []string{"", "true", "false"})
			w.lookAtList(c, visibility, memberStatus, hidden)
		}
	}
}

func (w *world) lookAtList(c *registry.Caller, visibility, memberStatus, hidden string) {
	var want []string
	for _, m := range w.images {
		if w.lists(c, m, visibility, memberStatus, hidden) {
			want = append(want, m.secret)
		}
	}
	q := url.Values{"limit": {pick(w, []string{"2", "100"})}}
	for name, value := range map[string]string{"visibility": visibility, "member_status": memberStatus, "os_hidden": hidden} {
		if value != "" {
			q.Set(name, value)
		}
	}
	var got []string
	for target := "/v2/images?" + q.Encode(); target != ""; {
		rec := w.ask(c, "GET "+target, "")
		if rec.Code != 200 {
			w.Fatalf("%s: status %d: %s", target, rec.Code, rec.Body)
		}
		page := decode(w, rec)
		for _, img := range page["images"].([]any) {
			got = append(got, img.(map[string]any)["name"].(string))
		}
		target, _ = page["next"].(string)
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		w.Fatalf("%s\n%+v lists %s: %q, want %q", strings.Join(w.log, "\n"), c, q.Encode(), got, want)
	}
}

// Random operations of two projects, readers, an admin, a stranger and a third project:
// nobody learns of what it may not see, and may what the rules say.
func TestProjectsDoNotSeeEachOther(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			g := newLocationRig(t, func(o *Options) {
				o.Imports = Imports{Tasks: o.Images.(registry.Tasks)}
				log := o.Images.(registry.Log)
				o.Generation = func() uint64 { // pages are remembered here too
					n, err := log.Revision(context.Background())
					if err != nil {
						t.Error(err)
					}
					return uint64(n) + 1
				}
			})
			w := &world{locationRig: g, rand: rand.New(rand.NewPCG(seed, 5)), callers: []*registry.Caller{
				caller("red", "member"), caller("blue", "member"), caller("red", "member"), caller("blue", "member"),
				caller("red", "reader"), caller("green", "member"), caller("ops", "admin"), {Stranger: true},
			}}
			for i := range 120 {
				if w.step(); i%30 == 29 {
					for _, c := range w.callers[1:] { // the first is there twice
						w.look(c)
					}
				}
			}
		})
	}
}
