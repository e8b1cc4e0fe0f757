package registrytest

import (
	"errors"
	"slices"
	"strings"

	"nearsight/registry"
)

// callers are of every kind, seen from projects p and q.
func callers() map[string]*registry.Caller {
	caller := func(project string, roles ...string) *registry.Caller {
		return &registry.Caller{Project: project, Roles: roles}
	}
	return map[string]*registry.Caller{
		"the registry":             nil,
		"an admin":                 caller("", "admin"),
		"an admin of p":            caller("p", "admin"),
		"a member of p":            caller("p", "member"),
		"a reader of p":            caller("p", "reader"),
		"a service of p":           caller("p", "service"),
		"a member of q":            caller("q", "member"),
		"a member of another":      caller("r", "member"),
		"a member of none":         caller("", "member"),
		"a service":                caller("", "service"),
		"one of p without a role":  caller("p"),
		"one of p of another role": caller("p", "auditor"),
		"nobody":                   {},
		"a stranger":               {Stranger: true},
		"a stranger of p":          {Stranger: true, Project: "p"},
	}
}

// everyKind makes an image for every owner, visibility and answer of p, named for
// them: of nobody, of p or of q.
func (s *suite) everyKind() (all []*registry.Image) {
	s.Helper()
	for _, owner := range []string{"", "p", "q"} {
		for _, v := range []registry.Visibility{registry.Public, registry.Community, registry.Shared, registry.Private} {
			for _, said := range []registry.MemberStatus{"", registry.Pending, registry.Accepted, registry.Rejected} {
				img := draft(strings.Join([]string{string(v), owner, string(said)}, "/"))
				img.Visibility = v
				if owner != "" {
					img.Owner = &owner
				}
				if said != "" {
					img.Members = []registry.Member{{Project: "p", Status: said}}
				}
				all = append(all, s.create(img))
			}
		}
	}
	return all
}

