package cache

import (
	"bytes"
	"context"
	"crypto/sha256"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"nearsight/origin"
	"nearsight/origin/origintest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const chunk = origin.MinChunkSize

// An image is a Source over an origintest.Fake, and all that a test wants to know
// of it.
type image struct {
	origintest.Fake
	data      []byte
	loc       origin.Location
	manifest  []byte
	digest    origin.Digest
	local     string
	manifests atomic.Int64 // how often the manifest was asked for
}

func (im *image) Manifest(context.Context) ([]byte, error) {
	im.manifests.Add(1)
	return im.manifest, nil
}

func (im *image) Open(ctx context.Context, off, n int64) (*origin.Object, error) {
	return im.Fake.Open(ctx, im.loc, off, n)
}

func (im *image) Local() string { return im.local }

func (im *image) size() int64 { return int64(len(im.data)) }

// newImage makes an image of n bytes of noise, in which the chunks in zero are
// holes.
func newImage(n int, seed uint64, zero ...int) *image {
	im := &image{data: make([]byte, n)}
	rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)}).Read(im.data)
	for _, i := range zero {
		clear(im.data[i*chunk : min((i+1)*chunk, n)])
	}
	m := &origin.Manifest{Size: int64(n)}
	for i := 0; i < n; i += chunk {
		sum := sha256.Sum256(im.data[i:min(i+chunk, n)])
		m.Sums = append(m.Sums, sum[:]...)
	}
	im.manifest = m.Encode()
	im.digest = origin.DigestOf(im.manifest)
	im.loc = im.Add("image", im.data)
	return im
}

// quiet drops the log: the tests provoke what it warns of.
var quiet = slog.New(slog.DiscardHandler)

