package task

import (
	"strings"
	"testing"
	"testing/synctest"

	"nearsight/registry"
)

func TestLocationsAreComparedWithTheirHashes(t *testing.T) {
	data := []byte("hello")
	for _, tt := range []struct {
		name string
		hash Hash
		gone bool
		want bool
	}{
		{"md5", Hash{"md5", "5d41402abc4b2a76b9719d911017c592", ""}, false, true},
		{"md5 in capitals", Hash{"md5", "5D41402ABC4B2A76B9719D911017C592", ""}, false, true},
		{"sha1", Hash{"sha1", "aaf4c61ddcc5e8a2dabede0f3b482cd9aea9434d", ""}, false, true},
		{"sha256", Hash{"sha256", "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824", ""}, false, true},
		{"a checksum alone", Hash{"", "", "5d41402abc4b2a76b9719d911017c592"}, false, true},
		{"a wrong checksum", Hash{"sha1", "aaf4c61ddcc5e8a2dabede0f3b482cd9aea9434d", strings.Repeat("0", 32)}, false, false},
		{"another sha512", Hash{"sha512", strings.Repeat("0", 128), ""}, false, false},
		{"an unknown hash", Hash{"crc32", "3610a686", ""}, false, false},
		{"nothing is there", Hash{"md5", "5d41402abc4b2a76b9719d911017c592", ""}, true, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t)
				if !tt.gone {
					s.web.publish(away, data)
				}
				s.run(t)
				id := s.queue(t)
				task := s.add(t, New(registry.TaskLocationImport, id, Comparison{id, away, tt.hash}),
					func(img *registry.Image) error { return img.Become(registry.Importing) })
				settle()
				s.wantHeld(t, 0)
				img := s.get(t, id)
				if !tt.want {
					s.wantEnd(t, task.ID, registry.TaskFailure)
					if img.Status != registry.Queued || len(img.Locations) > 0 {
						t.Errorf("image is %s, at %v", img.Status, img.Locations)
					}
					return
				}
				s.wantEnd(t, task.ID, registry.TaskSuccess)
				s.wantHashed(t, id, data)
				if img.Status != registry.Active || len(img.Locations) != 1 || img.Locations[0].URL != away || img.Locations[0].Validator == "" {
					t.Errorf("image is %s, at %v", img.Status, img.Locations)
				}
			})
		})
	}
}
