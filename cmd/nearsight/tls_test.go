package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// An authority makes certificates for this machine.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority(name string) (*authority, error) {
	a := &authority{}
	var err error
	if a.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &a.key.PublicKey, a.key)
	if err != nil {
		return nil, err
	}
	a.pem = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	a.cert, err = x509.ParseCertificate(der)
	return a, err
}

// issue returns a certificate of 127.0.0.1 and its key.
func (a *authority) issue(name string, until time.Duration) (cert, key []byte, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(until), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &private.PublicKey, a.key)
	if err != nil {
		return nil, nil, err
	}
	raw, err := x509.MarshalECPrivateKey(private)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: raw}), nil
}

// A keyDir is a directory with the files of a server.
type keyDir struct {
	t  *testing.T
	ca *authority
	tlsFiles
}

func newKeyDir(t *testing.T) *keyDir {
	t.Helper()
	ca, err := newAuthority("test")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	d := &keyDir{t, ca, tlsFiles{cert: filepath.Join(dir, "cert.pem"), key: filepath.Join(dir, "key.pem")}}
	d.renew("first", time.Hour)
	return d
}

// renew writes a new certificate and key.
func (d *keyDir) renew(name string, until time.Duration) {
	d.t.Helper()
	cert, key, err := d.ca.issue(name, until)
	if err != nil {
		d.t.Fatal(err)
	}
	d.write(d.cert, cert)
	d.write(d.key, key)
}

func (d *keyDir) write(path string, text []byte) {
	d.t.Helper()
	if err := os.WriteFile(path, text, 0o600); err != nil {
		d.t.Fatal(err)
	}
}