func open(t testing.TB, dir string, o Options) *Cache {
	t.Helper()
	o.Dir, o.Log = dir, quiet
	if o.Budget == 0 {
		o.Budget = 1 << 30
	}
	c, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// temp opens a cache that lives as long as the test.
func temp(t testing.TB, o Options) *Cache {
	t.Helper()
	c := open(t, t.TempDir(), o)
	t.Cleanup(func() { c.Close() })
	return c
}

// get reads n bytes from off through the cache.
func get(c *Cache, im *image, off, n int64) ([]byte, error) {
	ctx := context.Background()
	r, err := c.Get(ctx, im.digest, im.size(), im)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	if _, err := r.Ready(ctx, off, n); err != nil {
		return nil, err
	}
	var b bytes.Buffer
	_, err = r.Send(ctx, &b, off, n)
	return b.Bytes(), err
}

// want fails the test unless the bytes come, and are right.
func want(t testing.TB, c *Cache, im *image, off, n int64) {
	t.Helper()
	got, err := get(c, im, off, n)
	if err != nil {
		t.Fatalf("read %d at %d: %v", n, off, err)
	}
	if !bytes.Equal(got, im.data[off:off+n]) {
		t.Fatalf("read %d at %d: wrong bytes", n, off)
	}
}

func wantAll(t testing.TB, c *Cache, im *image) {
	t.Helper()
	want(t, c, im, 0, im.size())
}

// settle waits until no fill is under way.
func settle(c *Cache) { c.wg.Wait() }

// diskUse returns what du would say of dir's files.
func diskUse(t testing.TB, dir string) (n int64) {
	t.Helper()
	names, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, de := range names {
		var st unix.Stat_t
		if unix.Lstat(filepath.Join(dir, de.Name()), &st) == nil {
			n += st.Blocks * 512
		}
	}
	return n
}

func TestAMissFetchesOnceAndTheNextReadAsksNobody(t *testing.T) {
	c := temp(t, Options{})
	im := newImage(40*chunk+77, 1, 3, 4, 5, 30)
	wantAll(t, c, im)
	opens, bytes := im.Opens.Load(), im.Bytes.Load()
	data := im.size() - 4*chunk
	if bytes != im.size() {
		t.Errorf("%d bytes from the origin, want %d: each chunk once, zeros too", bytes, im.size())
	}
	if opens != 1 {
		t.Errorf("%d opens, want one for 16 MiB", opens)
	}
	wantAll(t, c, im)
	want(t, c, im, 17, 2*chunk)
	want(t, c, im, im.size()-1, 1)
	if im.Opens.Load() != opens || im.manifests.Load() != 1 {
		t.Errorf("a hit asked the origin")
	}
	settle(c)
	s := c.Stats()
	if s.Reserved != 0 || s.Used < diskUse(t, c.path) || s.Used > diskUse(t, c.path)+64<<10 {
		t.Errorf("%d bytes counted and %d of them reserved, %d on disk", s.Used, s.Reserved, diskUse(t, c.path))
	}
	if s.FilledBytes != data || s.OverreadBytes != bytes-data || s.MissBytes != data || s.HitBytes < im.size() {
		t.Errorf("stats %+v", s)
	}
}

func TestARangeFetchesItsOwnChunksAlone(t *testing.T) {
	c := temp(t, Options{})
	im := newImage(100*chunk, 2)
	want(t, c, im, 50*chunk+5, 64<<10)
	settle(c)
	if n := im.Bytes.Load(); n != chunk {
		t.Errorf("%d bytes fetched for a range inside one chunk, want %d", n, chunk)
	}
	want(t, c, im, 63*chunk-10, 20) // across the edge of an extent
	settle(c)
	if n := im.Bytes.Load(); n != 3*chunk {
		t.Errorf("%d bytes fetched, want %d", n, 3*chunk)
	}
}

func TestSumsOfWholeChunksAreKnown(t *testing.T) {
	c := temp(t, Options{})
	im := newImage(70*chunk+5, 31)
	r, err := c.Get(t.Context(), im.digest, im.size(), im)
	must(t, err)
	defer r.Close()
	for _, tt := range []struct {
		off, n int64
		ok     bool
	}{
		{0, chunk, true}, {66 * chunk, chunk, true}, {70 * chunk, 5, true},
		{0, 2 * chunk, false}, {1, chunk, false}, {0, chunk - 1, false}, {70 * chunk, 4, false}, {0, 0, false}, {71 * chunk, 5, false},
	} {
		s, ok := r.Sum(t.Context(), tt.off, tt.n)
		if ok != tt.ok || ok && s != sha256.Sum256(im.data[tt.off:tt.off+tt.n]) {
			t.Errorf("%d at %d: %v", tt.n, tt.off, ok)
		}
	}
	if im.Opens.Load() != 0 {
		t.Error("it read data")
	}
}

func TestZeroChunksCostNothing(t *testing.T) {
	c := temp(t, Options{})
	zero := make([]int, 200)
	for i := range zero {
		zero[i] = i
	}
	im := newImage(199*chunk+100, 3, zero...)
	wantAll(t, c, im)
	if im.Opens.Load() != 0 || c.Stats().ZeroBytes != im.size() {
		t.Errorf("%d opens, %d zero bytes", im.Opens.Load(), c.Stats().ZeroBytes)
	}
	r, err := c.Get(t.Context(), im.digest, im.size(), im)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if o := r.Probe(0, im.size()); o.Present != o.Chunks || o.Chunks != 200 {
		t.Errorf("%+v", o)
	}
}

// The same requests give the same bytes whatever the cache can hold: all of it,
// a little, or nothing at all.
func TestTheSameAnswersWhateverTheBudget(t *testing.T) {
	images := []*image{newImage(80*chunk+9, 4, 1, 2, 70, 79), newImage(66*chunk, 5, 0), newImage(1, 6)}
	for name, o := range map[string]Options{
		"all fits":       {},
		"little fits":    {Budget: 6 << 20},
		"nothing fits":   {Budget: 4096},
		"always checked": {Budget: 12 << 20, VerifyAlways: true},
		"lru":            {Budget: 12 << 20, Policy: "lru"},
	} {
		t.Run(name, func(t *testing.T) {
			c := temp(t, o)
			var wg sync.WaitGroup
			for w := range 4 {
				wg.Go(func() {
					rnd := rand.New(rand.NewPCG(uint64(w), 1))
					for range 30 {
						im := images[rnd.IntN(len(images))]
						off := rnd.Int64N(im.size())
						n := 1 + rnd.Int64N(min(im.size()-off, 8*chunk))
						got, err := get(c, im, off, n)
						if err != nil || !bytes.Equal(got, im.data[off:off+n]) {
							t.Errorf("read %d at %d: wrong bytes or %v", n, off, err)
							return
						}
						if s := c.Stats(); s.Used > s.Budget {
							t.Errorf("%d bytes in use with a budget of %d", s.Used, s.Budget)
						}
					}
				})
			}
			wg.Wait()
			settle(c)
			// Only now: what is evicted from one file while others are looked at
			// would count twice.
			if s, disk := c.Stats(), diskUse(t, c.path); disk > s.Used || s.Reserved != 0 {
				t.Errorf("%d bytes on disk, %d counted, %d reserved", disk, s.Used, s.Reserved)
			}
		})
	}
}

func TestAStormFetchesEachChunkOnce(t *testing.T) {
	c := temp(t, Options{})
	im := newImage(150*chunk, 7, 10, 11, 12, 100)
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			r, err := c.Get(t.Context(), im.digest, im.size(), im)
			if err != nil {
				t.Error(err)
				return
			}
			defer r.Close()
			if n, err := r.Send(t.Context(), &compare{t: t, want: im.data}, 0, im.size()); err != nil || n != im.size() {
				t.Errorf("%d bytes and %v", n, err)
			}
		})
	}
	wg.Wait()
	if s := c.Stats(); s.FilledBytes != im.size()-4*chunk || im.Bytes.Load() != s.FilledBytes+s.OverreadBytes {
		t.Errorf("%d bytes from the origin, stats %+v", im.Bytes.Load(), s)
	}
	if n := im.Opens.Load(); n != 3 {
		t.Errorf("%d opens, want one for each extent", n)
	}
}

