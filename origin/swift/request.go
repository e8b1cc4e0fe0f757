package swift

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"nearsight/origin"
)

// maxRetryAfter bounds, in seconds, what a store may ask for: a day.
const maxRetryAfter = 24 * 60 * 60

// A call is one request to the store.
type call struct {
	method            string
	container, object string // either may be empty
	query             url.Values
	header            http.Header
	body              *piece // nil: none
}

// A refusal is an answer that is no success. It wraps the sentinel that this
// means for the call.
type refusal struct {
	status int
	wait   time.Duration
	kind   error
}

func (r *refusal) Error() string {
	return fmt.Sprintf("%v: it answered %d %s", r.kind, r.status, http.StatusText(r.status))
}

func (r *refusal) Unwrap() error { return r.kind }

// RetryAfter returns how long the store asks to wait before the next try, or 0.
func (r *refusal) RetryAfter() time.Duration { return r.wait }

// kindOf returns the sentinel that the status means for a method. The text of an
// answer is for people, and may repeat what it was sent: it is left out.
func kindOf(method string, status int) error {
	write := method == http.MethodPut
	switch status {
	case http.StatusNotFound:
		if !write { // else it is the container that is missing
			return origin.ErrNotFound
		}
	case http.StatusPreconditionFailed:
		if write {
			return origin.ErrExists // If-None-Match: *
		}
		return origin.ErrChanged // If-Match
	case http.StatusConflict:
		if method == http.MethodGet || method == http.MethodHead {
			return origin.ErrChanged // a segment is not what its manifest says
		}
	case http.StatusRequestEntityTooLarge, http.StatusInsufficientStorage:
		if write {
			return origin.ErrFull // a quota, or the disks
		}
	}
	return origin.ErrUnavailable
}

// do sends c and returns a success, whose body the caller closes. When the token
// is refused, it logs in and tries once more, if the body can be sent again.
func (s *Store) do(ctx context.Context, c call) (*http.Response, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	ses, err := s.login(ctx, nil)
	if err != nil {
		return nil, err
	}
	resp, err := s.send(ctx, ses, c)
	if err == nil && resp.StatusCode == http.StatusUnauthorized && c.body.rewind() {
		discard(resp)
		if ses, err = s.login(ctx, ses); err != nil {
			return nil, err
		}
		resp, err = s.send(ctx, ses, c)
	}
	if err != nil {
		return nil, err
	}
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		discard(resp)
		return nil, &refusal{resp.StatusCode, retryAfter(resp.Header), kindOf(c.method, resp.StatusCode)}
	}
	return resp, nil
}

// ask is do for those who need only the header of the answer.
func (s *Store) ask(ctx context.Context, c call) (http.Header, error) {
	resp, err := s.do(ctx, c)
	if err != nil {
		return nil, err
	}
	discard(resp)
	return resp.Header, nil
}

// discard closes the body. One that is short is read, so that its connection
// serves again.
func discard(resp *http.Response) {
	io.CopyN(io.Discard, resp.Body, 64<<10)
	resp.Body.Close()
}

// send sends c once. No redirect is followed: the token would go with it.
func (s *Store) send(ctx context.Context, ses *session, c call) (*http.Response, error) {
	inner, end := context.WithCancelCause(ctx)
	w := newWatch(s.o.Timeout, end)
	resp, err := s.transport.RoundTrip(c.request(inner, ses, w))
	c.body.detach()
	w.rest()
	if err != nil {
		err = failed(ctx, inner, err)
		end(nil)
		return nil, err
	}
	resp.Body = &body{ctx, inner, resp.Body, w, end}
	return resp, nil
}

// request returns c as the session's owner sends it.
func (c call) request(ctx context.Context, ses *session, w *watch) *http.Request {
	u := *ses.url // parsed at login
	for _, name := range []string{c.container, c.object} {
		if name != "" {
			u.Path += "/" + name
		}
	}
	u.RawQuery = c.query.Encode()
	req := (&http.Request{
		Method: c.method, URL: &u, Host: u.Host, Header: c.header.Clone(),
		ProtoMajor: 1, ProtoMinor: 1, // or the transport would not wait for 100
	}).WithContext(ctx)
	if req.Header == nil {
		req.Header = http.Header{}
	}
	req.Header.Set("User-Agent", userAgent)
	if ses.token != "" {
		req.Header.Set("X-Auth-Token", ses.token)
	}
	if c.body != nil {
		req.Body, req.ContentLength = c.body.attach(w), c.body.length
		if !c.body.replayable() {
			// Who refuses, for whatever reason, does so before the data moves.
			// On a connection that is to serve again, the transport would send
			// the body even then.
			req.Header.Set("Expect", "100-continue")
			req.Close = true
		}
		if c.body.length == 0 {
			req.Body = http.NoBody
		}
	}
	return req
}

// failed makes of err, which ended a request with the context inner, what the
// caller with ctx is told.
func failed(ctx, inner context.Context, err error) error {
	if ended := ctx.Err(); ended != nil {
		return ended
	}
	if cause := context.Cause(inner); cause != nil {
		err = cause
	}
	return fmt.Errorf("%w: %v", origin.ErrUnavailable, err)
}

// retryAfter is RFC 9110, section 10.2.3, as seconds or as a date; 0 if absent or
// malformed.
func retryAfter(h http.Header) time.Duration {
	v := strings.TrimSpace(h.Get("Retry-After"))
	if s, err := strconv.ParseUint(v, 10, 63); err == nil {
		return time.Duration(min(s, maxRetryAfter)) * time.Second
	}
	t, err := http.ParseTime(v)
	if err != nil {
		return 0
	}
	return min(max(time.Until(t), 0), maxRetryAfter*time.Second)
}
