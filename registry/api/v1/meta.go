package v1

import (
	"context"
	"encoding/hex"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"nearsight/registry"
	"nearsight/registry/api"
)

const (
	metaPrefix     = "X-Image-Meta-"
	propertyPrefix = "property_"
)

// A meta is what a client says about an image: texts, as header fields have them, by
// the names of this API. The empty text is null.
type meta struct {
	fields     map[string]string
	properties map[string]string
}

// metaOf reads the fields x-image-meta-* of a header. A name may be written with
// dashes or underscores; who says two things with the two is refused.
func metaOf(h http.Header) (meta, error) {
	m := meta{map[string]string{}, map[string]string{}}
	for name, values := range h {
		rest, ok := cutPrefixFold(name, metaPrefix)
		if !ok {
			continue
		}
		rest = spelled(rest)
		to := m.fields
		if key, ok := strings.CutPrefix(rest, propertyPrefix); ok {
			rest, to = key, m.properties
		}
		for _, value := range values {
			if !utf8.ValidString(value) {
				return m, api.Refuse(http.StatusBadRequest, "header field %.80q is not UTF-8", name)
			}
			if old, ok := to[rest]; ok && old != value {
				return m, api.Refuse(http.StatusBadRequest, "header field %.80q says two things", name)
			}
			to[rest] = value
		}
	}
	return m, nil
}

// spelled returns the one spelling of the name of a field or a property.
func spelled(name string) string { return strings.ReplaceAll(strings.ToLower(name), "-", "_") }

func cutPrefixFold(s, prefix string) (string, bool) {
	if len(s) < len(prefix) || !strings.EqualFold(s[:len(prefix)], prefix) {
		return s, false
	}
	return s[len(prefix):], true
}

// A wish is a meta whose values were read.
type wish struct {
	id       string          // "" if it was not said, as all that follows
	status   registry.Status // as this API has it
	size     int64           // -1
	checksum string
	location string
	owned    bool    // owner was said
	owner    *string // nil for null
	formats  bool    // one was said
	isPublic *bool

	set        []func(*registry.Image) // the rest
	properties map[string]bool
}

// read reads the values of a meta. What it does not know it passes over, as this API
// always did.
func (v *API) read(m meta) (*wish, error) {
	w := &wish{size: -1, properties: map[string]bool{}}
	for name, text := range m.fields {
		if err := w.field(name, text); err != nil {
			return nil, err
		}
	}
	for name, text := range m.properties {
		set, err := v.api.Property(name, text)
		if err != nil {
			return nil, err
		}
		w.set = append(w.set, set)
		w.properties[name] = true
	}
	return w, nil
}

// statuses are those that a client may name.
var statuses = []registry.Status{registry.Queued, registry.Saving, registry.Active, registry.Killed,
	registry.Deactivated, registry.Deleted, registry.PendingDelete}

// field reads the value of one field.
func (w *wish) field(name, text string) error {
	put := func(set func(*registry.Image)) { w.set = append(w.set, set) }
	var err error
	switch name {
	case "id":
		if w.id = text; text != "" && !registry.ValidID(text) {
			return api.Refuse(http.StatusBadRequest, "id %.80q is not a UUID", text)
		}
	case "name":
		put(func(img *registry.Image) { img.Name = known(text) })
	case "owner":
		w.owned, w.owner = true, known(text)
	case "disk_format":
		w.formats = true
		put(func(img *registry.Image) { img.DiskFormat = text })
	case "container_format":
		w.formats = true
		put(func(img *registry.Image) { img.ContainerFormat = text })
	case "is_public":
		public := truth(text)
		w.isPublic = &public
	case "protected":
		put(func(img *registry.Image) { img.Protected = truth(text) })
	case "min_ram", "min_disk":
		var n int64
		if n, err = number(name, text, 31); err == nil {
			put(func(img *registry.Image) {
				if name == "min_ram" {
					img.MinRAM = int(n)
				} else {
					img.MinDisk = int(n)
				}
			})
		}
	case "size":
		if text != "" {
			w.size, err = number(name, text, 63)
		}
	case "status":
		if w.status = registry.Status(text); text != "" && !slices.Contains(statuses, w.status) {
			return api.Refuse(http.StatusBadRequest, "status %.80q is none of queued, saving, active and killed", text)
		}
	case "checksum":
		w.checksum = strings.ToLower(text)
		if _, notHex := hex.DecodeString(text); text != "" && (notHex != nil || len(text) != 32) {
			return api.Refuse(http.StatusBadRequest, "checksum %.80q does not have 32 hex digits", text)
		}
	case "location":
		w.location = text
	}
	return err
}

