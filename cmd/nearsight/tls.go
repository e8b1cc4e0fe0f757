package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	tlsLooks   = time.Second // how often the files are looked at for a change
	maxTLSFile = 1 << 20     // bytes
)

// tlsFiles are the files of a certificate and its key, and of the authorities that
// vouch for clients and for nodes: in PEM, and the authorities may be "". With those of
// clients whoever shows no certificate of either is not spoken to; those of nodes alone
// leave it to a client whether it shows one.
type tlsFiles struct{ cert, key, clientCA, nodeCA string }

// A tlsFace is TLS on the listeners: with a certificate that follows its files, and over
// which net/http speaks HTTP/1.1 and HTTP/2. A nil one is plain TCP.
type tlsFace struct {
	files tlsFiles
	log   *slog.Logger
	conf  atomic.Pointer[tls.Config] // for new connections
	seen  tlsTexts                   // of the last look; for Run
}

// tlsTexts are the contents of tlsFiles, or why there are none.
type tlsTexts struct {
	cert, key, clientCA, nodeCA []byte
	err                         error
}

// openTLS reads the files. Nothing follows them until Run.
func openTLS(files tlsFiles, log *slog.Logger) (*tlsFace, error) {
	f := &tlsFace{files: files, log: log, seen: files.read()}
	return f, f.take(f.seen)
}

// take puts what was read in force, if it is right.
func (f *tlsFace) take(texts tlsTexts) error {
	conf, leaf, err := f.files.config(texts)
	if err != nil {
		return err
	}
	f.conf.Store(conf)
	f.log.Info("certificate read", "file", f.files.cert, "subject", leaf.Subject.String(), "names", leaf.DNSNames, "not_after", leaf.NotAfter)
	if time.Now().After(leaf.NotAfter) {
		f.log.Warn("the certificate has expired", "file", f.files.cert, "not_after", leaf.NotAfter)
	}
	return nil
}

// read reads the files. Contents and not times are compared, so that no way of
// replacing files is missed.
func (f tlsFiles) read() (t tlsTexts) {
	for _, file := range []struct {
		path string
		text *[]byte
	}{{f.cert, &t.cert}, {f.key, &t.key}, {f.clientCA, &t.clientCA}, {f.nodeCA, &t.nodeCA}} {
		if file.path == "" {
			continue
		}
		text, err := readSmall(file.path)
		if err != nil {
			return tlsTexts{err: fmt.Errorf("certificate: %w", err)}
		}
		*file.text = text
	}
	return t
}

func readSmall(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxTLSFile+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxTLSFile {
		return nil, fmt.Errorf("%s is larger than %d bytes", path, maxTLSFile)
	}
	return text, nil
}

// same reports whether two looks saw the same.
func (t tlsTexts) same(u tlsTexts) bool {
	if t.err != nil || u.err != nil {
		return t.err != nil && u.err != nil && t.err.Error() == u.err.Error()
	}
	return bytes.Equal(t.cert, u.cert) && bytes.Equal(t.key, u.key) && bytes.Equal(t.clientCA, u.clientCA) && bytes.Equal(t.nodeCA, u.nodeCA)
}

// config makes of the texts what a connection goes by.
func (f tlsFiles) config(t tlsTexts) (*tls.Config, *x509.Certificate, error) {
	if t.err != nil {
		return nil, nil, t.err
	}
	pair, err := tls.X509KeyPair(t.cert, t.key)
	if err != nil {
		return nil, nil, fmt.Errorf("certificate %s and key %s: %w", f.cert, f.key, err)
	}
	c := &tls.Config{
		Certificates: []tls.Certificate{pair},
		MinVersion:   tls.VersionTLS12,
		NextProtos:   []string{"h2", "http/1.1"},
	}
	for _, ca := range []struct {
		path string
		text []byte
		auth tls.ClientAuthType
	}{{f.nodeCA, t.nodeCA, tls.VerifyClientCertIfGiven}, {f.clientCA, t.clientCA, tls.RequireAndVerifyClientCert}} {
		if ca.path == "" {
			continue
		}
		if c.ClientCAs == nil {
			c.ClientCAs = x509.NewCertPool()
		}
		if !c.ClientCAs.AppendCertsFromPEM(ca.text) {
			return nil, nil, fmt.Errorf("%s has no certificate in PEM", ca.path)
		}
		c.ClientAuth = ca.auth
		// A client whose certificate has expired, or whose authority is not
		// trusted any more, shall not come back by a ticket of before.
		c.SessionTicketsDisabled = true
	}
	return c, pair.Leaf, nil
}

// Run follows the files until ctx ends, and returns nil then. They are looked at every
// second, and at once on SIGHUP. What cannot be used is logged, and what was in force
// stays.
func (f *tlsFace) Run(ctx context.Context) error {
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	often := time.NewTicker(tlsLooks)
	defer often.Stop()
	for {
		select {
		case <-hup:
			f.look(true)
		case <-often.C:
			f.look(false)
		case <-ctx.Done():
			return nil
		}
	}
}

// look reads the files, and takes what they have if it is new, or if somebody asked.
func (f *tlsFace) look(asked bool) {
	now := f.files.read()
	if now.same(f.seen) && !asked {
		return
	}
	f.seen = now
	if err := f.take(now); err != nil {
		f.log.Error("the certificate cannot be used; the one from before stays in force", "err", err)
	}
}

// over returns the listener with TLS over its connections.
func (f *tlsFace) over(l net.Listener) net.Listener {
	if f == nil {
		return l
	}
	return tls.NewListener(l, &tls.Config{
		// The server says what it could only without a certificate of a client.
		MinVersion:         tls.VersionTLS12,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return f.conf.Load(), nil },
	})
}

// openFace returns the TLS of the listeners, nil if there is none.
func (n *node) openFace(c Config) error {
	if c.TLS.Cert == "" {
		return nil
	}
	face, err := openTLS(tlsFiles{cert: c.TLS.Cert, key: c.TLS.Key, clientCA: c.TLS.ClientCA, nodeCA: c.Nodes.CA}, n.log)
	if err != nil {
		return err
	}
	n.face = face
	n.parts = append(n.parts, face.Run)
	return nil
}

// checkTLS finds settings of TLS that do not go together.
func (c *Config) checkTLS(refuse func(name, format string, args ...any)) {
	switch {
	case c.TLS.Cert != "" && c.TLS.Key == "":
		refuse("tls.key", "the certificate needs its key")
	case c.TLS.Cert == "" && c.TLS.Key != "":
		refuse("tls.cert", "the key needs its certificate")
	case c.TLS.Cert == "" && c.TLS.ClientCA != "":
		refuse("tls.client_ca", "clients can show certificates only where the server has one (tls.cert)")
	case c.TLS.Cert == "" && c.Nodes.CA != "":
		refuse("nodes.ca", "nodes can show certificates only where the server has one (tls.cert)")
	}
	if !c.Server.Admin.loopback() && c.TLS.Cert == "" && c.Identity.Kind != "none" && !c.Server.InsecureAllowRemote {
		refuse("server.admin", "%s can be reached from other machines, and asks nobody who they are. "+
			"Listen on 127.0.0.1, or have TLS (tls.cert), with tls.client_ca where metrics are nobody else's business, or allow it with --insecure-allow-remote", c.Server.Admin)
	}
}
