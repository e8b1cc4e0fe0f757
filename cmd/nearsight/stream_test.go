package main

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/google/uuid"

	"nearsight/registry/bus"
	"nearsight/registry/db"
	"nearsight/registry/remote"
)

// Registries that share a Redis are kept apart by the names of their streams: an edge
// hears a central of the same name, and no other.
func TestCentralsAndEdgesMeetInTheStreamThatIsNamed(t *testing.T) {
	redis := os.Getenv("REDIS_URL")
	if redis == "" {
		t.Fatal("REDIS_URL is not set; deploy/lab/redis.sh start prints it")
	}
	c := defaultConfig()
	c.Events.Redis, c.Events.Stream = redis, "test:"+uuid.NewString()
	n := &node{log: slog.New(slog.DiscardHandler)}
	records, err := db.Open(t.Context(), db.Options{Path: filepath.Join(t.TempDir(), "registry.db"), Log: n.log})
	if err != nil {
		t.Fatal(err)
	}
	defer records.Close()
	if err := n.publish(c, bus.New(records)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	running.Go(func() { n.parts[0](ctx) })

	heard := func(stream string) bool {
		c.Events.Stream = stream
		central, err := remote.New(remote.Options{URL: "http://127.0.0.1:1"}) // of which nothing is heard
		if err != nil {
			t.Fatal(err)
		}
		events, err := c.edgeEvents(central, n)
		if err != nil {
			t.Fatal(err)
		}
		for _, err := range events.Watch(ctx, 0) {
			return err == nil
		}
		return false
	}
	if !heard(c.Events.Stream) {
		t.Error("the central is not heard")
	}
	if heard("test:" + uuid.NewString()) {
		t.Error("a central is heard in another stream")
	}
}
