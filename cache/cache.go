// Package cache keeps copies of image data on local disk within a byte budget,
// and never changes an answer, only its cost.
//
// There is one entry per digest: one sparse data file and the manifest. One rule
// carries everything: a byte leaves only from a chunk whose ok bit is set, and
// ok is set only by hashing. The disk is a hint, the digest is the truth, so
// there is no recovery, no fsync and no order of writes to get right: bit rot, a
// torn write, a swapped file and a lying origin all become a refetch of a chunk.
//
// The files, for a reader of the code: entry.go knows what an entry is,
// datafile.go where its bytes are, flight.go, fill.go and gap.go bring missing ones,
// reader.go sends them, budget.go and policy.go make room, scrub.go looks for
// damage.
package cache

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"
	"golang.org/x/sync/singleflight"
	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"

	"nearsight/origin"
)

var (
	// ErrCorrupt: the origin delivered bytes that are not those of the digest.
	ErrCorrupt = errors.New("bytes do not match their digest")
	// ErrNotCached: the cache has no entry for this digest.
	ErrNotCached = errors.New("not in the cache")
	// ErrNoRoom: the bytes cannot be kept, because the budget or the disk is
	// used up by what must stay, or because the disk cannot be written.
	ErrNoRoom = errors.New("no room in the cache")
	// ErrClosed: the cache was closed.
	ErrClosed = errors.New("cache closed")
)

const (
	dataSuffix     = ".data"
	manifestSuffix = ".manifest"
	pinSuffix      = ".pin"
)

// A Source is where an entry gets what it lacks. It must not be bound to one
// request: fills outlive the request that began them.
type Source interface {
	// Manifest returns the encoded origin.Manifest of the digest.
	Manifest(ctx context.Context) ([]byte, error)
	// Open returns n bytes from byte offset off, as origin.Store.Open does. It
	// is called again with a later off to resume. A Body that is a Doubted
	// hears of it when its bytes are wrong.
	Open(ctx context.Context, off, n int64) (*origin.Object, error)
	// Local returns the path of a file of this machine that holds exactly the
	// bytes, or "".
	Local() string
}

// A Doubted is a Body of a Source that can look elsewhere.
type Doubted interface {
	// Wrong says that bytes of the body are not those of the digest; the body is
	// closed after that. It returns true if the next Open asks somewhere that
	// was never asked or never wrong. It must return false in the end.
	Wrong() bool
}

// Options configure a Cache. Only Dir is required.
type Options struct {
	// Dir holds the entries. It is made if missing and belongs to one Cache
	// of one process at a time.
	Dir string
	// Budget bounds the disk use of Dir in bytes; 0 means 1 GiB.
	Budget int64
	// MinFree is the free space, in bytes, that the file system of Dir keeps:
	// below it the budget counts as reached. 0 means none.
	MinFree int64
	// VerifyAlways hashes every chunk on every read, instead of once after it
	// was fetched, after a start and by scrub. It costs 0.6 CPU-s/GiB and
	// sendfile, and sees bytes that rot while the process runs.
	VerifyAlways bool
	// CopyLocal copies what a local file store already has on this file
	// system. Without it such files are served in place, verified like all
	// else: a second copy on the same disk would only cost space.
	CopyLocal bool
	// OpenFiles bounds the idle descriptors kept open; 0 means 512.
	OpenFiles int
	// FillMemory bounds the bytes of all fills under way; 0 means 32 MiB.
	FillMemory int64
	// Stall is how long an origin may take for 64 KiB before the fill asks
	// anew; 0 means 10 s.
	Stall time.Duration
	// ScrubRate is the pace of the background scrub in bytes per second, 0
	// means 16 MiB/s; ScrubEvery the time from one pass to the next, 0 means
	// a week, and less than 0 means never.
	ScrubRate  int64
	ScrubEvery time.Duration
	// Policy decides what goes first: "s3fifo" (or "") or "lru".
	Policy string
	// Log gets damage and trouble with the disk; nil means slog.Default().
	Log *slog.Logger
}

