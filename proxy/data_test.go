package proxy

import (
	"bytes"
	"crypto/md5"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gin-gonic/gin"

	"nearsight/cache"
	"nearsight/origin"
	"nearsight/origin/file"
	"nearsight/registry"
)

const chunk = origin.MinChunkSize

// Each request comes to a cold cache, so opens tells what it cost the origin.
func TestWhatARequestGetsAndCosts(t *testing.T) {
	data := pattern(5<<20+3, 1)
	s := newSite(t, siteConfig{})
	img := s.add(data, nil)
	tag := `"` + string(img.Digest) + `"`
	modified := img.ActivatedAt.Truncate(time.Second).Format(http.TimeFormat)
	n := len(data)
	for _, tt := range []struct {
		name   string
		method string
		fields []string
		status int
		body   []byte // of 200 and 206
		opens  bool
	}{
		{"whole", "GET", nil, 200, data, true},
		{"one range", "GET", []string{"Range: bytes=100-199"}, 206, data[100:200], true},
		{"a range over the edge of a chunk", "GET", []string{fmt.Sprintf("Range: bytes=%d-%d", chunk-1, chunk)}, 206, data[chunk-1 : chunk+1], true},
		{"the footer", "GET", []string{"Range: bytes=-512"}, 206, data[n-512:], true},
		{"a range clipped to the end", "GET", []string{"Range: bytes=5242880-99999999"}, 206, data[5242880:], true},
		{"a range of an unknown unit", "GET", []string{"Range: items=0-9"}, 200, data, true},
		{"too many ranges", "GET", []string{"Range: bytes=" + strings.Repeat("0-,", 60)}, 200, data, true},
		{"a range under a false If-Range", "GET", []string{"Range: bytes=0-9", `If-Range: "old"`}, 200, data, true},
		{"a range of the version that is here", "GET", []string{"Range: bytes=0-9", "If-Match: " + tag}, 206, data[:10], true},
		{"a coding is refused to nobody and used for nobody", "GET", []string{"Accept-Encoding: gzip, br, identity;q=0", "Range: bytes=0-9"}, 206, data[:10], true},
		{"a front's fields change nothing", "GET", []string{"Via: 1.1 varnish", "X-Forwarded-For: 192.0.2.1", "Surrogate-Capability: x=ESI/1.0", "Range: bytes=0-9"}, 206, data[:10], true},

		{"head asks nothing of the origin", "HEAD", nil, 200, nil, false},
		{"head ignores a range", "HEAD", []string{"Range: bytes=0-9"}, 200, nil, false},
		{"head ignores an unsatisfiable range", "HEAD", []string{"Range: bytes=99999999-"}, 200, nil, false},
		{"the tag matches", "GET", []string{"If-None-Match: " + tag}, 304, nil, false},
		{"the tag matches on head", "HEAD", []string{"If-None-Match: W/" + tag}, 304, nil, false},
		{"not modified since", "GET", []string{"If-Modified-Since: " + modified}, 304, nil, false},
		{"another version is wanted", "GET", []string{`If-Match: "old"`, "Range: bytes=0-9"}, 412, nil, false},
		{"another version is wanted on head", "HEAD", []string{`If-Match: "old"`}, 412, nil, false},
		{"a range past the end", "GET", []string{fmt.Sprintf("Range: bytes=%d-", n)}, 416, nil, false},
		{"a malformed range", "GET", []string{"Range: bytes=9-5"}, 416, nil, false},
		{"not in the cache and nothing else wanted", "GET", []string{"Cache-Control: max-age=0, Only-If-Cached"}, 504, nil, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s.drop(img)
			before := s.store.Opens.Load()
			a := s.file(tt.method, img, tt.fields...)
			if a.StatusCode != tt.status || a.err != nil {
				t.Fatalf("status %d (%v), want %d", a.StatusCode, a.err, tt.status)
			}
			if opened := s.store.Opens.Load() > before; opened != tt.opens {
				t.Errorf("the origin was opened: %v, want %v", opened, tt.opens)
			}
			if tt.body != nil && !bytes.Equal(a.body, tt.body) {
				t.Errorf("%d bytes that differ from the %d wanted", len(a.body), len(tt.body))
			}
			checkFields(t, a, img, tt.method, len(tt.body))
		})
	}
}

