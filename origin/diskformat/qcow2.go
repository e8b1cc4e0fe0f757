package diskformat

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/zstd"
)

const (
	// inflated bytes of compressed clusters are kept, one cluster at least, so that
	// small reads in a row inflate each once.
	inflated = 2 << 20
	// zstdWindow is the largest window of a zstd frame (rule C1).
	zstdWindow = 8 << 20

	offsetMask     = 1<<56 - 1<<9 // of L1 and L2 entries
	compressedFlag = 1 << 62
	zeroFlag       = 1
)

// A qcow2 is the disk inside a qcow2, its active layer.
type qcow2 struct {
	qcow2Info
	r        io.ReaderAt
	length   int64 // of r
	end      int64 // length, filled up to a cluster: what is between reads as zeros
	tables   *tables
	clusters *lru.Cache[int64, []byte] // inflated, by their place on the disk
	inflate  sync.Pool                 // of *inflater
}

// openQCOW2 is the opener of qcow2.
func openQCOW2(r io.ReaderAt, size int64, l Limits) (Image, error) {
	head := make([]byte, min(size, 1<<20))
	if err := readFull(r, head, 0); err != nil {
		return nil, err
	}
	if len(head) < 4 || string(head[:4]) != "QFI\xfb" {
		return nil, refuse("declared-mismatch", "this is no qcow2")
	}
	info, err := parseQCOW2(head, l)
	if err != nil {
		return nil, err
	}
	if info.crypt != 0 {
		return nil, refuse("view-unavailable", "the disk is encrypted")
	}
	q := &qcow2{qcow2Info: *info, r: r, length: size}
	q.end = (size + q.cluster() - 1) / q.cluster() * q.cluster()
	q.tables = newTables(r, size)
	q.clusters, _ = lru.New[int64, []byte](int(max(1, inflated/q.cluster()))) // fails only for sizes below 1
	q.inflate.New = func() any { return new(inflater) }
	return q, nil
}

// readFull reads all of p.
func readFull(r io.ReaderAt, p []byte, off int64) error {
	n, err := r.ReadAt(p, off)
	switch {
	case n == len(p):
		return nil
	case err == nil || errors.Is(err, io.EOF):
		return io.ErrUnexpectedEOF
	}
	return err
}

// damaged returns an ErrDecode.
func damaged(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrDecode, fmt.Sprintf(format, args...))
}

// Size implements Image.
func (q *qcow2) Size() int64 { return q.size }

// An origin of guest bytes within a qcow2.
type qcow2Kind int

const (
	qcow2Zero qcow2Kind = iota
	qcow2Plain
	qcow2Packed
)

// A qcow2Run is where a run of guest bytes comes from.
type qcow2Run struct {
	kind   qcow2Kind
	length int64 // of guest bytes
	host   int64 // in the file: of the first byte, or of a packed cluster
	packed int64 // bytes of a packed cluster in the file
}

// ReadAt implements io.ReaderAt.
func (q *qcow2) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, errNegative
	}
	read := 0
	for len(p) > 0 && off < q.size {
		want := min(int64(len(p)), q.size-off)
		run, err := q.run(off, want)
		if err != nil {
			return read, err
		}
		n := min(run.length, want)
		switch run.kind {
		case qcow2Zero:
			clear(p[:n])
		case qcow2Plain:
			err = readPadded(q.r, q.length, p[:n], run.host)
		case qcow2Packed:
			err = q.packed(p[:n], off, run)
		}
		if err != nil {
			return read, err
		}
		p, off, read = p[n:], off+n, read+int(n)
	}
	if len(p) > 0 {
		return read, io.EOF
	}
	return read, nil
}

// Extent implements Image.
func (q *qcow2) Extent(off int64) (Extent, error) {
	return extentOf(off, q.size, func(off int64) (bool, int64, error) {
		run, err := q.run(off, q.size-off)
		return run.kind == qcow2Zero, run.length, err
	})
}

// run returns where the guest bytes from off on come from, n at most.
func (q *qcow2) run(off, n int64) (qcow2Run, error) {
	perL1 := q.l2Entries() * q.cluster()
	l1, err := q.tables.entry(q.l1, off/perL1, 8)
	if err != nil {
		return qcow2Run{}, err
	}
	n = min(n, perL1-off%perL1)
	table := int64(binary.BigEndian.Uint64(l1) & offsetMask)
	if table == 0 {
		return qcow2Run{kind: qcow2Zero, length: n}, nil
	}
	if table%q.cluster() != 0 || table > q.length-q.cluster() {
		return qcow2Run{}, damaged("an L2 table at %#x", table)
	}
	run, err := q.clusterRun(table, off%perL1/q.cluster(), off%q.cluster())
	if err != nil {
		return qcow2Run{}, err
	}
	for run.length < n && run.kind != qcow2Packed { // with its neighbours, as far as they are alike
		at := off + run.length
		next, err := q.clusterRun(table, at%perL1/q.cluster(), at%q.cluster())
		if err != nil || next.kind != run.kind || run.kind == qcow2Plain && next.host != run.host+run.length {
			break // an error is met again where it matters
		}
		run.length += next.length
	}
	run.length = min(run.length, n)
	return run, nil
}

// clusterRun returns where the guest bytes come from that begin in bytes into the
// cluster of entry i of the L2 table, to its end or to the end of what is alike.
func (q *qcow2) clusterRun(table, i, in int64) (qcow2Run, error) {
	entry, err := q.tables.entry(table, i, q.l2Width())
	if err != nil {
		return qcow2Run{}, err
	}
	v := binary.BigEndian.Uint64(entry)
	run := qcow2Run{length: q.cluster() - in}
	host := int64(v & offsetMask)
	switch {
	case v&compressedFlag != 0:
		return q.packedRun(v, run)
	case q.extended:
		return q.subclusters(host, binary.BigEndian.Uint64(entry[8:]), in)
	case v&zeroFlag != 0 && q.version < 3:
		return run, damaged("a zero cluster in a qcow2 of version 2")
	case v&zeroFlag != 0 || host == 0:
		return run, nil
	}
	run.kind, run.host = qcow2Plain, host+in
	return run, q.checkHost(host)
}

