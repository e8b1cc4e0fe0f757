package proxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"nearsight/cache"
	"nearsight/origin"
	"nearsight/origin/origintest"
	"nearsight/registry"
)

func TestAFailureBeforeTheFirstByteHasItsStatus(t *testing.T) {
	wrong := int64(99)
	for _, tt := range []struct {
		name   string
		faults origintest.Faults
		status int
		lies   bool
	}{
		{"the store does not answer", origintest.Faults{Open: origin.ErrUnavailable}, 503, false},
		{"the object is gone", origintest.Faults{Open: origin.ErrNotFound}, 502, false},
		{"the object is another one", origintest.Faults{Open: origin.ErrChanged}, 502, false},
		{"the store sends other bytes than it was given", origintest.Faults{Flip: []int64{7, chunk + 7, 4*chunk + 7}}, 502, true},
		{"the store sends another range", origintest.Faults{Shift: 1}, 503, true},
		{"the store claims another size", origintest.Faults{Size: &wrong}, 503, true},
		{"the body ends at once", origintest.Faults{Cut: new(int64(4 * chunk))}, 503, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newSite(t, siteConfig{})
			data := pattern(5*chunk, 1)
			img := s.add(data, nil)
			s.store.Inject(tt.faults)
			a := s.file("GET", img, fmt.Sprintf("Range: bytes=%d-", 4*chunk))
			if a.StatusCode != tt.status {
				t.Errorf("status %d %s, want %d", a.StatusCode, a.body, tt.status)
			}
			checkFields(t, a, img, "GET", 0)
			if strings.Contains(string(a.body), "fake://") {
				t.Errorf("the answer names the store: %s", a.body)
			}
			if lied := s.metric("nearsight_origin_lies_total") > 0; lied != tt.lies {
				t.Errorf("lies were counted: %v", lied)
			}
			s.store.Inject(origintest.Faults{})
			if a := s.file("GET", img); a.StatusCode != 200 || !bytes.Equal(a.body, data) {
				t.Errorf("afterwards: %d, %d bytes", a.StatusCode, len(a.body))
			}
		})
	}
}

func TestAFailureAfterTheHeaderBreaksTheConnection(t *testing.T) {
	for _, tt := range []struct {
		name   string
		faults origintest.Faults
	}{
		{"the body ends early", origintest.Faults{Cut: new(int64(3*chunk + 5))}},
		{"a chunk is not what it was", origintest.Faults{Flip: []int64{3*chunk + 5}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newSite(t, siteConfig{})
			data := pattern(5*chunk, 1)
			img := s.add(data, nil)
			s.store.Inject(tt.faults)
			a := s.file("GET", img)
			if a.StatusCode != 200 || a.err == nil || !bytes.HasPrefix(data, a.body) || len(a.body) > 3*chunk {
				t.Errorf("status %d, %d bytes, %v", a.StatusCode, len(a.body), a.err)
			}
			s.eventually(func() bool { return strings.Contains(s.log.String(), `"aborted":true`) })
			if got := s.metric("nearsight_http_aborted_total"); got != 1 {
				t.Errorf("%v answers counted as broken off", got)
			}
			s.store.Inject(origintest.Faults{})
			if a := s.file("GET", img); !bytes.Equal(a.body, data) {
				t.Error("afterwards the bytes differ")
			}
		})
	}
}

// eventually waits for what another goroutine does on its own.
func (s *site) eventually(done func() bool) {
	s.t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(20 * time.Second); !done(); <-tick.C {
		if time.Now().After(end) {
			s.t.Fatal("it never happened")
		}
	}
}