// checkFields checks the header that a status must have.
func checkFields(t *testing.T, a answer, img *registry.Image, method string, length int) {
	t.Helper()
	want := map[string]string{
		"Age": "", "Via": "", "Vary": "", "Set-Cookie": "", "Surrogate-Control": "", "Cdn-Cache-Control": "",
		"Content-Encoding": "", "Transfer-Encoding": "",
	}
	digest, _ := hex.DecodeString(img.HashValue)
	validators := map[string]string{
		"Etag":          `"` + string(img.Digest) + `"`,
		"Last-Modified": img.ActivatedAt.Truncate(time.Second).Format(http.TimeFormat),
		"Cache-Control": "public, max-age=60, stale-while-revalidate=30, stale-if-error=86400",
		"Repr-Digest":   "sha-512=:" + base64.StdEncoding.EncodeToString(digest) + ":",
		"Xkey":          "img-" + img.ID + " blob-" + string(img.Digest[:16]),
		"Cache-Groups":  `"img-` + img.ID + `", "blob-` + string(img.Digest[:16]) + `"`,
	}
	content := map[string]string{
		"Content-Type": "application/octet-stream", "X-Content-Type-Options": "nosniff", "Accept-Ranges": "bytes",
		"Content-Disposition": `attachment; filename="debian"`, "Content-Md5": img.Checksum,
	}
	if method == "HEAD" {
		length = int(*img.Size)
	}
	switch a.StatusCode {
	case 200, 206:
		content["Content-Length"] = strconv.Itoa(length)
		for _, m := range []map[string]string{validators, content} {
			for k, v := range m {
				want[k] = v
			}
		}
		if a.StatusCode == 200 {
			want["Content-Range"] = ""
		}
	case 304:
		for k, v := range validators {
			want[k] = v
		}
		want["Content-Type"], want["Content-Range"] = "", ""
	default:
		for k := range validators {
			want[k] = ""
		}
		want["Cache-Control"], want["Cache-Status"] = "no-store", ""
		if a.StatusCode == 416 {
			want["Content-Range"] = fmt.Sprintf("bytes */%d", *img.Size)
		}
		if method != "HEAD" && len(a.body) == 0 {
			t.Error("an error without an explanation")
		}
	}
	for name, value := range want {
		if got := a.Header.Get(name); got != value {
			t.Errorf("%s: %q, want %q", name, got, value)
		}
	}
	if _, err := http.ParseTime(a.Header.Get("Date")); err != nil {
		t.Errorf("Date: %v", err)
	}
	if (method == "HEAD" || a.StatusCode == 304) && len(a.body) > 0 {
		t.Errorf("%d bytes of body", len(a.body))
	}
}

func (s *site) drop(img *registry.Image) {
	s.t.Helper()
	if err := s.cache.Drop(img.Digest); err != nil && !errors.Is(err, cache.ErrNotCached) {
		s.t.Fatal(err)
	}
}

func TestDigestsAreThoseOfTheWhole(t *testing.T) {
	data := pattern(1000, 1)
	s := newSite(t, siteConfig{})
	a := s.file("GET", s.add(data, nil), "Range: bytes=0-9")
	sum512, sum5 := sha512.Sum512(data), md5.Sum(data)
	if got, want := a.Header.Get("Repr-Digest"), "sha-512=:"+base64.StdEncoding.EncodeToString(sum512[:])+":"; got != want {
		t.Errorf("Repr-Digest %s, want %s", got, want)
	}
	if got, want := a.Header.Get("Content-MD5"), hex.EncodeToString(sum5[:]); got != want {
		t.Errorf("Content-MD5 %s, want %s", got, want)
	}
	if got := a.Header.Get("Content-Range"); got != "bytes 0-9/1000" {
		t.Errorf("Content-Range %s", got)
	}
}

func TestCacheStatusTellsWhatWasFound(t *testing.T) {
	data := pattern(5<<20+3, 1)
	s := newSite(t, siteConfig{})
	img := s.add(data, nil)
	for _, tt := range []struct{ name, field, want string }{
		{"a cold range", "Range: bytes=0-9", "nearsight; fwd=miss; stored"},
		{"the same again", "Range: bytes=0-9", "nearsight; hit"},
		{"another byte of the chunk", "Range: bytes=262143-262143", "nearsight; hit"},
		{"half of it is here", "Range: bytes=262143-262144", "nearsight; fwd=partial; stored"},
		{"and now all", "Range: bytes=262143-262144", "nearsight; hit"},
		{"what is here is given to who wants nothing fetched", "Cache-Control: only-if-cached\nRange: bytes=0-262144", "nearsight; hit"},
		{"no-cache fetches nothing anew", "Cache-Control: no-cache\nPragma: no-cache\nRange: bytes=0-9", "nearsight; hit"},
		{"several ranges, one of them here", "Range: bytes=0-0,4000000-4000001", "nearsight; fwd=partial; stored"},
		{"the whole", "X: y", "nearsight; fwd=partial; stored"},
		{"the whole again", "X: y", "nearsight; hit"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := s.store.Opens.Load()
			a := s.file("GET", img, strings.Split(tt.field, "\n")...)
			if got := a.Header.Get("Cache-Status"); got != tt.want {
				t.Errorf("%q, want %q", got, tt.want)
			}
			if opened := s.store.Opens.Load() > before; opened == strings.HasSuffix(tt.want, "hit") {
				t.Errorf("the origin was opened: %v", opened)
			}
		})
	}
	if got := s.store.Bytes.Load(); got != int64(len(data)) {
		t.Errorf("the origin gave %d bytes for an image of %d", got, len(data))
	}
}

