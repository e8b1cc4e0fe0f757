package main

import (
	"io"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// A relay passes connections on to the server of a site, whichever that is, and
// kills it with SIGKILL when it has sent a number of bytes: a crash at a known
// point of a download.
type relay struct {
	net.Listener
	site  *site
	crash chan struct{} // closed when the server was killed
	wg    sync.WaitGroup

	mu    sync.Mutex
	left  int64 // bytes until the crash; < 0: it was
	conns []net.Conn
}

// cmdRelay makes one, and lets clients use it: relay BYTES.
func cmdRelay(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: relay BYTES")
	}
	n, err := strconv.ParseInt(args[0], 10, 64)
	ts.Check(err)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	s := siteOf(ts)
	r := &relay{Listener: ln, site: s, crash: make(chan struct{}), left: n}
	s.relays = append(s.relays, r)
	r.wg.Go(r.run)
	ts.Setenv("RELAY", "http://"+ln.Addr().String())
}

// cmdCrashed waits for the crash.
func cmdCrashed(ts *testscript.TestScript, neg bool, _ []string) {
	relays := siteOf(ts).relays
	if neg || len(relays) == 0 {
		ts.Fatalf("usage: crashed, after relay")
	}
	select {
	case <-relays[len(relays)-1].crash:
	case <-time.After(patience):
		ts.Fatalf("the download never came that far")
	}
}

func (r *relay) run() {
	for {
		client, err := r.Accept()
		if err != nil {
			return
		}
		p := r.site.current()
		if p == nil {
			client.Close()
			continue
		}
		server, err := net.Dial("tcp", p.listen)
		if err != nil {
			client.Close()
			continue
		}
		r.mu.Lock()
		r.conns = append(r.conns, client, server)
		r.mu.Unlock()
		r.wg.Go(func() { io.Copy(server, client); server.Close() })
		r.wg.Go(func() { r.pass(client, server); client.Close() })
	}
}

// pass copies until the crash is due.
func (r *relay) pass(client, server net.Conn) {
	buf := make([]byte, 32<<10)
	for {
		n, err := server.Read(buf)
		if _, werr := client.Write(buf[:n]); err != nil || werr != nil {
			return
		}
		r.mu.Lock()
		before := r.left
		r.left -= int64(n)
		due := before >= 0 && r.left < 0
		r.mu.Unlock()
		if due {
			r.site.current().kill()
			r.site.set(nil)
			close(r.crash)
			return
		}
	}
}

func (r *relay) close() {
	r.Close()
	r.mu.Lock()
	for _, c := range r.conns {
		c.Close()
	}
	r.mu.Unlock()
	r.wg.Wait()
}
