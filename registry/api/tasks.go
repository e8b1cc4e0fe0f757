package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/gin-gonic/gin"

	"nearsight/registry"
	"nearsight/registry/task"
)

// rawTime is how times are written in the tasks of an image, which Glance shows as
// its database has them: in UTC, and without a zone.
const rawTime = "2006-01-02T15:04:05.000000"

// registerTasks adds the calls about tasks, and those that lead to some.
func (a *API) registerTasks(r *gin.Engine) {
	get := func(path string, h ...gin.HandlerFunc) {
		r.GET(path, h...)
		r.HEAD(path, h...)
	}
	r.PUT("/v2/images/:id/stage", a.checkID, a.stage)
	get("/v2/images/:id/tasks", a.checkID, a.listImageTasks)
	get("/v2/info/usage", a.usage)
	r.POST("/v2/tasks", a.createTask)
	get("/v2/tasks", a.listTasks)
	get("/v2/tasks/:task", a.showTask)
}

// A rawTask is a task of an image as clients see it.
type rawTask struct {
	ID        string          `json:"id"`
	Type      string          `json:"type"`
	Status    string          `json:"status"`
	Owner     string          `json:"owner"`
	ExpiresAt *string         `json:"expires_at"`
	CreatedAt string          `json:"created_at"`
	UpdatedAt string          `json:"updated_at"`
	DeletedAt *string         `json:"deleted_at"`
	Deleted   bool            `json:"deleted"`
	ImageID   *string         `json:"image_id"`
	RequestID *string         `json:"request_id"`
	UserID    *string         `json:"user_id"`
	Input     json.RawMessage `json:"input"`
	Result    json.RawMessage `json:"result"`
	Message   string          `json:"message"`
}

// listImageTasks answers GET of the tasks of an image: to admins of all, to others
// those of their project.
func (a *API) listImageTasks(c *gin.Context) {
	r := c.Request
	if hasBody(r) {
		a.fail(c, errUnwantedBody)
		return
	}
	caller := registry.CallerOf(r.Context())
	if _, err := a.find(r.Context(), c.Param("id"), registry.Show); err != nil {
		a.fail(c, err)
		return
	}
	list := []rawTask{}
	if a.imports.Tasks != nil && (caller.Is("admin") || caller.Project != "") {
		q := registry.TaskQuery{ImageID: c.Param("id"), Limit: a.maxLimit}
		if !caller.Is("admin") {
			q.Owner = caller.Project
		}
		tasks, err := a.imports.Tasks.ListTasks(r.Context(), q)
		if err != nil {
			a.fail(c, err)
			return
		}
		for _, t := range tasks {
			list = append(list, newRawTask(t))
		}
	}
	a.writeTasks(c, http.StatusOK, map[string]any{"tasks": list})
}

func newRawTask(t *registry.Task) rawTask {
	return rawTask{
		ID: t.ID, Type: t.Type, Status: string(t.Status), Owner: t.Owner,
		ExpiresAt: known(formatTime(t.ExpiresAt, rawTime)), CreatedAt: formatTime(t.CreatedAt, rawTime), UpdatedAt: formatTime(t.UpdatedAt, rawTime),
		ImageID: known(t.ImageID), RequestID: known(t.RequestID), UserID: known(t.User),
		Input: orNull(t.Input), Result: orNull(t.Result), Message: t.Message,
	}
}

// A taskStub is a task in a list of all tasks.
type taskStub struct {
	ID        string `json:"id"`
	Type      string `json:"type"`
	Status    string `json:"status"`
	Owner     string `json:"owner"`
	ImageID   string `json:"image_id,omitempty"`
	RequestID string `json:"request_id,omitempty"`
	UserID    string `json:"user_id,omitempty"`
	ExpiresAt string `json:"expires_at,omitempty"`
	CreatedAt string `json:"created_at"`
	UpdatedAt string `json:"updated_at"`
	Self      string `json:"self"`
	Schema    string `json:"schema"`
}

// A wholeTask is a task that is shown by itself.
type wholeTask struct {
	taskStub
	Input   json.RawMessage `json:"input"`
	Result  json.RawMessage `json:"result"`
	Message string          `json:"message"`
}

