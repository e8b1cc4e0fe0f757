package api

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"log"
	"net"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// upload puts data, in chunks or with its length.
func (g *rig) upload(id, data string, chunked bool, fields ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest("PUT", "/v2/images/"+id+"/file", strings.NewReader(data))
	if chunked {
		r.ContentLength, r.TransferEncoding = -1, []string{"chunked"}
	}
	for _, f := range fields {
		name, value, _ := strings.Cut(f, ": ")
		r.Header.Add(name, value)
	}
	w := httptest.NewRecorder()
	g.ServeHTTP(w, r)
	return w
}

// dial returns a connection to a server of the rig's API, and a function that
// ends the server after all requests have.
func (g *rig) dial() (conn *net.TCPConn, stop func()) {
	g.Helper()
	server := httptest.NewUnstartedServer(g)
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.Start()
	c, err := net.Dial("tcp", server.Listener.Addr().String())
	if err != nil {
		g.Fatal(err)
	}
	g.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second)) // a hang is an error, not a time-out of all tests
	return c.(*net.TCPConn), server.Close
}

// raw returns an upload of id1 as bytes, as it is.
func raw(fields, body string) string {
	return "PUT /v2/images/" + id1 + "/file HTTP/1.1\r\nHost: x\r\n" + octets + "\r\n" + fields + "\r\n\r\n" + body
}

// http-semantics.md, U1: no 100 and no reading before a refusal, then close.
func TestRefusedUploadsAreNotRead(t *testing.T) {
	const expect = "Expect: 100-continue\r\nContent-Length: 1000000"
	for _, tt := range []struct {
		name, request string
		active        bool
		status        int
	}{
		{"404", strings.ReplaceAll(raw(expect, ""), id1, absent), false, 404},
		{"409", raw(expect, ""), true, 409},
		{"412", raw(expect+"\r\nIf-None-Match: *", ""), true, 412},
		{"413", raw("Expect: 100-continue\r\nContent-Length: 2000000", ""), false, 413},
		{"415", strings.ReplaceAll(raw(expect, ""), "octet-stream", "json"), false, 415},
		{"400", raw(expect+"\r\nContent-Range: bytes 0-9/100", ""), false, 400},
		{"405", strings.Replace(raw(expect, ""), "PUT", "POST", 1), false, 405},
		{"without Expect the answer does not wait for the body either", raw("Content-Length: 1000", ""), true, 409},
		{"nor for its chunks", raw("Transfer-Encoding: chunked", ""), true, 409},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := newRig(t, func(o *Options) { o.MaxImageSize = 1_000_000 })
			g.create(`"id":"` + id1 + `",` + formats)
			if tt.active {
				g.put(id1, "data")
			}
			conn, stop := g.dial()
			defer stop()
			io.WriteString(conn, tt.request)
			r := bufio.NewReader(conn)
			line, err := r.ReadString('\n')
			if err != nil || !strings.HasPrefix(line, fmt.Sprintf("HTTP/1.1 %d ", tt.status)) {
				t.Fatalf("first line %q, %v; want %d", line, err, tt.status)
			}
			conn.CloseWrite()
			rest, err := io.ReadAll(r)
			if err != nil || !bytes.Contains(rest, []byte("Connection: close\r\n")) {
				t.Errorf("%q, %v", rest, err)
			}
		})
	}
}

func TestExpectedUploadIsAskedFor(t *testing.T) {
	g := newRig(t)
	g.create(`"id":"` + id1 + `",` + formats)
	conn, stop := g.dial()
	defer stop()
	io.WriteString(conn, raw("Expect: 100-continue\r\nContent-Length: 4", ""))
	r := bufio.NewReader(conn)
	if line, err := r.ReadString('\n'); err != nil || line != "HTTP/1.1 100 Continue\r\n" {
		t.Fatalf("%q, %v", line, err)
	}
	r.ReadString('\n')
	io.WriteString(conn, "data")
	if line, err := r.ReadString('\n'); err != nil || line != "HTTP/1.1 204 No Content\r\n" {
		t.Fatalf("%q, %v", line, err)
	}
	g.isActive(id1, "data")
}

