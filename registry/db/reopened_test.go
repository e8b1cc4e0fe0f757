package db_test

import (
	"context"
	"encoding/json"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"nearsight/origin"
	"nearsight/registry"
	"nearsight/registry/bus"
	"nearsight/registry/db"
	"nearsight/registry/registrytest"
)

func TestConformanceOfADatabaseThatIsReopenedAllTheTime(t *testing.T) {
	registrytest.TestImages(t, func(t *testing.T) registrytest.Stack {
		r := &reopened{t: t, path: filepath.Join(t.TempDir(), "registry.db")}
		r.events = bus.New(r)
		if err := r.open(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { closeDB(t, r.d) })
		return registrytest.Stack{
			Images: r, Uploads: r, Locations: r, Books: r, Log: r, Events: r.events,
			Tasks: r, Stages: r, Usages: r, Pass: r.clock.pass,
		}
	})
}

// A reopened database is closed and opened again before every few changes.
type reopened struct {
	t      *testing.T
	path   string
	events *bus.Local
	clock  clock

	mu      sync.RWMutex // read-locked while d is used
	d       *db.DB
	changes int
}

func (r *reopened) open() error {
	d, err := db.Open(context.Background(), db.Options{Path: r.path, Grace: -1, Notify: r.events.Notify, Now: r.clock.now})
	if err == nil {
		r.d = d
	}
	return err
}

// use returns the database as it is, and how to give it back.
func (r *reopened) use() (*db.DB, func()) {
	r.mu.RLock()
	return r.d, r.mu.RUnlock
}

// restart returns the database for a change, every fifth time a new one.
func (r *reopened) restart() (*db.DB, func()) {
	r.mu.Lock()
	if r.changes++; r.changes%5 == 0 {
		closeDB(r.t, r.d)
		if err := r.open(); err != nil {
			r.t.Errorf("open again: %v", err)
		}
	}
	r.mu.Unlock()
	return r.use()
}

func (r *reopened) Get(ctx context.Context, id string) (*registry.Image, error) {
	d, done := r.use()
	defer done()
	return d.Get(ctx, id)
}

func (r *reopened) List(ctx context.Context, q registry.Query) ([]*registry.Image, error) {
	d, done := r.use()
	defer done()
	return d.List(ctx, q)
}

func (r *reopened) Manifest(ctx context.Context, digest origin.Digest) ([]byte, error) {
	d, done := r.use()
	defer done()
	return d.Manifest(ctx, digest)
}

func (r *reopened) Since(ctx context.Context, revision int64, limit int) ([]registry.Event, error) {
	d, done := r.use()
	defer done()
	return d.Since(ctx, revision, limit)
}

func (r *reopened) Revision(ctx context.Context) (int64, error) {
	d, done := r.use()
	defer done()
	return d.Revision(ctx)
}

func (r *reopened) Unfinished(ctx context.Context) ([]registry.Upload, error) {
	d, done := r.use()
	defer done()
	return d.Unfinished(ctx)
}

func (r *reopened) Orphans(ctx context.Context, after string, limit int) ([]origin.Location, error) {
	d, done := r.use()
	defer done()
	return d.Orphans(ctx, after, limit)
}

func (r *reopened) Unhashed(ctx context.Context, after string, limit int) ([]*registry.Image, error) {
	d, done := r.use()
	defer done()
	return d.Unhashed(ctx, after, limit)
}

func (r *reopened) Placed(ctx context.Context, after string, limit int) ([]*registry.Image, error) {
	d, done := r.use()
	defer done()
	return d.Placed(ctx, after, limit)
}

func (r *reopened) Knows(ctx context.Context, url string) (bool, error) {
	d, done := r.use()
	defer done()
	return d.Knows(ctx, url)
}

func (r *reopened) Create(ctx context.Context, img *registry.Image) (*registry.Image, error) {
	d, done := r.restart()
	defer done()
	return d.Create(ctx, img)
}

func (r *reopened) Update(ctx context.Context, id string, change func(*registry.Image) error) (*registry.Image, error) {
	d, done := r.restart()
	defer done()
	return d.Update(ctx, id, change)
}

func (r *reopened) Delete(ctx context.Context, id string, check func(*registry.Image) error) error {
	d, done := r.restart()
	defer done()
	return d.Delete(ctx, id, check)
}

