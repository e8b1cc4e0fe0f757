// Package web reads image data from HTTP and HTTPS servers that belong to
// somebody else: images that were registered by their URL.
//
// The location of an object is its URL; a fragment of it is not sent. Its
// validator is the strong ETag of the server, in its quotes, or else "modified:"
// and the Last-Modified field as it came. Both are asked of the server (If-Match,
// If-Unmodified-Since) and compared with what it answers, since many servers
// ignore conditions. A server that changes a file twice within a second and has no
// ETag deceives this, and one that sends its readers to ever other mirrors, with
// other ETags, cannot be read for long.
//
// Servers are asked for identity encoding, over HTTP/1.1: the flow control of
// HTTP/2 slows large bodies. Proxies from the environment are not used, because
// they would dial addresses that no Guard has seen.
package web

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"

	"nearsight/origin"
)

const (
	defaultDialTimeout   = 10 * time.Second
	defaultHeaderTimeout = 30 * time.Second
	// readBuffer is what one read of the socket may bring. Reads of at least
	// this size go past the buffer, straight to who asked.
	readBuffer = 64 << 10
	// maxIdle connections to one server are kept for the next request: an edge
	// that boots many machines has some tens of reads in flight.
	maxIdle = 64
	// maxHeader bounds the head of an answer, in bytes.
	maxHeader = 64 << 10
)

// Options configure a Store. The zero Options read from every server at a public
// address that wants no credentials.
type Options struct {
	// Guard says which servers may be asked.
	Guard Guard
	// Hosts are the servers that want credentials.
	Hosts []Host
	// CAFiles are PEM files of authorities that are trusted beside those of the
	// system.
	CAFiles []string
	// DialTimeout bounds finding a server's addresses and connecting, and then
	// again the TLS handshake; 0 means 10 s.
	DialTimeout time.Duration
	// HeaderTimeout bounds the wait for the head of an answer; 0 means 30 s. How
	// long a body may be silent is for whoever reads it to say.
	HeaderTimeout time.Duration
}

// A Store is an origin.Store of whatever http and https URL its Guard permits.
//
// Where a server does not tell the length of an object, Info.Size is -1, and so
// is Object.Length unless the server told that of the range: the body then ends
// with io.EOF when it is whole.
//
// An error that wraps origin.ErrUnavailable may have the method
// RetryAfter() time.Duration, for errors.As: how long the server asked to be
// left alone, or 0. Errors show URLs without their query, which may hold a
// signature.
type Store struct {
	guard     Guard
	logins    map[string]Host // by server, as serverOf names it
	transport *http.Transport
}

var _ origin.Store = (*Store)(nil)

// New returns a Store. It fails if a file of Options.CAFiles holds no certificate
// or one of Options.Hosts is malformed.
func New(o Options) (*Store, error) {
	if o.DialTimeout <= 0 {
		o.DialTimeout = defaultDialTimeout
	}
	if o.HeaderTimeout <= 0 {
		o.HeaderTimeout = defaultHeaderTimeout
	}
	logins, err := logins(o.Hosts)
	if err != nil {
		return nil, fmt.Errorf("web store: %w", err)
	}
	roots, err := authorities(o.CAFiles)
	if err != nil {
		return nil, fmt.Errorf("web store: %w", err)
	}
	s := &Store{guard: o.Guard, logins: logins}
	var http1 http.Protocols
	http1.SetHTTP1(true)
	s.transport = &http.Transport{
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			ctx, cancel := context.WithTimeout(ctx, o.DialTimeout)
			defer cancel()
			return s.guard.DialContext(ctx, network, addr)
		},
		TLSClientConfig:        &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    o.DialTimeout,
		Protocols:              &http1,
		DisableCompression:     true,
		MaxIdleConns:           4 * maxIdle,
		MaxIdleConnsPerHost:    maxIdle,
		IdleConnTimeout:        90 * time.Second,
		ResponseHeaderTimeout:  o.HeaderTimeout,
		MaxResponseHeaderBytes: maxHeader,
		ReadBufferSize:         readBuffer,
	}
	return s, nil
}

// authorities returns those of the system and of the files; nil means the
// system's alone.
func authorities(files []string) (*x509.CertPool, error) {
	if len(files) == 0 {
		return nil, nil
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		return nil, fmt.Errorf("certificates of the system: %w", err)
	}
	for _, name := range files {
		pem, err := os.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("certificates: %w", err)
		}
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("certificates: %s holds none in PEM", name)
		}
	}
	return pool, nil
}

// Close closes the connections that nobody uses. Bodies that are open stay so.
func (s *Store) Close() error {
	s.transport.CloseIdleConnections()
	return nil
}

// Stat implements origin.Store. It asks with HEAD, and for the first byte where
// the server does not take HEAD or tells no length.
func (s *Store) Stat(ctx context.Context, loc origin.Location) (origin.Info, error) {
	u, err := s.guard.parse(loc.URL)
	if err != nil {
		return origin.Info{}, fmt.Errorf("stat: %w", err)
	}
	info, err := s.stat(ctx, &request{http.MethodHead, u, loc.Validator, ""})
	if err != nil {
		return origin.Info{}, fmt.Errorf("stat %s: %w", shown(u), err)
	}
	return info, nil
}

// Open implements origin.Store. A negative offset is served as 0, and says so. A
// server without ranges is read from its first byte: what lies before off is
// dropped if that is at most 1 MiB, and else the Object is the whole, with Offset
// 0. Without a length, a body that only the end of its connection ends is refused:
// nobody could tell that it was cut.
func (s *Store) Open(ctx context.Context, loc origin.Location, off, n int64) (*origin.Object, error) {
	u, err := s.guard.parse(loc.URL)
	if err != nil {
		return nil, fmt.Errorf("open: %w", err)
	}
	o, err := s.open(ctx, &request{http.MethodGet, u, loc.Validator, ""}, max(off, 0), n)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", shown(u), err)
	}
	return o, nil
}

func (s *Store) stat(ctx context.Context, r *request) (origin.Info, error) {
	resp, err := s.ask(ctx, r)
	if err != nil {
		return origin.Info{}, err
	}
	resp.Body.Close()
	head := origin.Info{Size: -1}
	switch resp.StatusCode {
	case http.StatusOK:
		// Some servers make up a length of 0 for HEAD, or leave out the ETag.
		if info, err := describe(resp, r.validator); err == nil {
			head = info
		}
		if head.Size > 0 {
			return head, nil
		}
	case http.StatusBadRequest, http.StatusForbidden, http.StatusMethodNotAllowed, http.StatusNotImplemented:
		// HEAD alone may be what is refused: a signed URL is signed for GET.
	default:
		return origin.Info{}, refusal(resp)
	}
	return s.statByte(ctx, &request{http.MethodGet, r.url, r.validator, "bytes=0-0"}, head)
}

// statByte learns what there is to know from an answer with one byte of data. head
// is what HEAD said, if its Size is not -1.
func (s *Store) statByte(ctx context.Context, r *request, head origin.Info) (origin.Info, error) {
	resp, err := s.ask(ctx, r)
	if err != nil {
		return origin.Info{}, err
	}
	resp.Body.Close() // and the connection, if the server sends it all
	switch resp.StatusCode {
	case http.StatusOK:
		return describe(resp, r.validator)
	case http.StatusPartialContent:
		info, _, err := describePart(resp, r.validator)
		return info, err
	case http.StatusRequestedRangeNotSatisfiable:
		return describeEmpty(resp, r.validator, head)
	}
	return origin.Info{}, refusal(resp)
}

func (s *Store) open(ctx context.Context, r *request, off, n int64) (*origin.Object, error) {
	if n == 0 { // no range says so
		return s.nothing(ctx, r, off)
	}
	if off > 0 || n > 0 {
		r.ranges = byteRange(off, n)
	}
	resp, err := s.ask(ctx, r)
	if err != nil {
		return nil, err
	}
	var o *origin.Object
	switch resp.StatusCode {
	case http.StatusOK:
		o, err = whole(ctx, resp, r, off, n)
	case http.StatusPartialContent:
		o, err = part(ctx, resp, r)
	case http.StatusRequestedRangeNotSatisfiable:
		resp.Body.Close()
		return s.nothing(ctx, r, off)
	default:
		err = refusal(resp)
	}
	if err != nil {
		resp.Body.Close()
		return nil, err
	}
	return o, nil
}

// nothing returns no bytes at off. It asks anew, because an answer of 416 has
// neither validator nor, often, the length.
func (s *Store) nothing(ctx context.Context, r *request, off int64) (*origin.Object, error) {
	info, err := s.stat(ctx, &request{http.MethodHead, r.url, r.validator, ""})
	if err != nil {
		return nil, err
	}
	if r.ranges != "" && off < info.Size {
		return nil, oddAnswer("it has %d bytes and refuses those from %d on", info.Size, off)
	}
	return &origin.Object{Info: info, Offset: off, Body: http.NoBody}, nil
}
