package proxy

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"nearsight/registry"
)

const (
	testStaleness = 5 * time.Second
	testIfError   = time.Minute
	testPrivate   = 20 * time.Second
)

// A world is a registry with a history, reached over a network that can fail: what is
// right for Records at any time follows from it.
type world struct {
	registry.Images

	mu       sync.Mutex
	revision int64
	events   []registry.Event
	pruned   int64 // up to this revision
	versions map[string][]version
	down     bool  // nothing is answered: registry.ErrUnavailable
	silent   bool  // nothing is answered at all, until it is over or a client gives up
	lag      int64 // by how many revisions reads are late
	changed  chan struct{}
	lastDown time.Time
}

// A version of an image was right from a time on. A nil record: it was deleted.
type version struct {
	from time.Time
	img  *registry.Image
}

func newWorld() *world {
	w := &world{versions: map[string][]version{}, changed: make(chan struct{})}
	w.change(idA, registry.Public)
	w.change(idB, registry.Private)
	return w
}

// wake tells all who wait that something is different. The caller holds mu.
func (w *world) wake() {
	close(w.changed)
	w.changed = make(chan struct{})
}

func (w *world) commit(id string, img *registry.Image, kind registry.EventKind) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if v := w.versions[id]; len(v) > 0 && v[len(v)-1].img == nil {
		return // it is gone for good
	}
	w.revision++
	if img != nil {
		img.Revision = w.revision
	}
	w.versions[id] = append(w.versions[id], version{time.Now(), img})
	w.events = append(w.events, registry.Event{Revision: w.revision, ImageID: id, Kind: kind})
	w.wake()
}

func (w *world) change(id string, v registry.Visibility) {
	w.commit(id, &registry.Image{ID: id, Visibility: v}, registry.EventUpdate)
}

func (w *world) set(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.down || w.silent {
		w.lastDown = time.Now()
	}
	f()
	if w.down || w.silent {
		w.lastDown = time.Now()
	}
	w.wake()
}

var errDown = fmt.Errorf("the network is down: %w", registry.ErrUnavailable)