func TestAnImageDeletedWhileItsFirstByteIsAwaitedIsNotFound(t *testing.T) {
	s := newSite(t, siteConfig{})
	img := s.add(pattern(5*chunk, 1), nil)
	gate := origintest.NewGate(0)
	s.store.Inject(origintest.Faults{Gate: gate})
	got := make(chan int, 1)
	go func() {
		a, err := s.try("GET", "/v2/images/"+img.ID+"/file")
		if err != nil {
			t.Error(err)
			got <- 0
			return
		}
		got <- a.StatusCode
	}()
	<-gate.Reached
	if a := s.do("DELETE", "/v2/images/"+img.ID); a.StatusCode != 204 {
		t.Errorf("delete: %d", a.StatusCode)
	}
	close(gate.Pass)
	if status := <-got; status != 404 {
		t.Errorf("status %d", status)
	}
}

func TestTheDataOfADeletedImageLeavesTheCacheWithItsLastOwner(t *testing.T) {
	s := newSite(t, siteConfig{})
	data := pattern(chunk, 1)
	first, second := s.add(data, nil), s.add(data, func(img *registry.Image) { img.Hidden = true })
	other := s.add(pattern(chunk, 2), nil)
	s.file("GET", first)
	s.file("GET", other)
	if err := s.db.Delete(t.Context(), first.ID, nil); err != nil { // as if by another process
		t.Fatal(err)
	}
	s.eventually(func() bool { return s.file("GET", first).StatusCode == 404 })
	if err := s.proxy.dropUnowned(t.Context(), first.Digest); err != nil {
		t.Fatal(err)
	}
	if _, err := s.cache.Entry(first.Digest); err != nil {
		t.Errorf("a hidden image has the same data, and yet: %v", err)
	}
	if err := s.db.Delete(t.Context(), second.ID, nil); err != nil {
		t.Fatal(err)
	}
	s.eventually(func() bool {
		_, err := s.cache.Entry(first.Digest)
		return errors.Is(err, cache.ErrNotCached)
	})
	if _, err := s.cache.Entry(other.Digest); err != nil {
		t.Errorf("the data of another image went too: %v", err)
	}
}

func TestTheNextLocationIsAsked(t *testing.T) {
	data := pattern(5*chunk, 1)
	for _, tt := range []struct {
		name   string
		faults origintest.Faults // of the first store
	}{
		{"when the first has nothing", origintest.Faults{Open: origin.ErrNotFound}},
		{"when the first does not answer", origintest.Faults{Open: origin.ErrUnavailable}},
		{"when the first lies", origintest.Faults{Whole: true, Size: new(int64(3))}},
		{"when the body of the first breaks", origintest.Faults{Cut: new(int64(2*chunk + 1))}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newSite(t, siteConfig{})
			img := s.add(data, nil)
			broken, whole := &origintest.Fake{Name: "broken"}, &origintest.Fake{Name: "whole"}
			img = img.Clone()
			img.Locations = []origin.Location{broken.Add("x", data), whole.Add("x", data)}
			broken.Inject(tt.faults)
			src := s.proxy.source(img)
			src.store = twoStores{broken, whole}
			r, err := s.cache.Get(t.Context(), img.Digest, *img.Size, src)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			var got bytes.Buffer
			if _, err := r.Send(t.Context(), &got, 0, *img.Size); err != nil || !bytes.Equal(got.Bytes(), data) {
				t.Errorf("%d bytes, %v", got.Len(), err)
			}
			if broken.Opens.Load() == 0 || whole.Opens.Load() == 0 {
				t.Errorf("%d and %d opens", broken.Opens.Load(), whole.Opens.Load())
			}
		})
	}
}

// twoStores is one store over two, as a mux will be.
type twoStores struct{ broken, whole *origintest.Fake }

func (m twoStores) of(loc origin.Location) origin.Store {
	if strings.HasPrefix(loc.URL, "fake://broken/") {
		return m.broken
	}
	return m.whole
}

func (m twoStores) Stat(ctx context.Context, loc origin.Location) (origin.Info, error) {
	return m.of(loc).Stat(ctx, loc)
}

func (m twoStores) Open(ctx context.Context, loc origin.Location, off, n int64) (*origin.Object, error) {
	return m.of(loc).Open(ctx, loc, off, n)
}
