package registrytest

import (
	"context"
	"fmt"
	"sync"
	"time"

	"nearsight/registry"
)

func eventTests() []test {
	return []test{
		{"nothing happened: revision 0, no events", func(s *suite) {
			if s.revision() != 0 || len(s.history()) != 0 {
				s.Errorf("revision %d, events %v", s.revision(), s.history())
			}
		}},
		{"every change has its event, with its kind", func(s *suite) {
			id := s.create(draft("x")).ID
			s.update(id, func(i *registry.Image) { i.MinRAM = 1 })
			s.begin(id, place(1))
			s.abort(id, place(1))
			s.begin(id, place(2))
			digest := s.finish(id, place(2), summary("data")).Digest
			s.delete(id)
			empty := s.create(draft("y")).ID
			s.delete(empty)
			want := []registry.Event{
				{Revision: 1, ImageID: id, Kind: registry.EventCreate},
				{Revision: 2, ImageID: id, Kind: registry.EventUpdate},
				{Revision: 3, ImageID: id, Kind: registry.EventUpdate},
				{Revision: 4, ImageID: id, Kind: registry.EventUpdate},
				{Revision: 5, ImageID: id, Kind: registry.EventUpdate},
				{Revision: 6, ImageID: id, Kind: registry.EventData},
				{Revision: 7, ImageID: id, Kind: registry.EventDelete, Digest: digest},
				{Revision: 8, ImageID: empty, Kind: registry.EventCreate},
				{Revision: 9, ImageID: empty, Kind: registry.EventDelete},
			}
			got := s.history()
			if len(got) != len(want) || s.revision() != int64(len(want)) {
				s.Fatalf("revision %d, events %v", s.revision(), got)
			}
			for i := range want {
				if timeless(got[i]) != want[i] {
					s.Errorf("event %v, want %v", got[i], want[i])
				}
			}
		}},
		{"an event has the time of its change", func(s *suite) {
			img := s.create(draft("x"))
			s.Pass(time.Hour)
			next := s.update(img.ID, func(i *registry.Image) { i.MinRAM = 1 })
			events := s.history()
			if len(events) != 2 || events[0].At != img.UpdatedAt || events[1].At != next.UpdatedAt {
				s.Errorf("events %v, want the times %v and %v", events, img.UpdatedAt, next.UpdatedAt)
			}
		}},
		{"Since returns what comes after, up to the limit", func(s *suite) {
			for range 5 {
				s.create(draft("x"))
			}
			for _, tt := range []struct {
				after       int64
				limit       int
				first, last int64 // 0 for none
			}{
				{0, 10, 1, 5}, {0, 2, 1, 2}, {2, 2, 3, 4}, {4, 10, 5, 5}, {5, 10, 0, 0}, {99, 10, 0, 0}, {-1, 1, 1, 1}, {0, 0, 0, 0}, {0, -1, 0, 0},
			} {
				events, err := s.Log.Since(s.Context(), tt.after, tt.limit)
				if err != nil {
					s.Fatal(err)
				}
				var first, last int64
				if len(events) > 0 {
					first, last = events[0].Revision, events[len(events)-1].Revision
				}
				if first != tt.first || last != tt.last {
					s.Errorf("after %d, at most %d: %v", tt.after, tt.limit, events)
				}
			}
		}},
		{"revisions have no gaps under 20 parallel writers, and watchers see each once", func(s *suite) {
			const writers = 20
			ctx, stop := context.WithCancel(s.Context())
			defer stop()
			var watchers sync.WaitGroup
			const total = writers * 9
			for range 3 {
				watchers.Go(func() { s.watch(ctx, 0, total) })
			}
			parallel(writers, func(i int) bool {
				if err := s.oneLife(ctx, i); err != nil {
					s.Errorf("writer %d: %v", i, err)
					stop()
				}
				return true
			})
			if got := s.revision(); got != total {
				s.Errorf("revision %d, want %d", got, total)
				stop() // the watchers would wait for the rest
			}
			watchers.Wait()
			latest := map[string]int64{}
			for i, e := range s.history() {
				if e.Revision != int64(i+1) {
					s.Fatalf("event %d has revision %d", i+1, e.Revision)
				}
				latest[e.ImageID] = e.Revision
			}
			images := s.list(registry.Query{Limit: 100})
			if len(images) != writers {
				s.Errorf("%d images", len(images))
			}
			for _, img := range images {
				if img.Revision != latest[img.ID] {
					s.Errorf("image of revision %d, its latest event is %d", img.Revision, latest[img.ID])
				}
			}
		}},
		{"a watcher gets what was before it, then what happens, then ends with its context", func(s *suite) {
			s.create(draft("1"))
			s.create(draft("2"))
			ctx, stop := context.WithCancel(s.Context())
			defer stop()
			var seen []int64
			for e, err := range s.Events.Watch(ctx, 0) {
				if err != nil {
					s.Fatalf("watch: %v", err)
				}
				seen = append(seen, e.Revision)
				switch e.Revision {
				case 2, 3, 4:
					s.create(draft("next"))
				case 5:
					stop()
				}
			}
			if fmt.Sprint(seen) != "[1 2 3 4 5]" {
				s.Errorf("saw %v", seen)
			}
		}},
		{"a watcher that waits is woken", func(s *suite) {
			ctx, stop := context.WithCancel(s.Context())
			defer stop()
			got := make(chan registry.Event)
			var watcher sync.WaitGroup
			watcher.Go(func() {
				for e, err := range s.Events.Watch(ctx, 0) {
					if err != nil {
						s.Errorf("watch: %v", err)
					}
					got <- e
				}
			})
			for n := range int64(20) {
				img := s.create(draft("x"))
				if e := <-got; e.Revision != n+1 || e.ImageID != img.ID {
					s.Errorf("event %v after create %d", e, n+1)
				}
			}
			stop()
			watcher.Wait()
		}},
		{"a watcher goes on where it was told", func(s *suite) {
			for range 600 { // more than any batch
				s.create(draft("x"))
			}
			s.watch(s.Context(), 0, 600)
			s.watch(s.Context(), 597, 600)
		}},
		{"a watcher that knows more than the log is told so", func(s *suite) {
			s.create(draft("x"))
			n := 0
			for _, err := range s.Events.Watch(s.Context(), 2) {
				if n++; err == nil || n > 1 {
					s.Fatalf("yield %d, error %v", n, err)
				}
			}
			if n != 1 {
				s.Error("no error")
			}
		}},
		{"a watch whose context has ended yields nothing", func(s *suite) {
			s.create(draft("x"))
			for e, err := range s.Events.Watch(s.cancelled(), 0) {
				s.Errorf("yielded %v, %v", e, err)
			}
		}},
	}
}

