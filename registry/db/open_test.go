package db_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"nearsight/origin"
	"nearsight/registry"
	"nearsight/registry/db"
)

func TestOpenNamesThePathOfWhatIsNoDatabase(t *testing.T) {
	for _, tt := range []struct {
		name string
		make func(t *testing.T, path string)
	}{
		{"its directory is missing", func(t *testing.T, path string) { os.Remove(filepath.Dir(path)) }},
		{"its directory is a file", func(t *testing.T, path string) {
			os.Remove(filepath.Dir(path))
			write(t, filepath.Dir(path), "x")
		}},
		{"it is a directory", func(t *testing.T, path string) {
			if err := os.Mkdir(path, 0o700); err != nil {
				t.Fatal(err)
			}
		}},
		{"it is another kind of file", func(t *testing.T, path string) { write(t, path, strings.Repeat("no database ", 1000)) }},
		{"it is cut short", func(t *testing.T, path string) {
			closeDB(t, open(t, path, nil))
			if err := os.Truncate(path, 5000); err != nil {
				t.Fatal(err)
			}
		}},
		{"its first pages are zeros", func(t *testing.T, path string) {
			closeDB(t, open(t, path, nil))
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			write(t, path, string(append(bytes.Clone(b[:100]), make([]byte, len(b)-100)...)))
		}},
		{"it was written by a newer program", func(t *testing.T, path string) {
			closeDB(t, open(t, path, nil))
			execute(t, path, "INSERT INTO goose_db_version (version_id, is_applied) VALUES (9999, 1)")
		}},
		{"it has other tables of these names", func(t *testing.T, path string) {
			execute(t, path, "CREATE TABLE images (pixels BLOB)")
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "data", "registry.db")
			if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
				t.Fatal(err)
			}
			tt.make(t, path)
			d, err := db.Open(t.Context(), db.Options{Path: path})
			if err == nil {
				closeDB(t, d)
				t.Fatal("no error")
			}
			if !strings.Contains(err.Error(), path) {
				t.Errorf("error %q does not name the path", err)
			}
		})
	}
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func execute(t *testing.T, path, statement string) {
	t.Helper()
	d, err := sql.Open("sqlite3", path)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if _, err := d.Exec(statement); err != nil {
		t.Fatal(err)
	}
}

