package remote_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"nearsight/cache"
	"nearsight/origin"
	"nearsight/origin/file"
	"nearsight/origin/origintest"
	"nearsight/proxy"
	"nearsight/proxy/wire"
	"nearsight/registry"
	"nearsight/registry/api"
	"nearsight/registry/bus"
	"nearsight/registry/db"
	"nearsight/registry/identity"
	"nearsight/registry/remote"
)

// A site is a whole central in this process.
type site struct {
	db      *db.DB
	store   *file.Store
	records *proxy.Records
	url     string
}

func newSite(t *testing.T, who identity.Identifier) *site {
	t.Helper()
	s := &site{}
	dir := t.TempDir()
	var local *bus.Local
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	var err error
	s.db, err = db.Open(t.Context(), db.Options{Path: filepath.Join(dir, "registry.db"), Grace: -1, Notify: func(r int64) { local.Notify(r) }})
	must(err)
	t.Cleanup(func() { s.db.Close() })
	local = bus.New(s.db)
	s.store, err = file.Open(file.Options{Dir: filepath.Join(dir, "images")})
	must(err)
	kept, err := cache.Open(cache.Options{Dir: filepath.Join(dir, "cache"), Log: quiet})
	must(err)
	t.Cleanup(func() { kept.Close() })
	s.records = proxy.NewRecords(proxy.RecordsOptions{Images: s.db, Log: s.db, Events: local, Logger: quiet})
	calls := api.New(api.Options{
		Images: s.records, Uploads: s.records.Uploads(s.db), Store: s.store, Log: quiet, Identity: who,
		Nodes: api.Nodes{Secret: secret, Images: s.db, Log: s.db, Events: local, Edges: s.db},
	})
	p := proxy.New(proxy.Options{Records: s.records, API: calls, Cache: kept, Store: s.store, Log: quiet})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(err)
	s.url = "http://" + l.Addr().String()
	wires := &wire.Server{NewAnswerer: p.Direct}
	server := proxy.Server(p.Handler(), quiet)
	var serving sync.WaitGroup
	serving.Go(func() { wires.Serve(l) })
	serving.Go(func() { server.Serve(wires.Rest(l)) })
	run(t, p.Run)
	run(t, calls.Run)
	t.Cleanup(func() {
		server.Close()
		cut, now := context.WithCancel(context.Background())
		now()
		wires.Shutdown(cut)
		serving.Wait()
	})
	return s
}

// add makes an active image of data that the store of the site has.
func (s *site) add(ctx context.Context, id string, loc origin.Location, sum origin.Summary) error {
	img := &registry.Image{ID: id, Visibility: registry.Private, DiskFormat: "raw", ContainerFormat: "bare"}
	if _, err := s.records.Create(ctx, img); err != nil {
		return err
	}
	uploads := s.records.Uploads(s.db)
	if _, err := uploads.Begin(ctx, id, loc); err != nil {
		return err
	}
	_, err := uploads.Finish(ctx, id, loc, sum)
	return err
}

// A shelf is the store of a site whose objects are read as an edge reads them: from the
// central. Each is an image; the next object at a location is another image.
type shelf struct {
	origin.Store
	site *site

	mu    sync.Mutex
	at    map[string]string // image ids by location
	where map[string]origin.Location
}

func newShelf(t *testing.T) *shelf {
	s := newSite(t, people{})
	r := newRemote(t, s.url, nil)
	return &shelf{Store: r.Store(), site: s, at: map[string]string{}, where: map[string]origin.Location{}}
}

// central returns the location of the image at loc.
func (s *shelf) central(loc origin.Location) origin.Location {
	s.mu.Lock()
	defer s.mu.Unlock()
	if id := s.at[loc.URL]; id != "" {
		loc.URL = "nearsight://central/" + id
	}
	return loc
}

func (s *shelf) Stat(ctx context.Context, loc origin.Location) (origin.Info, error) {
	return s.Store.Stat(ctx, s.central(loc))
}

