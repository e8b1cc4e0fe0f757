package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"

	"nearsight/origin"
	"nearsight/registry"
)

// A seenUpload is what a server saw of one.
type seenUpload struct {
	length                  int64
	announced, typ, expects string
	body                    string
}

func TestUpload(t *testing.T) {
	for _, tt := range []struct {
		name string
		body string
		size int64
		want seenUpload
	}{
		{"a known size is announced", "hello", 5, seenUpload{5, "5", "application/octet-stream", "100-continue", "hello"}},
		{"an unknown one is not", "hello", -1, seenUpload{-1, "", "application/octet-stream", "100-continue", "hello"}},
		{"no bytes are an upload too", "", 0, seenUpload{0, "0", "application/octet-stream", "", ""}},
		{"no bytes of unknown size as well", "", -1, seenUpload{-1, "", "application/octet-stream", "100-continue", ""}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var got seenUpload
			c := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body, err := io.ReadAll(r.Body)
				if err != nil {
					t.Error(err)
				}
				h := r.Header
				got = seenUpload{r.ContentLength, h.Get("X-Openstack-Image-Size"), h.Get("Content-Type"), h.Get("Expect"), string(body)}
				w.WriteHeader(http.StatusNoContent)
			}))
			if err := c.Upload(t.Context(), testID, iotest.OneByteReader(strings.NewReader(tt.body)), tt.size); err != nil {
				t.Fatal(err)
			}
			if got != tt.want {
				t.Errorf("the server saw %+v, want %+v", got, tt.want)
			}
		})
	}
}

func TestUploadThatIsRefusedReadsNothing(t *testing.T) {
	c := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusConflict) }))
	r := iotest.ErrReader(errors.New("it was read"))
	if err := c.Upload(t.Context(), testID, r, 1<<40); !errors.Is(err, registry.ErrConflict) {
		t.Errorf("error %v, want %v", err, registry.ErrConflict)
	}
}

func TestUploadsThatFail(t *testing.T) {
	broken := errors.New("disk on fire")
	for _, tt := range []struct {
		name string
		r    io.Reader
		size int64
		want string
		is   error
	}{
		{"a file that shrank", strings.NewReader("hell"), 5, "1 bytes fewer than announced", io.ErrUnexpectedEOF},
		{"a file that grew", strings.NewReader("hello!"), 5, "more bytes than announced", registry.ErrInvalid},
		{"a file that was empty and is not", strings.NewReader("!"), 0, "more bytes than announced", registry.ErrInvalid},
		{"a file that cannot be read", io.MultiReader(strings.NewReader("he"), iotest.ErrReader(broken)), 5, "disk on fire", broken},
		{"a stream that breaks", io.MultiReader(strings.NewReader("he"), iotest.ErrReader(broken)), -1, "disk on fire", broken},
	} {
		t.Run(tt.name, func(t *testing.T) {
			stored := make(chan bool, 1)
			c := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_, err := io.Copy(io.Discard, r.Body)
				stored <- err == nil
				w.WriteHeader(http.StatusNoContent)
			}))
			err := c.Upload(t.Context(), testID, tt.r, tt.size)
			if err == nil || !errors.Is(err, tt.is) || !strings.Contains(err.Error(), tt.want) || errors.Is(err, registry.ErrUnavailable) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
			if tt.size != 0 && <-stored {
				t.Error("the server took it for whole")
			}
		})
	}
}

func TestUploadToAServerThatDoesNotWait(t *testing.T) {
	hold, release := io.Pipe()
	c := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Body.Read(make([]byte, 1))
		w.WriteHeader(http.StatusNoContent)
	}))
	go release.Write([]byte("hello"))
	err := c.Upload(t.Context(), testID, hold, -1)
	release.Close()
	hold.Close()
	if err == nil || !strings.Contains(err.Error(), "did not wait for all bytes") {
		t.Errorf("error %v", err)
	}
}

func TestUploadEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	started := make(chan struct{})
	c := serve(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		r.Body.Read(make([]byte, 1))
		close(started)
		io.Copy(io.Discard, r.Body)
	}))
	hold, release := io.Pipe()
	defer release.Close()
	go func() {
		release.Write([]byte("x"))
		eventually(t, started)
		cancel()
	}()
	if err := c.Upload(ctx, testID, hold, -1); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want %v", err, context.Canceled)
	}
}

