package main

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestOneServerAtATimeHasADataDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	first, err := lockData(dir)
	if err != nil {
		t.Fatal(err)
	}
	_, err = lockData(dir)
	if err == nil || !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), "pid "+strconv.Itoa(os.Getpid())) {
		t.Errorf("the second got %v", err)
	}
	first.Close()
	again, err := lockData(dir)
	if err != nil {
		t.Fatalf("after the first: %v", err)
	}
	again.Close()
}

func TestAListenerThatCannotBeMadeIsNamed(t *testing.T) {
	l, err := listen("server.listen", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for addr, want := range map[string]string{
		l.Addr().String(): "another program uses " + l.Addr().String() + "; choose another address with --admin (server.admin)",
		"192.0.2.1:0":     "listen on 192.0.2.1:0, set by --admin (server.admin)",
	} {
		if _, err := listen("server.admin", HostPort(addr)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v", addr, err)
		}
	}
}

// A handler that is at work when the server stops.
type slowHandler struct {
	entered chan struct{} // closed when it works
	release chan struct{} // closed when it may end
	left    chan struct{} // closed when it ended
}

func (h *slowHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	defer close(h.left)
	close(h.entered)
	select {
	case <-h.release:
		io.WriteString(w, "all of it")
	case <-r.Context().Done():
		panic(http.ErrAbortHandler)
	}
}

func TestStopLetsTransfersEndWithinTheGraceAndThenCutsThem(t *testing.T) {
	for _, tt := range []struct {
		name    string
		grace   time.Duration
		release bool
	}{
		{"a transfer that ends in time is whole", time.Hour, true},
		{"a transfer that does not is cut", 0, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
			h := &slowHandler{make(chan struct{}), make(chan struct{}), make(chan struct{})}
			f := newFront(&node{handler: h, log: slog.New(slog.DiscardHandler)})
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			served := make(chan error, 2)
			go func() { served <- f.wires.Serve(l) }()
			go func() { served <- f.server.Serve(f.wires.Rest(l)) }()
			body := make(chan string, 1)
			go func() { body <- fetch("http://" + l.Addr().String()) }()
			<-h.entered
			if tt.release {
				close(h.release)
			}
			l.Close()
			if whole := f.stop(tt.grace); whole != tt.release {
				t.Errorf("stop says %v", whole)
			}
			select {
			case <-h.left:
			default:
				t.Error("stop did not wait for the handler")
			}
			if got := <-body; (got == "all of it") != tt.release {
				t.Errorf("the client got %q", got)
			}
			for range 2 {
				if err := ignoreClosed(<-served); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

func fetch(url string) string {
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := c.Get(url)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

func TestAFailedPartStopsTheServerAndIsReported(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	n := &node{
		log: slog.New(slog.DiscardHandler), handler: http.NotFoundHandler(), admin: http.NotFoundHandler(),
		parts: []func(context.Context) error{
			func(context.Context) error { return io.ErrUnexpectedEOF },
			func(ctx context.Context) error { <-ctx.Done(); return nil },
		},
	}
	var listeners [2]net.Listener
	for i := range listeners {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		listeners[i] = l
	}
	if err := n.run(t.Context(), listeners[0], listeners[1], nil); err != io.ErrUnexpectedEOF {
		t.Errorf("got %v", err)
	}
}
