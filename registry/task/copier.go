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

// maxCopies wait at most. They are a few bytes each; who asks for more at once
// should hear that they take their time.
const maxCopies = 10_000

// A Copier copies the data of images to further stores, so that it can be read
// there too. It reads from the best location and goes on with the next where one
// fails, verifies every byte against the image's manifest before it is written, and
// adds the location when the copy is whole. Of a copy that fails nothing is left:
// the log hears of it, and whoever wants it asks again.
//
// What was asked for is kept in memory alone, and ends with the process; what had
// begun is cleared away at the next start (Reaper.AbortUnfinished).
//
// Images, Locations, Stores and Abort must be set, and nothing may be changed after
// the first use.
type Copier struct {
	Images    registry.Reader
	Locations registry.Locations
	// Stores have the data, and take it.
	Stores *origin.Set
	// Abort is Reaper.Abort: it ends, as soon as the registry lets it, a copy
	// that failed.
	Abort func(id string, loc origin.Location)
	// Log gets what was copied and what failed; nil means slog.Default().
	Log *slog.Logger
	// Workers is how many copies are made at a time; 0 means one.
	Workers int

	mu      sync.Mutex
	ready   bell            // made by the first who needs it
	queue   []errand        // to be done
	pending map[errand]bool // in the queue or being done
}

// An errand is one copy that is wanted.
type errand struct{ id, store string }

// Copy has Run copy the data of the image id to the store of that name, "" for the
// default. It does not wait for that. Nothing happens if the same copy waits or is
// under way already.
//
// registry.ErrNotFound if there is no such image; registry.ErrConflict if it is not
// active, has no digest yet against which to verify, or is in that store;
// registry.ErrUnavailable if too many copies wait; origin.ErrLocation and
// origin.ErrReadOnly as origin.Set.Writer says.
func (c *Copier) Copy(ctx context.Context, id, store string) error {
	if store == "" {
		store = c.Stores.Default()
	}
	if _, err := c.Stores.Writer(store); err != nil {
		return fmt.Errorf("copy to a store: %w", err)
	}
	img, err := c.Images.Get(ctx, id)
	if err != nil {
		return err
	}
	if err := c.refusal(img, store); err != nil {
		return err
	}
	return c.enqueue(errand{id, store})
}

// refusal says why the image cannot be copied to the store, if it cannot.
func (c *Copier) refusal(img *registry.Image, store string) error {
	switch {
	case img.Status != registry.Active:
		return fmt.Errorf("%w: image is %s: data can be copied only while it is active", registry.ErrConflict, img.Status)
	case img.Digest == "":
		return fmt.Errorf("%w: the data of the image was not hashed yet, so that a copy could not be verified", registry.ErrConflict)
	case c.isIn(img, store):
		return fmt.Errorf("%w: the image is in store %s already", registry.ErrConflict, store)
	}
	return nil
}

func (c *Copier) isIn(img *registry.Image, store string) bool {
	for _, loc := range img.Locations {
		if name, ok := c.Stores.NameOf(loc); ok && name == store {
			return true
		}
	}
	return false
}

func (c *Copier) enqueue(e errand) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pending[e] {
		return nil
	}
	if len(c.queue) >= maxCopies {
		return fmt.Errorf("%w: %d copies wait already", registry.ErrUnavailable, maxCopies)
	}
	if c.pending == nil {
		c.pending = make(map[errand]bool)
	}
	c.pending[e] = true
	c.queue = append(c.queue, e)
	c.bell().ring()
	return nil
}

// bell is called with mu held.
func (c *Copier) bell() bell {
	if c.ready == nil {
		c.ready = make(bell, 1)
	}
	return c.ready
}

// Run copies until ctx ends, and returns nil then.
func (c *Copier) Run(ctx context.Context) error {
	c.mu.Lock()
	ready := c.bell()
	c.mu.Unlock()
	var workers sync.WaitGroup
	for range orDefault(c.Workers, 1) {
		workers.Go(func() {
			for {
				e, ok := c.take()
				if !ok {
					select {
					case <-ready:
						continue
					case <-ctx.Done():
						return
					}
				}
				if ctx.Err() != nil {
					return
				}
				c.do(ctx, e)
			}
		})
	}
	workers.Wait()
	return nil
}

// take returns the next errand, and wakes another worker if there are more.
func (c *Copier) take() (errand, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.queue) == 0 {
		return errand{}, false
	}
	e := c.queue[0]
	if c.queue = c.queue[1:]; len(c.queue) > 0 {
		c.bell().ring()
	}
	return e, true
}

// do makes a copy and tells the log how that went.
func (c *Copier) do(ctx context.Context, e errand) {
	began := time.Now()
	n, err := c.copy(ctx, e)
	c.mu.Lock()
	delete(c.pending, e)
	c.mu.Unlock()
	log := orLog(c.Log).With("image", e.id, "store", e.store)
	switch {
	case err == nil:
		log.Info("image copied", "bytes", n, "dur", time.Since(began))
	case ctx.Err() != nil:
	case errors.Is(err, errUnwanted), errors.Is(err, registry.ErrNotFound):
		log.Info("copying an image was given up, because it was deleted or changed")
	default:
		log.Warn("copying an image failed", "err", err)
	}
}

// copy makes a copy and returns its length.
func (c *Copier) copy(ctx context.Context, e errand) (int64, error) {
	img, err := c.Images.Get(ctx, e.id)
	if err != nil {
		return 0, err
	}
	if err := c.refusal(img, e.store); err != nil {
		return 0, err
	}
	encoded, err := c.Images.Manifest(ctx, img.Digest)
	if err != nil {
		return 0, err
	}
	m, err := origin.DecodeManifest(encoded)
	if err != nil {
		return 0, err
	}
	w, err := c.Stores.Writer(e.store)
	if err != nil {
		return 0, err
	}
	loc := w.Locate(e.id)
	if err := c.Locations.BeginCopy(ctx, e.id, loc); err != nil {
		if !isDecided(err) {
			c.Abort(e.id, loc) // it may have begun
		}
		return 0, err
	}
	if err := c.fill(ctx, w, loc, img, m); err != nil {
		c.Abort(e.id, loc)
		return 0, err
	}
	return m.Size, nil
}

// fill writes the data of img to loc, which is under way, and adds it.
func (c *Copier) fill(ctx context.Context, w origin.WriteStore, loc origin.Location, img *registry.Image, m *origin.Manifest) error {
	ctx, stop := whileWanted(ctx, c.Images, img.ID, func(now *registry.Image) bool {
		return now.Status == registry.Active && now.Digest == img.Digest
	})
	defer stop()
	began := newPatience()
	data := newVerified(ctx, c.Stores, c.Stores.Order(img.Locations, ""), m, func(from origin.Location, err error) {
		orLog(c.Log).Warn("a location failed while it was copied", "image", img.ID, "err", err)
	})
	defer data.Close()
	stored, err := w.Put(ctx, loc, m.Size, data)
	switch {
	case err != nil && ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		return err
	}
	return c.add(ctx, img.ID, stored, m.Size, began)
}

// add tells the registry, again and again for as long as the copying took.
func (c *Copier) add(ctx context.Context, id string, loc origin.Location, size int64, p patience) error {
	for {
		_, err := c.Locations.AddLocation(ctx, id, loc, size, nil)
		if err == nil {
			return nil
		}
		if errors.Is(err, registry.ErrConflict) {
			// Perhaps it was done by a call that did not hear of it.
			if img, get := c.Images.Get(ctx, id); get == nil && hasURL(img, loc.URL) {
				return nil
			}
		}
		wait, ok := p.next()
		if isDecided(err) || !ok {
			return err
		}
		if err := sleep(ctx, wait); err != nil {
			return err
		}
	}
}

func hasURL(img *registry.Image, url string) bool {
	for _, loc := range img.Locations {
		if loc.URL == url {
			return true
		}
	}
	return false
}
