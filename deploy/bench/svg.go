package main

import (
	"encoding/xml"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
)

// Colours that people who do not tell red from green tell apart (Okabe and Ito).
var palette = []string{"#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#999999", "#000000"}

// A chart is a picture with one vertical axis that begins at 0, or is
// logarithmic.
type chart struct {
	title, note string
	unit        string // of the vertical axis
	across      string // what the horizontal axis is, for lines
	log         bool
	groups      []string // of bars, from left to right
	series      []series
}

// A series has a name in the legend and a value for every group, NaN where there
// is none; or points, which are joined by a line.
type series struct {
	name   string
	colour int // of the palette
	values []float64
	points []point
}

type point struct{ x, y float64 }

// Sizes in pixels.
const (
	chartWidth, chartHeight     = 860, 420
	leftMargin, rightMargin     = 80, 180
	topMargin, bottomMargin     = 56, 64
	plotWidth, plotHeight       = chartWidth - leftMargin - rightMargin, chartHeight - topMargin - bottomMargin
	legendX, legendStep         = chartWidth - rightMargin + 16, 22
	fontSize, barGap, groupPart = 13, 1.0, 0.82
)

// An svg writes elements; the first error of the writer stays.
type svg struct {
	w   io.Writer
	err error
}

func (s *svg) printf(format string, args ...any) {
	if s.err == nil {
		_, s.err = fmt.Fprintf(s.w, format, args...)
	}
}

func (s *svg) text(x, y float64, anchor, extra, text string) {
	var escaped strings.Builder
	s.err = firstError(s.err, xml.EscapeText(&escaped, []byte(text)))
	s.printf("<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\"%s>%s</text>\n", x, y, anchor, extra, escaped.String())
}

func (s *svg) line(x1, y1, x2, y2 float64, colour string) {
	s.printf("<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"%s\"/>\n", x1, y1, x2, y2, colour)
}

