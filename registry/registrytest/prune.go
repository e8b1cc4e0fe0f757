package registrytest

import (
	"fmt"
	"time"

	"nearsight/registry"
)

// pruning are tests that need a Pruner.
func pruning(name string, run func(*suite)) test {
	return test{name, func(s *suite) {
		if s.Pruner != nil {
			run(s)
		}
	}}
}

// changes makes n of them, and returns the time of the latest.
func (s *suite) changes(n int) time.Time {
	s.Helper()
	var at time.Time
	for range n {
		at = s.create(draft("x")).UpdatedAt
	}
	return at
}

func (s *suite) prune(before time.Time, keep int, want int64) {
	s.Helper()
	if n, err := s.Pruner.PruneEvents(s.Context(), before, keep); err != nil || n != want {
		s.Errorf("%d events forgotten, %v; want %d", n, err, want)
	}
}

// wantKept checks that the events from first to last are kept, and that who knows less
// than the one before them is told so.
func (s *suite) wantKept(first, last int64) {
	s.Helper()
	if got := s.revision(); got != last {
		s.Errorf("revision %d, want %d", got, last)
	}
	for after := int64(-1); after <= last+1; after++ {
		for _, limit := range []int{1, 100} {
			events, err := s.Log.Since(s.Context(), after, limit)
			if max(after, 0) < first-1 {
				s.wantErr(err, registry.ErrTooOld)
				continue
			}
			n := min(max(last-max(after, 0), 0), int64(limit))
			if err != nil || int64(len(events)) != n || n > 0 && events[0].Revision != max(after, 0)+1 {
				s.Errorf("after %d, at most %d: %v, %v", after, limit, events, err)
			}
		}
	}
}

func pruneTests() []test {
	return []test{
		pruning("what is old enough is forgotten, and what comes after it is not", func(s *suite) {
			s.changes(3)
			s.Pass(time.Hour)
			at := s.changes(1)
			s.changes(1)
			s.prune(at.Add(-2*time.Hour), 0, 0)
			s.wantKept(1, 5)
			s.prune(at, 0, 3)
			s.wantKept(4, 5)
			s.prune(at, 0, 0)
			s.wantKept(4, 5)
		}),
		pruning("the newest are kept, however old they are", func(s *suite) {
			at := s.changes(5).Add(time.Hour)
			s.prune(at, 9, 0)
			s.prune(at, 5, 0)
			s.wantKept(1, 5)
			s.prune(at, 3, 2)
			s.wantKept(3, 5)
		}),
		pruning("all may be forgotten, and the next change has the next revision", func(s *suite) {
			at := s.changes(5).Add(time.Hour)
			s.prune(at, 0, 5)
			s.wantKept(6, 5)
			s.prune(at, -1, 0)
			s.changes(1)
			s.wantKept(6, 6)
		}),
		pruning("images and what is done to them are as before", func(s *suite) {
			img := s.upload(draft("x"), place(1), "data")
			s.prune(img.UpdatedAt.Add(time.Hour), 0, img.Revision)
			s.wantSame(s.get(img.ID), img)
			next := s.update(img.ID, func(i *registry.Image) { i.MinRAM = 1 })
			if next.Revision != img.Revision+1 {
				s.Errorf("revision %d after %d", next.Revision, img.Revision)
			}
		}),
		pruning("a watcher that knows too little is told so, and goes on from the latest revision", func(s *suite) {
			at := s.changes(3)
			s.prune(at.Add(time.Hour), 1, 2)
			n := 0
			for _, err := range s.Events.Watch(s.Context(), 1) {
				n++
				s.wantErr(err, registry.ErrTooOld)
			}
			if n != 1 {
				s.Errorf("%d yields", n)
			}
			s.changes(1)
			s.watch(s.Context(), 2, 4)
			s.watch(s.Context(), 3, 4)
		}),
	}
}

func edgeTests() []test {
	edges := func(name string, run func(*suite)) test {
		return test{name, func(s *suite) {
			if s.Edges != nil {
				run(s)
			}
		}}
	}
	return []test{
		edges("edges are listed by name, as they announced themselves last", func(s *suite) {
			s.wantEdges()
			first := registry.Edge{
				Name: "b", URL: "https://b.example.org", Version: "1", StartedAt: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
				Revision: 7, Heard: true, Budget: 1 << 40, Used: 1 << 33, Images: 3, Hits: 1, Misses: 2,
			}
			second := registry.Edge{Name: "a", URL: "https://ä.example.org/\"'"}
			s.announce(first)
			s.announce(second)
			s.wantEdges(second, first)
			second.Heard, second.Hits = true, 9
			s.announce(second)
			s.wantEdges(second, first)
		}),
		edges("an edge that says nothing for a day is not listed", func(s *suite) {
			s.announce(registry.Edge{Name: "a"})
			s.Pass(23 * time.Hour)
			s.announce(registry.Edge{Name: "b"})
			s.wantEdges(registry.Edge{Name: "a"}, registry.Edge{Name: "b"})
			s.Pass(2 * time.Hour)
			s.wantEdges(registry.Edge{Name: "b"})
			s.announce(registry.Edge{Name: "a"})
			s.wantEdges(registry.Edge{Name: "a"}, registry.Edge{Name: "b"})
		}),
		edges("an announcement is no change of an image", func(s *suite) {
			s.announce(registry.Edge{Name: "a"})
			if s.revision() != 0 || len(s.history()) != 0 {
				s.Errorf("revision %d, events %v", s.revision(), s.history())
			}
		}),
		edges("a name that is no line of text is refused", func(s *suite) {
			for _, name := range []string{"", "a\nb", "\xff", "\x00", fmt.Sprintf("%256d", 1)} {
				s.wantErr(s.Edges.Announce(s.Context(), registry.Edge{Name: name}), registry.ErrInvalid)
			}
			s.wantEdges()
		}),
	}
}

func (s *suite) announce(e registry.Edge) {
	s.Helper()
	if err := s.Edges.Announce(s.Context(), e); err != nil {
		s.Fatalf("announce: %v", err)
	}
}

// wantEdges checks that these are listed, each with the time at which it was seen.
func (s *suite) wantEdges(want ...registry.Edge) {
	s.Helper()
	got, err := s.Edges.Edges(s.Context())
	if err != nil || len(got) != len(want) {
		s.Fatalf("edges %+v, %v; want %+v", got, err, want)
	}
	for i := range got {
		if got[i].SeenAt.IsZero() {
			s.Errorf("edge %s was never seen", got[i].Name)
		}
		if got[i].SeenAt = (time.Time{}); got[i] != want[i] {
			s.Errorf("edge %+v, want %+v", got[i], want[i])
		}
	}
}
