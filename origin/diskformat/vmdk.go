package diskformat

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math/bits"
	"sync"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/klauspost/compress/zlib"
)

const (
	vmdkSector     = 512
	vmdkHeader     = 512
	vmdkAtEnd      = ^uint64(0) // of the grain directory: the footer tells where it is
	vmdkFooterArea = 3 * vmdkSector

	vmdkZeroGrains = 1 << 2
	vmdkCompressed = 1 << 16
	vmdkMarkers    = 1 << 17
)

// A vmdkInfo is the header of a sparse VMDK that keeps the rule M5.
type vmdkInfo struct {
	flags      uint32
	size       int64 // of the disk
	grain      int64 // bytes
	perTable   int64 // entries of a grain table
	descriptor int64 // bytes, from sector 1 on
	directory  uint64
}

// parseVMDK reads the first 512 bytes of a sparse VMDK, or its footer.
func parseVMDK(head []byte, l Limits) (*vmdkInfo, error) {
	if len(head) < vmdkHeader {
		return nil, refuse("vmdk-truncated", "the header ends after %d bytes", len(head))
	}
	le := binary.LittleEndian
	capacity, grain := le.Uint64(head[12:]), le.Uint64(head[20:])
	at, n := le.Uint64(head[28:]), le.Uint64(head[36:])
	perTable, compression := le.Uint32(head[44:]), le.Uint16(head[77:])
	v := &vmdkInfo{flags: le.Uint32(head[8:]), directory: le.Uint64(head[56:])}
	switch version := le.Uint32(head[4:]); {
	case version < 1 || version > 3:
		return nil, refuse("vmdk-header", "version %d", version)
	case grain < 8 || grain > 2048 || bits.OnesCount64(grain) != 1:
		return nil, refuse("vmdk-header", "grains of %d sectors", grain)
	case perTable == 0 || perTable > 512:
		return nil, refuse("vmdk-header", "grain tables of %d entries", perTable)
	case compression > 1 || (compression == 1) != (v.flags&vmdkCompressed != 0):
		return nil, refuse("vmdk-header", "compression %d with flags %#x", compression, v.flags)
	case capacity == 0:
		return nil, refuse("vmdk-header", "a disk without sectors")
	case capacity > uint64(l.VirtualSize)/vmdkSector:
		return nil, refuse("virtual-size", "the disk has %d sectors, more than %d", capacity, l.VirtualSize/vmdkSector)
	case at != 1 || n == 0 || n > 2047:
		return nil, refuse("vmdk-descriptor", "a descriptor of %d sectors at sector %d", n, at)
	case v.directory != vmdkAtEnd && (v.directory == 0 || v.directory>>46 != 0):
		return nil, refuse("vmdk-header", "a grain directory at sector %#x", v.directory)
	}
	v.size, v.grain = int64(capacity)*vmdkSector, int64(grain)*vmdkSector
	v.perTable, v.descriptor = int64(perTable), int64(n)*vmdkSector
	return v, nil
}

// parseVMDKFooter reads the last 1536 bytes of a file whose header leaves the place
// of the grain directory open (rule M6).
func (v *vmdkInfo) parseVMDKFooter(head, tail []byte) error {
	le := binary.LittleEndian
	if len(tail) < vmdkFooterArea {
		return refuse("vmdk-truncated", "the file ends before its footer")
	}
	footer := bytes.Clone(tail[vmdkSector : 2*vmdkSector])
	directory := le.Uint64(footer[56:])
	le.PutUint64(footer[56:], vmdkAtEnd)
	switch {
	case le.Uint32(tail[8:]) != 0 || le.Uint32(tail[12:]) != 3,
		!isZero(tail[2*vmdkSector:]):
		return refuse("vmdk-footer", "the file does not end with a footer")
	case !bytes.Equal(footer[:79], head[:79]):
		return refuse("vmdk-footer", "the footer is not like the header")
	case directory == vmdkAtEnd || directory == 0 || directory>>46 != 0:
		return refuse("vmdk-footer", "a grain directory at sector %#x", directory)
	}
	v.directory = directory
	return nil
}

// A vmdk is the disk inside a sparse VMDK.
type vmdk struct {
	vmdkInfo
	r      io.ReaderAt
	length int64
	t      *tables
	grains *lru.Cache[int64, []byte] // inflated, by their place in the file
	unzip  sync.Pool                 // of *unzipper
}

// openVMDK is the opener of VMDK.
func openVMDK(r io.ReaderAt, size int64, l Limits) (Image, error) {
	head := make([]byte, min(size, vmdkHeader))
	if err := readFull(r, head, 0); err != nil {
		return nil, err
	}
	if len(head) < 4 || string(head[:4]) != "KDMV" {
		return nil, refuse("vmdk-subformat", "this is no sparse VMDK")
	}
	info, err := parseVMDK(head, l)
	if err != nil {
		return nil, err
	}
	if info.descriptor > size-vmdkSector {
		return nil, refuse("vmdk-truncated", "the descriptor ends beyond the file")
	}
	text := make([]byte, info.descriptor)
	if err := readFull(r, text, vmdkSector); err != nil {
		return nil, err
	}
	if err := checkVMDKDescriptor(text, l); err != nil {
		return nil, err
	}
	if info.directory == vmdkAtEnd {
		tail := make([]byte, min(size, vmdkFooterArea))
		if err := readFull(r, tail, size-int64(len(tail))); err != nil {
			return nil, err
		}
		if err := info.parseVMDKFooter(head, tail); err != nil {
			return nil, err
		}
	}
	v := &vmdk{vmdkInfo: *info, r: r, length: size, t: newTables(r, size)}
	v.unzip.New = func() any { return new(unzipper) }
	if v.flags&vmdkCompressed == 0 {
		return &blockImage{r: r, size: v.size, length: size, run: v.run}, nil
	}
	v.grains, _ = lru.New[int64, []byte](int(max(1, inflated/v.grain))) // fails only for sizes below 1
	return v, nil
}

