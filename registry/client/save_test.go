package client

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"nearsight/origin"
	"nearsight/registry"
)

// quick makes retries as fast as a test wants them.
var quick = SaveOptions{Backoff: time.Millisecond, Retries: 3}

func TestSaveAgainstServersThatMisbehave(t *testing.T) {
	const size = 1<<20 + 3
	data := randomBytes(size)
	start := "" // the first request asks for all, unpinned
	for _, tt := range []struct {
		name   string
		faults []fault
		seen   []string
		err    error // nil: the file is right
	}{
		{"a server that behaves is asked once", nil, []string{start}, nil},
		{"a body cut before its first byte is asked for again",
			[]fault{cutAfter(0)}, []string{start, "pinned"}, nil},
		{"a body cut after one byte is resumed at the second",
			[]fault{cutAfter(1)}, []string{start, "bytes=1- pinned"}, nil},
		{"a body cut at the end of a block is resumed there",
			[]fault{cutAfter(holeSize)}, []string{start, "bytes=65536- pinned"}, nil},
		{"a body cut before its last byte is resumed there",
			[]fault{cutAfter(size - 1)}, []string{start, "bytes=1048578- pinned"}, nil},
		{"a body may be cut more often than there are retries if each attempt brings bytes",
			[]fault{cutAfter(9), cutAfter(9), cutAfter(9), cutAfter(9), cutAfter(9)},
			[]string{start, "bytes=9- pinned", "bytes=18- pinned", "bytes=27- pinned", "bytes=36- pinned", "bytes=45- pinned"}, nil},
		{"attempts without a byte come to an end",
			[]fault{cutAfter(0), cutAfter(0), cutAfter(0), cutAfter(0), cutAfter(0)},
			[]string{start, "pinned", "pinned", "pinned"}, registry.ErrUnavailable},
		{"503 is tried again",
			[]fault{answer(503, "Retry-After", "0"), answer(502), answer(504)}, []string{start, start, start, start}, nil},
		{"404 is not tried again",
			[]fault{answer(404)}, []string{start}, registry.ErrNotFound},
		{"500 is not tried again",
			[]fault{answer(500)}, []string{start}, errAny},
		{"204 means that there is no data",
			[]fault{answer(204)}, []string{start}, registry.ErrConflict},
		{"a resumed answer that starts elsewhere is not used",
			[]fault{cutAfter(100), lieAboutRange(1), lieAboutRange(-1)},
			[]string{start, "bytes=100- pinned", "bytes=100- pinned", "bytes=100- pinned"}, nil},
		{"200 to a range is taken from the byte that is missing",
			[]fault{cutAfter(100), ignoreRange}, []string{start, "bytes=100- pinned"}, nil},
		{"another version in mid-resume is refused by the server",
			[]fault{cutAfter(100), otherData(func(*fakeImage, http.ResponseWriter, *http.Request) bool { return false })},
			[]string{start, "bytes=100- pinned"}, origin.ErrChanged},
		{"another version in mid-resume is noticed when the server does not mind",
			[]fault{cutAfter(100), otherData(ignoreIfMatch)},
			[]string{start, "bytes=100- pinned"}, origin.ErrChanged},
		{"a resumed answer that does not say its version is not used",
			[]fault{cutAfter(100), noETag}, []string{start, "bytes=100- pinned", "bytes=100- pinned"}, nil},
		{"without versions the hash decides",
			[]fault{func(f *fakeImage, w http.ResponseWriter, r *http.Request) bool {
				w.Header().Del("ETag")
				return cutAfter(100)(f, w, r)
			}, noETag}, []string{start, "bytes=100-"}, nil},
		{"data that is not the record's is refused",
			[]fault{otherData(ignoreIfMatch)}, []string{start}, ErrIntegrity},
		{"data of another length is refused before it comes",
			[]fault{func(f *fakeImage, w http.ResponseWriter, r *http.Request) bool {
				f.data = f.data[:10]
				return false
			}}, []string{start}, ErrIntegrity},
		{"a coded answer is not used",
			[]fault{answer(200, "Content-Encoding", "gzip", "Content-Length", "0")}, []string{start, start}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f, c := newFakeImage(t, data, tt.faults...)
			path := filepath.Join(t.TempDir(), "disk.raw")
			err := c.Save(t.Context(), f.record, path, quick)
			if got := f.requests(); !slices.Equal(got, tt.seen) {
				t.Errorf("the server was asked for %q, want %q", got, tt.seen)
			}
			wantSaved(t, path, data, err, tt.err)
		})
	}
}

// errAny stands for an error that wraps none of ours.
var errAny = errors.New("any error")

