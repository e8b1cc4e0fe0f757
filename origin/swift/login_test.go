package swift

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"nearsight/origin"
)

// identity is a server that records logins and answers them as the versions 2
// and 3 do. Everything else is an account with nothing in it.
type identity struct {
	*httptest.Server
	mu     sync.Mutex
	logins []string // path and body
	tokens []string // of the other requests
	life   time.Duration
}

func newIdentity(t *testing.T) *identity {
	id := &identity{life: time.Hour}
	id.Server = httptest.NewServer(id)
	t.Cleanup(func() {
		id.CloseClientConnections()
		id.Close()
	})
	return id
}

func (id *identity) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b, _ := io.ReadAll(r.Body)
	id.mu.Lock()
	defer id.mu.Unlock()
	expires := time.Now().Add(id.life).UTC().Format(time.RFC3339Nano)
	account := func(place string) string { return id.URL + "/" + place + "/v1/AUTH_p" }
	switch r.URL.Path {
	case "/v2.0/tokens":
		id.logins = append(id.logins, r.URL.Path+" "+string(b))
		fmt.Fprintf(w, `{"access": {"token": {"id": "a-token", "expires": %q}, "serviceCatalog": [{"type": "object-store", "endpoints": [
			{"region": "one", "publicURL": %q, "internalURL": %q}, {"region": "two", "publicURL": %q, "internalURL": %q}]}]}}`,
			expires, account("one-public"), account("one-internal"), account("two-public"), account("two-internal"))
	case "/v3/auth/tokens":
		id.logins = append(id.logins, r.URL.Path+" "+string(b))
		w.Header().Set("X-Subject-Token", "a-token")
		w.WriteHeader(http.StatusCreated)
		var endpoints []map[string]string
		for _, region := range []string{"one", "two"} {
			for _, face := range []string{"admin", "internal", "public"} {
				endpoints = append(endpoints, map[string]string{"region": region, "interface": face, "url": account(region + "-" + face)})
			}
		}
		json.NewEncoder(w).Encode(map[string]any{"token": map[string]any{
			"expires_at": expires,
			"catalog":    []any{map[string]any{"type": "object-store", "endpoints": endpoints}},
		}})
	default:
		id.tokens = append(id.tokens, r.Header.Get("X-Auth-Token")+" "+r.URL.Path)
		w.WriteHeader(http.StatusNotFound)
	}
}

func TestLoginShapes(t *testing.T) {
	for _, tt := range []struct {
		name  string
		path  string // of AuthURL
		o     Options
		login string
		place string
	}{
		{"version 2", "/v2.0", Options{User: "u", Key: "k", Project: "p"},
			`/v2.0/tokens {"auth":{"passwordCredentials":{"username":"u","password":"k"},"tenantName":"p"}}`, "one-public"},
		{"version 2, a project by ID, a region, inside", "/v2.0", Options{User: "u", Key: "k", ProjectID: "p1", Region: "two", Interface: "internal"},
			`/v2.0/tokens {"auth":{"passwordCredentials":{"username":"u","password":"k"},"tenantId":"p1"}}`, "two-internal"},
		{"version 3, names", "/v3", Options{User: "u", Key: "k", Domain: "d", Project: "p", ProjectDomain: "e", Region: "two"},
			`/v3/auth/tokens {"auth":{"identity":{"methods":["password"],"password":{"user":{"domain":{"name":"d"},"name":"u","password":"k"}}},"scope":{"project":{"name":"p","domain":{"name":"e"}}}}}`, "two-public"},
		{"version 3, IDs", "/v3/", Options{UserID: "u1", Key: "k", ProjectID: "p1", Interface: "admin"},
			`/v3/auth/tokens {"auth":{"identity":{"methods":["password"],"password":{"user":{"id":"u1","password":"k"}}},"scope":{"project":{"id":"p1"}}}}`, "one-admin"},
		{"an application credential", "/v3", Options{ApplicationCredentialID: "a1", ApplicationCredentialSecret: "s"},
			`/v3/auth/tokens {"auth":{"identity":{"methods":["application_credential"],"application_credential":{"id":"a1","secret":"s","user":{}}}}}`, "one-public"},
		{"an application credential by name", "/v3", Options{ApplicationCredentialName: "a", ApplicationCredentialSecret: "s", User: "u", DomainID: "d1"},
			`/v3/auth/tokens {"auth":{"identity":{"methods":["application_credential"],"application_credential":{"name":"a","secret":"s","user":{"domain":{"id":"d1"},"name":"u"}}}}}`, "one-public"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			id := newIdentity(t)
			tt.o.AuthURL, tt.o.Container = id.URL+tt.path, "c"
			s := newStore(t, tt.o)
			loc := origin.Location{URL: "swift://default/k"}
			for range 2 {
				_, err := s.Stat(t.Context(), loc)
				wantErr(t, "Stat", err, origin.ErrNotFound)
			}
			want := "a-token /" + tt.place + "/v1/AUTH_p/c/k"
			if len(id.logins) != 1 || id.logins[0] != tt.login {
				t.Errorf("logins %q\nwant one %q", id.logins, tt.login)
			}
			if len(id.tokens) != 2 || id.tokens[0] != want || id.tokens[1] != want {
				t.Errorf("requests %q; want two of %q", id.tokens, want)
			}
		})
	}
}

