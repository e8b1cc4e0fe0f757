package diskformat

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

// u64 reads a big-endian number.
func u64(b []byte, at uint64) uint64 { return binary.BigEndian.Uint64(b[at:]) }

// l2Of returns the places of the first L2 table of a qcow2 and of its first used entry.
func l2Of(b []byte) (table, entry uint64) {
	table = u64(b, u64(b, 40)) & offsetMask
	for entry = table; u64(b, entry) == 0; {
		entry += 8
	}
	return table, entry
}

func TestWalkRefuses(t *testing.T) {
	dir, _ := corpus(t)
	for _, tt := range []struct {
		rule, name, file string
		format           Format
		edit             func(b []byte) []byte
		slug             string
	}{
		{"W1", "L2 table beyond the file", "v3.qcow2", QCOW2, func(b []byte) []byte {
			return be(int(u64(b, 40)), 8, 1<<40)(b)
		}, "qcow2-truncated"},
		{"W1", "data beyond the file", "v3.qcow2", QCOW2, func(b []byte) []byte {
			_, e := l2Of(b)
			return be(int(e), 8, 1<<40|1<<63)(b)
		}, "qcow2-truncated"},
		{"W1", "file that lost its last clusters", "v3.qcow2", QCOW2, func(b []byte) []byte { return b[:len(b)-128<<10] }, "qcow2-truncated"},
		{"W1", "compressed cluster beyond the file", "v3-zlib.qcow2", QCOW2, func(b []byte) []byte {
			_, e := l2Of(b)
			return be(int(e), 8, u64(b, e)|1<<40)(b)
		}, "qcow2-truncated"},
		{"W1", "refcounts beyond the file", "v3.qcow2", QCOW2, be(48, 8, 1<<40), "qcow2-truncated"},
		{"Q7", "snapshots beyond the file", "v3.qcow2", QCOW2, func(b []byte) []byte {
			return be(64, 8, 1<<40)(be(60, 4, 1)(b))
		}, "qcow2-snapshots"},
		{"W2", "L2 table that is the L1 table", "v3.qcow2", QCOW2, func(b []byte) []byte {
			return be(int(u64(b, 40)), 8, u64(b, 40)|1<<63)(b)
		}, "qcow2-overlap"},
		{"W2", "data that is its L2 table", "v3.qcow2", QCOW2, func(b []byte) []byte {
			table, e := l2Of(b)
			return be(int(e), 8, table|1<<63)(b)
		}, "qcow2-overlap"},
		{"W2", "data that is the header", "v3-512.qcow2", QCOW2, func(b []byte) []byte {
			_, e := l2Of(b)
			return be(int(e), 8, u64(b, 48)|1<<63)(b)
		}, "qcow2-overlap"},
		{"W2", "data mapped twice", "v3.qcow2", QCOW2, func(b []byte) []byte {
			_, e := l2Of(b)
			return be(int(e)+8, 8, u64(b, e))(b)
		}, "qcow2-overlap"},
		{"W2", "data mapped twice with extended L2", "v3-extl2.qcow2", QCOW2, func(b []byte) []byte {
			_, e := l2Of(b)
			return be(int(e)+16, 8, u64(b, e))(b)
		}, "qcow2-overlap"},
		{"W2", "compressed cluster mapped twice", "v3-zlib.qcow2", QCOW2, func(b []byte) []byte {
			_, e := l2Of(b)
			return be(int(e)+8, 8, u64(b, e))(b)
		}, "qcow2-overlap"},
		{"W2", "compressed cluster in a table", "v3-zlib.qcow2", QCOW2, func(b []byte) []byte {
			_, e := l2Of(b)
			return be(int(e), 8, u64(b, 40)|1<<62)(b)
		}, "qcow2-overlap"},
		{"W2", "plain cluster among compressed ones", "v3-zlib.qcow2", QCOW2, func(b []byte) []byte {
			_, e := l2Of(b)
			return be(int(e)+16, 8, u64(b, e)&(1<<54-1)&^65535|1<<63)(b)
		}, "qcow2-overlap"},
		{"W3", "L2 table within a cluster", "v3.qcow2", QCOW2, func(b []byte) []byte {
			table, _ := l2Of(b)
			return be(int(u64(b, 40)), 8, table+512)(b)
		}, "qcow2-table"},
		{"W3", "data within a cluster", "v3.qcow2", QCOW2, func(b []byte) []byte {
			_, e := l2Of(b)
			return be(int(e), 8, u64(b, e)+512)(b)
		}, "qcow2-table"},

		{"W1", "grain directory beyond the file", "sparse.vmdk", VMDK, le(56, 8, 1<<30), "vmdk-truncated"},
		{"W1", "file that lost its last grains", "sparse.vmdk", VMDK, func(b []byte) []byte { return b[:len(b)-128<<10] }, "vmdk-truncated"},
		{"W2", "grain directory in the header", "sparse.vmdk", VMDK, le(56, 8, 1), "vmdk-overlap"},
		{"W2", "grain table that is its directory", "sparse.vmdk", VMDK, func(b []byte) []byte {
			at := binary.LittleEndian.Uint64(b[56:])
			return le(int(at)*512, 4, at)(b)
		}, "vmdk-overlap"},
		{"W2", "grain mapped twice", "sparse.vmdk", VMDK, twiceVMDK, "vmdk-overlap"},
		{"W2", "compressed grain mapped twice", "stream.vmdk", VMDK, twiceVMDK, "vmdk-overlap"},

		{"W1", "block beyond the file", "dyn.vhd", VHD, be(1536, 4, 1<<24), "vhd-truncated"},
		{"W1", "block table beyond the file", "dyn.vhd", VHD, be(512+16, 8, 1<<40), "vhd-truncated"},
		{"W1", "fixed VHD that is short", "fixed.vhd", VHD, func(b []byte) []byte { return b[512:] }, "vhd-truncated"},
		{"W2", "block mapped twice", "dyn.vhd", VHD, func(b []byte) []byte { copy(b[1540:1544], b[1536:1540]); return b }, "vhd-overlap"},
		{"W2", "block table that is the header", "dyn.vhd", VHD, be(512+16, 8, 512), "vhd-overlap"},
		{"W2", "block in the block table", "dyn.vhd", VHD, be(1536, 4, 3), "vhd-overlap"},

		{"W1", "block beyond the file", "dyn-1m.vhdx", VHDX, editBAT(func(bat []byte) { binary.LittleEndian.PutUint64(bat, 1<<40|vhdxPresent) }), "vhdx-truncated"},
		{"W2", "block mapped twice", "dyn-1m.vhdx", VHDX, editBAT(func(bat []byte) {
			binary.LittleEndian.PutUint64(bat, 8<<20|vhdxPresent)
			binary.LittleEndian.PutUint64(bat[8:], 8<<20|vhdxPresent)
		}), "vhdx-overlap"},
		{"W2", "block that is the block table", "dyn-1m.vhdx", VHDX, editBAT(func(bat []byte) { binary.LittleEndian.PutUint64(bat, vhdxPresent) }), "vhdx-overlap"},
		{"X1", "block that is partly here", "dyn-1m.vhdx", VHDX, editBAT(func(bat []byte) { bat[0] = vhdxPartly }), "vhdx-parent"},

		{"W1", "block beyond the file", "dyn.vdi", VDI, func(b []byte) []byte {
			return le(int(binary.LittleEndian.Uint32(b[0x154:])), 4, 16)(b)
		}, "vdi-truncated"},
		{"W2", "block mapped twice", "dyn.vdi", VDI, func(b []byte) []byte {
			at := binary.LittleEndian.Uint32(b[0x154:])
			copy(b[at+4:at+8], b[at:at+4])
			return b
		}, "vdi-overlap"},
		{"W2", "data in the map", "dyn.vdi", VDI, le(0x158, 4, 512), "vdi-overlap"},
	} {
		t.Run(tt.rule+" "+string(tt.format)+" "+tt.name, func(t *testing.T) {
			data := tt.edit(readSample(t, dir, tt.file))
			err := Walk(context.Background(), bytes.NewReader(data), int64(len(data)), tt.format, Limits{})
			if got := slug(t, err); got != tt.slug {
				t.Errorf("%v, want %s", err, tt.slug)
			}
		})
	}
}

