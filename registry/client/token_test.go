package client

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"nearsight/registry"
)

// A guarded server takes one token.
type guarded struct {
	mu    sync.Mutex
	token string
	seen  []string
}

func (g *guarded) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	defer g.mu.Unlock()
	token := r.Header.Get("X-Auth-Token")
	g.seen = append(g.seen, token)
	if token != g.token {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	io.Copy(io.Discard, r.Body)
	if r.Method == http.MethodGet || r.Method == http.MethodPost {
		io.WriteString(w, minimal)
	}
}

// sourceOf hands out these tokens in turn.
func sourceOf(tokens ...string) func(context.Context) (string, error) {
	return func(context.Context) (string, error) {
		if len(tokens) == 0 {
			return "", errors.New("no more")
		}
		token := tokens[0]
		tokens = tokens[1:]
		return token, nil
	}
}

func TestTokens(t *testing.T) {
	get := func(ctx context.Context, c *Client) error { _, err := c.Get(ctx, testID); return err }
	twice := func(ctx context.Context, c *Client) error { return errors.Join(get(ctx, c), get(ctx, c)) }
	create := func(ctx context.Context, c *Client) error { _, err := c.Create(ctx, &registry.Image{}); return err }
	upload := func(ctx context.Context, c *Client) error {
		return c.Upload(ctx, testID, io.MultiReader(strings.NewReader("no seeker")), 9)
	}
	for _, tt := range []struct {
		name string
		opt  Options
		do   func(context.Context, *Client) error
		seen []string
		is   error
	}{
		{"none is sent where there is none", Options{}, get, []string{""}, ErrUnauthorized},
		{"one is sent", Options{Token: "good"}, twice, []string{"good", "good"}, nil},
		{"one that is wrong is not sent again", Options{Token: "bad"}, get, []string{"bad"}, ErrUnauthorized},
		{"a source is asked once for many calls", Options{TokenSource: sourceOf("good")}, twice, []string{"good", "good"}, nil},
		{"a source is asked again when its token is refused", Options{TokenSource: sourceOf("old", "good")}, twice, []string{"old", "good", "good"}, nil},
		{"a source is asked again once", Options{TokenSource: sourceOf("old", "bad", "good")}, get, []string{"old", "bad"}, ErrUnauthorized},
		{"a call with a body is sent again", Options{TokenSource: sourceOf("old", "good")}, create, []string{"old", "good"}, nil},
		{"an upload that was not begun is sent again", Options{TokenSource: sourceOf("old", "good")}, upload, []string{"old", "good"}, nil},
		{"a source that fails says so", Options{TokenSource: sourceOf()}, get, nil, errAny},
		{"a token that is none is not sent", Options{TokenSource: sourceOf("good\r\nX-Roles: admin")}, get, nil, errAny},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := &guarded{token: "good"}
			tt.opt.Retries = -1
			c := serveTo(t, g, tt.opt)
			err := tt.do(t.Context(), c)
			if (tt.is == errAny) != (err != nil && !errors.Is(err, ErrUnauthorized)) || tt.is != errAny && !errors.Is(err, tt.is) {
				t.Errorf("error %v, want %v", err, tt.is)
			}
			if !slices.Equal(g.seen, tt.seen) {
				t.Errorf("the server saw %q, want %q", g.seen, tt.seen)
			}
			if text := fmt.Sprint(err); strings.Contains(text, "good") || strings.Contains(text, "bad") {
				t.Errorf("error %q shows a token", text)
			}
		})
	}
}

func TestManyCallsShareAToken(t *testing.T) {
	c := serveTo(t, &guarded{token: "good"}, Options{TokenSource: func(context.Context) (string, error) { return "good", nil }})
	var calls sync.WaitGroup
	for range 8 {
		calls.Go(func() {
			if _, err := c.Get(t.Context(), testID); err != nil {
				t.Error(err)
			}
		})
	}
	calls.Wait()
}

func TestATokenGoesNowhereElse(t *testing.T) {
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("another server was asked") }))
	defer elsewhere.Close()
	c := serveTo(t, http.RedirectHandler(elsewhere.URL, http.StatusTemporaryRedirect), Options{Token: "good"})
	var e *Error
	if _, err := c.Get(t.Context(), testID); !errors.As(err, &e) || e.Status != http.StatusTemporaryRedirect {
		t.Errorf("error %v", err)
	}
}

func TestRedirectsOnOneServerAreFollowed(t *testing.T) {
	c := serveTo(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Query().Has("round"):
			http.Redirect(w, r, r.URL.String(), http.StatusFound)
		case strings.HasPrefix(r.URL.Path, "/moved"):
			io.WriteString(w, minimal)
		default:
			http.Redirect(w, r, "/moved"+r.URL.Path, http.StatusFound)
		}
	}), Options{Retries: -1})
	if _, err := c.Get(t.Context(), testID); err != nil {
		t.Error(err)
	}
	if _, err := c.call(t.Context(), "GET", "/?round", "", nil); !errors.Is(err, registry.ErrUnavailable) {
		t.Errorf("error %v", err)
	}
}

func TestOptionsThatDoNotFit(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty.pem")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		opt  Options
		err  string
	}{
		{"a token and a source", Options{Token: "t", TokenSource: sourceOf()}, "besides"},
		{"a token with a line end", Options{Token: "secret\n"}, "characters"},
		{"certificates beside an HTTP client", Options{HTTP: http.DefaultClient, CAFile: "ca.pem"}, "of its own"},
		{"a file of certificates that is not there", Options{CAFile: "/nonexistent/ca.pem"}, "no such file"},
		{"a file without certificates", Options{CAFile: empty}, "has none"},
		{"a certificate without a key", Options{CertFile: empty}, "client certificate"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.opt.Server = "https://127.0.0.1"
			if _, err := New(tt.opt); err == nil || !strings.Contains(err.Error(), tt.err) || strings.Contains(err.Error(), "secret") {
				t.Errorf("error %v, want %q", err, tt.err)
			}
		})
	}
}

func TestCertificates(t *testing.T) {
	s := httptest.NewUnstartedServer(say(200, ""))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	defer s.Close()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		opt  Options
		ok   bool
	}{
		{"a stranger is not trusted", Options{}, false},
		{"who is in the file is", Options{CAFile: ca}, true},
		{"anybody is", Options{Insecure: true}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.opt.Server, tt.opt.Backoff = s.URL, time.Microsecond
			c, err := New(tt.opt)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if _, err := c.Get(t.Context(), testID); (err == nil) != tt.ok {
				t.Errorf("error %v", err)
			}
		})
	}
}
