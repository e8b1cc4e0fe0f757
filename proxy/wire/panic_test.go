package wire

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"
)

type panicking struct{}

func (panicking) Answer(context.Context, *Conn, *Request) Verdict { panic("at the disco") }

func TestAPanicEndsItsConnectionAndNothingElse(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	s := &Server{NewAnswerer: func(string) Answerer { return panicking{} }, Log: slog.New(slog.NewTextHandler(&log, nil))}
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	for range 2 {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(c, "GET /x HTTP/1.1\r\nHost: x\r\n\r\n")
		if b, err := io.ReadAll(c); err != nil || len(b) > 0 {
			t.Errorf("got %q, %v", b, err)
		}
		c.Close()
	}
	l.Close()
	<-served
	if err := s.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	if n := strings.Count(log.String(), "at the disco"); n != 2 {
		t.Errorf("%d of two panics in the log", n)
	}
}
