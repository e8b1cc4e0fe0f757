package diskformat

import (
	"bufio"
	"encoding/binary"
	"errors"
	"hash"
	"hash/crc32"
	"io"

	"github.com/klauspost/compress/flate"
)

// Signatures in a zip file (PKWARE APPNOTE, section 4.3).
const (
	zipLocal      = 0x04034b50
	zipDescriptor = 0x08074b50
	zipCentral    = 0x02014b50
	zipEnd        = 0x06054b50
	zip64End      = 0x06064b50
	zip64Locator  = 0x07064b50

	zipEncrypted = 1 << 0 // flags
	zipStreamed  = 1 << 3 // lengths and checksum come behind the data
	zipUnknown   = 0xffffffff
)

var errZip = errors.New("malformed zip")

// A zipReader reads the only member of a zip file from its start to its end: a zip
// that was written as a stream has no lengths before the data, and one that comes as a
// stream no directory.
type zipReader struct {
	buf    *bufio.Reader
	data   io.Reader // of the member
	header zipHeader
	n      int64 // bytes that came out
	sum    hash.Hash32
	err    error
}

// A zipHeader is what the parts of a zip file say of the member. Lengths are modulo
// 2^32: longer ones are elsewhere, and the checksum tells.
type zipHeader struct {
	flags, method         uint16
	sum, packed, unpacked uint32
}

// newZipReader reads the header of the member.
func newZipReader(buf *bufio.Reader) (*zipReader, error) {
	h := make([]byte, 30)
	if _, err := io.ReadFull(buf, h); err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	z := &zipReader{buf: buf, sum: crc32.NewIEEE()}
	z.header = zipHeader{le.Uint16(h[6:]), le.Uint16(h[8:]), le.Uint32(h[14:]), le.Uint32(h[18:]), le.Uint32(h[22:])}
	name, extra := make([]byte, le.Uint16(h[26:])), make([]byte, le.Uint16(h[28:]))
	for _, p := range [][]byte{name, extra} {
		if _, err := io.ReadFull(buf, p); err != nil {
			return nil, err
		}
	}
	packed := int64(z.header.packed)
	if z.header.packed == zipUnknown {
		packed = zip64Packed(extra)
	}
	switch {
	case le.Uint32(h) != zipLocal:
		return nil, errZip
	case z.header.flags&zipEncrypted != 0:
		return nil, refuse("expand-corrupt", "the zip is encrypted")
	case len(name) > 0 && name[len(name)-1] == '/':
		return nil, refuse("expand-names", "the member of the zip is a folder")
	case z.header.method == 8:
		z.data = flate.NewReader(buf) // takes no byte too much from a ByteReader
	case z.header.method == 0 && z.header.flags&zipStreamed == 0 && packed >= 0:
		z.data = io.LimitReader(buf, packed)
	default:
		return nil, refuse("expand-corrupt", "the zip is compressed by method %d", z.header.method)
	}
	return z, nil
}

// zip64Packed returns the packed length that stands in the extra field of a local
// header, or -1.
func zip64Packed(extra []byte) int64 {
	le := binary.LittleEndian
	for len(extra) >= 4 {
		kind, n := le.Uint16(extra), int(le.Uint16(extra[2:]))
		if extra = extra[4:]; n > len(extra) {
			break
		}
		if kind == 1 && n >= 16 {
			if packed := le.Uint64(extra[8:]); packed < 1<<62 {
				return int64(packed)
			}
		}
		extra = extra[n:]
	}
	return -1
}

// Read implements io.Reader. io.EOF means that the whole file was right.
func (z *zipReader) Read(p []byte) (int, error) {
	if z.err != nil {
		return 0, z.err
	}
	n, err := z.data.Read(p)
	z.n += int64(n)
	z.sum.Write(p[:n])
	if errors.Is(err, io.EOF) {
		switch err = z.finish(); {
		case err == nil:
			err = io.EOF
		case errors.Is(err, io.EOF):
			err = io.ErrUnexpectedEOF
		}
	}
	z.err = err
	return n, err
}

