package db

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"nearsight/registry"
)

func openTemp(tb testing.TB) *DB {
	tb.Helper()
	d, err := Open(context.Background(), Options{Path: filepath.Join(tb.TempDir(), "registry.db")})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := d.Close(); err != nil {
			tb.Errorf("close: %v", err)
		}
	})
	return d
}

func TestAFullDiskStoresNothingAndIsSurvived(t *testing.T) {
	d := openTemp(t)
	ctx := t.Context()
	limitPages := func(n int) {
		t.Helper()
		if _, err := d.writer.ExecContext(ctx, fmt.Sprintf("PRAGMA max_page_count = %d", n)); err != nil {
			t.Fatal(err)
		}
	}
	limitPages(60)
	var full error
	made := 0
	for ; full == nil; made++ {
		_, full = d.Create(ctx, &registry.Image{Properties: map[string]string{"k": strings.Repeat("v", 5000)}})
	}
	made--
	if !errors.Is(full, registry.ErrUnavailable) {
		t.Fatalf("error %v", full)
	}
	images, err := d.List(ctx, registry.Query{Limit: 1000})
	if err != nil || len(images) != made {
		t.Errorf("%d images of %d, %v", len(images), made, err)
	}
	limitPages(1 << 20)
	img, err := d.Create(ctx, &registry.Image{})
	if err != nil || img.Revision != int64(made+1) {
		t.Errorf("image %+v, %v", img, err)
	}
}

// TestPagesAreFoundByAnIndex looks at the plans, because a scan of all images
// would only be slow.
func TestPagesAreFoundByAnIndex(t *testing.T) {
	d := openTemp(t)
	for _, tt := range []struct {
		name   string
		q      registry.Query
		marker []any
		want   string
		sorts  bool
	}{
		{"the default order", registry.Query{}, nil, "USING INDEX images_created", false},
		{"the default order after a marker", registry.Query{}, []any{int64(1), "x"}, "images_created (created_at<?)", false},
		{"the oldest first", registry.Query{Sort: []registry.Order{{Key: "created_at"}, {Key: "id"}}}, []any{int64(1), "x"}, "images_created (created_at>?)", false},
		{"by name", registry.Query{Sort: []registry.Order{{Key: "name", Desc: true}}}, nil, "USING INDEX images_name", false},
		{"the smallest first", registry.Query{Sort: []registry.Order{{Key: "size"}}}, nil, "USING INDEX images_size\nUSE TEMP B-TREE FOR LAST 2 TERMS", true},
		{"by size", registry.Query{Sort: []registry.Order{{Key: "size", Desc: true}}}, nil, "USING INDEX images_size", false},
		{"by update", registry.Query{Sort: []registry.Order{{Key: "updated_at", Desc: true}}}, []any{int64(1), int64(1), "x"}, "images_updated (updated_at<?)", false},
		{"of a name", registry.Query{Match: []registry.Match{{Column: "name", Values: []string{"x"}}}}, nil, "images_name (name=?)", false},
		{"of an id", registry.Query{Match: []registry.Match{{Column: "id", Values: []string{"x"}}}}, nil, "(id=?)", false},
		{"by name, ties the newest first", registry.Query{Sort: []registry.Order{{Key: "name"}}}, nil, "USING INDEX images_name\nUSE TEMP B-TREE FOR LAST 2 TERMS", true},
		{"of a hash", registry.Query{Match: []registry.Match{{Column: "os_hash_value", Values: []string{"x"}}}}, nil, "images_hash (hash_value=?)", true},
		{"updated lately", registry.Query{
			Times: []registry.TimeBound{{Column: "updated_at", Op: "gte", Time: time.Unix(1, 0)}},
			Sort:  []registry.Order{{Key: "updated_at", Desc: true}},
		}, nil, "images_updated (updated_at>?)", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			plan := explain(t, d, tt.q, tt.marker)
			if !strings.Contains(plan, tt.want) || strings.Contains(plan, "TEMP B-TREE") != tt.sorts {
				t.Errorf("plan:\n%s", plan)
			}
		})
	}
}

