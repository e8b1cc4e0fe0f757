// Package client speaks to a nearsight server over its REST API: image records
// and their data (Images API v2), and the administration of the server's cache.
//
// Records are registry.Image, as everywhere. Errors wrap the sentinels of
// package registry, so that errors.Is(err, registry.ErrNotFound) works however
// far away the registry is; errors.As with *Error tells what the server said.
package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
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
	// Timeout bounds every call that moves no image data, 0 means a minute.
	Timeout time.Duration
}

// A Client calls one server. It is safe for concurrent use.
type Client struct {
	base    string // without a slash at the end
	http    *http.Client
	agent   string
	timeout time.Duration
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
		http:    opt.HTTP,
		agent:   opt.UserAgent,
		timeout: opt.Timeout,
	}
	if c.http == nil {
		c.http = &http.Client{Transport: newTransport()}
	}
	if c.agent == "" {
		c.agent = defaultAgent
	}
	if c.timeout == 0 {
		c.timeout = defaultTimeout
	}
	return c, nil
}

// Close closes the connections that are idle. The client can still be used.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// newTransport returns a transport that gives up on hosts which do not answer
// but sets no limit to the length of a transfer.
func newTransport() *http.Transport {
	return &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
		TLSHandshakeTimeout: 10 * time.Second,
		IdleConnTimeout:     time.Minute,
		ForceAttemptHTTP2:   true,
		// A server that never heard of 100-continue gets the body after this.
		ExpectContinueTimeout: 5 * time.Second,
	}
}

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

// send sends a request. Every answer but a 2xx is an error; the caller closes
// the body of any other.
func (c *Client) send(req *http.Request) (*http.Response, error) {
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.transportError(req.Context(), err)
	}
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		defer resp.Body.Close()
		return nil, readError(resp)
	}
	return resp, nil
}

// transportError wraps an error that is not the server's: context errors stay
// what they are, all others mean that the server cannot be reached.
func (c *Client) transportError(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var urlErr *url.Error
	if errors.As(err, &urlErr) {
		err = urlErr.Err // its text would name the URL a second time
	}
	return &unavailable{"cannot reach " + c.base, err}
}

// An unavailable is a registry.ErrUnavailable whose text says why. cause may be
// nil.
type unavailable struct {
	text  string
	cause error
}

func (e *unavailable) Error() string {
	if e.cause == nil {
		return e.text
	}
	return e.text + ": " + e.cause.Error()
}

func (e *unavailable) Unwrap() []error { return []error{registry.ErrUnavailable, e.cause} }

// call makes a call that moves no image data, within the client's timeout, and
// returns the answer's body. contentType is that of in; "" means no body.
func (c *Client) call(ctx context.Context, method, path, contentType string, in []byte) ([]byte, error) {
	out, _, err := c.callIf(ctx, "", method, path, contentType, in)
	return out, err
}

// callIf is call for the version that match names, unless that is "", and returns
// the entity tag of the answer.
func (c *Client) callIf(ctx context.Context, match, method, path, contentType string, in []byte) (out []byte, tag string, err error) {
	inner, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	out, tag, err = c.exchange(inner, match, method, path, contentType, in)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		return nil, "", &unavailable{fmt.Sprintf("cannot reach %s: no answer within %v", c.base, c.timeout), nil}
	}
	return out, tag, err
}

func (c *Client) exchange(ctx context.Context, match, method, path, contentType string, in []byte) (out []byte, tag string, err error) {
	var body io.Reader
	if contentType != "" {
		body = bytes.NewReader(in)
	}
	req, err := c.request(ctx, method, path, body)
	if err != nil {
		return nil, "", err
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	if match != "" {
		req.Header.Set("If-Match", match)
	}
	resp, err := c.send(req)
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	out, err = io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return nil, "", c.transportError(ctx, err)
	case len(out) > maxAnswer:
		return nil, "", fmt.Errorf("the answer is larger than %d bytes", maxAnswer)
	}
	return out, resp.Header.Get("ETag"), nil
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
