package main

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestATableHasMediansAndRatiosOfTheRounds(t *testing.T) {
	q := question{"W1", "split", "c=4", "throughput"}
	rs := append(rowsOf(q, staticPeer, 4, 4, 5), append(rowsOf(q, "squid-rock", 1, 1, 1), rowsOf(q, selfPeer, 8, 6, 5)...)...)
	rs = append(rs, rowsOf(question{"warm", "split", "1g", "sha_ok"}, selfPeer, 1)...)
	var b strings.Builder
	if err := writeTables(&b, rs); err != nil {
		t.Fatal(err)
	}
	const want = `
### W1, c=4, pinning: split

| server | n | throughput (u) | throughput : static-nginx | throughput : best other |
|---|---|---|---|---|
| nearsight | 3 | 6 (5–8) | 1.5 | 6 |
| static-nginx | 3 | 4 (4–5) | – | 0.6667 |
| squid-rock | 3 | 1 | 0.25 | 0.1667 |
`
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
}

func TestBarVerdicts(t *testing.T) {
	least, most := bar{limit: 1.1}, bar{limit: 5, most: true}
	for _, tt := range []struct {
		name string
		bar  bar
		v    float64
		ok   bool
		want string
	}{
		{"what reaches the least is met", least, 1.1, true, "met"},
		{"what is below the least is missed", least, 0.99, true, "missed by 10.0 %"},
		{"what is at the most is met", most, 5, true, "met"},
		{"what is above the most is missed", most, 6, true, "missed by 20.0 %"},
		{"one of none allowed is missed", bar{most: true}, 1, true, "missed by 1"},
		{"what is not there is not measured", least, 0, false, "not measured"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.bar.verdict(tt.v, tt.ok); got != tt.want {
				t.Errorf("%q, want %q", got, tt.want)
			}
		})
	}
}

func TestBarsCompareTheRightWayRound(t *testing.T) {
	cpu := question{"W1", "split", "c=4", "cpu_per_gib"}
	p99 := question{"W2", "split", "size=64k,c=16", "p99"}
	first := question{"W4", "none", stormBig, "ttfb_p50"}
	var rs results
	rs = append(rs, rowsOf(cpu, selfPeer, .2)...)
	rs = append(rs, rowsOf(cpu, staticPeer, .3)...)
	rs = append(rs, rowsOf(cpu, "nginx-slice4m", .16)...)
	rs = append(rs, rowsOf(cpu, "squid-rock", 1.7)...)
	rs = append(rs, rowsOf(p99, selfPeer, 400)...)
	rs = append(rs, rowsOf(p99, "nginx-slice4m", 500)...)
	rs = append(rs, rowsOf(first, selfPeer, 12)...)
	rs = append(rs, rowsOf(first, varnishPeer, 5)...)
	rs = append(rs, rowsOf(question{"W7", "split", "show,c=16", "rate"}, selfPeer, 36800)...)
	rs = append(rs, rowsOf(question{"W6", "split", "c=16", "rate"}, staticPeer, 76000)...)
	want := map[string]float64{
		"bytes a CPU second : static-nginx":           1.5,
		"bytes a CPU second : best caching peer":      .8,
		"64 KiB, 16 connections: p99 : nginx-slice4m": .8,
		"first byte, later than varnish-malloc":       7,
		"show : gin and sqlite prototype, scaled":     2,
		"show : Glance's show (137/s)":                36800.0 / 137,
	}
	for _, b := range bars() {
		v, ok := b.value(rs)
		if w, known := want[b.what]; ok != known || known && math.Abs(v-w) > 1e-9 {
			t.Errorf("%s: %v, %v; want %v, %v", b.what, v, ok, w, known)
		}
		delete(want, b.what)
	}
	for what := range want {
		t.Errorf("no bar says %s", what)
	}
}

func TestTheTableOfBarsHasEveryBar(t *testing.T) {
	var b strings.Builder
	if err := writeBars(&b, nil); err != nil {
		t.Fatal(err)
	}
	if got, want := strings.Count(b.String(), "not measured"), len(bars()); got != want {
		t.Errorf("%d lines of %d bars:\n%s", got, want, b.String())
	}
}

// wellFormed returns the error that an XML parser has with text.
func wellFormed(text []byte) error {
	for d := xml.NewDecoder(bytes.NewReader(text)); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

func TestChartsAreWellFormed(t *testing.T) {
	none := math.NaN()
	for _, tt := range []struct {
		name  string
		chart chart
	}{
		{"bars", chart{title: "a < b & \"c\"", unit: "µs", groups: []string{"<1>", "2"},
			series: []series{{name: "x & y", values: []float64{1, none}}, {name: "z", values: []float64{0, 123456}}}}},
		{"logarithmic bars", chart{log: true, groups: []string{"1"}, series: []series{{name: "x", values: []float64{250}}}}},
		{"bars of nothing", chart{log: true, groups: []string{"1"}, series: []series{{name: "x", values: []float64{none}}}}},
		{"lines", chart{across: "seconds", series: []series{{name: "x", points: []point{{0, 0}, {3, 100}}}, {name: "empty"}}}},
		{"a line that has one place", chart{series: []series{{name: "x", points: []point{{0, 0}}}}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var b bytes.Buffer
			if err := tt.chart.write(&b); err != nil {
				t.Fatal(err)
			}
			if err := wellFormed(b.Bytes()); err != nil {
				t.Errorf("%v in\n%s", err, b.Bytes())
			}
			for _, bad := range []string{"NaN", "Inf"} {
				if bytes.Contains(b.Bytes(), []byte(bad)) {
					t.Errorf("%s in\n%s", bad, b.Bytes())
				}
			}
		})
	}
}

func TestAChartFailsWhenItsWriterDoes(t *testing.T) {
	r, w := io.Pipe()
	r.Close()
	if err := (chart{}).write(w); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("%v", err)
	}
}

func TestPlotsAreDrawnForWhatWasMeasured(t *testing.T) {
	rs := rowsOf(question{"W1", "split", "c=4", "throughput"}, selfPeer, 4, 5)
	rs = append(rs, rowsOf(question{"W4", "none", stormBig, progressName(5)}, varnishPeer, .5)...)
	rs = append(rs, rowsOf(question{"W4", "none", stormBig, progressName(100)}, varnishPeer, 11)...)
	dir := filepath.Join(t.TempDir(), "plots")
	if err := writePlots(dir, rs); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(files) != 2 {
		t.Fatalf("%v, %v; want w1-throughput.svg and w4-progress.svg", files, err)
	}
	for file, name := range map[string]string{"w1-throughput.svg": selfPeer, "w4-progress.svg": varnishPeer} {
		text, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			t.Fatal(err)
		}
		if err := wellFormed(text); err != nil || !bytes.Contains(text, []byte(name)) {
			t.Errorf("%s: %v, or it lacks %s", file, err, name)
		}
	}
}

func TestNiceEndsOfAxes(t *testing.T) {
	for v, want := range map[float64]float64{0: 1, 1: 1, 1.2: 1.5, 4.4: 5, 11: 15, 999: 1000, 58500: 60000} {
		if got := (chart{}).nice(v); math.Abs(got-want) > 1e-9*want {
			t.Errorf("an axis for %v ends at %v, not %v", v, got, want)
		}
	}
	if got := thousands(1234567); got != "1,235,000" {
		t.Errorf("thousands: %s", got)
	}
}
