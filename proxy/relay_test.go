package proxy

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"nearsight/origin"
	"nearsight/origin/origintest"
	"nearsight/origin/web"
	"nearsight/registry"
)

// A farSite is a site with images that lie on a web server of somebody else.
type farSite struct {
	*site
	far *httptest.Server

	mu     sync.Mutex
	answer http.HandlerFunc
	asked  []string // method and range
}

func newFarSite(t *testing.T, answer http.HandlerFunc) *farSite {
	t.Helper()
	f := &farSite{answer: answer}
	f.far = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		f.asked = append(f.asked, strings.TrimSpace(r.Method+" "+r.Header.Get("Range")))
		answer := f.answer
		f.mu.Unlock()
		answer(w, r)
	}))
	t.Cleanup(f.far.Close)
	u, _ := url.Parse(f.far.URL)
	port, _ := strconv.ParseUint(u.Port(), 10, 16)
	store, err := web.New(web.Options{Guard: web.Guard{
		Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, AllowPorts: []web.Ports{{First: uint16(port), Last: uint16(port)}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	set, err := origin.NewSet("near",
		origin.Member{Name: "near", Kind: "fake", Store: &origintest.Fake{Name: "near"}},
		origin.Member{Name: "far", Kind: "http", Store: store},
	)
	if err != nil {
		t.Fatal(err)
	}
	f.site = newSite(t, siteConfig{store: set})
	return f
}

func (f *farSite) set(answer http.HandlerFunc) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.answer = answer
}

func (f *farSite) requests() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := strings.Join(f.asked, "|")
	f.asked = nil
	return s
}

// register makes an image of a path of the far server, as it is now.
func (f *farSite) register(paths ...string) *registry.Image {
	f.t.Helper()
	ctx := f.t.Context()
	name := "debian"
	img, err := f.records.Create(ctx, &registry.Image{Name: &name, DiskFormat: "raw", ContainerFormat: "bare", Visibility: registry.Public})
	if err != nil {
		f.t.Fatal(err)
	}
	for _, path := range paths {
		loc := origin.Location{URL: f.far.URL + path}
		info, err := f.proxy.store.Stat(ctx, loc)
		if err != nil {
			f.t.Fatal(err)
		}
		loc.Validator = info.Validator
		if img, err = f.records.Locations(f.db).AddLocation(ctx, img.ID, loc, info.Size, nil); err != nil {
			f.t.Fatal(err)
		}
	}
	f.requests()
	return img
}

var longAgo = time.Date(2020, 1, 2, 3, 4, 5, 0, time.UTC)

// serveFile answers as a good web server does; etag may be "".
func serveFile(data []byte, etag string, modified time.Time) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if etag != "" {
			w.Header().Set("ETag", etag)
		}
		http.ServeContent(w, r, "", modified, bytes.NewReader(data))
	}
}

// serveChunks answers without a length, without ranges, and with an ETag.
func serveChunks(data []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"c"`)
		w.WriteHeader(http.StatusOK)
		http.NewResponseController(w).Flush()
		w.Write(data)
	}
}

// serveWhole knows the length and no ranges.
func serveWhole(data []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"w"`)
		w.Header().Set("Content-Length", strconv.Itoa(len(data)))
		w.Write(data)
	}
}

