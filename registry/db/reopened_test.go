package db_test

import (
	"context"
	"path/filepath"
	"sync"
	"testing"

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
		r.d = open(t, r.path, r.events.Notify)
		t.Cleanup(func() { closeDB(t, r.d) })
		return registrytest.Stack{Images: r, Uploads: r, Locations: r, Books: r, Log: r, Events: r.events}
	})
}

// A reopened database is closed and opened again before every few changes.
type reopened struct {
	t      *testing.T
	path   string
	events *bus.Local

	mu      sync.RWMutex // read-locked while d is used
	d       *db.DB
	changes int
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
		d, err := db.Open(context.Background(), db.Options{Path: r.path, Grace: -1, Notify: r.events.Notify})
		if err != nil {
			r.t.Errorf("open again: %v", err)
		} else {
			r.d = d
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
