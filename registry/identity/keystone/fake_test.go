package keystone

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const servicePassword = "nosuchsecret"

// A fakeKeystone is a Keystone without a network. It knows one service, whose tokens
// are pass-1, pass-2 and so on, of which the last one is good.
type fakeKeystone struct {
	mu     sync.Mutex
	tokens map[string]string // the member token of the answer, by its secret
	logins int
	asked  map[string]int
	fail   func(*http.Request) (*http.Response, error) // nil: it works
	hold   chan struct{}                               // not nil: answers about tokens wait for it
}

func newFake() *fakeKeystone {
	return &fakeKeystone{tokens: map[string]string{}, asked: map[string]int{}}
}

// give makes a token known for so long.
func (f *fakeKeystone) give(token string, life time.Duration, rest string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	end, _ := json.Marshal(time.Now().Add(life).UTC())
	f.tokens[token] = `{"expires_at":` + string(end) + `,"user":{"id":"u-` + token + `","name":"x","domain":{"id":"default"}},` + rest + `}`
}

func (f *fakeKeystone) revoke(token string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.tokens, token)
}

func (f *fakeKeystone) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

func (f *fakeKeystone) times(token string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.asked[token]
}

func (f *fakeKeystone) RoundTrip(r *http.Request) (*http.Response, error) {
	f.mu.Lock()
	fail, hold := f.fail, f.hold
	f.mu.Unlock()
	if fail != nil {
		if resp, err := fail(r); resp != nil || err != nil {
			return resp, err
		}
	}
	switch {
	case r.URL.Path == "/v3/auth/tokens" && r.Method == "POST":
		return f.login(r)
	case r.URL.Path == "/v3/auth/tokens" && r.Method == "GET":
		if hold != nil {
			select {
			case <-hold:
			case <-r.Context().Done():
				return nil, r.Context().Err()
			}
		}
		return f.validate(r)
	}
	return fakeAnswer(404, "{}"), nil
}

func (f *fakeKeystone) login(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	if !strings.Contains(string(body), servicePassword) {
		return fakeAnswer(401, `{"error":{"message":"who is `+servicePassword+`?"}}`), nil
	}
	f.mu.Lock()
	f.logins++
	token := f.serviceToken()
	f.mu.Unlock()
	resp := fakeAnswer(201, `{"token":{"expires_at":"2099-01-01T00:00:00Z","catalog":[]}}`)
	resp.Header.Set("X-Subject-Token", token)
	return resp, nil
}

func (f *fakeKeystone) serviceToken() string { return "pass-" + strings.Repeat("i", f.logins) }

func (f *fakeKeystone) validate(r *http.Request) (*http.Response, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if r.Header.Get("X-Auth-Token") != f.serviceToken() {
		return fakeAnswer(401, `{}`), nil
	}
	token := r.Header.Get("X-Subject-Token")
	f.asked[token]++
	if text, ok := f.tokens[token]; ok {
		return fakeAnswer(200, `{"token":`+text+`}`), nil
	}
	return fakeAnswer(404, `{"error":{"message":"Could not find `+token+`"}}`), nil
}

func fakeAnswer(status int, body string) *http.Response {
	return &http.Response{
		StatusCode: status, Status: http.StatusText(status), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(strings.NewReader(body)),
	}
}

var errWire = errors.New("the wire is cut")

func isDown(*http.Request) (*http.Response, error) { return nil, errWire }

// asksOf returns a Keystone that asks f.
func asksOf(t testing.TB, f *fakeKeystone, changes ...func(*Options)) *Identifier {
	t.Helper()
	o := Options{AuthURL: "http://keystone/v3", User: "nearsight", Password: servicePassword, Project: "service", Transport: f}
	for _, change := range changes {
		change(&o)
	}
	k, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return k
}