// A Cache is safe for concurrent use.
type Cache struct {
	path       string   // of the directory
	dir        identity // of it
	budget     int64
	minFree    int64
	always     bool
	copyLocal  bool
	stall      time.Duration
	scrubRate  int64
	scrubEvery time.Duration
	log        *slog.Logger
	lock       *os.File // dir, flocked
	files      descriptors
	fillMemory *semaphore.Weighted
	fillSize   int64
	zeros      *os.File // zeroFileSize zeros
	buffers    sync.Pool

	ctx    context.Context // ends at Close, and with it every flight
	cancel context.CancelFunc
	wg     sync.WaitGroup // flights, and calls that touch files
	loads  singleflight.Group

	counters   counters
	complaints *rate.Limiter // see complain
	inMemory   atomic.Int64  // bytes of manifests that the disk could not keep

	// Under entriesMu: which entries there are. Nothing is done while it is
	// held but looking up, adding and removing.
	entriesMu sync.RWMutex
	entries   map[origin.Digest]*entry
	closed    bool // nothing begins any more

	// Under budgetMu: bytes of disk, and what may go. It is the innermost
	// lock, and never held during I/O.
	budgetMu  sync.Mutex
	used      int64 // reserved included
	reserved  int64
	policy    policy
	fullUntil time.Time // the disk had no room for what the budget allowed
	cold      []*entry  // found at Open, not used since, the oldest first
	freeAt    time.Time
	freeBytes int64 // of the file system, at freeAt
}

type counters struct {
	flights                                atomic.Int64
	hit, miss, zero, evicted               atomic.Int64
	filled, overread                       atomic.Int64
	verified, damaged, corrupt, uncached   atomic.Int64
	lostFiles, stalls, fillErrors, noWrite atomic.Int64
}

// Open opens the cache in o.Dir. It looks at names and sizes only: entries are
// read when they are used.
func Open(o Options) (*Cache, error) {
	c := &Cache{
		path: o.Dir, budget: o.Budget, minFree: o.MinFree,
		always: o.VerifyAlways, copyLocal: o.CopyLocal,
		stall: o.Stall, scrubRate: o.ScrubRate, scrubEvery: o.ScrubEvery,
		fillSize:   o.FillMemory,
		complaints: rate.NewLimiter(1, 20),
		log:        o.Log,
		entries:    make(map[origin.Digest]*entry),
	}
	setDefault(&c.budget, 1<<30)
	setDefault(&c.fillSize, 32<<20)
	setDefault(&c.stall, 10*time.Second)
	setDefault(&c.scrubRate, 16<<20)
	setDefault(&c.scrubEvery, 7*24*time.Hour)
	if c.log == nil {
		c.log = slog.Default()
	}
	c.buffers.New = func() any { b := make([]byte, origin.MinChunkSize); return &b }
	c.fillMemory = semaphore.NewWeighted(c.fillSize)
	idle := o.OpenFiles
	setDefault(&idle, 512)
	c.files.init(idle)
	switch o.Policy {
	case "", "s3fifo":
		c.policy = newS3FIFO(int(c.budget / (origin.MinChunkSize * chunksPerExtent)))
	case "lru":
		c.policy = newLRU()
	default:
		return nil, fmt.Errorf("cache policy %q is neither s3fifo nor lru", o.Policy)
	}
	if err := c.lockDir(); err != nil {
		return nil, err
	}
	err := c.scanDir()
	if err == nil {
		c.zeros, err = openZeros()
	}
	if err != nil {
		c.lock.Close()
		return nil, err
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	return c, nil
}

func setDefault[T ~int | ~int64](v *T, to T) {
	if *v == 0 {
		*v = to
	}
}

// lockDir takes the directory for this process and sees that its file system
// can do what eviction needs.
func (c *Cache) lockDir() error {
	if err := os.MkdirAll(c.path, 0o700); err != nil {
		return fmt.Errorf("cache directory: %w", err)
	}
	d, err := os.Open(c.path)
	if err != nil {
		return fmt.Errorf("cache directory: %w", err)
	}
	if err = unix.Flock(int(d.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		err = fmt.Errorf("cache directory %s is in use by another process: %w", c.path, err)
	} else if c.dir, err = identify(d, "", false); err == nil {
		err = canPunch(c.path)
	}
	if err != nil {
		d.Close()
		return err
	}
	c.lock = d
	return nil
}

// canPunch tries to punch a hole. A directory that cannot be written at all is
// no reason to refuse: the cache then passes everything through.
func canPunch(dir string) error {
	f, err := os.CreateTemp(dir, "probe")
	if err != nil {
		return nil
	}
	defer f.Close()
	defer os.Remove(f.Name())
	if _, err := f.WriteAt(make([]byte, 8192), 0); err != nil {
		return nil
	}
	if err := punch(f, 0, 4096); errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		return fmt.Errorf("cache directory %s: its file system cannot punch holes, which eviction needs: %w", dir, err)
	}
	return nil
}

// scanDir finds the entries that are on disk.
func (c *Cache) scanDir() error {
	names, err := os.ReadDir(c.path)
	if err != nil {
		return fmt.Errorf("cache directory: %w", err)
	}
	for _, de := range names {
		suffix := filepath.Ext(de.Name())
		digest, err := origin.ParseDigest(strings.TrimSuffix(de.Name(), suffix))
		if err != nil {
			if strings.HasPrefix(de.Name(), "probe") {
				os.Remove(filepath.Join(c.path, de.Name())) // of a start that was killed
			}
			continue
		}
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(c.path, de.Name()), &st); err != nil {
			continue // gone already
		}
		e := c.entries[digest]
		if e == nil {
			e = c.newEntry(digest)
			c.entries[digest] = e
		}
		e.coldBytes += st.Blocks * 512
		switch suffix {
		case dataSuffix:
			e.size = st.Size
			e.changed, e.coldData = time.Unix(st.Mtim.Unix()), true
		case pinSuffix:
			e.pinned.Store(true)
		}
	}
	for _, e := range c.entries {
		c.used += e.coldBytes
		c.cold = append(c.cold, e)
	}
	slices.SortFunc(c.cold, func(a, b *entry) int { return a.changed.Compare(b.changed) })
	return nil
}

