package api

import (
	"context"
	"net/http/httptest"
	"strings"
	"testing"

	"nearsight/registry"
	"nearsight/registry/task"
)

// chunked makes a request whose body does not say its length.
func (g *rig) chunked(line, body string, fields ...string) *httptest.ResponseRecorder {
	method, target, _ := strings.Cut(line, " ")
	req := httptest.NewRequest(method, target, struct{ *strings.Reader }{strings.NewReader(body)})
	req.ContentLength = -1
	for _, f := range fields {
		name, value, _ := strings.Cut(f, ": ")
		req.Header.Add(name, value)
	}
	w := httptest.NewRecorder()
	g.ServeHTTP(w, req)
	return w
}

// Every member of the API's database row is there, and times have no zone.
func TestTheTasksOfAnImage(t *testing.T) {
	g := newImportRig(t)
	g.create(`"id":"` + id1 + `","owner":"p","visibility":"community",` + formats)
	if w := g.want(200, "GET /v2/images/"+id1+"/tasks", ""); w.Body.String() != `{"tasks":[]}` {
		t.Errorf("%s", w.Body)
	}
	g.as(&registry.Caller{Project: "p", User: "u", Roles: []string{"member"}})
	w := g.want(202, "POST /v2/images/"+id1+"/import", `{"method":{"name":"web-download","uri":"http://example.org/x"}}`)
	request := w.Header().Get("X-Openstack-Request-Id")
	list := decode(t, g.want(200, "GET /v2/images/"+id1+"/tasks", ""))["tasks"].([]any)
	if len(list) != 1 {
		t.Fatalf("%v", list)
	}
	got := list[0].(map[string]any)
	for name, want := range map[string]any{
		"type": "api_image_import", "status": "pending", "owner": "p", "expires_at": nil, "deleted_at": nil, "deleted": false,
		"image_id": id1, "request_id": request, "user_id": "u", "result": nil, "message": "",
	} {
		if v, ok := got[name]; !ok || v != want {
			t.Errorf("%s is %v, want %v", name, v, want)
		}
	}
	if len(got) != 15 {
		t.Errorf("%d members: %v", len(got), got)
	}
	input := got["input"].(map[string]any)
	if input["image_id"] != id1 || input["import_req"].(map[string]any)["method"].(map[string]any)["uri"] != "http://example.org/x" ||
		input["backend"].([]any)[0] != "main" {
		t.Errorf("input %v", input)
	}
	if at := got["created_at"].(string); len(at) != len(rawTime) || strings.HasSuffix(at, "Z") {
		t.Errorf("created at %s", at)
	}

	for _, tt := range []struct {
		name   string
		caller *registry.Caller
		status int
		tasks  int
	}{
		{"admins see all", registry.Everybody(), 200, 1},
		{"a reader of the project", &registry.Caller{Project: "p", Roles: []string{"reader"}}, 200, 1},
		{"another project that sees the image", &registry.Caller{Project: "q", Roles: []string{"member"}}, 200, 0},
		{"somebody without a project", &registry.Caller{Roles: []string{"member"}}, 200, 0},
		{"a stranger", &registry.Caller{Stranger: true}, 404, 0},
	} {
		g.as(tt.caller)
		w := g.want(tt.status, "GET /v2/images/"+id1+"/tasks", "")
		if tt.status == 200 && len(decode(t, w)["tasks"].([]any)) != tt.tasks {
			t.Errorf("%s: %s", tt.name, w.Body)
		}
	}
	g.as(registry.Everybody())
	g.want(404, "GET /v2/images/"+absent+"/tasks", "")
	g.want(405, "POST /v2/images/"+id1+"/tasks", "")
}

const makeTask = `{"type":"import","input":{"import_from":"http://example.org/x","import_from_format":"qcow2","image_properties":{"name":"n"}}}`

func TestMakingATask(t *testing.T) {
	input := func(s string) string { return `{"type":"import","input":` + s + `}` }
	for _, tt := range []struct {
		name, body string
		caller     *registry.Caller
		status     int
	}{
		{"an import", makeTask, registry.Everybody(), 201},
		{"not an admin", makeTask, &registry.Caller{Project: "p", Roles: []string{"member"}}, 403},
		{"another type", `{"type":"export","input":{}}`, registry.Everybody(), 400},
		{"a type of ours", `{"type":"api_image_import","input":{}}`, registry.Everybody(), 400},
		{"no type", `{"input":{}}`, registry.Everybody(), 400},
		{"no input", `{"type":"import"}`, registry.Everybody(), 400},
		{"an input that is no object", input(`[]`), registry.Everybody(), 400},
		{"no import_from", input(`{"import_from_format":"raw","image_properties":{}}`), registry.Everybody(), 400},
		{"no import_from_format", input(`{"import_from":"http://example.org/x","image_properties":{}}`), registry.Everybody(), 400},
		{"no image_properties", input(`{"import_from":"http://example.org/x","import_from_format":"raw"}`), registry.Everybody(), 400},
		{"an unknown format", input(`{"import_from":"http://example.org/x","import_from_format":"tar","image_properties":{}}`), registry.Everybody(), 400},
		{"a property that is not to be set", input(`{"import_from":"http://example.org/x","import_from_format":"raw","image_properties":{"status":"active"}}`),
			registry.Everybody(), 403},
		{"a filtered URI", input(`{"import_from":"http://127.0.0.1/x","import_from_format":"raw","image_properties":{}}`), registry.Everybody(), 400},
		{"a file of ours", input(`{"import_from":"file:///etc/passwd","import_from_format":"raw","image_properties":{}}`), registry.Everybody(), 400},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := newImportRig(t)
			g.as(tt.caller)
			w := g.want(tt.status, "POST /v2/tasks", tt.body)
			images, err := g.db.List(context.Background(), registry.Query{Limit: 9})
			if err != nil || (len(images) == 1) != (tt.status == 201) {
				t.Fatalf("%d images, %v", len(images), err)
			}
			if tt.status != 201 {
				return
			}
			got := decode(t, w)
			img := images[0]
			if img.DiskFormat != "qcow2" || img.ContainerFormat != "bare" || *img.Name != "n" || img.Status != registry.Importing ||
				img.Properties[task.TaskProperty] != got["id"] {
				t.Errorf("image %+v", img)
			}
			self := "/v2/tasks/" + got["id"].(string)
			if got["self"] != self || got["schema"] != "/v2/schemas/task" || got["image_id"] != img.ID || got["status"] != "pending" ||
				got["input"].(map[string]any)["import_from"] != "http://example.org/x" || got["result"] != nil ||
				!strings.HasSuffix(w.Header().Get("Location"), self) || !strings.HasSuffix(got["created_at"].(string), "Z") {
				t.Errorf("%v at %s", got, w.Header().Get("Location"))
			}
		})
	}
}

