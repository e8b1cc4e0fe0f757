package registrytest

import (
	"errors"
	"maps"
	"reflect"
	"slices"
	"sync"

	"nearsight/origin"
	"nearsight/registry"
)

func (s *suite) beginStage(id string, loc origin.Location) *registry.Image {
	s.Helper()
	img, err := s.Stages.BeginStage(s.Context(), id, loc)
	if err != nil {
		s.Fatalf("begin stage: %v", err)
	}
	return img
}

func (s *suite) finishStage(id string, loc origin.Location, sum origin.Summary) *registry.Image {
	s.Helper()
	img, err := s.Stages.FinishStage(s.Context(), id, loc, sum)
	if err != nil {
		s.Fatalf("finish stage: %v", err)
	}
	return img
}

// stage makes an image that is uploading, with staged data, and returns it.
func (s *suite) stage(img *registry.Image, loc origin.Location, data string) *registry.Image {
	s.Helper()
	id := s.create(img).ID
	s.beginStage(id, loc)
	return s.finishStage(id, loc, summary(data))
}

func (s *suite) adopt(id string) *registry.Image {
	s.Helper()
	img, err := s.Stages.Adopt(s.Context(), id)
	if err != nil {
		s.Fatalf("adopt: %v", err)
	}
	return img
}

func (s *suite) wantStaged(id string, loc origin.Location, sum origin.Summary) {
	s.Helper()
	gotLoc, gotSum, err := s.Stages.Staged(s.Context(), id)
	if err != nil || gotLoc != loc || !reflect.DeepEqual(gotSum, sum) {
		s.Errorf("staged %+v, %+v, %v; want %+v, %+v", gotLoc, gotSum, err, loc, sum)
	}
}

func (s *suite) notStaged(id string) {
	s.Helper()
	_, _, err := s.Stages.Staged(s.Context(), id)
	s.wantErr(err, registry.ErrNotFound)
}