func TestTokensAreRenewedBeforeTheyExpire(t *testing.T) {
	for _, tt := range []struct {
		name   string
		life   time.Duration
		logins int
	}{
		{"an hour is long enough", time.Hour, 1},
		{"a short life is no error", 30 * time.Second, 1},
		{"what has expired already is left to the store to refuse", -time.Hour, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			id := newIdentity(t)
			id.life = tt.life
			s := newStore(t, Options{AuthURL: id.URL + "/v3", ApplicationCredentialID: "a", ApplicationCredentialSecret: "s"})
			for range 3 {
				_, err := s.Stat(t.Context(), s.Locate("k"))
				wantErr(t, "Stat", err, origin.ErrNotFound)
			}
			if len(id.logins) != tt.logins {
				t.Errorf("%d logins; want %d", len(id.logins), tt.logins)
			}
			ses := s.session.Load()
			if tt.life < 0 {
				if !ses.renew.IsZero() {
					t.Errorf("renewed at %v", ses.renew)
				}
				return
			}
			ses.renew = time.Now().Add(-time.Second)
			s.Stat(t.Context(), s.Locate("k"))
			if len(id.logins) != tt.logins+1 {
				t.Errorf("%d logins when the time has come; want one more", len(id.logins))
			}
		})
	}
}

func TestLoginFails(t *testing.T) {
	for _, tt := range []struct {
		name   string
		answer func(w http.ResponseWriter, r *http.Request)
		says   string
	}{
		{"refused credentials", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/plain")
			w.WriteHeader(401)
			io.WriteString(w, "no such user with a-secret-key")
		}, "the credentials were refused"},
		{"a service that fails", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(503) }, "answered 503"},
		{"no token", func(w http.ResponseWriter, r *http.Request) {}, "no token"},
		{"a redirect", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/elsewhere", http.StatusFound)
		}, "redirects are not followed"},
		{"an account that is no URL", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X-Storage-Url", "://")
			w.Header().Set("X-Auth-Token", "a-token")
		}, "no http or https URL"},
		{"silence", func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, "silent"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/auth/v1.0" {
					t.Errorf("request for %s", r.URL)
				}
				tt.answer(w, r)
			}))
			defer srv.Close()
			defer srv.CloseClientConnections()
			s := newStore(t, Options{AuthURL: srv.URL + "/auth/v1.0", User: "a-secret-user", Key: "a-secret-key"})
			if tt.name == "silence" {
				s.o.Timeout = 100 * time.Millisecond
			}
			_, err := s.Stat(t.Context(), s.Locate("k"))
			wantErr(t, "Stat", err, origin.ErrUnavailable)
			if err == nil || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("error %q does not say %q", err, tt.says)
			}
		})
	}
}

// Many who find no token make one login, and who does not want to wait goes.
func TestLoginIsShared(t *testing.T) {
	var logins atomic.Int32
	began, release := make(chan struct{}), make(chan struct{})
	var srv *httptest.Server
	srv = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.URL.Path, "/auth") {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		if logins.Add(1) == 1 {
			close(began)
		}
		<-release
		w.Header().Set("X-Storage-Url", srv.URL+"/v1/AUTH_a")
		w.Header().Set("X-Auth-Token", "a-token")
	}))
	s := newStore(t, Options{AuthURL: srv.URL + "/auth/v1.0", User: "u", Key: "k"})
	defer srv.Close()
	defer srv.CloseClientConnections()
	var asked sync.WaitGroup
	for range 16 {
		asked.Go(func() {
			_, err := s.Stat(t.Context(), s.Locate("k"))
			if !errors.Is(err, origin.ErrNotFound) {
				t.Errorf("Stat: %v", err)
			}
		})
	}
	<-began
	ctx, cancel := context.WithCancel(t.Context())
	gone := make(chan error, 1)
	go func() {
		_, err := s.Stat(ctx, s.Locate("impatient"))
		gone <- err
	}()
	cancel()
	wantErr(t, "Stat while another one logs in", <-gone, context.Canceled)
	close(release)
	asked.Wait()
	if n := logins.Load(); n != 1 {
		t.Errorf("%d logins; want 1", n)
	}
}

// Who came before a login began that failed fails with it, instead of all failing
// one after the other.
func TestFailureIsShared(t *testing.T) {
	s := newStore(t, Options{AuthURL: "http://127.0.0.1:1/v1", User: "u", Key: "k"})
	cause := fmt.Errorf("log in: %w", origin.ErrUnavailable)
	s.failed = failure{time.Now().Add(time.Hour), cause}
	if _, err := s.login(t.Context(), nil); err != cause {
		t.Errorf("the later failure: %v", err)
	}
	s.failed.began = time.Now().Add(-time.Hour)
	if _, err := s.login(t.Context(), nil); err == cause || !errors.Is(err, origin.ErrUnavailable) {
		t.Errorf("the earlier failure: %v", err)
	}
}