// twiceVMDK maps the second grain of a VMDK to the place of the first.
func twiceVMDK(b []byte) []byte {
	le := binary.LittleEndian
	at := le.Uint64(b[56:])
	if at == vmdkAtEnd {
		at = le.Uint64(b[len(b)-1024+56:])
	}
	table := b[int(le.Uint32(b[at*512:]))*512:]
	copy(table[4:8], table[:4])
	return b
}

// editBAT returns an edit of the block table of a VHDX.
func editBAT(edit func(bat []byte)) func([]byte) []byte {
	return func(b []byte) []byte {
		v := new(vhdxInfo)
		if err := v.parseRegions(b[vhdxRegions : vhdxRegions+vhdxTable]); err != nil {
			panic(err)
		}
		edit(b[v.bat:])
		return b
	}
}

// Places of compressed clusters are compared also if there are more than are kept.
func TestWalkFindsACompressedClusterTwiceAmongMany(t *testing.T) {
	dir, _ := corpus(t)
	data := readSample(t, dir, "v3-zlib.qcow2")
	try := func(data []byte, most int) error {
		w := &walk{ctx: context.Background(), r: bytes.NewReader(data), size: int64(len(data)), format: QCOW2, limits: Limits{}.WithDefaults()}
		return w.qcow2Starts(most)
	}
	for _, most := range []int{2, 5, 30, maxStarts} {
		if err := try(data, most); err != nil {
			t.Errorf("%d kept: %v", most, err)
		}
	}
	// The last compressed cluster of the disk begins where the first does.
	var first, last uint64
	table, _ := l2Of(data)
	for e := table; e < table+clusterSize; e += 8 {
		if u64(data, e)&compressedFlag != 0 {
			if first == 0 {
				first = e
			}
			last = e
		}
	}
	copy(data[last:last+8], data[first:first+8])
	for _, most := range []int{2, 5, 30, maxStarts} {
		if err := try(data, most); slug(t, err) != "qcow2-overlap" {
			t.Errorf("%d kept: %v", most, err)
		}
	}
}

