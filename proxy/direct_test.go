package proxy

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"nearsight/proxy/wire"
	"nearsight/registry"
)

// direct returns an address of both ways, and counts who goes the ordinary one.
func (s *site) direct() (addr string, ordinary *atomic.Int64) {
	s.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		s.t.Fatal(err)
	}
	ordinary = new(atomic.Int64)
	handler := s.proxy.Handler()
	w := &wire.Server{NewAnswerer: s.proxy.Direct}
	server := Server(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ordinary.Add(1)
		handler.ServeHTTP(w, r)
	}), nil)
	done := make(chan struct{}, 2)
	go func() { w.Serve(l); done <- struct{}{} }()
	go func() { server.Serve(w.Rest(l)); done <- struct{}{} }()
	s.t.Cleanup(func() {
		l.Close()
		server.Close()
		w.Shutdown(s.t.Context()) // which has ended: nothing is waited for
		<-done
		<-done
	})
	return l.Addr().String(), ordinary
}

var (
	dateLine   = regexp.MustCompile(`(?m)^Date: [A-Z][a-z][a-z], \d\d [A-Z][a-z][a-z] \d{4} \d\d:\d\d:\d\d GMT\r$`)
	idLine     = regexp.MustCompile(`(?m)^X-Openstack-Request-Id: req-[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}\r$`)
	boundary   = regexp.MustCompile(`[0-9a-f]{32}(--)?\r`)
	bodyLength = regexp.MustCompile(`\r\nContent-Length: (\d+)\r\n`)
)

// exchange sends a request and returns the bytes of the answer, without what two
// answers may differ in.
func exchangeBytes(t testing.TB, addr, request string) string {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, request); err != nil {
		t.Fatal(err)
	}
	br := bufio.NewReader(c)
	var head strings.Builder
	for !strings.HasSuffix(head.String(), "\r\n\r\n") {
		line, err := br.ReadString('\n')
		head.WriteString(line)
		if err != nil {
			return head.String() + err.Error()
		}
	}
	text := head.String()
	for _, field := range []*regexp.Regexp{dateLine, idLine} {
		if n := len(field.FindAllString(text, -1)); n != 1 {
			t.Fatalf("%d fields like %s in\n%s", n, field, text)
		}
		text = field.ReplaceAllString(text, "...\r")
	}
	if m := bodyLength.FindStringSubmatch(text); m != nil && !strings.HasPrefix(request, "HEAD") && !strings.HasPrefix(text, "HTTP/1.1 304") {
		var n int64
		fmt.Sscan(m[1], &n)
		var body bytes.Buffer
		if _, err := io.CopyN(&body, br, n); err != nil {
			t.Fatal(err)
		}
		if text += body.String(); strings.Contains(text, "multipart/byteranges") {
			text = boundary.ReplaceAllString(text, "...\r")
		}
	}
	return text
}

