package proxy

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/gin-gonic/gin"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"nearsight/cache"
	"nearsight/origin"
	"nearsight/origin/origintest"
	"nearsight/registry"
)

func TestCacheAdministration(t *testing.T) {
	s := newSite(t, siteConfig{})
	data := pattern(3*chunk, 1)
	img := s.add(data, nil)
	twin := s.add(data, func(img *registry.Image) { img.Name, img.Hidden = nil, true })
	queued, err := s.records.Create(t.Context(), &registry.Image{Visibility: registry.Public})
	if err != nil {
		t.Fatal(err)
	}
	one := "/nearsight/cache/images/" + img.ID
	for _, tt := range []struct {
		name, method, path string
		status             int
		holds              string // of the body, without blanks
	}{
		{"nothing is cached", "GET", "/nearsight/cache", 200, `{"entries":[]}`},
		{"nothing is cached of the image", "GET", one, 404, `"status":404`},
		{"there is nothing to drop", "DELETE", one, 404, `"status":404`},
		{"there is nothing to unpin", "DELETE", one + "/pin", 404, `"status":404`},
		{"there is nothing to scrub", "POST", one + "/scrub", 404, `"status":404`},
		{"an unknown image", "POST", "/nearsight/cache/images/" + idA + "/warm", 404, `"status":404`},
		{"an image without data", "POST", "/nearsight/cache/images/" + queued.ID + "/warm", 409, `"status":409`},
		{"an unknown method", "PATCH", one, 405, `"status":405`},
		{"warm", "POST", one + "/warm", 200, `{"result":{"digest":"` + string(img.Digest) + `","size":786432,"zero":0,`},
		{"it is there", "GET", one, 200, `"verified":786432,"pinned":false,"local":false,"last_used":"2`},
		{"with the names of both images", "GET", one, 200, `{"id":"` + img.ID + `","name":"debian"},{"id":"` + twin.ID + `","name":null}]}`},
		{"head", "HEAD", one, 200, ``},
		{"pin", "PUT", one + "/pin", 204, ``},
		{"it is pinned", "GET", "/nearsight/cache", 200, `"pinned":true`},
		{"unpin", "DELETE", one + "/pin", 204, ``},
		{"it is pinned no more", "GET", "/nearsight/cache", 200, `"pinned":false`},
		{"scrub", "POST", one + "/scrub", 200, `{"result":{"chunks":3,"bad":0}}`},
		{"scrub all", "POST", "/nearsight/cache/scrub", 200, `{"result":{"chunks":3,"bad":0}}`},
		{"stats", "GET", "/nearsight/cache/stats", 200, `"entries":1,`},
		{"drop", "DELETE", one, 204, ``},
		{"it is gone", "GET", "/nearsight/cache", 200, `{"entries":[]}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := s.do(tt.method, tt.path)
			if a.StatusCode != tt.status || !strings.Contains(string(a.body), tt.holds) {
				t.Errorf("%d %s, want %d with %s", a.StatusCode, a.body, tt.status, tt.holds)
			}
			if a.Header.Get("Cache-Control") != "no-store" {
				t.Errorf("Cache-Control %q", a.Header.Get("Cache-Control"))
			}
			want := "application/json"
			switch {
			case tt.status == 204:
				want = ""
			case tt.status >= 400:
				want = "application/problem+json"
			case tt.method == "POST":
				want = "application/x-ndjson"
			}
			if got := a.Header.Get("Content-Type"); got != want {
				t.Errorf("Content-Type %q, want %q", got, want)
			}
		})
	}
}

// Every counter of the cache is in the answer, under its name in snake_case.
func TestCacheStatsHaveAllFields(t *testing.T) {
	s := newSite(t, siteConfig{cache: cache.Options{Budget: 12345678}})
	var stats map[string]int64
	if err := json.Unmarshal(s.do("GET", "/nearsight/cache/stats").body, &stats); err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(s.cache.Stats())
	if err != nil {
		t.Fatal(err)
	}
	var want map[string]int64
	if err := json.Unmarshal(text, &want); err != nil {
		t.Fatal(err)
	}
	for name := range want {
		snake := ""
		for i, c := range name {
			if c >= 'A' && c <= 'Z' && i > 0 {
				snake += "_"
			}
			snake += strings.ToLower(string(c))
		}
		if got, ok := stats[snake]; !ok || got != want[name] {
			t.Errorf("%s is %d (%v), want %d", snake, got, ok, want[name])
		}
	}
	if len(stats) != len(want) || stats["budget"] != 12345678 {
		t.Errorf("%v", stats)
	}
}

func TestWorkThatFailsAtOnceHasItsStatus(t *testing.T) {
	s := newSite(t, siteConfig{})
	img := s.add(pattern(3*chunk, 1), nil)
	s.store.Inject(origintest.Faults{Open: origin.ErrNotFound})
	if a := s.do("POST", "/nearsight/cache/images/"+img.ID+"/warm"); a.StatusCode != 502 {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
}

func TestWorkThatFailsLaterSaysSoInItsLastLine(t *testing.T) {
	s := newSite(t, siteConfig{})
	rec := httptest.NewRecorder()
	e := gin.New()
	e.POST("/", func(c *gin.Context) {
		s.proxy.work(c, func(progress func(done, total int64)) (any, error) {
			progress(1, 2)
			progress(2, 2) // too soon for another line
			return nil, errors.New("no luck")
		})
	})
	e.ServeHTTP(rec, httptest.NewRequest("POST", "/", nil))
	want := `{"done":1,"total":2}` + "\n" + `{"error":"no luck"}` + "\n"
	if rec.Code != 200 || rec.Body.String() != want || !rec.Flushed {
		t.Errorf("%d %q", rec.Code, rec.Body)
	}
}

func TestHealthAndReadiness(t *testing.T) {
	s := newSite(t, siteConfig{})
	broken := errors.New("no disk")
	ok := func(context.Context) error { return nil }
	for _, tt := range []struct {
		name            string
		checks          []Check
		health, ready   int
		healthz, readyz string
	}{
		{"all is well", []Check{{"disk", false, ok}}, 200, 200, "registry: ok\n", "registry: ok\nevents: ok\ndisk: ok\n"},
		{"something is broken", []Check{{"disk", false, func(context.Context) error { return broken }}}, 200, 503,
			"registry: ok\n", "registry: ok\nevents: ok\ndisk: no disk\n"},
		{"something vital is broken", []Check{{"disk", true, func(context.Context) error { return broken }}}, 503, 503,
			"registry: ok\ndisk: no disk\n", "registry: ok\nevents: ok\ndisk: no disk\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := s.proxy.AdminHandler(tt.checks...)
			for path, want := range map[string]struct {
				status int
				body   string
			}{"/healthz": {tt.health, tt.healthz}, "/readyz": {tt.ready, tt.readyz}} {
				rec := httptest.NewRecorder()
				h.ServeHTTP(rec, httptest.NewRequest("GET", path, nil))
				if rec.Code != want.status || rec.Body.String() != want.body || rec.Header().Get("Cache-Control") != "no-store" {
					t.Errorf("%s: %d %q, want %d %q", path, rec.Code, rec.Body, want.status, want.body)
				}
			}
		})
	}
}

func TestMetricsAreWellFormedAndCount(t *testing.T) {
	s := newSite(t, siteConfig{})
	img := s.add(pattern(3*chunk, 1), nil)
	s.file("GET", img, "Range: bytes=0-9")
	s.file("GET", img, "Range: bytes=0-99")
	s.file("GET", img, "Range: bytes=99999999-")
	s.do("FROBNICATE", "/nothing/here")
	rec := httptest.NewRecorder()
	s.proxy.AdminHandler().ServeHTTP(rec, httptest.NewRequest("GET", "/metrics", nil))
	if rec.Code != http.StatusOK {
		t.Fatal(rec.Code)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	if _, err := parser.TextToMetricFamilies(bytes.NewReader(rec.Body.Bytes())); err != nil {
		t.Error(err)
	}
	for _, line := range []string{
		`nearsight_http_requests_total{class="2xx",method="GET",route="/v2/images/:id/file"} 2`,
		`nearsight_http_requests_total{class="4xx",method="GET",route="/v2/images/:id/file"} 1`,
		`nearsight_http_requests_total{class="4xx",method="other",route="none"} 1`,
		`nearsight_data_sent_bytes_total{cache="miss"} 10`,
		`nearsight_data_sent_bytes_total{cache="hit"} 100`,
		`nearsight_http_requests_in_flight 0`,
		`nearsight_build_info{version="test"} 1`,
		`nearsight_cache_entries 1`,
		`nearsight_cache_miss_bytes_total 10`,
		`nearsight_cache_hit_bytes_total 100`,
	} {
		if !strings.Contains(rec.Body.String(), "\n"+line+"\n") {
			t.Errorf("there is no line %s", line)
		}
	}
	problems, err := promlint.New(rec.Body).Lint()
	if err != nil || len(problems) > 0 {
		t.Errorf("%v %v", problems, err)
	}
}

func TestOneAccessRecordPerRequest(t *testing.T) {
	s := newSite(t, siteConfig{})
	img := s.add(pattern(1000, 1), nil)
	s.file("GET", img, "Range: bytes=0-9", "X-Openstack-Request-Id: req-1")
	s.do("GET", "/v2/images/"+img.ID)
	s.do("GET", "/v2/..%2f?token=secret", "Range: bytes=0-\t"+strings.Repeat("1", 1000)) // refused before any route
	s.eventually(func() bool { return strings.Count(s.log.String(), "\n") == 3 })
	var records []map[string]any
	for line := range strings.Lines(s.log.String()) {
		var r map[string]any
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		records = append(records, r)
	}
	for k, want := range map[string]any{
		"msg": "request", "level": "INFO", "method": "GET", "route": "/v2/images/:id/file", "image": img.ID, "digest": string(img.Digest),
		"range": "bytes=0-9", "status": 206.0, "bytes": 10.0, "cache": "miss", "request_id": "req-1", "path": "/v2/images/" + img.ID + "/file",
	} {
		if got := records[0][k]; got != want {
			t.Errorf("%s is %v, want %v", k, got, want)
		}
	}
	if records[0]["remote"] == nil || records[0]["dur"] == nil || records[0]["aborted"] != nil {
		t.Errorf("%v", records[0])
	}
	if r := records[1]; r["route"] != "/v2/images/:id" || r["image"] != img.ID || r["cache"] != nil {
		t.Errorf("%v", r)
	}
	if r := records[2]; r["status"] != 404.0 || r["route"] != nil || len(r["range"].(string)) > maxLogged+3 {
		t.Errorf("%v", r)
	}
	if strings.Contains(s.log.String(), "secret") {
		t.Error("a query was logged")
	}
}
