package diskformat

import (
	"archive/tar"
	"bytes"
	"fmt"
	"strings"
	"testing"
)

// A tarMember is a member of an archive in a test.
type tarMember struct{ name, text string }

const ovfText = `<?xml version="1.0" encoding="UTF-8"?>
<Envelope xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1"><References><File ovf:href="%s"/></References></Envelope>`

// tarOf returns an archive.
func tarOf(t testing.TB, members ...tarMember) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, m := range members {
		if err := w.WriteHeader(&tar.Header{Name: m.name, Size: int64(len(m.text)), Mode: 0o644, Format: tar.FormatUSTAR}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(m.text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestInspectorOfAnOVA(t *testing.T) {
	disk := string(readAll(t, newTestView(t, "vmdk-stream", noise(21, 300<<10, 0.4))))
	ovf := tarMember{"a.ovf", fmt.Sprintf(ovfText, "disk.vmdk")}
	whole1 := tarOf(t, ovf, tarMember{"a.mf", "sums"}, tarMember{"disk.vmdk", disk})
	typed := func(b []byte, kind byte) []byte { // of the first member
		b[156] = kind
		sum := 8 * int(' ')
		for i, c := range b[:512] {
			if i < 148 || i >= 156 {
				sum += int(c)
			}
		}
		copy(b[148:], fmt.Sprintf("%06o\x00 ", sum))
		return b
	}
	for _, tt := range []struct {
		name string
		data []byte
		slug string
	}{
		{"description, sums and a disk", whole1, ""},
		{"description of nothing", tarOf(t, tarMember{"a.ovf", "<Envelope/>"}), ""},
		{"archive without its end", whole1[:len(whole1)-1024], ""},
		{"disk before its description", tarOf(t, tarMember{"disk.vmdk", disk}, ovf), "ova-ovf-not-first"},
		{"archive of nothing", tarOf(t), "declared-mismatch"},
		{"no archive", noise(3, 1<<20, 0), "declared-mismatch"},
		{"description of 2 MiB", tarOf(t, tarMember{"a.ovf", strings.Repeat(" ", 2<<20)}), "ova-xml"},
		{"description with a DOCTYPE", tarOf(t, tarMember{"a.ovf", "<!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]><a>&b;</a>"}), "ova-xml"},
		{"description with an entity", tarOf(t, tarMember{"a.ovf", "<a>&b;</a>"}), "ova-xml"},
		{"description in UTF-16", tarOf(t, tarMember{"a.ovf", string(utf16("<a/>"))}), "ova-xml"},
		{"description that is empty", tarOf(t, tarMember{"a.ovf", ""}), "ova-xml"},
		{"member in a folder", tarOf(t, ovf, tarMember{"x/disk.vmdk", disk}), "ova-names"},
		{"member above", tarOf(t, ovf, tarMember{"../disk.vmdk", disk}), "ova-names"},
		{"member in a folder of the prefix field", tarOf(t, ovf, tarMember{strings.Repeat("x", 90) + "/" + strings.Repeat("y", 90), ""}), "ova-names"},
		{"two members of one name", tarOf(t, ovf, tarMember{"disk.vmdk", disk}, tarMember{"DISK.vmdk", disk}), "ova-names"},
		{"symbolic link", typed(tarOf(t, ovf, tarMember{"disk.vmdk", disk}), '2'), "ova-names"},
		{"broken header", put(600+1024, "x")(tarOf(t, tarMember{"a.ovf", strings.Repeat("<a/>", 256)}, tarMember{"b", ""})), "ova-names"},
		{"description of a file that is not there", tarOf(t, ovf), "ova-href"},
		{"description of a file elsewhere", tarOf(t, tarMember{"a.ovf", fmt.Sprintf(ovfText, "http://a.example/disk.vmdk")}), "ova-href"},
		{"disk that is no VMDK", tarOf(t, ovf, tarMember{"disk.vmdk", string(noise(5, 1<<20, 0))}), "declared-mismatch"},
		{"disk that is another file's", tarOf(t, ovf, tarMember{"disk.vmdk", vmdkText + "\nversion=1\n"}), "vmdk-subformat"},
		{"disk without its footer", tarOf(t, ovf, tarMember{"disk.vmdk", disk[:len(disk)-512]}), "vmdk-footer"},
		{"archive that ends in a disk", whole1[:len(whole1)-1<<16], "ova-truncated"},
		{"archive that is an ISO file too", put(isoDescriptor+1, "CD001")(tarOf(t, ovf, tarMember{"disk.vmdk", disk})), "polyglot"},
		{"archive that is a VMDK too", tarOf(t, tarMember{"KDMV.ovf", "<a/>"}), "polyglot"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, n := range []int{1 << 30, 1, 1000} {
				r, err := inspect(VMDK, "ova", -1, Limits{}, tt.data, func() int { return n })
				if slug(t, err) != tt.slug || err == nil && r != (Report{Container, -1}) {
					t.Errorf("pieces of %d: %+v, %v; want %q", n, r, err, tt.slug)
				}
			}
		})
	}
}

func TestTarNumbers(t *testing.T) {
	for _, tt := range []struct {
		field string
		want  int64
		ok    bool
	}{
		{"00000000017\x00", 15, true},
		{"        17 \x00", 15, true},
		{"\x80\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x01", 3<<32 | 1, true},
		{"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", 0, false},
		{"00000000019\x00", 0, false},
		{"-0000000001\x00", 0, false},
		{"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00", 0, false},
	} {
		if got, ok := tarNumber([]byte(tt.field)); ok != tt.ok || ok && got != tt.want {
			t.Errorf("%q: %d, %v", tt.field, got, ok)
		}
	}
}
