package proxy

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"nearsight/cache"
	"nearsight/origin/origintest"
	"nearsight/registry"
)

// glanceCache is what GET /v2/cache says.
type glanceCache struct {
	Cached []struct {
		ID           string  `json:"image_id"`
		Hits         int     `json:"hits"`
		LastAccessed float64 `json:"last_accessed"`
		LastModified float64 `json:"last_modified"`
		Size         int64   `json:"size"`
	} `json:"cached_images"`
	Queued []string `json:"queued_images"`
}

func (s *site) glanceCache() (c glanceCache) {
	s.t.Helper()
	a := s.do("GET", "/v2/cache", "X-Auth-Token: admin")
	if err := json.Unmarshal(a.body, &c); err != nil || a.StatusCode != 200 || c.Cached == nil || c.Queued == nil {
		s.t.Fatalf("%d %s, %v", a.StatusCode, a.body, err)
	}
	return c
}

func (c glanceCache) has(img *registry.Image) bool {
	for _, one := range c.Cached {
		if one.ID == img.ID {
			return true
		}
	}
	return false
}

func TestCallsAboutTheCache(t *testing.T) {
	s := newSite(t, siteConfig{identity: people})
	img := s.owned(pattern(3*chunk, 1), registry.Private)
	queued, err := s.records.Create(t.Context(), &registry.Image{Visibility: registry.Public})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, call, field string
		status            int
		holds             string
	}{
		{"nothing is cached", "GET /v2/cache", "", 200, `{"cached_images":[],"queued_images":[]}`},
		{"the header of that", "HEAD /v2/cache", "", 200, ``},
		{"an unknown image is queued", "PUT /v2/cache/" + idA, "", 404, ``},
		{"what is no id is queued", "PUT /v2/cache/nope", "", 404, ``},
		{"an image without data is queued", "PUT /v2/cache/" + queued.ID, "", 400, `only active ones`},
		{"what is not cached is dropped", "DELETE /v2/cache/" + img.ID, "", 204, ``},
		{"an image without data is dropped", "DELETE /v2/cache/" + queued.ID, "", 204, ``},
		{"an unknown image is dropped", "DELETE /v2/cache/" + idA, "", 404, ``},
		{"all is dropped", "DELETE /v2/cache", "", 204, ``},
		{"the cache is dropped", "DELETE /v2/cache", "X-Image-Cache-Clear-Target: cache", 204, ``},
		{"the queue is emptied", "DELETE /v2/cache", "X-Image-Cache-Clear-Target: queue", 204, ``},
		{"the word both is none", "DELETE /v2/cache", "X-Image-Cache-Clear-Target: both", 400, `clear-target`},
		{"the nodes that have an image", "GET /v2/cache/nodes/" + img.ID, "", 409, ``},
		{"the nodes that have an unknown one", "GET /v2/cache/nodes/" + idA, "", 404, ``},
		{"what is damaged is dropped", "POST /v2/cache/clean", "", 200, ``},
		{"what is too much is dropped", "POST /v2/cache/prune", "", 200, `{"total_files_pruned":0,"total_bytes_pruned":0}`},
		{"another method", "POST /v2/cache", "", 405, ``},
		{"the old list of what is cached", "GET /v2/cached_images", "", 200, `{"cached_images":[]}`},
		{"the old list of what waits", "GET /v2/queued_images", "", 200, `{"queued_images":[]}`},
		{"the old way to drop all", "DELETE /v2/cached_images", "", 200, `{"num_deleted":0}`},
		{"the old way to drop one", "DELETE /v2/cached_images/" + img.ID, "", 200, ``},
		{"the old way to empty the queue", "DELETE /v2/queued_images", "", 200, `{"num_deleted":0}`},
		{"the old way to take one out that is not in", "DELETE /v2/queued_images/" + img.ID, "", 404, ``},
		{"the old way to queue an unknown one", "PUT /v2/queued_images/" + idA, "", 404, ``},
	} {
		t.Run(tt.name, func(t *testing.T) {
			method, path, _ := strings.Cut(tt.call, " ")
			fields := []string{"X-Auth-Token: admin"}
			if tt.field != "" {
				fields = append(fields, tt.field)
			}
			a := s.do(method, path, fields...)
			if a.StatusCode != tt.status || !strings.Contains(string(a.body), tt.holds) || (a.StatusCode == 204 || tt.holds == "" && a.StatusCode == 200) && len(a.body) > 0 {
				t.Errorf("%d %s, want %d with %s", a.StatusCode, a.body, tt.status, tt.holds)
			}
			if a.Header.Get("Cache-Control") != "no-store" {
				t.Errorf("Cache-Control: %q", a.Header.Get("Cache-Control"))
			}
			if tt.status == 405 {
				return
			}
			for _, token := range []string{"owner", "reader", "service"} {
				if a := s.do(method, path, "X-Auth-Token: "+token); a.StatusCode != 403 {
					t.Errorf("for the %s: %d %s", token, a.StatusCode, a.body)
				}
			}
			if a := s.do(method, path); a.StatusCode != 401 {
				t.Errorf("for nobody: %d", a.StatusCode)
			}
		})
	}
	if a := s.raw("PUT /v2/cache/" + img.ID + " HTTP/1.1\r\nHost: x\r\nX-Auth-Token: admin\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"); !strings.HasPrefix(a, "HTTP/1.1 400") {
		t.Errorf("a body is answered with %.100q", a)
	}
}

