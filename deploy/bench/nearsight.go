package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"time"
)

const (
	// listedImages are in the registry while W7 asks for one of them, and for a
	// page of listPage.
	listedImages = 1000
	listPage     = 25
	// registerPatience is how long the server may take to hash what was
	// registered by URL.
	registerPatience = 2 * time.Minute
)

// nearsight returns the command of the server that all this is about. The cache
// copies images, although they lie on the same disk: copies are what is measured.
func nearsight(s site) ([]string, error) {
	if err := makeDirs(s.dir, "data"); err != nil {
		return nil, err
	}
	text := fmt.Sprintf(`data: %[1]s/data
server:
  listen: %[2]s
  admin: %[3]s
  shutdown_grace: 1s
cache:
  dir: %[1]s/cache
  budget: 16GiB
  local: copy
log:
  level: warn
  format: text
`, s.dir, s.listen, s.admin)
	if s.remote {
		text += "stores:\n  web:\n    kind: http\n    allow: [127.0.0.0/8]\n    allow_ports: [1-65535]\n"
	}
	conf := filepath.Join(s.dir, "nearsight.yaml")
	return []string{s.binary, "serve", "--config", conf}, os.WriteFile(conf, []byte(text), 0o644)
}

// An imageAPI is what the benchmark asks of nearsight beside what it measures.
type imageAPI struct {
	base string            // http://HOST:PORT
	ids  map[string]string // of images, by the name of the file or the URL they came from
}

// data returns the URL of an image's data.
func (a *imageAPI) data(id string) string { return a.base + "/v2/images/" + id + "/file" }

// create makes a record and returns its id.
func (a *imageAPI) create(ctx context.Context, name string) (string, error) {
	body, err := json.Marshal(map[string]string{
		"name": name, "disk_format": "raw", "container_format": "bare", "visibility": "public",
	})
	if err != nil {
		return "", err
	}
	text, _, err := call(ctx, http.MethodPost, a.base+"/v2/images", "application/json", bytes.NewReader(body))
	if err != nil {
		return "", err
	}
	var made struct{ ID string }
	if err := json.Unmarshal(text, &made); err != nil {
		return "", err
	}
	return made.ID, nil
}

// store uploads a file and returns the image's id.
func (a *imageAPI) store(ctx context.Context, path string) (string, error) {
	id, err := a.create(ctx, filepath.Base(path))
	if err != nil {
		return "", err
	}
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	_, _, err = call(ctx, http.MethodPut, a.data(id), "application/octet-stream", f)
	return id, err
}

// register makes an image of what is at a URL and returns its id when the server
// has hashed it.
func (a *imageAPI) register(ctx context.Context, url string) (string, error) {
	id, err := a.create(ctx, filepath.Base(url))
	if err != nil {
		return "", err
	}
	patch, err := json.Marshal([]map[string]any{{
		"op": "add", "path": "/locations/-", "value": map[string]any{"url": url, "metadata": map[string]string{}},
	}})
	if err != nil {
		return "", err
	}
	const patchType = "application/openstack-images-v2.1-json-patch"
	record := a.base + "/v2/images/" + id
	if _, _, err := call(ctx, http.MethodPatch, record, patchType, bytes.NewReader(patch)); err != nil {
		return "", fmt.Errorf("register %s: %w", url, err)
	}
	ctx, cancel := context.WithTimeout(ctx, registerPatience)
	defer cancel()
	for {
		done, err := a.hashed(ctx, id)
		if done {
			return id, nil
		}
		if sleep(ctx, 50*time.Millisecond) != nil {
			return "", errors.Join(fmt.Errorf("%s was not hashed in time", url), err)
		}
	}
}

// hashed reports whether the server knows what the image's bytes are: then it
// names them by an ETag, and by a SHA-512 in the record.
func (a *imageAPI) hashed(ctx context.Context, id string) (bool, error) {
	text, err := get(ctx, a.base+"/v2/images/"+id)
	if err != nil {
		return false, err
	}
	var record struct {
		Status string
		Hash   *string `json:"os_hash_value"`
	}
	if err := json.Unmarshal(text, &record); err != nil || record.Status != "active" || record.Hash == nil {
		return false, err
	}
	_, header, err := call(ctx, http.MethodHead, a.data(id), "", nil)
	return err == nil && header.Get("ETag") != "", err
}

func (a *imageAPI) delete(ctx context.Context, id string) error {
	_, _, err := call(ctx, http.MethodDelete, a.base+"/v2/images/"+id, "", nil)
	return err
}

// populate makes records until there are listedImages, for W7.
func (a *imageAPI) populate(ctx context.Context) (id string, err error) {
	for i := range listedImages {
		name := fmt.Sprintf("record-%04d", i)
		if a.ids[name] == "" {
			if a.ids[name], err = a.create(ctx, name); err != nil {
				return "", err
			}
		}
		id = a.ids[name]
	}
	return id, nil
}

// missed returns how many bytes the cache asked of the origin since the start.
func (a *imageAPI) missed(ctx context.Context) (int64, error) {
	text, err := get(ctx, a.base+"/nearsight/cache/stats")
	if err != nil {
		return 0, err
	}
	var stats struct {
		Filled int64 `json:"filled_bytes"`
	}
	return stats.Filled, json.Unmarshal(text, &stats)
}
