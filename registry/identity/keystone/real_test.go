package keystone

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"nearsight/registry"
	"nearsight/registry/identity"
)

// A realKeystone is the one that deploy/lab/keystone.sh started.
type realKeystone struct {
	testing.TB
	url string
}

// env returns what the script printed.
func (k realKeystone) env(name string) string {
	k.Helper()
	value := os.Getenv(name)
	if value == "" {
		k.Fatalf("%s is not set: start a Keystone with deploy/lab/keystone.sh, and export what it prints", name)
	}
	return value
}

func keystone(t testing.TB) realKeystone {
	t.Helper()
	k := realKeystone{TB: t}
	k.url = k.env("KEYSTONE_URL")
	return k
}

// call makes a call to the identity API and returns the answer's body and header.
func (k realKeystone) call(method, path, token string, body any, more ...string) (map[string]any, http.Header) {
	k.Helper()
	var text []byte
	if body != nil {
		var err error
		if text, err = json.Marshal(body); err != nil {
			k.Fatal(err)
		}
	}
	// Cleanups make calls too.
	r, err := http.NewRequestWithContext(context.WithoutCancel(k.Context()), method, k.url+path, bytes.NewReader(text))
	if err != nil {
		k.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	if token != "" {
		r.Header.Set("X-Auth-Token", token)
	}
	for i := 0; i < len(more); i += 2 {
		r.Header.Set(more[i], more[i+1])
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		k.Fatal(err)
	}
	defer http.DefaultClient.CloseIdleConnections()
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode > 299 {
		k.Fatalf("%s %s: %d, %v: %s", method, path, resp.StatusCode, err, answer)
	}
	var v map[string]any
	if len(answer) > 0 {
		if err := json.Unmarshal(answer, &v); err != nil {
			k.Fatal(err)
		}
	}
	return v, resp.Header
}

type object = map[string]any

// login returns a token of the user whose variables begin with KEYSTONE_ and who. scope
// nil means the user's project.
func (k realKeystone) login(who string, scope any) (token string, answer object) {
	k.Helper()
	domain := object{"id": "default"}
	if scope == nil {
		scope = object{"project": object{"name": k.env("KEYSTONE_" + who + "_PROJECT"), "domain": domain}}
	}
	answer, h := k.call("POST", "/auth/tokens", "", object{"auth": object{
		"identity": object{"methods": []string{"password"}, "password": object{"user": object{
			"name": k.env("KEYSTONE_" + who + "_USERNAME"), "password": k.env("KEYSTONE_" + who + "_PASSWORD"), "domain": domain,
		}}},
		"scope": scope,
	}})
	return h.Get("X-Subject-Token"), answer["token"].(object)
}

func (k realKeystone) identifier(changes ...func(*Options)) *Identifier {
	k.Helper()
	transport := http.DefaultTransport.(*http.Transport).Clone()
	k.Cleanup(transport.CloseIdleConnections)
	o := Options{
		AuthURL: k.url, User: k.env("KEYSTONE_SERVICE_USERNAME"), Password: k.env("KEYSTONE_SERVICE_PASSWORD"),
		Project: k.env("KEYSTONE_SERVICE_PROJECT"), Transport: transport,
	}
	for _, change := range changes {
		change(&o)
	}
	known, err := New(o)
	if err != nil {
		k.Fatal(err)
	}
	return known
}

func TestRealKeystoneSaysWhoHoldsAToken(t *testing.T) {
	real := keystone(t)
	known := real.identifier()
	for _, tt := range []struct {
		name, who string
		scope     any
		is        func(c *registry.Caller, project string) bool
	}{
		{"a member", "MEMBER", nil, func(c *registry.Caller, p string) bool { return c.Project == p && c.Is("member") && !c.Is("admin") }},
		{"a reader", "READER", nil, func(c *registry.Caller, p string) bool { return c.Project == p && c.Is("reader") && !c.Is("member") }},
		{"a member of another project", "OTHER", nil, func(c *registry.Caller, p string) bool { return c.Project == p && c.Is("member") && !c.Is("admin") }},
		{"an admin", "ADMIN", nil, func(c *registry.Caller, p string) bool { return c.Project == p && c.Is("admin") && c.Is("reader") }},
		{"a service", "SERVICE", nil, func(c *registry.Caller, p string) bool { return c.Project == p && c.Is("service") && c.Is("admin") }},
		{"an admin of the system", "ADMIN", object{"system": object{"all": true}}, func(c *registry.Caller, _ string) bool { return c.Project == "" && c.Is("admin") }},
		{"an admin of nothing", "ADMIN", "unscoped", func(c *registry.Caller, _ string) bool { return c.Project == "" && len(c.Roles) == 0 }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			real := realKeystone{t, real.url}
			token, answer := real.login(tt.who, tt.scope)
			var project string
			if p, ok := answer["project"].(object); ok {
				project = p["id"].(string)
			}
			c, err := known.Identify(t.Context(), token)
			if err != nil {
				t.Fatal(err)
			}
			if !tt.is(c, project) || c.User != answer["user"].(object)["id"] {
				t.Errorf("it is %+v", c)
			}
			if known.Remembered(token) != c {
				t.Error("it is not remembered")
			}
		})
	}
}

