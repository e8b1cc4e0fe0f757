package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A secured server is the real program with TLS.
type secured struct {
	*server
	dir  *keyDir
	data string
	log  *bytes.Buffer // read when the server has ended
}

func newSecured(t *testing.T, d *keyDir, env ...string) *secured {
	t.Helper()
	s := &secured{dir: d, log: &bytes.Buffer{}, data: filepath.Join(t.TempDir(), "data")}
	env = append([]string{
		"PATH=" + os.Getenv("PATH"), "NEARSIGHT_TLS_CERT=" + d.cert, "NEARSIGHT_TLS_KEY=" + d.key, "NEARSIGHT_TLS_CLIENT_CA=" + d.clientCA,
		"NEARSIGHT_SERVER_STALL_TIMEOUT=1s",
	}, env...)
	args := []string{"--data", s.data, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--registry-listen", "127.0.0.1:0"}
	var err error
	if s.server, err = startServer("nearsight", t.TempDir(), env, args, s.log); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.kill)
	select {
	case <-s.ready:
	case <-s.exited:
		t.Fatalf("%v: %s", s.err, s.log)
	case <-time.After(patience):
		t.Fatal("not ready")
	}
	return s
}

// config returns what a client of the server goes by, with a certificate of its own if
// ca is not nil.
func (d *keyDir) config(ca *authority) *tls.Config {
	c := &tls.Config{RootCAs: x509.NewCertPool()}
	c.RootCAs.AppendCertsFromPEM(d.ca.pem)
	if ca != nil {
		cert, key, err := ca.issue("client", time.Hour)
		if err != nil {
			d.t.Fatal(err)
		}
		pair, err := tls.X509KeyPair(cert, key)
		if err != nil {
			d.t.Fatal(err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c
}

// client returns a client that speaks HTTP/1.1 or HTTP/2 with little buffers.
func (d *keyDir) client(ca *authority, http2 bool) *http.Client {
	tr := &http.Transport{TLSClientConfig: d.config(ca), DisableCompression: true, Protocols: new(http.Protocols), HTTP2: &http.HTTP2Config{MaxReceiveBufferPerStream: 64 << 10}}
	tr.Protocols.SetHTTP1(!http2)
	tr.Protocols.SetHTTP2(http2)
	tr.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := (&net.Dialer{}).DialContext(ctx, network, addr)
		if tcp, ok := c.(*net.TCPConn); ok {
			tcp.SetReadBuffer(256 << 10)
		}
		return c, err
	}
	d.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

// image makes an image of the data and returns the path of it.
func (s *secured) image(t *testing.T, c *http.Client, data []byte) string {
	t.Helper()
	send := func(method, path, media string, body []byte, want int) []byte {
		req, err := http.NewRequestWithContext(t.Context(), method, "https://"+s.listen+path, bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", media)
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != want {
			t.Fatalf("%s %s: %s %v %s", method, path, resp.Status, err, text)
		}
		return text
	}
	text := send("POST", "/v2/images", "application/json", []byte(`{"name":"x","disk_format":"raw","container_format":"bare"}`), http.StatusCreated)
	_, id, _ := strings.Cut(string(text), `"id":"`)
	if len(id) < 36 {
		t.Fatalf("no id in %s", text)
	}
	send("PUT", "/v2/images/"+id[:36]+"/file", "application/octet-stream", data, http.StatusNoContent)
	return "/v2/images/" + id[:36] + "/file"
}

func TestAllListenersSpeakTLSAndNothingElse(t *testing.T) {
	d := newKeyDir(t)
	s := newSecured(t, d)
	for _, http2 := range []bool{false, true} {
		c := d.client(nil, http2)
		for name, url := range map[string]string{"API": s.listen + "/versions", "admin": s.admin + "/healthz", "Registry API": s.registry + "/images"} {
			resp, err := c.Get("https://" + url)
			if err != nil {
				t.Fatal(name, err)
			}
			text, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			if resp.StatusCode/100 != 2 && resp.StatusCode != http.StatusMultipleChoices || resp.ProtoMajor == 2 != http2 {
				t.Errorf("%s: %s %s", name, resp.Proto, resp.Status)
			}
			if name == "API" && !strings.Contains(string(text), `"https://`+s.listen) {
				t.Errorf("links are not of TLS: %s", text)
			}
			if resp, err := http.Get("http://" + url); err != nil {
				t.Error(name, err)
			} else if resp.Body.Close(); resp.StatusCode != http.StatusBadRequest {
				t.Errorf("%s without TLS: %s", name, resp.Status)
			}
		}
	}
	old := d.config(nil)
	old.MaxVersion = tls.VersionTLS11
	if conn, err := tls.Dial("tcp", s.listen, old); err == nil {
		conn.Close()
		t.Error("TLS 1.1 is spoken")
	}
}

func TestTheProgramTakesNewCertificatesOnSIGHUPAndOpenConnectionsStay(t *testing.T) {
	d := newKeyDir(t)
	s := newSecured(t, d)
	c := d.client(nil, false)
	name := func(c *http.Client) string {
		t.Helper()
		resp, err := c.Get("https://" + s.listen + "/versions")
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		return resp.TLS.PeerCertificates[0].Subject.CommonName
	}
	if got := name(c); got != "first" {
		t.Fatal(got)
	}
	d.write(d.key, []byte("broken"))
	s.signal(t, "stays in force")
	if got := name(d.client(nil, false)); got != "first" {
		t.Errorf("with a broken key there is %s", got)
	}
	d.renew("second", time.Hour)
	s.signal(t, "CN=second")
	if got := name(d.client(nil, false)); got != "second" {
		t.Errorf("a new connection has %s", got)
	}
	if got := name(c); got != "first" {
		t.Errorf("the open connection has %s", got)
	}
}

// signal sends SIGHUP and waits for what is logged.
func (s *secured) signal(t *testing.T, want string) {
	t.Helper()
	if err := s.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	s.await(t, want)
}

// await waits until a line with the text is logged.
func (s *secured) await(t *testing.T, want string) {
	t.Helper()
	deadline := time.After(patience)
	for {
		s.mu.Lock()
		more := s.more
		found := false
		for _, l := range s.lines {
			found = found || strings.Contains(l.text, want)
		}
		s.mu.Unlock()
		if found {
			return
		}
		select {
		case <-more:
		case <-s.exited:
			t.Fatalf("the server ended: %v", s.err)
		case <-deadline:
			t.Fatalf("the server does not log %q", want)
		}
	}
}

// forget has await look at new lines alone.
func (s *secured) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lines = nil
}

func TestClientsShowCertificatesWhereAuthoritiesAreNamed(t *testing.T) {
	d := newKeyDir(t)
	d.clientCA = filepath.Join(filepath.Dir(d.cert), "ca.pem")
	ours, err := newAuthority("ours")
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := newAuthority("ours") // by name alone
	if err != nil {
		t.Fatal(err)
	}
	d.write(d.clientCA, ours.pem)
	s := newSecured(t, d)
	for _, tt := range []struct {
		name string
		ca   *authority
		ok   bool
	}{
		{"a client of ours", ours, true}, {"a client without a certificate", nil, false}, {"a client of others", theirs, false},
	} {
		for _, addr := range []string{s.listen, s.admin, s.registry} {
			resp, err := d.client(tt.ca, false).Get("https://" + addr + "/")
			if err == nil {
				resp.Body.Close()
			}
			if (err == nil) != tt.ok {
				t.Errorf("%s: %v", tt.name, err)
			}
		}
	}
}

// A client that takes a little all the time gets all, in many times the stall timeout;
// one that takes nothing is given up, and what it holds given back.
func TestSlowClientsOverTLSFinishAndDeadOnesDoNot(t *testing.T) {
	d := newKeyDir(t)
	s := newSecured(t, d)
	data := make([]byte, 16<<20)
	rand.Read(data)
	path := s.image(t, d.client(nil, false), data)
	for _, http2 := range []bool{false, true} {
		get := func() *http.Response {
			resp, err := d.client(nil, http2).Get("https://" + s.listen + path)
			if err != nil {
				t.Fatal(err)
			}
			if resp.ProtoMajor == 2 != http2 {
				t.Fatal(resp.Proto)
			}
			return resp
		}
		slow, dead := get(), get()
		var got bytes.Buffer
		pace := time.NewTicker(20 * time.Millisecond)
		for {
			<-pace.C
			if _, err := io.CopyN(&got, slow.Body, 64<<10); err == io.EOF {
				break
			} else if err != nil {
				t.Fatalf("%s: after %d bytes: %v", slow.Proto, got.Len(), err)
			}
		}
		pace.Stop()
		slow.Body.Close()
		if !bytes.Equal(got.Bytes(), data) {
			t.Errorf("%s: the bytes differ", slow.Proto)
		}
		s.await(t, `"aborted":true`)
		if n, err := io.Copy(io.Discard, dead.Body); err == nil {
			t.Errorf("%s: the dead client got %d bytes and no error", slow.Proto, n)
		}
		dead.Body.Close()
		s.forget()
	}
}

func TestClientCommandsSpeakTLS(t *testing.T) {
	d := newKeyDir(t)
	d.clientCA = filepath.Join(filepath.Dir(d.cert), "ca.pem")
	d.write(d.clientCA, d.ca.pem) // vouches for both sides
	cert, key, err := d.ca.issue("client", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	own := filepath.Join(t.TempDir(), "own.pem")
	d.write(own, append(cert, key...))
	s := newSecured(t, d)
	for _, tt := range []struct {
		name string
		env  []string
		want string // of the error
	}{
		{"with both", []string{"OS_CACERT=" + d.clientCA, "OS_CERT=" + own}, ""},
		{"without an authority", []string{"OS_CERT=" + own}, "cannot reach https://"},
		{"without a certificate", []string{"OS_CACERT=" + d.clientCA}, "cannot reach https://"},
	} {
		cmd := exec.Command("nearsight", "image", "list", "--server", "https://"+s.listen)
		cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir()}, tt.env...)
		out, err := cmd.CombinedOutput()
		if (err == nil) != (tt.want == "") || !strings.Contains(string(out), tt.want) {
			t.Errorf("%s: %v: %s", tt.name, err, out)
		}
	}
}