func (s *shelf) Open(ctx context.Context, loc origin.Location, off, n int64) (*origin.Object, error) {
	return s.Store.Open(ctx, s.central(loc), off, n)
}

func (s *shelf) Locate(string) origin.Location {
	return origin.Location{URL: "nearsight://central/" + uuid.NewString()}
}

func (s *shelf) Put(ctx context.Context, loc origin.Location, size int64, r io.Reader) (origin.Location, error) {
	if !strings.HasPrefix(loc.URL, "nearsight://central/") {
		return loc, fmt.Errorf("%w: not here", origin.ErrLocation)
	}
	file, sum, err := origin.Ingest(ctx, s.site.store, s.site.store.Locate("x"), size, r)
	if err != nil {
		return loc, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.at[loc.URL] != "" {
		return loc, errors.Join(origin.ErrExists, s.site.store.Delete(ctx, file))
	}
	id := uuid.NewString()
	if err := s.site.add(ctx, id, file, sum); err != nil {
		return loc, err
	}
	s.at[loc.URL], s.where[loc.URL] = id, file
	return origin.Location{URL: loc.URL, Validator: string(sum.Digest)}, nil
}

func (s *shelf) Delete(ctx context.Context, loc origin.Location) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if !strings.HasPrefix(loc.URL, "nearsight://central/") {
		return fmt.Errorf("%w: not here", origin.ErrLocation)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	id := s.at[loc.URL]
	if id == "" {
		return nil
	}
	if err := s.site.records.Delete(ctx, id, nil); err != nil {
		return err
	}
	where := s.where[loc.URL]
	delete(s.at, loc.URL)
	delete(s.where, loc.URL)
	return s.site.store.Delete(ctx, where)
}

func TestConformanceOfDataFromACentral(t *testing.T) {
	origintest.TestStore(t, func(t *testing.T) origin.WriteStore { return newShelf(t) })
}

// What edges of a central see when nobody has told them apart, or told that they may not.
func TestDataIsForNodes(t *testing.T) {
	s := newSite(t, people{})
	file, sum, err := origin.Ingest(t.Context(), s.store, s.store.Locate(id1), 4, strings.NewReader("data"))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.add(t.Context(), id1, file, sum); err != nil {
		t.Fatal(err)
	}
	if _, err := s.records.Update(t.Context(), id1, func(img *registry.Image) error {
		img.Status = registry.Deactivated // that is the edge's to refuse
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.records.Create(t.Context(), &registry.Image{ID: id2, Visibility: registry.Public}); err != nil {
		t.Fatal(err)
	}
	at := func(id string) origin.Location { return origin.Location{URL: "nearsight://central/" + id} }
	r := newRemote(t, s.url, nil)
	img, err := r.Get(t.Context(), id1)
	if err != nil {
		t.Fatal(err)
	}
	o, err := r.Store().Open(t.Context(), img.Locations[0], 1, 2)
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(o.Body)
	o.Body.Close()
	if string(got) != "at" || err != nil || o.Validator != string(img.Digest) {
		t.Errorf("%q, %v, validator %q", got, err, o.Validator)
	}
	if _, err := r.Store().Stat(t.Context(), at(id2)); !errors.Is(err, origin.ErrNotFound) {
		t.Errorf("an image without data: %v", err)
	}
	wrong := newRemote(t, s.url, func(o *remote.Options) { o.Secret = "wrong" }).Store()
	if _, err := wrong.Open(t.Context(), at(id1), 0, -1); !errors.Is(err, origin.ErrUnavailable) || strings.Contains(err.Error(), "wrong") {
		t.Errorf("with another secret: %v", err)
	}
}

func TestLocationsOfOthersAreRefused(t *testing.T) {
	s := overWire(t, func(r *http.Request) (*http.Response, error) {
		t.Errorf("asked %s", r.URL)
		return nil, errCut
	}, nil).Store()
	for _, loc := range []origin.Location{
		{}, {URL: "nearsight://central/"}, {URL: "nearsight://central/x"}, {URL: "nearsight://central/" + id1 + "/file"}, {URL: "nearsight://central/../" + id1},
		{URL: "nearsight://other/" + id1}, {URL: "http://central/" + id1}, {URL: "nearsight://central/" + id1, Validator: `"`}, {URL: "nearsight://central/" + id1, Validator: "a\nb"},
	} {
		if _, err := s.Stat(t.Context(), loc); !errors.Is(err, origin.ErrLocation) {
			t.Errorf("Stat of %+v: %v", loc, err)
		}
		if _, err := s.Open(t.Context(), loc, 0, -1); !errors.Is(err, origin.ErrLocation) {
			t.Errorf("Open of %+v: %v", loc, err)
		}
	}
}

func TestAnAnswerIsDataIfItSaysWhichAndHowMuch(t *testing.T) {
	const tag = `ETag: "v"`
	sized := func(resp *http.Response, n int64) *http.Response {
		resp.ContentLength = n
		return resp
	}
	canon := func(resp *http.Response) *http.Response {
		h := http.Header{}
		for name, lines := range resp.Header {
			h[http.CanonicalHeaderKey(name)] = lines
		}
		resp.Header = h
		return resp
	}
	for _, tt := range []struct {
		name      string
		answer    *http.Response
		validator string
		off, n    int64
		want      string
		offset    int64 // said
		size      int64
		open      error
		read      error
	}{
		{"the whole", reply(200, "0123456789", tag), "v", 0, -1, "0123456789", 0, 10, nil, nil},
		{"a part", reply(206, "234", tag, "Content-Range: bytes 2-4/10"), "v", 2, 3, "234", 2, 10, nil, nil},
		{"another part is told as such", reply(206, "56", tag, "Content-Range: bytes 5-6/10"), "v", 2, 3, "56", 5, 10, nil, nil},
		{"the whole for a part is told as such", reply(200, "0123456789", tag), "v", 2, 3, "0123456789", 0, 10, nil, nil},
		{"a whole that is cut", sized(reply(200, "0123", tag), 10), "v", 0, -1, "0123", 0, 10, nil, io.ErrUnexpectedEOF},
		{"a part that is cut", sized(reply(206, "2", tag, "Content-Range: bytes 2-4/10"), 3), "v", 2, 3, "2", 2, 10, nil, io.ErrUnexpectedEOF},
		{"more than it said", sized(reply(200, "0123456789", tag), 4), "v", 0, -1, "0123", 0, 4, nil, origin.ErrUnavailable},
		{"no length", sized(reply(200, "0123", tag), -1), "v", 0, -1, "", 0, 0, origin.ErrUnavailable, nil},
		{"a part in chunks", sized(reply(206, "234", tag, "Content-Range: bytes 2-4/10"), -1), "v", 2, 3, "234", 2, 10, nil, nil},
		{"a part of another length", reply(206, "23", tag, "Content-Range: bytes 2-4/10"), "v", 2, 3, "", 0, 0, origin.ErrUnavailable, nil},
		{"a part of nobody knows what", reply(206, "234", tag), "v", 2, 3, "", 0, 0, origin.ErrUnavailable, nil},
		{"a part of two kinds", reply(206, "234", tag, "Content-Range: bytes 2-4/10", "Content-Range: bytes 3-5/10"), "v", 2, 3, "", 0, 0, origin.ErrUnavailable, nil},
		{"a part of nobody knows how much", reply(206, "234", tag, "Content-Range: bytes 2-4/*"), "v", 2, 3, "", 0, 0, origin.ErrUnavailable, nil},
		{"other data", reply(200, "0123", `ETag: "w"`), "v", 0, -1, "", 0, 0, origin.ErrChanged, nil},
		{"data without a tag", reply(200, "0123"), "v", 0, -1, "", 0, 0, origin.ErrChanged, nil},
		{"data with a weak tag", reply(200, "0123", `ETag: W/"v"`), "v", 0, -1, "", 0, 0, origin.ErrChanged, nil},
		{"data without a tag, as none was wanted", reply(200, "0123"), "", 0, -1, "0123", 0, 4, nil, nil},
		{"data in an encoding", reply(200, "0123", tag, "Content-Encoding: gzip"), "v", 0, -1, "", 0, 0, origin.ErrUnavailable, nil},
		{"a condition that failed", reply(412, "", tag), "v", 0, -1, "", 0, 0, origin.ErrChanged, nil},
		{"no such image", reply(404, "", tag), "v", 0, -1, "", 0, 0, origin.ErrNotFound, nil},
		{"no data yet", reply(204, ""), "v", 0, -1, "", 0, 0, origin.ErrNotFound, nil},
		{"no node", reply(401, ""), "v", 0, -1, "", 0, 0, origin.ErrUnavailable, nil},
		{"not allowed", reply(403, ""), "v", 0, -1, "", 0, 0, origin.ErrUnavailable, nil},
		{"it fails", reply(500, ""), "v", 0, -1, "", 0, 0, origin.ErrUnavailable, nil},
		{"elsewhere", reply(302, "", "Location: http://x"), "v", 0, -1, "", 0, 0, origin.ErrUnavailable, nil},
		{"not modified", reply(304, ""), "v", 0, -1, "", 0, 0, origin.ErrUnavailable, nil},
		{"a range that is there and refused", reply(416, "", tag), "v", 2, 3, "", 0, 0, origin.ErrUnavailable, nil},
		{"beyond the end", reply(416, "", tag), "v", 10, 3, "", 10, 10, nil, nil},
		{"no bytes", nil, "v", 4, 0, "", 4, 10, nil, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := overWire(t, func(r *http.Request) (*http.Response, error) {
				if r.Header.Get("Accept-Encoding") != "identity" || tt.validator != "" && r.Header.Get("If-Match") != `"`+tt.validator+`"` {
					t.Errorf("asked with %v", r.Header)
				}
				if r.Method == http.MethodHead {
					return canon(sized(reply(200, "", tag), 10)), nil
				}
				return canon(tt.answer), nil
			}, nil).Store()
			o, err := s.Open(t.Context(), origin.Location{URL: "nearsight://central/" + id1, Validator: tt.validator}, tt.off, tt.n)
			if tt.open != nil {
				if !errors.Is(err, tt.open) || strings.Contains(err.Error(), secret) {
					t.Errorf("error %v, want %v", err, tt.open)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer o.Body.Close()
			body, err := io.ReadAll(o.Body)
			if string(body) != tt.want || tt.read == nil && err != nil || !errors.Is(err, tt.read) {
				t.Errorf("body %q, %v; want %q, %v", body, err, tt.want, tt.read)
			}
			if o.Size != tt.size || o.Offset != tt.offset {
				t.Errorf("offset %d of %d, want %d of %d", o.Offset, o.Size, tt.offset, tt.size)
			}
		})
	}
}

func TestACentralSaysWhenToAskAgain(t *testing.T) {
	for field, want := range map[string]time.Duration{"5": 5 * time.Second, "": 0, "-5": 0, "x": 0, "999999999": 24 * time.Hour} {
		s := overWire(t, func(*http.Request) (*http.Response, error) { return reply(503, "", "Retry-After: "+field), nil }, nil).Store()
		_, err := s.Stat(t.Context(), origin.Location{URL: "nearsight://central/" + id1})
		var wish interface{ RetryAfter() time.Duration }
		if !errors.Is(err, origin.ErrUnavailable) || !errors.As(err, &wish) || wish.RetryAfter() != want {
			t.Errorf("%q: %v", field, err)
		}
	}
}