func TestAnyPathWillDoForADatabase(t *testing.T) {
	for _, name := range []string{"registry.db", "a b", "what?", "50%", "%41", "#1", "a&b=c", "file:x", "ä"} {
		path := filepath.Join(t.TempDir(), name)
		d := open(t, path, nil)
		if _, err := d.Create(t.Context(), &registry.Image{}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		closeDB(t, d)
		if st, err := os.Stat(path); err != nil || st.Size() == 0 {
			t.Errorf("%s: not at its path: %v", name, err)
		} else if st.Mode().Perm() != 0o600 {
			t.Errorf("%s: others may read it: %v", name, st.Mode())
		}
	}
}

func TestARelativePathIsOfTheWorkingDirectory(t *testing.T) {
	t.Chdir(t.TempDir())
	closeDB(t, open(t, "registry.db", nil))
	if _, err := os.Stat("registry.db"); err != nil {
		t.Error(err)
	}
}

func TestAClosedDatabaseRefuses(t *testing.T) {
	d := open(t, filepath.Join(t.TempDir(), "registry.db"), nil)
	closeDB(t, d)
	if _, err := d.Get(t.Context(), "x"); err == nil || errors.Is(err, registry.ErrNotFound) {
		t.Errorf("get: %v", err)
	}
	if _, err := d.Create(t.Context(), &registry.Image{}); err == nil {
		t.Error("create: no error")
	}
}

func TestNotifyTellsOfEveryCommitThatMadeEvents(t *testing.T) {
	var told []int64
	d := open(t, filepath.Join(t.TempDir(), "registry.db"), func(r int64) { told = append(told, r) })
	defer closeDB(t, d)
	ctx := t.Context()
	img, err := d.Create(ctx, &registry.Image{})
	if err != nil {
		t.Fatal(err)
	}
	none := func(*registry.Image) error { return nil }
	if _, err := d.Update(ctx, img.ID, none); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Create(ctx, &registry.Image{ID: img.ID}); err == nil {
		t.Fatal("the id was free")
	}
	if err := d.Forget(ctx, origin.Location{URL: "file://x/y"}); err != nil {
		t.Fatal(err)
	}
	if err := d.Delete(ctx, img.ID, nil); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(told, []int64{1, 2}) {
		t.Errorf("told of %v", told)
	}
}

func TestTimesAreMicrosecondsInUTC(t *testing.T) {
	now := time.Date(2026, 2, 3, 4, 5, 6, 123456789, time.FixedZone("east", 3600))
	d, err := db.Open(t.Context(), db.Options{
		Path: filepath.Join(t.TempDir(), "registry.db"),
		Now:  func() time.Time { return now },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer closeDB(t, d)
	img, err := d.Create(t.Context(), &registry.Image{})
	if err != nil {
		t.Fatal(err)
	}
	if want := "2026-02-03T03:05:06.123456Z"; img.CreatedAt.Format(time.RFC3339Nano) != want {
		t.Errorf("created at %v, want %s", img.CreatedAt, want)
	}
	now = now.Add(time.Hour)
	img, err = d.Update(t.Context(), img.ID, func(i *registry.Image) error { i.MinRAM = 1; return nil })
	if err != nil {
		t.Fatal(err)
	}
	if img.UpdatedAt.Sub(img.CreatedAt) != time.Hour {
		t.Errorf("updated at %v", img.UpdatedAt)
	}
}

func TestDataOfADeletedImageHasAGraceAndThatOfAnUploadHasNone(t *testing.T) {
	for _, tt := range []struct {
		name  string
		set   time.Duration
		grace time.Duration
	}{
		{"the default", 0, time.Minute},
		{"one that is set", time.Hour, time.Hour},
		{"none", -1, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			now := time.Now()
			d, err := db.Open(t.Context(), db.Options{
				Path: filepath.Join(t.TempDir(), "registry.db"), Grace: tt.set, Now: func() time.Time { return now },
			})
			if err != nil {
				t.Fatal(err)
			}
			defer closeDB(t, d)
			ctx := t.Context()
			data := sha256.Sum256([]byte("data"))
			m := (&origin.Manifest{Size: 4, Sums: data[:]}).Encode()
			sum := origin.Summary{Size: 4, Manifest: m, Digest: origin.DigestOf(m)}
			begin := func(n int) (string, origin.Location) {
				img, err := d.Create(ctx, &registry.Image{DiskFormat: "raw", ContainerFormat: "bare"})
				if err != nil {
					t.Fatal(err)
				}
				loc := origin.Location{URL: fmt.Sprintf("file://s/%d", n)}
				if _, err := d.Begin(ctx, img.ID, loc); err != nil {
					t.Fatal(err)
				}
				return img.ID, loc
			}
			want := func(locs ...origin.Location) {
				t.Helper()
				if got, err := d.Orphans(ctx, "", 10); err != nil || !slices.Equal(got, locs) {
					t.Errorf("orphans %v, %v; want %v", got, err, locs)
				}
			}
			id, deleted := begin(1)
			if _, err := d.Finish(ctx, id, deleted, sum); err != nil {
				t.Fatal(err)
			}
			if err := d.Delete(ctx, id, nil); err != nil {
				t.Fatal(err)
			}
			id, aborted := begin(2)
			if err := d.Abort(ctx, id, aborted); err != nil {
				t.Fatal(err)
			}
			if tt.grace > 0 {
				now = now.Add(tt.grace - time.Second)
				want(aborted)
			}
			now = now.Add(time.Second)
			want(deleted, aborted)
		})
	}
}

func TestLimitsAreThoseOfTheOptions(t *testing.T) {
	d, err := db.Open(t.Context(), db.Options{
		Path:   filepath.Join(t.TempDir(), "registry.db"),
		Limits: registry.Limits{Tags: 1, Properties: -1, DiskFormats: []string{"gpt"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer closeDB(t, d)
	many := map[string]string{}
	for i := range 5000 {
		many[fmt.Sprint(i)] = "v"
	}
	for _, tt := range []struct {
		name string
		img  registry.Image
		err  error
	}{
		{"one tag", registry.Image{Tags: []string{"a"}}, nil},
		{"two tags", registry.Image{Tags: []string{"a", "b"}}, registry.ErrTooLarge},
		{"a tag twice", registry.Image{Tags: []string{"a", "a"}}, nil},
		{"any number of properties", registry.Image{Properties: many}, nil},
		{"a known format", registry.Image{DiskFormat: "gpt"}, nil},
		{"an unknown format", registry.Image{DiskFormat: "raw"}, registry.ErrInvalid},
		{"a default container format", registry.Image{ContainerFormat: "bare"}, nil},
	} {
		if _, err := d.Create(t.Context(), &tt.img); !errors.Is(err, tt.err) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.err)
		}
	}
}

// TestAKillAtAnyCommitLosesNothing takes the files as a kill would leave them
// after each step of an image's life and starts from them.
func TestAKillAtAnyCommitLosesNothing(t *testing.T) {
	ctx := t.Context()
	path := filepath.Join(t.TempDir(), "registry.db")
	d := open(t, path, nil)
	defer closeDB(t, d)
	const id = "00000000-0000-4000-8000-000000000001"
	first, second, third := origin.Location{URL: "file://s/1"}, origin.Location{URL: "file://s/2"}, origin.Location{URL: "file://s/3"}
	data := sha256.Sum256([]byte("data"))
	m := &origin.Manifest{Size: 4, Sums: data[:]}
	sum := origin.Summary{Size: 4, Manifest: m.Encode(), Digest: origin.DigestOf(m.Encode())}

	for i, step := range []struct {
		name    string
		do      func() error
		status  registry.Status // after the start, "" if the image is gone
		orphans []origin.Location
	}{
		{"create", func() error {
			_, err := d.Create(ctx, &registry.Image{ID: id, DiskFormat: "raw", ContainerFormat: "bare"})
			return err
		}, registry.Queued, nil},
		{"begin", func() error { _, err := d.Begin(ctx, id, first); return err }, registry.Queued, []origin.Location{first}},
		{"abort", func() error { return d.Abort(ctx, id, first) }, registry.Queued, []origin.Location{first}},
		{"begin again", func() error { _, err := d.Begin(ctx, id, second); return err }, registry.Queued, []origin.Location{first, second}},
		{"forget", func() error { return d.Forget(ctx, first) }, registry.Queued, []origin.Location{second}},
		{"finish", func() error { _, err := d.Finish(ctx, id, second, sum); return err }, registry.Active, nil},
		{"begin a copy", func() error { return d.BeginCopy(ctx, id, third) }, registry.Active, []origin.Location{third}},
		{"add the copy", func() error { _, err := d.AddLocation(ctx, id, third, 4, nil); return err }, registry.Active, nil},
		{"remove the copy", func() error { _, err := d.RemoveLocation(ctx, id, third.URL); return err }, registry.Active, []origin.Location{third}},
		{"forget the copy", func() error { return d.Forget(ctx, third) }, registry.Active, nil},
		{"delete", func() error { return d.Delete(ctx, id, nil) }, "", []origin.Location{second}},
		{"forget again", func() error { return d.Forget(ctx, second) }, "", nil},
	} {
		if err := step.do(); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		for range 2 { // a kill right after the start changes nothing
			restarted := clone(t, path)
			abortUnfinished(t, restarted)
			wantAfterKill(t, fmt.Sprintf("%d, %s", i, step.name), restarted, id, step.status, step.orphans)
			closeDB(t, restarted)
		}
	}
}

func abortUnfinished(t *testing.T, d *db.DB) {
	t.Helper()
	uploads, err := d.Unfinished(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, u := range uploads {
		if err := d.Abort(t.Context(), u.ImageID, u.Location); err != nil {
			t.Fatal(err)
		}
	}
}

// clone opens a copy of the files at path.
func clone(t *testing.T, path string) *db.DB {
	t.Helper()
	to := filepath.Join(t.TempDir(), "clone.db")
	for _, suffix := range []string{"", "-wal"} { // -shm is made anew
		b, err := os.ReadFile(path + suffix)
		if err != nil {
			t.Fatal(err)
		}
		write(t, to+suffix, string(b))
	}
	return open(t, to, nil)
}

func wantAfterKill(t *testing.T, step string, d *db.DB, id string, status registry.Status, orphans []origin.Location) {
	t.Helper()
	ctx := context.Background()
	img, err := d.Get(ctx, id)
	switch {
	case status == "" && !errors.Is(err, registry.ErrNotFound):
		t.Errorf("%s: get: %v", step, err)
	case status != "" && err != nil:
		t.Errorf("%s: get: %v", step, err)
	case status != "" && img.Status != status:
		t.Errorf("%s: the image is %s, want %s", step, img.Status, status)
	case status == registry.Active:
		if _, err := d.Manifest(ctx, img.Digest); err != nil {
			t.Errorf("%s: manifest: %v", step, err)
		}
	}
	got, err := d.Orphans(ctx, "", 10)
	if err != nil || !slices.Equal(got, orphans) {
		t.Errorf("%s: orphans %v, want %v; %v", step, got, orphans, err)
	}
	revision, err := d.Revision(ctx)
	if err != nil {
		t.Errorf("%s: revision: %v", step, err)
	}
	events, err := d.Since(ctx, 0, 100)
	if err != nil || int64(len(events)) != revision {
		t.Errorf("%s: revision %d, %d events, %v", step, revision, len(events), err)
	}
}