func TestAReaderThatLeavesStopsNobody(t *testing.T) {
	c := temp(t, Options{})
	im := newImage(20*chunk, 8)
	gate := origintest.NewGate(5 * chunk)
	im.Inject(origintest.Faults{Gate: gate})

	ctx, leave := context.WithCancel(t.Context())
	first := make(chan error, 1)
	go func() {
		r, err := c.Get(ctx, im.digest, im.size(), im)
		if err != nil {
			first <- err
			return
		}
		defer r.Close()
		_, err = r.Send(ctx, io.Discard, 0, im.size())
		first <- err
	}()
	<-gate.Reached
	second := make(chan []byte, 1)
	go func() {
		b, err := get(c, im, 0, im.size())
		if err != nil {
			t.Error(err)
		}
		second <- b
	}()
	leave()
	if err := <-first; err != context.Canceled {
		t.Errorf("the reader that left: %v", err)
	}
	close(gate.Pass)
	if !bytes.Equal(<-second, im.data) {
		t.Error("the other reader got wrong bytes")
	}
	if im.Opens.Load() != 1 {
		t.Errorf("%d opens, want the fill to have gone on: 1", im.Opens.Load())
	}
}

func TestAJoiningReaderGetsWhatIsThereAtOnce(t *testing.T) {
	c := temp(t, Options{})
	im := newImage(20*chunk, 9)
	gate := origintest.NewGate(5 * chunk)
	im.Inject(origintest.Faults{Gate: gate})
	done := make(chan error, 1)
	go func() { _, err := get(c, im, 0, im.size()); done <- err }()
	<-gate.Reached
	want(t, c, im, 0, 5*chunk) // while the fill stands still
	r, err := c.Get(t.Context(), im.digest, im.size(), im)
	if err != nil {
		t.Fatal(err)
	}
	ready := make(chan Outcome, 1)
	go func() {
		o, err := r.Ready(t.Context(), 5*chunk, 10*chunk)
		if err != nil {
			t.Error(err)
		}
		ready <- o
	}()
	close(gate.Pass)
	if o := <-ready; !o.Stored || o.Chunks != 10 {
		t.Errorf("%+v", o)
	}
	r.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestSequentialRangesAreFetchedAhead(t *testing.T) {
	c := temp(t, Options{})
	im := newImage(128*chunk, 10)
	for off := int64(0); off < 64*chunk; off += chunk / 2 {
		want(t, c, im, off, chunk/2)
	}
	settle(c)
	if n := im.Opens.Load(); n > 10 {
		t.Errorf("%d opens for 64 chunks read in order", n)
	}
	random := newImage(128*chunk, 11)
	for _, i := range []int64{90, 13, 55, 120, 7, 33, 71, 101, 22, 84} {
		want(t, c, random, i*chunk, chunk/4)
	}
	settle(c)
	if n := random.Bytes.Load(); n != 10*chunk {
		t.Errorf("%d bytes for ten random chunks, want %d", n, 10*chunk)
	}
}

func TestAStartNeedsNoRefetch(t *testing.T) {
	dir := t.TempDir()
	im := newImage(100*chunk+3, 12, 50)
	c := open(t, dir, Options{})
	want(t, c, im, 0, 30*chunk)
	want(t, c, im, 90*chunk, 10*chunk+3)
	c.Close()
	before := im.Bytes.Load()

	c = open(t, dir, Options{})
	defer c.Close()
	if n := len(c.List()); n != 1 {
		t.Fatalf("%d entries after a start", n)
	}
	want(t, c, im, 0, 30*chunk)
	want(t, c, im, 90*chunk, 10*chunk+3)
	settle(c)
	if im.Bytes.Load() != before || im.manifests.Load() != 1 {
		t.Errorf("a start refetched %d bytes", im.Bytes.Load()-before)
	}
	if s := c.Stats(); s.VerifiedChunks < 41 {
		t.Errorf("%d chunks verified before they were served", s.VerifiedChunks)
	}
}

func TestALocalFileIsServedInPlace(t *testing.T) {
	dir := t.TempDir()
	im := newImage(70*chunk, 13, 5)
	im.local = filepath.Join(dir, "origin")
	if err := os.WriteFile(im.local, im.data, 0o600); err != nil {
		t.Fatal(err)
	}
	c := open(t, filepath.Join(dir, "cache"), Options{})
	defer c.Close()
	wantAll(t, c, im)
	info, err := c.Entry(im.digest)
	if err != nil || !info.Local || info.Stored != 0 || im.Opens.Load() != 0 {
		t.Errorf("%+v, %v, %d opens", info, err, im.Opens.Load())
	}
	if n := diskUse(t, c.path); n > 64<<10 {
		t.Errorf("%d bytes on disk", n)
	}
	t.Run("and when it rots, the bytes come from elsewhere, or not at all", func(t *testing.T) {
		flip(t, im.local, 3*chunk+1)
		wantAll(t, c, im) // by its time the file is seen to be another
		if n := im.Bytes.Load(); n != chunk {
			t.Errorf("%d bytes fetched, want the damaged chunk: %d", n, chunk)
		}
		im.Inject(origintest.Faults{Flip: []int64{3*chunk + 2}})
		if _, err := get(c, im, 3*chunk, 10); err == nil {
			t.Error("damaged bytes were served")
		}
	})
	t.Run("unless told to copy", func(t *testing.T) {
		im.Inject(origintest.Faults{})
		c := temp(t, Options{CopyLocal: true})
		wantAll(t, c, im)
		if info, _ := c.Entry(im.digest); info.Local || info.Stored < 69*chunk {
			t.Errorf("%+v", info)
		}
	})
}

func TestWarmAndPinAndDrop(t *testing.T) {
	dir := t.TempDir()
	c := open(t, dir, Options{Budget: 40 << 20})
	keep, other := newImage(80*chunk, 14), newImage(120*chunk, 15)
	var last int64
	if err := c.Warm(t.Context(), keep.digest, keep.size(), keep, func(done, _ int64) { last = done }); err != nil {
		t.Fatal(err)
	}
	if last != keep.size() {
		t.Errorf("progress ended at %d of %d", last, keep.size())
	}
	if err := c.Pin(t.Context(), keep.digest, keep.size(), keep); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		wantAll(t, c, other)
	}
	opens := keep.Opens.Load()
	wantAll(t, c, keep)
	c.Close()
	c = open(t, dir, Options{Budget: 40 << 20})
	defer c.Close()
	wantAll(t, c, other)
	wantAll(t, c, keep)
	if keep.Opens.Load() != opens {
		t.Error("a pinned image was evicted")
	}
	if used := diskUse(t, dir); used > 40<<20 {
		t.Errorf("%d bytes on disk", used)
	}
	if err := c.Warm(t.Context(), other.digest, other.size(), other, nil); err == nil {
		t.Error("warmed more than there is room for")
	}
	if err := c.Unpin(keep.digest); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		wantAll(t, c, other)
	}
	if err := c.Drop(other.digest); err != nil {
		t.Fatal(err)
	}
	if err := c.Drop(keep.digest); err != nil {
		t.Fatal(err)
	}
	if s := c.Stats(); s.Used != 0 || s.Entries != 0 || diskUse(t, dir) != 0 {
		t.Errorf("after dropping all: %+v, %d on disk", s, diskUse(t, dir))
	}
	if err := c.Drop(keep.digest); err == nil {
		t.Error("dropped twice")
	}
}

