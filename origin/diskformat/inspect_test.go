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
	"slices"
	"strings"
	"testing"
)

// inspect gives data to an Inspector in pieces of the lengths that piece returns.
func inspect(declared Format, container string, size int64, l Limits, data []byte, piece func() int) (Report, error) {
	in := NewInspector(declared, container, size, l)
	for rest := data; len(rest) > 0; {
		n := min(piece(), len(rest))
		if _, err := in.Write(rest[:n]); err != nil {
			return Report{}, err
		}
		rest = rest[n:]
	}
	return in.Finish()
}

func whole() int { return 1 << 62 }

// bytewise returns pieces of one byte for the first 300 KiB and the last 4 KiB of so
// many bytes, where headers and footers are; for what is between one byte more than fits.
func bytewise(length int) func() int {
	at := 0
	return func() int {
		n := 1
		if at >= 300<<10 && at < length-4096 {
			n = min(64<<10+1, length-4096-at)
		}
		at += n
		return n
	}
}

// slug returns the slug of a refusal, "" for no error.
func slug(t testing.TB, err error) string {
	t.Helper()
	var r *Refusal
	if err != nil && !errors.As(err, &r) {
		t.Fatalf("%v is no refusal", err)
	}
	if r == nil {
		return ""
	}
	return r.Slug
}

