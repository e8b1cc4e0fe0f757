package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"testing"

	"nearsight/origin"
	"nearsight/origin/origintest"
)

// A gated writer stops after some bytes until it is let go on.
type gated struct {
	b             bytes.Buffer // not embedded: its ReadFrom would go round Write
	after         int
	reached, pass chan struct{}
	passed        bool
}

func newGated(after int) *gated {
	return &gated{after: after, reached: make(chan struct{}), pass: make(chan struct{})}
}

func (w *gated) Write(p []byte) (int, error) {
	if !w.passed && w.b.Len() >= w.after {
		w.passed = true
		close(w.reached)
		<-w.pass
	}
	return w.b.Write(p)
}

// reader opens im for a test.
func reader(t *testing.T, c *Cache, im *image) *Reader {
	t.Helper()
	r, err := c.Get(t.Context(), im.digest, im.size(), im)
	must(t, err)
	t.Cleanup(func() { r.Close() })
	return r
}

// wantRight fails the test unless b is how the image begins.
func wantRight(t *testing.T, b []byte, im *image) {
	t.Helper()
	if !bytes.Equal(b, im.data[:len(b)]) {
		t.Error("wrong bytes")
	}
}

// A file that was dropped and made anew may get the inode of the old one, with
// holes where that had data.
func TestADroppedFileIsNotTakenForItsSuccessor(t *testing.T) {
	for range 5 {
		c := temp(t, Options{})
		im := newImage(20*chunk, 50)
		wantAll(t, c, im)
		settle(c)
		r := reader(t, c, im)
		_, err := r.Ready(t.Context(), 0, im.size())
		must(t, err)
		must(t, c.Drop(im.digest))
		reader(t, c, im) // makes the file anew
		var b bytes.Buffer
		n, err := r.Send(t.Context(), &b, 0, im.size())
		if err != nil || n != im.size() {
			t.Errorf("%d bytes, %v", n, err)
		}
		wantRight(t, b.Bytes(), im)
	}
}

func TestAnotherClientDoesNotHealAFileUnderAReader(t *testing.T) {
	c := temp(t, Options{})
	im := newImage(64*chunk, 51)
	wantAll(t, c, im)
	settle(c)
	r := reader(t, c, im)
	w := newGated(chunk)
	done := make(chan error, 1)
	go func() { _, err := r.Send(t.Context(), w, 0, im.size()); done <- err }()
	<-w.reached
	must(t, os.Truncate(r.e.path(dataSuffix), 5*chunk))
	reader(t, c, im) // finds the file cut, and gets another
	close(w.pass)
	must(t, <-done)
	if w.b.Len() != len(im.data) {
		t.Errorf("%d bytes", w.b.Len())
	}
	wantRight(t, w.b.Bytes(), im)
}

func TestAFileThatTookAnInodeOverIsNoticed(t *testing.T) {
	c := temp(t, Options{OpenFiles: 1})
	im, other, third := newImage(20*chunk, 52), newImage(20*chunk, 53), newImage(20*chunk, 54)
	wantAll(t, c, im)
	wantAll(t, c, third) // takes the one place for idle descriptors
	settle(c)
	e, err := c.known(im.digest)
	must(t, err)
	must(t, os.Remove(e.path(dataSuffix)))
	must(t, os.WriteFile(e.path(dataSuffix), other.data, 0o600))
	wantAll(t, c, im)
}

func TestAReadErrorOfTheDiskIsARefetch(t *testing.T) {
	c := temp(t, Options{})
	im := newImage(3*chunk, 55)
	wantAll(t, c, im)
	settle(c)
	e, err := c.known(im.digest)
	must(t, err)
	df := e.data.Load()
	c.files.drop(df)
	f, err := os.OpenFile(df.path, os.O_WRONLY, 0) // reading from it fails
	must(t, err)
	c.files.add(df, f).release()
	wantAll(t, c, im)
	wantAll(t, c, im)
	if n := im.Bytes.Load() - im.size(); n > chunk {
		t.Errorf("%d bytes fetched again for one chunk that could not be read", n)
	}
}

func TestADiskThatCanBeWrittenAgainIsUsedAgain(t *testing.T) {
	c := temp(t, Options{})
	im := newImage(3*chunk, 56)
	e, err := c.entry(im.digest)
	must(t, err)
	must(t, os.Mkdir(e.path(dataSuffix), 0o700)) // in the way of the data file
	wantAll(t, c, im)
	if df := e.data.Load(); !df.none || c.Stats().WriteErrors == 0 {
		t.Fatal("the file could be made")
	}
	must(t, os.Remove(e.path(dataSuffix)))
	e.data.Load().tried.Store(0) // long ago
	wantAll(t, c, im)
	before := im.Bytes.Load()
	wantAll(t, c, im)
	if im.Bytes.Load() != before {
		t.Error("nothing was kept")
	}
}

func TestManifestsOfIdleEntriesMakeRoom(t *testing.T) {
	c := temp(t, Options{Budget: 2 << 20})
	for i := range 300 {
		wantAll(t, c, newImage(100, uint64(1000+i)))
		settle(c)
	}
	im := newImage(chunk, 57)
	for range 3 {
		wantAll(t, c, im)
		settle(c)
	}
	if im.Opens.Load() != 1 {
		t.Errorf("%d opens for three reads of one chunk", im.Opens.Load())
	}
	if used := diskUse(t, c.path); used > 2<<20 {
		t.Errorf("%d bytes on disk", used)
	}
}

