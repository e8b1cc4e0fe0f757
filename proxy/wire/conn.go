package wire

import (
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"nearsight/cache"
)

const (
	// DefaultStall is how long a client may take no byte before its connection
	// is given up (http-semantics, rule L1).
	DefaultStall = 120 * time.Second
	// looks is how often within a stall it is looked whether the client moved.
	looks = 4
	// maxSend bounds what is sent without a look at anything else, in bytes: the
	// fewer looks, the faster go whole images. An answer of maxTurn or more ends
	// a connection's turn; see fair.
	maxSend = 4 << 20
	maxTurn = 1 << 20
)

// A Conn is a TCP connection that sends a *cache.Section by sendfile, and gives
// up on a client which takes no byte for its stall, and on nobody else: a slow
// reader finishes. That is what a write timeout of net/http cannot do, since it
// bounds the whole answer. A write deadline that is set from outside ends writes too.
//
// One goroutine at a time may write.
type Conn struct {
	*net.TCPConn
	raw      syscall.RawConn
	stall    time.Duration
	yielders yielders

	unsent []byte // goes out before the next byte written, with it if it can
	prefix []byte // read already, by the loop that handed the connection on

	now      time.Time // at the last Tick
	ticked   bool      // since the last write began
	deadline time.Time // of writes, for the next look
	turn     int64     // bytes sent since this connection last waited for anything

	bound atomic.Int64 // a write deadline from outside, in ns since 1970; 0: none

	// What send is about to do; it is a method so that nothing is allocated
	// for a call of it.
	section *cache.Section
	sendErr error
	cut     bool // the file ended before its section
	call    func(fd uintptr) bool
}

func newConn(tcp *net.TCPConn, stall time.Duration, ys yielders) (*Conn, error) {
	raw, err := tcp.SyscallConn()
	if err != nil {
		return nil, err
	}
	c := &Conn{TCPConn: tcp, raw: raw, stall: stall, yielders: ys}
	c.call = c.send
	return c, nil
}

// Read implements net.Conn.
func (c *Conn) Read(b []byte) (int, error) {
	if len(c.prefix) > 0 {
		n := copy(b, c.prefix)
		if c.prefix = c.prefix[n:]; len(c.prefix) == 0 {
			c.prefix = nil
		}
		return n, nil
	}
	return c.TCPConn.Read(b)
}

// Tick looks at the clock and returns its time.
func (c *Conn) Tick() time.Time {
	c.now, c.ticked = time.Now(), true
	return c.now
}

// Now returns the time of the last Tick: that at which the request came, unless
// its answerer has looked again.
func (c *Conn) Now() time.Time { return c.now }

// Delay has b sent before the next byte that is written, in one segment with it
// if that is possible. The connection keeps b until then.
func (c *Conn) Delay(b []byte) { c.unsent = b }

// Flush sends what Delay kept.
func (c *Conn) Flush() error {
	if len(c.unsent) == 0 {
		return nil
	}
	_, err := c.ReadFrom(&noSection)
	return err
}

var noSection cache.Section // it has nothing, and nobody changes it

// Write implements net.Conn.
func (c *Conn) Write(b []byte) (n int, err error) {
	if err := c.Flush(); err != nil {
		return 0, err
	}
	return c.write(b)
}

func (c *Conn) write(b []byte) (n int, err error) {
	p := patience{c: c}
	for {
		p.renew()
		k, err := c.TCPConn.Write(b[n:])
		n += k
		if err == nil || !p.goesOn(err) {
			return n, err
		}
	}
}

// ReadFrom implements io.ReaderFrom. A *cache.Section goes by sendfile.
func (c *Conn) ReadFrom(src io.Reader) (n int64, err error) {
	s, ok := src.(*cache.Section)
	if !ok {
		return io.Copy(onlyWriter{c}, src)
	}
	whole := s.N
	p := patience{c: c}
	for s.N > 0 || len(c.unsent) > 0 {
		c.section, c.sendErr, c.cut = s, nil, false
		p.renew()
		err := c.raw.Write(c.call)
		c.section = nil
		if err == nil {
			err = c.sendErr
		}
		switch {
		case err == nil && c.cut:
			return whole - s.N, nil
		case err == nil:
			c.fair()
		case errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS):
			// The file system of the file has no sendfile.
			sent := whole - s.N
			n, err := io.Copy(onlyWriter{c}, s)
			return sent + n, err
		case !p.goesOn(err):
			return whole - s.N, err
		}
	}
	return whole, nil
}

