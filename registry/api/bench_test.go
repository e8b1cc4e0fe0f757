package api

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"nearsight/registry"
)

// A sink takes an answer and keeps nothing.
type sink struct {
	header http.Header
	status int
	n      int
}

func (s *sink) Header() http.Header         { return s.header }
func (s *sink) WriteHeader(status int)      { s.status = status }
func (s *sink) Write(p []byte) (int, error) { s.n += len(p); return len(p), nil }

func (s *sink) reset() {
	clear(s.header)
	s.status, s.n = 0, 0
}

func benchmarkGet(b *testing.B, g *rig, target string) {
	r := httptest.NewRequest("GET", target, nil)
	s := &sink{header: make(http.Header)}
	b.ReportAllocs()
	for b.Loop() {
		s.reset()
		g.ServeHTTP(s, r)
		if s.status != http.StatusOK {
			b.Fatalf("status %d", s.status)
		}
	}
	b.SetBytes(int64(s.n))
}

const benchImage = formats + `,"name":"debian-12-generic-amd64","tags":["debian","stable"],"hw_disk_bus":"scsi","hw_scsi_model":"virtio-scsi","os_type":"linux","os_distro":"debian"`

// The handler and the registry's database.
func BenchmarkShow(b *testing.B) {
	g := newRig(b)
	g.create(`"id":"` + id1 + `",` + benchImage)
	benchmarkGet(b, g, "/v2/images/"+id1)
}

// The handler alone: the record comes from memory, as at an edge.
func BenchmarkShowFromMemory(b *testing.B) {
	g := newRig(b)
	g.create(`"id":"` + id1 + `",` + benchImage)
	g.api.images = fixed{g.api.images, g.get(id1)}
	benchmarkGet(b, g, "/v2/images/"+id1)
}

// fixed is a registry that has one image at hand.
type fixed struct {
	registry.Images
	img *registry.Image
}

func (f fixed) Get(context.Context, string) (*registry.Image, error) { return f.img, nil }

func BenchmarkListPage(b *testing.B) {
	g := newRig(b)
	for i := range 100 {
		g.create(fmt.Sprintf(`"x":"%d",`, i) + benchImage)
	}
	benchmarkGet(b, g, "/v2/images?limit=25")
}

func BenchmarkImageText(b *testing.B) {
	g := newRig(b)
	g.create(`"id":"` + id1 + `",` + benchImage)
	img := g.get(id1)
	var text []byte
	b.ReportAllocs()
	for b.Loop() {
		text = appendImage(text[:0], img, &places{})
	}
	b.SetBytes(int64(len(text)))
}