// TestWhatAProjectIsShownIsFoundByIndexes looks at the plans too: no set of what it
// is shown may be looked for among the images of others, or be sorted.
func TestWhatAProjectIsShownIsFoundByIndexes(t *testing.T) {
	d := openTemp(t)
	project := &registry.Caller{Project: "p", Roles: []string{"reader"}}
	byName := []registry.Order{{Key: "name", Desc: true}}
	for _, tt := range []struct {
		name   string
		q      registry.Query
		marker []any
		want   []string
	}{
		{"the default list", registry.Query{Caller: project}, nil, []string{
			"images_visibility (visibility=? AND hidden=?)", "images_owner (owner=? AND hidden=?)", "members_project (project=? AND status=?)",
		}},
		{"after a marker", registry.Query{Caller: project}, []any{int64(1), "x"}, []string{
			"images_visibility (visibility=? AND hidden=? AND created_at<?)", "images_owner (owner=? AND hidden=? AND created_at<?)", "members_project (project=? AND status=?)",
		}},
		{"by name", registry.Query{Caller: project, Sort: byName}, nil, []string{
			"images_visibility_name (visibility=? AND hidden=?)", "images_owner_name (owner=? AND hidden=?)", "members_project (project=? AND status=?)",
		}},
		{"what is shared with it", registry.Query{Caller: project, Visibility: registry.Shared, MemberStatus: registry.AllMemberStatuses}, nil, []string{
			"images_owner (owner=? AND hidden=?)", "members_project (project=?)",
		}},
		{"everything", registry.Query{Caller: project, Visibility: registry.AllVisibilities}, nil, []string{
			"images_visibility (visibility=? AND hidden=?)", "images_owner (owner=? AND hidden=?)",
		}},
		{"of a checksum", registry.Query{Caller: project, Match: []registry.Match{{Column: "checksum", Values: []string{"x"}}}}, nil, []string{
			"images_checksum (checksum=?)",
		}},
		{"of an id", registry.Query{Caller: project, Match: []registry.Match{{Column: "id", Values: []string{"x"}}}}, nil, []string{"(id=?)"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			plan := explain(t, d, tt.q, tt.marker)
			for _, want := range tt.want {
				if !strings.Contains(plan, want) {
					t.Errorf("no %s", want)
				}
			}
			if strings.Contains(plan, "SCAN images") || t.Failed() {
				t.Errorf("plan:\n%s", plan)
			}
		})
	}
}

// TestATagOrPropertyOfFewIsWhatAPageBeginsWith: and one of many is not.
func TestATagOrPropertyOfFewIsWhatAPageBeginsWith(t *testing.T) {
	d := openTemp(t)
	ctx := t.Context()
	fillWith(t, d, few+10, func(i int) *registry.Image {
		img := benchmarkImage(i)
		img.Visibility = registry.Shared
		return img
	})
	long := strings.Repeat("ä", 70)
	rare, err := d.Create(ctx, &registry.Image{
		Visibility: registry.Private, Tags: []string{"seldom"}, Properties: map[string]string{"long": long + "1"},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		q    registry.Query
		rare bool
		want int
	}{
		{"a tag of all", registry.Query{Tags: []string{"linux"}}, false, 25},
		{"a property of all", registry.Query{Properties: map[string]string{"os_distro": "debian"}}, false, 25},
		{"a tag of one", registry.Query{Tags: []string{"seldom"}}, true, 1},
		{"a property of one", registry.Query{Properties: map[string]string{"long": long + "1"}}, true, 1},
		{"a value that begins like it", registry.Query{Properties: map[string]string{"long": long + "2"}}, true, 0},
		{"a tag of none", registry.Query{Tags: []string{"none"}}, true, 0},
		{"both of one", registry.Query{Tags: []string{"seldom"}, Properties: map[string]string{"long": long + "1"}}, true, 1},
		{"of one and of others", registry.Query{Tags: []string{"seldom", "linux"}}, true, 0},
		{"for who does not see it", registry.Query{Tags: []string{"seldom"}, Caller: &registry.Caller{Stranger: true}}, true, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.q.Limit = 25
			images, err := d.List(ctx, tt.q)
			if err != nil || len(images) != tt.want || tt.want == 1 && images[0].ID != rare.ID {
				t.Errorf("%d images, %v", len(images), err)
			}
			plan := explain(t, d, tt.q, nil)
			if strings.Contains(plan, "SEARCH images USING INDEX sqlite_autoindex_images_1 (id=?)") != tt.rare {
				t.Errorf("plan:\n%s", plan)
			}
		})
	}
}