func TestSeveralRangesComeAsParts(t *testing.T) {
	data := pattern(2<<20, 1)
	s := newSite(t, siteConfig{})
	img := s.add(data, nil)
	for _, tt := range []struct {
		set   string
		spans []span
	}{
		{"0-511,-512", []span{{0, 512}, {2<<20 - 512, 512}}},
		{"1000-1009,0-9", []span{{1000, 10}, {0, 10}}},
		{"0-9,10-19", []span{{0, 10}, {10, 10}}},
		{"5-5,5-5", []span{{5, 1}, {5, 1}}},
		{" 262143-262144 ,\t,9999999-, 0-0", []span{{262143, 2}, {0, 1}}},
	} {
		t.Run(tt.set, func(t *testing.T) {
			a := s.file("GET", img, "Range: bytes="+tt.set)
			media, params, err := mime.ParseMediaType(a.Header.Get("Content-Type"))
			if err != nil || a.StatusCode != 206 || media != "multipart/byteranges" || a.Header.Get("Content-Range") != "" {
				t.Fatalf("%d %v", a.StatusCode, a.Header)
			}
			if a.ContentLength != int64(len(a.body)) || len(params["boundary"]) < 22 {
				t.Errorf("Content-Length %d for %d bytes, boundary %q", a.ContentLength, len(a.body), params["boundary"])
			}
			parts := multipart.NewReader(bytes.NewReader(a.body), params["boundary"])
			for _, want := range tt.spans {
				part, err := parts.NextRawPart()
				if err != nil {
					t.Fatal(err)
				}
				body, err := io.ReadAll(part)
				if err != nil || !bytes.Equal(body, data[want.off:want.off+want.n]) {
					t.Errorf("part %v: %d bytes, %v", want, len(body), err)
				}
				if got := part.Header.Get("Content-Range"); got != contentRange(want, int64(len(data))) {
					t.Errorf("Content-Range %s", got)
				}
				if got := part.Header.Get("Content-Type"); got != "application/octet-stream" {
					t.Errorf("Content-Type %s", got)
				}
			}
			if _, err := parts.NextRawPart(); err != io.EOF {
				t.Errorf("after the last part: %v", err)
			}
		})
	}
}

func TestAnImageOfNoBytes(t *testing.T) {
	s := newSite(t, siteConfig{})
	img := s.add(nil, nil)
	for _, tt := range []struct {
		method string
		field  string
		status int
	}{
		{"GET", "X: y", 200}, {"HEAD", "X: y", 200}, {"GET", "Range: bytes=0-0", 200}, {"GET", "Range: bytes=-5", 200},
		{"GET", `If-None-Match: "` + string(img.Digest) + `"`, 304},
	} {
		a := s.file(tt.method, img, tt.field)
		if a.StatusCode != tt.status || len(a.body) != 0 || a.Header.Get("Content-Range") != "" {
			t.Errorf("%s %s: %d, %d bytes, %v", tt.method, tt.field, a.StatusCode, len(a.body), a.Header)
		}
		if tt.status == 200 && a.Header.Get("Content-Length") != "0" {
			t.Errorf("%s %s: Content-Length %q", tt.method, tt.field, a.Header.Get("Content-Length"))
		}
	}
	if n := s.store.Opens.Load(); n != 0 {
		t.Errorf("the origin was opened %d times", n)
	}
}

