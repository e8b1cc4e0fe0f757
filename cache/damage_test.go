package cache

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"testing"
	"time"

	"nearsight/origin"
	"nearsight/origin/origintest"
)

// flip inverts a byte of a file without changing its size.
func flip(t *testing.T, path string, off int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, off); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 0xff
	if _, err := f.WriteAt(b, off); err != nil {
		t.Fatal(err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Whatever happens to the files of an entry, its bytes come out right, the damage
// is counted, and afterwards the entry is whole again.
func TestDamageOnDisk(t *testing.T) {
	other := newImage(70*chunk, 90)
	damages := []struct {
		name    string
		running bool // while the cache is open
		always  bool // with VerifyAlways
		do      func(t *testing.T, data, manifest string)
		refetch int64 // chunks, at most
	}{
		{"a flipped byte, found at start", false, false, func(t *testing.T, data, _ string) {
			flip(t, data, 10*chunk+7)
		}, 1},
		{"a flipped byte, found by checking always", true, true, func(t *testing.T, data, _ string) {
			flip(t, data, 10*chunk+7)
		}, 1},
		{"cut short while stopped", false, false, func(t *testing.T, data, _ string) {
			must(t, os.Truncate(data, 20*chunk+5))
		}, 50},
		{"cut short while running", true, false, func(t *testing.T, data, _ string) {
			must(t, os.Truncate(data, 20*chunk+5))
		}, 70}, // a file that was changed is not used again
		{"emptied while running", true, false, func(t *testing.T, data, _ string) {
			must(t, os.Truncate(data, 0))
		}, 70},
		{"grown", true, false, func(t *testing.T, data, _ string) {
			must(t, os.Truncate(data, 90*chunk))
		}, 70},
		{"replaced by another image's while running", true, false, func(t *testing.T, data, _ string) {
			must(t, os.WriteFile(data+".new", other.data, 0o600))
			must(t, os.Rename(data+".new", data))
		}, 70},
		{"replaced by another image's while stopped", false, false, func(t *testing.T, data, _ string) {
			must(t, os.WriteFile(data, other.data, 0o600))
		}, 70},
		{"removed while running", true, false, func(t *testing.T, data, _ string) {
			must(t, os.Remove(data))
		}, 70},
		{"a directory in its place", false, false, func(t *testing.T, data, _ string) {
			must(t, os.Remove(data))
			must(t, os.Mkdir(data, 0o700))
		}, 140}, // nothing can be kept: both reads pass through
		{"a manifest edited while stopped", false, false, func(t *testing.T, _, manifest string) {
			flip(t, manifest, 100)
		}, 0},
		{"a manifest edited while running", true, true, func(t *testing.T, data, manifest string) {
			flip(t, manifest, manifestHeader+10*32)
			flip(t, data, 10*chunk+7)
		}, 1},
		{"a manifest cut while running", true, true, func(t *testing.T, data, manifest string) {
			must(t, os.Truncate(manifest, 10))
			flip(t, data, 10*chunk+7)
		}, 1},
		{"a manifest removed while stopped", false, false, func(t *testing.T, _, manifest string) {
			must(t, os.Remove(manifest))
		}, 0},
	}
	for _, tt := range damages {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			o := Options{VerifyAlways: tt.always}
			im := newImage(70*chunk, 20)
			c := open(t, dir, o)
			e, err := c.entry(im.digest)
			must(t, err)
			wantAll(t, c, im)
			settle(c)
			before := im.Bytes.Load()
			if !tt.running {
				c.Close()
				tt.do(t, e.path(dataSuffix), e.path(manifestSuffix))
				c = open(t, dir, o)
			} else {
				tt.do(t, e.path(dataSuffix), e.path(manifestSuffix))
			}
			defer func() { c.Close() }()
			wantAll(t, c, im)
			wantAll(t, c, im)
			settle(c)
			if n := (im.Bytes.Load() - before) / chunk; n > tt.refetch {
				t.Errorf("%d chunks were fetched again, want at most %d", n, tt.refetch)
			}
			s := c.Stats()
			if tt.refetch == 1 && s.DamagedChunks != 1 {
				t.Errorf("%d damaged chunks counted, want 1", s.DamagedChunks)
			}
			if tt.running && !tt.always && s.LostFiles == 0 {
				t.Error("the lost file was not counted")
			}
		})
	}
}

// A reader in the middle of a body sees no wrong byte when its file changes.
func TestDamageInTheMiddleOfABody(t *testing.T) {
	for name, do := range map[string]func(t *testing.T, path string){
		"cut":     func(t *testing.T, path string) { must(t, os.Truncate(path, 5*chunk)) },
		"removed": func(t *testing.T, path string) { must(t, os.Remove(path)) },
	} {
		t.Run(name, func(t *testing.T) {
			c := temp(t, Options{})
			im := newImage(140*chunk, 21)
			wantAll(t, c, im)
			r, err := c.Get(t.Context(), im.digest, im.size(), im)
			must(t, err)
			defer r.Close()
			w := &compare{t: t, want: im.data}
			if _, err := r.Send(t.Context(), w, 0, 3*chunk); err != nil {
				t.Fatal(err)
			}
			do(t, r.df.path)
			if _, err := r.Send(t.Context(), w, 3*chunk, im.size()-3*chunk); err != nil {
				t.Fatal(err)
			}
			if w.n != len(im.data) {
				t.Errorf("%d bytes of %d", w.n, len(im.data))
			}
		})
	}
}

