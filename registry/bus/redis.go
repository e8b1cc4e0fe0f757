package bus

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"nearsight/registry"
)

// defaultSilence is four beats, and leaves time to turn to the fallback within the
// 5 s in which a watcher may believe that it hears everything.
const defaultSilence = 2 * time.Second

// RedisOptions of NewRedis. Server and Log are required.
type RedisOptions struct {
	Server *Server
	// Stream is the name of the stream of events; "" means DefaultStream.
	Stream string
	// Log has what the stream has not: what was trimmed, or lost with a server.
	Log registry.Log
	// Fallback has the events while Redis is lost; nil means that watching fails then.
	Fallback registry.Events
	// Silence is after how long without a word of a publisher Redis counts as lost;
	// 0 means 2 s. It is more than the publishers' beat.
	Silence time.Duration
	// Logger is told when Redis is lost and when it is back; nil means slog.Default().
	Logger *slog.Logger
}

// Redis is registry.Events out of a stream that Publishers feed. Each watcher has
// a connection of its own. It is safe for concurrent use.
type Redis struct {
	server        *Server
	stream, beats string
	log           registry.Log
	fallback      registry.Events
	silence       time.Duration
	logger        *slog.Logger
	lost          atomic.Int64 // watchers that go another way
}

var _ registry.Events = (*Redis)(nil)

// NewRedis returns a Redis. It connects when somebody watches.
func NewRedis(o RedisOptions) *Redis {
	r := &Redis{server: o.Server, stream: o.Stream, log: o.Log, fallback: o.Fallback, silence: o.Silence, logger: o.Logger}
	if r.stream == "" {
		r.stream = DefaultStream
	}
	if r.silence <= 0 {
		r.silence = defaultSilence
	}
	if r.logger == nil {
		r.logger = slog.Default()
	}
	r.beats = beatsOf(r.stream)
	return r
}

// Lost reports whether a watcher gets its events by the fallback, since Redis or
// its publishers are not heard.
func (r *Redis) Lost() bool { return r.lost.Load() > 0 }

// Watch implements registry.Events. A gap in the stream is filled from the log.
// While Redis is not heard the events come by the fallback, and by Redis again
// when a publisher is. Signs of life are the publishers' beats, each no older than half
// the silence. Nothing is read ahead of a watcher that is slow.
func (r *Redis) Watch(ctx context.Context, revision int64) iter.Seq2[registry.Event, error] {
	return func(yield func(registry.Event, error) bool) {
		w := &watch{Redis: r, last: revision, yield: yield}
		err := w.run(ctx)
		if !w.left && ctx.Err() == nil {
			yield(registry.Event{}, fmt.Errorf("watch events: %w", err))
		}
	}
}

// A watch is one run of Watch.
type watch struct {
	*Redis
	last  int64 // revision of the latest event that the watcher has
	yield func(registry.Event, error) bool
	left  bool // by the watcher
}

var (
	errLeft   = errors.New("the watcher left")
	errSilent = errors.New("no publisher is heard")
)

// A lostError says that Redis does not bring the events.
type lostError struct{ error }

func (e lostError) Unwrap() error { return e.error }

func (w *watch) lose(err error) error {
	return lostError{w.server.fail("read events", err)}
}

// run goes through Redis or the fallback until it fails.
func (w *watch) run(ctx context.Context) error {
	for ctx.Err() == nil {
		err := w.follow(ctx)
		var lost lostError
		if !errors.As(err, &lost) || ctx.Err() != nil {
			return err
		}
		if w.fallback == nil {
			return fmt.Errorf("%w: %w", registry.ErrUnavailable, err)
		}
		w.logger.Warn("events do not come by redis; they come by the fallback", "revision", w.last, "err", err)
		if err := w.detour(ctx); err != nil {
			return fmt.Errorf("without redis: %w", err)
		}
		if ctx.Err() != nil {
			break
		}
		w.logger.Info("events come by redis again", "redis", w.server.String(), "revision", w.last)
	}
	return ctx.Err()
}

// pass hands an event on. What does not come next is an error.
func (w *watch) pass(e registry.Event) error {
	next := w.last
	if e.Kind != registry.EventNone {
		next++
	}
	if e.Revision != next {
		return fmt.Errorf("revision %d is followed by %d", w.last, e.Revision)
	}
	w.last = next
	if !w.yield(e, nil) {
		w.left = true
		return errLeft
	}
	return nil
}

// follow reads the streams until Redis is lost or something else fails.
func (w *watch) follow(ctx context.Context) error {
	c, done := w.server.connect(ctx)
	defer done()
	var beat string      // the id of the latest that tells nothing new
	var heard time.Time  // when a publisher was
	var waited time.Time // up to when the last read lasted
	for {
		// A beat must not tell of the time in which a slow watcher kept us.
		if time.Since(waited) > w.silence/2 {
			var err error
			if beat, err = w.mark(ctx, c); err != nil {
				return w.lose(err)
			}
			heard = time.Now()
		}
		entries, beats, err := w.read(ctx, c, beat, time.Until(heard.Add(w.silence)))
		if err != nil {
			return w.lose(err)
		}
		waited = time.Now()
		good := len(entries) > 0
		for _, m := range entries {
			if err := w.take(ctx, m); err != nil {
				return err
			}
		}
		if len(beats) > 0 {
			m := beats[len(beats)-1]
			beat = m.ID
			if len(entries) < batch { // else there is more to be read before it
				alive, err := w.hear(ctx, m)
				if err != nil {
					return err
				}
				good = good || alive
			}
		}
		if good {
			heard = time.Now()
		}
	}
}

