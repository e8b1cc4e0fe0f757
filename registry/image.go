package registry

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	// maxText bounds names, owners, tags and property keys, in characters.
	maxText = 255
	// maxValue bounds the value of a property, in bytes: what a TEXT column of
	// MySQL holds, so that records can move to and from Glance.
	maxValue = 1<<16 - 1
	// maxProperties bounds the names and values of all properties of an image
	// together, in bytes.
	maxProperties = 256 << 10
	// maxMetadata bounds the URLs of all locations of an image and what clients
	// wrote beside them together, in bytes, for the same reason.
	maxMetadata = 64 << 10
	// reservedPrefix begins the properties that are the server's own. They do
	// not count against Limits.Properties.
	reservedPrefix = "os_glance"
)

// Limits bound what an image may hold. The zero value means the defaults.
type Limits struct {
	// Properties, Tags and Members are the largest numbers of each; 0 means 128
	// and less than 0 means any number.
	Properties, Tags, Members int
	// Locations is the largest number of places where the data of an image is;
	// 0 means 10 and less than 0 means any number.
	Locations int
	// DiskFormats and ContainerFormats are the words that are known; empty
	// means those of Glance.
	DiskFormats, ContainerFormats []string
}

// WithDefaults returns l with its zero fields replaced by what they mean.
func (l Limits) WithDefaults() Limits {
	if l.Properties == 0 {
		l.Properties = 128
	}
	if l.Tags == 0 {
		l.Tags = 128
	}
	if l.Members == 0 {
		l.Members = 128
	}
	if l.Locations == 0 {
		l.Locations = 10
	}
	if len(l.DiskFormats) == 0 {
		l.DiskFormats = []string{"ami", "ari", "aki", "vhd", "vhdx", "vmdk", "raw", "qcow2", "vdi", "iso", "ploop"}
	}
	if len(l.ContainerFormats) == 0 {
		l.ContainerFormats = []string{"ami", "ari", "aki", "bare", "ovf", "ova", "docker", "compressed"}
	}
	return l
}

// Clone returns a copy that shares nothing with img that can be changed.
func (img *Image) Clone() *Image {
	c := *img
	c.Name, c.Owner = clonePointer(img.Name), clonePointer(img.Owner)
	c.Size, c.VirtualSize = clonePointer(img.Size), clonePointer(img.VirtualSize)
	c.Locations = slices.Clone(img.Locations)
	c.LocationMetadata = maps.Clone(img.LocationMetadata)
	for url, metadata := range c.LocationMetadata {
		c.LocationMetadata[url] = maps.Clone(metadata)
	}
	c.Tags = slices.Clone(img.Tags)
	c.Properties = maps.Clone(img.Properties)
	c.Members = slices.Clone(img.Members)
	return &c
}

func clonePointer[T any](p *T) *T {
	if p == nil {
		return nil
	}
	v := *p
	return &v
}

// Normalize brings the sets of tags and members into their one form, sorted and
// tags without duplicates, and makes Properties a map that can be written to.
func (img *Image) Normalize() {
	slices.Sort(img.Tags)
	img.Tags = slices.Compact(img.Tags)
	if img.Properties == nil {
		img.Properties = map[string]string{}
	}
	img.sortMembers()
}

// Draft returns a queued image with the id of img and those of its fields that
// are for change (see Images.Update), normalized. It shares nothing with img.
func (img *Image) Draft() *Image {
	draft := &Image{ID: img.ID, Status: Queued}
	draft.take(img)
	return draft
}

// take sets the fields that are for change to a copy of those of by, normalized.
func (img *Image) take(by *Image) {
	by = by.Clone()
	by.Normalize()
	img.Name, img.Owner = by.Name, by.Owner
	img.Visibility, img.Protected, img.Hidden = by.Visibility, by.Protected, by.Hidden
	img.DiskFormat, img.ContainerFormat = by.DiskFormat, by.ContainerFormat
	img.MinRAM, img.MinDisk = by.MinRAM, by.MinDisk
	img.Tags, img.Properties, img.Members = by.Tags, by.Properties, by.Members
	if img.takesHashes() {
		img.Checksum, img.HashAlgo, img.HashValue = by.Checksum, by.HashAlgo, by.HashValue
	}
	img.LocationMetadata = nil
	for _, loc := range img.Locations { // what is written beside others has no place
		if metadata := by.LocationMetadata[loc.URL]; len(metadata) > 0 {
			if img.LocationMetadata == nil {
				img.LocationMetadata = make(map[string]map[string]string)
			}
			img.LocationMetadata[loc.URL] = metadata
		}
	}
}