func TestDataWithoutADigestIsRelayed(t *testing.T) {
	data := pattern(3<<20, 1)
	f := newFarSite(t, serveFile(data, `"secret-inode"`, longAgo))
	img := f.register("/debian.img")
	first := f.file("HEAD", img)
	tag := first.Header.Get("Etag")
	if len(tag) != 34 || strings.Contains(tag, "secret") {
		t.Fatalf("ETag %q", tag)
	}
	date := longAgo.Format(http.TimeFormat)
	f.requests()
	for _, tt := range []struct {
		name, method string
		fields       []string
		status       int
		body         []byte
		asked        string
	}{
		{"whole", "GET", nil, 200, data, "HEAD|GET"},
		{"head", "HEAD", nil, 200, nil, "HEAD"},
		{"one range", "GET", []string{"Range: bytes=100-199"}, 206, data[100:200], "HEAD|GET bytes=100-199"},
		{"the footer", "GET", []string{"Range: bytes=-512"}, 206, data[len(data)-512:], "HEAD|GET bytes=3145216-3145727"},
		{"a range of this version", "GET", []string{"Range: bytes=0-9", "If-Range: " + tag}, 206, data[:10], "HEAD|GET bytes=0-9"},
		{"a range of this date", "GET", []string{"Range: bytes=0-9", "If-Range: " + date}, 206, data[:10], "HEAD|GET bytes=0-9"},
		{"a range of another version", "GET", []string{"Range: bytes=0-9", `If-Range: "x"`}, 200, data, "HEAD|GET"},
		{"the tag matches", "GET", []string{"If-None-Match: " + tag}, 304, nil, "HEAD"},
		{"not modified since", "GET", []string{"If-Modified-Since: " + date}, 304, nil, "HEAD"},
		{"the origin's tag is not ours", "GET", []string{`If-Match: "secret-inode"`}, 412, nil, "HEAD"},
		{"a range past the end", "GET", []string{"Range: bytes=99999999-"}, 416, nil, "HEAD"},
		{"only what is cached", "GET", []string{"Cache-Control: only-if-cached"}, 504, nil, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := f.file(tt.method, img, tt.fields...)
			if a.StatusCode != tt.status || a.err != nil || tt.body != nil && !bytes.Equal(a.body, tt.body) {
				t.Fatalf("status %d, %d bytes, %v", a.StatusCode, len(a.body), a.err)
			}
			if got := f.requests(); got != tt.asked {
				t.Errorf("the origin was asked %s, want %s", got, tt.asked)
			}
			h := a.Header
			if a.StatusCode >= 400 {
				if h.Get("Etag") != "" || h.Get("Cache-Control") != "no-store" {
					t.Errorf("%v", h)
				}
				return
			}
			if h.Get("Etag") != tag || h.Get("Last-Modified") != date || h.Get("Cache-Control") != "no-cache" || h.Get("Xkey") != "img-"+img.ID ||
				h.Get("Repr-Digest") != "" || h.Get("Content-Md5") != "" {
				t.Errorf("%v", h)
			}
			if a.StatusCode == 304 {
				return
			}
			if tt.method == "GET" && h.Get("Cache-Status") != relayStatus || h.Get("Accept-Ranges") != "bytes" || h.Get("Content-Type") != dataType {
				t.Errorf("%v", h)
			}
			if want := int64(len(tt.body)); tt.method == "GET" && a.ContentLength != want || tt.method == "HEAD" && a.ContentLength != int64(len(data)) {
				t.Errorf("Content-Length %d", a.ContentLength)
			}
		})
	}
	f.eventually(func() bool { return strings.Contains(f.log.String(), `"cache":"bypass"`) })
}

func TestSeveralRangesAreRelayed(t *testing.T) {
	data := pattern(3<<20, 1)
	f := newFarSite(t, serveFile(data, `"v"`, longAgo))
	a := f.file("GET", f.register("/x"), "Range: bytes=5-9,2000000-2000099")
	_, params, err := mime.ParseMediaType(a.Header.Get("Content-Type"))
	if a.StatusCode != 206 || err != nil || a.ContentLength != int64(len(a.body)) {
		t.Fatalf("status %d, %v, %v", a.StatusCode, a.Header, err)
	}
	parts := multipart.NewReader(bytes.NewReader(a.body), params["boundary"])
	for _, s := range []span{{5, 5}, {2000000, 100}} {
		part, err := parts.NextPart()
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(part)
		if err != nil || !bytes.Equal(b, data[s.off:s.off+s.n]) || part.Header.Get("Content-Range") != contentRange(s, int64(len(data))) {
			t.Errorf("%d bytes of %v, %v, %v", len(b), s, part.Header, err)
		}
	}
}

