package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"time"

	"nearsight/registry"
)

// send sends a request. Every answer but a 2xx is an error; the caller closes
// the body of any other. A token that is refused is replaced once, if the request
// can be sent again.
func (c *Client) send(req *http.Request) (*http.Response, error) {
	for try := 1; ; try++ {
		token, err := c.tokens.get(req.Context())
		if err != nil {
			return nil, err
		}
		if token != "" {
			req.Header.Set("X-Auth-Token", token)
		}
		resp, err := c.http.Do(req)
		if err != nil {
			return nil, c.transportError(req.Context(), err)
		}
		if resp.StatusCode >= 200 && resp.StatusCode <= 299 {
			return resp, nil
		}
		refused := readError(resp)
		resp.Body.Close()
		if refused.Status != http.StatusUnauthorized || !c.tokens.refused(token) || try > 1 {
			return nil, refused
		}
		if req = again(req); req == nil {
			return nil, refused
		}
	}
}

// again returns a copy of a request that was sent, nil if its body is gone.
func again(req *http.Request) *http.Request {
	next := req.Clone(req.Context())
	if req.Body == nil || req.Body == http.NoBody {
		return next
	}
	if req.GetBody == nil {
		return nil
	}
	body, err := req.GetBody()
	if err != nil {
		return nil
	}
	next.Body = body
	return next
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

// A message is a request that moves no image data.
type message struct {
	method, path string
	fields       http.Header // besides the usual; may be nil
	contentType  string      // of body; "" means no body
	body         []byte
	harmless     bool // it may be repeated, whatever its method
}

// A reply is what came of it.
type reply struct {
	header http.Header
	body   []byte
}

// call sends a message without fields and returns the answer's body. contentType
// is that of in; "" means no body.
func (c *Client) call(ctx context.Context, method, path, contentType string, in []byte) ([]byte, error) {
	a, err := c.exchange(ctx, message{method: method, path: path, contentType: contentType, body: in})
	return a.body, err
}

// exchange sends a message and returns the answer, within the client's timeout. It
// tries again what may be repeated.
func (c *Client) exchange(ctx context.Context, m message) (reply, error) {
	inner, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	unsure := false // an attempt before may have been done
	for try := 1; ; try++ {
		a, err := c.once(inner, m)
		switch {
		case err == nil:
			return a, nil
		case errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil:
			return reply{}, &unavailable{fmt.Sprintf("cannot reach %s: no answer within %v", c.base, c.timeout), nil}
		case unsure && m.method == http.MethodDelete && statusOf(err) == http.StatusNotFound:
			return reply{}, nil // it was
		}
		if try > c.retries || !repeatable(m, err) || !c.pause(inner, try, err) {
			if ctx.Err() != nil {
				err = context.Cause(ctx)
			}
			return reply{}, err
		}
		unsure = unsure || statusOf(err) == 0
	}
}

func (c *Client) once(ctx context.Context, m message) (reply, error) {
	var body io.Reader
	if m.contentType != "" {
		body = bytes.NewReader(m.body)
	}
	req, err := c.request(ctx, m.method, m.path, body)
	if err != nil {
		return reply{}, err
	}
	for name, values := range m.fields {
		req.Header[name] = values
	}
	if m.contentType != "" {
		req.Header.Set("Content-Type", m.contentType)
	}
	resp, err := c.send(req)
	if err != nil {
		return reply{}, err
	}
	defer resp.Body.Close()
	out, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return reply{}, c.transportError(ctx, err)
	case len(out) > maxAnswer:
		return reply{}, fmt.Errorf("the answer is larger than %d bytes", maxAnswer)
	}
	return reply{resp.Header, out}, nil
}

// repeatable reports whether m may be sent again after err.
// What never reached the server may always be; what may have been done only if it
// does no more the second time (RFC 9110, section 9.2.2).
func repeatable(m message, err error) bool {
	var (
		op        *net.OpError
		untrusted *tls.CertificateVerificationError
	)
	if errors.As(err, &untrusted) {
		return false
	} else if errors.As(err, &op) && op.Op == "dial" {
		return true
	}
	switch m.method {
	case http.MethodGet, http.MethodHead, http.MethodPut, http.MethodDelete:
	default:
		if !m.harmless {
			return false
		}
	}
	var e *Error
	if errors.As(err, &e) {
		return (e.Status == http.StatusServiceUnavailable || e.Status == http.StatusTooManyRequests) && e.mayRetry
	}
	return errors.Is(err, registry.ErrUnavailable)
}

// pause waits before retry n. It reports false, at once, if ctx ends before the
// server wants to be asked again.
func (c *Client) pause(ctx context.Context, n int, err error) bool {
	d := backoff(c.backoff, n, err)
	if end, ok := ctx.Deadline(); ok && time.Until(end) < d {
		return false
	}
	return sleep(ctx, d) == nil
}

// backoff returns how long to wait after the nth failure in a row. first is the
// wait after the first.
func backoff(first time.Duration, n int, err error) time.Duration {
	d := maxBackoff
	if n < 16 {
		d = min(d, first<<(n-1))
	}
	d -= rand.N(d/4 + 1) // so that the clients of a server that fell do not return at once
	var e *Error
	if errors.As(err, &e) {
		d = max(d, min(e.RetryAfter, maxRetryAfter))
	}
	return d
}

// sleep waits for d or the end of ctx.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}

// statusOf returns the status that the server refused with, 0 if it did not answer.
func statusOf(err error) int {
	var e *Error
	if errors.As(err, &e) {
		return e.Status
	}
	return 0
}