// takesHashes reports whether what a client says of the hashes of the data is all
// that is known of them.
func (img *Image) takesHashes() bool { return img.Status == Active && img.Digest == "" }

// Amended returns img with the fields of by that are for change (see
// Images.Update), normalized, or img itself if they are the same. Neither is
// altered. ErrForbidden if a field may not change in img's status: the formats
// are what the data was stored as, so they are settled once it is on its way.
func (img *Image) Amended(by *Image) (*Image, error) {
	next := img.Clone()
	next.take(by)
	if by.Status != "" && by.Status != img.Status {
		if !img.Status.movesFreely(by.Status) {
			return nil, fmt.Errorf("%w: image is %s: it cannot become %s by itself", ErrConflict, img.Status, by.Status)
		}
		next.Status = by.Status
	} else if img.sameSettable(next) {
		return img, nil
	}
	if img.Status != Queued && img.Status != Importing {
		if next.DiskFormat != img.DiskFormat {
			return nil, fmt.Errorf("%w: disk_format cannot change while the image is %s", ErrForbidden, img.Status)
		}
		if next.ContainerFormat != img.ContainerFormat {
			return nil, fmt.Errorf("%w: container_format cannot change while the image is %s", ErrForbidden, img.Status)
		}
	}
	return next, nil
}

func (img *Image) sameSettable(o *Image) bool {
	return samePointer(img.Name, o.Name) && samePointer(img.Owner, o.Owner) &&
		img.Visibility == o.Visibility && img.Protected == o.Protected && img.Hidden == o.Hidden &&
		img.DiskFormat == o.DiskFormat && img.ContainerFormat == o.ContainerFormat &&
		img.MinRAM == o.MinRAM && img.MinDisk == o.MinDisk &&
		slices.Equal(img.Tags, o.Tags) && maps.Equal(img.Properties, o.Properties) &&
		sameMembers(img.Members, o.Members) && img.SameLocationMetadata(o) &&
		img.Checksum == o.Checksum && img.HashAlgo == o.HashAlgo && img.HashValue == o.HashValue
}

// SameLocationMetadata reports whether the same is written beside the locations of
// both.
func (img *Image) SameLocationMetadata(o *Image) bool {
	return maps.EqualFunc(img.LocationMetadata, o.LocationMetadata, maps.Equal[map[string]string])
}

func samePointer[T comparable](a, b *T) bool {
	return a == b || a != nil && b != nil && *a == *b
}

// Validate checks the fields that a client chooses against limits that have
// their defaults (Limits.WithDefaults). ErrInvalid for a malformed value,
// ErrTooLarge for too much of something; the text names field and value.
//
// Whatever the limits are, the names and values of all properties together have
// at most 256 KiB, and all locations with their metadata 64 KiB: a list of 1000
// records is built in memory. How many locations there are is not checked: they
// are not the client's to change in the record, see Locations.
func (img *Image) Validate(l Limits) error {
	if !ValidID(img.ID) {
		return fmt.Errorf("%w: id %.80q is not a UUID", ErrInvalid, img.ID)
	}
	for _, f := range []struct {
		name string
		text *string
	}{{"name", img.Name}, {"owner", img.Owner}} {
		if f.text != nil {
			if err := checkText(f.name, *f.text); err != nil {
				return err
			}
		}
	}
	switch img.Visibility {
	case Public, Community, Shared, Private:
	default:
		return fmt.Errorf("%w: visibility %.80q is not one of public, community, shared, private", ErrInvalid, img.Visibility)
	}
	if err := checkFormat("disk_format", img.DiskFormat, l.DiskFormats); err != nil {
		return err
	}
	if err := checkFormat("container_format", img.ContainerFormat, l.ContainerFormats); err != nil {
		return err
	}
	if err := checkMinimum("min_ram", img.MinRAM); err != nil {
		return err
	}
	if err := checkMinimum("min_disk", img.MinDisk); err != nil {
		return err
	}
	if err := checkTags(img.Tags, l.Tags); err != nil {
		return err
	}
	if err := checkProperties(img.Properties, l.Properties); err != nil {
		return err
	}
	if err := checkMembers(img.Members, l.Members); err != nil {
		return err
	}
	return img.checkLocations()
}

