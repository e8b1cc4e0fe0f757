package diskformat

import (
	"encoding/binary"
	"fmt"
	"hash/adler32"
)

const (
	grainSectors    = clusterSize / vmdkSector
	grainTable      = 512 * 4                         // bytes of a grain table
	grainsPerTable  = 512                             // entries
	descriptorSpace = 20 * vmdkSector                 // for the descriptor
	maxVMDK         = 2 << 40                         // bytes of a disk
	storedBlock     = 65535                           // the longest stored block of deflate
	packedGrain     = 129 * vmdkSector                // a grain in stored blocks, filled up
	packedBytes     = 2 + 5 + storedBlock + 5 + 1 + 4 // of it: zlib header, two blocks, checksum
	markerBytes     = 12
)

// vmdkHeaderFor returns the header of a view.
func vmdkHeaderFor(l *layout, version, flags uint32, directory, overhead uint64) []byte {
	h := make([]byte, vmdkHeader)
	copy(h, "KDMV")
	le := binary.LittleEndian
	le.PutUint32(h[4:], version)
	le.PutUint32(h[8:], flags)
	le.PutUint64(h[12:], uint64(l.size/vmdkSector))
	le.PutUint64(h[20:], grainSectors)
	le.PutUint64(h[28:], 1)
	le.PutUint64(h[36:], descriptorSpace/vmdkSector)
	le.PutUint32(h[44:], grainsPerTable)
	le.PutUint64(h[56:], directory)
	le.PutUint64(h[64:], overhead)
	copy(h[73:], "\n \r\n")
	if flags&vmdkCompressed != 0 {
		le.PutUint16(h[77:], 1)
	}
	return h
}

// vmdkDescriptorFor returns the descriptor of a view, filled up.
func vmdkDescriptorFor(l *layout, created string) []byte {
	cylinders := min(16383, l.size/vmdkSector/16/63)
	text := fmt.Sprintf(`# Disk DescriptorFile
version=1
CID=%08x
parentCID=ffffffff
createType="%s"

# Extent description
RW %d SPARSE "disk.vmdk"

# The Disk Data Base
#DDB

ddb.virtualHWVersion = "4"
ddb.geometry.cylinders = "%d"
ddb.geometry.heads = "16"
ddb.geometry.sectors = "63"
ddb.adapterType = "ide"
`, binary.BigEndian.Uint32(l.id[:]), created, l.size/vmdkSector, cylinders)
	return append([]byte(text), make([]byte, descriptorSpace-len(text))...)
}

func sectorsOf(n int64) int64 { return (n + vmdkSector - 1) / vmdkSector }

// layVMDK shows the disk as a monolithicSparse VMDK: header, descriptor, grain
// directory, all grain tables, grains in the order of the disk.
func layVMDK(l *layout) {
	n := clusters(l.size)
	grainTables := (n + grainsPerTable - 1) / grainsPerTable
	directory := 1 + descriptorSpace/vmdkSector
	tables := int64(directory) + sectorsOf(grainTables*4)
	end := tables + grainTables*grainTable/vmdkSector
	data := (end + grainSectors - 1) / grainSectors * grainSectors
	le := binary.LittleEndian
	l.text(vmdkHeaderFor(l, 1, 1|vmdkZeroGrains, uint64(directory), uint64(data)))
	l.text(vmdkDescriptorFor(l, "monolithicSparse"))
	l.table(grainTables, 4, sectorsOf(grainTables*4)*vmdkSector, func(i int64, entry []byte) {
		le.PutUint32(entry, uint32(tables+i*grainTable/vmdkSector))
	})
	l.table(n, 4, grainTables*grainTable, func(i int64, entry []byte) {
		if l.used.Has(i) {
			le.PutUint32(entry, uint32(data+l.used.Rank(i)*grainSectors))
		}
	})
	l.zero((data - end) * vmdkSector)
	l.blocks(1, 0, nil)
}