// seedRequests returns requests for the image, most of them canonical.
func seedRequests(img *registry.Image) []string {
	path := "/v2/images/" + img.ID + "/file"
	tag := `"` + string(img.Digest) + `"`
	var all []string
	for _, method := range []string{"GET", "HEAD"} {
		for _, fields := range []string{
			"", "User-Agent: curl/8.0\r\nAccept: */*\r\n", "Connection: keep-alive\r\nAccept-Encoding: gzip, deflate\r\n",
			"Range: bytes=0-0\r\n", "range: bytes=100-70000\r\n", "RANGE: BYTES=-5\r\n", "Range: bytes=5-\r\n", "Range: bytes=9-5\r\n",
			"Range: bytes=99999999-\r\n", "Range: bytes=0-1,5-6\r\n", "Range: lines=1-2\r\n", "Range: bytes=-0\r\n", "Range: bytes=\r\n",
			"If-None-Match: " + tag + "\r\n", "If-None-Match: *\r\n", `If-None-Match: "x", W/` + tag + "\r\n", "If-None-Match: \"x\"\r\nRange: bytes=1-2\r\n",
			"If-Match: " + tag + "\r\nRange: bytes=1-2\r\n", "If-Match: \"x\"\r\n", "If-Range: " + tag + "\r\nRange: bytes=1-2\r\n",
			"If-Range: \"x\"\r\nRange: bytes=1-2\r\n", "If-Modified-Since: Mon, 01 Jan 2001 00:00:00 GMT\r\n",
			"If-Modified-Since: Fri, 01 Jan 2100 00:00:00 GMT\r\n", "If-Unmodified-Since: Mon, 01 Jan 2001 00:00:00 GMT\r\n",
			"Range: bytes=0-1\r\nRange: bytes=2-3\r\n", "Cache-Control: only-if-cached\r\n", "X-Openstack-Request-Id: a\r\n",
			"X-Auth-Token: owner\r\n", "x-auth-token: other\r\nRange: bytes=1-2\r\n", "X-Auth-Token: reader\r\n", "X-Auth-Token: nobody\r\n",
			"X-Auth-Token: owner\r\nX-Auth-Token: owner\r\n", "X-Auth-Token: \r\n", "Authorization: Bearer owner\r\n", "Authorization: bearer  other\r\n",
			"Authorization: Basic eDp5\r\n", "Authorization: Bearer nobody\r\nX-Auth-Token: owner\r\nIf-None-Match: *\r\n",
			"X-Project-Id: home\r\n", "Want-Content-Digest: sha-256=1\r\nRange: bytes=0-262143\r\n", "Connection: close\r\n", "Content-Length: 0\r\n", "Host: again\r\n",
		} {
			all = append(all, method+" "+path+" HTTP/1.1\r\nHost: x\r\n"+fields+"\r\n")
		}
	}
	return append(all,
		"GET "+path+" HTTP/1.0\r\n\r\n", "GET "+path+"?a=b HTTP/1.1\r\nHost: x\r\n\r\n", "GET "+path+"/ HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET /v2/images/"+strings.ToUpper(img.ID)+"/file HTTP/1.1\r\nHost: x\r\n\r\n", "GET /v2/images HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET "+path+" HTTP/1.1\r\nHost: 127.0.0.1:9292\r\n\r\n", "GET "+path+" HTTP/1.1\r\nHost: [::1]:9\r\n\r\n",
		"GET "+path+" HTTP/1.1\r\nHost: a:b:c\r\n\r\n", "GET "+path+" HTTP/1.1\nHost: x\n\n", "GET "+path+" HTTP/1.1\r\nHost: x\r\nRange:\tbytes=1-2\r\n\r\n",
	)
}

// FuzzDirectAnswersAsTheOrdinaryWay compares the two ways of a request: whatever
// the short way accepts gets the same answer there.
func FuzzDirectAnswersAsTheOrdinaryWay(f *testing.F) {
	type pair struct {
		s    *site
		addr string
		imgs []*registry.Image
	}
	var sites []pair
	for _, cfg := range []siteConfig{{}, {identity: people}, {identity: people, anonymous: true}} {
		s := newSite(f, cfg)
		addr, _ := s.direct()
		p := pair{s, addr, nil}
		for i, visibility := range []registry.Visibility{registry.Public, registry.Private} {
			img := s.add(pattern(3*chunk+77, byte(i)), func(img *registry.Image) {
				name, owner := "döbian", "home"
				img.Name, img.Owner, img.Visibility = &name, &owner, visibility
			})
			s.file("GET", img, "X-Auth-Token: admin")
			p.imgs = append(p.imgs, img)
		}
		sites = append(sites, p)
	}
	for _, id := range []string{"ID", "PRIVATE"} {
		for _, request := range seedRequests(sites[0].imgs[0]) {
			f.Add(strings.ReplaceAll(request, sites[0].imgs[0].ID, id))
		}
	}
	f.Fuzz(func(t *testing.T, text string) {
		for _, p := range sites {
			request := strings.ReplaceAll(strings.ReplaceAll(text, "ID", p.imgs[0].ID), "PRIVATE", p.imgs[1].ID)
			var r wire.Request
			if n, ok := r.Parse([]byte(request)); !ok || n != len(request) {
				return
			}
			direct, ordinary := exchangeBytes(t, p.addr, request), exchangeBytes(t, p.s.plain, request)
			if direct != ordinary {
				t.Errorf("the short way answers\n%.2000q\nand the ordinary one\n%.2000q", direct, ordinary)
			}
		}
	})
}

