package diskformat

import (
	"bytes"
	"encoding/binary"
	"io"
	"slices"
)

const (
	// detectBytes of a file are enough for all detectors: the volume descriptor of
	// an ISO file begins at 32 KiB and is 2 KiB long.
	detectBytes = 34 << 10

	isoDescriptor = 32 << 10 // offset of the first volume descriptor
)

// A detector finds one format by its magic alone: what follows may be noise (rule D2).
type detector struct {
	format Format
	found  func(head []byte) bool
}

// detectors are tried all, on every file (rule D1). The magic of a fixed VHD is at the
// end of a file, and is looked for there.
var detectors = []detector{
	{QCOW2, at(0, "QFI\xfb")},
	{VMDK, isVMDK},
	{VHD, at(0, "conectix")},
	{VHDX, at(0, "vhdxfile")},
	{VDI, at(0x40, "\x7f\x10\xda\xbe")},
	{QED, at(0, "QED\x00")},
	{LUKS, at(0, "LUKS\xba\xbe")},
	{Ploop, at(0, "WithoutFreeSpace", "WithouFreSpacExt")},
	{ISO, at(isoDescriptor+1, "CD001", "NSR02", "NSR03", "BEA01")},
	{GPT, isPartitioned},
	{Container, at(257, "ustar")},
}

// at returns a detector of one of some texts at an offset.
func at(off int, magics ...string) func(head []byte) bool {
	return func(head []byte) bool {
		return len(head) > off && slices.ContainsFunc(magics, func(m string) bool {
			return bytes.HasPrefix(head[off:], []byte(m))
		})
	}
}

// mapping reports whether a file of the format is a map to guest bytes, by which a
// reader that guesses formats could be led elsewhere.
func (f Format) mapping() bool {
	return f == QCOW2 || f == VMDK || f == VHD || f == VHDX || f == VDI
}

// detect returns all that the start of a file may be taken for. A tar archive alone
// is as good as raw, and counts only beside a mapping format.
func detect(head []byte) []Format {
	var found []Format
	for _, d := range detectors {
		if d.found(head) && (d.format != Container || slices.ContainsFunc(found, Format.mapping)) {
			found = append(found, d.format)
		}
	}
	return found
}

// single returns what a file is that may be taken for so much: raw if for nothing. A
// file that may be taken for two things is refused (rules D1, D6), but for an ISO file
// with a partition table in its unused start.
func single(found []Format) (Format, error) {
	switch {
	case slices.Contains(found, QED):
		return "", refuse("banned-format", "QED")
	case len(found) == 0:
		return Raw, nil
	case len(found) == 1 || len(found) == 2 && found[0] == ISO && found[1] == GPT:
		return found[0], nil
	}
	return "", refuse("polyglot", "the data may be taken for %s and for %s", found[0], found[1])
}

// CheckNested refuses a disk that begins like an image in a mapping format (rule C2,
// slug nested-format): a reader that guesses formats would take the raw disk for that
// image. It reads 34 KiB.
func CheckNested(disk io.ReaderAt, size int64) error {
	head := make([]byte, min(size, detectBytes))
	if err := readFull(disk, head, 0); err != nil {
		return err
	}
	for _, f := range detect(head) {
		if f.mapping() || f == QED {
			return refuse("nested-format", "the disk begins like a %s", f)
		}
	}
	return nil
}

// vmdkText begins a descriptor that is a file of its own.
const vmdkText = "# Disk DescriptorFile"

// isVMDK finds all kinds of VMDK, with those that are always refused.
func isVMDK(head []byte) bool {
	return at(0, "KDMV", "COWD", "\xbe\xba\xfe\xca\x00\x00\x00\x00")(head) || isVMDKText(head)
}

// isVMDKText finds a descriptor that is a file of its own: by its title, or as
// qemu-img does, by its first line that is neither empty nor a comment.
func isVMDKText(head []byte) bool {
	if len(head) >= len(vmdkText) && bytes.EqualFold(head[:len(vmdkText)], []byte(vmdkText)) {
		return true
	}
	for rest := head[:min(len(head), 4096)]; len(rest) > 0; {
		line, after, ended := bytes.Cut(rest, []byte("\n"))
		line = bytes.TrimSuffix(line, []byte("\r"))
		switch {
		case !ended:
			return false
		case len(bytes.Trim(line, " ")) == 0 || line[0] == '#':
			rest = after
		default:
			return len(line) == len("version=1") && bytes.HasPrefix(line, []byte("version=")) && line[8] >= '1' && line[8] <= '3'
		}
	}
	return false
}

// isPartitioned finds a partition table, an MBR or the protective one before a GPT
// (rule D3): one entry is used, each is marked as active or not, and the sector is not
// the start of a file system that ends with the same two bytes.
func isPartitioned(head []byte) bool {
	if len(head) < 512 || head[510] != 0x55 || head[511] != 0xaa {
		return false
	}
	if at(3, "NTFS    ", "EXFAT   ")(head) || at(54, "FAT")(head) || at(82, "FAT")(head) {
		return false
	}
	used := false
	for i := range 4 {
		entry := head[446+16*i:]
		if entry[0] != 0 && entry[0] != 0x80 {
			return false
		}
		used = used || entry[4] != 0
	}
	return used
}

// isFixedVHD reports whether the last 512 bytes of a file are the footer of a VHD of
// the type that has nothing at its start.
func isFixedVHD(footer []byte) bool {
	return len(footer) == vhdFooter && string(footer[:8]) == "conectix" &&
		binary.BigEndian.Uint32(footer[60:]) == vhdFixed
}

// isoSize returns the bytes of the volume of an ISO file of so many bytes, or those of
// the file if its descriptor says more or is of another kind.
func isoSize(head []byte, length int64) int64 {
	if len(head) < isoDescriptor+130 || string(head[isoDescriptor+1:isoDescriptor+6]) != "CD001" {
		return length
	}
	le := binary.LittleEndian
	n := int64(le.Uint32(head[isoDescriptor+80:])) * int64(le.Uint16(head[isoDescriptor+128:]))
	if n == 0 || n > length {
		return length
	}
	return n
}
