package main

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
)

// A tableSpec says what the tables of a workload show.
type tableSpec struct {
	workload string
	metrics  []string // the first is compared
	less     bool     // less of the first is better
}

var tableSpecs = []tableSpec{
	{"W1", []string{"throughput", "cpu_per_gib", "rss_anon_peak", "errors", "noise"}, false},
	{"W2", []string{"rate", "p50", "p99", "p999", "cpu_per_req", "rss_anon_peak", "errors", "noise"}, false},
	{"W3", []string{"wall", "over_direct", "ttfb", "cpu", "rss_anon_peak", "origin_bytes", "errors", "noise"}, true},
	{"W4", []string{"wall", "wall_over_ideal", "origin_ratio", "origin_requests", "first_done", "ttfb_p50", "ttfb_max", "finished",
		"cpu_per_gib", "rss_anon_peak", "errors"}, true},
	{"W5", []string{"p99", "p50", "p999", "max", "amplification", "wall", "origin_requests", "rss_anon_peak", "errors"}, true},
	{"W6", []string{"rate", "p50", "p99", "cpu_per_req", "errors", "noise"}, false},
	{"W7", []string{"rate", "p50", "p99", "cpu_per_req", "errors", "noise"}, false},
	{"W8", []string{"refetched", "up", "origin_bytes", "got", "wall", "sha_ok", "errors"}, true},
	{"W9", []string{"start", "rss", "rss_anon", "p50", "p99", "errors"}, true},
	{"W10", []string{"rate", "network_rate", "slowest_hash_rate", "store_rate", "bound_rate", "ratio"}, false},
}

// writeTables writes a Markdown table for every case: medians, with the least
// and the most in brackets, and the median over the rounds of the ratio of the
// first metric to that of static-nginx and to that of the best other server.
func writeTables(w io.Writer, rs results) error {
	out := bufio.NewWriter(w)
	for _, spec := range tableSpecs {
		of := func(r row) bool { return r.workload == spec.workload }
		cases := rs.distinct(of, func(r row) string { return r.variant + "\t" + r.pin })
		for _, c := range cases {
			variant, pin, _ := strings.Cut(c, "\t")
			writeTable(out, rs, spec, variant, pin)
		}
	}
	return out.Flush()
}

func writeTable(w io.Writer, rs results, spec tableSpec, variant, pin string) {
	in := func(r row) bool { return r.workload == spec.workload && r.variant == variant && r.pin == pin }
	ask := func(metric string) question { return question{spec.workload, pin, variant, metric} }
	peers := rs.peers(in)
	first := ask(spec.metrics[0])
	sign := -1
	if spec.less {
		sign = 1
	}
	slices.SortStableFunc(peers, func(a, b string) int {
		x, xok := rs.median(first, a)
		y, yok := rs.median(first, b)
		if xok != yok { // who has no figure comes last
			return cmp.Compare(b2i(yok), b2i(xok))
		}
		return sign * cmp.Compare(x, y)
	})

	var metrics []string
	units := map[string]string{}
	for _, m := range spec.metrics {
		for _, r := range rs {
			if in(r) && r.Metric == m {
				metrics = append(metrics, m)
				units[m] = r.Unit
				break
			}
		}
	}
	if len(metrics) == 0 || metrics[0] != spec.metrics[0] {
		return // rows that belong to no table, such as those of a warm-up
	}
	fmt.Fprintf(w, "\n### %s, %s, pinning: %s\n\n| server | n |", spec.workload, variant, pin)
	for _, m := range metrics {
		fmt.Fprintf(w, " %s (%s) |", m, units[m])
	}
	fmt.Fprintf(w, " %[1]s : static-nginx | %[1]s : best other |\n|---|---|%s---|---|\n", metrics[0], strings.Repeat("---|", len(metrics)))
	for _, p := range peers {
		fmt.Fprintf(w, "| %s | %d |", p, len(rs.byRound(first, p)))
		for _, m := range metrics {
			fmt.Fprintf(w, " %s |", span(rs.values(ask(m), p)))
		}
		others := slices.DeleteFunc(slices.Clone(peers), func(o string) bool { return o == p || o == "direct" || o == staticPeer })
		for _, other := range []string{staticPeer, rs.best(first, others, spec.less)} {
			v, ok := rs.ratio(first, p, other)
			fmt.Fprintf(w, " %s |", orDash(v, ok && other != p))
		}
		fmt.Fprintln(w)
	}
}

// span writes the median of ascending values with the least and the most.
func span(sorted []float64) string {
	m, ok := median(sorted)
	if ok && sorted[0] != sorted[len(sorted)-1] {
		return fmt.Sprintf("%s (%s–%s)", number(m), number(sorted[0]), number(sorted[len(sorted)-1]))
	}
	return orDash(m, ok)
}

func orDash(v float64, ok bool) string {
	if !ok {
		return "–"
	}
	return number(v)
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}
