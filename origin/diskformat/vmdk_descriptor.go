package diskformat

import (
	"regexp"
	"slices"
	"strings"
)

var vmdkExtent = regexp.MustCompile(`^(?i:RW|RDONLY|NOACCESS)\s+[0-9]+\s+([A-Za-z]+)\s+"([^"]*)"(\s+[0-9]+)?$`)

// vmdkKeys are the keys that a descriptor may have, in lower case.
var vmdkKeys = []string{"version", "encoding", "cid", "parentcid", "isnativesnapshot", "createtype"}

// checkVMDKDescriptor holds the embedded descriptor of a sparse VMDK against the
// rules M1 to M4: it names one extent, which is this file, and nothing else.
func checkVMDKDescriptor(text []byte, l Limits) error {
	if i := slices.Index(text, 0); i >= 0 {
		text = text[:i]
	}
	extents, created := 0, ""
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		for i := range len(line) {
			if c := line[i]; c >= 0x80 || c < ' ' && c != '\t' {
				return refuse("vmdk-descriptor", "a line with the byte %#x", c)
			}
		}
		if m := vmdkExtent.FindStringSubmatch(line); m != nil {
			if extents++; extents > 1 {
				return refuse("vmdk-extent", "more than one extent")
			}
			if !strings.EqualFold(m[1], "SPARSE") {
				return refuse("vmdk-extent", "an extent of type %.20q", m[1])
			}
			if strings.ContainsAny(m[2], `/\:`) || strings.Contains(m[2], "..") || strings.ContainsFunc(m[2], func(c rune) bool { return c < ' ' }) {
				return refuse("vmdk-extent", "an extent in another folder")
			}
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		key, value = strings.ToLower(strings.TrimSpace(key)), strings.Trim(strings.TrimSpace(value), `"`)
		switch {
		case !ok:
			return refuse("vmdk-descriptor", "a line that is no setting: %.40q", line)
		case key == "parentfilenamehint":
			return refuse("vmdk-parent", "the image names another one")
		case key == "changetrackpath":
			return refuse("vmdk-extent", "the image names another file")
		case strings.HasPrefix(key, "ddb."):
		case !slices.Contains(vmdkKeys, key):
			return refuse("vmdk-descriptor", "an unknown key %.40q", key)
		case key == "parentcid" && !strings.EqualFold(value, "ffffffff"):
			return refuse("vmdk-parent", "the image is a difference to another one")
		case key == "createtype" && created != "":
			return refuse("vmdk-descriptor", "createType twice")
		case key == "createtype":
			created = value
		}
	}
	switch {
	case extents == 0 && created == "":
		return refuse("vmdk-descriptor", "the descriptor says nothing")
	case !slices.ContainsFunc(l.VMDKTypes, func(t string) bool { return strings.EqualFold(t, created) }):
		return refuse("vmdk-subformat", "createType %.40q", created)
	case extents != 1:
		return refuse("vmdk-extent", "%d extents", extents)
	}
	return nil
}
