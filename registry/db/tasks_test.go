package db

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"nearsight/registry"
)

func TestTheSecretOfATaskIsForgottenWhenItEnds(t *testing.T) {
	d := openTemp(t)
	ctx := t.Context()
	secrets := func() (all string) {
		t.Helper()
		rows, err := d.reader.QueryContext(ctx, "SELECT secret FROM tasks ORDER BY secret")
		if err != nil {
			t.Fatal(err)
		}
		defer rows.Close()
		for rows.Next() {
			var secret string
			if err := rows.Scan(&secret); err != nil {
				t.Fatal(err)
			}
			all += secret
		}
		if err := rows.Err(); err != nil {
			t.Fatal(err)
		}
		return all
	}
	id := createDraft(t, d)
	for _, task := range []*registry.Task{{Secret: "a"}, {Secret: "b", ImageID: id}} {
		if _, err := d.AddTask(ctx, task, nil); err != nil {
			t.Fatal(err)
		}
	}
	task, err := d.LeaseTask(ctx, "holder", time.Minute)
	if err != nil || task.Secret != "a" || secrets() != "ab" {
		t.Fatalf("task %+v, %v; secrets %q", task, err, secrets())
	}
	task.Status = registry.TaskSuccess
	if err := d.EndTask(ctx, task, "holder", nil); err != nil || secrets() != "b" {
		t.Errorf("%v; secrets %q", err, secrets())
	}
	if err := d.Delete(ctx, id, nil); err != nil || secrets() != "" {
		t.Errorf("%v; secrets %q", err, secrets())
	}
}

func TestLowerLimitsDoNotKeepATaskFromItsEnd(t *testing.T) {
	path := filepath.Join(t.TempDir(), "registry.db")
	d, err := Open(t.Context(), Options{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	img, err := d.Create(ctx, &registry.Image{DiskFormat: "raw", ContainerFormat: "bare", Tags: []string{"a", "b"}})
	if err != nil {
		t.Fatal(err)
	}
	task, err := d.AddTask(ctx, &registry.Task{ImageID: img.ID}, func(img *registry.Image) error { return img.Become(registry.Importing) })
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if d, err = Open(ctx, Options{Path: path, Limits: registry.Limits{Tags: 1, DiskFormats: []string{"qcow2"}}}); err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if _, err := d.LeaseTask(ctx, "holder", time.Minute); err != nil {
		t.Fatal(err)
	}
	task.Status = registry.TaskFailure
	if err := d.EndTask(ctx, task, "holder", func(img *registry.Image) error { return img.Become(registry.Queued) }); err != nil {
		t.Error(err)
	}
	if img, err := d.Get(ctx, img.ID); err != nil || img.Status != registry.Queued {
		t.Errorf("image %+v, %v", img, err)
	}
}

// TestAFullDiskLeavesATaskAsItIs: a change that failed and was not done, in the task
// and in its image; afterwards it can be.
func TestAFullDiskLeavesATaskAsItIs(t *testing.T) {
	d := openTemp(t)
	ctx := t.Context()
	id := createDraft(t, d)
	task, err := d.AddTask(ctx, &registry.Task{ImageID: id}, func(img *registry.Image) error { return img.Become(registry.Importing) })
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.LeaseTask(ctx, "holder", time.Minute); err != nil {
		t.Fatal(err)
	}
	end := func(img *registry.Image) error {
		img.Properties["k"] = strings.Repeat("v", 60_000)
		return img.Become(registry.Queued)
	}
	task.Status = registry.TaskFailure
	if _, err := d.writer.ExecContext(ctx, "PRAGMA max_page_count = 1"); err != nil { // as many as there are
		t.Fatal(err)
	}
	if err := d.EndTask(ctx, task, "holder", end); err == nil {
		t.Error("no error")
	}
	img, err := d.Get(ctx, id)
	if err != nil || img.Status != registry.Importing || img.Revision != 2 {
		t.Errorf("image %+v, %v", img, err)
	}
	if got, err := d.GetTask(ctx, task.ID); err != nil || got.Status != registry.TaskProcessing {
		t.Errorf("task %+v, %v", got, err)
	}
	if _, err := d.writer.ExecContext(ctx, "PRAGMA max_page_count = 1000000"); err != nil {
		t.Fatal(err)
	}
	if err := d.EndTask(ctx, task, "holder", end); err != nil {
		t.Error(err)
	}
	img, err = d.Get(ctx, id)
	if err != nil || img.Status != registry.Queued || img.Revision != 3 {
		t.Errorf("image %+v, %v", img, err)
	}
}
