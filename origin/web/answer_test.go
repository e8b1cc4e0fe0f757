package web

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"nearsight/origin"
)

// raw answers with these bytes and nothing else, and closes the connection.
func raw(answer string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		conn, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return // as the test will see
		}
		defer conn.Close()
		io.WriteString(conn, strings.ReplaceAll(answer, "\n", "\r\n"))
	}
}

// get answers GET, and refuses HEAD.
func get(h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet {
			w.WriteHeader(http.StatusNotImplemented)
			return
		}
		h(w, r)
	}
}

const (
	digits   = "0123456789"
	tag      = `"v1"`
	longAgo  = "Wed, 21 Oct 2015 07:28:00 GMT"
	modified = modifiedPrefix + longAgo
)

func TestOpen(t *testing.T) {
	for _, tt := range []struct {
		name      string
		server    http.HandlerFunc
		validator string // of the location
		off, n    int64

		want   origin.Object // without Body
		body   string
		openBy error
		says   string // in the error
		readBy error
	}{
		{name: "a whole object", server: raw("HTTP/1.1 200 OK\nContent-Length: 10\nETag: \"v1\"\n\n0123456789"), n: -1,
			want: origin.Object{Info: origin.Info{Size: 10, Validator: tag}, Length: 10}, body: digits},
		{name: "a part", server: raw("HTTP/1.1 206 P\nContent-Length: 3\nContent-Range: bytes 2-4/10\n\n234"), off: 2, n: 3,
			want: origin.Object{Info: origin.Info{Size: 10}, Offset: 2, Length: 3}, body: "234"},
		{name: "a part in chunks", server: raw("HTTP/1.1 206 P\nTransfer-Encoding: chunked\nContent-Range: bytes 2-4/10\n\n3\n234\n0\n\n"), off: 2, n: 3,
			want: origin.Object{Info: origin.Info{Size: 10}, Offset: 2, Length: 3}, body: "234"},
		{name: "a part of nobody knows how much", server: raw("HTTP/1.1 206 P\nContent-Length: 3\nContent-Range: bytes 2-4/*\n\n234"), off: 2, n: 3,
			want: origin.Object{Info: origin.Info{Size: -1}, Offset: 2, Length: 3}, body: "234"},
		{name: "another part than was asked for is told as such", server: raw("HTTP/1.1 206 P\nContent-Length: 2\nContent-Range: bytes 5-6/10\n\n56"), off: 2, n: 3,
			want: origin.Object{Info: origin.Info{Size: 10}, Offset: 5, Length: 2}, body: "56"},

		{name: "without ranges, the first bytes are cut off", server: raw("HTTP/1.1 200 OK\nContent-Length: 10\n\n0123456789"), n: 3,
			want: origin.Object{Info: origin.Info{Size: 10}, Length: 3}, body: "012"},
		{name: "without ranges, what lies before is dropped", server: raw("HTTP/1.1 200 OK\nContent-Length: 10\n\n0123456789"), off: 4, n: 3,
			want: origin.Object{Info: origin.Info{Size: 10}, Offset: 4, Length: 3}, body: "456"},
		{name: "without ranges, to the end", server: raw("HTTP/1.1 200 OK\nContent-Length: 10\n\n0123456789"), off: 4, n: -1,
			want: origin.Object{Info: origin.Info{Size: 10}, Offset: 4, Length: 6}, body: "456789"},
		{name: "without ranges, beyond the end", server: raw("HTTP/1.1 200 OK\nContent-Length: 10\n\n0123456789"), off: 10, n: 3,
			want: origin.Object{Info: origin.Info{Size: 10}, Offset: 10}},
		{name: "without ranges, far from the start, the whole is told as such",
			server: func(w http.ResponseWriter, _ *http.Request) { w.Write(make([]byte, 2<<20)) }, off: maxSkip + 1, n: 3,
			want: origin.Object{Info: origin.Info{Size: -1}, Length: -1}, body: string(make([]byte, 2<<20))},
		{name: "without ranges, cut before the offset", server: raw("HTTP/1.1 200 OK\nContent-Length: 10\n\n0123"), off: 6, n: 3,
			openBy: origin.ErrUnavailable, says: "ends after 4 bytes"},

		{name: "without a length, in chunks", server: raw("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n4\n0123\n6\n456789\n0\n\n"), n: -1,
			want: origin.Object{Info: origin.Info{Size: -1}, Length: -1}, body: digits},
		{name: "without a length, a range", server: raw("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n4\n0123\n6\n456789\n0\n\n"), off: 2, n: 3,
			want: origin.Object{Info: origin.Info{Size: -1}, Offset: 2, Length: -1}, body: "234"},
		{name: "without a length, beyond the end", server: raw("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n4\n0123\n0\n\n"), off: 6, n: 3,
			want: origin.Object{Info: origin.Info{Size: 4}, Offset: 6}},
		{name: "without a length, cut", server: raw("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n4\n0123\n6\n45"), n: -1,
			want: origin.Object{Info: origin.Info{Size: -1}, Length: -1}, body: "012345", readBy: io.ErrUnexpectedEOF},
		{name: "without a length, cut between chunks", server: raw("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n4\n0123\n"), n: -1,
			want: origin.Object{Info: origin.Info{Size: -1}, Length: -1}, body: "0123", readBy: io.ErrUnexpectedEOF},
		{name: "chunks that are none", server: raw("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n4\n0123\nx\n"), n: -1,
			want: origin.Object{Info: origin.Info{Size: -1}, Length: -1}, body: "0123", readBy: origin.ErrUnavailable},
		{name: "neither length nor chunks", server: raw("HTTP/1.1 200 OK\n\n0123456789"), n: -1,
			openBy: origin.ErrUnavailable, says: "neither a length nor chunks"},

		{name: "cut", server: raw("HTTP/1.1 200 OK\nContent-Length: 10\n\n0123"), n: -1,
			want: origin.Object{Info: origin.Info{Size: 10}, Length: 10}, body: "0123", readBy: io.ErrUnexpectedEOF},
		{name: "a part that is cut", server: raw("HTTP/1.1 206 P\nContent-Length: 3\nContent-Range: bytes 2-4/10\n\n23"), off: 2, n: 3,
			want: origin.Object{Info: origin.Info{Size: 10}, Offset: 2, Length: 3}, body: "23", readBy: io.ErrUnexpectedEOF},
		{name: "a part in chunks that are fewer", server: raw("HTTP/1.1 206 P\nTransfer-Encoding: chunked\nContent-Range: bytes 2-4/10\n\n2\n23\n0\n\n"), off: 2, n: 3,
			want: origin.Object{Info: origin.Info{Size: 10}, Offset: 2, Length: 3}, body: "23", readBy: io.ErrUnexpectedEOF},
		{name: "a part in chunks that are more", server: raw("HTTP/1.1 206 P\nTransfer-Encoding: chunked\nContent-Range: bytes 2-4/10\n\n4\n2345\n0\n\n"), off: 2, n: 3,
			want: origin.Object{Info: origin.Info{Size: 10}, Offset: 2, Length: 3}, body: "234", readBy: origin.ErrUnavailable},

		{name: "a part without Content-Range", server: raw("HTTP/1.1 206 P\nContent-Length: 3\n\n234"), off: 2, n: 3, openBy: origin.ErrUnavailable},
		{name: "a part with two", server: raw("HTTP/1.1 206 P\nContent-Length: 3\nContent-Range: bytes 2-4/10\nContent-Range: bytes 2-4/10\n\n234"), off: 2, n: 3, openBy: origin.ErrUnavailable},
		{name: "a part with a malformed one", server: raw("HTTP/1.1 206 P\nContent-Length: 3\nContent-Range: bytes 2-4\n\n234"), off: 2, n: 3,
			openBy: origin.ErrUnavailable, says: `"bytes 2-4"`},
		{name: "a part beyond the end", server: raw("HTTP/1.1 206 P\nContent-Length: 3\nContent-Range: bytes 2-4/4\n\n234"), off: 2, n: 3, openBy: origin.ErrUnavailable},
		{name: "a part of no bytes", server: raw("HTTP/1.1 206 P\nContent-Length: 0\nContent-Range: bytes */10\n\n"), off: 2, n: 3, openBy: origin.ErrUnavailable},
		{name: "a part of another length", server: raw("HTTP/1.1 206 P\nContent-Length: 4\nContent-Range: bytes 2-4/10\n\n2345"), off: 2, n: 3, openBy: origin.ErrUnavailable},
		{name: "several parts", server: raw("HTTP/1.1 206 P\nContent-Length: 3\nContent-Type: multipart/byteranges; boundary=x\nContent-Range: bytes 2-4/10\n\n234"), off: 2, n: 3,
			openBy: origin.ErrUnavailable, says: "not one range"},
		{name: "gzip", server: raw("HTTP/1.1 200 OK\nContent-Length: 3\nContent-Encoding: gzip\n\nxyz"), n: -1,
			openBy: origin.ErrUnavailable, says: `"gzip"`},
		{name: "the identity is no encoding", server: raw("HTTP/1.1 200 OK\nContent-Length: 3\nContent-Encoding: identity\n\n012"), n: -1,
			want: origin.Object{Info: origin.Info{Size: 3}, Length: 3}, body: "012"},

		{name: "the same ETag", server: raw("HTTP/1.1 206 P\nContent-Length: 1\nContent-Range: bytes 2-2/10\nETag: \"v1\"\n\n2"), validator: tag, off: 2, n: 1,
			want: origin.Object{Info: origin.Info{Size: 10, Validator: tag}, Offset: 2, Length: 1}, body: "2"},
		{name: "another ETag", server: raw("HTTP/1.1 206 P\nContent-Length: 1\nContent-Range: bytes 2-2/10\nETag: \"v2\"\n\n2"), validator: tag, off: 2, n: 1,
			openBy: origin.ErrChanged},
		{name: "another ETag of the whole", server: raw("HTTP/1.1 200 OK\nContent-Length: 3\nETag: \"v2\"\n\n012"), validator: tag, n: -1, openBy: origin.ErrChanged},
		{name: "no ETag any more", server: raw("HTTP/1.1 200 OK\nContent-Length: 3\n\n012"), validator: tag, n: -1, openBy: origin.ErrChanged},
		{name: "a weak ETag is none", server: raw("HTTP/1.1 200 OK\nContent-Length: 3\nETag: W/\"v1\"\nLast-Modified: " + longAgo + "\n\n012"), n: -1,
			want: origin.Object{Info: origin.Info{Size: 3, Validator: modified, ModTime: time.Date(2015, 10, 21, 7, 28, 0, 0, time.UTC)}, Length: 3}, body: "012"},
		{name: "a time that is none", server: raw("HTTP/1.1 200 OK\nContent-Length: 3\nLast-Modified: yesterday\n\n012"), n: -1,
			want: origin.Object{Info: origin.Info{Size: 3}, Length: 3}, body: "012"},
		{name: "a time, and meanwhile an ETag too", server: raw("HTTP/1.1 200 OK\nContent-Length: 3\nETag: \"v1\"\nLast-Modified: " + longAgo + "\n\n012"), validator: modified, n: -1,
			want: origin.Object{Info: origin.Info{Size: 3, Validator: modified, ModTime: time.Date(2015, 10, 21, 7, 28, 0, 0, time.UTC)}, Length: 3}, body: "012"},
		{name: "another time", server: raw("HTTP/1.1 200 OK\nContent-Length: 3\nLast-Modified: Wed, 21 Oct 2015 07:28:01 GMT\n\n012"), validator: modified, n: -1, openBy: origin.ErrChanged},
		{name: "a condition that failed", server: raw("HTTP/1.1 412 No\nContent-Length: 0\n\n"), validator: tag, n: -1, openBy: origin.ErrChanged},
		{name: "a condition of time that failed", server: raw("HTTP/1.1 412 No\nContent-Length: 0\n\n"), validator: modified, n: -1, openBy: origin.ErrChanged},
		{name: "a condition that nobody made", server: raw("HTTP/1.1 412 No\nContent-Length: 0\n\n"), n: -1, openBy: origin.ErrUnavailable},

		{name: "not found", server: raw("HTTP/1.1 404 No\nContent-Length: 0\n\n"), n: -1, openBy: origin.ErrNotFound},
		{name: "gone", server: raw("HTTP/1.1 410 No\nContent-Length: 0\n\n"), n: -1, openBy: origin.ErrNotFound},
		{name: "credentials are missing", server: raw("HTTP/1.1 401 No\nContent-Length: 0\n\n"), n: -1, openBy: origin.ErrUnavailable, says: "401: credentials refused"},
		{name: "credentials do not do", server: raw("HTTP/1.1 403 No\nContent-Length: 0\n\n"), n: -1, openBy: origin.ErrUnavailable, says: "403: credentials refused"},
		{name: "broken", server: raw("HTTP/1.1 500 No\nContent-Length: 0\n\n"), n: -1, openBy: origin.ErrUnavailable, says: "500"},
		{name: "no content", server: raw("HTTP/1.1 204 No\n\n"), n: -1, openBy: origin.ErrUnavailable, says: "204"},
		{name: "not modified", server: raw("HTTP/1.1 304 No\n\n"), n: -1, openBy: origin.ErrUnavailable, says: "304"},
		{name: "no HTTP", server: raw("SSH-2.0-OpenSSH\n"), n: -1, openBy: origin.ErrUnavailable},
		{name: "no answer", server: raw(""), n: -1, openBy: origin.ErrUnavailable},
		{name: "a head without end", server: raw("HTTP/1.1 200 OK\nX: " + strings.Repeat("x", maxHeader) + "\n\n"), n: -1, openBy: origin.ErrUnavailable},

		{name: "no bytes", server: raw("HTTP/1.1 200 OK\nContent-Length: 10\nETag: \"v1\"\n\n"), off: 4,
			want: origin.Object{Info: origin.Info{Size: 10, Validator: tag}, Offset: 4}},
		{name: "beyond the end", server: func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodGet {
				raw("HTTP/1.1 416 No\nContent-Length: 0\n\n")(w, r)
				return
			}
			raw("HTTP/1.1 200 OK\nContent-Length: 10\nETag: \"v1\"\n\n")(w, r)
		}, validator: tag, off: 10, n: 1, want: origin.Object{Info: origin.Info{Size: 10, Validator: tag}, Offset: 10}},
		{name: "a range that is there and refused", server: func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodGet {
				raw("HTTP/1.1 416 No\nContent-Length: 0\n\n")(w, r)
				return
			}
			raw("HTTP/1.1 200 OK\nContent-Length: 10\n\n")(w, r)
		}, off: 4, n: 1, openBy: origin.ErrUnavailable, says: "refuses those from 4 on"},
		{name: "a negative offset is 0", server: raw("HTTP/1.1 206 P\nContent-Length: 3\nContent-Range: bytes 0-2/10\n\n012"), off: -4, n: 3,
			want: origin.Object{Info: origin.Info{Size: 10}, Length: 3}, body: "012"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newStore(t, Options{Guard: onLoopback()})
			loc := origin.Location{URL: serve(t, tt.server).URL + "/image", Validator: tt.validator}
			o, err := s.Open(t.Context(), loc, tt.off, tt.n)
			if tt.openBy != nil {
				if !errors.Is(err, tt.openBy) || !strings.Contains(err.Error(), tt.says) {
					t.Errorf("error %v; want %v, with %q", err, tt.openBy, tt.says)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer o.Body.Close()
			body, err := io.ReadAll(o.Body)
			if string(body) != tt.body || tt.readBy == nil && err != nil || !errors.Is(err, tt.readBy) {
				t.Errorf("body %.80q, %v; want %.80q, %v", body, err, tt.body, tt.readBy)
			}
			if tt.readBy == io.ErrUnexpectedEOF && err != io.ErrUnexpectedEOF {
				t.Errorf("error %v is not io.ErrUnexpectedEOF itself", err)
			}
			o.Body = nil
			if *o != tt.want {
				t.Errorf("object %+v; want %+v", *o, tt.want)
			}
		})
	}
}

