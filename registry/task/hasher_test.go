package task

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"nearsight/origin"
	"nearsight/origin/origintest"
	"nearsight/registry"
)

func newHasher(b *books, s origin.Store, log *logged) *Hasher {
	return &Hasher{Locations: b, Images: b, Store: s, Log: log.logger()}
}

func TestHasherHashesWhatIsThereAndWhatComes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, s, log := newBooks(t), &origintest.Fake{}, &logged{}
		var ids []string
		for i := range 3 {
			ids = append(ids, b.register(t, s.Add("x", noise(uint64(i), i*300_000))))
		}
		uploaded := b.upload(t, s, []byte("uploaded"))
		s.Opens.Store(0)
		h := newHasher(b, s, log)
		runTask(t, h.Run)
		time.Sleep(time.Second) // the clock of the bubble
		for i, id := range ids {
			b.wantHashed(t, id, noise(uint64(i), i*300_000))
		}
		late := b.register(t, s.Add("late", []byte("late")))
		h.Wake()
		time.Sleep(time.Second)
		b.wantHashed(t, late, []byte("late"))
		later := b.register(t, s.Add("later", []byte("later")))
		time.Sleep(defaultEvery)
		b.wantHashed(t, later, []byte("later"))
		time.Sleep(time.Hour)
		if n := s.Opens.Load(); n != 5 {
			t.Errorf("%d opens, want one for each image", n)
		}
		if got := b.get(t, uploaded.ID); got.Revision != uploaded.Revision {
			t.Error("the uploaded image was changed")
		}
		if log.with("level=WARN") != 0 || log.with("image hashed") != 5 {
			t.Errorf("log:\n%s", log.all())
		}
	})
}

func TestHasherRecordsTheValidatorThatItFinds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, s, log := newBooks(t), &origintest.Fake{}, &logged{}
		loc := s.Add("x", []byte("data"))
		id := b.register(t, origin.Location{URL: loc.URL})
		other := b.register(t, loc)
		runTask(t, newHasher(b, s, log).Run)
		time.Sleep(time.Second)
		for _, id := range []string{id, other} {
			if got := b.get(t, id).Locations[0]; got != loc {
				t.Errorf("location %v, want %v", got, loc)
			}
		}
	})
}

// The bytes come in pieces; each is read once.
func TestHasherGoesOnWhereAReadBroke(t *testing.T) {
	const n = 5 << 20
	data := noise(1, n)
	for _, tt := range []struct {
		name    string
		cuts    []int64
		offsets []int64
	}{
		{"no break", nil, []int64{0}},
		{"a break in the middle", []int64{3 << 20}, []int64{0, 3 << 20}},
		{"many breaks", []int64{1, 2 << 20, 2<<20 + 1, 4 << 20}, []int64{0, 1, 2 << 20, 2<<20 + 1, 4 << 20}},
		{"a connection that yields nothing", []int64{3 << 20, 3 << 20, 3 << 20}, []int64{0, 3 << 20, 3 << 20, 3 << 20}},
		{"a break before the last byte", []int64{n - 1}, []int64{0, n - 1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, log := newBooks(t), &logged{}
				s := &flaky{Fake: &origintest.Fake{}}
				loc := s.Add("x", data)
				id := b.register(t, origin.Location{URL: loc.URL})
				s.set(nil, tt.cuts...)
				runTask(t, newHasher(b, s, log).Run)
				time.Sleep(9 * time.Second)
				b.wantHashed(t, id, data)
				if got := s.seen(); !slices.Equal(got, tt.offsets) {
					t.Errorf("opened at %v, want %v", got, tt.offsets)
				}
			})
		})
	}
}

// It never mixes two versions, and never takes a part for the whole.
func TestHasherBeginsAnewWhereItCannotGoOn(t *testing.T) {
	data := noise(1, 3<<20)
	for _, tt := range []struct {
		name   string
		change func(*flaky, origin.Location)
	}{
		{"the store has no ranges", func(s *flaky, _ origin.Location) { s.noRanges = true }},
		{"the store has no validators", func(s *flaky, _ origin.Location) { s.noTags = true }},
		{"the data changed meanwhile", func(s *flaky, loc origin.Location) { s.Replace(loc, noise(2, 3<<20)) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, log := newBooks(t), &logged{}
				s := &flaky{Fake: &origintest.Fake{}}
				loc := origin.Location{URL: s.Add("x", data).URL}
				id := b.register(t, loc)
				s.set(nil, 1<<20)
				gate := origintest.NewGate(1 << 19)
				s.Inject(origintest.Faults{Gate: gate})
				runTask(t, newHasher(b, s, log).Run)
				<-gate.Reached
				s.Inject(origintest.Faults{})
				want := data
				if tt.change(s, loc); tt.name == "the data changed meanwhile" {
					want = noise(2, 3<<20)
				}
				close(gate.Pass)
				time.Sleep(time.Second)
				if got := b.get(t, id); got.Digest != "" {
					t.Error("hashed from two reads")
				}
				if log.with("hashing an image failed") != 1 {
					t.Errorf("log:\n%s", log.all())
				}
				time.Sleep(firstWait)
				b.wantHashed(t, id, want)
			})
		})
	}
}

