package diskformat

import "slices"

// qcow2 looks at the first cluster (rules Q1 to Q9).
func (in *Inspector) qcow2() error {
	in.last = in.noFixedVHD
	q, err := parseQCOW2(in.head, in.limits)
	if err != nil {
		return err
	}
	in.virtual = q.size
	if q.cluster() <= headBytes {
		return nil
	}
	return in.gather(0, min(q.cluster(), windowBytes), func(b []byte) error {
		_, err := parseQCOW2(b, in.limits)
		return err
	})
}

// vmdk looks at header, descriptor and footer (rules M1 to M6).
func (in *Inspector) vmdk() error {
	if !in.sameStart("KDMV") {
		return refuse("vmdk-subformat", "this is no sparse VMDK")
	}
	v, err := parseVMDK(in.head, in.limits)
	if err != nil {
		return err
	}
	in.virtual = v.size
	in.last = func() error {
		if v.directory == vmdkAtEnd {
			if err := v.parseVMDKFooter(in.head, in.tail); err != nil {
				return err
			}
		}
		return in.noFixedVHD()
	}
	length := v.descriptor
	if i := slices.Index(in.head[vmdkSector:], 0); i >= 0 {
		length = min(length, int64(i+1)) // what is behind it does not count
	}
	return in.gather(vmdkSector, length, func(b []byte) error {
		if int64(len(b)) < length {
			return refuse("vmdk-truncated", "the descriptor ends beyond the file")
		}
		return checkVMDKDescriptor(b, in.limits)
	})
}

// vhd looks at a VHD that begins with a copy of its footer (rules H1, V1).
func (in *Inspector) vhd() error {
	v, err := parseVHDFooter(in.head, in.limits)
	if err != nil {
		return err
	}
	if v.kind != vhdDynamic {
		return refuse("vhd-header", "type %d at the start of the file", v.kind)
	}
	in.virtual = v.size
	in.last = func() error {
		footer := in.footer()
		if in.pos < v.head+vhdDynamicHead+vhdFooter || string(footer[:8]) != "conectix" {
			return refuse("vhd-footer", "the file does not end with a footer")
		}
		return sameVHD(footer, in.head)
	}
	return in.gather(v.head, vhdDynamicHead, v.parseDynamic)
}

// fixedVHD looks at the end of what is declared to be a VHD and does not begin like
// one (rules D5, H1).
func (in *Inspector) fixedVHD() error {
	footer := in.footer()
	switch {
	case len(footer) < vhdFooter || string(footer[:8]) != "conectix":
		return in.mismatch()
	case in.format.mapping() && isFixedVHD(footer):
		return refuse("polyglot", "the data may be taken for %s and for a VHD", in.format)
	case in.format.mapping():
		return in.mismatch()
	}
	v, err := parseVHDFooter(footer, in.limits)
	switch {
	case err != nil:
		return err
	case v.kind != vhdFixed:
		return refuse("vhd-header", "type %d without a header at the start of the file", v.kind)
	case v.size > in.pos-vhdFooter:
		return refuse("vhd-truncated", "a disk of %d bytes in a file of %d", v.size, in.pos)
	}
	in.format, in.virtual = VHD, v.size
	return nil
}

// vhdx looks at headers, regions and metadata (rules X1, X2).
func (in *Inspector) vhdx() error {
	v := new(vhdxInfo)
	return in.gather(vhdxHeader1, vhdxRegions+vhdxTable-vhdxHeader1, func(b []byte) error {
		const two, regions = vhdxHeader2 - vhdxHeader1, vhdxRegions - vhdxHeader1
		if len(b) < regions+vhdxTable {
			return refuse("vhdx-truncated", "the file ends before its region table")
		}
		if err := parseVHDXHeaders(b[:vhdxHeaderBytes], b[two:two+vhdxHeaderBytes]); err != nil {
			return err
		}
		if err := v.parseRegions(b[regions:]); err != nil {
			return err
		}
		in.last = func() error {
			if max(v.metadata+v.metadataLen, v.bat+v.batLen) > in.pos {
				return refuse("vhdx-truncated", "a region ends beyond the file")
			}
			return in.noFixedVHD()
		}
		return in.gather(v.metadata, min(v.metadataLen, windowBytes), func(b []byte) error {
			if err := v.parseMetadata(b, in.limits); err != nil {
				return err
			}
			in.virtual = v.size
			return nil
		})
	})
}

// vdi looks at the header (rule I1).
func (in *Inspector) vdi() error {
	in.last = in.noFixedVHD
	v, err := parseVDI(in.head, in.limits)
	if err != nil {
		return err
	}
	in.virtual = v.size
	return nil
}
