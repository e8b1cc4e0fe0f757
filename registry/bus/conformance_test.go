package bus_test

import (
	"context"
	"iter"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"nearsight/registry"
	"nearsight/registry/bus"
	"nearsight/registry/db"
	"nearsight/registry/registrytest"
)

// unsigned leaves out the signs of life, of which the suite knows nothing.
type unsigned struct{ registry.Events }

func (u unsigned) Watch(ctx context.Context, revision int64) iter.Seq2[registry.Event, error] {
	return func(yield func(registry.Event, error) bool) {
		for e, err := range u.Events.Watch(ctx, revision) {
			if (err != nil || e.Kind != registry.EventNone) && !yield(e, err) {
				return
			}
		}
	}
}

// A registry whose watchers hear it through Redis keeps its contracts. That of
// Local is checked with registry/db.
func TestConformanceThroughRedis(t *testing.T) {
	registrytest.TestImages(t, func(t *testing.T) registrytest.Stack {
		server, _, stream := shared(t)
		var local *bus.Local
		var ahead atomic.Int64
		d, err := db.Open(t.Context(), db.Options{
			Path: filepath.Join(t.TempDir(), "registry.db"), Grace: -1,
			Now:    func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) },
			Notify: func(revision int64) { local.Notify(revision) },
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := d.Close(); err != nil {
				t.Errorf("close: %v", err)
			}
		})
		local = bus.New(d)
		publish(t, bus.PublisherOptions{Server: server, Stream: stream, Local: local})
		return registrytest.Stack{
			Images: d, Uploads: d, Locations: d, Books: d, Log: d, Tasks: d, Stages: d, Usages: d,
			Events: unsigned{bus.NewRedis(quickly(server, stream, d, nil))},
			Pass:   func(d time.Duration) { ahead.Add(int64(d)) },
		}
	})
}
