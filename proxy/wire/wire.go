// Package wire is the short way of a request: it answers canonical requests for
// image data straight from the connection, and hands all else to net/http.
//
// What net/http does for a request costs more than sending 64 KiB of a file, or
// than a 304. So a Server reads the connection itself. A request in canonical
// form (Request) it shows to its Answerer, who may answer it; a connection whose
// next request is not in that form, or not answered there, goes to net/http with
// every byte that was read, and stays there. So nothing depends on this package
// but speed: without it all requests take the ordinary way.
//
// Connections of either way are Conns, which know sendfile and have patience with
// slow clients.
package wire

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// bufferSize holds the header of a canonical request many times.
	bufferSize   = 4 << 10
	firstTimeout = 10 * time.Second
	idleTimeout  = 120 * time.Second
)

// A Verdict says what an Answerer did.
type Verdict int

const (
	// Declined: nothing was written. The request is for net/http.
	Declined Verdict = iota
	// Answered: the whole answer was written, or kept by Conn.Delay.
	Answered
	// Broken: the answer was begun and cannot be ended. The connection closes.
	Broken
)

// An Answerer answers requests of one connection, one after the other.
type Answerer interface {
	// Answer answers r on c, or declines before it writes anything. ctx ends
	// when the server does; a client that leaves is found out by writing. c.Now
	// is when r came; who answers looks at the clock again, c.Tick, when done.
	Answer(ctx context.Context, c *Conn, r *Request) Verdict
}

// A Server reads connections. Its fields are set before Serve.
type Server struct {
	// NewAnswerer returns the Answerer of a new connection. nil means that all
	// requests are for net/http.
	NewAnswerer func(remote string) Answerer
	// Stall is how long a client may take no byte; 0 means DefaultStall.
	Stall time.Duration
	// Log gets the panics of Answerers; nil means slog.Default().
	Log *slog.Logger

	// The wait for the first request on a connection and for the next; 0 means
	// firstTimeout and idleTimeout.
	first, idle time.Duration

	once     sync.Once
	handed   chan net.Conn // to net/http
	closed   chan struct{}
	ctx      context.Context // of all answers
	cut      context.CancelFunc
	yielders yielders
	buffers  sync.Pool

	mu       sync.Mutex
	stopping bool
	open     map[*served]struct{}
	running  sync.WaitGroup
}

func (s *Server) init() {
	s.once.Do(func() {
		s.handed, s.closed = make(chan net.Conn), make(chan struct{})
		s.open = make(map[*served]struct{})
		s.ctx, s.cut = context.WithCancel(context.Background())
		s.yielders = make(yielders, maxYielders)
		s.buffers.New = func() any { return new([bufferSize]byte) }
		if s.Stall <= 0 {
			s.Stall = DefaultStall
		}
		if s.first <= 0 {
			s.first = firstTimeout
		}
		if s.idle <= 0 {
			s.idle = idleTimeout
		}
	})
}

// A served connection is one that this package reads.
type served struct {
	*Conn
	// state is reading while a request is waited for. Whoever moves it from there
	// has the connection: the loop, or Shutdown.
	state atomic.Int32
}

const (
	busy int32 = iota
	reading
	shut
)

// Serve accepts connections on l until that is closed, and returns the error of
// Accept.
func (s *Server) Serve(l net.Listener) error {
	s.init()
	for delay := time.Duration(0); ; {
		nc, err := l.Accept()
		if err != nil {
			if !passes(err) {
				return err
			}
			delay = min(max(2*delay, 5*time.Millisecond), time.Second)
			select {
			case <-time.After(delay):
				continue
			case <-s.closed:
				return err
			}
		}
		delay = 0
		tcp, ok := nc.(*net.TCPConn)
		if !ok {
			s.hand(nc)
			continue
		}
		c, err := newConn(tcp, s.Stall, s.yielders)
		if err != nil {
			nc.Close()
			continue
		}
		if s.NewAnswerer == nil {
			s.hand(c)
			continue
		}
		v := &served{Conn: c}
		if !s.add(v) {
			nc.Close()
			continue
		}
		go func() {
			defer s.remove(v)
			defer s.recover(v)
			s.serve(v)
		}()
	}
}

