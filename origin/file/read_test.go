package file

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"nearsight/origin"
	"nearsight/origin/origintest"
)

// What somebody did to a file behind our back is refused, and the text says what
// it is.
func TestChangedFile(t *testing.T) {
	was := time.Date(2024, 5, 6, 7, 8, 9, 10, time.UTC)
	for _, tt := range []struct {
		name   string
		change func(path string) error
		says   []string
		not    string
	}{
		{"it was cut", func(path string) error { return resize(path, 1000, was) },
			[]string{"its size is 1000 bytes and was 4096"}, "time"},
		{"it grew", func(path string) error { return resize(path, 5000, was) },
			[]string{"its size is 5000 bytes and was 4096"}, "time"},
		{"it was written in place", func(path string) error { return os.Chtimes(path, time.Time{}, was.Add(time.Hour)) },
			[]string{"its modification time is 2024-05-06T08:08:09.00000001Z and was 2024-05-06T07:08:09.00000001Z"}, "size"},
		{"it is from before 1970", func(path string) error { return os.Chtimes(path, time.Time{}, time.Unix(-1, 0)) },
			[]string{"its modification time is 1969-12-31T23:59:59Z and was 2024-05-06T07:08:09.00000001Z"}, "size"},
		{"it was replaced", func(path string) error { return resize(path, 1, was.Add(time.Second)) },
			[]string{"its size is 1 bytes and was 4096, its modification time is 2024-05-06T07:08:10"}, "validator"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := openDirs(t, Dir{Path: t.TempDir()}, Dir{Path: t.TempDir()})
			loc, err := s.Put(t.Context(), s.Locate("changed"), -1, bytes.NewReader(origintest.Data(4096, 1)))
			if err != nil {
				t.Fatal(err)
			}
			path, err := s.LocalPath(loc)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.Chtimes(path, time.Time{}, was); err != nil {
				t.Fatal(err)
			}
			info, err := s.Stat(t.Context(), origin.Location{URL: loc.URL})
			if err != nil {
				t.Fatal(err)
			}
			loc.Validator = info.Validator
			if err := tt.change(path); err != nil {
				t.Fatal(err)
			}
			_, statErr := s.Stat(t.Context(), loc)
			_, openErr := s.Open(t.Context(), loc, 0, -1)
			_, pathErr := s.LocalPath(loc)
			for _, err := range []error{statErr, openErr, pathErr} {
				if !errors.Is(err, origin.ErrChanged) || errors.Is(err, origin.ErrNotFound) {
					t.Fatalf("error %v; want %v", err, origin.ErrChanged)
				}
				for _, text := range append(tt.says, loc.URL) {
					if !strings.Contains(err.Error(), text) {
						t.Errorf("error %q; want it to say %q", err, text)
					}
				}
				if _, text, _ := strings.Cut(err.Error(), origin.ErrChanged.Error()); strings.Contains(text, tt.not) {
					t.Errorf("error %q speaks of %q", err, tt.not)
				}
			}
		})
	}
}

func resize(path string, size int64, at time.Time) error {
	return errors.Join(os.Truncate(path, size), os.Chtimes(path, time.Time{}, at))
}

func TestValidatorOfAnotherForm(t *testing.T) {
	s := openStore(t, t.TempDir())
	loc, err := s.Put(t.Context(), s.Locate("x"), -1, strings.NewReader("x"))
	if err != nil {
		t.Fatal(err)
	}
	for _, validator := range []string{"etag", "1-", "-1", "1-2-3", "zz-1", "0" + loc.Validator, strings.Repeat("9", 1000)} {
		_, err := s.Stat(t.Context(), origin.Location{URL: loc.URL, Validator: validator})
		if !errors.Is(err, origin.ErrChanged) || !strings.Contains(err.Error(), "validator is "+loc.Validator) || len(err.Error()) > 300 {
			t.Errorf("with %.20q: %v", validator, err)
		}
	}
}

// Bytes that were written after Open are never passed on.
func TestFileChangedUnderBody(t *testing.T) {
	data := origintest.Data(1<<20, 1)
	past := time.Unix(1, 5)
	for _, tt := range []struct {
		name   string
		change func(path string) error
		read   int // bytes that one Read is asked for
		n      int
		err    error
	}{
		{"a file cut in the middle of a read", func(path string) error { return os.Truncate(path, 1000) }, 4096, 0, origin.ErrChanged},
		{"a file cut after a read", func(path string) error { return os.Truncate(path, 1000) }, 100, 0, origin.ErrChanged},
		{"a file written in place", func(path string) error { return os.Chtimes(path, time.Time{}, past) }, 4096, 0, origin.ErrChanged},
		{"a file moved away", func(path string) error { return os.Rename(path, path+".old") }, 4096, 4096, nil},
		{"a file deleted", os.Remove, 4096, 4096, nil},
		{"a file that is let alone", func(string) error { return nil }, 4096, 4096, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := openStore(t, t.TempDir())
			loc, err := s.Put(t.Context(), s.Locate("cut"), -1, bytes.NewReader(data))
			if err != nil {
				t.Fatal(err)
			}
			path, _ := s.LocalPath(loc)
			if err := os.Chtimes(path, time.Time{}, time.Unix(9, 0)); err != nil {
				t.Fatal(err)
			}
			o, err := s.Open(t.Context(), origin.Location{URL: loc.URL}, 0, -1)
			if err != nil {
				t.Fatal(err)
			}
			defer o.Body.Close()
			if _, err := io.ReadFull(o.Body, make([]byte, 10)); err != nil {
				t.Fatal(err)
			}
			if err := tt.change(path); err != nil {
				t.Fatal(err)
			}
			got := make([]byte, tt.read)
			n, err := o.Body.Read(got)
			if n != tt.n || !errors.Is(err, tt.err) || !bytes.Equal(got[:n], data[10:10+n]) {
				t.Errorf("Read yields %d bytes, and %v; want %d, %v", n, err, tt.n, tt.err)
			}
		})
	}
}

// A file system that ends a file before its size, as a network one with old
// attributes, is not taken for the end of the object.
func TestBodyThatEndsEarly(t *testing.T) {
	s := openStore(t, t.TempDir())
	loc, err := s.Put(t.Context(), s.Locate("x"), -1, strings.NewReader("short"))
	if err != nil {
		t.Fatal(err)
	}
	path, _ := s.LocalPath(loc)
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	fi, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	b := &body{context.WithoutCancel(t.Context()), f, fi, loc.URL, 0, 10}
	defer b.Close()
	if got, err := io.ReadAll(b); string(got) != "short" || err != io.ErrUnexpectedEOF {
		t.Errorf("it yields %q and %v", got, err)
	}
}
