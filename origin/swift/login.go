package swift

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	ncw "github.com/ncw/swift/v2"

	"nearsight/origin"
)

const (
	userAgent = "nearsight"
	// renewBefore a token expires, seconds of clock skew and a slow login
	// included, the next one is fetched.
	renewBefore = time.Minute
	// maxInfo bounds what a store tells of itself; Swift needs some KiB.
	maxInfo = 1 << 20
)

// A session is what a login gave: where the account is, and the token for it.
type session struct {
	url   *url.URL
	token string
	renew time.Time // zero: nobody knows when it expires
}

// A failure is how the last login failed, and when it began.
type failure struct {
	began time.Time
	err   error
}

// login returns a session that is not the refused one (nil: none is). One caller
// logs in, and the others wait for the outcome, success or failure, unless it
// failed because that caller's ctx ended.
func (s *Store) login(ctx context.Context, refused *session) (*session, error) {
	if ses := s.session.Load(); ses.fresh(refused) {
		return ses, nil
	}
	came := time.Now()
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if ses := s.session.Load(); ses.fresh(refused) {
		return ses, nil
	}
	if s.failed.began.After(came) {
		return nil, s.failed.err
	}
	began := time.Now()
	ses, err := s.authenticate(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		err = fmt.Errorf("log in: %w: %w", origin.ErrUnavailable, err)
		s.failed = failure{began, err}
		return nil, err
	}
	s.session.Store(ses)
	return ses, nil
}

func (ses *session) fresh(refused *session) bool {
	return ses != nil && ses != refused && (ses.renew.IsZero() || time.Now().Before(ses.renew))
}

// authenticate logs in over a connection of its own: what the library keeps in
// one must not be read while it logs in again.
func (s *Store) authenticate(ctx context.Context) (*session, error) {
	ctx, end := context.WithTimeout(ctx, s.o.Timeout)
	defer end()
	c := &ncw.Connection{
		AuthUrl: s.o.AuthURL, AuthVersion: s.o.AuthVersion,
		UserName: s.o.User, UserId: s.o.UserID, ApiKey: s.o.Key,
		Domain: s.o.Domain, DomainId: s.o.DomainID,
		Tenant: s.o.Project, TenantId: s.o.ProjectID,
		TenantDomain: s.o.ProjectDomain, TenantDomainId: s.o.ProjectDomainID,
		ApplicationCredentialId:     s.o.ApplicationCredentialID,
		ApplicationCredentialName:   s.o.ApplicationCredentialName,
		ApplicationCredentialSecret: s.o.ApplicationCredentialSecret,
		Region:                      s.o.Region, EndpointType: ncw.EndpointType(or(s.o.Interface, "public")),
		UserAgent: userAgent,
		Transport: straight{s.transport},
		// ctx is to end first: the library's own limit leaves its request to
		// go on.
		ConnectTimeout: 2 * s.o.Timeout,
	}
	err := c.Authenticate(ctx)
	if c.AuthToken == "" || c.StorageUrl == "" {
		return nil, reason(ctx, err)
	}
	// An error beside both is about a token that expires within a minute: a
	// short life, but ours to manage.
	u, err := url.Parse(strings.TrimSuffix(c.StorageUrl, "/"))
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, errors.New("the identity service gave no http or https URL for the account")
	}
	ses := &session{url: u, token: c.AuthToken}
	if life := time.Until(c.Expires); life > 0 {
		ses.renew = c.Expires.Add(-min(renewBefore, life/4))
	}
	return ses, nil
}

// reason says why a login failed, without the text that the service sent, which
// may repeat what it was asked, and without the URL.
func reason(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return errSilent
	}
	if e, ok := errors.AsType[*ncw.Error](err); ok {
		switch e.StatusCode {
		case http.StatusUnauthorized, http.StatusForbidden:
			return errors.New("the credentials were refused")
		case 0:
			return errors.New("no token, or no object-store of this region and interface")
		}
		return &refusal{status: e.StatusCode, kind: errors.New("the identity service failed")}
	}
	if e, ok := errors.AsType[*url.Error](err); ok {
		return e.Err
	}
	return err
}

// straight refuses redirects: credentials are in the request.
type straight struct{ next http.RoundTripper }

func (t straight) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := t.next.RoundTrip(req)
	if err == nil && resp.StatusCode >= 300 && resp.StatusCode < 400 {
		discard(resp)
		return nil, fmt.Errorf("it answered %d, and redirects are not followed", resp.StatusCode)
	}
	return resp, err
}

// limits are what the store says of itself.
type limits struct {
	slo      bool
	segments int   // that a manifest may name
	size     int64 // of one object, in bytes
}

// Swift's defaults, for stores that say nothing of themselves: those get dynamic
// manifests, which need no permission.
var silentLimits = limits{slo: false, segments: 1000, size: 5 << 30}

// ability asks the store what it can do, once.
func (s *Store) ability(ctx context.Context) (limits, error) {
	if l := s.limits.Load(); l != nil {
		return *l, nil
	}
	ses, err := s.login(ctx, nil)
	if err != nil {
		return limits{}, err
	}
	l := silentLimits
	// Swift's own is at the root, and the one of others beside their version. It
	// is for everybody, but not for who shows a token that has expired.
	root, _, _ := strings.Cut(ses.url.Path, "/v1")
	info := session{url: ses.url.ResolveReference(&url.URL{Path: root + "/info"})}
	resp, err := s.send(ctx, &info, call{method: http.MethodGet})
	if err != nil {
		return limits{}, err
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusOK:
		if l, err = parseInfo(resp.Body); err != nil {
			return limits{}, fmt.Errorf("read its /info: %w: %v", origin.ErrUnavailable, err)
		}
	case resp.StatusCode >= 500 || resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode == 498:
		return limits{}, &refusal{resp.StatusCode, retryAfter(resp.Header), origin.ErrUnavailable}
	}
	s.limits.Store(&l)
	return l, nil
}

func parseInfo(r io.Reader) (limits, error) {
	var info struct {
		Swift struct {
			Size int64 `json:"max_file_size"`
		} `json:"swift"`
		SLO *struct {
			Segments int `json:"max_manifest_segments"`
		} `json:"slo"`
	}
	if err := json.NewDecoder(io.LimitReader(r, maxInfo)).Decode(&info); err != nil {
		return limits{}, err
	}
	l := silentLimits
	if info.Swift.Size > 0 {
		l.size = info.Swift.Size
	}
	if l.slo = info.SLO != nil; l.slo && info.SLO.Segments > 0 {
		l.segments = info.SLO.Segments
	}
	return l, nil
}
