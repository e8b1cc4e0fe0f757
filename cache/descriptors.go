package cache

import (
	"os"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// An openFile is a descriptor that all users of a data file share: whatever
// they do with it names its offset. It is closed when the last lets go of it.
type openFile struct {
	*os.File
	users atomic.Int64 // one of them is descriptors, while it keeps the file
	used  atomic.Bool  // since descriptors last looked
}

// use adds a user, unless the file was closed.
func (f *openFile) use() bool {
	for {
		n := f.users.Load()
		if n == 0 {
			return false
		}
		if f.users.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// release lets go of the file; a nil one is fine.
func (f *openFile) release() {
	if f != nil && f.users.Add(-1) == 0 {
		f.Close()
	}
}

// descriptors keeps up to max data files open that nobody may be using. A data
// file in use costs no lock here. Which one is closed is decided by second
// chance: the oldest that was not used since it was last passed over.
type descriptors struct {
	mu   sync.Mutex
	kept *simplelru.LRU[*dataFile, *openFile]
	max  int
	shut bool
}

func (d *descriptors) init(max int) {
	d.max = max
	d.kept, _ = simplelru.NewLRU[*dataFile, *openFile](max+1, nil) // fails only for sizes below 1
}

// take returns df's descriptor with the caller as a user, or nil if it is not
// open.
func (d *descriptors) take(df *dataFile) *openFile {
	f := df.shared.Load()
	if f == nil || !f.use() {
		return nil
	}
	if !f.used.Load() { // reading first keeps the line shared among cores
		f.used.Store(true)
	}
	return f
}

// add returns f with the caller as its user, and keeps it for others, unless
// there is one already.
func (d *descriptors) add(df *dataFile, file *os.File) *openFile {
	f := &openFile{File: file}
	f.users.Store(1)
	d.mu.Lock()
	if d.shut || df.retired() || df.shared.Load() != nil {
		d.mu.Unlock()
		return f
	}
	f.users.Store(2)
	d.kept.Add(df, f)
	df.shared.Store(f)
	old := d.overflow()
	d.mu.Unlock()
	old.release()
	return f
}

// overflow takes off what is one too many. The caller holds mu.
func (d *descriptors) overflow() *openFile {
	for d.kept.Len() > d.max {
		df, f, _ := d.kept.RemoveOldest()
		if f.used.Swap(false) {
			d.kept.Add(df, f)
			continue
		}
		df.shared.Store(nil)
		return f
	}
	return nil
}

// drop lets go of df's descriptor.
func (d *descriptors) drop(df *dataFile) {
	d.mu.Lock()
	f, _ := d.kept.Peek(df)
	d.kept.Remove(df)
	df.shared.Store(nil)
	d.mu.Unlock()
	f.release()
}

// close lets go of all descriptors, and keeps none from now on.
func (d *descriptors) close() {
	d.mu.Lock()
	d.shut = true
	files := d.kept.Values()
	for _, df := range d.kept.Keys() {
		df.shared.Store(nil)
	}
	d.kept.Purge()
	d.mu.Unlock()
	for _, f := range files {
		f.release()
	}
}
