package diskformat

import (
	"encoding/binary"
	"io"
	"math/bits"
)

const (
	vhdFooter      = 512
	vhdDynamicHead = 1024
	vhdSector      = 512
	maxVHD         = 2040 << 30
	maxVHDSlack    = 4 << 30
	vhdUnused      = 0xffffffff // in the block table

	vhdFixed        = 2
	vhdDynamic      = 3
	vhdDifferencing = 4
)

// A vhdInfo is what footer and dynamic header of a VHD say that keeps the rule H1.
type vhdInfo struct {
	size  int64 // of the disk
	kind  uint32
	head  int64 // offset of the dynamic header
	table int64 // offset of the block table
	block int64 // bytes of a block
	n     int64 // blocks
}

// bitmap returns the bytes of the bitmap in front of a block: a bit for a sector,
// filled up to a sector.
func (v *vhdInfo) bitmap() int64 {
	return (v.block/vhdSector/8 + vhdSector - 1) / vhdSector * vhdSector
}

// vhdSize returns the length of the disk as readers take it (rule V1).
func vhdSize(footer []byte) uint64 {
	be := binary.BigEndian
	c, h, s := be.Uint16(footer[56:]), footer[58], footer[59]
	switch string(footer[28:32]) {
	case "win ", "qem2", "d2v ", "tap\x00", "CTXS", "wa\x00\x00":
		return be.Uint64(footer[48:])
	}
	if c == 65535 && h == 16 && s == 255 {
		return be.Uint64(footer[48:])
	}
	return uint64(c) * uint64(h) * uint64(s) * vhdSector
}

// parseVHDFooter reads a footer, or the copy of one that begins a dynamic VHD.
func parseVHDFooter(footer []byte, l Limits) (*vhdInfo, error) {
	if len(footer) < vhdFooter {
		return nil, refuse("vhd-truncated", "the footer ends after %d bytes", len(footer))
	}
	be := binary.BigEndian
	v := &vhdInfo{kind: be.Uint32(footer[60:])}
	size := vhdSize(footer)
	switch {
	case v.kind == vhdDifferencing:
		return nil, refuse("vhd-parent", "the image is a difference to another one")
	case v.kind != vhdFixed && v.kind != vhdDynamic:
		return nil, refuse("vhd-header", "type %d", v.kind)
	case size > uint64(l.VirtualSize):
		return nil, refuse("virtual-size", "the disk has %d bytes, more than %d", size, l.VirtualSize)
	case size > maxVHD:
		return nil, refuse("vhd-header", "a disk of %d bytes, more than %d", size, int64(maxVHD))
	}
	v.size = int64(size)
	if v.kind == vhdDynamic {
		head := be.Uint64(footer[16:])
		if head>>56 != 0 || head < vhdFooter {
			return nil, refuse("vhd-header", "a dynamic header at %#x", head)
		}
		v.head = int64(head)
	}
	return v, nil
}

// parseDynamic reads the dynamic header.
func (v *vhdInfo) parseDynamic(head []byte) error {
	if len(head) < vhdDynamicHead {
		return refuse("vhd-truncated", "the dynamic header ends after %d bytes", len(head))
	}
	be := binary.BigEndian
	table, n, block := be.Uint64(head[16:]), be.Uint32(head[28:]), be.Uint32(head[32:])
	size := uint64(v.size)
	switch {
	case string(head[:8]) != "cxsparse":
		return refuse("vhd-header", "no dynamic header")
	case block < 512 || block > 256<<20 || bits.OnesCount32(block) != 1:
		return refuse("vhd-header", "blocks of %d bytes", block)
	case table>>56 != 0 || table < vhdFooter:
		return refuse("vhd-header", "a block table at %#x", table)
	case uint64(n)*uint64(block) < size || uint64(n)*uint64(block)-size > maxVHDSlack:
		return refuse("vhd-header", "%d blocks of %d bytes for a disk of %d", n, block, size)
	}
	v.table, v.n, v.block = int64(table), int64(n), int64(block)
	return nil
}

// sameVHD compares what both footers say of the disk (rule H1).
func sameVHD(a, b []byte) error {
	if string(a[48:64]) != string(b[48:64]) {
		return refuse("vhd-footer", "the footer and its copy disagree")
	}
	return nil
}

// openVHD is the opener of VHD.
func openVHD(r io.ReaderAt, size int64, l Limits) (Image, error) {
	footer := make([]byte, vhdFooter)
	if size < vhdFooter {
		return nil, refuse("vhd-truncated", "a file of %d bytes", size)
	}
	if err := readFull(r, footer, size-vhdFooter); err != nil {
		return nil, err
	}
	if string(footer[:8]) != "conectix" {
		return nil, refuse("declared-mismatch", "this is no VHD")
	}
	v, err := parseVHDFooter(footer, l)
	if err != nil {
		return nil, err
	}
	if v.kind == vhdFixed {
		if v.size > size-vhdFooter {
			return nil, refuse("vhd-truncated", "a disk of %d bytes in a file of %d", v.size, size)
		}
		return newRaw(r, v.size), nil
	}
	copied := make([]byte, vhdFooter)
	if err := readFull(r, copied, 0); err != nil {
		return nil, err
	}
	if err := sameVHD(footer, copied); err != nil {
		return nil, err
	}
	if v.head > size-vhdDynamicHead {
		return nil, refuse("vhd-truncated", "a dynamic header at %#x in a file of %d bytes", v.head, size)
	}
	head := make([]byte, vhdDynamicHead)
	if err := readFull(r, head, v.head); err != nil {
		return nil, err
	}
	if err := v.parseDynamic(head); err != nil {
		return nil, err
	}
	t := newTables(r, size)
	return &blockImage{r: r, size: v.size, length: size, run: func(off int64) (guestRun, error) {
		return v.run(t, off)
	}}, nil
}

