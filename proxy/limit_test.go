package proxy

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"nearsight/registry"
	"nearsight/registry/identity"
)

func TestRatesAreThoseOfACaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimiter(Limits{RequestsPerSecond: 2, Burst: 4}, prometheus.NewRegistry())
		may := func(c *registry.Caller, remote string) bool {
			turn, why := l.enter(c, remote, false)
			turn.end()
			return why.limit == ""
		}
		home, away := &registry.Caller{Project: "home"}, &registry.Caller{Project: "away"}
		for i := range 4 {
			if !may(home, "192.0.2.1:1") {
				t.Fatalf("request %d of the burst is refused", i)
			}
		}
		if may(home, "192.0.2.9:1") {
			t.Error("another address gives a project another burst")
		}
		if _, why := l.enter(home, "192.0.2.1:1", false); why != (refusal{"rate", 500 * time.Millisecond}) {
			t.Errorf("refused with %+v", why)
		}
		if !may(away, "192.0.2.1:1") {
			t.Error("another project is refused")
		}
		time.Sleep(500 * time.Millisecond)
		if !may(home, "192.0.2.1:1") || may(home, "192.0.2.1:1") {
			t.Error("after half a second it is not one more")
		}
	})
}

func TestCallersAreToldApart(t *testing.T) {
	for _, tt := range []struct {
		name             string
		a, b             *registry.Caller
		remoteA, remoteB string
		same             bool
	}{
		{"two users of a project", &registry.Caller{Project: "p", User: "a"}, &registry.Caller{Project: "p", User: "b"}, "192.0.2.1:1", "192.0.2.2:1", true},
		{"two users without a project", &registry.Caller{User: "a"}, &registry.Caller{User: "b"}, "192.0.2.1:1", "192.0.2.1:1", false},
		{"a user who is called as a project", &registry.Caller{User: "a"}, &registry.Caller{Project: "a"}, "192.0.2.1:1", "192.0.2.1:1", false},
		{"two ports of an address", nil, nil, "192.0.2.1:1", "192.0.2.1:2", true},
		{"two addresses", nil, nil, "192.0.2.1:1", "192.0.2.2:1", false},
		{"who is not told apart, by both ways", nil, registry.Everybody(), "192.0.2.1:1", "192.0.2.1:1", true},
		{"strangers at an address", &registry.Caller{Stranger: true}, &registry.Caller{Stranger: true}, "192.0.2.1:1", "192.0.2.1:9", true},
		{"two addresses of a household", nil, nil, "[2001:db8::1]:1", "[2001:db8::ffff:1]:1", true},
		{"two households", nil, nil, "[2001:db8:0:1::1]:1", "[2001:db8:0:2::1]:1", false},
		{"an address in both forms", nil, nil, "192.0.2.1:1", "[::ffff:192.0.2.1]:1", true},
		{"what is no address", nil, nil, "@", "pipe", true},
	} {
		if same := accountOf(tt.a, tt.remoteA) == accountOf(tt.b, tt.remoteB); same != tt.same {
			t.Errorf("%s: the same account: %v", tt.name, same)
		}
	}
}

func TestWhatIsUnderWayIsBounded(t *testing.T) {
	l := newLimiter(Limits{Concurrent: 3, Uploads: 1}, prometheus.NewRegistry())
	c := &registry.Caller{Project: "p"}
	up, why := l.enter(c, "", true)
	if why.limit != "" {
		t.Fatal(why)
	}
	if _, why := l.enter(c, "", true); why.limit != "uploads" {
		t.Errorf("a second upload: %+v", why)
	}
	one, _ := l.enter(c, "", false)
	two, _ := l.enter(c, "", false)
	if _, why := l.enter(c, "", false); why.limit != "concurrent" {
		t.Errorf("a fourth request: %+v", why)
	}
	if _, why := l.enter(&registry.Caller{Roles: []string{"node", "admin"}, Project: "p"}, "", true); why.limit != "" {
		t.Errorf("a node: %+v", why)
	}
	up.end()
	up.end() // counts once
	if up, why = l.enter(c, "", true); why.limit != "" {
		t.Errorf("after the upload: %+v", why)
	}
	for _, turn := range []*turn{&up, &one, &two} {
		turn.end()
	}
	if len(l.busy) != 0 || l.idle.Len() != 1 {
		t.Errorf("%d busy, %d idle", len(l.busy), l.idle.Len())
	}
}

func TestTheBooksAreBounded(t *testing.T) {
	l := newLimiter(Limits{Concurrent: 1, RequestsPerSecond: 1, Burst: 2, Callers: 100}, prometheus.NewRegistry())
	held, _ := l.enter(&registry.Caller{Project: "held"}, "", false)
	for i := range 10000 {
		turn, why := l.enter(nil, fmt.Sprintf("10.0.%d.%d:1", i/256, i%256), false)
		if why.limit != "" {
			t.Fatal(why)
		}
		turn.end()
	}
	if l.idle.Len() != 100 || len(l.busy) != 1 {
		t.Errorf("%d idle and %d busy callers are remembered", l.idle.Len(), len(l.busy))
	}
	if _, why := l.enter(&registry.Caller{Project: "held"}, "", false); why.limit != "concurrent" {
		t.Error("a caller with a request under way was forgotten")
	}
	held.end()
}

// slowIdentity knows one token, and answers when it may.
type slowIdentity struct{ asked, answer chan struct{} }

