package keystone

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"nearsight/registry"
	"nearsight/registry/identity"
)

const ofMember = `"project":{"id":"demo"},"roles":[{"id":"1","name":"member"},{"id":"2","name":"reader"}]`

func TestKeystoneSaysWhoHoldsAToken(t *testing.T) {
	f := newFake()
	k := asksOf(t, f)
	for _, tt := range []struct {
		name, rest string
		want       registry.Caller
	}{
		{"a member", ofMember, registry.Caller{Project: "demo", Roles: []string{"member", "reader"}}},
		{"an admin, with the roles that it implies", `"project":{"id":"ops"},"roles":[{"name":"admin"},{"name":"manager"},{"name":"member"},{"name":"reader"}]`,
			registry.Caller{Project: "ops", Roles: []string{"admin", "manager", "member", "reader"}}},
		{"names have no case, and are there once", `"project":{"id":"p"},"roles":[{"name":"Admin"},{"name":"admin"}]`, registry.Caller{Project: "p", Roles: []string{"admin"}}},
		{"a service", `"project":{"id":"service"},"roles":[{"name":"service"}]`, registry.Caller{Project: "service", Roles: []string{"service"}}},
		{"a role that is called as our own servers are", `"project":{"id":"p"},"roles":[{"name":"node"},{"name":"Node"},{"name":"admin"}]`, registry.Caller{Project: "p", Roles: []string{"admin"}}},
		{"one of the whole system has no project", `"system":{"all":true},"roles":[{"name":"admin"}]`, registry.Caller{Roles: []string{"admin"}}},
		{"one of a domain has no role", `"domain":{"id":"d"},"roles":[{"name":"admin"}]`, registry.Caller{}},
		{"one of nothing has no role", `"methods":["password"]`, registry.Caller{}},
		{"a role without a project is none", `"roles":[{"name":"admin"}]`, registry.Caller{}},
		{"and with one that has no id", `"project":{"id":""},"roles":[{"name":"admin"}]`, registry.Caller{}},
		{"nor is one of no system", `"system":{"all":false},"roles":[{"name":"admin"}]`, registry.Caller{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			token := strings.Map(func(r rune) rune {
				if r == ' ' {
					return '-'
				}
				return r
			}, tt.name)
			f.give(token, time.Hour, tt.rest)
			if k.Remembered(token) != nil {
				t.Error("it is known before anybody asked")
			}
			c, err := k.Identify(t.Context(), token)
			if err != nil {
				t.Fatal(err)
			}
			if c.Project != tt.want.Project || !slices.Equal(c.Roles, tt.want.Roles) || c.User != "u-"+token || c.Stranger || c.Image != "" {
				t.Errorf("it is %+v", c)
			}
			if k.Remembered(token) != c {
				t.Error("it is not remembered")
			}
		})
	}
	if f.logins != 1 {
		t.Errorf("%d logins", f.logins)
	}
}

func TestATokenIsAskedAboutAgainAfterItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		k := asksOf(t, f, func(o *Options) { o.Keep = 30 * time.Second })
		f.give("good", time.Hour, ofMember)
		f.give("short", 10*time.Second, ofMember)
		f.give("over", -time.Second, ofMember)
		is := func(token string, want error) {
			t.Helper()
			if c, err := k.Identify(t.Context(), token); !errors.Is(err, want) || (c != nil) != (err == nil) {
				t.Errorf("%s: %v, %v; want %v", token, c, err, want)
			}
		}
		is("good", nil)
		is("short", nil)
		is("over", identity.ErrUnknown) // Keystone's clock is behind
		f.revoke("good")
		time.Sleep(10 * time.Second)
		is("good", nil) // the revocation is not heard of yet
		f.revoke("short")
		is("short", identity.ErrUnknown) // its own end came first
		time.Sleep(20*time.Second - 1)
		is("good", nil)
		time.Sleep(time.Nanosecond)
		if k.Remembered("good") != nil {
			t.Error("it is remembered beyond its time")
		}
		is("good", identity.ErrUnknown)
		f.give("good", time.Hour, ofMember)
		is("good", identity.ErrUnknown) // it was not known a moment ago
		time.Sleep(rejectedFor)
		is("good", nil)
		if n := f.times("good"); n != 3 {
			t.Errorf("asked %d times", n)
		}
	})
}

func TestManyAskKeystoneOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		k := asksOf(t, f)
		f.give("good", time.Hour, ofMember)
		hold := make(chan struct{})
		f.hold = hold
		var wait sync.WaitGroup
		first, leave := context.WithCancel(t.Context())
		wait.Go(func() { // it finds out for the others, although nobody waits for it
			if c, err := k.Identify(first, "good"); err != nil && !errors.Is(err, context.Canceled) {
				t.Errorf("%v, %v", c, err)
			}
		})
		synctest.Wait()
		for range 50 {
			wait.Go(func() {
				if c, err := k.Identify(t.Context(), "good"); err != nil || c.Project != "demo" {
					t.Errorf("%v, %v", c, err)
				}
			})
		}
		gone, cancel := context.WithCancel(t.Context())
		wait.Go(func() {
			if _, err := k.Identify(gone, "good"); !errors.Is(err, context.Canceled) {
				t.Errorf("one that left: %v", err)
			}
		})
		synctest.Wait()
		leave()
		cancel()
		synctest.Wait()
		close(hold)
		wait.Wait()
		if n := f.times("good"); n != 1 || f.logins != 1 {
			t.Errorf("asked %d times, %d logins", n, f.logins)
		}
	})
}

func TestKeystoneIsAskedAFewThingsAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		k := asksOf(t, f)
		f.give("first", time.Hour, ofMember)
		if _, err := k.Identify(t.Context(), "first"); err != nil {
			t.Fatal(err)
		}
		f.set(func() { f.hold = make(chan struct{}) }) // for ever
		var wait sync.WaitGroup
		start := time.Now()
		for i := range 3 * askAtOnce {
			wait.Go(func() {
				c, err := k.Identify(t.Context(), "t"+strings.Repeat("i", i))
				if c != nil || err == nil || errors.Is(err, identity.ErrUnknown) {
					t.Errorf("%v, %v", c, err)
				}
			})
		}
		synctest.Wait()
		if n := len(k.asking); n != askAtOnce {
			t.Errorf("%d questions side by side", n)
		}
		wait.Wait()
		if took := time.Since(start); took != askTimeout {
			t.Errorf("they waited %v", took)
		}
	})
}

func TestWithoutKeystoneThoseWhoAreKnownStayKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		k := asksOf(t, f)
		f.give("old", time.Hour, ofMember)
		f.give("new", time.Hour, ofMember)
		if _, err := k.Identify(t.Context(), "old"); err != nil {
			t.Fatal(err)
		}
		for _, fail := range []func(*http.Request) (*http.Response, error){
			isDown,
			func(*http.Request) (*http.Response, error) { return fakeAnswer(500, "{}"), nil },
			func(*http.Request) (*http.Response, error) { return fakeAnswer(429, "{}"), nil },
			func(*http.Request) (*http.Response, error) { return fakeAnswer(403, "{}"), nil },
			func(*http.Request) (*http.Response, error) { return fakeAnswer(200, "<html>"), nil },
			func(*http.Request) (*http.Response, error) { return fakeAnswer(200, "{}"), nil },
			func(*http.Request) (*http.Response, error) { return fakeAnswer(204, ""), nil },
			func(*http.Request) (*http.Response, error) {
				resp := fakeAnswer(307, "{}")
				resp.Header.Set("Location", "http://elsewhere/")
				return resp, nil
			},
		} {
			f.set(func() { f.fail = fail })
			if _, err := k.Identify(t.Context(), "old"); err != nil {
				t.Errorf("one who is known: %v", err)
			}
			if _, err := k.Identify(t.Context(), "new"); err == nil || errors.Is(err, identity.ErrUnknown) {
				t.Errorf("one who is not: %v", err)
			}
		}
		time.Sleep(DefaultKeep)
		if _, err := k.Identify(t.Context(), "old"); err == nil || errors.Is(err, identity.ErrUnknown) {
			t.Errorf("after its time: %v", err)
		}
		f.set(func() { f.fail = nil })
		for _, token := range []string{"old", "new"} {
			if _, err := k.Identify(t.Context(), token); err != nil {
				t.Errorf("with Keystone again, %s: %v", token, err)
			}
		}
	})
}

func TestAServerThatStartsWithoutKeystoneLogsInLater(t *testing.T) {
	f := newFake()
	f.fail = isDown
	k := asksOf(t, f)
	f.give("good", time.Hour, ofMember)
	if _, err := k.Identify(t.Context(), "good"); !errors.Is(err, errWire) {
		t.Errorf("got %v", err)
	}
	f.set(func() { f.fail = nil })
	if _, err := k.Identify(t.Context(), "good"); err != nil {
		t.Error(err)
	}
}

func TestItsOwnTokenIsRenewed(t *testing.T) {
	f := newFake()
	k := asksOf(t, f)
	for i, token := range []string{"a", "b", "c"} {
		f.give(token, time.Hour, ofMember)
		if _, err := k.Identify(t.Context(), token); err != nil {
			t.Fatal(err)
		}
		if f.logins != 2*i+1 {
			t.Errorf("%d logins for %s", f.logins, token)
		}
		f.set(func() { f.logins++ }) // the token that it has is not the last any more
	}
}

func TestWhatIsNoTokenIsNotAskedAbout(t *testing.T) {
	f := newFake()
	k := asksOf(t, f)
	for _, token := range []string{"", " ", "a b", "a\r\nX-Subject-Token: b", "\x00", "ä", "\x7f", strings.Repeat("x", maxToken+1)} {
		if _, err := k.Identify(t.Context(), token); !errors.Is(err, identity.ErrUnknown) {
			t.Errorf("%.20q: %v", token, err)
		}
	}
	if len(f.asked) > 0 || f.logins > 0 {
		t.Errorf("asked about %v", f.asked)
	}
}