// Without a validator nobody could tell that the second read was of the same bytes.
func TestSeveralRangesOfWhatHasNoValidatorAreTheWhole(t *testing.T) {
	data := pattern(3000, 1)
	f := newFarSite(t, serveFile(data, "", time.Time{}))
	a := f.file("GET", f.register("/x"), "Range: bytes=5-9,200-299")
	if a.StatusCode != 200 || !bytes.Equal(a.body, data) || a.Header.Get("Etag") != "" || a.Header.Get("Last-Modified") != "" {
		t.Errorf("status %d, %d bytes, %v", a.StatusCode, len(a.body), a.Header)
	}
}

func TestAWeakValidatorMakesNoTag(t *testing.T) {
	data := pattern(3000, 1)
	f := newFarSite(t, serveFile(data, `W/"v"`, longAgo))
	a := f.file("GET", f.register("/x"), "Range: bytes=5-9")
	if a.StatusCode != 206 || a.Header.Get("Etag") != "" || a.Header.Get("Last-Modified") != longAgo.Format(http.TimeFormat) {
		t.Errorf("status %d, %v", a.StatusCode, a.Header)
	}
}

func TestDataOfUnknownLengthComesInChunks(t *testing.T) {
	data := pattern(300_000, 1)
	f := newFarSite(t, serveChunks(data))
	img := f.register("/x")
	if img.Size != nil {
		t.Fatalf("size %d", *img.Size)
	}
	for _, fields := range [][]string{nil, {"Range: bytes=0-9"}, {"Range: bytes=99999999-"}} {
		a := f.file("GET", img, fields...)
		if a.StatusCode != 200 || a.err != nil || !bytes.Equal(a.body, data) || a.ContentLength != -1 || a.Header.Get("Accept-Ranges") != "" || a.Header.Get("Etag") == "" {
			t.Errorf("%v: status %d, %d bytes, %v, %v", fields, a.StatusCode, len(a.body), a.err, a.Header)
		}
	}
	if a := f.file("HEAD", img); a.StatusCode != 200 || a.Header.Get("Content-Length") != "" || a.Header.Get("Accept-Ranges") != "" {
		t.Errorf("HEAD: status %d, %v", a.StatusCode, a.Header)
	}
	if a := f.file("GET", img, `If-Match: "x"`); a.StatusCode != 412 {
		t.Errorf("If-Match: status %d", a.StatusCode)
	}
	old := f.raw("GET /v2/images/" + img.ID + "/file HTTP/1.0\r\n\r\n")
	if !strings.HasPrefix(old, "HTTP/1.0 505 ") && !strings.HasPrefix(old, "HTTP/1.1 505 ") {
		t.Errorf("HTTP/1.0 gets %.80q", old)
	}
}

func TestAServerWithoutRangesIsAnsweredWithTheWhole(t *testing.T) {
	data := pattern(3<<20, 1)
	f := newFarSite(t, serveWhole(data))
	img := f.register("/x")
	for _, tt := range []struct {
		ranges string
		status int
		body   []byte
	}{
		{"bytes=10-19", 206, data[10:20]}, // what lies before is little, and dropped
		{"bytes=2000000-2000009", 200, data},
		{"bytes=0-3145727", 206, data},
		{"bytes=2000000-2000009,5-9", 200, data},
	} {
		if a := f.file("GET", img, "Range: "+tt.ranges); a.StatusCode != tt.status || a.err != nil || !bytes.Equal(a.body, tt.body) {
			t.Errorf("%s: status %d, %d bytes, %v", tt.ranges, a.StatusCode, len(a.body), a.err)
		}
	}
}

