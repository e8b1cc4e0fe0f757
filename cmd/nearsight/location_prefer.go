package main

import (
	"net/http"
	"net/url"
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
	c, err := client.New(client.Options{
		Server:    serverURL(cmd),
		UserAgent: "nearsight/" + strings.Trim(readVersion().Version, "()"),
		HTTP:      &http.Client{Transport: preferring{http.DefaultTransport.(*http.Transport).Clone(), stores}},
	})
	if err != nil {
		return nil, usageError{err}
	}
	return c, nil
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
