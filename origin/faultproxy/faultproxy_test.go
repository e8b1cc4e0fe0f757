package faultproxy_test

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"nearsight/origin"
	"nearsight/origin/faultproxy"
	"nearsight/origin/guard"
	"nearsight/origin/origintest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newProxy(t *testing.T, target string) *faultproxy.Proxy { return faultproxy.New(t, target) }

func at(n int64) *int64 { return &n }

func TestTrouble(t *testing.T) {
	origintest.TestTrouble(t, newServer(t).URL, func(t *testing.T, url string) origin.WriteStore {
		return newStore(t, url)
	})
}

func TestTroubleOfAGuardedStore(t *testing.T) {
	origintest.TestTrouble(t, newServer(t).URL, func(t *testing.T, url string) origin.WriteStore {
		return guard.NewWriter(newStore(t, url), guard.Options{
			Backoff: time.Nanosecond, Cooldown: time.Nanosecond, Log: slog.New(slog.DiscardHandler),
		})
	})
}

// echo answers with what came, as text, and then with a body of ten digits.
func echo(t *testing.T) string {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		w.Header().Set("X-Seen", r.Method+" "+r.Host+r.RequestURI+" "+r.Header.Get("Accept-Encoding")+"|"+r.UserAgent()+"|"+string(body))
		io.WriteString(w, "0123456789")
	}))
	t.Cleanup(s.Close)
	return s.URL
}

// exchange sends one request on a new connection and reads all that comes.
func exchange(t *testing.T, p *faultproxy.Proxy, request string) (string, error) {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(p.URL, "http://"))
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, request); err != nil {
		return "", err
	}
	b, err := io.ReadAll(conn)
	return string(b), err
}

const get = "GET /a%2Fb?c HTTP/1.1\r\nHost: signed.example\r\nConnection: close\r\n\r\n"

func TestARequestPassesAsItIs(t *testing.T) {
	p := newProxy(t, echo(t))
	got, err := exchange(t, p, "PUT /a%2Fb?c HTTP/1.1\r\nHost: signed.example\r\nConnection: close\r\nContent-Length: 3\r\n\r\nxyz")
	if err != nil || !strings.Contains(got, "X-Seen: PUT signed.example/a%2Fb?c ||xyz\r\n") || !strings.HasSuffix(got, "\r\n\r\n0123456789") {
		t.Errorf("%v\n%s", err, got)
	}
	if p.Requests.Load() != 1 || p.Connections.Load() != 1 || p.Received.Load() != 3 || p.Sent.Load() != 10 {
		t.Errorf("%d requests on %d connections, %d bytes received and %d sent; want 1, 1, 3, 10",
			p.Requests.Load(), p.Connections.Load(), p.Received.Load(), p.Sent.Load())
	}
}

func TestFaults(t *testing.T) {
	for _, tt := range []struct {
		name  string
		fault faultproxy.Fault
		want  string // the answer has this
		ends  string // and ends so; "-" means that there is none
		reset bool
	}{
		{"none", faultproxy.Fault{}, "200 OK", "\r\n\r\n0123456789", false},
		{"a status", faultproxy.Fault{Status: 503}, "503 Service Unavailable", "\r\n\r\n", false},
		{"a status that says when to come back", faultproxy.Fault{Status: 429, RetryAfter: 7 * time.Second}, "Retry-After: 7\r\n", "\r\n\r\n", false},
		{"no answer", faultproxy.Fault{Lost: true}, "", "-", true},
		{"reset at the start", faultproxy.Fault{Reset: at(0)}, "", "", true},
		{"reset in the middle", faultproxy.Fault{Reset: at(4)}, "", "", true},
		{"reset beyond the end", faultproxy.Fault{Reset: at(10)}, "200 OK", "0123456789", false},
		{"longer than it is", faultproxy.Fault{Length: 5}, "Content-Length: 15", "0123456789", false},
		{"shorter than it is", faultproxy.Fault{Length: -5}, "Content-Length: 5", "0123456789", false},
		{"a flipped byte", faultproxy.Fault{Flip: at(1)}, "Content-Length: 10", "0\xce23456789", false},
		{"an upload without a body is not reset", faultproxy.Fault{ResetUpload: at(0)}, "200 OK", "0123456789", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := newProxy(t, echo(t))
			p.Inject(tt.fault)
			got, err := exchange(t, p, get)
			if tt.ends == "-" && got != "" || tt.ends != "-" && !strings.HasSuffix(got, tt.ends) || !strings.Contains(got, tt.want) {
				t.Errorf("answer %q", got)
			}
			if errors.Is(err, syscall.ECONNRESET) != tt.reset || !tt.reset && err != nil {
				t.Errorf("error %v; want a reset: %v", err, tt.reset)
			}
			p.Inject()
			if got, err := exchange(t, p, get); err != nil || !strings.HasSuffix(got, "0123456789") {
				t.Errorf("afterwards: %v, %q", err, got)
			}
		})
	}
}