// Run scrubs in the background until ctx ends. It returns nil then.
func (c *Cache) Run(ctx context.Context) error { return c.scrubForever(ctx) }

// begin counts a call that touches files, until the function it returns is
// called. ErrClosed if the cache was closed.
func (c *Cache) begin() (end func(), err error) {
	c.entriesMu.RLock()
	defer c.entriesMu.RUnlock()
	if c.closed {
		return nil, ErrClosed
	}
	c.wg.Add(1)
	return c.wg.Done, nil
}

// Close ends all fills, waits for them and closes every file. Readers must have
// been closed before.
func (c *Cache) Close() error {
	c.entriesMu.Lock()
	c.closed = true
	c.entriesMu.Unlock()
	c.cancel()
	c.wg.Wait()
	c.files.close()
	c.zeros.Close()
	return c.lock.Close()
}

// Get returns a Reader on the data named digest, of size bytes. It reads no data
// and asks the source for nothing but a missing manifest. The caller closes it.
func (c *Cache) Get(ctx context.Context, digest origin.Digest, size int64, src Source) (*Reader, error) {
	e, err := c.entry(digest)
	if err != nil {
		return nil, err
	}
	df, err := e.open(ctx, src)
	if err != nil {
		return nil, err
	}
	e = df.e // another one, if it was dropped just now
	if e.size != size {
		return nil, fmt.Errorf("open %s: the record says %d bytes and the manifest %d: %w", digest, size, e.size, ErrCorrupt)
	}
	e.use(time.Now())
	return &Reader{c: c, e: e, df: df, src: src, extent: -1, sumsOf: -1}, nil
}

// entry returns the entry of digest, made if there is none.
func (c *Cache) entry(digest origin.Digest) (*entry, error) {
	c.entriesMu.RLock()
	e, closed := c.entries[digest], c.closed
	c.entriesMu.RUnlock()
	if e != nil && !closed {
		return e, nil
	}
	if _, err := origin.ParseDigest(string(digest)); err != nil {
		return nil, err
	}
	c.entriesMu.Lock()
	defer c.entriesMu.Unlock()
	if c.closed {
		return nil, ErrClosed
	}
	if e = c.entries[digest]; e == nil {
		e = c.newEntry(digest)
		c.entries[digest] = e
	}
	return e, nil
}

// known returns the entry of digest or ErrNotCached.
func (c *Cache) known(digest origin.Digest) (*entry, error) {
	c.entriesMu.RLock()
	defer c.entriesMu.RUnlock()
	if e := c.entries[digest]; e != nil {
		return e, nil
	}
	return nil, fmt.Errorf("%s: %w", digest, ErrNotCached)
}

// all returns the entries in the order of their digests.
func (c *Cache) all() []*entry {
	c.entriesMu.RLock()
	list := make([]*entry, 0, len(c.entries))
	for _, e := range c.entries {
		list = append(list, e)
	}
	c.entriesMu.RUnlock()
	sort.Slice(list, func(i, j int) bool { return list[i].digest < list[j].digest })
	return list
}