func TestStat(t *testing.T) {
	for _, tt := range []struct {
		name      string
		server    http.HandlerFunc
		validator string
		want      origin.Info
		err       error
		requests  int64
	}{
		{name: "HEAD does", server: raw("HTTP/1.1 200 OK\nContent-Length: 10\nETag: \"v1\"\n\n"), want: origin.Info{Size: 10, Validator: tag}, requests: 1},
		{name: "HEAD is refused", server: get(raw("HTTP/1.1 206 P\nContent-Length: 1\nContent-Range: bytes 0-0/10\nETag: \"v1\"\n\n0")),
			want: origin.Info{Size: 10, Validator: tag}, requests: 2},
		{name: "HEAD is refused and there are no ranges", server: get(raw("HTTP/1.1 200 OK\nContent-Length: 10\n\n0123456789")), want: origin.Info{Size: 10}, requests: 2},
		{name: "HEAD is refused and there is nothing", server: get(raw("HTTP/1.1 416 No\nContent-Range: bytes */0\nContent-Length: 0\n\n")), requests: 2},
		{name: "HEAD is refused and the answer contradicts itself", server: get(raw("HTTP/1.1 416 No\nContent-Range: bytes */10\nContent-Length: 0\n\n")),
			err: origin.ErrUnavailable, requests: 2},
		{name: "HEAD tells no length", server: func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodHead {
				raw("HTTP/1.1 200 OK\n\n")(w, r)
				return
			}
			raw("HTTP/1.1 206 P\nContent-Length: 1\nContent-Range: bytes 0-0/10\n\n0")(w, r)
		}, want: origin.Info{Size: 10}, requests: 2},
		{name: "HEAD tells a length of 0 and no ETag", server: func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodHead {
				raw("HTTP/1.1 200 OK\nContent-Length: 0\n\n")(w, r)
				return
			}
			raw("HTTP/1.1 206 P\nContent-Length: 1\nContent-Range: bytes 0-0/10\nETag: \"v1\"\n\n0")(w, r)
		}, validator: tag, want: origin.Info{Size: 10, Validator: tag}, requests: 2},
		{name: "an empty object whose validator 416 leaves out", server: func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodHead {
				raw("HTTP/1.1 200 OK\nContent-Length: 0\nETag: \"v1\"\n\n")(w, r)
				return
			}
			raw("HTTP/1.1 416 No\nContent-Length: 0\n\n")(w, r)
		}, validator: tag, want: origin.Info{Validator: tag}, requests: 2},
		{name: "nobody knows the length", server: raw("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n4\n0123\n0\n\n"), want: origin.Info{Size: -1}, requests: 2},
		{name: "the whole of a part has no length", server: get(raw("HTTP/1.1 206 P\nContent-Length: 1\nContent-Range: bytes 0-0/*\n\n0")), want: origin.Info{Size: -1}, requests: 2},
		{name: "nobody could tell where it ends", server: raw("HTTP/1.1 200 OK\n\n0123"), err: origin.ErrUnavailable, requests: 2},
		{name: "not found is believed", server: raw("HTTP/1.1 404 No\nContent-Length: 0\n\n"), err: origin.ErrNotFound, requests: 1},
		{name: "changed", server: raw("HTTP/1.1 412 No\nContent-Length: 0\n\n"), validator: tag, err: origin.ErrChanged, requests: 1},
		{name: "busy", server: raw("HTTP/1.1 503 No\nContent-Length: 0\n\n"), err: origin.ErrUnavailable, requests: 1},
		{name: "refused in every way", server: raw("HTTP/1.1 403 No\nContent-Length: 0\n\n"), err: origin.ErrUnavailable, requests: 2},
		{name: "encoded", server: raw("HTTP/1.1 200 OK\nContent-Length: 3\nContent-Encoding: br\n\n"), err: origin.ErrUnavailable, requests: 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var requests atomic.Int64
			srv := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				requests.Add(1)
				tt.server(w, r)
			}))
			s := newStore(t, Options{Guard: onLoopback()})
			got, err := s.Stat(t.Context(), origin.Location{URL: srv.URL + "/image", Validator: tt.validator})
			if got != tt.want || !errors.Is(err, tt.err) || err != nil && tt.err == nil {
				t.Errorf("Stat = %+v, %v; want %+v, %v", got, err, tt.want, tt.err)
			}
			if requests.Load() != tt.requests {
				t.Errorf("%d requests; want %d", requests.Load(), tt.requests)
			}
		})
	}
}

