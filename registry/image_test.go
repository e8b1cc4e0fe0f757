package registry

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"nearsight/origin"
)

func TestStatusMachine(t *testing.T) {
	all := []Status{Queued, Saving, Uploading, Importing, Active, Deactivated, Killed, PendingDelete, Deleted, "", "other"}
	for from, want := range map[Status][]Status{
		Queued:        {Saving, Uploading, Importing, Active, Killed, Deleted},
		Saving:        {Queued, Active, Killed, Deleted},
		Uploading:     {Queued, Importing, Deleted},
		Importing:     {Queued, Active, Deleted},
		Active:        {Deactivated, PendingDelete, Deleted},
		Deactivated:   {Active, Deleted},
		PendingDelete: {Active, Deleted},
		Killed:        {Deleted},
		Deleted:       {},
		"other":       {},
	} {
		for _, to := range all {
			if got := from.CanBecome(to); got != slices.Contains(want, to) {
				t.Errorf("%q to %q: %v", from, to, got)
			}
		}
	}
}

func TestBecome(t *testing.T) {
	for _, tt := range []struct {
		name            string
		from, to        Status
		disk, container string
		err             error
	}{
		{"queued to saving", Queued, Saving, "raw", "bare", nil},
		{"queued to active without formats", Queued, Active, "", "", ErrInvalid},
		{"queued to importing without a disk format", Queued, Importing, "", "bare", ErrInvalid},
		{"uploading to importing without a container format", Uploading, Importing, "raw", "", ErrInvalid},
		{"queued to uploading without formats", Queued, Uploading, "", "", nil},
		{"saving to queued clears sizes", Saving, Queued, "raw", "bare", nil},
		{"active to queued", Active, Queued, "raw", "bare", ErrConflict},
		{"active to active", Active, Active, "raw", "bare", ErrConflict},
	} {
		t.Run(tt.name, func(t *testing.T) {
			size := int64(1)
			img := &Image{Status: tt.from, DiskFormat: tt.disk, ContainerFormat: tt.container, Size: &size, VirtualSize: &size}
			err := img.Become(tt.to)
			if !errors.Is(err, tt.err) {
				t.Fatalf("error %v, want %v", err, tt.err)
			}
			want := tt.to
			if err != nil {
				want = tt.from
			}
			if img.Status != want {
				t.Errorf("status %s", img.Status)
			}
			if cleared := img.Size == nil && img.VirtualSize == nil; cleared != (img.Status == Queued && err == nil) {
				t.Errorf("size %v, virtual size %v", img.Size, img.VirtualSize)
			}
		})
	}
}

func TestCloneSharesNothing(t *testing.T) {
	name, size := "n", int64(1)
	img := &Image{Name: &name, Size: &size, Tags: []string{"t"}, Properties: map[string]string{"k": "v"},
		Locations: []origin.Location{{URL: "u"}}, LocationMetadata: map[string]map[string]string{"u": {"k": "v"}}}
	c := img.Clone()
	*c.Name, *c.Size, c.Tags[0], c.Properties["k"] = "x", 2, "x", "x"
	c.Locations[0].URL, c.LocationMetadata["u"]["k"], c.LocationMetadata["w"] = "x", "x", nil
	if *img.Name != "n" || *img.Size != 1 || img.Tags[0] != "t" || img.Properties["k"] != "v" ||
		img.Locations[0].URL != "u" || img.LocationMetadata["u"]["k"] != "v" || len(img.LocationMetadata) != 1 {
		t.Errorf("image became %+v", img)
	}
	if empty := new(Image).Clone(); empty.Name != nil || empty.Tags != nil || empty.Properties != nil || empty.LocationMetadata != nil {
		t.Errorf("clone of nothing is %+v", empty)
	}
}

