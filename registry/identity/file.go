package identity

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"nearsight/registry"
)

const (
	// prefix begins every token that is made here, so that a search for secrets
	// finds one that went astray.
	prefix = "nst_"

	// maxFile bounds the file, in bytes: a hundred thousand tokens.
	maxFile = 32 << 20
	maxWord = 255 // characters of a name, a project or a user
)

// roles are those that mean something (registry.Caller.Roles).
var roles = []string{"admin", "member", "reader", "service"}

// A Token is an entry of the file: a holder, and the hash by which the secret that it
// was given is recognised.
type Token struct {
	// Name tells entries apart, for people.
	Name string `json:"name"`
	// SHA256 is that of the secret, in hex. The secret has 256 random bits, so that
	// nothing slower is needed.
	SHA256 string `json:"sha256"`
	// Project is what the holder's images belong to. Only admins and services may
	// be without one.
	Project string   `json:"project,omitempty"`
	User    string   `json:"user,omitempty"`
	Roles   []string `json:"roles"`
	// Created and Expires are in UTC; without Expires it is good for ever.
	Created time.Time  `json:"created"`
	Expires *time.Time `json:"expires,omitempty"`
}

// New completes an entry with a new secret, which is kept nowhere.
func New(t Token) (_ Token, secret string) {
	var random [32]byte
	rand.Read(random[:]) // never fails
	secret = prefix + base64.RawURLEncoding.EncodeToString(random[:])
	sum := sha256.Sum256([]byte(secret))
	t.SHA256 = hex.EncodeToString(sum[:])
	return t, secret
}

// caller returns whom the token names.
func (t *Token) caller() *registry.Caller {
	return &registry.Caller{Project: t.Project, User: t.User, Roles: slices.Clone(t.Roles)}
}

// sum returns the hash of the secret.
func (t *Token) sum() (sum [sha256.Size]byte, err error) {
	b, err := hex.DecodeString(t.SHA256)
	if err != nil || len(b) != len(sum) {
		return sum, fmt.Errorf("token %.80q: sha256 must be %d hex digits", t.Name, 2*len(sum))
	}
	return [sha256.Size]byte(b), nil
}

// Check says what is wrong with an entry but for its hash.
func (t *Token) Check() error {
	for _, word := range []struct{ what, text string }{{"name", t.Name}, {"project", t.Project}, {"user", t.User}} {
		if utf8.RuneCountInString(word.text) > maxWord || !utf8.ValidString(word.text) || strings.ContainsFunc(word.text, unicode.IsControl) {
			return fmt.Errorf("token %.80q: the %s must be UTF-8 without control characters, %d of them at most", t.Name, word.what, maxWord)
		}
	}
	if t.Name == "" {
		return errors.New("a token needs a name")
	}
	if len(t.Roles) == 0 {
		return fmt.Errorf("token %.80q has no role; there are %s", t.Name, strings.Join(roles, ", "))
	}
	for _, role := range t.Roles {
		if !slices.Contains(roles, role) {
			return fmt.Errorf("token %.80q: there is no role %.80q, but %s", t.Name, role, strings.Join(roles, ", "))
		}
	}
	if t.Project == "" && !slices.Contains(t.Roles, "admin") && !slices.Contains(t.Roles, "service") {
		return fmt.Errorf("token %.80q has no project; only admins and services need none", t.Name)
	}
	return nil
}

// document is the shape of the file.
type document struct {
	Tokens []Token `json:"tokens"`
}

// parse reads the text of a file.
func parse(text []byte) ([]Token, error) {
	var doc document
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&doc); err != nil {
		return nil, fmt.Errorf("not a file of tokens: %w", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("not a file of tokens: there is more after its end")
	}
	names, sums := map[string]bool{}, map[[sha256.Size]byte]bool{}
	for i := range doc.Tokens {
		t := &doc.Tokens[i]
		if err := t.Check(); err != nil {
			return nil, err
		}
		sum, err := t.sum()
		if err != nil {
			return nil, err
		}
		if names[t.Name] || sums[sum] {
			return nil, fmt.Errorf("token %.80q is there twice", t.Name)
		}
		names[t.Name], sums[sum] = true, true
	}
	return doc.Tokens, nil
}

// Read returns the tokens of a file. It refuses one that everybody can read or write:
// what is in it is not secret, but it says whom to be.
func Read(path string) ([]Token, error) {
	tokens, _, err := readFile(path)
	return tokens, err
}

func readFile(path string) ([]Token, version, error) {
	text, v, err := readText(path, "tokens", maxFile)
	if err != nil {
		return nil, v, err
	}
	tokens, err := parse(text)
	if err != nil {
		return nil, v, fmt.Errorf("tokens of %s: %w", path, err)
	}
	return tokens, v, nil
}

// Edit replaces the tokens of a file by what change makes of them. The file is made
// if it is missing; readers see the old version or the new one, and nobody else edits
// meanwhile. It keeps its owner, and its mode, which is 0600 for a new one; of a link
// the file that it leads to is replaced. If change fails the file stays, and the error is
// returned as it is.
func Edit(path string, change func([]Token) ([]Token, error)) error {
	switch file, err := filepath.EvalSymlinks(path); {
	case err == nil:
		path = file
	case !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("write tokens: %w", err)
	}
	unlock, err := lock(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer unlock()
	tokens, err := Read(path)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if err != nil {
		return err
	}
	if tokens, err = change(tokens); err != nil {
		return err
	}
	text, err := json.MarshalIndent(document{append([]Token{}, tokens...)}, "", "  ")
	if err != nil {
		return fmt.Errorf("write tokens: %w", err)
	}
	if _, err := parse(text); err != nil {
		return err
	}
	if err := replace(path, append(text, '\n')); err != nil {
		return fmt.Errorf("write tokens: %w", err)
	}
	return nil
}

// lock makes others who edit files in dir wait. The kernel gives it up when the
// process ends.
func lock(dir string) (unlock func() error, err error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("write tokens: %w", err)
	}
	for {
		err = unix.Flock(int(d.Fd()), unix.LOCK_EX)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		d.Close()
		return nil, fmt.Errorf("write tokens: lock %s: %w", dir, err)
	}
	return d.Close, nil
}

// replace writes a file in one step, and returns when it is durable: else a token that
// was removed might be there again after a crash.
func replace(path string, text []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	if err := takeAfter(f, path); err != nil {
		return err
	}
	if _, err := f.Write(text); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := dir.Sync(); err != nil && !errors.Is(err, unix.EINVAL) { // some cannot sync directories
		return err
	}
	return nil
}

// takeAfter gives f the owner and the mode of the file at path, if there is one.
func takeAfter(f *os.File, path string) error {
	old, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if st, ok := old.Sys().(*syscall.Stat_t); ok && (int(st.Uid) != os.Geteuid() || int(st.Gid) != os.Getegid()) {
		if err := f.Chown(int(st.Uid), int(st.Gid)); err != nil {
			return err
		}
	}
	return f.Chmod(old.Mode().Perm())
}
