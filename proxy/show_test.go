package proxy

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"nearsight/cache"
	"nearsight/registry"
	"nearsight/registry/api"
	"nearsight/registry/identity"
)

// newEdge returns an edge of the site, which is its central, and where it listens.
func newEdge(t testing.TB, central *site, who identity.Identifier) (*Proxy, string) {
	quiet := slog.New(slog.DiscardHandler)
	kept, err := cache.Open(cache.Options{Dir: t.TempDir(), Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	events := &watchedEvents{Events: central.records.events, watching: make(chan struct{})}
	records := NewRecords(RecordsOptions{Images: ReadOnly(central.db), Log: central.db, Events: events})
	centrals := NewCentrals([]*url.URL{{Scheme: "http", Host: central.plain}}, nil)
	p := New(Options{
		Records: records, Cache: kept, Store: central.store, Log: quiet,
		API:  api.New(api.Options{Images: records, Store: central.store, Log: quiet, Identity: who}),
		Pass: NewPass(PassOptions{Centrals: centrals, Records: records, Name: "e1", Log: quiet}),
	})
	server := httptest.NewServer(p.Handler())
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { p.Run(ctx) })
	<-events.watching
	t.Cleanup(func() {
		server.Close()
		centrals.Close()
		cancel()
		running.Wait()
		kept.Close()
	})
	return p, server.Listener.Addr().String()
}

func TestAnEdgeShowsWhatItsCentralShows(t *testing.T) {
	s := newSite(t, siteConfig{identity: people})
	home := "home"
	img := s.add(pattern(1000, 1), func(img *registry.Image) { img.Owner, img.Visibility = &home, registry.Private })
	_, addr := newEdge(t, s, people)
	path := "/v2/images/" + img.ID
	ask := func(addr, method, token string, fields ...string) answer {
		own := s.addr
		defer func() { s.addr = own }()
		s.addr = addr
		return s.do(method, path, append(fields, "X-Auth-Token: "+token)...)
	}
	want := ask(s.addr, "GET", "owner")
	if want.StatusCode != 200 {
		t.Fatal(want)
	}
	statuses := []string{"nearsight; fwd=miss", "nearsight; hit"}
	for _, status := range statuses {
		got := ask(addr, "GET", "owner")
		if got.StatusCode != 200 || string(got.body) != string(want.body) || got.Header.Get("Cache-Status") != status {
			t.Fatalf("got %d %q %v, want %q", got.StatusCode, got.body, got.Header, status)
		}
		for _, name := range keptFields {
			if is, should := strings.Join(got.Header[name], ","), strings.Join(want.Header[name], ","); is != should {
				t.Errorf("%s: %s is %q, and %q at the central", status, name, is, should)
			}
		}
	}
	for _, tt := range []struct {
		name, method, token, field string
		status                     int
		found                      string
	}{
		{"HEAD", "HEAD", "owner", "X: y", 200, "nearsight; hit"},
		{"another of the project", "GET", "reader", "X: y", 200, "nearsight; hit"},
		{"the tag it has", "GET", "owner", "If-None-Match: " + want.Header.Get("Etag"), 304, "nearsight; hit"},
		{"another tag", "GET", "owner", `If-None-Match: "x"`, 200, "nearsight; hit"},
		{"a tag it wants", "GET", "owner", `If-Match: "x"`, 412, ""},
		{"a stranger to the image", "GET", "other", "X: y", 404, ""},
		{"nobody", "GET", "nobody", "X: y", 401, ""},
	} {
		got := ask(addr, tt.method, tt.token, tt.field)
		there := ask(s.addr, tt.method, tt.token, tt.field)
		if got.StatusCode != tt.status || there.StatusCode != tt.status || got.Header.Get("Cache-Status") != tt.found {
			t.Errorf("%s: %d %q, and %d at the central", tt.name, got.StatusCode, got.Header.Get("Cache-Status"), there.StatusCode)
		}
		if tt.status < 400 && (string(got.body) != string(there.body) || got.Header.Get("Content-Length") != there.Header.Get("Content-Length")) {
			t.Errorf("%s: %q %v, and %q %v at the central", tt.name, got.body, got.Header, there.body, there.Header)
		}
	}

	_, err := s.records.Update(t.Context(), img.ID, func(img *registry.Image) error {
		img.Status = registry.Deactivated
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, token := range []string{"owner", "admin", "owner"} { // what differs is never kept
		s.eventually(func() bool { return string(ask(addr, "GET", token).body) == string(ask(s.addr, "GET", token).body) })
		if got := ask(addr, "GET", token); got.Header.Get("Cache-Status") != "nearsight; fwd=bypass" {
			t.Errorf("a deactivated image: %v", got.Header)
		}
	}
}

func TestAnEdgePassesOnDataThatHasNoDigest(t *testing.T) {
	s := newSite(t, siteConfig{})
	p, addr := newEdge(t, s, nil)
	img := s.add(pattern(1000, 1), nil)
	s.eventually(func() bool { return p.records.State().Revision >= img.Revision })
	bare := *img
	bare.Digest = ""
	p.records.mu.Lock()
	p.records.known.Add(img.ID, &knownRecord{&bare, time.Now()})
	p.records.mu.Unlock()
	s.addr = addr
	got := s.file("GET", img)
	if got.StatusCode != 200 || len(got.body) != 1000 || got.Header.Get("Via") == "" {
		t.Errorf("%d %v", got.StatusCode, got.Header)
	}
}

// BenchmarkShowAtAnEdge is one client on one connection.
func BenchmarkShowAtAnEdge(b *testing.B) {
	s := newSite(b, siteConfig{})
	img := s.add(pattern(1000, 1), nil)
	_, addr := newEdge(b, s, nil)
	c, err := net.Dial("tcp", addr)
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	in, get := bufio.NewReader(c), &http.Request{Method: "GET"}
	ask := func() string {
		fmt.Fprintf(c, "GET /v2/images/%s HTTP/1.1\r\nHost: x\r\n\r\n", img.ID)
		res, err := http.ReadResponse(in, get)
		if err != nil || res.StatusCode != 200 {
			b.Fatalf("%v %v", res, err)
		}
		io.Copy(io.Discard, res.Body)
		return res.Header.Get("Cache-Status")
	}
	for ask() != hitStatus {
	}
	for b.Loop() {
		ask()
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "req/s")
}
