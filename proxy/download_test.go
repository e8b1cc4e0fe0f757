package proxy

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/gin-gonic/gin"

	"nearsight/origin/origintest"
	"nearsight/registry"
	"nearsight/registry/identity"
)

// people are callers by their tokens.
var people = crowd{
	"admin":    {Roles: []string{"admin"}},
	"owner":    {Project: "home", Roles: []string{"member"}},
	"reader":   {Project: "home", Roles: []string{"reader"}},
	"friend":   {Project: "friend", Roles: []string{"member"}},
	"onlooker": {Project: "friend", Roles: []string{"reader"}},
	"other":    {Project: "other", Roles: []string{"member"}},
	"service":  {Roles: []string{"service"}},
	"nothing":  {Project: "home"},
}

type crowd map[string]*registry.Caller

func (c crowd) Remembered(token string) *registry.Caller { return c[token] }

func (c crowd) Identify(_ context.Context, token string) (*registry.Caller, error) {
	switch {
	case token == "broken":
		return nil, errors.New("the wire is cut")
	case c[token] == nil:
		return nil, identity.ErrUnknown
	}
	return c[token], nil
}

// forgetful knows the same people, but none at once.
type forgetful struct{ crowd }

func (forgetful) Remembered(string) *registry.Caller { return nil }

// owned stores an image of the project home, which is shared with friend.
func (s *site) owned(data []byte, visibility registry.Visibility) *registry.Image {
	s.t.Helper()
	img := s.add(data, func(img *registry.Image) {
		owner := "home"
		img.Owner, img.Visibility = &owner, visibility
	})
	return s.change(img, func(img *registry.Image) error { return img.AddMember(registry.Member{Project: "friend"}) })
}

func (s *site) change(img *registry.Image, change func(*registry.Image) error) *registry.Image {
	s.t.Helper()
	img, err := s.records.Update(s.t.Context(), img.ID, change)
	if err != nil {
		s.t.Fatal(err)
	}
	return img
}

// fetch makes a request for data by the short way, or by the ordinary one.
func (s *site) fetch(way, method string, img *registry.Image, token string, fields ...string) answer {
	s.t.Helper()
	addr := s.addr
	if way == "ordinary" {
		addr = s.plain
	}
	req, err := http.NewRequest(method, "http://"+addr+"/v2/images/"+img.ID+"/file", nil)
	if err != nil {
		s.t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("X-Auth-Token", token)
	}
	for _, f := range fields {
		name, value, _ := strings.Cut(f, ": ")
		req.Header.Set(name, value)
	}
	resp, err := s.client.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return answer{resp, body, err}
}

// Who may read what is asked on hits as on misses, whatever the request is about, and
// on both ways of a request.
func TestEveryCallerGetsWhatIsHis(t *testing.T) {
	const ok = 0
	images := []struct {
		name        string
		visibility  registry.Visibility
		deactivated bool
		want        map[string]int // by token; "" for none
	}{
		{"public", registry.Public, false, map[string]int{
			"admin": ok, "owner": ok, "reader": 403, "friend": ok, "onlooker": 403, "other": ok, "service": 403, "nothing": 404, "": ok, "unknown": 401, "broken": 503}},
		{"community", registry.Community, false, map[string]int{
			"admin": ok, "owner": ok, "reader": 403, "friend": ok, "onlooker": 403, "other": ok, "service": 403, "nothing": 404, "": 404, "unknown": 401, "broken": 503}},
		{"shared", registry.Shared, false, map[string]int{
			"admin": ok, "owner": ok, "reader": 403, "friend": ok, "onlooker": 403, "other": 404, "service": 404, "nothing": 404, "": 404, "unknown": 401, "broken": 503}},
		{"private", registry.Private, false, map[string]int{
			"admin": ok, "owner": ok, "reader": 403, "friend": 404, "onlooker": 404, "other": 404, "service": 404, "nothing": 404, "": 404, "unknown": 401, "broken": 503}},
		{"public and deactivated", registry.Public, true, map[string]int{
			"admin": ok, "owner": 403, "reader": 403, "friend": 403, "onlooker": 403, "other": 403, "service": 403, "nothing": 404, "": 403, "unknown": 401, "broken": 503}},
		{"private and deactivated", registry.Private, true, map[string]int{
			"admin": ok, "owner": 403, "reader": 403, "friend": 404, "onlooker": 404, "other": 404, "service": 404, "nothing": 404, "": 404, "unknown": 401, "broken": 503}},
	}
	requests := []struct {
		method, field string
		status        int // of one who may
	}{
		{"GET", "X: y", 200}, {"GET", "Range: bytes=1-2", 206}, {"GET", "If-None-Match: *", 304}, {"HEAD", "X: y", 200},
		{"GET", `If-Match: "x"`, 412}, {"GET", "Range: bytes=9999999-", 416}, {"GET", "Range: bytes=0-0,5-6", 206},
	}
	s := newSite(t, siteConfig{identity: people, anonymous: true})
	for i, image := range images {
		img := s.owned(pattern(1000, byte(i)), image.visibility)
		if image.deactivated {
			img = s.change(img, func(img *registry.Image) error { img.Status = registry.Deactivated; return nil })
		}
		for _, hit := range []bool{false, true} {
			for token, want := range image.want {
				for _, way := range []string{"short", "ordinary"} {
					for _, r := range requests {
						if !hit {
							if err := s.cache.Drop(img.Digest); err != nil && r.status == 0 {
								t.Fatal(err)
							}
						}
						status := want
						if want == ok {
							status = r.status
						}
						a := s.fetch(way, r.method, img, token, r.field)
						if a.StatusCode != status {
							t.Errorf("%s for %q by the %s way, %s %s, cached %v: %d, want %d: %.200s", image.name, token, way, r.method, r.field, hit, a.StatusCode, status, a.body)
						}
						if status >= 400 && a.Header.Get("Cache-Control") != "no-store" {
							t.Errorf("%s for %q: a refusal with %q", image.name, token, a.Header.Get("Cache-Control"))
						}
						if status == 401 && a.Header.Get("WWW-Authenticate") != `Keystone uri="http://`+a.Request.Host+`"` && a.Request.Host != "" {
							t.Errorf("WWW-Authenticate: %q", a.Header.Get("WWW-Authenticate"))
						}
					}
				}
			}
		}
	}
}