func stageTests() []test {
	return []test{
		{"data is staged from queued over uploading, and the image has its size", func(s *suite) {
			want := s.create(draft("x"))
			got := s.beginStage(want.ID, origin.Location{URL: place(1).URL})
			want.Status, want.Revision, want.UpdatedAt = registry.Uploading, 2, got.UpdatedAt
			s.wantSame(got, want)
			s.notStaged(want.ID)
			if got := s.unfinished(); !maps.Equal(got, map[string]origin.Location{want.ID: {URL: place(1).URL}}) {
				s.Errorf("unfinished %v", got)
			}

			got = s.finishStage(want.ID, place(1), summary("data"))
			want.Revision, want.UpdatedAt, want.Size = 3, got.UpdatedAt, ptr(int64(4))
			s.wantSame(got, want)
			s.wantSame(s.get(want.ID), want)
			s.wantStaged(want.ID, place(1), summary("data"))
			if got := s.unfinished(); len(got) != 0 {
				s.Errorf("unfinished %v", got)
			}
			s.wantOrphans()
		}},
		{"formats may be unset", func(s *suite) {
			s.stage(&registry.Image{}, place(1), "data")
		}},
		{"only a queued image takes data to be staged", func(s *suite) {
			for n, id := range []string{
				s.upload(draft("active"), place(11), "data").ID,
				s.stage(draft("staged"), place(12), "data").ID,
			} {
				s.unchanged(id, func() {
					_, err := s.Stages.BeginStage(s.Context(), id, place(n))
					s.wantErr(err, registry.ErrConflict)
				})
			}
			_, err := s.Stages.BeginStage(s.Context(), someID, place(1))
			s.wantErr(err, registry.ErrNotFound)
			s.wantOrphans()
		}},
		{"a location is used once", func(s *suite) {
			s.stage(draft("staged"), place(1), "data")
			s.upload(draft("active"), place(2), "data")
			id, active := s.create(draft("x")).ID, s.upload(draft("other"), place(3), "data").ID
			for _, loc := range []origin.Location{place(1), place(2), place(3)} {
				_, err := s.Stages.BeginStage(s.Context(), id, loc)
				s.wantErr(err, registry.ErrConflict)
			}
			_, err := s.Uploads.Begin(s.Context(), id, place(1))
			s.wantErr(err, registry.ErrConflict)
			s.wantErr(s.Locations.BeginCopy(s.Context(), active, place(1)), registry.ErrConflict)
		}},
		{"an aborted stage leaves the image queued, ready for the next", func(s *suite) {
			img := s.create(draft("x"))
			s.beginStage(img.ID, place(1))
			s.abort(img.ID, place(1))
			got := s.get(img.ID)
			img.Revision, img.UpdatedAt = 3, got.UpdatedAt
			s.wantSame(got, img)
			s.wantOrphans(place(1))
			s.beginStage(img.ID, place(2))
			s.unchanged(img.ID, func() {
				_, err := s.Stages.FinishStage(s.Context(), img.ID, place(1), summary("late"))
				s.wantErr(err, registry.ErrConflict)
				s.abort(img.ID, place(1))
			})
			s.finishStage(img.ID, place(2), summary("data"))
			s.wantOrphans(place(1))
			s.noManifest(summary("late"))
		}},
		{"a finished stage is not aborted", func(s *suite) {
			id := s.stage(draft("x"), place(1), "data").ID
			s.unchanged(id, func() { s.wantErr(s.Uploads.Abort(s.Context(), id, place(1)), registry.ErrConflict) })
			s.wantStaged(id, place(1), summary("data"))
			s.wantOrphans()
		}},
		{"a finish that is repeated returns the image and changes nothing, also after the import", func(s *suite) {
			id := s.stage(draft("x"), place(1), "data").ID
			again := func() {
				s.Helper()
				s.unchanged(id, func() { s.wantSame(s.finishStage(id, place(1), summary("data")), s.get(id)) })
				s.wantOrphans()
			}
			again()
			s.importing(id)
			again()
			s.adopt(id)
			again()
			s.wantManifest(summary("data"))
		}},
		{"a finish with other data is a conflict", func(s *suite) {
			id := s.stage(draft("x"), place(1), "data").ID
			s.unchanged(id, func() {
				_, err := s.Stages.FinishStage(s.Context(), id, place(1), summary("other"))
				s.wantErr(err, registry.ErrConflict)
				_, err = s.Stages.FinishStage(s.Context(), id, place(2), summary("data"))
				s.wantErr(err, registry.ErrConflict)
			})
			s.wantStaged(id, place(1), summary("data"))
			s.noManifest(summary("other"))
			s.wantOrphans(place(2))
		}},
		{"a stage is no upload and an upload no stage", func(s *suite) {
			staging, saving := s.create(draft("a")).ID, s.create(draft("b")).ID
			s.beginStage(staging, place(1))
			s.begin(saving, place(2))
			s.unchanged(staging, func() {
				_, err := s.Uploads.Finish(s.Context(), staging, place(1), summary("data"))
				s.wantErr(err, registry.ErrConflict)
			})
			s.unchanged(saving, func() {
				_, err := s.Stages.FinishStage(s.Context(), saving, place(2), summary("data"))
				s.wantErr(err, registry.ErrConflict)
			})
			s.finishStage(staging, place(1), summary("data"))
			s.finish(saving, place(2), summary("data"))
			s.wantOrphans()
		}},
		{"a summary that contradicts itself is refused", func(s *suite) {
			id := s.create(draft("x")).ID
			s.beginStage(id, place(1))
			sum := summary("data")
			sum.Size++
			s.unchanged(id, func() {
				if _, err := s.Stages.FinishStage(s.Context(), id, place(1), sum); !errors.Is(err, registry.ErrInvalid) {
					s.Errorf("error %v", err)
				}
			})
		}},
		{"a stage for a deleted image is no orphan before it ends", func(s *suite) {
			a, b := s.create(draft("a")).ID, s.create(draft("b")).ID
			s.beginStage(a, place(1))
			s.beginStage(b, place(2))
			s.delete(a)
			s.delete(b)
			s.wantOrphans()
			_, err := s.Stages.FinishStage(s.Context(), a, place(1), summary("data"))
			s.wantErr(err, registry.ErrNotFound)
			s.abort(b, place(2))
			s.wantOrphans(place(1), place(2))
			s.noManifest(summary("data"))
		}},
		{"staged data of a deleted image is an orphan, and its manifest goes", func(s *suite) {
			id := s.stage(draft("x"), place(1), "data").ID
			s.delete(id)
			s.wantOrphans(place(1))
			s.noManifest(summary("data"))
			s.notStaged(id)
		}},
		{"a manifest stays while data is staged", func(s *suite) {
			other := s.upload(draft("other"), place(1), "data").ID
			id := s.stage(draft("x"), place(2), "data").ID
			s.delete(other)
			s.wantStaged(id, place(2), summary("data"))
			s.delete(id)
			s.noManifest(summary("data"))
		}},
		{"staged objects are known, and no image is placed there", func(s *suite) {
			id := s.stage(draft("x"), place(1), "data").ID
			known, err := s.Books.Knows(s.Context(), place(1).URL)
			if err != nil || !known {
				s.Errorf("known %v, %v", known, err)
			}
			s.wantPages(s.Books.Placed, nil)
			s.importing(id)
			s.adopt(id)
			s.wantPages(s.Books.Placed, []string{id})
		}},
	}
}

