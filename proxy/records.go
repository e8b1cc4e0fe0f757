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

	// provePatience is how long a record that is remembered waits to be proved, and
	// proveAgain how long the others do without after that failed: a registry that
	// cannot be reached must not slow down what is served without it.
	provePatience = 2 * time.Second
	proveAgain    = time.Second

	// maxRounds bounds how often a read that a change overtook is made again.
	maxRounds = 3
)

// RecordsOptions say what Records keeps and where it hears of changes. Images,
// Log and Events are required.
type RecordsOptions struct {
	Images registry.Images
	Log    registry.Log
	Events registry.Events
	// Size is how many records are kept, Absent how many ids that no image
	// has, or whose record changed; 0 means 10,000 of each.
	Size, Absent int

	// MaxStaleness is how long what is remembered is believed without a sign of
	// life from the registry. 0 means that the registry is in this process, and
	// needs to give none: it is believed until the event stream breaks.
	MaxStaleness time.Duration
	// Pulse is how often to ask Log for a sign of life, where Events bring none
	// and the registry is elsewhere all the same. 0 means never.
	Pulse time.Duration
	// StaleIfError is how long the records of public images serve while the
	// registry cannot be asked, from when they were last known to be right, and
	// StaleIfErrorPrivate how long those of others do. 0 means not at all.
	StaleIfError, StaleIfErrorPrivate time.Duration

	// Logger gets the failures of the event stream; nil means slog.Default().
	Logger *slog.Logger
}

// Records is registry.Images with a memory. It remembers records, and ids that
// no image has, from when Run first hears the events, and forgets each before
// the change to it that it made itself returns, or when an event tells of a
// change. It is safe for concurrent use.
//
// While the events are heard, memory answers. While they are not, each record is
// proved by the registry before it is used, and if that cannot be asked
// (registry.ErrUnavailable), what is remembered serves for a limited time. When
// events are heard again from where they broke off, what none of them names was
// right all along.
//
// What must never happen is that a record read before a change is remembered
// after the event of the change has passed. So every read is a load that is
// listed while it lasts; forgetting an id also strikes its load off the list,
// and only a load that is still listed when it ends is remembered. Who comes
// later begins a new one.
//
// Nor may an image go back to an earlier revision, where there are several to
// read from and one is late: of what was forgotten the revision is kept, and no
// record from before it is taken.
type Records struct {
	images registry.Images
	log    registry.Log
	events registry.Events
	logger *slog.Logger

	maxStaleness, pulse               time.Duration
	staleIfError, staleIfErrorPrivate time.Duration

	// generation is how often something was forgotten. heard is up to when all
	// changes were heard of, as the time since epoch; 0 means never. live: Run hears
	// every event. All are set under mu.
	generation atomic.Uint64
	heard      atomic.Int64
	live       atomic.Bool
	epoch      time.Time

	servedStale atomic.Int64 // how often

	// Under mu, which is never held during a call.
	mu       sync.Mutex
	revision int64 // of the latest event heard; negative: nothing is remembered
	sign     sign  // of life, the latest
	known    *simplelru.LRU[string, *knownRecord]
	missing  *simplelru.LRU[string, missingRecord]
	loads    map[string]*load

	// While the registry cannot be asked, one after the other tries it at retryAt.
	down    bool
	retryAt time.Time
}

var _ registry.Images = (*Records)(nil)

// A knownRecord is what is remembered of an image.
type knownRecord struct {
	img    *registry.Image
	proved time.Time // by the registry: when it was asked last
}

// A missingRecord is that of an image of which no record is remembered.
type missingRecord struct {
	// revision is the least that a record of it has, 0 if there was none.
	revision int64
	// deleted: it is gone for good, since no id is given twice.
	deleted bool
	// absent: no image had the id when the registry was asked.
	absent bool
}

// A load is one call to the registry and all who wait for it. What it holds is
// set before done is closed.
type load struct {
	done    chan struct{}
	began   time.Time
	img     *registry.Image
	err     error
	again   bool // a change overtook it: what it read is no answer any more
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
	r := &Records{
		images: o.Images, log: o.Log, events: o.Events, logger: o.Logger,
		maxStaleness: o.MaxStaleness, pulse: o.Pulse,
		staleIfError: o.StaleIfError, staleIfErrorPrivate: o.StaleIfErrorPrivate,
		epoch: time.Now().Add(-1), revision: -1, loads: make(map[string]*load),
	}
	r.known, _ = simplelru.NewLRU[string, *knownRecord](o.Size, nil) // fails only for sizes below 1
	r.missing, _ = simplelru.NewLRU[string, missingRecord](o.Absent, nil)
	return r
}

