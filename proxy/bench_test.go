package proxy

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"testing"
	"time"

	"nearsight/registry"
)

// A benchClient asks one thing after the other over one connection, and reads
// the answers at little cost of its own.
type benchClient struct {
	c   net.Conn
	r   *bufio.Reader
	req *http.Request
}

func newBenchClient(b *testing.B, s *site) *benchClient {
	c, err := net.Dial("tcp", s.addr)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { c.Close() })
	return &benchClient{c, bufio.NewReaderSize(c, 64<<10), &http.Request{Method: "GET"}}
}

func (c *benchClient) get(b *testing.B, img *registry.Image, field string, status int) {
	c.getPath(b, "/v2/images/"+img.ID+"/file", field, status)
}

func (c *benchClient) getPath(b *testing.B, path, field string, status int) {
	fmt.Fprintf(c.c, "GET %s HTTP/1.1\r\nHost: x\r\n%s\r\n\r\n", path, field)
	resp, err := http.ReadResponse(c.r, c.req)
	if err != nil || resp.StatusCode != status {
		b.Fatalf("%v %v", resp, err)
	}
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		b.Fatal(err)
	}
}

const benchSize = 64 << 20

// benchSite returns a site with one image that is whole in the cache.
func benchSite(b *testing.B, cfg siteConfig) (*site, *registry.Image) {
	s := newSite(b, cfg)
	img := s.add(pattern(benchSize, 1), nil)
	if a := s.file("GET", img, "X-Auth-Token: admin"); len(a.body) != benchSize {
		b.Fatalf("%d bytes", len(a.body))
	}
	return s, img
}

func benchRanges(b *testing.B, size int) {
	s, img := benchSite(b, siteConfig{})
	c := newBenchClient(b, s)
	rng := rand.New(rand.NewPCG(1, 2))
	b.SetBytes(int64(size))
	b.ReportAllocs()
	for b.Loop() {
		off := rng.IntN(benchSize/size) * size
		c.get(b, img, fmt.Sprintf("Range: bytes=%d-%d", off, off+size-1), 206)
	}
}

func BenchmarkHit1MiB(b *testing.B)          { benchRanges(b, 1<<20) }
func BenchmarkRandomRange64KiB(b *testing.B) { benchRanges(b, 64<<10) }

func BenchmarkWholeImage64MiB(b *testing.B) {
	s, img := benchSite(b, siteConfig{})
	c := newBenchClient(b, s)
	b.SetBytes(benchSize)
	for b.Loop() {
		c.get(b, img, "X: y", 200)
	}
}

func BenchmarkNotModified(b *testing.B) {
	s, img := benchSite(b, siteConfig{})
	c := newBenchClient(b, s)
	b.ReportAllocs()
	for b.Loop() {
		c.get(b, img, `If-None-Match: "`+string(img.Digest)+`"`, 304)
	}
}

func BenchmarkDecide(b *testing.B) {
	h := header(`If-None-Match: "x"`, "Range: bytes=0-511,-512")
	now := time.Now()
	b.ReportAllocs()
	for b.Loop() {
		decide("GET", h, testRep, now)
	}
}
