package db_test

import (
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"nearsight/registry/bus"
	"nearsight/registry/db"
	"nearsight/registry/registrytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A clock goes as time does, and may be put on.
type clock struct{ ahead atomic.Int64 }

func (c *clock) now() time.Time { return time.Now().Add(time.Duration(c.ahead.Load())) }

func (c *clock) pass(d time.Duration) { c.ahead.Add(int64(d)) }

// open opens the database at path, which tells notify of its commits and gives
// deleted data no grace.
func open(t *testing.T, path string, notify func(int64)) *db.DB {
	t.Helper()
	d, err := db.Open(t.Context(), db.Options{Path: path, Grace: -1, Notify: notify})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func closeDB(t *testing.T, d *db.DB) {
	t.Helper()
	if err := d.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
}

func TestConformance(t *testing.T) {
	registrytest.TestImages(t, func(t *testing.T) registrytest.Stack {
		return stack(t, db.Options{Path: filepath.Join(t.TempDir(), "registry.db")})
	})
}

func TestConformanceOnPostgreSQL(t *testing.T) {
	server := db.PostgresDatabase(t, db.PostgresServer(t))
	registrytest.TestImages(t, func(t *testing.T) registrytest.Stack {
		return stack(t, db.Options{URL: db.PostgresURL(t, server)})
	})
}

// stack opens a database in which time goes as the test wants it.
func stack(t *testing.T, o db.Options) registrytest.Stack {
	t.Helper()
	// The bus is made after the database that it reads and that wakes it.
	var events *bus.Local
	var c clock
	o.Grace, o.Now, o.Notify = -1, c.now, func(r int64) { events.Notify(r) }
	d, err := db.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	events = bus.New(d)
	t.Cleanup(func() { closeDB(t, d) })
	return registrytest.Stack{
		Images: d, Uploads: d, Locations: d, Books: d, Log: d, Events: events,
		Tasks: d, Stages: d, Usages: d, Pruner: d, Edges: d, Pass: c.pass,
	}
}
