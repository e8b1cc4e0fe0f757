package diskformat

import (
	"bytes"
	"encoding/binary"
	"slices"
)

const (
	headBytes   = 64 << 10 // of a file: what all that can be told early is told by
	windowBytes = 1 << 20  // at most, of a descriptor or of metadata
	tailBytes   = vmdkFooterArea
)

// An Inspector looks at an image as its bytes go by, from the first to the last, and
// says whether it is what it is declared to be and keeps the safety rules. It is a
// Writer: as soon as a rule is seen to be broken, Write fails with a *Refusal.
//
// It knows the slugs declared-mismatch, polyglot, banned-format, luks-version and
// virtual-size, for each format its own, such as qcow2-backing-file or vmdk-extent,
// and ova-ovf-not-first, ova-xml, ova-names, ova-href and ova-truncated.
//
// It keeps the first 64 KiB, at most 1 MiB of a descriptor or metadata, and the last
// 1536 bytes, whatever the size of the image. What needs all tables is for Walk.
type Inspector struct {
	declared Format
	size     int64 // of the file as announced, -1 if it was not
	limits   Limits

	opaque bool // nothing is looked at
	ova    *ova // nil unless declared

	pos    int64  // bytes that went by
	head   []byte // the first, headBytes at the most
	tail   []byte // the last, tailBytes at the most
	window *window
	ended  bool

	format  Format
	virtual int64        // bytes of the disk, -1: those of the file
	last    func() error // what is left to check at the end, or nil
	err     error        // the refusal, which stays
}

// A window is a stretch of the file that is kept until it is complete.
type window struct {
	off, length int64
	buf         []byte
	// then looks at it; it is short if the file ended.
	then func(b []byte) error
}

// A Report is what an Inspector found.
type Report struct {
	// Format is what the data is: raw if it is nothing else, iso also for an ISO
	// file with a partition table, container if it was not looked at or is an OVA.
	Format Format
	// VirtualSize is the length of the disk in bytes, or -1 if it cannot be told.
	VirtualSize int64
}

// NewInspector returns an Inspector of an image that is declared to have a
// disk_format and a container_format. Data in a container of the kind compressed or
// docker is not looked at; an ova is looked at as such; all others are as bare. A
// disk_format that this package does not know counts as raw. size is that of the file
// in bytes if it is known, else -1: it only makes some refusals earlier.
func NewInspector(declared Format, container string, size int64, l Limits) *Inspector {
	in := &Inspector{declared: declared, size: size, limits: l.WithDefaults(), virtual: -1}
	switch container {
	case "compressed", "docker":
		in.opaque = true
	case "ova":
		in.ova = newOVA(in.limits)
	}
	return in
}

// Write looks at the next bytes. Its error is a *Refusal, which every later call gives
// again; bytes behind what broke the rule were not taken.
func (in *Inspector) Write(p []byte) (int, error) {
	written := 0
	for len(p) > 0 && in.err == nil {
		n := in.take(p)
		in.pos += int64(n)
		in.tail = keepTail(in.tail, p[:n])
		written, p = written+n, p[n:]
		if in.err == nil && in.virtual < 0 && !in.opaque && in.ova == nil {
			in.err = in.checkSize(in.pos)
		}
		if in.err == nil && len(in.head) == headBytes && in.format == "" && !in.opaque {
			in.err = in.decide()
		}
	}
	return written, in.err
}

// take has the bytes where they are wanted, up to where a decision falls.
func (in *Inspector) take(p []byte) int {
	switch {
	case in.opaque:
	case len(in.head) < headBytes:
		if in.head == nil {
			n := int64(headBytes)
			if in.size >= 0 {
				n = min(n, in.size)
			}
			in.head = make([]byte, 0, n)
		}
		p = p[:min(len(p), headBytes-len(in.head))]
		in.head = append(in.head, p...)
	case in.ova != nil:
		in.err = in.ova.write(p)
	case in.window != nil:
		w := in.window
		from := w.off + int64(len(w.buf)) - in.pos // of what it lacks
		if from >= int64(len(p)) {
			break
		}
		p = p[:min(int64(len(p)), w.off+w.length-in.pos)]
		w.buf = append(w.buf, p[from:]...)
		in.err = in.look()
	}
	return len(p)
}

// keepTail returns the last bytes of tail and p.
func keepTail(tail, p []byte) []byte {
	if len(p) >= tailBytes {
		return append(tail[:0], p[len(p)-tailBytes:]...)
	}
	if over := len(tail) + len(p) - tailBytes; over > 0 {
		tail = append(tail[:0], tail[over:]...)
	}
	return append(tail, p...)
}

// Finish says what the image is after its last byte was written. Its error is a
// *Refusal. Nothing may be written after it.
func (in *Inspector) Finish() (Report, error) {
	if in.err == nil {
		in.ended = true
		in.err = in.finish()
	}
	switch {
	case in.err != nil:
		return Report{}, in.err
	case in.opaque || in.ova != nil:
		return Report{Container, -1}, nil
	case in.format == Ploop:
		return Report{Ploop, -1}, nil
	case in.virtual < 0:
		in.virtual = in.pos
	}
	return Report{in.format, in.virtual}, nil
}

