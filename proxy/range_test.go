package proxy

import (
	"fmt"
	"math/big"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"
)

var (
	testModified = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	testNow      = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	testRep      = representation{tag: `"46cd"`, modified: testModified, size: 1000}
)

const testDate = "Fri, 02 Jan 2026 03:04:05 GMT"

// header makes a header of lines like "Name: value".
func header(lines ...string) http.Header {
	h := http.Header{}
	for _, line := range lines {
		name, value, _ := strings.Cut(line, ":")
		h.Add(name, strings.TrimSpace(value))
	}
	return h
}

func TestDecide(t *testing.T) {
	for _, tt := range []struct {
		name   string
		fields []string
		status int
		spans  string
	}{
		{"nothing asked", nil, 200, ""},

		{"C0 If-Match comes before If-None-Match", []string{`If-Match: "x"`, `If-None-Match: "46cd"`}, 412, ""},
		{"C0 a tag match comes before an unsatisfiable range", []string{`If-None-Match: "46cd"`, "Range: bytes=1000-"}, 304, ""},
		{"C0 412 comes before a malformed range", []string{`If-Match: "x"`, "Range: bytes=x"}, 412, ""},

		{"C1 exact", []string{`If-None-Match: "46cd"`}, 304, ""},
		{"C1 weak comparison", []string{`If-None-Match: W/"46cd"`}, 304, ""},
		{"C1 list", []string{`If-None-Match: "a,b", W/"46cd"`}, 304, ""},
		{"C1 list without blanks and with empty members", []string{`If-None-Match: ,"a",,"46cd",`}, 304, ""},
		{"C1 two lines", []string{`If-None-Match: "a"`, `If-None-Match: "46cd"`}, 304, ""},
		{"C1 star", []string{`If-None-Match: *`}, 304, ""},
		{"C1 other", []string{`If-None-Match: "46ce"`}, 200, ""},
		{"C1 one character more inside", []string{`If-None-Match: "46cdx"`}, 200, ""},
		{"C1 one character more behind", []string{`If-None-Match: "46cd"x`}, 200, ""},
		{"C1 a comma inside quotes belongs to the tag", []string{`If-None-Match: "a,"46cd"`}, 200, ""},
		{"C1 unquoted", []string{`If-None-Match: 46cd`}, 200, ""},
		{"C1 unclosed", []string{`If-None-Match: "46cd`}, 200, ""},
		{"C1 lower-case w", []string{`If-None-Match: w/"46cd"`}, 200, ""},
		{"C1 empty", []string{`If-None-Match:`}, 200, ""},

		{"C2 equal", []string{"If-Modified-Since: " + testDate}, 304, ""},
		{"C2 a second later", []string{"If-Modified-Since: Fri, 02 Jan 2026 03:04:06 GMT"}, 304, ""},
		{"C2 a day earlier", []string{"If-Modified-Since: Thu, 01 Jan 2026 03:04:05 GMT"}, 200, ""},
		{"C2 ahead of the clock", []string{"If-Modified-Since: Tue, 24 Nov 2026 13:00:00 GMT"}, 304, ""},
		{"C2 RFC 850", []string{"If-Modified-Since: Friday, 02-Jan-26 03:04:05 GMT"}, 304, ""},
		{"C2 asctime", []string{"If-Modified-Since: Fri Jan  2 03:04:05 2026"}, 304, ""},
		{"C2 yesterday is no date", []string{"If-Modified-Since: yesterday"}, 200, ""},
		{"C2 another zone is no HTTP-date", []string{"If-Modified-Since: Fri, 02 Jan 2026 03:04:05 CET"}, 200, ""},
		{"C2 two lines are no date", []string{"If-Modified-Since: " + testDate, "If-Modified-Since: " + testDate}, 200, ""},
		{"C2 ignored beside If-None-Match", []string{`If-None-Match: "x"`, "If-Modified-Since: " + testDate}, 200, ""},
		{"C2 ignored beside a malformed If-None-Match", []string{`If-None-Match: x`, "If-Modified-Since: " + testDate}, 200, ""},

		{"C3 match", []string{`If-Match: "46cd"`}, 200, ""},
		{"C3 other", []string{`If-Match: "x"`}, 412, ""},
		{"C3 weak never matches", []string{`If-Match: W/"46cd"`}, 412, ""},
		{"C3 star", []string{`If-Match: *`}, 200, ""},
		{"C3 list", []string{`If-Match: "x", "46cd"`}, 200, ""},
		{"C3 empty", []string{`If-Match:`}, 412, ""},
		{"C3 pins a range", []string{`If-Match: "old"`, "Range: bytes=100-"}, 412, ""},
		{"C3 match with a range", []string{`If-Match: "46cd"`, "Range: bytes=100-"}, 206, "100+900"},

		{"C4 equal", []string{"If-Unmodified-Since: " + testDate}, 200, ""},
		{"C4 later", []string{"If-Unmodified-Since: Sat, 03 Jan 2026 03:04:05 GMT"}, 200, ""},
		{"C4 earlier", []string{"If-Unmodified-Since: Thu, 01 Jan 2026 00:00:00 GMT"}, 412, ""},
		{"C4 earlier with a range", []string{"If-Unmodified-Since: Thu, 01 Jan 2026 00:00:00 GMT", "Range: bytes=0-1"}, 412, ""},
		{"C4 earlier beside a good If-Match", []string{"If-Unmodified-Since: Thu, 01 Jan 2026 00:00:00 GMT", `If-Match: "46cd"`}, 200, ""},
		{"C4 yesterday is no date", []string{"If-Unmodified-Since: yesterday"}, 200, ""},

		{"R1 first byte", []string{"Range: bytes=0-0"}, 206, "0+1"},
		{"R1 last byte", []string{"Range: bytes=999-999"}, 206, "999+1"},
		{"R1 whole", []string{"Range: bytes=0-999"}, 206, "0+1000"},
		{"R1 open", []string{"Range: bytes=10-"}, 206, "10+990"},
		{"R1 clipped", []string{"Range: bytes=990-2000"}, 206, "990+10"},
		{"R1 suffix", []string{"Range: bytes=-10"}, 206, "990+10"},
		{"R1 suffix of one", []string{"Range: bytes=-1"}, 206, "999+1"},
		{"R1 suffix of all", []string{"Range: bytes=-1000"}, 206, "0+1000"},
		{"R1 suffix longer than the image", []string{"Range: bytes=-2000"}, 206, "0+1000"},

		{"R3 unknown unit", []string{"Range: items=0-9"}, 200, ""},
		{"R3 unknown unit with a set that bytes would not have", []string{"Range: items=9-5"}, 200, ""},
		{"R3 bytes in any case", []string{"Range: Bytes=0-9"}, 206, "0+10"},

		{"R4 no equals sign", []string{"Range: bytes 0-9"}, 416, ""},
		{"R4 no unit", []string{"Range: =0-9"}, 416, ""},
		{"R4 a blank in the unit", []string{"Range: bytes =0-9"}, 416, ""},
		{"R4 nothing", []string{"Range:"}, 416, ""},
		{"R4 empty set", []string{"Range: bytes="}, 416, ""},
		{"R4 only commas", []string{"Range: bytes=, ,"}, 416, ""},
		{"R4 letters", []string{"Range: bytes=a-b"}, 416, ""},
		{"R4 sign", []string{"Range: bytes=+0-9"}, 416, ""},
		{"R4 dot", []string{"Range: bytes=0.5-9"}, 416, ""},
		{"R4 hex", []string{"Range: bytes=0x0-0x9"}, 416, ""},
		{"R4 inner blank", []string{"Range: bytes=0 -9"}, 416, ""},
		{"R4 first beyond last", []string{"Range: bytes=9-5"}, 416, ""},
		{"R4 first beyond last, both huge", []string{"Range: bytes=0-0,100000000000000000000001-100000000000000000000000"}, 416, ""},
		{"R4 two dashes", []string{"Range: bytes=0-5-9"}, 416, ""},
		{"R4 doubled dash", []string{"Range: bytes=--5"}, 416, ""},
		{"R4 only a dash", []string{"Range: bytes=-"}, 416, ""},
		{"R4 one bad member", []string{"Range: bytes=0-1,x,5-6"}, 416, ""},
		{"R4 a bad member behind too many", []string{"Range: bytes=" + strings.Repeat("0-0,", 40) + "x"}, 416, ""},
		{"R4 two lines", []string{"Range: bytes=0-1", "Range: bytes=2-3"}, 416, ""},
		{"R4 numbers of any length", []string{"Range: bytes=5-99999999999999999999999"}, 206, "5+995"},
		{"R4 leading zeros", []string{"Range: bytes=0000000000000000000000005-06"}, 206, "5+2"},
		{"R4 a suffix of any length", []string{"Range: bytes=-99999999999999999999999"}, 206, "0+1000"},

		{"R5 at the end", []string{"Range: bytes=1000-"}, 416, ""},
		{"R5 beyond the end", []string{"Range: bytes=1001-1005"}, 416, ""},
		{"R5 far beyond the end", []string{"Range: bytes=10000000000000000000000000-"}, 416, ""},
		{"R5 suffix of nothing", []string{"Range: bytes=-0"}, 416, ""},
		{"R5 a list of such", []string{"Range: bytes=1000-,-0,2000-3000"}, 416, ""},

		{"R6 header and footer", []string{"Range: bytes=0-511,-488"}, 206, "0+512 512+488"},
		{"R6 descending", []string{"Range: bytes=500-509,0-9"}, 206, "500+10 0+10"},
		{"R6 adjacent", []string{"Range: bytes=0-9,10-19"}, 206, "0+10 10+10"},
		{"R6 twice the same", []string{"Range: bytes=0-9,0-9"}, 206, "0+10 0+10"},
		{"R6 overlapping", []string{"Range: bytes=0-9,5-14"}, 206, "0+10 5+10"},
		{"R6 blanks, tabs and empty members", []string{"Range: bytes= ,0-0 ,\t, 2-2,"}, 206, "0+1 2+1"},
		{"R6 unsatisfiable members drop out", []string{"Range: bytes=0-9,1000-,-0"}, 206, "0+10"},

		{"R7 sixty times the whole", []string{"Range: bytes=" + strings.Repeat("0-,", 60)}, 200, ""},
		{"R7 a hundred tiny ones", []string{"Range: bytes=" + strings.Repeat("1-1,", 100)}, 200, ""},
		{"R7 thirty-two are few enough", []string{"Range: bytes=" + strings.Repeat("1-1,", 32)}, 206, strings.Repeat("1+1 ", 31) + "1+1"},
		{"R7 thirty-three are too many", []string{"Range: bytes=" + strings.Repeat("1-1,", 33)}, 200, ""},
		{"R7 one byte more than the image", []string{"Range: bytes=0-999,0-0"}, 200, ""},
		{"R7 exactly the image", []string{"Range: bytes=500-,0-499"}, 206, "500+500 0+500"},

		{"R8 right tag", []string{`If-Range: "46cd"`, "Range: bytes=0-9"}, 206, "0+10"},
		{"R8 other tag", []string{`If-Range: "old"`, "Range: bytes=0-9"}, 200, ""},
		{"R8 weak tag", []string{`If-Range: W/"46cd"`, "Range: bytes=0-9"}, 200, ""},
		{"R8 unquoted tag", []string{`If-Range: 46cd`, "Range: bytes=0-9"}, 200, ""},
		{"R8 equal date", []string{"If-Range: " + testDate, "Range: bytes=0-9"}, 206, "0+10"},
		{"R8 earlier date", []string{"If-Range: Thu, 01 Jan 2026 00:00:00 GMT", "Range: bytes=0-9"}, 200, ""},
		{"R8 later date", []string{"If-Range: Sat, 03 Jan 2026 00:00:00 GMT", "Range: bytes=0-9"}, 200, ""},
		{"R8 empty", []string{"If-Range:", "Range: bytes=0-9"}, 200, ""},
		{"R8 two lines", []string{`If-Range: "46cd"`, `If-Range: "46cd"`, "Range: bytes=0-9"}, 200, ""},
		{"R8 false and unsatisfiable", []string{`If-Range: "old"`, "Range: bytes=1000-"}, 200, ""},
		{"R8 false and malformed", []string{`If-Range: "old"`, "Range: bytes=x"}, 200, ""},
		{"R8 true and unsatisfiable", []string{`If-Range: "46cd"`, "Range: bytes=1000-"}, 416, ""},
		{"R8 several ranges", []string{`If-Range: "46cd"`, "Range: bytes=0-0,2-2"}, 206, "0+1 2+1"},
		{"R8 without Range", []string{`If-Range: "old"`}, 200, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			status, spans := decide(http.MethodGet, header(tt.fields...), testRep, testNow)
			if got := spansText(spans); status != tt.status || got != tt.spans {
				t.Errorf("%d %q, want %d %q", status, got, tt.status, tt.spans)
			}
		})
	}
}