func TestRealKeystoneKnowsNoBadTokens(t *testing.T) {
	real := keystone(t)
	known := real.identifier()
	good, _ := real.login("MEMBER", nil)
	revoked, _ := real.login("MEMBER", nil)
	real.call("DELETE", "/auth/tokens", revoked, nil, "X-Subject-Token", revoked)
	for name, token := range map[string]string{
		"garbage":          "garbage",
		"a long one":       strings.Repeat("A", 2000),
		"an altered one":   good[:len(good)/2] + "x" + good[len(good)/2+1:],
		"a cut one":        good[:len(good)-10],
		"a revoked one":    revoked,
		"an expired one":   real.expired("alice"),
		"one with a slash": "../" + good,
	} {
		if c, err := known.Identify(t.Context(), token); !errors.Is(err, identity.ErrUnknown) {
			t.Errorf("%s: %+v, %v", name, c, err)
		}
	}
	if _, err := known.Identify(t.Context(), good); err != nil {
		t.Errorf("the good one: %v", err)
	}
}

// expired returns a token that was valid until a minute ago.
func (k realKeystone) expired(user string) string {
	k.Helper()
	out, err := exec.CommandContext(k.Context(), k.env("KEYSTONE_SCRIPT"), "expired-token", user).Output()
	if err != nil {
		k.Fatalf("make an expired token: %v", err)
	}
	return strings.TrimSpace(string(out))
}

// The window of a revocation is the time that answers are kept.
func TestRealKeystoneRevokesAToken(t *testing.T) {
	real := keystone(t)
	token, _ := real.login("MEMBER", nil)
	keeps := real.identifier()
	if _, err := keeps.Identify(t.Context(), token); err != nil {
		t.Fatal(err)
	}
	real.call("DELETE", "/auth/tokens", token, nil, "X-Subject-Token", token)
	if _, err := keeps.Identify(t.Context(), token); err != nil {
		t.Errorf("within its time: %v", err)
	}
	if _, err := real.identifier(func(o *Options) { o.Keep = time.Nanosecond }).Identify(t.Context(), token); !errors.Is(err, identity.ErrUnknown) {
		t.Errorf("for one who asks: %v", err)
	}
}

func TestRealKeystoneIsAskedWithAnApplicationCredential(t *testing.T) {
	real := keystone(t)
	admin, answer := real.login("SERVICE", nil)
	user := answer["user"].(object)["id"].(string)
	made, _ := real.call("POST", "/users/"+user+"/application_credentials", admin,
		object{"application_credential": object{"name": "nearsight " + time.Now().Format(time.RFC3339Nano), "roles": []object{{"name": "service"}}}})
	credential := made["application_credential"].(object)
	t.Cleanup(func() {
		token, _ := real.login("SERVICE", nil)
		real.call("DELETE", "/users/"+user+"/application_credentials/"+credential["id"].(string), token, nil)
	})
	known := real.identifier(func(o *Options) {
		o.User, o.Password, o.Project = "", "", ""
		o.ApplicationCredentialID, o.ApplicationCredentialSecret = credential["id"].(string), credential["secret"].(string)
	})
	token, _ := real.login("MEMBER", nil)
	if c, err := known.Identify(t.Context(), token); err != nil || !c.Is("member") {
		t.Errorf("%+v, %v", c, err)
	}
}

// A server whose own token was revoked gets another.
func TestRealKeystoneRenewsTheTokenOfTheServer(t *testing.T) {
	real := keystone(t)
	known := real.identifier()
	first, _ := real.login("MEMBER", nil)
	if _, err := known.Identify(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	client, err := known.asks.client(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	own := client.Token()
	real.call("DELETE", "/auth/tokens", own, nil, "X-Subject-Token", own)
	second, _ := real.login("MEMBER", nil)
	if _, err := known.Identify(t.Context(), second); err != nil || client.Token() == own {
		t.Errorf("%v, another token: %v", err, client.Token() != own)
	}
}

func TestRealKeystoneRefusesAServerThatMayNotAsk(t *testing.T) {
	real := keystone(t)
	token, _ := real.login("MEMBER", nil)
	for _, tt := range []struct {
		name, want string
		change     func(*Options)
	}{
		{"a wrong password", "does not take the credentials", func(o *Options) { o.Password = "wrong" }},
		{"a user without the role", "needs the role service or admin", func(o *Options) {
			o.User, o.Password, o.Project = real.env("KEYSTONE_OTHER_USERNAME"), real.env("KEYSTONE_OTHER_PASSWORD"), real.env("KEYSTONE_OTHER_PROJECT")
		}},
		{"another service at the URL", "log in to keystone", func(o *Options) { o.AuthURL = strings.TrimSuffix(real.url, "/v3") + "/nothing/v3" }},
		{"nothing at the URL", "connection refused", func(o *Options) { o.AuthURL = "http://127.0.0.1:1/v3" }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := realKeystone{t, real.url}.identifier(tt.change).Identify(t.Context(), token)
			if err == nil || errors.Is(err, identity.ErrUnknown) || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), token) {
				t.Errorf("%v, want %s", err, tt.want)
			}
		})
	}
}
