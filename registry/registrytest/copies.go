package registrytest

import (
	"errors"
	"slices"
	"strings"
	"sync"

	"nearsight/origin"
	"nearsight/registry"
)

// copy begins one.
func (s *suite) copy(id string, loc origin.Location) {
	s.Helper()
	if err := s.Locations.BeginCopy(s.Context(), id, loc); err != nil {
		s.Fatalf("begin copy: %v", err)
	}
}

func (s *suite) hashed(id string, loc origin.Location, sum origin.Summary) *registry.Image {
	s.Helper()
	img, err := s.Locations.Hashed(s.Context(), id, loc, sum)
	if err != nil {
		s.Fatalf("hashed: %v", err)
	}
	return img
}

func copyTests() []test {
	return []test{
		{"a copy is under way until its location is added, and the image does not hear of it before", func(s *suite) {
			img := s.upload(draft("x"), place(1), "data")
			s.unchanged(img.ID, func() { s.copy(img.ID, origin.Location{URL: place(2).URL}) })
			uploads, err := s.Uploads.Unfinished(s.Context())
			want := []registry.Upload{{ImageID: img.ID, Location: origin.Location{URL: place(2).URL}, Copy: true}}
			if err != nil || !slices.Equal(uploads, want) {
				s.Errorf("unfinished %+v, %v; want %+v", uploads, err, want)
			}
			got := s.add(img.ID, place(2), 4, nil)
			if len(got.Locations) != 2 || got.Locations[1] != place(2) || got.Status != registry.Active {
				s.Errorf("image %+v", got)
			}
			if len(s.unfinished()) != 0 {
				s.Error("the copy is under way still")
			}
			s.wantOrphans()
		}},
		{"uploads and copies are told apart", func(s *suite) {
			img := s.upload(draft("x"), place(1), "data")
			s.copy(img.ID, place(2))
			other := s.create(draft("y")).ID
			s.begin(other, place(3))
			uploads, err := s.Uploads.Unfinished(s.Context())
			if err != nil || len(uploads) != 2 {
				s.Fatalf("unfinished %v, %v", uploads, err)
			}
			for _, u := range uploads {
				if u.Copy != (u.ImageID == img.ID) {
					s.Errorf("unfinished %+v", u)
				}
			}
		}},
		{"an aborted copy is an orphan and leaves the image alone", func(s *suite) {
			img := s.upload(draft("x"), place(1), "data")
			s.copy(img.ID, place(2))
			s.unchanged(img.ID, func() {
				s.abort(img.ID, place(2))
				s.wantOrphans(place(2))
				s.abort(img.ID, place(2))
				_, err := s.Locations.AddLocation(s.Context(), img.ID, place(2), 4, nil)
				s.wantErr(err, registry.ErrConflict)
				s.wantErr(s.Locations.BeginCopy(s.Context(), img.ID, place(2)), registry.ErrConflict)
			})
			if len(s.unfinished()) != 0 {
				s.Error("the copy is under way still")
			}
			s.wantOrphans(place(2))
		}},
		{"an abort of a copy that never began makes sure that it does not begin", func(s *suite) {
			id := s.upload(draft("x"), place(1), "data").ID
			s.unchanged(id, func() {
				s.abort(id, place(2))
				s.wantErr(s.Locations.BeginCopy(s.Context(), id, place(2)), registry.ErrConflict)
			})
			s.wantOrphans(place(2))
		}},
		{"an abort of a copy that was added is a conflict", func(s *suite) {
			id := s.upload(draft("x"), place(1), "data").ID
			s.copy(id, place(2))
			s.add(id, place(2), 4, nil)
			s.unchanged(id, func() {
				s.wantErr(s.Uploads.Abort(s.Context(), id, place(2)), registry.ErrConflict)
			})
			s.wantOrphans()
		}},
		{"what cannot be copied is refused", func(s *suite) {
			queued := s.create(draft("queued")).ID
			saving := s.create(draft("saving")).ID
			s.begin(saving, place(9))
			active := s.upload(draft("active"), place(1), "data").ID
			s.copy(active, place(2))
			full := s.create(draft("full")).ID
			for n := range 10 {
				s.add(full, web(n), 4, nil)
			}
			for _, tt := range []struct {
				name, id string
				loc      origin.Location
				err      error
			}{
				{"a queued image", queued, place(3), registry.ErrConflict},
				{"an image that is being uploaded", saving, place(3), registry.ErrConflict},
				{"no image", someID, place(3), registry.ErrNotFound},
				{"to where it is", active, place(1), registry.ErrConflict},
				{"to where it is being copied", active, place(2), registry.ErrConflict},
				{"to where another upload writes", active, place(9), registry.ErrConflict},
				{"to nowhere", active, origin.Location{}, registry.ErrInvalid},
				{"an image with as many locations as there may be", full, place(3), registry.ErrTooLarge},
			} {
				revision := s.revision()
				err := s.Locations.BeginCopy(s.Context(), tt.id, tt.loc)
				if !errors.Is(err, tt.err) || s.revision() != revision {
					s.Errorf("%s: %v, want %v; revision %d, want %d", tt.name, err, tt.err, s.revision(), revision)
				}
			}
			s.wantOrphans()
		}},
		{"what is not ours may be copied for many images at a time, and is not noted", func(s *suite) {
			s.add(s.create(draft("registered")).ID, web(1), 4, nil)
			for range 2 {
				id := s.upload(draft("x"), place(int(s.revision())), "data").ID
				s.unchanged(id, func() { s.copy(id, web(1)) })
				s.unchanged(id, func() { s.abort(id, web(1)) })
				s.copy(id, web(1))
				s.add(id, web(1), 4, nil)
				s.unchanged(id, func() { s.wantErr(s.Locations.BeginCopy(s.Context(), id, web(1)), registry.ErrConflict) })
			}
			if len(s.unfinished()) != 0 {
				s.Error("something is under way")
			}
			s.wantOrphans()
		}},
		{"a copy is no upload, and an upload no copy", func(s *suite) {
			active := s.upload(draft("x"), place(1), "data").ID
			s.copy(active, place(2))
			s.unchanged(active, func() {
				_, err := s.Uploads.Finish(s.Context(), active, place(2), summary("data"))
				s.wantErr(err, registry.ErrConflict)
			})
			other := s.upload(draft("other"), place(3), "data").ID
			s.noAdd(other, place(2), registry.ErrConflict)
			s.add(active, place(2), 4, nil)
			s.wantOrphans()
		}},
		{"a copy for a deleted image is no orphan before it is aborted", func(s *suite) {
			id := s.upload(draft("x"), place(1), "data").ID
			s.copy(id, place(2))
			s.delete(id)
			s.wantOrphans(place(1)) // a deletion of the other now would come before the writing ends
			_, err := s.Locations.AddLocation(s.Context(), id, place(2), 4, nil)
			s.wantErr(err, registry.ErrNotFound)
			s.abort(id, place(2))
			s.wantOrphans(place(1), place(2))
		}},
		{"whoever wins of AddLocation and Abort, the object has one place", func(s *suite) {
			id := s.upload(draft("x"), place(100), "data").ID
			for n := range 20 {
				s.copy(id, place(n))
				var added, aborted error
				var race sync.WaitGroup
				race.Go(func() { _, added = s.Locations.AddLocation(s.Context(), id, place(n), 4, nil) })
				race.Go(func() { aborted = s.Uploads.Abort(s.Context(), id, place(n)) })
				race.Wait()
				switch {
				case added == nil && errors.Is(aborted, registry.ErrConflict):
					s.wantOrphans()
					s.remove(id, place(n).URL)
				case aborted == nil && errors.Is(added, registry.ErrConflict):
				default:
					s.Fatalf("add: %v, abort: %v", added, aborted)
				}
				s.wantStatus(id, registry.Active)
				s.wantOrphans(place(n))
				s.forget(place(n))
			}
		}},
	}
}

