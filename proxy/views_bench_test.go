package proxy

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"nearsight/origin/diskformat"
	"nearsight/registry"
)

// BenchmarkViewRandom64KiB reads 64 KiB anywhere in each view of a disk that is stored
// raw, and in the raw view of what qemu-img made of it, all from the cache; plain is the
// stored file, on the way that a view has too.
func BenchmarkViewRandom64KiB(b *testing.B) {
	const size, piece = 64 << 20, 64 << 10
	s := newSite(b, siteConfig{})
	disk := patches(size, 1)
	images := map[string]*registry.Image{
		"raw":         s.add(disk, nil),
		"plain-qcow2": s.add(imaged(b, disk, "qcow2", ""), as("qcow2", "bare")),
		"zstd-qcow2":  s.add(imaged(b, disk, "qcow2", "compression_type=zstd"), as("qcow2", "bare")),
		"zlib-qcow2":  s.add(imaged(b, disk, "qcow2", "compression_type=zlib"), as("qcow2", "bare")),
		"vhdx":        s.add(imaged(b, disk, "vhdx", ""), as("vhdx", "bare")),
	}
	read := func(b *testing.B, path string) {
		whole := s.do("HEAD", path).ContentLength
		if a := s.do("GET", path); int64(len(a.body)) != whole {
			b.Fatalf("%d bytes of %d", len(a.body), whole)
		}
		c := newBenchClient(b, s)
		rng := rand.New(rand.NewPCG(1, 2))
		b.SetBytes(piece)
		b.ReportAllocs()
		for b.Loop() {
			off := rng.Int64N(whole - piece)
			c.getPath(b, path, fmt.Sprintf("Range: bytes=%d-%d", off, off+piece-1), 206)
		}
	}
	b.Run("raw/plain", func(b *testing.B) {
		// The query keeps it off the short way, which is no view's.
		read(b, "/v2/images/"+images["raw"].ID+"/file?")
	})
	for _, name := range diskformat.ViewNames() {
		b.Run("raw/"+name, func(b *testing.B) { read(b, viewPath(images["raw"], name)) })
	}
	for _, stored := range []string{"plain-qcow2", "zstd-qcow2", "zlib-qcow2", "vhdx"} {
		b.Run(stored+"/raw", func(b *testing.B) { read(b, viewPath(images[stored], "raw")) })
	}
}

// BenchmarkViewWhole64MiB reads views from end to end.
func BenchmarkViewWhole64MiB(b *testing.B) {
	s, img := benchSite(b, siteConfig{})
	for _, name := range diskformat.ViewNames() {
		b.Run(name, func(b *testing.B) {
			c := newBenchClient(b, s)
			b.SetBytes(benchSize)
			b.ReportAllocs()
			for b.Loop() {
				c.getPath(b, viewPath(img, name), "X: y", 200)
			}
		})
	}
}
