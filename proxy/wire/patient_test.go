package wire

import (
	"errors"
	"net"
	"os"
	"sync"
	"testing"
	"time"
)

func TestADeadlineFromOutsideEndsWrites(t *testing.T) {
	const stall = time.Hour
	data := make([]byte, 8<<20) // more than the buffers between them hold
	for _, tt := range []struct {
		name string
		set  func(c *Conn)
	}{
		{"set before the write", func(c *Conn) { c.SetWriteDeadline(time.Now().Add(-time.Second)) }},
		{"soon to come", func(c *Conn) { c.SetWriteDeadline(time.Now().Add(20 * time.Millisecond)) }},
		{"set with that of reads", func(c *Conn) { c.SetDeadline(time.Now().Add(20 * time.Millisecond)) }},
		{"set when the write had begun", func(c *Conn) {
			time.AfterFunc(20*time.Millisecond, func() { c.SetWriteDeadline(time.Now()) })
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, server := dial(t, stall)
			server.Write([]byte("the deadline of the next look is set"))
			tt.set(server)
			if _, err := server.Write(data); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// net/http clears the write deadline after a handshake.
func TestClearingTheDeadlineLeavesThePatience(t *testing.T) {
	for _, passed := range []bool{false, true} {
		client, server := dial(t, 200*time.Millisecond)
		server.Write([]byte("x"))
		if passed {
			server.SetWriteDeadline(time.Now().Add(-time.Second))
		}
		server.SetWriteDeadline(time.Time{})
		if _, err := server.Write([]byte("y")); err != nil {
			t.Errorf("a client that reads: %v", err)
		}
		if _, err := server.Write(make([]byte, 8<<20)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("a client that stands still: %v", err)
		}
		client.Close()
	}
}

func TestDeadlinesFromAllSidesAtOnce(t *testing.T) {
	client, server := dial(t, time.Second)
	go func() {
		buf := make([]byte, 64<<10)
		for {
			if _, err := client.Read(buf); err != nil {
				return
			}
		}
	}()
	var others sync.WaitGroup
	others.Go(func() {
		for range 1000 {
			server.SetWriteDeadline(time.Now().Add(time.Hour))
			server.SetWriteDeadline(time.Time{})
		}
	})
	for range 200 {
		if _, err := server.Write(make([]byte, 64<<10)); err != nil {
			t.Fatal(err)
		}
	}
	others.Wait()
	server.SetWriteDeadline(time.Now())
	if _, err := server.Write([]byte("x")); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the last word was %v", err)
	}
}

func TestAPatientListenerHasPatientConnections(t *testing.T) {
	plain, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	l := Patient(plain, 200*time.Millisecond)
	client, err := net.Dial("tcp", plain.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	server, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	if _, err := server.Write(make([]byte, 64<<20)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a client that stands still: %v", err)
	}
	plain.Close()
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a closed listener: %v", err)
	}
}
