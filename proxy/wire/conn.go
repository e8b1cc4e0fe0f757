package proxy

import (
	"errors"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// DefaultStall is how long a client may take no byte before its connection
	// is given up (http-semantics, rule L1).
	DefaultStall = 120 * time.Second
	// maxTurn bounds one sendfile, in bytes. It does not end on its own while
	// the client keeps up, and the deadline must be renewed now and then.
	maxTurn = 4 << 20
	// looks is how often within a stall it is looked whether the client moved.
	looks = 4
)

// Listener returns l with connections that give up on a client which takes no
// byte for stall (0 means DefaultStall), and on nobody else: a slow reader
// finishes. That is what a write timeout of net/http cannot do, since it bounds
// the whole answer. The connections keep sendfile.
//
// Only TCP connections are watched; others pass as they are.
func Listener(l net.Listener, stall time.Duration) net.Listener {
	if stall <= 0 {
		stall = DefaultStall
	}
	return listener{l, stall}
}

type listener struct {
	net.Listener
	stall time.Duration
}

func (l listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	if tcp, ok := c.(*net.TCPConn); ok {
		return &conn{tcp, l.stall}, nil
	}
	return c, nil
}

// A conn writes with patience. Its write deadline is its own.
type conn struct {
	*net.TCPConn
	stall time.Duration
}

// Write implements net.Conn.
func (c *conn) Write(b []byte) (n int, err error) {
	p := c.patience()
	for {
		p.renew()
		k, err := c.TCPConn.Write(b[n:])
		n += k
		if err == nil || !p.goesOn(err) {
			return n, err
		}
	}
}

// ReadFrom implements io.ReaderFrom. A file goes by sendfile.
func (c *conn) ReadFrom(src io.Reader) (n int64, err error) {
	whole, ok := src.(*io.LimitedReader)
	if ok {
		_, ok = whole.R.(*os.File)
	}
	if !ok {
		return io.Copy(onlyWriter{c}, src)
	}
	p := c.patience()
	for whole.N > 0 {
		turn := io.LimitedReader{R: whole.R, N: min(whole.N, maxTurn)}
		asked := turn.N
		p.renew()
		k, err := c.TCPConn.ReadFrom(&turn)
		n += k
		whole.N -= k
		if err != nil {
			// Where the kernel has no sendfile for this file, bytes may have
			// been read and not written: then there is no way to go on.
			if turn.N != asked-k || !p.goesOn(err) {
				return n, err
			}
		} else if k < asked {
			return n, nil // the end of the file
		}
	}
	return n, nil
}

// onlyWriter hides ReadFrom from io.Copy.
type onlyWriter struct{ io.Writer }

// patience watches one write.
type patience struct {
	setDeadline func(time.Time) error
	acked       func() (uint64, bool)
	now         func() time.Time
	stall       time.Duration

	looked bool
	last   uint64    // acknowledged at the last look
	since  time.Time // the last look that found progress
}

func (c *conn) patience() *patience {
	return &patience{setDeadline: c.SetWriteDeadline, acked: c.acked, now: time.Now, stall: c.stall}
}

// renew gives the write until the next look.
func (p *patience) renew() { p.setDeadline(p.now().Add(p.stall / looks)) }

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
	acked, ok := p.acked()
	if !ok {
		return false
	}
	now := p.now()
	if !p.looked || acked != p.last {
		p.looked, p.last, p.since = true, acked, now
		return true
	}
	return now.Sub(p.since) < p.stall
}

// acked returns how many bytes the peer has acknowledged.
func (c *conn) acked() (n uint64, ok bool) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, false
	}
	err = raw.Control(func(fd uintptr) {
		if info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			n, ok = info.Bytes_acked, true
		}
	})
	return n, ok && err == nil
}
