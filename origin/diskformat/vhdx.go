package diskformat

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"hash/crc32"
	"io"
	"math/bits"
	"slices"
)

const (
	vhdxHeader1     = 64 << 10 // offsets in the file
	vhdxHeader2     = 128 << 10
	vhdxRegions     = 192 << 10
	vhdxHeaderBytes = 4 << 10
	vhdxTable       = 64 << 10 // bytes of a region table, and of a metadata table
	vhdxMetadata    = 1 << 20  // bytes that are read of the metadata
	vhdxMaxEntries  = 2047
	mib             = 1 << 20
)

// States of a block in the block table.
const (
	vhdxPresent = 6
	vhdxPartly  = 7
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// guid returns the bytes that a GUID has in a file: its first three numbers are
// little-endian.
func guid(text string) (g [16]byte) {
	b, _ := hex.DecodeString(text)
	slices.Reverse(b[:4])
	slices.Reverse(b[4:6])
	slices.Reverse(b[6:8])
	copy(g[:], b)
	return g
}

var (
	vhdxBAT            = guid("2dc27766f62342009d64115e9bfd4a08")
	vhdxMetadataRegion = guid("8b7ca20647904b9ab8fe575f050f886e")
	vhdxFileParameters = guid("caa16737fa364d43b3b633f0aa44e76b")
	vhdxDiskSize       = guid("2fa54224cd1b4876b2115dbed83bf4b8")
	vhdxDiskID         = guid("beca12abb2e6452393efc309e000c746")
	vhdxSectorSize     = guid("8141bf1da96f4709ba47f233a8faab5f")
	vhdxPhysicalSector = guid("cda348c7445d44719cc9e9885251c556")
)

// A vhdxInfo is what a VHDX says of itself that keeps the rules X1 and X2.
type vhdxInfo struct {
	bat, batLen           int64 // offset and bytes of the block table
	metadata, metadataLen int64
	size, block, sector   int64
}

// parseVHDXHeaders reads the two headers, each of 4 KiB: the valid one with the
// higher number counts.
func parseVHDXHeaders(one, two []byte) error {
	le := binary.LittleEndian
	var current []byte
	for _, h := range [][]byte{one, two} {
		if len(h) < vhdxHeaderBytes || string(h[:4]) != "head" {
			continue
		}
		if sum := vhdxSum(h[:vhdxHeaderBytes]); sum != le.Uint32(h[4:]) {
			continue
		}
		if current == nil || le.Uint64(h[8:]) > le.Uint64(current[8:]) {
			current = h
		}
	}
	switch {
	case current == nil:
		return refuse("vhdx-header", "no valid header")
	case le.Uint16(current[66:]) != 1:
		return refuse("vhdx-header", "version %d", le.Uint16(current[66:]))
	case !isZero(current[48:64]):
		return refuse("vhdx-log", "the log was not replayed")
	}
	return nil
}

// vhdxSum is the CRC-32C of a text whose checksum, at 4, counts as zeros.
func vhdxSum(b []byte) uint32 {
	var none [4]byte
	sum := crc32.Update(0, castagnoli, b[:4])
	sum = crc32.Update(sum, castagnoli, none[:])
	return crc32.Update(sum, castagnoli, b[8:])
}

// parseRegions reads a region table of 64 KiB.
func (v *vhdxInfo) parseRegions(table []byte) error {
	le := binary.LittleEndian
	if len(table) < vhdxTable {
		return refuse("vhdx-truncated", "the region table ends after %d bytes", len(table))
	}
	if string(table[:4]) != "regi" || vhdxSum(table[:vhdxTable]) != le.Uint32(table[4:]) {
		return refuse("vhdx-regions", "no region table")
	}
	n := le.Uint32(table[8:])
	if n > vhdxMaxEntries {
		return refuse("vhdx-regions", "%d regions", n)
	}
	type span struct{ from, to uint64 }
	spans := []span{{0, mib}} // what headers and tables take
	for i := range int(n) {
		e := table[16+32*i:]
		off, length := le.Uint64(e[16:]), le.Uint32(e[24:])
		var at, size *int64
		switch [16]byte(e[:16]) {
		case vhdxBAT:
			at, size = &v.bat, &v.batLen
		case vhdxMetadataRegion:
			at, size = &v.metadata, &v.metadataLen
		default:
			if le.Uint32(e[28:])&1 != 0 {
				return refuse("vhdx-regions", "an unknown region that is required")
			}
		}
		if off%mib != 0 || length%mib != 0 || off < mib || off>>50 != 0 || length == 0 {
			return refuse("vhdx-regions", "a region of %d bytes at %#x", length, off)
		}
		for _, s := range spans {
			if off < s.to && s.from < off+uint64(length) {
				return refuse("vhdx-regions", "regions that overlap at %#x", off)
			}
		}
		spans = append(spans, span{off, off + uint64(length)})
		if at == nil {
			continue
		}
		if *at != 0 {
			return refuse("vhdx-regions", "a region twice")
		}
		*at, *size = int64(off), int64(length)
	}
	if v.bat == 0 || v.metadata == 0 {
		return refuse("vhdx-regions", "the block table or the metadata is missing")
	}
	return nil
}

// parseMetadata reads the start of the metadata region, all of it or 1 MiB.
func (v *vhdxInfo) parseMetadata(b []byte, l Limits) error {
	le := binary.LittleEndian
	if len(b) < vhdxTable {
		return refuse("vhdx-truncated", "the metadata ends after %d bytes", len(b))
	}
	if string(b[:8]) != "metadata" {
		return refuse("vhdx-metadata", "no metadata table")
	}
	n := le.Uint16(b[10:])
	if n > vhdxMaxEntries {
		return refuse("vhdx-metadata", "%d items", n)
	}
	items := map[[16]byte][]byte{}
	for i := range int(n) {
		e := b[32+32*i:]
		off, length := int64(le.Uint32(e[16:])), int64(le.Uint32(e[20:]))
		if off+length > v.metadataLen || length > 0 && off < vhdxTable {
			return refuse("vhdx-metadata", "an item of %d bytes at %#x", length, off)
		}
		if off+length <= int64(len(b)) {
			items[[16]byte(e[:16])] = b[off : off+length]
		}
	}
	parameters, size, sector := items[vhdxFileParameters], items[vhdxDiskSize], items[vhdxSectorSize]
	if len(parameters) < 8 || len(size) < 8 || len(sector) < 4 {
		return refuse("vhdx-metadata", "an item that is needed is missing or short")
	}
	block, bytesOf := le.Uint32(parameters), le.Uint64(size)
	v.sector = int64(le.Uint32(sector))
	switch {
	case le.Uint32(parameters[4:])&2 != 0:
		return refuse("vhdx-parent", "the image is a difference to another one")
	case block < mib || block > 256*mib || bits.OnesCount32(block) != 1:
		return refuse("vhdx-metadata", "blocks of %d bytes", block)
	case v.sector != 512 && v.sector != 4096:
		return refuse("vhdx-metadata", "sectors of %d bytes", v.sector)
	case bytesOf%uint64(v.sector) != 0:
		return refuse("vhdx-metadata", "a disk of %d bytes", bytesOf)
	case bytesOf > uint64(l.VirtualSize):
		return refuse("virtual-size", "the disk has %d bytes, more than %d", bytesOf, l.VirtualSize)
	}
	v.size, v.block = int64(bytesOf), int64(block)
	if blocks := (v.size + v.block - 1) / v.block; blocks > 0 && v.batIndex(blocks-1) >= v.batLen/8 {
		return refuse("vhdx-metadata", "a block table of %d bytes for %d blocks", v.batLen, blocks)
	}
	return nil
}

// batIndex returns the place of a block in the block table: after each so many
// blocks there is one for a bitmap of sectors.
func (v *vhdxInfo) batIndex(block int64) int64 { return block + block/v.chunkRatio() }

func (v *vhdxInfo) chunkRatio() int64 { return (1 << 23) * v.sector / v.block }

// openVHDX is the opener of VHDX.
func openVHDX(r io.ReaderAt, size int64, l Limits) (Image, error) {
	var mark [8]byte
	if size < mib {
		return nil, refuse("vhdx-truncated", "a file of %d bytes", size)
	}
	if err := readFull(r, mark[:], 0); err != nil {
		return nil, err
	}
	if string(mark[:]) != "vhdxfile" {
		return nil, refuse("declared-mismatch", "this is no VHDX")
	}
	one, two, regions := make([]byte, vhdxHeaderBytes), make([]byte, vhdxHeaderBytes), make([]byte, vhdxTable)
	for _, p := range []struct {
		b  []byte
		at int64
	}{{one, vhdxHeader1}, {two, vhdxHeader2}, {regions, vhdxRegions}} {
		if err := readFull(r, p.b, p.at); err != nil {
			return nil, err
		}
	}
	if err := parseVHDXHeaders(one, two); err != nil {
		return nil, err
	}
	v := new(vhdxInfo)
	if err := v.parseRegions(regions); err != nil {
		return nil, err
	}
	if v.metadata+v.metadataLen > size || v.bat+v.batLen > size {
		return nil, refuse("vhdx-truncated", "a region ends beyond the file")
	}
	metadata := make([]byte, min(v.metadataLen, vhdxMetadata))
	if err := readFull(r, metadata, v.metadata); err != nil {
		return nil, err
	}
	if err := v.parseMetadata(metadata, l); err != nil {
		return nil, err
	}
	t := newTables(r, size)
	return &blockImage{r: r, size: v.size, length: size, run: func(off int64) (guestRun, error) {
		return v.run(t, off)
	}}, nil
}

// run returns where guest bytes come from, to the end of a block.
func (v *vhdxInfo) run(t *tables, off int64) (guestRun, error) {
	entry, err := t.entry(v.bat, v.batIndex(off/v.block), 8)
	if err != nil {
		return guestRun{}, err
	}
	in := off % v.block
	run := guestRun{length: v.block - in}
	e := binary.LittleEndian.Uint64(entry)
	switch e & 7 {
	case vhdxPartly:
		return run, damaged("a block that is only partly here")
	case vhdxPresent:
	default:
		run.zero = true
		return run, nil
	}
	at := int64(e >> 20 << 20)
	if at < mib || at>>50 != 0 || at+v.block > t.length {
		return run, damaged("a block at %#x is beyond the file", at)
	}
	run.host = at + in
	return run, nil
}

// layVHDX shows the disk as a dynamic VHDX with blocks of 2 MiB.
func layVHDX(l *layout) {
	v := &vhdxInfo{block: 2 * mib, sector: 512, size: l.size}
	const perBlock = 2 * mib / clusterSize
	blocks := (l.size + v.block - 1) / v.block
	used := coarser(l.used, perBlock)
	entries := int64(0)
	if blocks > 0 {
		entries = v.batIndex(blocks-1) + 1
	}
	v.metadata, v.metadataLen = 2*mib, mib
	v.bat, v.batLen = 3*mib, max(1, (entries*8+mib-1)/mib)*mib
	data := v.bat + v.batLen

	start := make([]byte, mib)
	copy(start, "vhdxfile")
	copy(start[8:], utf16("nearsight"))
	copy(start[vhdxHeader1:], v.header(l.id, 1))
	copy(start[vhdxHeader2:], v.header(l.id, 2))
	regions := v.regions()
	copy(start[vhdxRegions:], regions)
	copy(start[vhdxRegions+vhdxTable:], regions)
	l.text(start)
	l.zero(mib) // the log, which is empty
	l.text(v.items(l.id))
	l.table(entries, 8, v.batLen, func(i int64, entry []byte) {
		ratio := v.chunkRatio()
		if i%(ratio+1) == ratio {
			return // of a bitmap of sectors, which there is none
		}
		if block := i - i/(ratio+1); used.Has(block) {
			binary.LittleEndian.PutUint64(entry, uint64(data+used.Rank(block)*v.block)|vhdxPresent)
		}
	})
	l.blocks(perBlock, 0, nil)
}

// header returns a header of 4 KiB with a sequence number.
func (v *vhdxInfo) header(id [16]byte, sequence uint64) []byte {
	h := make([]byte, vhdxHeaderBytes)
	le := binary.LittleEndian
	copy(h, "head")
	le.PutUint64(h[8:], sequence)
	copy(h[16:], id[:])
	copy(h[32:], id[:])
	le.PutUint16(h[66:], 1)
	le.PutUint32(h[68:], mib) // length and place of the log
	le.PutUint64(h[72:], mib)
	le.PutUint32(h[4:], vhdxSum(h))
	return h
}

// regions returns the region table.
func (v *vhdxInfo) regions() []byte {
	t := make([]byte, vhdxTable)
	le := binary.LittleEndian
	copy(t, "regi")
	le.PutUint32(t[8:], 2)
	for i, r := range []struct {
		id      [16]byte
		at, len int64
	}{{vhdxBAT, v.bat, v.batLen}, {vhdxMetadataRegion, v.metadata, v.metadataLen}} {
		e := t[16+32*i:]
		copy(e, r.id[:])
		le.PutUint64(e[16:], uint64(r.at))
		le.PutUint32(e[24:], uint32(r.len))
		le.PutUint32(e[28:], 1)
	}
	le.PutUint32(t[4:], vhdxSum(t))
	return t
}

// items returns the metadata region.
func (v *vhdxInfo) items(id [16]byte) []byte {
	b := make([]byte, v.metadataLen)
	le := binary.LittleEndian
	copy(b, "metadata")
	number := func(n uint64, width int) []byte {
		var t [8]byte
		le.PutUint64(t[:], n)
		return t[:width]
	}
	const disk, required = 2, 4
	at := vhdxTable
	for i, item := range []struct {
		id    [16]byte
		flags uint32
		value []byte
	}{
		{vhdxFileParameters, required, number(uint64(v.block), 8)},
		{vhdxDiskSize, disk | required, number(uint64(v.size), 8)},
		{vhdxDiskID, disk | required, bytes.Clone(id[:])},
		{vhdxSectorSize, disk | required, number(uint64(v.sector), 4)},
		{vhdxPhysicalSector, disk | required, number(4096, 4)},
	} {
		e := b[32+32*i:]
		copy(e, item.id[:])
		le.PutUint32(e[16:], uint32(at))
		le.PutUint32(e[20:], uint32(len(item.value)))
		le.PutUint32(e[24:], item.flags)
		copy(b[at:], item.value)
		at += len(item.value)
		le.PutUint16(b[10:], uint16(i+1))
	}
	return b
}

// utf16 returns ASCII text as VHDX has it.
func utf16(text string) []byte {
	b := make([]byte, 0, 2*len(text))
	for i := range len(text) {
		b = append(b, text[i], 0)
	}
	return b
}
