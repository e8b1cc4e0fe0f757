package api

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"nearsight/registry"
	"nearsight/registry/identity"
)

// A crowd knows callers by their tokens.
type crowd map[string]*registry.Caller

func (c crowd) Identify(_ context.Context, token string) (*registry.Caller, error) {
	switch {
	case token == "broken":
		return nil, errors.New("the wire to keystone.secret is cut")
	case c[token] == nil:
		return nil, identity.ErrUnknown
	}
	return c[token], nil
}

// someone knows one member of a project.
var someone = crowd{"good": {Project: "home", User: "anna", Roles: []string{"member"}}}

// callerSeen returns a handler that notes who called it.
func callerSeen(seen **registry.Caller) http.Handler {
	return http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { *seen = registry.CallerOf(r.Context()) })
}

func TestARequestIsFromWhomItsTokenNames(t *testing.T) {
	const known, unknown = 200, 401
	for _, tt := range []struct {
		name, path, fields string
		status             int
		strangers          int // the status where those are let in
	}{
		{"a token", "/v2/images", "X-Auth-Token: good", known, known},
		{"a token that is not known", "/v2/images", "X-Auth-Token: bad", unknown, unknown},
		{"no token", "/v2/images", "", unknown, known},
		{"an empty token", "/v2/images", "X-Auth-Token: ", unknown, known},
		{"two tokens", "/v2/images", "X-Auth-Token: good|X-Auth-Token: good", unknown, unknown},
		{"a bearer's token", "/v2/images", "Authorization: Bearer good", known, known},
		{"a bearer's token in any case", "/v2/images", "Authorization: bEARER good", known, known},
		{"a bearer's token after two blanks", "/v2/images", "Authorization: Bearer  good", known, known},
		{"two bearer's tokens", "/v2/images", "Authorization: Bearer good|Authorization: Bearer good", unknown, unknown},
		{"a bearer's token that is empty", "/v2/images", "Authorization: Bearer ", unknown, unknown},
		{"a password for somebody else", "/v2/images", "Authorization: Basic Z29vZDpnb29k", unknown, known},
		{"a password and a bearer's token", "/v2/images", "Authorization: Basic Z29vZDpnb29k|Authorization: Bearer good", known, known},
		{"a good token beside a bearer's bad one", "/v2/images", "X-Auth-Token: good|Authorization: Bearer bad", known, known},
		{"a bad token beside a bearer's good one", "/v2/images", "X-Auth-Token: bad|Authorization: Bearer good", unknown, unknown},
		{"an identity service that fails", "/v2/images", "X-Auth-Token: broken", 503, 503},
		{"what a proxy of others would say", "/v2/images", "X-Identity-Status: Confirmed|X-Project-Id: home|X-Tenant: home|X-User-Id: a|X-Roles: admin|X-Role: admin", unknown, known},
		{"an unknown path", "/v2/nothing", "", unknown, known},
		{"an unknown version", "/v9/images", "", unknown, known},
		{"a route of ours", "/nearsight/cache", "", unknown, known},
		{"a schema", "/v2/schemas/image", "", unknown, known},
		{"the versions", "/", "", known, known},
		{"the versions by their name", "/versions", "", known, known},
		{"the versions with a bad token", "/versions", "X-Auth-Token: bad", known, known},
		{"the healthcheck", "/healthcheck", "", known, known},
		{"what is like the healthcheck", "/healthcheck/../v2/images", "", 404, 404},
	} {
		for _, anonymous := range []bool{false, true} {
			g := newRig(t, func(o *Options) { o.Identity, o.Anonymous = someone, anonymous })
			var seen *registry.Caller
			h := g.api.Wrap(callerSeen(&seen))
			r := httptest.NewRequest("GET", "http://images.example.org/", nil)
			r.URL.Path = tt.path
			for f := range strings.SplitSeq(tt.fields, "|") {
				if name, value, ok := strings.Cut(f, ": "); ok {
					r.Header.Add(name, value)
				}
			}
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			want := tt.status
			if anonymous {
				want = tt.strangers
			}
			if w.Code != want {
				t.Errorf("%s, strangers %v: %d, want %d: %s", tt.name, anonymous, w.Code, want, w.Body)
			}
			if (seen != nil) != (want == known) {
				t.Errorf("%s, strangers %v: the handler was called: %v", tt.name, anonymous, seen != nil)
			}
			challenge := w.Header().Get("WWW-Authenticate")
			if (challenge == `Keystone uri="http://images.example.org"`) != (want == 401) {
				t.Errorf("%s: WWW-Authenticate %q with %d", tt.name, challenge, w.Code)
			}
			if strings.Contains(w.Body.String(), "keystone.secret") || strings.Contains(w.Body.String(), "good") {
				t.Errorf("%s: the answer tells too much: %s", tt.name, w.Body)
			}
		}
	}
}

