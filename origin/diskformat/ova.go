package diskformat

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"path"
	"strconv"
	"strings"
)

const (
	tarBlock      = 512
	maxOVF        = 1 << 20 // bytes of the description
	maxOVAMembers = 4096
)

// An ova looks at an appliance, a tar archive, as its bytes go by (rule O1): the first
// member describes it and is kept, and disks in VMDK are inspected; all else passes.
type ova struct {
	limits Limits

	header  []byte // of a member, as far as it came
	left    int64  // bytes of the member's data that are to come
	padding int64  // bytes behind it that are to come
	ended   bool   // the rest of the archive does not count

	members map[string]bool // names in lower case
	ovf     []byte          // the description, while it comes
	hrefs   []string        // the names in it
	disk    *Inspector      // of the member at hand, or nil
	name    string          // of the member at hand
}

func newOVA(l Limits) *ova { return &ova{limits: l, members: map[string]bool{}} }

// write looks at the next bytes of the archive.
func (o *ova) write(p []byte) error {
	for len(p) > 0 && !o.ended {
		var n int
		var err error
		switch {
		case o.left > 0:
			n = int(min(o.left, int64(len(p))))
			err = o.data(p[:n])
		case o.padding > 0:
			n = int(min(o.padding, int64(len(p))))
			o.padding -= int64(n)
		default:
			n = min(tarBlock-len(o.header), len(p))
			if o.header = append(o.header, p[:n]...); len(o.header) == tarBlock {
				err = o.begin(o.header)
				o.header = o.header[:0]
			}
		}
		if err != nil {
			return err
		}
		p = p[n:]
	}
	return nil
}

// begin reads the header of a member (POSIX ustar).
func (o *ova) begin(h []byte) error {
	if isZero(h) {
		o.ended = true
		return nil
	}
	size, ok := tarNumber(h[124:136])
	kind := h[156]
	switch {
	case string(h[257:262]) != "ustar" || !tarChecksum(h) || !ok:
		return refuse("ova-names", "the archive has a broken header")
	case kind != '0' && kind != 0:
		return refuse("ova-names", "a member of the type %q", kind)
	case !isZero(h[345:500]):
		return refuse("ova-names", "a member in a folder")
	}
	name, _, _ := strings.Cut(string(h[:100]), "\x00")
	folded := strings.ToLower(name)
	switch {
	case name == "" || name == "." || name == ".." || strings.ContainsAny(name, `/\`),
		strings.ContainsFunc(name, func(c rune) bool { return c < ' ' || c == 0x7f }):
		return refuse("ova-names", "a member of the name %.40q", name)
	case o.members[folded]:
		return refuse("ova-names", "two members of the name %.40q", name)
	case len(o.members) == maxOVAMembers:
		return refuse("ova-names", "more than %d members", maxOVAMembers)
	}
	first := len(o.members) == 0
	o.members[folded], o.name = true, name
	o.left, o.padding = size, (tarBlock-size%tarBlock)%tarBlock
	switch {
	case first && path.Ext(folded) != ".ovf":
		return refuse("ova-ovf-not-first", "the first member is %.40q", name)
	case first && size > maxOVF:
		return refuse("ova-xml", "a description of %d bytes", size)
	case first:
		o.ovf = make([]byte, 0, size)
	case path.Ext(folded) == ".vmdk":
		o.disk = NewInspector(VMDK, "bare", size, o.limits)
	}
	if size == 0 {
		return o.end()
	}
	return nil
}

// data looks at bytes of a member.
func (o *ova) data(p []byte) error {
	switch {
	case o.ovf != nil:
		o.ovf = append(o.ovf, p...)
	case o.disk != nil:
		if _, err := o.disk.Write(p); err != nil {
			return o.of(err)
		}
	}
	if o.left -= int64(len(p)); o.left == 0 {
		return o.end()
	}
	return nil
}

// end looks at a member that is complete.
func (o *ova) end() error {
	var err error
	switch {
	case o.ovf != nil:
		o.hrefs, err = ovfReferences(o.ovf)
		o.ovf = nil
	case o.disk != nil:
		if _, err = o.disk.Finish(); err != nil {
			err = o.of(err)
		}
		o.disk = nil
	}
	return err
}

// of names the member that a refusal is about.
func (o *ova) of(err error) error {
	var r *Refusal
	if errors.As(err, &r) {
		return refuse(r.Slug, "%.40q: %s", o.name, r.Detail)
	}
	return err
}

// finish looks at the archive as a whole.
func (o *ova) finish() error {
	switch {
	case o.left > 0 || o.padding > 0 || len(o.header) > 0:
		return refuse("ova-truncated", "the archive ends within a member")
	case len(o.members) == 0:
		return refuse("ova-ovf-not-first", "the archive is empty")
	}
	for _, href := range o.hrefs {
		if !o.members[strings.ToLower(href)] {
			return refuse("ova-href", "the description names %.40q, which is no member", href)
		}
	}
	return nil
}

// ovfReferences returns the files that a description refers to. It must be plain XML:
// what could make a parser expand or fetch something is refused.
func ovfReferences(text []byte) ([]string, error) {
	var hrefs []string
	d := xml.NewDecoder(bytes.NewReader(text))
	elements := 0
	for {
		token, err := d.RawToken()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, refuse("ova-xml", "the description is no XML in UTF-8")
		}
		switch token := token.(type) {
		case xml.Directive:
			return nil, refuse("ova-xml", "the description has a declaration such as DOCTYPE")
		case xml.StartElement:
			elements++
			for _, a := range token.Attr {
				if a.Name.Local == "href" {
					hrefs = append(hrefs, a.Value)
				}
			}
		}
	}
	if elements == 0 {
		return nil, refuse("ova-xml", "the description is empty")
	}
	return hrefs, nil
}

// tarNumber reads a number of a header: octal digits or, with the first bit set, as
// GNU tar writes large ones, binary.
func tarNumber(field []byte) (int64, bool) {
	if field[0]&0x80 != 0 {
		n := int64(field[0] & 0x7f)
		for _, b := range field[1:] {
			if n >= 1<<48 {
				return 0, false
			}
			n = n<<8 | int64(b)
		}
		return n, true
	}
	n, err := strconv.ParseUint(strings.Trim(string(field), " \x00"), 8, 56)
	return int64(n), err == nil
}

// tarChecksum reports whether the bytes of a header add up to what it says, its own
// field counted as blanks.
func tarChecksum(h []byte) bool {
	want, ok := tarNumber(h[148:156])
	sum := int64(8 * ' ')
	for i, b := range h {
		if i < 148 || i >= 156 {
			sum += int64(b)
		}
	}
	return ok && sum == want
}
