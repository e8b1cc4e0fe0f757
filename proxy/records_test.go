package proxy

import (
	"context"
	"errors"
	"iter"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"nearsight/origin"
	"nearsight/registry"
)

const (
	idA = "aaaaaaaa-0000-4000-8000-000000000001"
	idB = "bbbbbbbb-0000-4000-8000-000000000002"
)

// fakeImages is a registry of names that counts what it is asked. A call to Get
// that finds gate set reads first, says so there, and returns when it is closed.
type fakeImages struct {
	registry.Images
	gets atomic.Int64

	mu   sync.Mutex
	name map[string]string
	revs map[string]int64 // of the images
	rev  int64
	err  error
	gate *gate
}

type gate struct{ reached, pass chan struct{} }

func newGate() *gate { return &gate{make(chan struct{}, 8), make(chan struct{})} }

func (f *fakeImages) Get(ctx context.Context, id string) (*registry.Image, error) {
	f.gets.Add(1)
	f.mu.Lock()
	name, ok := f.name[id]
	rev := f.revs[id]
	gate, err := f.gate, f.err
	f.mu.Unlock()
	if gate != nil {
		gate.reached <- struct{}{}
		select {
		case <-gate.pass:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	switch {
	case err != nil:
		return nil, err
	case !ok:
		return nil, registry.ErrNotFound
	}
	return &registry.Image{ID: id, Name: &name, Revision: rev}, nil
}

func (f *fakeImages) set(id, name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.name[id] = name
	f.rev++
	f.revs[id] = f.rev
}

func (f *fakeImages) setGate(g *gate) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.gate = g
}

func (f *fakeImages) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = err
}

func (f *fakeImages) Create(_ context.Context, img *registry.Image) (*registry.Image, error) {
	f.set(img.ID, *img.Name)
	return img, nil
}

func (f *fakeImages) Update(_ context.Context, id string, change func(*registry.Image) error) (*registry.Image, error) {
	f.mu.Lock()
	name := f.name[id]
	f.mu.Unlock()
	img := &registry.Image{ID: id, Name: &name}
	if err := change(img); err != nil {
		return nil, err
	}
	f.set(id, *img.Name)
	return img, nil
}

func (f *fakeImages) Delete(_ context.Context, id string, _ func(*registry.Image) error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.name, id)
	return nil
}

func (f *fakeImages) Revision(context.Context) (int64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.rev, nil
}

func (f *fakeImages) Since(context.Context, int64, int) ([]registry.Event, error) { return nil, nil }

// fakeEvents says on watching from which revision it is watched, and yields what
// comes by feed: an event, or an error.
type fakeEvents struct {
	watching chan int64
	feed     chan any
}

func newFakeEvents() *fakeEvents { return &fakeEvents{make(chan int64), make(chan any)} }

