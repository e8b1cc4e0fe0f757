package main

import (
	"context"
	"io"
	"net"
	"sync"
)

// A link is the network from one server of a partition test to another: connections to
// it go on to the other. It can be cut, which resets them, or held, so that nothing
// more comes through and nobody is told.
type link struct {
	net.Listener
	name string
	to   func() (network, address string) // "" while the other does not run
	wg   sync.WaitGroup

	mu        sync.Mutex
	cuts      int // that are in force
	holds     int
	conns     map[net.Conn]struct{}
	unheld    chan struct{} // closed when holds becomes 0
	everybody context.Context
	end       context.CancelFunc
}

func newLink(name string, to func() (network, address string)) (*link, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	l := &link{Listener: ln, name: name, to: to, conns: map[net.Conn]struct{}{}, unheld: make(chan struct{})}
	close(l.unheld)
	l.everybody, l.end = context.WithCancel(context.Background())
	l.wg.Go(l.run)
	return l, nil
}

// address is where the server at the near end finds the far one.
func (l *link) address() string { return l.Addr().String() }

func (l *link) run() {
	for {
		near, err := l.Accept()
		if err != nil {
			return
		}
		l.wg.Go(func() { l.connect(near) })
	}
}

// connect connects one client.
func (l *link) connect(near net.Conn) {
	if !l.enlist(near) {
		return
	}
	defer l.drop(near)
	if !l.pass() {
		return
	}
	network, address := l.to()
	if address == "" {
		return
	}
	far, err := net.DialTimeout(network, address, patience)
	if err != nil || !l.enlist(far) {
		return
	}
	defer l.drop(far)
	var ways sync.WaitGroup
	ways.Go(func() { l.copy(far, near) })
	ways.Go(func() { l.copy(near, far) })
	ways.Wait()
}

// copy copies what comes, and its end. What cannot be written ends both ways.
func (l *link) copy(to, from net.Conn) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if !l.pass() {
			return
		}
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				reset(from)
				return
			}
		}
		switch {
		case err == io.EOF:
			to.(interface{ CloseWrite() error }).CloseWrite()
			return
		case err != nil: // a crash at the other end is one at this
			reset(to)
			return
		}
	}
}

// pass waits while the link is held, and reports whether there is still one.
func (l *link) pass() bool {
	l.mu.Lock()
	unheld := l.unheld
	l.mu.Unlock()
	select {
	case <-unheld:
		return true
	case <-l.everybody.Done():
		return false
	}
}

// enlist notes a connection, or resets it if the link is cut.
func (l *link) enlist(c net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cuts > 0 || l.everybody.Err() != nil {
		reset(c)
		return false
	}
	l.conns[c] = struct{}{}
	return true
}

func (l *link) drop(c net.Conn) {
	l.mu.Lock()
	delete(l.conns, c)
	l.mu.Unlock()
	c.Close()
}

// reset closes a connection without an orderly end.
func reset(c net.Conn) {
	if tcp, ok := c.(*net.TCPConn); ok {
		tcp.SetLinger(0)
	}
	c.Close()
}

// cut and mend begin and end a cut, hold and release the other; each may be done
// several times over.
func (l *link) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cuts++
	for c := range l.conns {
		reset(c)
	}
}

func (l *link) mend() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cuts--
}

func (l *link) hold() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.holds++; l.holds == 1 {
		l.unheld = make(chan struct{})
	}
}

func (l *link) release() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.holds--; l.holds == 0 {
		close(l.unheld)
	}
}

func (l *link) close() {
	l.Close()
	l.end()
	l.cut()
	l.wg.Wait()
}