// readSample returns an image of the corpus.
func readSample(t testing.TB, dir, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// sampleFormat is what an Inspector calls what expected.tsv calls otherwise.
func sampleFormat(s sample) Format {
	switch s.detected {
	case "parallels":
		return Ploop
	case "iso+gpt":
		return ISO
	case "tar", "gzip", "xz", "zstd", "zip":
		return Container
	}
	return Format(s.detected)
}

// Every image of the corpus is told for what it is, however its bytes come.
func TestInspectorTellsTheCorpus(t *testing.T) {
	dir, rows := corpus(t)
	random := rand.New(rand.NewPCG(8, 1))
	for _, s := range rows {
		t.Run(s.file, func(t *testing.T) {
			data := readSample(t, dir, s.file)
			for _, way := range []struct {
				name  string
				size  int64
				piece func() int
			}{
				{"whole", int64(len(data)), whole},
				{"whole, of unknown length", -1, whole},
				{"byte by byte", -1, bytewise(len(data))},
				{"in random pieces", int64(len(data)), func() int { return 1 + random.IntN(1<<random.IntN(18)) }},
			} {
				report, err := inspect(Format(s.declared), s.container, way.size, Limits{}, data, way.piece)
				if !s.safe {
					if got := slug(t, err); got != s.reason {
						t.Errorf("%s: %v, want %s", way.name, err, s.reason)
					}
					continue
				}
				if want := (Report{sampleFormat(s), s.size}); err != nil || report != want {
					t.Errorf("%s: %+v, %v; want %+v", way.name, report, err, want)
				}
			}
			if s.safe && s.container == "bare" {
				if err := Walk(context.Background(), bytes.NewReader(data), int64(len(data)), sampleFormat(s), Limits{}); err != nil {
					t.Errorf("walk: %v", err)
				}
			}
		})
	}
}

// Every view is an image that passes.
func TestInspectorTakesEveryView(t *testing.T) {
	for _, name := range ViewNames() {
		declared := Format(name)
		switch name {
		case "vhd-fixed":
			declared = VHD
		case "vmdk-stream":
			declared = VMDK
		}
		data := readAll(t, newTestView(t, name, noise(21, 3<<20+512, 0.4)))
		if r, err := inspect(declared, "", -1, Limits{}, data, whole); err != nil || r != (Report{declared, 3<<20 + 512}) {
			t.Errorf("view %s: %+v, %v", name, r, err)
		}
		if err := Walk(context.Background(), bytes.NewReader(data), int64(len(data)), declared, Limits{}); err != nil {
			t.Errorf("view %s: walk: %v", name, err)
		}
	}
}

// put returns an edit that writes text at an offset; one below 0 counts from the end.
func put(off int, text string) func([]byte) []byte {
	return func(b []byte) []byte {
		if off < 0 {
			off += len(b)
		}
		copy(b[off:], text)
		return b
	}
}

// be and le return edits that write a number of 2, 4 or 8 bytes.
func be(off, width int, v uint64) func([]byte) []byte {
	return put(off, string(binary.BigEndian.AppendUint64(nil, v)[8-width:]))
}

func le(off, width int, v uint64) func([]byte) []byte {
	return put(off, string(binary.LittleEndian.AppendUint64(nil, v)[:width]))
}

// cut returns an edit that leaves so many bytes.
func cut(n int) func([]byte) []byte { return func(b []byte) []byte { return b[:n] } }

// swap returns an edit that replaces text in the first 64 KiB by other text.
func swap(from, to string) func([]byte) []byte {
	return func(b []byte) []byte {
		i := bytes.Index(b[:65536], []byte(from))
		if i < 0 {
			panic("no " + from)
		}
		copy(b[i:], to)
		return b
	}
}

// sealVHDX makes an edit of region table or header that keeps the checksum right.
func sealVHDX(at, n int, edit func([]byte) []byte) func([]byte) []byte {
	return func(b []byte) []byte {
		b = edit(b)
		binary.LittleEndian.PutUint32(b[at+4:], vhdxSum(b[at:at+n]))
		return b
	}
}

func TestInspectorRefuses(t *testing.T) {
	dir, _ := corpus(t)
	const regions = vhdxRegions
	var metadata int // offset in dyn.vhdx: of the first region or the second
	for i, b := 0, readSample(t, dir, "dyn.vhdx")[regions+16:]; i < 2; i++ {
		if [16]byte(b[32*i:]) == vhdxMetadataRegion {
			metadata = int(binary.LittleEndian.Uint64(b[32*i+16:]))
		}
	}
	for _, tt := range []struct {
		rule, name, file string
		declared         Format
		edit             func([]byte) []byte
		slug             string
	}{
		{"D1", "qcow2 that is an ISO file too", "v3.qcow2", QCOW2, put(isoDescriptor+1, "CD001"), "polyglot"},
		{"D1", "qcow2 with the magic of VDI", "v3.qcow2", QCOW2, put(0x40, "\x7f\x10\xda\xbe"), "polyglot"},
		{"D1", "ISO file that begins with the magic of qcow2", "plain.iso", ISO, put(0, "QFI\xfb"), "polyglot"},
		{"D1", "raw disk that is LUKS and ISO", "base.raw", Raw, func(b []byte) []byte {
			return put(0, "LUKS\xba\xbe\x00\x01")(put(isoDescriptor+1, "CD001")(b))
		}, "polyglot"},
		{"D1", "qcow2 with the header of a tar archive", "v3.qcow2", QCOW2, put(257, "ustar"), "polyglot"},
		{"D1", "VDI that ends like a fixed VHD", "dyn.vdi", VDI, put(-512, "conectix"+strings.Repeat("\x00", 52)+"\x00\x00\x00\x02"), "polyglot"},
		{"D2", "magic of qcow2 and noise, declared raw", "base.raw", Raw, put(0, "QFI\xfb"), "declared-mismatch"},
		{"D2", "magic of qcow2 and noise, declared qcow2", "base.raw", QCOW2, put(0, "QFI\xfb"), "qcow2-version"},
		{"D4", "aki over qcow2", "v3.qcow2", "aki", nil, "declared-mismatch"},
		{"D4", "name of an operator's own over qcow2", "v3.qcow2", "root-tar", nil, "declared-mismatch"},
		{"D4", "ISO file declared ploop", "plain.iso", Ploop, nil, "declared-mismatch"},
		{"D4", "raw declared iso", "base.raw", ISO, nil, "declared-mismatch"},
		{"D4", "nothing declared vmdk", "base.raw", VMDK, cut(0), "declared-mismatch"},
		{"D4", "text of a VMDK without its title", "base.raw", Raw, put(0, "# a comment\n\nversion=1\nCID=0\n"), "declared-mismatch"},
		{"D5", "fixed VHD that begins with the magic of qcow2", "fixed.vhd", VHD, put(0, "QFI\xfb"), "polyglot"},
		{"D5", "qcow2 declared vhd", "v3.qcow2", VHD, nil, "declared-mismatch"},
		{"D6", "QED declared qcow2", "old.qed", QCOW2, nil, "banned-format"},
		{"D6", "QED declared qed", "old.qed", QED, nil, "banned-format"},
		{"D7", "qcow2 of 40 bytes", "v3.qcow2", QCOW2, cut(40), "qcow2-truncated"},
		{"D7", "vmdk of 100 bytes", "sparse.vmdk", VMDK, cut(100), "vmdk-truncated"},
		{"D7", "vmdk that ends in its descriptor", "sparse.vmdk", VMDK, cut(600), "vmdk-truncated"},
		{"D7", "vhd of 100 bytes", "dyn.vhd", VHD, cut(100), "vhd-truncated"},
		{"D7", "vhd that ends in its second header", "dyn.vhd", VHD, cut(1000), "vhd-truncated"},
		{"D7", "vhdx of 1 KiB", "dyn.vhdx", VHDX, cut(1024), "vhdx-truncated"},
		{"D7", "vhdx that ends before its metadata", "dyn.vhdx", VHDX, cut(1 << 20), "vhdx-truncated"},
		{"D7", "vdi of 300 bytes", "dyn.vdi", VDI, cut(300), "vdi-truncated"},

		{"Q1", "version 4", "v3.qcow2", QCOW2, be(4, 4, 4), "qcow2-version"},
		{"Q1", "length of a backing file without a place", "v3.qcow2", QCOW2, be(16, 4, 1), "qcow2-backing-file"},
		{"Q1", "place of a backing file", "v2.qcow2", QCOW2, be(8, 8, 200), "qcow2-backing-file"},
		{"Q2", "data file by its bit", "v3.qcow2", QCOW2, be(72, 8, 4), "qcow2-data-file"},
		{"Q2", "data file by its extension", "v3.qcow2", QCOW2, be(112, 4, dataFileExtension), "qcow2-data-file"},
		{"Q3", "feature of bit 5", "v3.qcow2", QCOW2, be(72, 8, 32), "qcow2-unknown-feature"},
		{"Q3", "marked as corrupt", "v3.qcow2", QCOW2, be(72, 8, 2), "qcow2-corrupt"},
		{"Q4", "clusters of 256 bytes", "v3.qcow2", QCOW2, be(20, 4, 8), "qcow2-cluster-bits"},
		{"Q4", "clusters of 4 MiB", "v3.qcow2", QCOW2, be(20, 4, 22), "qcow2-cluster-bits"},
		{"Q4", "extended L2 in small clusters", "v3-4k.qcow2", QCOW2, be(72, 8, 16), "qcow2-cluster-bits"},
		{"Q5", "compression of type 2", "v3.qcow2", QCOW2, put(104, "\x02"), "qcow2-compression"},
		{"Q5", "compression of type 1 without its bit", "v3.qcow2", QCOW2, put(104, "\x01"), "qcow2-compression"},
		{"Q5", "bit of a compression type, and type 0", "v3.qcow2", QCOW2, be(72, 8, 8), "qcow2-compression"},
		{"Q5", "encryption of method 3", "v3.qcow2", QCOW2, be(32, 4, 3), "qcow2-crypt"},
		{"Q6", "header of 100 bytes", "v3.qcow2", QCOW2, be(100, 4, 100), "qcow2-header"},
		{"Q6", "extension beyond the first cluster", "v3.qcow2", QCOW2, be(116, 4, 65536), "qcow2-header"},
		{"Q6", "extension beyond a first cluster of 2 MiB", "v3-2m.qcow2", QCOW2, be(116, 4, 2<<20), "qcow2-header"},
		{"Q6", "refcounts of 128 bits", "v3.qcow2", QCOW2, be(96, 4, 7), "qcow2-header"},
		{"Q6", "no refcount table", "v3.qcow2", QCOW2, be(48, 8, 0), "qcow2-header"},
		{"Q7", "too many snapshots", "v3.qcow2", QCOW2, be(60, 4, 65537), "qcow2-snapshots"},
		{"Q8", "L1 table that is too small", "v3.qcow2", QCOW2, be(36, 4, 0), "qcow2-l1"},
		{"Q8", "L1 table in the header", "v3.qcow2", QCOW2, be(40, 8, 0), "qcow2-l1"},
		{"Q9", "disk of 2^63 bytes", "v3.qcow2", QCOW2, be(24, 8, 1<<63), "virtual-size"},
		{"Q9", "vdi of 2^50 bytes", "dyn.vdi", VDI, le(0x170, 8, 1<<50), "virtual-size"},

		{"M1", "createType custom", "sparse.vmdk", VMDK, swap(`"monolithicSparse"`, `"custom"          `), "vmdk-subformat"},
		{"M1", "COWD", "sparse.vmdk", VMDK, put(0, "COWD"), "vmdk-subformat"},
		{"M1", "seSparse", "sparse.vmdk", VMDK, le(0, 8, 0xcafebabe), "vmdk-subformat"},
		{"M2", "descriptor in sector 2", "sparse.vmdk", VMDK, le(28, 8, 2), "vmdk-descriptor"},
		{"M2", "descriptor of 2048 sectors", "sparse.vmdk", VMDK, le(36, 8, 2048), "vmdk-descriptor"},
		{"M2", "unknown key", "sparse.vmdk", VMDK, swap("ddb.adapterType", "xyz.adapterType"), "vmdk-descriptor"},
		{"M2", "byte that is no text", "sparse.vmdk", VMDK, swap("ddb.adapterType", "ddb.\xe9dapterType"), "vmdk-descriptor"},
		{"M3", "extent of the type FLAT", "sparse.vmdk", VMDK, swap("SPARSE", "FLAT  "), "vmdk-extent"},
		{"M3", "extent of an absolute name", "sparse.vmdk", VMDK, swap(`"sparse.vmdk"`, `"/etc/passwd"`), "vmdk-extent"},
		{"M4", "parent by its name", "sparse.vmdk", VMDK, swap("ddb.virtualHWVersion", "parentFileNameHint ="), "vmdk-parent"},
		{"M4", "parent by its number", "sparse.vmdk", VMDK, swap("parentCID=ffffffff", "parentCID=fffffff1"), "vmdk-parent"},
		{"M5", "version 4", "sparse.vmdk", VMDK, le(4, 4, 4), "vmdk-header"},
		{"M5", "grains of 24 sectors", "sparse.vmdk", VMDK, le(20, 8, 24), "vmdk-header"},
		{"M5", "tables of 513 entries", "sparse.vmdk", VMDK, le(44, 4, 513), "vmdk-header"},
		{"M5", "compression without its flag", "sparse.vmdk", VMDK, le(77, 2, 1), "vmdk-header"},
		{"M5", "no capacity", "sparse.vmdk", VMDK, le(12, 8, 0), "vmdk-header"},
		{"M6", "directory at the end, and no footer", "sparse.vmdk", VMDK, le(56, 8, vmdkAtEnd), "vmdk-footer"},

		{"H1", "differencing", "dyn.vhd", VHD, be(60, 4, 4), "vhd-parent"},
		{"H1", "differencing, told by its end", "fixed.vhd", VHD, be(-512+60, 4, 4), "vhd-parent"},
		{"H1", "fixed type at the start", "dyn.vhd", VHD, be(60, 4, 2), "vhd-header"},
		{"H1", "no second header", "dyn.vhd", VHD, put(512, "cxspoilt"), "vhd-header"},
		{"H1", "blocks of 3 MiB", "dyn.vhd", VHD, be(512+32, 4, 3<<20), "vhd-header"},
		{"H1", "too few blocks", "dyn.vhd", VHD, be(512+28, 4, 1), "vhd-header"},
		{"H1", "two sizes", "dyn.vhd", VHD, be(-512+48, 8, 512), "vhd-footer"},
		{"H1", "no footer", "dyn.vhd", VHD, put(-512, "nothing!"), "vhd-footer"},
		{"V1", "fixed and larger than its file", "fixed.vhd", VHD, be(-512+48, 8, 32<<20), "vhd-truncated"},

		{"X1", "log that was not replayed", "dyn.vhdx", VHDX, func(b []byte) []byte {
			for _, at := range []int{vhdxHeader1, vhdxHeader2} {
				b = sealVHDX(at, vhdxHeaderBytes, put(at+48, "\x01"))(b)
			}
			return b
		}, "vhdx-log"},
		{"X1", "parent", "dyn.vhdx", VHDX, func(b []byte) []byte {
			first := binary.LittleEndian.Uint32(b[metadata+32+16:]) // the parameters
			b[metadata+int(first)+4] |= 2
			return b
		}, "vhdx-parent"},
		{"X2", "2048 regions", "dyn.vhdx", VHDX, sealVHDX(regions, vhdxTable, le(regions+8, 4, 2048)), "vhdx-regions"},
		{"X2", "unknown region that is required", "dyn.vhdx", VHDX, sealVHDX(regions, vhdxTable, put(regions+16, "unknown")), "vhdx-regions"},
		{"X2", "region below 1 MiB", "dyn.vhdx", VHDX, sealVHDX(regions, vhdxTable, le(regions+32, 8, 0)), "vhdx-regions"},
		{"X2", "no metadata", "dyn.vhdx", VHDX, put(metadata, "megadata"), "vhdx-metadata"},
		{"X2", "2048 items", "dyn.vhdx", VHDX, le(metadata+10, 2, 2048), "vhdx-metadata"},
		{"X2", "item outside the region", "dyn.vhdx", VHDX, le(metadata+32+16, 4, 0xffffffff), "vhdx-metadata"},

		{"I1", "difference", "dyn.vdi", VDI, le(0x4c, 4, 4), "vdi-parent"},
		{"I1", "id of a parent", "dyn.vdi", VDI, put(0x1b8, "\x01"), "vdi-parent"},
		{"I1", "version 2", "dyn.vdi", VDI, le(0x44, 4, 0x20000), "vdi-header"},
		{"I1", "blocks of 2 MiB", "dyn.vdi", VDI, le(0x178, 4, 2<<20), "vdi-header"},
		{"I1", "too few blocks", "dyn.vdi", VDI, le(0x180, 4, 1), "vdi-header"},
	} {
		t.Run(tt.rule+" "+tt.name, func(t *testing.T) {
			data := readSample(t, dir, tt.file)
			if tt.edit != nil {
				data = tt.edit(data)
			}
			for _, size := range []int64{-1, int64(len(data))} {
				_, err := inspect(tt.declared, "bare", size, Limits{}, data, whole)
				if got := slug(t, err); got != tt.slug {
					t.Errorf("length %d: %v, want %s", size, err, tt.slug)
				}
			}
		})
	}
}

func TestInspectorTakes(t *testing.T) {
	dir, _ := corpus(t)
	for _, tt := range []struct {
		name, file string
		declared   Format
		container  string
		limits     Limits
		edit       func([]byte) []byte
		want       Report
	}{
		{"nothing at all as raw", "base.raw", Raw, "bare", Limits{}, cut(0), Report{Raw, 0}},
		{"a name of the operator's own", "base.raw", "root-tar", "bare", Limits{}, cut(4096), Report{Raw, 4096}},
		{"a disk with a partition table as ami", "mbr.raw", "ami", "ami", Limits{}, nil, Report{GPT, 16779776}},
		{"LUKS 2 as raw", "v1.luks", Raw, "bare", Limits{}, be(6, 2, 2), Report{LUKS, 0}},
		{"qcow2 as raw where that is allowed", "v3-512.qcow2", Raw, "bare", Limits{RawOverMapping: true}, nil, Report{QCOW2, 0}},
		{"a qcow2 that is dirty", "v3.qcow2", QCOW2, "bare", Limits{}, be(72, 8, 1), Report{QCOW2, 16779776}},
		{"qcow2 that is said to be compressed", "v3.qcow2", Raw, "compressed", Limits{}, nil, Report{Container, -1}},
		{"layers of a container", "base.raw", Raw, "docker", Limits{}, nil, Report{Container, -1}},
		{"a kind of VMDK that was allowed", "sparse.vmdk", VMDK, "bare", Limits{VMDKTypes: []string{"custom"}},
			swap(`"monolithicSparse"`, `"custom"          `), Report{VMDK, 16779776}},
		{"lines that end with CR LF", "sparse.vmdk", VMDK, "bare", Limits{}, swap("# Disk DescriptorFile\nversion=1\n", "#DiskDescriptorFile\r\nversion=1\r\n"), Report{VMDK, 16779776}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			data := readSample(t, dir, tt.file)
			if tt.edit != nil {
				data = tt.edit(data)
			}
			if tt.want.VirtualSize == 0 {
				tt.want.VirtualSize = int64(len(data))
			}
			if got, err := inspect(tt.declared, tt.container, -1, tt.limits, data, whole); err != nil || got != tt.want {
				t.Errorf("%+v, %v; want %+v", got, err, tt.want)
			}
		})
	}
}