// pageOf returns the query for the page of q after the values of a marker.
func pageOf(t *testing.T, d *DB, q registry.Query, marker []any) (query string, args []any) {
	t.Helper()
	w, sets, keys, err := plan(q)
	if err != nil {
		t.Fatal(err)
	}
	if marker != nil {
		after, args := afterMarker(keys, marker)
		w.and(after, args...)
	}
	err = d.read(t.Context(), "narrow", func(tx txn) error {
		sets, err := narrow(t.Context(), tx, w, sets, q)
		query, args = pageQuery(w, sets, keys, 25)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return query, args
}

// explain returns the plan for the page of q after the values of a marker.
func explain(t *testing.T, d *DB, q registry.Query, marker []any) string {
	t.Helper()
	query, args := pageOf(t, d, q, marker)
	rows, err := d.reader.QueryContext(t.Context(), "EXPLAIN QUERY PLAN "+query, args...)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var plan []string
	for rows.Next() {
		var id, parent, unused int
		var detail string
		if err := rows.Scan(&id, &parent, &unused, &detail); err != nil {
			t.Fatal(err)
		}
		plan = append(plan, detail)
	}
	return strings.Join(plan, "\n")
}

// BenchmarkDB works among 10,000 images with four properties and two tags each.
func BenchmarkDB(b *testing.B) {
	b.Run("SQLite", func(b *testing.B) { benchmarkDB(b, openTemp(b)) })
	b.Run("PostgreSQL", func(b *testing.B) { benchmarkDB(b, openPostgresTemp(b)) })
}

func benchmarkDB(b *testing.B, d *DB) {
	ctx := b.Context()
	ids := fill(b, d, 10_000)
	b.Run("Get", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			if _, err := d.Get(ctx, ids[i*7919%len(ids)]); err != nil {
				b.Fatal(err)
			}
		}
	})
	for _, limit := range []int{25, 100} {
		b.Run(fmt.Sprintf("List%d", limit), func(b *testing.B) {
			benchmarkList(b, d, registry.Query{Limit: limit}, limit)
		})
	}
	b.Run("List25DeepPage", func(b *testing.B) {
		benchmarkList(b, d, registry.Query{Limit: 25, Marker: ids[100]}, 25)
	})
	b.Run("List25ByNameOfRareProperty", func(b *testing.B) {
		q := registry.Query{Limit: 25, Sort: []registry.Order{{Key: "name"}}, Properties: map[string]string{"rare": "17"}}
		benchmarkList(b, d, q, 10)
	})
	b.Run("Create", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := d.Create(ctx, benchmarkImage(1)); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func benchmarkList(b *testing.B, d *DB, q registry.Query, want int) {
	b.ReportAllocs()
	for b.Loop() {
		images, err := d.List(b.Context(), q)
		if err != nil || len(images) != want {
			b.Fatalf("%d images, %v", len(images), err)
		}
	}
}

func benchmarkImage(i int) *registry.Image {
	name := fmt.Sprintf("image-%d", i*31%997)
	return &registry.Image{
		Name: &name, DiskFormat: "raw", ContainerFormat: "bare", Visibility: registry.Public,
		Tags:       []string{"linux", "server"},
		Properties: map[string]string{"os_distro": "debian", "os_version": "13", "architecture": "x86_64", "rare": fmt.Sprint(i / 10)},
	}
}

func fill(b *testing.B, d *DB, n int) []string { return fillWith(b, d, n, benchmarkImage) }

// fillWith stores n images in one transaction and returns their ids, the oldest
// first.
func fillWith(b testing.TB, d *DB, n int, image func(i int) *registry.Image) (ids []string) {
	b.Helper()
	ctx := b.Context()
	err := d.write(ctx, "fill", func(c *change) error {
		for i := range n {
			img := image(i)
			img.ID, img.Status = fmt.Sprintf("%08x-0000-4000-8000-000000000000", i), registry.Queued
			img.CreatedAt = c.at.Add(time.Duration(i-n) * time.Millisecond)
			img.Normalize()
			if err := c.store(ctx, nil, img, registry.EventCreate); err != nil {
				return err
			}
			ids = append(ids, img.ID)
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
	if d.server != nil { // what autovacuum would do soon
		if _, err := d.writer.ExecContext(ctx, "ANALYZE"); err != nil {
			b.Fatal(err)
		}
	}
	return ids
}