// passes says whether an error of Accept is the want of something that will be
// given back: descriptors, most likely.
func passes(err error) bool {
	for _, e := range []syscall.Errno{unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// recover keeps a panic of an Answerer from ending anything but its connection, as
// net/http does.
func (s *Server) recover(v *served) {
	p := recover()
	if p == nil {
		return
	}
	v.TCPConn.Close()
	log := s.Log
	if log == nil {
		log = slog.Default()
	}
	log.Error("panic while a request was answered", "remote", v.RemoteAddr().String(), "panic", p, "stack", string(debug.Stack()))
}

func (s *Server) add(v *served) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping {
		return false
	}
	s.open[v] = struct{}{}
	s.running.Add(1)
	return true
}

func (s *Server) remove(v *served) {
	s.mu.Lock()
	delete(s.open, v)
	s.mu.Unlock()
	s.running.Done()
}

// serve reads requests until one is not for this package.
//
// All is done inside one call of RawConn.Read, which calls receive whenever there
// may be something to read. So nothing that arrives meanwhile is missed, and the
// kernel need not be asked again to learn that there is no more: that would be one
// call in four.
func (s *Server) serve(v *served) {
	buffer := s.buffers.Get().(*[bufferSize]byte)
	defer s.buffers.Put(buffer)
	l := loop{s: s, v: v, buffer: buffer, answerer: s.NewAnswerer(v.RemoteAddr().String())}
	tellRest(v.raw)
	l.expect(s.first, v.Tick())
	v.state.Store(reading)
	err := v.raw.Read(l.receive)
	if err == nil && l.declined {
		s.pass(v, l.have)
		return
	}
	v.TCPConn.Close()
}

// A loop is the life of a served connection.
type loop struct {
	s        *Server
	v        *served
	buffer   *[bufferSize]byte
	receiver receiver
	have     []byte // of buffer: read and not yet answered
	request  Request
	answerer Answerer
	deadline time.Time // of reads
	answered bool      // something
	declined bool      // what is in have is for net/http
}

// expect bounds the wait for the next request. The deadline is moved in steps, as
// that of writes.
func (l *loop) expect(timeout time.Duration, now time.Time) {
	if l.deadline.Sub(now) < timeout*7/8 || l.deadline.Sub(now) > timeout {
		l.deadline = now.Add(timeout)
		l.v.SetReadDeadline(l.deadline)
	}
}

// receive reads and answers what has arrived. It returns false to wait for more.
func (l *loop) receive(fd uintptr) (done bool) {
	v := l.v
	if !v.state.CompareAndSwap(reading, busy) {
		return true // Shutdown has it
	}
	for {
		n, more, err := l.receiver.recv(fd, l.buffer[:])
		switch {
		case err == unix.EAGAIN:
			return l.wait()
		case err == unix.EINTR:
			continue
		case err != nil || n == 0:
			return true
		}
		v.Tick()
		l.have = l.buffer[:n]
		if !l.answer() {
			return true
		}
		if !more { // and what comes from now on is told
			return l.wait()
		}
	}
}

// wait has receive called when there is more.
func (l *loop) wait() (done bool) {
	v := l.v
	if l.answered {
		l.expect(l.s.idle, v.Now())
	}
	v.state.Store(reading)
	return l.s.isStopping() // Shutdown may have looked just before
}

// answer answers all requests in have. It returns false when the connection is
// not to be read on.
func (l *loop) answer() bool {
	for len(l.have) > 0 {
		length, ok := l.request.Parse(l.have)
		if !ok {
			l.declined = true
			return false
		}
		switch l.answerer.Answer(l.s.ctx, l.v.Conn, &l.request) {
		case Declined:
			l.declined = true
			return false
		case Broken:
			return false
		}
		if l.v.Flush() != nil || l.s.isStopping() {
			return false
		}
		l.answered = true
		l.have = l.have[length:]
		l.v.fair()
	}
	return true
}

// pass hands a connection with what was read of it to net/http.
func (s *Server) pass(v *served, read []byte) {
	v.prefix, v.ticked = slices.Clone(read), false
	v.SetReadDeadline(time.Time{}) // net/http sets its own
	s.hand(v.Conn)
}

func (s *Server) hand(c net.Conn) {
	select {
	case s.handed <- c:
	case <-s.closed:
		c.Close()
	}
}

func (s *Server) isStopping() bool {
	select {
	case <-s.closed:
		return true
	default:
		return false
	}
}

// Rest returns the listener whose connections are those handed on, for net/http.
// Its address is that of l.
func (s *Server) Rest(l net.Listener) net.Listener {
	s.init()
	return &rest{Listener: l, s: s, closed: make(chan struct{})}
}

type rest struct {
	net.Listener
	s      *Server
	once   sync.Once
	closed chan struct{}
}

// Accept implements net.Listener.
func (l *rest) Accept() (net.Conn, error) {
	select {
	case c := <-l.s.handed:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (l *rest) Close() error {
	l.once.Do(func() { close(l.closed) })
	if err := l.Listener.Close(); !errors.Is(err, net.ErrClosed) { // by its owner, most likely
		return err
	}
	return nil
}

// Shutdown closes connections that wait for a request, lets answers under way
// end until ctx does, then cuts them, and returns when none runs; the error is
// that of ctx if any was cut. The listener is the caller's to close, before.
func (s *Server) Shutdown(ctx context.Context) (err error) {
	s.init()
	for _, v := range s.stop() {
		if v.state.CompareAndSwap(reading, shut) {
			v.TCPConn.Close()
		}
	}
	ended := make(chan struct{})
	go func() {
		s.running.Wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-ctx.Done():
		s.cut()
		for _, v := range s.stop() {
			if v.state.Swap(shut) == busy {
				err = ctx.Err()
			}
			v.TCPConn.Close() // which waits until its answer gave up
		}
		<-ended
	}
	s.cut()
	s.yielders.close()
	return err
}

// stop accepts no more connections, and returns those that are open.
func (s *Server) stop() []*served {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.stopping {
		s.stopping = true
		close(s.closed)
	}
	return slices.Collect(maps.Keys(s.open))
}