// compare is a writer that knows what must come.
type compare struct {
	t    *testing.T
	want []byte
	n    int
}

func (w *compare) Write(p []byte) (int, error) {
	if !bytes.Equal(p, w.want[w.n:w.n+len(p)]) {
		w.t.Errorf("wrong bytes after %d", w.n)
		return 0, io.ErrShortWrite
	}
	w.n += len(p)
	return len(p), nil
}

func TestScrubFindsWhatRottedWhileRunning(t *testing.T) {
	c := temp(t, Options{})
	im := newImage(70*chunk, 22, 1)
	wantAll(t, c, im)
	settle(c)
	e, _ := c.entry(im.digest)
	flip(t, e.path(dataSuffix), 66*chunk)
	flip(t, e.path(dataSuffix), 2*chunk)
	var done, total int64
	res, err := c.Scrub(t.Context(), "", func(d, n int64) { done, total = d, n })
	if err != nil || res.Bad != 2 || res.Chunks != 69 {
		t.Errorf("%+v, %v", res, err)
	}
	if done != 69*chunk || total != done {
		t.Errorf("progress %d of %d", done, total)
	}
	before := im.Bytes.Load()
	wantAll(t, c, im)
	if n := im.Bytes.Load() - before; n != 2*chunk {
		t.Errorf("%d bytes fetched to heal, want %d", n, 2*chunk)
	}
	if res, err := c.Scrub(t.Context(), im.digest, nil); err != nil || res.Bad != 0 {
		t.Errorf("healed: %+v, %v", res, err)
	}
	if _, err := c.Scrub(t.Context(), newImage(1, 1).digest, nil); !errors.Is(err, ErrNotCached) {
		t.Errorf("unknown entry: %v", err)
	}
}

// An origin that fails or lies costs its readers an error, and nothing else.
func TestBadOrigins(t *testing.T) {
	whole := int64(70 * chunk)
	tests := []struct {
		name   string
		faults origintest.Faults
		err    error // nil: the bytes come all the same
	}{
		{"down", origintest.Faults{Open: origin.ErrUnavailable}, origin.ErrUnavailable},
		{"down once", origintest.Faults{Open: origin.ErrUnavailable, Nth: 1}, nil},
		{"no such object", origintest.Faults{Open: origin.ErrNotFound}, origin.ErrNotFound},
		{"another version", origintest.Faults{Open: origin.ErrChanged}, origin.ErrChanged},
		{"a body that breaks off", origintest.Faults{Cut: new(whole - 5)}, origin.ErrUnavailable},
		{"a flipped byte", origintest.Faults{Flip: []int64{66*chunk + 9}}, ErrCorrupt},
		{"the whole object for a range", origintest.Faults{Whole: true}, origin.ErrUnavailable},
		{"another range, and says so", origintest.Faults{Shift: 512}, origin.ErrUnavailable},
		{"another range, silently", origintest.Faults{Shift: -512, ShiftSilently: true}, ErrCorrupt},
		{"another size", origintest.Faults{Size: new(whole + 1)}, origin.ErrUnavailable},
		{"a stall", origintest.Faults{Stall: new(int64(66*chunk + 1))}, origin.ErrUnavailable},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := temp(t, Options{Stall: 20 * time.Millisecond})
			im := newImage(int(whole), 23)
			im.Inject(tt.faults)
			off := int64(64*chunk + 1)
			got, err := get(c, im, off, whole-off)
			if !errors.Is(err, tt.err) {
				t.Fatalf("got %v, want %v", err, tt.err)
			}
			if string(got) != string(im.data[off:off+int64(len(got))]) {
				t.Error("wrong bytes before the error")
			}
			im.Inject(origintest.Faults{})
			wantAll(t, c, im) // errors do not latch
		})
	}
}

func TestABodyThatBreaksOffIsResumedWhereItStopped(t *testing.T) {
	c := temp(t, Options{})
	im := newImage(60*chunk, 24)
	gate := origintest.NewGate(30*chunk + 5)
	im.Inject(origintest.Faults{Cut: new(int64(30*chunk + 10)), Gate: gate})
	done := make(chan error, 1)
	go func() { _, err := get(c, im, 0, im.size()); done <- err }()
	<-gate.Reached
	im.Inject(origintest.Faults{})
	close(gate.Pass)
	must(t, <-done)
	if n := im.Bytes.Load() - im.size(); n < 0 || n > chunk {
		t.Errorf("%d bytes were fetched twice, want less than a chunk", n)
	}
}

func TestAManifestThatLiesIsRefused(t *testing.T) {
	c := temp(t, Options{})
	im, other := newImage(3*chunk, 25), newImage(3*chunk, 26)
	im.manifest = other.manifest
	if _, err := get(c, im, 0, 1); !errors.Is(err, ErrCorrupt) {
		t.Errorf("got %v", err)
	}
}

func TestCloseEndsFills(t *testing.T) {
	c := open(t, t.TempDir(), Options{})
	im := newImage(10*chunk, 27)
	gate := origintest.NewGate(chunk)
	im.Inject(origintest.Faults{Gate: gate})
	done := make(chan error, 1)
	go func() { _, err := get(c, im, 0, im.size()); done <- err }()
	<-gate.Reached
	must(t, c.Close())
	if err := <-done; !errors.Is(err, ErrClosed) {
		t.Errorf("got %v", err)
	}
	if _, err := c.Get(context.Background(), im.digest, im.size(), im); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}
