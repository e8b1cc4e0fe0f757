package diskformat

import (
	"errors"
	"fmt"
	"io"
	"slices"
)

// A View is a disk shown as an image of some format: a file that is computed as it is
// read. It is safe for concurrent use, and its bytes follow from the disk, its Bitmap
// and the id alone: every reader sees the same. Errors of ReadAt are those of the
// disk.
type View struct {
	name    string
	version int
	size    int64
	parts   []part // without a gap, from 0 to size
}

// A part is a stretch of a View that one rule computes.
type part struct {
	off, length int64
	// fill sets all of p to the bytes at an offset from the start of the part.
	fill func(p []byte, at int64) error
}

// A viewer lays a view out. id is that of the image, from which all that would
// otherwise be a date or a random number is made (rule S2).
type viewer struct {
	version  int   // of the layout: another one for every change of a byte
	largest  int64 // disk that the format can hold, in bytes
	multiple int64 // the disk is filled up with zeros to a multiple of so many bytes
	lay      func(l *layout)
}

// viewers has the views that there are, by name. Each file of a format adds its
// lines here and nowhere else.
var viewers = map[string]viewer{
	"raw":         {1, 1 << 62, 1, layRaw},
	"qcow2":       {1, 16 << 40, 512, layQCOW2},
	"vdi":         {1, 16 << 40, 512, layVDI},
	"vhd":         {1, maxVHD, 512, layVHD},
	"vhd-fixed":   {1, maxVHD, 512, layVHDFixed},
	"vmdk":        {1, maxVMDK, 512, layVMDK},
	"vmdk-stream": {1, maxVMDK, 512, layVMDKStream},
	"vhdx":        {1, 16 << 40, 512, layVHDX},
}

// ViewNames returns the names of the views that there are, sorted.
func ViewNames() []string {
	var names []string
	for name := range viewers {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// NewView returns the view of that name of a disk. used is the disk's own bitmap;
// what it calls unused is never read. A *Refusal with the slug view-unavailable if
// there is no such view or the disk is too large for it (rule S8).
func NewView(name string, disk io.ReaderAt, used *Bitmap, id [16]byte) (*View, error) {
	how, ok := viewers[name]
	if !ok {
		return nil, refuse("view-unavailable", "there is no view %.40q", name)
	}
	if used.Size() > how.largest {
		return nil, refuse("view-unavailable", "a disk of %d bytes is too large for the view %s, which holds %d", used.Size(), name, how.largest)
	}
	l := &layout{disk: disk, used: used, id: id}
	l.size = (used.Size() + how.multiple - 1) / how.multiple * how.multiple
	how.lay(l)
	return &View{name: name, version: how.version, size: l.end, parts: l.parts}, nil
}

// Name returns the name of the view.
func (v *View) Name() string { return v.name }

// Version returns the number of its layout: with the data's digest and the name it
// names the bytes of the view (rule S3).
func (v *View) Version() int { return v.version }

// Size returns the length of the view in bytes.
func (v *View) Size() int64 { return v.size }

// ReadAt implements io.ReaderAt.
func (v *View) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, errNegative
	}
	read := 0
	for len(p) > 0 && off < v.size {
		i, found := slices.BinarySearchFunc(v.parts, off, func(part part, off int64) int {
			switch {
			case off < part.off:
				return 1
			case off >= part.off+part.length:
				return -1
			}
			return 0
		})
		if !found {
			return read, fmt.Errorf("diskformat: view %s has a gap at %d", v.name, off)
		}
		part := v.parts[i]
		n := int(min(int64(len(p)), part.off+part.length-off))
		if err := part.fill(p[:n], off-part.off); err != nil {
			return read, err
		}
		p, off, read = p[n:], off+int64(n), read+n
	}
	if len(p) > 0 {
		return read, io.EOF
	}
	return read, nil
}

// A layout is a View being laid out, from its first byte to its last.
type layout struct {
	disk io.ReaderAt
	used *Bitmap
	size int64 // of the disk as the view has it: that of used, filled up
	id   [16]byte

	end   int64
	parts []part
}