func TestWithoutStrangersATokenIsNeeded(t *testing.T) {
	s := newSite(t, siteConfig{identity: people})
	img := s.owned(pattern(1000, 1), registry.Public)
	for _, way := range []string{"short", "ordinary"} {
		for _, tt := range []struct {
			name, token, field string
			status             int
		}{
			{"no token", "", "X: y", 401},
			{"a token", "other", "X: y", 200},
			{"a bearer's token", "", "Authorization: Bearer other", 200},
			{"a bearer's token in another case", "", "Authorization: bearer other", 200},
			{"a password, which is for somebody else", "", "Authorization: Basic eDp5", 401},
			{"a bearer's token that is not known", "", "Authorization: Bearer nobody", 401},
			{"two, of which the Images API's counts", "other", "Authorization: Bearer nobody", 200},
			{"the names of others' proxies", "", "X-Identity-Status: Confirmed", 401},
			{"a role that somebody gave himself", "reader", "X-Roles: admin", 403},
			{"a project that somebody gave himself", "", "X-Project-Id: home", 401},
		} {
			a := s.fetch(way, "GET", img, tt.token, tt.field)
			if a.StatusCode != tt.status {
				t.Errorf("%s by the %s way: %d, want %d", tt.name, way, a.StatusCode, tt.status)
			}
		}
	}
}

// What everybody may have is everybody's to keep; all else depends on who asks.
func TestFreshnessFollowsWhoMayRead(t *testing.T) {
	const vary = "Authorization, X-Auth-Token"
	for _, tt := range []struct {
		name       string
		cfg        siteConfig
		visibility registry.Visibility
		freshness  string
		vary       string
	}{
		{"public, where nobody is told apart", siteConfig{}, registry.Public, openFreshness, ""},
		{"private, where nobody is told apart", siteConfig{}, registry.Private, privateFreshness, ""},
		{"public, where strangers are let in", siteConfig{identity: people, anonymous: true}, registry.Public, openFreshness, ""},
		{"community, which strangers do not see", siteConfig{identity: people, anonymous: true}, registry.Community, privateFreshness, vary},
		{"shared", siteConfig{identity: people, anonymous: true}, registry.Shared, privateFreshness, vary},
		{"private", siteConfig{identity: people, anonymous: true}, registry.Private, privateFreshness, vary},
		{"public, where all need a token", siteConfig{identity: people}, registry.Public, privateFreshness, vary},
	} {
		s := newSite(t, tt.cfg)
		img := s.owned(pattern(1000, 1), tt.visibility)
		for _, way := range []string{"short", "ordinary"} {
			for _, field := range []string{"X: y", "User-Agent: z", "Range: bytes=1-2", "If-None-Match: *", "Range: bytes=0-1,4-5"} {
				a := s.fetch(way, "GET", img, "owner", field)
				if a.Header.Get("Cache-Control") != tt.freshness || a.Header.Get("Vary") != tt.vary {
					t.Errorf("%s by the %s way, %s: %d, Cache-Control %q, Vary %q", tt.name, way, field, a.StatusCode, a.Header.Get("Cache-Control"), a.Header.Get("Vary"))
				}
			}
		}
	}
}

