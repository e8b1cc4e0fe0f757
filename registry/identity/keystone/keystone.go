// Package keystone finds out who makes a request, by asking OpenStack's identity
// service (Identity API v3) about its token.
package keystone

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/gophercloud/gophercloud/v2"

	"nearsight/registry"
	"nearsight/registry/identity"
)

const (
	// DefaultKeep is how long an answer of Keystone about a token is kept.
	DefaultKeep = time.Minute
	// DefaultKept is how many tokens are remembered.
	DefaultKept = 10_000

	askTimeout = 10 * time.Second // for an answer of Keystone, with a login if need be
	askAtOnce  = 16               // questions that Keystone is asked side by side
	maxToken   = 8 << 10          // bytes: tokens that name a federated user have hundreds

	defaultDomain = "Default" // its name in every new Keystone
)

// Options say where Keystone is, and as whom it is asked about tokens: a user
// with a role that its policy wants for that, admin or service, on a project.
type Options struct {
	// AuthURL is that of its API v3, as https://keystone.example.org:5000/v3.
	AuthURL string
	// PublicURL is the one that callers without a token are told. "" means AuthURL.
	PublicURL string

	// User and Password, with the names of their domain and of the project and its
	// domain; "" as a domain means Default.
	User, Password, UserDomain string
	Project, ProjectDomain     string
	// Or an application credential, which is for one user and project.
	ApplicationCredentialID, ApplicationCredentialSecret string

	// Keep is how long an answer about a token is believed without asking again, but
	// not beyond the end of the token. A token that was revoked, or whose user was
	// locked out, is good for so long at most. 0 means a minute.
	Keep time.Duration
	// Kept bounds the number of tokens that are remembered. 0 means 10,000.
	Kept int
	// Transport sends the requests. nil means http.DefaultTransport.
	Transport http.RoundTripper
}

// An Identifier is an identity.Identifier that asks Keystone ("Validate and show
// information for token"). The project is the one that the token is for, the user its
// user, and the roles are those that Keystone gives, with the ones they imply, but for
// node, which is ours. A token for the whole system has its roles, and no project; one
// for a domain, or for nothing, has none.
//
// It remembers tokens by their hashes. While Keystone does not answer, those that are
// remembered are known until their time is up, and of others it cannot be said.
type Identifier struct {
	public string
	asks   login
	seen   memory
	asking chan struct{} // has an element for each question under way
}

var (
	_ identity.Rememberer = (*Identifier)(nil)
	_ identity.Challenger = (*Identifier)(nil)
)

// New returns an Identifier. It does not connect: the first token is the
// first that Keystone hears of it.
func New(o Options) (*Identifier, error) {
	k := &Identifier{
		public: cmp.Or(o.PublicURL, o.AuthURL),
		asking: make(chan struct{}, askAtOnce),
		asks: login{
			auth: gophercloud.AuthOptions{
				IdentityEndpoint: o.AuthURL,
				AllowReauth:      true, // its own token ends too
			},
			transport: o.Transport,
			busy:      make(chan struct{}, 1),
		},
	}
	switch a := &k.asks.auth; {
	case o.AuthURL == "":
		return nil, errors.New("keystone: the URL to log in at is missing")
	case o.ApplicationCredentialID != "":
		if o.User != "" || o.Password != "" || o.Project != "" {
			return nil, errors.New("keystone: there is an application credential, and a user or project besides")
		}
		if o.ApplicationCredentialSecret == "" {
			return nil, errors.New("keystone: the application credential has no secret")
		}
		a.ApplicationCredentialID, a.ApplicationCredentialSecret = o.ApplicationCredentialID, o.ApplicationCredentialSecret
	case o.User == "" || o.Password == "" || o.Project == "":
		return nil, errors.New("keystone: it takes a user, a password and a project, or an application credential, to ask about tokens")
	default:
		a.Username, a.Password, a.DomainName = o.User, o.Password, cmp.Or(o.UserDomain, defaultDomain)
		a.Scope = &gophercloud.AuthScope{ProjectName: o.Project, DomainName: cmp.Or(o.ProjectDomain, defaultDomain)}
	}
	keep, kept := o.Keep, o.Kept
	if keep <= 0 {
		keep = DefaultKeep
	}
	if kept <= 0 {
		kept = DefaultKept
	}
	k.seen = newMemory(keep, kept)
	return k, nil
}

// AuthURL implements identity.Challenger.
func (k *Identifier) AuthURL() string { return k.public }