func TestDownload(t *testing.T) {
	data := randomBytes(1000)
	for _, tt := range []struct {
		name           string
		r              Range
		faults         []fault
		seen           string
		offset, length int64
		err            error
	}{
		{"all", Range{}, nil, "", 0, 1000, nil},
		{"the rest", Range{Offset: 10}, nil, "bytes=10-", 10, 990, nil},
		{"the first bytes", Range{Length: 5}, nil, "bytes=0-4", 0, 5, nil},
		{"some in the middle", Range{Offset: 10, Length: 5}, nil, "bytes=10-14", 10, 5, nil},
		{"what lies beyond the end is left out", Range{Offset: 990, Length: 50}, nil, "bytes=990-1039", 990, 10, nil},
		{"nothing begins beyond the end", Range{Offset: 1000}, nil, "bytes=1000-", 0, 0, registry.ErrInvalid},
		{"another version", Range{ETag: `"other"`}, nil, "pinned", 0, 0, origin.ErrChanged},
		{"all instead of a range", Range{Offset: 10}, []fault{ignoreRange}, "bytes=10-", 0, 1000, nil},
		{"no data yet", Range{}, []fault{answer(204)}, "", 0, 0, registry.ErrConflict},
		{"a status that fits no download", Range{}, []fault{answer(202, "Content-Length", "0")}, "", 0, 0, registry.ErrUnavailable},
		{"no length", Range{}, []fault{func(_ *fakeImage, w http.ResponseWriter, _ *http.Request) bool {
			w.(http.Flusher).Flush()
			return true
		}}, "", 0, 0, registry.ErrUnavailable},
		{"no Content-Range", Range{Offset: 10}, []fault{partial("")}, "bytes=10-", 0, 0, registry.ErrUnavailable},
		{"an unknown complete length", Range{Offset: 10}, []fault{partial("bytes 10-999/*")}, "bytes=10-", 0, 0, registry.ErrUnavailable},
		{"fewer bytes than there are", Range{Offset: 10}, []fault{partial("bytes 10-998/1000")}, "bytes=10-", 0, 0, registry.ErrUnavailable},
		{"a Content-Length of its own", Range{Offset: 10}, []fault{partial("bytes 10-999/1000")}, "bytes=10-", 0, 0, registry.ErrUnavailable},
		{"a range upside down", Range{Offset: 10}, []fault{partial("bytes 10-9/1000")}, "bytes=10-", 0, 0, registry.ErrUnavailable},
		{"another unit", Range{Offset: 10}, []fault{partial("items 10-999/1000")}, "bytes=10-", 0, 0, registry.ErrUnavailable},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f, c := newFakeImage(t, data, tt.faults...)
			obj, err := c.Download(t.Context(), testID, tt.r)
			if seen := f.requests(); !slices.Equal(seen, []string{tt.seen}) {
				t.Errorf("the server was asked for %q, want %q", seen, tt.seen)
			}
			if err != nil || tt.err != nil {
				if !errors.Is(err, tt.err) {
					t.Errorf("error %v, want %v", err, tt.err)
				}
				return
			}
			defer obj.Body.Close()
			body, err := io.ReadAll(obj.Body)
			if err != nil || obj.Offset != tt.offset || obj.Length != tt.length || obj.Size != 1000 || obj.Validator != f.etag ||
				!bytes.Equal(body, data[tt.offset:tt.offset+tt.length]) {
				t.Errorf("%d bytes, %+v, %v", len(body), obj, err)
			}
		})
	}
}

// partial answers 206 with this Content-Range and two bytes.
func partial(contentRange string) fault {
	return func(_ *fakeImage, w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Content-Range", contentRange)
		w.WriteHeader(http.StatusPartialContent)
		io.WriteString(w, "xx")
		return true
	}
}

func TestDownloadThatIsCut(t *testing.T) {
	_, c := newFakeImage(t, randomBytes(1000), cutAfter(10))
	obj, err := c.Download(t.Context(), testID, Range{})
	if err != nil {
		t.Fatal(err)
	}
	defer obj.Body.Close()
	if n, err := io.Copy(io.Discard, obj.Body); n != 10 || err == nil {
		t.Errorf("read %d bytes, error %v", n, err)
	}
}