// checkHost checks the place of a plain cluster.
func (q *qcow2) checkHost(host int64) error {
	if host%q.cluster() != 0 || host > q.end-q.cluster() {
		return damaged("a cluster at %#x", host)
	}
	return nil
}

// subclusters is clusterRun for extended L2 entries: 32 parts of a cluster, of which
// each is stored or zeros.
func (q *qcow2) subclusters(host int64, status uint64, in int64) (qcow2Run, error) {
	part := q.cluster() / 32
	stored, zero := uint32(status), uint32(status>>32)
	switch {
	case stored&zero != 0:
		return qcow2Run{}, damaged("a subcluster that is stored and zeros")
	case stored != 0 && host == 0:
		return qcow2Run{}, damaged("a stored subcluster without a place")
	}
	i := in / part
	is := stored>>i&1 == 1
	run := qcow2Run{length: part - in%part}
	for i++; i < 32 && stored>>i&1 == 1 == is; i++ {
		run.length += part
	}
	if !is {
		return run, nil
	}
	run.kind, run.host = qcow2Plain, host+in
	return run, q.checkHost(host)
}

// packedRun reads the descriptor of a compressed cluster.
func (q *qcow2) packedRun(v uint64, run qcow2Run) (qcow2Run, error) {
	shift := 62 - (q.clusterBits - 8)
	run.kind = qcow2Packed
	run.host = int64(v & (1<<shift - 1))
	sectors := int64(v &^ (3 << 62) >> shift)
	run.packed = (sectors+1)*512 - run.host%512
	if run.packed > 2*q.cluster() || run.host >= q.length {
		return run, damaged("a compressed cluster of %d bytes at %#x", run.packed, run.host)
	}
	run.packed = min(run.packed, q.length-run.host)
	return run, nil
}

// packed reads guest bytes from off on out of a compressed cluster.
func (q *qcow2) packed(p []byte, off int64, run qcow2Run) error {
	in := off % q.cluster()
	b, ok := q.clusters.Get(off - in)
	if !ok {
		var err error
		if b, err = q.unpack(run); err != nil {
			return err
		}
		q.clusters.Add(off-in, b)
	}
	copy(p, b[in:])
	return nil
}

// An inflater holds what unpacking a cluster needs, for the next one.
type inflater struct {
	in    []byte
	text  bytes.Reader
	flate io.ReadCloser
	zstd  *zstd.Decoder
}

// unpack returns a whole cluster.
func (q *qcow2) unpack(run qcow2Run) ([]byte, error) {
	f := q.inflate.Get().(*inflater)
	defer q.inflate.Put(f)
	if int64(cap(f.in)) < run.packed {
		f.in = make([]byte, run.packed)
	}
	f.in = f.in[:run.packed]
	if err := readFull(q.r, f.in, run.host); err != nil {
		return nil, err
	}
	in := f.in
	if q.zstd { // the next cluster may begin in the last sector
		var err error
		if in, err = zstdFrame(in); err != nil {
			return nil, damaged("a compressed cluster at %#x: %v", run.host, err)
		}
	}
	f.text.Reset(in)
	from, err := f.reader(q.zstd)
	if err != nil {
		return nil, damaged("a compressed cluster at %#x: %v", run.host, err)
	}
	out := make([]byte, q.cluster())
	if _, err := io.ReadFull(from, out); err != nil {
		return nil, damaged("a compressed cluster at %#x: %v", run.host, err)
	}
	var more [1]byte
	if n, _ := from.Read(more[:]); n > 0 {
		return nil, damaged("a compressed cluster at %#x is longer than a cluster", run.host)
	}
	return out, nil
}

// reader returns what inflates f.text.
func (f *inflater) reader(isZstd bool) (io.Reader, error) {
	if !isZstd {
		if f.flate == nil {
			f.flate = flate.NewReader(&f.text)
			return f.flate, nil
		}
		return f.flate, f.flate.(flate.Resetter).Reset(&f.text, nil)
	}
	if f.zstd == nil {
		d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
			zstd.WithDecoderMaxWindow(zstdWindow), zstd.WithDecoderMaxMemory(zstdWindow))
		if err != nil {
			return nil, err
		}
		f.zstd = d
	}
	return f.zstd, f.zstd.Reset(&f.text)
}

// errFrame: the text is no zstd frame.
var errFrame = errors.New("malformed zstd frame")

// zstdFrame returns the frame that text begins with (RFC 8878, section 3.1.1): only
// its block headers are looked at.
func zstdFrame(text []byte) ([]byte, error) {
	var h zstd.Header
	if err := h.Decode(text); err != nil {
		return nil, err
	}
	if h.Skippable {
		return nil, errFrame
	}
	for at := h.HeaderSize; at+3 <= len(text); {
		block := int(text[at]) | int(text[at+1])<<8 | int(text[at+2])<<16
		length := block >> 3
		switch block >> 1 & 3 {
		case 1: // one byte, repeated
			length = 1
		case 3:
			return nil, errFrame
		}
		at += 3 + length
		if block&1 == 0 {
			continue
		}
		if h.HasCheckSum {
			at += 4
		}
		if at > len(text) {
			break
		}
		return text[:at], nil
	}
	return nil, io.ErrUnexpectedEOF
}