func TestInspectorRefusesByItsLimits(t *testing.T) {
	dir, _ := corpus(t)
	luks := readSample(t, dir, "v1.luks")
	if _, err := inspect(Raw, "bare", -1, Limits{RefuseLUKS2: true}, luks, whole); err != nil {
		t.Errorf("LUKS 1: %v", err)
	}
	if _, err := inspect(Raw, "bare", -1, Limits{RefuseLUKS2: true}, be(6, 2, 2)(luks), whole); slug(t, err) != "luks-version" {
		t.Errorf("LUKS 2: %v", err)
	}
	for file, declared := range map[string]Format{"base.raw": Raw, "v3.qcow2": QCOW2, "sparse.vmdk": VMDK, "fixed.vhd": VHD, "dyn.vhdx": VHDX, "dyn.vdi": VDI} {
		data := readSample(t, dir, file)
		if _, err := inspect(declared, "bare", -1, Limits{VirtualSize: 16<<20 + 2*512}, data, whole); slug(t, err) != "virtual-size" {
			t.Errorf("%s beyond the limit: %v", file, err)
		}
		if _, err := inspect(declared, "bare", -1, Limits{VirtualSize: 32 << 20}, data, whole); err != nil {
			t.Errorf("%s within the limit: %v", file, err)
		}
	}
}

