package db_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"nearsight/registry"
	"nearsight/registry/db"
)

// A labServer is a PostgreSQL of one test's own, which may be killed.
type labServer struct {
	t   *testing.T
	env []string
	url string
}

func startServer(t *testing.T) *labServer {
	t.Helper()
	dir, err := os.MkdirTemp("", "nearsight-postgres-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil { // the server has a user of its own
		t.Fatal(err)
	}
	s := &labServer{t: t, env: append(os.Environ(), "SVC_BASE="+dir, "PG_STATE=", "PG_PORT=")}
	t.Cleanup(func() {
		s.lab("purge")
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	s.start()
	return s
}

// lab runs deploy/lab/postgres.sh and returns the lines that it prints.
func (s *labServer) lab(verb string) []string {
	s.t.Helper()
	cmd := exec.Command("../../deploy/lab/postgres.sh", verb)
	cmd.Env = s.env
	var out, trouble bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &trouble
	if err := cmd.Run(); err != nil {
		s.t.Fatalf("deploy/lab/postgres.sh %s: %v\n%s", verb, err, trouble.String())
	}
	var lines []string
	for sc := bufio.NewScanner(&out); sc.Scan(); {
		lines = append(lines, sc.Text())
	}
	return lines
}

func (s *labServer) start() {
	s.t.Helper()
	for _, line := range s.lab("start") {
		if at, ok := strings.CutPrefix(line, "POSTGRES_DSN="); ok {
			s.url = at
		}
	}
}

// TestAServerThatIsKilledLosesNothingThatWasAcknowledged: whatever it was doing for two
// processes, which go on by themselves when it is back.
func TestAServerThatIsKilledLosesNothingThatWasAcknowledged(t *testing.T) {
	server := startServer(t)
	const rounds, writers = 4, 3
	var centrals []*central
	for range 2 {
		c := openCentral(t, server.url)
		run(t, c.DB)
		centrals = append(centrals, c)
	}
	ctx := t.Context()
	common, err := centrals[0].Create(ctx, &registry.Image{})
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	acknowledged := map[int64]string{1: common.ID} // image ids by revision
	added, unsure := 0, 0                          // updates of the common image
	note := func(img *registry.Image) {
		mu.Lock()
		defer mu.Unlock()
		if id, twice := acknowledged[img.Revision]; twice {
			t.Errorf("revision %d of %s and %s", img.Revision, id, img.ID)
		}
		acknowledged[img.Revision] = img.ID
	}
	for range rounds {
		var stop atomic.Bool
		var work sync.WaitGroup
		busy := make(chan struct{}, 1000)
		for _, c := range centrals {
			for range writers {
				work.Go(func() {
					for !stop.Load() {
						img, err := c.Create(ctx, &registry.Image{})
						if err == nil {
							note(img)
						} else if !errors.Is(err, registry.ErrUnavailable) {
							t.Errorf("create: %v", err)
						}
						img, err = c.Update(ctx, common.ID, func(img *registry.Image) error { img.MinRAM++; return nil })
						mu.Lock()
						if err == nil {
							added++
						} else {
							unsure++
						}
						mu.Unlock()
						if err == nil {
							note(img)
						} else if !errors.Is(err, registry.ErrUnavailable) {
							t.Errorf("update: %v", err)
						}
						select {
						case busy <- struct{}{}:
						default:
						}
					}
				})
			}
		}
		for range 30 {
			<-busy
		}
		server.lab("crash")
		stop.Store(true)
		work.Wait()
		server.start()
		for _, c := range centrals { // without being opened anew, and at once
			if _, err := c.Get(ctx, common.ID); err != nil {
				t.Errorf("get after the restart: %v", err)
			}
		}
		wantAcknowledged(t, centrals[1].DB, acknowledged)
	}
	img, err := centrals[0].Get(ctx, common.ID)
	if err != nil || img.MinRAM < added || img.MinRAM > added+unsure {
		t.Errorf("image %+v, %v; want %d updates, and %d more perhaps", img, err, added, unsure)
	}
	latest, err := centrals[0].Revision(ctx)
	if err != nil {
		t.Fatal(err)
	}
	wantAllEvents(t, centrals[0], latest)
	t.Logf("%d changes acknowledged, revision %d", len(acknowledged), latest)
}

// wantAcknowledged checks that every change that was acknowledged has its event, and
// every image that was made is there.
func wantAcknowledged(t *testing.T, d *db.DB, acknowledged map[int64]string) {
	t.Helper()
	ctx := context.Background()
	events, err := d.Since(ctx, 0, 1_000_000)
	if err != nil {
		t.Fatal(err)
	}
	for i, e := range events {
		if e.Revision != int64(i+1) {
			t.Fatalf("event %d has revision %d", i+1, e.Revision)
		}
	}
	for revision, id := range acknowledged {
		if revision > int64(len(events)) || events[revision-1].ImageID != id {
			t.Errorf("revision %d of image %s is lost", revision, id)
		}
	}
	images, err := d.List(ctx, registry.Query{Limit: 1_000_000})
	if err != nil {
		t.Fatal(err)
	}
	there := map[string]bool{}
	for _, img := range images {
		there[img.ID] = true
	}
	for _, id := range acknowledged {
		if !there[id] {
			t.Errorf("image %s is lost", id)
		}
	}
}
