package db

import (
	"fmt"
	"testing"

	"nearsight/registry"
)

// many is how many images a large site has.
const many = 100_000

// fillMany stores many images of a hundred projects, most of them private or shared,
// and some for everybody. Each has four properties and two tags.
func fillMany(b *testing.B, d *DB) []string { return fillWith(b, d, many, manyImage) }

// manyImage returns the i-th of them.
func manyImage(i int) *registry.Image {
	img := benchmarkImage(i)
	owner := fmt.Sprintf("p%d", i%100)
	img.Owner = &owner
	img.Hidden = i%7 == 0
	switch i / 100 % 20 {
	case 0, 1:
		img.Visibility = registry.Public
	case 2:
		img.Visibility = registry.Community
	case 3, 4, 5, 6, 7:
		img.Visibility = registry.Shared
		img.Members = []registry.Member{
			{Project: fmt.Sprintf("p%d", (i+1)%100), Status: registry.Accepted},
			{Project: fmt.Sprintf("p%d", (i+2)%100), Status: registry.Pending},
		}
	default:
		img.Visibility = registry.Private
	}
	return img
}

// amongMany runs a benchmark on a database of each kind.
func amongMany(b *testing.B, run func(b *testing.B, d *DB, ids []string)) {
	b.Run("SQLite", func(b *testing.B) { d := openTemp(b); run(b, d, fillMany(b, d)) })
	b.Run("PostgreSQL", func(b *testing.B) { d := openPostgresTemp(b); run(b, d, fillMany(b, d)) })
}

func BenchmarkListHundredOfMany(b *testing.B) { amongMany(b, benchmarkListHundred) }

func benchmarkListHundred(b *testing.B, d *DB, ids []string) {
	project := &registry.Caller{Project: "p7", Roles: []string{"member"}}
	newcomer := &registry.Caller{Project: "new", Roles: []string{"member"}}
	byName := []registry.Order{{Key: "name"}}
	visible := ids[len(ids)/2/2000*2000] // public
	for _, tt := range []struct {
		name string
		q    registry.Query
	}{
		{"Admin", registry.Query{}},
		{"AdminByName", registry.Query{Sort: byName}},
		{"Project", registry.Query{Caller: project}},
		{"ProjectAfterMarker", registry.Query{Caller: project, Marker: visible}},
		{"ProjectByName", registry.Query{Caller: project, Sort: byName}},
		{"ProjectActive", registry.Query{Caller: project, Match: []registry.Match{{Column: "status", Values: []string{"queued"}}}}},
		{"ProjectPrivate", registry.Query{Caller: project, Visibility: registry.Private}},
		{"ProjectShared", registry.Query{Caller: project, Visibility: registry.Shared}},
		{"ProjectAll", registry.Query{Caller: project, Visibility: registry.AllVisibilities, MemberStatus: registry.AllMemberStatuses}},
		{"ProjectOfCommonProperty", registry.Query{Caller: project, Properties: map[string]string{"os_distro": "debian"}}},
		{"ProjectOfCommonTag", registry.Query{Caller: project, Tags: []string{"linux"}}},
		{"AdminOfCommonProperty", registry.Query{Properties: map[string]string{"os_distro": "debian"}}},
		{"Newcomer", registry.Query{Caller: newcomer}},
		{"Stranger", registry.Query{Caller: &registry.Caller{Stranger: true}}},
	} {
		b.Run(tt.name, func(b *testing.B) {
			tt.q.Limit = 100
			benchmarkList(b, d, tt.q, 100)
		})
	}
	for _, tt := range []struct {
		name string
		q    registry.Query
		want int
	}{
		{"AdminOfRareProperty", registry.Query{Properties: map[string]string{"rare": "17"}}, 9},
		{"ProjectOfRareProperty", registry.Query{Caller: project, Properties: map[string]string{"rare": "17"}}, 9},
		{"ProjectOfChecksum", registry.Query{Caller: project, Match: []registry.Match{{Column: "checksum", Values: []string{"x"}}}}, 0},
		{"ProjectBySize", registry.Query{Caller: project, Sort: []registry.Order{{Key: "size"}}}, 100},
		{"PublicOfChecksum", registry.Query{Visibility: registry.Public, Match: []registry.Match{{Column: "checksum", Values: []string{"x"}}}}, 0},
	} {
		b.Run(tt.name, func(b *testing.B) {
			tt.q.Limit = 100
			benchmarkList(b, d, tt.q, tt.want)
		})
	}
}

func BenchmarkGetOfMany(b *testing.B) {
	amongMany(b, func(b *testing.B, d *DB, ids []string) {
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			if _, err := d.Get(b.Context(), ids[i*7919%len(ids)]); err != nil {
				b.Fatal(err)
			}
		}
	})
}
