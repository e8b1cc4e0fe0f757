package registrytest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"nearsight/origin"
	"nearsight/registry"
)

// parallel runs f n times at once and returns how often it was true.
func parallel(n int, f func(i int) bool) int {
	var wg sync.WaitGroup
	var yes atomic.Int64
	for i := range n {
		wg.Go(func() {
			if f(i) {
				yes.Add(1)
			}
		})
	}
	wg.Wait()
	return int(yes.Load())
}

func updateTests() []test {
	return []test{
		{"every settable field changes, and can be taken back", func(s *suite) {
			img := s.create(&registry.Image{})
			got := s.update(img.ID, func(i *registry.Image) {
				i.Name, i.Owner, i.Visibility = ptr("n"), ptr("o"), registry.Public
				i.Protected, i.Hidden, i.DiskFormat, i.ContainerFormat = true, true, "iso", "bare"
				i.MinRAM, i.MinDisk, i.Tags = 1, 2, []string{"t"}
				i.Properties["k"] = "v"
			})
			want := &registry.Image{
				ID: img.ID, Status: registry.Queued, Name: ptr("n"), Owner: ptr("o"), Visibility: registry.Public,
				Protected: true, Hidden: true, DiskFormat: "iso", ContainerFormat: "bare",
				MinRAM: 1, MinDisk: 2, Tags: []string{"t"}, Properties: map[string]string{"k": "v"},
				CreatedAt: img.CreatedAt, UpdatedAt: got.UpdatedAt, Revision: 2,
			}
			s.wantSame(got, want)
			s.wantSame(s.get(img.ID), want)
			if got.UpdatedAt.Before(img.UpdatedAt) {
				s.Errorf("updated_at went from %v to %v", img.UpdatedAt, got.UpdatedAt)
			}
			got = s.update(img.ID, func(i *registry.Image) {
				i.Name, i.Owner, i.Visibility = nil, nil, registry.Shared
				i.Protected, i.Hidden, i.DiskFormat, i.ContainerFormat = false, false, "", ""
				i.MinRAM, i.MinDisk, i.Tags, i.Properties = 0, 0, nil, nil
			})
			img.Revision, img.UpdatedAt = 3, got.UpdatedAt
			s.wantSame(s.get(img.ID), img)
		}},
		{"the error of change is returned as it is, and nothing is stored", func(s *suite) {
			id := s.create(draft("x")).ID
			for _, mine := range []error{errors.New("mine"), registry.ErrConflict} {
				s.unchanged(id, func() {
					_, err := s.Images.Update(s.Context(), id, func(i *registry.Image) error {
						*i.Name, i.Properties["k"] = "y", "v"
						return mine
					})
					if err != mine {
						s.Errorf("error %v, want %v", err, mine)
					}
				})
			}
		}},
		{"a change that panics stores nothing and blocks nobody", func(s *suite) {
			id := s.create(draft("x")).ID
			s.unchanged(id, func() {
				defer func() { recover() }()
				s.Images.Update(s.Context(), id, func(i *registry.Image) error { *i.Name = "y"; panic("oops") })
			})
			s.update(id, func(i *registry.Image) { i.MinRAM = 1 })
		}},
		{"a change that alters nothing is not stored and makes no event", func(s *suite) {
			img := draft("x")
			img.Tags, img.Properties = []string{"a", "b"}, map[string]string{"k": "v"}
			id := s.create(img).ID
			for _, change := range []func(*registry.Image){
				func(i *registry.Image) {},
				func(i *registry.Image) { i.Name = ptr("x") },
				func(i *registry.Image) { i.Tags = []string{"b", "a", "b"} },
				func(i *registry.Image) { i.Properties = maps.Clone(i.Properties) },
				func(i *registry.Image) { i.Revision, i.Size = 77, ptr(int64(5)) },
			} {
				s.unchanged(id, func() { s.wantSame(s.update(id, change), s.get(id)) })
			}
		}},
		{"bad values are refused and store nothing", func(s *suite) {
			s.create(&registry.Image{ID: someID})
			for _, tt := range badImages() {
				if tt.text == "id" || tt.text == `id "x"` {
					continue // not for change
				}
				s.unchanged(someID, func() {
					_, err := s.Images.Update(s.Context(), someID, func(i *registry.Image) error {
						i.MinRAM = 5
						tt.spoil(i)
						return nil
					})
					if !errors.Is(err, tt.err) {
						s.Errorf("%s: error %v, want %v", tt.name, err, tt.err)
					}
				})
			}
		}},
		{"what is not for change is ignored", func(s *suite) {
			before := s.upload(draft("x"), place(1), "data")
			got := s.update(before.ID, func(i *registry.Image) {
				i.MinRAM = 1
				i.ID, i.Revision = "other", 1000
				i.Size, i.VirtualSize, i.Checksum, i.HashAlgo, i.HashValue = nil, nil, "x", "x", "x"
				i.Digest, i.Locations = "x", []origin.Location{place(9)}
				i.CreatedAt, i.UpdatedAt, i.ActivatedAt = time.Time{}, time.Time{}, time.Time{}
			})
			before.MinRAM, before.Revision, before.UpdatedAt = 1, before.Revision+1, got.UpdatedAt
			s.wantSame(got, before)
			s.wantSame(s.get(before.ID), before)
		}},
		{"only of an active image without a digest are the hashes for change", func(s *suite) {
			data := summary("data")
			hash := func(i *registry.Image) { i.Checksum, i.HashAlgo, i.HashValue = data.MD5, "sha512", data.SHA512 }
			id := s.create(draft("x")).ID
			s.unchanged(id, func() { s.update(id, hash) })
			s.add(id, web(1), 4, nil)
			if got := s.update(id, hash); got.Checksum != data.MD5 || got.HashAlgo != "sha512" || got.HashValue != data.SHA512 {
				s.Errorf("image %+v", got)
			}
			if got := s.list(registry.Query{Match: []registry.Match{{Column: "checksum", Values: []string{data.MD5}}}, Limit: 9}); len(got) != 1 {
				s.Errorf("listed %v", got)
			}
			s.hashed(id, web(1), data)
			s.unchanged(id, func() {
				s.update(id, func(i *registry.Image) { i.Checksum, i.HashAlgo, i.HashValue = "c", "sha512", "h" })
			})
		}},
		{"the copy is the caller's alone", func(s *suite) {
			img := draft("x")
			img.Tags, img.Properties = []string{"t"}, map[string]string{"k": "v"}
			id := s.create(img).ID
			var kept *registry.Image
			s.update(id, func(i *registry.Image) { kept = i; i.MinRAM = 1 })
			s.unchanged(id, func() { *kept.Name, kept.Tags[0], kept.Properties["k"] = "z", "z", "z" })
		}},
		{"formats change while queued only", func(s *suite) {
			other := func(i *registry.Image) { i.DiskFormat = "iso" }
			container := func(i *registry.Image) { i.ContainerFormat = "" }
			id := s.create(draft("x")).ID
			s.update(id, other)
			s.update(id, func(i *registry.Image) { i.DiskFormat = "raw" })
			refused := func() {
				s.Helper()
				for _, change := range []func(*registry.Image){other, container} {
					s.unchanged(id, func() {
						_, err := s.Images.Update(s.Context(), id, func(i *registry.Image) error { change(i); return nil })
						s.wantErr(err, registry.ErrForbidden)
					})
				}
				s.update(id, func(i *registry.Image) { i.MinRAM++; i.DiskFormat = "raw" })
			}
			s.begin(id, place(1))
			refused()
			s.abort(id, place(1))
			s.update(id, other)
			s.update(id, func(i *registry.Image) { i.DiskFormat = "raw" })
			s.begin(id, place(2))
			s.finish(id, place(2), summary("data"))
			refused()
		}},
		{"two updates never overlap", func(s *suite) {
			id := s.create(draft("x")).ID
			const writers, each = 20, 5
			parallel(writers, func(i int) bool {
				for range each {
					_, err := s.Images.Update(s.Context(), id, func(img *registry.Image) error {
						n, _ := strconv.Atoi(img.Properties["n"])
						img.Properties["n"] = strconv.Itoa(n + 1)
						img.Properties[fmt.Sprint("w", i)] = "was here"
						return nil
					})
					if err != nil {
						s.Errorf("update: %v", err)
					}
				}
				return true
			})
			img := s.get(id)
			if img.Properties["n"] != strconv.Itoa(writers*each) || len(img.Properties) != writers+1 {
				s.Errorf("properties %v", img.Properties)
			}
			if img.Revision != 1+writers*each {
				s.Errorf("revision %d", img.Revision)
			}
		}},
		{"a reader never sees half an update", func(s *suite) {
			id := s.create(draft("x")).ID
			ctx, stop := context.WithCancel(s.Context())
			var readers sync.WaitGroup
			for range 4 {
				readers.Go(func() {
					for ctx.Err() == nil {
						img, err := s.Images.Get(s.Context(), id)
						if err != nil {
							s.Errorf("get: %v", err)
							return
						}
						if n := strconv.Itoa(img.MinRAM); n != "0" && (img.Properties["n"] != n || img.Tags[0] != n) {
							s.Errorf("min_ram %s, property %s, tags %v", n, img.Properties["n"], img.Tags)
						}
					}
				})
			}
			for n := 1; n <= 50; n++ {
				s.update(id, func(i *registry.Image) {
					i.MinRAM, i.Properties["n"], i.Tags = n, strconv.Itoa(n), []string{strconv.Itoa(n)}
				})
			}
			stop()
			readers.Wait()
		}},
		{"an unknown image is not found", func(s *suite) {
			_, err := s.Images.Update(s.Context(), someID, func(*registry.Image) error { s.Error("change was called"); return nil })
			s.wantErr(err, registry.ErrNotFound)
		}},
		{"a cancelled call ends with the error of its context and stores nothing", func(s *suite) {
			id := s.create(draft("x")).ID
			s.unchanged(id, func() {
				ctx, cancel := context.WithCancel(s.Context())
				_, err := s.Images.Update(ctx, id, func(i *registry.Image) error { cancel(); i.MinRAM = 1; return nil })
				if !errors.Is(err, context.Canceled) {
					s.Errorf("error %v", err)
				}
			})
		}},
	}
}