// timeless returns the event without its time.
func timeless(e registry.Event) registry.Event {
	e.At = time.Time{}
	return e
}

// oneLife makes nine changes, one of them the deletion of another image.
func (s *suite) oneLife(ctx context.Context, n int) error {
	other, err := s.Images.Create(ctx, draft("short"))
	if err != nil {
		return err
	}
	img, err := s.Images.Create(ctx, draft("long"))
	if err != nil {
		return err
	}
	if _, err := s.Uploads.Begin(ctx, img.ID, place(2*n)); err != nil {
		return err
	}
	if err := s.Uploads.Abort(ctx, img.ID, place(2*n)); err != nil {
		return err
	}
	if _, err := s.Uploads.Begin(ctx, img.ID, place(2*n+1)); err != nil {
		return err
	}
	if err := s.Images.Delete(ctx, other.ID, nil); err != nil {
		return err
	}
	if _, err := s.Uploads.Finish(ctx, img.ID, place(2*n+1), summary("data")); err != nil {
		return err
	}
	for tag := range 2 {
		_, err := s.Images.Update(ctx, img.ID, func(img *registry.Image) error {
			img.Tags = append(img.Tags, fmt.Sprint(tag))
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// watch checks that the events after one revision up to another come one by
// one, and leaves then.
func (s *suite) watch(ctx context.Context, after, last int64) {
	for e, err := range s.Events.Watch(ctx, after) {
		if err != nil || e.Revision != after+1 {
			s.Errorf("after %d comes %d, %v", after, e.Revision, err)
			return
		}
		if after = e.Revision; after == last {
			return
		}
	}
}
