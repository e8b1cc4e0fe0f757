package client

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"nearsight/registry"
)

// wireTask is the JSON form of a task, in lists without some of its members.
type wireTask struct {
	ID        string              `json:"id"`
	Type      string              `json:"type"`
	Status    registry.TaskStatus `json:"status"`
	Owner     string              `json:"owner"`
	User      string              `json:"user_id"`
	ImageID   string              `json:"image_id"`
	RequestID string              `json:"request_id"`
	Input     json.RawMessage     `json:"input"`
	Result    json.RawMessage     `json:"result"`
	Message   string              `json:"message"`
	CreatedAt taskTime            `json:"created_at"`
	UpdatedAt taskTime            `json:"updated_at"`
	ExpiresAt taskTime            `json:"expires_at"`
}

func (w *wireTask) task() *registry.Task {
	t := &registry.Task{
		ID: w.ID, Type: w.Type, Status: w.Status, Owner: w.Owner, User: w.User,
		ImageID: w.ImageID, RequestID: w.RequestID, Message: w.Message,
		CreatedAt: time.Time(w.CreatedAt), UpdatedAt: time.Time(w.UpdatedAt), ExpiresAt: time.Time(w.ExpiresAt),
	}
	if string(w.Input) != "null" {
		t.Input = w.Input
	}
	if string(w.Result) != "null" {
		t.Result = w.Result
	}
	return t
}

// A taskTime is in one of two forms: the tasks of an image have microseconds, and
// no zone where UTC is meant (Images API v2, "tasks").
type taskTime time.Time

// UnmarshalJSON implements json.Unmarshaler; null is the zero time.
func (t *taskTime) UnmarshalJSON(b []byte) error {
	var s *string
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	if s == nil {
		*t = taskTime{}
		return nil
	}
	at, err := parseTime(*s)
	*t = taskTime(at)
	return err
}

// parseTime reads a time of RFC 3339, or one without a zone, which is UTC.
func parseTime(s string) (time.Time, error) {
	at, err := time.Parse(time.RFC3339, s)
	if err == nil {
		return at.UTC(), nil
	}
	return time.Parse("2006-01-02T15:04:05", strings.Replace(s, " ", "T", 1)) // takes fractions too
}

// Tasks returns the tasks of the image id that the caller may see, in no order:
// those under way, and those that ended in the last two days.
func (c *Client) Tasks(ctx context.Context, id string) ([]*registry.Task, error) {
	if err := checkID(id); err != nil {
		return nil, err
	}
	var list struct {
		Tasks []*wireTask `json:"tasks"`
	}
	if err := c.getJSON(ctx, imagePath(id)+"/tasks", &list); err != nil {
		return nil, err
	}
	return checkTasks(list.Tasks)
}

// Task returns a task by its id. ErrNotFound if there is none such, or it expired;
// ErrForbidden for anybody but admins.
func (c *Client) Task(ctx context.Context, id string) (*registry.Task, error) {
	if err := checkTaskID(id); err != nil {
		return nil, err
	}
	return readTask(c.call(ctx, http.MethodGet, "/v2/tasks/"+id, "", nil))
}

// CreateTask adds a task, for admins; input must become a JSON object. The one type
// there is to add is registry.TaskImport: its input has import_from (a URL),
// import_from_format and image_properties.
func (c *Client) CreateTask(ctx context.Context, kind string, input any) (*registry.Task, error) {
	doc, err := json.Marshal(map[string]any{"type": kind, "input": input})
	if err != nil {
		return nil, fmt.Errorf("task: %w", err)
	}
	return readTask(c.call(ctx, http.MethodPost, "/v2/tasks", "application/json", doc))
}

// ListTasks yields the tasks of all images that match q, for admins, page by page
// as List does, without Input, Result and Message. The API cannot ask for those of
// one image (see Tasks) or owner.
func (c *Client) ListTasks(ctx context.Context, q registry.TaskQuery) iter.Seq2[*registry.Task, error] {
	return func(yield func(*registry.Task, error) bool) {
		values, err := taskValues(q)
		if err != nil {
			yield(nil, err)
			return
		}
		pages(values, yield, func(query string) (tasks []*registry.Task, next string, err error) {
			var list struct {
				Tasks []*wireTask `json:"tasks"`
				Next  string      `json:"next"`
			}
			if err := c.getJSON(ctx, withQuery("/v2/tasks", query), &list); err != nil {
				return nil, "", err
			}
			tasks, err = checkTasks(list.Tasks)
			return tasks, list.Next, err
		})
	}
}

// taskValues writes q as the query string of a list.
func taskValues(q registry.TaskQuery) (url.Values, error) {
	if q.ImageID != "" || q.Owner != "" {
		return nil, fmt.Errorf("list: %w: the API has no filter of tasks by image or owner", registry.ErrInvalid)
	}
	v := url.Values{}
	set := func(name, value string) {
		if value != "" {
			v.Set(name, value)
		}
	}
	set("type", q.Type)
	set("status", string(q.Status))
	set("marker", q.Marker)
	if q.Limit > 0 {
		v.Set("limit", strconv.Itoa(q.Limit))
	}
	for _, o := range q.Sort {
		v.Add("sort_key", o.Key)
		v.Add("sort_dir", direction(o))
	}
	return v, nil
}

func checkTaskID(id string) error {
	if !IsID(id) {
		return fmt.Errorf("%q is no task id: %w", id, registry.ErrNotFound)
	}
	return nil
}

func checkTasks(list []*wireTask) ([]*registry.Task, error) {
	tasks := make([]*registry.Task, 0, len(list))
	for _, w := range list {
		if w == nil || w.ID == "" {
			return nil, fmt.Errorf("%w: a task without an id", errAnswer)
		}
		tasks = append(tasks, w.task())
	}
	return tasks, nil
}

func readTask(body []byte, err error) (*registry.Task, error) {
	if err != nil {
		return nil, err
	}
	var w *wireTask
	if err := json.Unmarshal(body, &w); err != nil {
		return nil, fmt.Errorf("%w: task: %w", errAnswer, err)
	}
	tasks, err := checkTasks([]*wireTask{w})
	if err != nil {
		return nil, err
	}
	return tasks[0], nil
}