func newTaskStub(t *registry.Task) taskStub {
	return taskStub{
		ID: t.ID, Type: t.Type, Status: string(t.Status), Owner: t.Owner,
		ImageID: t.ImageID, RequestID: t.RequestID, UserID: t.User,
		ExpiresAt: formatTime(t.ExpiresAt, time.RFC3339), CreatedAt: formatTime(t.CreatedAt, time.RFC3339), UpdatedAt: formatTime(t.UpdatedAt, time.RFC3339),
		Self: "/v2/tasks/" + t.ID, Schema: "/v2/schemas/task",
	}
}

func newWholeTask(t *registry.Task) wholeTask {
	return wholeTask{newTaskStub(t), orNull(t.Input), orNull(t.Result), t.Message}
}

// listTasks answers GET of all tasks.
func (a *API) listTasks(c *gin.Context) {
	r := c.Request
	if err := a.mayManageTasks(r); err != nil {
		a.fail(c, err)
		return
	}
	params, err := parseParams(r.URL.RawQuery)
	if err != nil {
		a.fail(c, err)
		return
	}
	q, err := a.taskQuery(params)
	if err != nil {
		a.fail(c, err)
		return
	}
	tasks, err := a.imports.Tasks.ListTasks(r.Context(), q)
	if err != nil {
		a.fail(c, err)
		return
	}
	list := make([]taskStub, len(tasks))
	for i, t := range tasks {
		list[i] = newTaskStub(t)
	}
	link := func(marker string) string {
		return "/v2/tasks" + strings.TrimPrefix(pageLink(firstPage(params), marker), "/v2/images")
	}
	doc := map[string]any{"tasks": list, "first": link(""), "schema": "/v2/schemas/tasks"}
	if q.Limit > 0 && len(tasks) == q.Limit {
		doc["next"] = link(tasks[len(tasks)-1].ID)
	}
	a.writeTasks(c, http.StatusOK, doc)
}

// taskQuery translates the parameters of a list of tasks.
func (a *API) taskQuery(params []param) (registry.TaskQuery, error) {
	q := registry.TaskQuery{Limit: a.defaultLimit}
	order := registry.Order{Key: "created_at", Desc: true}
	for _, p := range params {
		var err error
		switch p.name {
		case "limit":
			q.Limit, err = a.limit(p)
		case "marker":
			if q.Marker = p.value; p.value == "" {
				err = badQuery(p.name, "it is empty")
			}
		case "status":
			q.Status = registry.TaskStatus(p.value)
			err = oneOf(p, "pending", "processing", "success", "failure")
		case "type":
			q.Type = p.value
			err = oneOf(p, registry.TaskImport, registry.TaskImageImport, registry.TaskLocationImport)
		case "sort_key":
			order.Key = p.value
			err = oneOf(p, "id", "type", "status", "created_at", "updated_at", "expires_at")
		case "sort_dir":
			order.Desc = p.value == "desc"
			err = oneOf(p, "asc", "desc")
		}
		if err != nil {
			return q, err
		}
	}
	q.Sort = []registry.Order{order}
	return q, nil
}

// showTask answers GET of a task.
func (a *API) showTask(c *gin.Context) {
	if err := a.mayManageTasks(c.Request); err != nil {
		a.fail(c, err)
		return
	}
	t, err := a.imports.Tasks.GetTask(c.Request.Context(), c.Param("task"))
	if err != nil {
		a.fail(c, noTask(err))
		return
	}
	a.writeTasks(c, http.StatusOK, newWholeTask(t))
}

// createTask answers POST of a task, which can only be an import: it makes an image
// and downloads its data.
func (a *API) createTask(c *gin.Context) {
	t, err := a.startDownload(c.Writer, c.Request)
	if err != nil {
		a.fail(c, err)
		return
	}
	c.Writer.Header().Set("Location", a.base(c.Request)+"/v2/tasks/"+t.ID)
	a.writeTasks(c, http.StatusCreated, newWholeTask(t))
}