func TestFormatsChangeBeforeThereIsData(t *testing.T) {
	for _, s := range []Status{Queued, Saving, Uploading, Importing, Active, Deactivated, Killed, PendingDelete} {
		img := &Image{Status: s, DiskFormat: "raw", ContainerFormat: "bare"}
		for _, by := range []*Image{{DiskFormat: "iso", ContainerFormat: "bare"}, {DiskFormat: "raw"}} {
			_, err := img.Amended(by)
			if allowed := s == Queued || s == Importing; allowed != (err == nil) || !allowed && !errors.Is(err, ErrForbidden) {
				t.Errorf("while %s: %v", s, err)
			}
		}
		same, err := img.Amended(&Image{DiskFormat: "raw", ContainerFormat: "bare", MinRAM: 1})
		if err != nil || same.MinRAM != 1 {
			t.Errorf("while %s: %v", s, err)
		}
	}
}

func TestLimitsBelowZeroDoNotBind(t *testing.T) {
	img := &Image{ID: "00000000-0000-4000-8000-000000000000", Visibility: Private, Properties: map[string]string{"k": ""}, Tags: make([]string, 200)}
	if err := img.Validate(Limits{Properties: -1, Tags: -1}.WithDefaults()); err != nil {
		t.Error(err)
	}
	if err := img.Validate(Limits{Properties: -1}.WithDefaults()); !errors.Is(err, ErrTooLarge) {
		t.Errorf("200 tags: %v", err)
	}
}

func TestLocationsAreCheckedAndNotShown(t *testing.T) {
	many := map[string]string{}
	for i := range 3000 {
		many[fmt.Sprint(i)] = "a value of 21 bytes  "
	}
	for _, tt := range []struct {
		name     string
		url      string
		metadata map[string]string
		err      error
	}{
		{"a plain one", "https://secret/u", map[string]string{"tier": "fast\nand near", "": ""}, nil},
		{"no URL", "", nil, ErrInvalid},
		{"a line break in the URL", "https://secret/\n", nil, ErrInvalid},
		{"a URL that is not UTF-8", "https://secret/\xff", nil, ErrInvalid},
		{"a URL that is too long", "https://secret/" + strings.Repeat("u", maxMetadata), nil, ErrTooLarge},
		{"a control character in a name", "https://secret/u", map[string]string{"a\x00": "v"}, ErrInvalid},
		{"NUL in a value", "https://secret/u", map[string]string{"k": "a\x00"}, ErrInvalid},
		{"a value that is not UTF-8", "https://secret/u", map[string]string{"k": "\xff"}, ErrInvalid},
		{"much metadata", "https://secret/u", many, ErrTooLarge},
	} {
		t.Run(tt.name, func(t *testing.T) {
			img := &Image{ID: "00000000-0000-4000-8000-000000000000", Visibility: Private, Locations: []origin.Location{{URL: tt.url}},
				LocationMetadata: map[string]map[string]string{tt.url: tt.metadata}}
			err := img.Validate(Limits{}.WithDefaults())
			if !errors.Is(err, tt.err) {
				t.Errorf("error %v, want %v", err, tt.err)
			}
			if err != nil && strings.Contains(err.Error(), "secret") {
				t.Errorf("error %q shows the location", err)
			}
		})
	}
}

// FuzzValidate: whatever strangers write, what passes is fit to be stored, and
// an error is one of two and short.
func FuzzValidate(f *testing.F) {
	f.Add("00000000-0000-4000-8000-000000000000", "name", "raw", "tag", "key", "value")
	f.Add("x", "\x00", "\xff", "\u0085", "", "a\x00b")
	f.Add(strings.Repeat("0", 36), strings.Repeat("😀", 256), "", "", "os_glance_x", strings.Repeat("v", 1<<16))
	limits := Limits{}.WithDefaults()
	f.Fuzz(func(t *testing.T, id, name, format, tag, key, value string) {
		img := &Image{ID: id, Name: &name, Visibility: Shared, DiskFormat: format, Tags: []string{tag}, Properties: map[string]string{key: value}}
		err := img.Validate(limits)
		if err != nil {
			if !errors.Is(err, ErrInvalid) && !errors.Is(err, ErrTooLarge) {
				t.Errorf("error %v", err)
			}
			if len(err.Error()) > 4000 {
				t.Errorf("error of %d bytes", len(err.Error()))
			}
			return
		}
		for _, s := range []string{id, name, format, tag, key, value} {
			if !utf8.ValidString(s) || strings.Contains(s, "\x00") {
				t.Errorf("%q passed", s)
			}
		}
	})
}
