package main

import (
	"bufio"
	"fmt"
	"io"
)

// Names of servers that bars speak of.
const (
	selfPeer    = "nearsight"
	staticPeer  = "static-nginx"
	varnishPeer = "varnish-malloc"
)

// cachingPeers are all that do the same work as nearsight.
var cachingPeers = []string{"nginx-slice4m", "nginx-slice1m", "nginx-whole", varnishPeer, "squid-rock"}

// Figures of an earlier run on one 2-core machine, of servers that are no peers
// here: Glance, and a prototype of gin and sqlite. That run's rate of 304 by
// static nginx relates them to the machine of today.
const (
	glanceShow    = 137.0   // req/s
	prototypeShow = 36800.0 // req/s
	static304Then = 152000.0
)

// A bar is what nearsight has to reach.
type bar struct {
	workload, what string
	value          func(results) (float64, bool)
	most           bool // limit is the most that is allowed, not the least
	limit          float64
	unit           string
}

// met reports whether v reaches the bar.
func (b bar) met(v float64) bool {
	if b.most {
		return v <= b.limit
	}
	return v >= b.limit
}

// verdict says how far v is from the bar.
func (b bar) verdict(v float64, ok bool) string {
	switch {
	case !ok:
		return "not measured"
	case b.met(v):
		return "met"
	case b.limit == 0:
		return "missed by " + number(v)
	}
	gap := (b.limit - v) / b.limit
	if b.most {
		gap = -gap
	}
	return fmt.Sprintf("missed by %.1f %%", 100*gap)
}

func versus(q question, other string) func(results) (float64, bool) {
	return func(rs results) (float64, bool) { return rs.ratio(q, selfPeer, other) }
}

// inverse turns a cost into a benefit, and the other way round.
func inverse(f func(results) (float64, bool)) func(results) (float64, bool) {
	return func(rs results) (float64, bool) {
		v, ok := f(rs)
		return 1 / v, ok && v > 0
	}
}

func versusBest(q question, less bool) func(results) (float64, bool) {
	return func(rs results) (float64, bool) { return rs.ratio(q, selfPeer, rs.best(q, cachingPeers, less)) }
}

func alone(q question) func(results) (float64, bool) {
	return func(rs results) (float64, bool) { return rs.median(q, selfPeer) }
}

// worst returns the greatest of all values that nearsight has for the metric,
// of the workload or of all if that is empty.
func worst(workload, metric string) func(results) (float64, bool) {
	return func(rs results) (most float64, ok bool) {
		for _, r := range rs {
			if r.peer == selfPeer && r.Metric == metric && (workload == "" || r.workload == workload) && (!ok || r.Value > most) {
				most, ok = r.Value, true
			}
		}
		return most, ok
	}
}

// showVersusPrototype compares with the prototype as fast as it would be here.
func showVersusPrototype(rs results) (float64, bool) {
	show, ok := rs.median(question{"W7", "split", "show,c=16", "rate"}, selfPeer)
	now, scaled := rs.median(question{"W6", "split", "c=16", "rate"}, staticPeer)
	if !scaled {
		now = static304Then
	}
	return show / (prototypeShow * now / static304Then), ok
}

