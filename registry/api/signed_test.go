package api

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gin-gonic/gin"

	"nearsight/registry"
	"nearsight/registry/identity"
)

func urlKeys(t testing.TB) *identity.URLKeys {
	t.Helper()
	path := filepath.Join(t.TempDir(), "keys")
	if err := os.WriteFile(path, []byte("key "+strings.Repeat("s", 64)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	keys, err := identity.OpenURLKeys(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

// newSigningRig returns a rig whose data route answers by the policy alone: 204 to who
// may have the data of the image.
func newSigningRig(t testing.TB, changes ...func(*Options)) *rig {
	t.Helper()
	g := newRig(t, append([]func(*Options){func(o *Options) { o.URLKeys = urlKeys(t) }}, changes...)...)
	engine := gin.New()
	g.api.Register(engine)
	data := func(c *gin.Context) {
		if _, err := g.api.find(c.Request.Context(), c.Param("id"), registry.Download); err != nil {
			g.api.fail(c, err)
			return
		}
		noContent(c.Writer)
	}
	engine.GET("/v2/images/:id/file", data)
	engine.HEAD("/v2/images/:id/file", data)
	g.Handler = g.api.Wrap(g.named(engine))
	return g
}

// sign returns the path and query of a signed URL.
func (g *rig) sign(body string) string {
	g.Helper()
	u, err := url.Parse(decode(g, g.want(201, "POST /nearsight/signed-urls", body))["url"].(string))
	if err != nil {
		g.Fatal(err)
	}
	return u.RequestURI()
}

func TestWhoMayDownloadMaySign(t *testing.T) {
	g := newSigningRig(t)
	lg := &locationRig{rig: g}
	for _, tt := range []struct {
		name   string
		caller *registry.Caller
		v      registry.Visibility
		state  state
		want   int
	}{
		{"the owner", owner, registry.Private, isActive, 201},
		{"a reader of the owner's project", ownReader, registry.Private, isActive, 403},
		{"one that it is shared with", guest, registry.Shared, isActive, 201},
		{"a reader that it is shared with", guestReads, registry.Shared, isActive, 403},
		{"anybody, what is public", outsider, registry.Public, isActive, 201},
		{"anybody, what is private", outsider, registry.Private, isActive, 404},
		{"a service", service, registry.Public, isActive, 403},
		{"a stranger", stranger, registry.Public, isActive, 403},
		{"nobody", &registry.Caller{}, registry.Public, isActive, 404},
		{"an admin", admin, registry.Private, isActive, 201},
		{"the owner of what has no data", owner, registry.Private, isQueued, 409},
		{"the owner of what is deactivated", owner, registry.Private, isDeactivated, 403},
		{"an admin, of what is deactivated", admin, registry.Private, isDeactivated, 403},
		{"who holds a signed URL", &registry.Caller{Image: id1}, registry.Public, isActive, 404},
	} {
		t.Run(tt.name, func(t *testing.T) {
			lg.TB = t
			id := lg.image(tt.v, tt.state)
			g.as(tt.caller)
			defer g.as(registry.Everybody())
			w := g.do("POST /nearsight/signed-urls", `{"image":"`+id+`"}`)
			if w.Code != tt.want {
				t.Fatalf("%d, want %d: %s", w.Code, tt.want, w.Body)
			}
			if w.Header().Get("Cache-Control") != "no-store" {
				t.Error("the answer can be stored")
			}
			if tt.want != 201 && strings.Contains(w.Body.String(), "ns-signature") {
				t.Error("a refusal with a signature")
			}
		})
	}
}

func TestWishesForSignedURLs(t *testing.T) {
	g := newSigningRig(t)
	id := g.create(formats)
	g.put(id, "hello")
	late := time.Now().Add(48 * time.Hour).UTC().Format(time.RFC3339)
	soon := time.Now().Add(time.Minute).UTC().Format(time.RFC3339)
	for _, tt := range []struct {
		name, members string
		want          int
	}{
		{"nothing but the image", ``, 201},
		{"a method", `,"method":"HEAD"`, 201},
		{"an hour", `,"expires_in":3600`, 201},
		{"the shortest", `,"expires_in":1`, 201},
		{"the longest", `,"expires_in":604800`, 201},
		{"a beginning", `,"not_before":"` + soon + `"`, 201},
		{"a beginning in the past", `,"not_before":"2001-01-01T00:00:00+02:00"`, 201},
		{"null for the default", `,"expires_in":null,"method":"","not_before":null`, 201},
		{"too long", `,"expires_in":604801`, 400},
		{"as long as numbers go", `,"expires_in":9223372036854775807`, 400},
		{"longer", `,"expires_in":9223372036854775808`, 400},
		{"no time at all", `,"expires_in":0`, 400},
		{"less than that", `,"expires_in":-1`, 400},
		{"a part of a second", `,"expires_in":1.5`, 400},
		{"a text for a number", `,"expires_in":"1h"`, 400},
		{"a method that changes", `,"method":"PUT"`, 400},
		{"a method in lower case", `,"method":"get"`, 400},
		{"a beginning after the end", `,"not_before":"` + late + `"`, 400},
		{"a beginning before time", `,"not_before":"1901-01-01T00:00:00Z"`, 400},
		{"a beginning that is no time", `,"not_before":"soon"`, 400},
		{"a member that nobody knows", `,"project":"other"`, 400},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g.TB = t
			w := g.want(tt.want, "POST /nearsight/signed-urls", `{"image":"`+id+`"`+tt.members+`}`)
			if tt.want == 201 {
				v := decode(t, w)
				if v["image"] != id || v["expires_at"] == "" || !strings.HasPrefix(v["url"].(string), "http://example.com/v2/images/"+id+"/file?ns-expires=") {
					t.Errorf("%v", v)
				}
			}
		})
	}
	g.TB = t
	for _, body := range []string{`{}`, `{"image":""}`, `{"image":"x"}`, `{"image":"../` + id + `"}`, `[]`, `"x"`, `null`, `{`, `{"image":"` + id + `"}{}`, `{"image":5}`} {
		g.want(400, "POST /nearsight/signed-urls", body)
	}
	g.want(404, "POST /nearsight/signed-urls", `{"image":"`+absent+`"}`)
	g.want(405, "GET /nearsight/signed-urls", "")
}

// A signed URL is verified before it is asked who comes, by servers that tell callers
// apart and by those that do not.
func TestASignedURLOpensTheDataOfItsImage(t *testing.T) {
	for _, tt := range []struct {
		name string
		who  identity.Identifier
	}{{"where callers are told apart", someone}, {"where they are not", nil}} {
		t.Run(tt.name, func(t *testing.T) {
			g := newSigningRig(t)
			mine, other := ownedImage(g, "home"), ownedImage(g, "home")
			g.as(nil)
			g.api.identity = tt.who
			w := g.want(201, "POST /nearsight/signed-urls", `{"image":"`+mine+`"}`, "X-Auth-Token: good")
			u, err := url.Parse(decode(t, w)["url"].(string))
			if err != nil {
				t.Fatal(err)
			}
			query := "?" + u.RawQuery
			data := "/v2/images/" + mine + "/file"
			g.want(204, "GET "+data+query, "")
			g.want(204, "HEAD "+data+query, "")
			g.want(204, "GET /v2.1"+strings.TrimPrefix(data, "/v2")+query, "")
			g.want(204, "GET "+data+query, "", "X-Auth-Token: bad") // a token means nothing beside it
			g.want(204, "GET "+data+query, "", "X-Roles: admin")
			for _, line := range []string{
				"PUT " + data + query, "DELETE " + data + query, "POST " + data + query,
				"GET /v2/images/" + other + "/file" + query,
				"GET " + data + query + "x", "GET " + data + query + "&prefer=a",
				"GET " + data + strings.Replace(query, "ns-method=GET", "ns-method=PUT", 1),
			} {
				w := g.want(403, line, "", "X-Auth-Token: good")
				if !strings.Contains(w.Body.String(), "signature of the URL is not valid") && !strings.Contains(w.Body.String(), "another method") {
					t.Errorf("%s: %s", line, w.Body)
				}
			}
			if tt.who == nil {
				return // everybody may do the rest
			}
			for _, line := range []string{
				"GET /v2/images/" + mine + query, "PATCH /v2/images/" + mine + query, "DELETE /v2/images/" + mine + query,
				"GET /v2/images" + query, "GET /v2/images/" + mine + "/members" + query, "GET " + data + "/" + query,
				"POST /nearsight/signed-urls" + query, "GET /v1/images/" + mine + query, "PUT /v2/images/" + mine + "/stage" + query,
			} {
				g.want(401, line, "")
			}
		})
	}
}

// ownedImage makes an active image of a project, which is private.
func ownedImage(g *rig, project string) string {
	g.Helper()
	g.as(registry.Everybody())
	id := g.create(`"owner":"` + project + `","visibility":"private",` + formats)
	g.put(id, "hello")
	return id
}

// Every octet of path and query counts: a URL with another one opens nothing.
func TestASignedURLThatIsAlteredOpensNothing(t *testing.T) {
	g := newSigningRig(t)
	id := ownedImage(g, "home")
	target := g.sign(`{"image":"` + id + `","not_before":"2001-01-01T00:00:00Z"}`)
	g.as(nil)
	g.api.identity = someone
	g.want(204, "GET "+target, "")
	for i := range len(target) {
		for _, c := range []byte("0azAZ9-_~&=?%/.# +\x00\n\xff") {
			if c == target[i] {
				continue
			}
			altered := target[:i] + string([]byte{c}) + target[i+1:]
			u, err := url.ParseRequestURI(altered)
			if err != nil {
				continue // no server would hear of it
			}
			r := httptest.NewRequest("GET", "/", nil)
			r.URL = u
			w := httptest.NewRecorder()
			g.ServeHTTP(w, r)
			if w.Code < 300 {
				t.Errorf("octet %d as %q: %d: %s", i, c, w.Code, altered)
			}
		}
	}
}

func TestASignedURLEndsWithItsImage(t *testing.T) {
	g := newSigningRig(t)
	g.as(admin)
	id := g.create(`"owner":"own","visibility":"shared",` + formats)
	g.put(id, "hello")
	g.want(200, "POST /v2/images/"+id+"/members", `{"member":"guest"}`)
	g.as(guest)
	target := g.sign(`{"image":"` + id + `"}`)
	g.as(admin)
	g.want(204, "DELETE /v2/images/"+id+"/members/guest", "")
	g.as(nil)
	g.want(204, "GET "+target, "") // it is the right that the signer had
	g.as(admin)
	g.want(204, "DELETE /v2/images/"+id, "")
	g.as(nil)
	g.want(404, "GET "+target, "")
}

func TestAServerWithoutKeysTakesNoSignedURLs(t *testing.T) {
	signing := newSigningRig(t)
	id := ownedImage(signing, "home")
	target := signing.sign(`{"image":"` + id + `"}`)
	g := newRig(t)
	for _, line := range []string{"GET " + target, "HEAD " + target} {
		g.want(403, line, "")
	}
	g.want(403, "POST /nearsight/signed-urls", `{"image":"`+id+`"}`)
}

// The time of a signed URL is told apart from its signature: who has an old one learns
// that it was good.
func TestASignedURLTellsThatItsTimeIsUp(t *testing.T) {
	keys := urlKeys(t)
	g := newSigningRig(t, func(o *Options) { o.URLKeys = keys })
	id := ownedImage(g, "home")
	g.as(nil)
	g.api.identity = someone
	for _, tt := range []struct {
		name            string
		notBefore, ends time.Duration
		want            string
	}{
		{"over", -time.Hour, -time.Second, "has expired"},
		{"not begun", time.Hour, 2 * time.Hour, "not valid yet"},
	} {
		now := time.Now()
		target := keys.Sign(identity.SignedURL{Image: id, Method: "GET", NotBefore: now.Add(tt.notBefore), Expires: now.Add(tt.ends)})
		if w := g.want(403, "GET "+target, ""); !strings.Contains(w.Body.String(), tt.want) {
			t.Errorf("%s: %s", tt.name, w.Body)
		}
		if w := g.want(403, "GET "+target+"x", ""); strings.Contains(w.Body.String(), tt.want) {
			t.Errorf("%s, altered: %s", tt.name, w.Body)
		}
	}
}

func TestAServiceMayComeWithAUser(t *testing.T) {
	crowd := crowd{
		"user": owner, "service": service, "admin": admin,
		"both": {Project: "own", Roles: []string{"member", "service"}},
	}
	for _, tt := range []struct {
		name, fields string
		status       int
		service      bool
	}{
		{"a user alone", "X-Auth-Token: user", 200, false},
		{"a service beside", "X-Auth-Token: user|X-Service-Token: service", 200, true},
		{"an empty token beside", "X-Auth-Token: user|X-Service-Token: ", 200, false},
		{"another user beside", "X-Auth-Token: user|X-Service-Token: admin", 200, false},
		{"both at once", "X-Auth-Token: both|X-Service-Token: service", 200, true},
		{"a bad token beside", "X-Auth-Token: user|X-Service-Token: bad", 401, false},
		{"two services", "X-Auth-Token: user|X-Service-Token: service|X-Service-Token: service", 401, false},
		{"a token that nobody can tell about", "X-Auth-Token: user|X-Service-Token: broken", 503, false},
		{"a service without a user", "X-Service-Token: service", 401, false},
		{"roles by name", "X-Auth-Token: user|X-Service-Roles: service", 200, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := newRig(t, func(o *Options) { o.Identity = crowd })
			var seen *registry.Caller
			r := httptest.NewRequest("GET", "/v2/images", nil)
			for f := range strings.SplitSeq(tt.fields, "|") {
				name, value, _ := strings.Cut(f, ": ")
				r.Header.Add(name, value)
			}
			w := httptest.NewRecorder()
			g.api.Wrap(callerSeen(&seen)).ServeHTTP(w, r)
			if w.Code != tt.status || (seen != nil) != (tt.status == 200) {
				t.Fatalf("%d, want %d", w.Code, tt.status)
			}
			if seen != nil && (seen.Is("service") != tt.service || seen.Project != "own" || !seen.Is("member") || seen.Is("admin")) {
				t.Errorf("it is %+v", seen)
			}
		})
	}
	if owner.Is("service") {
		t.Error("a caller was altered")
	}
}

// elsewhere has its tokens from elsewhere.
type elsewhere struct{ crowd }

func (elsewhere) AuthURL() string { return "https://keystone.example.org/v3" }

func TestAChallengeSaysWhereTokensAre(t *testing.T) {
	g := newRig(t, func(o *Options) { o.Identity = elsewhere{someone} })
	for _, token := range []string{"", "bad"} {
		w := g.want(http.StatusUnauthorized, "GET /v2/images", "", "X-Auth-Token: "+token)
		if got := w.Header().Get("WWW-Authenticate"); got != `Keystone uri="https://keystone.example.org/v3"` {
			t.Errorf("%q", got)
		}
	}
}

// FuzzParseWish reads what strangers write.
func FuzzParseWish(f *testing.F) {
	for _, s := range []string{`{"image":"` + id1 + `"}`, `{"image":"` + id1 + `","expires_in":1,"method":"HEAD","not_before":"2026-01-01T00:00:00Z"}`, `{}`, `null`, `[`, `{"expires_in":1e999}`} {
		f.Add([]byte(s))
	}
	keys := urlKeys(f)
	now := time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, body []byte) {
		s, err := parseWish(body, now)
		if err != nil {
			return
		}
		if life := s.Expires.Sub(now); life <= 0 || life > identity.MaxLife {
			t.Errorf("good for %v", life)
		}
		_, query, _ := strings.Cut(keys.Sign(s), "?")
		at := now
		if s.NotBefore.After(at) {
			at = s.NotBefore
		}
		if _, err := keys.Verify(context.Background(), s.Method, s.Image, query, at); err != nil {
			t.Errorf("%+v: %v", s, err)
		}
	})
}
