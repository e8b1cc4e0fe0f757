// Package faultproxy stands between a store and its server, on loopback, and
// spoils what passes: for tests of how a store behaves under trouble.
package faultproxy

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A Fault says what happens to requests. The zero Fault does nothing. Positions
// count the bytes of one body from 0 and are met if the body is that long; nil means
// nowhere. What is set happens in the order of the fields; Status, Lost and every
// reset are the end of it.
type Fault struct {
	// Match chooses the requests that the Fault applies to; nil means all.
	Match func(*http.Request) bool
	// Times is how many requests it applies to; 0 means all.
	Times int

	// Refuse closes the port and resets all connections, until the next
	// Inject. Match and Times do not matter.
	Refuse bool
	// ResetUpload resets the connection before this byte of the request's
	// body. The server sees a body that breaks off, too.
	ResetUpload *int64
	// Status, when not 0, is answered with no body after the request was
	// read; the server never hears of it. RetryAfter, in whole seconds, is
	// the field of that name, and 0 means that there is none.
	Status     int
	RetryAfter time.Duration
	// Lost resets the connection in place of the answer, when the server has
	// done what it was asked.
	Lost bool
	// Gate holds the answer.
	Gate *Gate
	// Reset resets the connection before this byte of the answer's body. The
	// bytes before it may not all arrive.
	Reset *int64

	// Length is added to the Content-Length of the answer. The body ends
	// where it did, and then the connection does.
	Length int64
	// Flip inverts this byte of the answer's body.
	Flip *int64
}

// A Gate holds answers before the byte At of their body, or before their header
// if At is less than 0. A gate that nobody opens is a stall. The answer is also
// let go, and its connection closed, by the client, by the next Inject, and by the
// end of the test.
type Gate struct {
	At int64
	// Reached gets a value when an answer is held, if there is room for it.
	Reached chan struct{}
	// Pass opens the gate when it is closed.
	Pass chan struct{}
}

// NewGate returns a closed gate.
func NewGate(at int64) *Gate {
	return &Gate{At: at, Reached: make(chan struct{}, 1), Pass: make(chan struct{})}
}

// A Proxy passes requests on to a server, as they are: also the Host field, which
// signatures hold. It speaks HTTP/1.1 without TLS.
type Proxy struct {
	// URL is that of the proxy, without a slash at its end.
	URL string

	// Connections and Requests that came, and bytes of bodies that were sent
	// to the client and received from it.
	Connections, Requests, Sent, Received atomic.Int64

	t      testing.TB
	target *url.URL
	addr   string
	server *http.Server
	client *http.Transport
	holder int // a socket that keeps the port while nobody listens
	serves sync.WaitGroup
	open   sync.WaitGroup // connections that the server has

	mu       sync.Mutex
	faults   []*active
	listener net.Listener // nil: refusing
	conns    map[net.Conn]bool
	cleared  chan struct{} // closed at the next Inject
}

// An active Fault counts how often it still applies.
type active struct {
	Fault
	left int
}

// New returns a proxy in front of the server at target, such as
// http://127.0.0.1:8080. It ends with the test.
func New(t testing.TB, target string) *Proxy {
	t.Helper()
	u, err := url.Parse(target)
	if err != nil || u.Scheme != "http" || u.Host == "" {
		t.Fatalf("fault proxy: %q is not the URL of an HTTP server (%v)", target, err)
	}
	p := &Proxy{t: t, target: u, addr: "127.0.0.1:0", conns: make(map[net.Conn]bool), cleared: make(chan struct{})}
	p.client = &http.Transport{DisableCompression: true, ExpectContinueTimeout: time.Second, MaxIdleConnsPerHost: 32}
	p.server = &http.Server{Handler: http.HandlerFunc(p.serve), ConnState: p.track}
	if err := p.listen(); err != nil {
		t.Fatalf("fault proxy: %v", err)
	}
	if p.holder, err = hold(p.addr); err != nil {
		p.listener.Close()
		t.Fatalf("fault proxy: hold the port: %v", err)
	}
	p.URL = "http://" + p.addr
	t.Cleanup(p.close)
	return p
}