// Get returns the image id, or registry.ErrNotFound. Concurrent calls for one
// image that must be asked for ask the registry once. A context of a request that
// an exchange answers hears of it if the record is served unproved.
func (r *Records) Get(ctx context.Context, id string) (*registry.Image, error) {
	if !registry.ValidID(id) { // so that nobody fills the memory with nonsense
		return nil, registry.ErrNotFound
	}
	for round := 1; ; {
		now := time.Now()
		r.mu.Lock()
		if img, err, ok := r.answer(id, now); ok {
			r.mu.Unlock()
			return img, err
		}
		stale := r.usable(id, now)
		if stale != nil && r.resting(now) {
			r.mu.Unlock()
			return r.serveStale(ctx, stale), nil
		}
		l, follows := r.loads[id]
		if !follows {
			l = &load{done: make(chan struct{}), began: now}
			r.loads[id] = l
		}
		r.mu.Unlock()
		err := errLate
		if !follows {
			r.load(ctx, id, l, stale != nil)
			err = l.err
		} else if ended, cause := l.wait(ctx, stale != nil); cause != nil {
			return nil, fmt.Errorf("get image %s: %w", id, cause)
		} else if ended {
			err = l.err
			if l.givenUp {
				continue
			}
		}
		if err != errLate && l.again && round < maxRounds {
			round++
			continue
		}
		if !errors.Is(err, registry.ErrUnavailable) {
			return l.img, err
		}
		if img := r.fallback(id); img != nil {
			return r.serveStale(ctx, img), nil
		}
		if err != errLate || !follows {
			return nil, err
		}
	}
}

// answer returns what is known of the image without asking. The caller holds mu.
func (r *Records) answer(id string, now time.Time) (_ *registry.Image, err error, ok bool) {
	m, missing := r.missing.Get(id)
	if missing && m.deleted {
		return nil, registry.ErrNotFound, true
	}
	if !r.fresh(now) {
		return nil, nil, false
	}
	if k, ok := r.known.Get(id); ok {
		return k.img, nil, true
	}
	if missing && m.absent {
		return nil, registry.ErrNotFound, true
	}
	return nil, nil, false
}

// usable returns the record of image id that serves if the registry cannot be
// asked, or nil. The caller holds mu.
func (r *Records) usable(id string, now time.Time) *registry.Image {
	k, ok := r.known.Get(id)
	if !ok {
		return nil
	}
	limit := r.staleIfErrorPrivate
	if k.img.Visibility == registry.Public {
		limit = r.staleIfError
	}
	right := k.proved
	if heard := r.heardAt(); heard.After(right) {
		right = heard
	}
	if now.Sub(right) >= limit {
		return nil
	}
	return k.img
}

// resting reports whether the registry could not be asked a moment ago, and
// somebody else tries. The caller holds mu.
func (r *Records) resting(now time.Time) bool {
	if !r.down {
		return false
	}
	if now.Before(r.retryAt) {
		return true
	}
	r.retryAt = now.Add(proveAgain)
	return false
}

// noteReached notes whether the registry could be asked. The caller holds mu.
func (r *Records) noteReached(ok bool) {
	r.down = !ok
	r.retryAt = time.Now().Add(proveAgain)
}

// serveStale counts a record that is served unproved.
func (r *Records) serveStale(ctx context.Context, img *registry.Image) *registry.Image {
	r.servedStale.Add(1)
	if x, ok := ctx.Value(exchangeKey{}).(*exchange); ok {
		x.stale = true
	}
	return img
}

// wait waits for the load to end; with hasty for no longer than one who has another
// answer should. The error is why ctx ended.
func (l *load) wait(ctx context.Context, hasty bool) (ended bool, err error) {
	var late <-chan time.Time
	if hasty {
		t := time.NewTimer(provePatience)
		defer t.Stop()
		late = t.C
	}
	select {
	case <-l.done:
		return true, nil
	case <-late:
		return false, nil
	case <-ctx.Done():
		return false, context.Cause(ctx)
	}
}

// fallback returns the record that serves when the registry could not be asked, or
// nil.
func (r *Records) fallback(id string) *registry.Image {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.usable(id, time.Now())
}

