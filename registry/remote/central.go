// Package remote is a registry that is elsewhere: an edge has it for the records, the
// events and the callers of its central, and for image data that it has no credentials
// to read from where it is kept.
//
// It speaks the node API, which package api documents (API.Register). What is not an
// answer of that counts as no answer: another server's 404 does not mean that there is
// no such image.
package remote

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"nearsight/origin"
	"nearsight/registry"
	"nearsight/registry/identity"
)

const (
	defaultWait    = time.Second
	maxWait        = 30 * time.Second // that a central lets anybody wait
	defaultSilence = 5 * time.Second
	defaultPrompt  = 2 * time.Second

	dialTimeout = 3 * time.Second
	// idleTimeout is shorter than the time after which a central closes a connection
	// that nobody uses.
	idleTimeout = 60 * time.Second
	// maxIdle connections are kept: an edge has some tens of reads in flight.
	maxIdle = 64

	maxHead   = 64 << 10 // bytes of the head of an answer
	maxError  = 64 << 10 // bytes of an answer that is an error
	maxRecord = 8 << 20  // bytes of a record; its texts are bound to some 400 KiB, before escapes
	maxAnswer = 64 << 20 // bytes of a list of records or of events

	revisionHeader = "Nearsight-Revision"
)

// Options of New. URL is required.
type Options struct {
	// URL is that of the central, as https://central.example.org:9292.
	URL string
	// Secret is the nodes' secret, which names us; "" means that a certificate does, or
	// that the central lets everybody in.
	Secret string
	// TLS is for https: authorities, and our certificate. nil means the system's
	// authorities, and no certificate.
	TLS *tls.Config
	// Transport carries the requests in the place of one of our own, to wherever it
	// wants. TLS is its own affair then.
	Transport http.RoundTripper

	// Wait is how long a question for events waits for some, and so how often there is
	// a sign of life; 0 means 1 s, and 30 s is the most.
	Wait time.Duration
	// Prompt is by how much later than that the answer may come; 0 means 2 s.
	Prompt time.Duration
	// Silence is for how long a central may send nothing of any other answer; 0 means
	// 5 s. Image data is not bound: whoever reads it says how long it may be silent.
	Silence time.Duration

	// Reads says which locations are read here, straight from their stores. All others
	// of an image become one at the central, which Store reads. nil means that none is.
	Reads func(origin.Location) bool

	// Keep is how long a caller is believed to be who its token named: a revoked token
	// is good for so much longer than at the central. 0 means 10 s, and 30 s is the most.
	Keep time.Duration
	// KeepIfError is for how long since then it is believed while the central cannot be
	// asked; 0 means not at all.
	KeepIfError time.Duration
	// Callers is how many are remembered; 0 means 10,000.
	Callers int
}

// A Central is a registry at another node. It is safe for concurrent use.
//
// An error that is not about ctx and has no other sentinel is registry.ErrUnavailable.
// None has the secret, or a token.
type Central struct {
	base                  *url.URL // without a path
	secret                string
	transport             http.RoundTripper
	own                   *http.Transport // transport, if it is ours; else nil
	wait, prompt, silence time.Duration
	reads                 func(origin.Location) bool
	callers               *callers
}

var _ interface {
	registry.Reader
	registry.Log
	registry.Events
	registry.Edges
	identity.Rememberer
} = (*Central)(nil)

// New returns a Central. It connects when something is asked.
func New(o Options) (*Central, error) {
	u, err := url.Parse(o.URL)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.User != nil ||
		strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, errors.New("the URL of the central is not like https://central.example.org:9292")
	}
	if strings.ContainsFunc(o.Secret, func(c rune) bool { return c <= ' ' || c >= 0x7f }) {
		return nil, errors.New("the nodes' secret has characters that no header field can have")
	}
	c := &Central{
		base: &url.URL{Scheme: u.Scheme, Host: u.Host}, secret: o.Secret, transport: o.Transport,
		wait: o.Wait, prompt: o.Prompt, silence: o.Silence, reads: o.Reads, callers: newCallers(o),
	}
	if c.transport == nil {
		c.own = newTransport(o.TLS)
		c.transport = c.own
	}
	if c.wait <= 0 {
		c.wait = defaultWait
	}
	c.wait = min(c.wait, maxWait)
	if c.prompt <= 0 {
		c.prompt = defaultPrompt
	}
	if c.silence <= 0 {
		c.silence = defaultSilence
	}
	if c.reads == nil {
		c.reads = func(origin.Location) bool { return false }
	}
	return c, nil
}

// newTransport returns one that speaks HTTP/1.1: a long answer keeps no other waiting.
func newTransport(config *tls.Config) *http.Transport {
	var http1 http.Protocols
	http1.SetHTTP1(true)
	if config == nil {
		config = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	return &http.Transport{
		DialContext:         (&net.Dialer{Timeout: dialTimeout, KeepAlive: 15 * time.Second}).DialContext,
		TLSClientConfig:     config,
		TLSHandshakeTimeout: dialTimeout,
		Protocols:           &http1,
		DisableCompression:  true,
		MaxIdleConns:        2 * maxIdle, MaxIdleConnsPerHost: maxIdle, IdleConnTimeout: idleTimeout,
		ResponseHeaderTimeout:  2 * maxWait, // of what nobody else gives up
		MaxResponseHeaderBytes: maxHead, ReadBufferSize: 64 << 10,
	}
}

// Close closes the connections that nobody uses.
func (c *Central) Close() error {
	if c.own != nil {
		c.own.CloseIdleConnections()
	}
	return nil
}

// newRequest returns a request of ours. With a body it may be sent again like one
// without: none of our calls does more when it comes twice.
func (c *Central) newRequest(ctx context.Context, method, path, query string, body []byte) (*http.Request, error) {
	u := *c.base
	u.Path, u.RawQuery = path, query
	var r io.Reader
	if body != nil {
		r = bytes.NewReader(body)
	}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), r)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", "nearsight")
	req.Header.Set("Accept-Encoding", "identity")
	if c.secret != "" {
		req.Header.Set("Authorization", "Bearer "+c.secret)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
		req.Header["Idempotency-Key"] = nil // for the transport; it is not sent
	}
	return req, nil
}