func TestMemoryOfTokensIsBounded(t *testing.T) {
	m := newMemory(time.Minute, 10)
	now := time.Now()
	for i := range 3 * maxRejected {
		sum := tokenHash{byte(i), byte(i >> 8), 1}
		m.keep(sum, &registry.Caller{}, now, now.Add(time.Hour))
		sum[2] = 2
		m.reject(sum, now)
	}
	if m.callers.Len() != 10 || m.rejected.Len() != maxRejected {
		t.Errorf("%d callers, %d rejected", m.callers.Len(), m.rejected.Len())
	}
}

// Whatever goes wrong, neither a token nor the password is in the error.
func TestErrorsOfKeystoneTellNoSecret(t *testing.T) {
	const token = "gAAAAABsecret"
	loud := func(status int) func(*http.Request) (*http.Response, error) {
		return func(r *http.Request) (*http.Response, error) {
			return fakeAnswer(status, `{"error":"`+token+servicePassword+`"}`), nil
		}
	}
	onAsk := func(f func(*http.Request) (*http.Response, error)) func(*http.Request) (*http.Response, error) {
		return func(r *http.Request) (*http.Response, error) {
			if r.Method == http.MethodGet {
				return f(r)
			}
			return nil, nil
		}
	}
	for _, tt := range []struct {
		name string
		fail func(*http.Request) (*http.Response, error)
		want string
	}{
		{"a login that is refused", loud(401), "log in to keystone: it does not take the credentials"},
		{"a login that is not found", loud(404), "log in to keystone: it answers 404"},
		{"a login that breaks", loud(500), "log in to keystone: it answers 500"},
		{"no connection", isDown, "log in to keystone: the wire is cut"},
		{"a question that is refused", onAsk(loud(403)), "its user needs the role service or admin"},
		{"a question that breaks", onAsk(loud(502)), "ask keystone about a token: it answers 502"},
		{"no connection for a question", onAsk(isDown), "ask keystone about a token: the wire is cut"},
		{"its own token refused for ever", onAsk(loud(401)), "does not take the credentials"},
		{"no user", onAsk(func(*http.Request) (*http.Response, error) { return fakeAnswer(200, `{"token":{}}`), nil }), "names no user"},
		{"no JSON", onAsk(func(*http.Request) (*http.Response, error) { return fakeAnswer(200, token), nil }), "ask keystone about a token"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFake()
			f.fail = tt.fail
			_, err := asksOf(t, f).Identify(t.Context(), token)
			if err == nil || errors.Is(err, identity.ErrUnknown) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, want %s", err, tt.want)
			}
			if text := err.Error(); strings.Contains(text, token) || strings.Contains(text, servicePassword) {
				t.Errorf("it tells: %s", text)
			}
		})
	}
	t.Run("a second login that is refused", func(t *testing.T) {
		f := newFake()
		k := asksOf(t, f)
		f.give("a", time.Hour, ofMember)
		if _, err := k.Identify(t.Context(), "a"); err != nil {
			t.Fatal(err)
		}
		f.set(func() { f.fail = loud(401) })
		_, err := k.Identify(t.Context(), token)
		if err == nil || errors.Is(err, identity.ErrUnknown) || strings.Contains(err.Error(), token) || !strings.Contains(err.Error(), "log in to keystone again") {
			t.Errorf("got %v", err)
		}
	})
}

func TestOptionsMustMakeSense(t *testing.T) {
	const url = "http://keystone/v3"
	for _, tt := range []struct {
		name string
		o    Options
		ok   bool
	}{
		{"a user", Options{AuthURL: url, User: "u", Password: "p", Project: "s"}, true},
		{"an application credential", Options{AuthURL: url, ApplicationCredentialID: "i", ApplicationCredentialSecret: "s"}, true},
		{"nothing", Options{}, false},
		{"nobody", Options{AuthURL: url}, false},
		{"no password", Options{AuthURL: url, User: "u", Project: "s"}, false},
		{"no project", Options{AuthURL: url, User: "u", Password: "p"}, false},
		{"no secret", Options{AuthURL: url, ApplicationCredentialID: "i"}, false},
		{"both", Options{AuthURL: url, User: "u", ApplicationCredentialID: "i", ApplicationCredentialSecret: "s"}, false},
	} {
		if k, err := New(tt.o); (err == nil) != tt.ok || k != nil && k.AuthURL() != url {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	k, err := New(Options{AuthURL: url, PublicURL: "https://out/v3", User: "u", Password: "p", Project: "s"})
	if err != nil || k.AuthURL() != "https://out/v3" {
		t.Errorf("%v", err)
	}
}

func BenchmarkKeystoneRemembered(b *testing.B) {
	f := newFake()
	k := asksOf(b, f)
	token := "gAAAAAB" + strings.Repeat("x", 180)
	f.give(token, time.Hour, ofMember)
	if _, err := k.Identify(b.Context(), token); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if k.Remembered(token) == nil {
			b.Fatal("unknown")
		}
	}
}
