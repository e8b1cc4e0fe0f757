package proxy

import (
	"context"
	"errors"
	"io"
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"nearsight/cache"
	"nearsight/origin"
	"nearsight/origin/diskformat"
)

const (
	// viewPiece is how many bytes of a view are computed at a time: a chunk of most
	// images, and whole clusters of all formats.
	viewPiece = 256 << 10
	// maxWindows is how many windows wait for the next reader. One has up to 6 MiB of
	// tables and decoded clusters, most have a few 100 KiB.
	maxWindows = 32
	// maxBitmaps bounds all bitmaps that are kept, in bytes: 213 KiB for 100 GiB of
	// disk.
	maxBitmaps = 64 << 20
)

// views keeps what it takes to show disks in other formats. The zero value is ready.
//
// None of it is on disk or in the registry. A bitmap follows from what is: from the
// manifest for data that is the disk itself, and from the tables in the data for the
// other formats. Both are the same at every edge and after every restart, and so are
// the bytes of the views (rule S1). To read the tables costs less than to keep another
// document right.
type views struct {
	mu      sync.Mutex
	idle    *simplelru.LRU[windowKey, []*window] // nil until there is one
	waiting int                                  // windows in idle
	bitmaps *simplelru.LRU[bitmapKey, *diskformat.Bitmap]
	bytes   int64 // of the bitmaps
	flights map[bitmapKey]*bitmapFlight

	buffers sync.Pool // of *[viewPiece]byte
}

func (v *views) buffer() []byte {
	if b, ok := v.buffers.Get().(*[viewPiece]byte); ok {
		return b[:0]
	}
	return make([]byte, 0, viewPiece)
}

func (v *views) unbuffer(b []byte) { v.buffers.Put((*[viewPiece]byte)(b[:viewPiece])) }

// A windowKey names a view. The id of the image is in its bytes (rule S2).
type windowKey struct {
	bitmapKey
	image, name string
}

// A bitmapKey names a disk.
type bitmapKey struct {
	digest origin.Digest
	format diskformat.Format
}

// A window is a view of an opened image. It serves one reader at a time, since an
// io.ReaderAt is not told for whom it reads; between two pieces it may serve another.
type window struct {
	key  windowKey
	at   storedAt // of the reader; the image reads it
	view *diskformat.View
}

// take returns a window that waits, or nil.
func (v *views) take(key windowKey) *window {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.idle == nil {
		return nil
	}
	all, ok := v.idle.Get(key)
	if !ok {
		return nil
	}
	last := len(all) - 1
	w := all[last]
	all[last] = nil
	v.waiting--
	if last == 0 {
		v.idle.Remove(key)
	} else {
		v.idle.Add(key, all[:last])
	}
	return w
}

// giveBack lets a window wait for its next reader. Those that waited longest make room.
func (v *views) giveBack(w *window) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.idle == nil {
		v.idle, _ = simplelru.NewLRU[windowKey, []*window](maxWindows, nil) // fails only for sizes below 1
	}
	for v.waiting >= maxWindows {
		_, all, _ := v.idle.RemoveOldest()
		v.waiting -= len(all)
	}
	all, _ := v.idle.Get(w.key)
	v.idle.Add(w.key, append(all, w))
	v.waiting++
}

// open opens the image for a new window.
func (v *views) open(ctx context.Context, w *window) error {
	disk, err := diskformat.Open(&w.at, w.at.size, w.key.format, diskformat.Limits{})
	if err != nil {
		return w.at.judge(err)
	}
	used, err := v.bitmap(ctx, w.key.bitmapKey, func() (*diskformat.Bitmap, error) {
		var extents diskformat.Image = disk
		if w.key.format == diskformat.Raw || w.key.format == diskformat.ISO {
			extents = plainDisk{disk, w.at.reader}
		}
		b, err := diskformat.TableBitmap(extents)
		return b, w.at.judge(err)
	})
	if err != nil {
		return err
	}
	if w.key.name == string(diskformat.Raw) {
		// A reader that guesses formats must not take the disk for another image.
		if err := diskformat.CheckNested(disk, disk.Size()); err != nil {
			return w.at.judge(err)
		}
	}
	w.view, err = diskformat.NewView(w.key.name, disk, used, imageNumber(w.key.image))
	return w.at.judge(err)
}

