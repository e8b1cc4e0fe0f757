package proxy

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/gin-gonic/gin"

	"nearsight/origin"
	"nearsight/registry"
	"nearsight/registry/api"
)

// maxLogged bounds what a client wrote in an access record, in bytes.
const maxLogged = 256

// An exchange is the writer of one answer and what the access record will say
// about it. gin's own writer stands before it and hides ReadFrom; whoever sends
// image data writes to the exchange itself.
type exchange struct {
	http.ResponseWriter
	status int   // 0 before the header; api.StatusClientLeft if there was none
	bytes  int64 // of the body

	// Set by handlers, for the record.
	route  string           // the pattern, "" for requests that reached none
	image  string           // id
	caller *registry.Caller // nil: not known, or not asked for
	digest origin.Digest
	found  string // hit, miss or partial: what the cache had of the data
	stale  bool   // the record could not be proved, and served all the same
	err    error  // why the answer is not the one that was asked for
}

// exchangeKey is that of the exchange in the context of its request.
type exchangeKey struct{}

// exchangeOf returns the exchange that w writes to.
func exchangeOf(w http.ResponseWriter) *exchange {
	for {
		if x, ok := w.(*exchange); ok {
			return x
		}
		u, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			return &exchange{ResponseWriter: w} // of nobody's record
		}
		w = u.Unwrap()
	}
}

func (x *exchange) Unwrap() http.ResponseWriter { return x.ResponseWriter }

func (x *exchange) WriteHeader(status int) {
	if x.status == 0 && status >= 200 {
		x.status = status
		x.confess()
	}
	x.ResponseWriter.WriteHeader(status)
}

// confess says in Cache-Status (RFC 9211) if the record could not be proved.
func (x *exchange) confess() {
	if !x.stale || x.status >= 500 {
		return
	}
	h := x.Header()
	said := h.Get("Cache-Status")
	if said == "" {
		said = hitStatus
	}
	h["Cache-Status"] = []string{said + "; detail=stale-if-error"}
}

func (x *exchange) Write(b []byte) (int, error) {
	x.begun()
	n, err := x.ResponseWriter.Write(b)
	x.bytes += int64(n)
	return n, err
}

// ReadFrom implements io.ReaderFrom. net/http's writer makes a sendfile of it.
func (x *exchange) ReadFrom(src io.Reader) (n int64, err error) {
	x.begun()
	if to, ok := x.ResponseWriter.(io.ReaderFrom); ok {
		n, err = to.ReadFrom(src)
	} else {
		n, err = io.Copy(struct{ io.Writer }{x.ResponseWriter}, src)
	}
	x.bytes += n
	return n, err
}

func (x *exchange) begun() {
	if x.status == 0 {
		x.status = http.StatusOK
		x.confess()
	}
}

// Flush implements http.Flusher.
func (x *exchange) Flush() {
	x.begun()
	http.NewResponseController(x.ResponseWriter).Flush() // a writer that cannot has nothing held back
}

// observe writes one access record for every request to next, and counts it.
func (p *Proxy) observe(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		x := &exchange{ResponseWriter: w}
		p.metrics.inFlight.Inc()
		whole := false
		defer func() {
			p.metrics.inFlight.Dec()
			if x.status == 0 && r.Context().Err() != nil {
				x.status = api.StatusClientLeft
			}
			p.ended(r.Context(), &visit{
				method: r.Method, path: r.URL.Path, ranges: r.Header["Range"], remote: r.RemoteAddr,
				id: []byte(x.Header().Get(api.RequestIDHeader)), exchange: x,
				dur: time.Since(start), aborted: !whole,
			})
		}()
		next.ServeHTTP(x, r.WithContext(context.WithValue(r.Context(), exchangeKey{}, x)))
		x.begun() // nothing written is an empty 200
		whole = true
	})
}

// A visit is what is known of a request when it is over.
type visit struct {
	method, path string
	ranges       []string // the lines of Range
	remote       string
	id           []byte // of the request
	exchange     *exchange
	dur          time.Duration
	aborted      bool
}

// ended counts a request and writes its record. The query is left out, because
// credentials may stand there.
func (p *Proxy) ended(ctx context.Context, v *visit) {
	x := v.exchange
	p.metrics.count(v)
	level := slog.LevelInfo
	if x.status >= 500 {
		level = slog.LevelWarn
	}
	if !p.log.Enabled(ctx, level) {
		return
	}
	attrs := make([]slog.Attr, 0, 19)
	attrs = append(attrs,
		slog.String("method", clip(v.method)),
		slog.String("path", clip(v.path)),
		slog.Int("status", x.status),
		slog.Int64("bytes", x.bytes),
		slog.Duration("dur", v.dur),
		slog.String("remote", v.remote),
		slog.String("request_id", string(v.id)),
	)
	who := x.caller
	if who == nil {
		who = &registry.Caller{}
	}
	for _, a := range []struct{ key, value string }{
		{"route", x.route},
		{"image", x.image},
		{"project", who.Project},
		{"user", who.User},
		{"digest", string(x.digest)},
		{"range", strings.Join(v.ranges, ", ")},
		{"cache", x.found},
	} {
		if a.value != "" {
			attrs = append(attrs, slog.String(a.key, clip(a.value)))
		}
	}
	if v.aborted {
		attrs = append(attrs, slog.Bool("aborted", true))
	}
	if x.stale {
		attrs = append(attrs, slog.Bool("stale", true))
	}
	if x.err != nil {
		attrs = append(attrs, slog.Any("err", x.err))
	}
	p.log.LogAttrs(ctx, level, "request", attrs...)
}

// clip returns at most maxLogged bytes of s, in memory of its own.
func clip(s string) string {
	if len(s) > maxLogged {
		return s[:maxLogged] + "..."
	}
	return strings.Clone(s) // it may lie in a connection's buffer
}

// noteRoute is gin middleware that tells the record where a request went, and whose
// it is.
func noteRoute(c *gin.Context) {
	x := exchangeOf(c.Writer)
	x.route, x.caller = c.FullPath(), registry.CallerOf(c.Request.Context())
	if id := c.Param("id"); registry.ValidID(id) {
		x.image = id
	}
}
