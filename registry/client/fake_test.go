package client

import (
	"bytes"
	"crypto/md5"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"nearsight/registry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testID = "6a1f9c0e-2f6b-4c52-9a3f-0d7a1f5b8e11"

// A fault answers one download in a way that it should not be answered, or
// prepares the answer and returns false.
type fault func(f *fakeImage, w http.ResponseWriter, r *http.Request) (answered bool)

// A fakeImage serves the data of one image. Each download takes the next fault;
// when there are none left the answers are right.
type fakeImage struct {
	record *registry.Image

	mu     sync.Mutex
	data   []byte
	etag   string
	faults []fault
	seen   []string // what each download asked for
}

// newFakeImage returns an image with some bytes and a client for its server.
func newFakeImage(t *testing.T, data []byte, faults ...fault) (*fakeImage, *Client) {
	t.Helper()
	f := &fakeImage{faults: faults}
	f.setData(data)
	f.record = recordOf(data)
	return f, serve(t, f)
}

func (f *fakeImage) setData(data []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	sum := sha256.Sum256(data)
	f.data, f.etag = data, strconv.Quote(hex.EncodeToString(sum[:]))
}

func recordOf(data []byte) *registry.Image {
	size := int64(len(data))
	sum, md := sha512.Sum512(data), md5.Sum(data)
	return &registry.Image{
		ID: testID, Status: registry.Active, Size: &size, Checksum: hex.EncodeToString(md[:]),
		HashAlgo: "sha512", HashValue: hex.EncodeToString(sum[:]),
	}
}

func (f *fakeImage) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	asked := r.Header.Get("Range")
	if r.Header.Get("If-Match") != "" {
		asked += " pinned"
	}
	f.seen = append(f.seen, strings.TrimSpace(asked))
	w.Header().Set("ETag", f.etag)
	if len(f.faults) > 0 {
		next := f.faults[0]
		f.faults = f.faults[1:]
		if next(f, w, r) {
			return
		}
	}
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(f.data))
}

func (f *fakeImage) requests() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]string{}, f.seen...)
}

// serve starts a server and returns a client for it, which tries nothing twice.
func serve(t testing.TB, h http.Handler) *Client {
	t.Helper()
	return serveTo(t, h, Options{Retries: -1})
}

// serveTo starts a server and returns a client with these options for it.
func serveTo(t testing.TB, h http.Handler, opt Options) *Client {
	t.Helper()
	s := httptest.NewServer(h)
	opt.Server = s.URL
	c, err := New(opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		s.Close()
	})
	return c
}

// cutAfter sends n bytes of what is asked for and breaks the connection.
func cutAfter(n int) fault {
	return func(f *fakeImage, w http.ResponseWriter, r *http.Request) bool {
		http.ServeContent(&cutWriter{ResponseWriter: w, left: n}, r, "", time.Time{}, bytes.NewReader(f.data))
		panic(http.ErrAbortHandler)
	}
}

// A cutWriter passes on the header and some bytes.
type cutWriter struct {
	http.ResponseWriter
	left int
}

func (w *cutWriter) Write(b []byte) (int, error) {
	n := min(len(b), w.left)
	w.left -= n
	w.ResponseWriter.Write(b[:n])
	if w.left == 0 {
		w.ResponseWriter.(http.Flusher).Flush()
		return n, http.ErrContentLength
	}
	return n, nil
}

func answer(status int, fields ...string) fault {
	return func(_ *fakeImage, w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Del("ETag")
		for i := 0; i < len(fields); i += 2 {
			w.Header().Set(fields[i], fields[i+1])
		}
		w.WriteHeader(status)
		return true
	}
}

// ignoreRange answers 200 and all bytes.
func ignoreRange(_ *fakeImage, _ http.ResponseWriter, r *http.Request) bool {
	r.Header.Del("Range")
	return false
}

// ignoreIfMatch answers whatever version there is.
func ignoreIfMatch(_ *fakeImage, _ http.ResponseWriter, r *http.Request) bool {
	r.Header.Del("If-Match")
	return false
}

func noETag(_ *fakeImage, w http.ResponseWriter, r *http.Request) bool {
	r.Header.Del("If-Match")
	w.Header().Del("ETag")
	return false
}

// otherData replaces the data by other bytes of the same length, once.
func otherData(then fault) fault {
	return func(f *fakeImage, w http.ResponseWriter, r *http.Request) bool {
		f.data = bytes.Repeat([]byte{'x'}, len(f.data))
		f.etag = `"other"`
		w.Header().Set("ETag", f.etag)
		return then(f, w, r)
	}
}

// lieAboutRange sends the bytes that were asked for under a wrong Content-Range.
func lieAboutRange(by int) fault {
	return func(f *fakeImage, w http.ResponseWriter, r *http.Request) bool {
		var first int
		fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &first)
		body := f.data[first:]
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", first+by, len(f.data)-1, len(f.data)))
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		w.WriteHeader(http.StatusPartialContent)
		w.Write(body)
		return true
	}
}

// randomBytes returns n bytes that are the same each time.
func randomBytes(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}

// eventually fails the test if done is not closed in time.
func eventually(t *testing.T, done <-chan struct{}) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(30 * time.Second):
		t.Fatal("timed out")
	}
}