// Inject replaces all faults; the first that applies to a request happens. None
// means that all is well again.
func (p *Proxy) Inject(faults ...Fault) {
	p.t.Helper()
	p.mu.Lock()
	p.faults = nil
	refuse := false
	for _, f := range faults {
		p.faults = append(p.faults, &active{f, f.Times})
		refuse = refuse || f.Refuse
	}
	close(p.cleared)
	p.cleared = make(chan struct{})
	listening := p.listener != nil
	p.mu.Unlock()
	switch {
	case refuse && listening:
		p.refuse()
	case !refuse && !listening:
		if err := p.listen(); err != nil {
			p.t.Fatalf("fault proxy: listen again: %v", err)
		}
	}
}

// Reset resets all connections, but for those that come later.
func (p *Proxy) Reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		reset(c)
	}
}

func (p *Proxy) refuse() {
	p.mu.Lock()
	l := p.listener
	p.listener = nil
	p.mu.Unlock()
	l.Close()
	p.serves.Wait() // so that no connection comes after the Reset
	p.Reset()
}

func (p *Proxy) listen() error {
	l, err := (&net.ListenConfig{Control: reusePort}).Listen(context.Background(), "tcp", p.addr)
	if err != nil {
		return err
	}
	p.mu.Lock()
	p.listener, p.addr = l, l.Addr().String()
	p.mu.Unlock()
	p.serves.Go(func() { p.server.Serve(l) })
	return nil
}

func (p *Proxy) close() {
	p.Inject()
	p.server.Close()
	p.serves.Wait()
	p.Reset() // those that a fault took from the server
	// Of those that it closed in the middle of a body, the server takes leave slowly.
	p.open.Wait()
	p.client.CloseIdleConnections()
	unix.Close(p.holder)
}

// track keeps the connections that are open.
func (p *Proxy) track(c net.Conn, state http.ConnState) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch state {
	case http.StateNew:
		p.Connections.Add(1)
		p.open.Add(1)
		p.conns[c] = true
	case http.StateClosed, http.StateHijacked:
		delete(p.conns, c)
		p.open.Done()
	}
}

// reusePort lets the listener and the socket that holds its port share it.
func reusePort(_, _ string, raw syscall.RawConn) error {
	var failed error
	err := raw.Control(func(fd uintptr) {
		failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
	})
	return errors.Join(err, failed)
}

// hold binds a socket to the port and does not listen: so connections are refused
// while the listener is away, and nobody else gets the port.
func hold(addr string) (int, error) {
	a, err := net.ResolveTCPAddr("tcp4", addr)
	if err != nil {
		return 0, err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, os.NewSyscallError("socket", err)
	}
	err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrInet4{Port: a.Port, Addr: [4]byte(a.IP.To4())})
	}
	if err != nil {
		unix.Close(fd)
		return 0, os.NewSyscallError("bind", err)
	}
	return fd, nil
}

// reset closes a connection in the way that the other side notices as an error.
func reset(c net.Conn) {
	if tcp, ok := c.(*net.TCPConn); ok {
		tcp.SetLinger(0)
	}
	c.Close()
}

// fault returns the one that applies to r, or none, and what ends its wait.
func (p *Proxy) fault(r *http.Request) (Fault, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, f := range p.faults {
		if f.Match != nil && !f.Match(r) || f.Times > 0 && f.left == 0 {
			continue
		}
		f.left--
		return f.Fault, p.cleared
	}
	return Fault{}, p.cleared
}

var errReset = errors.New("reset by a fault")

// cutReader fails before the byte at.
type cutReader struct {
	io.ReadCloser
	left int64
	cut  bool
}

func (c *cutReader) Read(b []byte) (int, error) {
	if c.left == 0 {
		c.cut = true
		return 0, errReset
	}
	n, err := c.ReadCloser.Read(b[:min(int64(len(b)), c.left)])
	c.left -= int64(n)
	return n, err
}

// countReader counts what the client sends.
type countReader struct {
	io.ReadCloser
	n *atomic.Int64
}

func (c countReader) Read(b []byte) (int, error) {
	n, err := c.ReadCloser.Read(b)
	c.n.Add(int64(n))
	return n, err
}
