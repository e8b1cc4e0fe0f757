package client

import (
	"crypto/md5"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash"
	"io"
	"net/http"
	"strconv"
	"strings"

	"nearsight/registry"
)

const (
	v1Meta     = "X-Image-Meta-"
	v1Property = v1Meta + "Property-"
)

// v1Header writes what is set of img as headers. Names are spelled with -, which
// the proxies of today let pass, and servers read as _.
func v1Header(img *V1Image) (http.Header, error) {
	h := http.Header{}
	if img == nil {
		return h, nil
	}
	set := func(name, value string, isSet bool) {
		if isSet {
			h.Set(v1Meta+name, value)
		}
	}
	set("Id", img.ID, img.ID != "")
	set("Name", img.Name, img.Name != "")
	set("Disk-Format", img.DiskFormat, img.DiskFormat != "")
	set("Container-Format", img.ContainerFormat, img.ContainerFormat != "")
	set("Owner", img.Owner, img.Owner != "")
	set("Checksum", img.Checksum, img.Checksum != "")
	set("Location", img.Location, img.Location != "")
	set("Store", img.Store, img.Store != "")
	if img.Size != nil {
		set("Size", strconv.FormatInt(*img.Size, 10), true)
	}
	if img.Public != nil {
		set("Is-Public", v1Bool(*img.Public), true)
	}
	if img.Protected != nil {
		set("Protected", v1Bool(*img.Protected), true)
	}
	if img.MinRAM != nil {
		set("Min-Ram", strconv.Itoa(*img.MinRAM), true)
	}
	if img.MinDisk != nil {
		set("Min-Disk", strconv.Itoa(*img.MinDisk), true)
	}
	if img.CopyFrom != "" {
		h.Set("X-Glance-Api-Copy-From", img.CopyFrom)
	}
	for name, value := range img.Properties {
		name = strings.ReplaceAll(name, "_", "-")
		if !isToken(name) {
			return nil, fmt.Errorf("%w: %.80q cannot be the name of a property in the API of 2011", registry.ErrInvalid, name)
		}
		h.Set(v1Property+name, value)
	}
	for name, values := range h {
		if strings.ContainsFunc(values[0], isControl) {
			return nil, fmt.Errorf("%w: %s has characters that cannot stand in a header", registry.ErrInvalid, name)
		}
	}
	return h, nil
}

// isToken reports whether s can be the name of a header (RFC 9110, section 5.6.2).
func isToken(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool { return !isWord(r) && !strings.ContainsRune("!#$%&'*+.^`|~", r) })
}

// isControl reports whether r has no place in a header's value, where everything
// above ASCII has one (section 5.5).
func isControl(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }

// v1Bool writes a boolean as all servers since 2011 read it.
func v1Bool(b bool) string {
	if b {
		return "True"
	}
	return "False"
}

// readV1Header reads the record in the headers of an answer, in either spelling.
func readV1Header(h http.Header) (*V1Image, error) {
	img := &V1Image{}
	d := v1Decoder{img: img}
	for name, values := range h {
		rest, ok := strings.CutPrefix(name, v1Meta)
		if !ok || len(values) == 0 {
			continue
		}
		field := strings.ToLower(strings.ReplaceAll(rest, "-", "_"))
		if property, ok := strings.CutPrefix(field, "property_"); ok {
			if img.Properties == nil {
				img.Properties = make(map[string]string)
			}
			img.Properties[property] = values[0]
			continue
		}
		if values[0] != "" && values[0] != "None" || field == "name" { // None is the null of the first servers
			d.field(field, values[0])
		}
	}
	switch {
	case d.err != nil:
		return nil, fmt.Errorf("%w: %w", errAnswer, d.err)
	case img.ID == "":
		return nil, fmt.Errorf("%w: an image without an id", errAnswer)
	}
	return img, nil
}

