package wire

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// An answerFunc answers as an Answerer does, or returns false to leave that to
// site.Answer.
type answerFunc func(ctx context.Context, c *Conn, r *Request) (Verdict, bool)

// A site is a Server with net/http behind it. It is the Answerer of all its
// connections: requests for paths below /short/ it answers with the path, others
// are net/http's.
type site struct {
	t        *testing.T
	server   *Server
	addr     string
	answer   answerFunc
	ordinary atomic.Int64  // requests that reached net/http
	handed   chan struct{} // gets one for each connection that did
}

// newSite starts a Server. change, if not nil, alters it before.
func newSite(t *testing.T, answer answerFunc, change func(*Server)) *site {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &site{t: t, addr: l.Addr().String(), answer: answer, handed: make(chan struct{}, 2000)}
	s.server = &Server{NewAnswerer: func(string) Answerer { return s }}
	if change != nil {
		change(s.server)
	}
	s.server.init() // so that tests may look inside at once
	rest := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			s.ordinary.Add(1)
			body, _ := io.ReadAll(r.Body)
			fmt.Fprintf(w, "%s %s %s %q", r.Method, r.URL.Path, r.Header.Get("X-Test"), body)
		}),
		ConnState: func(_ net.Conn, state http.ConnState) {
			if state == http.StateNew {
				s.handed <- struct{}{}
			}
		},
	}
	var running sync.WaitGroup
	running.Go(func() {
		if err := s.server.Serve(l); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Serve: %v", err)
		}
	})
	running.Go(func() { rest.Serve(s.server.Rest(l)) })
	t.Cleanup(func() {
		l.Close()
		rest.Close()
		s.server.Shutdown(ended())
		running.Wait()
	})
	return s
}

// ended returns a context that has ended.
func ended() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

func (s *site) Answer(ctx context.Context, c *Conn, r *Request) Verdict {
	if s.answer != nil {
		if v, ok := s.answer(ctx, c, r); ok {
			return v
		}
	}
	if !strings.HasPrefix(r.Path, "/short/") {
		return Declined
	}
	body := r.Path
	if r.Head {
		body = ""
	}
	c.Delay(fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(r.Path), body))
	c.Tick()
	return Answered
}

// A client is one connection to a site.
type client struct {
	*net.TCPConn
	t  *testing.T
	br *bufio.Reader
}

func (s *site) dial() *client {
	s.t.Helper()
	c, err := net.Dial("tcp", s.addr)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { c.Close() })
	return &client{c.(*net.TCPConn), s.t, bufio.NewReader(c)}
}

func (c *client) send(text string) {
	c.t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		c.t.Fatal(err)
	}
}

func request(path string) string { return "GET " + path + " HTTP/1.1\r\nHost: x\r\n\r\n" }

// want reads an answer and compares its body.
func (c *client) want(body string) {
	c.t.Helper()
	c.patience()
	resp, err := http.ReadResponse(c.br, nil)
	if err != nil {
		c.t.Fatalf("instead of %q: %v", body, err)
	}
	got, err := io.ReadAll(resp.Body)
	if err != nil || string(got) != body {
		c.t.Fatalf("got %q, %v, want %q", got, err, body)
	}
}

// wantEnd reads the end of the stream.
func (c *client) wantEnd() {
	c.t.Helper()
	c.patience()
	if rest, err := io.ReadAll(c.br); err != nil || len(rest) > 0 {
		c.t.Errorf("instead of the end: %q, %v", rest, err)
	}
}

// patience bounds reads, only so that a server that hangs fails the test soon.
func (c *client) patience() { c.SetReadDeadline(time.Now().Add(20 * time.Second)) }

// idle waits until n served connections wait for a request, and no other is open.
func (s *site) idle(n int) {
	s.t.Helper()
	until(s.t, fmt.Sprintf("%d idle connections", n), func() bool {
		s.server.mu.Lock()
		defer s.server.mu.Unlock()
		waiting := 0
		for v := range s.server.open {
			if v.state.Load() == reading {
				waiting++
			}
		}
		return waiting == n && len(s.server.open) == n
	})
}

// until waits for what is bound to happen.
func until(t *testing.T, what string, happened func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !happened(); runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// descriptors returns how many this process has.
func descriptors(t *testing.T) int {
	t.Helper()
	names, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(names)
}
