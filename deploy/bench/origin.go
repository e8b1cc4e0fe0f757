package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// An originServer is what stands behind every cache: nginx with static files,
// which is as fast as can be and counts in its log, and a program of ours whose
// rate is bounded for all clients together.
type originServer struct {
	dir, images  string
	port         int
	nginx, bound *process
	at           place
}

func (o *originServer) free() string    { return fmt.Sprintf("http://127.0.0.1:%d", o.port) }
func (o *originServer) limited() string { return fmt.Sprintf("http://127.0.0.1:%d", o.port+1) }
func (o *originServer) log() string     { return filepath.Join(o.dir, "access.log") }

// start starts both at their place, unless they run there.
func (o *originServer) start(ctx context.Context, at place) error {
	if o.nginx != nil && o.at == at && o.nginx.running() && o.bound.running() {
		return nil
	}
	o.stop()
	o.at = at
	if err := os.MkdirAll(filepath.Join(o.dir, "tmp"), 0o755); err != nil {
		return err
	}
	conf := filepath.Join(o.dir, "nginx.conf")
	if err := os.WriteFile(conf, []byte(o.config()), 0o644); err != nil {
		return err
	}
	out, err := os.Create(filepath.Join(o.dir, "output"))
	if err != nil {
		return err
	}
	defer out.Close() // the children have it
	if o.nginx, err = startProcess(at, []string{"nginx", "-c", conf, "-p", o.dir}, out); err != nil {
		return err
	}
	listen := strings.TrimPrefix(o.limited(), "http://")
	if o.bound, err = startProcess(at, []string{"/proc/self/exe", "origin", listen, o.images}, out); err != nil {
		return err
	}
	for _, url := range []string{o.free() + "/ping.txt", o.limited() + "/__stats"} {
		if err := waitHTTP(ctx, url, 10*time.Second, nil); err != nil {
			return fmt.Errorf("the origin did not come up, see %s: %w", out.Name(), err)
		}
	}
	return nil
}

func (o *originServer) config() string {
	return nginxHead(o.dir, 1) + `
  log_format b '$body_bytes_sent $uri';
  access_log ` + o.log() + ` b;
  sendfile on; etag on;
  default_type application/octet-stream;
  open_file_cache max=100 inactive=300s;
  add_header Cache-Control "public, max-age=86400";
  server { listen ` + strings.TrimPrefix(o.free(), "http://") + ` backlog=4096; root ` + o.images + `; }
}
`
}

func (o *originServer) stop() {
	for _, p := range []*process{o.nginx, o.bound} {
		if p != nil {
			p.stop(2 * time.Second)
		}
	}
	o.nginx, o.bound = nil, nil
}

func (o *originServer) pids() []int { return []int{o.nginx.pid(), o.bound.pid()} }

// reset forgets what was counted. The bounded origin sends rate bytes a second
// from now on; 0 means unbounded.
func (o *originServer) reset(ctx context.Context, rate int64) error {
	if err := os.Truncate(o.log(), 0); err != nil {
		return err
	}
	_, err := get(ctx, fmt.Sprintf("%s/__reset?rate=%d", o.limited(), rate))
	return err
}

// A tally is what an origin sent since it was reset.
type tally struct {
	Bytes    int64 `json:"bytes"`
	Requests int64 `json:"requests"`
}

func (t tally) figures() []figure {
	return []figure{{"origin_bytes", float64(t.Bytes), "B"}, {"origin_requests", float64(t.Requests), "count"}}
}

// sent returns what the origin of this URL sent.
func (o *originServer) sent(ctx context.Context, url string) (t tally, err error) {
	if url == o.limited() {
		body, err := get(ctx, url+"/__stats")
		if err != nil {
			return t, err
		}
		return t, json.Unmarshal(body, &t)
	}
	if err := sleep(ctx, 200*time.Millisecond); err != nil { // nginx writes its log when a request is done
		return t, err
	}
	f, err := os.Open(o.log())
	if err != nil {
		return t, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		digits, uri, _ := strings.Cut(lines.Text(), " ")
		if n, err := strconv.ParseInt(digits, 10, 64); err == nil && uri != "/ping.txt" {
			t.Bytes += n
			t.Requests++
		}
	}
	return t, lines.Err()
}

