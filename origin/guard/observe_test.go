package guard_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"nearsight/origin"
	"nearsight/origin/guard"
	"nearsight/origin/origintest"
)

func TestMetrics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := prometheus.NewRegistry()
		m := guard.NewMetrics(reg)
		var f origintest.Fake
		near := guard.NewWriter(&f, once(guard.Options{Failures: 1, Observer: m.Store("near")}))
		guard.New(&f, guard.Options{Observer: m.Store("far")})
		loc, err := near.Put(t.Context(), near.Locate("i"), 3, strings.NewReader("abc"))
		if err != nil {
			t.Fatal(err)
		}
		gate := origintest.NewGate(0)
		f.Inject(origintest.Faults{Gate: gate})
		go func() {
			<-gate.Reached
			time.Sleep(2 * time.Second)
			close(gate.Pass)
		}()
		do(t.Context(), near, "open", loc)
		do(t.Context(), near, "stat", near.Locate("nothing"))
		f.Inject(origintest.Faults{Stat: origin.ErrUnavailable})
		do(t.Context(), near, "stat", loc)
		do(t.Context(), near, "stat", loc)

		got := gathered(t, reg)
		for series, want := range map[string]float64{
			"breakers half_open near": 0, "breakers open near": 1, "breakers open far": 0,
			"bytes_total read near": 3, "bytes_total written near": 3, "bytes_total read far": 0,
			"requests_total open ok near": 1, "requests_total put ok near": 1,
			"requests_total stat not_found near": 1, "requests_total stat refused near": 1,
			"requests_total stat unavailable near": 1,
			"first_byte_seconds open near":         2, "first_byte_seconds stat near": 0,
		} {
			if v, ok := got[series]; !ok || v != want {
				t.Errorf("%s is %v (%v); want %v", series, v, ok, want)
			}
			delete(got, series)
		}
		for series, v := range got {
			if v != 0 {
				t.Errorf("%s is %v; want none", series, v)
			}
		}
	})
}

// gathered returns every series, named by the metric and its labels, with its
// value or sum.
func gathered(t *testing.T, reg *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string]float64)
	for _, f := range families {
		name := strings.TrimPrefix(f.GetName(), "nearsight_store_")
		for _, m := range f.Metric {
			series := name
			for _, l := range m.Label {
				series += " " + l.GetValue()
			}
			all[series] = m.GetCounter().GetValue() + m.GetGauge().GetValue() + m.GetHistogram().GetSampleSum()
		}
	}
	return all
}
