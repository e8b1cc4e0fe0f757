// Package registrytest is the conformance suite of the registry's contracts.
// Whoever implements them runs TestImages.
package registrytest

import (
	"context"
	"crypto/md5"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"reflect"
	"testing"
	"time"

	"nearsight/origin"
	"nearsight/registry"
)

// A Stack is one registry seen through all of its interfaces. Its images are
// bound by the default registry.Limits, and their data becomes an orphan without
// a grace.
type Stack struct {
	Images    registry.Images
	Uploads   registry.Uploads
	Locations registry.Locations
	Books     registry.Books
	Log       registry.Log
	Events    registry.Events
	Tasks     registry.Tasks
	Stages    registry.Stages
	Usages    registry.Usages
	// Pruner and Edges may be nil: what needs them is not checked then.
	Pruner registry.Pruner
	Edges  registry.Edges
	// Pass makes the registry's time go on.
	Pass func(time.Duration)
}

// TestImages checks that the registries that open returns keep the contracts of
// package registry. Each call of open returns another, empty one, which the
// test's cleanup closes.
func TestImages(t *testing.T, open func(t *testing.T) Stack) {
	for _, group := range []struct {
		name  string
		tests []test
	}{
		{"create", createTests()},
		{"update", updateTests()},
		{"delete", deleteTests()},
		{"uploads", uploadTests()},
		{"orphans", orphanTests()},
		{"locations", locationTests()},
		{"copies", copyTests()},
		{"hashes", hashTests()},
		{"books", booksTests()},
		{"list", listTests()},
		{"events", eventTests()},
		{"pruned events", pruneTests()},
		{"edges", edgeTests()},
		{"status", statusTests()},
		{"members", memberTests()},
		{"visibility", visibilityTests()},
		{"stages", stageTests()},
		{"imports", importTests()},
		{"tasks", taskTests()},
		{"leases", leaseTests()},
		{"ends of tasks", endTests()},
		{"usage", usageTests()},
		{"writers", writerTests()},
	} {
		t.Run(group.name, func(t *testing.T) {
			for _, tt := range group.tests {
				t.Run(tt.name, func(t *testing.T) {
					tt.run(&suite{T: t, Stack: open(t)})
				})
			}
		})
	}
}

// A test is one sentence of the contract.
type test struct {
	name string
	run  func(*suite)
}

// A suite is a test at work on a registry.
type suite struct {
	*testing.T
	Stack
}

func ptr[T any](v T) *T { return &v }

// draft returns an image that is ready for an upload.
func draft(name string) *registry.Image {
	return &registry.Image{Name: &name, Visibility: registry.Shared, DiskFormat: "raw", ContainerFormat: "bare"}
}

func (s *suite) create(img *registry.Image) *registry.Image {
	s.Helper()
	got, err := s.Images.Create(s.Context(), img)
	if err != nil {
		s.Fatalf("create: %v", err)
	}
	return got
}

func (s *suite) get(id string) *registry.Image {
	s.Helper()
	img, err := s.Images.Get(s.Context(), id)
	if err != nil {
		s.Fatalf("get: %v", err)
	}
	return img
}

func (s *suite) update(id string, change func(*registry.Image)) *registry.Image {
	s.Helper()
	img, err := s.Images.Update(s.Context(), id, func(img *registry.Image) error { change(img); return nil })
	if err != nil {
		s.Fatalf("update: %v", err)
	}
	return img
}

func (s *suite) delete(id string) {
	s.Helper()
	if err := s.Images.Delete(s.Context(), id, nil); err != nil {
		s.Fatalf("delete: %v", err)
	}
}

func (s *suite) list(q registry.Query) []*registry.Image {
	s.Helper()
	images, err := s.Images.List(s.Context(), q)
	if err != nil {
		s.Fatalf("list %+v: %v", q, err)
	}
	return images
}

func (s *suite) begin(id string, loc origin.Location) *registry.Image {
	s.Helper()
	img, err := s.Uploads.Begin(s.Context(), id, loc)
	if err != nil {
		s.Fatalf("begin: %v", err)
	}
	return img
}

func (s *suite) finish(id string, loc origin.Location, sum origin.Summary) *registry.Image {
	s.Helper()
	img, err := s.Uploads.Finish(s.Context(), id, loc, sum)
	if err != nil {
		s.Fatalf("finish: %v", err)
	}
	return img
}

func (s *suite) abort(id string, loc origin.Location) {
	s.Helper()
	if err := s.Uploads.Abort(s.Context(), id, loc); err != nil {
		s.Fatalf("abort: %v", err)
	}
}