func TestClaimsAreEachTakenOnce(t *testing.T) {
	const units = 3*pageUnits + 100
	random := rand.New(rand.NewPCG(3, 3))
	c, want := newClaims(512, units*512), make([]bool, units)
	for range 20000 {
		first := random.Int64N(units)
		last := min(units-1, first+random.Int64N(1<<random.IntN(10)))
		free := true
		for i := first; i <= last; i++ {
			if c.has(i) != want[i] {
				t.Fatalf("unit %d: %v", i, c.has(i))
			}
			free = free && !want[i]
		}
		if !free {
			continue // a walk ends at the first overlap
		}
		if !c.take(first, last) {
			t.Fatalf("%d to %d were free", first, last)
		}
		for i := first; i <= last; i++ {
			want[i] = true
		}
	}
	for i := range int64(units) {
		if c.take(i, i) == want[i] {
			t.Fatalf("unit %d: taken before %v", i, want[i])
		}
	}
	for i, page := range c.pages[:3] {
		if page != &c.full {
			t.Errorf("page %d is kept and is full", i)
		}
	}
}

func TestWalkStopsWithItsContext(t *testing.T) {
	dir, _ := corpus(t)
	data := readSample(t, dir, "v3.qcow2")
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := Walk(ctx, bytes.NewReader(data), int64(len(data)), QCOW2, Limits{}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// A meter counts the bytes that are read.
type meter struct {
	r io.ReaderAt
	n int64
}

func (m *meter) ReadAt(p []byte, off int64) (int, error) {
	n, err := m.r.ReadAt(p, off)
	m.n += int64(n)
	return n, err
}

// Each table is read once, and no data.
func TestWalkReadsTablesOnce(t *testing.T) {
	dir, _ := corpus(t)
	for file, most := range map[string]int64{"v3-full.qcow2": 1<<20 + 300<<10, "v3-zlib.qcow2": 1<<20 + 300<<10, "dyn.vdi": 4 << 10, "dyn.vhd": 4 << 10, "sparse.vmdk": 16 << 10} {
		data := readSample(t, dir, file)
		m := &meter{r: bytes.NewReader(data)}
		format := Format(filepath.Ext(file)[1:])
		if err := Walk(context.Background(), m, int64(len(data)), format, Limits{}); err != nil || m.n > most {
			t.Errorf("%s: %d bytes were read, %v", file, m.n, err)
		}
	}
}

func FuzzWalk(f *testing.F) {
	files := map[Format][][]byte{}
	for format, names := range map[Format][]string{QCOW2: {"qcow2"}, VMDK: {"vmdk", "vmdk-stream"}, VHD: {"vhd", "vhd-fixed"}, VHDX: {"vhdx"}, VDI: {"vdi"}} {
		for _, name := range names {
			files[format] = append(files[format], viewFile(f, name))
		}
	}
	for _, name := range []string{"zlib.qcow2", "zstd.qcow2", "extended.qcow2"} {
		b, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			f.Fatal(err)
		}
		files[QCOW2] = append(files[QCOW2], b)
	}
	formats := []Format{QCOW2, VMDK, VHD, VHDX, VDI}
	for i := range formats {
		f.Add(i, 0, []byte{})
		f.Add(i, 1, []byte{0, 0, 0, 48, 0xff, 0, 2, 0, 7, 0x10})
	}
	f.Fuzz(func(t *testing.T, which, file int, changes []byte) {
		format := formats[uint(which)%uint(len(formats))]
		some := files[format]
		b := some[uint(file)%uint(len(some))]
		err := Walk(context.Background(), alter(b, changes), int64(len(b)), format, Limits{})
		if slug(t, err) != "" {
			return
		}
		// What passes can be read from end to end, but for what is compressed.
		img, err := Open(alter(b, changes), int64(len(b)), format, Limits{})
		if err != nil {
			slug(t, err)
			return
		}
		if img.Size() > 64<<20 {
			return
		}
		for off := int64(0); off < img.Size(); {
			e, err := img.Extent(off)
			if err != nil {
				t.Fatalf("extent at %d of an image that passed: %v", off, err)
			}
			off += e.Length
		}
	})
}
