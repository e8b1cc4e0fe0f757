package cache

import (
	"errors"
	"fmt"
	"io"
	"math/bits"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"nearsight/origin"
)

// chunksPerExtent is the number of chunks in an extent, the unit of fetching
// ahead and of eviction: the bits of a word.
const chunksPerExtent = 64

// evicting in extent.pins shuts readers out while the extent is being evicted.
const evicting = -1 << 30

// An extent is 64 neighbouring chunks of a data file. Bit i of its words is its
// chunk i.
type extent struct {
	df    *dataFile
	index int

	// have: the data file seems to hold the chunk. ok: it was hashed and is
	// right; only who hashed it sets that. Both are read without a lock by
	// whoever pinned the extent.
	have, ok atomic.Uint64
	// pins counts who reads or fills the extent; see pin.
	pins atomic.Int32
	// freq is the policy's, see policy.touch.
	freq atomic.Uint32

	// Under Cache.budgetMu.
	disk       uint64 // chunks charged to the budget: they are, or may be, on disk
	queue      int8   // the policy's
	prev, next *extent
}

// pin keeps the extent from being evicted until unpin.
func (x *extent) pin() {
	for x.pins.Add(1) < 0 {
		x.pins.Add(-1)
		x.df.evictMu.Lock() // held for as long as one extent is being evicted
		//lint:ignore SA2001 waiting is all that is wanted
		x.df.evictMu.Unlock()
	}
}

func (x *extent) unpin() { x.pins.Add(-1) }

// missing returns those of the chunks in mask that cannot be sent yet.
func (x *extent) missing(mask uint64) uint64 {
	return mask &^ (x.ok.Load() | x.df.e.zero[x.index])
}

// A dataFile is one file that holds an entry's bytes, and what is known of them.
// When the file turns out to be another one than it was, cut or gone, the
// dataFile is lost, with all it knew, and the entry gets a new one.
type dataFile struct {
	e       *entry
	path    string
	local   bool // a file of the origin: read only, never written or punched
	noWrite bool // own, but it cannot be written
	none    bool // there is no file at all
	id      identity
	extents []extent
	tried   atomic.Int64 // Unix nanoseconds, see usable
	fate    atomic.Int32 // see entry.retire

	evictMu sync.Mutex // held while one of the extents is evicted

	shared atomic.Pointer[openFile] // set under descriptors.mu
}

// The fates of a data file; see entry.retire. A lost one is not what it was: nothing of it may be
// sent. A dropped one was removed by the cache itself: who has it open may go on.
const (
	live int32 = iota
	lost
	dropped
)

// retired says whether the budget and the policy know it no more.
func (df *dataFile) retired() bool { return df.fate.Load() != live }

// identity tells a file from another one and from its own later state. The birth
// time tells it from one that was given the inode of a file that is gone.
type identity struct {
	major, minor uint32
	ino          uint64
	size         int64
	birth        unix.StatxTimestamp
	mtime        unix.StatxTimestamp // of local files only: we never write to those
	regular      bool
}

// identify looks at what path leads to, or with an empty path at descriptor f.
func identify(f *os.File, path string, local bool) (identity, error) {
	at, flags := unix.AT_FDCWD, unix.AT_SYMLINK_NOFOLLOW
	if path == "" {
		at, flags = int(f.Fd()), unix.AT_EMPTY_PATH
	}
	var st unix.Statx_t
	if err := unix.Statx(at, path, flags, unix.STATX_BASIC_STATS|unix.STATX_BTIME, &st); err != nil {
		return identity{}, err
	}
	id := identity{
		major: st.Dev_major, minor: st.Dev_minor, ino: st.Ino, size: int64(st.Size),
		regular: st.Mode&unix.S_IFMT == unix.S_IFREG,
	}
	if st.Mask&unix.STATX_BTIME != 0 {
		id.birth = st.Btime
	}
	if local {
		id.mtime = st.Mtime
	}
	return id, nil
}

// same looks whether the path still leads to the same file.
func (df *dataFile) same() bool {
	if df.none {
		return true
	}
	id, err := identify(nil, df.path, df.local)
	return err == nil && id == df.id
}

// usable says whether the data file may be read on. One that could not be made or
// written is looked at again now and then: its disk may have become better.
func (df *dataFile) usable() bool {
	if df.retired() || !df.same() {
		return false
	}
	if !df.noWrite {
		return true
	}
	now, last := time.Now().UnixNano(), df.tried.Load()
	if last == writable {
		return false
	}
	if now-last < int64(retryEvery) || !df.tried.CompareAndSwap(last, now) {
		return true
	}
	f, err := openRegular(df.path, os.O_RDWR|os.O_CREATE)
	if err != nil {
		return true
	}
	f.Close()
	df.tried.Store(writable)
	return false
}

// keeps says whether fills can store what they fetch.
func (df *dataFile) keeps() bool { return !df.local && !df.noWrite }

// attachLocal makes a dataFile of a file of the origin, if it fits.
func (e *entry) attachLocal(path string) *dataFile {
	if path == "" || e.c.copyLocal {
		return nil
	}
	id, err := identify(nil, path, true)
	if err != nil || !id.regular || id.major != e.c.dir.major || id.minor != e.c.dir.minor || id.size != e.size {
		return nil
	}
	df := e.newDataFile(path)
	df.local, df.id = true, id
	for i := range df.extents {
		df.extents[i].have.Store(e.mask(i))
	}
	return df
}

