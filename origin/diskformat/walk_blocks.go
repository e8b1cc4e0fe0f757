package diskformat

import "encoding/binary"

const vmdkRedundant = 1 << 1 // flag: the second set of grain tables counts

// vmdk follows the grain tables.
func (w *walk) vmdk() error {
	head, err := w.read(0, vmdkHeader)
	if err != nil {
		return err
	}
	if len(head) < 4 || string(head[:4]) != "KDMV" {
		return refuse("vmdk-subformat", "this is no sparse VMDK")
	}
	v, err := parseVMDK(head, w.limits)
	if err != nil {
		return err
	}
	w.begin(vmdkSector)
	if v.directory == vmdkAtEnd {
		tail, err := w.read(max(0, w.size-vmdkFooterArea), vmdkFooterArea)
		if err != nil {
			return err
		}
		if err := v.parseVMDKFooter(head, tail); err != nil {
			return err
		}
		if err := w.claim(w.size-vmdkFooterArea, vmdkFooterArea); err != nil {
			return err
		}
	}
	if err := w.claim(0, vmdkHeader+v.descriptor); err != nil {
		return err
	}
	redundant := binary.LittleEndian.Uint64(head[48:])
	if v.flags&vmdkRedundant != 0 && redundant != 0 && redundant != v.directory && redundant != vmdkAtEnd {
		err := w.vmdkTables(v, redundant, func(int64, int64) error { return nil })
		if err != nil {
			return err
		}
	}
	return w.vmdkTables(v, v.directory, func(table, first int64) error {
		return w.each(table, v.perTable, 4, func(i int64, entry []byte) error {
			return w.vmdkGrain(v, binary.LittleEndian.Uint32(entry), (first+i)*v.grain)
		})
	})
}

// vmdkTables claims the grain directory at a sector and the tables in it, and gives
// each to f with the number of its first grain.
func (w *walk) vmdkTables(v *vmdkInfo, directory uint64, f func(table, first int64) error) error {
	if directory>>46 != 0 {
		return w.within(w.end, 1)
	}
	at, maps := int64(directory)*vmdkSector, v.perTable*v.grain
	n := (v.size + maps - 1) / maps
	if err := w.claim(at, n*4); err != nil {
		return err
	}
	return w.each(at, n, 4, func(i int64, entry []byte) error {
		table := int64(binary.LittleEndian.Uint32(entry)) * vmdkSector
		if table == 0 {
			return nil
		}
		if err := w.claim(table, v.perTable*4); err != nil {
			return err
		}
		return f(table, i*v.perTable)
	})
}

// vmdkGrain claims a grain, which holds the guest bytes from off on.
func (w *walk) vmdkGrain(v *vmdkInfo, sector uint32, off int64) error {
	if sector == 0 || sector == 1 && v.flags&vmdkZeroGrains != 0 {
		return nil
	}
	at, n := int64(sector)*vmdkSector, v.grain
	if off < v.size {
		n = min(n, v.size-off)
	}
	if v.flags&vmdkCompressed != 0 {
		marker, err := w.read(at, markerBytes)
		if err != nil {
			return err
		}
		if len(marker) < markerBytes {
			return w.within(w.end, markerBytes)
		}
		if n = int64(binary.LittleEndian.Uint32(marker[8:])); n > 2*v.grain {
			return w.malformed("a compressed grain of %d bytes", n)
		}
		n += markerBytes
	}
	return w.claim(at, n)
}

// vhd follows the block table of a dynamic VHD. A fixed one has none.
func (w *walk) vhd() error {
	w.begin(vhdSector)
	if w.size < vhdFooter {
		return w.within(0, vhdFooter)
	}
	footer, err := w.read(w.size-vhdFooter, vhdFooter)
	if err != nil {
		return err
	}
	if string(footer[:8]) != "conectix" {
		return refuse("vhd-footer", "the file does not end with a footer")
	}
	v, err := parseVHDFooter(footer, w.limits)
	if err != nil {
		return err
	}
	if v.kind == vhdFixed {
		return w.within(0, v.size+vhdFooter)
	}
	head, err := w.read(v.head, vhdDynamicHead)
	if err != nil {
		return err
	}
	if err := v.parseDynamic(head); err != nil {
		return err
	}
	for _, part := range [][2]int64{{0, vhdFooter}, {v.head, vhdDynamicHead}, {v.table, v.n * 4}, {w.size - vhdFooter, vhdFooter}} {
		if err := w.claim(part[0], part[1]); err != nil {
			return err
		}
	}
	return w.each(v.table, v.n, 4, func(i int64, entry []byte) error {
		sector := binary.BigEndian.Uint32(entry)
		if sector == vhdUnused {
			return nil
		}
		n := v.block
		if off := i * v.block; off < v.size {
			n = min(n, ceil(v.size-off, vhdSector))
		}
		return w.claim(int64(sector)*vhdSector, v.bitmap()+n)
	})
}

// vhdx follows the block table.
func (w *walk) vhdx() error {
	w.begin(mib)
	if err := w.within(0, mib); err != nil {
		return err
	}
	start, err := w.read(0, mib)
	if err != nil {
		return err
	}
	if len(start) < mib || string(start[:8]) != "vhdxfile" {
		return refuse("vhdx-truncated", "a file of %d bytes", w.size)
	}
	if err := parseVHDXHeaders(start[vhdxHeader1:vhdxHeader1+vhdxHeaderBytes], start[vhdxHeader2:vhdxHeader2+vhdxHeaderBytes]); err != nil {
		return err
	}
	v := new(vhdxInfo)
	if err := v.parseRegions(start[vhdxRegions : vhdxRegions+vhdxTable]); err != nil {
		return err
	}
	metadata, err := w.read(v.metadata, min(v.metadataLen, vhdxMetadata))
	if err != nil {
		return err
	}
	if err := v.parseMetadata(metadata, w.limits); err != nil {
		return err
	}
	for _, part := range [][2]int64{{0, mib}, {v.bat, v.batLen}, {v.metadata, v.metadataLen}} {
		if err := w.claim(part[0], part[1]); err != nil {
			return err
		}
	}
	blocks := (v.size + v.block - 1) / v.block
	if blocks == 0 {
		return nil
	}
	return w.each(v.bat, v.batIndex(blocks-1)+1, 8, func(i int64, entry []byte) error {
		e := binary.LittleEndian.Uint64(entry)
		ofBitmap := i%(v.chunkRatio()+1) == v.chunkRatio()
		switch state := e & 7; {
		case state == vhdxPartly || ofBitmap && state == vhdxPresent:
			return refuse("vhdx-parent", "a block that is only partly here")
		case state != vhdxPresent:
			return nil
		}
		if e>>50 != 0 {
			return w.within(w.end, 1)
		}
		return w.claim(int64(e>>20<<20), v.block)
	})
}

// vdi follows the map.
func (w *walk) vdi() error {
	w.begin(vhdSector)
	head, err := w.read(0, vdiHeader)
	if err != nil {
		return err
	}
	v, err := parseVDI(head, w.limits)
	if err != nil {
		return err
	}
	if err := w.claim(0, vdiHeader); err != nil {
		return err
	}
	if err := w.claim(v.table, v.blocks*4); err != nil {
		return err
	}
	return w.each(v.table, v.blocks, 4, func(i int64, entry []byte) error {
		block := int64(binary.LittleEndian.Uint32(entry))
		if block >= vdiDiscard {
			return nil
		}
		n := int64(vdiBlock)
		if off := i * vdiBlock; off < v.size {
			n = min(n, v.size-off)
		}
		return w.claim(v.data+block*vdiBlock, n)
	})
}
