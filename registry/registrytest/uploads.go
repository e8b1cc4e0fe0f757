package registrytest

import (
	"bytes"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"

	"nearsight/origin"
	"nearsight/registry"
)

func uploadTests() []test {
	return []test{
		{"an upload goes from queued over saving to active", func(s *suite) {
			queued := s.create(draft("x"))
			saving := s.begin(queued.ID, place(1))
			want := queued.Clone()
			want.Status, want.Revision, want.UpdatedAt = registry.Saving, 2, saving.UpdatedAt
			s.wantSame(saving, want)
			s.wantSame(s.get(queued.ID), want)

			sum := summary("data")
			active := s.finish(queued.ID, place(1), sum)
			want.Status, want.Revision, want.UpdatedAt = registry.Active, 3, active.UpdatedAt
			want.Size, want.VirtualSize = ptr(int64(4)), ptr(int64(4))
			want.Checksum, want.HashAlgo, want.HashValue, want.Digest = sum.MD5, "sha512", sum.SHA512, sum.Digest
			want.Locations, want.ActivatedAt = []origin.Location{place(1)}, active.UpdatedAt
			s.wantSame(active, want)
			s.wantSame(s.get(queued.ID), want)
			s.wantManifest(sum)
			s.wantOrphans()
		}},
		{"the location of Finish counts, with its validator", func(s *suite) {
			id := s.create(draft("x")).ID
			s.begin(id, origin.Location{URL: place(1).URL})
			s.finish(id, place(1), summary("data"))
			if got := s.get(id).Locations; len(got) != 1 || got[0] != place(1) {
				s.Errorf("locations %v", got)
			}
		}},
		{"only of raw data the virtual size is known", func(s *suite) {
			img := draft("x")
			img.DiskFormat = "qcow2"
			if got := s.upload(img, place(1), "data"); got.VirtualSize != nil || *got.Size != 4 {
				s.Errorf("virtual size %v, size %v", got.VirtualSize, got.Size)
			}
		}},
		{"no bytes are data too", func(s *suite) {
			img := s.upload(draft("x"), place(1), "")
			if img.Status != registry.Active || img.Size == nil || *img.Size != 0 {
				s.Errorf("status %s, size %v", img.Status, img.Size)
			}
			s.wantManifest(summary(""))
		}},
		{"formats must be set, and the error names those that are not", func(s *suite) {
			for _, tt := range []struct{ disk, container, text string }{
				{"", "bare", "disk_format"}, {"raw", "", "container_format"}, {"", "", "disk_format and container_format"},
			} {
				id := s.create(&registry.Image{DiskFormat: tt.disk, ContainerFormat: tt.container}).ID
				s.unchanged(id, func() {
					_, err := s.Uploads.Begin(s.Context(), id, place(1))
					s.wantErr(err, registry.ErrInvalid)
					if !bytes.Contains([]byte(err.Error()), []byte(tt.text)) {
						s.Errorf("error %q does not say %q", err, tt.text)
					}
				})
			}
			s.wantOrphans()
		}},
		{"an image that is not queued takes no upload", func(s *suite) {
			id := s.create(draft("x")).ID
			s.begin(id, place(1))
			refused := func() {
				s.unchanged(id, func() {
					_, err := s.Uploads.Begin(s.Context(), id, place(2))
					s.wantErr(err, registry.ErrConflict)
				})
			}
			refused()
			s.finish(id, place(1), summary("data"))
			refused()
			s.wantOrphans()
		}},
		{"an unknown image is not found", func(s *suite) {
			_, err := s.Uploads.Begin(s.Context(), someID, place(1))
			s.wantErr(err, registry.ErrNotFound)
		}},
		{"a location is used once", func(s *suite) {
			s.upload(draft("x"), place(1), "data")
			a, b := s.create(draft("a")).ID, s.create(draft("b")).ID
			s.begin(a, place(2))
			s.unchanged(b, func() {
				for _, loc := range []origin.Location{place(1), place(2)} {
					_, err := s.Uploads.Begin(s.Context(), b, loc)
					s.wantErr(err, registry.ErrConflict)
				}
				_, err := s.Uploads.Begin(s.Context(), b, origin.Location{})
				s.wantErr(err, registry.ErrInvalid)
			})
		}},
		{"of many uploads to one image, one begins", func(s *suite) {
			id := s.create(draft("x")).ID
			begun := parallel(20, func(i int) bool {
				_, err := s.Uploads.Begin(s.Context(), id, place(i))
				if err != nil && !errors.Is(err, registry.ErrConflict) {
					s.Errorf("begin: %v", err)
				}
				return err == nil
			})
			if begun != 1 || s.revision() != 2 {
				s.Errorf("%d began, revision %d", begun, s.revision())
			}
		}},
		{"metadata may change meanwhile", func(s *suite) {
			id := s.create(draft("x")).ID
			s.begin(id, place(1))
			s.update(id, func(i *registry.Image) { i.Name, i.Tags = ptr("y"), []string{"t"} })
			img := s.finish(id, place(1), summary("data"))
			if *img.Name != "y" || img.Tags[0] != "t" || img.Status != registry.Active {
				s.Errorf("image %+v", img)
			}
		}},
		{"a summary that contradicts itself is refused", func(s *suite) {
			id := s.create(draft("x")).ID
			s.begin(id, place(1))
			for name, spoil := range map[string]func(*origin.Summary){
				"no manifest":  func(sum *origin.Summary) { sum.Manifest = nil },
				"another size": func(sum *origin.Summary) { sum.Size++ },
				"no chunks":    func(sum *origin.Summary) { sum.Manifest = sum.Manifest[:len(sum.Manifest)-32] },
			} {
				s.unchanged(id, func() {
					sum := summary("data")
					spoil(&sum)
					if _, err := s.Uploads.Finish(s.Context(), id, place(1), sum); !errors.Is(err, registry.ErrInvalid) {
						s.Errorf("%s: %v", name, err)
					}
				})
			}
			s.finish(id, place(1), summary("data"))
		}},
		{"an aborted upload leaves the image queued, without sizes, ready for the next", func(s *suite) {
			img := s.create(draft("x"))
			s.begin(img.ID, place(1))
			s.abort(img.ID, place(1))
			got := s.get(img.ID)
			img.Revision, img.UpdatedAt = 3, got.UpdatedAt
			s.wantSame(got, img)
			s.wantOrphans(place(1))
			s.unchanged(img.ID, func() { s.abort(img.ID, place(1)) })
			s.begin(img.ID, place(2))
			s.finish(img.ID, place(2), summary("data"))
			s.wantOrphans(place(1))
		}},
		{"a late abort or finish does not touch the upload that came after", func(s *suite) {
			id := s.create(draft("x")).ID
			s.begin(id, place(1))
			s.abort(id, place(1))
			s.begin(id, place(2))
			s.unchanged(id, func() {
				s.abort(id, place(1))
				_, err := s.Uploads.Finish(s.Context(), id, place(1), summary("old"))
				s.wantErr(err, registry.ErrConflict)
			})
			s.wantOrphans(place(1))
			s.finish(id, place(2), summary("data"))
			s.wantOrphans(place(1))
		}},
		{"a finish after its orphan was forgotten makes it an orphan again", func(s *suite) {
			id := s.create(draft("x")).ID
			s.begin(id, place(1))
			s.abort(id, place(1))
			s.forget(place(1))
			s.unchanged(id, func() {
				_, err := s.Uploads.Finish(s.Context(), id, place(1), summary("late"))
				s.wantErr(err, registry.ErrConflict)
			})
			s.wantOrphans(place(1))
		}},
		{"data never changes: finish and abort of a finished upload are conflicts", func(s *suite) {
			id := s.upload(draft("x"), place(1), "data").ID
			s.unchanged(id, func() {
				_, err := s.Uploads.Finish(s.Context(), id, place(1), summary("other"))
				s.wantErr(err, registry.ErrConflict)
				s.wantErr(s.Uploads.Abort(s.Context(), id, place(1)), registry.ErrConflict)
				_, err = s.Uploads.Finish(s.Context(), id, place(2), summary("other"))
				s.wantErr(err, registry.ErrConflict)
			})
			s.wantOrphans(place(2))
			s.wantManifest(summary("data"))
			s.noManifest(summary("other"))
		}},
		{"every upload that has not ended is unfinished, and only those", func(s *suite) {
			if got := s.unfinished(); len(got) != 0 {
				s.Errorf("unfinished %v", got)
			}
			s.upload(draft("active"), place(0), "data")
			a, b, gone := s.create(draft("a")).ID, s.create(draft("b")).ID, s.create(draft("gone")).ID
			s.begin(a, place(1))
			s.begin(b, place(2))
			s.begin(gone, place(3))
			s.delete(gone)
			s.abort(b, place(2))
			s.begin(b, place(4))
			want := map[string]origin.Location{a: place(1), b: place(4), gone: place(3)}
			if got := s.unfinished(); !maps.Equal(got, want) {
				s.Errorf("unfinished %v, want %v", got, want)
			}
			for id, loc := range want {
				s.abort(id, loc)
			}
			if got := s.unfinished(); len(got) != 0 {
				s.Errorf("unfinished %v", got)
			}
		}},
		{"a finish that is repeated returns the image and changes nothing", func(s *suite) {
			id := s.upload(draft("x"), place(1), "data").ID
			s.update(id, func(i *registry.Image) { i.Name = ptr("y") })
			s.unchanged(id, func() { s.wantSame(s.finish(id, place(1), summary("data")), s.get(id)) })
			s.wantOrphans()
			s.wantManifest(summary("data"))
			s.delete(id)
			_, err := s.Uploads.Finish(s.Context(), id, place(1), summary("data"))
			s.wantErr(err, registry.ErrNotFound)
			s.wantOrphans(place(1))
			s.noManifest(summary("data"))
		}},
		{"an abort of what never began makes sure that it does not begin", func(s *suite) {
			id := s.create(draft("x")).ID
			s.unchanged(id, func() { s.abort(id, place(1)) })
			_, err := s.Uploads.Begin(s.Context(), id, place(1))
			s.wantErr(err, registry.ErrConflict)
			s.wantOrphans(place(1))
			s.begin(id, place(2))
		}},
		{"refusals tell a client what is wrong, and no location", func(s *suite) {
			id := s.upload(draft("x"), place(1), "data").ID
			saving := s.create(draft("saving")).ID
			s.begin(saving, place(2))
			_, errBegin := s.Uploads.Begin(s.Context(), saving, place(3))
			_, errUsed := s.Uploads.Begin(s.Context(), s.create(draft("other")).ID, place(2))
			_, errFinish := s.Uploads.Finish(s.Context(), id, place(4), summary("data"))
			for _, tt := range []struct {
				err  error
				text string
			}{
				{errBegin, "image is saving: data can be uploaded only while it is queued"},
				{errUsed, "in use"},
				{errFinish, "not under way"},
				{s.Uploads.Abort(s.Context(), id, place(1)), "was finished"},
			} {
				s.wantErr(tt.err, registry.ErrConflict)
				if text := tt.err.Error(); !strings.Contains(text, tt.text) || strings.Contains(text, "://") {
					s.Errorf("error %q; want %q and no location", text, tt.text)
				}
			}
		}},
		{"equal data shares one manifest, which goes with the last image", func(s *suite) {
			a := s.upload(draft("a"), place(1), "same")
			b := s.upload(draft("b"), place(2), "same")
			c := s.upload(draft("c"), place(3), "other")
			if a.Digest != b.Digest || a.Digest == c.Digest {
				s.Errorf("digests %s, %s, %s", a.Digest, b.Digest, c.Digest)
			}
			s.delete(a.ID)
			s.wantManifest(summary("same"))
			s.delete(b.ID)
			s.noManifest(summary("same"))
			s.wantManifest(summary("other"))
		}},
	}
}