func visibilityTests() []test {
	return []test{
		{"the default list is what the reference says", func(s *suite) {
			for _, v := range []registry.Visibility{registry.Public, registry.Community, registry.Shared, registry.Private} {
				img := draft(string(v))
				img.Visibility, img.Owner = v, ptr("q")
				s.create(img)
			}
			for _, said := range []registry.MemberStatus{registry.Pending, registry.Accepted, registry.Rejected} {
				img := draft(string(said))
				img.Owner, img.Members = ptr("q"), []registry.Member{{Project: "p", Status: said}}
				s.create(img)
			}
			for _, tt := range []struct {
				caller       string
				visibility   registry.Visibility
				memberStatus registry.MemberStatus
				want         string
			}{
				{"a member of q", "", "", "accepted community pending private public rejected shared"},
				{"a member of p", "", "", "accepted public"},
				{"a reader of p", "", "", "accepted public"},
				{"a member of p", "", registry.Pending, "pending public"},
				{"a member of p", "", registry.Rejected, "public rejected"},
				{"a member of p", "", registry.AllMemberStatuses, "accepted pending public rejected"},
				{"a member of p", registry.Shared, registry.Pending, "pending"},
				{"a member of p", registry.Community, "", "community"},
				{"a member of p", registry.Private, "", ""},
				{"a member of p", registry.AllVisibilities, "", "accepted community public"},
				{"a member of another", "", "", "public"},
				{"a member of another", registry.AllVisibilities, registry.AllMemberStatuses, "community public"},
				{"an admin", "", "", "accepted pending private public rejected shared"},
				{"an admin", registry.Community, "", "community"},
				{"an admin", registry.AllVisibilities, "", "accepted community pending private public rejected shared"},
				{"a stranger", "", "", "public"},
				{"a stranger", registry.AllVisibilities, "", "public"},
				{"nobody", registry.AllVisibilities, "", ""},
			} {
				var names []string
				for _, img := range s.list(registry.Query{Caller: callers()[tt.caller], Visibility: tt.visibility, MemberStatus: tt.memberStatus, Limit: 100}) {
					names = append(names, *img.Name)
				}
				slices.Sort(names)
				if got := strings.Join(names, " "); got != tt.want {
					s.Errorf("%s, visibility=%s, member_status=%s: got %q, want %q", tt.caller, tt.visibility, tt.memberStatus, got, tt.want)
				}
			}
		}},
		{"every caller is listed what it sees and asks for, in any order", func(s *suite) {
			all := s.everyKind()
			for name, caller := range callers() {
				for _, v := range []registry.Visibility{"", registry.AllVisibilities, registry.Public, registry.Community, registry.Shared, registry.Private} {
					for _, m := range []registry.MemberStatus{"", registry.Pending, registry.Accepted, registry.Rejected, registry.AllMemberStatuses} {
						for _, order := range []string{"", "name", "-updated_at"} {
							q := registry.Query{Caller: caller, Visibility: v, MemberStatus: m, Sort: parseSort(order), Limit: 1000}
							if got, want := s.list(q), model(all, q); !sameIDs(got, want) {
								s.Fatalf("%s, %+v: got %d images, want %d", name, q, len(got), len(want))
							}
						}
					}
				}
			}
		}},
		{"filters find no image that the caller does not see", func(s *suite) {
			all := s.everyKind()
			for name, caller := range callers() {
				for _, img := range all {
					listed := isListed(img, registry.Query{Caller: caller, Visibility: registry.AllVisibilities, MemberStatus: registry.AllMemberStatuses})
					for _, column := range []string{"id", "name"} {
						value := map[string]string{"id": img.ID, "name": *img.Name}[column]
						q := registry.Query{
							Caller: caller, Visibility: registry.AllVisibilities, MemberStatus: registry.AllMemberStatuses,
							Match: []registry.Match{{Column: column, Values: []string{value}}}, Limit: 10,
						}
						if got := s.list(q); (len(got) == 1) != listed {
							s.Errorf("%s, %s %s: %d images, listed %v", name, column, value, len(got), listed)
						}
					}
				}
			}
		}},
		{"a marker is an image that the caller sees", func(s *suite) {
			all := s.everyKind()
			for name, caller := range callers() {
				for _, img := range all {
					sees := caller == nil || caller.Sees(img)
					_, err := s.Images.List(s.Context(), registry.Query{Caller: caller, Marker: img.ID, Limit: 1})
					if sees != (err == nil) || !sees && !errors.Is(err, registry.ErrInvalid) {
						s.Errorf("%s, %s: %v, sees it: %v", name, *img.Name, err, sees)
					}
					if err != nil && !strings.Contains(err.Error(), img.ID) {
						s.Errorf("error %q", err)
					}
				}
			}
		}},
		{"an invisible marker and one that is none look the same", func(s *suite) {
			private := draft("x")
			private.Visibility, private.Owner = registry.Private, ptr("q")
			img := s.create(private)
			ask := func() error {
				_, err := s.Images.List(s.Context(), registry.Query{Caller: callers()["a member of p"], Marker: img.ID, Limit: 1})
				return err
			}
			there := ask()
			s.delete(img.ID)
			if gone := ask(); gone == nil || there == nil || gone.Error() != there.Error() {
				s.Errorf("%v; %v", there, gone)
			}
		}},
		{"the pages of a caller are its whole list cut", func(s *suite) {
			s.everyKind()
			for name, caller := range callers() {
				for _, order := range []string{"", "name", "-name", "size", "status -created_at"} {
					whole := registry.Query{Caller: caller, MemberStatus: registry.AllMemberStatuses, Sort: parseSort(order), Limit: 1000}
					want := s.list(whole)
					var got []*registry.Image
					page := whole
					for page.Limit = 5; len(got) <= len(want); page.Marker = got[len(got)-1].ID {
						images := s.list(page)
						got = append(got, images...)
						if len(images) < page.Limit {
							break
						}
					}
					if !sameIDs(got, want) {
						s.Errorf("%s by %q: the pages are %d images, the list %d", name, order, len(got), len(want))
					}
				}
			}
		}},
	}
}

func sameIDs(a, b []*registry.Image) bool {
	return slices.EqualFunc(a, b, func(a, b *registry.Image) bool { return a.ID == b.ID })
}