func TestRetryAfter(t *testing.T) {
	const now = "Wed, 21 Oct 2015 07:28:00 GMT"
	for _, tt := range []struct {
		name, status, field string
		want                time.Duration
	}{
		{"seconds", "429", "7", 7 * time.Second},
		{"seconds of a busy server", "503", "120", 2 * time.Minute},
		{"a date is later than the server's own", "503", "Wed, 21 Oct 2015 07:29:30 GMT", 90 * time.Second},
		{"a date that has passed", "503", "Wed, 21 Oct 2015 07:27:30 GMT", 0},
		{"no wish", "503", "", 0},
		{"no number", "429", "-5", 0},
		{"a year is a day", "429", "31536000", maxRetryAfter},
		{"a number of any size", "429", "9223372036854775807", maxRetryAfter},
		{"a date of any size", "429", "Wed, 21 Oct 9915 07:28:00 GMT", maxRetryAfter},
	} {
		t.Run(tt.name, func(t *testing.T) {
			answer := fmt.Sprintf("HTTP/1.1 %s No\nDate: %s\nRetry-After: %s\nContent-Length: 0\n\n", tt.status, now, tt.field)
			s := newStore(t, Options{Guard: onLoopback()})
			_, err := s.Open(t.Context(), origin.Location{URL: serve(t, raw(answer)).URL}, 0, -1)
			var wish interface{ RetryAfter() time.Duration }
			if !errors.Is(err, origin.ErrUnavailable) || !errors.As(err, &wish) || wish.RetryAfter() != tt.want {
				t.Errorf("error %v; want one that asks for %v", err, tt.want)
			}
		})
	}
}

