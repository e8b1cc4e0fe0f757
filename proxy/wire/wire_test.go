package wire

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"nearsight/cache"
)

func TestRequestsInOneSegmentAreAnsweredInTurn(t *testing.T) {
	s := newSite(t, nil, nil)
	c := s.dial()
	var all strings.Builder
	for i := range 60 { // less than a buffer
		all.WriteString(request(fmt.Sprintf("/short/%d", i)))
	}
	c.send(all.String())
	for i := range 60 {
		c.want(fmt.Sprintf("/short/%d", i))
	}
	c.send(request("/short/more"))
	c.want("/short/more")
	if n := s.ordinary.Load(); n != 0 {
		t.Errorf("%d requests did not go the short way", n)
	}
}

// The buffer ends in the middle of a request: that one and all later ones are
// net/http's, and none is lost or answered twice.
func TestMoreRequestsThanABufferHoldsAreAllAnswered(t *testing.T) {
	s := newSite(t, nil, nil)
	c := s.dial()
	var all strings.Builder
	for i := range 1000 {
		all.WriteString(request(fmt.Sprintf("/short/%d", i)))
	}
	go io.WriteString(c, all.String())
	for i := range 1000 {
		path := fmt.Sprintf("/short/%d", i)
		c.patience()
		resp, err := http.ReadResponse(c.br, nil)
		if err != nil {
			t.Fatal(err)
		}
		if body, err := io.ReadAll(resp.Body); err != nil || !strings.Contains(string(body), path) {
			t.Fatalf("answer %d: %q, %v", i, body, err)
		}
	}
	if s.ordinary.Load() == 0 {
		t.Error("no request was net/http's")
	}
}

func TestARequestInTwoSegmentsGoesToNetHTTPWithAllItsBytes(t *testing.T) {
	const whole = "GET /short/a HTTP/1.1\r\nHost: x\r\nX-Test: abc\r\n\r\n"
	for cut := 1; cut < len(whole); cut += 7 {
		s := newSite(t, nil, nil)
		c := s.dial()
		c.send(whole[:cut])
		<-s.handed
		c.send(whole[cut:])
		c.want(`GET /short/a abc ""`)
		c.send(request("/short/b")) // and stays there
		c.want(`GET /short/b  ""`)
	}
}

func TestWhatIsHandedOnKeepsItsBytes(t *testing.T) {
	binary := "\x00\xff\r\n\r\nGET / HTTP/1.1\r\n\r\n"
	for _, tt := range []struct{ name, send, want string }{
		{"a body with a request in it",
			fmt.Sprintf("POST /p HTTP/1.1\r\nHost: x\r\nX-Test: v\r\nContent-Length: %d\r\n\r\n%s", len(binary), binary),
			fmt.Sprintf("POST /p v %q", binary)},
		{"a body in chunks",
			"PUT /p HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", `PUT /p  "abc"`},
		{"a path that its answerer declines", request("/other"), `GET /other  ""`},
		{"line feeds alone", "GET /short/a HTTP/1.1\nHost: x\n\n", `GET /short/a  ""`},
		{"a field that is not known", "GET /short/a HTTP/1.1\r\nHost: x\r\nX-Test: é\r\n\r\n", `GET /short/a é ""`},
	} {
		for _, before := range []int{0, 1, 5} {
			t.Run(fmt.Sprintf("%s, after %d answers", tt.name, before), func(t *testing.T) {
				s := newSite(t, nil, nil)
				c := s.dial()
				c.send(strings.Repeat(request("/short/a"), before) + tt.send + tt.send)
				for range before {
					c.want("/short/a")
				}
				c.want(tt.want)
				c.want(tt.want)
				if n := s.ordinary.Load(); n != 2 {
					t.Errorf("%d requests reached net/http, want 2", n)
				}
			})
		}
	}
}

