package proxy

import (
	"net/http"
	"time"

	"nearsight/proxy/wire"
)

// leastTaken is what a client of HTTP/2 must take within a stall, in bytes: as much as
// one who uploads must send.
const leastTaken = 64 << 10

// Patient bounds the waits for a client that net/http leaves open, in which it would
// have a goroutine here for ever; how long the whole takes is not bounded. stall is that
// of wire.Server; 0 means wire.DefaultStall.
//
// A body must begin to come within a stall. That holds for those that nobody reads too,
// which net/http reads away; whoever reads one moves the deadline along.
//
// Over HTTP/2 many answers share a connection, and each waits for its client's window:
// it gets on by leastTaken within a stall, or its stream is reset. The patience of
// wire.Conn sees the connection alone.
func Patient(h http.Handler, stall time.Duration) http.Handler {
	if stall <= 0 {
		stall = wire.DefaultStall
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength != 0 {
			http.NewResponseController(w).SetReadDeadline(time.Now().Add(stall))
		}
		if r.ProtoMajor < 2 {
			h.ServeHTTP(w, r)
			return
		}
		a := &muxed{w, http.NewResponseController(w), stall}
		h.ServeHTTP(a, r)
		a.bound() // what is buffered goes out after this
	})
}

// A muxed is the writer of an answer over HTTP/2. The deadline of such a one ends it
// when it passes, whether something is being written or not; so it is set for writes
// alone.
type muxed struct {
	http.ResponseWriter
	control *http.ResponseController
	stall   time.Duration
}

// Unwrap is for http.ResponseController.
func (a *muxed) Unwrap() http.ResponseWriter { return a.ResponseWriter }

func (a *muxed) bound() { a.control.SetWriteDeadline(time.Now().Add(a.stall)) }
func (a *muxed) free()  { a.control.SetWriteDeadline(time.Time{}) }

// Write implements io.Writer.
func (a *muxed) Write(b []byte) (n int, err error) {
	defer a.free()
	for {
		a.bound()
		k, err := a.ResponseWriter.Write(b[n:min(len(b), n+leastTaken)])
		n += k
		if err != nil || n == len(b) {
			return n, err
		}
	}
}

// FlushError is for http.ResponseController.
func (a *muxed) FlushError() error {
	defer a.free()
	a.bound()
	return a.control.Flush()
}