func spansText(spans []span) string {
	var b []string
	for _, s := range spans {
		b = append(b, fmt.Sprintf("%d+%d", s.off, s.n))
	}
	return strings.Join(b, " ")
}

func TestR2HeadIgnoresRange(t *testing.T) {
	for _, set := range []string{"bytes=0-9", "bytes=1000-", "bytes=x", "bytes=0-0,2-2"} {
		if status, spans := decide(http.MethodHead, header("Range: "+set), testRep, testNow); status != 200 || spans != nil {
			t.Errorf("HEAD with %s: %d %v", set, status, spans)
		}
	}
	if status, _ := decide(http.MethodHead, header(`If-None-Match: "46cd"`), testRep, testNow); status != 304 {
		t.Errorf("HEAD with If-None-Match: %d", status)
	}
}

func TestR9AnImageOfNoBytesHasNoRanges(t *testing.T) {
	for set, want := range map[string]int{"bytes=0-0": 200, "bytes=-5": 200, "bytes=0-": 200, "bytes=-0": 200, "bytes=x": 416} {
		rep := representation{tag: `"0"`}
		if status, spans := decide(http.MethodGet, header("Range: "+set), rep, testNow); status != want || spans != nil {
			t.Errorf("%s: %d %v, want %d", set, status, spans, want)
		}
	}
}

