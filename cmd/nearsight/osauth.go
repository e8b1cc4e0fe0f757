package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/tokens"

	"nearsight/registry"
	"nearsight/registry/client"
	"nearsight/registry/identity/keystone"
)

// loginTimeout bounds a login with the identity service.
const loginTimeout = 30 * time.Second

// A login is with OpenStack's identity service, as the OS_* variables of a shell
// describe it. It hands out tokens, and reads the catalog.
type login struct {
	options gophercloud.AuthOptions
	http    http.Client

	mu     sync.Mutex
	answer tokens.CreateResult // of the last login
	fresh  bool                // its token was not handed out yet
}

// newLogin returns the login that the shell describes, with the token and the
// certificates of opt. It does not log in.
func newLogin(opt client.Options) (*login, error) {
	options, err := authOptions(opt.Token)
	if err != nil {
		return nil, err
	}
	config, err := opt.TLS()
	if err != nil {
		return nil, usageError{err}
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = config
	transport.DisableKeepAlives = true // there is one call, or two
	return &login{options: options, http: http.Client{
		Transport: transport, Timeout: loginTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, // passwords stay here
	}}, nil
}

// token returns a token: that of the login so far, and a new one whenever it was
// handed out before. It is a client.Options.TokenSource.
func (l *login) token(ctx context.Context) (string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.fresh {
		if err := l.logIn(ctx); err != nil {
			return "", err
		}
	}
	l.fresh = false
	return l.answer.ExtractTokenID()
}

// endpoint returns the base URL of the image service in the catalog.
func (l *login) endpoint(ctx context.Context) (string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.fresh {
		if err := l.logIn(ctx); err != nil {
			return "", err
		}
		l.fresh = true
	}
	catalog, err := l.answer.ExtractServiceCatalog()
	if err != nil {
		return "", errors.New("the identity service has no catalog")
	}
	return imageEndpoint(catalog, os.Getenv("OS_REGION_NAME"), cmp.Or(firstOf("OS_INTERFACE", "OS_ENDPOINT_TYPE"), "public"))
}

// logIn gets a token; l.mu is held.
func (l *login) logIn(ctx context.Context) error {
	const doing = "log in at the identity service"
	ctx, cancel := context.WithTimeout(ctx, loginTimeout)
	defer cancel()
	provider, err := openstack.NewClient(l.options.IdentityEndpoint)
	if err != nil {
		return usagef("OS_AUTH_URL is not a URL")
	}
	provider.HTTPClient = l.http
	provider.UserAgent.Prepend(userAgent())
	service, err := openstack.NewIdentityV3(provider, gophercloud.EndpointOpts{})
	if err != nil {
		return keystone.Explain(doing, err)
	}
	provider.SetThrowaway(true) // it shows no token of its own
	answer := tokens.Create(ctx, service, &l.options)
	var status gophercloud.ErrUnexpectedResponseCode
	var sent *url.Error
	switch err := answer.Err; {
	case err == nil:
		l.answer = answer
		return nil
	case errors.As(err, &status) && (status.Actual == http.StatusUnauthorized || status.Actual == http.StatusForbidden):
		return fmt.Errorf("%w: the identity service refuses the login of the OS_* variables (%d)", registry.ErrForbidden, status.Actual)
	case errors.As(err, &sent), errors.As(err, &status) && status.Actual >= 500:
		return fmt.Errorf("%w: %w", registry.ErrUnavailable, keystone.Explain(doing, err))
	default:
		return keystone.Explain(doing, err)
	}
}

// imageEndpoint finds the image service in a catalog. iface is public, internal or
// admin, with URL behind it as older shells have it.
func imageEndpoint(catalog *tokens.ServiceCatalog, region, iface string) (string, error) {
	iface = strings.ToLower(strings.TrimSuffix(iface, "URL"))
	regions := map[string]bool{}
	for _, service := range catalog.Entries {
		if service.Type != "image" {
			continue
		}
		for _, e := range service.Endpoints {
			if e.Interface != iface {
				continue
			}
			if region == "" || e.Region == region || e.RegionID == region {
				return withoutVersion(e.URL), nil
			}
			regions[cmp.Or(e.RegionID, e.Region)] = true
		}
	}
	if len(regions) > 0 {
		return "", usagef("the catalog has no image service in the region %q (OS_REGION_NAME), but in %s", region, strings.Join(slices.Sorted(maps.Keys(regions)), ", "))
	}
	return "", usagef("the catalog of the identity service has no image service with a %s endpoint: name it with --server, NEARSIGHT_SERVER or OS_IMAGE_ENDPOINT_OVERRIDE", iface)
}

// authOptions reads the OS_* variables of a login, by the rules of OpenStack's own
// clients. token is the one that the user has already, if any.
func authOptions(token string) (gophercloud.AuthOptions, error) {
	o := gophercloud.AuthOptions{IdentityEndpoint: os.Getenv("OS_AUTH_URL")}
	kind := strings.TrimPrefix(os.Getenv("OS_AUTH_TYPE"), "v3")
	if kind == "" {
		switch {
		case firstOf("OS_APPLICATION_CREDENTIAL_ID", "OS_APPLICATION_CREDENTIAL_NAME") != "":
			kind = "applicationcredential"
		case token != "":
			kind = "token"
		default:
			kind = "password"
		}
	}
	switch kind {
	case "password":
		o.Password = os.Getenv("OS_PASSWORD")
		setUser(&o)
		if o.Username+o.UserID == "" || o.Password == "" {
			return o, usagef("a login needs OS_USERNAME and OS_PASSWORD, or OS_APPLICATION_CREDENTIAL_ID and OS_APPLICATION_CREDENTIAL_SECRET, or OS_TOKEN")
		}
	case "token":
		if o.TokenID = token; token == "" {
			return o, usagef("OS_AUTH_TYPE is token, and OS_TOKEN is not set")
		}
	case "applicationcredential":
		o.ApplicationCredentialID = os.Getenv("OS_APPLICATION_CREDENTIAL_ID")
		o.ApplicationCredentialName = os.Getenv("OS_APPLICATION_CREDENTIAL_NAME")
		o.ApplicationCredentialSecret = os.Getenv("OS_APPLICATION_CREDENTIAL_SECRET")
		if o.ApplicationCredentialSecret == "" {
			return o, usagef("OS_APPLICATION_CREDENTIAL_SECRET is not set")
		}
		if o.ApplicationCredentialID == "" {
			if setUser(&o); o.Username+o.UserID == "" {
				return o, usagef("an application credential that is named needs OS_USERNAME, whose it is")
			}
		}
		return o, nil // it is for one project
	default:
		return o, usagef("OS_AUTH_TYPE %q is not known here; there are password, token and v3applicationcredential", os.Getenv("OS_AUTH_TYPE"))
	}
	return o, setScope(&o)
}

// setUser sets who logs in.
func setUser(o *gophercloud.AuthOptions) {
	o.UserID = firstOf("OS_USER_ID", "OS_USERID")
	if o.UserID != "" {
		return
	}
	o.Username = os.Getenv("OS_USERNAME")
	o.DomainID, o.DomainName = domain("OS_USER_DOMAIN")
}

// setScope sets what the token shall be for.
func setScope(o *gophercloud.AuthOptions) error {
	s := &gophercloud.AuthScope{ProjectID: firstOf("OS_PROJECT_ID", "OS_TENANT_ID")}
	project := firstOf("OS_PROJECT_NAME", "OS_TENANT_NAME")
	switch {
	case os.Getenv("OS_SYSTEM_SCOPE") == "all":
		s.ProjectID, s.System = "", true
	case s.ProjectID != "":
	case project != "":
		s.ProjectName = project
		s.DomainID, s.DomainName = domain("OS_PROJECT_DOMAIN")
	default:
		return usagef("for which project? Set OS_PROJECT_NAME or OS_PROJECT_ID")
	}
	o.Scope = s
	return nil
}

// domain returns the domain of the variables that begin with prefix, by its id or by
// its name.
func domain(prefix string) (id, name string) {
	if id = os.Getenv(prefix + "_ID"); id != "" {
		return id, ""
	}
	if name = os.Getenv(prefix + "_NAME"); name != "" {
		return "", name
	}
	return cmp.Or(os.Getenv("OS_DEFAULT_DOMAIN"), "default"), ""
}
