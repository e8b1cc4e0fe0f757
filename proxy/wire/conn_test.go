package proxy

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// dial returns both ends of a connection whose server end comes from Listener,
// with small buffers so that a client that does not read is felt at once.
func dial(t *testing.T, stall time.Duration) (client *net.TCPConn, server net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	accepted := make(chan net.Conn, 1)
	go func() {
		c, _ := Listener(l, stall).Accept()
		accepted <- c
	}()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	client = c.(*net.TCPConn)
	client.SetReadBuffer(16 << 10)
	if server = <-accepted; server == nil {
		t.Fatal("nothing accepted")
	}
	server.(*conn).SetWriteBuffer(16 << 10)
	t.Cleanup(func() { client.Close(); server.Close() })
	return client, server
}

// bigFile returns a file of n bytes that are not all the same.
func bigFile(t *testing.T, n int) (*os.File, []byte) {
	t.Helper()
	data := pattern(n, 1)
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
				n, err = server.(io.ReaderFrom).ReadFrom(&io.LimitedReader{R: f, N: int64(len(data))})
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
					_, err = server.(io.ReaderFrom).ReadFrom(&io.LimitedReader{R: f, N: int64(len(data))})
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
		f.Seek(5, io.SeekStart)
		// A limit beyond the end of the file sends what there is.
		n, err := server.(io.ReaderFrom).ReadFrom(&io.LimitedReader{R: f, N: int64(len(data))})
		if n != int64(len(data))-5 || err != nil {
			t.Errorf("sent %d: %v", n, err)
		}
		n, err = server.(io.ReaderFrom).ReadFrom(bytes.NewReader(data[:1000])) // and what is no file
		if n != 1000 || err != nil {
			t.Errorf("sent %d: %v", n, err)
		}
	}()
	got, err := io.ReadAll(client)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, append(bytes.Clone(data[5:]), data[:1000]...)) {
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
			now, look := testNow, 0
			p := patience{
				setDeadline: func(time.Time) error { return nil },
				now:         func() time.Time { return now },
				acked:       func() (uint64, bool) { return tt.acked[look], true },
				stall:       stall,
			}
			for look = 0; look < len(tt.acked); look++ {
				p.renew()
				now = now.Add(stall / looks)
				if !p.goesOn(os.ErrDeadlineExceeded) {
					break
				}
			}
			if look != tt.looks {
				t.Errorf("gave up at look %d, want %d", look, tt.looks)
			}
		})
	}
	p := patience{acked: func() (uint64, bool) { return 1, true }}
	if p.goesOn(io.ErrClosedPipe) {
		t.Error("goes on after an error that is no deadline")
	}
}