// An answer is one of the node API, read to its end.
type answer struct {
	body []byte
	// revision is one that the registry had before the answer was made.
	revision int64
}

// call asks the central, and returns its answer if that is 200 or 204. It may be silent
// for so long, and then, within the answer, for c.silence; the answer may have so many
// bytes.
func (c *Central) call(ctx context.Context, method, path, query string, body []byte, silence time.Duration, limit int64) (*answer, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	listening, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	quiet := time.AfterFunc(silence, func() { giveUp(errSilent) })
	defer quiet.Stop()
	req, err := c.newRequest(listening, method, path, query, body)
	if err != nil {
		return nil, unavailable("%v", err)
	}
	// The transport and not a client: a redirect would take the secret along.
	resp, err := c.transport.RoundTrip(req)
	if err != nil {
		return nil, c.unanswered(ctx, listening, err)
	}
	defer resp.Body.Close()
	ok := resp.StatusCode == http.StatusOK || resp.StatusCode == http.StatusNoContent
	if !ok {
		limit = maxError
	}
	text, err := io.ReadAll(io.LimitReader(&heard{resp.Body, quiet, c.silence}, limit+1))
	switch {
	case err != nil:
		return nil, c.unanswered(ctx, listening, err)
	case !ok:
		return nil, refusal(resp, text)
	case int64(len(text)) > limit:
		return nil, unavailable("the answer has more than %d bytes", limit)
	}
	revision, ok := revisionOf(resp)
	if !ok {
		return nil, unavailable("the answer is none of a central: it has no %s", revisionHeader)
	}
	return &answer{text, revision}, nil
}

var errSilent = errors.New("it sends nothing")

// heard puts off the end of the patience with every byte.
type heard struct {
	io.Reader
	quiet   *time.Timer
	silence time.Duration
}

func (h *heard) Read(p []byte) (int, error) {
	n, err := h.Reader.Read(p)
	if n > 0 {
		h.quiet.Reset(h.silence)
	}
	return n, err
}

// unanswered makes an error of one of the transport.
func (c *Central) unanswered(ctx, listening context.Context, err error) error {
	if end := ctx.Err(); end != nil {
		return end
	}
	if cause := context.Cause(listening); cause != nil {
		err = cause
	}
	return unavailable("%v", err)
}

// unavailable returns a registry.ErrUnavailable that says why.
func unavailable(format string, args ...any) error {
	return fmt.Errorf("%w: central: "+format, append([]any{registry.ErrUnavailable}, args...)...)
}

// revisionOf returns the revision that an answer tells. Only the node API does.
func revisionOf(resp *http.Response) (int64, bool) {
	n, err := strconv.ParseUint(resp.Header.Get(revisionHeader), 10, 63)
	return int64(n), err == nil
}

// refusal makes an error of an answer that is not what was asked for. What is said about
// us, and not about what we asked, means that we cannot ask.
func refusal(resp *http.Response, text []byte) error {
	var problem struct {
		Detail string `json:"detail"`
	}
	if json.Unmarshal(text, &problem) != nil || problem.Detail == "" {
		problem.Detail = http.StatusText(resp.StatusCode)
	}
	switch resp.StatusCode {
	case http.StatusUnauthorized, http.StatusForbidden:
		return unavailable("it answers %d: it takes us for no node; nodes.secret must be the same, or our certificate one of its nodes.ca", resp.StatusCode)
	}
	if _, ours := revisionOf(resp); ours {
		for status, sentinel := range map[int]error{
			http.StatusNotFound:              registry.ErrNotFound,
			http.StatusBadRequest:            registry.ErrInvalid,
			http.StatusGone:                  registry.ErrTooOld,
			http.StatusRequestEntityTooLarge: registry.ErrTooLarge,
		} {
			if resp.StatusCode == status {
				return says(sentinel, problem.Detail)
			}
		}
	}
	return unavailable("it answers %d: %.200s", resp.StatusCode, problem.Detail)
}

// says returns the sentinel with what a central said, which may begin with its text.
func says(sentinel error, detail string) error {
	detail = strings.TrimPrefix(strings.TrimPrefix(detail, sentinel.Error()), ": ")
	if detail == "" {
		return sentinel
	}
	return fmt.Errorf("%w: %s", sentinel, detail)
}

// decode reads an answer in JSON. A newer central may say more than we know.
func (a *answer) decode(v any) error {
	if err := json.Unmarshal(a.body, v); err != nil {
		return unavailable("its answer cannot be understood: %v", err)
	}
	return nil
}

// post is call with v, in JSON, for a question.
func (c *Central) post(ctx context.Context, path string, v any, silence time.Duration, limit int64) (*answer, error) {
	text, err := json.Marshal(v)
	if err != nil { // as for a year with five digits
		return nil, fmt.Errorf("%w: it cannot be asked for: %v", registry.ErrInvalid, err)
	}
	return c.call(ctx, "POST", path, "", text, silence, limit)
}
