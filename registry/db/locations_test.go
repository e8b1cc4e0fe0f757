package db

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"nearsight/origin"
	"nearsight/registry"
)

// olderDatabase makes one as the program wrote it before there was a second
// migration: an image with data, and an upload under way.
func olderDatabase(t *testing.T, o Options) {
	t.Helper()
	ctx := t.Context()
	d := new(DB)
	if err := d.connect(o); err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	p, err := d.dialect.migrations(d.writer)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.UpTo(ctx, 1); err != nil {
		t.Fatal(err)
	}
	for _, statement := range []string{
		"INSERT INTO manifests (digest, encoded) VALUES ('d', 'm')",
		`INSERT INTO images (id, status, visibility, protected, hidden, disk_format, container_format, min_ram, min_disk,
			size, digest, created_at, updated_at, activated_at, revision)
			VALUES ('active', 'active', 'private', FALSE, FALSE, 'raw', 'bare', 0, 0, 4, 'd', 1, 1, 1, 1)`,
		`INSERT INTO images (id, status, visibility, protected, hidden, disk_format, container_format, min_ram, min_disk,
			created_at, updated_at, revision)
			VALUES ('saving', 'saving', 'private', FALSE, FALSE, 'raw', 'bare', 0, 0, 1, 1, 2)`,
		"INSERT INTO locations (image_id, position, url, validator) VALUES ('active', 0, 'file://s/1', 'v')",
		"INSERT INTO objects (url, validator, image_id, state, since) VALUES ('file://s/2', '', 'saving', 'live', 1)",
		"UPDATE counter SET revision = 2",
	} {
		if _, err := d.writer.ExecContext(ctx, statement); err != nil {
			t.Fatal(err)
		}
	}
}

// bothKinds runs a test on an empty database of each kind.
func bothKinds(t *testing.T, test func(t *testing.T, o Options)) {
	t.Run("SQLite", func(t *testing.T) { test(t, Options{Path: filepath.Join(t.TempDir(), "registry.db")}) })
	t.Run("PostgreSQL", func(t *testing.T) { test(t, Options{URL: PostgresURL(t, PostgresServer(t))}) })
}

func TestAnOlderDatabaseIsBroughtUpToDate(t *testing.T) { bothKinds(t, testAnOlderDatabase) }