func (r *reopened) Begin(ctx context.Context, id string, loc origin.Location) (*registry.Image, error) {
	d, done := r.restart()
	defer done()
	return d.Begin(ctx, id, loc)
}

func (r *reopened) Finish(ctx context.Context, id string, loc origin.Location, sum origin.Summary) (*registry.Image, error) {
	d, done := r.restart()
	defer done()
	return d.Finish(ctx, id, loc, sum)
}

func (r *reopened) Abort(ctx context.Context, id string, loc origin.Location) error {
	d, done := r.restart()
	defer done()
	return d.Abort(ctx, id, loc)
}

func (r *reopened) Forget(ctx context.Context, loc origin.Location) error {
	d, done := r.restart()
	defer done()
	return d.Forget(ctx, loc)
}

func (r *reopened) AddLocation(ctx context.Context, id string, loc origin.Location, size int64, metadata map[string]string) (*registry.Image, error) {
	d, done := r.restart()
	defer done()
	return d.AddLocation(ctx, id, loc, size, metadata)
}

func (r *reopened) RemoveLocation(ctx context.Context, id, url string) (*registry.Image, error) {
	d, done := r.restart()
	defer done()
	return d.RemoveLocation(ctx, id, url)
}

func (r *reopened) BeginCopy(ctx context.Context, id string, loc origin.Location) error {
	d, done := r.restart()
	defer done()
	return d.BeginCopy(ctx, id, loc)
}

func (r *reopened) Hashed(ctx context.Context, id string, loc origin.Location, sum origin.Summary) (*registry.Image, error) {
	d, done := r.restart()
	defer done()
	return d.Hashed(ctx, id, loc, sum)
}

func (r *reopened) Staged(ctx context.Context, id string) (origin.Location, origin.Summary, error) {
	d, done := r.use()
	defer done()
	return d.Staged(ctx, id)
}

func (r *reopened) GetTask(ctx context.Context, id string) (*registry.Task, error) {
	d, done := r.use()
	defer done()
	return d.GetTask(ctx, id)
}

func (r *reopened) ListTasks(ctx context.Context, q registry.TaskQuery) ([]*registry.Task, error) {
	d, done := r.use()
	defer done()
	return d.ListTasks(ctx, q)
}

func (r *reopened) Usage(ctx context.Context, owner string) (registry.Usage, error) {
	d, done := r.use()
	defer done()
	return d.Usage(ctx, owner)
}

func (r *reopened) BeginStage(ctx context.Context, id string, loc origin.Location) (*registry.Image, error) {
	d, done := r.restart()
	defer done()
	return d.BeginStage(ctx, id, loc)
}

func (r *reopened) FinishStage(ctx context.Context, id string, loc origin.Location, sum origin.Summary) (*registry.Image, error) {
	d, done := r.restart()
	defer done()
	return d.FinishStage(ctx, id, loc, sum)
}

func (r *reopened) Adopt(ctx context.Context, id string) (*registry.Image, error) {
	d, done := r.restart()
	defer done()
	return d.Adopt(ctx, id)
}

func (r *reopened) AddTask(ctx context.Context, t *registry.Task, begin func(*registry.Image) error) (*registry.Task, error) {
	d, done := r.restart()
	defer done()
	return d.AddTask(ctx, t, begin)
}

func (r *reopened) LeaseTask(ctx context.Context, holder string, lease time.Duration) (*registry.Task, error) {
	d, done := r.restart()
	defer done()
	return d.LeaseTask(ctx, holder, lease)
}

func (r *reopened) RenewTask(ctx context.Context, id, holder string, lease time.Duration, message string, result json.RawMessage) error {
	d, done := r.restart()
	defer done()
	return d.RenewTask(ctx, id, holder, lease, message, result)
}

func (r *reopened) ReleaseTask(ctx context.Context, id, holder string) error {
	d, done := r.restart()
	defer done()
	return d.ReleaseTask(ctx, id, holder)
}

func (r *reopened) EndTask(ctx context.Context, t *registry.Task, holder string, end func(*registry.Image) error) error {
	d, done := r.restart()
	defer done()
	return d.EndTask(ctx, t, holder, end)
}
