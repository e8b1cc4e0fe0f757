package s3

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"nearsight/origin"
	"nearsight/origin/origintest"
)

func discard() *log.Logger { return log.New(io.Discard, "", 0) }

// Faults come in pairs: the request failed and nothing was done, or it was done
// and only the answer failed. Either way Put knows what became of the object.
func TestPutWhenRequestsFail(t *testing.T) {
	const small, large = 1000, 300_000
	for _, tt := range []struct {
		name   string
		n      int
		which  func(r *http.Request) bool
		done   bool // the work of the request
		times  int64
		status int // 0 breaks the connection
		code   string
		want   error
	}{
		{"a put is lost", small, isPut, false, 1, 0, "", nil},
		{"the answer to a put is lost", small, isPut, true, 1, 0, "", nil},
		{"the answers to all puts are lost", small, isPut, true, 99, 0, "", nil},
		{"a put is refused", small, isPut, false, 99, 403, "AccessDenied", origin.ErrUnavailable},
		{"a put is refused after it was done", small, isPut, true, 99, 403, "AccessDenied", nil},
		{"a full server", small, isPut, false, 99, 507, "", origin.ErrFull},
		{"a conflict about nothing", small, isPut, false, 99, 409, "ConditionalRequestConflict", origin.ErrUnavailable},
		{"the beginning is lost", large, isCreate, false, 1, 0, "", nil},
		{"the beginning is refused", large, isCreate, false, 99, 403, "AccessDenied", origin.ErrUnavailable},
		{"the answers to all beginnings are lost", large, isCreate, true, 99, 0, "", origin.ErrUnavailable},
		{"a part is lost", large, isPart, false, 1, 0, "", nil},
		{"the answer to a part is lost", large, isPart, true, 1, 0, "", nil},
		{"a part is answered with an error of the server", large, isPart, false, 2, 500, "InternalError", nil},
		{"a part is refused", large, isPart, false, 99, 403, "AccessDenied", origin.ErrUnavailable},
		{"a server grows full", large, isPart, false, 99, 400, "QuotaExceeded", origin.ErrFull},
		{"the end is lost", large, isComplete, false, 1, 0, "", nil},
		{"the answer to the end is lost", large, isComplete, true, 1, 0, "", nil},
		{"the end is refused", large, isComplete, false, 99, 400, "InvalidPart", origin.ErrUnavailable},
		{"the end is refused after it was done", large, isComplete, true, 99, 400, "InvalidPart", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel() // they wait between attempts
			f := newFake(t)
			s := openStore(t, f.options())
			s.o.PartSize = 64 << 10
			var failed atomic.Int64
			f.hook = func(w http.ResponseWriter, r *http.Request) bool {
				if !tt.which(r) || failed.Add(1) > tt.times {
					return false
				}
				if tt.done {
					f.answer(discarded{make(http.Header)}, r)
				} else {
					io.Copy(io.Discard, r.Body)
				}
				if tt.status == 0 {
					panic(http.ErrAbortHandler)
				}
				refuse(w, r, tt.status, tt.code)
				return true
			}
			data := origintest.Data(tt.n, 1)
			loc, err := s.Put(t.Context(), s.Locate("x"), -1, bytes.NewReader(data))
			if !errors.Is(err, tt.want) || err != nil && tt.want == nil {
				t.Fatalf("error %v; want %v", err, tt.want)
			}
			f.hook = nil
			objects, uploads := f.left()
			// An answer that is lost twice may have begun two uploads, and a
			// success has told of one: what the other left shows in a List.
			if uploads != 0 && !(err == nil && tt.done && tt.times == 1) {
				t.Errorf("%d uploads are left", uploads)
			}
			if err != nil {
				if objects != 0 {
					t.Errorf("%d objects are left", objects)
				}
				return
			}
			o, err := s.Open(t.Context(), loc, 0, -1)
			if err != nil {
				t.Fatal(err)
			}
			defer o.Body.Close()
			if got, err := io.ReadAll(o.Body); err != nil || !bytes.Equal(got, data) {
				t.Errorf("%d of %d bytes came back, error %v", len(got), len(data), err)
			}
		})
	}
}

// discarded is a ResponseWriter for an answer that is lost.
type discarded struct{ h http.Header }

func (d discarded) Header() http.Header         { return d.h }
func (d discarded) Write(p []byte) (int, error) { return len(p), nil }
func (d discarded) WriteHeader(int)             {}

