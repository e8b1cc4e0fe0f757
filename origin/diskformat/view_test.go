package diskformat

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"flag"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the golden checksums of views anew")

// viewID is the id of the image in tests.
var viewID = [16]byte{0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x47, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff, 0x01}

// bitmapOf returns the bitmap of a disk.
func bitmapOf(disk []byte) *Bitmap {
	var w BitmapWriter
	w.Write(disk)
	return w.Bitmap()
}

// noise returns a disk of which a share of the clusters is in use, wholly.
func noise(seed uint64, size int64, share float64) []byte {
	r := rand.New(rand.NewPCG(seed, 2))
	disk := make([]byte, size)
	for c := int64(0); c*clusterSize < size; c++ {
		if r.Float64() < share {
			for i := c * clusterSize; i < min(size, (c+1)*clusterSize); i += 8 {
				disk[i] = byte(r.Uint32()) | 1
			}
		}
	}
	return disk
}

func newTestView(t testing.TB, name string, disk []byte) *View {
	t.Helper()
	v, err := NewView(name, bytes.NewReader(disk), bitmapOf(disk), viewID)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func readAll(t testing.TB, v *View) []byte {
	t.Helper()
	b, err := io.ReadAll(io.NewSectionReader(v, 0, v.Size()))
	if err != nil {
		t.Fatal(err)
	}
	if int64(len(b)) != v.Size() {
		t.Fatalf("%d bytes of %d", len(b), v.Size())
	}
	return b
}

// disks are what every view is tried with.
func disks() map[string][]byte {
	return map[string][]byte{
		"empty":     {},
		"small":     noise(1, 1000, 1),
		"zeros":     make([]byte, 3<<20),
		"odd":       noise(2, 5<<20+12345, 0.5),
		"sparse":    noise(3, 70<<20, 0.05),
		"full":      noise(4, 9<<20, 1),
		"two-start": noise(5, 33<<20+512, 0.3),
	}
}

// qemuFormat returns what qemu-img calls the format of a view.
func qemuFormat(view string) string {
	switch view {
	case "vhd", "vhd-fixed":
		return "vpc"
	case "vmdk-stream":
		return "vmdk"
	}
	return view
}

func TestViewsAreWhatQemuTakesThemFor(t *testing.T) {
	for name, disk := range disks() {
		for _, view := range ViewNames() {
			t.Run(view+" of "+name, func(t *testing.T) {
				if len(disk) == 0 && view != "raw" && view != "qcow2" {
					return // qemu-img has no empty disks of these
				}
				v := newTestView(t, view, disk)
				dir := t.TempDir()
				path, plain := filepath.Join(dir, "view"), filepath.Join(dir, "raw")
				if err := os.WriteFile(path, readAll(t, v), 0o600); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(plain, disk, 0o600); err != nil {
					t.Fatal(err)
				}
				format := qemuFormat(view)
				if format == "qcow2" || format == "vdi" || format == "vhdx" || format == "vmdk" {
					if out, err := exec.Command("qemu-img", "check", "-f", format, path).CombinedOutput(); err != nil {
						t.Errorf("qemu-img check: %v\n%s", err, out)
					}
				}
				if out, err := exec.Command("qemu-img", "compare", "-f", "raw", "-F", format, plain, path).CombinedOutput(); err != nil {
					t.Errorf("qemu-img compare: %v\n%s", err, out)
				}
			})
		}
	}
}

func TestViewsReadTheSameInAnyPieces(t *testing.T) {
	disk := noise(6, 40<<20+777, 0.2)
	for _, view := range ViewNames() {
		t.Run(view, func(t *testing.T) {
			v := newTestView(t, view, disk)
			want := readAll(t, v)
			r := rand.New(rand.NewPCG(8, 8))
			for range 2000 {
				off := r.Int64N(v.Size())
				n := 1 + r.Int64N(min(v.Size()-off, 1+r.Int64N(300_000)))
				got := make([]byte, n)
				if _, err := v.ReadAt(got, off); err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(got, want[off:off+n]) {
					t.Fatalf("%d bytes at %d are others", n, off)
				}
			}
			if n, err := v.ReadAt(make([]byte, 10), v.Size()-3); n != 3 || !errors.Is(err, io.EOF) {
				t.Errorf("at the end: %d, %v", n, err)
			}
		})
	}
}

// The layout of a view is frozen: whoever changes a byte gives it another version.
func TestViewsAreFrozen(t *testing.T) {
	const golden = "testdata/views.golden"
	var b strings.Builder
	for _, view := range ViewNames() {
		v := newTestView(t, view, noise(9, 20<<20+512, 0.4))
		sum := sha256.Sum256(readAll(t, v))
		b.WriteString(view + " " + strconv.Itoa(v.Version()) + " " + strconv.FormatInt(v.Size(), 10) + " " + hex.EncodeToString(sum[:]) + "\n")
	}
	if *update {
		if err := os.WriteFile(golden, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if b.String() != string(want) {
		t.Errorf("a view has other bytes; its version must change with them:\n%s", b.String())
	}
}

func TestThereIsNoOtherView(t *testing.T) {
	var r *Refusal
	if _, err := NewView("qed", bytes.NewReader(nil), bitmapOf(nil), viewID); !errors.As(err, &r) || r.Slug != "view-unavailable" {
		t.Errorf("%v", err)
	}
	large := index(17<<40, make([]uint64, (17<<40)/clusterSize/64))
	if _, err := NewView("qcow2", bytes.NewReader(nil), large, viewID); !errors.As(err, &r) || r.Slug != "view-unavailable" {
		t.Errorf("%v", err)
	}
}

func BenchmarkViewRandom64KiB(b *testing.B) {
	disk := noise(10, 256<<20, 0.5)
	for _, view := range ViewNames() {
		b.Run(view, func(b *testing.B) {
			v := newTestView(b, view, disk)
			p := make([]byte, 64<<10)
			r := rand.New(rand.NewPCG(1, 1))
			b.SetBytes(int64(len(p)))
			for b.Loop() {
				if _, err := v.ReadAt(p, r.Int64N(v.Size()-int64(len(p)))); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