func TestCallersAreWhoTheyAre(t *testing.T) {
	for _, tt := range []struct {
		name, token string
		who         identity.Identifier
		anonymous   bool
		is          func(*registry.Caller) bool
	}{
		{"one with a token", "good", someone, true, func(c *registry.Caller) bool { return c.Project == "home" && c.User == "anna" && !c.Is("admin") }},
		{"a stranger", "", someone, true, func(c *registry.Caller) bool { return c.Stranger && !c.Is("reader") && c.Project == "" }},
		{"anybody where nobody is told apart", "", nil, false, func(c *registry.Caller) bool { return c.Is("admin") && !c.Stranger && c.Project == "" }},
		{"anybody with a token where nobody is told apart", "x", nil, true, func(c *registry.Caller) bool { return c.Is("admin") && !c.Stranger }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := newRig(t, func(o *Options) { o.Identity, o.Anonymous = tt.who, tt.anonymous })
			for _, wrap := range []func(http.Handler) http.Handler{g.api.Wrap, g.api.Authenticate} {
				var seen *registry.Caller
				r := httptest.NewRequest("GET", "/v2/images", nil)
				if tt.token != "" {
					r.Header.Set("X-Auth-Token", tt.token)
				}
				r.Header.Set("X-Roles", "admin")
				wrap(callerSeen(&seen)).ServeHTTP(httptest.NewRecorder(), r)
				if seen == nil || !tt.is(seen) {
					t.Errorf("it is %+v", seen)
				}
			}
		})
	}
}

// The body of a 401 has the form that its client can read, as every error has.
func TestARefusalToStrangersHasTheFormThatIsAskedFor(t *testing.T) {
	g := newRig(t, func(o *Options) { o.Identity = someone })
	for _, tt := range []struct{ path, accept, want string }{
		{"/v2/images", "", "text/plain; charset=UTF-8"},
		{"/v2/images", "*/*", "text/html; charset=UTF-8"},
		{"/v2/images", "application/json", "application/json"},
		{"/nearsight/cache", "*/*", "application/problem+json"},
	} {
		w := g.want(401, "GET "+tt.path, "", "Accept: "+tt.accept)
		if got := w.Header().Get("Content-Type"); got != tt.want {
			t.Errorf("%s for %q: %s", tt.path, tt.accept, got)
		}
		if w := g.want(401, "HEAD "+tt.path, ""); w.Body.Len() > 0 {
			t.Errorf("HEAD %s has a body", tt.path)
		}
	}
}

// Nothing of a body is read before it is known who sends it.
func TestAnUploadOfNobodyIsNotRead(t *testing.T) {
	g := newRig(t, func(o *Options) { o.Identity = someone })
	w := httptest.NewRecorder()
	body := &lateReader{w: w}
	r := httptest.NewRequest("PUT", "/v2/images/"+id1+"/file", body)
	r.ContentLength = 1 << 40
	g.ServeHTTP(w, r)
	if w.Code != 401 || body.early || w.Header().Get("Connection") != "close" {
		t.Errorf("%d, read before: %v, Connection %q", w.Code, body.early, w.Header().Get("Connection"))
	}
}

// A lateReader notes whether it is read before the answer was written.
type lateReader struct {
	w     *httptest.ResponseRecorder
	early bool
}

func (r *lateReader) Read([]byte) (int, error) {
	r.early = r.early || r.w.Body.Len() == 0
	return 0, errors.New("the client waits for its answer")
}

// FuzzTokenOf reads what strangers write into the fields of a token.
func FuzzTokenOf(f *testing.F) {
	for _, s := range []string{"", "good", "Bearer good", "bearer  x", "Basic eDp5", "Bearer", "Bearer ", "\x00", "Bearer a b"} {
		f.Add(s, s, 1)
	}
	f.Fuzz(func(t *testing.T, a, b string, n int) {
		h := http.Header{}
		if n&1 != 0 {
			h["X-Auth-Token"] = []string{a}
		}
		if n&2 != 0 {
			h["Authorization"] = []string{b}
		}
		if n&4 != 0 {
			h["Authorization"] = append(h["Authorization"], a)
		}
		token, ok := TokenOf(h)
		if !ok && token != "" {
			t.Errorf("%q although there is none", token)
		}
		if token != "" && !strings.HasSuffix(a, token) && !strings.HasSuffix(b, token) {
			t.Errorf("%q is in neither %q nor %q", token, a, b)
		}
	})
}
