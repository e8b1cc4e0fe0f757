package proxy

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"
)

// A passage is an edge that passes all on to a central that a test plays.
type passage struct {
	t       *testing.T
	central *httptest.Server
	edge    *httptest.Server
	records memory
}

func newPassage(t *testing.T, central http.HandlerFunc, also ...string) *passage {
	p := &passage{t: t, central: httptest.NewServer(central), records: newMemory(t)}
	var urls []*url.URL
	for _, text := range append(also, p.central.URL) {
		u, err := url.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		urls = append(urls, u)
	}
	centrals := NewCentrals(urls, nil)
	pass := NewPass(PassOptions{
		Centrals: centrals, Records: p.records.Records, Name: "e1", Stall: 10 * time.Second,
		Trusted: []netip.Prefix{netip.MustParsePrefix("127.0.0.9/32")}, Log: slog.New(slog.DiscardHandler),
	})
	p.edge = httptest.NewUnstartedServer(pass)
	p.edge.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	p.central.Config.ErrorLog = p.edge.Config.ErrorLog
	p.edge.Start()
	t.Cleanup(func() {
		http.DefaultClient.CloseIdleConnections()
		p.edge.Close()
		centrals.Close()
		p.central.Close()
	})
	return p
}

// dial returns a connection to the edge.
func (p *passage) dial(from string) net.Conn {
	d := net.Dialer{Timeout: 10 * time.Second}
	if from != "" {
		d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(from)}
	}
	c, err := d.Dial("tcp", p.edge.Listener.Addr().String())
	if err != nil {
		p.t.Fatal(err)
	}
	c.SetDeadline(time.Now().Add(20 * time.Second))
	p.t.Cleanup(func() { c.Close() })
	return c
}

// send writes a request as it stands and returns the answer.
func (p *passage) send(from, text string) (*http.Response, []byte) {
	p.t.Helper()
	c := p.dial(from)
	if _, err := io.WriteString(c, text); err != nil {
		p.t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		p.t.Fatal(err)
	}
	body, err := io.ReadAll(res.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	return res, body
}

func TestARequestPassesUnchangedButForWhatIsOfTheConnection(t *testing.T) {
	var got *http.Request
	var body []byte
	p := newPassage(t, func(w http.ResponseWriter, r *http.Request) {
		got = r.Clone(t.Context())
		body, _ = io.ReadAll(r.Body)
		w.Header()["X-Odd"] = []string{"a", "b"}
		w.Header().Set("Keep-Alive", "timeout=5")
		w.WriteHeader(http.StatusTeapot)
		io.WriteString(w, "short and stout")
	})
	res, answer := p.send("", "PATCH /v2//images/%7Ea%20b?x=%zz;y&x=2 HTTP/1.1\r\nHost: images.example.org\r\n"+
		"Connection: close, X-Hop\r\nX-Hop: 1\r\nUpgrade: websocket\r\nTe: trailers, deflate\r\n"+
		"X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Host: evil\r\nX-Forwarded-Proto: https\r\nForwarded: for=6.6.6.6\r\n"+
		"X-Auth-Token: secret\r\nAccept-Encoding: br\r\nVia: 1.0 front\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
	if res.StatusCode != http.StatusTeapot || string(answer) != "short and stout" || fmt.Sprint(res.Header["X-Odd"]) != "[a b]" || res.Header["Keep-Alive"] != nil {
		t.Errorf("answered %v %q", res, answer)
	}
	if via := res.Header.Get("Via"); via != "1.1 e1" {
		t.Errorf("the answer came via %q", via)
	}
	if got.RequestURI != "/v2//images/%7Ea%20b?x=%zz;y&x=2" || got.Method != "PATCH" || got.Host != "images.example.org" || string(body) != "abc" {
		t.Errorf("the central got %s %s for %s with %q", got.Method, got.RequestURI, got.Host, body)
	}
	for name, want := range map[string]string{
		"X-Hop": "", "Upgrade": "", "Connection": "", "Te": "trailers", "X-Auth-Token": "secret", "Accept-Encoding": "br", "User-Agent": "",
		"X-Forwarded-For": "127.0.0.1", "X-Forwarded-Host": "images.example.org", "X-Forwarded-Proto": "http",
		"Forwarded": `for=127.0.0.1;host="images.example.org";proto="http"`, "Via": "1.0 front, 1.1 e1",
	} {
		if is := strings.Join(got.Header[name], ", "); is != want {
			t.Errorf("%s is %q, want %q", name, is, want)
		}
	}
}

func TestTheWordOfATrustedProxyIsPassedOn(t *testing.T) {
	var got http.Header
	p := newPassage(t, func(_ http.ResponseWriter, r *http.Request) { got = r.Header })
	p.send("127.0.0.9", "GET / HTTP/1.1\r\nHost: inside\r\nConnection: close\r\n"+
		"X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Host: images.example.org\r\nX-Forwarded-Proto: https\r\nForwarded: for=192.0.2.1\r\n\r\n")
	for name, want := range map[string]string{
		"X-Forwarded-For": "192.0.2.1, 127.0.0.9", "X-Forwarded-Host": "images.example.org", "X-Forwarded-Proto": "https",
		"Forwarded": `for=192.0.2.1, for=127.0.0.9;host="images.example.org";proto="https"`,
	} {
		if is := strings.Join(got[name], ", "); is != want {
			t.Errorf("%s is %q, want %q", name, is, want)
		}
	}
}

func TestWhoAsksFirstHearsTheCentralsWord(t *testing.T) {
	const head = "PUT /v2/images/x/file HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 3\r\nConnection: close\r\n\r\n"
	for _, tt := range []struct {
		name    string
		central http.HandlerFunc
		first   string
		final   string
	}{
		{"that the body is not wanted", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(401) }, "HTTP/1.1 401 Unauthorized\r\n", ""},
		{"that it is", func(w http.ResponseWriter, r *http.Request) {
			if b, err := io.ReadAll(r.Body); err == nil && string(b) == "abc" {
				w.WriteHeader(204)
			}
		}, "HTTP/1.1 100 Continue\r\n", "HTTP/1.1 204 No Content\r\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := newPassage(t, tt.central)
			c := p.dial("")
			io.WriteString(c, head)
			in := bufio.NewReader(c)
			if line, err := in.ReadString('\n'); err != nil || line != tt.first {
				t.Fatalf("answered %q, %v", line, err)
			}
			if tt.final == "" {
				return
			}
			io.WriteString(c, "abc")
			rest, err := io.ReadAll(in)
			if err != nil || !strings.HasPrefix(string(rest), "\r\n"+tt.final) {
				t.Errorf("then %q, %v", rest, err)
			}
		})
	}
}

