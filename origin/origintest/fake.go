package origintest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"nearsight/origin"
)

// A Fake is a WriteStore in memory that counts what is asked of it, and fails
// and lies on demand. The zero Fake is empty and honest.
type Fake struct {
	// Name is the store's name in its locations, fake://NAME/KEY; "" means
	// "fake". It is set before the first use.
	Name string

	// Calls that came, whatever became of them.
	Stats, Opens, Puts, Deletes atomic.Int64
	// Bytes that bodies have yielded.
	Bytes atomic.Int64

	mu      sync.Mutex
	faults  Faults
	objects map[string]*object // by URL
	located int
}

// An object's data is replaced and never changed.
type object struct {
	data []byte
	info origin.Info
}

// Inject replaces the faults. Bodies that are open keep theirs.
func (f *Fake) Inject(faults Faults) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if faults.Nth > 0 {
		faults.Nth += f.Opens.Load()
	}
	f.faults = faults
}

// Add stores data as Put does, and counts nothing.
func (f *Fake) Add(id string, data []byte) origin.Location {
	loc := f.Locate(id)
	f.Replace(loc, data)
	return origin.Location{URL: loc.URL, Validator: validator(data)}
}

// Replace gives the object at loc other bytes, as no store should.
func (f *Fake) Replace(loc origin.Location, data []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.set(loc.URL, data)
}

// Len returns the number of objects.
func (f *Fake) Len() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.objects)
}

func (f *Fake) set(url string, data []byte) *object {
	if f.objects == nil {
		f.objects = make(map[string]*object)
	}
	o := &object{data, origin.Info{Size: int64(len(data)), Validator: validator(data), ModTime: time.Now().UTC()}}
	f.objects[url] = o
	return o
}

func validator(data []byte) string { return string(origin.DigestOf(data)[:16]) }

func (f *Fake) prefix() string {
	name := f.Name
	if name == "" {
		name = "fake"
	}
	return "fake://" + name + "/"
}

// find returns the object at loc if it is there and the one that loc means.
func (f *Fake) find(ctx context.Context, loc origin.Location) (*object, Faults, error) {
	if err := ctx.Err(); err != nil {
		return nil, Faults{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	o := f.objects[loc.URL]
	switch {
	case !strings.HasPrefix(loc.URL, f.prefix()):
		return nil, f.faults, fmt.Errorf("%q: %w", loc.URL, origin.ErrLocation)
	case o == nil:
		return nil, f.faults, fmt.Errorf("%s: %w", loc.URL, origin.ErrNotFound)
	case loc.Validator != "" && loc.Validator != o.info.Validator:
		return nil, f.faults, fmt.Errorf("%s: %w", loc.URL, origin.ErrChanged)
	}
	return o, f.faults, nil
}

// Stat implements origin.Store.
func (f *Fake) Stat(ctx context.Context, loc origin.Location) (origin.Info, error) {
	f.Stats.Add(1)
	o, faults, err := f.find(ctx, loc)
	if faults.Stat != nil {
		return origin.Info{}, faults.Stat
	}
	if err != nil {
		return origin.Info{}, err
	}
	info := o.info
	if faults.Size != nil {
		info.Size = *faults.Size
	}
	return info, nil
}

// Open implements origin.Store.
func (f *Fake) Open(ctx context.Context, loc origin.Location, off, n int64) (*origin.Object, error) {
	nth := f.Opens.Add(1)
	o, faults, err := f.find(ctx, loc)
	if faults.Open != nil && (faults.Nth == 0 || faults.Nth == nth) {
		return nil, faults.Open
	}
	if err != nil {
		return nil, err
	}
	start, said := off+faults.Shift, off+faults.Shift
	if faults.ShiftSilently {
		said = off
	}
	if faults.Whole {
		start, said, n = 0, 0, -1
	}
	size := int64(len(o.data))
	from := min(max(start, 0), size)
	if n < 0 || n > size-from {
		n = size - from
	}
	info := o.info
	if faults.Size != nil {
		info.Size = *faults.Size
	}
	b := &fakeBody{ctx: ctx, f: f, faults: faults, data: o.data, pos: from, end: from + n}
	return &origin.Object{Info: info, Offset: said, Length: n, Body: b}, nil
}

// Locate implements origin.WriteStore.
func (f *Fake) Locate(id string) origin.Location {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.located++
	return origin.Location{URL: fmt.Sprintf("%s%s.%d", f.prefix(), id, f.located)}
}

// Put implements origin.WriteStore.
func (f *Fake) Put(ctx context.Context, loc origin.Location, size int64, r io.Reader) (origin.Location, error) {
	f.Puts.Add(1)
	_, faults, err := f.find(ctx, origin.Location{URL: loc.URL})
	if faults.Put != nil && !faults.PutStored {
		return loc, faults.Put
	}
	if err == nil {
		return loc, fmt.Errorf("%s: %w", loc.URL, origin.ErrExists)
	}
	if !errors.Is(err, origin.ErrNotFound) {
		return loc, err
	}
	var data bytes.Buffer
	if _, err := data.ReadFrom(ctxReader{ctx, r}); err != nil {
		return loc, fmt.Errorf("put %s: %w", loc.URL, err)
	}
	if size >= 0 && int64(data.Len()) != size {
		return loc, fmt.Errorf("put %s: %w: expected %d bytes, received %d", loc.URL, origin.ErrSize, size, data.Len())
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.objects[loc.URL] != nil {
		return loc, fmt.Errorf("%s: %w", loc.URL, origin.ErrExists)
	}
	o := f.set(loc.URL, data.Bytes())
	if faults.Put != nil {
		return loc, faults.Put
	}
	return origin.Location{URL: loc.URL, Validator: o.info.Validator}, nil
}

// Delete implements origin.WriteStore.
func (f *Fake) Delete(ctx context.Context, loc origin.Location) error {
	f.Deletes.Add(1)
	_, faults, err := f.find(ctx, origin.Location{URL: loc.URL})
	if faults.Delete != nil && !faults.DeleteDone {
		return faults.Delete
	}
	if err != nil && !errors.Is(err, origin.ErrNotFound) {
		return err
	}
	f.mu.Lock()
	delete(f.objects, loc.URL)
	f.mu.Unlock()
	return faults.Delete
}

type ctxReader struct {
	ctx context.Context
	r   io.Reader
}

func (c ctxReader) Read(b []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(b)
}