// A v1Decoder reads fields from their text until the first fails.
type v1Decoder struct {
	img *V1Image
	err error
}

func (d *v1Decoder) field(name, value string) {
	img := d.img
	var err error
	switch name {
	case "id":
		img.ID = value
	case "name":
		img.Name = value
	case "status":
		img.Status = registry.Status(value)
	case "disk_format":
		img.DiskFormat = value
	case "container_format":
		img.ContainerFormat = value
	case "owner":
		img.Owner = value
	case "checksum":
		img.Checksum = value
	case "location":
		img.Location = value
	case "uri":
		img.URI = value
	case "size":
		var n int64
		n, err = strconv.ParseInt(value, 10, 64)
		img.Size = &n
		if err == nil && n < 0 {
			err = fmt.Errorf("%d bytes", n)
		}
	case "min_ram":
		img.MinRAM, err = v1Int(value)
	case "min_disk":
		img.MinDisk, err = v1Int(value)
	case "is_public":
		img.Public = isTrue(value)
	case "protected":
		img.Protected = isTrue(value)
	case "deleted":
		img.Deleted = *isTrue(value)
	case "created_at":
		img.CreatedAt, err = parseTime(value)
	case "updated_at":
		img.UpdatedAt, err = parseTime(value)
	case "deleted_at":
		img.DeletedAt, err = parseTime(value)
	}
	if err != nil && d.err == nil {
		d.err = fmt.Errorf("image: %s: %w", name, err)
	}
}

func v1Int(s string) (*int, error) {
	n, err := strconv.Atoi(s)
	return &n, err
}

func isTrue(s string) *bool {
	s = strings.ToLower(s)
	b := s == "true" || s == "1" || s == "on" || s == "yes"
	return &b
}

// wireV1 is the JSON form of an image. Where servers differ (numbers and booleans
// as strings) it takes both.
type wireV1 struct{ members map[string]json.RawMessage }

// UnmarshalJSON implements json.Unmarshaler.
func (w *wireV1) UnmarshalJSON(b []byte) error { return json.Unmarshal(b, &w.members) }

// image returns the image; w may be nil.
func (w *wireV1) image() (*V1Image, error) {
	if w == nil {
		return nil, fmt.Errorf("%w: there is no image in it", errAnswer)
	}
	img := &V1Image{}
	d := v1Decoder{img: img}
	for name, raw := range w.members {
		switch {
		case string(raw) == "null":
		case name == "properties":
			img.Properties = v1Properties(raw)
		case raw[0] != '{' && raw[0] != '[':
			if s := text(raw); s != "" {
				d.field(name, s)
			}
		}
	}
	switch {
	case d.err != nil:
		return nil, fmt.Errorf("%w: %w", errAnswer, d.err)
	case img.ID == "":
		return nil, fmt.Errorf("%w: an image without an id", errAnswer)
	}
	return img, nil
}

// v1Properties reads an object; values that are no strings are taken as they are
// written, and null is left out.
func v1Properties(raw json.RawMessage) map[string]string {
	var members map[string]json.RawMessage
	if json.Unmarshal(raw, &members) != nil || len(members) == 0 {
		return nil
	}
	properties := make(map[string]string, len(members))
	for name, value := range members {
		if string(value) != "null" {
			properties[name] = text(value)
		}
	}
	return properties
}

// A checkedBody compares what is read with an MD5.
type checkedBody struct {
	io.ReadCloser
	sum  hash.Hash
	want string
}

func newCheckedBody(body io.ReadCloser, want string) *checkedBody {
	return &checkedBody{body, md5.New(), want}
}

func (b *checkedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.sum.Write(p[:n])
	if err == io.EOF {
		if got := hex.EncodeToString(b.sum.Sum(nil)); !strings.EqualFold(got, b.want) {
			err = fmt.Errorf("%w: the MD5 of the data is %s, and the record says %s", ErrIntegrity, got, b.want)
		}
	}
	return n, err
}
