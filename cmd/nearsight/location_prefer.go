package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"nearsight/registry/client"
)

// newPreferringClient returns a client whose downloads ask for the data in these
// stores first: names with commas between them, "" for none.
func newPreferringClient(cmd *cobra.Command, stores string) (*client.Client, error) {
	if stores == "" {
		return newClient(cmd)
	}
	opt, err := clientOptions(cmd)
	if err != nil {
		return nil, err
	}
	t := http.DefaultTransport.(*http.Transport).Clone()
	if t.TLSClientConfig, err = tlsOf(opt); err != nil {
		return nil, usageError{err}
	}
	opt.HTTP = &http.Client{Transport: preferring{t, stores}}
	opt.CAFile, opt.CertFile, opt.KeyFile, opt.Insecure = "", "", "", false // t has them
	c, err := client.New(opt)
	if err != nil {
		return nil, usageError{err}
	}
	return c, nil
}

// tlsOf returns what package client makes of the same options.
func tlsOf(opt client.Options) (*tls.Config, error) {
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
	if opt.CertFile != "" {
		pair, err := tls.LoadX509KeyPair(opt.CertFile, opt.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("client certificate: %w", err)
		}
		conf.Certificates = []tls.Certificate{pair}
	}
	return conf, nil
}

// A preferring adds the parameter prefer to requests for image data.
type preferring struct {
	*http.Transport
	stores string
}

// RoundTrip implements http.RoundTripper.
func (p preferring) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, "/file") {
		r = r.Clone(r.Context())
		r.URL.RawQuery = url.Values{"prefer": {p.stores}}.Encode()
	}
	return p.Transport.RoundTrip(r)
}
