package origintest

import (
	"context"
	"io"
)

// Faults say how a Fake misbehaves; the zero Faults are none. Positions count
// bytes from the start of the object, so that new(int64(0)) is the very start;
// nil means nowhere.
type Faults struct {
	// Stat, Open, Put and Delete are the errors of these calls. Nth limits
	// Open's to the Nth call of Open since Inject, counted from 1.
	Stat, Open, Put, Delete error
	Nth                     int64
	// PutStored and DeleteDone let the call do its work and then fail.
	PutStored, DeleteDone bool
	// Cut ends bodies before this byte with io.ErrUnexpectedEOF.
	Cut *int64
	// Flip inverts the bytes at these positions.
	Flip []int64
	// Whole answers every Open with the whole object, and says so.
	Whole bool
	// Shift answers every Open with bytes that are this far from those that
	// were asked for, and says so; ShiftSilently does not say so.
	Shift         int64
	ShiftSilently bool
	// Size is the complete length that the store claims.
	Size *int64
	// Stall makes a body block before this byte until its ctx ends.
	Stall *int64
	// Gate holds bodies at a byte until the test lets them pass.
	Gate *Gate
}

// A Gate holds every body that is about to yield the byte At. It says so on
// Reached, then waits for Pass; either wait ends with the body's ctx. A test
// closes Pass to open the gate for good.
type Gate struct {
	At      int64
	Reached chan struct{}
	Pass    chan struct{}
}

// NewGate returns a closed gate at the byte.
func NewGate(at int64) *Gate {
	return &Gate{At: at, Reached: make(chan struct{}), Pass: make(chan struct{})}
}

func (g *Gate) wait(ctx context.Context) error {
	select {
	case g.Reached <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-g.Pass:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// A fakeBody yields data[pos:end] and meets its faults on the way.
type fakeBody struct {
	ctx      context.Context
	f        *Fake
	faults   Faults
	data     []byte
	pos, end int64
	passed   bool // the gate
}

func (b *fakeBody) Read(p []byte) (int, error) {
	if err := b.ctx.Err(); err != nil {
		return 0, err
	}
	if len(p) == 0 {
		return 0, nil
	}
	if err := b.meet(); err != nil {
		return 0, err
	}
	if b.pos == b.end {
		return 0, io.EOF
	}
	// A Read ends where the next fault waits.
	end := b.end
	for _, at := range []*int64{b.faults.Cut, b.faults.Stall, b.gateAt()} {
		if at != nil && *at > b.pos {
			end = min(end, *at)
		}
	}
	n := copy(p, b.data[b.pos:end])
	for _, at := range b.faults.Flip {
		if at >= b.pos && at < b.pos+int64(n) {
			p[at-b.pos] ^= 0xff
		}
	}
	b.pos += int64(n)
	b.f.Bytes.Add(int64(n))
	return n, nil
}

func (b *fakeBody) gateAt() *int64 {
	if b.faults.Gate == nil || b.passed {
		return nil
	}
	return &b.faults.Gate.At
}

// meet waits or fails if a fault sits at the next byte.
func (b *fakeBody) meet() error {
	here := func(at *int64) bool { return at != nil && *at == b.pos && b.pos < b.end }
	if here(b.gateAt()) {
		if err := b.faults.Gate.wait(b.ctx); err != nil {
			return err
		}
		b.passed = true
	}
	if here(b.faults.Stall) {
		<-b.ctx.Done()
		return b.ctx.Err()
	}
	if here(b.faults.Cut) {
		return io.ErrUnexpectedEOF
	}
	return nil
}

func (b *fakeBody) Close() error { return nil }