// A store that stays away costs ever fewer attempts, and others are not held up.
func TestHasherTriesAgainWithAGrowingWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, log := newBooks(t), &logged{}
		bad, good := &flaky{Fake: &origintest.Fake{Name: "bad"}}, &origintest.Fake{Name: "good"}
		set, err := origin.NewSet("good", origin.Member{Name: "bad", Kind: "fake", Store: bad}, origin.Member{Name: "good", Kind: "fake", Store: good})
		if err != nil {
			t.Fatal(err)
		}
		stuck := b.register(t, bad.Add("x", []byte("stuck")))
		bad.set(fmt.Errorf("down: %w", origin.ErrUnavailable))
		h := newHasher(b, set, log)
		runTask(t, h.Run)
		time.Sleep(time.Second)
		id := b.register(t, good.Add("x", []byte("good")))
		h.Wake()
		time.Sleep(time.Second)
		b.wantHashed(t, id, []byte("good"))
		time.Sleep(2*time.Hour - 2*time.Second)
		// At 0, 10, 30, 70, 150, 310, 630, 1270, 2550 and 5110 s.
		if got := len(bad.seen()); got != 10 || log.with("down") != 10 {
			t.Errorf("%d attempts, want 10; log:\n%s", got, log.all())
		}
		bad.set(nil)
		time.Sleep(maxWait)
		b.wantHashed(t, stuck, []byte("stuck"))
	})
}

// What lasts is told once, until it is something else.
func TestHasherTellsALastingFailureOnce(t *testing.T) {
	for _, tt := range []struct {
		name  string
		spoil func(*origintest.Fake, *origin.Location)
		text  string
	}{
		{"the data changed since it was registered", func(s *origintest.Fake, loc *origin.Location) { s.Replace(*loc, []byte("other")) }, "object changed"},
		{"the data is gone", func(s *origintest.Fake, loc *origin.Location) { s.Delete(context.Background(), *loc) }, "object not found"},
		{"the store is not configured", func(_ *origintest.Fake, loc *origin.Location) { loc.URL = "fake://gone/x" }, "bad location"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, log := newBooks(t), &logged{}
				s := &flaky{Fake: &origintest.Fake{}}
				loc := s.Add("x", []byte("data"))
				tt.spoil(s.Fake, &loc)
				id := b.register(t, loc)
				runTask(t, newHasher(b, s, log).Run)
				time.Sleep(24 * time.Hour)
				if log.with(tt.text) != 1 || len(s.seen()) < 10 {
					t.Errorf("%d attempts; log:\n%s", len(s.seen()), log.all())
				}
				s.set(fmt.Errorf("down: %w", origin.ErrUnavailable))
				time.Sleep(2 * maxWait)
				s.set(nil)
				time.Sleep(24 * time.Hour)
				if log.with(tt.text) != 2 || b.get(t, id).Digest != "" {
					t.Errorf("log:\n%s", log.all())
				}
			})
		})
	}
}

func TestHasherStopsWhenTheImageIsDeleted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, s, log := newBooks(t), &origintest.Fake{}, &logged{}
		id := b.register(t, s.Add("x", noise(1, 1<<20)))
		next := b.register(t, s.Add("y", []byte("next")))
		gate := origintest.NewGate(1 << 19)
		s.Inject(origintest.Faults{Gate: gate})
		runTask(t, newHasher(b, s, log).Run)
		<-gate.Reached
		if err := b.Delete(t.Context(), id, nil); err != nil {
			t.Fatal(err)
		}
		time.Sleep(lookEvery + defaultEvery)
		b.wantHashed(t, next, []byte("next"))
		if log.with("level=WARN") != 0 || b.count("hashed") != 1 {
			t.Errorf("%d calls; log:\n%s", b.count("hashed"), log.all())
		}
	})
}

