package task

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"nearsight/origin"
	"nearsight/origin/origintest"
	"nearsight/registry"
	"nearsight/registry/db"
)

// Books are a registry whose calls can be made to fail before or after they did
// their work.
type books struct {
	*db.DB
	mu       sync.Mutex
	fault    error
	done     bool // the work, nevertheless
	times    int  // that it fails
	calls    map[string]int
	after    func() // is called after a copy began
	renewing error  // of every renewal of a lease
}

// newBooks opens an empty registry.
func newBooks(t *testing.T) *books {
	t.Helper()
	d, err := db.Open(t.Context(), db.Options{Path: filepath.Join(t.TempDir(), "registry.db"), Grace: -1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return &books{DB: d, calls: map[string]int{}}
}

func (b *books) fail(times int, err error, done bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fault, b.times, b.done = err, times, done
}

func (b *books) count(call string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.calls[call]
}

// meet does f with the fault that is due.
func (b *books) meet(call string, f func() error) error {
	b.mu.Lock()
	b.calls[call]++
	due, done, fault := b.times > 0, b.done, b.fault
	b.times--
	b.mu.Unlock()
	if due && !done {
		return fault
	}
	if err := f(); err != nil {
		return err
	}
	if due {
		return fault
	}
	return nil
}

func (b *books) Hashed(ctx context.Context, id string, loc origin.Location, sum origin.Summary) (img *registry.Image, err error) {
	err = b.meet("hashed", func() error {
		img, err = b.DB.Hashed(ctx, id, loc, sum)
		return err
	})
	return img, err
}

func (b *books) AddLocation(ctx context.Context, id string, loc origin.Location, size int64, metadata map[string]string) (img *registry.Image, err error) {
	err = b.meet("add", func() error {
		img, err = b.DB.AddLocation(ctx, id, loc, size, metadata)
		return err
	})
	return img, err
}

func (b *books) BeginCopy(ctx context.Context, id string, loc origin.Location) error {
	err := b.meet("begin copy", func() error { return b.DB.BeginCopy(ctx, id, loc) })
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.after != nil {
		b.after()
	}
	return err
}

func (b *books) Finish(ctx context.Context, id string, loc origin.Location, sum origin.Summary) (img *registry.Image, err error) {
	err = b.meet("finish", func() error {
		img, err = b.DB.Finish(ctx, id, loc, sum)
		return err
	})
	return img, err
}

func (b *books) Adopt(ctx context.Context, id string) (img *registry.Image, err error) {
	err = b.meet("adopt", func() error {
		img, err = b.DB.Adopt(ctx, id)
		return err
	})
	return img, err
}

func (b *books) EndTask(ctx context.Context, t *registry.Task, holder string, end func(*registry.Image) error) error {
	return b.meet("end task", func() error { return b.DB.EndTask(ctx, t, holder, end) })
}

// errHangs has a call wait for the end of its context.
var errHangs = errors.New("no answer")

func (b *books) RenewTask(ctx context.Context, id, holder string, d time.Duration, message string, result json.RawMessage) error {
	b.mu.Lock()
	b.calls["renew task"]++
	fault := b.renewing
	b.mu.Unlock()
	if fault == errHangs {
		<-ctx.Done()
		return ctx.Err()
	}
	if fault != nil {
		return fault
	}
	return b.DB.RenewTask(ctx, id, holder, d, message, result)
}

func (b *books) Unhashed(ctx context.Context, after string, limit int) (images []*registry.Image, err error) {
	err = b.meet("unhashed", func() error {
		images, err = b.DB.Unhashed(ctx, after, limit)
		return err
	})
	return images, err
}

// register makes an active image without a digest at loc.
func (b *books) register(t *testing.T, loc origin.Location) string {
	t.Helper()
	img, err := b.Create(t.Context(), &registry.Image{DiskFormat: "raw", ContainerFormat: "bare"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.DB.AddLocation(t.Context(), img.ID, loc, -1, nil); err != nil {
		t.Fatal(err)
	}
	return img.ID
}

// upload makes an active image with data in s.
func (b *books) upload(t *testing.T, s origin.WriteStore, data []byte) *registry.Image {
	t.Helper()
	ctx := t.Context()
	img, err := b.Create(ctx, &registry.Image{DiskFormat: "raw", ContainerFormat: "bare"})
	if err != nil {
		t.Fatal(err)
	}
	loc := s.Locate(img.ID)
	if _, err := b.Begin(ctx, img.ID, loc); err != nil {
		t.Fatal(err)
	}
	loc, sum, err := origin.Ingest(ctx, s, loc, int64(len(data)), bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	if img, err = b.Finish(ctx, img.ID, loc, sum); err != nil {
		t.Fatal(err)
	}
	return img
}

func (b *books) get(t *testing.T, id string) *registry.Image {
	t.Helper()
	img, err := b.Get(context.WithoutCancel(t.Context()), id)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// wantHashed checks that the image has the digest of data.
func (b *books) wantHashed(t *testing.T, id string, data []byte) {
	t.Helper()
	img := b.get(t, id)
	if img.Digest != digestOf(t, data) || img.Size == nil || *img.Size != int64(len(data)) {
		t.Errorf("digest %q, size %v; want those of %d bytes", img.Digest, img.Size, len(data))
	}
}

func digestOf(t *testing.T, data []byte) origin.Digest {
	t.Helper()
	var s origintest.Fake
	_, sum, err := origin.Ingest(context.Background(), &s, s.Locate("x"), -1, bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	return sum.Digest
}

// noise returns n bytes, the same for the same seed.
func noise(seed uint64, n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(seed)})
	r.Read(b)
	return b
}

// A logged is a log that is looked at.
type logged struct {
	mu    sync.Mutex
	lines []string
}

func (l *logged) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelInfo}))
}

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, string(b))
	return len(b), nil
}

