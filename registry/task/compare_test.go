package task

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"

	"nearsight/origin/origintest"
	"nearsight/registry"
)

func TestLocationsAreComparedWithTheirHashes(t *testing.T) {
	data := []byte("hello")
	for _, tt := range []struct {
		name string
		hash Hash
		gone bool
		want bool
	}{
		{"md5", Hash{"md5", "5d41402abc4b2a76b9719d911017c592", ""}, false, true},
		{"md5 in capitals", Hash{"md5", "5D41402ABC4B2A76B9719D911017C592", ""}, false, true},
		{"sha1", Hash{"sha1", "aaf4c61ddcc5e8a2dabede0f3b482cd9aea9434d", ""}, false, true},
		{"sha256", Hash{"sha256", "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824", ""}, false, true},
		{"a checksum alone", Hash{"", "", "5d41402abc4b2a76b9719d911017c592"}, false, true},
		{"a wrong checksum", Hash{"sha1", "aaf4c61ddcc5e8a2dabede0f3b482cd9aea9434d", strings.Repeat("0", 32)}, false, false},
		{"another sha512", Hash{"sha512", strings.Repeat("0", 128), ""}, false, false},
		{"an unknown hash", Hash{"crc32", "3610a686", ""}, false, false},
		{"nothing is there", Hash{"md5", "5d41402abc4b2a76b9719d911017c592", ""}, true, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t)
				if !tt.gone {
					s.web.publish(away, data)
				}
				s.run(t)
				id := s.queue(t)
				task := s.add(t, New(registry.TaskLocationImport, id, Comparison{id, away, tt.hash}),
					func(img *registry.Image) error { return img.Become(registry.Importing) })
				settle()
				s.wantHeld(t, 0)
				img := s.get(t, id)
				if !tt.want {
					s.wantEnd(t, task.ID, registry.TaskFailure)
					if img.Status != registry.Queued || len(img.Locations) > 0 {
						t.Errorf("image is %s, at %v", img.Status, img.Locations)
					}
					return
				}
				s.wantEnd(t, task.ID, registry.TaskSuccess)
				s.wantHashed(t, id, data)
				if img.Status != registry.Active || len(img.Locations) != 1 || img.Locations[0].URL != away || img.Locations[0].Validator == "" {
					t.Errorf("image is %s, at %v", img.Status, img.Locations)
				}
			})
		})
	}
}

// Many images may be registered by one URL, at one time too.
func TestOneURLIsComparedForManyImages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		s.web.publish(away, []byte("hello"))
		gate := origintest.NewGate(0)
		s.web.Inject(origintest.Faults{Gate: gate})
		s.run(t)
		var tasks []*registry.Task
		for range 2 {
			tasks = append(tasks, s.compare(t, s.queue(t)))
		}
		<-gate.Reached
		<-gate.Reached
		close(gate.Pass)
		settle()
		s.web.Inject(origintest.Faults{})
		for _, task := range append(tasks, s.compare(t, s.queue(t))) {
			settle()
			s.wantEnd(t, task.ID, registry.TaskSuccess)
			if img := s.get(t, task.ImageID); img.Status != registry.Active || img.Locations[0].URL != away {
				t.Errorf("image is %s, at %v", img.Status, img.Locations)
			}
		}
		s.wantHeld(t, 0)
	})
}

// The process dies while it reads, and another one goes on.
func TestAComparisonGoesOnAfterACrash(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		s.web.publish(away, []byte("hello"))
		gate := origintest.NewGate(0)
		s.web.Inject(origintest.Faults{Gate: gate})
		task := s.compare(t, s.queue(t))
		ctx, die := context.WithCancel(t.Context())
		leased, err := s.LeaseTask(ctx, "the dead", defaultLease)
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			s.im.Handlers()[leased.Type].Do(ctx, &Job{Task: leased})
		}()
		<-gate.Reached
		die()
		<-done
		s.web.Inject(origintest.Faults{})
		s.run(t)
		settle()
		if got := s.wantEnd(t, task.ID, registry.TaskSuccess); got.Attempts != 2 {
			t.Errorf("%d attempts", got.Attempts)
		}
		s.wantHashed(t, task.ImageID, []byte("hello"))
		s.wantHeld(t, 0)
	})
}

// compare adds the task that compares what is away with its MD5.
func (s *site) compare(t *testing.T, id string) *registry.Task {
	t.Helper()
	return s.add(t, New(registry.TaskLocationImport, id, Comparison{id, away, Hash{Algo: "md5", Value: "5d41402abc4b2a76b9719d911017c592"}}),
		func(img *registry.Image) error { return img.Become(registry.Importing) })
}
