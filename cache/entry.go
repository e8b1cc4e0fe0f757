package cache

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash/maphash"
	"math/bits"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"nearsight/origin"
)

// manifestHeader is the length of an encoded manifest without any sums.
var manifestHeader = int64(len((&origin.Manifest{}).Encode()))

// An entry is what the cache knows of one digest.
type entry struct {
	c      *Cache
	digest origin.Digest

	// What Cache.Open found on disk: bytes in all, whether there is a data
	// file, and when that was last written. It does not change after Open.
	coldBytes int64
	coldData  bool
	changed   time.Time

	pinned   atomic.Bool
	lastUsed atomic.Int64 // Unix nanoseconds, 0: not since the start
	data     atomic.Pointer[dataFile]

	// turn is held (it has one place) while the entry is opened, or its data
	// file is replaced. It is a channel so that waiting ends with a context.
	turn chan struct{}
	// What follows is set while holding turn, before data is.
	size     int64 // of the data; at first that of the file that Open found
	chunk    int64 // bytes
	chunks   int
	zero     []uint64 // per extent: chunks that are zeros, by the manifest
	seal     []uint64 // per extent: keyed checksum of its sums
	seed     maphash.Seed
	manifest []byte // the encoded manifest, where the disk cannot keep it
	overhead int64  // bytes charged for the manifest
	local    string // the origin's own file, if a source ever named one
	dropped  bool

	// Under mu: the fills under way, by extent, and where readers left off.
	mu     sync.Mutex
	flying map[int][]*flight
	trails trails
}

func (c *Cache) newEntry(digest origin.Digest) *entry {
	return &entry{c: c, digest: digest, turn: make(chan struct{}, 1), flying: make(map[int][]*flight)}
}

func (e *entry) path(suffix string) string {
	return filepath.Join(e.c.dir, string(e.digest)+suffix)
}

// chunkLen returns the length of chunk i in bytes.
func (e *entry) chunkLen(i int) int64 { return min(e.chunk, e.size-int64(i)*e.chunk) }

// mask returns the bits of the chunks that extent x has.
func (e *entry) mask(x int) uint64 {
	if n := e.chunks - x*chunksPerExtent; n < chunksPerExtent {
		return 1<<n - 1
	}
	return ^uint64(0)
}