func TestAnImageIsFetchedIntoTheCacheWhenItIsAskedFor(t *testing.T) {
	s := newSite(t, siteConfig{})
	img := s.add(pattern(3*chunk, 1), nil)
	for _, call := range []struct {
		put, drop       string
		status, dropped int
	}{
		{"/v2/cache/", "/v2/cache/", 202, 204},
		{"/v2/queued_images/", "/v2/cached_images/", 200, 200},
	} {
		if a := s.do("PUT", call.put+img.ID); a.StatusCode != call.status || len(a.body) > 0 {
			t.Fatalf("%d %s", a.StatusCode, a.body)
		}
		waitFor(t, "the image is cached", func() bool { return s.glanceCache().has(img) })
		c := s.glanceCache()
		one := c.Cached[0]
		if len(c.Queued) > 0 || one.Size != 3*chunk || one.LastModified < 1e9 || one.LastAccessed < 1e9 {
			t.Errorf("%+v", c)
		}
		before := one.Hits
		for range 3 {
			if a := s.file("GET", img); a.Header.Get("Cache-Status") != "nearsight; hit" {
				t.Errorf("Cache-Status: %s", a.Header.Get("Cache-Status"))
			}
		}
		s.do("GET", "/v2/images/"+img.ID+"/file?x=y") // the ordinary way
		if one := s.glanceCache().Cached[0]; one.Hits != before+4 {
			t.Errorf("%d hits after %d and four more", one.Hits, before)
		}
		if a := s.do("DELETE", call.drop+img.ID); a.StatusCode != call.dropped {
			t.Fatalf("%d %s", a.StatusCode, a.body)
		}
		if s.glanceCache().has(img) {
			t.Error("it is cached after it was dropped")
		}
		if _, err := s.cache.Entry(img.Digest); !errors.Is(err, cache.ErrNotCached) {
			t.Errorf("the cache says %v", err)
		}
	}
}