// vmdkMarker returns a metadata marker of so many sectors.
func vmdkMarker(sectors int64, kind uint32) []byte {
	m := make([]byte, vmdkSector)
	binary.LittleEndian.PutUint64(m, uint64(sectors))
	binary.LittleEndian.PutUint32(m[12:], kind)
	return m
}

// layVMDKStream shows the disk as a streamOptimized VMDK: grains that are valid
// deflate and not smaller, each with its marker; then the grain tables, the
// directory and the footer.
func layVMDKStream(l *layout) {
	const flags = 1 | vmdkCompressed | vmdkMarkers
	const tableMarker, directoryMarker, footerMarker = 1, 2, 3
	n := clusters(l.size)
	grainTables := (n + grainsPerTable - 1) / grainsPerTable
	const overhead = grainSectors
	le := binary.LittleEndian
	l.text(vmdkHeaderFor(l, 3, flags, vmdkAtEnd, overhead))
	l.text(vmdkDescriptorFor(l, "streamOptimized"))
	l.align(clusterSize)
	l.add(l.used.Used()*packedGrain, l.packedGrains)
	// Each grain table has a marker of its own in front.
	const withMarker = vmdkSector + grainTable
	tables := l.end / vmdkSector
	l.table(grainTables*(withMarker/4), 4, grainTables*withMarker, func(i int64, entry []byte) {
		table, in := i/(withMarker/4), i%(withMarker/4)
		switch g := table*grainsPerTable + in - vmdkSector/4; {
		case in == 0:
			le.PutUint32(entry, grainTable/vmdkSector)
		case in == 3:
			le.PutUint32(entry, tableMarker)
		case in >= vmdkSector/4 && g < n && l.used.Has(g):
			le.PutUint32(entry, uint32(overhead+l.used.Rank(g)*(packedGrain/vmdkSector)))
		}
	})
	l.text(vmdkMarker(sectorsOf(grainTables*4), directoryMarker))
	directory := l.end / vmdkSector
	l.table(grainTables, 4, sectorsOf(grainTables*4)*vmdkSector, func(i int64, entry []byte) {
		le.PutUint32(entry, uint32(tables+i*(withMarker/vmdkSector)+1))
	})
	l.text(vmdkMarker(1, footerMarker))
	l.text(vmdkHeaderFor(l, 3, flags, uint64(directory), overhead))
	l.zero(vmdkSector) // the end of the stream
}

// packedGrains fills p from the grains of a streamOptimized VMDK.
func (l *layout) packedGrains(p []byte, at int64) error {
	for len(p) > 0 {
		k, in := at/packedGrain, at%packedGrain
		grain, err := l.packedGrain(l.used.Select(k))
		if err != nil {
			return err
		}
		n := copy(p, grain[in:])
		p, at = p[n:], at+int64(n)
	}
	return nil
}

// packedGrain returns a grain with its marker: a zlib text of two stored blocks.
func (l *layout) packedGrain(cluster int64) ([]byte, error) {
	b := make([]byte, packedGrain)
	le := binary.LittleEndian
	le.PutUint64(b, uint64(cluster*grainSectors))
	le.PutUint32(b[8:], packedBytes)
	text := b[markerBytes:]
	text[0], text[1] = 0x78, 0x01
	data := text[2+5 : 2+5+clusterSize]
	if err := l.read(data, cluster*clusterSize); err != nil {
		return nil, err
	}
	sum := adler32.Checksum(data)
	last := data[storedBlock]
	stored := func(at int, final byte, n uint16) {
		text[at] = final
		le.PutUint16(text[at+1:], n)
		le.PutUint16(text[at+3:], ^n)
	}
	stored(2, 0, storedBlock)
	second := 2 + 5 + storedBlock
	stored(second, 1, 1)
	text[second+5] = last
	binary.BigEndian.PutUint32(text[second+6:], sum)
	return b, nil
}
