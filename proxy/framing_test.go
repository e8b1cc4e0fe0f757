package proxy

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"nearsight/registry"
)

// readAll reads the responses in what came from a connection. methods are those
// of the requests, since a response to HEAD has no body.
func readAll(t *testing.T, raw string, methods ...string) []answer {
	t.Helper()
	r := bufio.NewReader(strings.NewReader(raw))
	var answers []answer
	for i := 0; ; i++ {
		if _, err := r.Peek(1); err == io.EOF {
			return answers
		}
		method := "GET"
		if i < len(methods) {
			method = methods[i]
		}
		resp, err := http.ReadResponse(r, &http.Request{Method: method})
		if err != nil {
			t.Fatalf("response %d of %.300q: %v", i, raw, err)
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatalf("body %d: %v", i, err)
		}
		answers = append(answers, answer{resp, body, nil})
	}
}

// statuses returns the statuses of answers as text.
func statuses(answers []answer) string {
	var b []string
	for _, a := range answers {
		b = append(b, fmt.Sprint(a.StatusCode))
	}
	return strings.Join(b, " ")
}

func TestFraming(t *testing.T) {
	s := newSite(t, siteConfig{})
	img := s.add(pattern(1000, 1), nil)
	path := "/v2/images/" + img.ID + "/file"
	get := "GET " + path + " HTTP/1.1\r\nHost: x\r\n"
	last := get + "Connection: close\r\nRange: bytes=0-4\r\n\r\n"
	for _, tt := range []struct {
		name, request, want string
	}{
		{"H1 no Host", "GET " + path + " HTTP/1.1\r\n\r\n" + last, "400"},
		{"H1 two Hosts", "GET " + path + " HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n" + last, "400"},
		{"H1 a malformed Host", "GET " + path + " HTTP/1.1\r\nHost: a b\r\n\r\n" + last, "400"},
		{"H1 absolute form", "GET http://other" + path + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", "200"},
		{"H1 HTTP/1.0 is closed", "GET " + path + " HTTP/1.0\r\n\r\n" + last, "200"},
		{"H1 HTTP/9.9", "GET " + path + " HTTP/9.9\r\nHost: x\r\n\r\n" + last, "505"},
		{"H1 HTTP/1.2", "GET " + path + " HTTP/1.2\r\nHost: x\r\n\r\n" + last, "505"},
		{"H1 HTTP/0.9", "GET " + path + "\r\n\r\n" + last, "400"},

		{"H2 both lengths, then a second request", get + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + last, "200"},
		{"H2 chunked alone", get + "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n" + last, "200"},
		{"H2 on an error", "GET /v2/images/nope/file HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + last, "404"},

		{"H3 a sign in Content-Length", get + "Content-Length: +5\r\n\r\nhello" + last, "400"},
		{"H3 a list in Content-Length", get + "Content-Length: 5, 5\r\n\r\nhello" + last, "400"},
		{"H3 two that differ", get + "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello" + last, "400"},
		{"H3 hex", get + "Content-Length: 0x5\r\n\r\nhello" + last, "400"},
		{"H3 huge", get + "Content-Length: 99999999999999999999\r\n\r\nhello" + last, "400"},
		{"H3 an unknown coding", get + "Transfer-Encoding: gzip\r\n\r\nhello" + last, "501"},
		{"H3 chunked and another", get + "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n" + last, "501"},
		{"H3 a blank before the colon", get + "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + last, "400"},

		{"H4 a body that nobody asked for", get + "Content-Length: 5\r\n\r\nhello" + last, "400"},
		{"H4 a large one", get + "Content-Length: 70000\r\n\r\n" + strings.Repeat("x", 70000) + last, "400"},

		{"H5 NUL", get + "X-A: a\x00b\r\n\r\n" + last, "400"},
		{"H5 a bare CR", get + "X-A: a\rb\r\n\r\n" + last, "400"},

		{"H6 %00", "GET /v2/images/%00/file HTTP/1.1\r\nHost: x\r\n\r\n" + last, "400 206"},
		{"H6 a broken escape", "GET /v2/images/%zz/file HTTP/1.1\r\nHost: x\r\n\r\n" + last, "400"},
		{"H6 encoded slashes", "GET /v2/images/..%2f..%2fetc/file HTTP/1.1\r\nHost: x\r\n\r\n" + last, "404 206"},
		{"H6 dot segments", "GET /v2/images/../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n" + last, "404 206"},

		{"H8 two ranges", get + "Range: bytes=0-9\r\n\r\n" + last, "206 206"},
		{"H8 after 304", get + "If-None-Match: *\r\n\r\n" + last, "304 206"},
		{"H8 after 412", get + "If-Match: \"x\"\r\n\r\n" + last, "412 206"},
		{"H8 after 416", get + "Range: bytes=1000-\r\n\r\n" + last, "416 206"},
		{"H8 after several ranges", get + "Range: bytes=0-1,5-6\r\n\r\n" + last, "206 206"},
		{"H8 after HEAD", strings.Replace(get, "GET", "HEAD", 1) + "\r\n" + last, "200 206"},
		{"H8 after 204", "OPTIONS " + path + " HTTP/1.1\r\nHost: x\r\n\r\n" + last, "204 206"},
		{"H8 after 405", strings.Replace(get, "GET", "POST", 1) + "Content-Length: 0\r\n\r\n" + last, "405 206"},

		{"T1 TRACE", strings.Replace(get, "GET", "TRACE", 1) + "\r\n" + last, "405 206"},
		{"T1 a method in small letters", strings.Replace(get, "GET", "get", 1) + "\r\n" + last, "405 206"},
		{"T1 an unknown method", strings.Replace(get, "GET", "FROBNICATE", 1) + "\r\n" + last, "405 206"},
		{"T4 PURGE", strings.Replace(get, "GET", "PURGE", 1) + "\r\n" + last, "405 206"},

		{"L1 a long target", "GET " + path + "?" + strings.Repeat("x", 8<<10) + " HTTP/1.1\r\nHost: x\r\n\r\n" + last, "414"},
		{"L1 a large header", get + "X-A: " + strings.Repeat("x", 80<<10) + "\r\n\r\n", "431"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			method, _, _ := strings.Cut(tt.request, " ")
			answers := readAll(t, s.raw(tt.request), method)
			if got := statuses(answers); got != tt.want {
				t.Fatalf("answered %s, want %s", got, tt.want)
			}
			for _, a := range answers[1:] {
				if !bytes.Equal(a.body, pattern(1000, 1)[:5]) {
					t.Errorf("the second answer has the body %.100q", a.body)
				}
			}
			if a := answers[0]; a.StatusCode == 405 && !strings.Contains(a.Header.Get("Allow"), "GET, HEAD, OPTIONS, PUT") {
				t.Errorf("Allow: %q", a.Header.Get("Allow"))
			}
		})
	}
}

func TestHeadHasNothingBehindItsHeader(t *testing.T) {
	s := newSite(t, siteConfig{})
	img := s.add(pattern(1000, 1), nil)
	raw := s.raw("HEAD /v2/images/" + img.ID + "/file HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
	if _, body, ok := strings.Cut(raw, "\r\n\r\n"); !ok || body != "" {
		t.Errorf("%d bytes behind the header", len(body))
	}
	if !strings.Contains(raw, "\r\nContent-Length: 1000\r\n") {
		t.Errorf("header %q", raw)
	}
}

func TestTheLargestHeaderFitsEveryFront(t *testing.T) {
	s := newSite(t, siteConfig{})
	name := strings.Repeat("𝄞", 255)
	img := s.add(pattern(1000, 1), func(img *registry.Image) { img.Name = &name })
	raw := s.raw("GET /v2/images/" + img.ID + "/file HTTP/1.1\r\nHost: x\r\nConnection: close\r\nRange: bytes=0-1,3-4\r\n" +
		"X-Openstack-Request-Id: " + strings.Repeat("r", 64) + "\r\n\r\n")
	header, _, _ := strings.Cut(raw, "\r\n\r\n")
	if !strings.HasPrefix(header, "HTTP/1.1 206 ") || len(header) > 3<<10 {
		t.Errorf("a header of %d bytes: %q", len(header), header)
	}
}

func TestTheServersLimits(t *testing.T) {
	s := Server(http.NotFoundHandler(), nil)
	if s.ReadHeaderTimeout != 10*time.Second || s.IdleTimeout < 120*time.Second || s.WriteTimeout != 0 || s.MaxHeaderBytes != 64<<10 {
		t.Errorf("%+v", s)
	}
}

func TestAClientThatLeavesEndsItsAnswerAlone(t *testing.T) {
	s := newSite(t, siteConfig{})
	data := pattern(40<<20, 1)
	img := s.add(data, nil)
	c, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(c, "GET /v2/images/%s/file HTTP/1.1\r\nHost: x\r\n\r\n", img.ID)
	if _, err := io.ReadFull(c, make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	c.Close()
	if a := s.file("GET", img); !bytes.Equal(a.body, data) {
		t.Error("the bytes differ")
	}
	s.eventually(func() bool { return strings.Contains(s.log.String(), `"aborted":true`) })
}