func (s slowIdentity) Identify(ctx context.Context, token string) (*registry.Caller, error) {
	if s.asked != nil {
		s.asked <- struct{}{}
		<-s.answer
	}
	switch token {
	case "right":
		return &registry.Caller{Project: "p", Roles: []string{"member"}}, nil
	case "broken":
		return nil, errors.New("no answer")
	}
	return nil, identity.ErrUnknown
}

func TestWhoAsksTooOftenIsToldToWait(t *testing.T) {
	for _, way := range []string{"net/http", "the short way"} {
		t.Run(way, func(t *testing.T) {
			s := newSite(t, siteConfig{limits: Limits{RequestsPerSecond: 1, Burst: 3}})
			img := s.add(pattern(1000, 1), nil)
			addr := s.addr
			if way == "net/http" {
				addr = s.plain
			}
			var refused *http.Response
			for range 50 {
				resp, err := s.client.Get("http://" + addr + "/v2/images/" + img.ID + "/file")
				if err != nil {
					t.Fatal(err)
				}
				resp.Body.Close()
				if resp.StatusCode != http.StatusOK {
					refused = resp
					break
				}
			}
			if refused == nil || refused.StatusCode != http.StatusTooManyRequests || refused.Header.Get("Retry-After") == "" {
				t.Fatalf("answered %v", refused)
			}
			if n := s.metric("nearsight_http_limited_total"); n != 1 {
				t.Errorf("%v are counted", n)
			}
		})
	}
}

func TestTokensCannotBeGuessedQuickly(t *testing.T) {
	s := newSite(t, siteConfig{identity: slowIdentity{}, limits: Limits{RequestsPerSecond: 1, Burst: 5}})
	for i := 0; ; i++ {
		status := s.do("GET", "/v2/images", fmt.Sprintf("X-Auth-Token: guess%d", i)).StatusCode
		if status == http.StatusTooManyRequests {
			break
		}
		if status != http.StatusUnauthorized || i > 200 {
			t.Fatalf("guess %d: %d", i, status)
		}
	}
	if strings.Contains(s.log.String(), "guess1") {
		t.Error("a token is in the log")
	}
}

// rememberingIdentity knows one token from memory.
type rememberingIdentity struct{ slowIdentity }

func (r rememberingIdentity) Remembered(token string) *registry.Caller {
	if token == "right" {
		c, _ := r.Identify(context.Background(), token)
		return c
	}
	return nil
}

// Who is known may not try others' tokens without bound as those of a service.
func TestServiceTokensCannotBeGuessedQuickly(t *testing.T) {
	s := newSite(t, siteConfig{identity: rememberingIdentity{}, limits: Limits{RequestsPerSecond: 1, Burst: 5}})
	for i := 0; ; i++ {
		status := s.do("GET", "/v2/images", "X-Auth-Token: right", fmt.Sprintf("X-Service-Token: guess%d", i)).StatusCode
		if status == http.StatusTooManyRequests {
			break
		}
		if status != http.StatusUnauthorized || i > 200 {
			t.Fatalf("guess %d: %d", i, status)
		}
	}
	if a := s.do("GET", "/v2/images", "X-Auth-Token: right", "X-Service-Token: right"); a.StatusCode != http.StatusOK {
		t.Errorf("two that are known: %d", a.StatusCode)
	}
}

func TestATokenThatNamesSomebodyIsNoGuess(t *testing.T) {
	s := newSite(t, siteConfig{identity: slowIdentity{}, limits: Limits{RequestsPerSecond: 1, Burst: 3}})
	for range 3 {
		if a := s.do("GET", "/v2/images", "X-Auth-Token: right"); a.StatusCode != http.StatusOK {
			t.Errorf("the holder: %d", a.StatusCode)
		}
	}
	if a := s.do("GET", "/v2/images", "X-Auth-Token: wrong"); a.StatusCode != http.StatusUnauthorized {
		t.Errorf("a first guess at the same address: %d", a.StatusCode)
	}
}

// While nobody knows whom a token names, it counts as a guess: a crowd that comes at
// once gets as far as one after the other.
func TestGuessesAtOnceAreAsFewAsOneByOne(t *testing.T) {
	who := slowIdentity{make(chan struct{}), make(chan struct{})}
	s := newSite(t, siteConfig{identity: who, limits: Limits{RequestsPerSecond: 1, Burst: 2}})
	first := make(chan int, 2)
	for range 2 {
		go func() {
			a, err := s.try("GET", "/v2/images", "X-Auth-Token: wrong")
			if err != nil {
				t.Error(err)
				first <- 0
				return
			}
			first <- a.StatusCode
		}()
		<-who.asked
	}
	third := s.do("GET", "/v2/images", "X-Auth-Token: right")
	for range 2 {
		who.answer <- struct{}{}
		if status := <-first; status != http.StatusUnauthorized {
			t.Errorf("one of the first: %d", status)
		}
	}
	if third.StatusCode != http.StatusTooManyRequests {
		t.Errorf("the third: %d", third.StatusCode)
	}
}

func BenchmarkLimiter(b *testing.B) {
	l := newLimiter(Limits{RequestsPerSecond: 1 << 30, Concurrent: 10}, prometheus.NewRegistry())
	b.ReportAllocs()
	for b.Loop() {
		turn, _ := l.enter(nil, "192.0.2.1:4711", false)
		turn.end()
	}
}
