package main

import (
	"flag"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"
)

var (
	partitions    = flag.Int("partitions", 20, "how many random schedules TestPartitions runs")
	partitionSeed = flag.Uint64("partition-seed", 1, "the seed of the first of them")
)

// promises are the settings that schedules are run with: what an edge may do that cannot
// ask the registry.
var promises = []promise{
	{max: 3 * time.Second},
	{max: 3 * time.Second, unproved: 4 * time.Second, unprovedPublic: 6 * time.Second},
	{max: 3 * time.Second, unproved: 5 * time.Minute, unprovedPublic: 24 * time.Hour},
}

// Whatever breaks between two centrals, three edges, PostgreSQL, Redis and the store,
// and whoever dies: no answer is older than promised, no client sees an image go back,
// no acknowledged change is lost, and when all is whole again everything can be read.
func TestPartitions(t *testing.T) {
	lanes := startPostgres(t, 2)
	for i := range *partitions {
		seed := *partitionSeed + uint64(i)
		t.Run(fmt.Sprintf("schedule %d", seed), func(t *testing.T) {
			t.Parallel()
			postgres := <-lanes
			defer func() { lanes <- postgres }()
			runSchedule(t, postgres, seed)
		})
	}
}

// runSchedule runs the schedule of a seed against a site of its own.
func runSchedule(t *testing.T, postgres *postgresServer, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 0))
	s := newPartitionSite(t, postgres, fmt.Sprintf("schedule%d", seed), promises[r.IntN(len(promises))])
	faults := draw(s, r)
	l := &load{site: s, seed: seed, done: make(chan struct{})}
	l.start()
	l.warm(t)
	if err := faults.run(); err != nil {
		t.Error(err)
	}
	l.rest(time.Second) // so that changes come in a whole site
	l.stop()
	l.settles()
	for _, n := range s.nodes {
		if err := n.stop(); err != nil {
			t.Error(err)
		}
	}
	t.Logf("seed %d, %+v: %d images, %d changes, %d answers, %d of them unproved", seed, s.promise, len(l.images), l.changes, l.answers, l.unproved)
	for _, wrong := range l.wrong {
		t.Error(wrong)
	}
	if t.Failed() {
		t.Logf("go test -run TestPartitions -partitions 1 -partition-seed %d\n%v", seed, faults)
		keepLogs(t, s.dir)
	}
}

// startPostgres starts PostgreSQLs, of which each test takes one and puts it back.
func startPostgres(t *testing.T, n int) chan *postgresServer {
	lanes := make(chan *postgresServer, n)
	for range n {
		dir, err := os.MkdirTemp("", "postgres")
		if err == nil {
			err = os.Chmod(dir, 0o755) // it runs as a user of its own
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(dir) })
		p, err := newPostgres(filepath.Join(dir, "state"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := p.purge(); err != nil {
				t.Error(err)
			}
		})
		lanes <- p
	}
	return lanes
}

// keepLogs keeps what the nodes logged, with the flag -artifacts of go test.
func keepLogs(t *testing.T, dir string) {
	logs, err := fs.Glob(os.DirFS(dir), "*.log")
	if err != nil {
		t.Error(err)
	}
	for _, name := range logs {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err == nil {
			err = os.WriteFile(filepath.Join(t.ArtifactDir(), name), text, 0o600)
		}
		if err != nil {
			t.Error(err)
		}
	}
}
