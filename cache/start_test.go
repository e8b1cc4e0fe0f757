package cache

import (
	"crypto/sha256"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"nearsight/origin"
)

// sparseEntries fills dir with n entries of size bytes each, of which one chunk
// is there. No two have the same digest.
func sparseEntries(t testing.TB, dir string, n int, size int64) (digests []origin.Digest) {
	t.Helper()
	m := &origin.Manifest{Size: size, Sums: make([]byte, origin.Chunks(size)*sha256.Size)}
	for i := range n {
		m.Sums[0], m.Sums[1] = byte(i), byte(i>>8)
		encoded := m.Encode()
		digest := origin.DigestOf(encoded)
		base := filepath.Join(dir, string(digest))
		if err := os.WriteFile(base+manifestSuffix, encoded, 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := os.Create(base + dataSuffix)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt(make([]byte, chunk), chunk); err != nil {
			t.Fatal(err)
		}
		if err := f.Truncate(size); err != nil {
			t.Fatal(err)
		}
		f.Close()
		digests = append(digests, digest)
	}
	return digests
}

// A start looks at names and sizes only: a thousand entries with a TiB of image
// between them cost next to no memory.
func TestAStartWithManyEntriesCostsLittle(t *testing.T) {
	dir := t.TempDir()
	sparseEntries(t, dir, 1000, 1<<30)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	c := open(t, dir, Options{Budget: 1 << 40})
	defer c.Close()
	runtime.GC()
	runtime.ReadMemStats(&after)
	if n := int64(after.HeapAlloc) - int64(before.HeapAlloc); n > 8<<20 {
		t.Errorf("%d bytes of heap for 1000 entries", n)
	}
	if s := c.Stats(); s.Entries != 1000 || s.Used < 1000*chunk || s.VerifiedChunks != 0 {
		t.Errorf("%+v", s)
	}
	if used := diskUse(t, dir); c.Stats().Used != used {
		t.Errorf("counted %d bytes on disk, there are %d", c.Stats().Used, used)
	}
}

// What was not used since the start goes first, without having been asked for.
func TestEntriesOfAnEarlierLifeMakeRoom(t *testing.T) {
	dir := t.TempDir()
	sparseEntries(t, dir, 40, 1<<20)
	budget := int64(16 << 20)
	c := open(t, dir, Options{Budget: budget})
	defer c.Close()
	im := newImage(56*chunk, 30)
	wantAll(t, c, im)
	settle(c)
	opens := im.Opens.Load()
	wantAll(t, c, im)
	if im.Opens.Load() != opens {
		t.Error("the new image was not kept")
	}
	if used := diskUse(t, dir); used > budget {
		t.Errorf("%d bytes on disk with a budget of %d", used, budget)
	}
}

func BenchmarkOpenThousandEntries(b *testing.B) {
	dir := b.TempDir()
	sparseEntries(b, dir, 1000, 1<<30)
	for b.Loop() {
		open(b, dir, Options{Budget: 1 << 40}).Close()
	}
}
