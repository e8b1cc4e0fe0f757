package task

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"nearsight/origin"
	"nearsight/origin/file"
	"nearsight/origin/origintest"
	"nearsight/registry"
)

// A listing is a store that says what it holds as it is told.
type listing struct {
	*origintest.Fake
	held []origin.Held
	err  error
	// before is called before each thing is told of.
	before func()
}

func (l *listing) List(context.Context) iter.Seq2[origin.Held, error] {
	return func(yield func(origin.Held, error) bool) {
		for _, h := range l.held {
			if l.before != nil {
				l.before()
			}
			if !yield(h, nil) {
				return
			}
		}
		if l.err != nil {
			yield(origin.Held{}, l.err)
		}
	}
}

// holds adds an object, written so long ago, that nobody has told the registry of.
func (l *listing) holds(age time.Duration, partial bool) origin.Location {
	loc := l.Add("stray", []byte("stray"))
	loc.Validator = ""
	l.held = append(l.held, origin.Held{Location: loc, Size: 5, ModTime: time.Now().Add(-age), Partial: partial})
	return loc
}

// A checked is a registry over a store that lists and one that does not.
type checked struct {
	*books
	a   *listing
	web *origintest.Fake
	Check
}

func newChecked(t *testing.T) *checked {
	t.Helper()
	c := &checked{books: newBooks(t), a: &listing{Fake: &origintest.Fake{Name: "a"}}, web: &origintest.Fake{Name: "web"}}
	stores, err := origin.NewSet("a", origin.Member{Name: "a", Kind: "fake", Store: c.a},
		origin.Member{Name: "web", Kind: "fake", Store: struct{ origin.Store }{c.web}})
	if err != nil {
		t.Fatal(err)
	}
	c.Check = Check{Books: c.books, Images: c.books, Stores: stores}
	return c
}

// findings runs the check to its end.
func findings(t *testing.T, c *Check) []Finding {
	t.Helper()
	var all []Finding
	for f, err := range c.Run(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, f)
	}
	return all
}

func TestCheckComparesTheRegistryWithTheStores(t *testing.T) {
	data := noise(1, 600_000)
	for _, tt := range []struct {
		name string
		deep bool
		// spoil changes what the store has of the image.
		spoil func(c *checked, img *registry.Image)
		want  FindingKind // "" for none
		text  string
		size  int64
	}{
		{"all is well", false, func(*checked, *registry.Image) {}, "", "", 0},
		{"all is well to the last byte", true, func(*checked, *registry.Image) {}, "", "", 0},
		{"the object is gone", false, func(c *checked, img *registry.Image) { c.a.Delete(context.Background(), img.Locations[0]) }, Missing, "not found", -1},
		{"the object is another", false, func(c *checked, img *registry.Image) { c.a.Replace(img.Locations[0], noise(2, 600_000)) }, Changed, "changed", 600_000},
		{"the object is another and longer", false, func(c *checked, img *registry.Image) { c.a.Replace(img.Locations[0], noise(2, 600_001)) }, WrongSize, "600001 bytes, not 600000", 600_001},
		{"the size is wrong and the validator is not", false, func(c *checked, _ *registry.Image) {
			c.a.Inject(origintest.Faults{Size: new(int64(7))})
		}, WrongSize, "7 bytes, not 600000", 7},
		{"a byte is wrong", true, func(c *checked, _ *registry.Image) { c.a.Inject(origintest.Faults{Flip: []int64{599_999}}) }, WrongData, "from 524288 to 599999", 600_000},
		{"a byte is wrong and nobody reads it", false, func(c *checked, _ *registry.Image) { c.a.Inject(origintest.Faults{Flip: []int64{599_999}}) }, "", "", 0},
		{"the store is down", false, func(c *checked, _ *registry.Image) {
			c.a.Inject(origintest.Faults{Stat: fmt.Errorf("down: %w", origin.ErrUnavailable)})
		}, Unchecked, "down", -1},
		{"the store cannot read it", true, func(c *checked, _ *registry.Image) {
			c.a.Inject(origintest.Faults{Open: fmt.Errorf("down: %w", origin.ErrUnavailable)})
		}, Unchecked, "down", 600_000},
		{"the image is deleted meanwhile", false, func(c *checked, img *registry.Image) {
			c.a.Delete(context.Background(), img.Locations[0])
			c.Books = deletedMeanwhile{c.books, img.ID}
		}, "", "", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newChecked(t)
			for range 2 {
				c.upload(t, c.a, noise(3, 10))
			}
			img := c.upload(t, c.a, data)
			c.Deep = tt.deep
			tt.spoil(c, img)
			var got []Finding
			for _, f := range findings(t, &c.Check) {
				if f.ImageID == img.ID {
					got = append(got, f)
				}
			}
			if tt.want == "" {
				if len(got) != 0 {
					t.Errorf("findings %+v", got)
				}
				return
			}
			if len(got) != 1 {
				t.Fatalf("findings %+v, want one", got)
			}
			f := got[0]
			if f.Kind != tt.want || f.Size != tt.size || f.Store != "a" || f.URL != img.Locations[0].URL || !strings.Contains(f.Detail, tt.text) {
				t.Errorf("finding %+v, want %s of %d bytes, %q", f, tt.want, tt.size, tt.text)
			}
		})
	}
}

