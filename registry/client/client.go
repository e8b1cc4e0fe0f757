// Package client speaks to a nearsight server, or to any other image service, over
// its REST API: Client has image records and their data, members, imports and tasks
// (Images API v2), and the administration of the server's cache; V1 and RegistryV1
// speak as the clients of 2011 did.
//
// Records are registry.Image, as everywhere. Errors wrap the sentinels of
// package registry, so that errors.Is(err, registry.ErrNotFound) works however
// far away the registry is; errors.As with *Error tells what the server said.
//
// What can be repeated without harm is tried again when a connection breaks or the
// server asks for it. Every call ends with its context, and leaves no goroutine
// behind.
package client

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"nearsight/registry"
)

const (
	// maxAnswer bounds a JSON answer, in bytes. A page of 1,000 images that
	// use all their properties is smaller.
	maxAnswer = 256 << 20

	defaultTimeout = time.Minute
	defaultAgent   = "nearsight-client"
	defaultRetries = 3
	defaultBackoff = 100 * time.Millisecond
	defaultPoll    = 200 * time.Millisecond
)

// Options say where the server is. Only Server is needed.
type Options struct {
	// Server is the base URL, such as http://127.0.0.1:9292; its path, if any,
	// goes before every path of the API.
	Server string
	// HTTP sends the requests. nil means a client of its own that uses the
	// proxy settings of the environment. It should have no Timeout: images are
	// as large as they are.
	HTTP *http.Client
	// UserAgent goes into every request; "" means nearsight-client.
	UserAgent string
	// Timeout bounds every call that moves no image data, with its retries; 0
	// means a minute.
	Timeout time.Duration
	// Token names the caller (X-Auth-Token); "" goes without. It is in no error
	// and is sent to Server alone, wherever that redirects to.
	Token string
	// TokenSource, in the place of Token, is asked for the token before the first
	// request, and once more when the server knows it no longer (401). It must be
	// safe for concurrent use.
	TokenSource func(ctx context.Context) (string, error)
	// CAFile names a file of PEM certificates that are trusted instead of the
	// system's. CertFile and KeyFile say who the client is. Insecure trusts any
	// server. Not with HTTP, which has its own.
	CAFile, CertFile, KeyFile string
	Insecure                  bool
	// Retries is how often a call is tried again that moves no image data and can
	// be repeated without harm, when the connection breaks or the server answers
	// 503 or 429 with Retry-After. 0 means 3, less than 0 none. A delete that finds
	// nothing after an answer got lost was done. Uploads follow it too; Save and Copy
	// have their own.
	Retries int
	// Backoff is the wait before the first retry, doubled for each, 0 means
	// 100 ms. A server can ask for more.
	Backoff time.Duration
}

// A Client calls one server. It is safe for concurrent use.
type Client struct {
	base    string // without a slash at the end
	http    *http.Client
	agent   string
	timeout time.Duration
	retries int
	backoff time.Duration
	poll    time.Duration // the first wait of those who wait for the server
	piece   int64         // bytes that a parallel download asks for at a time
	tokens  tokens
}

// New returns a client for opt.Server. It does not connect.
func New(opt Options) (*Client, error) {
	base, err := url.Parse(opt.Server)
	switch {
	case err != nil:
		return nil, fmt.Errorf("server URL: %w", err)
	case base.Scheme != "http" && base.Scheme != "https":
		return nil, fmt.Errorf("server URL %q does not begin with http:// or https://", opt.Server)
	case base.Host == "" || base.RawQuery != "" || base.Fragment != "" || base.User != nil:
		return nil, fmt.Errorf("server URL %q is not of the form http://host:port", base.Redacted())
	}
	c := &Client{
		base:    strings.TrimRight(base.String(), "/"),
		agent:   cmp.Or(opt.UserAgent, defaultAgent),
		timeout: cmp.Or(opt.Timeout, defaultTimeout),
		retries: cmp.Or(opt.Retries, defaultRetries),
		backoff: cmp.Or(max(opt.Backoff, 0), defaultBackoff),
		poll:    defaultPoll,
		piece:   pieceSize,
	}
	if c.http, err = newHTTP(opt); err != nil {
		return nil, err
	}
	if c.tokens, err = newTokens(opt); err != nil {
		return nil, err
	}
	return c, nil
}

// Close closes the connections that are idle. The client can still be used.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// request makes a request for a path of the API, which may have a query.
func (c *Client) request(ctx context.Context, method, path string, body io.Reader) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, body)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", c.agent)
	req.Header.Set("Accept", "application/json") // also for the errors of data calls
	return req, nil
}

// IsID reports whether s has the form of an image id: the text form of a UUID.
func IsID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		switch {
		case i == 8 || i == 13 || i == 18 || i == 23:
			if c != '-' {
				return false
			}
		case (c < '0' || c > '9') && (c < 'a' || c > 'f') && (c < 'A' || c > 'F'):
			return false
		}
	}
	return true
}

// checkID keeps what is no id out of paths. No image has such a name.
func checkID(id string) error {
	if !IsID(id) {
		return fmt.Errorf("%q is no image id: %w", id, registry.ErrNotFound)
	}
	return nil
}
