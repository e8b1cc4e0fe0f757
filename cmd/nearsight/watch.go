package main

import (
	"encoding/json"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"nearsight/registry"
	"nearsight/registry/client"
)

// A watch shows how far something at the server is: in bytes if it tells, in words
// if it does not.
type watch struct {
	what  string
	bar   *bar
	line  *statusLine
	began time.Time
}

func newWatch(cmd *cobra.Command, what string) *watch {
	return &watch{what, newBar(cmd, what), newStatusLine(cmd), time.Now()}
}

func (w *watch) show(done, total int64, words ...string) {
	if done > 0 {
		w.line.clear()
		if total <= 0 {
			total = -1
		}
		w.bar.set(done, total)
		return
	}
	words = append(words, time.Since(w.began).Round(time.Second).String()+" so far")
	w.line.set("%s: %s", w.what, strings.Join(words, ", "))
}

func (w *watch) end() {
	w.line.clear()
	w.bar.end()
}

// awaitImported waits until what was ordered for an image has ended, and returns
// the record. What failed is an error.
func (f *waitFlags) awaitImported(cmd *cobra.Command, c *client.Client, id, what string) (*registry.Image, error) {
	ctx, cancel := f.bound(cmd)
	defer cancel()
	w := newWatch(cmd, what)
	img, err := c.WaitImported(ctx, id, func(p client.Progress) {
		words := []string{string(p.Status)}
		if len(p.Pending) > 0 {
			words = append(words, "still to stores "+strings.Join(p.Pending, " "))
		}
		if p.Message != "" {
			words = append(words, p.Message)
		}
		w.show(p.Done, p.Total, words...)
	})
	w.end()
	if err != nil {
		return nil, goesOn(ctx, what, "image tasks "+id, err)
	}
	return img, nil
}

// awaitTask waits until a task has ended, and returns it. One that failed is an
// error.
func (f *waitFlags) awaitTask(cmd *cobra.Command, c *client.Client, id string) (*registry.Task, error) {
	ctx, cancel := f.bound(cmd)
	defer cancel()
	what := "task " + id
	w := newWatch(cmd, what)
	task, err := c.WaitTask(ctx, id, func(t *registry.Task) {
		words := []string{string(t.Status)}
		if t.Message != "" {
			words = append(words, t.Message)
		}
		done, total := taskBytes(t)
		w.show(done, total, words...)
	})
	w.end()
	if err != nil {
		return nil, goesOn(ctx, what, "task show "+id, err)
	}
	return task, nil
}

// taskBytes returns how many bytes a task has done of how many, 0 if it does not
// tell.
func taskBytes(t *registry.Task) (done, total int64) {
	var far struct{ Bytes, Size int64 }
	if json.Unmarshal(t.Result, &far) != nil {
		return 0, 0
	}
	return max(0, far.Bytes), max(0, far.Size)
}
