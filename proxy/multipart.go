package proxy

import (
	"crypto/rand"
	"encoding/hex"
	"strconv"
)

// byteranges is the frame of a multipart/byteranges body (RFC 9110, section
// 14.6): what stands before each span and after the last.
type byteranges struct {
	boundary string
	heads    []string
	tail     string
	length   int64 // of the whole body, in bytes
}

// frame returns the frame for spans of an image of size bytes. The boundary is
// random, so that nobody can put it into an image.
func frame(spans []span, size int64) byteranges {
	var random [16]byte
	rand.Read(random[:]) // never fails
	f := byteranges{boundary: hex.EncodeToString(random[:])}
	f.tail = "\r\n--" + f.boundary + "--\r\n"
	f.length = int64(len(f.tail))
	before := ""
	for _, s := range spans {
		head := before + "--" + f.boundary + "\r\nContent-Type: " + dataType +
			"\r\nContent-Range: " + contentRange(s, size) + "\r\n\r\n"
		before = "\r\n"
		f.heads = append(f.heads, head)
		f.length += int64(len(head)) + s.n
	}
	return f
}

// contentRange returns Content-Range of a span.
func contentRange(s span, size int64) string {
	return string(appendContentRange(make([]byte, 0, 64), s, size))
}

func appendContentRange(b []byte, s span, size int64) []byte {
	b = append(b, "bytes "...)
	b = strconv.AppendInt(b, s.off, 10)
	b = append(b, '-')
	b = strconv.AppendInt(b, s.off+s.n-1, 10)
	b = append(b, '/')
	return strconv.AppendInt(b, size, 10)
}
