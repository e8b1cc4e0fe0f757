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
	// Run returns what is wrong, or nil; a *Degraded if requests are answered well
	// all the same. It is called concurrently.
	Run func(ctx context.Context) error
}

// Degraded says that something is wrong which others need not be kept away for.
type Degraded struct{ Reason string }

// Error implements error.
func (d *Degraded) Error() string { return d.Reason }

// AdminHandler returns the handler of the admin listener, which is for operators
// and their programs only.
//
//	GET /healthz   200 while requests can be served at all: the vital checks
//	GET /readyz    200 while all is as it should be, or well enough: all checks
//	GET /metrics   Prometheus metrics
//
// The first two answer 503 otherwise, with a line of text for each check either
// way. Checked are the registry (vital), the event stream, and checks. An edge that is
// cut off from both is degraded, and ready.
func (p *Proxy) AdminHandler(checks ...Check) http.Handler {
	checks = append([]Check{
		{"registry", true, func(ctx context.Context) error {
			_, err := p.records.log.Revision(ctx)
			return p.endured(err)
		}},
		{"events", false, func(context.Context) error {
			s := p.records.State()
			switch {
			case s.Fresh:
				return nil
			case s.Heard.IsZero():
				return p.endured(errors.New("not heard yet; records are proved before they are used"))
			}
			return p.endured(fmt.Errorf("not heard for %v, up to revision %d; records are proved before they are used",
				time.Since(s.Heard).Round(time.Second), s.Revision))
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

// endured makes of what is wrong with the registry what it is to an edge, which serves
// without it.
func (p *Proxy) endured(err error) error {
	if err == nil || p.pass == nil {
		return err
	}
	return &Degraded{err.Error()}
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
		err := c.Run(ctx)
		if degraded := (*Degraded)(nil); errors.As(err, &degraded) {
			fmt.Fprintf(&text, "%s: degraded: %v\n", c.Name, err)
		} else if err != nil {
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
