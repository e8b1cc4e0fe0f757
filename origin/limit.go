package origin

import (
	"context"
	"io"
	"iter"
	"time"

	"golang.org/x/time/rate"
)

// limitPiece bounds what one Read of a limited body yields, so that many readers
// take turns.
const limitPiece = 64 << 10

// Limit returns s with a bound on how fast the data of all its objects together
// is read, in bytes per second: it protects a store that others use too. 0 or
// less means no bound. Writes are not limited.
//
// Its readers take turns in pieces of at most 64 KiB, and wait for what they
// have already read: so the first piece of a body comes at once if the store
// was idle. The result is no LocalStore even if s is, because what is read in
// place cannot be paced; it is a ListStore if s is one or wraps one.
//
// It belongs around a guard of the store and not into it: that would take a long
// turn of the others for silence.
func Limit(s WriteStore, bytesPerSecond int64) WriteStore {
	var paced WriteStore = unlimited{s}
	if bytesPerSecond > 0 {
		piece := int(min(bytesPerSecond, limitPiece))
		paced = limited{s, rate.NewLimiter(rate.Limit(bytesPerSecond), piece)}
	}
	if list, ok := As[ListStore](s); ok {
		return listed{paced, list}
	}
	return paced
}

// listed shows that ability of a store, and no other.
type listed struct {
	WriteStore
	list ListStore
}

func (l listed) List(ctx context.Context) iter.Seq2[Held, error] { return l.list.List(ctx) }

// Embedding the interface, and not what is in it, hides LocalPath.
type unlimited struct{ WriteStore }

type limited struct {
	WriteStore
	pace *rate.Limiter
}

func (l limited) Open(ctx context.Context, loc Location, off, n int64) (*Object, error) {
	o, err := l.WriteStore.Open(ctx, loc, off, n)
	if err != nil {
		return nil, err
	}
	o.Body = &limitedBody{o.Body, ctx, l.pace}
	return o, nil
}

type limitedBody struct {
	io.ReadCloser
	ctx  context.Context
	pace *rate.Limiter
}

func (b *limitedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p[:min(len(p), b.pace.Burst())])
	if n == 0 {
		return n, err
	}
	// Not Limiter.WaitN: that one refuses to wait when the deadline of ctx is
	// near, and the bytes are here already.
	wait := b.pace.ReserveN(time.Now(), n).Delay()
	if wait <= 0 {
		return n, err
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
		return n, err
	case <-b.ctx.Done():
		return n, b.ctx.Err()
	}
}
