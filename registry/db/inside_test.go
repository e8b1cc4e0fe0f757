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
		{"by size", registry.Query{Sort: []registry.Order{{Key: "size", Desc: true}}}, nil, "USING INDEX images_size", false},
		{"by update", registry.Query{Sort: []registry.Order{{Key: "updated_at", Desc: true}}}, []any{int64(1), int64(1), "x"}, "images_updated (updated_at<?)", false},
		{"of a name", registry.Query{Match: []registry.Match{{Column: "name", Values: []string{"x"}}}}, nil, "images_name (name=?)", false},
		{"of an id", registry.Query{Match: []registry.Match{{Column: "id", Values: []string{"x"}}}}, nil, "(id=?)", false},
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

// explain returns the plan for the page of q after the values of a marker.
func explain(t *testing.T, d *DB, q registry.Query, marker []any) string {
	t.Helper()
	keys, err := sortKeys(q.Sort)
	if err != nil {
		t.Fatal(err)
	}
	w, err := filter(q)
	if err != nil {
		t.Fatal(err)
	}
	if marker != nil {
		after, args := afterMarker(keys, marker)
		w.and(after, args...)
	}
	rows, err := d.reader.QueryContext(t.Context(), "EXPLAIN QUERY PLAN SELECT id, "+columns+" FROM images"+w.String()+
		" ORDER BY "+orderBy(keys)+" LIMIT 25", w.args...)
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
	d := openTemp(b)
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

// fill stores n images in one transaction and returns their ids, the oldest
// first.
func fill(b *testing.B, d *DB, n int) (ids []string) {
	b.Helper()
	ctx := b.Context()
	err := d.write(ctx, "fill", func(c *change) error {
		for i := range n {
			img := benchmarkImage(i)
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
	return ids
}
