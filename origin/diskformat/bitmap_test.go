package diskformat

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

// A pattern is a disk of clusters, of which some are in use.
func pattern(seed uint64, size int64, share float64) ([]byte, []bool) {
	r := rand.New(rand.NewPCG(seed, 1))
	disk := make([]byte, size)
	used := make([]bool, clusters(size))
	for c := range used {
		if used[c] = r.Float64() < share; used[c] {
			from := int64(c) * clusterSize
			disk[from+r.Int64N(min(clusterSize, size-from))] = 1
		}
	}
	return disk, used
}

func TestBitmapTellsWhatIsInUse(t *testing.T) {
	for _, tt := range []struct {
		name  string
		size  int64
		share float64
	}{
		{"nothing at all", 0, 0},
		{"one byte", 1, 1},
		{"a few, the last one short", 5*clusterSize + 17, 0.5},
		{"none in use", 700 * clusterSize, 0},
		{"all in use", 700 * clusterSize, 1},
		{"some of many", 1300*clusterSize - 1, 0.3},
		{"few of many", 1300 * clusterSize, 0.01},
	} {
		t.Run(tt.name, func(t *testing.T) {
			disk, used := pattern(7, tt.size, tt.share)
			var w BitmapWriter
			for rest, step := disk, 1; len(rest) > 0; step = step*3%100_003 + 1 {
				n := min(step, len(rest))
				w.Write(rest[:n])
				rest = rest[n:]
			}
			b := w.Bitmap()
			text, _ := b.AppendBinary(nil)
			again, err := DecodeBitmap(text)
			if err != nil {
				t.Fatal(err)
			}
			for _, b := range []*Bitmap{b, again} {
				rank := int64(0)
				for c, in := range used {
					if b.Has(int64(c)) != in || b.Rank(int64(c)) != rank {
						t.Fatalf("cluster %d: %v, rank %d; want %v, %d", c, b.Has(int64(c)), b.Rank(int64(c)), in, rank)
					}
					if in {
						if got := b.Select(rank); got != int64(c) {
							t.Fatalf("select %d: %d; want %d", rank, got, c)
						}
						rank++
					}
				}
				if b.Used() != rank || b.Size() != tt.size || b.Rank(clusters(tt.size)+99) != rank || b.Has(clusters(tt.size)) {
					t.Errorf("%d in use of %d bytes; want %d of %d", b.Used(), b.Size(), rank, tt.size)
				}
			}
		})
	}
}

func TestDecodeBitmapTakesNothingElse(t *testing.T) {
	disk, _ := pattern(3, 9*clusterSize, 0.5)
	var w BitmapWriter
	w.Write(disk)
	good, _ := w.Bitmap().AppendBinary(nil)
	for n := range good {
		if _, err := DecodeBitmap(good[:n]); err == nil {
			t.Errorf("%d bytes of it are taken", n)
		}
	}
	if _, err := DecodeBitmap(append(bytes.Clone(good), 0)); err == nil {
		t.Error("a byte more is taken")
	}
	beyond := bytes.Clone(good)
	beyond[len(beyond)-1] |= 0x80
	if _, err := DecodeBitmap(beyond); err == nil {
		t.Error("a cluster beyond the disk is taken")
	}
}

func FuzzDecodeBitmap(f *testing.F) {
	var w BitmapWriter
	w.Write(make([]byte, 100_000))
	good, _ := w.Bitmap().AppendBinary(nil)
	f.Add(good)
	f.Fuzz(func(t *testing.T, text []byte) {
		b, err := DecodeBitmap(text)
		if err != nil {
			return
		}
		if again, _ := b.AppendBinary(nil); !bytes.Equal(again, text) {
			t.Errorf("%x became %x", text, again)
		}
	})
}
