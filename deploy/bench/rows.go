package main

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
)

// A figure is one measured value.
type figure struct {
	Metric string  `json:"metric"`
	Value  float64 `json:"value"`
	Unit   string  `json:"unit"`
}

// A row is a figure and what it belongs to: a line of the results file, its
// fields in this order with tabs between them.
type row struct {
	round    int
	pin      string // split or none
	peer     string
	workload string // W1 to W10
	variant  string // connections, sizes, limits: what tells apart the cases of a workload
	figure
}

func (r row) String() string {
	return fmt.Sprintf("%d\t%s\t%s\t%s\t%s\t%s\t%s\t%s", r.round, r.pin, r.peer, r.workload, r.variant,
		r.Metric, strconv.FormatFloat(r.Value, 'f', -1, 64), r.Unit)
}

// parseRow is the inverse of String.
func parseRow(line string) (row, error) {
	f := strings.Split(line, "\t")
	if len(f) != 8 {
		return row{}, fmt.Errorf("%d fields, not 8", len(f))
	}
	round, err := strconv.Atoi(f[0])
	if err != nil {
		return row{}, fmt.Errorf("round: %w", err)
	}
	value, err := strconv.ParseFloat(f[6], 64)
	if err != nil {
		return row{}, fmt.Errorf("value: %w", err)
	}
	if math.IsNaN(value) || math.IsInf(value, 0) {
		return row{}, fmt.Errorf("value: %v is not finite", value)
	}
	return row{round, f[1], f[2], f[3], f[4], figure{f[5], value, f[7]}}, nil
}

// readRows reads a results file. Empty lines and those that begin with # do not
// count.
func readRows(r io.Reader) (results, error) {
	var rows results
	lines := bufio.NewScanner(r)
	for n := 1; lines.Scan(); n++ {
		line := lines.Text()
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		parsed, err := parseRow(line)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		rows = append(rows, parsed)
	}
	return rows, lines.Err()
}

func readRowFile(path string) (results, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	rows, err := readRows(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return rows, nil
}

// Results are the rows of a run, in any order.
type results []row

// A question selects the rows of one metric. An empty pin or variant selects
// all there are.
type question struct{ workload, pin, variant, metric string }

func (q question) matches(r row) bool {
	return r.workload == q.workload && r.Metric == q.metric &&
		(q.pin == "" || r.pin == q.pin) && (q.variant == "" || r.variant == q.variant)
}

// byRound returns the values that a peer has for q, by round. When a round has
// several, the last counts.
func (rs results) byRound(q question, peer string) map[int]float64 {
	values := map[int]float64{}
	for _, r := range rs {
		if r.peer == peer && q.matches(r) {
			values[r.round] = r.Value
		}
	}
	return values
}

// values returns what a peer has for q, ascending.
func (rs results) values(q question, peer string) []float64 {
	var values []float64
	for _, r := range rs {
		if r.peer == peer && q.matches(r) {
			values = append(values, r.Value)
		}
	}
	slices.Sort(values)
	return values
}

func (rs results) median(q question, peer string) (float64, bool) {
	return median(rs.values(q, peer))
}

// paired returns the median over the rounds of f(peer's value, other's value).
// Rounds in which one of them is missing do not count: what is compared stood
// side by side.
func (rs results) paired(q question, peer, other string, f func(a, b float64) float64) (float64, bool) {
	theirs := rs.byRound(q, other)
	var values []float64
	for round, a := range rs.byRound(q, peer) {
		if b, ok := theirs[round]; ok {
			if v := f(a, b); !math.IsNaN(v) && !math.IsInf(v, 0) {
				values = append(values, v)
			}
		}
	}
	slices.Sort(values)
	return median(values)
}

// ratio returns the median over the rounds of peer's value by other's.
func (rs results) ratio(q question, peer, other string) (float64, bool) {
	return rs.paired(q, peer, other, func(a, b float64) float64 { return a / b })
}

// best returns the peer among those given that has the best median for q.
func (rs results) best(q question, peers []string, less bool) (name string) {
	var most float64
	for _, p := range peers {
		m, ok := rs.median(q, p)
		if ok && (name == "" || less == (m < most) && m != most) {
			name, most = p, m
		}
	}
	return name
}

// peers returns the names of all peers for which keep holds, in the order of
// first appearance.
func (rs results) peers(keep func(row) bool) []string {
	return rs.distinct(keep, func(r row) string { return r.peer })
}

// distinct returns what key says of all rows for which keep holds, each once.
func (rs results) distinct(keep func(row) bool, key func(row) string) []string {
	var all []string
	seen := map[string]bool{}
	for _, r := range rs {
		if k := key(r); keep(r) && !seen[k] {
			seen[k] = true
			all = append(all, k)
		}
	}
	return all
}

// median returns the middle of ascending values, and whether there is one.
func median(sorted []float64) (float64, bool) {
	n := len(sorted)
	switch {
	case n == 0:
		return 0, false
	case n%2 == 0:
		return (sorted[n/2-1] + sorted[n/2]) / 2, true
	}
	return sorted[n/2], true
}

// quantile returns the value of ascending ones below which the part q is.
func quantile[T cmp.Ordered](sorted []T, q float64) (v T) {
	if len(sorted) == 0 {
		return v
	}
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}

// round keeps so many significant digits of v.
func round(v float64, digits int) float64 {
	r, err := strconv.ParseFloat(strconv.FormatFloat(v, 'g', digits, 64), 64)
	if err != nil {
		return v
	}
	return r
}

// number writes v with four significant digits.
func number(v float64) string { return strconv.FormatFloat(round(v, 4), 'f', -1, 64) }