// with returns how many lines have the text.
func (l *logged) with(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for _, line := range l.lines {
		if strings.Contains(line, text) {
			n++
		}
	}
	return n
}

func (l *logged) all() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(slices.Clone(l.lines), "")
}

// runTask runs a part of a server until the test ends.
func runTask(t *testing.T, run func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// A flaky store cuts the bodies of its Opens at given places, and notes where they
// began.
type flaky struct {
	*origintest.Fake
	mu       sync.Mutex
	cuts     []int64 // of the next Opens, counted from the object's start; 0: none
	offsets  []int64
	openErr  error
	noRanges bool
	noTags   bool
}

func (f *flaky) Open(ctx context.Context, loc origin.Location, off, n int64) (*origin.Object, error) {
	f.mu.Lock()
	f.offsets = append(f.offsets, off)
	var cut int64
	if len(f.cuts) > 0 {
		cut, f.cuts = f.cuts[0], f.cuts[1:]
	}
	openErr, noRanges, noTags := f.openErr, f.noRanges, f.noTags
	f.mu.Unlock()
	if openErr != nil {
		return nil, openErr
	}
	if noRanges {
		off = 0
	}
	o, err := f.Fake.Open(ctx, loc, off, n)
	if err != nil {
		return nil, err
	}
	if cut > 0 {
		o.Body = &cutBody{ReadCloser: o.Body, left: max(cut-off, 0)}
	}
	if noTags {
		o.Validator = ""
	}
	return o, nil
}

func (f *flaky) set(openErr error, cuts ...int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.openErr, f.cuts, f.offsets = openErr, cuts, nil
}

func (f *flaky) seen() []int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.offsets)
}

type cutBody struct {
	io.ReadCloser
	left int64
}

func (c *cutBody) Read(p []byte) (int, error) {
	if c.left == 0 {
		return 0, io.ErrUnexpectedEOF
	}
	n, err := c.ReadCloser.Read(p[:min(int64(len(p)), c.left)])
	c.left -= int64(n)
	return n, err
}
