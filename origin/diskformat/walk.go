package diskformat

import (
	"context"
	"io"
)

const (
	pageUnits = 32768 // of a page of a claims
	pageWords = pageUnits / 64
)

// Walk follows the tables of an image in r, which has size bytes and the format f,
// before it is taken into use. A *Refusal if a table or a block of data ends beyond
// the file (slug <f>-truncated), if two of them share a byte (<f>-overlap: so no table
// is its own, is guest data, or maps one block twice) or if a table is malformed
// (<f>-table, and the slugs of an Inspector, since headers are looked at again).
//
// Raw disks, encrypted ones and archives have no tables to follow. It reads each table
// once; of an image with more than 64 GiB in compressed clusters more often. It keeps a
// bit for each sector or cluster of the file, but nothing for stretches that are full.
// ctx ends it.
func Walk(ctx context.Context, r io.ReaderAt, size int64, f Format, l Limits) error {
	w := &walk{ctx: ctx, r: r, size: size, format: f, limits: l.WithDefaults()}
	switch f {
	case QCOW2:
		return w.qcow2()
	case VMDK:
		return w.vmdk()
	case VHD:
		return w.vhd()
	case VHDX:
		return w.vhdx()
	case VDI:
		return w.vdi()
	}
	return nil
}

// A walk is one Walk.
type walk struct {
	ctx    context.Context
	r      io.ReaderAt
	size   int64
	format Format
	limits Limits

	claims
}

// A claims says which units of a file are taken, in pages. Pages that are full are not
// kept.
type claims struct {
	unit  int64 // bytes
	end   int64 // of what may be taken: of the file, filled up to a unit
	pages []*claimPage
	full  claimPage // stands for all that are full
}

type claimPage struct {
	taken int
	bits  [pageWords]uint64
}

// begin sets the unit of the claims. Only a qcow2 or a VMDK may end within its last one.
func (w *walk) begin(unit int64) {
	w.claims = newClaims(unit, w.size)
	if w.format != QCOW2 && w.format != VMDK {
		w.end = w.size
	}
}

func newClaims(unit, size int64) claims {
	units := (size + unit - 1) / unit
	return claims{unit: unit, end: units * unit, pages: make([]*claimPage, (units+pageUnits-1)/pageUnits)}
}

// claim takes n bytes at an offset for a table or for data (rules W1, W2). Parts of
// units count as whole ones.
func (w *walk) claim(off, n int64) error {
	if err := w.within(off, n); err != nil {
		return err
	}
	if n > 0 && !w.take(off/w.unit, (off+n-1)/w.unit) {
		return w.overlap(off)
	}
	return nil
}

// within checks that n bytes at an offset are in the file.
func (w *walk) within(off, n int64) error {
	if off < 0 || n < 0 || n > w.end || off > w.end-n {
		return refuse(string(w.format)+"-truncated", "%d bytes at %#x are beyond the file", n, off)
	}
	return nil
}

func (w *walk) overlap(off int64) error {
	return refuse(string(w.format)+"-overlap", "the bytes at %#x are used twice", off)
}

func (w *walk) malformed(format string, args ...any) error {
	return refuse(string(w.format)+"-table", format, args...)
}

// has reports whether a unit is taken.
func (c *claims) has(i int64) bool {
	page := c.pages[i/pageUnits]
	return page == &c.full || page != nil && page.bits[i%pageUnits/64]&(1<<(i%64)) != 0
}

// take takes all units from first to last, and reports whether none was taken before.
func (c *claims) take(first, last int64) bool {
	for first <= last {
		page := &c.pages[first/pageUnits]
		switch *page {
		case &c.full:
			return false
		case nil:
			*page = new(claimPage)
		}
		in := first % pageUnits
		n := min(64-in%64, last-first+1)
		mask := ^uint64(0) >> (64 - n) << (in % 64)
		word := &(*page).bits[in/64]
		if *word&mask != 0 {
			return false
		}
		*word |= mask
		if (*page).taken += int(n); (*page).taken == pageUnits {
			*page = &c.full
		}
		first += n
	}
	return true
}

// each reads a table of n entries of so many bytes, in pieces, and gives each to f.
func (w *walk) each(off, n, width int64, f func(i int64, entry []byte) error) error {
	if err := w.within(off, n*width); err != nil {
		return err
	}
	buf := make([]byte, min(tablePiece, n*width))
	for i := int64(0); i < n; {
		if err := w.ctx.Err(); err != nil {
			return err
		}
		buf = buf[:min(int64(len(buf)), (n-i)*width)]
		if err := readPadded(w.r, w.size, buf, off+i*width); err != nil {
			return err
		}
		for p := buf; len(p) > 0; p = p[width:] {
			if err := f(i, p[:width]); err != nil {
				return err
			}
			i++
		}
	}
	return nil
}

// read returns n bytes at an offset, or as many as there are.
func (w *walk) read(off, n int64) ([]byte, error) {
	b := make([]byte, max(0, min(n, w.size-off)))
	return b, readFull(w.r, b, off)
}

// ceil returns n filled up to a multiple of unit.
func ceil(n, unit int64) int64 { return (n + unit - 1) / unit * unit }
