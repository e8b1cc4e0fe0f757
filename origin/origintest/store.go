// Package origintest holds the conformance suite of origin.WriteStore, which
// every store and every wrapper around one passes, and a Fake for the tests of
// those who use a store.
package origintest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"testing"
	"testing/iotest"
	"time"

	"nearsight/origin"
)

// TestStore checks every sentence of the contract of origin.WriteStore, and that
// of origin.LocalStore if the store is one. open returns a new, empty store; what
// it needs to clean up it hangs on t.
func TestStore(t *testing.T, open func(t *testing.T) origin.WriteStore) {
	for _, tt := range []struct {
		name string
		test func(t *testing.T, s origin.WriteStore)
	}{
		{"what was put is what is read", testRoundTrip},
		{"open returns the bytes asked for and says which", testRanges},
		{"every location is another one", testLocate},
		{"a missing object is not found", testMissing},
		{"a location of another store is refused", testForeign},
		{"another validator means that the object changed", testValidator},
		{"an object is never replaced", testExists},
		{"one of two puts at the same location wins", testRace},
		{"a wrong size leaves nothing", testWrongSize},
		{"a reader that fails leaves nothing", testCutReader},
		{"nothing is visible before it is whole", testInvisible},
		{"a context that has ended stops every call", testEnded},
		{"a context that ends stops put", testCancelPut},
		{"a context that ends stops the body", testCancelBody},
		{"delete removes and may be repeated", testDelete},
		{"a body outlives its object or says that it does not", testDeleteWhileReading},
		{"it is safe for concurrent use", testConcurrent},
		{"a local path holds exactly the bytes", testLocalPath},
	} {
		t.Run(tt.name, func(t *testing.T) { tt.test(t, open(t)) })
	}
}

// Data returns n bytes that look like an image: noise with runs of zeros in it.
// Equal arguments give equal data.
func Data(n int, seed uint64) []byte {
	r := rand.New(rand.NewPCG(seed, 0))
	b := make([]byte, n)
	for i := 0; i < n; {
		run := min(1+r.IntN(200<<10), n-i)
		if r.IntN(2) == 0 {
			for j := range b[i : i+run] {
				b[i+j] = byte(r.Uint32())
			}
		}
		i += run
	}
	return b
}

var sentinels = []error{
	origin.ErrNotFound, origin.ErrUnavailable, origin.ErrChanged,
	origin.ErrFull, origin.ErrExists, origin.ErrLocation,
}

// wantErr checks that err wraps want, and no sentinel besides.
func wantErr(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("%s: error %v; want %v", what, err, want)
	}
	for _, s := range sentinels {
		if s != want && errors.Is(err, s) {
			t.Errorf("%s: error %q wraps %q besides %q", what, err, s, want)
		}
	}
}

func put(t *testing.T, s origin.WriteStore, id string, data []byte) origin.Location {
	t.Helper()
	loc, err := s.Put(t.Context(), s.Locate(id), int64(len(data)), bytes.NewReader(data))
	if err != nil {
		t.Fatalf("Put: %v", err)
	}
	return loc
}

func read(t *testing.T, s origin.Store, loc origin.Location, off, n int64) (*origin.Object, []byte) {
	t.Helper()
	o, err := s.Open(t.Context(), loc, off, n)
	if err != nil {
		t.Fatalf("Open(%d, %d): %v", off, n, err)
	}
	defer o.Body.Close()
	b, err := io.ReadAll(o.Body)
	if err != nil {
		t.Fatalf("read of Open(%d, %d): %v", off, n, err)
	}
	return o, b
}

// wantNothing checks that nothing is at loc: not visible, and not in the way.
func wantNothing(t *testing.T, s origin.WriteStore, loc origin.Location) {
	t.Helper()
	_, err := s.Stat(t.Context(), origin.Location{URL: loc.URL})
	wantErr(t, "Stat of what must not be there", err, origin.ErrNotFound)
	_, err = s.Open(t.Context(), origin.Location{URL: loc.URL}, 0, -1)
	wantErr(t, "Open of what must not be there", err, origin.ErrNotFound)
	data := []byte("the next upload")
	if _, err := s.Put(t.Context(), loc, int64(len(data)), bytes.NewReader(data)); err != nil {
		t.Errorf("Put where nothing must be: %v", err)
	}
	if err := s.Delete(t.Context(), loc); err != nil {
		t.Errorf("Delete: %v", err)
	}
}