// http-semantics.md, U3 and H2: wherever the body ends, nothing is stored and
// no answer looks like success.
func TestBrokenUploadsLeaveNothing(t *testing.T) {
	for _, tt := range []struct{ name, fields, body string }{
		{"nothing of the body", "Content-Length: 10", ""},
		{"half of the body", "Content-Length: 10", "01234"},
		{"all but a byte", "Content-Length: 10", "012345678"},
		{"all but a byte of many chunks", "Content-Length: 700001", strings.Repeat("x", 700000)},
		{"no chunk", "Transfer-Encoding: chunked", ""},
		{"half a chunk", "Transfer-Encoding: chunked", "a\r\n01234"},
		{"no last chunk", "Transfer-Encoding: chunked", "5\r\n01234\r\n"},
		{"half of the last chunk", "Transfer-Encoding: chunked", "5\r\n01234\r\n0\r\n"},
		{"a bad chunk size", "Transfer-Encoding: chunked", "5\r\n01234\r\nxyz\r\n"},
		{"a negative chunk size", "Transfer-Encoding: chunked", "-5\r\n01234\r\n"},
		{"a length and chunks, broken", "Content-Length: 3\r\nTransfer-Encoding: chunked", "5\r\n0123"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := newRig(t)
			g.create(`"id":"` + id1 + `",` + formats)
			conn, stop := g.dial()
			io.WriteString(conn, raw(tt.fields, tt.body))
			conn.CloseWrite()
			answer, _ := io.ReadAll(conn)
			if bytes.HasPrefix(answer, []byte("HTTP/1.1 2")) {
				t.Errorf("answer %q", answer)
			}
			stop() // waits for the handler
			g.isQueued(id1)
			if g.wakes.Load() != 1 {
				t.Errorf("%d wakes", g.wakes.Load())
			}
			g.put(id1, "again")
			g.isActive(id1, "again")
		})
	}
	t.Run("the client resets the connection", func(t *testing.T) {
		g := newRig(t)
		g.create(`"id":"` + id1 + `",` + formats)
		conn, stop := g.dial()
		io.WriteString(conn, raw("Expect: 100-continue\r\nContent-Length: 10", ""))
		bufio.NewReader(conn).ReadString('\n') // the upload began
		conn.SetLinger(0)
		conn.Close()
		stop()
		g.isQueued(id1)
	})
}

func TestChunkedRequestClosesTheConnection(t *testing.T) {
	g := newRig(t)
	g.create(`"id":"` + id1 + `",` + formats)
	conn, stop := g.dial()
	defer stop()
	io.WriteString(conn, raw("Content-Length: 3\r\nTransfer-Encoding: chunked", "4\r\ndata\r\n0\r\n\r\n")+
		"GET /v2/images HTTP/1.1\r\nHost: x\r\n\r\n")
	answers, err := io.ReadAll(conn)
	if n := bytes.Count(answers, []byte("HTTP/1.1 ")); n != 1 || err != nil {
		t.Errorf("%d answers: %q, %v", n, answers, err)
	}
	g.isActive(id1, "data")
}

func TestStalledUploadEnds(t *testing.T) {
	g := newRig(t, func(o *Options) { o.StallTimeout = 50 * time.Millisecond })
	g.create(`"id":"` + id1 + `",` + formats)
	conn, stop := g.dial()
	io.WriteString(conn, raw("Content-Length: 10", "01234"))
	answer, err := io.ReadAll(conn)
	if err != nil || !bytes.HasPrefix(answer, []byte("HTTP/1.1 408 ")) {
		t.Errorf("%q, %v", answer, err)
	}
	stop()
	g.isQueued(id1)
}

func TestCreepingUploadEnds(t *testing.T) {
	g := newRig(t, func(o *Options) { o.StallTimeout = 200 * time.Millisecond })
	g.create(`"id":"` + id1 + `",` + formats)
	conn, stop := g.dial()
	io.WriteString(conn, raw("Content-Length: 1000000", ""))
	done := make(chan struct{})
	go func() { // a byte long before every stall timeout
		defer close(done)
		for tick := time.NewTicker(10 * time.Millisecond); ; <-tick.C {
			if _, err := io.WriteString(conn, "x"); err != nil {
				return
			}
		}
	}()
	line, err := bufio.NewReader(conn).ReadString('\n')
	if line != "HTTP/1.1 408 Request Timeout\r\n" {
		t.Errorf("%q, %v", line, err)
	}
	conn.Close()
	<-done
	stop()
	g.isQueued(id1)
}

