package registrytest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"nearsight/origin"
	"nearsight/registry"
)

const someID = "0aB1c2d3-0000-4000-8000-00000000000f"

func createTests() []test {
	return []test{
		{"an image is read back as it was returned", func(s *suite) {
			before := time.Now().Add(-time.Second)
			img := s.create(&registry.Image{
				ID: someID, Name: ptr("näme"), Owner: ptr("p1"), Visibility: registry.Community,
				Protected: true, Hidden: true, DiskFormat: "qcow2", ContainerFormat: "ovf",
				MinRAM: 1<<31 - 1, MinDisk: 3, Tags: []string{"b", "a", "b"},
				Properties: map[string]string{"trait:X/y.z": "line\nline", "empty": ""},
			})
			if img.ID != someID || img.Status != registry.Queued || img.Revision != 1 {
				s.Errorf("id %q, status %q, revision %d", img.ID, img.Status, img.Revision)
			}
			if len(img.Tags) != 2 || img.Tags[0] != "a" || img.Tags[1] != "b" {
				s.Errorf("tags %q are no sorted set", img.Tags)
			}
			if img.CreatedAt != img.UpdatedAt || img.CreatedAt.Before(before) || img.CreatedAt.Location() != time.UTC {
				s.Errorf("created %v, updated %v", img.CreatedAt, img.UpdatedAt)
			}
			if !img.ActivatedAt.IsZero() {
				s.Errorf("activated %v", img.ActivatedAt)
			}
			s.wantSame(s.get(someID), img)
		}},
		{"an empty image is shared, gets an id, and has no name, owner, formats or data", func(s *suite) {
			img := s.create(&registry.Image{})
			if !registry.ValidID(img.ID) {
				s.Errorf("id %q", img.ID)
			}
			s.wantSame(s.get(img.ID), &registry.Image{
				ID: img.ID, Status: registry.Queued, Visibility: registry.Shared, Revision: 1,
				CreatedAt: img.CreatedAt, UpdatedAt: img.CreatedAt,
			})
			if other := s.create(&registry.Image{}); other.ID == img.ID {
				s.Errorf("id %s twice", img.ID)
			}
		}},
		{"empty name and owner are not the same as none", func(s *suite) {
			img := s.get(s.create(&registry.Image{Name: ptr(""), Owner: ptr("")}).ID)
			if img.Name == nil || *img.Name != "" || img.Owner == nil || *img.Owner != "" {
				s.Errorf("name %v, owner %v", img.Name, img.Owner)
			}
		}},
		{"what is not for the client is not taken from it", func(s *suite) {
			img := draft("x")
			img.Status, img.Size, img.VirtualSize, img.Checksum = registry.Active, ptr(int64(1)), ptr(int64(1)), "c"
			img.HashAlgo, img.HashValue, img.Digest = "sha512", "h", summary("x").Digest
			img.Locations, img.Revision = []origin.Location{place(1)}, 99
			img.CreatedAt, img.ActivatedAt = time.Unix(1, 0), time.Unix(1, 0)
			got := s.create(img)
			want := draft("x")
			want.ID, want.Status, want.Revision = got.ID, registry.Queued, 1
			want.CreatedAt, want.UpdatedAt = got.CreatedAt, got.CreatedAt
			if got.CreatedAt.Unix() == 1 {
				s.Error("created_at is the client's")
			}
			s.wantSame(s.get(got.ID), want)
		}},
		{"the caller's record is left alone", func(s *suite) {
			img := &registry.Image{Tags: []string{"b", "a"}}
			got := s.create(img)
			if img.ID != "" || img.Tags[0] != "b" || img.Properties != nil {
				s.Errorf("record became %+v", img)
			}
			got.Tags[0] = "z"
			if img.Tags[1] != "a" {
				s.Error("tags are shared")
			}
		}},
		{"bad values are refused and store nothing", func(s *suite) {
			for _, tt := range badImages() {
				img := &registry.Image{ID: someID}
				tt.spoil(img)
				_, err := s.Images.Create(s.Context(), img)
				if !errors.Is(err, tt.err) {
					s.Errorf("%s: error %v, want %v", tt.name, err, tt.err)
				} else if !strings.Contains(err.Error(), tt.text) {
					s.Errorf("%s: error %q does not say %q", tt.name, err, tt.text)
				}
			}
			if s.revision() != 0 || len(s.list(registry.Query{Limit: 10, Visibility: registry.AllVisibilities})) != 0 {
				s.Error("something was stored")
			}
		}},
		{"values at their bounds are accepted", func(s *suite) {
			img := &registry.Image{
				Name: ptr(strings.Repeat("ä", 255)), Owner: ptr(strings.Repeat("😀", 255)),
				MinRAM: 1<<31 - 1, MinDisk: 1<<31 - 1,
				Properties: map[string]string{
					"os_glance_import_task": "not counted", strings.Repeat("k", 255): strings.Repeat("v", 65535),
				},
			}
			for i := range 123 {
				img.Properties[fmt.Sprint("p", i)] = "v"
			}
			for i := range 3 {
				img.Properties[fmt.Sprint("long", i)] = strings.Repeat("v", 65000)
			}
			left := 256<<10 - len("rest")
			for name, value := range img.Properties {
				left -= len(name) + len(value)
			}
			img.Properties["rest"] = strings.Repeat("v", left)
			for i := range 128 {
				img.Tags = append(img.Tags, fmt.Sprint("t", i))
			}
			img = s.create(img)
			s.wantSame(s.get(img.ID), img)
		}},
		{"an id in use is a conflict", func(s *suite) {
			s.create(&registry.Image{ID: someID})
			s.unchanged(someID, func() {
				_, err := s.Images.Create(s.Context(), &registry.Image{ID: someID})
				s.wantErr(err, registry.ErrConflict)
			})
		}},
		{"an id is burned by a delete, and only in its own spelling", func(s *suite) {
			s.create(&registry.Image{ID: someID})
			s.delete(someID)
			_, err := s.Images.Create(s.Context(), &registry.Image{ID: someID})
			s.wantErr(err, registry.ErrConflict)
			s.create(&registry.Image{ID: strings.ToLower(someID)})
			s.create(&registry.Image{ID: strings.ToUpper(someID)})
			_, err = s.Images.Get(s.Context(), someID)
			s.wantErr(err, registry.ErrNotFound)
		}},
		{"of many who want one id, one gets it", func(s *suite) {
			made := parallel(20, func(i int) bool {
				_, err := s.Images.Create(s.Context(), &registry.Image{ID: someID, Name: ptr(fmt.Sprint(i))})
				if err != nil && !errors.Is(err, registry.ErrConflict) {
					s.Errorf("create: %v", err)
				}
				return err == nil
			})
			if made != 1 || s.revision() != 1 {
				s.Errorf("%d images made, revision %d", made, s.revision())
			}
		}},
		{"unknown ids are not found, whatever they look like", func(s *suite) {
			s.create(&registry.Image{ID: someID})
			for _, id := range []string{"", "x", "%", "\x00", "\xff", someID + " ", strings.ToLower(someID), strings.Repeat("a", 1<<16)} {
				if _, err := s.Images.Get(s.Context(), id); !errors.Is(err, registry.ErrNotFound) {
					s.Errorf("get %.40q: %v", id, err)
				}
			}
		}},
		{"a cancelled call ends with the error of its context and stores nothing", func(s *suite) {
			_, err := s.Images.Create(s.cancelled(), draft("x"))
			if !errors.Is(err, context.Canceled) || s.revision() != 0 {
				s.Errorf("error %v, revision %d", err, s.revision())
			}
			if _, err := s.Images.Get(s.cancelled(), someID); !errors.Is(err, context.Canceled) {
				s.Errorf("get: %v", err)
			}
		}},
	}
}

