package main

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"nearsight/origin"
	"nearsight/registry"
	"nearsight/registry/db"
	"nearsight/registry/task"
)

func newRegistry(t *testing.T, dir string, statements ...string) string {
	t.Helper()
	path := filepath.Join(dir, "registry.db")
	records, err := db.Open(t.Context(), db.Options{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	if err := records.Close(); err != nil {
		t.Fatal(err)
	}
	d, err := sql.Open("sqlite3", path)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	for _, s := range statements {
		if _, err := d.Exec(s); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

func TestARegistryOfAnotherVersionIsLeftAlone(t *testing.T) {
	for _, tt := range []struct{ name, statement, want string }{
		{"an older one", "DELETE FROM goose_db_version WHERE version_id > 1", "of version 1, and this program is for version "},
		{"a newer one", "INSERT INTO goose_db_version (version_id, is_applied) VALUES (9999, 1)", "of version 9999, and"},
		{"one of somebody else", "DROP TABLE goose_db_version", "is not the registry of a server"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			path := newRegistry(t, dir, tt.statement)
			before, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			_, err = openRegistry(t.Context(), Config{Data: dir})
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), path) {
				t.Errorf("got %v; want %s", err, tt.want)
			}
			if after, err := os.ReadFile(path); err != nil || !bytes.Equal(before, after) {
				t.Errorf("the database was changed (%v)", err)
			}
		})
	}
}

func TestARegistryIsOpenedBesideAnother(t *testing.T) {
	dir := t.TempDir()
	newRegistry(t, dir)
	server, err := db.Open(t.Context(), db.Options{Path: filepath.Join(dir, "registry.db")})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	for range 2 {
		img, err := server.Create(t.Context(), &registry.Image{})
		if err != nil {
			t.Fatal(err)
		}
		records, err := openRegistry(t.Context(), Config{Data: dir})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := records.Get(t.Context(), img.ID); err != nil {
			t.Error(err)
		}
		if err := records.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestExitStatusOfCheck(t *testing.T) {
	dir := t.TempDir()
	newRegistry(t, dir)
	if err := os.Mkdir(filepath.Join(dir, "images"), 0o700); err != nil {
		t.Fatal(err)
	}
	stopped, stop := context.WithCancel(t.Context())
	stop()
	for _, tt := range []struct {
		name string
		ctx  context.Context
		args string
		code int
	}{
		{"nothing is wrong", t.Context(), "--data " + dir, 0},
		{"there is no registry", t.Context(), "--data " + dir + "/none", 1},
		{"there is nothing that a repair could go by", t.Context(), "--repair --data " + dir, 1},
		{"the file of settings is missing", t.Context(), "--config " + dir + "/none", 2},
		{"an age below nothing", t.Context(), "--min-age -1h --data " + dir, 2},
		{"too many arguments", t.Context(), "all", 2},
		{"interrupted", stopped, "--data " + dir, 130},
	} {
		t.Run(tt.name, func(t *testing.T) {
			root := newRoot()
			root.SetOut(new(bytes.Buffer))
			root.SetErr(new(bytes.Buffer))
			root.SetArgs(append([]string{"check"}, strings.Fields(tt.args)...))
			if err := root.ExecuteContext(tt.ctx); exitCode(err) != tt.code {
				t.Errorf("%d, %v; want %d", exitCode(err), err, tt.code)
			}
		})
	}
}

func TestAReportTellsOfEachFinding(t *testing.T) {
	at := time.Date(2026, 5, 4, 3, 2, 1, 0, time.UTC)
	lost := task.Finding{Kind: task.Missing, Store: "disks", URL: "file://disks/a", ImageID: id1, Size: -1, Detail: "gone\x1b[2J\nfor good"}
	stray := task.Finding{Kind: task.Orphan, Store: "s", URL: "file://s/b", Size: 2048, ModTime: at, Repaired: true}
	kept := task.Finding{Kind: task.Orphan, Store: "s", URL: "file://s/c", Size: 1, Detail: "kept: nobody knows how old it is"}
	members := []origin.Member{{Name: "disks"}, {Name: "s"}}

	out := reported(t, members, false, lost, stray, kept)
	want := `FINDING     STORE  LOCATION
missing     disks  file://disks/a
  image ` + id1 + ` (one), gone\x1b[2J; for good
orphan      s      file://s/b
  2.0 KiB there, written 2026-05-04T03:02:01Z, DELETED
orphan      s      file://s/c
  1 B there, kept: nobody knows how old it is

images with data: 7
FINDING  HOW MANY  WHAT TO DO
missing  1         data is gone: bring it back, or delete the image or its location
orphan   2         1 deleted; see above why not the others
`
	if out != want {
		t.Errorf("got\n%s\nwant\n%s", out, want)
	}

	lines := strings.Split(strings.TrimSpace(reported(t, members, true, lost, stray)), "\n")
	if len(lines) != 2 {
		t.Fatalf("%d lines: %q", len(lines), lines)
	}
	var got struct {
		Kind, Store, URL, Image, Name, Detail string
		Size                                  *int64
		Written                               *time.Time
		Repaired                              bool
	}
	if err := json.Unmarshal([]byte(lines[0]), &got); err != nil || got.Image != id1 || got.Size != nil || got.Written != nil || got.Name != "one" {
		t.Errorf("%s: %v", lines[0], err)
	}
	if err := json.Unmarshal([]byte(lines[1]), &got); err != nil || !got.Repaired || *got.Size != 2048 || !got.Written.Equal(at) {
		t.Errorf("%s: %v", lines[1], err)
	}
	if strings.Contains(lines[0], "\x1b") {
		t.Errorf("%q", lines[0])
	}
}

// reported returns what a report writes of the findings of a repair.
func reported(t *testing.T, members []origin.Member, asJSON bool, found ...task.Finding) string {
	t.Helper()
	var out bytes.Buffer
	cmd := &cobra.Command{}
	cmd.Flags().Bool("json", asJSON, "")
	cmd.SetOut(&out)
	r := newReport(cmd, members)
	r.images = 7
	for _, f := range found {
		name := ""
		if f.ImageID != "" {
			name = "one"
		}
		if err := r.add(f, name); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.end(true); err == nil || !strings.Contains(err.Error(), "of which repaired: 1") {
		t.Errorf("got %v", err)
	}
	return out.String()
}

func TestEveryFindingComesWithAdvice(t *testing.T) {
	kinds := []task.FindingKind{task.Missing, task.Changed, task.WrongSize, task.WrongData, task.Unchecked, task.Orphan, task.Leftover}
	help := newCheckCommand().Long
	for i, kind := range kinds {
		if advice[i].kind != kind || advice[i].text == "" {
			t.Errorf("none about %s", kind)
		}
		if !strings.Contains(help, "\n  "+string(kind)+" ") {
			t.Errorf("the help says nothing of %s", kind)
		}
	}
}

func TestAReportEndsWhereNobodyReadsIt(t *testing.T) {
	cmd := &cobra.Command{}
	cmd.SetOut(full{})
	r := newReport(cmd, nil)
	if err := r.add(task.Finding{Kind: task.Missing}, ""); !errors.Is(err, errFull) {
		t.Errorf("got %v", err)
	}
}

var errFull = errors.New("full")

type full struct{}

func (full) Write([]byte) (int, error) { return 0, errFull }
