package origin_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"nearsight/origin"
)

func TestChunks(t *testing.T) {
	const (
		ki = 1 << 10
		mi = 1 << 20
		gi = 1 << 30
		ti = 1 << 40
	)
	for _, tt := range []struct {
		name   string
		size   int64
		chunk  int64
		chunks int
	}{
		{"nothing", 0, 256 * ki, 0},
		{"one byte", 1, 256 * ki, 1},
		{"a chunk less one byte", 256*ki - 1, 256 * ki, 1},
		{"a chunk", 256 * ki, 256 * ki, 1},
		{"a chunk and a byte", 256*ki + 1, 256 * ki, 2},
		{"as much as the smallest chunks hold", 64 * gi, 256 * ki, 1 << 18},
		{"one byte more", 64*gi + 1, 512 * ki, 1<<17 + 1},
		{"twice that", 128 * gi, 512 * ki, 1 << 18},
		{"1 TiB", ti, 4 * mi, 1 << 18},
		{"1 TiB and a byte", ti + 1, 8 * mi, 1<<17 + 1},
		{"half of the greatest size", origin.MaxSize / 2, 16 * ti, 1 << 18},
		{"the greatest size", origin.MaxSize, 32 * ti, 1 << 18},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if c, n := origin.ChunkSize(tt.size), origin.Chunks(tt.size); c != tt.chunk || n != tt.chunks {
				t.Errorf("%d bytes are %d chunks of %d; want %d of %d", tt.size, n, c, tt.chunks, tt.chunk)
			}
		})
	}
}

func TestZeroSum(t *testing.T) {
	for _, n := range []int64{0, 1, 64<<10 - 1, 64 << 10, 64<<10 + 1, 256 << 10, 1 << 20} {
		if got, want := origin.ZeroSum(n), sha256.Sum256(make([]byte, n)); got != want {
			t.Errorf("ZeroSum(%d) = %x; want %x", n, got, want)
		}
	}
	if got, want := origin.ZeroSum(-1), sha256.Sum256(nil); got != want {
		t.Errorf("ZeroSum(-1) = %x; want %x", got, want)
	}
}

func TestChunkSums(t *testing.T) {
	data := bytes.Repeat([]byte("nearsight"), 100)
	for _, tt := range []struct {
		name  string
		size  int
		chunk int64
		max   int
		ok    bool
	}{
		{"nothing", 0, 64, 0, true},
		{"a part of a chunk", 63, 64, 1, true},
		{"one chunk", 64, 64, 1, true},
		{"one byte too much", 65, 64, 1, false},
		{"the last chunk is short", 129, 64, 3, true},
		{"far too much", 900, 64, 3, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var want []byte
			for b := data[:tt.size]; len(b) > 0 && tt.ok; b = b[min(len(b), int(tt.chunk)):] {
				sum := sha256.Sum256(b[:min(len(b), int(tt.chunk))])
				want = append(want, sum[:]...)
			}
			for _, piece := range []int{1, 63, 64, 65, 1000} {
				if got, ok := origin.SumChunks(tt.chunk, tt.max, data[:tt.size], piece); ok != tt.ok || !bytes.Equal(got, want) {
					t.Errorf("in pieces of %d: %x, %v; want %x, %v", piece, got, ok, want, tt.ok)
				}
			}
		})
	}
}

// encoded returns an encoding with any numbers in it.
func encoded(size, chunk uint64, sums int) []byte {
	b := binary.BigEndian.AppendUint64([]byte("nsmanif1"), size)
	b = binary.BigEndian.AppendUint64(b, chunk)
	return append(b, make([]byte, sums)...)
}

func TestDecodeManifest(t *testing.T) {
	const k = 1 << 10
	for _, tt := range []struct {
		name string
		b    []byte
		ok   bool
	}{
		{"an empty image", encoded(0, 256*k, 0), true},
		{"two chunks", encoded(256*k+1, 256*k, 64), true},
		{"no bytes", nil, false},
		{"half a header", encoded(0, 256*k, 0)[:23], false},
		{"another magic", append([]byte("nsmanif2"), encoded(0, 256*k, 0)[8:]...), false},
		{"a sum too many", encoded(1, 256*k, 64), false},
		{"a sum too few", encoded(256*k+1, 256*k, 32), false},
		{"a part of a sum", encoded(1, 256*k, 31), false},
		{"chunks too long", encoded(1, 512*k, 32), false},
		{"chunks too short", encoded(1, 128*k, 32), false},
		{"chunks of nothing", encoded(1, 0, 32), false},
		{"a negative size", encoded(1<<63, 256*k, 0), false},
		{"the greatest size without its sums", encoded(1<<63-1, 32<<40, 0), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := origin.DecodeManifest(tt.b)
			if tt.ok != (err == nil) || err != nil && !errors.Is(err, origin.ErrManifest) {
				t.Errorf("error %v; want one: %v", err, !tt.ok)
			}
		})
	}
}

func TestParseDigest(t *testing.T) {
	good := strings.Repeat("0123456789abcdef", 4)
	for _, tt := range []struct {
		name, s string
		ok      bool
	}{
		{"64 digits", good, true},
		{"none", "", false},
		{"63 digits", good[1:], false},
		{"65 digits", good + "0", false},
		{"upper case", strings.ToUpper(good), false},
		{"a path", "../" + good[3:], false},
		{"NUL", "\x00" + good[1:], false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d, err := origin.ParseDigest(tt.s)
			if tt.ok != (err == nil) || err != nil && !errors.Is(err, origin.ErrManifest) || tt.ok && string(d) != tt.s {
				t.Errorf("%q, error %v", d, err)
			}
		})
	}
}

// Whatever is decoded is what Encode writes, so that equal images have one
// digest; and it can be used without a panic.
func FuzzDecodeManifest(f *testing.F) {
	f.Add([]byte{})
	f.Add(encoded(0, 256<<10, 0))
	f.Add(encoded(1, 256<<10, 32))
	f.Add(encoded(256<<10+1, 256<<10, 64))
	f.Add(encoded(1<<63-1, 32<<40, 32))
	f.Add(encoded(1<<64-1, 0, 0))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := origin.DecodeManifest(b)
		if err != nil {
			if !errors.Is(err, origin.ErrManifest) {
				t.Errorf("error %v", err)
			}
			return
		}
		if !bytes.Equal(m.Encode(), b) {
			t.Errorf("%x was decoded, and is encoded as %x", b, m.Encode())
		}
		for i := range origin.Chunks(m.Size) {
			if sum := m.Sum(i); !bytes.Equal(sum[:], m.Sums[32*i:32*i+32]) {
				t.Errorf("sum %d is %x", i, sum)
			}
		}
	})
}

// A manifest with the right number of sums survives encoding.
func FuzzEncodeManifest(f *testing.F) {
	f.Add(int64(0), byte(0))
	f.Add(int64(1), byte(1))
	f.Add(int64(256<<10+1), byte(2))
	f.Fuzz(func(t *testing.T, size int64, fill byte) {
		size &= 1<<36 - 1 // up to 64 GiB: 8 MiB of sums
		m := origin.Manifest{Size: size, Sums: bytes.Repeat([]byte{fill}, 32*origin.Chunks(size))}
		got, err := origin.DecodeManifest(m.Encode())
		if err != nil || got.Size != m.Size || !bytes.Equal(got.Sums, m.Sums) {
			t.Errorf("a manifest of %d bytes came back as one of %+v, error %v", size, got, err)
		}
	})
}
