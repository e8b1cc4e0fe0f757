package client

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"nearsight/registry"
)

func TestSaveLeavesHoles(t *testing.T) {
	data := slices.Concat(randomBytes(1<<20), make([]byte, 16<<20), randomBytes(1<<20), make([]byte, 4<<20+7))
	f, c := newFakeImage(t, data)
	path := filepath.Join(t.TempDir(), "disk.raw")
	wantSaved(t, path, data, c.Save(t.Context(), f.record, path, quick), nil)
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if used := info.Sys().(*syscall.Stat_t).Blocks * 512; used > 3<<20 {
		t.Errorf("2 MiB of data and 20 MiB of zeros take %d bytes of disk", used)
	}
}

func TestSaveTargets(t *testing.T) {
	data := randomBytes(1000)
	for _, tt := range []struct {
		name    string
		prepare func(t *testing.T, path string)
		force   bool
		path    string // below a directory of the test
		want    string // in the error
	}{
		{"an existing file is not replaced", file, false, "disk.raw", "disk.raw: file already exists"},
		{"unless that is wanted", file, true, "disk.raw", ""},
		{"a directory is not replaced", directory, true, "disk.raw", "disk.raw is a directory"},
		{"a pipe is not replaced", pipe, true, "disk.raw", "disk.raw is not a regular file"},
		{"a symbolic link is not followed", symlink, false, "disk.raw", "disk.raw: file already exists"},
		{"a partial file that is a symbolic link is not followed", func(t *testing.T, path string) {
			symlink(t, path+partSuffix)
		}, false, "disk.raw", "disk.raw.part: too many levels of symbolic links"},
		{"a directory must exist", func(*testing.T, string) {}, false, "no/disk.raw", "no/disk.raw.part: no such file or directory"},
		{"a file is no directory", func(t *testing.T, path string) { file(t, filepath.Dir(path)) }, false, "f/disk.raw", "not a directory"},
		{"a name is needed", func(*testing.T, string) {}, false, "", "the file has no name"},
		{"a long name is told", func(*testing.T, string) {}, false, strings.Repeat("n", 254), "file name too long"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f, c := newFakeImage(t, data)
			path := ""
			if tt.path != "" {
				path = filepath.Join(t.TempDir(), tt.path)
				tt.prepare(t, path)
			}
			opt := quick
			opt.Overwrite = tt.force
			err := c.Save(t.Context(), f.record, path, opt)
			if tt.want == "" {
				wantSaved(t, path, data, err, nil)
			} else if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
}

func file(t *testing.T, path string) { write(t, path, []byte("old")) }

func directory(t *testing.T, path string) {
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
}

func pipe(t *testing.T, path string) {
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
}

func symlink(t *testing.T, path string) {
	file(t, path+".elsewhere")
	if err := os.Symlink(path+".elsewhere", path); err != nil {
		t.Fatal(err)
	}
}

func TestSaveDoesNotReplaceAFileThatAppearsMeanwhile(t *testing.T) {
	f, c := newFakeImage(t, randomBytes(1000))
	path := filepath.Join(t.TempDir(), "disk.raw")
	opt := quick
	opt.Progress = func(int64, int64) { file(t, path) }
	if err := c.Save(t.Context(), f.record, path, opt); !errors.Is(err, fs.ErrExist) {
		t.Errorf("error %v, want %v", err, fs.ErrExist)
	}
	if got, _ := os.ReadFile(path); string(got) != "old" {
		t.Errorf("the other file holds %q now", got)
	}
}

func TestTwoSavesToOneTarget(t *testing.T) {
	f, c := newFakeImage(t, randomBytes(1000))
	path := filepath.Join(t.TempDir(), "disk.raw")
	opt := quick
	var second error
	opt.Progress = func(int64, int64) { second = c.Save(t.Context(), f.record, path, quick) }
	wantSaved(t, path, f.data, c.Save(t.Context(), f.record, path, opt), nil)
	if second == nil || !strings.Contains(second.Error(), "another save has locked "+path+partSuffix) {
		t.Errorf("the second save says %v", second)
	}
}

func TestAPartialFileThatBecameTheTargetIsNotTaken(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk.raw")
	f, err := os.Create(path + partSuffix)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := os.Rename(path+partSuffix, path); err != nil {
		t.Fatal(err)
	}
	if same, err := lockPart(f); same || err != nil {
		t.Errorf("lockPart = %v, %v; want false", same, err)
	}
}

// A process that is killed between the two steps of renameNew leaves the file with
// both names.
func TestAFinishedFileThatIsStillCalledPartIsNotWritten(t *testing.T) {
	first, c := newFakeImage(t, randomBytes(1000))
	path := filepath.Join(t.TempDir(), "disk.raw")
	wantSaved(t, path, first.data, c.Save(t.Context(), first.record, path, quick), nil)
	if err := os.Link(path, path+partSuffix); err != nil {
		t.Fatal(err)
	}
	other, c := newFakeImage(t, []byte("other data"), cutAfter(3), answer(404))
	opt := quick
	opt.Overwrite = true
	if err := c.Save(t.Context(), other.record, path, opt); !errors.Is(err, registry.ErrNotFound) {
		t.Errorf("error %v, want that of the server", err)
	}
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, first.data) {
		t.Errorf("the file has %d bytes, %v; want those from before", len(got), err)
	}
	wantSaved(t, path, other.data, c.Save(t.Context(), other.record, path, opt), nil)
}

func TestAPartThatCannotBeWrittenKeepsWhatItHas(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk.raw")
	write(t, path+partSuffix, make([]byte, 100))
	p, err := openPart(path)
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	p.f.Close()
	n, err := p.Write(bytes.Repeat([]byte{1}, 3*holeSize))
	if err == nil || p.off != 100 {
		t.Errorf("wrote %d bytes up to %d, error %v; want 100 and an error", n, p.off, err)
	}
}
