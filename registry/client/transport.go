package client

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"
)

// maxRedirects is how often one request may be sent on, as in net/http.
const maxRedirects = 10

// newHTTP returns what sends the requests. A client of the caller is copied, so
// that redirects can be watched.
func newHTTP(opt Options) (*http.Client, error) {
	h := &http.Client{}
	if opt.HTTP != nil {
		if opt.CAFile != "" || opt.CertFile != "" || opt.KeyFile != "" || opt.Insecure {
			return nil, errors.New("an HTTP client of its own brings its own certificates")
		}
		*h = *opt.HTTP
	} else {
		t := newTransport()
		conf, err := opt.TLS()
		if err != nil {
			return nil, err
		}
		t.TLSClientConfig = conf
		h.Transport = t
	}
	if h.CheckRedirect == nil {
		h.CheckRedirect = stayThere
	}
	return h, nil
}

// stayThere follows redirects on one server alone: net/http would take the token
// to any other.
func stayThere(req *http.Request, via []*http.Request) error {
	first := via[0].URL
	switch {
	case req.URL.Scheme != first.Scheme || req.URL.Host != first.Host:
		return http.ErrUseLastResponse
	case len(via) >= maxRedirects:
		return fmt.Errorf("it was sent on %d times", len(via))
	}
	return nil
}

// newTransport returns a transport that gives up on hosts which do not answer
// but sets no limit to the length of a transfer.
func newTransport() *http.Transport {
	return &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
		TLSHandshakeTimeout: 10 * time.Second,
		IdleConnTimeout:     time.Minute,
		ForceAttemptHTTP2:   true,
		// Of parallel downloads as many connections stay as may come again.
		MaxIdleConnsPerHost: 16,
		// A server that never heard of 100-continue gets the body after this.
		ExpectContinueTimeout: 5 * time.Second,
	}
}

// TLS returns what CAFile, CertFile, KeyFile and Insecure describe, for those who
// connect to something else with the same, and nil where the defaults do.
func (opt Options) TLS() (*tls.Config, error) {
	if opt.CAFile == "" && opt.CertFile == "" && opt.KeyFile == "" && !opt.Insecure {
		return nil, nil
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: opt.Insecure}
	if opt.CAFile != "" {
		pem, err := os.ReadFile(opt.CAFile)
		if err != nil {
			return nil, fmt.Errorf("trusted certificates: %w", err)
		}
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("trusted certificates: %s has none in PEM form", opt.CAFile)
		}
	}
	if opt.CertFile != "" || opt.KeyFile != "" {
		pair, err := tls.LoadX509KeyPair(opt.CertFile, opt.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("client certificate: %w", err)
		}
		conf.Certificates = []tls.Certificate{pair}
	}
	return conf, nil
}