func (in *Inspector) finish() error {
	if in.opaque {
		return nil
	}
	if in.format == "" {
		if err := in.decide(); err != nil {
			return err
		}
	}
	if in.ova != nil {
		return in.ova.finish()
	}
	for in.window != nil { // the file has ended before it was complete
		if err := in.look(); err != nil {
			return err
		}
	}
	if in.last != nil {
		return in.last()
	}
	return nil
}

// decide says what the file is, by its start, and begins to look at what it must be
// like. The start is complete, or the file ended.
func (in *Inspector) decide() error {
	found := detect(in.head)
	if in.ova != nil {
		in.format = Container
		return in.beginOVA(found)
	}
	format, err := single(found)
	if err != nil {
		return err
	}
	in.format = format
	switch {
	case in.declared == VHD && format != VHD:
		in.last = in.fixedVHD // it is told by its end, whatever it begins with
		return nil
	case in.accepts(format):
	case format.mapping() && in.rawLike() && in.limits.RawOverMapping:
		return nil
	default:
		return in.mismatch()
	}
	switch format {
	case QCOW2:
		return in.qcow2()
	case VMDK:
		return in.vmdk()
	case VHD:
		return in.vhd()
	case VHDX:
		return in.vhdx()
	case VDI:
		return in.vdi()
	case ISO:
		if in.declared == ISO {
			in.last = func() error {
				in.virtual = isoSize(in.head, in.pos)
				return in.checkSize(in.virtual)
			}
		}
	case LUKS:
		if in.limits.RefuseLUKS2 && len(in.head) >= 8 && binary.BigEndian.Uint16(in.head[6:]) != 1 {
			return refuse("luks-version", "LUKS %d", binary.BigEndian.Uint16(in.head[6:]))
		}
	}
	return nil
}

// rawLike reports whether the image is declared to be the disk itself. A name that an
// operator added is.
func (in *Inspector) rawLike() bool {
	return !in.declared.mapping() && in.declared != ISO && in.declared != Ploop && in.declared != QED
}

// accepts reports whether what was found is what was declared (rule D4).
func (in *Inspector) accepts(found Format) bool {
	switch {
	case in.rawLike():
		return found == Raw || found == GPT || found == ISO || found == LUKS
	case in.declared == Ploop:
		return found == Raw || found == GPT || found == Ploop
	}
	return found == in.declared
}

func (in *Inspector) mismatch() error {
	return refuse("declared-mismatch", "the data is %s and was declared to be %.20s", in.format, in.declared)
}

// checkSize applies the rule Q9.
func (in *Inspector) checkSize(n int64) error {
	if n > in.limits.VirtualSize {
		return refuse("virtual-size", "the disk has %d bytes, more than %d", n, in.limits.VirtualSize)
	}
	return nil
}

// gather keeps so many bytes from off on for then, which is called at once if they
// went by already. off is within the start that is kept, or was not reached yet.
func (in *Inspector) gather(off, length int64, then func(b []byte) error) error {
	w := &window{off: off, length: length, then: then}
	in.window = w
	if off < int64(len(in.head)) {
		w.buf = slices.Clone(in.head[off:min(int64(len(in.head)), off+length)])
	}
	if in.size >= 0 && off+length > in.size && !in.ended {
		w.length = max(int64(len(w.buf)), in.size-off) // and no more will come
	}
	if int64(len(w.buf)) == w.length {
		return in.look()
	}
	return nil
}

// look looks at the window, which is complete or will not be.
func (in *Inspector) look() error {
	w := in.window
	if int64(len(w.buf)) < w.length && !in.ended {
		return nil
	}
	in.window = nil
	return w.then(w.buf)
}

// beginOVA begins to look at an OVA, which may begin with nothing but an archive.
func (in *Inspector) beginOVA(found []Format) error {
	found = slices.DeleteFunc(found, func(f Format) bool { return f == Container })
	switch _, err := single(found); {
	case err != nil:
		return err
	case !at(257, "ustar")(in.head):
		return refuse("declared-mismatch", "the data is no tar archive and was declared to be an OVA")
	case len(found) > 0:
		return refuse("polyglot", "the data may be taken for a tar archive and for %s", found[0])
	}
	return in.ova.write(in.head)
}

// footer returns the last 512 bytes, or fewer.
func (in *Inspector) footer() []byte {
	return in.tail[max(0, len(in.tail)-vhdFooter):]
}

// noFixedVHD refuses an image in another mapping format that ends like a VHD.
func (in *Inspector) noFixedVHD() error {
	if isFixedVHD(in.footer()) {
		return refuse("polyglot", "the data may be taken for %s and for a VHD", in.format)
	}
	return nil
}

// sameStart reports whether the file as far as it is kept begins with b.
func (in *Inspector) sameStart(b string) bool { return bytes.HasPrefix(in.head, []byte(b)) }