// wantSaved checks what a Save left behind.
func wantSaved(t *testing.T, path string, data []byte, err, want error) {
	t.Helper()
	got, readErr := os.ReadFile(path)
	if want == nil {
		if err != nil {
			t.Fatalf("Save: %v", err)
		}
		if readErr != nil || !bytes.Equal(got, data) {
			t.Errorf("the file is wrong: %d bytes, %v", len(got), readErr)
		}
		wantNoPart(t, path)
		return
	}
	if err == nil || want != errAny && !errors.Is(err, want) {
		t.Errorf("error %v, want %v", err, want)
	}
	if readErr == nil {
		t.Error("there is a file after an error")
	}
}

func wantNoPart(t *testing.T, path string) {
	t.Helper()
	for _, suffix := range []string{partSuffix, versionSuffix} {
		if _, err := os.Lstat(path + suffix); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is still there (%v)", suffix, err)
		}
	}
}

// interrupt saves until at least n bytes are there and gives up then.
func interrupt(t *testing.T, c *Client, img *registry.Image, path string, n int64) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	opt := quick
	opt.Progress = func(done, _ int64) {
		if done >= n {
			cancel()
		}
	}
	if err := c.Save(ctx, img, path, opt); !errors.Is(err, context.Canceled) {
		t.Fatalf("error %v, want %v", err, context.Canceled)
	}
}

func TestSaveTakesUpAPartialFile(t *testing.T) {
	data := randomBytes(2 << 20)
	for _, tt := range []struct {
		name   string
		damage func(t *testing.T, f *fakeImage, path string)
		asked  string // by the second Save first
		err    error
	}{
		{"after an interruption", func(*testing.T, *fakeImage, string) {}, "bytes=", nil},
		{"which has all bytes already", func(t *testing.T, f *fakeImage, path string) {
			write(t, path+partSuffix, data)
		}, "", nil},
		{"but not when it is too long", func(t *testing.T, f *fakeImage, path string) {
			write(t, path+partSuffix, append(bytes.Clone(data), 'x'))
		}, " ", nil},
		{"but not when nothing says what it is", func(t *testing.T, f *fakeImage, path string) {
			if err := os.Remove(path + versionSuffix); err != nil {
				t.Fatal(err)
			}
		}, " ", nil},
		{"but not when what says so is cut", func(t *testing.T, f *fakeImage, path string) {
			write(t, path+versionSuffix, []byte(`{"hash":"SHA-5`))
		}, " ", nil},
		{"but not when it is of another image", func(t *testing.T, f *fakeImage, path string) {
			f.setData(bytes.Repeat([]byte("other"), 1000))
			f.record = recordOf(f.data)
		}, " ", nil},
		{"but not when the server has the same bytes under another tag", func(t *testing.T, f *fakeImage, path string) {
			f.mu.Lock()
			f.etag = `"renamed"`
			f.mu.Unlock()
		}, "bytes=", nil},
		{"and finds that it was damaged meanwhile", func(t *testing.T, f *fakeImage, path string) {
			p, err := os.OpenFile(path+partSuffix, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer p.Close()
			if _, err := p.WriteAt([]byte("damage"), 1000); err != nil {
				t.Fatal(err)
			}
		}, "bytes=", ErrIntegrity},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f, c := newFakeImage(t, data)
			path := filepath.Join(t.TempDir(), "disk.raw")
			interrupt(t, c, f.record, path, 700_000)
			before := len(f.requests())
			tt.damage(t, f, path)
			err := c.Save(t.Context(), f.record, path, quick)
			wantSaved(t, path, f.data, err, tt.err)
			if tt.err != nil {
				wantNoPart(t, path)
			}
			seen := f.requests()[before:]
			switch {
			case tt.asked == "" && len(seen) > 0,
				tt.asked == " " && (len(seen) == 0 || seen[0] != ""),
				tt.asked == "bytes=" && (len(seen) == 0 || !strings.HasPrefix(seen[0], "bytes=") || !strings.HasSuffix(seen[0], "pinned")):
				t.Errorf("the second time the server was asked for %q", seen)
			}
		})
	}
}