func importTests() []test {
	return []test{
		{"staged data is adopted where it is", func(s *suite) {
			want := s.stage(draft("x"), place(1), "data")
			s.importing(want.ID)
			got := s.adopt(want.ID)
			sum := summary("data")
			want.Status, want.Revision, want.UpdatedAt = registry.Active, want.Revision+2, got.UpdatedAt
			want.VirtualSize, want.Locations, want.ActivatedAt = ptr(int64(4)), []origin.Location{place(1)}, got.UpdatedAt
			want.Checksum, want.HashAlgo, want.HashValue, want.Digest = sum.MD5, "sha512", sum.SHA512, sum.Digest
			s.wantSame(got, want)
			s.wantSame(s.get(want.ID), want)
			s.wantEvent(got, registry.EventData)
			s.notStaged(want.ID)
			s.unchanged(want.ID, func() { s.wantSame(s.adopt(want.ID), want) })
			s.wantOrphans()
			s.delete(want.ID)
			s.wantOrphans(place(1))
			s.noManifest(sum)
		}},
		{"only an importing image with staged data adopts it", func(s *suite) {
			without := s.create(draft("without")).ID
			s.importing(without)
			for _, id := range []string{
				s.create(draft("queued")).ID,
				s.stage(draft("uploading"), place(1), "data").ID,
				without,
			} {
				s.unchanged(id, func() {
					_, err := s.Stages.Adopt(s.Context(), id)
					s.wantErr(err, registry.ErrConflict)
				})
			}
			_, err := s.Stages.Adopt(s.Context(), someID)
			s.wantErr(err, registry.ErrNotFound)
		}},
		{"an object that was noted makes an importing image active", func(s *suite) {
			id := s.create(draft("x")).ID
			s.importing(id)
			s.unchanged(id, func() { s.copy(id, place(1)) })
			got := s.finish(id, place(1), summary("data"))
			if got.Status != registry.Active || !slices.Equal(got.Locations, []origin.Location{place(1)}) || got.Digest != summary("data").Digest {
				s.Errorf("image %+v", got)
			}
			s.wantEvent(got, registry.EventData)
			s.unchanged(id, func() { s.finish(id, place(1), summary("data")) })
			s.copy(id, place(2))
			s.add(id, place(2), 4, nil)
			s.wantOrphans()
			if got := s.unfinished(); len(got) != 0 {
				s.Errorf("unfinished %v", got)
			}
		}},
		{"an object that was not noted does not", func(s *suite) {
			id := s.create(draft("x")).ID
			s.importing(id)
			s.unchanged(id, func() {
				_, err := s.Uploads.Finish(s.Context(), id, place(1), summary("data"))
				s.wantErr(err, registry.ErrConflict)
			})
			s.wantOrphans(place(1))
		}},
		{"what lies at a URL of others makes any importing image active, and needs no note", func(s *suite) {
			s.add(s.create(draft("registered")).ID, web(1), 4, nil)
			for range 2 {
				id := s.create(draft("x")).ID
				_, err := s.Uploads.Finish(s.Context(), id, web(1), summary("data"))
				s.wantErr(err, registry.ErrConflict) // queued
				s.importing(id)
				got := s.finish(id, web(1), summary("data"))
				if got.Status != registry.Active || !slices.Equal(got.Locations, []origin.Location{web(1)}) || got.Digest != summary("data").Digest {
					s.Errorf("image %+v", got)
				}
				s.wantEvent(got, registry.EventData)
				s.unchanged(id, func() { s.finish(id, web(1), summary("data")) })
			}
			s.wantOrphans()
		}},
		{"staged data that was not adopted becomes an orphan when the image is active", func(s *suite) {
			for n, data := range []string{"data", "other"} {
				id := s.stage(draft("x"), place(10+n), "data").ID
				s.importing(id)
				s.copy(id, place(20+n))
				s.wantOrphans()
				s.finish(id, place(20+n), summary(data))
				s.notStaged(id)
				s.wantOrphans(place(10 + n))
				s.wantManifest(summary(data))
				s.forget(place(10 + n))
				s.delete(id)
				s.forget(place(20 + n))
				s.noManifest(summary("data"))
			}
		}},
		{"an object that is given up leaves the image importing", func(s *suite) {
			id := s.create(draft("x")).ID
			s.importing(id)
			s.copy(id, place(1))
			s.unchanged(id, func() { s.abort(id, place(1)) })
			s.wantStatus(id, registry.Importing)
			s.wantOrphans(place(1))
			s.copy(id, place(2))
			s.finish(id, place(2), summary("data"))
		}},
		{"a copy that comes late for a queued image is a conflict, and is aborted", func(s *suite) {
			id := s.create(draft("x")).ID
			task := s.importing(id)
			s.copy(id, place(1))
			s.endImport(task, registry.TaskFailure)
			s.unchanged(id, func() {
				_, err := s.Uploads.Finish(s.Context(), id, place(1), summary("data"))
				s.wantErr(err, registry.ErrConflict)
				s.abort(id, place(1))
			})
			s.wantOrphans(place(1))
		}},
		{"whoever wins of Adopt and Delete, the object becomes an orphan and nothing else is left", func(s *suite) {
			for n := range 20 {
				id := s.stage(draft("x"), place(n), "data").ID
				s.importing(id)
				var race sync.WaitGroup
				race.Go(func() {
					if _, err := s.Stages.Adopt(s.Context(), id); err != nil && !errors.Is(err, registry.ErrNotFound) {
						s.Errorf("adopt: %v", err)
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
	}
}

func usageTests() []test {
	return []test{
		{"a project's usage is what its images take", func(s *suite) {
			of := func(owner string) *registry.Image {
				img := draft("x")
				img.Owner = &owner
				return img
			}
			want := func(owner string, want registry.Usage) {
				s.Helper()
				if got, err := s.Usages.Usage(s.Context(), owner); err != nil || got != want {
					s.Errorf("%s: %+v, %v; want %+v", owner, got, err, want)
				}
			}
			want("p", registry.Usage{})
			img := s.upload(of("p"), place(1), "data")
			s.create(of("p"))
			want("p", registry.Usage{Bytes: 4, Images: 2})
			s.copy(img.ID, place(2))
			s.add(img.ID, place(2), 4, nil)
			want("p", registry.Usage{Bytes: 8, Images: 2})
			s.begin(s.create(of("p")).ID, place(3))
			s.beginStage(s.create(of("p")).ID, place(4))
			staged := s.stage(of("p"), place(5), "longer").ID
			want("p", registry.Usage{Bytes: 8, Staged: 6, Images: 5, Uploading: 3})
			s.importing(staged)
			want("p", registry.Usage{Bytes: 8, Staged: 6, Images: 5, Uploading: 3})
			s.adopt(staged)
			want("p", registry.Usage{Bytes: 14, Images: 5, Uploading: 2})
			s.add(s.create(of("p")).ID, web(1), -1, nil) // of a size that nobody knows
			want("p", registry.Usage{Bytes: 14, Images: 6, Uploading: 2})
			s.update(img.ID, func(i *registry.Image) { i.Status = registry.Deactivated })
			want("p", registry.Usage{Bytes: 14, Images: 6, Uploading: 2})
			s.upload(of("q"), place(6), "x")
			s.upload(draft("nobody's"), place(7), "x")
			want("q", registry.Usage{Bytes: 1, Images: 1})
			want("", registry.Usage{})
			s.delete(img.ID)
			want("p", registry.Usage{Bytes: 6, Images: 5, Uploading: 2})
		}},
	}
}