func (f *fakeEvents) Watch(ctx context.Context, revision int64) iter.Seq2[registry.Event, error] {
	return func(yield func(registry.Event, error) bool) {
		select {
		case f.watching <- revision:
		case <-ctx.Done():
			return
		}
		for {
			select {
			case v := <-f.feed:
				if err, ok := v.(error); ok {
					yield(registry.Event{}, err)
					return
				}
				if !yield(v.(registry.Event), nil) {
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}
}

// A memory is Records over fakes, with Run running.
type memory struct {
	*Records
	images *fakeImages
	events *fakeEvents
	heard  chan registry.Event // after each was dealt with
}

func newMemory(t *testing.T) memory {
	m := memory{images: &fakeImages{name: map[string]string{}, revs: map[string]int64{}}, events: newFakeEvents(), heard: make(chan registry.Event)}
	m.Records = NewRecords(RecordsOptions{
		Images: m.images, Log: m.images, Events: m.events, Logger: slog.New(slog.DiscardHandler),
	})
	return m
}

// run starts Run and waits until it watches.
func (m memory) run(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		done <- m.Run(ctx, func(e registry.Event) {
			select {
			case m.heard <- e:
			case <-ctx.Done():
			}
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
		if m.Live() {
			t.Error("records are remembered after Run ended")
		}
	})
	<-m.events.watching
}

// get returns the name of an image, or "" if there is none.
func (m memory) get(t *testing.T, id string) string {
	t.Helper()
	img, err := m.Get(t.Context(), id)
	if errors.Is(err, registry.ErrNotFound) {
		return ""
	}
	if err != nil {
		t.Fatalf("get %s: %v", id, err)
	}
	return *img.Name
}

// want checks a name, and how often the registry was asked so far.
func (m memory) want(t *testing.T, id, name string, gets int64) {
	t.Helper()
	if got := m.get(t, id); got != name {
		t.Errorf("image %s is %q, want %q", id, got, name)
	}
	if got := m.images.gets.Load(); got != gets {
		t.Errorf("the registry was asked %d times, want %d", got, gets)
	}
}

func TestARecordIsReadOnce(t *testing.T) {
	m := newMemory(t)
	m.images.set(idA, "one")
	m.run(t)
	m.want(t, idA, "one", 1)
	m.want(t, idA, "one", 1)
}

func TestAnUnknownIDIsAskedForOnce(t *testing.T) {
	m := newMemory(t)
	m.run(t)
	m.want(t, idA, "", 1)
	m.want(t, idA, "", 1)
}

func TestWhatIsNoIDIsNotAskedFor(t *testing.T) {
	m := newMemory(t)
	m.run(t)
	m.want(t, "nope", "", 0)
}

func TestAFailureIsNotRemembered(t *testing.T) {
	m := newMemory(t)
	m.images.set(idA, "one")
	m.run(t)
	m.images.fail(registry.ErrUnavailable)
	if _, err := m.Get(t.Context(), idA); !errors.Is(err, registry.ErrUnavailable) {
		t.Fatalf("got %v", err)
	}
	m.images.fail(nil)
	m.want(t, idA, "one", 2)
}

func TestNothingIsRememberedBeforeEventsAreHeard(t *testing.T) {
	m := newMemory(t)
	m.images.set(idA, "one")
	m.want(t, idA, "one", 1)
	m.want(t, idA, "one", 2)
}

func TestAnEventForgetsItsImageOnly(t *testing.T) {
	m := newMemory(t)
	m.images.set(idA, "one")
	m.images.set(idB, "two")
	m.run(t)
	m.want(t, idA, "one", 1)
	m.want(t, idB, "two", 2)
	m.images.set(idA, "new")
	m.events.feed <- registry.Event{Revision: 3, ImageID: idA, Kind: registry.EventUpdate}
	<-m.heard
	m.want(t, idB, "two", 2)
	m.want(t, idA, "new", 3)
}

func TestAnEventForgetsThatAnIDIsUnknown(t *testing.T) {
	m := newMemory(t)
	m.run(t)
	m.want(t, idA, "", 1)
	m.images.set(idA, "one")
	m.events.feed <- registry.Event{Revision: 1, ImageID: idA, Kind: registry.EventCreate}
	<-m.heard
	m.want(t, idA, "one", 2)
}

func TestABrokenStreamIsWatchedFromWhereItBroke(t *testing.T) {
	m := newMemory(t)
	m.images.set(idA, "one")
	m.images.set(idB, "two")
	m.run(t)
	m.events.feed <- registry.Event{Revision: 3, ImageID: idB, Kind: registry.EventUpdate}
	<-m.heard
	m.want(t, idA, "one", 1)
	m.images.set(idB, "three")
	m.images.set(idA, "four")
	m.events.feed <- errors.New("cut")
	if from := <-m.events.watching; from != 3 {
		t.Errorf("watched from %d, want 3", from)
	}
	m.want(t, idA, "four", 2) // the event has not come yet
	m.want(t, idA, "four", 3)
	m.events.feed <- registry.Event{Revision: 4, ImageID: idA, Kind: registry.EventUpdate}
	<-m.heard
	m.want(t, idA, "four", 4)
	m.want(t, idA, "four", 4)
}

func TestARegistryPutBackIsWatchedFromItsEnd(t *testing.T) {
	m := newMemory(t)
	m.images.set(idA, "one")
	m.run(t)
	m.events.feed <- registry.Event{Revision: 2, ImageID: idA, Kind: registry.EventDelete}
	<-m.heard
	m.want(t, idA, "", 0)
	m.events.feed <- errors.New("the log ends before")
	if from := <-m.events.watching; from != 1 {
		t.Errorf("watched from %d, want 1", from)
	}
	m.want(t, idA, "one", 1)
}

func TestOwnWritesAreReadAtOnce(t *testing.T) {
	m := newMemory(t)
	m.run(t)
	ctx := t.Context()
	m.want(t, idA, "", 1)
	name := "one"
	if _, err := m.Create(ctx, &registry.Image{ID: idA, Name: &name}); err != nil {
		t.Fatal(err)
	}
	m.want(t, idA, "one", 2)
	_, err := m.Update(ctx, idA, func(img *registry.Image) error { *img.Name = "two"; return nil })
	if err != nil {
		t.Fatal(err)
	}
	m.want(t, idA, "two", 3)
	if err := m.Delete(ctx, idA, nil); err != nil {
		t.Fatal(err)
	}
	m.want(t, idA, "", 4)
}

// fakeUploads changes the name of an image with every step.
type fakeUploads struct {
	registry.Uploads
	images *fakeImages
}

func (f fakeUploads) Begin(_ context.Context, id string, _ origin.Location) (*registry.Image, error) {
	f.images.set(id, "begun")
	return nil, nil
}

func (f fakeUploads) Finish(_ context.Context, id string, _ origin.Location, _ origin.Summary) (*registry.Image, error) {
	f.images.set(id, "finished")
	return nil, nil
}

func (f fakeUploads) Abort(_ context.Context, id string, _ origin.Location) error {
	f.images.set(id, "aborted")
	return nil
}

func TestTheStepsOfAnUploadAreReadAtOnce(t *testing.T) {
	m := newMemory(t)
	m.images.set(idA, "queued")
	m.run(t)
	u := m.Uploads(fakeUploads{images: m.images})
	m.want(t, idA, "queued", 1)
	u.Begin(t.Context(), idA, origin.Location{})
	m.want(t, idA, "begun", 2)
	u.Finish(t.Context(), idA, origin.Location{}, origin.Summary{})
	m.want(t, idA, "finished", 3)
	u.Abort(t.Context(), idA, origin.Location{})
	m.want(t, idA, "aborted", 4)
}

// fakeWork changes the name of an image with every step of its staging and tasks.
type fakeWork struct {
	registry.Stages
	registry.Tasks
	images *fakeImages
}

func (f fakeWork) BeginStage(_ context.Context, id string, _ origin.Location) (*registry.Image, error) {
	f.images.set(id, "begun")
	return nil, nil
}

func (f fakeWork) FinishStage(_ context.Context, id string, _ origin.Location, _ origin.Summary) (*registry.Image, error) {
	f.images.set(id, "staged")
	return nil, nil
}

func (f fakeWork) Adopt(_ context.Context, id string) (*registry.Image, error) {
	f.images.set(id, "adopted")
	return nil, nil
}

func (f fakeWork) AddTask(_ context.Context, t *registry.Task, begin func(*registry.Image) error) (*registry.Task, error) {
	if begin == nil {
		return t, nil
	}
	defer f.images.set(t.ImageID, "importing")
	return t, begin(&registry.Image{ID: t.ImageID})
}

func (f fakeWork) EndTask(_ context.Context, _ *registry.Task, _ string, end func(*registry.Image) error) error {
	if end == nil {
		return nil
	}
	defer f.images.set(idA, "ended")
	return end(&registry.Image{ID: idA})
}

func TestTheStepsOfAnImportAreReadAtOnce(t *testing.T) {
	m := newMemory(t)
	m.images.set(idA, "queued")
	m.run(t)
	ctx := t.Context()
	fake := fakeWork{images: m.images}
	stages, tasks := m.Stages(fake), m.Tasks(fake)
	nothing := func(*registry.Image) error { return nil }
	m.want(t, idA, "queued", 1)
	stages.BeginStage(ctx, idA, origin.Location{})
	m.want(t, idA, "begun", 2)
	stages.FinishStage(ctx, idA, origin.Location{}, origin.Summary{})
	m.want(t, idA, "staged", 3)
	tasks.AddTask(ctx, &registry.Task{ImageID: idA}, nothing)
	m.want(t, idA, "importing", 4)
	stages.Adopt(ctx, idA)
	m.want(t, idA, "adopted", 5)
	tasks.EndTask(ctx, &registry.Task{}, "holder", nothing) // who ends it need not name the image
	m.want(t, idA, "ended", 6)
	tasks.EndTask(ctx, &registry.Task{}, "holder", func(*registry.Image) error { return errors.New("not heard of") })
	m.want(t, idA, "ended", 7)
	tasks.AddTask(ctx, &registry.Task{ImageID: idA}, nil)
	tasks.EndTask(ctx, &registry.Task{}, "holder", nil)
	m.want(t, idA, "ended", 7)
}

// getLater starts a Get and returns where its name will come.
func (m memory) getLater(ctx context.Context, id string) <-chan string {
	got := make(chan string, 1)
	go func() {
		img, err := m.Get(ctx, id)
		if err != nil {
			got <- "error: " + err.Error()
			return
		}
		got <- *img.Name
	}()
	return got
}

func TestAReadThatAnEventOvertookIsNotRemembered(t *testing.T) {
	m := newMemory(t)
	m.images.set(idA, "old")
	m.run(t)
	g := newGate()
	m.images.setGate(g)
	early := m.getLater(t.Context(), idA)
	<-g.reached // it has read the old name
	m.images.setGate(nil)
	m.images.set(idA, "new")
	m.events.feed <- registry.Event{Revision: 2, ImageID: idA, Kind: registry.EventUpdate}
	<-m.heard
	m.want(t, idA, "new", 2) // and does not join the early read
	close(g.pass)
	if got := <-early; got != "new" { // no earlier record is answered with after it
		t.Errorf("the early read got %q", got)
	}
	m.want(t, idA, "new", 2)
}

func TestAReadThatAnOwnWriteOvertookIsNotRemembered(t *testing.T) {
	m := newMemory(t)
	m.images.set(idA, "old")
	m.run(t)
	g := newGate()
	m.images.setGate(g)
	early := m.getLater(t.Context(), idA)
	<-g.reached
	m.images.setGate(nil)
	if err := m.Delete(t.Context(), idA, nil); err != nil {
		t.Fatal(err)
	}
	close(g.pass)
	<-early
	m.want(t, idA, "", 2)
}

func TestAReadFromBeforeTheFirstWatchIsNotRemembered(t *testing.T) {
	m := newMemory(t)
	m.images.set(idA, "old")
	g := newGate()
	m.images.setGate(g)
	early := m.getLater(t.Context(), idA)
	<-g.reached
	m.images.setGate(nil)
	m.images.set(idA, "new") // before the revision from which is watched: no event will come
	m.run(t)
	close(g.pass)
	<-early
	m.want(t, idA, "new", 2)
}

func TestConcurrentReadsOfOneImageAreOne(t *testing.T) {
	m := newMemory(t)
	m.images.set(idA, "one")
	m.run(t)
	g := newGate()
	m.images.setGate(g)
	var got []<-chan string
	for range 20 {
		got = append(got, m.getLater(t.Context(), idA))
	}
	<-g.reached
	close(g.pass)
	for _, c := range got {
		if name := <-c; name != "one" {
			t.Errorf("got %q", name)
		}
	}
	if n := m.images.gets.Load(); n != 1 {
		t.Errorf("the registry was asked %d times", n)
	}
}

func TestAReaderThatLeavesFailsNobodyElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(t)
		m.images.set(idA, "one")
		g := newGate()
		m.images.setGate(g)
		ctx, cancel := context.WithCancel(t.Context())
		leader := m.getLater(ctx, idA)
		synctest.Wait()
		follower := m.getLater(t.Context(), idA)
		synctest.Wait()
		if n := m.images.gets.Load(); n != 1 {
			t.Errorf("the registry was asked %d times before the first reader left", n)
		}
		cancel()
		if got := <-leader; got != "error: context canceled" {
			t.Errorf("the first reader got %q", got)
		}
		close(g.pass)
		if name := <-follower; name != "one" {
			t.Errorf("the second got %q", name)
		}
	})
}

