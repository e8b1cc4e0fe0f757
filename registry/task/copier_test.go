package task

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"nearsight/origin"
	"nearsight/origin/origintest"
	"nearsight/registry"
)

// A site is a registry over three stores and a read-only one. Bodies of a, which
// is the default and read first, can be cut.
type site struct {
	*books
	a      *flaky
	b, c   *origintest.Fake
	stores *origin.Set
	log    *logged
	reaper *Reaper
	copier *Copier
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{books: newBooks(t), log: &logged{}, a: &flaky{Fake: &origintest.Fake{Name: "a"}},
		b: &origintest.Fake{Name: "b"}, c: &origintest.Fake{Name: "c"}}
	var err error
	s.stores, err = origin.NewSet("a",
		origin.Member{Name: "a", Kind: "fake", Store: s.a, Weight: 3},
		origin.Member{Name: "b", Kind: "fake", Store: s.b, Weight: 2},
		origin.Member{Name: "c", Kind: "fake", Store: s.c, Weight: 1},
		origin.Member{Name: "frozen", Kind: "fake", Store: struct{ origin.Store }{&origintest.Fake{Name: "frozen"}}},
	)
	if err != nil {
		t.Fatal(err)
	}
	s.reaper = &Reaper{Uploads: s.books, Store: s.stores, Log: s.log.logger()}
	s.copier = &Copier{Images: s.books, Locations: s.books, Stores: s.stores, Abort: s.reaper.Abort, Log: s.log.logger()}
	return s
}

// run runs reaper and copier.
func (s *site) run(t *testing.T) (stop func()) {
	stopReaper, stopCopier := runTask(t, s.reaper.Run), runTask(t, s.copier.Run)
	return func() {
		stopCopier()
		stopReaper()
	}
}

func (s *site) copy(t *testing.T, id, store string) {
	t.Helper()
	if err := s.copier.Copy(t.Context(), id, store); err != nil {
		t.Fatalf("copy: %v", err)
	}
}

// wantCopy checks that the image has as many locations, the last of them in the
// store and with the data, and that nothing else is in the store.
func (s *site) wantCopy(t *testing.T, id string, locations int, store *origintest.Fake, data []byte) {
	t.Helper()
	img := s.get(t, id)
	if len(img.Locations) != locations {
		t.Fatalf("locations %v; log:\n%s", img.Locations, s.log.all())
	}
	loc := img.Locations[locations-1]
	o, err := store.Open(context.Background(), loc, 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(o.Body); err != nil || !slices.Equal(got, data) || loc.Validator == "" || store.Len() != 1 {
		t.Errorf("%d bytes at %v, %v; %d objects", len(got), loc, err, store.Len())
	}
	s.wantClean(t)
}

// wantNothing checks that the image has one location, and the store nothing.
func (s *site) wantNothing(t *testing.T, id string, store *origintest.Fake) {
	t.Helper()
	if img := s.get(t, id); len(img.Locations) != 1 || img.Status != registry.Active || store.Len() != 0 {
		t.Errorf("locations %v, %d objects in the store", img.Locations, store.Len())
	}
	s.wantClean(t)
}

// wantClean checks that nothing is under way, and no orphan is left.
func (s *site) wantClean(t *testing.T) {
	t.Helper()
	uploads, err := s.Unfinished(context.Background())
	if err != nil || len(uploads) != 0 {
		t.Errorf("unfinished %v, %v", uploads, err)
	}
	if orphans, err := s.Orphans(context.Background(), "", 9); err != nil || len(orphans) != 0 {
		t.Errorf("orphans %v, %v", orphans, err)
	}
}

func TestCopierCopies(t *testing.T) {
	for _, size := range []int{0, 1, origin.MinChunkSize, origin.MinChunkSize + 1, 5 * origin.MinChunkSize} {
		t.Run(fmt.Sprint(size, " bytes"), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t)
				data := noise(1, size)
				img := s.upload(t, s.a, data)
				s.run(t)
				s.copy(t, img.ID, "b")
				s.copy(t, img.ID, "b") // once is enough
				s.copy(t, img.ID, "c")
				time.Sleep(time.Second)
				if got := s.get(t, img.ID).Locations; len(got) != 3 {
					t.Fatalf("locations %v; log:\n%s", got, s.log.all())
				}
				s.wantCopy(t, img.ID, 3, s.c, data)
				if s.b.Puts.Load() != 1 || s.log.with("image copied") != 2 || s.log.with("level=WARN") != 0 {
					t.Errorf("%d puts; log:\n%s", s.b.Puts.Load(), s.log.all())
				}
			})
		})
	}
}

func TestCopierRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		active := s.upload(t, s.a, []byte("data")).ID
		unhashed := s.register(t, s.a.Add("x", []byte("x")))
		queued, err := s.Create(t.Context(), &registry.Image{})
		if err != nil {
			t.Fatal(err)
		}
		for _, tt := range []struct {
			name, id, store string
			want            error
		}{
			{"an unknown store", active, "z", origin.ErrLocation},
			{"a read-only store", active, "frozen", origin.ErrReadOnly},
			{"the store where it is", active, "a", registry.ErrConflict},
			{"the default store, where it is", active, "", registry.ErrConflict},
			{"an image without a digest", unhashed, "b", registry.ErrConflict},
			{"an image without data", queued.ID, "b", registry.ErrConflict},
			{"no image", "x", "b", registry.ErrNotFound},
		} {
			if err := s.copier.Copy(t.Context(), tt.id, tt.store); !errors.Is(err, tt.want) {
				t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
			}
		}
		s.run(t)
		time.Sleep(time.Second)
		if s.b.Puts.Load() != 0 {
			t.Error("something was copied")
		}
	})
}

// Whatever happens to the location that is read, what is written is the image or
// nothing.
func TestCopierReadsFromWhereItCan(t *testing.T) {
	const n = 5*origin.MinChunkSize + 7
	data := noise(1, n)
	down := fmt.Errorf("down: %w", origin.ErrUnavailable)
	for _, tt := range []struct {
		name   string
		second bool // the image is in b too
		break_ func(s *site, loc origin.Location)
		copied bool
	}{
		{"the connection breaks", false, func(s *site, _ origin.Location) { s.a.set(nil, 3*origin.MinChunkSize+5) }, true},
		{"the connection breaks again and again", false, func(s *site, _ origin.Location) {
			s.a.set(nil, origin.MinChunkSize+5, origin.MinChunkSize+6, 2*origin.MinChunkSize+1)
		}, true},
		{"the store is down", false, func(s *site, _ origin.Location) { s.a.set(down) }, false},
		{"the store is down and there is another", true, func(s *site, _ origin.Location) { s.a.set(down) }, true},
		{"the connection breaks and there is another", true, func(s *site, _ origin.Location) { s.a.set(nil, 3*origin.MinChunkSize+5) }, true},
		{"it has wrong bytes", false, func(s *site, _ origin.Location) { s.a.Inject(origintest.Faults{Flip: []int64{n - 1}}) }, false},
		{"it has wrong bytes and there is another", true, func(s *site, _ origin.Location) {
			s.a.Inject(origintest.Faults{Flip: []int64{3 * origin.MinChunkSize}})
		}, true},
		{"it has other data and there is another", true, func(s *site, loc origin.Location) { s.a.Replace(loc, noise(2, n)) }, true},
		{"the data is gone", false, func(s *site, loc origin.Location) { s.a.Delete(context.Background(), loc) }, false},
		{"it says another size", false, func(s *site, _ origin.Location) { s.a.Inject(origintest.Faults{Size: new(int64(n + 1))}) }, false},
		{"it ends early", false, func(s *site, _ origin.Location) { s.a.Inject(origintest.Faults{Cut: new(int64(n - 1))}) }, false},
		{"it sends other bytes than asked for", false, func(s *site, _ origin.Location) { s.a.Inject(origintest.Faults{Shift: 1}) }, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t)
				img := s.upload(t, s.a, data)
				s.run(t)
				locations := 1
				if tt.second {
					s.copy(t, img.ID, "b")
					time.Sleep(time.Second)
					locations++
				}
				tt.break_(s, img.Locations[0])
				s.copy(t, img.ID, "c")
				time.Sleep(time.Minute)
				if tt.copied {
					s.wantCopy(t, img.ID, locations+1, s.c, data)
					return
				}
				s.wantNothing(t, img.ID, s.c)
				if s.log.with("copying an image failed") != 1 {
					t.Errorf("log:\n%s", s.log.all())
				}
				s.a.set(nil) // whoever wants it asks again
				s.a.Inject(origintest.Faults{})
				if tt.name != "the data is gone" {
					s.copy(t, img.ID, "c")
					time.Sleep(time.Second)
					s.wantCopy(t, img.ID, 2, s.c, data)
				}
			})
		})
	}
}