func TestWhatBecameOfRelayedData(t *testing.T) {
	data := pattern(300_000, 1)
	status := func(code int) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(code) }
	}
	for _, tt := range []struct {
		name   string
		now    http.HandlerFunc
		status int
		text   string
	}{
		{"it is gone", status(404), 502, "not in its store any more"},
		{"it is gone for good", status(410), 502, "not in its store any more"},
		{"it was changed", serveFile(pattern(300_000, 2), `"v2"`, longAgo), 502, "not what it was"},
		{"it has another length under the same tag", serveFile(data[1:], `"v1"`, longAgo), 502, "not what it was"},
		{"its server refuses", status(403), 503, "does not answer"},
		{"its server fails", status(500), 503, "does not answer"},
		{"its server promises and does not keep it", func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodHead {
				serveFile(data, `"v1"`, longAgo)(w, r)
				return
			}
			w.Header().Set("ETag", `"v1"`)
			w.Header().Set("Content-Length", "300000")
			w.WriteHeader(200)
			http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}, 503, "does not answer"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFarSite(t, serveFile(data, `"v1"`, longAgo))
			img := f.register("/x")
			f.set(tt.now)
			a := f.file("GET", img)
			if a.StatusCode != tt.status || !strings.Contains(string(a.body), tt.text) || a.Header.Get("Etag") != "" {
				t.Errorf("status %d: %s", a.StatusCode, a.body)
			}
			if strings.Contains(string(a.body), "127.0.0.1") {
				t.Errorf("the answer names the server: %s", a.body)
			}
			if !strings.Contains(f.log.String(), `"level":"WARN"`) {
				t.Errorf("the log: %s", f.log)
			}
			f.set(serveFile(data, `"v1"`, longAgo))
			if a := f.file("GET", img); a.StatusCode != 200 || !bytes.Equal(a.body, data) {
				t.Errorf("afterwards: status %d", a.StatusCode)
			}
		})
	}
}

func TestRelayedDataThatBreaksOffBreaksTheAnswer(t *testing.T) {
	data := pattern(3<<20, 1)
	for _, unknown := range []bool{false, true} {
		t.Run(fmt.Sprintf("length unknown: %v", unknown), func(t *testing.T) {
			cut := func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("ETag", `"v"`)
				if !unknown {
					w.Header().Set("Content-Length", strconv.Itoa(len(data)))
				}
				w.WriteHeader(200)
				http.NewResponseController(w).Flush()
				if r.Method == http.MethodHead || r.Header.Get("Range") != "" {
					return
				}
				w.Write(data[:2<<20])
				http.NewResponseController(w).Flush()
				panic(http.ErrAbortHandler)
			}
			f := newFarSite(t, cut)
			a := f.file("GET", f.register("/x"))
			if a.StatusCode != 200 || a.err == nil || !bytes.HasPrefix(data, a.body) {
				t.Errorf("status %d, %d bytes, %v", a.StatusCode, len(a.body), a.err)
			}
		})
	}
}

// The record says how long the data is, where its server does not any more.
func TestRelayedDataOfAnotherLengthThanRecordedBreaksTheAnswer(t *testing.T) {
	data := pattern(300_000, 1)
	for _, now := range [][]byte{data[:200_000], append(pattern(300_000, 1), 1)} {
		f := newFarSite(t, serveFile(data, `"c"`, time.Time{}))
		img := f.register("/x")
		f.set(serveChunks(now))
		if a := f.file("GET", img); a.StatusCode == 200 && a.err == nil {
			t.Errorf("%d bytes pass for %d", len(a.body), len(data))
		}
	}
}

func TestTheNextLocationIsRelayedBeforeTheFirstByte(t *testing.T) {
	data := pattern(300_000, 1)
	f := newFarSite(t, serveFile(data, `"v1"`, longAgo))
	img := f.register("/a", "/b")
	whole := f.file("HEAD", img).Header.Get("Etag")
	f.set(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/a" {
			w.WriteHeader(404)
			return
		}
		serveFile(data, `"v1"`, longAgo)(w, r)
	})
	a := f.file("GET", img)
	if a.StatusCode != 200 || !bytes.Equal(a.body, data) {
		t.Fatalf("status %d", a.StatusCode)
	}
	if tag := a.Header.Get("Etag"); tag == whole || tag == "" {
		t.Errorf("another location has the tag %s of the first", tag)
	}
	if a := f.file("GET", img, "If-Match: "+whole, "Range: bytes=5-9"); a.StatusCode != 412 {
		t.Errorf("a download that goes on elsewhere: status %d", a.StatusCode)
	}
}

