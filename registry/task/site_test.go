package task

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"testing"
	"time"

	"nearsight/origin"
	"nearsight/origin/origintest"
	"nearsight/registry"
)

// A site is a registry over three stores, a read-only one, and one that reads URLs.
// Bodies of a, which is the default and read first, and of web can be cut.
type site struct {
	*books
	a      *flaky
	b, c   *origintest.Fake
	web    *urls
	stores *origin.Set
	log    *logged
	reaper *Reaper
	im     *Importer
	runner *Runner
}

// Urls are objects at the URLs of strangers.
type urls struct {
	*flaky
	at map[string]origin.Location
}

func (u *urls) publish(url string, data []byte) { u.at[url] = u.Fake.Add(url, data) }

func (u *urls) Stat(ctx context.Context, loc origin.Location) (origin.Info, error) {
	return u.flaky.Stat(ctx, origin.Location{URL: u.at[loc.URL].URL, Validator: loc.Validator})
}

func (u *urls) Open(ctx context.Context, loc origin.Location, off, n int64) (*origin.Object, error) {
	return u.flaky.Open(ctx, origin.Location{URL: u.at[loc.URL].URL, Validator: loc.Validator}, off, n)
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{
		books: newBooks(t), log: &logged{}, a: &flaky{Fake: &origintest.Fake{Name: "a"}},
		b: &origintest.Fake{Name: "b"}, c: &origintest.Fake{Name: "c"},
		web: &urls{&flaky{Fake: &origintest.Fake{Name: "web"}}, map[string]origin.Location{}},
	}
	var err error
	s.stores, err = origin.NewSet("a",
		origin.Member{Name: "a", Kind: "fake", Store: s.a, Weight: 3},
		origin.Member{Name: "b", Kind: "fake", Store: s.b, Weight: 2},
		origin.Member{Name: "c", Kind: "fake", Store: s.c, Weight: 1},
		origin.Member{Name: "frozen", Kind: "fake", Store: struct{ origin.Store }{&origintest.Fake{Name: "frozen"}}},
		origin.Member{Name: "web", Kind: "http", Store: struct{ origin.Store }{s.web}},
	)
	if err != nil {
		t.Fatal(err)
	}
	s.reaper = &Reaper{Uploads: s.books, Store: s.stores, Log: s.log.logger()}
	s.im = &Importer{
		Images: s.books, Uploads: s.books, Locations: s.books, Stages: s.books, Stores: s.stores,
		Abort: s.reaper.Abort, Wake: s.reaper.Wake, Log: s.log.logger(),
	}
	s.runner = s.newRunner()
	return s
}

// newRunner returns what another process would run.
func (s *site) newRunner() *Runner {
	return &Runner{Tasks: s.books, Handlers: s.im.Handlers(), Log: s.log.logger()}
}

// run runs reaper and runner.
func (s *site) run(t *testing.T) (stop func()) {
	stopReaper, stopRunner := runTask(t, s.reaper.Run), runTask(t, s.runner.Run)
	return func() {
		stopRunner()
		stopReaper()
	}
}

// queue makes an image that has no data.
func (s *site) queue(t *testing.T) string {
	t.Helper()
	owner := "p"
	img, err := s.Create(t.Context(), &registry.Image{DiskFormat: "raw", ContainerFormat: "bare", Owner: &owner})
	if err != nil {
		t.Fatal(err)
	}
	return img.ID
}

