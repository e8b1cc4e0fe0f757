package diskformat

import "encoding/binary"

// Of the qcow2 that is shown: version 3, 64 KiB clusters, 16-bit refcounts.
const (
	l2Entries      = clusterSize / 8
	refcountsBlock = clusterSize / 2 // refcounts in a cluster
	copiedBit      = 1 << 63
	qcow2Header    = 112
)

// layQCOW2 shows the disk as a qcow2: the header; the refcount table and its blocks;
// the L1 table and all L2 tables; and the clusters in use in the order of the disk.
func layQCOW2(l *layout) {
	n := clusters(l.size)
	l2s := (n + l2Entries - 1) / l2Entries
	l1Clusters := (l2s*8 + clusterSize - 1) / clusterSize
	// The refcounts count the clusters that they take themselves: a fixed point.
	var total, tableClusters, blocks int64
	for {
		total = 1 + tableClusters + blocks + l1Clusters + l2s + l.used.Used()
		b := (total + refcountsBlock - 1) / refcountsBlock
		t := (b*8 + clusterSize - 1) / clusterSize
		if b == blocks && t == tableClusters {
			break
		}
		blocks, tableClusters = b, t
	}
	table := int64(clusterSize)
	block := table + tableClusters*clusterSize
	l1 := block + blocks*clusterSize
	l2 := l1 + l1Clusters*clusterSize
	data := l2 + l2s*clusterSize

	h := make([]byte, clusterSize)
	copy(h, "QFI\xfb")
	be := binary.BigEndian
	be.PutUint32(h[4:], 3)
	be.PutUint32(h[20:], 16) // cluster bits
	be.PutUint64(h[24:], uint64(l.size))
	be.PutUint32(h[36:], uint32(l2s))
	be.PutUint64(h[40:], uint64(l1))
	be.PutUint64(h[48:], uint64(table))
	be.PutUint32(h[56:], uint32(tableClusters))
	be.PutUint32(h[96:], 4) // 16-bit refcounts
	be.PutUint32(h[100:], qcow2Header)
	l.text(h)
	l.table(blocks, 8, tableClusters*clusterSize, func(i int64, entry []byte) {
		be.PutUint64(entry, uint64(block+i*clusterSize))
	})
	l.table(total, 2, blocks*clusterSize, func(_ int64, entry []byte) {
		be.PutUint16(entry, 1)
	})
	l.table(l2s, 8, l1Clusters*clusterSize, func(i int64, entry []byte) {
		be.PutUint64(entry, uint64(l2+i*clusterSize)|copiedBit)
	})
	// Reads of a table go up through it: the rank of an entry is that of the one
	// before, and one more if that is in use.
	l.table(n, 8, l2s*clusterSize, func(i int64, entry []byte) {
		if l.used.Has(i) {
			be.PutUint64(entry, uint64(data+l.used.Rank(i)*clusterSize)|copiedBit)
		}
	})
	l.blocks(1, 0, nil)
}
