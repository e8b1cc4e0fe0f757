package proxy

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"nearsight/origin"
	"nearsight/origin/origintest"
	"nearsight/registry"
)

// hashed is register with the digests of data, which the far server must have.
func (f *farSite) hashed(data []byte, path string) *registry.Image {
	f.t.Helper()
	img := f.register(path)
	scratch := &origintest.Fake{}
	_, sum, err := origin.Ingest(f.t.Context(), scratch, scratch.Locate("x"), -1, bytes.NewReader(data))
	if err != nil {
		f.t.Fatal(err)
	}
	if img, err = f.records.Locations(f.db).Hashed(f.t.Context(), img.ID, img.Locations[0], sum); err != nil {
		f.t.Fatal(err)
	}
	return img
}

// What was relayed while it was not hashed can be had afterwards, too.
func TestHashedDataOfServersWithoutRangesIsCached(t *testing.T) {
	data := pattern(40<<20, 1)
	for _, tt := range []struct {
		name   string
		answer http.HandlerFunc
	}{
		{"it tells the length", serveWhole(data)},
		{"it does not", serveChunks(data)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFarSite(t, tt.answer)
			img := f.hashed(data, "/x")
			for _, s := range []span{{30_000_000, 100}, {0, int64(len(data))}, {30_000_000, 100}} {
				a := f.file("GET", img, fmt.Sprintf("Range: bytes=%d-%d", s.off, s.off+s.n-1))
				if a.StatusCode != 206 || a.err != nil || !bytes.Equal(a.body, data[s.off:s.off+s.n]) {
					t.Errorf("%v: status %d, %d bytes, %v", s, a.StatusCode, len(a.body), a.err)
				}
			}
			if n := strings.Count(f.requests(), "GET"); n > 12 {
				t.Errorf("the server was asked %d times", n)
			}
			if f.metric("nearsight_origin_lies_total") != 0 || strings.Contains(f.log.String(), "other data") {
				t.Errorf("the log: %s", f.log)
			}
		})
	}
}

// A read that waits for its next part is of the same version, or fails.
func TestServersWithoutRangesThatChangeTheirDataAreNoticed(t *testing.T) {
	data, changed := pattern(40<<20, 1), pattern(40<<20, 2)
	f := newFarSite(t, serveWhole(data))
	img := f.hashed(data, "/x")
	f.set(serveWhole(changed))
	a := f.file("GET", img, "Range: bytes=30000000-30000099")
	if a.StatusCode != 502 {
		t.Errorf("status %d", a.StatusCode)
	}
	f.set(serveWhole(data)) // and not what was parked of the other
	if a := f.file("GET", img, "Range: bytes=30000000-30000099"); a.StatusCode != 206 || !bytes.Equal(a.body, data[30_000_000:30_000_100]) {
		t.Errorf("status %d", a.StatusCode)
	}
	if err := f.cache.Drop(img.Digest); err != nil {
		t.Fatal(err)
	}
	f.set(serveChunks(changed[:1<<20]))
	if a := f.file("GET", img, "Range: bytes=30000000-30000099"); a.StatusCode < 500 {
		t.Errorf("status %d", a.StatusCode)
	}
}

func TestAStoreThatSendsTheWholeForARangeIsReadFromItsBeginning(t *testing.T) {
	s := newSite(t, siteConfig{})
	data := pattern(5*chunk, 1)
	img := s.add(data, nil)
	s.store.Inject(origintest.Faults{Whole: true})
	a := s.file("GET", img, fmt.Sprintf("Range: bytes=%d-", 4*chunk))
	if a.StatusCode != 206 || a.err != nil || !bytes.Equal(a.body, data[4*chunk:]) {
		t.Errorf("status %d, %d bytes, %v", a.StatusCode, len(a.body), a.err)
	}
	if s.metric("nearsight_origin_lies_total") != 0 {
		t.Error("it was counted as a lie")
	}
}

// A wholeStore sends 1000 bytes, whatever it is asked for, and counts the bodies.
type wholeStore struct {
	origin.Store
	opened, open atomic.Int64
}

func (s *wholeStore) Open(ctx context.Context, _ origin.Location, _, _ int64) (*origin.Object, error) {
	s.opened.Add(1)
	s.open.Add(1)
	body := &countedBody{strings.NewReader(strings.Repeat("0123456789", 100)), ctx, s}
	return &origin.Object{Info: origin.Info{Size: 1000}, Length: 1000, Body: body}, nil
}

type countedBody struct {
	io.Reader
	ctx context.Context
	s   *wholeStore
}

func (b *countedBody) Read(p []byte) (int, error) {
	if err := b.ctx.Err(); err != nil {
		return 0, err
	}
	return b.Reader.Read(p)
}

func (b *countedBody) Close() error {
	b.s.open.Add(-1)
	return nil
}

func TestReadsAreParkedForTheNextPart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, p := &wholeStore{}, &streams{}
		read := func(url string, off int64) string {
			t.Helper()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel() // after the body was closed: it may go on
			obj, err := p.open(ctx, store, origin.Location{URL: url}, off, 10)
			if err != nil {
				t.Fatal(err)
			}
			defer obj.Body.Close()
			b, err := io.ReadAll(obj.Body)
			if err != nil || obj.Offset != off || obj.Length != int64(len(b)) {
				t.Errorf("%d bytes of %d from %d, %v", len(b), obj.Length, obj.Offset, err)
			}
			return string(b)
		}
		want := func(opened, open int64) {
			t.Helper()
			synctest.Wait()
			if store.opened.Load() != opened || store.open.Load() != open {
				t.Errorf("%d opened and %d open, want %d and %d", store.opened.Load(), store.open.Load(), opened, open)
			}
		}
		for _, off := range []int64{103, 113, 500} {
			if got := read("a", off); got != strings.Repeat("0123456789", 2)[off%10:off%10+10] {
				t.Errorf("at %d: %s", off, got)
			}
		}
		want(2, 1) // the first to find out, the second for all parts
		read("a", 200)
		want(4, 2) // what is behind does not come back
		read("a", 990)
		want(4, 1) // nothing is left of it
		time.Sleep(parkedFor)
		want(4, 0)
		for i := range maxParked + 3 {
			read(fmt.Sprint(i), 100)
		}
		want(4+2*(maxParked+3), maxParked)
		read("2", 200) // among those that had to go
		want(4+2*(maxParked+4), maxParked)
		p.closeParked()
		want(4+2*(maxParked+4), 0)
	})
}

func TestAPartEndsWithItsContext(t *testing.T) {
	store, p := &wholeStore{}, &streams{}
	ctx, cancel := context.WithCancel(t.Context())
	obj, err := p.open(ctx, store, origin.Location{URL: "a"}, 100, 500)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	for err == nil { // until the news arrive
		_, err = obj.Body.Read(make([]byte, 1))
	}
	if err == io.EOF {
		t.Error("the body came to its end")
	}
	obj.Body.Close()
	if n := store.open.Load(); n != 0 || len(p.parked) != 0 {
		t.Errorf("%d bodies are open, %d parked", n, len(p.parked))
	}
}