// run returns where guest bytes of a dynamic VHD come from: to the end of a block
// that is not stored, or of the sectors that the block's bitmap has alike.
func (v *vhdInfo) run(t *tables, off int64) (guestRun, error) {
	entry, err := t.entry(v.table, off/v.block, 4)
	if err != nil {
		return guestRun{}, err
	}
	in := off % v.block
	sector := binary.BigEndian.Uint32(entry)
	if sector == vhdUnused {
		return guestRun{zero: true, length: v.block - in}, nil
	}
	at := int64(sector) * vhdSector
	data := at + v.bitmap()
	if data+min(v.block, (v.size-off+in+vhdSector-1)/vhdSector*vhdSector) > t.length {
		return guestRun{}, damaged("a block at %#x is beyond the file", at)
	}
	s := in / vhdSector
	used, err := v.stored(t, at, s)
	if err != nil {
		return guestRun{}, err
	}
	end := s + 1
	for ; end*vhdSector < v.block; end++ {
		if now, err := v.stored(t, at, end); err != nil || now != used {
			break // an error is met again where it matters
		}
	}
	return guestRun{zero: !used, length: end*vhdSector - in, host: data + in}, nil
}

// stored reports whether the bitmap at an offset has a sector.
func (v *vhdInfo) stored(t *tables, at, sector int64) (bool, error) {
	b, err := t.entry(at, sector/8, 1)
	if err != nil {
		return false, err
	}
	return b[0]&(0x80>>(sector%8)) != 0, nil
}

// vhdFooterFor returns the footer of a view.
func vhdFooterFor(l *layout, kind uint32) []byte {
	f := make([]byte, vhdFooter)
	be := binary.BigEndian
	copy(f, "conectix")
	be.PutUint32(f[8:], 2) // reserved, always set
	be.PutUint32(f[12:], 0x10000)
	be.PutUint64(f[16:], ^uint64(0))
	if kind == vhdDynamic {
		be.PutUint64(f[16:], vhdFooter)
	}
	copy(f[28:], "win ") // a creator whose size is taken as it stands
	be.PutUint32(f[32:], 0x10000)
	copy(f[36:], "Wi2k")
	be.PutUint64(f[40:], uint64(l.size))
	be.PutUint64(f[48:], uint64(l.size))
	c, h, s := vhdGeometry(l.size / vhdSector)
	be.PutUint16(f[56:], c)
	f[58], f[59] = h, s
	be.PutUint32(f[60:], kind)
	copy(f[68:], l.id[:])
	be.PutUint32(f[64:], vhdChecksum(f))
	return f
}

// vhdGeometry returns cylinders, heads and sectors a track of a disk (VHD
// specification, appendix).
func vhdGeometry(sectors int64) (c uint16, h, s uint8) {
	if sectors >= 65535*16*255 {
		return 65535, 16, 255
	}
	var heads, perTrack, tracks int64
	if sectors >= 65535*16*63 {
		perTrack, heads = 255, 16
		tracks = sectors / perTrack
	} else {
		perTrack = 17
		tracks = sectors / perTrack
		heads = max(4, (tracks+1023)/1024)
		if tracks >= heads*1024 || heads > 16 {
			perTrack, heads = 31, 16
			tracks = sectors / perTrack
		}
		if tracks >= heads*1024 {
			perTrack, heads = 63, 16
			tracks = sectors / perTrack
		}
	}
	return uint16(tracks / heads), uint8(heads), uint8(perTrack)
}

// vhdChecksum is the one's complement of the sum of all bytes.
func vhdChecksum(b []byte) uint32 {
	var sum uint32
	for _, v := range b {
		sum += uint32(v)
	}
	return ^sum
}

// layVHDFixed shows the disk as a fixed VHD: itself, and a footer.
func layVHDFixed(l *layout) {
	layRaw(l)
	l.text(vhdFooterFor(l, vhdFixed))
}

// layVHD shows the disk as a dynamic VHD with blocks of 2 MiB.
func layVHD(l *layout) {
	const block = 2 << 20
	const perBlock = block / clusterSize
	n := (l.size + block - 1) / block
	used := coarser(l.used, perBlock)
	footer := vhdFooterFor(l, vhdDynamic)
	be := binary.BigEndian
	head := make([]byte, vhdDynamicHead)
	copy(head, "cxsparse")
	table := int64(vhdFooter + vhdDynamicHead)
	be.PutUint64(head[8:], ^uint64(0))
	be.PutUint64(head[16:], uint64(table))
	be.PutUint32(head[24:], 0x10000)
	be.PutUint32(head[28:], uint32(n))
	be.PutUint32(head[32:], block)
	be.PutUint32(head[36:], vhdChecksum(head))
	l.text(footer)
	l.text(head)
	tableBytes := (n*4 + vhdSector - 1) / vhdSector * vhdSector
	data := table + tableBytes
	const bitmap = block / vhdSector / 8
	l.table(n, 4, tableBytes, func(i int64, entry []byte) {
		sector := uint32(vhdUnused)
		if used.Has(i) {
			sector = uint32((data + used.Rank(i)*(bitmap+block)) / vhdSector)
		}
		be.PutUint32(entry, sector)
	})
	l.blocks(perBlock, bitmap, func(p []byte) {
		for i := range p {
			p[i] = 0xff
		}
	})
	l.text(footer)
}
