package cache

import (
	"fmt"
	"math/bits"
	"math/rand/v2"
	"testing"

	"nearsight/origin/origintest"
)

func TestGapOf(t *testing.T) {
	const d = 'd'
	for _, tt := range []struct {
		name   string
		layout string // of chunks, d for data
		repeat int
		want   int
	}{
		{"nothing", "", 1, 0},
		{"zeros alone", "z", 200, 0},
		{"data alone", "d", 200, 0},
		{"data in the middle", "zzzdddzzz", 1, 0},
		{"one gap in less than an extent", "zdzzd", 1, 2},
		{"the shortest gaps that suffice", "dzdzzdzzzd", 1, 3},
		{"a gap at the edge of an extent is none", fmt.Sprintf("%-64s%s", "d", "d"), 1, 0},
		{"an extent of zeros makes up for a gap", fmt.Sprintf("%-128s", "d   d"), 1, 0},
		{"data that is too thin", "d" + fmt.Sprintf("%62s", "") + "d", 1, 0},
		{"data that is thin but worth it", "ddddddddddd" + fmt.Sprintf("%42s", "") + "ddddddddddd", 1, 42},
		{"chunks by turns", "dz", 128, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var zero []uint64
			n := 0
			for range tt.repeat {
				for _, c := range tt.layout {
					if n%chunksPerExtent == 0 {
						zero = append(zero, 0)
					}
					if c != d {
						zero[n/chunksPerExtent] |= 1 << (n % chunksPerExtent)
					}
					n++
				}
			}
			if got := gapOf(zero, n); got != tt.want {
				t.Errorf("%d, want %d", got, tt.want)
			}
		})
	}
}

func TestRunLength(t *testing.T) {
	for _, tt := range []struct {
		name             string
		want, zero       uint64
		bit, gap, length int
	}{
		{"one chunk", 1, ^uint64(1), 0, 63, 1},
		{"a whole extent", ^uint64(0), 0, 0, 0, 64},
		{"up to what is not wanted", 0b0111, 0, 0, 9, 3},
		{"over zeros", 0b11011, 0b00100, 0, 1, 5},
		{"not over too many", 0b1100011, 0b0011100, 0, 2, 2},
		{"not over what is here already", 0b11011, 0, 0, 9, 2},
		{"not over zeros and what is here", 0b1100011, 0b0001100, 0, 9, 2},
		{"not up to zeros at the end", 0b011, ^uint64(0b011), 0, 63, 2},
		{"from the middle", 1<<60 | 1<<63, 1<<61 | 1<<62, 60, 2, 4},
		{"over zeros again and again", 0x5555555555555555, 0xAAAAAAAAAAAAAAAA, 0, 1, 63},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := runLength(tt.want, tt.zero, tt.bit, tt.gap); got != tt.length {
				t.Errorf("%d, want %d", got, tt.length)
			}
		})
	}
}

// scattered returns an image of n chunks of which about so many in a hundred are
// data, in pieces of up to piece chunks.
func scattered(n, percent, piece int, rnd *rand.Rand) *image {
	var zero []int
	for i := 0; i < n; {
		k := min(1+rnd.IntN(piece), n-i)
		if rnd.IntN(100) >= percent {
			for j := range k {
				zero = append(zero, i+j)
			}
		}
		i += k
	}
	return newImage(n*chunk, rnd.Uint64(), zero...)
}

// Whatever its zeros: an image that is pulled cold from its first to its last byte
// is had in a request for 16 MiB, and each chunk that is not zero once, as long as
// that costs no more than so many zeros.
func TestAColdPullAsksOnceForEachExtent(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for _, percent := range []int{25, 90} {
		for _, piece := range []int{1, 4, 16, 64} {
			t.Run(fmt.Sprintf("%d %% in pieces of %d", percent, piece), func(t *testing.T) {
				c := temp(t, Options{})
				im := scattered(200, percent, piece, rnd)
				wantAll(t, c, im)
				s, data := c.Stats(), im.size()-dataOf(c, im)
				if s.FilledBytes != data || im.Bytes.Load() != s.FilledBytes+s.OverreadBytes || s.OverreadBytes > maxOverread*data {
					t.Errorf("%d bytes of data, %d from the origin, stats %+v", data, im.Bytes.Load(), s)
				}
				// Reading over one gap more would have cost too much.
				if opens := im.Opens.Load(); opens > 4 && s.OverreadBytes < data/2 {
					t.Errorf("%d opens for four extents, and %d bytes read over for %d", opens, s.OverreadBytes, data)
				}
			})
		}
	}
}