// finish reads what is behind the data.
func (z *zipReader) finish() error {
	if z.header.flags&zipStreamed != 0 {
		if err := z.descriptor(); err != nil {
			return err
		}
	} else if err := z.check(z.header); err != nil {
		return err
	}
	entries := 0
	for {
		signature, err := z.number()
		if err != nil {
			return err
		}
		switch signature {
		case zipLocal:
			return refuse("expand-names", "the zip has more than one member")
		case zipCentral:
			if entries++; entries > 1 {
				return refuse("expand-names", "the zip has more than one member")
			}
			err = z.central()
		case zip64End:
			err = z.skip()
		case zip64Locator:
			_, err = z.buf.Discard(16)
		case zipEnd:
			if entries == 0 {
				return errZip
			}
			return z.end()
		default:
			return errZip
		}
		if err != nil {
			return err
		}
	}
}

// check compares the member with what is said of it. A length of 2^32-1 stands for
// one that is elsewhere.
func (z *zipReader) check(h zipHeader) error {
	if h.sum != z.sum.Sum32() || h.unpacked != zipUnknown && h.unpacked != uint32(z.n) {
		return refuse("expand-corrupt", "the checksum or the length in the zip is wrong")
	}
	return nil
}

// descriptor reads checksum and lengths behind the data: with or without a signature,
// with lengths of 4 or 8 bytes, of which only the data tells.
func (z *zipReader) descriptor() error {
	le := binary.LittleEndian
	for _, signature := range []int{4, 0} {
		for _, width := range []int{4, 8} {
			length := signature + 4 + 2*width
			b, err := z.buf.Peek(length + 4)
			if err != nil || signature > 0 && le.Uint32(b) != zipDescriptor {
				continue
			}
			next := le.Uint32(b[length:])
			h := zipHeader{sum: le.Uint32(b[signature:]), unpacked: le.Uint32(b[signature+4+width:])}
			if (next == zipCentral || next == zipLocal) && z.check(h) == nil {
				_, err := z.buf.Discard(length)
				return err
			}
		}
	}
	return refuse("expand-corrupt", "the checksum or the length in the zip is wrong")
}

// central reads the entry of the directory, behind its signature.
func (z *zipReader) central() error {
	h := make([]byte, 42)
	if _, err := io.ReadFull(z.buf, h); err != nil {
		return err
	}
	le := binary.LittleEndian
	if err := z.check(zipHeader{sum: le.Uint32(h[12:]), unpacked: le.Uint32(h[20:])}); err != nil {
		return err
	}
	rest := int(le.Uint16(h[24:])) + int(le.Uint16(h[26:])) + int(le.Uint16(h[28:]))
	_, err := z.buf.Discard(rest)
	return err
}

// end reads the end of the directory, behind its signature, and finds nothing after.
func (z *zipReader) end() error {
	h := make([]byte, 18)
	if _, err := io.ReadFull(z.buf, h); err != nil {
		return err
	}
	if n := binary.LittleEndian.Uint16(h[6:]); n != 1 && n != 0xffff {
		return refuse("expand-names", "the zip has %d members", n)
	}
	if _, err := z.buf.Discard(int(binary.LittleEndian.Uint16(h[16:]))); err != nil {
		return err
	}
	if _, err := z.buf.ReadByte(); !errors.Is(err, io.EOF) {
		return errZip
	}
	return nil
}

// number reads a signature.
func (z *zipReader) number() (uint32, error) {
	var b [4]byte
	if _, err := io.ReadFull(z.buf, b[:]); err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint32(b[:]), nil
}

// skip passes over the end of a directory of zip64, behind its signature.
func (z *zipReader) skip() error {
	var b [8]byte
	if _, err := io.ReadFull(z.buf, b[:]); err != nil {
		return err
	}
	n := binary.LittleEndian.Uint64(b[:])
	if n > 64<<10 {
		return errZip
	}
	_, err := z.buf.Discard(int(n))
	return err
}