func hashTests() []test {
	return []test{
		{"Hashed says what the bytes are, and under which validator they were read", func(s *suite) {
			img := s.add(s.create(draft("x")).ID, web(1), -1, map[string]string{"k": "v"})
			want := s.add(img.ID, web(2), -1, nil).Clone()
			sum, loc := summary("data"), origin.Location{URL: web(1).URL, Validator: `"etag"`}
			got := s.hashed(img.ID, loc, sum)
			want.Size, want.VirtualSize = ptr(int64(4)), ptr(int64(4))
			want.Checksum, want.HashAlgo, want.HashValue, want.Digest = sum.MD5, "sha512", sum.SHA512, sum.Digest
			want.Locations[0] = loc
			want.Revision, want.UpdatedAt = want.Revision+1, got.UpdatedAt
			s.wantSame(got, want)
			s.wantSame(s.get(img.ID), want)
			s.wantManifest(sum)
			s.wantEvent(got, registry.EventData)
		}},
		{"the bytes decide what the size is", func(s *suite) {
			img := draft("x")
			img.DiskFormat = "qcow2"
			img = s.add(s.create(img).ID, web(1), 999, nil)
			img = s.hashed(img.ID, web(1), summary("data"))
			if *img.Size != 4 || img.VirtualSize != nil {
				s.Errorf("size %d, virtual size %v", *img.Size, img.VirtualSize)
			}
		}},
		{"what does not fit the image is refused", func(s *suite) {
			uploaded := s.upload(draft("uploaded"), place(1), "data").ID
			recorded := origin.Location{URL: web(1).URL, Validator: "v1"}
			img := s.add(s.create(draft("x")).ID, recorded, 4, nil)
			s.add(img.ID, web(2), 4, nil)
			refuse := func(id string, loc origin.Location, sum origin.Summary, want error) {
				s.Helper()
				revision := s.revision()
				_, err := s.Locations.Hashed(s.Context(), id, loc, sum)
				s.wantErr(err, want)
				if s.revision() != revision {
					s.Error("the refusal made an event")
				}
			}
			refuse(uploaded, place(1), summary("data"), registry.ErrConflict)
			refuse(img.ID, web(2), summary("data"), registry.ErrConflict)
			refuse(img.ID, web(3), summary("data"), registry.ErrConflict)
			refuse(img.ID, web(1), summary("data"), registry.ErrConflict)
			refuse(img.ID, origin.Location{URL: web(1).URL, Validator: "v2"}, summary("data"), registry.ErrConflict)
			refuse(someID, web(1), summary("other"), registry.ErrNotFound)
			bad := summary("data")
			bad.Size++
			refuse(img.ID, recorded, bad, registry.ErrInvalid)
			bad.Manifest = nil
			if _, err := s.Locations.Hashed(s.Context(), img.ID, recorded, bad); !errors.Is(err, registry.ErrInvalid) {
				s.Errorf("no manifest: %v", err)
			}
			s.noManifest(summary("other"))
			s.hashed(img.ID, recorded, summary("data"))
		}},
		{"hashes that were said and are not the data's are a conflict", func(s *suite) {
			data := summary("data")
			other := summary("other")
			for _, tt := range []struct {
				checksum, algo, value string
				ok                    bool
			}{
				{data.MD5, "sha512", data.SHA512, true},
				{strings.ToUpper(data.MD5), "", "", true},
				{"", "md5", data.MD5, true},
				{"", "sha256", "of which nothing is known", true},
				{other.MD5, "sha512", data.SHA512, false},
				{data.MD5, "sha512", other.SHA512, false},
				{other.MD5, "", "", false},
				{"", "md5", other.MD5, false},
			} {
				id := s.add(s.create(draft("x")).ID, web(1), 4, nil).ID
				s.update(id, func(i *registry.Image) { i.Checksum, i.HashAlgo, i.HashValue = tt.checksum, tt.algo, tt.value })
				if tt.ok {
					if got := s.hashed(id, web(1), data); got.Checksum != data.MD5 || got.HashAlgo != "sha512" || got.HashValue != data.SHA512 {
						s.Errorf("%+v: image %+v", tt, got)
					}
					continue
				}
				s.unchanged(id, func() {
					_, err := s.Locations.Hashed(s.Context(), id, web(1), data)
					s.wantErr(err, registry.ErrConflict)
				})
			}
		}},
		{"the location may go meanwhile", func(s *suite) {
			img := s.add(s.create(draft("x")).ID, web(1), 4, nil)
			s.add(img.ID, web(2), 4, nil)
			s.remove(img.ID, web(1).URL)
			s.unchanged(img.ID, func() {
				_, err := s.Locations.Hashed(s.Context(), img.ID, web(1), summary("data"))
				s.wantErr(err, registry.ErrConflict)
			})
			s.hashed(img.ID, web(2), summary("data"))
		}},
		{"a call that is repeated is a conflict and changes nothing", func(s *suite) {
			img := s.add(s.create(draft("x")).ID, web(1), 4, nil)
			s.unchanged(img.ID, func() {
				if _, err := s.Locations.Hashed(s.cancelled(), img.ID, web(1), summary("data")); err == nil {
					s.Error("no error")
				}
			})
			s.noManifest(summary("data"))
			s.hashed(img.ID, web(1), summary("data"))
			s.unchanged(img.ID, func() {
				_, err := s.Locations.Hashed(s.Context(), img.ID, web(1), summary("data"))
				s.wantErr(err, registry.ErrConflict)
			})
		}},
		{"unhashed are the active images without a digest, in pages", func(s *suite) {
			s.create(draft("queued"))
			s.upload(draft("uploaded"), place(1), "data")
			hashed := s.add(s.create(draft("hashed")).ID, web(1), 4, nil)
			s.hashed(hashed.ID, web(1), summary("data"))
			var ids []string
			for n := range 3 {
				img := draft("unhashed")
				img.Hidden, img.Visibility = n == 1, registry.Private
				ids = append(ids, s.add(s.create(img).ID, web(2), 4, map[string]string{"k": "v"}).ID)
			}
			slices.Sort(ids)
			s.wantPages(s.Locations.Unhashed, ids)
			s.delete(ids[1])
			s.wantPages(s.Locations.Unhashed, []string{ids[0], ids[2]})
		}},
	}
}
