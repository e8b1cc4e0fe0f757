package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"nearsight/origin"
	"nearsight/registry"
)

const (
	defaultRecords = 10_000
	defaultAbsent  = 10_000

	// The wait before the event stream is tried again grows from firstRetry to
	// lastRetry. It stays well below the 5 s in which a reader may believe that
	// it hears all events.
	firstRetry = 50 * time.Millisecond
	lastRetry  = 2 * time.Second
)

// RecordsOptions say what Records keeps and where it hears of changes. Images,
// Log and Events are required.
type RecordsOptions struct {
	Images registry.Images
	Log    registry.Log
	Events registry.Events
	// Size is how many records are kept, Absent how many ids that no image
	// has; 0 means 10,000 of each.
	Size, Absent int
	// Logger gets the failures of the event stream; nil means slog.Default().
	Logger *slog.Logger
}

// Records is registry.Images with a memory. It remembers records, and ids that
// no image has, for as long as Run follows the events, and forgets each before
// the change to it that it made itself returns, or when an event tells of a
// change. Without Run it remembers nothing. It is safe for concurrent use.
//
// What must never happen is that a record read before a change is remembered
// after the event of the change has passed. So every read is a load that is
// listed while it lasts; forgetting an id also strikes its load off the list,
// and only a load that is still listed when it ends is remembered. Those who
// already waited for it get what it read: their calls began before the change
// was known, so either answer is right. Who comes later begins a new one.
type Records struct {
	images registry.Images
	log    registry.Log
	events registry.Events
	logger *slog.Logger

	// generation is changes while everything is heard, and 0 otherwise. It is
	// set under mu.
	generation atomic.Uint64

	// Under mu, which is never held during a call.
	mu      sync.Mutex
	changes uint64 // how often something was forgotten
	live    bool   // Run hears every event
	known   *simplelru.LRU[string, *registry.Image]
	absent  *simplelru.LRU[string, struct{}]
	loads   map[string]*load
}

var _ registry.Images = (*Records)(nil)

// A load is one call to the registry and all who wait for it. What it holds is
// set before done is closed.
type load struct {
	done    chan struct{}
	img     *registry.Image
	err     error
	givenUp bool // by its caller's context: it says nothing about the image
}