func orphanTests() []test {
	return []test{
		{"the location of a deleted image is one, until it is forgotten", func(s *suite) {
			id := s.upload(draft("x"), place(1), "data").ID
			s.forget(place(1)) // is no orphan yet
			s.wantOrphans()
			s.delete(id)
			s.wantOrphans(place(1))
			s.forget(place(1))
			s.wantOrphans()
			s.forget(place(1))
		}},
		{"they come in pages", func(s *suite) {
			for _, n := range []int{3, 1, 2} {
				s.delete(s.upload(draft("x"), place(n), "data").ID)
			}
			s.wantOrphans(place(1), place(2), place(3))
			for _, tt := range []struct {
				after string
				limit int
				want  []origin.Location
			}{
				{"", -1, nil}, {"", 0, nil}, {"", 1, []origin.Location{place(1)}},
				{place(1).URL, 1, []origin.Location{place(2)}}, {place(1).URL, 9, []origin.Location{place(2), place(3)}},
				{place(2).URL + "/none", 9, []origin.Location{place(3)}}, {place(3).URL, 9, nil},
			} {
				got, err := s.Uploads.Orphans(s.Context(), tt.after, tt.limit)
				if err != nil || !slices.Equal(got, tt.want) {
					s.Errorf("%d after %q: %v, %v; want %v", tt.limit, tt.after, got, err, tt.want)
				}
			}
			s.forget(place(1))
			s.wantOrphans(place(2), place(3))
		}},
		{"an upload to a deleted image is none before it ends by Finish", func(s *suite) {
			id := s.create(draft("x")).ID
			s.begin(id, place(1))
			s.delete(id)
			s.wantOrphans() // a deletion now would come before the writing ends
			_, err := s.Uploads.Finish(s.Context(), id, place(1), summary("data"))
			s.wantErr(err, registry.ErrNotFound)
			s.wantOrphans(place(1))
			s.noManifest(summary("data"))
			_, err = s.Images.Get(s.Context(), id)
			s.wantErr(err, registry.ErrNotFound)
		}},
		{"an upload to a deleted image is none before it ends by Abort", func(s *suite) {
			id := s.create(draft("x")).ID
			s.begin(id, place(1))
			s.delete(id)
			s.forget(place(1)) // is no orphan yet
			revision := s.revision()
			s.abort(id, place(1))
			s.wantOrphans(place(1))
			if s.revision() != revision {
				s.Error("the abort made an event")
			}
		}},
		{"whoever wins of Finish and Delete, the object becomes one and nothing else is left", func(s *suite) {
			for n := range 20 {
				id := s.create(draft("x")).ID
				s.begin(id, place(n))
				var race sync.WaitGroup
				race.Go(func() {
					_, err := s.Uploads.Finish(s.Context(), id, place(n), summary("data"))
					if err != nil && !errors.Is(err, registry.ErrNotFound) {
						s.Errorf("finish: %v", err)
					}
				})
				race.Go(func() {
					if err := s.Images.Delete(s.Context(), id, nil); err != nil {
						s.Errorf("delete: %v", err)
					}
				})
				race.Wait()
				s.wantOrphans(place(n))
				s.noManifest(summary("data"))
				s.forget(place(n))
			}
		}},
		{"whoever wins of Finish and Abort, the object has one place", func(s *suite) {
			for n := range 20 {
				id := s.create(draft("x")).ID
				s.begin(id, place(n))
				var finished, aborted error
				var race sync.WaitGroup
				race.Go(func() { _, finished = s.Uploads.Finish(s.Context(), id, place(n), summary("data")) })
				race.Go(func() { aborted = s.Uploads.Abort(s.Context(), id, place(n)) })
				race.Wait()
				switch {
				case finished == nil && errors.Is(aborted, registry.ErrConflict):
					s.wantStatus(id, registry.Active)
					s.wantOrphans()
				case aborted == nil && errors.Is(finished, registry.ErrConflict):
					s.wantStatus(id, registry.Queued)
					s.wantOrphans(place(n))
					s.forget(place(n))
				default:
					s.Fatalf("finish: %v, abort: %v", finished, aborted)
				}
			}
		}},
	}
}

func (s *suite) forget(loc origin.Location) {
	s.Helper()
	if err := s.Uploads.Forget(s.Context(), loc); err != nil {
		s.Fatalf("forget: %v", err)
	}
}

func (s *suite) wantManifest(sum origin.Summary) {
	s.Helper()
	got, err := s.Images.Manifest(s.Context(), sum.Digest)
	if err != nil || !bytes.Equal(got, sum.Manifest) {
		s.Errorf("manifest %x, %v", got, err)
	}
}

func (s *suite) noManifest(sum origin.Summary) {
	s.Helper()
	_, err := s.Images.Manifest(s.Context(), sum.Digest)
	s.wantErr(err, registry.ErrNotFound)
}
