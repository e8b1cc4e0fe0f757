package guard

import (
	"context"
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"nearsight/origin"
)

// An Outcome is what became of a call.
type Outcome string

const (
	// OK: as it should be. A body that its reader closed early is, too.
	OK Outcome = "ok"
	// NotFound, Changed, Full, Exists and BadLocation are the errors of origin.
	NotFound    Outcome = "not_found"
	Changed     Outcome = "changed"
	Full        Outcome = "full"
	Exists      Outcome = "exists"
	BadLocation Outcome = "location"
	// Unavailable: no answer, one that says so, or a body that broke off.
	Unavailable Outcome = "unavailable"
	// Stalled: cut off because nothing happened.
	Stalled Outcome = "stalled"
	// Refused: the breaker did not let it through.
	Refused Outcome = "refused"
	// Canceled: the caller wanted it no more.
	Canceled Outcome = "canceled"
	// Data: what was to be stored failed, or had another length.
	Data Outcome = "data"
	// Other: an error that the contract of origin does not know.
	Other Outcome = "other"
)

// outcome says what an error of a store means.
func outcome(err error) Outcome {
	if err == nil {
		return OK
	}
	for _, o := range []struct {
		err     error
		outcome Outcome
	}{
		// First, because they wrap what the sender said.
		{origin.ErrRead, Data}, {origin.ErrSize, Data},
		{origin.ErrNotFound, NotFound}, {origin.ErrChanged, Changed}, {origin.ErrFull, Full},
		{origin.ErrExists, Exists}, {origin.ErrLocation, BadLocation}, {origin.ErrUnavailable, Unavailable},
		{context.Canceled, Canceled}, {context.DeadlineExceeded, Canceled},
	} {
		if errors.Is(err, o.err) {
			return o.outcome
		}
	}
	return Other
}

// A Direction is that of bytes, as seen by who uses the store.
type Direction string

// The two of them.
const (
	Read    Direction = "read"
	Written Direction = "written"
)

// An Observer is told what happens to a store. It is called often, by many at
// once, and must not block.
type Observer interface {
	// Request tells that a call (stat, open, put, delete) ended, and how long
	// the store took: to the first byte for a body, else to the end. Every
	// attempt is a call of its own. An open ends with its body.
	Request(op string, outcome Outcome, dur time.Duration)
	// Bytes tells that n bytes went that way.
	Bytes(d Direction, n int)
	// Breaker tells that a breaker changed its state. A store has one, but
	// that of kind http has one for every host that fails.
	Breaker(from, to State)
}

type nobody struct{}

func (nobody) Request(string, Outcome, time.Duration) {}
func (nobody) Bytes(Direction, int)                   {}
func (nobody) Breaker(State, State)                   {}

// Metrics are the Prometheus metrics of all guarded stores of a process.
type Metrics struct {
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	bytes    *prometheus.CounterVec
	breakers *prometheus.GaugeVec
}

// NewMetrics declares them at reg. It panics if they are declared there already.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "nearsight_store_requests_total",
			Help: "Calls to stores, every attempt by itself, by operation and what became of them.",
		}, []string{"store", "op", "outcome"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "nearsight_store_first_byte_seconds",
			Help: "Time that a store took to the first byte of a body, or to the end of a call without one.",
			// From a local disk to the end of a large upload.
			Buckets: []float64{.0005, .001, .005, .01, .05, .1, .5, 1, 5, 10, 60, 600},
		}, []string{"store", "op"}),
		bytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "nearsight_store_bytes_total",
			Help: "Bytes of image data read from stores and written to them, whatever became of them.",
		}, []string{"store", "direction"}),
		breakers: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "nearsight_store_breakers",
			Help: "Hosts of a store that are left alone because they failed (open), and those that a single call is trying again (half_open).",
		}, []string{"store", "state"}),
	}
	reg.MustRegister(m.requests, m.seconds, m.bytes, m.breakers)
	return m
}

// Store returns the Observer for the store of that name.
func (m *Metrics) Store(name string) Observer {
	// Declared now, so that a rate over what never failed is 0 and not unknown.
	return &storeMetrics{
		m: m, name: name,
		read: m.bytes.WithLabelValues(name, string(Read)), written: m.bytes.WithLabelValues(name, string(Written)),
		open: m.breakers.WithLabelValues(name, Open.String()), halfOpen: m.breakers.WithLabelValues(name, HalfOpen.String()),
	}
}

type storeMetrics struct {
	m              *Metrics
	name           string
	read, written  prometheus.Counter
	open, halfOpen prometheus.Gauge
}

func (s *storeMetrics) Request(op string, outcome Outcome, dur time.Duration) {
	s.m.requests.WithLabelValues(s.name, op, string(outcome)).Inc()
	if outcome != Refused {
		s.m.seconds.WithLabelValues(s.name, op).Observe(dur.Seconds())
	}
}

func (s *storeMetrics) Bytes(d Direction, n int) {
	if d == Read {
		s.read.Add(float64(n))
	} else {
		s.written.Add(float64(n))
	}
}

func (s *storeMetrics) Breaker(from, to State) {
	s.count(from, -1)
	s.count(to, 1)
}

func (s *storeMetrics) count(state State, n float64) {
	switch state {
	case Open:
		s.open.Add(n)
	case HalfOpen:
		s.halfOpen.Add(n)
	}
}
