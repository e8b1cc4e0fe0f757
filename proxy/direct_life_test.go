package proxy

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"nearsight/origin/origintest"
	"nearsight/registry"
)

// A line is one connection whose requests are written as they stand.
type line struct {
	net.Conn
	br *bufio.Reader
}

func dialLine(t testing.TB, addr string) *line {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Error(err)
		return &line{Conn: &net.TCPConn{}, br: bufio.NewReader(strings.NewReader(""))} // all fails
	}
	t.Cleanup(func() { c.Close() })
	return &line{c, bufio.NewReader(c)}
}

// get asks for the image's data and reads the answer.
func (l *line) get(img *registry.Image, fields ...string) (*http.Response, []byte, error) {
	request := "GET /v2/images/" + img.ID + "/file HTTP/1.1\r\nHost: x\r\n"
	for _, f := range fields {
		request += f + "\r\n"
	}
	if _, err := io.WriteString(l, request+"\r\n"); err != nil {
		return nil, nil, err
	}
	return l.answer()
}

func (l *line) answer() (*http.Response, []byte, error) {
	resp, err := http.ReadResponse(l.br, nil)
	if err != nil {
		return nil, nil, err
	}
	body, err := io.ReadAll(resp.Body)
	return resp, body, err
}

// A client that waits for the origin is a request under way, and what the image
// is when the bytes are there decides what it gets.
func TestTheShortWayWaitsForTheOrigin(t *testing.T) {
	for _, tt := range []struct {
		name      string
		meanwhile func(s *site, img *registry.Image) error
		status    int
		ordinary  int64
	}{
		{"and nothing happens", func(*site, *registry.Image) error { return nil }, 200, 0},
		{"and another image changes", func(s *site, _ *registry.Image) error {
			_, err := s.records.Create(s.t.Context(), &registry.Image{DiskFormat: "raw", ContainerFormat: "bare"})
			return err
		}, 200, 0},
		{"and the image becomes private", func(s *site, img *registry.Image) error {
			_, err := s.records.Update(s.t.Context(), img.ID, func(img *registry.Image) error {
				img.Visibility = registry.Private
				return nil
			})
			return err
		}, 200, 1},
		{"and the image is deleted", func(s *site, img *registry.Image) error {
			return s.records.Delete(s.t.Context(), img.ID, nil)
		}, 404, 1},
		{"and events are not heard any more", func(s *site, _ *registry.Image) error {
			s.records.broke(io.ErrUnexpectedEOF)
			return nil
		}, 200, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newSite(t, siteConfig{})
			data := pattern(chunk, 1)
			img := s.add(data, nil)
			gate := origintest.NewGate(0)
			s.store.Inject(origintest.Faults{Gate: gate})
			addr, ordinary := s.direct()
			c := dialLine(t, addr)
			if _, err := io.WriteString(c, "GET /v2/images/"+img.ID+"/file HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
				t.Fatal(err)
			}
			<-gate.Reached
			if n := s.metric("nearsight_http_requests_in_flight"); n != 1 {
				t.Errorf("%v requests are said to be in flight", n)
			}
			if err := tt.meanwhile(s, img); err != nil {
				t.Fatal(err)
			}
			close(gate.Pass)
			resp, body, err := c.answer()
			if err != nil || resp.StatusCode != tt.status {
				t.Fatalf("%v, %v", resp, err)
			}
			if tt.status == 200 && !bytes.Equal(body, data) {
				t.Error("wrong bytes")
			}
			if n := ordinary.Load(); n != tt.ordinary {
				t.Errorf("%d requests went the ordinary way", n)
			}
			if tt.name == "and the image becomes private" && resp.Header.Get("Cache-Control") != privateFreshness {
				t.Errorf("Cache-Control: %s", resp.Header.Get("Cache-Control"))
			}
		})
	}
}