func (a *API) startDownload(w http.ResponseWriter, r *http.Request) (*registry.Task, error) {
	if err := a.mayManageTasks(r); err != nil {
		return nil, err
	}
	body, err := a.readBody(w, r)
	if err != nil {
		return nil, err
	}
	wanted, img, err := a.parseDownload(body, registry.CallerOf(r.Context()))
	if err != nil {
		return nil, err
	}
	ctx := r.Context()
	if err := a.check(ctx, wanted.From); err != nil {
		return nil, badLocation(err)
	}
	owner := ownerOf(img)
	if err := a.quotas.ForImage(ctx, owner); err != nil {
		return nil, err
	}
	if err := a.quotas.ForImport(ctx, owner, 0, true); err != nil {
		return nil, err
	}
	if img, err = a.images.Create(ctx, img); err != nil {
		return nil, err
	}
	t := a.newTask(w, r, registry.TaskImport, img.ID, wanted)
	if err := a.addTask(ctx, t, task.Announce(t, a.defaultTargets())); err != nil {
		// Nobody would ever bring data to the image, nor know of it.
		return nil, errors.Join(err, a.images.Delete(context.WithoutCancel(ctx), img.ID, nil))
	}
	return a.imports.Tasks.GetTask(ctx, t.ID)
}

// parseDownload reads {"type": "import", "input": {...}}, and makes the image that is
// wanted.
func (a *API) parseDownload(body []byte, caller *registry.Caller) (d task.Download, img *registry.Image, err error) {
	fields, err := decodeObject(body)
	if err != nil {
		return d, nil, err
	}
	if kind, ok := decodeString(fields["type"]); !ok || kind != registry.TaskImport {
		return d, nil, refuse(http.StatusBadRequest, "the type of a task must be import")
	}
	input, err := decodeObject(fields["input"])
	if err != nil {
		return d, nil, refuse(http.StatusBadRequest, "a task needs an input, which is an object")
	}
	for name, to := range map[string]*string{"import_from": &d.From, "import_from_format": &d.Format} {
		var ok bool
		if *to, ok = decodeString(input[name]); !ok || *to == "" {
			return d, nil, refuse(http.StatusBadRequest, "the input of an import needs %s, which is a string", name)
		}
	}
	switch {
	case !slices.Contains(a.importMethods(), task.WebDownload):
		return d, nil, refuse(http.StatusBadRequest, "import method web-download is not enabled here")
	case checkURI(d.From) != nil:
		return d, nil, checkURI(d.From)
	}
	d.Properties = input["image_properties"]
	if d.Properties == nil {
		return d, nil, refuse(http.StatusBadRequest, "the input of an import needs image_properties, which is an object")
	}
	if img, err = a.parseImage(d.Properties, caller); err != nil {
		return d, nil, err
	}
	if img.DiskFormat == "" {
		set, err := a.parseField("disk_format", encodeJSON(d.Format))
		if err != nil {
			return d, nil, err
		}
		set(img)
	}
	if img.ContainerFormat == "" {
		img.ContainerFormat = "bare"
	}
	return d, img, nil
}

// mayManageTasks refuses callers who may not see tasks that are no image's.
func (a *API) mayManageTasks(r *http.Request) error {
	if err := registry.CallerOf(r.Context()).MayAtAll(registry.ManageTasks); err != nil {
		return err
	}
	if a.imports.Tasks == nil {
		return refuse(http.StatusNotFound, "this server does no tasks")
	}
	return nil
}

// noTask says of what is not found that it is a task.
func noTask(err error) error {
	if errors.Is(err, registry.ErrNotFound) {
		return refuse(http.StatusNotFound, "there is no such task")
	}
	return err
}

// writeTasks answers with a document that is its caller's alone, and old soon.
func (a *API) writeTasks(c *gin.Context, status int, doc any) {
	c.Writer.Header().Set("Cache-Control", "private, no-store")
	writeJSON(c.Writer, c.Request, status, encodeJSON(doc))
}

func formatTime(t time.Time, layout string) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Truncate(time.Microsecond).Format(layout)
}

// known returns nil for "".
func known(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// orNull returns a JSON value, null for none.
func orNull(raw json.RawMessage) json.RawMessage {
	if len(raw) == 0 {
		return json.RawMessage("null")
	}
	return raw
}