// reach returns when the registry answers, with mu held, or an error without.
func (w *world) reach(ctx context.Context) error {
	patience := time.After(5 * time.Second)
	for {
		w.mu.Lock()
		if !w.silent {
			break
		}
		changed := w.changed
		w.mu.Unlock()
		select {
		case <-changed:
		case <-patience:
			return errDown
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if w.down {
		w.mu.Unlock()
		return errDown
	}
	return nil
}

func (w *world) Get(ctx context.Context, id string) (*registry.Image, error) {
	if err := w.reach(ctx); err != nil {
		return nil, err
	}
	defer w.mu.Unlock()
	all := w.versions[id]
	if len(all) == 0 || all[len(all)-1].img == nil {
		return nil, registry.ErrNotFound
	}
	i := len(all) - 1
	for i > 0 && all[i].img.Revision > w.revision-w.lag {
		i--
	}
	img := *all[i].img
	return &img, nil
}

func (w *world) Revision(ctx context.Context) (int64, error) {
	if err := w.reach(ctx); err != nil {
		return 0, err
	}
	defer w.mu.Unlock()
	return w.revision, nil
}

func (w *world) Since(context.Context, int64, int) ([]registry.Event, error) {
	return nil, errors.New("nobody asks for it")
}

// Watch brings events at once, and a sign of life every second.
func (w *world) Watch(ctx context.Context, last int64) iter.Seq2[registry.Event, error] {
	return func(yield func(registry.Event, error) bool) {
		last := last
		for {
			if err := w.reach(ctx); err != nil {
				if ctx.Err() == nil {
					yield(registry.Event{}, err)
				}
				return
			}
			events, pruned, changed := w.events[min(last, w.revision):], w.pruned, w.changed
			w.mu.Unlock()
			if last < pruned {
				yield(registry.Event{}, registry.ErrTooOld)
				return
			}
			for _, e := range events {
				if !yield(e, nil) {
					return
				}
				last = e.Revision
			}
			if len(events) > 0 {
				continue
			}
			select {
			case <-changed:
				continue
			case <-time.After(time.Second):
			case <-ctx.Done():
				return
			}
			w.mu.Lock()
			alive := !w.silent && !w.down && w.revision == last
			w.mu.Unlock()
			if alive && !yield(registry.Event{Revision: last}, nil) {
				return
			}
		}
	}
}

// A judge asks Records for images and knows what it may answer.
type judge struct {
	*world
	t       *testing.T
	records *Records
	seen    map[string]int64 // the latest revision answered
	gone    map[string]bool  // it was answered that there is none
	late    bool             // reads were late at some time
}

func (j *judge) ask(id string) {
	began := time.Now()
	img, err := j.records.Get(j.t.Context(), id)
	j.mu.Lock()
	defer j.mu.Unlock()
	all := j.versions[id]
	switch {
	case errors.Is(err, registry.ErrNotFound):
		if all[len(all)-1].img != nil {
			j.t.Fatalf("image %s is not found, and is there", id)
		}
		j.gone[id] = true
		return
	case err != nil:
		ours := j.down || j.silent || j.late || time.Since(j.lastDown) < provePatience+proveAgain
		if !errors.Is(err, registry.ErrUnavailable) || !ours {
			j.t.Fatalf("image %s: %v", id, err)
		}
		return
	}
	if img.Revision < j.seen[id] || j.gone[id] {
		j.t.Fatalf("image %s goes back to revision %d from %d; gone: %v", id, img.Revision, j.seen[id], j.gone[id])
	}
	j.seen[id] = img.Revision
	if j.late {
		return // how late its answers are is not for Records to know
	}
	for i, v := range all[:len(all)-1] {
		if v.img == nil || v.img.Revision != img.Revision {
			continue
		}
		allowed := testStaleness
		if j.down || j.silent || time.Since(j.lastDown) < provePatience+proveAgain {
			allowed = testPrivate
			if img.Visibility == registry.Public {
				allowed = testIfError
			}
			allowed = max(allowed, testStaleness) + provePatience
		}
		if wrong := began.Sub(all[i+1].from); wrong > allowed {
			j.t.Fatalf("image %s at revision %d has been wrong for %v; allowed are %v", id, img.Revision, wrong, allowed)
		}
	}
}

// settled makes sure that Records knows what is, once nothing is in its way.
func (j *judge) settled() {
	j.set(func() { j.down, j.silent, j.lag = false, false, 0 })
	time.Sleep(10 * time.Second)
	synctest.Wait()
	if !j.records.Live() {
		j.t.Fatalf("nothing is in the way, and the events are not heard: %+v", j.records.State())
	}
	j.late = false
	for id, all := range j.versions {
		img, err := j.records.Get(j.t.Context(), id)
		is := all[len(all)-1].img
		if is == nil && !errors.Is(err, registry.ErrNotFound) || is != nil && (err != nil || img.Revision != is.Revision) {
			j.t.Fatalf("image %s is %+v, %v; it should be %+v", id, img, err, is)
		}
	}
}

// play does what the bytes say, and asks all the time.
func play(t *testing.T, script []byte) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		r := NewRecords(RecordsOptions{
			Images: w, Log: w, Events: w, MaxStaleness: testStaleness, StaleIfError: testIfError, StaleIfErrorPrivate: testPrivate,
			Logger: slog.New(slog.DiscardHandler),
		})
		j := &judge{world: w, t: t, records: r, seen: map[string]int64{}, gone: map[string]bool{}}
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { r.Run(ctx, nil) })
		defer running.Wait()
		defer cancel()
		defer j.set(func() { j.silent = false })
		synctest.Wait()
		ids := []string{idA, idB}
		for _, b := range script {
			id := ids[b>>4&1]
			switch b & 15 {
			case 0, 1:
				w.change(id, []registry.Visibility{registry.Public, registry.Private}[b>>5&1])
			case 2:
				if b>>5 == 7 { // rarely: it is for good
					w.commit(id, nil, registry.EventDelete)
				}
			case 3:
				w.set(func() { w.down = !w.down })
			case 4:
				w.set(func() { w.silent = !w.silent })
			case 5:
				if w.pruned == 0 { // afterwards nobody knows what late reads are late against
					w.set(func() { w.lag = int64(b >> 5) })
					j.late = j.late || b>>5 > 0
				}
			case 6:
				if !j.late {
					w.set(func() { w.pruned = w.revision })
				}
			case 7:
				r.forget(id)
			case 8:
				r.broke(errors.New("cut"))
			case 9, 10:
				time.Sleep(time.Duration(b>>4) * time.Second)
			case 11:
				time.Sleep(time.Duration(b) * 100 * time.Millisecond)
			case 12:
				synctest.Wait()
			case 13:
				var both sync.WaitGroup
				both.Go(func() { r.Get(ctx, id) })
				j.ask(id)
				both.Wait()
			default:
				j.ask(id)
			}
		}
		j.settled()
	})
}

func FuzzRecordsKeepTheirPromises(f *testing.F) {
	f.Add([]byte{14, 0, 14, 12, 14})                                 // a change
	f.Add([]byte{14, 3, 0, 14, 0x6b, 14, 3, 14, 12, 14})             // one in an outage
	f.Add([]byte{14, 4, 0, 0xab, 14, 14, 0xff, 0xff, 14, 4, 14})     // one behind a silent network
	f.Add([]byte{14, 0xe2, 12, 14, 3, 14, 3, 14})                    // a deletion
	f.Add([]byte{14, 0, 0, 0x65, 12, 14, 14, 5, 14})                 // late reads
	f.Add([]byte{14, 3, 0, 6, 0xab, 3, 14, 12, 14})                  // events are not kept any more
	f.Add([]byte{30, 3, 0xfb, 30, 0xfb, 30, 0xfb, 30, 0x10, 3, 30})  // a private image in a long outage
	f.Add([]byte{14, 8, 14, 0, 14, 9, 14, 7, 14, 13, 0, 13, 12, 13}) // a broken stream
	f.Fuzz(func(t *testing.T, script []byte) {
		play(t, script[:min(len(script), 300)])
	})
}

func TestRecordsKeepTheirPromisesWhateverHappens(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 1))
		script := make([]byte, 200)
		for i := range script {
			script[i] = byte(r.Uint32())
		}
		play(t, script)
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}
