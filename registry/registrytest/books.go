package registrytest

import (
	"context"
	"slices"

	"nearsight/origin"
	"nearsight/registry"
)

// wantPages checks that list has the images ids, whole and in pages of any size.
func (s *suite) wantPages(list func(context.Context, string, int) ([]*registry.Image, error), ids []string) {
	s.Helper()
	for limit := range len(ids) + 2 {
		after := ""
		var got []string
		for limit > 0 {
			page, err := list(s.Context(), after, limit)
			if err != nil || len(page) > limit {
				s.Fatalf("%d images of at most %d, %v", len(page), limit, err)
			}
			for _, img := range page {
				got = append(got, img.ID)
				s.wantSame(img, s.get(img.ID))
			}
			if len(page) == 0 {
				break
			}
			after = got[len(got)-1]
		}
		if limit > 0 && !slices.Equal(got, ids) {
			s.Errorf("in pages of %d: %v, want %v", limit, got, ids)
		}
	}
	for _, limit := range []int{0, -1} {
		if page, err := list(s.Context(), "", limit); err != nil || len(page) != 0 {
			s.Errorf("at most %d: %v, %v", limit, page, err)
		}
	}
}

func booksTests() []test {
	return []test{
		{"placed are the images that have locations, whoever sees them", func(s *suite) {
			s.create(draft("queued"))
			s.begin(s.create(draft("saving")).ID, place(9))
			var ids []string
			for n, v := range []registry.Visibility{registry.Public, registry.Community, registry.Private} {
				img := draft("x")
				img.Visibility, img.Owner, img.Hidden = v, ptr("p"), n == 1
				img = s.upload(img, place(n), "data")
				if n == 2 {
					s.add(img.ID, web(1), 4, nil)
				}
				ids = append(ids, img.ID)
			}
			slices.Sort(ids)
			s.wantPages(s.Books.Placed, ids)
			page, err := s.Books.Placed(s.Context(), ids[0][:35], 1) // names no image
			if err != nil || len(page) != 1 || page[0].ID != ids[0] {
				s.Errorf("page %v, %v", page, err)
			}
		}},
		{"an object is known from the first step to the last", func(s *suite) {
			knows := func(loc origin.Location, want bool) {
				s.Helper()
				if got, err := s.Books.Knows(s.Context(), loc.URL); err != nil || got != want {
					s.Errorf("%s is known: %v, %v; want %v", loc.URL, got, err, want)
				}
			}
			id := s.create(draft("x")).ID
			knows(place(1), false)
			s.begin(id, place(1))
			knows(place(1), true)
			s.abort(id, place(1))
			knows(place(1), true)
			s.forget(place(1))
			knows(place(1), false)

			s.begin(id, place(2))
			s.finish(id, place(2), summary("data"))
			s.copy(id, place(3))
			knows(place(3), true)
			s.add(id, place(3), 4, nil)
			s.add(id, web(4), 4, nil)
			for _, loc := range []origin.Location{place(2), place(3), web(4)} {
				knows(loc, true)
			}
			s.remove(id, place(3).URL)
			s.remove(id, web(4).URL)
			knows(place(3), true)
			knows(web(4), false)
			s.delete(id)
			knows(place(2), true)
			s.forget(place(2))
			knows(place(2), false)
		}},
	}
}
