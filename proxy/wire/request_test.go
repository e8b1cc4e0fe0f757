package wire

import (
	"bufio"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	const line, host = "GET /a HTTP/1.1\r\n", "Host: x\r\n"
	long := strings.Repeat("a", maxFieldValue)
	for _, tt := range []struct {
		name, text string
		ok         bool
	}{
		{"the least", line + host + "\r\n", true},
		{"the method HEAD", "HEAD /a HTTP/1.1\r\n" + host + "\r\n", true},
		{"all fields that are known", line + host + "Range: bytes=0-1\r\nIf-None-Match: *\r\nIf-Range: \"a\"\r\nIf-Match: *\r\n" +
			"If-Modified-Since: x\r\nIf-Unmodified-Since: x\r\nX-Auth-Token: x\r\nAuthorization: Bearer x\r\nUser-Agent: x\r\nAccept: */*\r\nAccept-Encoding: x\r\nAccept-Language: x\r\nConnection: keep-alive\r\n\r\n", true},
		{"names in any case", line + "hOST: x\r\nRANGE: bytes=0-1\r\n\r\n", true},
		{"an option in any case", line + host + "Connection: Keep-Alive\r\n\r\n", true},
		{"an address and a port", line + "Host: [::1]:80\r\n\r\n", true},
		{"a value of the greatest length", line + host + "Accept: " + long + "\r\n\r\n", true},
		{"spaces inside a value", line + host + "Accept: a  b\r\n\r\n", true},

		{"nothing", "", false},
		{"an empty line before", "\r\n" + line + host + "\r\n", false},
		{"an end that is missing", line + host, false},
		{"an end that is cut", line + host + "\r", false},
		{"no field at all", line + "\r\n", false},
		{"no Host", line + "Accept: x\r\n\r\n", false},
		{"two Hosts", line + host + host + "\r\n", false},
		{"a Host without a value", line + "Host: \r\n\r\n", false},
		{"a Host with a path", line + "Host: x/y\r\n\r\n", false},
		{"a Host with a user", line + "Host: a@x\r\n\r\n", false},
		{"another method", "POST /a HTTP/1.1\r\n" + host + "\r\n", false},
		{"a method in lower case", "get /a HTTP/1.1\r\n" + host + "\r\n", false},
		{"HTTP/1.0", "GET /a HTTP/1.0\r\n" + host + "\r\n", false},
		{"HTTP/1.2", "GET /a HTTP/1.2\r\n" + host + "\r\n", false},
		{"no version", "GET /a\r\n" + host + "\r\n", false},
		{"a space before the path", "GET  /a HTTP/1.1\r\n" + host + "\r\n", false},
		{"a space after the path", "GET /a  HTTP/1.1\r\n" + host + "\r\n", false},
		{"a tab instead of a space", "GET\t/a HTTP/1.1\r\n" + host + "\r\n", false},
		{"no path", "GET  HTTP/1.1\r\n" + host + "\r\n", false},
		{"the path of all", "GET / HTTP/1.1\r\n" + host + "\r\n", false},
		{"a path that may be a host", "GET //a HTTP/1.1\r\n" + host + "\r\n", false},
		{"a relative path", "GET a HTTP/1.1\r\n" + host + "\r\n", false},
		{"a whole URL", "GET http://x/a HTTP/1.1\r\n" + host + "\r\n", false},
		{"an asterisk", "GET * HTTP/1.1\r\n" + host + "\r\n", false},
		{"a query", "GET /a?b HTTP/1.1\r\n" + host + "\r\n", false},
		{"a fragment", "GET /a#b HTTP/1.1\r\n" + host + "\r\n", false},
		{"an escape in the path", "GET /%61 HTTP/1.1\r\n" + host + "\r\n", false},
		{"a dot in the path", "GET /a/../b HTTP/1.1\r\n" + host + "\r\n", false},
		{"a letter that is not ASCII in the path", "GET /é HTTP/1.1\r\n" + host + "\r\n", false},
		{"a control character in the path", "GET /a\x00 HTTP/1.1\r\n" + host + "\r\n", false},
		{"a field that is not known", line + host + "Cookie: a=b\r\n\r\n", false},
		{"a body of a length", line + host + "Content-Length: 0\r\n\r\n", false},
		{"a body in chunks", line + host + "Transfer-Encoding: chunked\r\n\r\n", false},
		{"an expectation", line + host + "Expect: 100-continue\r\n\r\n", false},
		{"a wish to close", line + host + "Connection: close\r\n\r\n", false},
		{"two options", line + host + "Connection: keep-alive, upgrade\r\n\r\n", false},
		{"a field twice", line + host + "Range: bytes=0-1\r\nRange: bytes=0-1\r\n\r\n", false},
		{"a field twice in another case", line + host + "Accept: a\r\nACCEPT: a\r\n\r\n", false},
		{"two tokens", line + host + "X-Auth-Token: a\r\nX-Auth-Token: b\r\n\r\n", false},
		{"a token without a value", line + host + "X-Auth-Token: \r\n\r\n", false},
		{"a name without a colon", line + host + "Accept\r\n\r\n", false},
		{"no name", line + host + ": x\r\n\r\n", false},
		{"a space before the colon", line + host + "Accept : x\r\n\r\n", false},
		{"a space before the name", line + host + " Accept: x\r\n\r\n", false},
		{"a value on two lines", line + host + "Accept: a\r\n b\r\n\r\n", false},
		{"no space after the colon", line + host + "Accept:x\r\n\r\n", false},
		{"two spaces after the colon", line + host + "Accept:  x\r\n\r\n", false},
		{"a tab after the colon", line + host + "Accept:\tx\r\n\r\n", false},
		{"a space after the value", line + host + "Accept: x \r\n\r\n", false},
		{"no value", line + host + "Accept: \r\n\r\n", false},
		{"a value that is too long", line + host + "Accept: a" + long + "\r\n\r\n", false},
		{"a name that is too long", line + host + strings.Repeat("A", longestName+1) + ": x\r\n\r\n", false},
		{"a tab in a value", line + host + "Accept: a\tb\r\n\r\n", false},
		{"a line feed in a value", line + host + "Accept: a\nb\r\n\r\n", false},
		{"a carriage return in a value", line + host + "Accept: a\rb\r\n\r\n", false},
		{"a zero in a value", line + host + "Accept: a\x00b\r\n\r\n", false},
		{"a value that is not ASCII", line + host + "User-Agent: é\r\n\r\n", false},
		{"a delete in a value", line + host + "User-Agent: \x7f\r\n\r\n", false},
		{"line feeds alone", "GET /a HTTP/1.1\nHost: x\n\n", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var r Request
			n, ok := r.Parse([]byte(tt.text + "rest"))
			if ok != tt.ok || ok && n != len(tt.text) {
				t.Errorf("%d of %d bytes, %v", n, len(tt.text), ok)
			}
			if ok {
				sameAsNetHTTP(t, &r, tt.text)
			}
		})
	}
	if longest := slices.MaxFunc(known[:], func(a, b struct{ lower, name string }) int { return len(a.lower) - len(b.lower) }); len(longest.lower) > longestName {
		t.Errorf("%s is longer than longestName", longest.lower)
	}
}

