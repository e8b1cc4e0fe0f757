package wire

import (
	"bytes"
	"net/http"
	"unsafe"
)

// A Request is a request in canonical form, as most programs write it: GET or
// HEAD in HTTP/1.1, the path a plain one without a query, and of the header
// nothing but what is listed in known, each once and written plainly.
//
// Everything in it lies in the connection's buffer and is gone after the answer.
type Request struct {
	Head bool   // the method is HEAD
	Path string // as on the line
	// Header has the fields that decide what is answered (RFC 9110, sections
	// 13.1 and 14.2), and those that say for whom, under their canonical names.
	Header http.Header

	lines [8][1]string // what Header's values are
	seen  uint32       // bits of known
}

// known are the fields that a request may have, in lower case. Those with a name
// go into Request.Header; the others change nothing in an answer with data.
//
// What is not here may mean something to somebody: such a request is net/http's.
var known = [...]struct{ lower, name string }{
	{"host", ""},
	{"range", "Range"},
	{"if-none-match", "If-None-Match"},
	{"if-range", "If-Range"},
	{"if-match", "If-Match"},
	{"if-modified-since", "If-Modified-Since"},
	{"if-unmodified-since", "If-Unmodified-Since"},
	{"x-auth-token", "X-Auth-Token"},
	{"authorization", "Authorization"},
	{"user-agent", ""},
	{"accept", ""},
	{"accept-encoding", ""},
	{"accept-language", ""},
	{"connection", ""},
}

const (
	seenHost       = 1 << 0
	maxFieldValue  = 1 << 10 // bytes
	longestName    = 20      // of known
	keepAlive      = "keep-alive"
	version        = " HTTP/1.1"
	endOfHeader    = "\r\n\r\n"
	firstNamed     = 1 // of known
	connectionSlot = len(known) - 1
)

// Parse reads the request that b begins with, and returns its length. ok is
// false for what is not whole or not canonical: nothing is known about it then.
// It accepts only what net/http accepts, and understands it as net/http does. r
// may be used again and again; it keeps b.
func (r *Request) Parse(b []byte) (length int, ok bool) {
	end := bytes.Index(b, []byte(endOfHeader))
	if end < 0 {
		return 0, false
	}
	clear(r.Header)
	r.seen = 0
	line, rest := cutLine(b[:end+2])
	if !r.parseLine(line) {
		return 0, false
	}
	for len(rest) > 0 {
		line, rest = cutLine(rest)
		if !r.parseField(line) {
			return 0, false
		}
	}
	return end + len(endOfHeader), r.seen&seenHost != 0
}

// cutLine returns the first line of b, which ends with one, and what follows.
// A line feed in it makes it no line that is accepted.
func cutLine(b []byte) (line, rest []byte) {
	i := bytes.Index(b, []byte("\r\n"))
	return b[:i], b[i+2:]
}

// parseLine reads the request line.
func (r *Request) parseLine(b []byte) bool {
	var ok bool
	if b, ok = bytes.CutSuffix(b, []byte(version)); !ok {
		return false
	}
	if path, ok := bytes.CutPrefix(b, []byte("GET ")); ok {
		r.Head, b = false, path
	} else if path, ok := bytes.CutPrefix(b, []byte("HEAD ")); ok {
		r.Head, b = true, path
	} else {
		return false
	}
	if len(b) < 2 || b[0] != '/' || b[1] == '/' {
		return false
	}
	for _, c := range b {
		if !plain(c) {
			return false
		}
	}
	r.Path = text(b)
	return true
}

// plain says whether c may stand in a path that nobody reads in another way.
func plain(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c == '/' || c == '-' || c == '_'
}

// parseField reads one field: "name: value".
func (r *Request) parseField(b []byte) bool {
	colon := bytes.IndexByte(b, ':')
	if colon <= 0 || colon > longestName || len(b) < colon+3 || b[colon+1] != ' ' {
		return false
	}
	value := b[colon+2:]
	if len(value) > maxFieldValue || value[0] == ' ' || value[len(value)-1] == ' ' {
		return false
	}
	for _, c := range value {
		if c < ' ' || c > '~' {
			return false
		}
	}
	i := lookUp(b[:colon])
	if i < 0 || r.seen&(1<<i) != 0 {
		return false
	}
	r.seen |= 1 << i
	switch {
	case i == 0:
		return validHost(value)
	case i == connectionSlot:
		return equalFold(value, keepAlive)
	case known[i].name != "":
		v := &r.lines[i-firstNamed]
		v[0] = text(value)
		if r.Header == nil {
			r.Header = make(http.Header, len(r.lines))
		}
		r.Header[known[i].name] = v[:]
	}
	return true
}

// lookUp returns the place of a name in known, or -1.
func lookUp(name []byte) int {
	for i := range known {
		if equalFold(name, known[i].lower) {
			return i
		}
	}
	return -1
}

// equalFold compares b with a text in lower case, in ASCII.
func equalFold(b []byte, lower string) bool {
	if len(b) != len(lower) {
		return false
	}
	for i, c := range b {
		if c >= 'A' && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}

// validHost accepts names, addresses and ports.
func validHost(b []byte) bool {
	for _, c := range b {
		if !plain(c) && c != '.' && c != ':' && c != '[' && c != ']' || c == '/' {
			return false
		}
	}
	return true
}

// text returns b as a string that is right for as long as b does not change.
func text(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }
