package proxy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"nearsight/registry"
)

const (
	// warmers is how many images are fetched ahead at a time.
	warmers = 2
	// maxWarming is how many may wait for that and be fetched together.
	maxWarming = 1000
)

// warming is the queue of images whose data is to be fetched into the cache. It is in
// memory alone. Its channel wake is made before the first use.
type warming struct {
	wake chan struct{} // has an element when there may be work

	mu   sync.Mutex
	jobs []*warmJob // in the order in which they were asked for
}

type warmJob struct {
	id      string // of the image
	running bool
	cancel  context.CancelFunc // of a running one
}

// errQueueFull: too many images wait to be fetched into the cache.
var errQueueFull = errors.New("too many images wait already to be fetched into the cache")

// add puts an image at the end of the queue, if it is not in it, or returns
// errQueueFull.
func (q *warming) add(id string) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if slices.ContainsFunc(q.jobs, func(j *warmJob) bool { return j.id == id }) {
		return nil
	}
	if len(q.jobs) >= maxWarming {
		return errQueueFull
	}
	q.jobs = append(q.jobs, &warmJob{id: id})
	q.ring()
	return nil
}

// ring wakes a worker. The caller may hold mu.
func (q *warming) ring() {
	select {
	case q.wake <- struct{}{}:
	default: // one will be awake, and rings for the next
	}
}

// ids returns the images in the queue, those that are being fetched too.
func (q *warming) ids() []string {
	q.mu.Lock()
	defer q.mu.Unlock()
	ids := make([]string, 0, len(q.jobs))
	for _, j := range q.jobs {
		ids = append(ids, j.id)
	}
	return ids
}

// remove takes an image out, and stops its being fetched; with "" it takes all. It
// returns how many were in.
func (q *warming) remove(id string) (removed int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.jobs = slices.DeleteFunc(q.jobs, func(j *warmJob) bool {
		if id != "" && j.id != id {
			return false
		}
		if j.running {
			j.cancel()
		}
		removed++
		return true
	})
	return removed
}

// next returns the first job that nobody works on, with its context, or nil.
func (q *warming) next(ctx context.Context) (*warmJob, context.Context) {
	q.mu.Lock()
	defer q.mu.Unlock()
	i := slices.IndexFunc(q.jobs, func(j *warmJob) bool { return !j.running })
	if i < 0 {
		return nil, nil
	}
	j := q.jobs[i]
	j.running = true
	ctx, j.cancel = context.WithCancel(ctx)
	q.ring() // there may be another
	return j, ctx
}

// done takes a job out.
func (q *warming) done(j *warmJob) {
	j.cancel()
	q.mu.Lock()
	defer q.mu.Unlock()
	q.jobs = slices.DeleteFunc(q.jobs, func(other *warmJob) bool { return other == j })
}

// warmQueued fetches what is in the queue until ctx ends, and returns nil then.
func (p *Proxy) warmQueued(ctx context.Context) error {
	q := &p.warming
	for {
		select {
		case <-q.wake:
		case <-ctx.Done():
			return nil
		}
		for {
			j, work := q.next(ctx)
			if j == nil {
				break
			}
			if err := p.warmImage(work, j.id); err != nil && work.Err() == nil {
				p.log.Warn("an image cannot be fetched into the cache", "image", j.id, "err", err)
			}
			q.done(j)
		}
	}
}

// warmImage fetches what the cache lacks of an image.
func (p *Proxy) warmImage(ctx context.Context, id string) error {
	img, err := p.records.Get(ctx, id)
	if err != nil {
		return err
	}
	if err := cacheable(img); err != nil {
		return err
	}
	before := p.stored(img)
	if err := p.cache.Warm(ctx, img.Digest, *img.Size, p.source(img), nil); err != nil {
		return err
	}
	if p.stored(img) != before {
		p.tallies.of(id).filled.Store(time.Now().UnixNano())
	}
	return nil
}

// stored returns how many bytes of an image are on the disk of the cache, -1 for none.
func (p *Proxy) stored(img *registry.Image) int64 {
	info, err := p.cache.Entry(img.Digest)
	if err != nil {
		return -1
	}
	return info.Stored
}

// cacheable returns why the data of img cannot be fetched into the cache, or nil.
func cacheable(img *registry.Image) error {
	switch {
	case img.Status != registry.Active:
		return fmt.Errorf("%w: the image is %s, and only active ones are cached", registry.ErrInvalid, img.Status)
	case img.Digest == "" || img.Size == nil:
		return fmt.Errorf("%w: the data of the image is not hashed yet, and so cannot be cached", registry.ErrInvalid)
	}
	return nil
}