func TestParseContentRange(t *testing.T) {
	for _, tt := range []struct {
		field string
		want  contentRange
		bad   bool
	}{
		{"bytes 0-0/1", contentRange{0, 1, 1}, false},
		{"bytes 2-4/10", contentRange{2, 3, 10}, false},
		{"Bytes 2-4/10", contentRange{2, 3, 10}, false},
		{"bytes 2-4/*", contentRange{2, 3, -1}, false},
		{"bytes */10", contentRange{0, 0, 10}, false},
		{"bytes 0-9223372036854775806/9223372036854775807", contentRange{0, 1<<63 - 1, 1<<63 - 1}, false},
		{"bytes 0-9223372036854775807/*", contentRange{}, true}, // more than can be counted
		{"", contentRange{}, true},
		{"bytes", contentRange{}, true},
		{"bytes */*", contentRange{}, true},
		{"bytes 4-2/10", contentRange{}, true},
		{"bytes 2-10/10", contentRange{}, true},
		{"bytes 2-/10", contentRange{}, true},
		{"bytes -2/10", contentRange{}, true},
		{"bytes +2-4/10", contentRange{}, true},
		{"bytes 2-4/+10", contentRange{}, true},
		{"bytes  2-4/10", contentRange{}, true},
		{"bytes=2-4/10", contentRange{}, true},
		{"items 2-4/10", contentRange{}, true},
		{"bytes 2-4/10, 6-7/10", contentRange{}, true},
		{"bytes 2-4/9223372036854775808", contentRange{}, true},
	} {
		got, err := parseContentRange(tt.field)
		if got != tt.want || (err != nil) != tt.bad {
			t.Errorf("%q: %+v, %v; want %+v, bad: %v", tt.field, got, err, tt.want, tt.bad)
		}
	}
}

func FuzzContentRange(f *testing.F) {
	for _, s := range []string{"bytes 2-4/10", "bytes 0-0/*", "bytes */10", "bytes 0-9223372036854775807/*", "x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := parseContentRange(s)
		if err != nil {
			return
		}
		if p.first < 0 || p.length < 0 || p.size < -1 || p.size >= 0 && p.length > p.size-p.first || p.length == 0 && p.size < 0 {
			t.Fatalf("%q: %+v", s, p)
		}
		size := "*"
		if p.size >= 0 {
			size = fmt.Sprint(p.size)
		}
		again := fmt.Sprintf("bytes %d-%d/%s", p.first, p.first+p.length-1, size)
		if p.length == 0 {
			again = "bytes */" + size
		}
		if q, err := parseContentRange(again); err != nil || q != p {
			t.Errorf("%q: %+v; again %q: %+v, %v", s, p, again, q, err)
		}
	})
}
