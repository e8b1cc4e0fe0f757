package task

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"nearsight/origin"
	"nearsight/registry"
)

const (
	// firstWait is doubled from one failed attempt at an image to the next, up
	// to maxWait: a failed attempt may have read all of it.
	firstWait = 10 * time.Second
	maxWait   = time.Hour
	// longPause is the pause for which a worker is lent to another image.
	longPause = 5 * time.Second
)

// A Hasher reads the data of images that were registered by URL, once each, and
// tells the registry what it is. Edges cache such data from then on, and notice if
// the bytes behind the URL change.
//
// It reads the first location of an image. If that was recorded with a validator
// the data must have it; if not, the bytes that were read decide, and the validator
// that they came with is recorded. A read that breaks goes on where it broke. An
// image that fails is tried again later, with a growing wait of up to an hour, and
// keeps no other. What was read is forgotten when the process ends: the image is
// read anew then.
//
// Locations, Images and Store must be set, and nothing may be changed after the
// first use.
type Hasher struct {
	Locations registry.Locations
	Images    registry.Reader
	Store     origin.Store
	// Log gets what was hashed and what failed; nil means slog.Default().
	Log *slog.Logger
	// Workers is how many images are read at a time; 0 means one. Each takes 2
	// MiB of memory and its manifest.
	Workers int
	// Every is the time from one look for images to the next if nobody calls
	// Wake; 0 means a minute.
	Every time.Duration

	once sync.Once
	news bell

	mu     sync.Mutex
	trials map[string]*trial // by image id
}

// A trial is what is known of an image that is being read or has failed.
type trial struct {
	running bool
	due     time.Time     // of the next attempt
	wait    time.Duration // before it
	told    string        // the state of the latest failure, see lasting
}

func (h *Hasher) bell() bell {
	h.once.Do(func() { h.news = make(bell, 1) })
	return h.news
}

// Wake says that there may be data without a digest. It never blocks, and is not
// lost when Run is busy or begins later.
func (h *Hasher) Wake() { h.bell().ring() }

// Run hashes until ctx ends, and returns nil then.
func (h *Hasher) Run(ctx context.Context) error {
	workers := make(chan struct{}, orDefault(h.Workers, 1))
	var jobs sync.WaitGroup
	repeat(ctx, h.bell(), orDefault(h.Every, defaultEvery), func(ctx context.Context) error {
		return h.look(ctx, workers, &jobs)
	}, func(err error, retry time.Duration) {
		orLog(h.Log).Warn("looking for data without a digest failed", "err", err, "retry", retry)
	})
	jobs.Wait()
	return nil
}

// look starts a job for every image that is due, each as soon as a worker is free.
func (h *Hasher) look(ctx context.Context, workers chan struct{}, jobs *sync.WaitGroup) error {
	seen := make(map[string]bool)
	for after := ""; ; {
		images, err := h.Locations.Unhashed(ctx, after, pageSize)
		if err != nil {
			return err
		}
		for _, img := range images {
			seen[img.ID] = true
			if !h.isDue(img.ID) {
				continue
			}
			w := &worker{pool: workers}
			if w.take(ctx) != nil {
				return nil
			}
			h.begin(img.ID)
			jobs.Go(func() {
				defer w.give()
				h.end(ctx, img.ID, h.hash(ctx, img.ID, w.pause))
			})
		}
		if len(images) < pageSize {
			break
		}
		after = images[len(images)-1].ID
	}
	h.forget(seen)
	return nil
}

// A worker is one of a limited number, while a job has it.
type worker struct {
	pool chan struct{}
	held bool
}