func TestAnImageWithoutData(t *testing.T) {
	s := newSite(t, siteConfig{})
	queued, err := s.records.Create(t.Context(), &registry.Image{Visibility: registry.Public, DiskFormat: "raw", ContainerFormat: "bare"})
	if err != nil {
		t.Fatal(err)
	}
	saving, err := s.records.Create(t.Context(), &registry.Image{Visibility: registry.Public, DiskFormat: "raw", ContainerFormat: "bare"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.records.Uploads(s.db).Begin(t.Context(), saving.ID, s.store.Locate(saving.ID)); err != nil {
		t.Fatal(err)
	}
	deleted := s.add(pattern(10, 1), nil)
	if err := s.records.Delete(t.Context(), deleted.ID, nil); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, id string
		status   int
	}{
		{"queued", queued.ID, 204}, {"saving", saving.ID, 204}, {"deleted", deleted.ID, 404},
		{"unknown", idA, 404}, {"no id", "nope", 404},
	} {
		for _, method := range []string{"GET", "HEAD"} {
			for _, field := range []string{"X: y", "Range: bytes=0-9", "If-None-Match: *"} {
				a := s.do(method, "/v2/images/"+tt.id+"/file", field)
				if a.StatusCode != tt.status || a.Header.Get("Cache-Control") != "no-store" {
					t.Errorf("%s of %s with %s: %d %v", method, tt.name, field, a.StatusCode, a.Header)
				}
				if tt.status == 204 && len(a.body) > 0 {
					t.Errorf("%s of %s: a body", method, tt.name)
				}
			}
		}
	}
}

func TestEveryStatusHasItsAnswer(t *testing.T) {
	s := newSite(t, siteConfig{})
	size := int64(10)
	for _, tt := range []struct {
		status  registry.Status
		digest  origin.Digest
		want    int // 0: there is data
		private bool
	}{
		{registry.Queued, "", 204, true}, {registry.Saving, "", 204, true}, {registry.Uploading, "", 204, true},
		{registry.Importing, "", 204, true}, {registry.Killed, "", 204, true},
		{registry.PendingDelete, "d", 404, true}, {registry.Deleted, "d", 404, true},
		{registry.Active, "d", 0, false}, {registry.Deactivated, "d", 0, true},
		{registry.Active, "", 0, false},
	} {
		img := &registry.Image{ID: idA, Status: tt.status, Digest: tt.digest, Size: &size, Visibility: registry.Public}
		rec := httptest.NewRecorder()
		c, _ := gin.CreateTestContext(rec)
		c.Request = httptest.NewRequest("GET", "/", nil)
		d := &download{c: c, caller: registry.Everybody()}
		answered := s.proxy.refused(d, img)
		if answered != (tt.want != 0) || answered && rec.Code != tt.want {
			t.Errorf("%s: answered %v with %d, want %d", tt.status, answered, rec.Code, tt.want)
		}
		if got := freshness(img, s.proxy.open(img)); strings.HasPrefix(got, "private") != tt.private {
			t.Errorf("%s: Cache-Control %s", tt.status, got)
		}
	}
}

func TestFreshnessFollowsVisibility(t *testing.T) {
	s := newSite(t, siteConfig{})
	for visibility, want := range map[registry.Visibility]string{
		registry.Public: openFreshness, registry.Community: openFreshness,
		registry.Shared: "private, no-cache", registry.Private: "private, no-cache",
	} {
		img := s.add([]byte("some bytes of "+visibility), func(img *registry.Image) { img.Visibility = visibility })
		for _, fields := range [][]string{nil, {"Range: bytes=0-1"}, {`If-None-Match: *`}} {
			if a := s.file("GET", img, fields...); a.Header.Get("Cache-Control") != want {
				t.Errorf("%s, %v: %q", visibility, fields, a.Header.Get("Cache-Control"))
			}
		}
	}
}

// spy is a writer around net/http's that notes the files it is given.
type spy struct {
	http.ResponseWriter
	noted func(n int64) // a file of n bytes
}

func (w spy) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w spy) ReadFrom(src io.Reader) (int64, error) {
	if s, ok := src.(*cache.Section); ok {
		w.noted(s.N)
	}
	return w.ResponseWriter.(io.ReaderFrom).ReadFrom(src)
}

func TestAHitReachesTheConnectionAsAFile(t *testing.T) {
	var mu sync.Mutex
	var files []int64
	noted := func(n int64) {
		mu.Lock()
		defer mu.Unlock()
		files = append(files, n)
	}
	take := func() []int64 {
		mu.Lock()
		defer mu.Unlock()
		all := files
		files = nil
		return all
	}
	s := newSite(t, siteConfig{handle: func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.ServeHTTP(spy{w, noted}, r) })
	}})
	data := pattern(3*chunk, 1)
	img := s.add(data, nil)
	s.file("GET", img)
	take()
	if a := s.file("GET", img); !bytes.Equal(a.body, data) {
		t.Fatal("the bytes differ")
	}
	if got := take(); len(got) != 1 || got[0] != int64(len(data)) {
		t.Errorf("files of %v bytes, want one of %d", got, len(data))
	}
	s.file("GET", img, "Range: bytes=0-99999,200000-299999")
	if got := take(); len(got) != 2 || got[0] != 100000 || got[1] != 100000 {
		t.Errorf("files of %v bytes for two ranges", got)
	}
}

func TestALocalStoreIsServedInPlace(t *testing.T) {
	store, err := file.Open(file.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	s := newSite(t, siteConfig{store: store})
	data := pattern(3*chunk, 1)
	img := s.add(data, nil)
	if a := s.file("GET", img); !bytes.Equal(a.body, data) {
		t.Error("the bytes differ")
	}
	e, err := s.cache.Entry(img.Digest)
	if err != nil || !e.Local || e.Stored != 0 {
		t.Errorf("%+v, %v", e, err)
	}
}