// add puts a part at the end.
func (l *layout) add(length int64, fill func(p []byte, at int64) error) {
	if length == 0 {
		return
	}
	l.parts = append(l.parts, part{l.end, length, fill})
	l.end += length
}

// text puts bytes at the end that do not change.
func (l *layout) text(b []byte) {
	l.add(int64(len(b)), func(p []byte, at int64) error {
		copy(p, b[at:])
		return nil
	})
}

// zero puts zeros at the end.
func (l *layout) zero(length int64) {
	l.add(length, func(p []byte, _ int64) error {
		clear(p)
		return nil
	})
}

// align puts zeros at the end up to a multiple of n.
func (l *layout) align(n int64) { l.zero((n - l.end%n) % n) }

// table puts n entries of width bytes at the end, and zeros up to length. set writes
// entry i, which holds zeros.
func (l *layout) table(n int64, width int, length int64, set func(i int64, entry []byte)) {
	l.add(length, func(p []byte, at int64) error {
		clear(p)
		var entry [64]byte
		w := int64(width)
		for i := at / w; i < n && i*w < at+int64(len(p)); i++ {
			clear(entry[:width])
			set(i, entry[:width])
			if from := i*w - at; from < 0 {
				copy(p, entry[-from:width])
			} else {
				copy(p[from:], entry[:width])
			}
		}
		return nil
	})
}

// blocks puts the blocks of the disk that are in use at the end, each of so many
// clusters, in their order; in front of each are head bytes that set makes, or none.
// The last one is filled up with zeros.
func (l *layout) blocks(perBlock int64, head int64, set func(p []byte)) {
	used := l.used
	if perBlock > 1 {
		used = coarser(used, perBlock)
	}
	length := perBlock * clusterSize
	l.add(used.Used()*(head+length), func(p []byte, at int64) error {
		for len(p) > 0 {
			k, in := at/(head+length), at%(head+length)
			if in < head {
				n := min(int64(len(p)), head-in)
				all := make([]byte, head)
				set(all)
				copy(p[:n], all[in:])
				p, at = p[n:], at+n
				continue
			}
			n := min(int64(len(p)), head+length-in)
			first := used.Select(k)
			// Neighbours on the disk that are neighbours here are read at once.
			for head == 0 && n < int64(len(p)) && k+1 < used.Used() && used.Has(first+(n+in)/length) && (n+in)%length == 0 {
				n = min(int64(len(p)), n+length)
				k++
			}
			if err := l.read(p[:n], first*length+in-head); err != nil {
				return err
			}
			p, at = p[n:], at+n
		}
		return nil
	})
}

// read reads the disk, and zeros behind its end.
func (l *layout) read(p []byte, off int64) error {
	n := max(0, min(int64(len(p)), l.used.Size()-off))
	clear(p[n:])
	got, err := l.disk.ReadAt(p[:n], off)
	if int64(got) == n {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// coarser returns the bitmap of blocks of n clusters, as if each were a cluster.
func coarser(b *Bitmap, n int64) *Bitmap {
	blocks := (clusters(b.Size()) + n - 1) / n
	words := make([]uint64, (blocks+63)/64)
	for i := range blocks {
		if b.Coarse(i*n, n) {
			words[i/64] |= 1 << (i % 64)
		}
	}
	return index(blocks*clusterSize, words)
}

// layRaw shows the disk as it is. What is unused is not read.
func layRaw(l *layout) {
	l.add(l.size, func(p []byte, at int64) error {
		for len(p) > 0 {
			c := at / clusterSize
			used := l.used.Has(c)
			n := min(int64(len(p)), (c+1)*clusterSize-at)
			for n < int64(len(p)) && l.used.Has((at+n)/clusterSize) == used {
				n = min(int64(len(p)), n+clusterSize)
			}
			if used {
				if err := l.read(p[:n], at); err != nil {
					return err
				}
			} else {
				clear(p[:n])
			}
			p, at = p[n:], at+n
		}
		return nil
	})
}