// inForce returns the name of the certificate that clients of f get.
func inForce(t *testing.T, f *tlsFace) string {
	t.Helper()
	leaf, err := x509.ParseCertificate(f.conf.Load().Certificates[0].Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	return leaf.Subject.CommonName
}

func TestTheCertificateFollowsItsFiles(t *testing.T) {
	d := newKeyDir(t)
	var log bytes.Buffer
	f, err := openTLS(d.tlsFiles, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	cert, key, err := d.ca.issue("second", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		name   string
		change func()
		want   string
		logged string // "" for nothing
	}{
		{"nothing changed", func() {}, "first", ""},
		{"the certificate came, and its key did not yet", func() { d.write(d.cert, cert) }, "first", "private key does not match public key"},
		{"which is said once", func() {}, "first", ""},
		{"the key came too", func() { d.write(d.key, key) }, "second", "certificate read"},
		{"the certificate is cut short", func() { d.write(d.cert, cert[:len(cert)/2]) }, "second", "stays in force"},
		{"it is not there", func() { os.Remove(d.cert) }, "second", "no such file"},
		{"it is too large", func() { d.write(d.cert, make([]byte, maxTLSFile+1)) }, "second", "larger than"},
		{"it is back", func() { d.write(d.cert, cert) }, "second", "certificate read"},
		{"it has expired", func() { d.renew("old", -time.Hour) }, "old", "has expired"},
		{"a file took its place", func() {
			d.renew("third", time.Hour)
			d.write(d.cert+".new", must(os.ReadFile(d.cert)))
			if err := os.Rename(d.cert+".new", d.cert); err != nil {
				t.Fatal(err)
			}
		}, "third", "certificate read"},
	} {
		log.Reset()
		step.change()
		f.look(false)
		if got := inForce(t, f); got != step.want {
			t.Errorf("%s: %s is in force, want %s", step.name, got, step.want)
		}
		if text := log.String(); step.logged == "" && text != "" || !strings.Contains(text, step.logged) || strings.Contains(text, "PRIVATE") {
			t.Errorf("%s: logged %q, want %q", step.name, text, step.logged)
		}
	}
}

func must(b []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return b
}

func TestFilesThatCannotBeUsedAreNamed(t *testing.T) {
	for _, tt := range []struct {
		name  string
		spoil func(d *keyDir)
		want  string
	}{
		{"no certificate", func(d *keyDir) { os.Remove(d.cert) }, "cert.pem: no such file"},
		{"no key", func(d *keyDir) { os.Remove(d.key) }, "key.pem: no such file"},
		{"a key for a certificate", func(d *keyDir) { d.cert = d.key }, "key.pem"},
		{"another key", func(d *keyDir) {
			_, key, err := d.ca.issue("other", time.Hour)
			if err != nil {
				d.t.Fatal(err)
			}
			d.write(d.key, key)
		}, "does not match"},
		{"authorities without a certificate", func(d *keyDir) { d.clientCA = d.key }, "no certificate in PEM"},
		{"authorities that are not there", func(d *keyDir) { d.clientCA = "nowhere.pem" }, "nowhere.pem: no such file"},
	} {
		d := newKeyDir(t)
		tt.spoil(d)
		if _, err := openTLS(d.tlsFiles, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

func TestRunFollowsSignalsAndTime(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent(), goleak.IgnoreTopFunction("os/signal.loop"))
	d := newKeyDir(t)
	f, err := openTLS(d.tlsFiles, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	d.renew("second", time.Hour)
	deadline := time.Now().Add(patience)
	for inForce(t, f) != "second" {
		if time.Now().After(deadline) {
			t.Fatal("the new certificate is not taken")
		}
		time.Sleep(10 * time.Millisecond)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestNodesMayShowCertificatesWhereClientsNeedNot(t *testing.T) {
	d := newKeyDir(t)
	nodes, err := newAuthority("nodes")
	if err != nil {
		t.Fatal(err)
	}
	d.nodeCA = filepath.Join(filepath.Dir(d.cert), "nodes.pem")
	d.write(d.nodeCA, nodes.pem)
	others, err := newAuthority("nodes") // by name alone
	if err != nil {
		t.Fatal(err)
	}
	f, err := openTLS(d.tlsFiles, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		ca   *authority
		want int // chains that are verified, -1 for no connection
	}{
		{"a client without a certificate", nil, 0}, {"a node", nodes, 1}, {"a client of others", others, -1},
	} {
		server, client := net.Pipe()
		l := f.over(&oneConn{conn: server})
		conn, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			conf := d.config(tt.ca)
			conf.ServerName = "127.0.0.1"
			io.Copy(io.Discard, tls.Client(client, conf))
			client.Close()
		}()
		got := -1
		if err := conn.(*tls.Conn).Handshake(); err == nil {
			got = len(conn.(*tls.Conn).ConnectionState().VerifiedChains)
		}
		server.Close()
		if got != tt.want {
			t.Errorf("%s: %d chains, want %d", tt.name, got, tt.want)
		}
	}
}

// A oneConn is a listener that accepts one connection.
type oneConn struct {
	net.Listener
	conn net.Conn
}

func (l *oneConn) Accept() (net.Conn, error) { return l.conn, nil }

func TestSettingsOfTLSGoTogether(t *testing.T) {
	const cert, key, ca = "NEARSIGHT_TLS_CERT=c.pem", "NEARSIGHT_TLS_KEY=k.pem", "NEARSIGHT_TLS_CLIENT_CA=ca.pem"
	const tokens, file = "NEARSIGHT_IDENTITY_KIND=tokens", "NEARSIGHT_IDENTITY_TOKENS=t.json"
	const remote = "NEARSIGHT_SERVER_ADMIN=0.0.0.0:9293"
	for _, tt := range []struct {
		name, want string
		env        []string
	}{
		{"a certificate and a key", "", []string{cert, key}},
		{"all three", "", []string{cert, key, ca}},
		{"a certificate alone", "tls.key: the certificate needs its key", []string{cert}},
		{"a key alone", "tls.cert: the key needs its certificate", []string{key}},
		{"authorities alone", "tls.client_ca: clients can show", []string{ca}},
		{"authorities of nodes alone", "nodes.ca: nodes can show", []string{"NEARSIGHT_NODES_CA=ca.pem"}},
		{"metrics for other machines", "server.admin: 0.0.0.0:9293 can be reached", []string{tokens, file, remote}},
		{"metrics for other machines over TLS", "", []string{tokens, file, remote, cert, key}},
		{"metrics for other machines, allowed", "", []string{tokens, file, remote, "NEARSIGHT_SERVER_INSECURE_ALLOW_REMOTE=true"}},
		{"TLS is no reason to tell nobody apart", "server.admin: 0.0.0.0:9293", []string{remote, cert, key}},
	} {
		_, _, err := loadConfig("", tt.env, nil)
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}
