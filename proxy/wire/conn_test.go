package wire

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"nearsight/cache"
)

// dial returns both ends of a connection, with small buffers so that a client that does not read is felt at once.
func dial(t *testing.T, stall time.Duration) (client *net.TCPConn, server *Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	client = c.(*net.TCPConn)
	client.SetReadBuffer(16 << 10)
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if stall == 0 {
		stall = DefaultStall
	}
	ys := make(yielders, 1)
	t.Cleanup(ys.close)
	if server, err = newConn(accepted.(*net.TCPConn), stall, ys); err != nil {
		t.Fatal(err)
	}
	server.SetWriteBuffer(16 << 10)
	t.Cleanup(func() { client.Close(); server.Close() })
	return client, server
}

// bigFile returns a file of n bytes that are not all the same.
func bigFile(t *testing.T, n int) (*os.File, []byte) {
	t.Helper()
	data := make([]byte, n)
	rand.NewChaCha8([32]byte{1}).Read(data)
	name := filepath.Join(t.TempDir(), "data")
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f, data
}

func TestAClientThatStandsStillIsGivenUp(t *testing.T) {
	for _, how := range []string{"write", "sendfile"} {
		t.Run(how, func(t *testing.T) {
			f, data := bigFile(t, 32<<20)
			_, server := dial(t, 50*time.Millisecond)
			var n int64
			var err error
			if how == "write" {
				var k int
				k, err = server.Write(data)
				n = int64(k)
			} else {
				n, err = server.ReadFrom(&cache.Section{File: f, N: int64(len(data))})
			}
			if !errors.Is(err, os.ErrDeadlineExceeded) || n >= int64(len(data)) {
				t.Errorf("sent %d bytes: %v", n, err)
			}
		})
	}
}

// A client that takes a little all the time gets all of it, although deadlines
// pass meanwhile: TestPatience says how many may. The stall is long, so that a busy
// machine is not taken for a dead client.
func TestASlowButSteadyReaderFinishes(t *testing.T) {
	for _, how := range []string{"write", "sendfile"} {
		t.Run(how, func(t *testing.T) {
			f, data := bigFile(t, 8<<20)
			client, server := dial(t, 4*time.Second)
			done := make(chan error, 1)
			go func() {
				defer server.Close()
				var err error
				if how == "write" {
					_, err = server.Write(data)
				} else {
					_, err = server.ReadFrom(&cache.Section{File: f, N: int64(len(data))})
				}
				done <- err
			}()
			var got bytes.Buffer
			pace := time.NewTicker(10 * time.Millisecond)
			defer pace.Stop()
			for {
				<-pace.C
				if _, err := io.CopyN(&got, client, 64<<10); err == io.EOF {
					break
				} else if err != nil {
					t.Fatal(err)
				}
			}
			if err := <-done; err != nil {
				t.Errorf("the sender failed: %v", err)
			}
			if !bytes.Equal(got.Bytes(), data) {
				t.Error("the bytes differ")
			}
		})
	}
}

func TestSendfileTurnsJoinToTheWhole(t *testing.T) {
	f, data := bigFile(t, 2*maxTurn+12345)
	client, server := dial(t, 0)
	go func() {
		defer server.Close()
		server.Delay(data[:3])
		// A section that reaches beyond the end of the file sends what there is.
		n, err := server.ReadFrom(&cache.Section{File: f, Off: 3, N: int64(len(data))})
		if n != int64(len(data))-3 || err != nil {
			t.Errorf("sent %d: %v", n, err)
		}
		n, err = server.ReadFrom(bytes.NewReader(data[:1000])) // and what is no file
		if n != 1000 || err != nil {
			t.Errorf("sent %d: %v", n, err)
		}
	}()
	got, err := io.ReadAll(client)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, append(bytes.Clone(data), data[:1000]...)) {
		t.Error("the bytes differ")
	}
}

func TestPatience(t *testing.T) {
	const stall = 100 * time.Second
	for _, tt := range []struct {
		name  string
		acked []uint64 // at the looks, 25 s apart
		looks int      // that end well
	}{
		{"a client that takes nothing has one stall from the first look", []uint64{5, 5, 5, 5, 5, 5}, 4},
		{"progress begins the stall anew", []uint64{5, 5, 5, 6, 6, 6, 6, 6}, 7},
		{"a byte at every third look is enough", []uint64{1, 1, 1, 2, 2, 2, 3, 3, 3}, 9},
	} {
		t.Run(tt.name, func(t *testing.T) {
			now, look := time.Now(), 0
			p := patience{c: &Conn{stall: stall}}
			for look < len(tt.acked) && p.look(now, tt.acked[look]) {
				now = now.Add(stall / looks)
				look++
			}
			if look != tt.looks {
				t.Errorf("gave up at look %d, want %d", look, tt.looks)
			}
		})
	}
	p := patience{c: &Conn{stall: stall}}
	if p.goesOn(io.ErrClosedPipe) {
		t.Error("goes on after an error that is no deadline")
	}
}
