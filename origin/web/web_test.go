package web

import (
	"context"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"nearsight/origin"
	"nearsight/origin/origintest"
)

func TestTLS(t *testing.T) {
	plain := serve(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("asked without TLS") }))
	var proto atomic.Value
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		proto.Store(r.Proto)
		if r.URL.Path == "/plain" {
			http.Redirect(w, r, plain.URL, http.StatusFound)
			return
		}
		io.WriteString(w, digits)
	}))
	srv.EnableHTTP2 = true
	srv.Config.ErrorLog = discard
	srv.StartTLS()
	defer srv.Close()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}

	_, err := newStore(t, Options{Guard: onLoopback()}).Stat(t.Context(), origin.Location{URL: srv.URL})
	if !errors.Is(err, origin.ErrUnavailable) || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("with an unknown authority: %v", err)
	}
	s := newStore(t, Options{Guard: onLoopback(), CAFiles: []string{ca}})
	if info, err := s.Stat(t.Context(), origin.Location{URL: srv.URL}); err != nil || info.Size != 10 || proto.Load() != "HTTP/1.1" {
		t.Errorf("Stat = %+v, %v, over %v", info, err, proto.Load())
	}
	if _, err := s.Stat(t.Context(), origin.Location{URL: srv.URL + "/plain"}); !errors.Is(err, origin.ErrLocation) {
		t.Errorf("redirected from https to http: %v", err)
	}
}

func TestErrorsShowNoSecret(t *testing.T) {
	s := newStore(t, Options{Guard: onLoopback()})
	base := serve(t, raw("HTTP/1.1 206 P\nContent-Length: 3\n\n012")).URL
	for _, url := range []string{
		base + "/x?sig=secret",
		"http://me:secret@127.0.0.1/",
		"http://me:secret@127.0.0.1:x/",
		"http://127.0.0.1/#secret",
		"http://127.0.0.1:1/?secret",
		"\x00secret",
		"http://127.0.0.1/" + strings.Repeat("secret", maxURL),
	} {
		_, statErr := s.Stat(t.Context(), origin.Location{URL: url})
		_, openErr := s.Open(t.Context(), origin.Location{URL: url}, 1, 1)
		for _, err := range []error{statErr, openErr} {
			if err == nil || strings.Contains(err.Error(), "secret") {
				t.Errorf("%.40q: error %.200v", url, err)
			}
		}
	}
}

func TestHeadThatDoesNotComeEndsWithContext(t *testing.T) {
	asked := make(chan struct{})
	srv := serve(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(asked)
		<-r.Context().Done()
	}))
	s := newStore(t, Options{Guard: onLoopback()})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-asked
		cancel()
	}()
	_, err := s.Open(ctx, origin.Location{URL: srv.URL}, 0, -1)
	if !errors.Is(err, context.Canceled) || errors.Is(err, origin.ErrUnavailable) {
		t.Errorf("error %v", err)
	}
}

func TestHeadThatDoesNotComeInTime(t *testing.T) {
	srv := serve(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	s := newStore(t, Options{Guard: onLoopback(), HeaderTimeout: time.Millisecond})
	if _, err := s.Open(t.Context(), origin.Location{URL: srv.URL}, 0, -1); !errors.Is(err, origin.ErrUnavailable) {
		t.Errorf("error %v", err)
	}
}

// A connection is kept when a range was read to its end.
func TestConnectionsAreKept(t *testing.T) {
	files := openFiles(t, t.TempDir())
	var conns atomic.Int64
	srv := httptest.NewUnstartedServer(directory(files))
	srv.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			conns.Add(1)
		}
	}
	srv.Start()
	defer srv.Close()
	s := &filled{newStore(t, Options{Guard: onLoopback()}), files, srv.URL + "/"}
	data := origintest.Data(1<<20, 1)
	loc, err := s.Put(t.Context(), s.Locate("kept"), -1, strings.NewReader(string(data)))
	if err != nil {
		t.Fatal(err)
	}
	for off := int64(0); off < 1<<20; off += 64 << 10 {
		o, err := s.Open(t.Context(), loc, off, 64<<10)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(o.Body)
		o.Body.Close()
		if err != nil || string(got) != string(data[off:off+64<<10]) {
			t.Fatalf("wrong bytes from %d on, error %v", off, err)
		}
	}
	if n := conns.Load(); n != 1 {
		t.Errorf("%d connections; want 1", n)
	}
}