func TestBothBodiesStream(t *testing.T) {
	heard, more := make(chan string, 1), make(chan struct{})
	p := newPassage(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == "PUT" {
			first := make([]byte, 5)
			io.ReadFull(r.Body, first)
			heard <- string(first)
			n, err := io.Copy(io.Discard, r.Body)
			heard <- fmt.Sprint(n, err)
			return
		}
		io.WriteString(w, "first")
		w.(http.Flusher).Flush()
		<-more
		io.WriteString(w, "second")
	})
	r, w := io.Pipe()
	req, _ := http.NewRequestWithContext(t.Context(), "PUT", p.edge.URL+"/up", r)
	done := make(chan error, 1)
	go func() {
		res, err := http.DefaultClient.Do(req)
		if err == nil {
			res.Body.Close()
		}
		done <- err
	}()
	io.WriteString(w, "hello")
	if got := <-heard; got != "hello" { // while the client still sends
		t.Errorf("the central got %q", got)
	}
	w.Write(make([]byte, 1<<20))
	w.Close()
	if got := <-heard; got != "1048576 <nil>" {
		t.Errorf("then %s", got)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}

	res, err := http.Get(p.edge.URL + "/down")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	first := make([]byte, 5)
	if _, err := io.ReadFull(res.Body, first); err != nil || string(first) != "first" { // while the central still sends
		t.Errorf("got %q, %v", first, err)
	}
	close(more)
	if rest, err := io.ReadAll(res.Body); err != nil || string(rest) != "second" {
		t.Errorf("then %q, %v", rest, err)
	}
}