// send sends as much of what was delayed and of the section as the client takes
// now, and at most one turn. It returns false when there is to be waited until
// the client takes more.
func (c *Conn) send(fd uintptr) (done bool) {
	s := c.section
	flags := unix.MSG_NOSIGNAL
	if s.N > 0 {
		flags |= unix.MSG_MORE
	}
	for len(c.unsent) > 0 {
		n, err := sendto(fd, c.unsent, flags)
		if err != nil {
			return c.stop("sendmsg", err)
		}
		c.unsent = c.unsent[n:]
	}
	c.unsent = nil
	for s.N > 0 && c.turn < maxSend {
		off := s.Off
		n, err := unix.Sendfile(int(fd), int(s.File.Fd()), &off, int(min(s.N, maxSend-c.turn)))
		if err != nil {
			if err == unix.EINTR {
				continue
			}
			return c.stop("sendfile", err)
		}
		if n == 0 {
			c.cut = true
			return true
		}
		s.Skip(int64(n))
		c.turn += int64(n)
	}
	return true
}

// stop ends send after an error, or has it wait if there is nothing else wrong.
func (c *Conn) stop(call string, err error) (done bool) {
	switch err {
	case unix.EAGAIN:
		c.turn = 0
		return false
	case unix.EINTR:
		return true // and is called again
	}
	c.sendErr = os.NewSyscallError(call, err)
	return true
}

// onlyWriter hides ReadFrom from io.Copy.
type onlyWriter struct{ io.Writer }

// patience watches one write.
type patience struct {
	c *Conn

	looked bool
	last   uint64    // acknowledged at the last look
	since  time.Time // the last look that found progress
}

// renew gives the write until the next look. Deadlines are moved in steps, because
// moving one costs as much as a small write. For the first write after a Tick that
// is near enough: were it old, a look would come early, which does no harm once.
func (p *patience) renew() {
	c := p.c
	now := c.now
	if !c.ticked {
		now = time.Now()
	}
	c.ticked = false
	each := c.stall / looks
	if c.deadline.Sub(now) < each/2 {
		c.deadline = now.Add(each)
		c.look()
	}
}

// look has a write end at the deadline, or at the bound if that comes first.
func (c *Conn) look() {
	for {
		bound := c.bound.Load()
		at := c.deadline
		if bound != 0 && bound < at.UnixNano() {
			at = time.Unix(0, bound)
		}
		c.TCPConn.SetWriteDeadline(at)
		if c.bound.Load() == bound { // else what was just set was undone
			return
		}
	}
}

// SetWriteDeadline implements net.Conn: writes end then, or before if the client stands
// still. Anybody may call it at any time.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	if t.IsZero() {
		c.bound.Store(0) // if it has passed, the next write looks again
		return nil
	}
	c.bound.Store(t.UnixNano())
	if next := time.Now().Add(c.stall / looks); next.Before(t) {
		t = next
	}
	return c.TCPConn.SetWriteDeadline(t)
}

// SetDeadline implements net.Conn.
func (c *Conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// goesOn decides after a write failed with err. If that was the deadline, the
// client has until a stall after the last progress, which the first look is
// taken for: a dead client is gone after at most 1 1/4 stalls.
//
// Progress is what the client's side acknowledged, because a write that waits
// for room in the kernel's buffer says nothing about what leaves it.
func (p *patience) goesOn(err error) bool {
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		return false
	}
	if bound := p.c.bound.Load(); bound != 0 && bound <= time.Now().UnixNano() {
		return false
	}
	p.c.deadline = time.Time{} // passed
	acked, ok := p.c.acked()
	return ok && p.look(time.Now(), acked)
}

// look decides after acked bytes were acknowledged at a deadline.
func (p *patience) look(now time.Time, acked uint64) bool {
	if !p.looked || acked != p.last {
		p.looked, p.last, p.since = true, acked, now
		return true
	}
	return now.Sub(p.since) < p.c.stall
}

// acked returns how many bytes the peer has acknowledged.
func (c *Conn) acked() (n uint64, ok bool) {
	err := c.raw.Control(func(fd uintptr) {
		if info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			n, ok = info.Bytes_acked, true
		}
	})
	return n, ok && err == nil
}
