package origintest

import (
	"context"
	"errors"
	"testing"
	"time"

	"nearsight/origin"
)

// TestList checks every sentence of the contract of origin.ListStore that can be
// checked without a crash. open returns a new, empty store that is an
// origin.ListStore too; what it needs to clean up it hangs on t.
func TestList(t *testing.T, open func(t *testing.T) origin.WriteStore) {
	for _, tt := range []struct {
		name string
		test func(t *testing.T, s listWriteStore)
	}{
		{"an empty store lists nothing", testListNothing},
		{"every object is listed once, as it is", testListed},
		{"what is listed can be deleted, while it is listed", testListAndDelete},
		{"an upload under way is no leftover", testListWhileWriting},
		{"a failed upload leaves nothing to list", testListAfterFailure},
		{"a context that ends stops the list", testListEnded},
		{"whoever has seen enough may stop", testListStopped},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, ok := open(t).(listWriteStore)
			if !ok {
				t.Fatal("the store cannot list")
			}
			tt.test(t, s)
		})
	}
}

type listWriteStore interface {
	origin.WriteStore
	origin.ListStore
}

// list returns what s holds, by URL.
func list(t *testing.T, s origin.ListStore) map[string]origin.Held {
	t.Helper()
	found := make(map[string]origin.Held)
	for held, err := range s.List(t.Context()) {
		if err != nil {
			t.Fatalf("List: %v", err)
		}
		if _, twice := found[held.Location.URL]; twice {
			t.Errorf("%s is listed twice", held.Location.URL)
		}
		found[held.Location.URL] = held
	}
	return found
}

func testListNothing(t *testing.T, s listWriteStore) {
	if found := list(t, s); len(found) != 0 {
		t.Errorf("an empty store lists %+v", found)
	}
}

func testListed(t *testing.T, s listWriteStore) {
	sizes := map[string]int{}
	for i, n := range []int{0, 1, 4096, 300 << 10, 1 << 20} {
		sizes[put(t, s, "listed", Data(n, uint64(i))).URL] = n
	}
	found := list(t, s)
	if len(found) != len(sizes) {
		t.Errorf("%d objects are listed; want %d", len(found), len(sizes))
	}
	for url, n := range sizes {
		held := found[url]
		if held.Location != (origin.Location{URL: url}) || held.Size != int64(n) || held.Partial {
			t.Errorf("%s is listed as %+v; want %d bytes, no validator, not partial", url, held, n)
		}
		info, err := s.Stat(t.Context(), held.Location)
		if err != nil {
			t.Errorf("Stat of what is listed: %v", err)
		}
		// Some stores tell the time in whole seconds in the one or the other.
		if d := held.ModTime.Sub(info.ModTime).Abs(); d > time.Second || held.ModTime.Location() != time.UTC {
			t.Errorf("%s is listed with the time %v; Stat says %v", url, held.ModTime, info.ModTime)
		}
	}
}

func testListAndDelete(t *testing.T, s listWriteStore) {
	kept := put(t, s, "kept", []byte("kept"))
	const n = 10
	for i := range n {
		put(t, s, "deleted", Data(100, uint64(i)))
	}
	deleted := 0
	for held, err := range s.List(t.Context()) {
		if err != nil {
			t.Fatalf("List: %v", err)
		}
		if held.Location.URL == kept.URL {
			continue
		}
		if err := s.Delete(t.Context(), held.Location); err != nil {
			t.Fatalf("Delete of what is listed: %v", err)
		}
		deleted++
	}
	if deleted != n {
		t.Errorf("%d objects were listed and deleted; want %d", deleted, n)
	}
	if found := list(t, s); len(found) != 1 || found[kept.URL].Size != 4 {
		t.Errorf("after that %+v are listed; want %s alone", found, kept.URL)
	}
}

func testListWhileWriting(t *testing.T, s listWriteStore) {
	loc := s.Locate("writing")
	const n = 1 << 20
	_, err := s.Put(t.Context(), loc, n, &hookReader{n, func(left int) {
		if held, there := list(t, s)[loc.URL]; there && !held.Partial {
			t.Errorf("with %d bytes to come, it is listed as %+v", left, held)
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	if held, there := list(t, s)[loc.URL]; !there || held.Partial || held.Size != n {
		t.Errorf("after the upload it is listed as %+v", held)
	}
}

func testListAfterFailure(t *testing.T, s listWriteStore) {
	const n = 1 << 20
	_, err := s.Put(t.Context(), s.Locate("short"), n+1, &hookReader{n, func(int) {}})
	wantErr(t, "Put of too few bytes", err, origin.ErrSize)
	if found := list(t, s); len(found) != 0 {
		t.Errorf("a failed upload left %+v", found)
	}
}

func testListEnded(t *testing.T, s listWriteStore) {
	for i := range 3 {
		put(t, s, "listed", Data(100, uint64(i)))
	}
	for _, after := range []int{0, 1} { // objects before ctx ends
		ctx, cancel := context.WithCancel(t.Context())
		if after == 0 {
			cancel()
		}
		objects, ended := 0, error(nil)
		for held, err := range s.List(ctx) {
			if ended != nil {
				t.Errorf("after an error come %+v and %v", held, err)
			}
			if err != nil {
				ended = err
				continue
			}
			objects++
			cancel()
		}
		cancel()
		if objects != after || !errors.Is(ended, context.Canceled) {
			t.Errorf("ctx ends after %d objects: %d were listed, then error %v", after, objects, ended)
		}
	}
}

func testListStopped(t *testing.T, s listWriteStore) {
	for i := range 3 {
		put(t, s, "listed", Data(100, uint64(i)))
	}
	for range 2 {
		for _, err := range s.List(t.Context()) {
			if err != nil {
				t.Fatalf("List: %v", err)
			}
			break
		}
	}
	if found := list(t, s); len(found) != 3 {
		t.Errorf("after that %d objects are listed; want 3", len(found))
	}
}