// What can be told early is told before the second 64 KiB.
func TestInspectorRefusesAtTheStartOfAnUpload(t *testing.T) {
	for _, tt := range []struct {
		name     string
		declared Format
		start    string
		slug     string
	}{
		{"zeros declared qcow2", QCOW2, "", "declared-mismatch"},
		{"qcow2 declared raw", Raw, "QFI\xfb\x00\x00\x00\x03", "declared-mismatch"},
		{"VMDK declared vdi", VDI, "KDMV", "declared-mismatch"},
		{"zeros declared iso", ISO, "", "declared-mismatch"},
		{"qcow2 of version 1", QCOW2, "QFI\xfb\x00\x00\x00\x01", "qcow2-version"},
	} {
		in := NewInspector(tt.declared, "bare", 10<<30, Limits{})
		piece, read := make([]byte, 4096), 0
		copy(piece, tt.start)
		var err error
		for err == nil && read < 1<<20 {
			_, err = in.Write(piece)
			read += len(piece)
			clear(piece)
		}
		if slug(t, err) != tt.slug || read > headBytes {
			t.Errorf("%s: %v after %d bytes", tt.name, err, read)
		}
		if n, again := in.Write(piece); n != 0 || again != err {
			t.Errorf("%s: the next write: %d, %v", tt.name, n, again)
		}
		if _, again := in.Finish(); again != err {
			t.Errorf("%s: at the end: %v", tt.name, again)
		}
	}
}