func TestDatesDoNotCountForWhatHasNone(t *testing.T) {
	rep := representation{tag: `"0"`, size: 10}
	for field, want := range map[string]int{"If-Modified-Since: ": 200, "If-Unmodified-Since: ": 200, "If-Range: ": 200} {
		if status, _ := decide(http.MethodGet, header(field+testDate, "Range: items=0-1"), rep, testNow); status != want {
			t.Errorf("%s: %d, want %d", field, status, want)
		}
	}
}

func TestTwoDigitYearsFarAheadArePast(t *testing.T) {
	for in, want := range map[string]string{
		"Friday, 02-Jan-26 03:04:05 GMT":   "2026",
		"Sunday, 06-Nov-94 08:49:37 GMT":   "1994",
		"Saturday, 02-Jan-76 03:04:05 GMT": "2076",
		"Saturday, 02-Jan-77 03:04:05 GMT": "1977",
	} {
		got, ok := parseDate(in, testNow)
		if !ok || got.Format("2006") != want {
			t.Errorf("%s: %v, want %s", in, got, want)
		}
	}
}

var oracleSpan = regexp.MustCompile(`^(\d*)-(\d*)$`)

// oracleRange is parseRange, written by the letter and with big numbers.
func oracleRange(lines []string, size int64) ([]span, bool) {
	if len(lines) != 1 {
		return nil, false
	}
	match := regexp.MustCompile("(?s)^([!#$%&'*+.^_`|~0-9A-Za-z-]+)=(.*)$").FindStringSubmatch(lines[0])
	if match == nil {
		return nil, false
	}
	if !regexp.MustCompile("^(?i:bytes)$").MatchString(match[1]) {
		return nil, true
	}
	n, sum := big.NewInt(size), new(big.Int)
	var spans []span
	valid, one := 0, big.NewInt(1)
	for _, member := range strings.Split(match[2], ",") {
		if member = strings.Trim(member, " \t"); member == "" {
			continue
		}
		m := oracleSpan.FindStringSubmatch(member)
		if m == nil || m[1] == "" && m[2] == "" {
			return nil, false
		}
		valid++
		first, last := new(big.Int), new(big.Int).Sub(n, one)
		if m[1] == "" {
			k, _ := new(big.Int).SetString(m[2], 10)
			if first.Sub(n, k); first.Sign() < 0 {
				first.SetInt64(0)
			}
		} else {
			first.SetString(m[1], 10)
			if m[2] != "" {
				l, _ := new(big.Int).SetString(m[2], 10)
				if l.Cmp(first) < 0 {
					return nil, false
				}
				if l.Cmp(last) < 0 {
					last = l
				}
			}
		}
		if first.Cmp(last) > 0 {
			continue
		}
		k := new(big.Int).Sub(last, first)
		k.Add(k, one)
		sum.Add(sum, k)
		spans = append(spans, span{first.Int64(), k.Int64()})
	}
	switch {
	case valid == 0:
		return nil, false
	case size == 0:
		return nil, true
	case len(spans) == 0:
		return nil, false
	case len(spans) > maxRanges || sum.Cmp(n) > 0:
		return nil, true
	}
	return spans, true
}

