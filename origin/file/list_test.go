package file

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"nearsight/origin"
)

func held(t *testing.T, s *Store) map[string]origin.Held {
	t.Helper()
	found := make(map[string]origin.Held)
	for h, err := range s.List(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		key := strings.TrimPrefix(h.Location.URL, s.prefix)
		if _, twice := found[key]; twice {
			t.Errorf("%s is listed twice", key)
		}
		found[key] = h
	}
	return found
}

func write(t *testing.T, path, data string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
		t.Fatal(err)
	}
}

// messy returns a store of the directories a and b, and what its list shall hold of
// what is in them.
func messy(t *testing.T, a, b string) (*Store, map[string]origin.Held) {
	s := openDirs(t, Dir{Path: a}, Dir{Path: b})
	write(t, filepath.Join(a, "in-a"), "1")
	write(t, filepath.Join(b, "in-b"), "12")
	write(t, filepath.Join(a, tempPrefix+"crashed.1"), "123")
	write(t, filepath.Join(b, tempPrefix+"0123456789abcdef"), "1234") // as older versions named them
	// Killed between link and remove, and then the object was moved.
	write(t, filepath.Join(a, tempPrefix+"linked"), "12345")
	write(t, filepath.Join(b, "linked"), "12345")
	// On its way from one directory to the other.
	write(t, filepath.Join(a, "moving"), "123456")
	write(t, filepath.Join(b, "moving"), "123456")
	write(t, filepath.Join(a, ".nfs01"), "x")
	write(t, filepath.Join(a, "no key"), "x")
	if err := errors.Join(
		os.Mkdir(filepath.Join(a, "lost+found"), 0o700), os.Mkdir(filepath.Join(a, "dir"), 0o700),
		os.Symlink("in-a", filepath.Join(a, "link")),
	); err != nil {
		t.Fatal(err)
	}
	return s, map[string]origin.Held{
		"in-a": {Size: 1}, "in-b": {Size: 2}, "linked": {Size: 5}, "moving": {Size: 6},
		"crashed.1": {Size: 3, Partial: true}, "0123456789abcdef": {Size: 4, Partial: true},
	}
}

// Objects of all directories are listed, and what crashed writers left: but not
// what is being written, nor what is no object.
func TestListLeftovers(t *testing.T) {
	a, b := t.TempDir(), t.TempDir()
	s, want := messy(t, a, b)
	started, finish := make(chan struct{}), make(chan struct{})
	put := make(chan error)
	go func() {
		_, err := s.Put(context.WithoutCancel(t.Context()), s.Locate("live"), -1, &gateReader{started: started, finish: finish})
		put <- err
	}()
	<-started
	found := held(t, s)
	close(finish)
	if err := <-put; err != nil {
		t.Fatal(err)
	}

	for key, w := range want {
		if h := found[key]; h.Size != w.Size || h.Partial != w.Partial || h.Location.Validator != "" || h.ModTime.IsZero() {
			t.Errorf("%s is listed as %+v; want %d bytes, partial %v", key, h, w.Size, w.Partial)
		}
	}
	if len(found) != len(want) {
		t.Errorf("%d are listed: %+v; want %d", len(found), found, len(want))
	}

	// What is listed as a leftover is what Delete removes.
	for key, h := range found {
		if h.Partial {
			if err := s.Delete(t.Context(), h.Location); err != nil {
				t.Errorf("Delete of the leftover of %s: %v", key, err)
			}
		}
	}
	for key, h := range held(t, s) {
		if h.Partial {
			t.Errorf("%s is still a leftover", key)
		}
	}
	for _, path := range []string{filepath.Join(a, tempPrefix+"crashed.1"), filepath.Join(b, tempPrefix+"0123456789abcdef")} {
		if _, err := os.Lstat(path); err == nil {
			t.Errorf("%s is still there", path)
		}
	}
}