func TestDiskThatBeginsLikeAnImageIsNotShownAsRaw(t *testing.T) {
	dir, _ := corpus(t)
	for file, want := range map[string]string{"base.raw": "", "gpt.raw": "", "plain.iso": "", "short-511.raw": "",
		"v3.qcow2": "nested-format", "dyn.vdi": "nested-format", "old.qed": "nested-format", "monolithicFlat.vmdk": "nested-format"} {
		data := readSample(t, dir, file)
		if err := CheckNested(bytes.NewReader(data), int64(len(data))); slug(t, err) != want {
			t.Errorf("%s: %v", file, err)
		}
	}
}

// small returns the start of every image of the corpus that has a header, once for
// each kind, and the image cut to a length at which tests of thousands are quick.
func small(t testing.TB) map[string][]byte {
	dir, rows := corpus(t)
	files := map[string][]byte{}
	for _, s := range rows {
		b := readSample(t, dir, s.file)
		files[s.file+" "+s.declared+" "+s.container] = b[:min(len(b), 300<<10)]
	}
	return files
}

// No prefix, no flipped byte and no extreme number in the header makes an Inspector
// do anything but answer.
func TestInspectorAnswersWhateverComes(t *testing.T) {
	for key, data := range small(t) {
		f := strings.Fields(key)
		try := func(b []byte) {
			_, err := inspect(Format(f[1]), f[2], int64(len(b)), Limits{}, b, whole)
			slug(t, err)
		}
		for n := 0; n < len(data); n += 1 + n/16 {
			try(data[:n])
		}
		short := data[:min(len(data), 12<<10)] // with the descriptor of a VMDK
		for i := range min(len(short), 4096) {
			short[i] ^= 0xff
			try(short)
			short[i] ^= 0xff
		}
		for i := 0; i+4 <= min(len(short), 4096); i += 4 {
			was := binary.LittleEndian.Uint32(short[i:])
			for _, v := range []uint32{0, 0xffffffff} {
				binary.LittleEndian.PutUint32(short[i:], v)
				try(short)
			}
			binary.LittleEndian.PutUint32(short[i:], was)
		}
	}
}