func TestAFollowerLeavesWhenItsContextEnds(t *testing.T) {
	m := newMemory(t)
	m.images.set(idA, "one")
	m.run(t)
	g := newGate()
	m.images.setGate(g)
	leader := m.getLater(t.Context(), idA)
	<-g.reached
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := m.Get(ctx, idA); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	close(g.pass)
	<-leader
}

func TestRecordsGoWhenThereAreTooMany(t *testing.T) {
	m := newMemory(t)
	m.Records = NewRecords(RecordsOptions{Images: m.images, Log: m.images, Events: m.events, Size: 1, Absent: 1})
	m.images.set(idA, "one")
	m.images.set(idB, "two")
	m.run(t)
	m.want(t, idA, "one", 1)
	m.want(t, idB, "two", 2)
	m.want(t, idA, "one", 3)
}

// What is remembered is never older than what was there when the read began.
func TestRecordsUnderARaceOfReadsAndEvents(t *testing.T) {
	m := newMemory(t)
	m.images.set(idA, "0000")
	m.run(t)
	var settled atomic.Value // the latest name whose event was dealt with
	settled.Store("0000")
	ctx, cancel := context.WithCancel(t.Context())
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			for ctx.Err() == nil {
				least := settled.Load().(string)
				img, err := m.Get(t.Context(), idA)
				if err != nil || *img.Name < least {
					t.Errorf("got %v %v, want %s or later", img, err, least)
					return
				}
			}
		})
	}
	for i := range 500 {
		name := string([]byte{'0' + byte(i/1000%10), '0' + byte(i/100%10), '0' + byte(i/10%10), '0' + byte(i%10)})
		m.images.set(idA, name)
		m.events.feed <- registry.Event{Revision: int64(i) + 2, ImageID: idA, Kind: registry.EventUpdate}
		<-m.heard
		settled.Store(name)
	}
	cancel()
	readers.Wait()
}
