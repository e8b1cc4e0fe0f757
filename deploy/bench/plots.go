package main

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"path/filepath"
)

const progressMetric = "progress_" // and the part of the bytes that arrived, in percent

// writePlots draws the plots of the README into dir, which is made if missing.
// Plots of what was not measured are left out.
func writePlots(dir string, rs results) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for name, c := range plots(rs) {
		if len(c.series) == 0 {
			continue
		}
		var b bytes.Buffer
		if err := c.write(&b); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, name+".svg"), b.Bytes(), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// plots returns all plots by file name.
func plots(rs results) map[string]chart {
	return map[string]chart{
		"w1-throughput": {
			title: "Whole 1 GiB image from a warm cache", unit: "GiB/s",
			note:   "4 connections; one core for the server, or both shared with the client",
			groups: []string{"one server core", "nothing pinned"},
			series: rs.bars(question{"W1", "split", "c=4", "throughput"}, question{"W1", "none", "c=4", "throughput"}),
		},
		"w2-rate": {
			title: "Random ranges from a warm cache", unit: "requests/s", log: true,
			note:   "16 connections, one server core; more is better, logarithmic",
			groups: []string{"64 KiB", "1 MiB"},
			series: rs.bars(question{"W2", "split", "size=64k,c=16", "rate"}, question{"W2", "split", "size=1024k,c=16", "rate"}),
		},
		"w2-p99": {
			title: "Random ranges from a warm cache: latency", unit: "µs, 99th percentile", log: true,
			note:   "16 connections, one server core; less is better, logarithmic",
			groups: []string{"64 KiB", "1 MiB"},
			series: rs.bars(question{"W2", "split", "size=64k,c=16", "p99"}, question{"W2", "split", "size=1024k,c=16", "p99"}),
		},
		"w4-progress": {
			title: "32 clients pull a cold 1 GiB image", unit: "% of all bytes at the clients", across: "seconds",
			note:   "the origin sends 100 MB/s in all",
			series: rs.progress(stormBig),
		},
		"w5-lazy-boot": {
			title: "Lazy boot: random 64 KiB ranges over a tenth of a cold image", unit: "µs, 99th percentile", log: true,
			note:   "one connection; less is better, logarithmic",
			groups: []string{"first pass", "second pass"},
			series: rs.bars(question{"W5", "none", "pass=1", "p99"}, question{"W5", "none", "pass=2", "p99"}),
		},
	}
}

// plotted are the servers in the order of legends, so that each has one colour
// in all plots.
var plotted = append([]string{selfPeer, staticPeer}, cachingPeers...)

// bars returns a series per server, with the median for each question.
func (rs results) bars(questions ...question) []series {
	var all []series
	for i, p := range plotted {
		one := series{name: p, colour: i}
		found := false
		for _, q := range questions {
			v, ok := rs.median(q, p)
			if !ok {
				v = math.NaN()
			}
			found = found || ok
			one.values = append(one.values, v)
		}
		if found {
			all = append(all, one)
		}
	}
	return all
}

// progress returns, for every server, when which part of the bytes of a storm
// had arrived: medians.
func (rs results) progress(variant string) []series {
	var all []series
	for i, p := range plotted {
		one := series{name: p, colour: i, points: []point{{0, 0}}}
		for percent := progressStep; percent <= 100; percent += progressStep {
			if v, ok := rs.median(question{"W4", "none", variant, progressName(percent)}, p); ok {
				one.points = append(one.points, point{v, float64(percent)})
			}
		}
		if len(one.points) > 1 {
			all = append(all, one)
		}
	}
	return all
}

// progressStep is the distance of two rows of progress, in percent.
const progressStep = 5

func progressName(percent int) string { return fmt.Sprintf("%s%03d", progressMetric, percent) }
