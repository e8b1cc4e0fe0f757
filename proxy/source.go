package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"nearsight/cache"
	"nearsight/origin"
	"nearsight/registry"
)

// A source is where the cache gets one image's data. It holds nothing of a
// request, because a fill outlives the request that began it.
type source struct {
	registry  registry.Reader
	store     origin.Store
	streams   *streams
	doubts    *doubts
	img       *registry.Image
	locations []origin.Location // of img, the one to read first first

	// first is the location that is asked first. It moves on when a body ends
	// early, so that a resumed fill continues at the next location.
	first atomic.Uint32
	// wrong has a bit for each location whose bytes were wrong: those are asked
	// after the others. The last one stands for all from the 64th on.
	wrong atomic.Uint64
}

var _ cache.Source = (*source)(nil)

// source returns where the data of img is read in the usual order.
func (p *Proxy) source(img *registry.Image) *source { return p.sourceOf(img, nil) }

// sourceOf returns where the data of img is read, from the stores called prefer
// first.
func (p *Proxy) sourceOf(img *registry.Image, prefer []string) *source {
	return &source{registry: p.records, store: p.store, streams: &p.streams, doubts: &p.doubts, img: img, locations: p.order(img.Locations, prefer)}
}

// Manifest implements cache.Source. A record whose manifest is missing is data
// lost, and not an unknown image.
func (s *source) Manifest(ctx context.Context) ([]byte, error) {
	m, err := s.registry.Manifest(ctx, s.img.Digest)
	if errors.Is(err, registry.ErrNotFound) {
		return nil, fmt.Errorf("manifest %s: %w", s.img.Digest, origin.ErrNotFound)
	}
	return m, err
}

// Open implements cache.Source. It asks the image's locations in turn until one
// answers with what was asked for.
func (s *source) Open(ctx context.Context, off, n int64) (*origin.Object, error) {
	if len(s.locations) == 0 {
		return nil, fmt.Errorf("image %s has no location: %w", s.img.ID, origin.ErrNotFound)
	}
	var errs []error
	wrong := s.wrong.Load()
	first := s.first.Load()
	for _, doubted := range []bool{false, true} {
		for i := range s.locations {
			at := first + uint32(i)
			index := int(at % uint32(len(s.locations)))
			if wrong&bitOf(index) != 0 != doubted {
				continue
			}
			obj, err := s.open(ctx, s.locations[index], off, n)
			if err == nil {
				obj.Body = &watchedBody{ReadCloser: obj.Body, left: obj.Length, src: s, at: at}
				s.first.CompareAndSwap(first, at)
				return obj, nil
			}
			if ctx.Err() != nil {
				return nil, err
			}
			errs = append(errs, err)
		}
	}
	return nil, errors.Join(errs...)
}

// bitOf returns the bit of a location in source.wrong.
func bitOf(index int) uint64 { return 1 << min(index, 63) }

// open asks one location and compares the answer with the question. A length that
// a server does not tell is that of the record: the bytes are verified in any case.
func (s *source) open(ctx context.Context, loc origin.Location, off, n int64) (*origin.Object, error) {
	want := max(0, *s.img.Size-off)
	if n >= 0 {
		want = min(want, n)
	}
	obj, err := s.streams.open(ctx, s.store, loc, off, want)
	if err != nil {
		return nil, err
	}
	if obj.Size < 0 {
		obj.Size = *s.img.Size
	}
	if obj.Length < 0 {
		obj.Length = want
	}
	if obj.Offset != off || obj.Length != want || obj.Size != *s.img.Size {
		obj.Body.Close()
		s.doubts.lied(s.img, loc)
		return nil, fmt.Errorf("%s holds %d bytes from %d of %d, not %d from %d of %d: %w",
			shown(loc), obj.Length, obj.Offset, obj.Size, want, off, *s.img.Size, origin.ErrUnavailable)
	}
	return obj, nil
}

// Local implements cache.Source.
func (s *source) Local() string {
	local, ok := s.store.(origin.LocalStore)
	if !ok || len(s.locations) == 0 {
		return ""
	}
	path, err := local.LocalPath(s.locations[0])
	if err != nil {
		return "" // not of that store: it is read like any other
	}
	return path
}

// A watchedBody tells its source once if it fails, or is closed, before its end,
// and when its bytes are wrong.
type watchedBody struct {
	io.ReadCloser
	left int64
	src  *source
	at   uint32 // of its location, counted from the first on without end
	told bool
}

var _ cache.Doubted = (*watchedBody)(nil)

func (b *watchedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.left -= int64(n)
	if err != nil && b.left > 0 {
		b.tell()
		if err == io.EOF { // its length was not known
			err = io.ErrUnexpectedEOF
		}
	}
	return n, err
}

func (b *watchedBody) Close() error {
	if b.left > 0 {
		b.tell()
	}
	return b.ReadCloser.Close()
}

// Wrong implements cache.Doubted.
func (b *watchedBody) Wrong() bool {
	b.tell()
	if part, ok := b.ReadCloser.(*streamPart); ok {
		part.broken = true // what follows is as wrong
	}
	s := b.src
	index := int(b.at % uint32(len(s.locations)))
	s.doubts.lied(s.img, s.locations[index])
	bit := bitOf(index)
	was := s.wrong.Or(bit)
	if was&bit != 0 {
		return false
	}
	for i := range s.locations {
		if (was|bit)&bitOf(i) == 0 {
			return true
		}
	}
	return false
}

// tell lets the next Open begin at the next location.
func (b *watchedBody) tell() {
	if !b.told {
		b.told = true
		b.src.first.CompareAndSwap(b.at, b.at+1)
	}
}
