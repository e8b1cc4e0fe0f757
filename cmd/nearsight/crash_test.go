package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// A server that is killed at any point of its work gives out no wrong byte
// afterwards, and fetches next to nothing again that it had verified.
func TestKilledServersKeepWhatTheyVerified(t *testing.T) {
	rounds := 200
	if testing.Short() {
		rounds = 10
	}
	c := newCrashSite(t)
	var verified, refetched int64
	for range rounds {
		// From nothing, up to a point that nobody planned, with others at work.
		c.call(http.MethodDelete, "/nearsight/cache/images/"+c.id)
		n := 1 + rand.Int64N(int64(len(c.image)))
		stop := c.load()
		c.compare(0, n)
		had := c.verified()
		c.p.kill()
		stop()

		c.start()
		c.compare(0, int64(len(c.image)))
		filled, err := readMetric("http://"+c.p.admin+"/metrics", "nearsight_cache_filled_bytes_total")
		if err != nil {
			t.Fatal(err)
		}
		verified += had
		refetched += max(0, had+int64(filled)-c.verified())
	}
	c.p.kill()
	t.Logf("%d kills: of %d verified bytes %d were fetched again", rounds, verified, refetched)
	if refetched*100 > verified {
		t.Errorf("of %d verified bytes %d were fetched again", verified, refetched)
	}
}

// A crashSite is a server with one image, which is killed again and again.
type crashSite struct {
	t     *testing.T
	dir   string
	log   *os.File
	image []byte
	id    string
	p     *server
}

func newCrashSite(t *testing.T) *crashSite {
	dir := t.TempDir()
	log, err := os.Create(filepath.Join(dir, "server.log"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { log.Close() })
	path := filepath.Join(dir, "image")
	if err := makeImage(path, 18<<20, "crash"); err != nil { // two extents
		t.Fatal(err)
	}
	c := &crashSite{t: t, dir: dir, log: log}
	if c.image, err = os.ReadFile(path); err != nil {
		t.Fatal(err)
	}
	c.start()
	var img struct{ ID string }
	text := c.call(http.MethodPost, "/v2/images", `{"name":"crash","disk_format":"raw","container_format":"bare"}`)
	if err := json.Unmarshal(text, &img); err != nil {
		t.Fatal(err)
	}
	c.id = img.ID
	c.call(http.MethodPut, "/v2/images/"+c.id+"/file", string(c.image))
	c.compare(0, 1) // so that there is an entry to drop
	return c
}

func (c *crashSite) start() {
	env := append(os.Environ(), "NEARSIGHT_CACHE_LOCAL=copy", "NEARSIGHT_CACHE_MIN_FREE=0")
	p, err := startServer("nearsight", c.dir, env, []string{"--data", "data", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"}, c.log)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(p.kill)
	select {
	case <-p.ready:
	case <-p.exited:
		c.t.Fatalf("the server ended: %v", p.err)
	case <-time.After(patience):
		c.t.Fatal("the server is not ready")
	}
	c.p = p
}

// call sends a request and returns the body of the answer, which must be good.
func (c *crashSite) call(method, path string, body ...string) []byte {
	c.t.Helper()
	req, err := http.NewRequest(method, "http://"+c.p.listen+path, strings.NewReader(strings.Join(body, "")))
	if err != nil {
		c.t.Fatal(err)
	}
	if method == http.MethodPut {
		req.Header.Set("Content-Type", "application/octet-stream")
	}
	resp, err := rawClient.Do(req)
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode >= 300 {
		c.t.Fatalf("%s %s: %s %s %v", method, path, resp.Status, text, err)
	}
	return text
}

// fetchRange asks for n bytes from off, or those that there are, and compares
// what comes. A download that breaks off is an error, a wrong byte fails the
// test.
func (c *crashSite) fetchRange(p *server, off, n int64) error {
	req, err := http.NewRequest(http.MethodGet, "http://"+p.listen+"/v2/images/"+c.id+"/file", nil)
	if err != nil {
		return err
	}
	req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", off, off+n-1))
	resp, err := rawClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusPartialContent {
		return fmt.Errorf("status %s", resp.Status)
	}
	err = sameBytes(resp.Body, c.image[off:min(off+n, int64(len(c.image)))], nil)
	if errors.Is(err, errWrongBytes) {
		c.t.Errorf("range from %d: %v", off, err)
	}
	return err
}

func (c *crashSite) compare(off, n int64) {
	c.t.Helper()
	if err := c.fetchRange(c.p, off, n); err != nil {
		c.t.Fatalf("%d bytes from %d: %v", n, off, err)
	}
}

// load reads random ranges until the server is killed. The returned function
// waits for that.
func (c *crashSite) load() (wait func()) {
	var wg sync.WaitGroup
	p := c.p
	for range 3 {
		wg.Go(func() {
			for {
				if c.fetchRange(p, rand.Int64N(int64(len(c.image))), 1+rand.Int64N(1<<20)) != nil {
					return // it was killed
				}
			}
		})
	}
	return wg.Wait
}

// verified returns how many bytes of the image the server has on disk and has
// verified since it started.
func (c *crashSite) verified() int64 {
	var entry struct{ Verified int64 }
	if err := json.Unmarshal(c.call(http.MethodGet, "/nearsight/cache/images/"+c.id), &entry); err != nil {
		c.t.Fatal(err)
	}
	return entry.Verified
}