// An object that appears while Put sends its own is left as it is, and is not
// taken for its own.
func TestAnObjectOfSomebodyElse(t *testing.T) {
	for _, n := range []int{1000, 300_000} {
		f := newFake(t)
		s := openStore(t, f.options())
		s.o.PartSize = 64 << 10
		theirs := &fakeObject{data: []byte("theirs"), etag: `"theirs"`, mark: "another"}
		loc := s.Locate("x")
		key, _ := s.key(loc)
		f.hook = func(w http.ResponseWriter, r *http.Request) bool {
			if isPut(r) || isComplete(r) {
				f.mu.Lock()
				f.objects[key] = theirs
				f.mu.Unlock()
			}
			return false
		}
		if _, err := s.Put(t.Context(), loc, -1, stream(make([]byte, n))); !errors.Is(err, origin.ErrExists) {
			t.Errorf("error %v; want %v", err, origin.ErrExists)
		}
		if _, uploads := f.left(); uploads != 0 || f.objects[key] != theirs {
			t.Errorf("%d uploads are left, and the object is %v", uploads, f.objects[key])
		}
	}
}

// What became of a request whose answer was lost is found out, also when the first
// question meets with what that request left in its connection.
func TestTheLookIsRepeated(t *testing.T) {
	for _, n := range []int{1000, 300_000} {
		f := newFake(t)
		s := hasty(openStore(t, f.options()))
		s.o.PartSize = 64 << 10
		var writes, looks atomic.Int64
		f.hook = func(w http.ResponseWriter, r *http.Request) bool {
			switch {
			case (isPut(r) || isComplete(r)) && writes.Add(1) == 1:
				f.answer(discarded{make(http.Header)}, r)
				panic(http.ErrAbortHandler)
			case r.Method == "HEAD" && writes.Load() > 0 && looks.Add(1) == 1:
				w.WriteHeader(http.StatusBadRequest)
				return true
			}
			return false
		}
		loc, err := s.Put(t.Context(), s.Locate("x"), -1, stream(make([]byte, n)))
		if err != nil {
			t.Errorf("%d bytes: %v", n, err)
		}
		if _, err := s.Stat(t.Context(), loc); err != nil {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
}

// An object whose answer nobody waits for any more does not stay.
func TestAnAnswerThatNeverComes(t *testing.T) {
	f := newFake(t)
	s := hasty(openStore(t, f.options()))
	ctx, cancel := context.WithCancel(t.Context())
	s.grace = 50 * time.Millisecond
	f.hook = func(w http.ResponseWriter, r *http.Request) bool {
		if !isPut(r) {
			return false
		}
		f.answer(discarded{make(http.Header)}, r)
		cancel()
		<-r.Context().Done()
		return true
	}
	if _, err := s.Put(ctx, s.Locate("x"), -1, stream([]byte("data"))); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v; want %v", err, context.Canceled)
	}
	if objects, _ := f.left(); objects != 0 {
		t.Errorf("%d objects are left", objects)
	}
}

// Once the object is about to appear, the end of the context does not leave in
// doubt whether it did.
func TestAContextThatEndsAtTheEnd(t *testing.T) {
	f := newFake(t)
	s := openStore(t, f.options())
	ctx, cancel := context.WithCancel(t.Context())
	f.hook = func(w http.ResponseWriter, r *http.Request) bool {
		if isPut(r) {
			cancel()
		}
		return false
	}
	loc, err := s.Put(ctx, s.Locate("x"), -1, stream([]byte("data")))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Stat(t.Context(), loc); err != nil {
		t.Error(err)
	}
}

// A lock is of one key, and who waits for it may give up.
func TestLocks(t *testing.T) {
	var l locks
	unlock, err := l.lock(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	other, err := l.lock(t.Context(), "b")
	if err != nil {
		t.Fatal(err)
	}
	other()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.lock(ctx, "a"); err != context.Canceled {
		t.Errorf("error %v; want %v", err, context.Canceled)
	}
	next := make(chan func())
	go func() {
		unlock, _ := l.lock(t.Context(), "a")
		next <- unlock
	}()
	unlock()
	(<-next)()
	if len(l.held) != 0 {
		t.Errorf("%d locks are kept", len(l.held))
	}
}

func BenchmarkPut(b *testing.B) {
	s := labStore(b, lab(b))
	data := origintest.Data(256*mib, 1)
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		loc, err := s.Put(b.Context(), s.Locate("bench"), -1, stream(data))
		if err == nil {
			err = s.Delete(b.Context(), loc)
		}
		if err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkOpen(b *testing.B) {
	s := labStore(b, lab(b))
	data := origintest.Data(256*mib, 1)
	loc, err := s.Put(b.Context(), s.Locate("bench"), -1, stream(data))
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		o, err := s.Open(b.Context(), loc, 0, -1)
		if err != nil {
			b.Fatal(err)
		}
		if n, err := io.Copy(io.Discard, o.Body); err != nil || n != int64(len(data)) {
			b.Fatalf("%d bytes, error %v", n, err)
		}
		o.Body.Close()
	}
}
