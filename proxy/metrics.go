package proxy

import (
	"maps"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"nearsight/cache"
)

// metrics are the counters of the proxy.
type metrics struct {
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	inFlight prometheus.Gauge
	aborted  prometheus.Counter
	sent     *prometheus.CounterVec
	lies     *prometheus.CounterVec

	hits  prometheus.Counter                             // of sent
	found atomic.Pointer[map[requestKey]requestCounters] // by kind; replaced, never changed
}

// newMetrics declares every metric of the proxy, and those of c, at reg.
func newMetrics(reg *prometheus.Registry, c *cache.Cache, version string) *metrics {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "nearsight_http_requests_total",
			Help: "Requests answered, by the pattern of their path, method and class of status.",
		}, []string{"route", "method", "class"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "nearsight_http_request_seconds",
			Help: "Time from the header of a request to the end of its answer.",
			// From an answer out of memory to the download of a large image.
			Buckets: []float64{.0005, .001, .005, .01, .05, .1, .5, 1, 5, 10, 60, 600},
		}, []string{"route"}),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "nearsight_http_requests_in_flight",
			Help: "Requests being answered.",
		}),
		aborted: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "nearsight_http_aborted_total",
			Help: "Answers broken off: the client left, or the data failed after the header was sent.",
		}),
		sent: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "nearsight_data_sent_bytes_total",
			Help: "Bytes of image data sent, by what the cache had of them when the request came: hit (all), partial or miss (nothing); bypass for data without a digest.",
		}, []string{"cache"}),
		lies: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "nearsight_origin_lies_total",
			Help: "Answers of stores that were another range than was asked for, of another length of the whole, or of bytes that are not those of the digest.",
		}, []string{"store"}),
	}
	m.found.Store(&map[requestKey]requestCounters{})
	m.hits = m.sent.WithLabelValues("hit")
	build := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name:        "nearsight_build_info",
		Help:        "Always 1; the label says which version runs.",
		ConstLabels: prometheus.Labels{"version": version},
	}, func() float64 { return 1 })
	reg.MustRegister(m.requests, m.seconds, m.inFlight, m.aborted, m.sent, m.lies, build, newCacheCollector(c))
	return m
}

// count counts one request.
func (m *metrics) count(v *visit) {
	x := v.exchange
	key := requestKey{x.route, methodLabel(v.method), classOf(x.status)}
	if key.route == "" {
		key.route = "none"
	}
	c := m.counters(key)
	c.requests.Inc()
	c.seconds.Observe(v.dur.Seconds())
	if v.aborted {
		m.aborted.Inc()
	}
	switch x.found {
	case "":
	case "hit": // by far the most
		m.hits.Add(float64(x.bytes))
	default:
		m.sent.WithLabelValues(x.found).Add(float64(x.bytes))
	}
}

// requestKey names the counters of a kind of request. There are few: routes and
// labels are ours.
type requestKey struct{ route, method, class string }

type requestCounters struct {
	requests prometheus.Counter
	seconds  prometheus.Observer
}

// counters returns those of key. Finding them by their labels costs more than
// counting, so it is done once.
func (m *metrics) counters(key requestKey) requestCounters {
	for {
		old := m.found.Load()
		if c, ok := (*old)[key]; ok {
			return c
		}
		more := maps.Clone(*old)
		more[key] = requestCounters{
			m.requests.WithLabelValues(key.route, key.method, key.class), m.seconds.WithLabelValues(key.route),
		}
		m.found.CompareAndSwap(old, &more)
	}
}

// methodLabel keeps strangers from making up labels.
func methodLabel(method string) string {
	switch method {
	case "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS":
		return method
	}
	return "other"
}

func classOf(status int) string {
	switch status / 100 {
	case 2:
		return "2xx"
	case 3:
		return "3xx"
	case 4:
		return "4xx"
	case 5:
		return "5xx"
	}
	return "none" // broken off before the header
}