func (w *worker) take(ctx context.Context) error {
	select {
	case w.pool <- struct{}{}:
		w.held = true
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (w *worker) give() {
	if w.held {
		w.held = false
		<-w.pool
	}
}

// pause waits for d, and gives the worker to others if that is long.
func (w *worker) pause(ctx context.Context, d time.Duration) error {
	if d < longPause {
		return sleep(ctx, d)
	}
	w.give()
	if err := sleep(ctx, d); err != nil {
		return err
	}
	return w.take(ctx)
}

// isDue says whether it is time to read the image.
func (h *Hasher) isDue(id string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	t := h.trials[id]
	return t == nil || !t.running && !time.Now().Before(t.due)
}

// begin notes that the image is being read.
func (h *Hasher) begin(id string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.trials == nil {
		h.trials = make(map[string]*trial)
	}
	if h.trials[id] == nil {
		h.trials[id] = new(trial)
	}
	h.trials[id].running = true
}

// forget drops what is known of images that nobody needs to read any more.
func (h *Hasher) forget(unhashed map[string]bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for id, t := range h.trials {
		if !t.running && !unhashed[id] {
			delete(h.trials, id)
		}
	}
}

// A lasting failure is one that the same attempt meets again until somebody does
// something about the image or its data.
type lasting struct {
	loc origin.Location
	err error
}

func (l *lasting) Error() string { return l.err.Error() }
func (l *lasting) Unwrap() error { return l.err }

// state says which failure it is: the location, and what is the matter with it.
func (l *lasting) state() string {
	for _, kind := range []error{origin.ErrChanged, origin.ErrNotFound, origin.ErrLocation} {
		if errors.Is(l.err, kind) {
			return kind.Error() + " " + l.loc.Validator + " " + l.loc.URL
		}
	}
	return ""
}

// end notes how the attempt ended, and tells the log of a failure.
func (h *Hasher) end(ctx context.Context, id string, err error) {
	if err == nil || ctx.Err() != nil || errors.Is(err, errUnwanted) || errors.Is(err, registry.ErrNotFound) {
		h.mu.Lock()
		delete(h.trials, id)
		h.mu.Unlock()
		return
	}
	if retry, news := h.fail(id, err); news {
		orLog(h.Log).Warn("hashing an image failed", "image", id, "err", err, "retry", retry)
	}
}

// fail notes that the attempt failed. It returns the wait before the next, and
// whether the log should hear of the failure.
func (h *Hasher) fail(id string, err error) (wait time.Duration, news bool) {
	state := ""
	if l, ok := errors.AsType[*lasting](err); ok {
		state = l.state()
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	t := h.trials[id]
	t.running = false
	t.wait = min(max(2*t.wait, firstWait), maxWait)
	t.due = time.Now().Add(t.wait)
	time.AfterFunc(t.wait, h.bell().ring)
	news = state == "" || state != t.told
	t.told = state
	return t.wait, news
}

// hash reads the image with this id and tells the registry what its data is.
func (h *Hasher) hash(ctx context.Context, id string, pause pauser) error {
	img, err := h.Images.Get(ctx, id)
	if err != nil {
		return err
	}
	if img.Status != registry.Active || img.Digest != "" || len(img.Locations) == 0 {
		return errUnwanted
	}
	first := img.Locations[0]
	ctx, stop := whileWanted(ctx, h.Images, id, func(img *registry.Image) bool {
		return img.Digest == "" && len(img.Locations) > 0 && img.Locations[0] == first
	})
	defer stop()
	began := newPatience()
	loc, sum, err := h.read(ctx, first, pause)
	switch {
	case err != nil && ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		return &lasting{first, fmt.Errorf("hash %s: %w", shown(first), err)}
	}
	if err := h.record(ctx, id, loc, sum, began, pause); err != nil {
		return err
	}
	orLog(h.Log).Info("image hashed", "image", id, "digest", sum.Digest, "bytes", sum.Size,
		"dur", time.Since(began.began))
	return nil
}

// read returns what the data at loc is, and loc with the validator that it had.
func (h *Hasher) read(ctx context.Context, loc origin.Location, pause pauser) (origin.Location, origin.Summary, error) {
	s, err := openStream(ctx, h.Store, loc, pause)
	if err != nil {
		return loc, origin.Summary{}, err
	}
	defer s.Close()
	k := sink{s}
	_, sum, err := origin.Ingest(ctx, k, k.Locate(""), s.size, s)
	return s.loc, sum, err
}

// record tells the registry, again and again for as long as the reading took: what
// was learned was expensive.
func (h *Hasher) record(ctx context.Context, id string, loc origin.Location, sum origin.Summary, p patience, pause pauser) error {
	for {
		_, err := h.Locations.Hashed(ctx, id, loc, sum)
		if err == nil || errors.Is(err, registry.ErrNotFound) {
			return err
		}
		if errors.Is(err, registry.ErrConflict) {
			// Perhaps it was done by a call that did not hear of it.
			if img, get := h.Images.Get(ctx, id); get == nil && img.Digest == sum.Digest {
				return nil
			}
		}
		wait, ok := p.next()
		if isDecided(err) || !ok {
			return err
		}
		if end := pause(ctx, wait); end != nil {
			return end
		}
	}
}
