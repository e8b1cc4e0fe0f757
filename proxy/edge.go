package proxy

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/prometheus/client_golang/prometheus"

	"nearsight/registry"
)

// ReadOnly returns r as registry.Images that refuses all changes: the registry of an
// edge, whose changes are a central's to make.
func ReadOnly(r registry.Reader) registry.Images { return readOnly{r} }

type readOnly struct{ registry.Reader }

var errElsewhere = fmt.Errorf("%w: this server only reads; its central makes changes", registry.ErrForbidden)

func (readOnly) Create(context.Context, *registry.Image) (*registry.Image, error) {
	return nil, errElsewhere
}

func (readOnly) Update(context.Context, string, func(*registry.Image) error) (*registry.Image, error) {
	return nil, errElsewhere
}

func (readOnly) Delete(context.Context, string, func(*registry.Image) error) error {
	return errElsewhere
}

// edge returns the handler of an edge: own answers what is about this server, and the
// data of images; records are answered from memory, and the rest is passed on.
func (p *Proxy) edge(own http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path := r.URL.Path
		if within(path, "/nearsight/cache") {
			own.ServeHTTP(w, r)
			return
		}
		if p.cacheCalls && (within(path, "/v2/cache") || within(path, "/v2/cached_images") || within(path, "/v2/queued_images")) {
			own.ServeHTTP(w, r)
			return
		}
		if r.Method == http.MethodGet || r.Method == http.MethodHead {
			rest, ok := strings.CutPrefix(path, dataPrefix)
			switch id, sub, more := strings.Cut(rest, "/"); {
			case !ok || !registry.ValidID(id):
			case !more:
				p.show(w, r, id)
				return
			case (sub == "file" || isView(sub)) && !strings.Contains(r.URL.RawQuery, "prefer"): // it names stores of the central
				own.ServeHTTP(w, r)
				return
			}
		}
		p.pass.ServeHTTP(w, r)
	})
}

// within reports whether path is below one or that itself.
func within(path, above string) bool {
	rest, ok := strings.CutPrefix(path, above)
	return ok && (rest == "" || rest[0] == '/')
}

// passOn passes on a request that has come to a route of this server.
func (p *Proxy) passOn(c *gin.Context) { p.pass.ServeHTTP(c.Writer, c.Request) }

// Describe returns what an edge tells of itself: all but its name, address, version
// and start.
func (p *Proxy) Describe() registry.Edge {
	records, cached := p.records.State(), p.cache.Stats()
	return registry.Edge{
		Revision: records.Revision, Heard: records.Fresh,
		Budget: cached.Budget, Used: cached.Used, Images: int(cached.Entries),
		Hits: cached.HitBytes, Misses: cached.MissBytes,
	}
}

// A recordsCollector shows RecordsState as metrics.
type recordsCollector struct {
	records                              *Records
	fresh, heard, revision, known, stale *prometheus.Desc
}

func newRecordsCollector(r *Records) *recordsCollector {
	desc := func(name, help string) *prometheus.Desc {
		return prometheus.NewDesc("nearsight_records_"+name, help, nil, nil)
	}
	return &recordsCollector{r,
		desc("fresh", "Whether the events of the registry are heard, so that records are answered from memory."),
		desc("heard_seconds", "Time since all changes were heard of; -1 if they never were."),
		desc("revision", "The revision of the latest change heard of."),
		desc("known", "Records remembered."),
		desc("served_stale_total", "Records served although the registry could not be asked about them."),
	}
}

// Describe implements prometheus.Collector.
func (c *recordsCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.fresh, c.heard, c.revision, c.known, c.stale} {
		ch <- d
	}
}

// Collect implements prometheus.Collector. All values are of one moment.
func (c *recordsCollector) Collect(ch chan<- prometheus.Metric) {
	s := c.records.State()
	fresh, heard := 0.0, -1.0
	if s.Fresh {
		fresh = 1
	}
	if !s.Heard.IsZero() {
		heard = time.Since(s.Heard).Seconds()
	}
	const gauge = prometheus.GaugeValue
	ch <- prometheus.MustNewConstMetric(c.fresh, gauge, fresh)
	ch <- prometheus.MustNewConstMetric(c.heard, gauge, heard)
	ch <- prometheus.MustNewConstMetric(c.revision, gauge, float64(s.Revision))
	ch <- prometheus.MustNewConstMetric(c.known, gauge, float64(s.Known))
	ch <- prometheus.MustNewConstMetric(c.stale, prometheus.CounterValue, float64(s.ServedStale))
}
