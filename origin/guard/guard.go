// Package guard wraps a store with what keeps a bad day of its server from
// becoming ours: it asks again where that is safe, gives up on silence, leaves a
// server alone for a while that keeps failing, and tells an Observer.
//
// It is our own because of what it is for: a read has other locations to go to.
// So it is asked again a few times at short intervals and then, like a call that
// the breaker refuses, fails at once with origin.ErrUnavailable.
package guard

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"strings"
	"time"

	"nearsight/origin"
)

// Options configure a guard. The zero Options work.
type Options struct {
	// Name is the store's name in errors and the log; "" means "default".
	Name string
	// Attempts is how often a call is made at most; 0 means 3. Once a byte of
	// a body has been read, or an upload has been asked for one, nothing is
	// repeated.
	Attempts int
	// Backoff bounds the wait before the second attempt, and is doubled from
	// one to the next up to MaxBackoff; 0 means 100 ms and 2 s. The wait is
	// anything from nothing to its bound, so that those who failed together do
	// not come back together. A server that says when to come back (RFC 9110,
	// section 10.2.3) is obeyed up to MaxBackoff, and not asked again if it
	// says later.
	Backoff, MaxBackoff time.Duration
	// FirstByte bounds the wait of a Stat for its answer and of an Open for
	// its first byte, and Stall that of a body for every further byte. 0 means
	// 8 s, which is less than a fill of the cache waits: so what the cache
	// gives up the breaker has heard of. Less than 0 means no bound. A reader
	// that is slow, or not there, is no silence of the store.
	FirstByte, Stall time.Duration
	// PutStall bounds the time for which a store neither takes a byte of an
	// upload nor ends it, and that of a Delete. 0 means 5 minutes: a store may
	// send off a large part, or put together many of them, before it goes on.
	// Less than 0 means no bound. A sender that is slow is no silence of the
	// store.
	PutStall time.Duration
	// Failures is how many failed calls more than good ones open the breaker:
	// so many in a row, or as many in the long run if more than half fail. 0
	// means 5.
	Failures int
	// Cooldown is how long an open breaker refuses every call; 0 means 10 s.
	// Then it lets a single one through to find out, and refuses the others
	// for as long again.
	Cooldown time.Duration
	// Observer is told of everything; nil means nobody is.
	Observer Observer
	// Log gets the changes of the breaker; nil means slog.Default().
	Log *slog.Logger
}