// Each step fails, with and without having done its work: there is a whole copy or
// none, and nothing is left.
func TestCopierFaults(t *testing.T) {
	down := errors.New("down")
	full := fmt.Errorf("full: %w", origin.ErrFull)
	data := noise(1, 300_000)
	for _, tt := range []struct {
		name   string
		fault  func(s *site)
		copied bool
	}{
		{"the copy does not begin", func(s *site) { s.fail(1, down, false) }, false},
		{"the copy begins and says that it failed", func(s *site) { s.fail(1, down, true) }, false},
		{"the store takes nothing", func(s *site) { s.b.Inject(origintest.Faults{Put: full}) }, false},
		{"the store takes it and says that it failed", func(s *site) { s.b.Inject(origintest.Faults{Put: full, PutStored: true}) }, false},
		{"the location is not added", func(s *site) { s.failSecond(2, down, false) }, true},
		{"the location is added and the registry says that it failed", func(s *site) { s.failSecond(1, down, true) }, true},
		{"the location is never added", func(s *site) { s.failSecond(1000, down, false) }, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t)
				img := s.upload(t, s.a, data)
				s.run(t)
				tt.fault(s)
				s.copy(t, img.ID, "b")
				time.Sleep(time.Minute)
				if tt.copied {
					s.wantCopy(t, img.ID, 2, s.b, data)
					return
				}
				s.wantNothing(t, img.ID, s.b)
				if s.log.with("copying an image failed") != 1 {
					t.Errorf("log:\n%s", s.log.all())
				}
			})
		})
	}
}

// failSecond lets the copy begin and then fails the calls after it.
func (s *site) failSecond(times int, err error, done bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.after = func() { s.fault, s.times, s.done = err, times, done }
}

func TestCopierStopsWhenTheImageIsDeletedOrTheServerStops(t *testing.T) {
	for _, deleted := range []bool{true, false} {
		t.Run(fmt.Sprint("deleted: ", deleted), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t)
				img := s.upload(t, s.a, noise(1, 3<<20))
				gate := origintest.NewGate(1 << 20)
				s.a.Inject(origintest.Faults{Gate: gate})
				stop := s.run(t)
				s.copy(t, img.ID, "b")
				<-gate.Reached
				if deleted {
					if err := s.Delete(t.Context(), img.ID, nil); err != nil {
						t.Fatal(err)
					}
					time.Sleep(lookEvery + time.Second)
				} else {
					stop()
					next := &Reaper{Uploads: s.books, Store: s.stores, Log: s.log.logger()}
					if err := next.AbortUnfinished(t.Context()); err != nil {
						t.Error(err)
					}
					runTask(t, next.Run)
					time.Sleep(time.Second)
				}
				s.wantClean(t)
				if s.b.Len() != 0 || s.log.with("level=WARN") != 0 {
					t.Errorf("%d objects; log:\n%s", s.b.Len(), s.log.all())
				}
			})
		})
	}
}

func TestCopierTakesABoundedNumberAndDoesThemAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		s.copier.Workers = 3
		for range 20 {
			s.copy(t, s.upload(t, s.a, []byte("data")).ID, "b")
		}
		s.run(t)
		time.Sleep(time.Second)
		if s.b.Len() != 20 {
			t.Errorf("%d copies; log:\n%s", s.b.Len(), s.log.all())
		}
		full := &Copier{queue: make([]errand, maxCopies)}
		if err := full.enqueue(errand{"x", "b"}); !errors.Is(err, registry.ErrUnavailable) {
			t.Errorf("one too many: %v", err)
		}
	})
}
