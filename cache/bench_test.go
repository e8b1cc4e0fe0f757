package cache

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"testing"
)

// loopback returns a connection whose other end reads and forgets.
func loopback(b *testing.B) net.Conn {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		io.Copy(io.Discard, c)
	}()
	w, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { w.Close(); l.Close(); <-done })
	return w
}

// BenchmarkHit sends ranges of a warm image over TCP by sendfile.
func BenchmarkHit(b *testing.B) {
	c := temp(b, Options{})
	im := newImage(1024*chunk, 40)
	wantAll(b, c, im)
	for _, n := range []int64{64 << 10, 1 << 20, 64 << 20} {
		b.Run(fmt.Sprintf("%dKiB", n>>10), func(b *testing.B) {
			w := loopback(b)
			b.SetBytes(n)
			for b.Loop() {
				r, err := c.Get(b.Context(), im.digest, im.size(), im)
				if err != nil {
					b.Fatal(err)
				}
				off := rand.Int64N(im.size() - n + 1)
				if _, err := r.Send(b.Context(), w, off, n); err != nil {
					b.Fatal(err)
				}
				r.Close()
			}
		})
	}
}

// BenchmarkFill reads a cold image of 64 MiB whose origin is memory.
func BenchmarkFill(b *testing.B) {
	c := temp(b, Options{})
	im := newImage(256*chunk, 41)
	b.SetBytes(im.size())
	for b.Loop() {
		if err := c.Warm(b.Context(), im.digest, im.size(), im, nil); err != nil {
			b.Fatal(err)
		}
		if err := c.Drop(im.digest); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkFillScattered reads a cold image of 64 MiB, a fifth of which is data in
// pieces of 1 MiB, and tells how often the origin is asked and how much it sends for
// each byte that is not zero.
func BenchmarkFillScattered(b *testing.B) {
	const n = 256
	var zero []int
	for i, piece := range rand.New(rand.NewPCG(5, 0)).Perm(n / 4) {
		if i >= n/4/5 {
			zero = append(zero, 4*piece, 4*piece+1, 4*piece+2, 4*piece+3)
		}
	}
	c := temp(b, Options{})
	im := newImage(n*chunk, 43, zero...)
	b.SetBytes(im.size())
	for b.Loop() {
		if err := c.Warm(b.Context(), im.digest, im.size(), im, nil); err != nil {
			b.Fatal(err)
		}
		if err := c.Drop(im.digest); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(im.Opens.Load())/float64(b.N), "requests/op")
	b.ReportMetric(float64(im.Bytes.Load())/float64(b.N*(n-len(zero))*chunk), "sent/data")
}

// BenchmarkVerifyInPlace serves a local file for the first time: hashing alone.
func BenchmarkVerifyInPlace(b *testing.B) {
	c := temp(b, Options{})
	im := newImage(256*chunk, 42)
	im.local = filepath.Join(c.path, "origin")
	if err := os.WriteFile(im.local, im.data, 0o600); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(im.size())
	for b.Loop() {
		if err := c.Warm(b.Context(), im.digest, im.size(), im, nil); err != nil {
			b.Fatal(err)
		}
		if err := c.Drop(im.digest); err != nil {
			b.Fatal(err)
		}
	}
}