// A broken body on a connection that stands is answered.
func TestBrokenChunksAreAnswered(t *testing.T) {
	g := newRig(t)
	g.create(`"id":"` + id1 + `",` + formats)
	conn, stop := g.dial()
	io.WriteString(conn, raw("Transfer-Encoding: chunked", "5\r\nhello\r\nZZ\r\n"))
	answer, err := io.ReadAll(conn)
	if !bytes.HasPrefix(answer, []byte("HTTP/1.1 400 ")) || !bytes.Contains(answer, []byte("Connection: close\r\n")) || err != nil {
		t.Errorf("%q, %v", answer, err)
	}
	stop()
	g.isQueued(id1)
}

func TestStalledDocumentEnds(t *testing.T) {
	g := newRig(t, func(o *Options) { o.StallTimeout = 50 * time.Millisecond })
	for _, request := range []string{
		"POST /v2/images HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{",
		"POST /v2/nope HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{",
		"GET /v2/images HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{",
	} {
		conn, stop := g.dial()
		io.WriteString(conn, request)
		if answer, err := io.ReadAll(conn); err != nil || !bytes.HasPrefix(answer, []byte("HTTP/1.1 ")) {
			t.Errorf("%q: %q, %v", request, answer, err)
		}
		stop()
	}
}

// A slow client is not a stalled one: it has the stall timeout for every 64 KiB,
// and the deadline is gone when the body is complete.
func TestUploadsHaveAMinimumRate(t *testing.T) {
	const stall = 2 * time.Minute
	for _, tt := range []struct {
		name string
		body slowBody
		says string
	}{
		{"64 KiB just in time, again and again", slowBody{n: 5, size: 64 << 10, wait: stall - time.Second}, ""},
		{"8 KiB eight times as often", slowBody{n: 50, size: 8 << 10, wait: stall/8 - time.Second}, ""},
		{"a byte now and then", slowBody{n: 5, size: 1, wait: stall - time.Second}, "fewer than 65536 bytes"},
		{"a little less than enough", slowBody{n: 50, size: 8<<10 - 1, wait: stall / 8}, "fewer than 65536 bytes"},
		{"silence", slowBody{n: 1, size: 1, wait: 2 * stall}, "fewer than 65536 bytes"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				slow := tt.body
				w := &deadlines{ResponseRecorder: httptest.NewRecorder()}
				slow.w = w
				body := newUploadBody(w, httptest.NewRequest("PUT", "/", &slow), uploadPlan{size: -1, limit: -1}, stall)
				_, err := io.Copy(slowWriter{}, struct{ io.Reader }{body})
				if tt.says == "" && err != nil || tt.says != "" && (err == nil || !strings.Contains(err.Error(), tt.says)) {
					t.Errorf("%d bytes, %v", body.n, err)
				}
				if err == nil && (body.n != int64(tt.body.n*tt.body.size) || !w.deadline.IsZero()) {
					t.Errorf("%d bytes; after the end the deadline is %v", body.n, w.deadline)
				}
			})
		})
	}
}

// slowWriter takes long for all that it is given.
type slowWriter struct{}

func (slowWriter) Write(p []byte) (int, error) {
	time.Sleep(time.Hour)
	return len(p), nil
}

type deadlines struct {
	*httptest.ResponseRecorder
	deadline time.Time
}

func (d *deadlines) SetReadDeadline(t time.Time) error {
	d.deadline = t
	return nil
}

// A slowBody yields n pieces of a size, after a wait for each.
type slowBody struct {
	n, size int
	wait    time.Duration
	w       *deadlines
	rest    int // of a piece
}

func (s *slowBody) Read(p []byte) (int, error) {
	if s.rest == 0 {
		if s.n == 0 {
			return 0, io.EOF
		}
		if left := time.Until(s.w.deadline); s.wait > left {
			time.Sleep(left)
			return 0, os.ErrDeadlineExceeded
		}
		time.Sleep(s.wait)
		s.n--
		s.rest = s.size
	}
	n := min(len(p), s.rest)
	s.rest -= n
	return n, nil
}
