package cache

import (
	"context"
	"errors"
	"io"
	"sync/atomic"
	"testing"

	"nearsight/origin"
)

// places is a source with several places. All but the last, if good, give wrong
// bytes.
type places struct {
	*image
	n    int32
	good bool
	at   atomic.Int32
	told atomic.Int32
}

func (p *places) Open(ctx context.Context, off, n int64) (*origin.Object, error) {
	at := p.at.Load()
	obj, err := p.image.Open(ctx, off, n)
	if err == nil {
		body := obj.Body
		if at < p.n-1 || !p.good {
			body = io.NopCloser(flipped{body})
		}
		obj.Body = &placed{body, p, at}
	}
	return obj, err
}

type flipped struct{ io.Reader }

func (f flipped) Read(b []byte) (int, error) {
	n, err := f.Reader.Read(b)
	for i := range n {
		b[i] = ^b[i]
	}
	return n, err
}

type placed struct {
	io.ReadCloser
	p  *places
	at int32
}

// Wrong implements Doubted.
func (b *placed) Wrong() bool {
	b.p.told.Add(1)
	return b.at < b.p.n-1 && b.p.at.CompareAndSwap(b.at, b.at+1)
}

func TestWrongBytesAreFetchedElsewhere(t *testing.T) {
	for _, tt := range []struct {
		name string
		n    int32
		good bool
		told int32
		err  error
	}{
		{"more places than attempts, the last is good", 7, true, 6, nil},
		{"no place is good", 7, false, 6 + attempts, ErrCorrupt},
		{"the only place is wrong", 1, false, attempts, ErrCorrupt},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := temp(t, Options{})
			p := &places{image: newImage(chunk-7, 90), n: tt.n, good: tt.good}
			r, err := c.Get(t.Context(), p.digest, p.size(), p)
			must(t, err)
			defer r.Close()
			if _, err := r.Ready(t.Context(), 0, p.size()); !errors.Is(err, tt.err) {
				t.Errorf("got %v, want %v", err, tt.err)
			}
			if told := p.told.Load(); told != tt.told {
				t.Errorf("the source was told %d times, want %d", told, tt.told)
			}
		})
	}
}
