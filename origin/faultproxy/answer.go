package faultproxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"time"
)

// serve answers one request.
func (p *Proxy) serve(w http.ResponseWriter, r *http.Request) {
	p.Requests.Add(1)
	f, cleared := p.fault(r)
	r.Body = countReader{r.Body, &p.Received}
	if f.ResetUpload == nil && f.Status != 0 {
		io.Copy(io.Discard, r.Body)
		if f.RetryAfter > 0 {
			w.Header().Set("Retry-After", strconv.FormatInt(int64(f.RetryAfter/time.Second), 10))
		}
		w.Header().Set("Content-Length", "0")
		w.WriteHeader(f.Status)
		return
	}
	var cut *cutReader
	if f.ResetUpload != nil && r.ContentLength != 0 {
		cut = &cutReader{ReadCloser: r.Body, left: *f.ResetUpload}
		r.Body = cut
	}
	resp, err := p.ask(r)
	switch {
	case cut != nil && cut.cut, f.Lost:
		if err == nil {
			resp.Body.Close()
		}
		p.drop(w)
		return
	case err != nil && r.Context().Err() == nil:
		// The server itself is in trouble; that is worth knowing.
		http.Error(w, "fault proxy: "+err.Error(), http.StatusBadGateway)
		return
	case err != nil:
		return
	}
	defer resp.Body.Close()
	if !f.spoils() {
		p.pass(w, resp)
		return
	}
	p.spoil(w, r, resp, f, cleared)
}

// ask sends the request on.
func (p *Proxy) ask(r *http.Request) (*http.Response, error) {
	out := r.Clone(r.Context())
	out.URL.Scheme, out.URL.Host = p.target.Scheme, p.target.Host
	out.RequestURI = ""
	if r.ContentLength == 0 {
		out.Body = nil
	}
	if _, ok := out.Header["User-Agent"]; !ok {
		out.Header["User-Agent"] = nil // none, and not that of Go
	}
	out.Header.Del("Connection")
	return p.client.RoundTrip(out)
}

// pass sends the answer back as it is.
func (p *Proxy) pass(w http.ResponseWriter, resp *http.Response) {
	copyHeader(w.Header(), resp)
	w.WriteHeader(resp.StatusCode)
	n, err := io.Copy(w, resp.Body)
	p.Sent.Add(n)
	if err != nil {
		panic(http.ErrAbortHandler) // the server broke off, and so do we
	}
}

func copyHeader(h http.Header, resp *http.Response) {
	for name, values := range resp.Header {
		h[name] = slices.Clone(values)
	}
	h.Del("Connection")
	if resp.ContentLength >= 0 && (resp.ContentLength > 0 || resp.Request.Method != http.MethodHead) {
		h.Set("Content-Length", strconv.FormatInt(resp.ContentLength, 10))
	}
}

// spoils says whether the fault changes the server's answer.
func (f Fault) spoils() bool {
	return f.Gate != nil || f.Reset != nil || f.Length != 0 || f.Flip != nil
}

// drop resets the connection of w.
func (p *Proxy) drop(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	reset(conn)
}

// spoil writes the answer by itself, since a server of package net/http keeps to
// the rules, and closes the connection.
func (p *Proxy) spoil(w http.ResponseWriter, r *http.Request, resp *http.Response, f Fault, cleared <-chan struct{}) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	// Taken from the server, it is ours to watch: r.Context ends no more.
	p.mu.Lock()
	p.conns[conn] = true
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		delete(p.conns, conn)
		p.mu.Unlock()
		conn.Close()
	}()
	gone := make(chan struct{})
	go func() { // ends with the connection, which is closed above
		defer close(gone)
		io.Copy(io.Discard, conn)
	}()
	a := &answer{p: p, f: f, conn: conn, gone: gone, cleared: cleared}
	if err := a.write(r.Method, resp); errors.Is(err, errReset) {
		reset(conn)
	}
	conn.Close()
	<-gone
}

// An answer is one that is being spoiled.
type answer struct {
	p             *Proxy
	f             Fault
	conn          net.Conn
	gone, cleared <-chan struct{}
	pos           int64 // of the body
}

func (a *answer) write(method string, resp *http.Response) error {
	if g := a.f.Gate; g != nil && g.At < 0 {
		if err := a.wait(g); err != nil {
			return err
		}
	}
	h := make(http.Header)
	copyHeader(h, resp)
	if n, err := strconv.ParseInt(h.Get("Content-Length"), 10, 64); err == nil {
		h.Set("Content-Length", strconv.FormatInt(max(n+a.f.Length, 0), 10))
	}
	h.Set("Connection", "close")
	h.Del("Transfer-Encoding")
	if _, err := fmt.Fprintf(a.conn, "HTTP/1.1 %s\r\n", resp.Status); err != nil {
		return err
	}
	if err := h.Write(a.conn); err != nil {
		return err
	}
	if _, err := io.WriteString(a.conn, "\r\n"); err != nil || method == http.MethodHead {
		return err
	}
	buf := make([]byte, 32<<10)
	for {
		n, err := resp.Body.Read(buf)
		if werr := a.writeBody(buf[:n]); werr != nil {
			return werr
		}
		if err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// writeBody writes b, and meets what waits in it.
func (a *answer) writeBody(b []byte) error {
	for len(b) > 0 {
		if g := a.f.Gate; g != nil && g.At == a.pos {
			if err := a.wait(g); err != nil {
				return err
			}
			a.f.Gate = nil
		} else if at := a.f.Reset; at != nil && *at == a.pos {
			return errReset
		}
		n := int64(len(b))
		for _, at := range []*int64{a.gateAt(), a.f.Reset} {
			if at != nil && *at > a.pos {
				n = min(n, *at-a.pos)
			}
		}
		piece := b[:n]
		if at := a.f.Flip; at != nil && *at >= a.pos && *at < a.pos+n {
			piece = slices.Clone(piece)
			piece[*at-a.pos] ^= 0xff
		}
		k, err := a.conn.Write(piece)
		a.p.Sent.Add(int64(k))
		if err != nil {
			return err
		}
		a.pos += n
		b = b[n:]
	}
	return nil
}

func (a *answer) gateAt() *int64 {
	if a.f.Gate == nil {
		return nil
	}
	return &a.f.Gate.At
}

// wait waits at the gate.
func (a *answer) wait(g *Gate) error {
	select {
	case g.Reached <- struct{}{}:
	default:
	}
	select {
	case <-g.Pass:
		return nil
	case <-a.gone:
		return context.Canceled
	case <-a.cleared:
		return context.Canceled
	}
}
