package bus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"strconv"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"nearsight/registry"
)

// The wait before a lost Redis is tried again grows from firstRetry to lastRetry.
const (
	firstRetry = 100 * time.Millisecond
	lastRetry  = 2 * time.Second
)

// PublisherOptions of NewPublisher. Server and Local are required.
type PublisherOptions struct {
	Server *Server
	// Local wakes the publisher and has the log that it publishes. What Local is
	// not told of is published with the next beat.
	Local *Local
	// Stream is the name of the stream of events; "" means DefaultStream. Each
	// registry needs one of its own.
	Stream string
	// Keep is about how many events the stream holds; 0 means DefaultKeep.
	Keep int64
	// Beat is how often the publisher says that it is alive; 0 means 500 ms.
	Beat time.Duration
	// Log is told when Redis is lost and when it is back; nil means slog.Default().
	Log *slog.Logger
}

// A Publisher brings events from the log into a stream of Redis. Several may feed
// one stream from one log.
type Publisher struct {
	server        *Server
	local         *Local
	stream, beats string
	keep          int64
	beat          time.Duration
	log           *slog.Logger

	mu  sync.Mutex
	err error
}

var errNotYet = errors.New("not yet published")

// NewPublisher returns a Publisher that does nothing before Run.
func NewPublisher(o PublisherOptions) *Publisher {
	p := &Publisher{server: o.Server, local: o.Local, stream: o.Stream, keep: o.Keep, beat: o.Beat, log: o.Log, err: errNotYet}
	if p.stream == "" {
		p.stream = DefaultStream
	}
	if p.keep <= 0 {
		p.keep = DefaultKeep
	}
	if p.beat <= 0 {
		p.beat = defaultBeat
	}
	if p.log == nil {
		p.log = slog.Default()
	}
	p.beats = beatsOf(p.stream)
	return p
}

// Err returns nil while all events reach Redis, and otherwise why they do not.
// They reach their watchers nevertheless, by other ways.
func (p *Publisher) Err() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// became notes the state and returns what it was.
func (p *Publisher) became(err error) (was error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	was, p.err = p.err, err
	return was
}

// Run publishes until ctx ends, and returns nil then. It outlasts failures of
// Redis and of the log.
func (p *Publisher) Run(ctx context.Context) error {
	wait := firstRetry
	for {
		err := p.publish(ctx, func() {
			if was := p.became(nil); was != nil {
				p.log.Info("events go to redis", "redis", p.server.String())
			}
			wait = firstRetry
		})
		if ctx.Err() != nil {
			return nil
		}
		if was := p.became(err); was == nil || was == errNotYet { // once for each loss
			p.log.Warn("events do not go to redis; watchers get them from a central until they do", "err", err)
		}
		if !sleep(ctx, wait) {
			return nil
		}
		wait = min(2*wait, lastRetry)
	}
}

