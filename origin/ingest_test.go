package origin_test

import (
	"bytes"
	"context"
	"crypto/md5"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/iotest"

	"go.uber.org/goleak"

	"nearsight/origin"
	"nearsight/origin/file"
	"nearsight/origin/origintest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// summary is what Ingest must find out, by the plain way.
func summary(data []byte) origin.Summary {
	m5, s512 := md5.Sum(data), sha512.Sum512(data)
	m := &origin.Manifest{Size: int64(len(data))}
	for b := data; len(b) > 0; {
		n := min(int(origin.ChunkSize(m.Size)), len(b))
		sum := sha256.Sum256(b[:n])
		m.Sums = append(m.Sums, sum[:]...)
		b = b[n:]
	}
	return origin.Summary{
		Size: m.Size, MD5: hex.EncodeToString(m5[:]), SHA512: hex.EncodeToString(s512[:]),
		Manifest: m.Encode(), Digest: origin.DigestOf(m.Encode()),
	}
}

func diff(got, want origin.Summary) string {
	if !bytes.Equal(got.Manifest, want.Manifest) {
		return "other manifest"
	}
	if got.Size != want.Size || got.MD5 != want.MD5 || got.SHA512 != want.SHA512 || got.Digest != want.Digest {
		return fmt.Sprintf("%+v; want %+v", got, want)
	}
	return ""
}

func stored(t *testing.T, s origin.Store, loc origin.Location) []byte {
	t.Helper()
	o, err := s.Open(t.Context(), loc, 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer o.Body.Close()
	b, err := io.ReadAll(o.Body)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// A raggedReader reads a random part of what it could, and now and then nothing.
type raggedReader struct {
	r   io.Reader
	rnd *rand.Rand
	max int
}

func (r raggedReader) Read(b []byte) (int, error) {
	return r.r.Read(b[:min(len(b), r.rnd.IntN(r.max+1))])
}

func TestIngestFindsWhatThePlainWayFinds(t *testing.T) {
	const k = 1 << 10
	rnd := rand.New(rand.NewPCG(1, 2))
	sizes := []int{0, 1, 256*k - 1, 256 * k, 256*k + 1, 1024 * k, 3*1024*k + 7}
	for range 12 {
		sizes = append(sizes, rnd.IntN(5<<20))
	}
	for i, n := range sizes {
		data := origintest.Data(n, uint64(i))
		want := summary(data)
		for _, size := range []int64{int64(n), -1} {
			// Bounds that are never met, just met, and passed.
			for _, maxSums := range []int{origin.MaxChunks, origin.Chunks(int64(n)), max(origin.Chunks(int64(n))-1, 0), 0} {
				var s origintest.Fake
				r := raggedReader{bytes.NewReader(data), rnd, 1 + rnd.IntN(600*k)}
				loc, got, err := origin.IngestMaxSums(t.Context(), &s, s.Locate("i"), size, r, maxSums)
				if err != nil {
					t.Fatalf("%d bytes, size %d, at most %d sums: %v", n, size, maxSums, err)
				}
				if d := diff(got, want); d != "" {
					t.Errorf("%d bytes, size %d, at most %d sums: %s", n, size, maxSums, d)
				}
				reads := int64(0)
				if size < 0 && maxSums < origin.Chunks(int64(n)) {
					reads = 1
				}
				if s.Opens.Load() != reads || s.Puts.Load() != 1 {
					t.Errorf("%d bytes, size %d, at most %d sums: %d puts, %d opens; want 1, %d", n, size, maxSums, s.Puts.Load(), s.Opens.Load(), reads)
				}
				if loc.Validator == "" || !bytes.Equal(stored(t, &s, loc), data) {
					t.Errorf("%d bytes, size %d: stored at %+v as other bytes", n, size, loc)
				}
			}
		}
	}
}

// A putStore has its own way of putting.
type putStore struct {
	*origintest.Fake
	put func(ctx context.Context, loc origin.Location, size int64, r io.Reader) (origin.Location, error)
}

func (s putStore) Put(ctx context.Context, loc origin.Location, size int64, r io.Reader) (origin.Location, error) {
	return s.put(ctx, loc, size, r)
}

func TestIngestFailures(t *testing.T) {
	const n = 3<<20 + 5
	data := origintest.Data(n, 1)
	broken := errors.New("client went away")
	at := func(n int64) *int64 { return &n }
	cut := func(at int, err error) io.Reader {
		return io.MultiReader(bytes.NewReader(data[:at]), iotest.ErrReader(err))
	}
	for _, tt := range []struct {
		name   string
		size   int64
		r      io.Reader // nil: data
		faults origintest.Faults
		max    int // sums; 0: no bound
		want   error
		not    error
		text   string
	}{
		{name: "the body is shorter", size: n + 1, want: origin.ErrSize, not: origin.ErrRead, text: "expected 3145734 bytes, received 3145733"},
		{name: "the body is longer", size: n - 1, want: origin.ErrSize, not: origin.ErrRead, text: "expected 3145732 bytes, received at least 3145733"},
		{name: "the body is not empty", size: 0, want: origin.ErrSize, text: "expected 0 bytes"},
		{name: "the body is empty", size: n, r: strings.NewReader(""), want: origin.ErrSize, text: "received 0"},
		{name: "the client leaves at once", size: n, r: cut(0, broken), want: broken, text: origin.ErrRead.Error()},
		{name: "the client leaves in the middle", size: n, r: cut(1<<20+1, broken), want: broken, text: "after 1048577 bytes"},
		{name: "the client leaves at the end", size: n, r: cut(n, broken), want: broken, text: origin.ErrRead.Error()},
		{name: "a chunked body is cut", size: -1, r: cut(1<<20+1, io.ErrUnexpectedEOF), want: origin.ErrRead, text: "unexpected EOF"},
		{name: "the store is full", size: n, faults: origintest.Faults{Put: origin.ErrFull}, want: origin.ErrFull, not: origin.ErrRead},
		{name: "the object exists", size: -1, faults: origintest.Faults{Put: origin.ErrExists}, want: origin.ErrExists, not: origin.ErrRead},
		{name: "it cannot be read back", size: -1, max: 2, faults: origintest.Faults{Open: origin.ErrUnavailable}, want: origin.ErrUnavailable},
		{name: "reading back ends early", size: -1, max: 2, faults: origintest.Faults{Cut: at(1 << 20)}, want: io.ErrUnexpectedEOF, not: origin.ErrRead},
		{name: "other bytes are read back", size: -1, max: 2, faults: origintest.Faults{Flip: []int64{5}}, want: origin.ErrChanged},
		{name: "fewer bytes are read back", size: -1, max: 2, faults: origintest.Faults{Shift: 1}, want: origin.ErrChanged},
		{name: "it cannot be deleted then", size: -1, max: 2, faults: origintest.Faults{Flip: []int64{5}, Delete: origin.ErrUnavailable}, want: origin.ErrChanged, not: origin.ErrUnavailable, text: "could not be deleted: store unavailable"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var s origintest.Fake
			s.Inject(tt.faults)
			if tt.r == nil {
				tt.r = bytes.NewReader(data)
			}
			if tt.max == 0 {
				tt.max = origin.MaxChunks
			}
			at := s.Locate("i")
			loc, sum, err := origin.IngestMaxSums(t.Context(), &s, at, tt.size, tt.r, tt.max)
			if !errors.Is(err, tt.want) || tt.not != nil && errors.Is(err, tt.not) || err != nil && !strings.Contains(err.Error(), tt.text) {
				t.Errorf("error %v; want %v, not %v, saying %q", err, tt.want, tt.not, tt.text)
			}
			if left := s.Len(); left != 0 && tt.faults.Delete == nil {
				t.Errorf("%d objects are left", left)
			}
			if loc != at || sum.Manifest != nil {
				t.Errorf("it returned %+v and a summary of %d bytes besides", loc, sum.Size)
			}
		})
	}
}

// A cut at any byte leaves nothing in a real store.
func TestIngestCutLeavesNoFile(t *testing.T) {
	s, err := file.Open(file.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	const n = 600 << 10
	data := origintest.Data(n, 1)
	rnd := rand.New(rand.NewPCG(3, 4))
	for range 60 {
		cut := rnd.IntN(n + 1)
		for _, size := range []int64{n, -1} {
			loc := s.Locate("i")
			r := io.MultiReader(bytes.NewReader(data[:cut]), iotest.ErrReader(io.ErrUnexpectedEOF))
			if _, _, err := origin.Ingest(t.Context(), s, loc, size, r); !errors.Is(err, origin.ErrRead) {
				t.Fatalf("cut at %d: error %v", cut, err)
			}
			if _, err := s.Stat(t.Context(), loc); !errors.Is(err, origin.ErrNotFound) {
				t.Fatalf("cut at %d: afterwards, Stat says %v", cut, err)
			}
		}
	}
}

func TestIngestStopsWhenTheStoreFails(t *testing.T) {
	var s origintest.Fake
	failing := putStore{&s, func(_ context.Context, loc origin.Location, _ int64, r io.Reader) (origin.Location, error) {
		io.CopyN(io.Discard, r, 1<<20)
		return loc, origin.ErrFull
	}}
	sent := &endless{}
	_, _, err := origin.Ingest(t.Context(), failing, s.Locate("i"), -1, sent)
	if !errors.Is(err, origin.ErrFull) {
		t.Errorf("error %v; want %v", err, origin.ErrFull)
	}
	// What was stored, the blocks that were under way, and one that was begun.
	if most := int64(1<<20 + 2<<20 + 256<<10); sent.n > most {
		t.Errorf("%d bytes were read from the client; want at most %d", sent.n, most)
	}
}

// An endless reader counts what it yields.
type endless struct{ n int64 }

func (r *endless) Read(b []byte) (int, error) {
	r.n += int64(len(b))
	return len(b), nil
}

// A store that does not read to the end has not stored the data.
func TestIngestDistrustsAStoreThatStopsReading(t *testing.T) {
	var s origintest.Fake
	for _, size := range []int64{10 << 20, -1} {
		lazy := putStore{&s, func(ctx context.Context, loc origin.Location, _ int64, r io.Reader) (origin.Location, error) {
			return s.Put(ctx, loc, -1, io.LimitReader(r, 1<<20))
		}}
		_, _, err := origin.Ingest(t.Context(), lazy, s.Locate("i"), size, io.LimitReader(new(endless), 10<<20))
		if !errors.Is(err, origin.ErrUnavailable) || s.Len() != 0 {
			t.Errorf("error %v, %d objects; want %v and none", err, s.Len(), origin.ErrUnavailable)
		}
	}
}

func TestIngestEndsWithItsContext(t *testing.T) {
	gone := errors.New("server stops")
	for _, tt := range []struct {
		name string
		s    func(f *origintest.Fake, cancel func()) origin.WriteStore
		r    func(cancel func()) io.Reader
		max  int
	}{
		{
			name: "before it began",
			s:    func(f *origintest.Fake, cancel func()) origin.WriteStore { cancel(); return f },
		},
		{
			name: "while the client sends",
			r: func(cancel func()) io.Reader {
				return readerFunc(func(b []byte) (int, error) { cancel(); return len(b), nil })
			},
		},
		{
			name: "while the store hangs",
			s: func(f *origintest.Fake, cancel func()) origin.WriteStore {
				return putStore{f, func(ctx context.Context, loc origin.Location, _ int64, r io.Reader) (origin.Location, error) {
					io.CopyN(io.Discard, r, 1<<20)
					cancel()
					<-ctx.Done()
					return loc, ctx.Err()
				}}
			},
		},
		{
			name: "after the store has it",
			s: func(f *origintest.Fake, cancel func()) origin.WriteStore {
				return putStore{f, func(ctx context.Context, loc origin.Location, size int64, r io.Reader) (origin.Location, error) {
					defer cancel()
					return f.Put(ctx, loc, size, r)
				}}
			},
			r: func(func()) io.Reader { return io.LimitReader(new(endless), 3<<20) },
		},
		{
			name: "while it is read back",
			s: func(f *origintest.Fake, cancel func()) origin.WriteStore {
				f.Inject(origintest.Faults{Gate: origintest.NewGate(1 << 20)})
				return openStore{f, cancel}
			},
			r:   func(func()) io.Reader { return io.LimitReader(new(endless), 3<<20) },
			max: 1,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			stop := func() { cancel(gone) }
			var f origintest.Fake
			var s origin.WriteStore = &f
			if tt.s != nil {
				s = tt.s(&f, stop)
			}
			var r io.Reader = new(endless)
			if tt.r != nil {
				r = tt.r(stop)
			}
			if tt.max == 0 {
				tt.max = origin.MaxChunks
			}
			_, _, err := origin.IngestMaxSums(ctx, s, f.Locate("i"), -1, r, tt.max)
			if !errors.Is(err, gone) && !errors.Is(err, context.Canceled) {
				t.Errorf("error %v; want %v", err, gone)
			}
			if f.Len() != 0 {
				t.Error("an object is left")
			}
		})
	}
}

// An openStore calls opened when it is read.
type openStore struct {
	*origintest.Fake
	opened func()
}

func (s openStore) Open(ctx context.Context, loc origin.Location, off, n int64) (*origin.Object, error) {
	defer s.opened()
	return s.Fake.Open(ctx, loc, off, n)
}

type readerFunc func(b []byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }

// HTTP transports may read a body after the request has failed.
func TestIngestBodyOutlivesPut(t *testing.T) {
	var s origintest.Fake
	var kept io.Reader
	failing := putStore{&s, func(_ context.Context, loc origin.Location, _ int64, r io.Reader) (origin.Location, error) {
		kept = r
		io.CopyN(io.Discard, r, 100)
		return loc, origin.ErrUnavailable
	}}
	if _, _, err := origin.Ingest(t.Context(), failing, s.Locate("i"), -1, new(endless)); !errors.Is(err, origin.ErrUnavailable) {
		t.Fatal(err)
	}
	if n, err := kept.Read(make([]byte, 100)); n != 0 || err == nil || err == io.EOF {
		t.Errorf("a late Read yields %d bytes and %v", n, err)
	}
}

func TestIngestAtOnce(t *testing.T) {
	s, err := file.Open(file.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	errs := make(chan error)
	const n = 6
	for i := range n {
		go func() {
			data := origintest.Data(2<<20+i, uint64(i))
			_, got, err := origin.Ingest(t.Context(), s, s.Locate("i"), -1, bytes.NewReader(data))
			if d := ""; err == nil {
				if d = diff(got, summary(data)); d != "" {
					err = errors.New(d)
				}
			}
			errs <- err
		}()
	}
	for range n {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

// A discardStore takes everything and keeps nothing.
func discardStore() origin.WriteStore {
	return putStore{new(origintest.Fake), func(_ context.Context, loc origin.Location, _ int64, r io.Reader) (origin.Location, error) {
		_, err := io.Copy(io.Discard, r)
		return loc, err
	}}
}

func BenchmarkIngest(b *testing.B) {
	const size = 64 << 20
	noise := make([]byte, size)
	for i := 0; i < size; i += 8 {
		noise[i] = byte(i>>3) | 1
	}
	files, err := file.Open(file.Options{Dir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	for _, bb := range []struct {
		name string
		s    origin.WriteStore
		data []byte
	}{
		{"discard", discardStore(), noise},
		{"file", files, noise},
		{"file of zeros", files, make([]byte, size)},
	} {
		b.Run(bb.name, func(b *testing.B) {
			b.SetBytes(size)
			b.ReportAllocs()
			for b.Loop() {
				loc, _, err := origin.Ingest(b.Context(), bb.s, bb.s.Locate("bench"), size, bytes.NewReader(bb.data))
				if err != nil {
					b.Fatal(err)
				}
				if err := bb.s.Delete(b.Context(), loc); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
