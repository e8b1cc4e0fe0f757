package registrytest

import (
	"math/rand/v2"
	"slices"
	"strings"

	"nearsight/origin"
	"nearsight/registry"
)

func listTests() []test {
	return []test{
		{"filters let through what they say", func(s *suite) {
			s.fill()
			for _, tt := range filterTable() {
				tt.q.Limit = 100
				var names []string
				for _, img := range s.list(tt.q) {
					names = append(names, *img.Name)
				}
				slices.Sort(names)
				if got := strings.Join(names, " "); got != tt.want {
					s.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
				}
			}
		}},
		{"listed records are whole", func(s *suite) {
			s.fill()
			images := s.list(registry.Query{Limit: 100})
			if len(images) == 0 {
				s.Error("no images")
			}
			for _, img := range images {
				s.wantSame(img, s.get(img.ID))
			}
		}},
		{"orders are those of the keys, then the newest first, NULL below all", func(s *suite) {
			s.fill()
			for _, tt := range []struct{ sort, want string }{
				{"", "e d c b a"},
				{"name", "a b c d e"},
				{"-name", "e d c b a"},
				{"size", "e d c a b"},
				{"-size", "b a e d c"},
				{"disk_format", "e d c b a"}, // nil, iso, qcow2, raw, raw
				{"-disk_format", "b a c d e"},
				{"container_format -name", "e d c b a"},
				{"status name", "a b c d e"}, // active, active, queued, ...
				{"-status name", "c d e a b"},
				{"created_at", "a b c d e"},
				{"-created_at", "e d c b a"},
				{"updated_at", "a b c d e"},
				{"status -status name", "a b c d e"},
			} {
				var names []string
				for _, img := range s.list(registry.Query{Sort: parseSort(tt.sort), Limit: 100, Visibility: registry.Shared}) {
					names = append(names, *img.Name)
				}
				if got := strings.Join(names, " "); got != tt.want {
					s.Errorf("by %q: got %q, want %q", tt.sort, got, tt.want)
				}
			}
		}},
		{"the limit bounds, and 0 is none", func(s *suite) {
			s.fill()
			for limit, want := range map[int]int{-1: 0, 0: 0, 1: 1, 3: 3, 100: 6} {
				if got := len(s.list(registry.Query{Limit: limit})); got != want {
					s.Errorf("limit %d: %d images, want %d", limit, got, want)
				}
			}
		}},
		{"what cannot be asked is invalid", func(s *suite) {
			gone := s.create(draft("x")).ID
			s.delete(gone)
			for name, q := range map[string]registry.Query{
				"unknown marker":          {Marker: someID},
				"deleted marker":          {Marker: gone},
				"unknown sort key":        {Sort: []registry.Order{{Key: "owner"}}},
				"sort key that is SQL":    {Sort: []registry.Order{{Key: "id; DROP TABLE images"}}},
				"unknown column":          {Match: []registry.Match{{Column: "digest", Values: []string{"x"}}}},
				"unknown bound":           {Bounds: []registry.Bound{{Column: "protected"}}},
				"unknown time":            {Times: []registry.TimeBound{{Column: "activated_at", Op: "eq"}}},
				"unknown operator":        {Times: []registry.TimeBound{{Column: "created_at", Op: "in"}}},
				"more than a query holds": {Tags: make([]string, 100_000)},
			} {
				q.Limit = 10
				if _, err := s.Images.List(s.Context(), q); err == nil {
					s.Errorf("%s: no error", name)
				} else {
					s.wantErr(err, registry.ErrInvalid)
				}
			}
		}},
		{"random queries answer like the model", func(s *suite) {
			r := rand.New(rand.NewPCG(1, 2))
			all := s.population(r, 60)
			for range 200 {
				q := randomQuery(r, all)
				s.wantIDs(q, s.list(q), model(all, q))
			}
		}},
		{"pages in any order are the whole list cut, also while images are added", func(s *suite) {
			r := rand.New(rand.NewPCG(3, 4))
			all := s.population(r, 40)
			for range 40 {
				whole := registry.Query{Sort: randomSort(r), Limit: 1 << 20}
				want := s.list(whole)
				known := map[string]bool{}
				for _, img := range want {
					known[img.ID] = true
				}
				var got []*registry.Image
				page := whole
				for page.Limit = 1 + r.IntN(15); ; {
					images := s.list(page)
					for _, img := range images {
						if known[img.ID] { // not one that was added meanwhile
							got = append(got, img)
						}
					}
					if len(images) < page.Limit {
						break
					}
					if len(got) > len(want) {
						s.Fatalf("%+v: the pages do not end", page)
					}
					page.Marker = images[len(images)-1].ID
					if r.IntN(8) == 0 {
						all = append(all, s.randomImage(r, len(all)))
					}
				}
				s.wantIDs(whole, got, want)
			}
		}},
	}
}