// While a request waits for the origin, the image may cease to be the caller's.
func TestWhoMayReadIsAskedAgainAfterAFill(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*registry.Image) error
		status int
	}{
		{"nothing happens", func(*registry.Image) error { return nil }, 200},
		{"it is shared no more", func(img *registry.Image) error { return img.RemoveMember("friend") }, 404},
		{"it becomes private", func(img *registry.Image) error { img.Visibility = registry.Private; return nil }, 404},
		{"it is deactivated", func(img *registry.Image) error { img.Status = registry.Deactivated; return nil }, 403},
	} {
		for _, way := range []string{"short", "ordinary"} {
			t.Run(tt.name+" on the "+way+" way", func(t *testing.T) {
				s := newSite(t, siteConfig{identity: people})
				img := s.owned(pattern(chunk, 1), registry.Shared)
				gate := origintest.NewGate(0)
				s.store.Inject(origintest.Faults{Gate: gate})
				addr := s.addr
				if way == "ordinary" {
					addr = s.plain
				}
				c := dialLine(t, addr)
				if _, err := io.WriteString(c, "GET /v2/images/"+img.ID+"/file HTTP/1.1\r\nHost: x\r\nX-Auth-Token: friend\r\n\r\n"); err != nil {
					t.Fatal(err)
				}
				<-gate.Reached
				s.change(img, tt.change)
				close(gate.Pass)
				resp, _, err := c.answer()
				if err != nil || resp.StatusCode != tt.status {
					t.Fatalf("%v, %v, want %d", resp, err, tt.status)
				}
			})
		}
	}
}

func TestTheShortWayIsForWhomItKnows(t *testing.T) {
	for _, tt := range []struct {
		name   string
		cfg    siteConfig
		fields string
		direct bool
	}{
		{"one who may, known from memory", siteConfig{identity: people}, "X-Auth-Token: owner\r\n", true},
		{"one who bears a token", siteConfig{identity: people}, "Authorization: Bearer owner\r\n", true},
		{"one who may not", siteConfig{identity: people}, "X-Auth-Token: reader\r\n", false},
		{"one who does not see it", siteConfig{identity: people}, "X-Auth-Token: other\r\n", false},
		{"one who is not known", siteConfig{identity: people}, "X-Auth-Token: x\r\n", false},
		{"one whom nobody remembers", siteConfig{identity: forgetful{people}}, "X-Auth-Token: owner\r\n", false},
		{"one who says nothing", siteConfig{identity: people}, "", false},
		{"a stranger, who does not see it", siteConfig{identity: people, anonymous: true}, "", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newSite(t, tt.cfg)
			img := s.owned(pattern(1000, 1), registry.Shared)
			s.fetch("ordinary", "GET", img, "owner")
			addr, ordinary := s.direct()
			exchangeBytes(t, addr, "GET /v2/images/"+img.ID+"/file HTTP/1.1\r\nHost: x\r\n"+tt.fields+"\r\n")
			if got := ordinary.Load() == 0; got != tt.direct {
				t.Errorf("the short way was taken: %v", got)
			}
		})
	}
}

// One connection may carry the requests of several callers, as those of fronts do.
func TestCallersOfOneConnectionAreToldApart(t *testing.T) {
	s := newSite(t, siteConfig{identity: people, anonymous: true})
	img := s.owned(pattern(1000, 1), registry.Private)
	s.fetch("ordinary", "GET", img, "owner")
	c := dialLine(t, s.addr)
	for range 3 {
		for _, tt := range []struct {
			fields []string
			status int
		}{
			{[]string{"X-Auth-Token: owner"}, 200}, {[]string{"X-Auth-Token: owner"}, 200}, {[]string{"X-Auth-Token: other"}, 404}, {nil, 404},
			{[]string{"X-Auth-Token: admin"}, 200}, {[]string{"X-Auth-Token: nobody"}, 401}, {[]string{"X-Auth-Token: reader"}, 403},
		} {
			resp, _, err := c.get(img, tt.fields...)
			if err != nil || resp.StatusCode != tt.status {
				t.Fatalf("%v: %v, %v", tt.fields, resp, err)
			}
		}
	}
}