// ValidID reports whether s is the text form of a UUID: hex digits of either
// case in groups of 8-4-4-4-12.
func ValidID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i := range len(s) {
		switch c := s[i]; i {
		case 8, 13, 18, 23:
			if c != '-' {
				return false
			}
		default:
			if (c < '0' || c > '9') && (c < 'a' || c > 'f') && (c < 'A' || c > 'F') {
				return false
			}
		}
	}
	return true
}

// checkText checks a line of text: a name, an owner, a tag or a property key.
func checkText(field, s string) error {
	if !utf8.ValidString(s) {
		return fmt.Errorf("%w: %s %.80q is not UTF-8", ErrInvalid, field, s)
	}
	if n := utf8.RuneCountInString(s); n > maxText {
		return fmt.Errorf("%w: %s %.80q... has %d characters, more than %d", ErrInvalid, field, s, n, maxText)
	}
	if i := strings.IndexFunc(s, unicode.IsControl); i >= 0 {
		return fmt.Errorf("%w: %s %.80q has a control character", ErrInvalid, field, s)
	}
	return nil
}

func checkFormat(field, format string, known []string) error {
	if format != "" && !slices.Contains(known, format) {
		return fmt.Errorf("%w: %s %.80q is not one of %s", ErrInvalid, field, format, strings.Join(known, ", "))
	}
	return nil
}

func checkMinimum(field string, n int) error {
	if n < 0 || n > math.MaxInt32 {
		return fmt.Errorf("%w: %s %d is not between 0 and %d", ErrInvalid, field, n, math.MaxInt32)
	}
	return nil
}

func checkTags(tags []string, limit int) error {
	for _, tag := range tags {
		if err := checkText("tag", tag); err != nil {
			return err
		}
	}
	if limit >= 0 && len(tags) > limit {
		return fmt.Errorf("%w: %d tags, more than %d", ErrTooLarge, len(tags), limit)
	}
	return nil
}

func checkProperties(properties map[string]string, limit int) error {
	counted, size := 0, 0
	for _, key := range slices.Sorted(maps.Keys(properties)) { // sorted: the same record, the same error
		if key == "" {
			return fmt.Errorf("%w: a property has no name", ErrInvalid)
		}
		if err := checkText("property name", key); err != nil {
			return err
		}
		value := properties[key]
		if !utf8.ValidString(value) {
			return fmt.Errorf("%w: property %q has the value %.80q, which is not UTF-8", ErrInvalid, key, value)
		}
		if strings.IndexByte(value, 0) >= 0 { // no SQL text but SQLite's can hold it
			return fmt.Errorf("%w: property %q has a value with a NUL character", ErrInvalid, key)
		}
		if len(value) > maxValue {
			return fmt.Errorf("%w: property %q has a value of %d bytes, more than %d", ErrTooLarge, key, len(value), maxValue)
		}
		if size += len(key) + len(value); size > maxProperties {
			return fmt.Errorf("%w: the properties have more than %d bytes together", ErrTooLarge, maxProperties)
		}
		if !strings.HasPrefix(key, reservedPrefix) {
			counted++
		}
	}
	if limit >= 0 && counted > limit {
		return fmt.Errorf("%w: %d properties, more than %d", ErrTooLarge, counted, limit)
	}
	return nil
}

// checkLocations checks locations and what is written beside them. Its errors
// show no location: clients that may not see them get the error too.
func (img *Image) checkLocations() error {
	size := 0
	for _, loc := range img.Locations {
		if loc.URL == "" {
			return fmt.Errorf("%w: location without a URL", ErrInvalid)
		}
		if !utf8.ValidString(loc.URL) || strings.ContainsFunc(loc.URL, unicode.IsControl) {
			return fmt.Errorf("%w: location with a URL that is not UTF-8 or has a control character", ErrInvalid)
		}
		size += len(loc.URL)
		metadata := img.LocationMetadata[loc.URL]
		for _, key := range slices.Sorted(maps.Keys(metadata)) {
			if err := checkText("metadata name", key); err != nil {
				return err
			}
			value := metadata[key]
			if !utf8.ValidString(value) || strings.IndexByte(value, 0) >= 0 {
				return fmt.Errorf("%w: metadata %q of a location has a value that is not UTF-8 or has a NUL character", ErrInvalid, key)
			}
			size += len(key) + len(value)
		}
	}
	if size > maxMetadata {
		return fmt.Errorf("%w: the locations and their metadata have more than %d bytes together", ErrTooLarge, maxMetadata)
	}
	return nil
}
