package web

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"nearsight/origin"
)

// maxRedirects is what download sites with mirrors need, and some more.
const maxRedirects = 5

// A Host is a server that wants credentials.
type Host struct {
	// URL names the server by scheme, host and, unless it is that of the scheme,
	// port: https://images.example or http://10.0.0.1:8080. Nothing else gets
	// the credentials: neither another port, nor http where this says https,
	// nor where a redirect leads.
	URL string
	// User and Password, unless both are empty, are for basic authentication
	// (RFC 7617).
	User, Password string
	// Header holds further fields, by name, as X-Api-Key or Authorization.
	Header map[string]string
}

// ours are the fields that a Store sets by itself or that frame a message.
var ours = []string{
	"Accept-Encoding", "Connection", "Content-Length", "Host", "If-Match", "If-Modified-Since", "If-None-Match", "If-Range",
	"If-Unmodified-Since", "Range", "Te", "Trailer", "Transfer-Encoding", "Upgrade",
}

// logins checks the hosts. No error shows what is secret.
func logins(hosts []Host) (map[string]Host, error) {
	m := make(map[string]Host)
	for _, h := range hosts {
		u, err := url.Parse(h.URL)
		if err != nil || u.Hostname() == "" || u.User != nil || u.Scheme != "http" && u.Scheme != "https" ||
			strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
			return nil, errors.New("a host with credentials is not of the form https://NAME or https://NAME:PORT")
		}
		server := serverOf(u)
		if _, twice := m[server]; twice {
			return nil, fmt.Errorf("credentials for %s: there are two", server)
		}
		fields := make(map[string]string)
		for name, value := range h.Header {
			name = http.CanonicalHeaderKey(name)
			if !isToken(name) || slices.Contains(ours, name) || strings.ContainsFunc(value, isControl) {
				return nil, fmt.Errorf("credentials for %s: header field %.80q cannot be set", server, name)
			}
			fields[name] = value
		}
		h.Header = fields
		m[server] = h
	}
	return m, nil
}

// isToken says whether s can name a header field (RFC 9110, section 5.6.2).
func isToken(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(c rune) bool {
		return c <= ' ' || c >= 0x7f || strings.ContainsRune(`"(),/:;<=>?@[\]{}`, c)
	})
}

func isControl(c rune) bool { return c < ' ' || c == 0x7f }

// serverOf names the server of u: scheme, host and port.
func serverOf(u *url.URL) string {
	return u.Scheme + "://" + hostOf(u) + ":" + portOf(u)
}

// shown is u for people to read. Its query may be a signature.
func shown(u *url.URL) string {
	s := u.Scheme + "://" + u.Host + u.EscapedPath()
	if u.RawQuery != "" {
		s += "?..."
	}
	return s
}

// A request is one question about one object. It is asked of another server
// after a redirect.
type request struct {
	method    string
	url       *url.URL
	validator string // of the location, or ""
	ranges    string // the Range field, or ""
}

// header returns the fields that every server may see.
func (r *request) header() http.Header {
	h := http.Header{
		"Accept":          {"*/*"},
		"Accept-Encoding": {"identity"},
		"User-Agent":      {"nearsight"},
	}
	if r.ranges != "" {
		h.Set("Range", r.ranges)
	}
	if isStrong(r.validator) {
		h.Set("If-Match", r.validator)
	} else if date, ok := strings.CutPrefix(r.validator, modifiedPrefix); ok {
		if _, err := http.ParseTime(date); err == nil {
			h.Set("If-Unmodified-Since", date)
		}
	}
	return h
}

// byteRange is the Range field for n bytes from off on; n < 0 means all.
func byteRange(off, n int64) string {
	s := "bytes=" + strconv.FormatInt(off, 10) + "-"
	if n < 0 || n-1 > math.MaxInt64-off {
		return s
	}
	return s + strconv.FormatInt(off+n-1, 10)
}

// ask sends r and follows redirects. The caller closes the answer's body.
func (s *Store) ask(ctx context.Context, r *request) (*http.Response, error) {
	u := r.url
	for range maxRedirects + 1 {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		req, err := http.NewRequestWithContext(ctx, r.method, u.String(), nil)
		if err != nil {
			return nil, fmt.Errorf("%w: malformed URL", origin.ErrLocation)
		}
		req.Header = r.header()
		s.logIn(req)
		// The transport and not a client, which would send a Referer.
		resp, err := s.transport.RoundTrip(req)
		if err != nil {
			return nil, unanswered(ctx, err)
		}
		if !redirects(resp) {
			return resp, nil
		}
		resp.Body.Close()
		if u, err = s.next(u, resp.Header.Get("Location")); err != nil {
			return nil, err
		}
	}
	return nil, oddAnswer("more than %d redirects", maxRedirects)
}

// logIn adds what the server wants to see, and only that server.
func (s *Store) logIn(req *http.Request) {
	h, ok := s.logins[serverOf(req.URL)]
	if !ok {
		return
	}
	if h.User != "" || h.Password != "" {
		req.SetBasicAuth(h.User, h.Password)
	}
	for name, value := range h.Header {
		req.Header.Set(name, value)
	}
}

// redirects says whether the answer is elsewhere (RFC 9110, section 15.4). The
// method stays in every case: it is GET or HEAD.
func redirects(resp *http.Response) bool {
	switch resp.StatusCode {
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther,
		http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		return true
	}
	return false
}

// next checks where a redirect from u leads.
func (s *Store) next(u *url.URL, location string) (*url.URL, error) {
	if location == "" {
		return nil, oddAnswer("a redirect to nowhere")
	}
	to, err := u.Parse(location)
	if err != nil {
		return nil, oddAnswer("a redirect to a malformed URL")
	}
	to.Fragment, to.RawFragment = "", ""
	if u.Scheme == "https" && to.Scheme != "https" {
		return nil, fmt.Errorf("%w: a redirect leads from https to %.20q", origin.ErrLocation, to.Scheme)
	}
	if err := s.guard.permit(to); err != nil {
		return nil, fmt.Errorf("redirect: %w", err)
	}
	return to, nil
}