// fill makes five shared images, a (the oldest) to e, and some that are listed
// under conditions.
func (s *suite) fill() {
	a := draft("a")
	a.Owner, a.Tags, a.MinRAM, a.Protected = ptr("p1"), []string{"t1", "t2"}, 512, true
	a.Properties = map[string]string{"os": "debian", "arch": "x86"}
	s.upload(a, place(1), "some")
	b := draft("b")
	b.Owner, b.Tags, b.MinDisk = ptr("p2"), []string{"t1"}, 10
	b.Properties = map[string]string{"os": "debian", "arch": "arm"}
	s.upload(b, place(2), "longer")
	c := draft("c")
	c.DiskFormat, c.Properties = "qcow2", map[string]string{"os": "fedora"}
	s.create(c)
	d := draft("d")
	d.DiskFormat, d.Tags = "iso", []string{"", "100%"}
	s.create(d)
	s.create(&registry.Image{Name: ptr("e"), MinRAM: 1024})
	for name, change := range map[string]func(*registry.Image){
		"hidden":           func(i *registry.Image) { i.Hidden = true },
		"public":           func(i *registry.Image) { i.Visibility = registry.Public },
		"community":        func(i *registry.Image) { i.Visibility, i.Owner = registry.Community, ptr("p3") },
		"hidden-community": func(i *registry.Image) { i.Visibility, i.Owner, i.Hidden = registry.Community, ptr("p3"), true },
	} {
		img := draft(name)
		change(img)
		s.create(img)
	}
}

type filterRow struct {
	name string
	q    registry.Query
	want string // names
}

func filterTable() []filterRow {
	match := func(column string, values ...string) registry.Query {
		return registry.Query{Match: []registry.Match{{Column: column, Values: values}}}
	}
	bound := func(column string, low, high *int64) registry.Query {
		return registry.Query{Bounds: []registry.Bound{{Column: column, Min: low, Max: high}}}
	}
	n := func(v int64) *int64 { return &v }
	some, longer := summary("some"), summary("longer")
	return []filterRow{
		{"nothing: neither hidden nor another's community", registry.Query{}, "a b c d e public"},
		{"visibility public", registry.Query{Visibility: registry.Public}, "public"},
		{"visibility private", registry.Query{Visibility: registry.Private}, ""},
		{"visibility community", registry.Query{Visibility: registry.Community}, "community"},
		{"all visibilities", registry.Query{Visibility: registry.AllVisibilities}, "a b c community d e public"},
		{"hidden", registry.Query{Hidden: ptr(true)}, "hidden"},
		{"hidden community", registry.Query{Hidden: ptr(true), Visibility: registry.Community}, "hidden-community"},
		{"not hidden", registry.Query{Hidden: ptr(false)}, "a b c d e public"},
		{"protected", registry.Query{Protected: ptr(true)}, "a"},
		{"not protected", registry.Query{Protected: ptr(false)}, "b c d e public"},
		{"name", match("name", "a"), "a"},
		{"name is of its case", match("name", "A"), ""},
		{"names", match("name", "a", "c", "zz"), "a c"},
		{"no names", match("name"), ""},
		{"a name like SQL", match("name", "' OR 1=1 --"), ""},
		{"status", match("status", "active"), "a b"},
		{"unknown status", match("status", "sleeping"), ""},
		{"disk_format", match("disk_format", "qcow2", "iso"), "c d"},
		{"container_format", match("container_format", "bare"), "a b c d public"},
		{"owner", match("owner", "p1"), "a"},
		{"checksum", match("checksum", some.MD5), "a"},
		{"os_hash_value", match("os_hash_value", longer.SHA512), "b"},
		{"digest", registry.Query{Digests: []origin.Digest{longer.Digest, summary("none").Digest}}, "b"},
		{"size of at least", bound("size", n(5), nil), "b"},
		{"size of at most", bound("size", nil, n(5)), "a"},
		{"size of exactly", bound("size", n(4), n(4)), "a"},
		{"size unbound", bound("size", nil, nil), "a b c d e public"},
		{"virtual_size", bound("virtual_size", n(5), nil), "b"},
		{"min_ram", bound("min_ram", n(512), n(1024)), "a e"},
		{"min_disk", bound("min_disk", n(1), nil), "b"},
		{"tag", registry.Query{Tags: []string{"t1"}}, "a b"},
		{"tags", registry.Query{Tags: []string{"t1", "t2"}}, "a"},
		{"a tag twice", registry.Query{Tags: []string{"t2", "t2"}}, "a"},
		{"the empty tag", registry.Query{Tags: []string{""}}, "d"},
		{"a tag with a sign of LIKE", registry.Query{Tags: []string{"100%"}}, "d"},
		{"property", registry.Query{Properties: map[string]string{"os": "debian"}}, "a b"},
		{"properties", registry.Query{Properties: map[string]string{"os": "debian", "arch": "arm"}}, "b"},
		{"unknown property", registry.Query{Properties: map[string]string{"colour": "red"}}, ""},
		{"all at once", registry.Query{
			Match:     []registry.Match{{Column: "status", Values: []string{"active"}}, {Column: "name", Values: []string{"a", "b"}}},
			Bounds:    []registry.Bound{{Column: "size", Min: n(1)}},
			Tags:      []string{"t1"},
			Protected: ptr(false), Properties: map[string]string{"os": "debian"}, Visibility: registry.Shared,
		}, "b"},
	}
}

func parseSort(s string) (order []registry.Order) {
	for _, key := range strings.Fields(s) {
		name, desc := strings.CutPrefix(key, "-")
		order = append(order, registry.Order{Key: name, Desc: desc})
	}
	return order
}

func (s *suite) wantIDs(q registry.Query, got, want []*registry.Image) {
	s.Helper()
	ids := func(images []*registry.Image) (ids []string) {
		for _, img := range images {
			ids = append(ids, img.ID)
		}
		return ids
	}
	if g, w := ids(got), ids(want); !slices.Equal(g, w) {
		s.Fatalf("%+v\ngot  %v\nwant %v", q, g, w)
	}
}