func deleteTests() []test {
	return []test{
		{"a deleted image is unknown to every call", func(s *suite) {
			id := s.create(draft("x")).ID
			s.delete(id)
			_, err := s.Images.Get(s.Context(), id)
			s.wantErr(err, registry.ErrNotFound)
			_, err = s.Images.Update(s.Context(), id, func(*registry.Image) error { return nil })
			s.wantErr(err, registry.ErrNotFound)
			s.wantErr(s.Images.Delete(s.Context(), id, nil), registry.ErrNotFound)
			_, err = s.Uploads.Begin(s.Context(), id, place(1))
			s.wantErr(err, registry.ErrNotFound)
			if got := s.list(registry.Query{Limit: 10}); len(got) != 0 {
				s.Errorf("listed %v", got[0])
			}
			if s.revision() != 2 {
				s.Errorf("revision %d", s.revision())
			}
		}},
		{"an unknown image is not found", func(s *suite) {
			s.wantErr(s.Images.Delete(s.Context(), someID, nil), registry.ErrNotFound)
		}},
		{"a protected image is not deleted", func(s *suite) {
			img := draft("x")
			img.Protected = true
			id := s.create(img).ID
			s.unchanged(id, func() { s.wantErr(s.Images.Delete(s.Context(), id, nil), registry.ErrForbidden) })
			s.update(id, func(i *registry.Image) { i.Protected = false })
			s.delete(id)
		}},
		{"the check sees the record and may refuse, but not hide that it is protected", func(s *suite) {
			img := draft("x")
			img.Protected = true
			id := s.create(img).ID
			refused := errors.New("refused")
			check := func(seen *registry.Image) error {
				s.wantSame(seen, img)
				return refused
			}
			s.unchanged(id, func() { s.wantErr(s.Images.Delete(s.Context(), id, check), registry.ErrForbidden) })
			img = s.update(id, func(i *registry.Image) { i.Protected = false })
			s.unchanged(id, func() {
				if err := s.Images.Delete(s.Context(), id, check); err != refused {
					s.Errorf("error %v, want %v as it is", err, refused)
				}
			})
			err := s.Images.Delete(s.Context(), id, func(*registry.Image) error { refused = nil; return nil })
			if err != nil || refused != nil {
				s.Errorf("error %v; or the check was not asked", err)
			}
			s.wantErr(s.Images.Delete(s.Context(), id, check), registry.ErrNotFound)
		}},
		{"no change comes between check and delete", func(s *suite) {
			id := s.create(draft("x")).ID
			checked, changed := make(chan struct{}), make(chan error)
			go func() {
				<-checked
				_, err := s.Images.Update(s.Context(), id, func(i *registry.Image) error { i.MinRAM = 1; return nil })
				changed <- err
			}()
			err := s.Images.Delete(s.Context(), id, func(*registry.Image) error { close(checked); return nil })
			if err != nil {
				s.Error(err)
			}
			s.wantErr(<-changed, registry.ErrNotFound)
		}},
		{"what another image has is left alone", func(s *suite) {
			img := draft("x")
			img.Tags, img.Properties = []string{"t"}, map[string]string{"k": "v"}
			kept := s.create(img)
			s.delete(s.create(img).ID)
			s.wantSame(s.get(kept.ID), kept)
		}},
		{"of many who delete, one succeeds", func(s *suite) {
			id := s.create(draft("x")).ID
			done := parallel(20, func(int) bool {
				err := s.Images.Delete(s.Context(), id, nil)
				if err != nil && !errors.Is(err, registry.ErrNotFound) {
					s.Errorf("delete: %v", err)
				}
				return err == nil
			})
			if done != 1 || s.revision() != 2 {
				s.Errorf("%d deletes, revision %d", done, s.revision())
			}
		}},
	}
}