func TestARangeDoesNotWaitForTheFillBeforeIt(t *testing.T) {
	c := temp(t, Options{})
	im := newImage(64*chunk, 58)
	gate := origintest.NewGate(2 * chunk)
	im.Inject(origintest.Faults{Gate: gate})
	done := make(chan error, 1)
	go func() { _, err := get(c, im, 0, im.size()); done <- err }()
	<-gate.Reached
	im.Inject(origintest.Faults{})
	want(t, c, im, 50*chunk, 10) // while chunk 2 is held
	close(gate.Pass)
	must(t, <-done)
	if n := im.Bytes.Load(); n != im.size() {
		t.Errorf("%d bytes fetched, want each once: %d", n, im.size())
	}
}

// Two images have the same data, and one of them lost its location.
func TestAReaderTriesItsOwnSourceAfterAForeignFailure(t *testing.T) {
	c := temp(t, Options{})
	a, b := newImage(60*chunk, 59), newImage(60*chunk, 59)
	gate := origintest.NewGate(2 * chunk)
	a.Inject(origintest.Faults{Gate: gate, Cut: new(int64(2*chunk + 5))})
	failed := make(chan error, 1)
	go func() { _, err := get(c, a, 0, a.size()); failed <- err }()
	<-gate.Reached
	a.Inject(origintest.Faults{Open: origin.ErrNotFound})
	w := newGated(chunk) // passes after a chunk that is there: then it waits for a's fill
	close(w.pass)
	done := make(chan error, 1)
	r := reader(t, c, b)
	go func() { _, err := r.Send(t.Context(), w, 0, b.size()); done <- err }()
	<-w.reached
	close(gate.Pass)
	must(t, <-done)
	wantRight(t, w.b.Bytes(), b)
	if err := <-failed; !errors.Is(err, origin.ErrNotFound) {
		t.Errorf("a's own reader: %v", err)
	}
}

// hanging is a source whose manifest does not come until it is let.
type hanging struct {
	*image
	asked chan struct{}
	pass  chan struct{}
	err   error
	n     atomic.Int64
}

func (h *hanging) Manifest(ctx context.Context) ([]byte, error) {
	if h.n.Add(1) == 1 {
		close(h.asked)
	}
	<-h.pass
	if h.err != nil {
		return nil, h.err
	}
	return h.image.Manifest(ctx)
}

func TestAManifestThatDoesNotComeHoldsUpNobodyElse(t *testing.T) {
	dir := t.TempDir()
	old := newImage(40*chunk, 60)
	c := open(t, dir, Options{Budget: 12 << 20})
	wantAll(t, c, old)
	settle(c)
	e, err := c.known(old.digest)
	must(t, err)
	c.Close()
	must(t, os.Remove(e.path(manifestSuffix)))

	c = open(t, dir, Options{Budget: 12 << 20})
	defer c.Close()
	src := &hanging{image: old, asked: make(chan struct{}), pass: make(chan struct{}), err: origin.ErrUnavailable}
	const clients = 10
	done := make(chan error, clients)
	for range clients {
		go func() {
			_, err := c.Get(context.Background(), old.digest, old.size(), src)
			done <- err
		}()
	}
	<-src.asked
	if n := len(c.List()); n != 1 {
		t.Errorf("%d entries", n)
	}
	wantAll(t, c, newImage(20*chunk, 61)) // needs the room that the old entry takes up
	close(src.pass)
	for range clients {
		if err := <-done; !errors.Is(err, origin.ErrUnavailable) {
			t.Errorf("got %v", err)
		}
	}
	if n := src.n.Load(); n >= clients {
		t.Errorf("the manifest was asked for %d times by %d clients at once", n, clients)
	}
	if n := len(c.List()); n != 1 {
		t.Errorf("%d entries, want the failed requests to leave none", n)
	}
}

func TestCloseDropsNothing(t *testing.T) {
	dir := t.TempDir()
	old := newImage(4*chunk, 62)
	c := open(t, dir, Options{})
	wantAll(t, c, old)
	settle(c)
	c.Close()
	c = open(t, dir, Options{})
	e, err := c.known(old.digest)
	must(t, err)
	c.Close()
	if c.openColdest() {
		t.Error("opened an entry after Close")
	}
	if _, err := os.Stat(e.path(dataSuffix)); err != nil {
		t.Error(err)
	}
}

// Zeros at the beginning are not sent before it is known that a source has the rest;
// only once, and not if there is no rest.
func TestLeadingZerosWaitForAnAnswer(t *testing.T) {
	lost := fmt.Errorf("lost: %w", origin.ErrNotFound)
	zero := make([]int, 0, 70)
	for i := range 70 { // more than an extent
		zero = append(zero, i)
	}
	im := newImage(100*chunk, 1, zero...)
	ready := func(c *Cache, off, n int64) error {
		r, err := c.Get(t.Context(), im.digest, im.size(), im)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		_, err = r.Ready(t.Context(), off, n)
		return err
	}
	for _, off := range []int64{0, 17, 69 * chunk} {
		c := temp(t, Options{})
		im.Inject(origintest.Faults{Open: lost})
		if err := ready(c, off, im.size()-off); !errors.Is(err, origin.ErrNotFound) {
			t.Errorf("from %d: error %v, want %v", off, err, lost)
		}
		opens := im.Opens.Load()
		if err := ready(c, off, 70*chunk-off); err != nil || im.Opens.Load() != opens {
			t.Errorf("zeros alone from %d: error %v, %d opens", off, err, im.Opens.Load()-opens)
		}
		im.Inject(origintest.Faults{})
		want(t, c, im, off, im.size()-off)
		im.Inject(origintest.Faults{Open: lost})
		if err := ready(c, 0, im.size()); err != nil {
			t.Errorf("what is here already, from %d: %v", off, err)
		}
	}
}
