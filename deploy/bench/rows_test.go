package main

import (
	"math"
	"strings"
	"testing"
)

func TestARowIsReadAsItIsWritten(t *testing.T) {
	r := row{3, "split", "nearsight", "W2", "size=64k,c=16", figure{"rate", 58500.25, "req/s"}}
	got, err := parseRow(r.String())
	if err != nil || got != r {
		t.Errorf("%q is read as %v, %v", r, got, err)
	}
}

func TestReadRows(t *testing.T) {
	const good = "1\tsplit\tnearsight\tW1\tc=4\tthroughput\t4.5\tGiB/s\n"
	for _, tt := range []struct {
		name, text string
		rows       int
		err        string
	}{
		{"nothing is no row", "", 0, ""},
		{"comments and empty lines do not count", "# by hand\n\n" + good, 1, ""},
		{"the last line may lack its end", good + strings.TrimSpace(good), 2, ""},
		{"a line of seven fields is refused by its number", good + "1\t2\t3\t4\t5\t6\t7\n", 0, "line 2: 7 fields"},
		{"a round is a number", strings.Replace(good, "1\t", "one\t", 1), 0, "line 1: round"},
		{"a value is a number", strings.Replace(good, "4.5", "fast", 1), 0, "line 1: value"},
		{"a value is finite", strings.Replace(good, "4.5", "NaN", 1), 0, "line 1: value"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			rows, err := readRows(strings.NewReader(tt.text))
			if len(rows) != tt.rows || (err == nil) != (tt.err == "") || err != nil && !strings.HasPrefix(err.Error(), tt.err) {
				t.Errorf("%d rows, %v; want %d, %q", len(rows), err, tt.rows, tt.err)
			}
		})
	}
}

func FuzzParseRow(f *testing.F) {
	f.Add("1\tsplit\tnearsight\tW1\tc=4\tthroughput\t4.5\tGiB/s")
	f.Add("-1\t\t\t\t\t\t-0\t")
	f.Add("1\ta\tb\tc\td\te\tInf\tf")
	f.Fuzz(func(t *testing.T, line string) {
		r, err := parseRow(line)
		if err != nil {
			return
		}
		if again, err := parseRow(r.String()); err != nil || again != r {
			t.Errorf("%q is %v, and that is %v, %v", line, r, again, err)
		}
	})
}

// rowsOf makes rows of one metric, a value a round; NaN leaves the round out.
func rowsOf(q question, peer string, values ...float64) results {
	var rows results
	for i, v := range values {
		if !math.IsNaN(v) {
			rows = append(rows, row{i + 1, q.pin, peer, q.workload, q.variant, figure{q.metric, v, "u"}})
		}
	}
	return rows
}

func TestMedian(t *testing.T) {
	for _, tt := range []struct {
		name   string
		sorted []float64
		want   float64
		ok     bool
	}{
		{"of nothing there is none", nil, 0, false},
		{"of one it is that", []float64{7}, 7, true},
		{"of an odd number it is the middle", []float64{1, 2, 90}, 2, true},
		{"of an even number it is between the two in the middle", []float64{1, 2, 4, 90}, 3, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got, ok := median(tt.sorted); got != tt.want || ok != tt.ok {
				t.Errorf("%v, %v; want %v, %v", got, ok, tt.want, tt.ok)
			}
		})
	}
}

func TestRatio(t *testing.T) {
	q := question{"W1", "split", "c=4", "throughput"}
	none := math.NaN()
	for _, tt := range []struct {
		name        string
		ours, other []float64
		want        float64
		ok          bool
	}{
		{"it is the median of the rounds' ratios, not the ratio of medians", []float64{1, 10, 100}, []float64{1, 100, 10}, 1, true},
		{"drift of the machine cancels", []float64{2, 4, 8}, []float64{1, 2, 4}, 2, true},
		{"a round of one alone does not count", []float64{none, 3}, []float64{1, 1}, 3, true},
		{"without a common round there is none", []float64{1, none}, []float64{none, 1}, 0, false},
		{"a division by zero does not count", []float64{1, 2}, []float64{0, 1}, 2, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			rs := append(rowsOf(q, "a", tt.ours...), rowsOf(q, "b", tt.other...)...)
			if got, ok := rs.ratio(q, "a", "b"); got != tt.want || ok != tt.ok {
				t.Errorf("%v, %v; want %v, %v", got, ok, tt.want, tt.ok)
			}
		})
	}
}

func TestTheBestPeerHasTheBestMedian(t *testing.T) {
	q := question{"W1", "split", "c=4", "x"}
	rs := append(rowsOf(q, "a", 1, 2, 3), append(rowsOf(q, "b", 5), rowsOf(q, "c", 4, 9, 4)...)...)
	peers := []string{"a", "b", "absent", "c"}
	if got := rs.best(q, peers, false); got != "b" {
		t.Errorf("most: %s, not b", got)
	}
	if got := rs.best(q, peers, true); got != "a" {
		t.Errorf("least: %s, not a", got)
	}
	if got := rs.best(q, nil, true); got != "" {
		t.Errorf("of nobody: %s", got)
	}
}

func TestQuantile(t *testing.T) {
	hundred := make([]int64, 100)
	for i := range hundred {
		hundred[i] = int64(i)
	}
	for q, want := range map[float64]int64{0: 0, .5: 50, .99: 99, 1: 99} {
		if got := quantile(hundred, q); got != want {
			t.Errorf("quantile %v is %d, not %d", q, got, want)
		}
	}
	if got := quantile([]int64(nil), .5); got != 0 {
		t.Errorf("of nothing it is %d", got)
	}
}
