package registrytest

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"nearsight/registry"
)

// share adds a pending member.
func (s *suite) share(id, project string) *registry.Image {
	s.Helper()
	img, err := s.Images.Update(s.Context(), id, func(img *registry.Image) error {
		return img.AddMember(registry.Member{Project: project})
	})
	if err != nil {
		s.Fatalf("share with %s: %v", project, err)
	}
	return img
}

// answer sets what a project says to the sharing.
func (s *suite) answer(id, project string, status registry.MemberStatus) *registry.Image {
	s.Helper()
	return s.update(id, func(img *registry.Image) { img.Member(project).Status = status })
}

func statusTests() []test {
	return []test{
		{"steps that need no data are free", func(s *suite) {
			img := s.upload(draft("x"), place(1), "data")
			for _, to := range []registry.Status{registry.Deactivated, registry.Active} {
				got := s.update(img.ID, func(i *registry.Image) { i.Status = to })
				img.Status, img.Revision, img.UpdatedAt = to, img.Revision+1, got.UpdatedAt
				s.wantSame(got, img)
				s.wantSame(s.get(img.ID), img)
				s.wantEvent(got, registry.EventUpdate)
			}
			id := s.create(draft("y")).ID
			s.update(id, func(i *registry.Image) { i.Status, i.MinRAM = registry.Killed, 7 })
			if got := s.get(id); got.Status != registry.Killed || got.MinRAM != 7 {
				s.Errorf("image %+v", got)
			}
			s.delete(id)
		}},
		{"no other step is free, and nothing else of the change is stored", func(s *suite) {
			all := []registry.Status{
				registry.Queued, registry.Saving, registry.Uploading, registry.Importing, registry.Active,
				registry.Deactivated, registry.Killed, registry.PendingDelete, registry.Deleted, "other",
			}
			queued, active := s.create(draft("q")).ID, s.upload(draft("a"), place(1), "data").ID
			saving, killed := s.create(draft("s")).ID, s.create(draft("k")).ID
			s.begin(saving, place(2))
			s.update(killed, func(i *registry.Image) { i.Status = registry.Killed })
			for id, free := range map[string]registry.Status{queued: registry.Killed, active: registry.Deactivated, saving: "", killed: ""} {
				now := s.get(id).Status
				for _, to := range all {
					if to == free || to == now {
						continue
					}
					s.unchanged(id, func() {
						_, err := s.Images.Update(s.Context(), id, func(i *registry.Image) error { i.Status, i.MinRAM = to, 9; return nil })
						s.wantErr(err, registry.ErrConflict)
					})
				}
			}
		}},
		{"a deactivated image keeps its data and takes no more", func(s *suite) {
			id := s.upload(draft("x"), place(1), "data").ID
			s.update(id, func(i *registry.Image) { i.Status = registry.Deactivated })
			s.unchanged(id, func() {
				s.noAdd(id, web(2), registry.ErrConflict)
				s.wantErr(s.Locations.BeginCopy(s.Context(), id, place(2)), registry.ErrConflict)
			})
			s.wantManifest(summary("data"))
			s.wantOrphans()
		}},
	}
}