func TestOwnAuthority(t *testing.T) {
	var srv *httptest.Server
	srv = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "0")
		w.Header().Set("X-Storage-Url", srv.URL+"/v1/AUTH_a")
		w.Header().Set("X-Auth-Token", "a-token")
	}))
	srv.Config.ErrorLog = quiet
	srv.StartTLS()
	defer srv.Close()
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	o := Options{AuthURL: srv.URL + "/auth/v1.0", User: "u", Key: "k"}
	s := newStore(t, o)
	_, err := s.Stat(t.Context(), s.Locate("k"))
	wantErr(t, "Stat without the authority", err, origin.ErrUnavailable)
	o.CAFile = file
	s = newStore(t, o)
	if _, err := s.Stat(t.Context(), s.Locate("k")); err != nil {
		t.Errorf("Stat with the authority: %v", err)
	}
	s.transport.CloseIdleConnections()
}

func TestOptions(t *testing.T) {
	good := func() Options { return Options{AuthURL: "http://h/auth/v1.0", User: "u", Key: "a-secret-key"} }
	empty := filepath.Join(t.TempDir(), "empty.pem")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		set  func(o *Options)
		ok   bool
	}{
		{"the least", func(o *Options) {}, true},
		{"no address", func(o *Options) { o.AuthURL = "" }, false},
		{"no URL", func(o *Options) { o.AuthURL = "http://a-secret%zz/" }, false},
		{"another scheme", func(o *Options) { o.AuthURL = "ftp://h/v1" }, false},
		{"credentials in the address", func(o *Options) { o.AuthURL = "http://u:a-secret@h/v1" }, false},
		{"a query in the address", func(o *Options) { o.AuthURL = "http://h/v1?a-secret" }, false},
		{"no version", func(o *Options) { o.AuthURL = "http://v3.example" }, false},
		{"a version set", func(o *Options) { o.AuthURL, o.AuthVersion = "http://h", 1 }, true},
		{"a version from the future", func(o *Options) { o.AuthVersion = 4 }, false},
		{"no key", func(o *Options) { o.Key = "" }, false},
		{"no user", func(o *Options) { o.User = "" }, false},
		{"a user by ID in version 1", func(o *Options) { o.User, o.UserID = "", "u1" }, false},
		{"a user by ID in version 3", func(o *Options) { o.User, o.UserID, o.AuthVersion = "", "u1", 3 }, true},
		{"an application credential in version 1", func(o *Options) { o.ApplicationCredentialID, o.ApplicationCredentialSecret = "a", "s" }, false},
		{"an application credential without secret", func(o *Options) { o.ApplicationCredentialID, o.AuthVersion = "a", 3 }, false},
		{"one by name, without a domain", func(o *Options) {
			o.ApplicationCredentialName, o.ApplicationCredentialSecret, o.AuthVersion = "a", "s", 3
		}, false},
		{"a bad interface", func(o *Options) { o.Interface = "secret" }, false},
		{"a bad name", func(o *Options) { o.Name = "a/b" }, false},
		{"a bad container", func(o *Options) { o.Container = "a/b" }, false},
		{"too many containers", func(o *Options) { o.Containers = 101 }, false},
		{"a negative segment", func(o *Options) { o.SegmentSize = -1 }, false},
		{"a negative timeout", func(o *Options) { o.Timeout = -1 }, false},
		{"a file of authorities that is missing", func(o *Options) { o.CAFile = empty + "x" }, false},
		{"a file of authorities without any", func(o *Options) { o.CAFile = empty }, false},
	} {
		o := good()
		tt.set(&o)
		_, err := New(o)
		if (err == nil) != tt.ok {
			t.Errorf("%s: New says %v", tt.name, err)
		}
		if err != nil && strings.Contains(err.Error(), "a-secret") {
			t.Errorf("%s: %q tells a secret", tt.name, err)
		}
	}
}

func TestContainersAreSpread(t *testing.T) {
	s := newStore(t, Options{AuthURL: "http://h/v1", User: "u", Key: "k", Container: "c", Containers: 3})
	seen := make(map[string]int)
	for range 300 {
		key, err := s.key(s.Locate("image"))
		if err != nil {
			t.Fatal(err)
		}
		seen[s.container(key)]++
	}
	if len(seen) != 3 || seen["c_00"] < 50 || seen["c_01"] < 50 || seen["c_02"] < 50 {
		t.Errorf("containers %v", seen)
	}
	// Old objects must be found for ever.
	if got := s.container("image.0123456789abcdef"); got != "c_02" {
		t.Errorf("the container of a known key is %s", got)
	}
}

// A token that has expired makes no difference to what the store can do.
func TestAbilityNeedsNoToken(t *testing.T) {
	s := newLab(t).open(t, Options{})
	ses, err := s.login(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	s.session.Store(&session{url: ses.url, token: "AUTH_tkexpired"})
	l, err := s.ability(t.Context())
	if err != nil || !l.slo {
		t.Errorf("with an expired token: %+v, %v; want static manifests", l, err)
	}
}
