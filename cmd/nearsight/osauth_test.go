package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/tokens"

	"nearsight/registry/client"
)

// shell gives the test an OpenStack shell with these variables and no others.
func shell(t *testing.T, env map[string]string) {
	t.Helper()
	for _, kv := range os.Environ() {
		if name, _, _ := strings.Cut(kv, "="); strings.HasPrefix(name, "OS_") || strings.HasPrefix(name, envPrefix) {
			t.Setenv(name, "")
		}
	}
	for name, value := range env {
		t.Setenv(name, value)
	}
}

func TestAShellDescribesALogin(t *testing.T) {
	type env = map[string]string
	for _, tt := range []struct {
		name, token string
		env         env
		want        string // the JSON of the login, "" if err
		err         string
	}{
		{"a user and a project", "", env{"OS_USERNAME": "me", "OS_PASSWORD": "p", "OS_PROJECT_NAME": "demo"},
			`{"auth":{"identity":{"methods":["password"],"password":{"user":{"domain":{"id":"default"},"name":"me","password":"p"}}},"scope":{"project":{"domain":{"id":"default"},"name":"demo"}}}}`, ""},
		{"domains by id and by name", "", env{"OS_USERNAME": "me", "OS_PASSWORD": "p", "OS_USER_DOMAIN_NAME": "Corp", "OS_PROJECT_NAME": "demo", "OS_PROJECT_DOMAIN_ID": "d1"},
			`{"auth":{"identity":{"methods":["password"],"password":{"user":{"domain":{"name":"Corp"},"name":"me","password":"p"}}},"scope":{"project":{"domain":{"id":"d1"},"name":"demo"}}}}`, ""},
		{"another default domain", "", env{"OS_USERNAME": "me", "OS_PASSWORD": "p", "OS_TENANT_NAME": "demo", "OS_DEFAULT_DOMAIN": "dd"},
			`{"auth":{"identity":{"methods":["password"],"password":{"user":{"domain":{"id":"dd"},"name":"me","password":"p"}}},"scope":{"project":{"domain":{"id":"dd"},"name":"demo"}}}}`, ""},
		{"ids", "", env{"OS_USER_ID": "u1", "OS_PASSWORD": "p", "OS_PROJECT_ID": "p1", "OS_PROJECT_NAME": "demo"},
			`{"auth":{"identity":{"methods":["password"],"password":{"user":{"id":"u1","password":"p"}}},"scope":{"project":{"id":"p1"}}}}`, ""},
		{"the whole system", "", env{"OS_USERNAME": "me", "OS_PASSWORD": "p", "OS_SYSTEM_SCOPE": "all"},
			`{"auth":{"identity":{"methods":["password"],"password":{"user":{"domain":{"id":"default"},"name":"me","password":"p"}}},"scope":{"system":{"all":true}}}}`, ""},
		{"an application credential", "", env{"OS_APPLICATION_CREDENTIAL_ID": "i", "OS_APPLICATION_CREDENTIAL_SECRET": "s"},
			`{"auth":{"identity":{"methods":["application_credential"],"application_credential":{"id":"i","secret":"s"}}}}`, ""},
		{"one that is named", "", env{"OS_AUTH_TYPE": "v3applicationcredential", "OS_APPLICATION_CREDENTIAL_NAME": "n", "OS_APPLICATION_CREDENTIAL_SECRET": "s", "OS_USERNAME": "me"},
			`{"auth":{"identity":{"methods":["application_credential"],"application_credential":{"name":"n","secret":"s","user":{"domain":{"id":"default"},"name":"me"}}}}}`, ""},
		{"a token for another project", "t", env{"OS_AUTH_TYPE": "v3token", "OS_PROJECT_ID": "p1"},
			`{"auth":{"identity":{"methods":["token"],"token":{"id":"t"}},"scope":{"project":{"id":"p1"}}}}`, ""},
		{"no password", "", env{"OS_USERNAME": "me", "OS_PROJECT_NAME": "demo"}, "", "OS_PASSWORD"},
		{"no user", "", env{"OS_PASSWORD": "nosuchsecret", "OS_PROJECT_NAME": "demo"}, "", "OS_USERNAME"},
		{"no project", "", env{"OS_USERNAME": "me", "OS_PASSWORD": "nosuchsecret"}, "", "which project"},
		{"no secret", "", env{"OS_APPLICATION_CREDENTIAL_ID": "i"}, "", "OS_APPLICATION_CREDENTIAL_SECRET"},
		{"nobody's credential", "", env{"OS_APPLICATION_CREDENTIAL_NAME": "n", "OS_APPLICATION_CREDENTIAL_SECRET": "nosuchsecret"}, "", "OS_USERNAME"},
		{"no token", "", env{"OS_AUTH_TYPE": "token"}, "", "OS_TOKEN is not set"},
		{"a way that is not known", "", env{"OS_AUTH_TYPE": "v3oidcpassword"}, "", "v3oidcpassword"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			shell(t, tt.env)
			o, err := authOptions(tt.token)
			if tt.err != "" {
				if err == nil || exitCode(err) != exitUsage || !strings.Contains(err.Error(), tt.err) || strings.Contains(err.Error(), "nosuchsecret") {
					t.Errorf("%v, want %s", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			scope, err := o.ToTokenV3ScopeMap()
			if err != nil {
				t.Fatal(err)
			}
			body, err := o.ToTokenV3CreateMap(scope)
			if err != nil {
				t.Fatal(err)
			}
			if got, _ := json.Marshal(sorted(t, body)); string(got) != sortedText(t, tt.want) {
				t.Errorf("%s\nwant %s", got, tt.want)
			}
		})
	}
}

// sorted returns v as JSON has it, with members in one order.
func sorted(t *testing.T, v any) any {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	var out any
	if err := json.Unmarshal(text, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

func sortedText(t *testing.T, text string) string {
	t.Helper()
	out, err := json.Marshal(sorted(t, json.RawMessage(text)))
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func TestTheCatalogNamesTheServer(t *testing.T) {
	entry := func(kind string, endpoints ...tokens.Endpoint) tokens.CatalogEntry {
		return tokens.CatalogEntry{Type: kind, Endpoints: endpoints}
	}
	at := func(iface, region, url string) tokens.Endpoint {
		return tokens.Endpoint{Interface: iface, Region: region, RegionID: region, URL: url}
	}
	catalog := &tokens.ServiceCatalog{Entries: []tokens.CatalogEntry{
		entry("compute", at("public", "one", "http://nova")),
		entry("image", at("internal", "one", "http://in"), at("public", "one", "http://out/v2/"), at("public", "two", "http://two/image/")),
	}}
	for _, tt := range []struct{ name, region, iface, want, err string }{
		{"the first", "", "public", "http://out", ""},
		{"that of a region", "two", "public", "http://two/image", ""},
		{"that of an interface", "one", "internal", "http://in", ""},
		{"as older shells say it", "one", "publicURL", "http://out", ""},
		{"none in a region", "three", "public", "", "but in one, two"},
		{"none of an interface", "", "admin", "", "no image service with a admin endpoint"},
	} {
		got, err := imageEndpoint(catalog, tt.region, tt.iface)
		if got != tt.want || (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%s: %q, %v", tt.name, got, err)
		}
	}
}

// An osCloud has an identity service, whose tokens are t1, t2 and so on, and an image
// service that takes the last token alone.
type osCloud struct {
	mu      sync.Mutex
	logins  int
	status  int // of logins; 0 means that they work
	image   string
	refused int // tokens that the image service did not take
}

func (c *osCloud) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case r.URL.Path == "/v3/auth/tokens" && c.status != 0:
		w.Header().Set("Location", "/elsewhere")
		w.WriteHeader(c.status)
		body, _ := io.ReadAll(r.Body)
		w.Write(body) // as some servers do
	case r.URL.Path == "/v3/auth/tokens":
		c.logins++
		w.Header().Set("X-Subject-Token", fmt.Sprint("t", c.logins))
		w.WriteHeader(201)
		fmt.Fprintf(w, `{"token":{"expires_at":"2099-01-01T00:00:00Z","catalog":[{"type":"image","name":"x","endpoints":[{"interface":"public","region":"R","region_id":"R","url":%q}]}]}}`, c.image+"/v2")
	case r.URL.Path == "/v2/images" && r.Header.Get("X-Auth-Token") == fmt.Sprint("t", c.logins):
		io.WriteString(w, `{"images":[],"first":"/v2/images","schema":"/v2/schemas/images"}`)
	default:
		c.refused++
		w.WriteHeader(401)
	}
}

// inCloud runs a command in the shell of a user of c.
func inCloud(t *testing.T, c *osCloud, env map[string]string, args ...string) error {
	t.Helper()
	s := httptest.NewServer(c)
	defer s.Close()
	c.image = s.URL
	all := map[string]string{"OS_AUTH_URL": s.URL + "/v3", "OS_USERNAME": "me", "OS_PASSWORD": "nosuchsecret", "OS_PROJECT_NAME": "demo"}
	for name, value := range env {
		all[name] = strings.ReplaceAll(value, "SERVER", s.URL)
	}
	shell(t, all)
	root := newRoot()
	root.SetOut(io.Discard)
	root.SetErr(io.Discard)
	root.SetArgs(args)
	err := root.ExecuteContext(t.Context())
	if err != nil && strings.Contains(errorLine(err), "nosuchsecret") {
		t.Errorf("the password is in the error: %v", err)
	}
	return err
}

func TestCommandsLogIn(t *testing.T) {
	for _, tt := range []struct {
		name   string
		env    map[string]string
		logins int
		status int
		exit   int
	}{
		{"at the server of the catalog, once", nil, 1, 0, 0},
		{"at one that is named", map[string]string{"OS_IMAGE_ENDPOINT_OVERRIDE": "SERVER/v2"}, 1, 0, 0},
		{"with a token, for the catalog", map[string]string{"OS_TOKEN": "mine", "OS_PASSWORD": ""}, 1, 0, 0},
		{"in a region that has none", map[string]string{"OS_REGION_NAME": "Q"}, 1, 0, exitUsage},
		{"with a wrong password", nil, 0, 401, exitRefused},
		{"where the user may not", nil, 0, 403, exitRefused},
		{"where the service fails", nil, 0, 500, exitUnreachable},
		{"where the service sends it elsewhere", nil, 0, 307, exitFailure},
		{"where there is no such service", nil, 0, 404, exitFailure},
		{"where nobody listens", map[string]string{"OS_AUTH_URL": "http://127.0.0.1:1/v3"}, 0, 0, exitUnreachable},
		{"where no URL is", map[string]string{"OS_AUTH_URL": "://"}, 0, 0, exitUsage},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := &osCloud{status: tt.status}
			err := inCloud(t, c, tt.env, "image", "list")
			if exitCode(err) != tt.exit || c.logins != tt.logins {
				t.Errorf("exit %d, want %d; %d logins: %v", exitCode(err), tt.exit, c.logins, err)
			}
		})
	}
}

// A token that the server knows no longer is replaced by a new login, once.
func TestATokenThatRanOutIsReplaced(t *testing.T) {
	c := &osCloud{}
	s := httptest.NewServer(c)
	defer s.Close()
	c.image = s.URL
	shell(t, map[string]string{"OS_AUTH_URL": s.URL + "/v3", "OS_USERNAME": "me", "OS_PASSWORD": "p", "OS_PROJECT_NAME": "demo"})
	l, err := newLogin(client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := l.endpoint(t.Context()); err != nil || got != s.URL {
		t.Errorf("%q, %v", got, err)
	}
	for _, want := range []string{"t1", "t2", "t3"} {
		if got, err := l.token(t.Context()); err != nil || got != want {
			t.Errorf("%q, %v; want %q", got, err, want)
		}
	}
}