func memberTests() []test {
	return []test{
		{"a new member is pending, since the time of the change", func(s *suite) {
			id := s.create(draft("x")).ID
			got := s.share(id, "p")
			m := got.Member("p")
			if m == nil || m.Status != registry.Pending || m.CreatedAt.IsZero() || m.CreatedAt != m.UpdatedAt {
				s.Fatalf("member %+v", m)
			}
			s.wantSame(s.get(id), got)
		}},
		{"members come by project, with the record and in lists", func(s *suite) {
			id := s.create(draft("x")).ID
			for _, project := range []string{"b", "a", "ä", "B"} {
				s.share(id, project)
			}
			got := s.update(id, func(img *registry.Image) { img.Member("a").CanShare = true })
			var projects []string
			for _, m := range got.Members {
				projects = append(projects, m.Project)
			}
			if strings.Join(projects, " ") != "B a b ä" || !got.Member("a").CanShare || got.Member("b").CanShare {
				s.Errorf("members %+v", got.Members)
			}
			s.wantSame(s.list(registry.Query{Limit: 1})[0], got)
		}},
		{"a member's time moves with what it says and whether it may share", func(s *suite) {
			id := s.create(draft("x")).ID
			before := s.share(s.share(id, "p").ID, "q")
			for _, change := range []func(*registry.Member){
				func(m *registry.Member) { m.Status = registry.Accepted },
				func(m *registry.Member) { m.CanShare = true },
				func(m *registry.Member) { m.Status, m.CanShare = registry.Rejected, false },
			} {
				s.Pass(time.Second)
				after := s.update(id, func(img *registry.Image) { change(img.Member("p")) })
				was, is := before.Member("p"), after.Member("p")
				if is.CreatedAt != was.CreatedAt || !is.UpdatedAt.After(was.UpdatedAt) {
					s.Errorf("member %+v became %+v", *was, *is)
				}
				if *after.Member("q") != *before.Member("q") {
					s.Errorf("another one became %+v", *after.Member("q"))
				}
				s.wantSame(s.get(id), after)
				before = after
			}
		}},
		{"a change of members alone is an event, and the image is not updated", func(s *suite) {
			img := s.create(draft("x"))
			for _, change := range []func(*registry.Image){
				func(i *registry.Image) { i.Members = []registry.Member{{Project: "p", Status: registry.Pending}} },
				func(i *registry.Image) { i.Members[0].Status = registry.Accepted },
				func(i *registry.Image) { i.Members = nil },
			} {
				s.Pass(time.Second)
				got := s.update(img.ID, change)
				if got.UpdatedAt != img.UpdatedAt || got.Revision != img.Revision+1 {
					s.Errorf("updated %v, want %v; revision %d after %d", got.UpdatedAt, img.UpdatedAt, got.Revision, img.Revision)
				}
				s.wantEvent(got, registry.EventUpdate)
				s.wantSame(s.get(img.ID), got)
				img = got
			}
			s.Pass(time.Second)
			got := s.update(img.ID, func(i *registry.Image) {
				i.MinRAM, i.Members = 1, []registry.Member{{Project: "p", Status: registry.Pending}}
			})
			if !got.UpdatedAt.After(img.UpdatedAt) {
				s.Error("a change of more did not update the image")
			}
		}},
		{"what is no change is not stored: times, order", func(s *suite) {
			id := s.create(draft("x")).ID
			s.share(id, "p")
			s.share(id, "q")
			s.unchanged(id, func() {
				s.update(id, func(img *registry.Image) {
					for i := range img.Members {
						img.Members[i].CreatedAt, img.Members[i].UpdatedAt = time.Time{}, time.Unix(1, 0)
					}
					slices.Reverse(img.Members)
				})
			})
			kept := s.get(id).Members
			got := s.update(id, func(img *registry.Image) { img.MinRAM, img.Members[0].CreatedAt = 1, time.Unix(1, 0) })
			if !slices.Equal(got.Members, kept) {
				s.Errorf("members %+v, want %+v", got.Members, kept)
			}
		}},
		{"who was removed can be added again, pending and new", func(s *suite) {
			id := s.create(draft("x")).ID
			s.share(id, "p")
			before := s.answer(id, "p", registry.Rejected).Member("p")
			s.Pass(time.Second)
			s.update(id, func(img *registry.Image) {
				if err := img.RemoveMember("p"); err != nil {
					s.Error(err)
				}
			})
			if s.get(id).Member("p") != nil {
				s.Error("the member is there still")
			}
			after := s.share(id, "p").Member("p")
			if after.Status != registry.Pending || !after.CreatedAt.After(before.CreatedAt) {
				s.Errorf("member %+v", after)
			}
		}},
		{"an image is created with members", func(s *suite) {
			img := draft("x")
			img.Members = []registry.Member{{Project: "q", Status: registry.Accepted}, {Project: "p", Status: registry.Pending}}
			got := s.create(img)
			if len(got.Members) != 2 || got.Members[0].Project != "p" || got.Members[1].CreatedAt.IsZero() {
				s.Errorf("members %+v", got.Members)
			}
			s.wantSame(s.get(got.ID), got)
		}},
		{"bad members are refused", func(s *suite) {
			id := s.create(draft("x")).ID
			many := make([]registry.Member, 129)
			for i := range many {
				many[i] = registry.Member{Project: fmt.Sprint("p", i), Status: registry.Pending}
			}
			for name, tt := range map[string]struct {
				members []registry.Member
				err     error
			}{
				"no project":        {[]registry.Member{{Status: registry.Pending}}, registry.ErrInvalid},
				"no status":         {[]registry.Member{{Project: "p"}}, registry.ErrInvalid},
				"an unknown status": {[]registry.Member{{Project: "p", Status: "all"}}, registry.ErrInvalid},
				"a line break":      {[]registry.Member{{Project: "p\n", Status: registry.Pending}}, registry.ErrInvalid},
				"a long project":    {[]registry.Member{{Project: strings.Repeat("p", 256), Status: registry.Pending}}, registry.ErrInvalid},
				"one twice":         {[]registry.Member{{Project: "p", Status: registry.Pending}, {Project: "p", Status: registry.Accepted}}, registry.ErrInvalid},
				"too many":          {many, registry.ErrTooLarge},
			} {
				s.unchanged(id, func() {
					_, err := s.Images.Update(s.Context(), id, func(img *registry.Image) error { img.Members = tt.members; return nil })
					if !errors.Is(err, tt.err) {
						s.Errorf("%s: %v, want %v", name, err, tt.err)
					}
				})
			}
			s.update(id, func(img *registry.Image) { img.Members = many[1:] })
		}},
		{"members stay while the image is not shared, and go with it", func(s *suite) {
			id := s.create(draft("x")).ID
			s.share(id, "p")
			want := s.answer(id, "p", registry.Accepted).Members
			q := registry.Query{Caller: &registry.Caller{Project: "p", Roles: []string{"reader"}}, Visibility: registry.Shared, Limit: 9}
			s.update(id, func(img *registry.Image) { img.Visibility, img.Owner = registry.Private, ptr("o") })
			if got := s.get(id).Members; !slices.Equal(got, want) {
				s.Errorf("members %+v", got)
			}
			if got := s.list(q); len(got) != 0 {
				s.Errorf("listed %+v", got)
			}
			s.update(id, func(img *registry.Image) { img.Visibility = registry.Shared })
			if got := s.list(q); len(got) != 1 {
				s.Errorf("listed %+v", got)
			}
			s.delete(id)
			if got := s.list(q); len(got) != 0 {
				s.Errorf("listed %+v", got)
			}
		}},
	}
}
