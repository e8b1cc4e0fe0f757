package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// A gate is a web server that gives out a file, and holds every transfer in its middle
// until it is opened.
type gate struct {
	file    string
	reached chan struct{} // has an element once a transfer is held
	opened  chan struct{} // closed when it is open
}

// cmdGate gives out a file at a gate, and sets a variable to its URL: gate VAR FILE.
// Gate VAR waits until a transfer is held there, and gate -open VAR opens it.
func cmdGate(ts *testscript.TestScript, neg bool, args []string) {
	gates := &siteOf(ts).gates
	switch {
	case neg || len(args) == 0 || len(args) > 2:
		ts.Fatalf("usage: gate VAR FILE, gate VAR, gate -open VAR")
	case args[0] == "-open":
		g, _ := gates.Load(args[1])
		close(g.(*gate).opened)
	case len(args) == 1:
		g, _ := gates.Load(args[0])
		select {
		case <-g.(*gate).reached:
		case <-time.After(patience):
			ts.Fatalf("nobody comes to the gate")
		}
	default:
		g := &gate{ts.MkAbs(args[1]), make(chan struct{}, 1), make(chan struct{})}
		gates.Store(args[0], g)
		server := httptest.NewServer(g)
		ts.Defer(server.Close)
		ts.Setenv(args[0], server.URL+"/"+args[1])
	}
}

// ServeHTTP implements http.Handler.
func (g *gate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f, err := os.Open(g.file)
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	http.ServeContent(w, r, "", st.ModTime(), &held{file: f, gate: g, r: r, half: st.Size() / 2})
}

// A held file is read as far as its gate lets. It hides what else a file can, so
// that the kernel does not read it.
type held struct {
	file *os.File
	gate *gate
	r    *http.Request
	half int64
}

func (h *held) Seek(off int64, whence int) (int64, error) { return h.file.Seek(off, whence) }

func (h *held) Read(b []byte) (int, error) {
	at, err := h.file.Seek(0, io.SeekCurrent)
	if err != nil {
		return 0, err
	}
	if at < h.half {
		return h.file.Read(b[:min(int64(len(b)), h.half-at)])
	}
	select {
	case <-h.gate.opened:
		return h.file.Read(b)
	default:
	}
	select {
	case h.gate.reached <- struct{}{}:
	default:
	}
	select {
	case <-h.gate.opened:
		return h.file.Read(b)
	case <-h.r.Context().Done():
		return 0, h.r.Context().Err()
	}
}

// cmdPeer runs a second server with a directory of its own, and sets a variable to its
// URL: peer VAR.
func cmdPeer(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: peer VAR")
	}
	log, err := os.OpenFile(filepath.Join(siteOf(ts).dir, "peer.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	ts.Check(err)
	ts.Defer(func() { log.Close() })
	p, err := startServer("nearsight", ts.MkAbs("."), environ(ts),
		[]string{"--data", ts.MkAbs("peer"), "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"}, log)
	ts.Check(err)
	ts.Defer(p.kill)
	select {
	case <-p.ready:
	case <-p.exited:
		ts.Fatalf("peer: %v\n%s", p.err, ts.ReadFile(log.Name()))
	case <-time.After(patience):
		ts.Fatalf("peer: not ready\n%s", ts.ReadFile(log.Name()))
	}
	ts.Setenv(args[0], "http://"+p.listen)
}

// cmdTasked waits until the tasks of an image have a text: tasked VAR TEXT.
func cmdTasked(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: tasked VAR TEXT")
	}
	often := time.NewTicker(50 * time.Millisecond)
	defer often.Stop()
	deadline := time.After(patience)
	for {
		exchange(ts, false, http.MethodGet, "/v2/images/"+ts.Getenv(args[0])+"/tasks", nil)
		found := ts.ReadFile(siteOf(ts).answer.body)
		if strings.Contains(found, args[1]) {
			return
		}
		select {
		case <-often.C:
		case <-deadline:
			ts.Fatalf("the tasks do not come to have %s: %s", args[1], found)
		}
	}
}

// Gates are those of one script, by variable.
type gates struct{ sync.Map }
