package diskformat

import (
	"archive/zip"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"testing"
	"testing/iotest"

	"github.com/klauspost/compress/zstd"
)

func gzipOf(t testing.TB, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func zstdOf(t testing.TB, data []byte, o ...zstd.EOption) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := zstd.NewWriter(&b, o...)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// zipOf returns a zip whose members have all the same data, and lengths behind it.
func zipOf(t testing.TB, data []byte, method uint16, names ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for _, name := range names {
		f, err := w.CreateHeader(&zip.FileHeader{Name: name, Method: method})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write(data); err != nil && len(data) > 0 {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestExpandGivesTheDisk(t *testing.T) {
	dir, _ := corpus(t)
	want := readSample(t, dir, "base.raw")
	for _, file := range []string{"base.raw.gz", "base.raw.zst", "base.zip", "stream.zip"} {
		data := readSample(t, dir, file)
		kind := Compression(data[:6])
		got, err := io.ReadAll(Expand(bytes.NewReader(data), kind, Limits{}))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s (%s): %d bytes, %v", file, kind, len(got), err)
		}
	}
	some := noise(9, 200_000, 0.5)
	for name, data := range map[string][]byte{
		"gzip": gzipOf(t, some), "zstd": zstdOf(t, some), "zip": zipOf(t, some, zip.Deflate, "a"),
	} {
		got, err := io.ReadAll(Expand(iotest.OneByteReader(bytes.NewReader(data)), name, Limits{}))
		if err != nil || !bytes.Equal(got, some) {
			t.Errorf("%s byte by byte: %d bytes, %v", name, len(got), err)
		}
	}
	if kind := Compression(readSample(t, dir, "base.raw.xz")); kind != "xz" {
		t.Errorf("xz is taken for %q", kind)
	}
	if kind := Compression(want); kind != "" {
		t.Errorf("raw is taken for %q", kind)
	}
}

func TestExpandRefuses(t *testing.T) {
	dir, _ := corpus(t)
	some := noise(9, 200_000, 0.5)
	bomb := make([]byte, 65<<20)
	file := readSample(t, dir, "base.zip")
	stream := zipOf(t, some, zip.Deflate, "a")
	spoilt := func(b []byte, at int) []byte {
		b = bytes.Clone(b)
		if at < 0 {
			at += len(b)
		}
		b[at] ^= 0x55
		return b
	}
	for _, tt := range []struct {
		name, kind string
		data       []byte
		limits     Limits
		slug       string
	}{
		{"nothing", "gzip", nil, Limits{}, "expand-corrupt"},
		{"no zip", "zip", some, Limits{}, "expand-corrupt"},
		{"xz", "xz", readSample(t, dir, "base.raw.xz"), Limits{}, "expand-corrupt"},
		{"gzip that is cut", "gzip", gzipOf(t, some)[:1000], Limits{}, "expand-corrupt"},
		{"gzip with another checksum", "gzip", spoilt(gzipOf(t, some), -8), Limits{}, "expand-corrupt"},
		{"gzip with another length", "gzip", spoilt(gzipOf(t, some), -1), Limits{}, "expand-corrupt"},
		{"gzip with more behind it", "gzip", append(gzipOf(t, some), "more"...), Limits{}, "expand-corrupt"},
		{"zstd that is cut", "zstd", zstdOf(t, some)[:1000], Limits{}, "expand-corrupt"},
		{"zstd with another checksum", "zstd", spoilt(zstdOf(t, some), -1), Limits{}, "expand-corrupt"},
		{"zstd with a window of 16 MiB", "zstd", zstdOf(t, bomb[:17<<20], zstd.WithWindowSize(16<<20)), Limits{}, "expand-limit"},
		{"zip of two members", "zip", zipOf(t, some, zip.Deflate, "a", "b"), Limits{}, "expand-names"},
		{"zip of a folder", "zip", zipOf(t, nil, zip.Store, "a/"), Limits{}, "expand-names"},
		{"zip that is cut in its data", "zip", stream[:1000], Limits{}, "expand-corrupt"},
		{"zip that is cut behind its data", "zip", stream[:len(stream)-60], Limits{}, "expand-corrupt"},
		{"zip that is cut at its end", "zip", stream[:len(stream)-1], Limits{}, "expand-corrupt"},
		{"zip without a directory", "zip", append(bytes.Clone(stream[:bytes.Index(stream, []byte("PK\x01\x02"))]), stream[len(stream)-22:]...), Limits{}, "expand-corrupt"},
		{"zip with more behind it", "zip", append(bytes.Clone(stream), 0), Limits{}, "expand-corrupt"},
		{"zip with another checksum", "zip", spoilt(file, 14), Limits{}, "expand-corrupt"},
		{"zip with another length", "zip", spoilt(file, 22), Limits{}, "expand-corrupt"},
		{"zip that is encrypted", "zip", put(6, "\x01")(bytes.Clone(file)), Limits{}, "expand-corrupt"},
		{"more than the largest disk", "gzip", gzipOf(t, some), Limits{VirtualSize: 150_000}, "expand-limit"},
		{"more than 200 times as much, gzip", "gzip", gzipOf(t, bomb), Limits{}, "expand-limit"},
		{"more than 200 times as much, zstd", "zstd", zstdOf(t, bomb), Limits{}, "expand-limit"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := Expand(bytes.NewReader(tt.data), tt.kind, tt.limits)
			n, err := io.Copy(io.Discard, r)
			if slug(t, err) != tt.slug {
				t.Errorf("%d bytes, %v; want %s", n, err, tt.slug)
			}
			if _, again := r.Read(make([]byte, 1)); again != err {
				t.Errorf("the next read: %v", again)
			}
		})
	}
}

func TestExpandPassesErrorsOfItsSourceOn(t *testing.T) {
	gone := errors.New("gone")
	some := noise(9, 200_000, 0.5)
	for kind, data := range map[string][]byte{"gzip": gzipOf(t, some), "zip": zipOf(t, some, zip.Deflate, "a"), "zstd": zstdOf(t, some)} {
		for _, n := range []int{0, 3, 5000, len(data) - 5} {
			r := Expand(io.MultiReader(bytes.NewReader(data[:n]), iotest.ErrReader(gone)), kind, Limits{})
			if _, err := io.Copy(io.Discard, r); !errors.Is(err, gone) {
				t.Errorf("%s after %d bytes: %v", kind, n, err)
			}
		}
	}
}

func FuzzExpand(f *testing.F) {
	some := noise(9, 3000, 0.5)
	f.Add("gzip", gzipOf(f, some))
	f.Add("zstd", zstdOf(f, some))
	f.Add("zip", zipOf(f, some, zip.Deflate, "a"))
	f.Add("zip", zipOf(f, some, zip.Deflate, "a", "b"))
	f.Fuzz(func(t *testing.T, kind string, data []byte) {
		_, err := io.Copy(io.Discard, Expand(bytes.NewReader(data), kind, Limits{VirtualSize: 1 << 20}))
		slug(t, err)
		if err == nil && kind == "zip" { // what we take, another reader takes too
			r, err := zip.NewReader(bytes.NewReader(data), int64(len(data)))
			if err != nil || len(r.File) != 1 {
				t.Errorf("another reader: %v", err)
			}
		}
	})
}
