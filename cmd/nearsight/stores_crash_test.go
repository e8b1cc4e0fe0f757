package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"nearsight/registry/db"
)

// A server that is killed at any point of an upload, also when its last byte was
// just sent, leaves the image as it was or whole; and the next server removes from
// the store what no image has, also if the store finishes it only after its writer
// was dead and the server saw that there was nothing.
func TestKilledUploadsLeaveNothing(t *testing.T) {
	rounds := 10
	if testing.Short() {
		rounds = 2
	}
	for _, tt := range []struct {
		kind string
		open func(place string) (keeper, map[string]string, error)
	}{
		{"s3", func(place string) (keeper, map[string]string, error) { return newS3Keeper(place) }},
		{"swift", func(place string) (keeper, map[string]string, error) { return newSwiftKeeper(place) }},
	} {
		t.Run(tt.kind, func(t *testing.T) {
			place, settings, err := tt.open("crash-" + fmt.Sprint(rand.Uint64()))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := empty(place); err != nil {
					t.Error(err)
				}
			})
			u := newUploadSite(t, tt.kind, settings)
			whole := 0
			for range rounds {
				id := u.killedUpload(rand.Int64N(int64(len(u.image)) * 3 / 2))
				u.start()
				if u.isWhole(id) {
					whole++
				}
				if err := awaitHeld(place, func(objects, leftovers []string) bool {
					return len(objects) == whole && len(leftovers) == 0
				}); err != nil {
					t.Fatalf("%d images are whole: %v", whole, err)
				}
			}
			// Once nothing is left to be removed nothing may come back either.
			u.awaitNoOrphans()
			objects, leftovers, err := place.list(t.Context())
			if err != nil || len(objects) != whole || len(leftovers) != 0 {
				t.Errorf("%d images are whole, and the store has the objects %v and the leftovers %v (%v)", whole, objects, leftovers, err)
			}
			t.Logf("of %d uploads %d were whole when the server was killed", rounds, whole)
		})
	}
}

// An uploadSite is a server that is killed while it takes uploads.
type uploadSite struct {
	*crashSite
}

func newUploadSite(t *testing.T, kind string, settings map[string]string) *uploadSite {
	dir := t.TempDir()
	log, err := os.Create(filepath.Join(dir, "server.log"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { log.Close() })
	t.Setenv("NEARSIGHT_ORIGIN_STORE", "crash")
	t.Setenv("NEARSIGHT_ORIGIN_ORPHAN_GRACE", "10s")
	t.Setenv("NEARSIGHT_STORES_CRASH_KIND", kind)
	for key, value := range settings {
		t.Setenv("NEARSIGHT_STORES_CRASH_"+strings.ToUpper(key), value)
	}
	path := filepath.Join(dir, "image")
	if err := makeSparse(path, 40, 30, "upload"); err != nil { // three parts, eight segments
		t.Fatal(err)
	}
	u := &uploadSite{&crashSite{t: t, dir: dir, log: log}}
	if u.image, err = os.ReadFile(path); err != nil {
		t.Fatal(err)
	}
	u.start()
	return u
}

// killedUpload uploads the image, and kills the server when so many bytes were
// sent, or up to 0.4 s after the last one.
func (u *uploadSite) killedUpload(after int64) (id string) {
	var img struct{ ID string }
	if err := json.Unmarshal(u.call(http.MethodPost, "/v2/images", `{"disk_format":"raw","container_format":"bare"}`), &img); err != nil {
		u.t.Fatal(err)
	}
	size := int64(len(u.image))
	killed := make(chan struct{})
	kill := func([]byte) (int, error) {
		// Of what was sent as a whole the store, or the registry, has the last word.
		late := time.Duration(float64(max(after-size, 0)) / float64(size/2) * float64(400*time.Millisecond))
		time.AfterFunc(late, func() {
			u.p.kill()
			close(killed)
		})
		if after < size {
			<-killed
		}
		return 0, io.EOF
	}
	body := io.MultiReader(io.LimitReader(bytes.NewReader(u.image), after), readFunc(kill), bytes.NewReader(u.image[min(after, size):]))
	req, err := http.NewRequest(http.MethodPut, "http://"+u.p.listen+"/v2/images/"+img.ID+"/file", body)
	if err != nil {
		u.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/octet-stream")
	req.ContentLength = size
	if resp, err := rawClient.Do(req); err == nil {
		resp.Body.Close()
	}
	<-killed
	return img.ID
}

// isWhole says whether the image is active; then its data must be right, and
// otherwise there must be none.
func (u *uploadSite) isWhole(id string) bool {
	var img struct{ Status string }
	if err := json.Unmarshal(u.call(http.MethodGet, "/v2/images/"+id), &img); err != nil {
		u.t.Fatal(err)
	}
	resp, err := rawClient.Get("http://" + u.p.listen + "/v2/images/" + id + "/file")
	if err != nil {
		u.t.Fatal(err)
	}
	defer resp.Body.Close()
	switch {
	case img.Status == "active" && resp.StatusCode == http.StatusOK:
		if err := sameBytes(resp.Body, u.image, nil); err != nil {
			u.t.Fatal(err)
		}
		return true
	case img.Status != "queued" || resp.StatusCode != http.StatusNoContent:
		u.t.Fatalf("the image is %s and its data answers %s", img.Status, resp.Status)
	}
	return false
}

// awaitNoOrphans waits until the registry knows of nothing that is to be deleted.
func (u *uploadSite) awaitNoOrphans() {
	records, err := db.Open(u.t.Context(), db.Options{Path: filepath.Join(u.dir, "data", "registry.db"), AsIs: true})
	if err != nil {
		u.t.Fatal(err)
	}
	defer records.Close()
	often := time.NewTicker(100 * time.Millisecond)
	defer often.Stop()
	deadline := time.After(patience)
	for {
		orphans, err := records.Orphans(u.t.Context(), "", 1)
		if err == nil && len(orphans) == 0 {
			return
		}
		select {
		case <-often.C:
		case <-deadline:
			u.t.Fatalf("orphans are left: %v, %v", orphans, err)
		}
	}
}

// readFunc is a Reader.
type readFunc func(p []byte) (int, error)

func (f readFunc) Read(p []byte) (int, error) { return f(p) }