// upload makes an active image with data and returns it.
func (s *suite) upload(img *registry.Image, loc origin.Location, data string) *registry.Image {
	s.Helper()
	id := s.create(img).ID
	s.begin(id, loc)
	return s.finish(id, loc, summary(data))
}

// place returns the n-th location.
func place(n int) origin.Location {
	return origin.Location{URL: fmt.Sprintf("file://store/%d", n), Validator: fmt.Sprintf("v%d", n)}
}

// summary returns what an upload of data, of at most one chunk, learns.
func summary(data string) origin.Summary {
	m := &origin.Manifest{Size: int64(len(data))}
	if data != "" {
		sum := sha256.Sum256([]byte(data))
		m.Sums = sum[:]
	}
	sum5, sum512 := md5.Sum([]byte(data)), sha512.Sum512([]byte(data))
	return origin.Summary{
		Size: m.Size, MD5: hex.EncodeToString(sum5[:]), SHA512: hex.EncodeToString(sum512[:]),
		Manifest: m.Encode(), Digest: origin.DigestOf(m.Encode()),
	}
}

// unfinished returns the locations of all uploads under way, by image.
func (s *suite) unfinished() map[string]origin.Location {
	s.Helper()
	uploads, err := s.Uploads.Unfinished(s.Context())
	if err != nil {
		s.Fatalf("unfinished: %v", err)
	}
	locs := make(map[string]origin.Location)
	for _, u := range uploads {
		locs[u.ImageID] = u.Location
	}
	if len(locs) != len(uploads) {
		s.Errorf("unfinished uploads %v have an image twice", uploads)
	}
	return locs
}

// orphans returns all of them.
func (s *suite) orphans() []origin.Location {
	s.Helper()
	locs, err := s.Uploads.Orphans(s.Context(), "", 1000)
	if err != nil {
		s.Fatalf("orphans: %v", err)
	}
	return locs
}

func (s *suite) wantOrphans(want ...origin.Location) {
	s.Helper()
	got := s.orphans()
	if len(got) != len(want) {
		s.Fatalf("orphans %v, want %v", got, want)
	}
	for i := range got {
		if got[i].URL != want[i].URL {
			s.Errorf("orphan %d is %s, want %s", i, got[i].URL, want[i].URL)
		}
	}
}

func (s *suite) revision() int64 {
	s.Helper()
	revision, err := s.Log.Revision(s.Context())
	if err != nil {
		s.Fatalf("revision: %v", err)
	}
	return revision
}

// history returns all events.
func (s *suite) history() []registry.Event {
	s.Helper()
	events, err := s.Log.Since(s.Context(), 0, 1_000_000)
	if err != nil {
		s.Fatalf("since: %v", err)
	}
	return events
}

// wantStatus checks the stored status.
func (s *suite) wantStatus(id string, want registry.Status) {
	s.Helper()
	if got := s.get(id).Status; got != want {
		s.Errorf("the image is %s, want %s", got, want)
	}
}

// wantErr checks that err wraps want, and no other sentinel.
func (s *suite) wantErr(err, want error) {
	s.Helper()
	if !errors.Is(err, want) {
		s.Fatalf("error %v, want one of %q", err, want)
	}
	for _, other := range []error{
		registry.ErrNotFound, registry.ErrInvalid, registry.ErrForbidden,
		registry.ErrConflict, registry.ErrTooLarge, registry.ErrUnavailable, registry.ErrTooOld,
	} {
		if other != want && errors.Is(err, other) {
			s.Errorf("error %q wraps %q too", err, other)
		}
	}
}

// wantSame checks that two records are equal in every field.
func (s *suite) wantSame(got, want *registry.Image) {
	s.Helper()
	got, want = got.Clone(), want.Clone()
	for _, img := range []*registry.Image{got, want} { // nil and empty mean the same
		img.Normalize()
		img.Tags = append([]string{}, img.Tags...)
		img.Locations = append([]origin.Location{}, img.Locations...)
		img.Members = append([]registry.Member{}, img.Members...)
		if len(img.LocationMetadata) == 0 {
			img.LocationMetadata = nil
		}
	}
	if !reflect.DeepEqual(got, want) {
		s.Errorf("image\n%+v, want\n%+v", got, want)
	}
}

// unchanged runs f and checks that it stored nothing.
func (s *suite) unchanged(id string, f func()) {
	s.Helper()
	before, revision := s.get(id), s.revision()
	f()
	s.wantSame(s.get(id), before)
	if now := s.revision(); now != revision {
		s.Errorf("revision went from %d to %d", revision, now)
	}
}

// cancelled returns a context that has ended.
func (s *suite) cancelled() context.Context {
	ctx, cancel := context.WithCancel(s.Context())
	cancel()
	return ctx
}
