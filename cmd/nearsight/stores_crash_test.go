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
)

// A server that is killed at any point of an upload leaves the image as it was; and
// the next server removes from the store what no image has.
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
			for range rounds {
				id := u.killedUpload(rand.Int64N(int64(len(u.image))))
				u.start()
				u.isEmpty(id)
				if err := awaitHeld(place, func(objects, leftovers []string) bool {
					return len(objects) == 0 && len(leftovers) == 0
				}); err != nil {
					t.Fatal(err)
				}
			}
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
// sent.
func (u *uploadSite) killedUpload(after int64) (id string) {
	var img struct{ ID string }
	if err := json.Unmarshal(u.call(http.MethodPost, "/v2/images", `{"disk_format":"raw","container_format":"bare"}`), &img); err != nil {
		u.t.Fatal(err)
	}
	kill := func([]byte) (int, error) {
		u.p.kill()
		return 0, io.EOF
	}
	body := io.MultiReader(bytes.NewReader(u.image[:after]), readFunc(kill), bytes.NewReader(u.image[after:]))
	req, err := http.NewRequest(http.MethodPut, "http://"+u.p.listen+"/v2/images/"+img.ID+"/file", body)
	if err != nil {
		u.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/octet-stream")
	req.ContentLength = int64(len(u.image))
	if resp, err := rawClient.Do(req); err == nil {
		resp.Body.Close()
		u.t.Fatalf("a server that was killed answers %s", resp.Status)
	}
	return img.ID
}

// isEmpty fails the test unless the image waits for its data.
func (u *uploadSite) isEmpty(id string) {
	var img struct{ Status string }
	if err := json.Unmarshal(u.call(http.MethodGet, "/v2/images/"+id), &img); err != nil {
		u.t.Fatal(err)
	}
	resp, err := rawClient.Get("http://" + u.p.listen + "/v2/images/" + id + "/file")
	if err != nil {
		u.t.Fatal(err)
	}
	resp.Body.Close()
	if img.Status != "queued" || resp.StatusCode != http.StatusNoContent {
		u.t.Fatalf("the image is %s and its data answers %s", img.Status, resp.Status)
	}
}

// readFunc is a Reader.
type readFunc func(p []byte) (int, error)

func (f readFunc) Read(p []byte) (int, error) { return f(p) }
