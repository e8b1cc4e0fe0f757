package main

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"

	"golang.org/x/time/rate"
)

// linkBurst is what a link passes at once: more than a timer of a millisecond lets
// through at 1 Gbit/s.
const linkBurst = 256 << 10

// A relay passes TCP connections on to a server, as a link would that carries so
// many bytes a second in each direction, for all connections together. It adds no
// latency but that of a queue.
type relay struct {
	target   string
	listener net.Listener
	up, down *rate.Limiter

	wg sync.WaitGroup
	mu sync.Mutex
	// open has the connections, both sides of each.
	open map[net.Conn]bool
}

// newRelay listens on loopback, in front of the server at HOST:PORT. bytesPerSecond
// of 0 means unbounded. The caller closes it.
func newRelay(target string, bytesPerSecond int64) (*relay, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	limit := rate.Inf
	if bytesPerSecond > 0 {
		limit = rate.Limit(bytesPerSecond)
	}
	r := &relay{
		target: target, listener: l, open: make(map[net.Conn]bool),
		up: rate.NewLimiter(limit, linkBurst), down: rate.NewLimiter(limit, linkBurst),
	}
	r.wg.Go(r.accept)
	return r, nil
}

// addr returns HOST:PORT of the relay.
func (r *relay) addr() string { return r.listener.Addr().String() }

func (r *relay) accept() {
	for {
		c, err := r.listener.Accept()
		if err != nil {
			return
		}
		r.wg.Go(func() { r.pass(c) })
	}
}

// pass carries one connection until both sides have ended, or one has failed.
func (r *relay) pass(client net.Conn) {
	defer r.drop(client)
	server, err := net.Dial("tcp", r.target)
	if err != nil {
		return
	}
	defer r.drop(server)
	if !r.keep(client, server) {
		return
	}
	var both sync.WaitGroup
	both.Go(func() { carry(server, client, r.up) })
	both.Go(func() { carry(client, server, r.down) })
	both.Wait()
}

// carry copies from one side to the other, and its end too.
func carry(to, from net.Conn, limit *rate.Limiter) {
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			if limit.WaitN(context.Background(), n) != nil {
				break
			}
			if _, werr := to.Write(buf[:n]); werr != nil {
				err = werr
			}
		}
		if errors.Is(err, io.EOF) {
			to.(*net.TCPConn).CloseWrite()
			return
		}
		if err != nil {
			break
		}
	}
	to.Close()
	from.Close()
}

// keep notes connections, unless the relay was closed.
func (r *relay) keep(conns ...net.Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.open == nil {
		return false
	}
	for _, c := range conns {
		r.open[c] = true
	}
	return true
}

func (r *relay) drop(c net.Conn) {
	c.Close()
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.open, c)
}

// close ends the relay and all that it carries.
func (r *relay) close() {
	r.listener.Close()
	r.mu.Lock()
	for c := range r.open {
		c.Close()
	}
	r.open = nil
	r.mu.Unlock()
	r.wg.Wait()
}