// A cacheCollector shows cache.Stats as metrics.
type cacheCollector struct {
	cache   *cache.Cache
	metrics []cacheMetric
}

type cacheMetric struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func(cache.Stats) float64
}

func newCacheCollector(c *cache.Cache) *cacheCollector {
	col := &cacheCollector{cache: c}
	add := func(kind prometheus.ValueType, name, help string, value func(cache.Stats) int64) {
		col.metrics = append(col.metrics, cacheMetric{
			prometheus.NewDesc("nearsight_cache_"+name, help, nil, nil), kind,
			func(s cache.Stats) float64 { return float64(value(s)) },
		})
	}
	const gauge, counter = prometheus.GaugeValue, prometheus.CounterValue
	add(gauge, "budget_bytes", "Disk that the cache may use.",
		func(s cache.Stats) int64 { return s.Budget })
	add(gauge, "used_bytes", "Disk that the cache uses, with what is reserved.",
		func(s cache.Stats) int64 { return s.Used })
	add(gauge, "reserved_bytes", "Disk promised to fills under way.",
		func(s cache.Stats) int64 { return s.Reserved })
	add(gauge, "entries", "Images of which the cache has something.",
		func(s cache.Stats) int64 { return int64(s.Entries) })
	add(gauge, "flights", "Fills under way.",
		func(s cache.Stats) int64 { return int64(s.Flights) })
	add(counter, "hit_bytes_total", "Bytes sent without waiting for a fill.",
		func(s cache.Stats) int64 { return s.HitBytes })
	add(counter, "miss_bytes_total", "Bytes sent after waiting for a fill.",
		func(s cache.Stats) int64 { return s.MissBytes })
	add(counter, "zero_bytes_total", "Bytes of hits that are known to be zeros.",
		func(s cache.Stats) int64 { return s.ZeroBytes })
	add(counter, "filled_bytes_total", "Bytes received from origins, whatever became of them, but for those read over.",
		func(s cache.Stats) int64 { return s.FilledBytes })
	add(counter, "overread_bytes_total", "Zeros received from origins because it took fewer requests to read them over.",
		func(s cache.Stats) int64 { return s.OverreadBytes })
	add(counter, "verified_chunks_total", "Chunks hashed and found right, from an origin or from disk.",
		func(s cache.Stats) int64 { return s.VerifiedChunks })
	add(counter, "damaged_chunks_total", "Chunks on disk that were found wrong.",
		func(s cache.Stats) int64 { return s.DamagedChunks })
	add(counter, "corrupt_chunks_total", "Chunks from an origin that were found wrong.",
		func(s cache.Stats) int64 { return s.CorruptChunks })
	add(counter, "evicted_bytes_total", "Bytes of disk given back to make room.",
		func(s cache.Stats) int64 { return s.EvictedBytes })
	add(counter, "uncached_bytes_total", "Bytes passed through for want of room.",
		func(s cache.Stats) int64 { return s.UncachedBytes })
	add(counter, "lost_files_total", "Files of the cache that somebody else changed, cut or removed.",
		func(s cache.Stats) int64 { return s.LostFiles })
	add(counter, "stalls_total", "Fills that an origin kept waiting for too long.",
		func(s cache.Stats) int64 { return s.Stalls })
	add(counter, "fill_errors_total", "Fills that failed.",
		func(s cache.Stats) int64 { return s.FillErrors })
	add(counter, "write_errors_total", "Writes that the disk of the cache refused.",
		func(s cache.Stats) int64 { return s.WriteErrors })
	return col
}

// Describe implements prometheus.Collector.
func (c *cacheCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, m := range c.metrics {
		ch <- m.desc
	}
}

// Collect implements prometheus.Collector. All values are of one moment.
func (c *cacheCollector) Collect(ch chan<- prometheus.Metric) {
	s := c.cache.Stats()
	for _, m := range c.metrics {
		ch <- prometheus.MustNewConstMetric(m.desc, m.kind, m.value(s))
	}
}