// open returns the entry's data file. It reads the manifest at first use, and
// looks each time whether the data file is still the one it was.
func (e *entry) open(ctx context.Context, src Source) (*dataFile, error) {
	if df := e.data.Load(); df != nil && !df.retired() && df.same() {
		return df, nil
	}
	select {
	case e.turn <- struct{}{}:
		defer func() { <-e.turn }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	df := e.data.Load()
	if df != nil && !df.retired() && df.same() {
		return df, nil
	}
	if e.dropped { // between the look-up and now: begin anew
		fresh, err := e.c.entry(e.digest)
		if err != nil {
			return nil, err
		}
		return fresh.open(ctx, src)
	}
	if df == nil {
		if err := e.load(ctx, src); err != nil {
			return nil, fmt.Errorf("open %s: %w", e.digest, err)
		}
	} else {
		e.lose(df)
	}
	if path := src.Local(); path != "" {
		e.local = path
	}
	df = e.attachLocal(e.local)
	if df == nil {
		df = e.attachOwn()
	} else {
		os.Remove(e.path(dataSuffix)) // of a time when it was copied
	}
	e.c.adopt(df)
	e.data.Store(df)
	return df, nil
}

// lose gives up a data file that is no longer what it was.
func (e *entry) lose(df *dataFile) {
	if !df.retire(lost) {
		return
	}
	for i := range df.extents {
		df.extents[i].ok.Store(0)
	}
	e.c.release(df)
	e.c.files.drop(df)
	e.c.counters.lostFiles.Add(1)
	e.c.log.Warn("a data file was changed by somebody else", "digest", e.digest, "file", df.path)
}

// load reads the manifest, from disk if it is there and right, else from the
// source, and makes of it what is kept in memory. The caller holds turn.
func (e *entry) load(ctx context.Context, src Source) error {
	c := e.c
	encoded, err := os.ReadFile(e.path(manifestSuffix))
	onDisk := err == nil && origin.DigestOf(encoded) == e.digest
	if !onDisk {
		if err == nil {
			c.counters.lostFiles.Add(1)
			c.log.Warn("a manifest was damaged", "digest", e.digest, "file", e.path(manifestSuffix))
		}
		if encoded, err = e.fetchManifest(ctx, src); err != nil {
			return err
		}
	}
	m, err := origin.DecodeManifest(encoded)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	e.size, e.chunk, e.chunks = m.Size, origin.ChunkSize(m.Size), origin.Chunks(m.Size)
	n := (e.chunks + chunksPerExtent - 1) / chunksPerExtent
	e.zero, e.seal, e.seed = make([]uint64, n), make([]uint64, n), maphash.MakeSeed()
	zeroSum, lastSum := origin.ZeroSum(e.chunk), [sha256.Size]byte{}
	if e.chunks > 0 {
		lastSum = origin.ZeroSum(e.chunkLen(e.chunks - 1))
	}
	for i := range e.chunks {
		if sum := m.Sum(i); sum == zeroSum && i < e.chunks-1 || sum == lastSum && i == e.chunks-1 {
			e.zero[i/chunksPerExtent] |= 1 << (i % chunksPerExtent)
		}
	}
	for x := range n {
		from := x * chunksPerExtent * sha256.Size
		to := min(from+chunksPerExtent*sha256.Size, len(m.Sums))
		e.seal[x] = maphash.Bytes(e.seed, m.Sums[from:to])
	}
	c.warmUp(e) // its space is counted exactly from now on
	e.keepManifest(encoded, onDisk)
	return nil
}

// fetchManifest asks the source for the manifest and checks it.
func (e *entry) fetchManifest(ctx context.Context, src Source) ([]byte, error) {
	encoded, err := src.Manifest(ctx)
	if err != nil {
		return nil, err
	}
	if origin.DigestOf(encoded) != e.digest {
		return nil, fmt.Errorf("manifest: %w", ErrCorrupt)
	}
	return encoded, nil
}

// keepManifest puts the manifest where sums will find it: on disk, or in memory
// where the disk cannot keep it. A torn write is no harm: its digest tells.
func (e *entry) keepManifest(encoded []byte, onDisk bool) {
	e.manifest = nil
	if e.overhead == 0 {
		want := roundUp(int64(len(encoded))) + blockSize
		if onDisk {
			e.c.claim(want)
		} else if e.c.reserve(want) {
			e.c.spend(want)
		} else {
			e.manifest = encoded
			return
		}
		e.overhead = want
	}
	if onDisk {
		return
	}
	if err := os.WriteFile(e.path(manifestSuffix), encoded, 0o600); err != nil {
		e.c.writeFailed("write a manifest", err)
		e.manifest = encoded
	}
}

// sums returns the SHA-256 of every chunk of extent x, 32 bytes each. Sums are
// read from the manifest file when they are needed rather than mapped: a mapped
// file that somebody cuts short would end the process. A keyed checksum tells
// whether they are still those of the manifest that was verified.
func (e *entry) sums(ctx context.Context, x int, src Source) ([]byte, error) {
	n := bits.OnesCount64(e.mask(x)) * sha256.Size
	off := manifestHeader + int64(x)*chunksPerExtent*sha256.Size
	if b := e.storedSums(off, n); b != nil && maphash.Bytes(e.seed, b) == e.seal[x] {
		return b, nil
	}
	if src == nil {
		return nil, fmt.Errorf("manifest of %s: %w", e.digest, ErrNotCached)
	}
	e.c.counters.lostFiles.Add(1)
	e.c.log.Warn("a manifest was damaged", "digest", e.digest, "file", e.path(manifestSuffix))
	encoded, err := e.fetchManifest(ctx, src)
	if err != nil {
		return nil, err
	}
	e.turn <- struct{}{}
	if !e.dropped {
		e.keepManifest(encoded, false)
	}
	<-e.turn
	return encoded[off : off+int64(n)], nil
}

func (e *entry) storedSums(off int64, n int) []byte {
	e.turn <- struct{}{}
	kept := e.manifest
	<-e.turn
	if kept != nil {
		return kept[off : off+int64(n)]
	}
	f, err := openRegular(e.path(manifestSuffix), os.O_RDONLY)
	if err != nil {
		return nil
	}
	defer f.Close()
	b := make([]byte, n)
	if _, err := f.ReadAt(b, off); err != nil {
		return nil
	}
	return b
}

// sum returns the sum of chunk i out of those of its extent.
func sum(sums []byte, i int) [sha256.Size]byte {
	return [sha256.Size]byte(sums[i%chunksPerExtent*sha256.Size:])
}

// drop removes the entry and its files.
func (e *entry) drop() error {
	e.turn <- struct{}{}
	defer func() { <-e.turn }()
	if e.dropped {
		return fmt.Errorf("%s: %w", e.digest, ErrNotCached)
	}
	c := e.c
	var errs []error
	for _, suffix := range []string{dataSuffix, manifestSuffix, pinSuffix} {
		if err := os.Remove(e.path(suffix)); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("drop %s: %w", e.digest, err)
	}
	e.dropped = true
	c.entriesMu.Lock()
	delete(c.entries, e.digest)
	c.entriesMu.Unlock()
	if df := e.data.Load(); df != nil && df.retire(dropped) {
		c.release(df) // readers at work keep their descriptors and their ok bits
		c.files.drop(df)
	}
	c.warmUp(e)
	c.unclaim(e.overhead)
	e.overhead = 0
	return nil
}

func (e *entry) info() EntryInfo {
	info := EntryInfo{Digest: e.digest, Zero: -1, Pinned: e.pinned.Load()}
	if t := e.lastUsed.Load(); t != 0 {
		info.LastUsed = time.Unix(0, t).UTC()
	}
	df := e.data.Load()
	if df == nil {
		e.turn <- struct{}{}
		info.Size, info.Stored = e.size, e.coldBytes
		<-e.turn
		return info
	}
	info.Size, info.Local, info.Zero = e.size, df.local, 0
	for i := range df.extents {
		info.Zero += e.bytes(i, e.zero[i])
		info.Verified += e.bytes(i, df.extents[i].ok.Load())
	}
	e.c.budgetMu.Lock()
	for i := range df.extents {
		info.Stored += e.charge(i, df.extents[i].disk)
	}
	e.c.budgetMu.Unlock()
	return info
}

// bytes returns the bytes of data in the chunks in mask of extent x.
func (e *entry) bytes(x int, mask uint64) int64 {
	n := int64(bits.OnesCount64(mask)) * e.chunk
	last := e.chunks - 1
	if x == last/chunksPerExtent && mask&(1<<(last%chunksPerExtent)) != 0 {
		n += e.chunkLen(last) - e.chunk
	}
	return n
}
