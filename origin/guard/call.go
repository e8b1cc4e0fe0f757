package guard

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"nearsight/origin"
)

const (
	opStat   = "stat"
	opOpen   = "open"
	opPut    = "put"
	opDelete = "delete"
)

// A call is one attempt at the store, up to the end of its body. Every call that
// began ends once.
type call struct {
	s        *Store
	op       string
	loc      origin.Location
	caller   context.Context // as it came
	ctx      context.Context // what the store gets; ends on silence
	cancel   context.CancelCauseFunc
	began    time.Time
	answered bool
	took     time.Duration // from began to the answer
	pass     pass

	mu    sync.Mutex // of what follows: who reads an upload may outlive its Put
	timer *time.Timer
	limit time.Duration // of the wait that timer measures
	over  bool
}

// begin asks the breaker for leave.
func (s *Store) begin(ctx context.Context, op string, loc origin.Location) (*call, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	p, err := s.breakers.enter(hostOf(loc))
	if err != nil {
		s.o.Observer.Request(op, Refused, 0)
		return nil, err
	}
	c := &call{s: s, op: op, loc: loc, caller: ctx, began: time.Now(), pass: p}
	c.ctx, c.cancel = context.WithCancelCause(ctx)
	return c, nil
}

// wait begins a wait for the store, which may last for limit.
func (c *call) wait(limit time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if limit < 0 || c.over {
		return
	}
	c.limit = limit
	if c.timer == nil {
		c.timer = time.AfterFunc(limit, c.cut)
	} else {
		c.timer.Reset(limit)
	}
}

// cut ends the store's context because of its silence.
func (c *call) cut() {
	c.mu.Lock()
	limit := c.limit
	c.mu.Unlock()
	c.cancel(&silence{c.op, c.loc, limit})
}

// rest ends the wait.
func (c *call) rest() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.timer != nil {
		c.timer.Stop()
	}
}

// silent says that the store was cut off for its silence.
func (c *call) silent() bool {
	var s *silence
	return errors.As(context.Cause(c.ctx), &s)
}

// translate makes the end of the store's context what it was for: silence of the
// store, or the end of the caller's.
func (c *call) translate(err error) error {
	var s *silence
	if err != nil && errors.As(context.Cause(c.ctx), &s) {
		return s
	}
	return err
}

// answer notes that the first byte is there, or the end of a call without any.
func (c *call) answer() {
	if !c.answered {
		c.answered, c.took = true, time.Since(c.began)
		c.pass.answered()
	}
}

// end reports what became of the call. It may be called again, to no effect.
func (c *call) end(err error, kind Outcome) {
	c.mu.Lock()
	ended := c.over
	c.over = true
	if c.timer != nil {
		c.timer.Stop()
	}
	c.mu.Unlock()
	if ended {
		return
	}
	switch {
	case err != nil && kind != Data && c.caller.Err() != nil:
		kind = Canceled
	case c.silent() && kind == Unavailable:
		kind = Stalled
	}
	switch kind {
	case OK, NotFound, Changed, Full, Exists: // the store answered
		c.answer()
		c.pass.leave(nil, false)
	case Unavailable, Stalled:
		c.pass.leave(err, false)
	default: // says nothing about the store
		c.pass.leave(nil, true)
	}
	if !c.answered {
		c.took = time.Since(c.began)
	}
	c.s.o.Observer.Request(c.op, kind, c.took)
}

// A body watches what the store's body does. It hands its bytes on in place.
type body struct {
	io.ReadCloser
	call *call
	left int64 // bytes still to come; below 0 if nobody knows
	fail error
}

func (b *body) Read(p []byte) (int, error) {
	if b.fail != nil {
		return 0, b.fail
	}
	if len(p) == 0 {
		return 0, nil
	}
	limit := b.call.s.o.Stall
	if !b.call.answered {
		limit = b.call.s.o.FirstByte
	}
	b.call.wait(limit)
	n, err := b.ReadCloser.Read(p)
	b.call.rest()
	if n > 0 {
		b.left -= int64(n)
		b.call.answer()
		b.call.s.o.Observer.Bytes(Read, n)
	}
	switch {
	case err == io.EOF:
		b.call.end(nil, OK)
	case err != nil:
		b.fail = b.call.translate(err)
		kind := outcome(b.fail)
		if errors.Is(err, io.ErrUnexpectedEOF) {
			kind = Unavailable
		}
		b.call.end(b.fail, kind)
		return n, b.fail
	}
	return n, err
}

// Close ends the call: well, if the reader had enough of it, and in any case if it
// had all of it.
func (b *body) Close() error {
	switch {
	case b.left == 0:
		b.call.end(nil, OK)
	case b.call.answered:
		b.call.end(b.call.caller.Err(), OK)
	default:
		b.call.end(nil, Canceled)
	}
	err := b.ReadCloser.Close()
	b.call.cancel(nil)
	return err
}

// An upload shows the store what it is to take, and watches it. It remains
// harmless when the store goes on reading after its Put has returned.
type upload struct {
	r    io.Reader
	call *call

	mu           sync.Mutex
	read, failed bool // r was asked for a byte, and failed
	stopped      bool
}

func (u *upload) Read(p []byte) (int, error) {
	u.mu.Lock()
	u.read = true
	stopped := u.stopped
	u.mu.Unlock()
	if stopped {
		return 0, errEnded
	}
	u.call.rest() // now it is the sender who keeps us waiting
	n, err := u.r.Read(p)
	u.call.wait(u.call.s.o.PutStall)
	if n > 0 {
		u.call.s.o.Observer.Bytes(Written, n)
	}
	if err != nil && err != io.EOF {
		u.mu.Lock()
		u.failed = true
		u.mu.Unlock()
	}
	return n, err
}

var errEnded = errors.New("the upload has ended")

// stop ends the upload, and says whether r was asked for a byte and failed.
func (u *upload) stop() (read, failed bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.stopped = true
	return u.read, u.failed
}
