package diskformat

import "encoding/binary"

// Bits of incompatible_features in the header of a qcow2.
const (
	qcow2Dirty       = 1 << 0
	qcow2Corrupt     = 1 << 1
	qcow2DataFile    = 1 << 2
	qcow2Compression = 1 << 3
	qcow2ExtendedL2  = 1 << 4

	dataFileExtension = 0x44415441
	maxL1             = 32 << 20 // bytes
	maxRefcountTable  = 8 << 20  // bytes
	maxSnapshots      = 65536
)

// A qcow2Info is the header of a qcow2 that keeps the rules Q1 to Q9.
type qcow2Info struct {
	version     int
	clusterBits int
	size        int64 // of the disk
	crypt       int   // 0: not encrypted
	l1, l1Size  int64 // offset, and entries
	refcounts   int64 // offset of the table
	refcountLen int64 // bytes of the table
	refBits     int   // of a refcount
	snapshots   int64 // offset of their table
	snapshotN   int
	zstd        bool
	extended    bool // L2 entries of 16 bytes, with 32 subclusters
}

func (q *qcow2Info) cluster() int64 { return 1 << q.clusterBits }

// l2Width returns the bytes of an entry of an L2 table.
func (q *qcow2Info) l2Width() int64 {
	if q.extended {
		return 16
	}
	return 8
}

// l2Entries returns the entries of an L2 table.
func (q *qcow2Info) l2Entries() int64 { return q.cluster() / q.l2Width() }

// parseQCOW2 reads a header. head is the start of the file: the first cluster as far
// as the file has it, 1 MiB at the most. Of where tables end in the file it says
// nothing, because a stream has no end yet: that is for a walk.
func parseQCOW2(head []byte, l Limits) (*qcow2Info, error) {
	if len(head) < 72 {
		return nil, refuse("qcow2-truncated", "the header ends after %d bytes", len(head))
	}
	be := binary.BigEndian
	q := &qcow2Info{version: int(be.Uint32(head[4:]))}
	if q.version != 2 && q.version != 3 {
		return nil, refuse("qcow2-version", "version %d", q.version)
	}
	if off, n := be.Uint64(head[8:]), be.Uint32(head[16:]); off != 0 || n != 0 {
		return nil, refuse("qcow2-backing-file", "the image names another file")
	}
	incompatible, headerLength, compression := uint64(0), int64(72), byte(0)
	q.refBits = 16
	if q.version == 3 {
		if len(head) < 104 {
			return nil, refuse("qcow2-truncated", "the header ends after %d bytes", len(head))
		}
		incompatible, headerLength = be.Uint64(head[72:]), int64(be.Uint32(head[100:]))
		if headerLength < 104 || headerLength%8 != 0 || headerLength > 4096 {
			return nil, refuse("qcow2-header", "a header of %d bytes", headerLength)
		}
		if order := be.Uint32(head[96:]); order > 6 {
			return nil, refuse("qcow2-header", "refcounts of 2^%d bits", order)
		} else {
			q.refBits = 1 << order
		}
		if headerLength > 104 {
			if len(head) < 105 {
				return nil, refuse("qcow2-truncated", "the header ends after %d bytes", len(head))
			}
			compression = head[104]
		}
	}
	switch {
	case incompatible&qcow2DataFile != 0:
		return nil, refuse("qcow2-data-file", "the data is in another file")
	case incompatible&qcow2Corrupt != 0:
		return nil, refuse("qcow2-corrupt", "the image is marked as corrupt")
	case incompatible>>5 != 0:
		return nil, refuse("qcow2-unknown-feature", "feature bits %#x", incompatible)
	}
	q.extended = incompatible&qcow2ExtendedL2 != 0
	q.zstd = compression == 1
	if compression > 1 || q.zstd != (incompatible&qcow2Compression != 0) {
		return nil, refuse("qcow2-compression", "compression type %d", compression)
	}
	bits := be.Uint32(head[20:])
	if bits < 9 || bits > 21 || q.extended && bits < 14 {
		return nil, refuse("qcow2-cluster-bits", "clusters of 2^%d bytes", bits)
	}
	q.clusterBits = int(bits)
	if q.crypt = int(be.Uint32(head[32:])); q.crypt > 2 {
		return nil, refuse("qcow2-crypt", "encryption method %d", q.crypt)
	}
	size := be.Uint64(head[24:])
	if size > uint64(l.VirtualSize) {
		return nil, refuse("virtual-size", "the disk has %d bytes, more than %d", size, l.VirtualSize)
	}
	q.size = int64(size)
	if err := q.parseTables(head); err != nil {
		return nil, err
	}
	return q, checkQCOW2Extensions(head, headerLength, q.cluster())
}

// parseTables reads where the tables are (rules Q6 to Q8).
func (q *qcow2Info) parseTables(head []byte) error {
	be := binary.BigEndian
	l1, l1Size := be.Uint64(head[40:]), uint64(be.Uint32(head[36:]))
	perL1 := uint64(q.l2Entries()) * uint64(q.cluster())
	needed := (uint64(q.size) + perL1 - 1) / perL1
	cluster := uint64(q.cluster())
	switch {
	case l1Size*8 > maxL1:
		return refuse("qcow2-l1", "an L1 table of %d entries", l1Size)
	case l1Size < needed:
		return refuse("qcow2-l1", "an L1 table of %d entries, and %d are needed", l1Size, needed)
	case l1%cluster != 0 || l1>>56 != 0 || l1Size > 0 && l1 < cluster:
		return refuse("qcow2-l1", "an L1 table at %#x", l1)
	}
	q.l1, q.l1Size = int64(l1), int64(l1Size)
	table, tableClusters := be.Uint64(head[48:]), uint64(be.Uint32(head[56:]))
	if table == 0 || table%cluster != 0 || table>>56 != 0 || tableClusters*cluster > maxRefcountTable {
		return refuse("qcow2-header", "a refcount table of %d clusters at %#x", tableClusters, table)
	}
	q.refcounts, q.refcountLen = int64(table), int64(tableClusters*cluster)
	n, at := be.Uint32(head[60:]), be.Uint64(head[64:])
	if n > maxSnapshots || n > 0 && (at>>56 != 0 || at%8 != 0) {
		return refuse("qcow2-snapshots", "%d snapshots at %#x", n, at)
	}
	q.snapshots, q.snapshotN = int64(at), int(n)
	return nil
}

// checkQCOW2Extensions walks the extensions of the header (rules Q2 and Q6).
func checkQCOW2Extensions(head []byte, at, cluster int64) error {
	be := binary.BigEndian
	end := min(cluster, int64(len(head)))
	for at+8 <= end {
		kind, n := be.Uint32(head[at:]), int64(be.Uint32(head[at+4:]))
		switch {
		case kind == 0:
			return nil
		case kind == dataFileExtension:
			return refuse("qcow2-data-file", "the image names another file for its data")
		case n > cluster-at-8:
			return refuse("qcow2-header", "extension %#x of %d bytes ends beyond the first cluster", kind, n)
		}
		at += 8 + (n+7)/8*8
	}
	return nil
}
