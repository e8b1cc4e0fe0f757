package keystone

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"sync/atomic"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack"
)

// An login is how Keystone knows this server.
type login struct {
	auth      gophercloud.AuthOptions
	transport http.RoundTripper
	busy      chan struct{} // has an element while somebody logs in
	done      atomic.Pointer[gophercloud.ServiceClient]
}

// client returns a client that is logged in. When its token is no longer taken it gets
// another by itself.
func (l *login) client(ctx context.Context) (*gophercloud.ServiceClient, error) {
	if c := l.done.Load(); c != nil {
		return c, nil
	}
	select {
	case l.busy <- struct{}{}:
	case <-ctx.Done():
		return nil, fmt.Errorf("log in to keystone: %w", ctx.Err())
	}
	defer func() { <-l.busy }()
	if c := l.done.Load(); c != nil {
		return c, nil
	}
	const doing = "log in to keystone"
	provider, err := openstack.NewClient(l.auth.IdentityEndpoint)
	if err != nil {
		return nil, Explain(doing, err)
	}
	provider.HTTPClient = http.Client{
		Transport: l.transport, Timeout: askTimeout,
		// The tokens in the header would follow, to whatever host.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	provider.UserAgent.Prepend("nearsight")
	if err := openstack.AuthenticateV3(ctx, provider, &l.auth, gophercloud.EndpointOpts{}); err != nil {
		return nil, Explain(doing, err)
	}
	c, err := openstack.NewIdentityV3(provider, gophercloud.EndpointOpts{})
	if err != nil {
		return nil, Explain(doing, err)
	}
	l.done.Store(c)
	return c, nil
}

// Explain says what went wrong without what the server wrote to it, in which a
// token or a name may stand.
func Explain(doing string, err error) error {
	var (
		again  *gophercloud.ErrUnableToReauthenticate
		status gophercloud.ErrUnexpectedResponseCode
		sent   *url.Error
	)
	if errors.As(err, &again) {
		doing, err = "log in to keystone again", again.ErrReauth
	}
	switch {
	case errors.As(err, &status) && status.Actual == http.StatusUnauthorized:
		return fmt.Errorf("%s: it does not take the credentials of this server", doing)
	case errors.As(err, &status) && status.Actual == http.StatusForbidden:
		return fmt.Errorf("%s: it does not let this server ask; its user needs the role service or admin", doing)
	case errors.As(err, &status):
		return fmt.Errorf("%s: it answers %d", doing, status.Actual)
	case errors.As(err, &sent):
		return fmt.Errorf("%s: %w", doing, sent.Err)
	}
	return fmt.Errorf("%s: %w", doing, err)
}
