package registrytest

import (
	"fmt"
	"sync"

	"nearsight/registry"
)

func writerTests() []test {
	return []test{
		{"50 writers to the same and different images lose no update, and revisions have no gaps", func(s *suite) {
			const writers, shared = 50, 3
			var common []string
			for n := range shared {
				common = append(common, s.upload(draft("common"), place(n), "data").ID)
			}
			before := s.revision()
			own := make([]string, writers)
			var mu sync.Mutex
			seen := map[int64]string{} // by revision
			change := func(id string, f func(*registry.Image) error) {
				img, err := s.Images.Update(s.Context(), id, f)
				if err != nil {
					s.Errorf("update: %v", err)
					return
				}
				mu.Lock()
				defer mu.Unlock()
				if other, ok := seen[img.Revision]; ok {
					s.Errorf("%s and %s have revision %d", other, id, img.Revision)
				}
				seen[img.Revision] = id
			}
			parallel(writers, func(i int) bool {
				mine, err := s.Images.Create(s.Context(), draft("own"))
				if err != nil {
					s.Errorf("create: %v", err)
					return false
				}
				own[i] = mine.ID
				for _, id := range append([]string{mine.ID}, common...) {
					for _, f := range writes(fmt.Sprint(i)) {
						change(id, f)
					}
				}
				return true
			})
			total := before + writers + writers*(shared+1)*int64(len(writes("")))
			s.wantNoGap(total)
			for i, id := range own {
				s.wantWritten(id, registry.Queued, i)
			}
			everybody := make([]int, writers)
			for i := range everybody {
				everybody[i] = i
			}
			for _, id := range common {
				s.wantWritten(id, registry.Active, everybody...) // each took it away and back
			}
		}},
	}
}

// writes are the changes that one of many writers makes to an image.
func writes(who string) []func(*registry.Image) error {
	turn := func(img *registry.Image) error {
		switch img.Status {
		case registry.Active:
			img.Status = registry.Deactivated
		case registry.Deactivated:
			img.Status = registry.Active
		default:
			img.MinRAM++
		}
		return nil
	}
	return []func(*registry.Image) error{
		func(img *registry.Image) error { return img.AddMember(registry.Member{Project: who}) },
		func(img *registry.Image) error { img.Tags = append(img.Tags, who); return nil },
		turn,
		func(img *registry.Image) error { img.Properties[who] = "begun"; return nil },
		func(img *registry.Image) error { img.Member(who).Status = registry.Accepted; return nil },
		func(img *registry.Image) error { img.MinDisk++; return nil },
		func(img *registry.Image) error { img.Properties[who] = "done"; return nil },
		turn,
	}
}

// wantWritten checks that an image has what these writers wrote, and nothing else.
func (s *suite) wantWritten(id string, status registry.Status, writers ...int) {
	s.Helper()
	img := s.get(id)
	n := len(writers)
	if img.Status != status || len(img.Tags) != n || len(img.Properties) != n || len(img.Members) != n || img.MinDisk != n {
		s.Errorf("image %+v, want what %d writers wrote", img, n)
	}
	for _, i := range writers {
		who := fmt.Sprint(i)
		if m := img.Member(who); m == nil || m.Status != registry.Accepted || img.Properties[who] != "done" {
			s.Errorf("of writer %d: member %+v, property %q", i, m, img.Properties[who])
		}
	}
}

// wantNoGap checks that there were events for every revision up to the last one.
func (s *suite) wantNoGap(last int64) {
	s.Helper()
	events := s.history()
	if int64(len(events)) != last || s.revision() != last {
		s.Errorf("%d events, revision %d, want %d", len(events), s.revision(), last)
	}
	for i, e := range events {
		if e.Revision != int64(i+1) {
			s.Fatalf("event %d has revision %d", i+1, e.Revision)
		}
	}
}
