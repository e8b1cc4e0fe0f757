package diskformat

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// A sample is a row of the corpus of honest images that deploy/images/corpus makes.
type sample struct {
	file, declared, container string
	detected                  string
	size                      int64  // of the disk, -1 if none can be told
	sum                       string // SHA-256 of the guest content, "" if it must not be opened
	safe                      bool
	reason                    string
}

// corpus returns the rows of the corpus, and the folder of their files.
func corpus(t testing.TB) (dir string, rows []sample) {
	t.Helper()
	dir = os.Getenv("NEARSIGHT_CORPUS")
	if dir == "" {
		t.Fatal("NEARSIGHT_CORPUS is not set: make the corpus with deploy/images/corpus DIR, and set it to DIR")
	}
	text, err := os.ReadFile(filepath.Join(dir, "expected.tsv"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		f := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		if len(f) != 8 {
			t.Fatalf("expected.tsv: %q", line)
		}
		if f[0] == "file" {
			continue
		}
		s := sample{file: f[0], declared: f[1], container: f[2], detected: f[3], size: -1, safe: f[6] == "safe", reason: f[7]}
		if f[4] != "-" {
			if s.size, err = strconv.ParseInt(f[4], 10, 64); err != nil {
				t.Fatal(err)
			}
		}
		if f[5] != "-" {
			s.sum = f[5]
		}
		rows = append(rows, s)
	}
	if len(rows) < 40 {
		t.Fatalf("a corpus of %d images", len(rows))
	}
	return dir, rows
}

// openSample opens an image of the corpus.
func openSample(t testing.TB, dir string, s sample) Image {
	t.Helper()
	f, err := os.Open(filepath.Join(dir, s.file))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	img, err := Open(f, st.Size(), Format(s.declared), Limits{})
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// readable reports whether there is a reader for the image.
func (s sample) readable() bool {
	return s.safe && s.sum != "" && s.container == "bare" && openers[Format(s.declared)] != nil
}

func TestReadersSeeTheGuest(t *testing.T) {
	dir, rows := corpus(t)
	for _, s := range rows {
		if !s.readable() {
			continue
		}
		t.Run(s.file, func(t *testing.T) {
			img := openSample(t, dir, s)
			if img.Size() != s.size {
				t.Errorf("a disk of %d bytes, not %d", img.Size(), s.size)
			}
			whole, err := io.ReadAll(io.NewSectionReader(img, 0, img.Size()))
			if err != nil {
				t.Fatal(err)
			}
			sum := sha256.Sum256(whole)
			if got := hex.EncodeToString(sum[:]); got != s.sum {
				t.Fatalf("guest content %s, not %s", got, s.sum)
			}
			r := rand.New(rand.NewPCG(4, 2))
			for range 300 {
				off := r.Int64N(img.Size())
				p := make([]byte, 1+r.Int64N(min(img.Size()-off, 200_000)))
				if _, err := img.ReadAt(p, off); err != nil || !bytes.Equal(p, whole[off:off+int64(len(p))]) {
					t.Fatalf("%d bytes at %d: %v", len(p), off, err)
				}
			}
			if n, err := img.ReadAt(make([]byte, 9), img.Size()-1); n != 1 || !errors.Is(err, io.EOF) {
				t.Errorf("at the end: %d, %v", n, err)
			}
			for off := int64(0); off < img.Size(); {
				e, err := img.Extent(off)
				if err != nil || e.Length <= 0 || off+e.Length > img.Size() {
					t.Fatalf("extent at %d: %+v, %v", off, e, err)
				}
				if e.Zero && !isZero(whole[off:off+e.Length]) {
					t.Fatalf("extent at %d: %+v has data", off, e)
				}
				off += e.Length
			}
		})
	}
}

// Every view of every image is what qemu-img takes it for.
func TestViewsOfTheCorpus(t *testing.T) {
	dir, rows := corpus(t)
	for _, s := range rows {
		if !s.readable() {
			continue
		}
		t.Run(s.file, func(t *testing.T) {
			t.Parallel()
			img := openSample(t, dir, s)
			used, err := TableBitmap(img)
			if err != nil {
				t.Fatal(err)
			}
			work := t.TempDir()
			plain := filepath.Join(work, "raw")
			writeView(t, plain, "raw", img, used)
			if text, err := os.ReadFile(plain); err != nil || hexSum(text) != s.sum {
				t.Fatalf("the raw view has other content: %v", err)
			}
			for _, view := range ViewNames() {
				if view == "raw" {
					continue
				}
				path := filepath.Join(work, view)
				writeView(t, path, view, img, used)
				if out, err := exec.Command("qemu-img", "compare", "-f", "raw", "-F", qemuFormat(view), plain, path).CombinedOutput(); err != nil {
					t.Errorf("view %s: qemu-img compare: %v\n%s", view, err, out)
				}
				if err := os.Remove(path); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

func hexSum(text []byte) string {
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

func writeView(t *testing.T, path, name string, img Image, used *Bitmap) {
	t.Helper()
	v, err := NewView(name, img, used, viewID)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if n, err := io.Copy(f, io.NewSectionReader(v, 0, v.Size())); err != nil || n != v.Size() {
		t.Fatalf("view %s: %d bytes of %d: %v", name, n, v.Size(), err)
	}
}