// An image for which no task could be noted is not left behind.
func TestATaskThatCannotBeMadeLeavesNoImage(t *testing.T) {
	for _, done := range []bool{false, true} {
		g := newImportRig(t, func(o *Options) { o.Imports.Tasks = brokenTasks{o.Imports.Tasks, done} })
		g.want(503, "POST /v2/tasks", makeTask)
		images, err := g.db.List(context.Background(), registry.Query{Limit: 9})
		if err != nil || len(images) != 0 {
			t.Errorf("%d images, %v", len(images), err)
		}
		tasks, err := g.db.ListTasks(context.Background(), registry.TaskQuery{Limit: 9})
		if err != nil || done && (len(tasks) != 1 || tasks[0].Status != registry.TaskFailure) || !done && len(tasks) != 0 {
			t.Errorf("tasks %v, %v", tasks, err)
		}
	}
}

// brokenTasks fail to be added, although they may have been.
type brokenTasks struct {
	registry.Tasks
	done bool
}

func (b brokenTasks) AddTask(ctx context.Context, t *registry.Task, begin func(*registry.Image) error) (*registry.Task, error) {
	if b.done {
		if _, err := b.Tasks.AddTask(ctx, t, begin); err != nil {
			return nil, err
		}
	}
	return nil, registry.ErrUnavailable
}

func TestTheListOfTasks(t *testing.T) {
	g := newImportRig(t)
	for range 3 {
		g.want(201, "POST /v2/tasks", makeTask)
	}
	if got := decode(t, g.want(200, "GET /v2/tasks", "")); len(got["tasks"].([]any)) != 3 || got["first"] != "/v2/tasks" ||
		got["schema"] != "/v2/schemas/tasks" || got["next"] != nil {
		t.Errorf("%v", got)
	}
	first := decode(t, g.want(200, "GET /v2/tasks?limit=2&sort_key=id&sort_dir=asc", ""))
	if len(first["tasks"].([]any)) != 2 || first["first"] != "/v2/tasks?limit=2&sort_key=id&sort_dir=asc" {
		t.Errorf("%v", first)
	}
	stub := first["tasks"].([]any)[0].(map[string]any)
	if _, has := stub["input"]; has || stub["self"] != "/v2/tasks/"+stub["id"].(string) {
		t.Errorf("%v", stub)
	}
	next := decode(t, g.want(200, "GET "+first["next"].(string), ""))
	if len(next["tasks"].([]any)) != 1 {
		t.Errorf("%v", next)
	}
	for line, n := range map[string]int{
		"status=pending": 3, "status=success": 0, "type=import": 3, "type=api_image_import": 0, "limit=0": 0,
		"sort_key=created_at&sort_dir=desc": 3, "sort_key=expires_at": 3,
	} {
		if got := decode(t, g.want(200, "GET /v2/tasks?"+line, ""))["tasks"].([]any); len(got) != n {
			t.Errorf("%s: %d tasks, want %d", line, len(got), n)
		}
	}
	for _, line := range []string{
		"status=done", "type=export", "limit=x", "limit=-1", "marker=", "marker=" + absent, "sort_key=owner", "sort_dir=up",
	} {
		g.want(400, "GET /v2/tasks?"+line, "")
	}
	id := stub["id"].(string)
	if got := decode(t, g.want(200, "GET /v2/tasks/"+id, "")); got["id"] != id || got["input"] == nil {
		t.Errorf("%v", got)
	}
	g.want(404, "GET /v2/tasks/"+absent, "")
	if w := g.want(405, "DELETE /v2/tasks/"+id, ""); !strings.Contains(w.Header().Get("Allow"), "GET") {
		t.Errorf("Allow: %s", w.Header().Get("Allow"))
	}
	g.as(&registry.Caller{Project: "p", Roles: []string{"member"}})
	g.want(403, "GET /v2/tasks", "")
	g.want(403, "GET /v2/tasks/"+id, "")
}

func FuzzListTasks(f *testing.F) {
	for _, seed := range []string{
		"", "status=pending", "limit=2&sort_key=id&sort_dir=asc", "marker=" + absent, "limit=99999999999999999999", "type=import&type=export",
		"sort_key=expires_at&marker=x", "%zz", "limit=%31", "&&=&", "marker=%00",
	} {
		f.Add(seed)
	}
	g := newImportRig(f)
	for range 2 {
		g.want(201, "POST /v2/tasks", makeTask)
	}
	f.Fuzz(func(t *testing.T, query string) {
		g.TB = t
		r := httptest.NewRequest("GET", "/v2/tasks", nil)
		r.URL.RawQuery = query
		w := httptest.NewRecorder()
		g.ServeHTTP(w, r)
		g.neverFails(w)
	})
}