// deletedMeanwhile deletes an image after it was listed.
type deletedMeanwhile struct {
	*books
	id string
}

func (d deletedMeanwhile) Placed(ctx context.Context, after string, limit int) ([]*registry.Image, error) {
	page, err := d.books.Placed(ctx, after, limit)
	return page, errors.Join(err, d.Delete(ctx, d.id, nil))
}

func TestCheckOfLocationsOfAllKinds(t *testing.T) {
	c := newChecked(t)
	for range pageSize { // more than a page
		c.register(t, c.web.Add("x", []byte("no digest, no size")))
	}
	gone := c.register(t, origin.Location{URL: "https://user:secret@example.org/x?signature=secret"})
	img := c.upload(t, c.a, []byte("data"))
	copied := c.web.Add("copy", []byte("data"))
	if _, err := c.AddLocation(t.Context(), img.ID, copied, 4, nil); err != nil {
		t.Fatal(err)
	}
	c.web.Replace(copied, []byte("datA"))
	c.Deep = true
	got := findings(t, &c.Check)
	if len(got) != 2 {
		t.Fatalf("findings %+v", got)
	}
	for _, f := range got {
		if strings.Contains(fmt.Sprint(f), "secret") {
			t.Errorf("finding %+v shows a credential", f)
		}
		switch f.ImageID {
		case gone:
			if f.Kind != Unchecked || f.Store != "" || f.URL != "https://example.org/x" {
				t.Errorf("finding %+v", f)
			}
		case img.ID:
			if f.Kind != Changed || f.Store != "web" || f.URL != copied.URL {
				t.Errorf("finding %+v", f)
			}
		}
	}
}

func TestCheckFindsAndDeletesWhatNobodyKnowsOf(t *testing.T) {
	const day = 24 * time.Hour
	for _, repair := range []bool{false, true} {
		t.Run(fmt.Sprint("repair: ", repair), func(t *testing.T) {
			c := newChecked(t)
			ctx := t.Context()
			c.Repair = repair
			// All that is known stays, however old it is.
			active := c.upload(t, c.a, []byte("data"))
			queued, err := c.Create(ctx, &registry.Image{DiskFormat: "raw", ContainerFormat: "bare"})
			if err != nil {
				t.Fatal(err)
			}
			uploading, copying := c.a.holds(9*day, true), c.a.holds(9*day, true)
			if _, err := c.Begin(ctx, queued.ID, uploading); err != nil {
				t.Fatal(err)
			}
			if err := c.DB.BeginCopy(ctx, active.ID, copying); err != nil {
				t.Fatal(err)
			}
			dead := c.a.holds(9*day, false) // the Reaper's
			if err := c.Abort(ctx, queued.ID, dead); err != nil {
				t.Fatal(err)
			}
			c.a.held = append(c.a.held, origin.Held{Location: origin.Location{URL: active.Locations[0].URL}, Size: 4, ModTime: time.Unix(0, 0)})
			young := c.a.holds(day-time.Minute, false)
			orphan, leftover := c.a.holds(day+time.Minute, false), c.a.holds(day+time.Minute, true)
			deleted := c.a.holds(2*day, false) // since it was listed
			if err := c.a.Delete(ctx, deleted); err != nil {
				t.Fatal(err)
			}
			ageless := c.a.holds(0, false)
			c.a.held[len(c.a.held)-1].ModTime = time.Time{}

			got := findings(t, &c.Check)
			want := []Finding{
				{Kind: Orphan, URL: orphan.URL, Repaired: repair},
				{Kind: Leftover, URL: leftover.URL, Repaired: repair},
				{Kind: Orphan, URL: ageless.URL},
			}
			if len(got) != len(want) {
				t.Fatalf("findings %+v, want %+v", got, want)
			}
			for i, f := range got {
				w := want[i]
				if f.Kind != w.Kind || f.URL != w.URL || f.Repaired != w.Repaired || f.Store != "a" || f.Size != 5 || f.ImageID != "" {
					t.Errorf("finding %+v, want %+v", f, w)
				}
			}
			for loc, there := range map[origin.Location]bool{
				active.Locations[0]: true, uploading: true, copying: true, dead: true, young: true, ageless: true,
				orphan: !repair, leftover: !repair,
			} {
				if _, err := c.a.Stat(ctx, loc); (err == nil) != there {
					t.Errorf("%s: %v, want it there: %v", loc.URL, err, there)
				}
			}
		})
	}
}