// known returns nil for the empty text.
func known(text string) *string {
	if text == "" {
		return nil
	}
	return &text
}

// truth reads a boolean: what is none of these words is false.
func truth(text string) bool {
	return slices.Contains([]string{"true", "1", "on", "yes", "t", "y"}, strings.ToLower(strings.TrimSpace(text)))
}

// number reads a number from 0 to 2^bits-1; the empty text is 0.
func number(name, text string, bits int) (int64, error) {
	if text == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(text, 10, bits)
	if err != nil {
		return 0, api.Refuse(http.StatusBadRequest, "%s %.80q is not a number from 0 to 2^%d-1", name, text, bits)
	}
	return int64(n), nil
}

// alter changes an image as wished. purge removes the properties that were not named,
// but for those that the server keeps for itself.
func (w *wish) alter(img *registry.Image, purge bool) error {
	if purge {
		for name := range img.Properties {
			if !w.properties[name] && !strings.HasPrefix(name, "os_glance") {
				delete(img.Properties, name)
			}
		}
	}
	for _, set := range w.set {
		set(img)
	}
	if w.owned {
		img.Owner = w.owner
	}
	if w.isPublic != nil {
		switch {
		case *w.isPublic:
			img.Visibility = registry.Public
		case img.Visibility == registry.Public:
			img.Visibility = registry.Shared
		}
	}
	if w.formats {
		return pair(img)
	}
	return nil
}

// newDraft returns a new image of the caller, before it is altered as wished.
func newDraft(ctx context.Context, w *wish) *registry.Image {
	return &registry.Image{
		ID: w.id, Status: registry.Queued, Visibility: registry.Shared,
		Owner: known(registry.CallerOf(ctx).Project), Properties: map[string]string{},
	}
}

// amazon are the formats whose word is the same for the disk and the container.
var amazon = []string{"ami", "ari", "aki"}

// pair sees to it that they come in pairs: the one that is missing follows from the
// other.
func pair(img *registry.Image) error {
	disk, container := slices.Contains(amazon, img.DiskFormat), slices.Contains(amazon, img.ContainerFormat)
	switch {
	case disk && img.ContainerFormat == "":
		img.ContainerFormat = img.DiskFormat
	case container && img.DiskFormat == "":
		img.DiskFormat = img.ContainerFormat
	case (disk || container) && img.DiskFormat != img.ContainerFormat:
		return fmt.Errorf("%w: disk_format %q and container_format %q do not go together: if one is aki, ari or ami, both must be the same",
			registry.ErrInvalid, img.DiskFormat, img.ContainerFormat)
	}
	return nil
}

// statusOf returns the status of an image by the words of this API.
func statusOf(img *registry.Image) registry.Status {
	switch img.Status {
	case registry.Uploading, registry.Importing:
		return registry.Saving
	}
	return img.Status
}

// settled checks that a wish does not change what nobody can change: the image's id,
// and its status and sums. Clients send back all that they were shown.
func (w *wish) settled(img *registry.Image) error {
	fixed := ""
	switch {
	case w.id != "" && !strings.EqualFold(w.id, img.ID):
		fixed = "id"
	case w.status != "" && w.status != statusOf(img):
		fixed = "status"
	case w.size >= 0 && img.Size != nil && w.size != *img.Size:
		fixed = "size"
	case w.checksum != "" && img.Checksum != "" && w.checksum != img.Checksum:
		fixed = "checksum"
	default:
		return nil
	}
	return fmt.Errorf("%w: %s cannot be changed", registry.ErrForbidden, fixed)
}

// mayBecome checks what only some callers may do in an update: before and after are
// the image.
func mayBecome(caller *registry.Caller, before, after *registry.Image) error {
	same := before.Owner == after.Owner || before.Owner != nil && after.Owner != nil && *before.Owner == *after.Owner
	if !same {
		if err := caller.May(registry.GiveAway, before); err != nil {
			return err
		}
	}
	if before.Visibility != registry.Public && after.Visibility == registry.Public {
		return caller.May(registry.Publicize, before)
	}
	return nil
}
