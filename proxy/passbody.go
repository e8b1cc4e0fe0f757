package proxy

import (
	"errors"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// leaveTime is how long a client that sends a body may take to notice its answer.
const leaveTime = 5 * time.Second

type bodyKey struct{}

// A passedBody is the body of a request that is passed on. What it waits for is the
// client; what the central takes of the time is not the client's.
//
// Who sends it on may still be reading when the answer is complete. net/http wants no
// reader then, so it is taken back first.
type passedBody struct {
	body  io.Reader
	rc    *http.ResponseController
	stall time.Duration

	closed  atomic.Bool
	reading sync.Mutex // held by a Read

	mu  sync.Mutex
	err error // why it ended; io.EOF if it was whole
}

// Read implements io.Reader.
func (b *passedBody) Read(p []byte) (int, error) {
	b.reading.Lock()
	defer b.reading.Unlock()
	if b.closed.Load() {
		return 0, http.ErrBodyReadAfterClose
	}
	b.rc.SetReadDeadline(time.Now().Add(b.stall)) // not all writers can; those are not sockets
	if b.closed.Load() {                          // and has a deadline of its own, now lost
		return 0, http.ErrBodyReadAfterClose
	}
	n, err := b.body.Read(p)
	if err == nil {
		return n, nil
	}
	if err == io.EOF {
		// From here on the server watches the connection, and a deadline that
		// passes would look like a client that left.
		b.rc.SetReadDeadline(time.Time{})
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.err = err
	return n, err
}

// Close implements io.Closer. It closes nothing: net/http does.
func (b *passedBody) Close() error {
	b.closed.Store(true)
	return nil
}

// takeBack returns when nobody reads any more.
func (b *passedBody) takeBack() {
	b.closed.Store(true)
	if b.reading.TryLock() {
		b.reading.Unlock()
		return
	}
	b.rc.Flush() // the answer is what makes the client stop
	b.rc.SetReadDeadline(time.Now().Add(leaveTime))
	b.reading.Lock()
	b.reading.Unlock() //lint:ignore SA2001 it was held until the last reader left
}

// failure returns why the body is not whole, nil if it is or was not read to its end.
func (b *passedBody) failure() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err == io.EOF || errors.Is(b.err, http.ErrBodyReadAfterClose) {
		return nil
	}
	return b.err
}