func write(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestSaveEveryCutYieldsTheSameFile(t *testing.T) {
	data := slices.Concat(randomBytes(70_000), make([]byte, 150_000), randomBytes(5))
	for _, cut := range []int{1, 65_535, 65_536, 65_537, 70_000, 131_071, 131_072, 200_000, 219_999, 220_004} {
		f, c := newFakeImage(t, data)
		path := filepath.Join(t.TempDir(), "disk.raw")
		f.faults = []fault{cutAfter(cut), answer(404)}
		if err := c.Save(t.Context(), f.record, path, quick); !errors.Is(err, registry.ErrNotFound) {
			t.Fatalf("cut at %d: %v", cut, err)
		}
		info, err := os.Stat(path + partSuffix)
		if err != nil || info.Size() != int64(cut) {
			t.Fatalf("cut at %d: the partial file has %v bytes (%v)", cut, info.Size(), err)
		}
		wantSaved(t, path, data, c.Save(t.Context(), f.record, path, quick), nil)
	}
}

func TestSaveTakesASilentConnectionForBroken(t *testing.T) {
	data := randomBytes(100_000)
	silent := func(f *fakeImage, w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set("Content-Length", "100000")
		w.Write(f.data[:10])
		w.(http.Flusher).Flush()
		<-r.Context().Done()
		return true
	}
	f, c := newFakeImage(t, data, silent)
	path := filepath.Join(t.TempDir(), "disk.raw")
	opt := quick
	opt.Stall = 200 * time.Millisecond
	var reasons []string
	opt.Retrying = func(err error, _ time.Duration) { reasons = append(reasons, err.Error()) }
	wantSaved(t, path, data, c.Save(t.Context(), f.record, path, opt), nil)
	if len(reasons) != 1 || !strings.Contains(reasons[0], "nothing came for 200ms") {
		t.Errorf("retried for %q", reasons)
	}
}

func TestSaveAnImageOfNoBytes(t *testing.T) {
	f, c := newFakeImage(t, nil)
	path := filepath.Join(t.TempDir(), "disk.raw")
	wantSaved(t, path, []byte{}, c.Save(t.Context(), f.record, path, quick), nil)
}

func TestSaveHashes(t *testing.T) {
	data := randomBytes(1000)
	for _, tt := range []struct {
		name   string
		change func(*registry.Image)
		want   string // in the error
	}{
		{"a wrong SHA-512 is told", func(i *registry.Image) { i.HashValue = strings.Repeat("0", 128) }, "the SHA-512 of the 1000 bytes is "},
		{"upper case is the same hash", func(i *registry.Image) { i.HashValue = strings.ToUpper(i.HashValue) }, ""},
		{"without SHA-512 the MD5 decides", func(i *registry.Image) { i.HashAlgo, i.HashValue = "", "" }, ""},
		{"an unknown algorithm is left to the MD5", func(i *registry.Image) { i.HashAlgo, i.HashValue = "blake", "00" }, ""},
		{"a wrong MD5 is told", func(i *registry.Image) { i.HashAlgo, i.Checksum = "", strings.Repeat("0", 32) }, "the MD5 of the 1000 bytes is "},
		{"data that cannot be verified is not fetched", func(i *registry.Image) { i.HashAlgo, i.Checksum = "", "" }, "no hash"},
		{"an image without data has nothing to fetch", func(i *registry.Image) { i.Size, i.Status = nil, registry.Queued }, "has no data, it is queued"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f, c := newFakeImage(t, data)
			tt.change(f.record)
			path := filepath.Join(t.TempDir(), "disk.raw")
			err := c.Save(t.Context(), f.record, path, quick)
			if tt.want == "" {
				wantSaved(t, path, data, err, nil)
				return
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
			wantNoPart(t, path)
		})
	}
}

func TestCopy(t *testing.T) {
	data := randomBytes(300_000)
	for _, tt := range []struct {
		name   string
		faults []fault
		err    error
	}{
		{"writes each byte once however often the connection breaks", []fault{cutAfter(1), cutAfter(100_000), ignoreRange}, nil},
		{"tells in the end that the bytes were wrong", []fault{otherData(ignoreIfMatch)}, ErrIntegrity},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f, c := newFakeImage(t, data, tt.faults...)
			var out bytes.Buffer
			err := c.Copy(t.Context(), f.record, &out, quick)
			if !errors.Is(err, tt.err) || err == nil && !bytes.Equal(out.Bytes(), data) {
				t.Errorf("%d bytes, error %v; want %v", out.Len(), err, tt.err)
			}
		})
	}
}

func TestCopyDoesNotRetryWhatTheWriterRefuses(t *testing.T) {
	f, c := newFakeImage(t, randomBytes(1000))
	r, w := io.Pipe()
	r.CloseWithError(syscall.ENOSPC)
	err := c.Copy(t.Context(), f.record, w, quick)
	if !errors.Is(err, syscall.ENOSPC) || len(f.requests()) != 1 {
		t.Errorf("error %v after %d requests", err, len(f.requests()))
	}
}
