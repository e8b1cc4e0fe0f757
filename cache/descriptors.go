package cache

import (
	"os"
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// descriptors keeps idle descriptors of data files open. Each is used by one
// request at a time, because sendfile moves its offset.
type descriptors struct {
	mu   sync.Mutex
	idle *simplelru.LRU[*os.File, *dataFile]
	max  int
	shut bool
}

func (d *descriptors) init(max int) {
	d.max = max
	d.idle, _ = simplelru.NewLRU[*os.File, *dataFile](max+1, nil) // fails only for sizes below 1
}

// take returns an idle descriptor of df, or nil.
func (d *descriptors) take(df *dataFile) *os.File {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := len(df.idle)
	if n == 0 {
		return nil
	}
	f := df.idle[n-1]
	df.idle = df.idle[:n-1]
	d.idle.Remove(f)
	return f
}

// put keeps f for the next user, or closes it, or what was idle the longest.
func (d *descriptors) put(df *dataFile, f *os.File) {
	d.mu.Lock()
	if d.shut || df.retired() {
		d.mu.Unlock()
		f.Close()
		return
	}
	df.idle = append(df.idle, f)
	d.idle.Add(f, df)
	var old *os.File
	if d.idle.Len() > d.max {
		var of *dataFile
		old, of, _ = d.idle.RemoveOldest()
		of.unlist(old)
	}
	d.mu.Unlock()
	if old != nil {
		old.Close()
	}
}

// unlist takes f off the idle ones of df. The caller holds descriptors.mu.
func (df *dataFile) unlist(f *os.File) {
	for i, g := range df.idle {
		if g == f {
			df.idle = append(df.idle[:i], df.idle[i+1:]...)
			return
		}
	}
}

// drop closes the idle descriptors of df.
func (d *descriptors) drop(df *dataFile) {
	d.mu.Lock()
	files := df.idle
	df.idle = nil
	for _, f := range files {
		d.idle.Remove(f)
	}
	d.mu.Unlock()
	for _, f := range files {
		f.Close()
	}
}

// close closes all idle descriptors, and whatever is given back later.
func (d *descriptors) close() {
	d.mu.Lock()
	d.shut = true
	files := d.idle.Keys()
	for _, df := range d.idle.Values() {
		df.idle = nil
	}
	d.idle.Purge()
	d.mu.Unlock()
	for _, f := range files {
		f.Close()
	}
}