func TestWhatWaitsToBeCachedIsListedAndCanBeTakenBack(t *testing.T) {
	s := newSite(t, siteConfig{})
	var imgs []*registry.Image
	for i := range 5 {
		imgs = append(imgs, s.add(pattern(chunk, byte(i)), nil))
	}
	gate := origintest.NewGate(0)
	s.store.Inject(origintest.Faults{Gate: gate})
	ids := func() (all []string) {
		for _, img := range imgs {
			all = append(all, img.ID)
		}
		return all
	}()
	for range 2 { // the second time they are in already
		for _, id := range ids {
			if a := s.do("PUT", "/v2/cache/"+id); a.StatusCode != 202 {
				t.Fatalf("%d %s", a.StatusCode, a.body)
			}
		}
	}
	<-gate.Reached
	if c := s.glanceCache(); !slices.Equal(c.Queued, ids) || len(c.Cached) > 0 {
		t.Fatalf("%+v, want %v queued", c, ids)
	}
	if a := s.do("DELETE", "/v2/queued_images/"+ids[4]); a.StatusCode != 200 {
		t.Errorf("%d", a.StatusCode)
	}
	if a := s.do("DELETE", "/v2/cache/"+ids[3]); a.StatusCode != 204 {
		t.Errorf("%d", a.StatusCode)
	}
	if c := s.glanceCache(); !slices.Equal(c.Queued, ids[:3]) {
		t.Errorf("%v wait", c.Queued)
	}
	if a := s.do("DELETE", "/v2/cache", "X-Image-Cache-Clear-Target: queue"); a.StatusCode != 204 {
		t.Errorf("%d", a.StatusCode)
	}
	if c := s.glanceCache(); len(c.Queued) > 0 {
		t.Errorf("%v wait", c.Queued)
	}
	close(gate.Pass)
	s.store.Inject(origintest.Faults{})
	if a := s.do("PUT", "/v2/cache/"+ids[4]); a.StatusCode != 202 {
		t.Errorf("%d", a.StatusCode)
	}
	waitFor(t, "the last is cached", func() bool { return s.glanceCache().has(imgs[4]) })
}

func TestTheQueueHasABound(t *testing.T) {
	q := &warming{wake: make(chan struct{}, 1)}
	for i := range maxWarming {
		if err := q.add(fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := q.add("more"); !errors.Is(err, errQueueFull) {
		t.Errorf("got %v", err)
	}
	if err := q.add("7"); err != nil {
		t.Errorf("one that is in: %v", err)
	}
	if n := q.remove(""); n != maxWarming || len(q.ids()) > 0 {
		t.Errorf("%d removed, %d left", n, len(q.ids()))
	}
}

func TestAnImageThatCannotBeFetchedLeavesTheQueue(t *testing.T) {
	s := newSite(t, siteConfig{})
	img := s.add(pattern(chunk, 1), nil)
	if err := s.store.Delete(t.Context(), img.Locations[0]); err != nil {
		t.Fatal(err)
	}
	if a := s.do("PUT", "/v2/cache/"+img.ID); a.StatusCode != 202 {
		t.Fatalf("%d", a.StatusCode)
	}
	waitFor(t, "it leaves the queue", func() bool { return len(s.glanceCache().Queued) == 0 })
	if log := s.log.String(); !strings.Contains(log, "cannot be fetched into the cache") || !strings.Contains(log, img.ID) {
		t.Errorf("the log says nothing of it: %s", log)
	}
}

func TestACacheThatIsWithinItsBudgetLosesNothingByPruning(t *testing.T) {
	s := newSite(t, siteConfig{})
	img := s.add(pattern(3*chunk, 1), nil)
	s.file("GET", img)
	if a := s.do("POST", "/v2/cache/prune"); string(a.body) != `{"total_files_pruned":0,"total_bytes_pruned":0}` {
		t.Errorf("%s", a.body)
	}
	if a := s.file("GET", img); a.Header.Get("Cache-Status") != "nearsight; hit" {
		t.Errorf("Cache-Status: %s", a.Header.Get("Cache-Status"))
	}
	if a := s.do("DELETE", "/v2/cached_images"); string(a.body) != `{"num_deleted":1}` {
		t.Errorf("%s", a.body)
	}
}

func TestWithoutTheCallsThereIsNothingAtTheirPaths(t *testing.T) {
	s := newSite(t, siteConfig{})
	s.proxy.cacheCalls = false
	h := s.proxy.Handler()
	for _, path := range []string{"/v2/cache", "/v2/cached_images", "/v2/queued_images"} {
		if status := statusFrom(h, path); status != 404 {
			t.Errorf("%s: %d", path, status)
		}
	}
}

func statusFrom(h http.Handler, path string) int {
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, httptest.NewRequest("GET", path, nil))
	return rec.Code
}
