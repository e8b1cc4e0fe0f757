// Package diskformat knows the formats of disk images: it inspects what comes in,
// shows any image as the disk inside it, and shows any disk as an image of another
// format, computed as it is read.
//
// No name that stands inside an image is ever opened or resolved, and a format is
// never guessed from the bytes: whoever opens an image says what it is, and was told
// by an Inspector, which looked for everything that it could be besides.
package diskformat

import (
	"errors"
	"fmt"
	"io"
)

// A Format is how a disk is laid out in a file. The words are those of disk_format,
// and a few that only an Inspector finds.
type Format string

const (
	Raw       Format = "raw"
	QCOW2     Format = "qcow2"
	VMDK      Format = "vmdk"
	VHD       Format = "vhd"
	VHDX      Format = "vhdx"
	VDI       Format = "vdi"
	ISO       Format = "iso"
	Ploop     Format = "ploop"
	GPT       Format = "gpt" // a partition table, GPT or MBR: raw
	LUKS      Format = "luks"
	QED       Format = "qed"
	Container Format = "container" // an archive or a compressed file: opaque
)

// An Image is the disk inside an image: guest bytes. Bytes that nothing is stored
// for read as zeros. It is safe for concurrent use, keeps at most a few MiB of
// tables in memory whatever the size of the disk, and does not close what it reads.
//
// Errors of ReadAt wrap ErrDecode if the image contradicts itself, and are otherwise
// those of the reader below.
type Image interface {
	io.ReaderAt
	// Size returns the length of the disk in bytes.
	Size() int64
	// Extent returns the longest run from off on, within what one table tells,
	// that is of one kind. off is below Size. It may call zeros data, and never
	// data zeros.
	Extent(off int64) (Extent, error)
}

// An Extent is a run of guest bytes.
type Extent struct {
	Length int64 // > 0
	Zero   bool  // nothing is stored for it: it reads as zeros
}

// ErrDecode: the image contradicts itself, so that guest bytes cannot be told.
var ErrDecode = errors.New("image data is damaged")

var errNegative = errors.New("diskformat: negative offset")

// A Refusal says which rule an image breaks. Slug is its fixed name, for programs;
// Detail is for people and quotes no more than a few bytes of the image.
type Refusal struct {
	Slug, Detail string
}

func (r *Refusal) Error() string { return r.Slug + ": " + r.Detail }

// refuse returns a Refusal.
func refuse(slug, format string, args ...any) error {
	return &Refusal{Slug: slug, Detail: fmt.Sprintf(format, args...)}
}

// Limits are what an inspection and the readers allow. The zero value means the
// defaults.
type Limits struct {
	// VirtualSize is the largest disk, in bytes: 0 means 16 TiB.
	VirtualSize int64
	// VMDKTypes are the createTypes that are taken; empty means monolithicSparse
	// and streamOptimized.
	VMDKTypes []string
	// RawOverMapping lets data in a mapping format be stored as raw; false refuses
	// it (rule D4).
	RawOverMapping bool
	// RefuseLUKS2 refuses LUKS 2 that is declared raw (rule D4).
	RefuseLUKS2 bool
}

// WithDefaults returns l with its zero fields replaced by what they mean.
func (l Limits) WithDefaults() Limits {
	if l.VirtualSize == 0 {
		l.VirtualSize = 16 << 40
	}
	if len(l.VMDKTypes) == 0 {
		l.VMDKTypes = []string{"monolithicSparse", "streamOptimized"}
	}
	return l
}

// An opener opens an image of one format. size is the length of r.
type opener func(r io.ReaderAt, size int64, l Limits) (Image, error)

// openers has those formats that can be read. Each file of a format adds its line
// here and nowhere else.
var openers = map[Format]opener{
	Raw: openRaw, ISO: openRaw, GPT: openRaw,
	QCOW2: openQCOW2, VDI: openVDI, VHD: openVHD, VMDK: openVMDK, VHDX: openVHDX,
}

// Open shows the image in r, which has size bytes and the format f, as the disk
// inside. It checks what the safety rules say of the header, by the limits, and
// reads no more than headers and the first table. A *Refusal if a rule is broken or
// if images of this format, or encrypted ones, cannot be read (slug
// view-unavailable).
func Open(r io.ReaderAt, size int64, f Format, l Limits) (Image, error) {
	open := openers[f]
	if open == nil {
		return nil, refuse("view-unavailable", "images of format %s cannot be read", f)
	}
	return open(r, size, l.WithDefaults())
}

// A raw image is the disk itself.
type raw struct {
	io.ReaderAt
	size int64
}

func openRaw(r io.ReaderAt, size int64, l Limits) (Image, error) {
	if size > l.VirtualSize {
		return nil, refuse("virtual-size", "the disk has %d bytes, more than %d", size, l.VirtualSize)
	}
	return newRaw(r, size), nil
}

// newRaw returns the disk of the first size bytes of r.
func newRaw(r io.ReaderAt, size int64) *raw { return &raw{io.NewSectionReader(r, 0, size), size} }

func (r *raw) Size() int64 { return r.size }

func (r *raw) Extent(off int64) (Extent, error) {
	return Extent{Length: r.size - off}, nil
}