// attachOwn makes a dataFile of the cache's own sparse file, which it creates if
// there is none. It never fails: where the file cannot be written or made, what
// is there is read and the rest passed through.
//
// A file that an earlier dataFile of this entry had is not used again: somebody
// may still be sending from it under that one's pins. It is removed first, or
// else done without.
func (e *entry) attachOwn(again bool) *dataFile {
	df := e.newDataFile(e.path(dataSuffix))
	df.tried.Store(time.Now().UnixNano())
	if again {
		if err := os.Remove(df.path); err != nil && !errors.Is(err, os.ErrNotExist) {
			e.c.writeFailed("remove a data file", err)
			df.none, df.noWrite = true, true
			return df
		}
	}
	f, err := openRegular(df.path, os.O_RDWR|os.O_CREATE)
	if err != nil {
		df.noWrite = true
		e.c.writeFailed("open a data file", err)
		if f, err = openRegular(df.path, os.O_RDONLY); err != nil {
			df.none = true
			return df
		}
	}
	defer f.Close()
	if fi, err := f.Stat(); err != nil || fi.Size() != e.size && !df.noWrite {
		if err == nil {
			err = f.Truncate(e.size)
		}
		if err != nil {
			e.c.writeFailed("size a data file", err)
			df.noWrite = true
		}
	}
	if df.id, err = identify(f, "", false); err != nil {
		df.none, df.noWrite = true, true
		return df
	}
	df.scan(f)
	return df
}

// openRegular opens a file that is neither a link nor a device.
func openRegular(path string, flag int) (*os.File, error) {
	f, err := os.OpenFile(path, flag|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
	if err != nil {
		return nil, err
	}
	if fi, err := f.Stat(); err != nil || !fi.Mode().IsRegular() {
		f.Close()
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	return f, nil
}

func (e *entry) newDataFile(path string) *dataFile {
	df := &dataFile{e: e, path: path, extents: make([]extent, len(e.zero))}
	for i := range df.extents {
		df.extents[i].df, df.extents[i].index = df, i
	}
	return df
}

// scan sets have from the file's map of data and holes. A file system that
// cannot tell says that all is data: every chunk then seems present, fails its
// first check and is fetched again. Slow, never wrong.
func (df *dataFile) scan(f *os.File) {
	e := df.e
	for off := int64(0); off < e.size; {
		start, err := unix.Seek(int(f.Fd()), off, unix.SEEK_DATA)
		if err != nil {
			if !errors.Is(err, unix.ENXIO) { // which means: only holes from here on
				df.mark(off, e.size)
			}
			return
		}
		end, err := unix.Seek(int(f.Fd()), start, unix.SEEK_HOLE)
		if err != nil || end > e.size {
			end = e.size
		}
		df.mark(start, end)
		if end <= start {
			return
		}
		off = end
	}
}

// mark notes that the bytes from start to end are data: chunks wholly inside are
// had, and those touched take up space.
func (df *dataFile) mark(start, end int64) {
	e := df.e
	if start >= end {
		return
	}
	for i := int(start / e.chunk); i < e.chunks && int64(i)*e.chunk < end; i++ {
		x, bit := &df.extents[i/chunksPerExtent], uint64(1)<<(i%chunksPerExtent)
		x.disk |= bit
		first := int64(i) * e.chunk
		if first >= start && first+e.chunkLen(i) <= end {
			x.have.Store(x.have.Load() | bit)
		}
	}
}

// readChunk reads chunk i into buf, which has its length.
func (df *dataFile) readChunk(f *os.File, i int, buf []byte) error {
	n, err := f.ReadAt(buf, int64(i)*df.e.chunk)
	if n == len(buf) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("read %s: %w", df.path, err)
}

// file returns the data file, open, with the caller as a user. The caller
// releases it. errLost means that the file is not the one it was; any other error
// that it cannot be opened.
func (df *dataFile) file() (*openFile, error) {
	if df.none {
		return nil, fmt.Errorf("%s: %w", df.path, os.ErrPermission)
	}
	if f := df.e.c.files.take(df); f != nil {
		return f, nil
	}
	flag := os.O_RDWR
	if df.local || df.noWrite {
		flag = os.O_RDONLY
	}
	f, err := openRegular(df.path, flag)
	if errors.Is(err, os.ErrNotExist) {
		return nil, errLost
	}
	if err != nil {
		return nil, err
	}
	// Asked in this order: a file that is made after this one was retired may
	// have got its inode.
	if id, err := identify(f, "", df.local); err != nil || id != df.id || df.retired() {
		f.Close()
		return nil, errLost
	}
	return df.e.c.files.add(df, f), nil
}

// keepsSize says whether the file that f is a descriptor of has its size yet.
func (df *dataFile) keepsSize(f *os.File) bool {
	id, err := identify(f, "", df.local)
	return err == nil && id.size == df.id.size
}

// punch frees the space of n bytes at off.
func punch(f *os.File, off, n int64) error {
	return unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
}

// blockSize is what file systems allocate at least.
const blockSize = 4096

func roundUp(n int64) int64 { return (n + blockSize - 1) &^ (blockSize - 1) }

// charge returns the bytes of disk that the chunks in mask of extent x take up,
// with a block for the map that a file system keeps of a scattered extent.
func (e *entry) charge(x int, mask uint64) int64 {
	if mask == 0 {
		return 0
	}
	n := int64(bits.OnesCount64(mask)) * e.chunk
	last := e.chunks - 1
	if x == last/chunksPerExtent && mask&(1<<(last%chunksPerExtent)) != 0 {
		n += roundUp(e.chunkLen(last)) - e.chunk
	}
	return n + blockSize
}

// retryEvery is the time between two looks at a data file that could not be
// written; writable in dataFile.tried says that the last one found that it can.
const (
	retryEvery = 10 * time.Second
	writable   = -1
)

// digestWord is the part of a digest that the policy remembers extents by.
func digestWord(d origin.Digest) uint64 {
	var n uint64
	for _, c := range []byte(d[:16]) {
		n = n<<4 | uint64(c&15+c>>6*9)
	}
	return n
}