func FuzzParseRange(f *testing.F) {
	for _, set := range []string{
		"bytes=0-0", "bytes=-5", "bytes=5-", "bytes=0-1,3-4,-2", "items=1-2", "bytes=9-5", "Bytes=,0-0 ,\t", "bytes=-0",
		"bytes=00000000000000000000000000000001-99999999999999999999999999", "bytes=9223372036854775807-", "bytes=--1", "=", "bytes",
		"bytes=" + strings.Repeat("0-0,", 33), "bytes=0-,0-",
	} {
		f.Add(set, int64(1000))
	}
	f.Add("bytes=0-9223372036854775807", int64(1<<63-1))
	f.Add("bytes=0-0", int64(0))
	f.Fuzz(func(t *testing.T, set string, size int64) {
		size = max(size, 0)
		spans, ok := parseRange([]string{set}, size)
		left := size
		for _, s := range spans {
			if s.off < 0 || s.n <= 0 || s.off > size-s.n {
				t.Fatalf("%q of %d: span %v lies outside", set, size, s)
			}
			if left -= s.n; left < 0 {
				t.Fatalf("%q of %d: more than the image", set, size)
			}
		}
		if len(spans) > maxRanges {
			t.Fatalf("%q: %d spans", set, len(spans))
		}
		if want, wantOK := oracleRange([]string{set}, size); ok != wantOK || spansText(spans) != spansText(want) {
			t.Fatalf("%q of %d: %v %v, want %v %v", set, size, spans, ok, want, wantOK)
		}
	})
}

func FuzzDecide(f *testing.F) {
	f.Add(`"46cd"`, `W/"a", "b"`, testDate, "Friday, 02-Jan-26 03:04:05 GMT", `"46cd"`, "bytes=0-1")
	f.Add(`*`, `,,"`, "Fri Jan  2 03:04:05 2026", "yesterday", testDate, "bytes=-1,2-3")
	f.Fuzz(func(t *testing.T, match, none, since, unmodified, ifRange, set string) {
		h := http.Header{
			"If-Match": {match}, "If-None-Match": {none}, "If-Modified-Since": {since},
			"If-Unmodified-Since": {unmodified}, "If-Range": {ifRange}, "Range": {set},
		}
		status, spans := decide(http.MethodGet, h, testRep, testNow)
		switch status {
		case 200, 304, 412, 416:
			if spans != nil {
				t.Fatalf("%d with spans", status)
			}
		case 206:
			if len(spans) == 0 || ifRange != testRep.tag && ifRange[0] == '"' {
				t.Fatalf("206 with %v for If-Range %q", spans, ifRange)
			}
		default:
			t.Fatalf("status %d", status)
		}
	})
}