func (o Options) withDefaults() Options {
	set := func(d *time.Duration, to time.Duration) {
		if *d == 0 {
			*d = to
		}
	}
	set(&o.Backoff, 100*time.Millisecond)
	set(&o.MaxBackoff, 2*time.Second)
	set(&o.FirstByte, 8*time.Second)
	set(&o.Stall, 8*time.Second)
	set(&o.PutStall, 5*time.Minute)
	set(&o.Cooldown, 10*time.Second)
	if o.Name == "" {
		o.Name = "default"
	}
	if o.Attempts <= 0 {
		o.Attempts = 3
	}
	if o.Failures <= 0 {
		o.Failures = 5
	}
	if o.Observer == nil {
		o.Observer = nobody{}
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	return o
}

// A Store guards the reads of a store. It has no abilities but these; those that
// ask no server, and listing, are reached through it with origin.As.
type Store struct {
	store    origin.Store
	o        Options
	breakers breakers
}

// New guards a store that is only to be read.
func New(s origin.Store, o Options) *Store {
	o = o.withDefaults()
	return &Store{store: s, o: o, breakers: newBreakers(o)}
}

// A WriteStore guards a store that is written, too.
type WriteStore struct {
	*Store
	store origin.WriteStore
}

var _ origin.WriteStore = (*WriteStore)(nil)

// NewWriter guards a store with its writes.
func NewWriter(s origin.WriteStore, o Options) *WriteStore {
	return &WriteStore{New(s, o), s}
}

// Unwrap returns the store without its guard, for origin.As.
func (s *Store) Unwrap() origin.Store { return s.store }

// State returns the state of the breaker that a call for loc would meet.
func (s *Store) State(loc origin.Location) State { return s.breakers.state(hostOf(loc)) }

// Stat implements origin.Store.
func (s *Store) Stat(ctx context.Context, loc origin.Location) (origin.Info, error) {
	var info origin.Info
	err := s.simple(ctx, opStat, loc, s.o.FirstByte, func(ctx context.Context) (err error) {
		info, err = s.store.Stat(ctx, loc)
		return err
	})
	if err != nil {
		return origin.Info{}, err
	}
	return info, nil
}

// Delete implements origin.WriteStore.
func (s *WriteStore) Delete(ctx context.Context, loc origin.Location) error {
	return s.simple(ctx, opDelete, loc, s.o.PutStall, func(ctx context.Context) error {
		return s.store.Delete(ctx, loc)
	})
}

// simple makes a call that ends with its answer, and may be repeated.
func (s *Store) simple(ctx context.Context, op string, loc origin.Location, limit time.Duration, f func(context.Context) error) error {
	return s.retry(ctx, func() (error, bool) {
		c, err := s.begin(ctx, op, loc)
		if err != nil {
			return err, false
		}
		defer c.cancel(nil)
		c.wait(limit)
		err = c.translate(f(c.ctx))
		c.end(err, outcome(err))
		return err, !c.silent()
	})
}

// Open implements origin.Store.
func (s *Store) Open(ctx context.Context, loc origin.Location, off, n int64) (*origin.Object, error) {
	var obj *origin.Object
	err := s.retry(ctx, func() (error, bool) {
		c, err := s.begin(ctx, opOpen, loc)
		if err != nil {
			return err, false
		}
		c.wait(s.o.FirstByte)
		o, err := s.store.Open(c.ctx, loc, off, n)
		c.rest()
		if err != nil {
			err = c.translate(err)
			c.end(err, outcome(err))
			c.cancel(nil)
			return err, !c.silent()
		}
		answer := *o // what the store returned is the store's
		answer.Body = &body{ReadCloser: o.Body, call: c, left: o.Length}
		obj = &answer
		return nil, false
	})
	if err != nil {
		return nil, err
	}
	return obj, nil
}

// Locate implements origin.WriteStore.
func (s *WriteStore) Locate(id string) origin.Location { return s.store.Locate(id) }

// Put implements origin.WriteStore. It is repeated only as long as nothing was
// read from r.
func (s *WriteStore) Put(ctx context.Context, loc origin.Location, size int64, r io.Reader) (origin.Location, error) {
	stored := loc
	err := s.retry(ctx, func() (error, bool) {
		c, err := s.begin(ctx, opPut, loc)
		if err != nil {
			return err, false
		}
		defer c.cancel(nil)
		up := &upload{r: r, call: c}
		c.wait(s.o.PutStall)
		at, err := s.store.Put(c.ctx, loc, size, up)
		read, failed := up.stop()
		if err = c.translate(err); err == nil {
			stored = at
		}
		kind := outcome(err)
		if failed && err != nil {
			kind = Data // whatever it says: it may be the error of another store
		}
		c.end(err, kind)
		return err, !read && !c.silent()
	})
	if err != nil {
		return loc, err
	}
	return stored, nil
}

// retry calls f until it succeeds, ends with what another call would not change,
// or says with false that it must not be called again.
func (s *Store) retry(ctx context.Context, f func() (err error, again bool)) error {
	bound := s.o.Backoff
	var last error
	for i := range s.o.Attempts {
		err, again := f()
		var no *refusal
		switch {
		case last != nil && errors.As(err, &no):
			return last // it says more than that the breaker had enough of it
		case !again || !errors.Is(err, origin.ErrUnavailable) || ctx.Err() != nil || i == s.o.Attempts-1:
			return err
		}
		last = err
		wait := rand.N(max(min(bound, s.o.MaxBackoff), 0) + 1)
		if asked := retryAfter(err); asked > s.o.MaxBackoff {
			return err
		} else if asked > 0 {
			wait += asked
		}
		bound = min(2*bound, s.o.MaxBackoff)
		if sleep(ctx, wait) != nil {
			return err
		}
	}
	return last
}

// retryAfter returns how long the store asked to be left alone; 0 if it did not.
func retryAfter(err error) time.Duration {
	var r interface{ RetryAfter() time.Duration }
	if errors.As(err, &r) {
		return r.RetryAfter()
	}
	return 0
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// A silence is the cause of a context that was ended because nothing happened.
type silence struct {
	op    string
	loc   origin.Location
	limit time.Duration
}

func (s *silence) Error() string {
	return fmt.Sprintf("%s %s: nothing happened for %v: %v", s.op, shown(s.loc), s.limit, origin.ErrUnavailable)
}

// shown is loc for people to read. Its query may be a signature.
func shown(loc origin.Location) string {
	scheme, host, rest := split(loc)
	rest, _, _ = strings.Cut(rest, "#")
	path, _, query := strings.Cut(rest, "?")
	if query {
		path += "?..."
	}
	return scheme + "://" + host + path
}

func (s *silence) Unwrap() error { return origin.ErrUnavailable }