// An image with changes, cut somewhere, gets one answer however it comes, and what is
// taken has a header that its reader takes too.
func FuzzInspect(f *testing.F) {
	formats := []Format{QCOW2, QCOW2, QCOW2, VMDK, VMDK, VHD, VHD, VHDX, VDI, Raw}
	var files [][]byte
	for _, name := range []string{"qcow2", "vmdk", "vmdk-stream", "vhd", "vhd-fixed", "vhdx", "vdi", "raw"} {
		files = append(files, viewFile(f, name))
	}
	files = slices.Insert(files, 1, testFile(f, "zstd.qcow2"), testFile(f, "extended.qcow2"))
	formats, files = append(formats, VMDK), append(files, tarOf(f, tarMember{"a.ovf", "<a/>"}, tarMember{"b.vmdk", string(viewFile(f, "vmdk-stream"))}))
	containers := []string{"bare", "ova", "compressed"}
	for i := range files {
		container := 0
		if i == len(files)-1 {
			container = 1
		}
		f.Add(i, i, container, 0, 4096, []byte{})
		f.Add(i, i, container, 1000, 900, []byte{0, 0, 0, 48, 0xff, 0, 0, 0, 50, 0xff})
	}
	f.Fuzz(func(t *testing.T, file, format, container, lost, piece int, changes []byte) {
		data := files[uint(file)%uint(len(files))]
		declared := formats[uint(format)%uint(len(formats))]
		within := containers[uint(container)%uint(len(containers))]
		data, err := io.ReadAll(io.NewSectionReader(alter(data, changes), 0, int64(len(data)-int(uint(lost)%uint(len(data))))))
		if err != nil {
			t.Fatal(err)
		}
		one, err := inspect(declared, within, -1, Limits{}, data, whole)
		other, again := inspect(declared, within, int64(len(data)), Limits{}, data, func() int { return 1 + int(uint(piece)%9999) })
		if one != other || slug(t, err) != slug(t, again) {
			t.Errorf("whole: %+v, %v; in pieces: %+v, %v", one, err, other, again)
		}
		if err != nil || !one.Format.mapping() {
			return
		}
		img, err := Open(bytes.NewReader(data), int64(len(data)), one.Format, Limits{})
		if s := slug(t, err); s != "" && s != string(one.Format)+"-truncated" && s != "view-unavailable" {
			t.Errorf("%+v was taken, and its reader says %v", one, err)
		}
		if err == nil && img.Size() != one.VirtualSize {
			t.Errorf("%+v was taken, and its reader says %d bytes", one, img.Size())
		}
	})
}