func TestTheShortWayIsTakenForPlainRequests(t *testing.T) {
	s := newSite(t, siteConfig{})
	img := s.add(pattern(3*chunk, 1), nil)
	s.file("GET", img)
	addr, ordinary := s.direct()
	path := "/v2/images/" + img.ID + "/file"
	for _, tt := range []struct {
		name, request string
		direct        bool
	}{
		{"the whole", "GET " + path + " HTTP/1.1\r\nHost: x\r\n\r\n", true},
		{"a range", "GET " + path + " HTTP/1.1\r\nHost: x\r\nRange: bytes=5-9\r\n\r\n", true},
		{"no change", "GET " + path + " HTTP/1.1\r\nHost: x\r\nIf-None-Match: *\r\n\r\n", true},
		{"the header alone", "HEAD " + path + " HTTP/1.1\r\nHost: x\r\n\r\n", true},
		{"two ranges", "GET " + path + " HTTP/1.1\r\nHost: x\r\nRange: bytes=5-9,20-21\r\n\r\n", false},
		{"no such range", "GET " + path + " HTTP/1.1\r\nHost: x\r\nRange: bytes=999999999-\r\n\r\n", false},
		{"a token, where nobody is told apart", "GET " + path + " HTTP/1.1\r\nHost: x\r\nX-Auth-Token: t\r\n\r\n", true},
		{"a login, where nobody is told apart", "GET " + path + " HTTP/1.1\r\nHost: x\r\nAuthorization: Basic eDp5\r\n\r\n", true},
		{"another path", "GET /versions HTTP/1.1\r\nHost: x\r\n\r\n", false},
		{"an unknown image", "GET /v2/images/00000000-0000-4000-8000-000000000000/file HTTP/1.1\r\nHost: x\r\n\r\n", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := ordinary.Load()
			exchangeBytes(t, addr, tt.request)
			if got := ordinary.Load() == before; got != tt.direct {
				t.Errorf("the short way was taken: %v", got)
			}
		})
	}
}

// A connection remembers its image: not longer than the records do.
func TestAConnectionNoticesThatItsImageChanged(t *testing.T) {
	s := newSite(t, siteConfig{})
	img := s.add(pattern(chunk, 1), nil)
	addr, ordinary := s.direct()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	br := bufio.NewReader(c)
	get := func() *http.Response {
		fmt.Fprintf(c, "GET /v2/images/%s/file HTTP/1.1\r\nHost: x\r\n\r\n", img.ID)
		resp, err := http.ReadResponse(br, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			t.Fatal(err)
		}
		return resp
	}
	for range 2 {
		if resp := get(); resp.StatusCode != 200 || resp.Header.Get("Cache-Control") != openFreshness {
			t.Fatalf("%v", resp)
		}
	}
	if _, err := s.records.Update(t.Context(), img.ID, func(img *registry.Image) error {
		img.Visibility = registry.Private
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if resp := get(); resp.Header.Get("Cache-Control") != privateFreshness {
		t.Errorf("after the image became private: %q", resp.Header.Get("Cache-Control"))
	}
	if ordinary.Load() != 0 {
		t.Error("a request did not go the short way")
	}
	if err := s.records.Delete(t.Context(), img.ID, nil); err != nil {
		t.Fatal(err)
	}
	if resp := get(); resp.StatusCode != 404 {
		t.Errorf("after the image was deleted: %s", resp.Status)
	}
}

func TestRequestsInOnePieceAreAnsweredInTurn(t *testing.T) {
	s := newSite(t, siteConfig{})
	data := pattern(3*chunk, 1)
	img := s.add(data, nil)
	addr, ordinary := s.direct()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var requests bytes.Buffer
	for i := range 20 {
		fmt.Fprintf(&requests, "GET /v2/images/%s/file HTTP/1.1\r\nHost: x\r\nRange: bytes=%d-%d\r\n\r\n", img.ID, i*1000, i*1000+i)
	}
	fmt.Fprintf(&requests, "GET /versions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
	if _, err := c.Write(requests.Bytes()); err != nil {
		t.Fatal(err)
	}
	br := bufio.NewReader(c)
	for i := range 20 {
		resp, err := http.ReadResponse(br, nil)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil || !bytes.Equal(body, data[i*1000:i*1000+i+1]) {
			t.Fatalf("answer %d: %s, %d bytes, %v", i, resp.Status, len(body), err)
		}
	}
	if resp, err := http.ReadResponse(br, nil); err != nil || resp.StatusCode != 200 {
		t.Errorf("the last: %v, %v", resp, err)
	}
	if n := ordinary.Load(); n > 10 {
		t.Errorf("%d did not go the short way", n)
	}
}

func TestTheGenerationMovesWithEveryChangeAndIsZeroWhileDeaf(t *testing.T) {
	s := newSite(t, siteConfig{})
	img := s.add(pattern(10, 1), nil)
	before := s.records.Generation()
	if before == 0 {
		t.Fatal("zero, although the events are heard")
	}
	if _, err := s.records.Get(t.Context(), img.ID); err != nil {
		t.Fatal(err)
	}
	if err := s.records.Delete(t.Context(), img.ID, nil); err != nil {
		t.Fatal(err)
	}
	if s.records.Generation() == before {
		t.Error("a delete did not move it")
	}
	s.records.broke(io.ErrUnexpectedEOF)
	if n := s.records.Generation(); n != 0 {
		t.Errorf("%d while events are not heard", n)
	}
	s.records.resume(s.records.State().Revision, time.Now())
	if n := s.records.Generation(); n == 0 || n == before {
		t.Errorf("%d after the events are heard again, and %d before", n, before)
	}
}
