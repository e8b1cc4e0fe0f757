package wire

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"nearsight/cache"
)

// Two connections that take and ask as fast as they are served get on together,
// although there is one processor for all, and the clients take part of it.
func TestConnectionsThatNeverStopAskingBothGetOn(t *testing.T) {
	const size, enough = 4 << 20, 200
	f, _ := bigFile(t, size)
	for _, tt := range []struct {
		name string
		body int64
	}{{"with bodies", size}, {"without", 0}} {
		t.Run(tt.name, func(t *testing.T) {
			defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
			s := newSite(t, func(_ context.Context, c *Conn, _ *Request) (Verdict, bool) {
				c.Delay(fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Length: %10d\r\n\r\n", tt.body))
				if _, err := c.ReadFrom(&cache.Section{File: f, N: tt.body}); err != nil {
					return Broken, true
				}
				c.Tick()
				return Answered, true
			}, nil)
			answer := int64(len(fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %10d\r\n\r\n", tt.body))) + tt.body
			var clients sync.WaitGroup
			var answers [2]atomic.Int64
			var conns [2]*client
			for i := range answers {
				c := s.dial()
				conns[i] = c
				const bunch = 16 // two are less than a buffer
				requests := bytes.Repeat([]byte(request("/short/a")), bunch)
				clients.Go(func() {
					for err := error(nil); err == nil; { // the next are asked for before these are there
						if _, err = c.Write(requests); err == nil && answers[i].Add(bunch) > bunch {
							_, err = io.CopyN(io.Discard, c, bunch*answer)
						}
					}
				})
			}
			until(t, "both connections to get answers", func() bool {
				return answers[0].Load() >= enough && answers[1].Load() >= enough
			})
			if s.ordinary.Load() > 0 {
				t.Error("not all went the short way")
			}
			for _, c := range conns {
				c.Close()
			}
			clients.Wait()
		})
	}
}

func TestWithoutADescriptorToSpareATurnEndsAllTheSame(t *testing.T) {
	f, data := bigFile(t, 4*maxTurn)
	client, server := dial(t, 0)
	var old syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	defer syscall.Setrlimit(syscall.RLIMIT_NOFILE, &old)
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: 1, Max: old.Max}); err != nil {
		t.Fatal(err)
	}
	if y := newYielder(); y != nil {
		t.Error("there is a descriptor")
	}
	done := make(chan error, 1)
	go func() {
		defer server.Close()
		var err error
		for off := int64(0); off < int64(len(data)) && err == nil; off += maxTurn {
			_, err = server.ReadFrom(&cache.Section{File: f, Off: off, N: maxTurn})
		}
		done <- err
	}()
	got, err := io.ReadAll(client)
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	if n := len(server.yielders); n != 0 {
		t.Errorf("%d yielders are kept", n)
	}
}

// A yielder serves again and again, whoever used it before, and only as many are
// kept as there is room for.
func TestYieldersAreUsedAgain(t *testing.T) {
	before := descriptors(t)
	ys := make(yielders, 2)
	var users sync.WaitGroup
	for range 8 {
		users.Go(func() {
			for range 500 {
				y := ys.take()
				if y == nil {
					t.Error("no yielder")
					return
				}
				y.yield()
				ys.put(y)
			}
		})
	}
	users.Wait()
	if n := len(ys); n < 1 || n > 2 {
		t.Errorf("%d are kept", n)
	}
	ys.close()
	until(t, "the descriptors to be closed", func() bool { return descriptors(t) <= before })
}