func TestAConnectionNoticesThatItsDataWasDropped(t *testing.T) {
	s := newSite(t, siteConfig{})
	img := s.add(pattern(3*chunk, 1), nil)
	addr, ordinary := s.direct()
	c := dialLine(t, addr)
	for _, tt := range []struct {
		before func() error
		want   string
	}{
		{func() error { return nil }, "nearsight; fwd=miss; stored"},
		{func() error { return nil }, "nearsight; hit"},
		{func() error { return s.cache.Drop(img.Digest) }, "nearsight; fwd=miss; stored"},
		{func() error { return nil }, "nearsight; hit"},
	} {
		if err := tt.before(); err != nil {
			t.Fatal(err)
		}
		resp, _, err := c.get(img)
		if err != nil || resp.Header.Get("Cache-Status") != tt.want {
			t.Fatalf("%v, %v, want %s", resp, err, tt.want)
		}
	}
	if ordinary.Load() != 0 {
		t.Error("a request did not go the short way")
	}
}

// Once a change is acknowledged, nobody who asks after that sees what was before.
func TestNoAnswerIsOlderThanAnAcknowledgedChange(t *testing.T) {
	s := newSite(t, siteConfig{})
	img := s.add(pattern(100, 1), nil)
	addr, ordinary := s.direct()
	var asked, acked atomic.Int64 // requests, and the number in the image's name
	rename := func(n int64) {
		_, err := s.records.Update(t.Context(), img.ID, func(img *registry.Image) error {
			name := fmt.Sprintf("n%d", n)
			img.Name = &name
			return nil
		})
		if err != nil {
			t.Error(err)
		}
		acked.Store(n)
	}
	rename(1)
	stop := make(chan struct{})
	var clients sync.WaitGroup
	for range 4 {
		clients.Go(func() {
			var c *line
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				if i%10 == 0 { // the old one may have taken the ordinary way for good
					c = dialLine(t, addr)
				}
				asked.Add(1)
				least := acked.Load()
				resp, _, err := c.get(img)
				if err != nil {
					t.Error(err)
					return
				}
				var n int64
				if _, err := fmt.Sscanf(resp.Header.Get("Content-Disposition"), `attachment; filename="n%d"`, &n); err != nil || n < least {
					t.Errorf("after change %d: %s, %v", least, resp.Header.Get("Content-Disposition"), err)
					return
				}
			}
		})
	}
	for n := range int64(200) {
		rename(n + 2)
	}
	close(stop)
	clients.Wait()
	if asked.Load() == ordinary.Load() {
		t.Error("no request went the short way")
	}
}

// The records of requests in one buffer say what each was, although the buffer is
// used again.
func TestAccessRecordsOfTheShortWayKeepNothingOfTheBuffer(t *testing.T) {
	s := newSite(t, siteConfig{})
	img := s.add(pattern(chunk, 1), nil)
	addr, ordinary := s.direct()
	c := dialLine(t, addr)
	const n = 50
	for i := range n + 1 { // the record of one comes before the answer to the next
		if _, _, err := c.get(img, fmt.Sprintf("Range: bytes=%d-%d", i, 100+i)); err != nil {
			t.Fatal(err)
		}
	}
	c.Close()
	if ordinary.Load() != 0 {
		t.Error("a request did not go the short way")
	}
	seen := 0
	for text := range strings.Lines(s.log.String()) {
		var r struct{ Method, Path, Range, Route, Image, Cache, Remote string }
		if err := json.Unmarshal([]byte(text), &r); err != nil {
			t.Fatal(err)
		}
		if r.Route != dataRoute || r.Range == "" {
			continue
		}
		if want := fmt.Sprintf("bytes=%d-%d", seen, 100+seen); r.Range != want || r.Path != "/v2/images/"+img.ID+"/file" ||
			r.Method != "GET" || r.Image != img.ID || r.Cache == "" || r.Remote == "" {
			t.Errorf("record %d: %s", seen, text)
		}
		seen++
	}
	if seen < n {
		t.Errorf("%d records, want %d at least", seen, n)
	}
}