func TestAReaderAtWorkOutlivesADrop(t *testing.T) {
	c := temp(t, Options{})
	im := newImage(130*chunk, 16)
	wantAll(t, c, im)
	r, err := c.Get(t.Context(), im.digest, im.size(), im)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var b bytes.Buffer
	if _, err := r.Send(t.Context(), &b, 0, chunk); err != nil {
		t.Fatal(err)
	}
	if err := c.Drop(im.digest); err != nil {
		t.Fatal(err)
	}
	opens := im.Opens.Load()
	if _, err := r.Send(t.Context(), &b, chunk, im.size()-chunk); err != nil || !bytes.Equal(b.Bytes(), im.data) {
		t.Errorf("wrong bytes or %v", err)
	}
	if im.Opens.Load() != opens {
		t.Error("it asked the origin")
	}
}

func TestASecondCacheOnTheDirectoryIsRefused(t *testing.T) {
	c := temp(t, Options{})
	if d, err := Open(Options{Dir: c.path}); err == nil {
		d.Close()
		t.Error("opened twice")
	}
}

func TestSizesThatDisagreeAreRefused(t *testing.T) {
	c := temp(t, Options{})
	im := newImage(3*chunk, 17)
	if _, err := c.Get(t.Context(), im.digest, im.size()+1, im); err == nil {
		t.Error("a record of another size was served")
	}
}