// mark returns the id of the latest beat: those after it are made from now on.
func (w *watch) mark(ctx context.Context, c redis.UniversalClient) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*callTimeout) // time for a second node where the first is dead
	defer cancel()
	return last(ctx, c, w.beats)
}

// read returns the events after the last one and the beats after beat, and waits
// for either; after the time wait the error is errSilent.
func (w *watch) read(ctx context.Context, c redis.UniversalClient, beat string, wait time.Duration) (entries, beats []redis.XMessage, err error) {
	wait = max(wait, time.Millisecond) // 0 would be for ever
	ctx, cancel := context.WithTimeout(ctx, wait+callTimeout)
	defer cancel()
	// The greatest sequence number skips what nobody of us wrote.
	after := strconv.FormatInt(max(w.last, 0), 10) + "-18446744073709551615"
	streams, err := c.XRead(ctx, &redis.XReadArgs{
		Streams: []string{w.stream, w.beats, after, beat}, Count: batch, Block: wait,
	}).Result()
	if errors.Is(err, redis.Nil) {
		return nil, nil, errSilent
	}
	for _, s := range streams {
		if s.Stream == w.stream {
			entries = s.Messages
		} else {
			beats = s.Messages
		}
	}
	return entries, beats, err
}

// take passes the event of an entry on, after those that are missing before it.
func (w *watch) take(ctx context.Context, m redis.XMessage) error {
	e, err := decode(m)
	switch {
	case err == nil && e.Revision <= w.last: // the log had it
		return nil
	case err == nil && e.Revision == w.last+1:
		return w.pass(e)
	case err == nil:
		return w.catchUp(ctx, e.Revision)
	}
	revision, err := revisionOf(m.ID)
	if err != nil {
		return w.lose(fmt.Errorf("an entry that no publisher made: %w", err))
	}
	return w.catchUp(ctx, revision)
}

// hear gives a sign of life, after the events that the beat tells of. alive is
// false if it is about less than we have. That of one publisher may be, while
// another is ahead; when all are, the log was put back to an earlier state, and the
// fallback says so.
func (w *watch) hear(ctx context.Context, m redis.XMessage) (alive bool, err error) {
	revision, err := beatOf(m)
	if err != nil {
		return false, w.lose(err)
	}
	if revision < w.last {
		return false, nil
	}
	if err := w.catchUp(ctx, revision); err != nil {
		return false, err
	}
	return true, w.pass(registry.Event{Revision: w.last})
}

// catchUp passes the events on that the log has up to a revision, at least.
func (w *watch) catchUp(ctx context.Context, to int64) error {
	for w.last < to {
		events, err := w.log.Since(ctx, w.last, batch)
		if err != nil {
			return fmt.Errorf("events after %d, which the stream has not: %w", w.last, err)
		}
		if len(events) == 0 {
			return w.lose(fmt.Errorf("the stream is at %d, the log at %d", to, w.last))
		}
		for _, e := range events {
			if err := w.pass(e); err != nil {
				return err
			}
		}
	}
	return nil
}

// detour follows the fallback until a publisher is heard through Redis.
func (w *watch) detour(ctx context.Context) error {
	w.lost.Add(1)
	defer w.lost.Add(-1)
	here, back := context.WithCancel(ctx)
	var probe sync.WaitGroup
	defer probe.Wait()
	defer back()
	from := w.last
	probe.Go(func() {
		if w.probe(here, from) {
			back()
		}
	})
	for e, err := range w.fallback.Watch(here, w.last) {
		if err != nil && here.Err() != nil {
			break
		}
		if err != nil {
			return err
		}
		if err := w.pass(e); err != nil {
			return err
		}
	}
	if here.Err() == nil {
		return errors.New("the events ended")
	}
	return nil
}

// probe waits until a publisher is heard that is at a revision at least, and reports
// whether that was before ctx ended.
func (w *watch) probe(ctx context.Context, revision int64) bool {
	wait := firstRetry
	for {
		if w.listen(ctx, revision) == nil {
			return true
		}
		if !sleep(ctx, wait) {
			return false
		}
		wait = min(2*wait, lastRetry)
	}
}

// listen waits for one beat.
func (w *watch) listen(ctx context.Context, revision int64) error {
	c, done := w.server.connect(ctx)
	defer done()
	beat, err := w.mark(ctx, c)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, w.silence+callTimeout)
	defer cancel()
	streams, err := c.XRead(ctx, &redis.XReadArgs{Streams: []string{w.beats, beat}, Count: 1, Block: w.silence}).Result()
	if err != nil {
		return err
	}
	for _, s := range streams {
		for _, m := range s.Messages {
			if at, err := beatOf(m); err == nil && at >= revision {
				return nil
			}
		}
	}
	return errSilent
}