func TestAccessRecordsSayWhoseTheRequestWas(t *testing.T) {
	s := newSite(t, siteConfig{identity: crowd{"secret": {Project: "home", User: "anna", Roles: []string{"member"}}}})
	img := s.owned(pattern(1000, 1), registry.Private)
	for _, way := range []string{"ordinary", "short"} {
		s.log.Reset()
		s.fetch(way, "GET", img, "secret")
		waitFor(t, "a record by the "+way+" way", func() bool {
			return strings.Contains(s.log.String(), `"project":"home","user":"anna"`)
		})
		if strings.Contains(s.log.String(), "secret") {
			t.Errorf("the %s way writes the token down", way)
		}
	}
}

func TestDataWithoutADigestIsForThoseWhoMay(t *testing.T) {
	s := newSite(t, siteConfig{identity: people})
	img := s.owned(pattern(1000, 1), registry.Private)
	unhashed := *img
	unhashed.Digest = ""
	for token, want := range map[string]int{"owner": 200, "admin": 200, "reader": 403, "other": 404} {
		for _, field := range []string{"X: y", "If-None-Match: *"} {
			rec := httptest.NewRecorder()
			e := gin.New()
			e.GET("/", func(c *gin.Context) { s.proxy.serveData(c, &unhashed, dress{}) })
			r := httptest.NewRequest("GET", "/", nil)
			name, value, _ := strings.Cut(field, ": ")
			r.Header.Set(name, value)
			e.ServeHTTP(rec, r.WithContext(registry.WithCaller(r.Context(), people[token])))
			status := want
			if want == 200 && field != "X: y" {
				status = 304
			}
			if rec.Code != status {
				t.Errorf("%s, %s: %d, want %d", token, field, rec.Code, status)
			}
		}
	}
}

func TestAnotherAPIDressesTheSameData(t *testing.T) {
	s := newSite(t, siteConfig{})
	img := s.add(pattern(1000, 1), nil)
	as := dress{tag: `"md5"`, fields: func(h http.Header) { h.Set("X-Image-Meta-Id", img.ID); h.Del("Content-Disposition") }}
	e := gin.New()
	e.GET("/", func(c *gin.Context) { s.proxy.serveData(c, img, as) })
	for _, tt := range []struct {
		field  string
		status int
	}{
		{"X: y", 200}, {"Range: bytes=1-2", 206}, {`If-None-Match: "md5"`, 304}, {`If-None-Match: "` + string(img.Digest) + `"`, 200},
		{`If-Match: "` + string(img.Digest) + `"`, 412},
	} {
		rec := httptest.NewRecorder()
		r := httptest.NewRequest("GET", "/", nil)
		name, value, _ := strings.Cut(tt.field, ": ")
		r.Header.Set(name, value)
		e.ServeHTTP(rec, r.WithContext(registry.WithCaller(r.Context(), registry.Everybody())))
		h := rec.Header()
		if rec.Code != tt.status || tt.status < 400 && (h.Get("Etag") != `"md5"` || h.Get("X-Image-Meta-Id") != img.ID || h.Get("Content-Disposition") != "") {
			t.Errorf("%s: %d %v", tt.field, rec.Code, h)
		}
	}
}

func TestOnlyAdminsAdministerTheServer(t *testing.T) {
	s := newSite(t, siteConfig{identity: people, anonymous: true})
	img := s.owned(pattern(1000, 1), registry.Public)
	one := "/nearsight/cache/images/" + img.ID
	for _, call := range []string{
		"GET /nearsight/cache", "GET /nearsight/cache/stats", "GET " + one, "DELETE " + one, "PUT " + one + "/pin", "DELETE " + one + "/pin",
		"POST " + one + "/warm", "POST " + one + "/scrub", "POST /nearsight/cache/scrub",
	} {
		method, path, _ := strings.Cut(call, " ")
		for token, want := range map[string]int{"": 403, "owner": 403, "service": 403, "unknown": 401} {
			var fields []string
			if token != "" {
				fields = []string{"X-Auth-Token: " + token}
			}
			a := s.do(method, path, fields...)
			if a.StatusCode != want || a.Header.Get("Content-Type") != "application/problem+json" {
				t.Errorf("%s for %q: %d %s", call, token, a.StatusCode, a.Header.Get("Content-Type"))
			}
		}
		if a := s.do(method, path, "X-Auth-Token: admin"); a.StatusCode >= 400 && a.StatusCode != 404 {
			t.Errorf("%s for an admin: %d %s", call, a.StatusCode, a.body)
		}
	}
}

// waitFor waits until ok holds; it is no measure of speed.
func waitFor(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not in time", what)
		}
		time.Sleep(time.Millisecond)
	}
}
