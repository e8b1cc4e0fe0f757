package proxy

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// checkTimeout bounds all checks of one request together.
const checkTimeout = 5 * time.Second

// A Check says whether a part of the server works.
type Check struct {
	// Name is what it is called in the answer.
	Name string
	// Vital: without it nothing can be served, so /healthz asks it too.
	Vital bool
	// Run returns what is wrong, or nil. It is called concurrently.
	Run func(ctx context.Context) error
}

// AdminHandler returns the handler of the admin listener, which is for operators
// and their programs only.
//
//	GET /healthz   200 while requests can be served at all: the vital checks
//	GET /readyz    200 while all is as it should be: all checks
//	GET /metrics   Prometheus metrics
//
// The first two answer 503 otherwise, with a line of text for each check either
// way. Checked are the registry (vital), the event stream, and checks.
func (p *Proxy) AdminHandler(checks ...Check) http.Handler {
	checks = append([]Check{
		{"registry", true, func(ctx context.Context) error {
			_, err := p.records.log.Revision(ctx)
			return err
		}},
		{"events", false, func(context.Context) error {
			if !p.records.Live() {
				return errors.New("not heard; records are not kept in memory")
			}
			return nil
		}},
	}, checks...)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) { answerChecks(w, r, checks, true) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) { answerChecks(w, r, checks, false) })
	mux.Handle("GET /metrics", promhttp.HandlerFor(p.registry, promhttp.HandlerOpts{}))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		mux.ServeHTTP(w, r)
	})
}

// answerChecks runs the checks, or only the vital ones.
func answerChecks(w http.ResponseWriter, r *http.Request, checks []Check, vital bool) {
	ctx, cancel := context.WithTimeout(r.Context(), checkTimeout)
	defer cancel()
	status := http.StatusOK
	var text strings.Builder
	for _, c := range checks {
		if vital && !c.Vital {
			continue
		}
		if err := c.Run(ctx); err != nil {
			status = http.StatusServiceUnavailable
			fmt.Fprintf(&text, "%s: %v\n", c.Name, err)
		} else {
			fmt.Fprintf(&text, "%s: ok\n", c.Name)
		}
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	w.Write([]byte(text.String())) // a client that left needs no answer
}
