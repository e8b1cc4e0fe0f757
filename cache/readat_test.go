package cache

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"testing"
)

func TestReadAtReadsAnyBytesAndNoOtherChunks(t *testing.T) {
	for _, always := range []bool{false, true} {
		im := newImage(9*chunk+777, 1, 2, 3, 9)
		c := open(t, t.TempDir(), Options{VerifyAlways: always})
		r, err := c.Get(t.Context(), im.digest, im.size(), im)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		p := make([]byte, 1000)
		if n, err := r.ReadAt(t.Context(), p, 5*chunk-500); n != len(p) || err != nil || !bytes.Equal(p, im.data[5*chunk-500:5*chunk+500]) {
			t.Errorf("over the end of a chunk: %d, %v", n, err)
		}
		if got := im.Bytes.Load(); got != 2*chunk {
			t.Errorf("the source gave %d bytes for two chunks", got)
		}
		if n, err := r.ReadAt(t.Context(), p, 2*chunk+5); n != len(p) || err != nil || !bytes.Equal(p, make([]byte, len(p))) {
			t.Errorf("known zeros: %d, %v", n, err)
		}
		if got := im.Bytes.Load(); got != 2*chunk {
			t.Errorf("the source gave %d bytes, some for zeros", got)
		}
		rng := rand.New(rand.NewPCG(1, 1))
		for range 300 {
			off := rng.Int64N(im.size() + 10)
			p := make([]byte, rng.IntN(3*chunk))
			want := im.data[min(off, im.size()):min(off+int64(len(p)), im.size())]
			n, err := r.ReadAt(t.Context(), p, off)
			if short := len(want) < len(p); n != len(want) || !bytes.Equal(p[:n], want) || short != (err == io.EOF) || !short && err != nil {
				t.Fatalf("%d bytes at %d: %d, %v", len(p), off, n, err)
			}
		}
	}
}

func TestReadAtEndsWithItsContext(t *testing.T) {
	im := newImage(chunk, 1)
	c := open(t, t.TempDir(), Options{})
	r, err := c.Get(t.Context(), im.digest, im.size(), im)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if n, err := r.ReadAt(ctx, make([]byte, 10), 0); n != 0 || err == nil {
		t.Errorf("%d, %v", n, err)
	}
}

func TestZerosTellsWhatTheManifestKnows(t *testing.T) {
	// 70 chunks of data, which end in another extent, then 60 of zeros to the end.
	zero := make([]int, 0, 61)
	for i := 70; i < 131; i++ {
		zero = append(zero, i)
	}
	im := newImage(130*chunk+9, 1, append(zero, 3)...)
	c := open(t, t.TempDir(), Options{})
	r, err := c.Get(t.Context(), im.digest, im.size(), im)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for _, tt := range []struct {
		off, n int64
		zero   bool
	}{
		{0, 3 * chunk, false},
		{chunk + 1, 2*chunk - 1, false},
		{3 * chunk, chunk, true},
		{4 * chunk, 66 * chunk, false},
		{70 * chunk, 60*chunk + 9, true},
		{130*chunk + 8, 1, true},
	} {
		if n, zero := r.Zeros(tt.off); n != tt.n || zero != tt.zero {
			t.Errorf("from %d on: %d, %v; want %d, %v", tt.off, n, zero, tt.n, tt.zero)
		}
	}
	if im.Opens.Load() != 0 {
		t.Error("the source was asked")
	}
}