// sameAsNetHTTP fails the test unless net/http reads text as r was read.
func sameAsNetHTTP(t *testing.T, r *Request, text string) {
	t.Helper()
	want, err := http.ReadRequest(bufio.NewReader(strings.NewReader(text)))
	if err != nil {
		t.Fatalf("net/http refuses %q: %v", text, err)
	}
	method := "GET"
	if r.Head {
		method = "HEAD"
	}
	if want.Method != method || want.URL.Path != r.Path || want.RequestURI != r.Path || want.ContentLength != 0 || want.Close || len(want.TransferEncoding) > 0 {
		t.Errorf("%q is %s %s here and %s %s for net/http", text, method, r.Path, want.Method, want.RequestURI)
	}
	for _, k := range known {
		if k.name == "" {
			want.Header.Del(k.lower)
		}
	}
	if !maps.EqualFunc(r.Header, want.Header, slices.Equal) {
		t.Errorf("%q has %v here and %v for net/http", text, r.Header, want.Header)
	}
}

// FuzzParse compares with net/http: what is accepted here is accepted there, and
// means the same. A Request that was used before is read as well as a new one.
func FuzzParse(f *testing.F) {
	for _, s := range []string{
		request("/a"), "HEAD /a/b-c_D HTTP/1.1\r\nhost: a:1\r\nRANGE: bytes=1-\r\nif-range: \"x\"\r\n\r\n",
		"GET /a HTTP/1.1\r\nHost: [::1]\r\nConnection: Keep-Alive\r\nAccept: a\rb\r\n\r\n", "GET /a HTTP/1.1\nHost: x\n\n",
		request("/a") + request("/b"), "GET /a HTTP/1.1\r\nHost: x\r\nIf-Match: \x01\r\n\r\n", "GET /a HTTP/1.1\r\nHost: x\r\n y\r\n\r\n",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var used Request
		used.Parse([]byte("HEAD /z HTTP/1.1\r\nHost: z\r\nRange: z\r\nIf-Match: z\r\nUser-Agent: z\r\n\r\n"))
		for _, r := range []*Request{{}, &used} {
			if n, ok := r.Parse([]byte(text)); ok {
				sameAsNetHTTP(t, r, text[:n])
			}
		}
	})
}

func BenchmarkParse(b *testing.B) {
	text := []byte("GET /v2/images/00000000-0000-4000-8000-000000000000/file HTTP/1.1\r\nHost: 127.0.0.1:9292\r\n" +
		"User-Agent: curl/8.14.1\r\nAccept: */*\r\nRange: bytes=1048576-1114111\r\n\r\n")
	var r Request
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := r.Parse(text); !ok {
			b.Fatal("refused")
		}
	}
}
