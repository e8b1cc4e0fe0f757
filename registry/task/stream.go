package task

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"nearsight/origin"
)

// A stream reads one object from its first byte to its last. When the connection
// breaks it goes on at the byte where it broke, as long as its patience lasts and
// the store can say that these are still the same bytes.
type stream struct {
	ctx   context.Context
	store origin.Store
	// loc has the validator of the bytes that are read.
	loc   origin.Location
	size  int64 // -1: nobody knows before the end
	pos   int64
	body  io.ReadCloser // nil: broken
	cause error         // what broke it

	patience patience
	pause    pauser
}

// A pauser waits; its error is the cause of a context that ended.
type pauser func(context.Context, time.Duration) error

// openStream opens loc. The caller closes the stream.
func openStream(ctx context.Context, store origin.Store, loc origin.Location, pause pauser) (*stream, error) {
	s := &stream{ctx: ctx, store: store, loc: loc, patience: newPatience(), pause: pause}
	o, err := store.Open(ctx, loc, 0, -1)
	if err != nil {
		return nil, err
	}
	if o.Offset != 0 || o.Size >= 0 && o.Length >= 0 && o.Length != o.Size {
		o.Body.Close()
		return nil, fmt.Errorf("%w: asked for all of it, the store sends %d bytes from %d on", origin.ErrUnavailable, o.Length, o.Offset)
	}
	if s.loc.Validator == "" {
		s.loc.Validator = o.Validator
	}
	s.size, s.body = o.Size, o.Body
	return s, nil
}

// Read implements io.Reader.
func (s *stream) Read(b []byte) (int, error) {
	for {
		if s.body == nil {
			if err := s.resume(); err != nil {
				return 0, err
			}
			continue // it may be broken still
		}
		n, err := s.body.Read(b)
		s.pos += int64(n)
		s.patience.progress(n)
		if err == nil || err == io.EOF && (s.size < 0 || s.pos == s.size) {
			return n, err
		}
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		s.broke(err)
		if n > 0 {
			return n, nil
		}
	}
}

// broke notes why the body yields nothing more.
func (s *stream) broke(err error) {
	if s.body != nil {
		s.body.Close()
	}
	s.body, s.cause = nil, err
}

// resume tries once to go on. Its error says that it is no use to try again.
func (s *stream) resume() error {
	if s.ctx.Err() != nil {
		return context.Cause(s.ctx)
	}
	if s.loc.Validator == "" {
		return fmt.Errorf("broken at byte %d, and the store cannot say whether the data is the same: %w", s.pos, s.cause)
	}
	wait, ok := s.patience.next()
	if !ok {
		return fmt.Errorf("broken at byte %d, and does not come back: %w", s.pos, s.cause)
	}
	if err := s.pause(s.ctx, wait); err != nil {
		return err
	}
	o, err := s.store.Open(s.ctx, s.loc, s.pos, -1)
	switch {
	case errors.Is(err, origin.ErrChanged), errors.Is(err, origin.ErrNotFound), errors.Is(err, origin.ErrLocation):
		return err
	case err != nil:
		s.broke(err)
		return nil
	}
	if o.Offset != s.pos || s.size >= 0 && o.Size >= 0 && o.Size != s.size || o.Validator != s.loc.Validator {
		o.Body.Close()
		return fmt.Errorf("broken at byte %d, and the store cannot go on there: %w", s.pos, s.cause)
	}
	s.body = o.Body
	return nil
}

// Close ends the transfer.
func (s *stream) Close() error {
	if s.body == nil {
		return nil
	}
	return s.body.Close()
}

// A sink is where origin.Ingest puts the data of a stream that is only to be
// hashed: nowhere.
type sink struct{ from *stream }

var _ origin.WriteStore = sink{}

func (k sink) Locate(string) origin.Location { return origin.Location{URL: shown(k.from.loc)} }

// Put reads r to the end.
func (k sink) Put(_ context.Context, loc origin.Location, _ int64, r io.Reader) (origin.Location, error) {
	_, err := io.CopyBuffer(onlyWriter{io.Discard}, r, make([]byte, copySize))
	return loc, err
}

// copySize spares a lock per 8 KiB, which is how io.Discard reads on its own.
const copySize = 256 << 10

type onlyWriter struct{ io.Writer }

// Delete has nothing to do.
func (k sink) Delete(context.Context, origin.Location) error { return nil }

func (k sink) Stat(ctx context.Context, _ origin.Location) (origin.Info, error) {
	return k.from.store.Stat(ctx, k.from.loc)
}

// Open reads the whole object once more, whatever part is asked for: Ingest asks
// for all of it.
func (k sink) Open(ctx context.Context, _ origin.Location, _, _ int64) (*origin.Object, error) {
	s, err := openStream(ctx, k.from.store, k.from.loc, k.from.pause)
	if err != nil {
		return nil, err
	}
	return &origin.Object{Info: origin.Info{Size: s.size, Validator: s.loc.Validator}, Length: s.size, Body: s}, nil
}
