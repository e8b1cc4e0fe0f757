package identity

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// entry returns a right entry with its secret.
func entry(name string, change ...func(*Token)) (Token, string) {
	t := Token{Name: name, Project: "p", Roles: []string{"member"}, Created: time.Now().UTC().Truncate(time.Second)}
	for _, c := range change {
		c(&t)
	}
	return New(t)
}

// write makes a file of tokens.
func write(t testing.TB, path string, tokens ...Token) {
	t.Helper()
	if err := Edit(path, func([]Token) ([]Token, error) { return tokens, nil }); err != nil {
		t.Fatal(err)
	}
}

func TestASecretIsRandomAndNowhereInItsEntry(t *testing.T) {
	a, secretA := entry("a")
	_, secretB := entry("b")
	if secretA == secretB || !strings.HasPrefix(secretA, prefix) || len(secretA) != len(prefix)+43 {
		t.Errorf("secrets %s and %s", secretA, secretB)
	}
	text, err := json.Marshal(a)
	if err != nil || strings.Contains(string(text), secretA[len(prefix):]) {
		t.Errorf("%s, %v", text, err)
	}
}

func TestFilesThatAreNotRightAreRefusedWithAReason(t *testing.T) {
	sum := strings.Repeat("ab", 32)
	good := fmt.Sprintf(`{"name":"a","sha256":%q,"project":"p","roles":["member"],"created":"2026-01-01T00:00:00Z"}`, sum)
	for _, tt := range []struct{ name, text, want string }{
		{"nothing", "", "not a file of tokens"},
		{"no JSON", "tokens: []", "not a file of tokens"},
		{"a list", "[]", "not a file of tokens"},
		{"a key that is not known", `{"tokens":[],"x":1}`, "unknown field"},
		{"a key of a token that is not known", strings.Replace(`{"tokens":[`+good+`]}`, `"name"`, `"admin":true,"name"`, 1), "unknown field"},
		{"a file that is cut", `{"tokens":[` + good, "not a file of tokens"},
		{"more after its end", `{"tokens":[]}{}`, "more after its end"},
		{"no name", `{"tokens":[` + strings.Replace(good, `"a"`, `""`, 1) + `]}`, "needs a name"},
		{"a name with a line feed", `{"tokens":[` + strings.Replace(good, `"a"`, `"a\nb"`, 1) + `]}`, "control characters"},
		{"a name too long", `{"tokens":[` + strings.Replace(good, `"a"`, `"`+strings.Repeat("a", 256)+`"`, 1) + `]}`, "255 of them at most"},
		{"no hash", `{"tokens":[` + strings.Replace(good, sum, "", 1) + `]}`, "sha256 must be"},
		{"a hash cut short", `{"tokens":[` + strings.Replace(good, sum, sum[2:], 1) + `]}`, "sha256 must be"},
		{"no role", `{"tokens":[` + strings.Replace(good, `"member"`, ``, 1) + `]}`, "has no role"},
		{"a role that is not known", `{"tokens":[` + strings.Replace(good, `member`, `amdin`, 1) + `]}`, `there is no role "amdin"`},
		{"a member without a project", `{"tokens":[` + strings.Replace(good, `"p"`, `""`, 1) + `]}`, "has no project"},
		{"a name twice", `{"tokens":[` + good + `,` + strings.Replace(good, "ab", "cd", 1) + `]}`, "twice"},
		{"a hash twice", `{"tokens":[` + good + `,` + strings.Replace(good, `"a"`, `"b"`, 1) + `]}`, "twice"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "tokens")
			if err := os.WriteFile(path, []byte(tt.text), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := Read(path); err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), path) {
				t.Errorf("got %v, want %s", err, tt.want)
			}
			if err := Edit(path, func(t []Token) ([]Token, error) { return nil, nil }); err == nil {
				t.Error("the file was replaced")
			}
		})
	}
}

func TestAFileThatEverybodyCanReachIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tokens")
	write(t, path)
	for mode, ok := range map[fs.FileMode]bool{0o600: true, 0o400: true, 0o640: true, 0o660: true, 0o644: false, 0o602: false, 0o666: false, 0o601: false} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		_, err := Read(path)
		if (err == nil) != ok || err != nil && !strings.Contains(err.Error(), "chmod 600 "+path) {
			t.Errorf("mode %o: %v", mode, err)
		}
	}
}

func TestAMissingFileIsNotThere(t *testing.T) {
	if _, err := Read(filepath.Join(t.TempDir(), "tokens")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

func TestEditMakesAFileForItsOwnerAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tokens")
	one, _ := entry("one")
	write(t, path, one)
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	write(t, path)
	if info, err = os.Stat(path); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("a mode that somebody chose became %v, %v", info.Mode(), err)
	}
	if files, _ := os.ReadDir(filepath.Dir(path)); len(files) != 1 {
		t.Errorf("%d files are left", len(files))
	}
}

func TestEditFollowsALink(t *testing.T) {
	dir := t.TempDir()
	path, link := filepath.Join(dir, "secrets", "tokens"), filepath.Join(dir, "tokens")
	if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	one, _ := entry("one")
	write(t, path, one)
	if err := os.Symlink("secrets/tokens", link); err != nil {
		t.Fatal(err)
	}
	write(t, link)
	if info, err := os.Lstat(link); err != nil || info.Mode()&fs.ModeSymlink == 0 {
		t.Errorf("the link became %v, %v", info, err)
	}
	if tokens, err := Read(path); err != nil || len(tokens) != 0 {
		t.Errorf("the file has %v, %v; want none", tokens, err)
	}
}

func TestAnEditThatFailsLeavesTheFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tokens")
	one, _ := entry("one")
	write(t, path, one)
	boom := errors.New("boom")
	if err := Edit(path, func([]Token) ([]Token, error) { return nil, boom }); err != boom {
		t.Errorf("got %v", err)
	}
	if err := Edit(path, func(l []Token) ([]Token, error) { return append(l, one), nil }); err == nil {
		t.Error("a token twice was written")
	}
	tokens, err := Read(path)
	if err != nil || len(tokens) != 1 || tokens[0].Name != "one" {
		t.Errorf("%v, %v", tokens, err)
	}
}

func TestEditsDoNotLoseEachOther(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tokens")
	const n = 20
	var editors sync.WaitGroup
	for i := range n {
		editors.Go(func() {
			one, _ := entry(fmt.Sprint("t", i))
			if err := Edit(path, func(l []Token) ([]Token, error) { return append(l, one), nil }); err != nil {
				t.Error(err)
			}
		})
	}
	editors.Wait()
	if tokens, err := Read(path); err != nil || len(tokens) != n {
		t.Errorf("%d tokens, %v", len(tokens), err)
	}
}

// FuzzParse reads what may stand in a file. What is accepted can be used.
func FuzzParse(f *testing.F) {
	one, _ := entry("one")
	text, err := json.Marshal(document{[]Token{one}})
	if err != nil {
		f.Fatal(err)
	}
	for _, s := range []string{string(text), "", "{}", `{"tokens":null}`, `{"tokens":[{}]}`, `{"tokens":[{"name":"a","expires":"x"}]}`, "\x00", `{"tokens":{}}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		tokens, err := parse(text)
		if err != nil {
			return
		}
		for _, tok := range tokens {
			if _, err := tok.sum(); err != nil || tok.Check() != nil {
				t.Errorf("%+v was accepted", tok)
			}
		}
	})
}