// stage stages data in a store.
func (s *site) stage(t *testing.T, id string, store origin.WriteStore, data []byte) {
	t.Helper()
	ctx := t.Context()
	loc := store.Locate(id)
	if _, err := s.BeginStage(ctx, id, loc); err != nil {
		t.Fatal(err)
	}
	loc, sum, err := origin.Ingest(ctx, store, loc, int64(len(data)), bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.FinishStage(ctx, id, loc, sum); err != nil {
		t.Fatal(err)
	}
}

// order adds the task of an import, whose request is JSON.
func (s *site) order(t *testing.T, id, request string, stores ...string) *registry.Task {
	t.Helper()
	task := New(registry.TaskImageImport, id, Order{ImageID: id, Request: json.RawMessage(request), Backend: stores})
	task.Owner, task.Secret = "p", "the token"
	return s.add(t, task, Announce(task, stores))
}

func (s *site) add(t *testing.T, task *registry.Task, begin func(*registry.Image) error) *registry.Task {
	t.Helper()
	task, err := s.AddTask(t.Context(), task, begin)
	if err != nil {
		t.Fatal(err)
	}
	s.runner.Wake()
	return task
}

// copy has an image copied.
func (s *site) copy(t *testing.T, id string, stores ...string) *registry.Task {
	t.Helper()
	return s.order(t, id, `{"method":{"name":"copy-image"}}`, stores...)
}

// task returns a task as it is now.
func (s *site) task(t *testing.T, id string) *registry.Task {
	t.Helper()
	task, err := s.GetTask(context.Background(), id)
	if err != nil {
		t.Fatal(err)
	}
	return task
}

// wantEnd checks how a task ended, and that it says nothing that others may not know.
func (s *site) wantEnd(t *testing.T, id string, status registry.TaskStatus) *registry.Task {
	t.Helper()
	task := s.task(t, id)
	if task.Status != status || (task.Message == "") != (status == registry.TaskSuccess) {
		t.Errorf("task is %s: %q; log:\n%s", task.Status, task.Message, s.log.all())
	}
	if bytes.Contains([]byte(task.Message), []byte("fake://")) {
		t.Errorf("the message tells of stores: %q", task.Message)
	}
	return task
}

// wantData checks that the image is active with this data in these stores, in this
// order, and that they hold nothing else.
func (s *site) wantData(t *testing.T, id string, data []byte, stores ...string) {
	t.Helper()
	img := s.get(t, id)
	var have []string
	for _, loc := range img.Locations {
		name, _ := s.stores.NameOf(loc)
		have = append(have, name)
		o, err := s.stores.Open(context.Background(), loc, 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(o.Body); err != nil || !slices.Equal(got, data) || loc.Validator == "" {
			t.Errorf("%d bytes at %v, %v", len(got), loc, err)
		}
	}
	if img.Status != registry.Active || img.Digest != digestOf(t, data) || !slices.Equal(have, stores) {
		t.Errorf("image is %s, in %q; want %q; log:\n%s", img.Status, have, stores, s.log.all())
	}
	s.wantProperties(t, id, "")
	s.wantHeld(t, len(img.Locations))
}

// wantProperties checks what the properties say of an import that ended.
func (s *site) wantProperties(t *testing.T, id, failed string) {
	t.Helper()
	p := s.get(t, id).Properties
	importing, told := p[ImportingProperty]
	if _, held := p[TaskProperty]; held || !told || importing != "" || p[FailedProperty] != failed {
		t.Errorf("properties %v; want %q failed", p, failed)
	}
}

// wantQueued checks that the image has no data, and that nothing is left of any.
func (s *site) wantQueued(t *testing.T, id, failed string) {
	t.Helper()
	if img := s.get(t, id); img.Status != registry.Queued || img.Size != nil || len(img.Locations) > 0 {
		t.Errorf("image is %s with %v; log:\n%s", img.Status, img.Locations, s.log.all())
	}
	s.wantProperties(t, id, failed)
	s.wantHeld(t, 0)
}

// wantHeld checks how many objects the stores have, and that the books are clean.
func (s *site) wantHeld(t *testing.T, n int) {
	t.Helper()
	if held := s.a.Len() + s.b.Len() + s.c.Len(); held != n {
		t.Errorf("%d objects, want %d; log:\n%s", held, n, s.log.all())
	}
	s.wantClean(t)
}

// wantClean checks that nothing is under way, and no orphan is left.
func (s *site) wantClean(t *testing.T) {
	t.Helper()
	uploads, err := s.Unfinished(context.Background())
	if err != nil || len(uploads) != 0 {
		t.Errorf("unfinished %v, %v", uploads, err)
	}
	if orphans, err := s.Orphans(context.Background(), "", 9); err != nil || len(orphans) != 0 {
		t.Errorf("orphans %v, %v", orphans, err)
	}
}

// settle waits until everything that was ordered is done and cleared away.
func settle() { time.Sleep(4 * time.Minute) }

var errDown = fmt.Errorf("down: %w", origin.ErrUnavailable)
var errFull = fmt.Errorf("full: %w", origin.ErrFull)

// readerOf returns a reader of nothing but Read.
func readerOf(data []byte) io.Reader { return struct{ io.Reader }{bytes.NewReader(data)} }

// noiseReader returns some bytes that are no image's.
func noiseReader() io.Reader { return readerOf(noise(9, 1000)) }