func bars() []bar {
	w1 := func(pin, metric string) question { return question{"W1", pin, "c=4", metric} }
	w2 := func(size, metric string) question { return question{"W2", "split", "size=" + size + ",c=16", metric} }
	w4 := func(variant, metric string) question { return question{"W4", "none", variant, metric} }
	w5 := func(pass, metric string) question { return question{"W5", "none", "pass=" + pass, metric} }
	w8 := func(metric string) question { return question{"W8", "none", "after", metric} }
	fairness := func(rs results) (float64, bool) {
		p99, ok := rs.median(w2("1024k", "p99"), selfPeer)
		p50, ok50 := rs.median(w2("1024k", "p50"), selfPeer)
		return p99 / p50, ok && ok50 && p50 > 0
	}
	laterThanVarnish := func(rs results) (float64, bool) {
		return rs.paired(w4(stormBig, "ttfb_p50"), selfPeer, varnishPeer, func(a, b float64) float64 { return a - b })
	}
	overGlance := func(variant string) func(results) (float64, bool) {
		return func(rs results) (float64, bool) {
			v, ok := rs.median(question{"W7", "split", variant, "rate"}, selfPeer)
			return v / glanceShow, ok
		}
	}
	return []bar{
		{"W1", "bytes a CPU second : static-nginx", inverse(versus(w1("split", "cpu_per_gib"), staticPeer)), false, 1, "x"},
		{"W1", "bytes a CPU second : best caching peer", inverse(versusBest(w1("split", "cpu_per_gib"), true)), false, 1, "x"},
		{"W1", "throughput unpinned : static-nginx", versus(w1("none", "throughput"), staticPeer), false, 1, "x"},
		{"W2", "64 KiB, 16 connections: req/s : static-nginx", versus(w2("64k", "rate"), staticPeer), false, 1.1, "x"},
		{"W2", "64 KiB, 16 connections: req/s : nginx-slice4m", versus(w2("64k", "rate"), "nginx-slice4m"), false, 1.2, "x"},
		{"W2", "64 KiB, 16 connections: req/s : varnish-malloc", versus(w2("64k", "rate"), varnishPeer), false, 1.7, "x"},
		{"W2", "1 MiB, 16 connections: req/s : static-nginx", versus(w2("1024k", "rate"), staticPeer), false, 1, "x"},
		{"W2", "64 KiB, 16 connections: p99 : nginx-slice4m", versus(w2("64k", "p99"), "nginx-slice4m"), true, 1, "x"},
		{"W2", "1 MiB, 16 connections: p99 : p50", fairness, true, 5, "x"},
		{"W3", "origin at 500 MB/s: wall : direct pull", alone(question{"W3", "none", fillLimited, "over_direct"}), true, 1.05, "x"},
		{"W3", "wall : nginx-slice4m", versus(question{"W3", "none", fillFree, "wall"}, "nginx-slice4m"), true, 1, "x"},
		{"W4", "origin bytes : non-zero data, 1 GiB", alone(w4(stormBig, "origin_ratio")), true, 1.004, "x"},
		{"W4", "origin bytes : non-zero data, 60 % zeros", alone(w4(stormSparse, "origin_ratio")), true, 1.004, "x"},
		{"W4", "wall : ideal", alone(w4(stormBig, "wall_over_ideal")), true, 1.02, "x"},
		{"W4", "first byte, later than varnish-malloc", laterThanVarnish, true, 5, "ms"},
		{"W5", "origin bytes : asked", alone(w5("1", "amplification")), true, 4.2, "x"},
		{"W5", "first pass p99 : nginx-slice1m", versus(w5("1", "p99"), "nginx-slice1m"), true, 1, "x"},
		{"W5", "first pass maximum : nginx-slice1m", versus(w5("1", "max"), "nginx-slice1m"), true, 1, "x"},
		{"W5", "second pass p99 : nginx-slice1m", versus(w5("2", "p99"), "nginx-slice1m"), true, 1, "x"},
		{"W6", "304/s : static-nginx", versus(question{"W6", "split", "c=16", "rate"}, staticPeer), false, 1, "x"},
		{"W7", "show : Glance's show (137/s)", overGlance("show,c=16"), false, 200, "x"},
		{"W7", "list(25) : Glance's show (137/s)", overGlance("list,c=16"), false, 200, "x"},
		{"W7", "show : gin and sqlite prototype, scaled", showVersusPrototype, false, 1, "x"},
		{"W8", "fetched again", alone(w8("refetched")), true, 16 << 20, "B"},
		{"W8", "right bytes after it", alone(w8("sha_ok")), false, 1, ""},
		{"W8", "up again after", worst("W8", "up"), true, 1, "s"},
		{"W10", "upload : slowest of network, hash, store", alone(question{"W10", "none", "1g", "ratio"}), false, 0.8, "x"},
		{"all", "memory without files, most", worst("", "rss_anon_peak"), true, 100, "MiB"},
		{"all", "errors and wrong bytes, most", worst("", "errors"), true, 0, ""},
	}
}

// writeBars writes a Markdown table of all bars.
func writeBars(w io.Writer, rs results) error {
	out := bufio.NewWriter(w)
	fmt.Fprint(out, "\n| workload | what | bar | measured | |\n|---|---|---|---|---|\n")
	for _, b := range bars() {
		sign := "≥"
		if b.most {
			sign = "≤"
		}
		v, ok := b.value(rs)
		fmt.Fprintf(out, "| %s | %s | %s %s %s | %s | %s |\n", b.workload, b.what, sign, number(b.limit), b.unit, orDash(v, ok), b.verdict(v, ok))
	}
	return out.Flush()
}
