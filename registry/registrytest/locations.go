package registrytest

import (
	"errors"
	"fmt"
	"strings"
	"sync"

	"nearsight/origin"
	"nearsight/registry"
)

// web returns the n-th location that no store of ours wrote.
func web(n int) origin.Location {
	return origin.Location{URL: fmt.Sprintf("https://example.org/%d", n)}
}

func (s *suite) add(id string, loc origin.Location, size int64, metadata map[string]string) *registry.Image {
	s.Helper()
	img, err := s.Locations.AddLocation(s.Context(), id, loc, size, metadata)
	if err != nil {
		s.Fatalf("add location: %v", err)
	}
	return img
}

func (s *suite) remove(id, url string) *registry.Image {
	s.Helper()
	img, err := s.Locations.RemoveLocation(s.Context(), id, url)
	if err != nil {
		s.Fatalf("remove location: %v", err)
	}
	return img
}

// noAdd checks that a location of 4 bytes is refused, and nothing happens.
func (s *suite) noAdd(id string, loc origin.Location, want error) {
	s.Helper()
	s.unchanged(id, func() {
		s.Helper()
		_, err := s.Locations.AddLocation(s.Context(), id, loc, 4, nil)
		s.wantErr(err, want)
		if strings.Contains(err.Error(), "://") {
			s.Errorf("error %q shows a location", err)
		}
	})
}

// wantEvent checks that the latest event is that of the image as it was returned.
func (s *suite) wantEvent(img *registry.Image, kind registry.EventKind) {
	s.Helper()
	events := s.history()
	want := registry.Event{Revision: img.Revision, ImageID: img.ID, Kind: kind}
	if got := timeless(events[len(events)-1]); got != want || got.Revision != s.revision() {
		s.Errorf("latest event %+v, want %+v", got, want)
	}
}