// Remembered implements identity.Rememberer.
func (k *Identifier) Remembered(token string) *registry.Caller {
	caller, _ := k.seen.recall(sha256.Sum256([]byte(token)), time.Now())
	return caller
}

// Identify implements identity.Identifier. Of those who ask about one token at a time one asks
// Keystone, and finds out for the others even if its own request is given up.
func (k *Identifier) Identify(ctx context.Context, token string) (*registry.Caller, error) {
	if !plausible(token) {
		return nil, identity.ErrUnknown
	}
	sum := sha256.Sum256([]byte(token))
	caller, known := k.seen.recall(sum, time.Now())
	switch {
	case caller != nil:
		return caller, nil
	case known:
		return nil, identity.ErrUnknown
	}
	q, mine := k.seen.join(sum)
	if mine {
		k.settle(ctx, sum, q, token)
	}
	select {
	case <-q.done:
		return q.caller, q.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// settle finds the answer to a question, for all who wait for it.
func (k *Identifier) settle(ctx context.Context, sum tokenHash, q *question, token string) {
	q.err = errors.New("the question about the token was given up") // unless it comes to an end
	defer k.seen.leave(sum, q)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), askTimeout)
	defer cancel()
	select {
	case k.asking <- struct{}{}:
		defer func() { <-k.asking }()
	case <-ctx.Done():
		q.err = fmt.Errorf("ask keystone: %w", ctx.Err())
		return
	}
	asked := time.Now()
	if q.caller, _ = k.seen.recall(sum, asked); q.caller != nil { // by the question before
		q.err = nil
		return
	}
	found, err := k.ask(ctx, token)
	switch {
	case errors.Is(err, identity.ErrUnknown), err == nil && !asked.Before(found.Token.Expires):
		k.seen.reject(sum, asked)
		q.err = identity.ErrUnknown
	case err != nil:
		q.err = err
	default:
		q.caller, q.err = found.caller(), nil
		k.seen.keep(sum, q.caller, asked, found.Token.Expires)
	}
}

// ask asks Keystone about a token: identity.ErrUnknown if it does not know it. No other error
// has anything of the token either.
func (k *Identifier) ask(ctx context.Context, token string) (*keystoneToken, error) {
	client, err := k.asks.client(ctx)
	if err != nil {
		return nil, err
	}
	found := &keystoneToken{}
	resp, err := client.Get(ctx, client.ServiceURL("auth", "tokens")+"?nocatalog", found, &gophercloud.RequestOpts{
		MoreHeaders: map[string]string{"X-Subject-Token": token},
		OkCodes:     []int{http.StatusOK, http.StatusNonAuthoritativeInfo},
	})
	if resp != nil && resp.StatusCode == http.StatusNotFound || gophercloud.ResponseCodeIs(err, http.StatusNotFound) {
		return nil, identity.ErrUnknown
	}
	if err != nil {
		return nil, Explain("ask keystone about a token", err)
	}
	if found.Token.User.ID == "" {
		return nil, errors.New("ask keystone about a token: the answer names no user")
	}
	return found, nil
}

// plausible reports whether a token can be one of Keystone's. It must not be possible
// to have a header field end early.
func plausible(token string) bool {
	return token != "" && len(token) <= maxToken && !strings.ContainsFunc(token, func(c rune) bool { return c <= ' ' || c >= 0x7f })
}

// A keystoneToken is what Keystone says of a token (Identity API v3), as far as it
// counts here.
type keystoneToken struct {
	Token struct {
		Expires time.Time `json:"expires_at"`
		User    struct {
			ID string `json:"id"`
		} `json:"user"`
		Project *struct {
			ID string `json:"id"`
		} `json:"project"`
		System map[string]bool `json:"system"`
		Roles  []struct {
			Name string `json:"name"`
		} `json:"roles"`
	} `json:"token"`
}

// caller returns whom the token names. A role on a domain is none on any project of
// it, and so means nothing.
func (t *keystoneToken) caller() *registry.Caller {
	c := &registry.Caller{User: t.Token.User.ID}
	switch {
	case t.Token.Project != nil && t.Token.Project.ID != "":
		c.Project = t.Token.Project.ID
	case !t.Token.System["all"]:
		return c
	}
	for _, role := range t.Token.Roles {
		name := strings.ToLower(role.Name) // Keystone's names have no case
		if name != "node" {                // which other servers of the registry are, and nobody of Keystone
			c.Roles = append(c.Roles, name)
		}
	}
	slices.Sort(c.Roles)
	c.Roles = slices.Compact(c.Roles)
	return c
}
