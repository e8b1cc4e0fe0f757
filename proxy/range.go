package proxy

import (
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// This file decides what a request gets: the whole, ranges, or nothing (RFC
// 9110, sections 13 and 14). It is pure: no clock, no input or output.
// net/http has the same logic inside ServeContent, with faults that fronts and
// clients notice: ranges on HEAD, 416 to units it does not know, an upside-down
// 206 to bytes=-0, no Content-Range on a malformed set.

// maxRanges is how many ranges one answer may have. Image tools ask for a header
// and a footer; who asks for more is answered with the whole (RFC 9110, section
// 17.15).
const maxRanges = 32

// A representation is what preconditions and ranges are about.
type representation struct {
	tag      string    // strong entity tag, quotes included
	modified time.Time // whole seconds; zero means unknown
	size     int64     // bytes
}

// A span is n bytes from byte off on.
type span struct{ off, n int64 }

// decide returns the status of a GET or HEAD for rep, and the spans of a 206.
// The other statuses are 200, 304, 412 and 416. The order is that of RFC 9110,
// section 13.2.2. now serves to read two-digit years.
func decide(method string, h http.Header, rep representation, now time.Time) (status int, spans []span) {
	if status := precondition(h, rep, now); status != 0 {
		return status, nil
	}
	lines := h["Range"]
	if len(lines) == 0 || method != http.MethodGet || !ifRange(h["If-Range"], rep, now) {
		return http.StatusOK, nil
	}
	spans, ok := parseRange(lines, rep.size)
	switch {
	case !ok:
		return http.StatusRequestedRangeNotSatisfiable, nil
	case spans == nil:
		return http.StatusOK, nil
	}
	return http.StatusPartialContent, spans
}

// precondition evaluates the conditions of a GET or HEAD: 412, 304, or 0 to go
// on.
func precondition(h http.Header, rep representation, now time.Time) int {
	if match := h["If-Match"]; len(match) > 0 {
		if !anyTag(match, rep.tag, false) {
			return http.StatusPreconditionFailed
		}
	} else if t, ok := dateField(h["If-Unmodified-Since"], rep, now); ok && rep.modified.After(t) {
		return http.StatusPreconditionFailed
	}
	if none := h["If-None-Match"]; len(none) > 0 {
		if anyTag(none, rep.tag, true) {
			return http.StatusNotModified
		}
	} else if t, ok := dateField(h["If-Modified-Since"], rep, now); ok && !rep.modified.After(t) {
		return http.StatusNotModified
	}
	return 0
}

// ifRange reports whether Range counts. Only the very tag, by strong comparison,
// or the very date does (RFC 9110, section 13.1.5).
func ifRange(lines []string, rep representation, now time.Time) bool {
	switch {
	case len(lines) == 0:
		return true
	case len(lines) > 1:
		return false
	case strings.HasPrefix(lines[0], `"`):
		return lines[0] == rep.tag
	}
	t, ok := dateField(lines, rep, now)
	return ok && t.Equal(rep.modified)
}

// anyTag reports whether tag is among the entity tags in the lines of a field,
// by weak or strong comparison. A * alone is any tag. A malformed member ends
// its line; a comma inside quotes belongs to the tag.
func anyTag(lines []string, tag string, weak bool) bool {
	for _, line := range lines {
		if strings.Trim(line, " \t") == "*" {
			return true
		}
		for {
			line = strings.TrimLeft(line, " \t,")
			opaque, isWeak := strings.CutPrefix(line, "W/")
			if !strings.HasPrefix(opaque, `"`) {
				break
			}
			end := strings.IndexByte(opaque[1:], '"')
			if end < 0 {
				break
			}
			member, rest := opaque[:end+2], strings.TrimLeft(opaque[end+2:], " \t")
			if rest != "" && rest[0] != ',' {
				break
			}
			if member == tag && (weak || !isWeak) {
				return true
			}
			line = rest
		}
	}
	return false
}

// dateField returns the date of a field that holds one, and whether it counts:
// there is one, it is well-formed, and rep has a date to compare it with.
func dateField(lines []string, rep representation, now time.Time) (time.Time, bool) {
	if len(lines) != 1 || rep.modified.IsZero() {
		return time.Time{}, false
	}
	return parseDate(lines[0], now)
}

// parseDate reads the three forms of an HTTP-date (RFC 9110, section 5.6.7). A
// two-digit year that seems more than 50 years ahead of now is in the past.
func parseDate(s string, now time.Time) (time.Time, bool) {
	if t, err := time.Parse(http.TimeFormat, s); err == nil {
		return t, true
	}
	if t, err := time.Parse("Monday, 02-Jan-06 15:04:05 GMT", s); err == nil {
		century := now.Year() - now.Year()%100
		t = t.AddDate(century+t.Year()%100-t.Year(), 0, 0)
		if t.After(now.AddDate(50, 0, 0)) {
			t = t.AddDate(-100, 0, 0)
		}
		return t, true
	}
	t, err := time.Parse(time.ANSIC, s)
	return t, err == nil
}

// parseRange reads the lines of a Range field for an image of size bytes. It
// returns false for what is malformed or lies beyond the image as a whole, and
// no spans when the field is to be ignored: an unknown unit, an image of no
// bytes, or more than maxRanges ranges or size bytes in all. Otherwise every
// span has bytes and lies inside the image, in the order asked.
func parseRange(lines []string, size int64) ([]span, bool) {
	if len(lines) != 1 {
		return nil, false
	}
	unit, set, found := strings.Cut(lines[0], "=")
	if !found || !isToken(unit) {
		return nil, false
	}
	if !strings.EqualFold(unit, "bytes") {
		return nil, true
	}
	var spans []span
	members, left, excess := 0, size, false
	for member := range strings.SplitSeq(set, ",") {
		member = strings.Trim(member, " \t")
		if member == "" {
			continue
		}
		s, ok := parseSpan(member, size)
		if !ok {
			return nil, false
		}
		members++
		if s.n == 0 {
			continue
		}
		if s.n > left || len(spans) == maxRanges {
			excess = true // and go on: what follows may be malformed
			continue
		}
		left -= s.n
		spans = append(spans, s)
	}
	switch {
	case members == 0:
		return nil, false
	case size == 0, excess:
		return nil, true
	}
	return spans, spans != nil
}

// parseSpan reads a-b, a- or -n. It returns false for what is malformed, and a
// span without bytes for what lies beyond the image. Numbers may be of any
// length.
func parseSpan(s string, size int64) (span, bool) {
	first, last, found := strings.Cut(s, "-")
	if !found || !isDigits(first) || !isDigits(last) || first == "" && last == "" {
		return span{}, false
	}
	if first == "" {
		n := min(number(last), size)
		return span{size - n, n}, true
	}
	if last != "" && less(last, first) {
		return span{}, false
	}
	off, end := number(first), size-1
	if off >= size {
		return span{}, true
	}
	if last != "" {
		end = min(end, number(last))
	}
	return span{off, end - off + 1}, true
}

// number returns the value of a string of digits, at most 2^63-1.
func number(digits string) int64 {
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil { // the only fault that digits can have is their number
		return math.MaxInt64
	}
	return n
}

// less compares strings of digits of any length by their values.
func less(a, b string) bool {
	a, b = strings.TrimLeft(a, "0"), strings.TrimLeft(b, "0")
	if len(a) != len(b) {
		return len(a) < len(b)
	}
	return a < b
}

func isDigits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return true
}

// isToken reports whether s is a token (RFC 9110, section 5.6.2).
func isToken(s string) bool {
	for i := range len(s) {
		c := s[i]
		if c <= ' ' || c >= 0x7f || strings.IndexByte(`"(),/:;<=>?@[\]{}`, c) >= 0 {
			return false
		}
	}
	return s != ""
}
