package diskformat

import (
	"io"

	lru "github.com/hashicorp/golang-lru/v2"
)

const (
	// tablePiece of a table is read at once, and tablePieces of them are kept: 4
	// MiB, which map 32 GiB of a qcow2 with 64 KiB clusters.
	tablePiece  = 64 << 10
	tablePieces = 64
)

// tables reads the tables of an image in pieces and keeps the latest, so that memory
// does not grow with the disk. It is safe for concurrent use.
type tables struct {
	r      io.ReaderAt
	length int64 // of r
	pieces *lru.Cache[int64, []byte]
}

func newTables(r io.ReaderAt, length int64) *tables {
	pieces, _ := lru.New[int64, []byte](tablePieces) // fails only for sizes below 1
	return &tables{r, length, pieces}
}

// entry returns entry i, of width bytes, of the table at an offset. An entry may lie
// across two pieces. What it returns must not be altered.
func (t *tables) entry(table, i, width int64) ([]byte, error) {
	at := table + i*width
	if at < 0 || at > t.length-width {
		return nil, damaged("a table at %#x that ends beyond the file", table)
	}
	b, err := t.piece(at / tablePiece)
	if err != nil {
		return nil, err
	}
	in := at % tablePiece
	if in+width <= int64(len(b)) {
		return b[in : in+width], nil
	}
	next, err := t.piece(at/tablePiece + 1)
	if err != nil {
		return nil, err
	}
	across := append(make([]byte, 0, width), b[in:]...)
	return append(across, next[:width-int64(len(across))]...), nil
}

func (t *tables) piece(i int64) ([]byte, error) {
	if b, ok := t.pieces.Get(i); ok {
		return b, nil
	}
	b := make([]byte, min(tablePiece, t.length-i*tablePiece))
	if err := readFull(t.r, b, i*tablePiece); err != nil {
		return nil, err
	}
	t.pieces.Add(i, b)
	return b, nil
}

// A guestRun is where a run of guest bytes comes from: from an offset in the file, or
// nowhere, so that it is zeros.
type guestRun struct {
	zero   bool
	length int64
	host   int64
}

// A blockImage is an image whose disk is mapped in blocks that are stored as they
// are, or not at all.
type blockImage struct {
	r    io.ReaderAt
	size int64 // of the disk
	// length of the file, filled up to where its last sector ends: what is between
	// reads as zeros.
	length int64
	// run returns where the guest bytes from off on come from, as far as that is
	// easily told; off is below size.
	run func(off int64) (guestRun, error)
}

// Size implements Image.
func (b *blockImage) Size() int64 { return b.size }

// ReadAt implements io.ReaderAt.
func (b *blockImage) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, errNegative
	}
	read := 0
	for len(p) > 0 && off < b.size {
		run, err := b.run(off)
		if err != nil {
			return read, err
		}
		n := min(run.length, int64(len(p)), b.size-off)
		if run.zero {
			clear(p[:n])
		} else if err := readPadded(b.r, b.length, p[:n], run.host); err != nil {
			return read, err
		}
		p, off, read = p[n:], off+n, read+int(n)
	}
	if len(p) > 0 {
		return read, io.EOF
	}
	return read, nil
}

// readPadded reads all of p from a file of so many bytes, and zeros behind its end.
func readPadded(r io.ReaderAt, length int64, p []byte, off int64) error {
	n := max(0, min(int64(len(p)), length-off))
	clear(p[n:])
	return readFull(r, p[:n], off)
}

// Extent implements Image.
func (b *blockImage) Extent(off int64) (Extent, error) {
	return extentOf(off, b.size, func(off int64) (bool, int64, error) {
		run, err := b.run(off)
		return run.zero, run.length, err
	})
}

// maxExtent is how far an extent is followed through tables at once.
const maxExtent = 1 << 30

// extentOf joins runs of one kind from off on.
func extentOf(off, size int64, run func(off int64) (zero bool, length int64, err error)) (Extent, error) {
	var e Extent
	for off+e.Length < size && e.Length < maxExtent {
		zero, n, err := run(off + e.Length)
		if err != nil {
			return Extent{}, err
		}
		if e.Length > 0 && zero != e.Zero {
			break
		}
		e.Zero, e.Length = zero, e.Length+n
	}
	e.Length = min(e.Length, size-off)
	return e, nil
}