func TestAClientThatEndsItsSideGetsItsAnswerAndTheEnd(t *testing.T) {
	// With one processor the request and the end of the stream are one event.
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	for _, before := range []int{0, 1, 3} {
		t.Run(fmt.Sprintf("after %d requests", before), func(t *testing.T) {
			s := newSite(t, nil, nil)
			c := s.dial()
			for range before {
				c.send(request("/short/a"))
				c.want("/short/a")
			}
			s.idle(1)
			c.send(request("/short/last"))
			c.CloseWrite()
			c.want("/short/last")
			c.wantEnd()
		})
	}
}

func TestAClientThatAsksNothing(t *testing.T) {
	const soon = 10 * time.Millisecond
	t.Run("is closed after the time for the first request", func(t *testing.T) {
		c := newSite(t, nil, func(s *Server) { s.first = soon }).dial()
		c.wantEnd()
	})
	t.Run("is closed after the time between requests", func(t *testing.T) {
		c := newSite(t, nil, func(s *Server) { s.idle = soon }).dial()
		c.send(request("/short/a"))
		c.want("/short/a")
		c.wantEnd()
	})
	t.Run("is not closed while it is answered", func(t *testing.T) {
		s := newSite(t, func(_ context.Context, c *Conn, r *Request) (Verdict, bool) {
			if r.Path == "/short/slow" {
				c.SetReadDeadline(time.Now()) // it passes during the answer
			}
			return Declined, false
		}, nil)
		c := s.dial()
		c.send(request("/short/slow"))
		c.want("/short/slow")
		c.send(request("/short/a"))
		c.want("/short/a")
	})
}

func TestAClientThatLeavesInTheMiddleOfAnAnswer(t *testing.T) {
	f, data := bigFile(t, 32<<20)
	results := make(chan error, 1)
	s := newSite(t, func(_ context.Context, c *Conn, r *Request) (Verdict, bool) {
		if r.Path != "/short/file" {
			return Declined, false
		}
		c.Delay(fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", len(data)))
		_, err := c.ReadFrom(&cache.Section{File: f, N: int64(len(data))})
		results <- err
		return Broken, true
	}, nil)
	c := s.dial()
	c.send(request("/short/file"))
	if _, err := io.ReadFull(c, make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	c.Close()
	if err := <-results; err == nil {
		t.Error("the answer ended well")
	}
	s.idle(0)
	other := s.dial()
	other.send(request("/short/a"))
	other.want("/short/a")
}

func TestABrokenAnswerEndsItsConnection(t *testing.T) {
	s := newSite(t, func(_ context.Context, c *Conn, r *Request) (Verdict, bool) {
		c.Write([]byte("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"))
		return Broken, true
	}, nil)
	c := s.dial()
	c.send(request("/short/a") + request("/short/b"))
	c.patience()
	if got, err := io.ReadAll(c.br); !strings.HasSuffix(string(got), "\r\n\r\nhalf") || err != nil {
		t.Errorf("%q, %v", got, err)
	}
}

func TestConnectionsLeaveNoDescriptors(t *testing.T) {
	before := descriptors(t)
	t.Run("a thousand connections", func(t *testing.T) {
		s := newSite(t, nil, nil)
		for i := range 1000 {
			c, err := net.Dial("tcp", s.addr)
			if err != nil {
				t.Fatal(err)
			}
			switch i % 4 {
			case 0: // leaves without a word
			case 1:
				io.WriteString(c, "GET /sho") // in the middle of a request
			case 2:
				io.WriteString(c, request("/short/a")) // without taking the answer
			case 3:
				io.WriteString(c, request("/other"))
				bufio.NewReader(c).ReadString('\n')
			}
			c.Close()
		}
		s.idle(0)
	})
	until(t, "the descriptors to be closed", func() bool { return descriptors(t) <= before })
}

func TestWithoutAnAnswererAllIsForNetHTTP(t *testing.T) {
	s := newSite(t, nil, func(s *Server) { s.NewAnswerer = nil })
	c := s.dial()
	c.send(request("/short/a"))
	c.want(`GET /short/a  ""`)
}