func TestDownloadsPreferStores(t *testing.T) {
	f := &fakeImage{}
	f.setData(randomBytes(1000))
	f.record = recordOf(f.data)
	var mu sync.Mutex
	var queries []string
	c := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		queries = append(queries, r.URL.RawQuery)
		mu.Unlock()
		f.ServeHTTP(w, r)
	}))
	c.piece = 500
	opt := SaveOptions{Prefer: []string{"disks", "c&ph"}, Parallel: 2}
	if err := c.Copy(t.Context(), f.record, io.Discard, opt); err != nil {
		t.Error(err)
	}
	if err := c.Copy(t.Context(), f.record, io.Discard, SaveOptions{}); err != nil {
		t.Error(err)
	}
	if want := []string{"prefer=disks%2Cc%26ph", "prefer=disks%2Cc%26ph", ""}; !slices.Equal(queries, want) {
		t.Errorf("queries %q, want %q", queries, want)
	}
}

func TestCacheAdministration(t *testing.T) {
	const entry = `{"digest":"d","size":10,"zero":-1,"stored":4096,"verified":5,"pinned":true,"local":false,"last_used":null,"images":[{"id":"i","name":null}]}`
	answers := map[string]string{
		"/nearsight/cache":                  `{"entries":[` + entry + `,` + strings.Replace(entry, "null", `"2026-01-02T03:04:05Z"`, 1) + `]}`,
		"/nearsight/cache/images/" + testID: entry,
		"/nearsight/cache/stats":            `{"budget":1,"used":2,"entries":3,"hit_bytes":4,"overread_bytes":6,"write_errors":5}`,
	}
	c := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, answers[r.URL.Path]) }))
	list, err := c.Cache(t.Context())
	if err != nil || len(list) != 2 || list[0].LastUsed != nil || list[1].LastUsed.Year() != 2026 || list[0].Images[0].ID != "i" {
		t.Errorf("Cache: %+v, %v", list, err)
	}
	one, err := c.CacheEntry(t.Context(), testID)
	if err != nil || one.Zero != -1 || one.Stored != 4096 || !one.Pinned {
		t.Errorf("CacheEntry: %+v, %v", one, err)
	}
	stats, err := c.CacheStats(t.Context())
	if want := (CacheStats{Budget: 1, Used: 2, Entries: 3, HitBytes: 4, OverreadBytes: 6, WriteErrors: 5}); err != nil || stats != want {
		t.Errorf("CacheStats: %+v, %v", stats, err)
	}
}

func TestCacheWork(t *testing.T) {
	const progress = `{"done":1,"total":2}` + "\n\n" + `{"done":2,"total":2}` + "\n"
	for _, tt := range []struct {
		name, answer string
		result       CacheScrub
		err          string
		is           error
	}{
		{"ends with its result", progress + `{"result":{"chunks":7,"bad":1}}` + "\n", CacheScrub{7, 1}, "", nil},
		{"ends with an error", progress + `{"error":"no\u001b room"}`, CacheScrub{}, "the server failed: no\x1b room", nil},
		{"that is cut is no result", progress, CacheScrub{}, "ended without a result", registry.ErrUnavailable},
		{"that is no JSON is not understood", progress + "oops", CacheScrub{}, "not understood", nil},
		{"with another result is not understood", progress + `{"result":7}`, CacheScrub{}, "not understood", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, tt.answer) }))
			var seen []string
			result, err := c.CacheScrub(t.Context(), testID, func(done, total int64) { seen = append(seen, fmt.Sprintf("%d/%d", done, total)) })
			if result != tt.result || !slices.Equal(seen, []string{"1/2", "2/2"}) {
				t.Errorf("result %v after %q", result, seen)
			}
			if (err == nil) != (tt.err == "") || err != nil && (!strings.Contains(err.Error(), tt.err) || tt.is != nil && !errors.Is(err, tt.is)) {
				t.Errorf("error %v, want %q", err, tt.err)
			}
		})
	}
}