func TestOnceHashedDataGoesTheUsualWay(t *testing.T) {
	data := pattern(300_000, 1)
	f := newFarSite(t, serveFile(data, `"v1"`, longAgo))
	img := f.register("/x")
	f.file("GET", img)
	scratch := &origintest.Fake{}
	_, sum, err := origin.Ingest(t.Context(), scratch, scratch.Locate("x"), -1, bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	if img, err = f.records.Locations(f.db).Hashed(t.Context(), img.ID, img.Locations[0], sum); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"nearsight; fwd=miss; stored", "nearsight; hit"} {
		a := f.file("GET", img)
		if a.StatusCode != 200 || !bytes.Equal(a.body, data) || a.Header.Get("Etag") != `"`+string(img.Digest)+`"` || a.Header.Get("Cache-Status") != want {
			t.Errorf("status %d, %v", a.StatusCode, a.Header)
		}
	}
	// The bytes change under the record: an honest error, and never other bytes.
	if err := f.cache.Drop(img.Digest); err != nil {
		t.Fatal(err)
	}
	f.set(serveFile(pattern(300_000, 2), `"v1"`, longAgo))
	if a := f.file("GET", img); a.StatusCode != 502 {
		t.Errorf("status %d", a.StatusCode)
	}
}

func TestAnImageDeletedWhileItsOriginIsAskedIsNotFound(t *testing.T) {
	data := pattern(3000, 1)
	asked, pass := make(chan struct{}), make(chan struct{})
	f := newFarSite(t, serveFile(data, `"v1"`, longAgo))
	img := f.register("/x")
	f.set(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			close(asked)
			<-pass
		}
		serveFile(data, `"v1"`, longAgo)(w, r)
	})
	got := make(chan int, 1)
	go func() {
		a, err := f.try("GET", "/v2/images/"+img.ID+"/file")
		if err != nil {
			t.Error(err)
			got <- 0
			return
		}
		got <- a.StatusCode
	}()
	<-asked
	if a := f.do("DELETE", "/v2/images/"+img.ID); a.StatusCode != 204 {
		t.Errorf("delete: %d", a.StatusCode)
	}
	close(pass)
	if status := <-got; status != 404 {
		t.Errorf("status %d", status)
	}
}

// A client that leaves ends the read of the origin.
func TestALeavingClientEndsTheRelay(t *testing.T) {
	ended := make(chan struct{})
	f := newFarSite(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"v1"`)
		w.Header().Set("Content-Length", "1000000000")
		if r.Method == http.MethodHead {
			return
		}
		defer close(ended)
		w.Write(make([]byte, 1<<16))
		http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	img := f.register("/x")
	c, err := net.Dial("tcp", f.addr)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(c, "GET /v2/images/%s/file HTTP/1.1\r\nHost: x\r\n\r\n", img.ID)
	if line, err := bufio.NewReader(c).ReadString('\n'); err != nil || !strings.Contains(line, " 200 ") {
		t.Errorf("%q, %v", line, err)
	}
	c.Close()
	<-ended
}

func TestOnlyStrongValidatorsMakeTags(t *testing.T) {
	for _, tt := range []struct {
		url, validator string
		strong         bool
	}{
		{"http://x/y", `"a"`, true},
		{"https://x/y", `"a"`, true},
		{"https://x/y", "modified:Thu, 02 Jan 2020 03:04:05 GMT", false},
		{"https://x/y", "", false},
		{"s3://x/y", "abc", true},
		{"s3://x/y", "", false},
	} {
		if got := strong(origin.Location{URL: tt.url, Validator: tt.validator}); got != tt.strong {
			t.Errorf("%s %s: %v", tt.url, tt.validator, got)
		}
	}
}