// runOrigin is the origin with a bound: origin HOST:PORT DIR.
func runOrigin(args []string) error {
	if len(args) != 2 {
		return errors.New("usage: origin HOST:PORT DIR")
	}
	o := &boundOrigin{dir: args[1]}
	mux := http.NewServeMux()
	mux.HandleFunc("/__stats", func(w http.ResponseWriter, _ *http.Request) {
		json.NewEncoder(w).Encode(tally{o.bytes.Load(), o.requests.Load()}) // who left needs no answer
	})
	mux.HandleFunc("/__reset", o.reset)
	mux.HandleFunc("/", o.serve)
	return (&http.Server{Addr: args[0], Handler: mux}).ListenAndServe()
}

type boundOrigin struct {
	dir             string
	bytes, requests atomic.Int64

	mu   sync.Mutex
	rate int64     // bytes a second; 0: unbounded
	paid time.Time // until when what was sent is paid for
}

// burst is how much sending may lag behind the rate and catch up.
const burst = 10 * time.Millisecond

func (o *boundOrigin) reset(w http.ResponseWriter, r *http.Request) {
	rate, err := strconv.ParseInt(r.FormValue("rate"), 10, 64)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	o.mu.Lock()
	o.rate = rate
	o.mu.Unlock()
	o.bytes.Store(0)
	o.requests.Store(0)
}

// take waits until n bytes may go.
func (o *boundOrigin) take(n int) {
	o.mu.Lock()
	var wait time.Duration
	if o.rate > 0 {
		now := time.Now()
		if earliest := now.Add(-burst); o.paid.Before(earliest) {
			o.paid = earliest
		}
		o.paid = o.paid.Add(time.Duration(float64(n) / float64(o.rate) * float64(time.Second)))
		wait = o.paid.Sub(now)
	}
	o.mu.Unlock()
	time.Sleep(wait)
}

func (o *boundOrigin) serve(w http.ResponseWriter, r *http.Request) {
	name := filepath.Base(r.URL.Path)
	f, err := os.Open(filepath.Join(o.dir, name))
	if err != nil {
		http.NotFound(w, r)
		return
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil || !st.Mode().IsRegular() {
		http.NotFound(w, r)
		return
	}
	if name != "ping.txt" {
		o.requests.Add(1)
	}
	h := w.Header()
	h.Set("ETag", fmt.Sprintf(`"%x-%x"`, st.ModTime().Unix(), st.Size()))
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Cache-Control", "public, max-age=86400")
	http.ServeContent(boundWriter{w, o}, r, "", st.ModTime(), f)
}

// A boundWriter sends at the rate of its origin.
type boundWriter struct {
	http.ResponseWriter
	o *boundOrigin
}

func (w boundWriter) Write(p []byte) (int, error) {
	w.o.take(len(p))
	n, err := w.ResponseWriter.Write(p)
	w.o.bytes.Add(int64(n))
	return n, err
}

// ReadFrom reads in pieces large enough for the highest rates.
func (w boundWriter) ReadFrom(r io.Reader) (int64, error) {
	return io.CopyBuffer(struct{ io.Writer }{w}, r, make([]byte, 128<<10))
}

// get returns the body of a 2xx answer.
func get(ctx context.Context, url string) ([]byte, error) {
	body, _, err := call(ctx, http.MethodGet, url, "", nil)
	return body, err
}

// call sends a request and returns body and header of a 2xx answer.
func call(ctx context.Context, method, url, contentType string, body io.Reader) ([]byte, http.Header, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		return nil, nil, err
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, nil, fmt.Errorf("%s %s: %w", method, url, err)
	}
	if resp.StatusCode/100 != 2 {
		return nil, nil, fmt.Errorf("%s %s: %s: %.300s", method, url, resp.Status, text)
	}
	return text, resp.Header, nil
}

// waitHTTP asks until there is an answer of 2xx. p, if not nil, is the process
// that is to give it.
func waitHTTP(ctx context.Context, url string, patience time.Duration, p *process) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		_, err := get(ctx, url)
		if err == nil {
			return nil
		}
		if p != nil && !p.running() {
			return fmt.Errorf("it ended: %s", p.cmd.ProcessState)
		}
		if sleep(ctx, 2*time.Millisecond) != nil {
			return err
		}
	}
}