func TestWhatBreaksAtOneSideBreaksAtTheOther(t *testing.T) {
	heard := make(chan error, 1)
	p := newPassage(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == "PUT" {
			_, err := io.Copy(io.Discard, r.Body)
			heard <- err
			return
		}
		w.Header().Set("Content-Length", "100")
		io.WriteString(w, "some")
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	})
	c := p.dial("")
	io.WriteString(c, "PUT /up HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nsome")
	c.Close()
	if err := <-heard; err == nil {
		t.Error("the central took half a body for a whole")
	}
	res, err := http.Get(p.edge.URL + "/down")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if got, err := io.ReadAll(res.Body); !errors.Is(err, io.ErrUnexpectedEOF) || string(got) != "some" {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestAMalformedBodyIsTheClientsFault(t *testing.T) {
	whole := make(chan bool, 1)
	p := newPassage(t, func(w http.ResponseWriter, r *http.Request) {
		_, err := io.Copy(io.Discard, r.Body)
		whole <- err == nil
	})
	res, _ := p.send("", "PUT /up HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n")
	if res.StatusCode != 400 || !res.Close {
		t.Errorf("answered %v", res)
	}
	if <-whole {
		t.Error("the central took it for whole")
	}
}

func TestAnAnswerThatComesBeforeTheBodyIsOverIsHeard(t *testing.T) {
	p := newPassage(t, func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, "too much", http.StatusRequestEntityTooLarge)
	})
	res, err := http.Post(p.edge.URL+"/up", "application/octet-stream", io.LimitReader(zeros{}, 8<<20))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusRequestEntityTooLarge {
		t.Errorf("answered %v", res)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

func TestTheNextCentralIsAskedIfNothingWasSent(t *testing.T) {
	const gone = "http://127.0.0.1:1" // a free port could become the edge's own
	breaks := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		panic(http.ErrAbortHandler)
	}))
	breaks.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	t.Cleanup(breaks.Close)
	data := bytes.Repeat([]byte("body"), 1<<18)
	for _, tt := range []struct {
		name, first, method string
		body                []byte
		status              int
	}{
		{"a read", gone, "GET", nil, 200},
		{"a change, with all of its body", gone, "POST", data, 200},
		{"a read that was broken off", breaks.URL, "GET", nil, 200},
		{"not a change that was broken off", breaks.URL, "POST", data, 502},
		{"nor one without a body", breaks.URL, "DELETE", nil, 502},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := newPassage(t, func(w http.ResponseWriter, r *http.Request) {
				sum := sha256.New()
				n, err := io.Copy(sum, r.Body)
				if want := sha256.Sum256(tt.body); err != nil || n != int64(len(tt.body)) || !bytes.Equal(sum.Sum(nil), want[:]) {
					w.WriteHeader(500)
				}
			}, tt.first)
			req, _ := http.NewRequestWithContext(t.Context(), tt.method, p.edge.URL+"/x", bytes.NewReader(tt.body))
			res, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			res.Body.Close()
			if res.StatusCode != tt.status {
				t.Errorf("answered %v", res)
			}
		})
	}
}

func TestNoCentralAtAllIsSaidSo(t *testing.T) {
	p := newPassage(t, nil)
	p.central.Close()
	res, err := http.Get(p.edge.URL + "/v2/images")
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != 503 || res.Header.Get("Retry-After") == "" {
		t.Errorf("answered %v", res)
	}
}

func TestARequestThatWasHereBeforeIsNotPassedOn(t *testing.T) {
	p := newPassage(t, func(http.ResponseWriter, *http.Request) { t.Error("it was passed on") })
	res, _ := p.send("", "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nVia: 1.1 front, 1.1 e1 (nearsight)\r\n\r\n")
	if res.StatusCode != http.StatusLoopDetected {
		t.Errorf("answered %v", res)
	}
}

func TestAChangeThatPassedIsReadAtOnce(t *testing.T) {
	status := http.StatusOK
	p := newPassage(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == "POST" {
			w.Header().Set("Location", "/v2/images/"+idB)
		}
		w.WriteHeader(status)
	})
	m := p.records
	m.images.set(idA, "one")
	m.run(t)
	do := func(method, path string) {
		req, _ := http.NewRequestWithContext(t.Context(), method, p.edge.URL+path, nil)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
	}
	m.want(t, idA, "one", 1)
	do("GET", "/v2/images/"+idA)
	m.want(t, idA, "one", 1)
	do("PATCH", "/v2/images/"+idA)
	m.want(t, idA, "one", 2)
	do("PUT", "/v2/images/"+idA+"/file")
	m.want(t, idA, "one", 3)
	do("DELETE", "/v2/stores/slow/"+idA)
	m.want(t, idA, "one", 4)
	m.want(t, idB, "", 5)
	do("POST", "/v2/images")
	m.want(t, idB, "", 6)

	// What was refused changed nothing: nobody without rights empties the memory.
	status = http.StatusForbidden
	do("PATCH", "/v2/images/"+idA)
	m.want(t, idA, "one", 6)
}

func TestForwardedSaysWho(t *testing.T) {
	for remote, want := range map[string]string{
		"192.0.2.1:80":        `for=192.0.2.1;host="h";proto="http"`,
		"[2001:db8::1%e]:80":  `for="[2001:db8::1]";host="h";proto="http"`,
		"[::ffff:10.0.0.1]:1": `for=10.0.0.1;host="h";proto="http"`,
		"@":                   `for=unknown;host="h";proto="http"`,
	} {
		if got := forwarded(remote, "h", "http"); got != want {
			t.Errorf("%s: %s", remote, got)
		}
	}
}
