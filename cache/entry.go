package cache

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
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
	answered atomic.Bool  // a source gave bytes of the data
	lastUsed atomic.Int64 // Unix nanoseconds, 0: not since the start
	data     atomic.Pointer[dataFile]

	// turn is held (it has one place) while the entry gets its data file, is
	// pinned or dropped: never while anybody is asked for anything. It is a
	// channel so that waiting ends with a context.
	turn chan struct{}
	// What follows is set while holding turn, before data is.
	size     int64 // of the data; at first that of the file that Open found
	chunk    int64 // bytes
	chunks   int
	zero     []uint64 // per extent: chunks that are zeros, by the manifest
	gap      int      // as many zeros in a row, in chunks, a fill reads over: see gapOf
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

// use notes that somebody read the entry. It is exact to a second, so that who
// reads it at the same time need not write to the same memory.
func (e *entry) use(now time.Time) {
	if t := now.UnixNano(); t-e.lastUsed.Load() >= int64(time.Second) {
		e.lastUsed.Store(t)
	}
}

func (e *entry) path(suffix string) string {
	return filepath.Join(e.c.path, string(e.digest)+suffix)
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

// open returns the entry's data file, or that of the entry which took its place
// when it was dropped. It reads the manifest at first use, and looks each time
// whether the data file is still the one it was.
func (e *entry) open(ctx context.Context, src Source) (*dataFile, error) {
	if df := e.data.Load(); df != nil && df.usable() {
		return df, nil
	}
	end, err := e.c.begin()
	if err != nil {
		return nil, err
	}
	defer end()
	for {
		var m manifest
		if e.data.Load() == nil {
			if m, err = e.readManifest(ctx, src); err != nil {
				e.forgetUnread()
				return nil, fmt.Errorf("open %s: %w", e.digest, err)
			}
		}
		df, err := e.attach(ctx, src, m)
		if err != nil {
			return nil, fmt.Errorf("open %s: %w", e.digest, err)
		}
		if df != nil {
			return df, nil
		}
		if e, err = e.c.entry(e.digest); err != nil { // it was dropped
			return nil, err
		}
	}
}

// lockTurn takes turn, or returns the error of ctx.
func (e *entry) lockTurn(ctx context.Context) error {
	select {
	case e.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// attach gives the entry a data file if it has none that is usable. It returns
// nil if the entry was dropped. m is needed at first use.
func (e *entry) attach(ctx context.Context, src Source, m manifest) (*dataFile, error) {
	if err := e.lockTurn(ctx); err != nil {
		return nil, err
	}
	defer func() { <-e.turn }()
	if e.dropped {
		return nil, nil
	}
	old := e.data.Load()
	switch {
	case old == nil:
		if err := e.load(m); err != nil {
			return nil, err
		}
	case old.usable():
		return old, nil
	default:
		e.lose(old)
	}
	if path := src.Local(); path != "" {
		e.local = path
	}
	df := e.attachLocal(e.local)
	if df == nil {
		df = e.attachOwn(old != nil)
	} else {
		os.Remove(e.path(dataSuffix)) // of a time when it was copied
	}
	e.c.adopt(df)
	return df, nil
}

// lose gives up a data file that is no longer what it was.
func (e *entry) lose(df *dataFile) {
	if !e.retire(df, lost) {
		return
	}
	for i := range df.extents {
		df.extents[i].ok.Store(0)
	}
	if df.noWrite {
		return // it is tried again, that is all
	}
	e.c.counters.lostFiles.Add(1)
	e.c.complain("a data file was changed by somebody else", "digest", e.digest, "file", df.path)
}

// retire ends the life of a data file and gives back what it held.
func (e *entry) retire(df *dataFile, fate int32) bool {
	if !df.fate.CompareAndSwap(live, fate) {
		return false
	}
	e.c.release(df)
	e.c.files.drop(df)
	return true
}

// A manifest is one that has the entry's digest.
type manifest struct {
	encoded []byte
	onDisk  bool // in the entry's file
}

// readManifest returns the manifest, from disk if it is there and right,
// else from the source. Those who ask at the same time share one answer.
func (e *entry) readManifest(ctx context.Context, src Source) (manifest, error) {
	key := string(e.digest)
	if _, local := src.(noSource); local {
		key += " local" // its answer is good for nobody else
	}
	ch := e.c.loads.DoChan(key, func() (any, error) {
		end, err := e.c.begin()
		if err != nil {
			return nil, err
		}
		defer end()
		encoded, err := os.ReadFile(e.path(manifestSuffix))
		if err == nil && origin.DigestOf(encoded) == e.digest {
			return manifest{encoded, true}, nil
		}
		if err == nil {
			e.c.counters.lostFiles.Add(1)
			e.c.complain("a manifest was damaged", "digest", e.digest)
			err = ErrCorrupt
		}
		if key != string(e.digest) {
			return nil, fmt.Errorf("manifest: %w", err)
		}
		if encoded, err = e.fetchManifest(e.c.ctx, src); err != nil {
			return nil, err
		}
		return manifest{encoded, false}, nil
	})
	select {
	case r := <-ch:
		if r.Err != nil {
			return manifest{}, r.Err
		}
		return r.Val.(manifest), nil
	case <-ctx.Done():
		return manifest{}, context.Cause(ctx)
	}
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

// load makes of the manifest what is kept in memory. The caller holds turn.
func (e *entry) load(read manifest) error {
	m, err := origin.DecodeManifest(read.encoded)
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
	e.gap = gapOf(e.zero, e.chunks)
	e.c.countExactly(e)
	e.keepManifest(read)
	return nil
}

// keepManifest puts the manifest where sums will find it: on disk, or in memory
// where the disk cannot keep it. A torn write is no harm: its digest tells. The
// caller holds turn.
func (e *entry) keepManifest(m manifest) {
	e.freeManifest()
	c := e.c
	if e.overhead == 0 {
		want := roundUp(int64(len(m.encoded))) + blockSize
		switch {
		case m.onDisk:
			c.claim(want)
		case c.reserve(want):
			c.spend(want)
		default:
			e.holdManifest(m.encoded)
			return
		}
		e.overhead = want
	}
	if m.onDisk {
		return
	}
	if err := os.WriteFile(e.path(manifestSuffix), m.encoded, 0o600); err != nil {
		c.writeFailed("write a manifest", err)
		e.holdManifest(m.encoded)
	}
}

// maxHeld bounds the bytes of all manifests in memory. One that has no place is
// asked for each time.
const maxHeld = 16 << 20

func (e *entry) holdManifest(encoded []byte) {
	n := int64(len(encoded))
	if e.c.inMemory.Add(n) > maxHeld {
		e.c.inMemory.Add(-n)
		return
	}
	e.manifest = encoded
}

func (e *entry) freeManifest() {
	e.c.inMemory.Add(-int64(len(e.manifest)))
	e.manifest = nil
}

// sums returns the SHA-256 of every chunk of extent x, 32 bytes each. Sums are
// read from the manifest file when they are needed rather than mapped: a mapped
// file that somebody cuts short would end the process. A keyed checksum tells
// whether they are still those of the manifest that was verified.
func (e *entry) sums(ctx context.Context, x int, src Source) ([]byte, error) {
	n := bits.OnesCount64(e.mask(x)) * sha256.Size
	off := manifestHeader + int64(x)*chunksPerExtent*sha256.Size
	b, err := e.storedSums(off, n)
	if err == nil && maphash.Bytes(e.seed, b) == e.seal[x] {
		return b, nil
	}
	damaged := err == nil || errors.Is(err, io.EOF) || errors.Is(err, os.ErrNotExist)
	if damaged {
		e.c.counters.lostFiles.Add(1)
		e.c.complain("a manifest was damaged", "digest", e.digest)
	}
	encoded, err := e.fetchManifest(ctx, src)
	if err != nil {
		return nil, fmt.Errorf("manifest of %s: %w", e.digest, err)
	}
	if damaged && e.lockTurn(ctx) == nil {
		if !e.dropped {
			e.keepManifest(manifest{encoded, false})
		}
		<-e.turn
	}
	return encoded[off : off+int64(n)], nil
}

func (e *entry) storedSums(off int64, n int) ([]byte, error) {
	e.turn <- struct{}{}
	kept := e.manifest
	<-e.turn
	if kept != nil {
		return kept[off : off+int64(n)], nil
	}
	f, err := openRegular(e.path(manifestSuffix), os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b := make([]byte, n)
	_, err = f.ReadAt(b, off)
	return b, err
}

// sum returns the sum of chunk i out of those of its extent.
func sum(sums []byte, i int) [sha256.Size]byte {
	return [sha256.Size]byte(sums[i%chunksPerExtent*sha256.Size:])
}

// drop removes the entry and its files. Readers at work keep their descriptors
// and what was verified.
func (e *entry) drop() error {
	end, err := e.c.begin()
	if err != nil {
		return err
	}
	defer end()
	e.turn <- struct{}{}
	defer func() { <-e.turn }()
	return e.dropNow()
}

// dropNow is drop for who holds turn.
func (e *entry) dropNow() error {
	if e.dropped {
		return fmt.Errorf("%s: %w", e.digest, ErrNotCached)
	}
	// First nobody may begin to use the file, then it goes, and only then may
	// another entry make one of the same name.
	if df := e.data.Load(); df != nil {
		e.retire(df, dropped)
	}
	var errs []error
	for _, suffix := range []string{dataSuffix, manifestSuffix, pinSuffix} {
		if err := os.Remove(e.path(suffix)); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("drop %s: %w", e.digest, err)
	}
	e.c.countExactly(e)
	e.c.claim(-e.overhead)
	e.overhead = 0
	e.freeManifest()
	e.leaveMap()
	return nil
}

// leaveMap lets the next user of the digest begin anew. The caller holds turn.
func (e *entry) leaveMap() {
	e.dropped = true
	e.c.entriesMu.Lock()
	delete(e.c.entries, e.digest)
	e.c.entriesMu.Unlock()
}

// forgetUnread takes an entry out of the map that was never read and has nothing
// on disk: a request for it failed.
func (e *entry) forgetUnread() {
	select {
	case e.turn <- struct{}{}:
	default:
		return // somebody else is at it
	}
	defer func() { <-e.turn }()
	if e.data.Load() == nil && e.coldBytes == 0 && !e.dropped {
		e.leaveMap()
	}
}

// pin does Cache.Pin for an entry that was opened.
func (e *entry) pin() error {
	e.turn <- struct{}{}
	defer func() { <-e.turn }()
	if e.dropped {
		return fmt.Errorf("pin %s: %w", e.digest, ErrNotCached)
	}
	f, err := os.OpenFile(e.path(pinSuffix), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("pin %s: %w", e.digest, err)
	}
	e.c.setPinned(e, true)
	return f.Close()
}

// unpin does Cache.Unpin.
func (e *entry) unpin() error {
	e.turn <- struct{}{}
	defer func() { <-e.turn }()
	if err := os.Remove(e.path(pinSuffix)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("unpin %s: %w", e.digest, err)
	}
	e.c.setPinned(e, false)
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