// A badImage is a way to spoil an image, with the error that names it.
type badImage struct {
	name  string
	err   error
	text  string
	spoil func(*registry.Image)
}

func badImages() []badImage {
	many := func(n int) (tags []string, properties map[string]string) {
		properties = map[string]string{}
		for i := range n {
			tags = append(tags, fmt.Sprint(i))
			properties[fmt.Sprint(i)] = ""
		}
		return tags, properties
	}
	invalid := registry.ErrInvalid
	return []badImage{
		{"id that is no UUID", invalid, `id "x"`, func(i *registry.Image) { i.ID = "x" }},
		{"id with a bad digit", invalid, "id", func(i *registry.Image) { i.ID = "g" + someID[1:] }},
		{"id with a misplaced dash", invalid, "id", func(i *registry.Image) { i.ID = someID[1:] + "0" }},
		{"long name", invalid, "name", func(i *registry.Image) { i.Name = ptr(strings.Repeat("ä", 256)) }},
		{"name with a control character", invalid, `name "a\nb"`, func(i *registry.Image) { i.Name = ptr("a\nb") }},
		{"name that is not UTF-8", invalid, `name "\xff"`, func(i *registry.Image) { i.Name = ptr("\xff") }},
		{"long owner", invalid, "owner", func(i *registry.Image) { i.Owner = ptr(strings.Repeat("o", 256)) }},
		{"owner with a control character", invalid, "owner", func(i *registry.Image) { i.Owner = ptr("\x7f") }},
		{"unknown visibility", invalid, `visibility "secret"`, func(i *registry.Image) { i.Visibility = "secret" }},
		{"the visibility of queries", invalid, "visibility", func(i *registry.Image) { i.Visibility = registry.AllVisibilities }},
		{"unknown disk format", invalid, `disk_format "QCOW2"`, func(i *registry.Image) { i.DiskFormat = "QCOW2" }},
		{"unknown container format", invalid, `container_format "raw"`, func(i *registry.Image) { i.ContainerFormat = "raw" }},
		{"negative min_ram", invalid, "min_ram -1", func(i *registry.Image) { i.MinRAM = -1 }},
		{"huge min_disk", invalid, "min_disk 2147483648", func(i *registry.Image) { i.MinDisk = 1 << 31 }},
		{"long tag", invalid, "tag", func(i *registry.Image) { i.Tags = []string{strings.Repeat("t", 256)} }},
		{"tag with a control character", invalid, `tag "\x00"`, func(i *registry.Image) { i.Tags = []string{"ok", "\x00"} }},
		{"nameless property", invalid, "property", func(i *registry.Image) { i.Properties = map[string]string{"": "v"} }},
		{"long property name", invalid, "property", func(i *registry.Image) {
			i.Properties = map[string]string{strings.Repeat("k", 256): ""}
		}},
		{"property name with a control character", invalid, `"a\tb"`, func(i *registry.Image) {
			i.Properties = map[string]string{"a\tb": ""}
		}},
		{"property value that is not UTF-8", invalid, `property "k"`, func(i *registry.Image) {
			i.Properties = map[string]string{"k": "\xff"}
		}},
		{"property value with a NUL", invalid, `property "k"`, func(i *registry.Image) {
			i.Properties = map[string]string{"k": "a\x00"}
		}},
		{"huge property value", registry.ErrTooLarge, `property "k"`, func(i *registry.Image) {
			i.Properties = map[string]string{"k": strings.Repeat("v", 65536)}
		}},
		{"too many tags", registry.ErrTooLarge, "129 tags", func(i *registry.Image) { i.Tags, _ = many(129) }},
		{"properties too large together", registry.ErrTooLarge, "262144 bytes", func(i *registry.Image) {
			i.Properties = map[string]string{"k": strings.Repeat("v", 65535-3)}
			for n := range 3 {
				i.Properties[fmt.Sprint(n)] = strings.Repeat("v", 65535)
			}
			i.Properties["last"] = ""
		}},
		{"too many properties", registry.ErrTooLarge, "129 properties", func(i *registry.Image) { _, i.Properties = many(129) }},
	}
}