func testRoundTrip(t *testing.T, s origin.WriteStore) {
	const k = 1 << 10
	for i, n := range []int{0, 1, 4095, 64 * k, 64*k + 1, 256*k - 1, 256 * k, 1024*k + 3} {
		for _, known := range []bool{true, false} {
			data, size := Data(n, uint64(i)), int64(n)
			if !known {
				size = -1
			}
			at := s.Locate(fmt.Sprintf("image-%d-%v", i, known))
			before := time.Now()
			loc, err := s.Put(t.Context(), at, size, iotest.HalfReader(bytes.NewReader(data)))
			if err != nil {
				t.Fatalf("Put of %d bytes, size %d: %v", n, size, err)
			}
			if loc.URL != at.URL {
				t.Errorf("Put at %s returned %s", at.URL, loc.URL)
			}
			info, err := s.Stat(t.Context(), loc)
			if err != nil {
				t.Fatalf("Stat: %v", err)
			}
			if info.Size != int64(n) || info.Validator != loc.Validator || info.ModTime.Location() != time.UTC ||
				info.ModTime.Before(before.Add(-time.Minute)) || info.ModTime.After(time.Now().Add(time.Minute)) {
				t.Errorf("Stat = %+v; want size %d, validator %q, modified in this minute of UTC", info, n, loc.Validator)
			}
			o, err := s.Open(t.Context(), loc, 0, -1)
			if err != nil {
				t.Fatalf("Open: %v", err)
			}
			if o.Info != info {
				t.Errorf("Open says %+v, and Stat %+v", o.Info, info)
			}
			if err := iotest.TestReader(o.Body, data); err != nil {
				t.Errorf("body of %d bytes: %v", n, err)
			}
			if err := o.Body.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
		}
	}
}

func testRanges(t *testing.T, s origin.WriteStore) {
	data := Data(300<<10, 1)
	size := int64(len(data))
	loc, empty := put(t, s, "ranges", data), put(t, s, "empty", nil)
	for _, tt := range []struct{ off, n, length int64 }{
		{0, -1, size}, {0, math.MinInt64, size}, {0, size, size}, {0, 0, 0}, {0, 1, 1},
		{0, size + 1, size}, {0, math.MaxInt64, size}, {1, math.MaxInt64, size - 1},
		{size / 2, 10, 10}, {65535, 2, 2}, {7, -1, size - 7},
		{size - 1, 1, 1}, {size - 1, -1, 1}, {size - 1, 2, 1},
		{size, 1, 0}, {size, -1, 0}, {size + 1, 1, 0}, {math.MaxInt64, math.MaxInt64, 0}, {math.MaxInt64, -1, 0},
	} {
		o, got := read(t, s, loc, tt.off, tt.n)
		want := data[min(tt.off, size):][:tt.length]
		if o.Size != size || o.Length != tt.length || tt.length > 0 && o.Offset != tt.off || !bytes.Equal(got, want) {
			t.Errorf("Open(%d, %d) = bytes %d+%d of %d, %d bytes came; want %d+%d of %d",
				tt.off, tt.n, o.Offset, o.Length, o.Size, len(got), tt.off, tt.length, size)
		}
		if o, got := read(t, s, empty, tt.off, tt.n); o.Size != 0 || o.Length != 0 || len(got) != 0 {
			t.Errorf("Open(%d, %d) of nothing = bytes %d+%d of %d", tt.off, tt.n, o.Offset, o.Length, o.Size)
		}
	}
}

