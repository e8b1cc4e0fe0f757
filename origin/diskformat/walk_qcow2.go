package diskformat

import (
	"encoding/binary"
	"math"
	"slices"
)

// maxStarts of compressed clusters are kept at once: 8 MiB. Where there are more, the
// tables are walked once for each half of so many.
const maxStarts = 1 << 20

// A qcow2Walk follows the tables of a qcow2: refcounts, snapshots, and the active layer.
// What only snapshots have, or share with it, is not looked at: it is never read.
type qcow2Walk struct {
	*walk
	*qcow2Info
	packed claims // clusters with compressed ones in them, of which there may be many

	starts   []uint64 // places of compressed clusters, from lowest up to before highest
	lowest   uint64
	highest  uint64
	mostKept int
}

func (w *walk) qcow2() error { return w.qcow2Starts(maxStarts) }

func (w *walk) qcow2Starts(most int) error {
	head, err := w.read(0, 1<<20)
	if err != nil {
		return err
	}
	info, err := parseQCOW2(head, w.limits)
	if err != nil || info.crypt != 0 {
		return err
	}
	w.begin(info.cluster())
	q := &qcow2Walk{walk: w, qcow2Info: info, packed: newClaims(info.cluster(), w.size), highest: math.MaxUint64, mostKept: most}
	if err := w.claim(0, info.cluster()); err != nil {
		return err
	}
	if err := q.walkRefcounts(); err != nil {
		return err
	}
	if err := q.walkSnapshots(); err != nil {
		return err
	}
	if q.l1 > w.size-q.l1Size*8 {
		return w.within(w.end, 1) // a table may not end with the file, as data may
	}
	if err := w.claim(q.l1, q.l1Size*8); err != nil {
		return err
	}
	if err := q.walkL1(q.walkEntry); err != nil {
		return err
	}
	for {
		if err := q.checkStarts(); err != nil {
			return err
		}
		if q.highest == math.MaxUint64 {
			return nil
		}
		q.starts, q.lowest, q.highest = q.starts[:0], q.highest, math.MaxUint64
		err := q.walkL1(func(entry []byte) error {
			if v := binary.BigEndian.Uint64(entry); v&compressedFlag != 0 {
				run, err := q.packedAt(v)
				if err != nil {
					return err
				}
				return q.start(uint64(run.host))
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
}

// walkRefcounts claims the refcount table and the blocks in it.
func (q *qcow2Walk) walkRefcounts() error {
	if err := q.claim(q.refcounts, q.refcountLen); err != nil {
		return err
	}
	return q.each(q.refcounts, q.refcountLen/8, 8, func(_ int64, entry []byte) error {
		block := binary.BigEndian.Uint64(entry) &^ 511
		if block == 0 {
			return nil
		}
		return q.claimCluster(block)
	})
}

// claimCluster takes a cluster, which must begin at a multiple of clusters (rule W3).
func (q *qcow2Walk) claimCluster(off uint64) error {
	if off%uint64(q.cluster()) != 0 {
		return q.malformed("a cluster at %#x", off)
	}
	if off>>56 != 0 {
		return q.within(math.MaxInt64, 1)
	}
	if err := q.claim(int64(off), q.cluster()); err != nil {
		return err
	}
	if q.packed.has(int64(off) / q.cluster()) {
		return q.overlap(int64(off))
	}
	return nil
}

// walkSnapshots claims the table of snapshots and their L1 tables (rule Q7).
func (q *qcow2Walk) walkSnapshots() error {
	if q.snapshotN == 0 {
		return nil
	}
	at := q.snapshots
	be := binary.BigEndian
	for range q.snapshotN {
		if err := q.ctx.Err(); err != nil {
			return err
		}
		h, err := q.read(at, 40)
		if err != nil {
			return err
		}
		if len(h) < 40 {
			return refuse("qcow2-snapshots", "their table ends beyond the file")
		}
		l1, n := be.Uint64(h), int64(be.Uint32(h[8:]))
		if l1>>56 != 0 || l1%uint64(q.cluster()) != 0 || n*8 > maxL1 {
			return refuse("qcow2-snapshots", "an L1 table of %d entries at %#x", n, l1)
		}
		if err := q.claim(int64(l1), n*8); err != nil {
			return err
		}
		at += ceil(40+int64(be.Uint32(h[36:]))+int64(be.Uint16(h[12:]))+int64(be.Uint16(h[14:])), 8)
	}
	if at > q.end {
		return refuse("qcow2-snapshots", "their table ends beyond the file")
	}
	return q.claim(q.snapshots, at-q.snapshots)
}

// walkL1 gives all entries of all L2 tables to f. On the first walk it claims them.
func (q *qcow2Walk) walkL1(f func(entry []byte) error) error {
	return q.each(q.l1, q.l1Size, 8, func(_ int64, entry []byte) error {
		table := binary.BigEndian.Uint64(entry) & offsetMask
		if table == 0 {
			return nil
		}
		if q.lowest == 0 {
			if err := q.claimCluster(table); err != nil {
				return err
			}
			if int64(table) > q.walk.size-q.cluster() {
				return refuse("qcow2-truncated", "an L2 table at %#x ends beyond the file", table)
			}
		}
		return q.each(int64(table), q.l2Entries(), q.l2Width(), func(_ int64, entry []byte) error {
			return f(entry)
		})
	})
}

// walkEntry claims what an entry of an L2 table maps.
func (q *qcow2Walk) walkEntry(entry []byte) error {
	v := binary.BigEndian.Uint64(entry)
	if v&compressedFlag != 0 {
		run, err := q.packedAt(v)
		if err != nil {
			return err
		}
		for c := run.host / q.cluster(); c <= (run.host+run.packed-1)/q.cluster(); c++ {
			if q.has(c) {
				return q.overlap(c * q.cluster())
			}
			if !q.packed.has(c) {
				q.packed.take(c, c)
			}
		}
		return q.start(uint64(run.host))
	}
	host := v & offsetMask
	switch {
	case q.extended:
		status := binary.BigEndian.Uint64(entry[8:])
		stored, zero := uint32(status), uint32(status>>32)
		if stored&zero != 0 || stored != 0 && host == 0 {
			return q.malformed("subclusters that are stored and are not")
		}
	case v&zeroFlag != 0 && q.version < 3:
		return q.malformed("a zero cluster in a qcow2 of version 2")
	}
	if host == 0 {
		return nil
	}
	return q.claimCluster(host)
}

// packedAt reads the descriptor of a compressed cluster (rule C1).
func (q *qcow2Walk) packedAt(v uint64) (qcow2Run, error) {
	shift := 62 - (q.clusterBits - 8)
	run := qcow2Run{kind: qcow2Packed, host: int64(v & (1<<shift - 1))}
	run.packed = (int64(v&^(3<<62)>>shift)+1)*512 - run.host%512
	if run.packed > 2*q.cluster() {
		return run, q.malformed("a compressed cluster of %d bytes", run.packed)
	}
	if run.host >= q.walk.size {
		return run, q.within(q.end, run.packed)
	}
	return run, q.within(run.host, run.packed)
}

// start keeps the place of a compressed cluster: the lowest of them if there are too
// many.
func (q *qcow2Walk) start(at uint64) error {
	if at < q.lowest || at >= q.highest {
		return nil
	}
	if len(q.starts) == q.mostKept {
		if err := q.checkStarts(); err != nil {
			return err
		}
		half := len(q.starts) / 2
		q.highest = q.starts[half]
		q.starts = q.starts[:half]
		if at >= q.highest {
			return nil
		}
	}
	q.starts = append(q.starts, at)
	return nil
}

// checkStarts sorts what was kept and refuses two clusters that start at one place.
func (q *qcow2Walk) checkStarts() error {
	slices.Sort(q.starts)
	for i := 1; i < len(q.starts); i++ {
		if q.starts[i] == q.starts[i-1] {
			return q.overlap(int64(q.starts[i]))
		}
	}
	return nil
}
