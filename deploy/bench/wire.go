package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A conn is a connection to a server that is measured. It speaks as little
// HTTP/1.1 as the servers here need, and drops bodies in the kernel (recv with
// MSG_TRUNC), which costs the client no copy: one core of it can load any core
// of a server.
type conn struct {
	tcp        *net.TCPConn
	raw        syscall.RawConn
	host, path string
	buf        []byte // what was read is buf[r:w]
	r, w       int
	sink       []byte
}

// dial connects to the server of target, which must be on this machine.
func dial(ctx context.Context, target string) (*conn, error) {
	u, err := url.Parse(target)
	if err != nil {
		return nil, err
	}
	if ip := net.ParseIP(u.Hostname()); u.Scheme != "http" || ip == nil || !ip.IsLoopback() {
		return nil, fmt.Errorf("%s is not http on a loopback address", target)
	}
	d := net.Dialer{Timeout: 10 * time.Second}
	c, err := d.DialContext(ctx, "tcp", u.Host)
	if err != nil {
		return nil, err
	}
	tcp := c.(*net.TCPConn)
	raw, err := tcp.SyscallConn()
	if err != nil {
		tcp.Close()
		return nil, err
	}
	return &conn{tcp: tcp, raw: raw, host: u.Host, path: u.RequestURI(), buf: make([]byte, 16<<10), sink: make([]byte, 1<<20)}, nil
}

func (c *conn) close() { c.tcp.Close() }

// A response is the head of one.
type response struct {
	status       int
	length       int64 // of the body; less than 0: not said
	etag         string
	contentRange string
	last         bool // the server closes the connection after it
}

// request returns the bytes of one; fields end with CRLF each.
func (c *conn) request(method, fields string) []byte {
	return []byte(method + " " + c.path + " HTTP/1.1\r\nHost: " + c.host + "\r\n" + fields + "\r\n")
}

// ask sends a request and reads the head of the response. The body is next.
func (c *conn) ask(request []byte) (response, error) {
	if _, err := c.tcp.Write(request); err != nil {
		return response{}, err
	}
	return c.head()
}

var endOfHead = []byte("\r\n\r\n")

func (c *conn) head() (response, error) {
	for {
		if n := bytes.Index(c.buf[c.r:c.w], endOfHead); n >= 0 {
			head := c.buf[c.r : c.r+n]
			c.r += n + len(endOfHead)
			return parseHead(head)
		}
		if c.r > 0 {
			c.w = copy(c.buf, c.buf[c.r:c.w])
			c.r = 0
		}
		if c.w == len(c.buf) {
			return response{}, errors.New("the header is too large")
		}
		n, err := c.tcp.Read(c.buf[c.w:])
		c.w += n
		if n == 0 && err != nil {
			return response{}, fmt.Errorf("read the header: %w", unexpected(err))
		}
	}
}

// parseHead allocates for the fields alone that it returns as text.
func parseHead(head []byte) (response, error) {
	line, rest, _ := bytes.Cut(head, endOfHead[:2])
	if len(line) < 12 || !bytes.HasPrefix(line, []byte("HTTP/1.")) {
		return response{}, fmt.Errorf("status line %q", line)
	}
	rs := response{length: -1, last: line[7] == '0'}
	var err error
	if rs.status, err = strconv.Atoi(string(line[9:12])); err != nil {
		return response{}, fmt.Errorf("status line %q", line)
	}
	for len(rest) > 0 {
		line, rest, _ = bytes.Cut(rest, endOfHead[:2])
		name, value, found := bytes.Cut(line, []byte(":"))
		if !found {
			continue
		}
		value = bytes.TrimSpace(value)
		switch {
		case isField(name, "etag"):
			rs.etag = string(value)
		case isField(name, "connection"):
			rs.last = bytes.EqualFold(value, []byte("close")) || rs.last && !bytes.EqualFold(value, []byte("keep-alive"))
		case isField(name, "content-range"):
			rs.contentRange = string(value)
		case isField(name, "content-length"):
			if rs.length, err = strconv.ParseInt(string(value), 10, 64); err != nil || rs.length < 0 {
				return response{}, fmt.Errorf("content-length %q", value)
			}
		}
	}
	if rs.status == 304 || rs.status == 204 {
		rs.length = 0
	}
	return rs, nil
}

func isField(name []byte, want string) bool {
	return len(name) == len(want) && bytes.EqualFold(name, []byte(want))
}

// unexpected makes an end where none may be an error of its own.
func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// discard drops the next n bytes of the body. tick hears how many come, as they
// come; it may be nil.
func (c *conn) discard(n int64, tick func(int64)) error {
	have := min(int64(c.w-c.r), n)
	c.r += int(have)
	for got := have; ; {
		if got > 0 && tick != nil {
			tick(got)
		}
		if n -= got; n == 0 {
			return nil
		}
		var err error
		if got, err = c.drop(n); err != nil {
			return fmt.Errorf("the body lacks %d bytes: %w", n, err)
		}
	}
}

// drop waits for bytes and drops at most n.
func (c *conn) drop(n int64) (int64, error) {
	sink := c.sink[:min(int64(len(c.sink)), n)]
	var got int
	var failed error
	err := c.raw.Read(func(fd uintptr) bool {
		got, _, failed = syscall.Recvfrom(int(fd), sink, syscall.MSG_TRUNC|syscall.MSG_DONTWAIT)
		return failed != syscall.EAGAIN && failed != syscall.EINTR
	})
	switch {
	case err != nil:
		return 0, err
	case failed != nil:
		return 0, failed
	case got == 0:
		return 0, io.ErrUnexpectedEOF
	}
	return int64(got), nil
}

// Read reads the body without knowing its end.
func (c *conn) Read(p []byte) (int, error) {
	if c.r < c.w {
		n := copy(p, c.buf[c.r:c.w])
		c.r += n
		return n, nil
	}
	return c.tcp.Read(p)
}

// readFull fills p with the next bytes of the body.
func (c *conn) readFull(p []byte) error {
	_, err := io.ReadFull(c, p)
	return unexpected(err)
}

// checkRange returns an error unless rs is the answer to a request for n bytes
// from off on, of an image of size bytes.
func checkRange(rs response, off, n, size int64) error {
	if rs.status != 206 {
		return fmt.Errorf("status %d for a range", rs.status)
	}
	if rs.length != n {
		return fmt.Errorf("content-length %d, not %d", rs.length, n)
	}
	want := "bytes " + strconv.FormatInt(off, 10) + "-" + strconv.FormatInt(off+n-1, 10) + "/"
	total, ok := strings.CutPrefix(rs.contentRange, want)
	if !ok || total != strconv.FormatInt(size, 10) && total != "*" {
		return fmt.Errorf("content-range %q, not %s%d", rs.contentRange, want, size)
	}
	return nil
}