func locationTests() []test {
	return []test{
		{"the first location makes a queued image active, without a digest", func(s *suite) {
			queued := s.create(draft("x"))
			active := s.add(queued.ID, web(1), 7, map[string]string{"tier": "far", "quote": `"\`})
			want := queued.Clone()
			want.Status, want.Revision, want.UpdatedAt, want.ActivatedAt = registry.Active, 2, active.UpdatedAt, active.UpdatedAt
			want.Size, want.VirtualSize = ptr(int64(7)), ptr(int64(7)) // of raw data
			want.Locations = []origin.Location{web(1)}
			want.LocationMetadata = map[string]map[string]string{web(1).URL: {"tier": "far", "quote": `"\`}}
			s.wantSame(active, want)
			s.wantSame(s.get(queued.ID), want)
			s.wantSame(s.list(registry.Query{Limit: 9})[0], want)
			s.wantEvent(active, registry.EventData)
		}},
		{"the size may be unknown", func(s *suite) {
			img := s.add(s.create(draft("x")).ID, web(1), -1, nil)
			if img.Size != nil || img.VirtualSize != nil || img.Status != registry.Active || img.LocationMetadata != nil {
				s.Errorf("image %+v", img)
			}
			s.wantSame(s.get(img.ID), img)
		}},
		{"a further location comes last, and is a change of its own", func(s *suite) {
			img := s.upload(draft("x"), place(1), "data")
			want := img.Clone()
			img = s.add(img.ID, web(2), -1, map[string]string{"k": "v"})
			img = s.add(img.ID, place(3), 4, nil)
			want.Locations = []origin.Location{place(1), web(2), place(3)}
			want.LocationMetadata = map[string]map[string]string{web(2).URL: {"k": "v"}}
			want.Revision, want.UpdatedAt = want.Revision+2, img.UpdatedAt
			s.wantSame(img, want)
			s.wantSame(s.get(img.ID), want)
			s.wantEvent(img, registry.EventUpdate)
		}},
		{"what cannot be added is refused, and the error shows no location", func(s *suite) {
			none := s.create(&registry.Image{DiskFormat: "raw"}).ID
			s.noAdd(none, web(1), registry.ErrInvalid)
			saving := s.create(draft("saving")).ID
			s.begin(saving, place(9))
			s.noAdd(saving, web(1), registry.ErrConflict)
			s.noAdd(saving, place(9), registry.ErrConflict)
			active := s.upload(draft("active"), place(1), "data").ID
			s.noAdd(active, place(1), registry.ErrConflict)
			s.noAdd(active, origin.Location{URL: place(1).URL, Validator: "other"}, registry.ErrConflict)
			s.noAdd(active, place(9), registry.ErrConflict)
			s.noAdd(active, origin.Location{}, registry.ErrInvalid)
			s.noAdd(active, origin.Location{URL: "https://example.org/\n"}, registry.ErrInvalid)
			s.unchanged(active, func() {
				for _, size := range []int64{-2, 5} {
					_, err := s.Locations.AddLocation(s.Context(), active, web(1), size, nil)
					s.wantErr(err, registry.ErrInvalid)
				}
				_, err := s.Locations.AddLocation(s.Context(), active, web(1), 4, map[string]string{"k": "\xff"})
				s.wantErr(err, registry.ErrInvalid)
				_, err = s.Locations.AddLocation(s.Context(), active, web(1), 4, map[string]string{"k": strings.Repeat("v", 1<<20)})
				s.wantErr(err, registry.ErrTooLarge)
			})
			_, err := s.Locations.AddLocation(s.Context(), someID, web(1), 4, nil)
			s.wantErr(err, registry.ErrNotFound)
		}},
		{"an image has ten at most", func(s *suite) {
			id := s.create(draft("x")).ID
			for n := range 10 {
				s.add(id, web(n), 4, nil)
			}
			s.noAdd(id, web(10), registry.ErrTooLarge)
			s.remove(id, web(0).URL)
			s.add(id, web(10), 4, nil)
		}},
		{"of many that add the same location, one does", func(s *suite) {
			id := s.create(draft("x")).ID
			added := parallel(20, func(int) bool {
				_, err := s.Locations.AddLocation(s.Context(), id, web(1), 4, nil)
				if err != nil && !errors.Is(err, registry.ErrConflict) {
					s.Errorf("add: %v", err)
				}
				return err == nil
			})
			if added != 1 || s.revision() != 2 {
				s.Errorf("%d added, revision %d", added, s.revision())
			}
		}},
		{"locations are not for Update, nor is metadata of what is none", func(s *suite) {
			img := s.add(s.create(draft("x")).ID, web(1), 4, map[string]string{"k": "v"})
			s.unchanged(img.ID, func() {
				s.update(img.ID, func(i *registry.Image) {
					i.Locations = append(i.Locations, web(2))
					i.LocationMetadata[web(2).URL] = map[string]string{"k": "v"}
				})
				s.update(img.ID, func(i *registry.Image) { i.Locations = nil })
			})
			img = s.update(img.ID, func(i *registry.Image) { i.MinRAM = 1 })
			s.wantSame(s.get(img.ID), img)
			if img.LocationMetadata[web(1).URL]["k"] != "v" || len(img.Locations) != 1 {
				s.Errorf("image %+v", img)
			}
		}},
		{"metadata of locations is for Update", func(s *suite) {
			img := s.add(s.create(draft("x")).ID, web(1), 4, map[string]string{"k": "v"})
			want := s.add(img.ID, web(2), 4, nil).Clone()
			for _, metadata := range []map[string]map[string]string{
				{web(1).URL: {"k": "other"}},
				{web(1).URL: {"k": "other"}, web(2).URL: {"l": "w"}},
				{web(2).URL: {"l": "w"}},
				nil,
			} {
				img = s.update(img.ID, func(i *registry.Image) { i.LocationMetadata = metadata })
				want.LocationMetadata, want.Revision, want.UpdatedAt = metadata, want.Revision+1, img.UpdatedAt
				s.wantSame(img, want)
				s.wantSame(s.get(img.ID), want)
				s.wantEvent(img, registry.EventUpdate)
			}
			s.unchanged(img.ID, func() {
				s.update(img.ID, func(i *registry.Image) {
					i.LocationMetadata = map[string]map[string]string{web(1).URL: {}}
				})
				_, err := s.Images.Update(s.Context(), img.ID, func(i *registry.Image) error {
					i.LocationMetadata = map[string]map[string]string{web(1).URL: {"k": "\xff"}}
					return nil
				})
				s.wantErr(err, registry.ErrInvalid)
			})
		}},
		{"a new image has no metadata of locations", func(s *suite) {
			img := draft("x")
			img.LocationMetadata = map[string]map[string]string{web(1).URL: {"k": "v"}}
			if img = s.create(img); img.LocationMetadata != nil {
				s.Errorf("metadata %v", img.LocationMetadata)
			}
			s.wantSame(s.get(img.ID), img)
		}},
		{"a removed location is an orphan if it is ours, and its metadata goes", func(s *suite) {
			img := s.upload(draft("x"), place(1), "data")
			s.add(img.ID, web(2), 4, map[string]string{"k": "v"})
			img = s.add(img.ID, place(3), 4, map[string]string{"k": "w"})
			want := img.Clone()
			img = s.remove(img.ID, web(2).URL)
			s.wantEvent(img, registry.EventUpdate)
			want.Locations = []origin.Location{place(1), place(3)}
			delete(want.LocationMetadata, web(2).URL)
			want.Revision, want.UpdatedAt = want.Revision+1, img.UpdatedAt
			s.wantSame(img, want)
			s.wantSame(s.get(img.ID), want)
			s.wantOrphans()
			img = s.remove(img.ID, place(1).URL)
			if len(img.Locations) != 1 || img.Locations[0] != place(3) {
				s.Errorf("locations %v", img.Locations)
			}
			s.wantOrphans(place(1))
			s.add(img.ID, web(2), 4, nil) // nothing is in its way
		}},
		{"what cannot be removed is refused", func(s *suite) {
			img := s.upload(draft("x"), place(1), "data")
			refuse := func(id, url string, want error) {
				s.Helper()
				revision := s.revision()
				_, err := s.Locations.RemoveLocation(s.Context(), id, url)
				s.wantErr(err, want)
				if s.revision() != revision {
					s.Error("the refusal made an event")
				}
			}
			refuse(img.ID, place(1).URL, registry.ErrForbidden)
			refuse(img.ID, place(2).URL, registry.ErrNotFound)
			refuse(img.ID, "", registry.ErrNotFound)
			refuse(someID, place(1).URL, registry.ErrNotFound)
			s.wantSame(s.get(img.ID), img)
			s.wantOrphans()
		}},
		{"a removal that is repeated finds nothing to remove", func(s *suite) {
			img := s.upload(draft("x"), place(1), "data")
			s.add(img.ID, place(2), 4, nil)
			s.add(img.ID, place(3), 4, nil)
			s.remove(img.ID, place(2).URL)
			s.unchanged(img.ID, func() {
				_, err := s.Locations.RemoveLocation(s.Context(), img.ID, place(2).URL)
				s.wantErr(err, registry.ErrNotFound)
			})
			s.wantOrphans(place(2))
		}},
		{"an addition that is repeated is a conflict and changes nothing", func(s *suite) {
			id := s.create(draft("x")).ID
			s.add(id, web(1), 4, nil)
			s.noAdd(id, web(1), registry.ErrConflict)
		}},
		{"what is about to be deleted is not added again", func(s *suite) {
			img := s.upload(draft("x"), place(1), "data")
			s.add(img.ID, place(2), 4, nil)
			s.remove(img.ID, place(2).URL)
			s.noAdd(img.ID, place(2), registry.ErrConflict)
			s.forget(place(2))
			s.add(img.ID, place(2), 4, nil)
		}},
		{"the data of a deleted image is an orphan where it is ours", func(s *suite) {
			img := s.add(s.create(draft("x")).ID, web(1), 4, nil)
			s.add(img.ID, place(2), 4, nil)
			s.add(img.ID, origin.Location{URL: "HTTP://example.org/1"}, 4, nil)
			s.delete(img.ID)
			s.wantOrphans(place(2))
			other := s.add(s.create(draft("y")).ID, web(1), 4, nil)
			if other.Status != registry.Active {
				s.Errorf("image %+v", other)
			}
		}},
		{"data that two images have goes with the last", func(s *suite) {
			a := s.upload(draft("a"), place(1), "data")
			b := s.add(s.create(draft("b")).ID, place(1), 4, nil)
			s.add(b.ID, web(2), 4, nil)
			s.delete(a.ID)
			s.wantOrphans()
			s.remove(b.ID, place(1).URL)
			s.wantOrphans(place(1))
		}},
		{"a call whose context has ended stores nothing", func(s *suite) {
			img := s.upload(draft("x"), place(1), "data")
			s.add(img.ID, place(2), 4, nil)
			ctx := s.cancelled()
			s.unchanged(img.ID, func() {
				_, errAdd := s.Locations.AddLocation(ctx, img.ID, web(3), 4, nil)
				_, errRemove := s.Locations.RemoveLocation(ctx, img.ID, place(2).URL)
				errBegin := s.Locations.BeginCopy(ctx, img.ID, place(3))
				if errAdd == nil || errRemove == nil || errBegin == nil {
					s.Errorf("errors %v, %v, %v", errAdd, errRemove, errBegin)
				}
			})
			s.wantOrphans()
			s.add(img.ID, web(3), 4, nil)
			s.remove(img.ID, place(2).URL)
			s.copy(img.ID, place(3))
		}},
		{"whoever wins of AddLocation and Delete, the object becomes an orphan if it was added", func(s *suite) {
			for n := range 20 {
				id := s.create(draft("x")).ID
				var added error
				var race sync.WaitGroup
				race.Go(func() { _, added = s.Locations.AddLocation(s.Context(), id, place(n), 4, nil) })
				race.Go(func() {
					if err := s.Images.Delete(s.Context(), id, nil); err != nil {
						s.Errorf("delete: %v", err)
					}
				})
				race.Wait()
				switch {
				case added == nil:
					s.wantOrphans(place(n))
					s.forget(place(n))
				case errors.Is(added, registry.ErrNotFound):
					s.wantOrphans()
				default:
					s.Errorf("add: %v", added)
				}
			}
		}},
	}
}
