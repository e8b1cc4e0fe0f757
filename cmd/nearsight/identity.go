package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"nearsight/registry/client"
	"nearsight/registry/identity"
	"nearsight/registry/identity/keystone"
)

// checkIdentity finds settings of identity and keystone that do not go together.
func (c *Config) checkIdentity(refuse func(name, format string, args ...any)) {
	k := &c.Keystone
	given := map[string]string{
		"auth_url": k.AuthURL, "public_url": k.PublicURL, "user": k.User, "password": k.Password, "user_domain": k.UserDomain,
		"project": k.Project, "project_domain": k.ProjectDomain, "ca_file": k.CAFile,
		"application_credential_id": k.ApplicationCredentialID, "application_credential_secret": k.ApplicationCredentialSecret,
	}
	switch c.Identity.Kind {
	case "none":
		if k.AuthURL != "" {
			refuse("keystone.auth_url", "there is a Keystone to ask, and identity.kind none asks nobody")
		}
		return
	case "tokens", "central":
		return
	}
	needs := []string{"auth_url", "user", "password", "project"}
	forbids := []string{"application_credential_secret"}
	if k.ApplicationCredentialID != "" {
		needs = []string{"auth_url", "application_credential_secret"}
		forbids = []string{"user", "password", "user_domain", "project", "project_domain"}
	}
	for _, name := range needs {
		if given[name] == "" {
			refuse("keystone."+name, "it is needed to ask about tokens, as are %s", strings.Join(slices.DeleteFunc(needs, func(n string) bool { return n == name }), ", "))
			return
		}
	}
	for _, name := range forbids {
		if given[name] != "" {
			refuse("keystone."+name, "an application credential has an id and a secret, and neither user nor project")
		}
	}
	for _, name := range []string{"auth_url", "public_url"} {
		if text := given[name]; text != "" && !isHTTP(text) {
			refuse("keystone."+name, "%q is not like https://keystone.example.org:5000/v3", withoutUser(text))
		}
	}
}

// openKeystone returns who asks Keystone about tokens.
func openKeystone(c Config) (identity.Identifier, error) {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	var err error
	if transport.TLSClientConfig, err = (client.Options{CAFile: c.Keystone.CAFile}).TLS(); err != nil {
		return nil, fmt.Errorf("keystone.ca_file: %w", err)
	}
	return keystone.New(keystone.Options{
		AuthURL: c.Keystone.AuthURL, PublicURL: c.Keystone.PublicURL,
		User: c.Keystone.User, Password: c.Keystone.Password, UserDomain: c.Keystone.UserDomain,
		Project: c.Keystone.Project, ProjectDomain: c.Keystone.ProjectDomain,
		ApplicationCredentialID: c.Keystone.ApplicationCredentialID, ApplicationCredentialSecret: c.Keystone.ApplicationCredentialSecret,
		Keep: c.Identity.Cache, Transport: transport,
	})
}

// openURLKeys returns the keys of signed URLs, nil for none.
func (n *node) openURLKeys(c Config) (*identity.URLKeys, error) {
	if c.Identity.SigningKeys == "" {
		return nil, nil
	}
	keys, err := identity.OpenURLKeys(c.Identity.SigningKeys, n.log)
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("identity.signing_keys: %w; a line of an id and a secret makes one: (umask 077; echo \"first $(openssl rand -hex 32)\" >%s)", err, c.Identity.SigningKeys)
	}
	if err != nil {
		return nil, err
	}
	n.parts = append(n.parts, keys.Run)
	return keys, nil
}

// withoutUser returns what may be a URL for an error, without the user and password that
// may stand before its host.
func withoutUser(text string) string {
	at := strings.LastIndexByte(text, '@')
	if at < 0 {
		return text
	}
	scheme, _, ok := strings.Cut(text[:at], "://")
	if !ok {
		return "..." + text[at:]
	}
	return scheme + "://..." + text[at:]
}

// isHTTP reports whether text is the URL of a service, without credentials.
func isHTTP(text string) bool {
	u, err := url.Parse(text)
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != "" && u.User == nil && u.RawQuery == ""
}