func TestAFaultChoosesItsRequests(t *testing.T) {
	p := newProxy(t, echo(t))
	p.Inject(
		faultproxy.Fault{Match: func(r *http.Request) bool { return r.Method == "POST" }, Status: 500},
		faultproxy.Fault{Status: 503, Times: 2},
		faultproxy.Fault{Status: 429, Times: 1},
	)
	for i, want := range []string{"503", "503", "429", "200"} {
		if got, _ := exchange(t, p, get); !strings.HasPrefix(got, "HTTP/1.1 "+want) {
			t.Errorf("answer %d is %.20q; want %s", i, got, want)
		}
	}
	if got, _ := exchange(t, p, strings.Replace(get, "GET", "POST", 1)); !strings.HasPrefix(got, "HTTP/1.1 500") {
		t.Errorf("the answer to POST is %.20q", got)
	}
}

func TestAClosedPortRefuses(t *testing.T) {
	p := newProxy(t, echo(t))
	idle, err := net.Dial("tcp", strings.TrimPrefix(p.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer idle.Close()
	io.WriteString(idle, strings.Replace(get, "Connection: close\r\n", "", 1))
	r := bufio.NewReader(idle)
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(resp.Body); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		p.Inject(faultproxy.Fault{Refuse: true})
		p.Inject(faultproxy.Fault{Refuse: true}) // twice is once
		if _, err := exchange(t, p, get); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("a closed port: %v", err)
		}
		p.Inject()
		if got, err := exchange(t, p, get); err != nil || !strings.HasSuffix(got, "0123456789") {
			t.Errorf("open again: %v, %q", err, got)
		}
	}
	if _, err := r.ReadByte(); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("an idle connection: %v", err)
	}
}

func TestAnUploadIsReset(t *testing.T) {
	s := newServer(t)
	p := newProxy(t, s.URL)
	for _, n := range []int64{0, 1, 1000} {
		p.Inject(faultproxy.Fault{ResetUpload: at(n)})
		_, err := http.Post(p.URL, "", bytes.NewReader(make([]byte, 100<<10)))
		if err == nil {
			t.Errorf("an upload cut at %d passed", n)
		}
	}
	if len(s.objects) != 0 {
		t.Errorf("the server has %d objects", len(s.objects))
	}
}

func TestAGate(t *testing.T) {
	for _, pos := range []int64{-1, 0, 4} {
		p := newProxy(t, echo(t))
		// The gate opens, the client leaves, and the fault ends.
		gate := faultproxy.NewGate(pos)
		p.Inject(faultproxy.Fault{Gate: gate})
		done := make(chan string)
		go func() {
			got, _ := exchange(t, p, get)
			done <- got
		}()
		<-gate.Reached
		close(gate.Pass)
		if got := <-done; !strings.HasSuffix(got, "0123456789") {
			t.Errorf("gate at %d: %q passed", pos, got)
		}

		gate = faultproxy.NewGate(pos)
		p.Inject(faultproxy.Fault{Gate: gate})
		conn, err := net.Dial("tcp", strings.TrimPrefix(p.URL, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(conn, get)
		<-gate.Reached
		conn.Close() // goleak sees that the answer ends

		gate = faultproxy.NewGate(pos)
		p.Inject(faultproxy.Fault{Gate: gate})
		go func() {
			got, _ := exchange(t, p, get)
			done <- got
		}()
		<-gate.Reached
		p.Inject()
		if got := <-done; strings.HasSuffix(got, "9") {
			t.Errorf("gate at %d: all came although it never opened", pos)
		}
	}
}