// errLate: the registry takes too long to prove what is remembered.
var errLate = fmt.Errorf("the registry does not answer: %w", registry.ErrUnavailable)

// load asks the registry, for l and all who wait for it; with hasty not for longer
// than what is remembered should wait to be proved.
func (r *Records) load(ctx context.Context, id string, l *load, hasty bool) {
	l.givenUp = true // if the registry panics
	defer func() {
		r.mu.Lock()
		listed := r.loads[id] == l
		if listed {
			delete(r.loads, id)
		}
		if !l.givenUp {
			r.settle(id, l, listed)
		}
		r.mu.Unlock()
		close(l.done)
	}()
	asking := ctx
	if hasty {
		var cancel context.CancelFunc
		asking, cancel = context.WithTimeout(ctx, provePatience)
		defer cancel()
	}
	l.img, l.err = r.images.Get(asking, id)
	switch {
	case l.err == nil:
	case ctx.Err() != nil:
		return
	case asking.Err() != nil:
		l.err = errLate
	}
	l.givenUp = false
}

// settle decides what becomes of what a load read. The caller holds mu.
func (r *Records) settle(id string, l *load, listed bool) {
	least := r.least(id)
	switch {
	case l.err == nil:
		r.noteReached(true)
		if l.img.Revision < least {
			l.again = !listed
			l.err = fmt.Errorf("the record of image %s is of revision %d, and there was %d: %w", id, l.img.Revision, least, registry.ErrUnavailable)
			l.img = nil
			return
		}
		if listed && r.revision >= 0 {
			r.remember(id, l)
		}
	case errors.Is(l.err, registry.ErrNotFound):
		r.noteReached(true)
		l.again = !listed
		if !listed || r.revision < 0 {
			return
		}
		// What there was may not be there yet where this was read: that is no
		// absence to be remembered.
		if r.known.Remove(id) {
			r.generation.Add(1)
		}
		r.missing.Add(id, missingRecord{revision: least, absent: least == 0})
	case errors.Is(l.err, registry.ErrUnavailable):
		r.noteReached(false)
	}
}

// remember keeps what a load read. A record that did not change stays the very
// same, so that what was made of it stays right. The caller holds mu.
func (r *Records) remember(id string, l *load) {
	if k, ok := r.known.Get(id); ok && k.img.Revision == l.img.Revision && l.img.Revision > 0 {
		k.proved = l.began
		l.img = k.img
		return
	}
	if r.known.Contains(id) {
		r.generation.Add(1)
	}
	r.known.Add(id, &knownRecord{l.img, l.began})
	r.missing.Remove(id)
}

// least returns the least revision that a record of image id may have. The caller
// holds mu.
func (r *Records) least(id string) int64 {
	if k, ok := r.known.Peek(id); ok {
		return k.img.Revision
	}
	m, _ := r.missing.Peek(id)
	return m.revision
}

// Remembered returns the record of image id if it is remembered and believed now, or
// nil. What it returns stays so while Generation returns the same number.
func (r *Records) Remembered(id string) (img *registry.Image, generation uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.fresh(time.Now()) {
		return nil, 0
	}
	if k, ok := r.known.Get(id); ok {
		img = k.img
	}
	return img, r.generation.Load()
}

// Generation returns a number that is another one whenever something was
// forgotten, and 0 while changes are not heard of. Who saw the same number twice
// knows that what was remembered at the first time was still true at the second.
func (r *Records) Generation() uint64 {
	if !r.fresh(time.Now()) {
		return 0
	}
	return r.generation.Load()
}

// fresh reports whether what is remembered is believed.
func (r *Records) fresh(now time.Time) bool {
	if r.maxStaleness <= 0 {
		return r.live.Load()
	}
	heard := r.heardAt()
	return !heard.IsZero() && now.Sub(heard) < r.maxStaleness
}

// heardAt returns up to when all changes were heard of, zero if they never were.
func (r *Records) heardAt() time.Time {
	if d := r.heard.Load(); d != 0 {
		return r.epoch.Add(time.Duration(d))
	}
	return time.Time{}
}

// List asks the registry: pages change with every image.
func (r *Records) List(ctx context.Context, q registry.Query) ([]*registry.Image, error) {
	return r.images.List(ctx, q)
}

// Manifest asks the registry: the cache keeps the manifests that it uses.
func (r *Records) Manifest(ctx context.Context, digest origin.Digest) ([]byte, error) {
	return r.images.Manifest(ctx, digest)
}
