package identity

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"nearsight/registry"
)

// quiet is a log that keeps what was written.
type quiet struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (q *quiet) Write(p []byte) (int, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.b.Write(p)
}

func (q *quiet) String() string {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.b.String()
}

func open(t testing.TB, path string) (*Tokens, *quiet) {
	t.Helper()
	q := &quiet{}
	known, err := Open(path, slog.New(slog.NewTextHandler(q, nil)))
	if err != nil {
		t.Fatal(err)
	}
	return known, q
}

func who(t testing.TB, known *Tokens, secret string) *registry.Caller {
	t.Helper()
	c, err := known.Identify(t.Context(), secret)
	if err != nil && !errors.Is(err, ErrUnknown) {
		t.Fatal(err)
	}
	return c
}

func TestATokenNamesItsHolder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tokens")
	member, secret := entry("m", func(t *Token) { t.Project, t.User, t.Roles = "web", "anna", []string{"member", "service"} })
	admin, rootSecret := entry("a", func(t *Token) { t.Project, t.Roles = "", []string{"admin"} })
	past, old := entry("old", func(t *Token) { e := time.Now().Add(-time.Second); t.Expires = &e })
	future, fresh := entry("new", func(t *Token) { e := time.Now().Add(time.Hour); t.Expires = &e })
	write(t, path, member, admin, past, future)
	known, _ := open(t, path)
	for _, tt := range []struct {
		name, token string
		is          func(*registry.Caller) bool
	}{
		{"a member", secret, func(c *registry.Caller) bool {
			return c != nil && c.Project == "web" && c.User == "anna" && c.Is("member") && c.Is("service") && !c.Is("admin") && !c.Stranger
		}},
		{"an admin", rootSecret, func(c *registry.Caller) bool { return c != nil && c.Project == "" && c.Is("admin") }},
		{"one that has expired", old, func(c *registry.Caller) bool { return c == nil }},
		{"one that will expire", fresh, func(c *registry.Caller) bool { return c != nil }},
		{"nothing", "", func(c *registry.Caller) bool { return c == nil }},
		{"another", secret[:len(secret)-1] + "!", func(c *registry.Caller) bool { return c == nil }},
		{"the hash", member.SHA256, func(c *registry.Caller) bool { return c == nil }},
		{"the name", "m", func(c *registry.Caller) bool { return c == nil }},
		{"a long one", strings.Repeat("x", 1<<20), func(c *registry.Caller) bool { return c == nil }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if c := who(t, known, tt.token); !tt.is(c) || known.Remembered(tt.token) != c {
				t.Errorf("it is %+v", c)
			}
		})
	}
}

// A revoked token must not stay in force because the server had no descriptor left when
// the file changed.
func TestAFileThatCouldNotBeReadIsTriedAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tokens")
	one, secret := entry("one")
	two, _ := entry("two")
	write(t, path, one)
	known, log := open(t, path)
	write(t, path, two)
	read := known.read
	known.read = func(path string) (table, version, error) {
		return nil, version{}, fmt.Errorf("read tokens: %w", &fs.PathError{Op: "open", Path: path, Err: syscall.EMFILE})
	}
	for range 3 {
		if err := known.look(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if n := strings.Count(log.String(), "cannot be read"); n != 1 || who(t, known, secret) == nil {
		t.Errorf("it is said %d times: %s", n, log.String())
	}
	known.read = read
	if err := known.look(t.Context()); err != nil {
		t.Fatal(err)
	}
	if known.Remembered(secret) != nil {
		t.Error("the token that was removed is still known")
	}
}

func TestTheFileIsFollowed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tokens")
	one, secretOne := entry("one")
	two, secretTwo := entry("two")
	write(t, path, one)
	known, log := open(t, path)
	if who(t, known, secretTwo) != nil {
		t.Fatal("a token that is not there is known")
	}
	write(t, path, one, two)
	if who(t, known, secretTwo) == nil {
		t.Error("a token that was added is not known when it comes")
	}
	write(t, path, two)
	if err := known.look(t.Context()); err != nil {
		t.Fatal(err)
	}
	if who(t, known, secretOne) != nil || known.Remembered(secretTwo) == nil {
		t.Error("a token that was removed is known, or one that was not is not")
	}
	for _, tt := range []struct {
		name  string
		harm  func() error
		wants string
	}{
		{"broken", func() error { return os.WriteFile(path, []byte("{"), 0o600) }, "not a file of tokens"},
		{"open to everybody", func() error { return os.Chmod(path, 0o644) }, "chmod 600"},
		{"gone", func() error { return os.Remove(path) }, "no such file"},
	} {
		if err := tt.harm(); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			if who(t, known, secretTwo) == nil || who(t, known, secretOne) != nil {
				t.Errorf("a file that is %s does not leave what was in force", tt.name)
			}
		}
		if n := strings.Count(log.String(), tt.wants); n != 1 {
			t.Errorf("a file that is %s: %d lines of the log say %q:\n%s", tt.name, n, tt.wants, log)
		}
	}
	write(t, path, one)
	if who(t, known, secretOne) == nil || who(t, known, secretTwo) != nil {
		t.Error("a file that came back is not used")
	}
	if s := log.String(); strings.Contains(s, secretOne) || strings.Contains(s, secretTwo) {
		t.Error("a token is in the log")
	}
}

func TestRunLooksAtTheFileUntilItEnds(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tokens")
	one, secret := entry("one")
	write(t, path, one)
	known, _ := open(t, path)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- known.Run(ctx) }()
	write(t, path)
	deadline := time.After(30 * time.Second)
	for known.Remembered(secret) != nil { // which looks at nothing
		select {
		case <-deadline:
			t.Fatal("a token that was removed stays known")
		case <-time.After(looks / 10):
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestAFileThatCannotBeReadIsNoIdentifier(t *testing.T) {
	if _, err := Open(filepath.Join(t.TempDir(), "none"), nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

func TestManyAskWhileTheFileChanges(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tokens")
	one, secret := entry("one")
	write(t, path, one)
	known, _ := open(t, path)
	stop := make(chan struct{})
	var askers sync.WaitGroup
	for range 4 {
		askers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if c, err := known.Identify(context.Background(), secret); err != nil || c.Project != "p" {
					t.Errorf("%v, %v", c, err)
					return
				}
				if _, err := known.Identify(context.Background(), "x"); !errors.Is(err, ErrUnknown) {
					t.Errorf("got %v", err)
				}
			}
		})
	}
	for range 50 {
		other, _ := entry("other")
		write(t, path, one, other)
	}
	close(stop)
	askers.Wait()
}

func BenchmarkRemembered(b *testing.B) {
	path := filepath.Join(b.TempDir(), "tokens")
	one, secret := entry("one")
	write(b, path, one)
	known, _ := open(b, path)
	b.ReportAllocs()
	for b.Loop() {
		if known.Remembered(secret) == nil {
			b.Fatal("unknown")
		}
	}
}
