package diskformat

import (
	"bytes"
	"encoding/binary"
	"io"
)

const (
	vdiMagic    = 0xbeda107f // at 0x40
	vdiBlock    = 1 << 20
	vdiHeader   = 512
	vdiUnused   = 0xffffffff // in the map: nothing is stored
	vdiDiscard  = 0xfffffffe // in the map: it was once
	maxVDISlack = 1 << 30
)

// A vdiInfo is the header of a VDI that keeps the rule I1.
type vdiInfo struct {
	size   int64 // of the disk
	blocks int64
	table  int64 // offset of the map
	data   int64 // offset of block 0
}

// parseVDI reads the first 512 bytes of a file.
func parseVDI(head []byte, l Limits) (*vdiInfo, error) {
	if len(head) < vdiHeader {
		return nil, refuse("vdi-truncated", "the header ends after %d bytes", len(head))
	}
	le := binary.LittleEndian
	kind := le.Uint32(head[0x4c:])
	size, blocks := le.Uint64(head[0x170:]), le.Uint32(head[0x180:])
	table, data := le.Uint32(head[0x154:]), le.Uint32(head[0x158:])
	switch {
	case kind == 4 || !bytes.Equal(head[0x1a8:0x1c8], make([]byte, 32)):
		return nil, refuse("vdi-parent", "the image is a difference to another one")
	case le.Uint32(head[0x44:]) != 0x10001:
		return nil, refuse("vdi-header", "version %#x", le.Uint32(head[0x44:]))
	case kind != 1 && kind != 2:
		return nil, refuse("vdi-header", "type %d", kind)
	case le.Uint32(head[0x178:]) != vdiBlock || le.Uint32(head[0x17c:]) != 0:
		return nil, refuse("vdi-header", "blocks of %d and %d bytes", le.Uint32(head[0x178:]), le.Uint32(head[0x17c:]))
	case table%512 != 0 || data%512 != 0 || table < vdiHeader:
		return nil, refuse("vdi-header", "a map at %#x and data at %#x", table, data)
	case size > uint64(l.VirtualSize):
		return nil, refuse("virtual-size", "the disk has %d bytes, more than %d", size, l.VirtualSize)
	case uint64(blocks)*vdiBlock < size, uint64(blocks)*vdiBlock-size > maxVDISlack:
		return nil, refuse("vdi-header", "%d blocks for a disk of %d bytes", blocks, size)
	}
	return &vdiInfo{size: int64(size), blocks: int64(blocks), table: int64(table), data: int64(data)}, nil
}

// openVDI is the opener of VDI.
func openVDI(r io.ReaderAt, size int64, l Limits) (Image, error) {
	head := make([]byte, min(size, vdiHeader))
	if err := readFull(r, head, 0); err != nil {
		return nil, err
	}
	if len(head) < 0x44 || binary.LittleEndian.Uint32(head[0x40:]) != vdiMagic {
		return nil, refuse("declared-mismatch", "this is no VDI")
	}
	v, err := parseVDI(head, l)
	if err != nil {
		return nil, err
	}
	t := newTables(r, size)
	return &blockImage{r: r, size: v.size, length: size, run: func(off int64) (guestRun, error) {
		entry, err := t.entry(v.table, off/vdiBlock, 4)
		if err != nil {
			return guestRun{}, err
		}
		in := off % vdiBlock
		run := guestRun{length: vdiBlock - in}
		block := int64(binary.LittleEndian.Uint32(entry))
		if run.zero = block >= vdiDiscard; run.zero {
			return run, nil
		}
		if run.host = v.data + block*vdiBlock + in; block >= v.blocks || run.host-in+min(vdiBlock, v.size-off+in) > size {
			return run, damaged("block %d is beyond the file", block)
		}
		return run, nil
	}}, nil
}

// layVDI shows the disk as a dynamic VDI.
func layVDI(l *layout) {
	blocks := (l.size + vdiBlock - 1) / vdiBlock
	const perBlock = vdiBlock / clusterSize
	used := coarser(l.used, perBlock)
	h := make([]byte, vdiHeader)
	copy(h, "<<< nearsight VDI view >>>\n")
	le := binary.LittleEndian
	le.PutUint32(h[0x40:], vdiMagic)
	le.PutUint32(h[0x44:], 0x10001)
	le.PutUint32(h[0x48:], 0x190) // bytes of the header from here on
	le.PutUint32(h[0x4c:], 1)
	table := int64(vdiBlock) // the map and the data begin at whole MiB, as in others
	mapBytes := (blocks*4 + vdiBlock - 1) / vdiBlock * vdiBlock
	le.PutUint32(h[0x154:], uint32(table))
	le.PutUint32(h[0x158:], uint32(table+mapBytes))
	le.PutUint32(h[0x168:], 512) // sector
	le.PutUint64(h[0x170:], uint64(l.size))
	le.PutUint32(h[0x178:], vdiBlock)
	le.PutUint32(h[0x180:], uint32(blocks))
	le.PutUint32(h[0x184:], uint32(used.Used()))
	copy(h[0x188:], l.id[:])
	last := l.id
	last[0] ^= 1 // of the last snapshot: another one
	copy(h[0x198:], last[:])
	l.text(h)
	l.zero(table - vdiHeader)
	l.table(blocks, 4, mapBytes, func(i int64, entry []byte) {
		block := uint32(vdiUnused)
		if used.Has(i) {
			block = uint32(used.Rank(i))
		}
		le.PutUint32(entry, block)
	})
	l.blocks(perBlock, 0, nil)
}