// What was learned from a long read is not thrown away because the registry is busy.
func TestHasherFaultsOfTheRegistry(t *testing.T) {
	down := errors.New("down")
	for _, tt := range []struct {
		name  string
		times int
		done  bool
	}{
		{"failed and not done", 3, false},
		{"failed but done", 1, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, s, log := newBooks(t), &origintest.Fake{}, &logged{}
				id := b.register(t, s.Add("x", []byte("data")))
				gate := origintest.NewGate(0)
				s.Inject(origintest.Faults{Gate: gate})
				runTask(t, newHasher(b, s, log).Run)
				<-gate.Reached
				b.fail(tt.times, down, tt.done)
				close(gate.Pass)
				time.Sleep(leastPatience)
				b.wantHashed(t, id, []byte("data"))
				if s.Opens.Load() != 1 || b.get(t, id).Revision != 3 || log.with("level=WARN") != 0 {
					t.Errorf("%d opens, revision %d; log:\n%s", s.Opens.Load(), b.get(t, id).Revision, log.all())
				}
			})
		})
	}
	t.Run("it cannot list", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b, s, log := newBooks(t), &origintest.Fake{}, &logged{}
			id := b.register(t, s.Add("x", []byte("data")))
			b.fail(2, down, false)
			runTask(t, newHasher(b, s, log).Run)
			time.Sleep(5 * time.Second)
			b.wantHashed(t, id, []byte("data"))
			if log.with("looking for data") != 2 {
				t.Errorf("log:\n%s", log.all())
			}
		})
	})
}

func TestHasherEndsInTheMiddleOfAnything(t *testing.T) {
	for name, faults := range map[string]origintest.Faults{
		"a read that stalls": {Stall: new(int64(1))},
		"a read that breaks": {Cut: new(int64(1))},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, s, log := newBooks(t), &origintest.Fake{}, &logged{}
				for range 3 {
					b.register(t, s.Add("x", []byte("data")))
				}
				s.Inject(faults)
				stop := runTask(t, newHasher(b, s, log).Run)
				synctest.Wait()
				time.Sleep(3 * time.Second)
				stop()
				if log.with("level=WARN") != 0 {
					t.Errorf("log:\n%s", log.all())
				}
			})
		})
	}
}

// A read that took long is waited for long, and its worker does something else
// meanwhile.
func TestHasherWaitsAsLongAsTheReadTook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, log := newBooks(t), &logged{}
		bad, good := &flaky{Fake: &origintest.Fake{Name: "bad"}}, &origintest.Fake{Name: "good"}
		set, err := origin.NewSet("good", origin.Member{Name: "bad", Kind: "fake", Store: bad}, origin.Member{Name: "good", Kind: "fake", Store: good})
		if err != nil {
			t.Fatal(err)
		}
		data := noise(1, 4<<20)
		id := b.register(t, bad.Add("x", data))
		bad.set(nil, 3<<20)
		gate := origintest.NewGate(2 << 20)
		bad.Inject(origintest.Faults{Gate: gate})
		h := newHasher(b, set, log)
		runTask(t, h.Run)
		<-gate.Reached
		time.Sleep(10 * time.Minute) // it is a slow store
		bad.Inject(origintest.Faults{})
		bad.set(fmt.Errorf("down: %w", origin.ErrUnavailable))
		gate.Pass <- struct{}{}
		time.Sleep(5 * time.Minute)
		other := b.register(t, good.Add("y", []byte("other")))
		h.Wake()
		time.Sleep(maxPause)
		b.wantHashed(t, other, []byte("other"))
		bad.set(nil)
		time.Sleep(maxPause)
		b.wantHashed(t, id, data)
		if got := bad.seen(); !slices.Equal(got, []int64{3 << 20}) || log.with("level=WARN") != 0 {
			t.Errorf("opened at %v, want where it broke; log:\n%s", got, log.all())
		}
	})
}

func TestPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		attempts := func(p *patience) (n int, d time.Duration) {
			began := time.Now()
			for {
				wait, ok := p.next()
				if !ok {
					return n, time.Since(began)
				}
				n++
				time.Sleep(wait)
			}
		}
		p := newPatience()
		if n, d := attempts(&p); d < leastPatience || d > 2*leastPatience || n < 4 {
			t.Errorf("at the start: %d attempts in %v", n, d)
		}
		p = newPatience()
		time.Sleep(time.Hour)
		p.next()
		p.progress(recovered)
		if n, d := attempts(&p); d < time.Hour || d > time.Hour+maxPause || n > 130 {
			t.Errorf("after an hour: %d attempts in %v", n, d)
		}
		p = newPatience()
		for n := 0; ; n++ { // it yields a little each time
			wait, ok := p.next()
			if !ok {
				break
			}
			if p.progress(1); n > 20 {
				t.Fatal("a store that breaks all the time is asked without end")
			}
			time.Sleep(wait)
		}
	})
}

func TestStatusOfAnImageThatIsNotActiveIsLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, s, log := newBooks(t), &origintest.Fake{}, &logged{}
		img, err := b.Create(t.Context(), &registry.Image{DiskFormat: "raw", ContainerFormat: "bare"})
		if err != nil {
			t.Fatal(err)
		}
		h := newHasher(b, s, log)
		if err := h.hash(t.Context(), img.ID, sleep); !errors.Is(err, errUnwanted) {
			t.Errorf("error %v", err)
		}
		if err := h.hash(t.Context(), "00000000-0000-4000-8000-000000000000", sleep); !errors.Is(err, registry.ErrNotFound) {
			t.Errorf("error %v", err)
		}
	})
}