// NewRecords returns an empty memory. It starts nothing.
func NewRecords(o RecordsOptions) *Records {
	if o.Size <= 0 {
		o.Size = defaultRecords
	}
	if o.Absent <= 0 {
		o.Absent = defaultAbsent
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	r := &Records{images: o.Images, log: o.Log, events: o.Events, logger: o.Logger, loads: make(map[string]*load)}
	r.known, _ = simplelru.NewLRU[string, *registry.Image](o.Size, nil) // fails only for sizes below 1
	r.absent, _ = simplelru.NewLRU[string, struct{}](o.Absent, nil)
	return r
}

// Get returns the image id, or registry.ErrNotFound. Concurrent calls for one
// image that is not remembered ask the registry once.
func (r *Records) Get(ctx context.Context, id string) (*registry.Image, error) {
	if !registry.ValidID(id) { // so that nobody fills the memory with nonsense
		return nil, registry.ErrNotFound
	}
	for {
		r.mu.Lock()
		if img, ok := r.known.Get(id); ok {
			r.mu.Unlock()
			return img, nil
		}
		if _, ok := r.absent.Get(id); ok {
			r.mu.Unlock()
			return nil, registry.ErrNotFound
		}
		l := r.loads[id]
		if l == nil {
			l = &load{done: make(chan struct{})}
			r.loads[id] = l
			r.mu.Unlock()
			r.load(ctx, id, l)
			return l.img, l.err
		}
		r.mu.Unlock()
		select {
		case <-l.done:
			if !l.givenUp {
				return l.img, l.err
			}
		case <-ctx.Done():
			return nil, fmt.Errorf("get image %s: %w", id, context.Cause(ctx))
		}
	}
}

// Remembered returns the record of image id if it is remembered now, or nil. What
// it returns stays so while Generation returns the same number.
func (r *Records) Remembered(id string) (img *registry.Image, generation uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	img, _ = r.known.Get(id)
	return img, r.generation.Load()
}

// Generation returns a number that is another one whenever something was
// forgotten, and 0 while changes are not heard of. Who saw the same number twice
// knows that what was remembered at the first time was still true at the second.
func (r *Records) Generation() uint64 { return r.generation.Load() }

// load asks the registry, for l and all who wait for it.
func (r *Records) load(ctx context.Context, id string, l *load) {
	l.givenUp = true // if the registry panics
	defer func() {
		r.mu.Lock()
		if r.loads[id] == l {
			delete(r.loads, id)
			switch {
			case !r.live:
			case l.err == nil && l.img != nil:
				r.known.Add(id, l.img)
			case errors.Is(l.err, registry.ErrNotFound):
				r.absent.Add(id, struct{}{})
			}
		}
		r.mu.Unlock()
		close(l.done)
	}()
	l.img, l.err = r.images.Get(ctx, id)
	l.givenUp = l.err != nil && ctx.Err() != nil
}

// List asks the registry: pages change with every image.
func (r *Records) List(ctx context.Context, q registry.Query) ([]*registry.Image, error) {
	return r.images.List(ctx, q)
}

// Manifest asks the registry: the cache keeps the manifests that it uses.
func (r *Records) Manifest(ctx context.Context, digest origin.Digest) ([]byte, error) {
	return r.images.Manifest(ctx, digest)
}

// Create implements registry.Images.
func (r *Records) Create(ctx context.Context, img *registry.Image) (*registry.Image, error) {
	if img.ID != "" {
		defer r.forget(img.ID) // also after an error: the commit may have happened
	}
	created, err := r.images.Create(ctx, img)
	if err == nil {
		r.forget(created.ID)
	}
	return created, err
}

// Update implements registry.Images.
func (r *Records) Update(ctx context.Context, id string, change func(*registry.Image) error) (*registry.Image, error) {
	defer r.forget(id)
	return r.images.Update(ctx, id, change)
}

// Delete implements registry.Images.
func (r *Records) Delete(ctx context.Context, id string, check func(*registry.Image) error) error {
	defer r.forget(id)
	return r.images.Delete(ctx, id, check)
}

// Uploads returns u, with r forgetting every image that it changes before the
// change returns.
func (r *Records) Uploads(u registry.Uploads) registry.Uploads { return uploads{u, r} }

type uploads struct {
	registry.Uploads
	records *Records
}

func (u uploads) Begin(ctx context.Context, id string, loc origin.Location) (*registry.Image, error) {
	defer u.records.forget(id)
	return u.Uploads.Begin(ctx, id, loc)
}

func (u uploads) Finish(ctx context.Context, id string, loc origin.Location, sum origin.Summary) (*registry.Image, error) {
	defer u.records.forget(id)
	return u.Uploads.Finish(ctx, id, loc, sum)
}

func (u uploads) Abort(ctx context.Context, id string, loc origin.Location) error {
	defer u.records.forget(id)
	return u.Uploads.Abort(ctx, id, loc)
}

// Stages returns s, with r forgetting every image that it changes before the
// change returns.
func (r *Records) Stages(s registry.Stages) registry.Stages { return stages{s, r} }

type stages struct {
	registry.Stages
	records *Records
}

func (s stages) BeginStage(ctx context.Context, id string, loc origin.Location) (*registry.Image, error) {
	defer s.records.forget(id)
	return s.Stages.BeginStage(ctx, id, loc)
}

func (s stages) FinishStage(ctx context.Context, id string, loc origin.Location, sum origin.Summary) (*registry.Image, error) {
	defer s.records.forget(id)
	return s.Stages.FinishStage(ctx, id, loc, sum)
}

func (s stages) Adopt(ctx context.Context, id string) (*registry.Image, error) {
	defer s.records.forget(id)
	return s.Stages.Adopt(ctx, id)
}

// Tasks returns t, with r forgetting every image that begins and ends of tasks
// change before the change returns.
func (r *Records) Tasks(t registry.Tasks) registry.Tasks { return tasks{t, r} }

type tasks struct {
	registry.Tasks
	records *Records
}

func (t tasks) AddTask(ctx context.Context, task *registry.Task, begin func(*registry.Image) error) (*registry.Task, error) {
	begin, forget := t.records.forgetting(begin)
	defer forget()
	return t.Tasks.AddTask(ctx, task, begin)
}

func (t tasks) EndTask(ctx context.Context, task *registry.Task, holder string, end func(*registry.Image) error) error {
	end, forget := t.records.forgetting(end)
	defer forget()
	return t.Tasks.EndTask(ctx, task, holder, end)
}

// forgetting returns change, which may be nil, and what forgets the image that it
// got, if it got one.
func (r *Records) forgetting(change func(*registry.Image) error) (_ func(*registry.Image) error, forget func()) {
	if change == nil {
		return nil, func() {}
	}
	var id string
	return func(img *registry.Image) error {
			id = img.ID
			return change(img)
		}, func() {
			if id != "" {
				r.forget(id)
			}
		}
}

// forget makes sure that nothing read before now is remembered about id.
func (r *Records) forget(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.changed()
	r.known.Remove(id)
	r.absent.Remove(id)
	delete(r.loads, id)
}

// changed moves the generation on. The caller holds mu.
func (r *Records) changed() {
	r.changes++
	if r.live {
		r.generation.Store(r.changes)
	} else {
		r.generation.Store(0)
	}
}

// setLive forgets everything, and says whether what is read from now on may be
// remembered.
func (r *Records) setLive(live bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.known.Purge()
	r.absent.Purge()
	clear(r.loads)
	r.live = live
	r.changed()
}

// Live reports whether Run hears the events, so that records are remembered.
func (r *Records) Live() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.live
}

// Run follows the events until ctx ends, and returns nil then. each, if not nil,
// is called with every event after its image was forgotten; it must not block.
// When the stream breaks, everything is forgotten and nothing remembered until
// it is heard again. An event may then come twice.
func (r *Records) Run(ctx context.Context, each func(registry.Event)) error {
	defer r.setLive(false)
	last, wait := int64(-1), firstRetry
	for {
		err := r.follow(ctx, &last, func(e registry.Event) {
			wait = firstRetry
			if each != nil {
				each(e)
			}
		})
		r.setLive(false)
		if ctx.Err() != nil {
			return nil
		}
		r.logger.Warn("the event stream broke; records are not kept until it is back", "revision", last, "err", err)
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return nil
		}
		wait = min(2*wait, lastRetry)
	}
}

// follow hears events until the stream breaks. *last is the revision of the
// latest one heard, negative before the first.
//
// The revision from which it watches is read before anything is remembered: so
// every later change of what is remembered has an event that will come.
func (r *Records) follow(ctx context.Context, last *int64, each func(registry.Event)) error {
	now, err := r.log.Revision(ctx)
	if err != nil {
		return fmt.Errorf("revision of the registry: %w", err)
	}
	if *last < 0 || now < *last { // the start, or a registry put back to an earlier state
		*last = now
	}
	r.setLive(true)
	for e, err := range r.events.Watch(ctx, *last) {
		if err != nil {
			return fmt.Errorf("watch events after %d: %w", *last, err)
		}
		r.forget(e.ImageID)
		*last = e.Revision
		each(e)
	}
	return errors.New("the event stream ended")
}
