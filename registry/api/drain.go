package api

import (
	"io"
	"net/http"
	"time"
)

const (
	// drainSilence and drainTotal bound how long the rest of a body is read
	// away behind an answer: without a byte, and in all.
	drainSilence = 5 * time.Second
	drainTotal   = 30 * time.Second
	drainBuffer  = 32 << 10 // bytes
)

// A requestBody knows how far a body was read, so that what was not is treated
// as its sender expects.
type requestBody struct {
	io.ReadCloser
	waits bool // its sender waits for a 100 (RFC 9110, section 10.1.1), which the first Read sends
	begun bool
	err   error // what ended it: io.EOF if it was whole
}

// watchBody returns a copy of r with a body that is watched. net/http goes by
// the type of the body in its own r.
func watchBody(r *http.Request) (*http.Request, *requestBody) {
	b := &requestBody{ReadCloser: r.Body, waits: r.Header.Get("Expect") != ""}
	watched := new(http.Request)
	*watched = *r
	watched.Body = b
	return watched, b
}

// Read implements io.Reader.
func (b *requestBody) Read(p []byte) (int, error) {
	b.begun = true
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		b.err = err
	}
	return n, err
}

// unread reports whether more of the body of r may follow on its connection.
func unread(r *http.Request) bool {
	b, ok := r.Body.(*requestBody)
	return ok && b.err != io.EOF
}

// drain reads away what the client still sends after it has got its answer. Many
// clients look for an answer only when they have sent everything: closed under
// them, the connection would be all that they saw. Who waits to be asked for the
// body is not (RFC 9110, section 10.1.1).
func (b *requestBody) drain(w http.ResponseWriter, silence time.Duration) {
	if b.err != nil || b.waits && !b.begun {
		return
	}
	rc := http.NewResponseController(w)
	if rc.Flush() != nil {
		return // the client left
	}
	buf := make([]byte, drainBuffer)
	end := time.Now().Add(drainTotal)
	for b.err == nil && time.Now().Before(end) {
		next := time.Now().Add(silence)
		if next.After(end) {
			next = end
		}
		rc.SetReadDeadline(next)
		b.Read(buf)
	}
}
