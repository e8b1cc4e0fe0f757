package client

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"nearsight/origin"
	"nearsight/registry"
)

// smallPiece is that of tests, more than what a connection's buffers hide.
const smallPiece = 256 << 10

// parallel are options for tests, of several connections.
var parallel = SaveOptions{Parallel: 3, Retries: 2, Backoff: time.Microsecond}

func TestParallelDownloads(t *testing.T) {
	data := randomBytes(4*smallPiece + 12345)
	for _, tt := range []struct {
		name   string
		size   int
		faults []fault
		asked  int
		is     error
	}{
		{"each piece is asked for once", len(data), nil, 5, nil},
		{"an image of one piece is one request", 1000, nil, 1, nil},
		{"an image of whole pieces ends there", 2 * smallPiece, nil, 2, nil},
		{"a piece that broke goes on where it broke", len(data), []fault{cutAfter(1), cutAfter(100_000), cutAfter(1000)}, 8, nil},
		{"a server that has no ranges is asked once more", len(data), []fault{ignoreRange, ignoreRange}, 2, nil},
		{"pieces that bring nothing come to an end", 1000, []fault{cutAfter(0), answer(503), cutAfter(0)}, 3, registry.ErrUnavailable},
		{"another version in between is refused", len(data), []fault{cutAfter(5), otherData(answer(412))}, 2, origin.ErrChanged},
		{"without versions the hash decides", len(data), []fault{noETag, noETag, noETag, noETag, noETag}, 5, nil},
		{"wrong bytes are found in the end", len(data), []fault{noETag, noETag, noETag, otherData(noETag), noETag}, 5, ErrIntegrity},
		{"data of another length is not taken", len(data), []fault{func(f *fakeImage, _ http.ResponseWriter, _ *http.Request) bool {
			f.data = f.data[1:]
			return false
		}}, 1, ErrIntegrity},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f, c := newFakeImage(t, bytes.Clone(data[:tt.size]), tt.faults...)
			c.piece = smallPiece
			var out bytes.Buffer
			err := c.Copy(t.Context(), f.record, &out, parallel)
			if !errors.Is(err, tt.is) || err == nil && !bytes.Equal(out.Bytes(), data[:tt.size]) {
				t.Errorf("error %v, want %v; %d bytes", err, tt.is, out.Len())
			}
			if seen := f.requests(); tt.is == nil && len(seen) != tt.asked || len(seen) < tt.asked {
				t.Errorf("requests %q, want %d", seen, tt.asked)
			}
		})
	}
}

func TestPiecesArePinnedAndAtTheSameTime(t *testing.T) {
	data := randomBytes(4 * smallPiece)
	f, _ := newFakeImage(t, data)
	// All pieces but the first wait for one another.
	var waiting atomic.Int32
	together := make(chan struct{})
	c := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.Header.Get("Range"), "bytes=0-") {
			if r.Header.Get("If-Match") == "" {
				t.Errorf("%s is of any version", r.Header.Get("Range"))
			}
			if waiting.Add(1) == 3 {
				close(together)
			}
			eventually(t, together)
		}
		f.ServeHTTP(w, r)
	}))
	c.piece = smallPiece
	path := filepath.Join(t.TempDir(), "image")
	if err := c.Save(t.Context(), f.record, path, parallel); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

func TestAParallelSaveIsTakenUp(t *testing.T) {
	data := randomBytes(3 * smallPiece)
	f, c := newFakeImage(t, data)
	c.piece = smallPiece
	f.faults = []fault{cutAfter(smallPiece / 2), answer(404)}
	path := filepath.Join(t.TempDir(), "image")
	if err := c.Save(t.Context(), f.record, path, parallel); !errors.Is(err, registry.ErrNotFound) {
		t.Fatal(err)
	}
	if err := c.Save(t.Context(), f.record, path, parallel); err != nil {
		t.Fatal(err)
	}
	if seen := f.requests(); !strings.HasPrefix(seen[2], "bytes=131072-") {
		t.Errorf("requests %q", seen)
	}
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

func TestParallelDownloadsEnd(t *testing.T) {
	data := randomBytes(4 * smallPiece)
	silent := func(_ *fakeImage, _ http.ResponseWriter, r *http.Request) bool {
		<-r.Context().Done()
		return true
	}
	t.Run("with their context", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		f, c := newFakeImage(t, data, func(*fakeImage, http.ResponseWriter, *http.Request) bool { return false }, silent)
		c.piece = smallPiece
		opt := parallel
		opt.Progress = func(int64, int64) { time.AfterFunc(time.Millisecond, cancel) }
		var out bytes.Buffer
		if err := c.Copy(ctx, f.record, &out, opt); !errors.Is(err, context.Canceled) {
			t.Errorf("error %v", err)
		}
	})
	t.Run("when the server brings nothing", func(t *testing.T) {
		f, c := newFakeImage(t, data, silent, silent, silent)
		c.piece = smallPiece
		opt := parallel
		opt.Stall = 10 * time.Millisecond
		if err := c.Copy(t.Context(), f.record, new(bytes.Buffer), opt); !errors.Is(err, registry.ErrUnavailable) || !strings.Contains(err.Error(), "nothing came for 10ms") {
			t.Errorf("error %v", err)
		}
	})
	t.Run("with what the writer refuses", func(t *testing.T) {
		f, c := newFakeImage(t, data)
		c.piece = smallPiece
		full := errors.New("disk full")
		if err := c.Copy(t.Context(), f.record, writerFunc(func([]byte) (int, error) { return 0, full }), parallel); !errors.Is(err, full) {
			t.Errorf("error %v", err)
		}
	})
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

func BenchmarkCopy(b *testing.B) {
	data := randomBytes(64 << 20)
	f := &fakeImage{}
	f.setData(data)
	img := recordOf(data)
	s := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", f.etag)
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
	})
	for name, n := range map[string]int{"one": 1, "four": 4} {
		b.Run(name, func(b *testing.B) {
			c := serve(b, s)
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				if err := c.Copy(b.Context(), img, discard{}, SaveOptions{Parallel: n}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// discard is a writer without ReadFrom.
type discard struct{}

func (discard) Write(b []byte) (int, error) { return len(b), nil }
