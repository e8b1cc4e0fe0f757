package diskformat

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
)

// An altered is a file of which some bytes are others.
type altered struct {
	file  []byte
	bytes map[int64]byte
}

// ReadAt implements io.ReaderAt.
func (a *altered) ReadAt(p []byte, off int64) (int, error) {
	n, err := bytes.NewReader(a.file).ReadAt(p, off)
	for at, b := range a.bytes {
		if at >= off && at < off+int64(n) {
			p[at-off] = b
		}
	}
	return n, err
}

// alter reads changes of a file: each is 5 bytes, a place and a value. Half of the
// places are near the start, where headers are.
func alter(file, changes []byte) *altered {
	a := &altered{file, map[int64]byte{}}
	for ; len(changes) >= 5 && len(a.bytes) < 64; changes = changes[5:] {
		at := int64(binary.BigEndian.Uint32(changes))
		if at%2 == 0 {
			at = at / 2 % int64(min(len(file), 4096))
		} else {
			at = at / 2 % int64(len(file))
		}
		a.bytes[at] = changes[4]
	}
	return a
}

// fuzzReader tries a reader with a file and changes of it: nothing panics, errors are
// refusals, damage or those of the file, and what is said to be zeros reads as zeros.
func fuzzReader(f *testing.F, format Format, files ...[]byte) {
	f.Add(0, []byte{})
	f.Add(1, []byte{0, 0, 0, 48, 0xff, 0, 0, 0, 50, 0xff})
	f.Fuzz(func(t *testing.T, which int, changes []byte) {
		file := files[uint(which)%uint(len(files))]
		img, err := Open(alter(file, changes), int64(len(file)), format, Limits{})
		var r *Refusal
		if err != nil {
			if !errors.As(err, &r) {
				t.Fatalf("%v", err)
			}
			return
		}
		p := make([]byte, 256<<10)
		for off, steps := int64(0), 0; off < img.Size() && steps < 64; steps++ {
			e, err := img.Extent(off)
			if err != nil {
				if !errors.Is(err, ErrDecode) && !errors.Is(err, io.ErrUnexpectedEOF) {
					t.Fatal(err)
				}
				off += 1 << 20
				continue
			}
			if e.Length <= 0 || off+e.Length > img.Size() {
				t.Fatalf("extent %+v at %d of %d", e, off, img.Size())
			}
			n, err := img.ReadAt(p[:min(int64(len(p)), e.Length)], off)
			switch {
			case err != nil && !errors.Is(err, ErrDecode) && !errors.Is(err, io.ErrUnexpectedEOF):
				t.Fatal(err)
			case e.Zero && (err != nil || !isZero(p[:n])):
				t.Fatalf("extent %+v at %d reads otherwise: %v", e, off, err)
			}
			off += e.Length
		}
	})
}

// viewFile returns a view of a small disk.
func viewFile(f *testing.F, name string) []byte {
	return readAll(f, newTestView(f, name, noise(21, 3<<20+512, 0.4)))
}

func testFile(f *testing.F, name string) []byte {
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		f.Fatal(err)
	}
	return b
}

func FuzzQCOW2(f *testing.F) {
	fuzzReader(f, QCOW2, viewFile(f, "qcow2"), testFile(f, "zlib.qcow2"), testFile(f, "zstd.qcow2"), testFile(f, "extended.qcow2"))
}

func FuzzVMDK(f *testing.F) {
	fuzzReader(f, VMDK, viewFile(f, "vmdk"), viewFile(f, "vmdk-stream"), testFile(f, "stream.vmdk"))
}

func FuzzVHD(f *testing.F) { fuzzReader(f, VHD, viewFile(f, "vhd"), viewFile(f, "vhd-fixed")) }

func FuzzVHDX(f *testing.F) { fuzzReader(f, VHDX, viewFile(f, "vhdx")) }

func FuzzVDI(f *testing.F) { fuzzReader(f, VDI, viewFile(f, "vdi")) }