func TestCheckAsksAgainRightBeforeItDeletes(t *testing.T) {
	c := newChecked(t)
	c.Repair = true
	loc := c.a.holds(48*time.Hour, false)
	c.Books = &forgetful{books: c.books}
	if got := findings(t, &c.Check); len(got) != 0 {
		t.Errorf("findings %+v", got)
	}
	if _, err := c.a.Stat(t.Context(), loc); err != nil {
		t.Errorf("what came to be known was deleted: %v", err)
	}
}

// A forgetful registry knows nothing when it is asked first.
type forgetful struct {
	*books
	asked int
}

func (f *forgetful) Knows(context.Context, string) (bool, error) {
	f.asked++
	return f.asked > 1, nil
}

func TestCheckGoesOnWhereAStoreFailsAndEndsWhereTheRegistryDoes(t *testing.T) {
	c := newChecked(t)
	c.Repair = true
	stray := c.a.holds(48*time.Hour, false)
	c.a.err = fmt.Errorf("down: %w", origin.ErrUnavailable)
	c.a.Inject(origintest.Faults{Delete: fmt.Errorf("denied: %w", origin.ErrUnavailable)})
	got := findings(t, &c.Check)
	if len(got) != 2 || got[0].URL != stray.URL || got[0].Repaired || !strings.Contains(got[0].Detail, "denied") ||
		got[1].Kind != Unchecked || got[1].Store != "a" || got[1].URL != "" {
		t.Errorf("findings %+v", got)
	}

	for f := range c.Check.Run(t.Context()) { // whoever has heard enough leaves
		if f.Kind != Orphan {
			t.Errorf("finding %+v", f)
		}
		break
	}

	down := errors.New("down")
	for name, b := range map[string]registry.Books{"placed": brokenBooks{c.books, down, nil}, "knows": brokenBooks{c.books, nil, down}} {
		c.Books = b
		var last error
		n := 0
		for _, err := range c.Check.Run(t.Context()) {
			last = err
			n++
		}
		if n != 1 || !errors.Is(last, down) {
			t.Errorf("%s: %d yields, %v", name, n, last)
		}
	}

	ctx, cancel := context.WithCancel(t.Context())
	c.Books = c.books
	c.a.before = cancel
	var last error
	for _, err := range c.Check.Run(ctx) {
		last = err
	}
	if !errors.Is(last, context.Canceled) {
		t.Errorf("error %v", last)
	}
}

type brokenBooks struct {
	*books
	placed, knows error
}

func (b brokenBooks) Placed(ctx context.Context, after string, limit int) ([]*registry.Image, error) {
	if b.placed != nil {
		return nil, b.placed
	}
	return b.books.Placed(ctx, after, limit)
}

func (b brokenBooks) Knows(ctx context.Context, url string) (bool, error) {
	if b.knows != nil {
		return false, b.knows
	}
	return b.books.Knows(ctx, url)
}

// The same with files, as an upload that was killed leaves them.
func TestCheckOfAFileStore(t *testing.T) {
	b, dir := newBooks(t), t.TempDir()
	s, err := file.Open(file.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	stores, err := origin.NewSet("default", origin.Member{Name: "default", Kind: "file", Store: s})
	if err != nil {
		t.Fatal(err)
	}
	img := b.upload(t, s, noise(1, 600_000))
	lost := s.Locate("lost")
	if _, err := s.Put(t.Context(), lost, -1, bytes.NewReader([]byte("nobody knows"))); err != nil {
		t.Fatal(err)
	}
	names, err := filepath.Glob(filepath.Join(dir, "lost*"))
	if err != nil || len(names) != 1 {
		t.Fatalf("files %v, %v", names, err)
	}
	old := time.Now().Add(-48 * time.Hour)
	if err := os.Chtimes(names[0], old, old); err != nil {
		t.Fatal(err)
	}
	check := &Check{Books: b, Images: b, Stores: stores, Deep: true, Repair: true}
	got := findings(t, check)
	if len(got) != 1 || got[0].Kind != Orphan || got[0].URL != lost.URL || !got[0].Repaired {
		t.Errorf("findings %+v", got)
	}
	if got := findings(t, check); len(got) != 0 {
		t.Errorf("findings %+v after the repair", got)
	}
	if _, err := s.Stat(t.Context(), img.Locations[0]); err != nil {
		t.Error(err)
	}
}

// FuzzShown: whatever a location is, no user information and no query is shown.
func FuzzShown(f *testing.F) {
	for _, url := range []string{"https://u:p@h/x?q#f", "file://s/k", "http://h/%zz", "x:y?z", "//u@h", "https://h/a?b?c", "?", ""} {
		f.Add(url)
	}
	f.Fuzz(func(t *testing.T, url string) {
		got := shown(origin.Location{URL: url})
		if strings.ContainsAny(got, "?#") {
			t.Errorf("%q is shown as %q", url, got)
		}
		if again := shown(origin.Location{URL: got}); again != got && got != malformed {
			t.Errorf("%q is shown as %q, and that as %q", url, got, again)
		}
	})
}
