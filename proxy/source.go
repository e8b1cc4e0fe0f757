package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"nearsight/cache"
	"nearsight/origin"
	"nearsight/registry"
)

// A source is where the cache gets one image's data. It holds nothing of a
// request, because a fill outlives the request that began it.
type source struct {
	registry registry.Reader
	store    origin.Store
	lies     prometheus.Counter
	img      *registry.Image

	// first is the location that is asked first. It moves on when a body ends
	// early, so that a resumed fill continues at the next location.
	first atomic.Uint32
}

var _ cache.Source = (*source)(nil)

func (p *Proxy) source(img *registry.Image) *source {
	return &source{registry: p.records, store: p.store, lies: p.metrics.lies, img: img}
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
	locations := s.img.Locations
	if len(locations) == 0 {
		return nil, fmt.Errorf("image %s has no location: %w", s.img.ID, origin.ErrNotFound)
	}
	first := s.first.Load()
	var errs []error
	for i := range locations {
		at := first + uint32(i)
		loc := locations[at%uint32(len(locations))]
		obj, err := s.open(ctx, loc, off, n)
		if err == nil {
			obj.Body = &watchedBody{ReadCloser: obj.Body, left: obj.Length, early: func() {
				s.first.CompareAndSwap(at, at+1)
			}}
			s.first.CompareAndSwap(first, at)
			return obj, nil
		}
		if ctx.Err() != nil {
			return nil, err
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

// open asks one location and compares the answer with the question.
func (s *source) open(ctx context.Context, loc origin.Location, off, n int64) (*origin.Object, error) {
	obj, err := s.store.Open(ctx, loc, off, n)
	if err != nil {
		return nil, err
	}
	want := max(0, *s.img.Size-off)
	if n >= 0 {
		want = min(want, n)
	}
	if obj.Offset != off || obj.Length != want || obj.Size != *s.img.Size {
		obj.Body.Close()
		s.lies.Inc()
		return nil, fmt.Errorf("%s holds %d bytes from %d of %d, not %d from %d of %d: %w",
			loc.URL, obj.Length, obj.Offset, obj.Size, want, off, *s.img.Size, origin.ErrUnavailable)
	}
	return obj, nil
}

// Local implements cache.Source.
func (s *source) Local() string {
	local, ok := s.store.(origin.LocalStore)
	if !ok || len(s.img.Locations) == 0 {
		return ""
	}
	path, err := local.LocalPath(s.img.Locations[0])
	if err != nil {
		return "" // not of that store: it is read like any other
	}
	return path
}

// A watchedBody calls early once if it fails, or is closed, before its end.
type watchedBody struct {
	io.ReadCloser
	left  int64
	early func()
	told  bool
}

func (b *watchedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.left -= int64(n)
	if err != nil && b.left > 0 {
		b.tell()
	}
	return n, err
}

func (b *watchedBody) Close() error {
	if b.left > 0 {
		b.tell()
	}
	return b.ReadCloser.Close()
}

func (b *watchedBody) tell() {
	if !b.told {
		b.told = true
		b.early()
	}
}