// A bitmapFlight is a bitmap being made, for all who wait for it.
type bitmapFlight struct {
	done   chan struct{} // closed when what follows is set
	bitmap *diskformat.Bitmap
	err    error
}

// bitmap returns the bitmap of a disk: one that is kept, or what read returns. One
// caller reads, with its context; the others wait, and try again if it left.
func (v *views) bitmap(ctx context.Context, key bitmapKey, read func() (*diskformat.Bitmap, error)) (*diskformat.Bitmap, error) {
	for {
		v.mu.Lock()
		if v.bitmaps == nil {
			v.bitmaps, _ = simplelru.NewLRU(maxBitmaps, func(_ bitmapKey, b *diskformat.Bitmap) { v.bytes -= bitmapBytes(b) })
			v.flights = make(map[bitmapKey]*bitmapFlight)
		}
		if b, ok := v.bitmaps.Get(key); ok {
			v.mu.Unlock()
			return b, nil
		}
		f := v.flights[key]
		if f == nil {
			f = &bitmapFlight{done: make(chan struct{})}
			v.flights[key] = f
			v.mu.Unlock()
			f.bitmap, f.err = read()
			v.land(key, f)
			return f.bitmap, f.err
		}
		v.mu.Unlock()
		select {
		case <-f.done:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		if !errors.Is(f.err, context.Canceled) {
			return f.bitmap, f.err
		}
	}
}

// land ends a flight and keeps its bitmap.
func (v *views) land(key bitmapKey, f *bitmapFlight) {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.flights, key)
	if f.err == nil {
		v.bitmaps.Add(key, f.bitmap)
		for v.bytes += bitmapBytes(f.bitmap); v.bytes > maxBitmaps; {
			v.bitmaps.RemoveOldest()
		}
	}
	close(f.done)
}

// bitmapBytes returns what a bitmap takes up, about.
func bitmapBytes(b *diskformat.Bitmap) int64 { return 256 + b.Size()/(64<<10)/8*17/16 }

// A plainDisk is data that is the disk itself, of which the manifest has what is zeros.
type plainDisk struct {
	diskformat.Image
	reader *cache.Reader
}

// Extent implements diskformat.Image.
func (d plainDisk) Extent(off int64) (diskformat.Extent, error) {
	n, zero := d.reader.Zeros(off)
	return diskformat.Extent{Length: n, Zero: zero}, nil
}

// A storedAt is the data of an image as one request reads it: with its context, which
// an io.ReaderAt is not given, and by its reader.
type storedAt struct {
	ctx    context.Context
	reader *cache.Reader
	size   int64          // bytes
	found  *cache.Outcome // what was found is added to it
	err    error          // why data could not be had
}

// ReadAt implements io.ReaderAt.
func (s *storedAt) ReadAt(p []byte, off int64) (int, error) {
	if off >= s.size {
		return 0, io.EOF
	}
	found, err := s.reader.Ready(s.ctx, off, min(int64(len(p)), s.size-off))
	if err != nil {
		s.err = err
		return 0, err
	}
	if s.found.Chunks == 0 {
		s.found.Stored = true
	}
	s.found.Chunks += found.Chunks
	s.found.Present += found.Present
	s.found.Collapsed = s.found.Collapsed || found.Collapsed
	s.found.Stored = s.found.Stored && found.Stored
	n, err := s.reader.ReadAt(s.ctx, p, off)
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}

// judge returns err, which came of reading the image: as a viewError, if the data was
// had and is to blame.
func (s *storedAt) judge(err error) error {
	if err == nil || s.err != nil {
		return err
	}
	return &viewError{err}
}
