package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"nearsight/registry"
)

// A moment is what a server shows of an image and its tasks, as JSON.
type moment struct {
	tasks string // "" means that the server does not show tasks
	image string // "" means that it is not there
}

func taskAt(id int, status, more string) string {
	return fmt.Sprintf(`{"id":"t%d","status":"%s","created_at":"2026-01-02T03:04:0%d.000000"%s}`, id, status, id, more)
}

func shownAs(status, more string) string {
	return `{"id":"` + testID + `","status":"` + status + `"` + more + `}`
}

// follow has a client wait while a server shows these moments, the last of them for
// ever.
func follow(t *testing.T, moments []moment) (*registry.Image, []string, error) {
	t.Helper()
	n := -1
	c := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		tasks := strings.HasSuffix(r.URL.Path, "/tasks")
		if tasks && n < len(moments)-1 {
			n++
		}
		body := moments[n].image
		if tasks {
			body = moments[n].tasks
		}
		switch body {
		case "":
			w.WriteHeader(http.StatusNotFound)
		case "down":
			w.WriteHeader(http.StatusServiceUnavailable)
		default:
			io.WriteString(w, body)
		}
	}))
	c.poll = time.Microsecond
	var seen []string
	img, err := c.WaitImported(t.Context(), testID, func(p Progress) {
		seen = append(seen, fmt.Sprintf("%s %d/%d %v %v %s", p.Status, p.Done, p.Total, p.Pending, p.Failed, p.Message))
	})
	return img, seen, err
}

func TestWaitImported(t *testing.T) {
	list := func(tasks ...string) string { return `{"tasks":[` + strings.Join(tasks, ",") + `]}` }
	working := moment{list(taskAt(1, "processing", `,"result":{"bytes":5,"size":10},"message":"copying"`)),
		shownAs("importing", `,"os_glance_importing_to_stores":"a,b"`)}
	for _, tt := range []struct {
		name    string
		moments []moment
		seen    []string
		err     string
	}{
		{"follows a task to its end", []moment{
			{list(taskAt(1, "pending", "")), shownAs("importing", "")}, working, working,
			{list(taskAt(1, "success", "")), shownAs("active", `,"size":10,"os_glance_failed_import":"b"`)},
		}, []string{"importing 0/0 [] [] ", "importing 5/10 [a b] [] copying", "active 0/10 [] [b] "}, ""},
		{"tells why a task failed", []moment{working,
			{list(taskAt(1, "failure", `,"message":"no\nroom"`)), shownAs("queued", "")},
		}, []string{"importing 5/10 [a b] [] copying", "queued 0/0 [] [] no\nroom"}, "task t1 failed: no\nroom"},
		{"waits for a copy while the image is active", []moment{
			{list(taskAt(1, "processing", "")), shownAs("active", "")}, {list(taskAt(1, "success", "")), shownAs("active", "")},
		}, []string{"active 0/0 [] [] "}, ""},
		{"looks at the newest task", []moment{{list(taskAt(1, "failure", ""), taskAt(3, "success", ""), taskAt(2, "failure", "")), shownAs("active", "")}},
			[]string{"active 0/0 [] [] "}, ""},
		{"looks at the task that is under way", []moment{
			{list(taskAt(3, "failure", ""), taskAt(1, "processing", "")), shownAs("importing", "")}, {list(taskAt(1, "success", "")), shownAs("active", "")},
		}, []string{"importing 0/0 [] [] ", "active 0/0 [] [] "}, ""},
		{"does without tasks", []moment{
			{"", shownAs("queued", `,"os_glance_import_task":"x"`)}, {"", shownAs("importing", "")}, {list(), shownAs("active", `,"os_glance_importing_to_stores":"a"`)}, {"", shownAs("active", "")},
		}, []string{"queued 0/0 [] [] ", "importing 0/0 [] [] ", "active 0/0 [a] [] ", "active 0/0 [] [] "}, ""},
		{"finds a failure without tasks", []moment{{"", shownAs("importing", "")}, {"", shownAs("queued", `,"os_glance_failed_import":"a,b"`)}},
			[]string{"importing 0/0 [] [] ", "queued 0/0 [] [a b] "}, "task of an import failed: the image is queued again, and failed are a,b"},
		{"ends when the image does", []moment{working, {"", ""}}, []string{"importing 5/10 [a b] [] copying"}, "404"},
		{"survives a server that is away", []moment{working, {"down", ""}, {"down", ""}, {list(taskAt(1, "success", "")), shownAs("active", "")}},
			[]string{"importing 5/10 [a b] [] copying", "active 0/0 [] [] "}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			img, seen, err := follow(t, tt.moments)
			if !slices.Equal(seen, tt.seen) {
				t.Errorf("progress %q, want %q", seen, tt.seen)
			}
			if tt.err == "" && (err != nil || img == nil || img.Status != registry.Active) || tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)) {
				t.Errorf("image %+v, error %v; want %q", img, err, tt.err)
			}
			var failed *TaskError
			if strings.HasPrefix(tt.err, "task") && !errors.As(err, &failed) {
				t.Errorf("error %#v", err)
			}
		})
	}
}

func TestWaitImportedEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	c := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/tasks") {
			io.WriteString(w, `{"tasks":[`+taskAt(1, "processing", "")+`]}`)
			return
		}
		io.WriteString(w, shownAs("importing", ""))
	}))
	c.poll = time.Hour
	if _, err := c.WaitImported(ctx, testID, func(Progress) { cancel() }); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

func TestWaitTask(t *testing.T) {
	for _, tt := range []struct{ name, last, err string }{
		{"to success", "success", ""},
		{"to failure", "failure", "task " + testID + " failed: the server does not say why"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			answers := []string{"pending", "processing", "processing", tt.last}
			c := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				fmt.Fprintf(w, `{"id":"%s","status":"%s"}`, testID, answers[0])
				answers = answers[1:]
			}))
			c.poll = time.Microsecond
			var seen []string
			task, err := c.WaitTask(t.Context(), testID, func(t *registry.Task) { seen = append(seen, string(t.Status)) })
			if want := []string{"pending", "processing", tt.last}; !slices.Equal(seen, want) {
				t.Errorf("progress %q, want %q", seen, want)
			}
			if tt.err == "" && (err != nil || task.Status != registry.TaskSuccess) || tt.err != "" && (err == nil || err.Error() != tt.err) {
				t.Errorf("%+v, %v", task, err)
			}
		})
	}
}