// run returns where guest bytes come from, to the end of a grain or, where a grain
// table is missing, of what it would map.
func (v *vmdk) run(off int64) (guestRun, error) {
	perTable := v.perTable * v.grain
	entry, err := v.t.entry(int64(v.directory)*vmdkSector, off/perTable, 4)
	if err != nil {
		return guestRun{}, err
	}
	table := binary.LittleEndian.Uint32(entry)
	if table == 0 {
		return guestRun{zero: true, length: perTable - off%perTable}, nil
	}
	if entry, err = v.t.entry(int64(table)*vmdkSector, off%perTable/v.grain, 4); err != nil {
		return guestRun{}, err
	}
	in := off % v.grain
	run := guestRun{length: v.grain - in}
	sector := binary.LittleEndian.Uint32(entry)
	if sector == 0 || sector == 1 && v.flags&vmdkZeroGrains != 0 {
		run.zero = true
		return run, nil
	}
	run.host = int64(sector)*vmdkSector + in
	if run.host-in >= v.length || v.flags&vmdkCompressed == 0 && run.host-in+min(v.grain, v.size-off+in) > (v.length+vmdkSector-1)/vmdkSector*vmdkSector {
		return run, damaged("a grain at sector %#x is beyond the file", sector)
	}
	return run, nil
}

// Size implements Image.
func (v *vmdk) Size() int64 { return v.size }

// Extent implements Image.
func (v *vmdk) Extent(off int64) (Extent, error) {
	return extentOf(off, v.size, func(off int64) (bool, int64, error) {
		run, err := v.run(off)
		return run.zero, run.length, err
	})
}

// ReadAt implements io.ReaderAt.
func (v *vmdk) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, errNegative
	}
	read := 0
	for len(p) > 0 && off < v.size {
		run, err := v.run(off)
		if err != nil {
			return read, err
		}
		n := min(run.length, int64(len(p)), v.size-off)
		if run.zero {
			clear(p[:n])
		} else {
			in := off % v.grain
			grain, err := v.inflated(run.host-in, off-in)
			if err != nil {
				return read, err
			}
			copy(p[:n], grain[in:])
		}
		p, off, read = p[n:], off+n, read+int(n)
	}
	if len(p) > 0 {
		return read, io.EOF
	}
	return read, nil
}

// An unzipper holds what inflating a grain needs, for the next one.
type unzipper struct {
	in   []byte
	text bytes.Reader
	zlib io.ReadCloser
}

// inflated returns the grain at an offset in the file, which holds the guest bytes
// from off on.
func (v *vmdk) inflated(at, off int64) ([]byte, error) {
	if b, ok := v.grains.Get(at); ok {
		return b, nil
	}
	u := v.unzip.Get().(*unzipper)
	defer v.unzip.Put(u)
	var marker [12]byte
	if at > v.length-int64(len(marker)) {
		return nil, damaged("a grain at %#x is beyond the file", at)
	}
	if err := readFull(v.r, marker[:], at); err != nil {
		return nil, err
	}
	lba, n := binary.LittleEndian.Uint64(marker[:]), int64(binary.LittleEndian.Uint32(marker[8:]))
	at += int64(len(marker))
	if lba != uint64(off/vmdkSector) || n == 0 || n > 2*v.grain || n > v.length-at {
		return nil, damaged("a grain at %#x of %d bytes for sector %d", at, n, lba)
	}
	if int64(cap(u.in)) < n {
		u.in = make([]byte, n)
	}
	u.in = u.in[:n]
	if err := readFull(v.r, u.in, at); err != nil {
		return nil, err
	}
	out := make([]byte, v.grain)
	if err := u.unzip(out, min(v.grain, v.size-off)); err != nil {
		return nil, damaged("a grain at %#x: %v", at, err)
	}
	v.grains.Add(at-int64(len(marker)), out)
	return out, nil
}

// unzip fills out from u.in, which must give exactly as much; the last grain of a
// disk may give as much as the disk has.
func (u *unzipper) unzip(out []byte, least int64) error {
	u.text.Reset(u.in)
	var err error
	if u.zlib == nil {
		u.zlib, err = zlib.NewReader(&u.text)
	} else {
		err = u.zlib.(zlib.Resetter).Reset(&u.text, nil)
	}
	if err != nil {
		return err
	}
	n, err := io.ReadFull(u.zlib, out)
	switch {
	case err == nil:
	case errors.Is(err, io.ErrUnexpectedEOF) && int64(n) >= least: // the checksum was right
		return nil
	default:
		return err
	}
	var more [1]byte
	if n, err := u.zlib.Read(more[:]); n > 0 {
		return errors.New("longer than a grain")
	} else if !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}