func firstError(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

// write writes the chart as a document of its own.
func (c chart) write(w io.Writer) error {
	s := &svg{w: w}
	s.printf("<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%[1]d\" height=\"%[2]d\" viewBox=\"0 0 %[1]d %[2]d\" "+
		"font-family=\"sans-serif\" font-size=\"%[3]d\">\n<rect width=\"100%%\" height=\"100%%\" fill=\"#ffffff\"/>\n",
		chartWidth, chartHeight, fontSize)
	s.text(leftMargin, 24, "start", ` font-size="17" font-weight="bold"`, c.title)
	s.text(leftMargin, 43, "start", ` fill="#555555"`, c.note)
	low, high := c.extent()
	up := func(v float64) float64 { return topMargin + plotHeight*(1-c.part(v, low, high)) }
	for _, tick := range c.ticks(low, high) {
		s.line(leftMargin, up(tick), leftMargin+plotWidth, up(tick), "#dddddd")
		s.text(leftMargin-8, up(tick)+4, "end", "", thousands(tick))
	}
	s.text(18, topMargin+plotHeight/2, "middle", fmt.Sprintf(` transform="rotate(-90 18 %d)"`, topMargin+plotHeight/2), c.unit)
	if len(c.groups) > 0 {
		c.bars(s, up)
	} else {
		c.lines(s, up)
	}
	s.line(leftMargin, topMargin+plotHeight, leftMargin+plotWidth, topMargin+plotHeight, "#333333")
	for i, one := range c.series {
		y := float64(topMargin + i*legendStep)
		s.printf("<rect x=\"%d\" y=\"%.1f\" width=\"14\" height=\"14\" fill=\"%s\"/>\n", legendX, y, colour(one))
		s.text(legendX+20, y+12, "start", "", one.name)
	}
	s.printf("</svg>\n")
	return s.err
}

func colour(s series) string { return palette[s.colour%len(palette)] }

// bars draws the groups, the bars of each side by side with their values.
func (c chart) bars(s *svg, up func(float64) float64) {
	width := float64(plotWidth) / float64(len(c.groups))
	each := width * groupPart / float64(max(1, len(c.series)))
	for g, name := range c.groups {
		left := leftMargin + float64(g)*width + width*(1-groupPart)/2
		for i, one := range c.series {
			v := one.values[g]
			if math.IsNaN(v) {
				continue
			}
			x, y := left+float64(i)*each, up(v)
			s.printf("<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" fill=\"%s\"/>\n",
				x, y, max(1, each-barGap), topMargin+plotHeight-y, colour(one))
			s.text(x+each/2, y-4, "middle", ` font-size="9" fill="#333333"`, short(v))
		}
		s.text(left+width*groupPart/2, topMargin+plotHeight+20, "middle", "", name)
	}
}

// lines draws the points, and the horizontal axis.
func (c chart) lines(s *svg, up func(float64) float64) {
	most := 0.0
	for _, one := range c.series {
		for _, p := range one.points {
			most = max(most, p.x)
		}
	}
	right := chart{}.nice(most)
	across := func(v float64) float64 { return leftMargin + plotWidth*v/right }
	for _, tick := range (chart{}).ticks(0, right) {
		s.text(across(tick), topMargin+plotHeight+20, "middle", "", thousands(tick))
	}
	s.text(leftMargin+plotWidth/2, topMargin+plotHeight+44, "middle", "", c.across)
	for _, one := range c.series {
		var path strings.Builder
		for n, p := range one.points {
			command := "L"
			if n == 0 {
				command = "M"
			}
			fmt.Fprintf(&path, "%s%.1f %.1f", command, across(p.x), up(p.y))
		}
		if path.Len() > 0 {
			s.printf("<path d=\"%s\" fill=\"none\" stroke=\"%s\" stroke-width=\"2\"/>\n", path.String(), colour(one))
		}
	}
}

// extent returns the ends of the vertical axis.
func (c chart) extent() (low, high float64) {
	low = math.Inf(1)
	for _, one := range c.series {
		for _, v := range one.values {
			if v > 0 {
				low, high = min(low, v), max(high, v)
			}
		}
		for _, p := range one.points {
			high = max(high, p.y)
		}
	}
	if high == 0 {
		high = 1
	}
	if !c.log {
		return 0, c.nice(high)
	}
	low = min(low, high)
	return math.Pow(10, math.Floor(math.Log10(low))), math.Pow(10, math.Ceil(math.Log10(high)))
}

// part returns where v is on the axis, from 0 to 1.
func (c chart) part(v, low, high float64) float64 {
	if c.log {
		if v <= low || low == high {
			return 0
		}
		return math.Log(v/low) / math.Log(high/low)
	}
	return (v - low) / (high - low)
}

// nice returns the first of 1, 2, 2.5, 5 times a power of ten that is no less
// than v.
func (chart) nice(v float64) float64 {
	if v <= 0 {
		return 1
	}
	power := math.Pow(10, math.Floor(math.Log10(v)))
	for _, f := range []float64{1, 1.5, 2, 2.5, 3, 4, 5, 6, 8} {
		if f*power >= v {
			return f * power
		}
	}
	return 10 * power
}

func (c chart) ticks(low, high float64) []float64 {
	var all []float64
	if c.log {
		for v := low; v <= high*1.001; v *= 10 {
			all = append(all, v)
		}
		return all
	}
	for i := range 6 {
		all = append(all, low+(high-low)*float64(i)/5)
	}
	return all
}

// thousands writes v with commas between groups of three digits.
func thousands(v float64) string {
	text := number(v)
	whole, fraction, found := strings.Cut(text, ".")
	for i := len(whole) - 3; i > 0; i -= 3 {
		whole = whole[:i] + "," + whole[i:]
	}
	if found {
		return whole + "." + fraction
	}
	return whole
}

// short writes v in the room above a bar.
func short(v float64) string {
	switch {
	case v >= 10000:
		return strconv.FormatFloat(math.Round(v/1000), 'f', -1, 64) + "k"
	case v >= 1000:
		return strconv.FormatFloat(round(v/1000, 2), 'f', -1, 64) + "k"
	}
	return strconv.FormatFloat(round(v, 2), 'f', -1, 64)
}
