package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// A central that does not take a connection, or its bytes, in so long is gone.
	dialTimeout = 3 * time.Second
	lostTimeout = 30 * time.Second
	// unusedTimeout is shorter than the time after which a central closes a
	// connection that nobody uses: a body that was sent into it would be lost.
	unusedTimeout = 60 * time.Second
	// continueTimeout is for how long a central may think about whether it wants a
	// body whose client asks first.
	continueTimeout = 60 * time.Second
)

// errUnreachable: no central can be reached, and nothing of the request was sent.
var errUnreachable = errors.New("no central can be reached")

// Centrals are the servers of one registry, of which each will do. It is an
// http.RoundTripper that sends a request for any host to one of them: to the next if
// nothing of it was sent, or if it has no body and only asks, and there was no answer.
// After one that was not answered in its time, the next is sent to another.
type Centrals struct {
	urls      []*url.URL
	first     atomic.Uint32 // that could be reached last
	transport *http.Transport
}

// NewCentrals returns those at urls, of which there is one at least: scheme and host.
// config is for https; nil means the usual authorities.
func NewCentrals(urls []*url.URL, config *tls.Config) *Centrals {
	dialer := &net.Dialer{
		Timeout:         dialTimeout,
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 10 * time.Second, Interval: 5 * time.Second, Count: 4},
		Control: func(_, _ string, c syscall.RawConn) (err error) {
			control := c.Control(func(fd uintptr) {
				err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(lostTimeout.Milliseconds()))
			})
			return errors.Join(control, err)
		},
	}
	return &Centrals{urls: urls, transport: &http.Transport{
		DialContext: dialer.DialContext, TLSClientConfig: config, TLSHandshakeTimeout: 2 * dialTimeout,
		MaxIdleConnsPerHost: 64, IdleConnTimeout: unusedTimeout, ExpectContinueTimeout: continueTimeout,
		DisableCompression: true, MaxResponseHeaderBytes: maxHeader, ReadBufferSize: 32 << 10, WriteBufferSize: 32 << 10,
	}}
}

// Close closes the connections that nobody uses.
func (c *Centrals) Close() error {
	c.transport.CloseIdleConnections()
	return nil
}

// RoundTrip implements http.RoundTripper.
func (c *Centrals) RoundTrip(r *http.Request) (*http.Response, error) {
	asks := (r.Body == nil || r.Body == http.NoBody) && (r.Method == http.MethodGet || r.Method == http.MethodHead || r.Method == http.MethodOptions)
	first := c.first.Load()
	unreachable := true
	var errs []error
	for i := range c.urls {
		at := (first + uint32(i)) % uint32(len(c.urls))
		res, sent, err := c.try(r, c.urls[at])
		if err == nil {
			c.first.CompareAndSwap(first, at)
			return res, nil
		}
		errs = append(errs, fmt.Errorf("central %s: %w", c.urls[at].Host, err))
		unreachable = unreachable && !sent
		if r.Context().Err() != nil {
			if context.Cause(r.Context()) != context.Canceled { // it was too long without an answer, not given up
				c.first.CompareAndSwap(first, (at+1)%uint32(len(c.urls)))
			}
			break
		}
		if sent && !asks {
			break
		}
	}
	if unreachable {
		errs = append([]error{errUnreachable}, errs...)
	}
	if r.Body != nil {
		r.Body.Close()
	}
	return nil, errors.Join(errs...)
}

// try sends the request to one central, and reports whether any of it may have got
// there. The body is not closed, so that another may have it.
func (c *Centrals) try(r *http.Request, to *url.URL) (res *http.Response, sent bool, err error) {
	var connected atomic.Bool
	ctx := httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { connected.Store(true) }})
	out := r.WithContext(ctx)
	u := *r.URL
	u.Scheme, u.Host = to.Scheme, to.Host
	out.URL = &u
	if r.Body != nil && r.Body != http.NoBody {
		out.Body = io.NopCloser(r.Body)
	}
	res, err = c.transport.RoundTrip(out)
	if res != nil {
		res.Request = r
	}
	return res, connected.Load(), err
}