// A list that lacks a directory would look as if its objects were lost.
func TestListWithoutADirectory(t *testing.T) {
	a, b := t.TempDir(), filepath.Join(t.TempDir(), "b")
	s := openDirs(t, Dir{Path: a}, Dir{Path: b})
	for _, tt := range []struct {
		name string
		f    func() error
	}{
		{"it is gone", func() error { return os.Rename(b, b+".away") }},
		{"another is in its place", func() error { return os.Mkdir(b, 0o700) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := tt.f(); err != nil {
				t.Fatal(err)
			}
			var errs []error
			for _, err := range s.List(t.Context()) {
				errs = append(errs, err)
			}
			if len(errs) != 1 || !errors.Is(errs[0], origin.ErrUnavailable) || !strings.Contains(errs[0].Error(), b) {
				t.Errorf("it yields %v; want one %v about %s", errs, origin.ErrUnavailable, b)
			}
		})
	}
}

// Delete removes what a Put left at its location, and never what one writes.
func TestDeleteAndLeftovers(t *testing.T) {
	a, b := t.TempDir(), t.TempDir()
	s := openDirs(t, Dir{Path: a}, Dir{Path: b})
	loc, other := s.Locate("crashed"), s.Locate("other")
	key, _ := s.key(loc)
	otherKey, _ := s.key(other)
	write(t, filepath.Join(b, tempPrefix+key), "half")
	write(t, filepath.Join(b, tempPrefix+otherKey), "half")
	if err := s.Delete(t.Context(), loc); err != nil {
		t.Fatal(err)
	}
	if got := append(files(t, a), files(t, b)...); len(got) != 1 || got[0] != tempPrefix+otherKey {
		t.Errorf("after Delete, %q are left", got)
	}

	// A Put takes the place of the leftover at its location.
	if _, err := s.Put(t.Context(), other, -1, strings.NewReader("whole")); err != nil {
		t.Fatal(err)
	}
	if h := held(t, s)[otherKey]; h.Size != 5 || h.Partial {
		t.Errorf("it is listed as %+v", h)
	}

	live := s.Locate("live")
	started, finish := make(chan struct{}), make(chan struct{})
	put := make(chan error)
	go func() {
		_, err := s.Put(context.WithoutCancel(t.Context()), live, -1, &gateReader{started: started, finish: finish})
		put <- err
	}()
	<-started
	if err := s.Delete(t.Context(), live); err != nil {
		t.Error(err)
	}
	// A writer of another process neither takes its place nor waits for it.
	if _, err := createTemp(dirOf(t, live, a, b), strings.TrimPrefix(live.URL, s.prefix)); err != errBusy {
		t.Errorf("a second writer: %v; want %v", err, errBusy)
	}
	close(finish)
	if err := <-put; err != nil {
		t.Errorf("the Put that was under way: %v", err)
	}
	if _, err := s.Stat(t.Context(), live); err != nil {
		t.Error(err)
	}
}

func dirOf(t *testing.T, loc origin.Location, dirs ...string) string {
	t.Helper()
	name := tempPrefix + filepath.Base(loc.URL)
	for _, dir := range dirs {
		if _, err := os.Lstat(filepath.Join(dir, name)); err == nil {
			return dir
		}
	}
	t.Fatalf("no directory has %s", name)
	return ""
}

// A list looks at locks, which no Put must take for those of another writer.
func TestListWhilePutsBegin(t *testing.T) {
	s := openDirs(t, Dir{Path: t.TempDir()}, Dir{Path: t.TempDir()})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 200 {
			for _, err := range s.List(context.WithoutCancel(t.Context())) {
				if err != nil {
					t.Errorf("List: %v", err)
					return
				}
			}
		}
	}()
	for range 100 {
		if _, err := s.Put(t.Context(), s.Locate("x"), -1, strings.NewReader("x")); err != nil {
			t.Errorf("Put: %v", err)
			break
		}
	}
	<-done
	if found := held(t, s); len(found) != 100 {
		t.Errorf("%d are listed in the end", len(found))
	}
}
