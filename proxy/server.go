package proxy

import (
	"log/slog"
	"net/http"
	"time"

	"nearsight/registry/api"
)

const (
	maxHeader = 64 << 10 // bytes of a request's header
	maxTarget = 8 << 10  // bytes of its target

	readHeaderTimeout = 10 * time.Second
	// idleTimeout is longer than the 60 s for which fronts reuse a connection.
	idleTimeout = 120 * time.Second
)

// Server returns a server for h with the limits of http-semantics, section 12.
// There is no write timeout, which would end slow downloads: Listener watches
// for clients that stand still. log gets what net/http complains of; nil means
// slog.Default(). The caller sets BaseContext or Addr if it wants them, serves
// and shuts down.
func Server(h http.Handler, log *slog.Logger) *http.Server {
	if log == nil {
		log = slog.Default()
	}
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: readHeaderTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),

		// net/http's own answer to OPTIONS * has no Allow; the API has one.
		DisableGeneralOptionsHandler: true,
	}
}

// wellFormed refuses what net/http lets through and this server does not want,
// and leaves the rest to next. Bodies and lengths that contradict each other are
// API.Wrap's affair.
func wellFormed(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor == 1 && r.ProtoMinor > 1 {
			w.Header().Set("Connection", "close")
			api.FailStatus(w, r, http.StatusHTTPVersionNotSupported, "this server speaks HTTP/1.1")
			return
		}
		if len(r.RequestURI) > maxTarget {
			w.Header().Set("Connection", "close")
			api.FailStatus(w, r, http.StatusRequestURITooLong, "the request target is too long")
			return
		}
		next.ServeHTTP(w, r)
	})
}