func testLocate(t *testing.T, s origin.WriteStore) {
	seen := make(map[origin.Location]bool)
	for i := range 100 {
		loc := s.Locate([]string{"one", "two"}[i%2])
		if seen[loc] || loc.URL == "" || loc.Validator != "" {
			t.Fatalf("Locate gave %+v, twice or malformed", loc)
		}
		seen[loc] = true
	}
	a, b := put(t, s, "same", []byte("first")), put(t, s, "same", []byte("second"))
	if err := s.Delete(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	if _, got := read(t, s, b, 0, -1); string(got) != "second" {
		t.Errorf("after the first upload was deleted, the second reads %q", got)
	}
}

func testMissing(t *testing.T, s origin.WriteStore) {
	loc := s.Locate("nobody")
	_, err := s.Stat(t.Context(), loc)
	wantErr(t, "Stat", err, origin.ErrNotFound)
	_, err = s.Open(t.Context(), loc, 0, -1)
	wantErr(t, "Open", err, origin.ErrNotFound)
	loc.Validator = "any"
	_, err = s.Open(t.Context(), loc, 0, -1)
	wantErr(t, "Open with a validator", err, origin.ErrNotFound)
	if err := s.Delete(t.Context(), loc); err != nil {
		t.Errorf("Delete: %v", err)
	}
}

func testForeign(t *testing.T, s origin.WriteStore) {
	for _, url := range []string{"", "x", "://", "gopher://other/key", "/etc/passwd", "file:", "fake:"} {
		loc := origin.Location{URL: url}
		_, err := s.Stat(t.Context(), loc)
		wantErr(t, "Stat of "+url, err, origin.ErrLocation)
		_, err = s.Open(t.Context(), loc, 0, -1)
		wantErr(t, "Open of "+url, err, origin.ErrLocation)
		_, err = s.Put(t.Context(), loc, 1, bytes.NewReader([]byte("x")))
		wantErr(t, "Put at "+url, err, origin.ErrLocation)
		wantErr(t, "Delete of "+url, s.Delete(t.Context(), loc), origin.ErrLocation)
	}
}

func testValidator(t *testing.T, s origin.WriteStore) {
	loc := put(t, s, "changed", []byte("these bytes"))
	other := origin.Location{URL: loc.URL, Validator: loc.Validator + "x"}
	_, err := s.Stat(t.Context(), other)
	wantErr(t, "Stat", err, origin.ErrChanged)
	_, err = s.Open(t.Context(), other, 0, -1)
	wantErr(t, "Open", err, origin.ErrChanged)
	if _, got := read(t, s, origin.Location{URL: loc.URL}, 0, -1); string(got) != "these bytes" {
		t.Errorf("without a validator it reads %q", got)
	}
	if err := s.Delete(t.Context(), other); err != nil {
		t.Errorf("Delete with another validator: %v", err)
	}
	wantNothing(t, s, loc)
}

func testEnded(t *testing.T, s origin.WriteStore) {
	loc := put(t, s, "ended", []byte("x"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := s.Stat(ctx, loc)
	wantErr(t, "Stat", err, context.Canceled)
	_, err = s.Open(ctx, loc, 0, -1)
	wantErr(t, "Open", err, context.Canceled)
	fresh := s.Locate("ended")
	_, err = s.Put(ctx, fresh, 1, bytes.NewReader([]byte("x")))
	wantErr(t, "Put", err, context.Canceled)
	wantNothing(t, s, fresh)
	wantErr(t, "Delete", s.Delete(ctx, loc), context.Canceled)
	if _, got := read(t, s, loc, 0, -1); string(got) != "x" {
		t.Errorf("after a Delete that was called off it reads %q", got)
	}
}

func testCancelBody(t *testing.T, s origin.WriteStore) {
	data := Data(8<<20, 3)
	loc := put(t, s, "body", data)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	o, err := s.Open(ctx, loc, 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer o.Body.Close()
	got := make([]byte, 100)
	if _, err := io.ReadFull(o.Body, got); err != nil || !bytes.Equal(got, data[:100]) {
		t.Fatalf("first bytes: %v", err)
	}
	cancel()
	_, err = io.Copy(io.Discard, o.Body)
	wantErr(t, "Read after the end of ctx", err, context.Canceled)
}

func testLocalPath(t *testing.T, s origin.WriteStore) {
	local, ok := s.(origin.LocalStore)
	if !ok {
		return // an optional ability
	}
	data := Data(300<<10, 5)
	loc := put(t, s, "local", data)
	path, err := local.LocalPath(loc)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, data) {
		t.Errorf("%s has %d bytes, error %v; want %d", path, len(got), err, len(data))
	}
	_, err = local.LocalPath(origin.Location{URL: loc.URL, Validator: loc.Validator + "x"})
	wantErr(t, "LocalPath with another validator", err, origin.ErrChanged)
	_, err = local.LocalPath(s.Locate("nobody"))
	wantErr(t, "LocalPath of nothing", err, origin.ErrNotFound)
	_, err = local.LocalPath(origin.Location{URL: "gopher://other/key"})
	wantErr(t, "LocalPath of another store", err, origin.ErrLocation)
}
