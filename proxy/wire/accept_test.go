package wire

import (
	"errors"
	"net"
	"os"
	"syscall"
	"testing"
)

// A fakeListener returns what is in the channel, and errClosed after that.
type fakeListener struct {
	net.Listener
	results chan any
}

func (l fakeListener) Accept() (net.Conn, error) {
	switch r := (<-l.results).(type) {
	case net.Conn:
		return r, nil
	case error:
		return nil, r
	}
	return nil, &net.OpError{Op: "accept", Err: net.ErrClosed}
}

func TestAccept(t *testing.T) {
	real, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer real.Close()
	full := &net.OpError{Op: "accept", Err: os.NewSyscallError("accept4", syscall.EMFILE)}
	t.Run("goes on after errors that pass", func(t *testing.T) {
		l := fakeListener{real, make(chan any, 4)}
		a, b := net.Pipe()
		defer b.Close()
		l.results <- full
		l.results <- full
		l.results <- a // no TCP connection: it is net/http's at once
		close(l.results)
		s := &Server{NewAnswerer: func(string) Answerer { return nil }}
		done := make(chan error, 1)
		go func() { done <- s.Serve(l) }()
		if c, err := s.Rest(real).Accept(); c != a || err != nil {
			t.Errorf("%v, %v", c, err)
		}
		a.Close()
		if err := <-done; !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
		s.Shutdown(t.Context())
	})
	t.Run("ends with other errors", func(t *testing.T) {
		l := fakeListener{real, make(chan any, 1)}
		other := errors.New("broken")
		l.results <- other
		s := &Server{}
		if err := s.Serve(l); err != other {
			t.Error(err)
		}
		s.Shutdown(t.Context())
	})
	t.Run("does not wait for better times when the server stops", func(t *testing.T) {
		l := fakeListener{real, make(chan any, 1)}
		l.results <- full
		close(l.results)
		s := &Server{}
		s.Shutdown(t.Context())
		if err := s.Serve(l); err != full {
			t.Error(err)
		}
	})
}