// dataOf returns the bytes of im that are known to be zeros.
func dataOf(c *Cache, im *image) int64 {
	info, err := c.Entry(im.digest)
	if err != nil {
		panic(err)
	}
	return info.Zero
}

// A range waits for its own chunks and little else.
func TestARangeIsNotReadOverFarZeros(t *testing.T) {
	c := temp(t, Options{})
	var zero []int
	for i := range 64 {
		if i%8 >= 4 && i < 60 || i >= 16 && i < 24 {
			zero = append(zero, i)
		}
	}
	im := newImage(64*chunk, 1, zero...)
	want(t, c, im, 0, 12*chunk) // four zeros in it
	settle(c)
	if s := c.Stats(); im.Opens.Load() != 1 || s.FilledBytes != 8*chunk || s.OverreadBytes != 4*chunk {
		t.Errorf("%d opens, stats %+v", im.Opens.Load(), s)
	}
	want(t, c, im, 14*chunk, 18*chunk) // ten zeros before the data
	want(t, c, im, 40*chunk, 100)
	settle(c)
	if s := c.Stats(); im.Opens.Load() != 3 || s.FilledBytes != 13*chunk || s.OverreadBytes != 4*chunk {
		t.Errorf("%d opens, stats %+v", im.Opens.Load(), s)
	}
}

// A body that breaks off among zeros is taken up at the next chunk that is not one,
// and what the origin says of zeros need not be right.
func TestZerosThatAreReadOverMayBreakOffOrBeWrong(t *testing.T) {
	for _, tt := range []struct {
		name         string
		faults       origintest.Faults
		opens        int64
		overread, at int64
	}{
		{"whole", origintest.Faults{}, 1, 6 * chunk, 0},
		{"wrong", origintest.Faults{Flip: []int64{12 * chunk, 13*chunk + 5}}, 1, 6 * chunk, 0},
		{"cut", origintest.Faults{Cut: new(int64(12*chunk + 100)), Nth: 1}, 2, 2*chunk + 100, 0},
		{"cut before", origintest.Faults{Cut: new(int64(10 * chunk)), Nth: 1}, 2, 0, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := temp(t, Options{})
			im := newImage(64*chunk, 1, 10, 11, 12, 13, 14, 15)
			im.Inject(tt.faults)
			wantAll(t, c, im)
			settle(c)
			s := c.Stats()
			if s.FilledBytes != 58*chunk || s.OverreadBytes != tt.overread || im.Opens.Load() != tt.opens || s.CorruptChunks != 0 {
				t.Errorf("%d opens, stats %+v", im.Opens.Load(), s)
			}
		})
	}
}

// What is here already is fetched over by nobody.
func TestWhatIsHereIsNotReadOver(t *testing.T) {
	c := temp(t, Options{})
	im := newImage(64*chunk, 1, 10, 11, 40)
	want(t, c, im, 20*chunk, chunk)
	wantAll(t, c, im)
	settle(c)
	if s := c.Stats(); s.FilledBytes != 61*chunk || s.OverreadBytes != 3*chunk || im.Opens.Load() != 3 {
		t.Errorf("%d opens, stats %+v", im.Opens.Load(), s)
	}
}

func FuzzRunLength(f *testing.F) {
	f.Add(uint64(0b11011), uint64(0b00100), 0, 1)
	f.Add(^uint64(0), uint64(0), 63, 0)
	f.Fuzz(func(t *testing.T, want, zero uint64, bit, gap int) {
		bit, gap = bit&63, gap&63
		want &^= zero
		want |= 1 << bit
		zero &^= 1 << bit
		n := runLength(want, zero, bit, gap)
		if n < 1 || bit+n > 64 {
			t.Fatalf("length %d from %d", n, bit)
		}
		run := ^uint64(0) >> (64 - n) << bit
		if run&^(want|zero) != 0 || want>>(bit+n-1)&1 == 0 {
			t.Fatalf("run %b of %b over %b", run, want, zero)
		}
		for over := run & zero; over != 0; {
			from := bits.TrailingZeros64(over)
			k := bits.TrailingZeros64(^(over >> from))
			if k > gap {
				t.Fatalf("%d zeros in a row, more than %d", k, gap)
			}
			over &^= (1<<k - 1) << from
		}
	})
}
