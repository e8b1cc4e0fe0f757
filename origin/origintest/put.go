package origintest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"sync"
	"testing"
	"testing/iotest"

	"nearsight/origin"
)

// What the suite asks of Put and Delete.

func testExists(t *testing.T, s origin.WriteStore) {
	loc := put(t, s, "exists", []byte("the first"))
	for _, size := range []int64{10, -1} {
		_, err := s.Put(t.Context(), origin.Location{URL: loc.URL}, size, bytes.NewReader([]byte("the second")))
		wantErr(t, "Put over an object", err, origin.ErrExists)
	}
	if _, got := read(t, s, loc, 0, -1); string(got) != "the first" {
		t.Errorf("after the second Put it reads %q", got)
	}
}

func testRace(t *testing.T, s origin.WriteStore) {
	loc := s.Locate("raced")
	const n = 8
	var wg sync.WaitGroup
	locs, errs := make([]origin.Location, n), make([]error, n)
	for i := range n {
		wg.Go(func() {
			data := Data(100<<10, uint64(i))
			locs[i], errs[i] = s.Put(t.Context(), loc, int64(len(data)), bytes.NewReader(data))
		})
	}
	wg.Wait()
	won := -1
	for i, err := range errs {
		switch {
		case err == nil && won < 0:
			won = i
		case err == nil:
			t.Fatalf("Put %d and %d both won", won, i)
		default:
			wantErr(t, "Put that lost", err, origin.ErrExists)
		}
	}
	if won < 0 {
		t.Fatal("no Put won")
	}
	if _, got := read(t, s, locs[won], 0, -1); !bytes.Equal(got, Data(100<<10, uint64(won))) {
		t.Error("the object is not what the winner wrote")
	}
}

func testWrongSize(t *testing.T, s origin.WriteStore) {
	const n = 100 << 10
	for _, size := range []int64{0, 1, n - 1, n + 1, math.MaxInt64} {
		loc := s.Locate("wrong")
		_, err := s.Put(t.Context(), loc, size, bytes.NewReader(Data(n, 1)))
		wantErr(t, fmt.Sprintf("Put of %d bytes as %d", n, size), err, origin.ErrSize)
		wantNothing(t, s, loc)
	}
}

func testCutReader(t *testing.T, s origin.WriteStore) {
	const n = 300 << 10
	data := Data(n, 2)
	for _, cut := range []int{0, 1, 4096, 64<<10 - 1, 64 << 10, 256<<10 - 1, 256 << 10, n - 1, n} {
		for _, size := range []int64{n, -1} {
			// The second is what cut HTTP bodies say, and no end of anything.
			for _, cause := range []error{errors.New("client went away"), io.ErrUnexpectedEOF} {
				loc := s.Locate("cut")
				r := io.MultiReader(bytes.NewReader(data[:cut]), iotest.ErrReader(cause))
				_, err := s.Put(t.Context(), loc, size, r)
				wantErr(t, fmt.Sprintf("Put cut at %d", cut), err, cause)
				wantNothing(t, s, loc)
			}
		}
	}
}

// A hookReader yields zeros and calls hook before every Read.
type hookReader struct {
	left int
	hook func(left int)
}

func (r *hookReader) Read(b []byte) (int, error) {
	r.hook(r.left)
	if r.left == 0 {
		return 0, io.EOF
	}
	n := min(len(b), r.left, 32<<10)
	clear(b[:n])
	b[0] = 1
	r.left -= n
	return n, nil
}

func testInvisible(t *testing.T, s origin.WriteStore) {
	loc := s.Locate("invisible")
	const n = 1 << 20
	loc, err := s.Put(t.Context(), loc, n, &hookReader{n, func(left int) {
		if _, err := s.Stat(t.Context(), loc); !errors.Is(err, origin.ErrNotFound) {
			t.Errorf("with %d bytes to come, Stat says %v", left, err)
		}
		if _, err := s.Open(t.Context(), loc, 0, 1); !errors.Is(err, origin.ErrNotFound) {
			t.Errorf("with %d bytes to come, Open says %v", left, err)
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	if o, _ := read(t, s, loc, 0, -1); o.Size != n {
		t.Errorf("size %d; want %d", o.Size, n)
	}
}

func testCancelPut(t *testing.T, s origin.WriteStore) {
	const n = 4 << 20
	for _, at := range []int{n, n / 2, 64 << 10} { // bytes still to come
		loc := s.Locate("cancelled")
		ctx, cancel := context.WithCancel(t.Context())
		_, err := s.Put(ctx, loc, n, &hookReader{n, func(left int) {
			if left <= at {
				cancel()
			}
		}})
		cancel()
		wantErr(t, "Put", err, context.Canceled)
		wantNothing(t, s, loc)
	}
}

func testDelete(t *testing.T, s origin.WriteStore) {
	loc, other := put(t, s, "deleted", []byte("x")), put(t, s, "kept", []byte("y"))
	for range 3 {
		if err := s.Delete(t.Context(), loc); err != nil {
			t.Fatalf("Delete: %v", err)
		}
		_, err := s.Stat(t.Context(), loc)
		wantErr(t, "Stat", err, origin.ErrNotFound)
	}
	wantNothing(t, s, loc)
	if _, got := read(t, s, other, 0, -1); string(got) != "y" {
		t.Errorf("the other object reads %q", got)
	}
}

func testDeleteWhileReading(t *testing.T, s origin.WriteStore) {
	data := Data(1<<20, 4)
	loc := put(t, s, "deleted", data)
	o, err := s.Open(t.Context(), loc, 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer o.Body.Close()
	if err := s.Delete(t.Context(), loc); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(o.Body)
	if !bytes.Equal(got, data[:len(got)]) || err == nil && len(got) != len(data) {
		t.Errorf("body yields %d of %d bytes, and error %v", len(got), len(data), err)
	}
}

func testConcurrent(t *testing.T, s origin.WriteStore) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for i := range 8 {
		wg.Go(func() {
			for j := range 4 {
				data := Data(150<<10, uint64(100*i+j))
				loc, err := s.Put(t.Context(), s.Locate("concurrent"), -1, bytes.NewReader(data))
				if err != nil {
					t.Errorf("Put: %v", err)
					return
				}
				var readers sync.WaitGroup
				for k := range 4 {
					readers.Go(func() {
						off := int64(k * 40 << 10)
						o, err := s.Open(t.Context(), loc, off, -1)
						if err != nil {
							t.Errorf("Open: %v", err)
							return
						}
						defer o.Body.Close()
						if got, err := io.ReadAll(o.Body); err != nil || !bytes.Equal(got, data[min(off, int64(len(data))):]) {
							t.Errorf("wrong bytes from %d on, error %v", off, err)
						}
					})
				}
				readers.Wait()
				if err := s.Delete(t.Context(), loc); err != nil {
					t.Errorf("Delete: %v", err)
				}
			}
		})
	}
}