func testAnOlderDatabase(t *testing.T, o Options) {
	olderDatabase(t, o)
	ctx := t.Context()
	o.Grace = -1
	d, err := Open(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	img, err := d.Get(ctx, "active")
	if err != nil || !slices.Equal(img.Locations, []origin.Location{{URL: "file://s/1", Validator: "v"}}) || img.LocationMetadata != nil {
		t.Errorf("image %+v, %v", img, err)
	}
	uploads, err := d.Unfinished(ctx)
	if err != nil || len(uploads) != 1 || uploads[0].Copy {
		t.Fatalf("unfinished %+v, %v; want an upload", uploads, err)
	}
	if err := d.Abort(ctx, "saving", uploads[0].Location); err != nil {
		t.Error(err)
	}
	if img, err := d.Get(ctx, "saving"); err != nil || img.Status != registry.Queued {
		t.Errorf("image %+v, %v", img, err)
	}
	if images, err := d.Unhashed(ctx, "", 9); err != nil || len(images) != 0 {
		t.Errorf("unhashed %v, %v", images, err)
	}
}

// TestTheMigrationsGoBack: what a site needs to return to the program before.
func TestTheMigrationsGoBack(t *testing.T) { bothKinds(t, testTheMigrationsGoBack) }

func testTheMigrationsGoBack(t *testing.T, o Options) {
	olderDatabase(t, o)
	d, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	p, err := d.dialect.migrations(d.writer)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.DownTo(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	var images int
	if err := d.reader.QueryRowContext(t.Context(), "SELECT COUNT(*) FROM images").Scan(&images); err != nil || images != 2 {
		t.Errorf("%d images, %v", images, err)
	}
	if _, err := p.Up(t.Context()); err != nil {
		t.Fatal(err)
	}
	if img, err := d.Get(t.Context(), "active"); err != nil || len(img.Locations) != 1 {
		t.Errorf("image %+v, %v", img, err)
	}
}

// TestNobodyReadsAllImages looks at the plans of what is asked again and again.
func TestNobodyReadsAllImages(t *testing.T) {
	d := openTemp(t)
	for _, tt := range []struct {
		name, query, want string
		args              []any
	}{
		{"unhashed", "SELECT id FROM images WHERE status = 'active' AND digest IS NULL AND id > ? ORDER BY id LIMIT 9", "images_unhashed (id>?)", []any{""}},
		{"of a digest", "SELECT id FROM images WHERE digest IN (?)", "images_digest (digest=?)", []any{"d"}},
		{"an object", "SELECT url FROM objects WHERE url = ?", "(url=?)", []any{"u"}},
		{"a location", "SELECT url FROM locations WHERE url = ?", "locations_url (url=?)", []any{"u"}},
		{"a staged object", "SELECT url FROM staged WHERE url = ?", "(url=?)", []any{"u"}},
		{"a manifest that is staged", "SELECT 1 FROM staged WHERE digest = ?", "staged_digest (digest=?)", []any{"d"}},
		{"the task of an image", "SELECT 1 FROM tasks WHERE image_id = ? AND image_id <> '' AND expires_at IS NULL", "tasks_of_image (image_id=?)", []any{"i"}},
		{"the next task", "SELECT id FROM tasks WHERE expires_at IS NULL AND (lease_until IS NULL OR lease_until <= ?) ORDER BY created_at, id LIMIT 1", "tasks_to_do", []any{1}},
		{"expired tasks", "SELECT id FROM tasks WHERE expires_at <= ?", "tasks_ended (expires_at<?)", []any{1}},
		{"the images of a project", "SELECT COUNT(*) FROM images WHERE owner = ?", "(owner=?)", []any{"p"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var id, parent, unused int
			var plan string
			err := d.reader.QueryRowContext(t.Context(), "EXPLAIN QUERY PLAN "+tt.query, tt.args...).Scan(&id, &parent, &unused, &plan)
			if err != nil || !strings.Contains(plan, tt.want) || strings.Contains(plan, "TEMP B-TREE") {
				t.Errorf("plan %q, %v; want %q", plan, err, tt.want)
			}
		})
	}
}

func TestTheNumberOfLocationsIsThatOfTheOptions(t *testing.T) {
	for _, tt := range []struct{ limit, want int }{{0, 10}, {2, 2}, {-1, 30}} {
		d, err := Open(t.Context(), Options{Path: filepath.Join(t.TempDir(), "registry.db"), Limits: registry.Limits{Locations: tt.limit}})
		if err != nil {
			t.Fatal(err)
		}
		id := createDraft(t, d)
		added := 0
		for n := range 30 {
			_, err := d.AddLocation(t.Context(), id, origin.Location{URL: fmt.Sprintf("https://h/%d", n)}, 4, nil)
			if err == nil {
				added++
			} else if !errors.Is(err, registry.ErrTooLarge) {
				t.Errorf("limit %d: %v", tt.limit, err)
			}
		}
		if added != tt.want {
			t.Errorf("limit %d: %d locations, want %d", tt.limit, added, tt.want)
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}
}

func createDraft(t *testing.T, d *DB) string {
	t.Helper()
	img, err := d.Create(t.Context(), &registry.Image{DiskFormat: "raw", ContainerFormat: "bare"})
	if err != nil {
		t.Fatal(err)
	}
	return img.ID
}

func TestARemovedLocationHasAGraceAndAnAbortedCopyHasNone(t *testing.T) {
	now := time.Now()
	d, err := Open(t.Context(), Options{
		Path: filepath.Join(t.TempDir(), "registry.db"), Grace: time.Hour, Now: func() time.Time { return now },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	ctx := t.Context()
	id := createDraft(t, d)
	removed, kept, aborted := origin.Location{URL: "file://s/1"}, origin.Location{URL: "file://s/2"}, origin.Location{URL: "file://s/3"}
	for _, loc := range []origin.Location{removed, kept} {
		if _, err := d.AddLocation(ctx, id, loc, 4, nil); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := d.RemoveLocation(ctx, id, removed.URL); err != nil {
		t.Fatal(err)
	}
	if err := d.BeginCopy(ctx, id, aborted); err != nil {
		t.Fatal(err)
	}
	if err := d.Abort(ctx, id, aborted); err != nil {
		t.Fatal(err)
	}
	want := func(locs ...origin.Location) {
		t.Helper()
		if got, err := d.Orphans(ctx, "", 9); err != nil || !slices.Equal(got, locs) {
			t.Errorf("orphans %v, %v; want %v", got, err, locs)
		}
	}
	now = now.Add(time.Hour - time.Second)
	want(aborted)
	now = now.Add(time.Second)
	want(removed, aborted)
}

// A full disk is a change that failed and was not done; afterwards it can be.
func TestAFullDiskAddsNoLocation(t *testing.T) {
	d := openTemp(t)
	ctx := t.Context()
	id := createDraft(t, d)
	big := map[string]string{"k": strings.Repeat("v", 60_000)}
	pages := func(n int) {
		t.Helper()
		if _, err := d.writer.ExecContext(context.WithoutCancel(ctx), fmt.Sprintf("PRAGMA max_page_count = %d", n)); err != nil {
			t.Fatal(err)
		}
	}
	pages(1) // as many as there are
	if _, err := d.AddLocation(ctx, id, origin.Location{URL: "https://h/1"}, 4, big); !errors.Is(err, registry.ErrUnavailable) {
		t.Errorf("error %v", err)
	}
	img, err := d.Get(ctx, id)
	if err != nil || img.Status != registry.Queued || len(img.Locations) != 0 || img.Revision != 1 {
		t.Errorf("image %+v, %v", img, err)
	}
	pages(1 << 20)
	img, err = d.AddLocation(ctx, id, origin.Location{URL: "https://h/1"}, 4, big)
	if err != nil || img.Revision != 2 || img.LocationMetadata["https://h/1"]["k"] != big["k"] {
		t.Errorf("image %+v, %v", img, err)
	}
}
