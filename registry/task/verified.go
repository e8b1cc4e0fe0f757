package task

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"

	"nearsight/origin"
)

var (
	// errWrongData: a location has other bytes than the manifest says.
	errWrongData = errors.New("wrong data")
	// errWrongSize: it has more bytes, or fewer.
	errWrongSize = errors.New("wrong size")
)

// A verified reader reads an image from its locations and yields nothing but the
// bytes of its manifest. It goes from one location to the next at the chunk where
// one failed, and does not come back to one that has other data. When all have
// failed in a row, its patience decides whether it waits for them.
//
// It takes the memory of a chunk.
type verified struct {
	ctx      context.Context
	store    origin.Store
	manifest *origin.Manifest
	// failed, if not nil, is told of every failure of a location.
	failed func(origin.Location, error)

	locs []origin.Location // that are worth asking
	at   int               // which of them is read
	body io.ReadCloser     // of it, at the start of a chunk; nil: none

	chunk    int    // the next one
	buf      []byte // a chunk
	rest     []byte // of buf, to be yielded
	failures int    // since the last chunk
	patience patience
}

// newVerified returns a reader of the image at locs, best first. The caller closes
// it, and changes locs no more.
func newVerified(ctx context.Context, store origin.Store, locs []origin.Location, m *origin.Manifest,
	failed func(origin.Location, error)) *verified {
	return &verified{
		ctx: ctx, store: store, locs: locs, manifest: m, failed: failed,
		buf: make([]byte, min(m.Size, origin.ChunkSize(m.Size))), patience: newPatience(),
	}
}

// Read implements io.Reader.
func (v *verified) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	if len(v.rest) == 0 {
		if v.chunk == origin.Chunks(v.manifest.Size) {
			return 0, io.EOF
		}
		if err := v.next(); err != nil {
			return 0, err
		}
	}
	n := copy(b, v.rest)
	v.rest = v.rest[n:]
	return n, nil
}

// next reads the next chunk from where it can be had.
func (v *verified) next() error {
	for {
		if v.ctx.Err() != nil {
			return context.Cause(v.ctx)
		}
		if len(v.locs) == 0 {
			return fmt.Errorf("the image has no location: %w", origin.ErrNotFound)
		}
		err := v.fetch()
		if err == nil {
			return nil
		}
		if err := v.fail(err); err != nil {
			return err
		}
	}
}

// start is the offset of the next chunk.
func (v *verified) start() int64 { return int64(v.chunk) * origin.ChunkSize(v.manifest.Size) }

// fetch reads the next chunk at the current location.
func (v *verified) fetch() error {
	loc, off := v.locs[v.at], v.start()
	if v.body == nil {
		o, err := v.store.Open(v.ctx, loc, off, -1)
		if err != nil {
			return err
		}
		v.body = o.Body
		switch {
		case o.Size >= 0 && o.Size != v.manifest.Size:
			return fmt.Errorf("%w: %d bytes, not %d", errWrongSize, o.Size, v.manifest.Size)
		case o.Offset != off:
			return fmt.Errorf("%w: asked for the bytes from %d on, the store sends those from %d on", origin.ErrUnavailable, off, o.Offset)
		}
	}
	b := v.buf[:min(int64(len(v.buf)), v.manifest.Size-off)]
	if _, err := io.ReadFull(v.body, b); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
	if sha256.Sum256(b) != v.manifest.Sum(v.chunk) {
		return fmt.Errorf("%w: somewhere in the bytes from %d to %d", errWrongData, off, off+int64(len(b))-1)
	}
	v.chunk++
	v.rest, v.failures = b, 0
	v.patience.progress(len(b))
	return nil
}

// fail turns to the next location. Its error says that there is no other to turn
// to, or that it is no use to wait.
func (v *verified) fail(err error) error {
	loc := v.locs[v.at]
	v.Close()
	if v.ctx.Err() != nil {
		return context.Cause(v.ctx)
	}
	err = fmt.Errorf("read %s: %w", shown(loc), err)
	if v.failed != nil {
		v.failed(loc, err)
	}
	for _, final := range []error{errWrongData, errWrongSize, origin.ErrChanged, origin.ErrNotFound, origin.ErrLocation} {
		if errors.Is(err, final) {
			v.locs = append(v.locs[:v.at:v.at], v.locs[v.at+1:]...)
			if len(v.locs) == 0 {
				return err
			}
			v.at %= len(v.locs)
			return nil
		}
	}
	v.at = (v.at + 1) % len(v.locs)
	if v.failures++; v.failures%len(v.locs) != 0 {
		return nil
	}
	if v.chunk == 0 { // nothing would be lost
		return err
	}
	wait, ok := v.patience.next()
	if !ok {
		return err
	}
	return sleep(v.ctx, wait)
}

// Close ends the transfer.
func (v *verified) Close() error {
	if v.body == nil {
		return nil
	}
	err := v.body.Close()
	v.body = nil
	return err
}