// publish brings events to Redis until something fails. It calls done when
// everything is there.
func (p *Publisher) publish(ctx context.Context, done func()) error {
	c, closeClient := p.server.connect(ctx)
	defer closeClient()
	f := &feed{Publisher: p, redis: c}
	if err := f.begin(ctx); err != nil {
		return err
	}
	for {
		growth := p.local.growth() // before the log is read
		all, err := f.round(ctx)
		if err != nil {
			return err
		}
		if !all {
			continue
		}
		done()
		due := time.NewTimer(max(time.Until(f.beaten.Add(p.beat)), time.Millisecond))
		select {
		case <-growth:
		case <-due.C:
		case <-ctx.Done():
		}
		due.Stop()
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// A feed is a Publisher while it is connected.
type feed struct {
	*Publisher
	redis  redis.UniversalClient
	last   int64     // up to this revision everything was published, or never will be
	beaten time.Time // when
}

// begin finds out from where to publish. After a gap in the stream its watchers
// read the log, so what was not published for long needs not be.
func (f *feed) begin(ctx context.Context) error {
	// First the stream, then the log: of a log that goes on it can only have less.
	id, err := last(ctx, f.redis, f.stream)
	if err != nil {
		return f.server.fail("read what was published", err)
	}
	end := endOf(id)
	revision, err := f.local.log.Revision(ctx)
	if err != nil {
		return err
	}
	if end > revision {
		f.log.Warn("the stream of events is ahead of the registry, which was put back or shares the stream with another (events.stream); it is begun anew",
			"stream", f.stream, "revision", revision, "published", end)
		if err := f.redis.Del(ctx, f.stream).Err(); err != nil {
			return f.server.fail("begin the stream anew", err)
		}
		end = 0
	}
	if f.last = end; end == 0 || revision-end > f.keep {
		f.last = revision
	}
	return nil
}

// endOf reads the revision out of the id of the last entry. One that is no
// publisher's counts as that of a later revision than there is.
func endOf(id string) int64 {
	if id == "0-0" {
		return 0
	}
	revision, err := revisionOf(id)
	if err != nil {
		return math.MaxInt64
	}
	return revision
}

// round publishes the next events, at most a batch, and says that we are alive
// when that is due. all: there were no more.
func (f *feed) round(ctx context.Context) (all bool, err error) {
	asked := time.Now()
	events, err := f.local.log.Since(ctx, f.last, batch)
	if errors.Is(err, registry.ErrTooOld) { // we were away for long; watchers see the gap
		f.last, err = f.local.log.Revision(ctx)
		return false, err
	}
	if err != nil {
		return false, err
	}
	to := f.last
	if len(events) > 0 {
		to = events[len(events)-1].Revision
	}
	all = len(events) < batch
	// What was long on its way from the log says nothing about now.
	beats := all && time.Since(f.beaten) >= f.beat && time.Since(asked) < callTimeout
	end, err := f.send(ctx, events, to, beats)
	if err == nil {
		err = f.compare(ctx, end, to, all)
	}
	if err != nil {
		return false, err
	}
	f.last = to
	if beats {
		f.beaten = time.Now()
	}
	return all, nil
}

// send brings events, and perhaps a beat, to Redis in one go, and returns the
// revision at which the stream ends.
func (f *feed) send(ctx context.Context, events []registry.Event, to int64, beats bool) (end int64, err error) {
	pipe := f.redis.Pipeline()
	for _, e := range events {
		pipe.XAdd(ctx, &redis.XAddArgs{
			Stream: f.stream, MaxLen: f.keep, Approx: true, ID: strconv.FormatInt(e.Revision, 10) + "-0", Values: encode(e),
		})
	}
	last := pipe.XRevRangeN(ctx, f.stream, "+", "-", 1)
	var beat *redis.StringCmd
	if beats {
		beat = pipe.XAdd(ctx, &redis.XAddArgs{Stream: f.beats, MaxLen: 1, Values: []any{"revision", strconv.FormatInt(to, 10)}})
	}
	// The error is that of the first command that failed. That may be an entry that
	// another publisher brought before: where the stream ends tells.
	_, first := pipe.Exec(ctx)
	id, err := lastOf(last)
	if err == nil && beats {
		err = beat.Err()
	}
	if end = endOf(id); err == nil && end < to && len(events) > 0 {
		if err = first; err == nil {
			err = fmt.Errorf("the stream ends at %d, not at %d", end, to)
		}
	}
	if err != nil {
		return 0, f.server.fail("publish events", err)
	}
	return end, nil
}

// compare judges a stream that ends at end when we have published up to to; all: the
// log had no more.
func (f *feed) compare(ctx context.Context, end, to int64, all bool) error {
	switch {
	case end == 0: // empty, or lost: what comes next is its beginning
		return nil
	case end < to:
		return f.server.fail("publish events", fmt.Errorf("the stream went back from %d to %d", to, end))
	case end == to || !all:
		return nil
	}
	revision, err := f.local.log.Revision(ctx)
	if err == nil && end > revision {
		err = f.server.fail("publish events", fmt.Errorf("the stream is at %d, the registry at %d", end, revision))
	}
	return err // nil: another publisher is a little ahead
}

// sleep waits, and reports whether ctx still goes on.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
