package guard

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"nearsight/origin"
)

// A State is that of a breaker.
type State int

const (
	// Closed: calls go through.
	Closed State = iota
	// HalfOpen: one call is under way to find out whether the rest may follow.
	// Should it take its time, as an upload does, then another one is let
	// through after each Options.Cooldown.
	HalfOpen
	// Open: no call goes through.
	Open
)

// String returns closed, half_open or open.
func (s State) String() string {
	switch s {
	case Closed:
		return "closed"
	case HalfOpen:
		return "half_open"
	}
	return "open"
}

// maxHosts bounds the breakers of one guard. Only hosts that failed have one; the
// one that nobody asked for the longest time is forgotten first.
const maxHosts = 1000

// breakers holds a breaker per host of the locations. Those of our own stores
// name the store there, so that each of these has a single one; but of the hosts
// of strangers, which one http store reads, none must suffer for another.
type breakers struct {
	o  Options
	mu *sync.Mutex
	// byHost has those of the hosts that ever failed.
	byHost *simplelru.LRU[string, *breaker]
}

// A breaker is guarded by the mutex of breakers.
type breaker struct {
	state    State
	failures int       // more than good calls; while closed
	since    time.Time // of the first refusal
	until    time.Time // when the next call finds out, if no other has by then
	why      string    // what opened it
	// period counts the changes of state. What began in an earlier period
	// says nothing about this one.
	period int
}

func newBreakers(o Options) breakers {
	lru, err := simplelru.NewLRU[string, *breaker](maxHosts, nil)
	if err != nil {
		panic(err) // only for a size below 1
	}
	return breakers{o, new(sync.Mutex), lru}
}

func hostOf(loc origin.Location) string {
	_, host, _ := split(loc)
	return strings.ToLower(host)
}

// split returns the scheme of a location's URL, its host without a user, and the
// rest.
func split(loc origin.Location) (scheme, host, rest string) {
	scheme, host, _ = strings.Cut(loc.URL, "://")
	if end := strings.IndexAny(host, "/?#"); end >= 0 {
		host, rest = host[:end], host[end:]
	}
	return scheme, host[strings.LastIndexByte(host, '@')+1:], rest
}

func (bs *breakers) state(host string) State {
	bs.mu.Lock()
	defer bs.mu.Unlock()
	if b, ok := bs.byHost.Peek(host); ok {
		return b.state
	}
	return Closed
}

// A pass is the leave to make one call.
type pass struct {
	bs     *breakers
	host   string
	period int
	probe  bool
}

// enter lets a call through, or says since when and why it does not.
func (bs *breakers) enter(host string) (pass, error) {
	bs.mu.Lock()
	p := pass{bs: bs, host: host}
	b, ok := bs.byHost.Get(host)
	if !ok {
		bs.mu.Unlock()
		return p, nil
	}
	now, was := time.Now(), b.state
	if b.state != Closed && now.Before(b.until) {
		err := &refusal{store: bs.o.Name, since: b.since, why: b.why, after: b.until.Sub(now)}
		bs.mu.Unlock()
		return p, err
	}
	if b.state != Closed {
		b.set(HalfOpen)
		b.until = now.Add(bs.o.Cooldown)
		p.probe = true
	}
	p.period = b.period
	is := b.state
	bs.mu.Unlock()
	bs.tell(host, was, is, nil)
	return p, nil
}

// set changes the state and begins a period.
func (b *breaker) set(s State) {
	b.state = s
	b.period++
}

// answered says that the call got an answer: one that was to find out whether
// there are any closes the breaker. But the next failure opens it again, and it
// takes as many good calls as Options.Failures until all are forgiven.
func (p *pass) answered() {
	if !p.probe {
		return
	}
	p.probe = false
	p.bs.update(p, nil, func(b *breaker) {
		b.set(Closed)
		b.failures = p.bs.o.Failures - 1
		p.period = b.period
	})
}

// leave says how the call ended: with a failure of the store, well, or in a way
// that tells nothing about the store.
func (p *pass) leave(failure error, nothing bool) {
	p.bs.update(p, failure, func(b *breaker) {
		switch {
		case nothing && p.probe:
			b.set(Open)
			b.until = time.Time{} // the next call finds out
		case nothing:
		case failure == nil:
			b.failures = max(b.failures-1, 0)
		case p.probe:
			b.open(p.bs.o.Cooldown, failure)
		default:
			if b.failures++; b.failures >= p.bs.o.Failures {
				b.since = time.Now()
				b.open(p.bs.o.Cooldown, failure)
			}
		}
	})
	p.probe = false
}

func (b *breaker) open(cooldown time.Duration, failure error) {
	b.set(Open)
	b.until = time.Now().Add(cooldown)
	b.why = failure.Error()
}

// update applies f to the breaker of p, unless what p knows is out of date.
func (bs *breakers) update(p *pass, failure error, f func(*breaker)) {
	bs.mu.Lock()
	b, ok := bs.byHost.Peek(p.host)
	if !ok {
		b = new(breaker)
	}
	if b.period != p.period {
		bs.mu.Unlock()
		return
	}
	was := b.state
	f(b)
	is, lost := b.state, Closed
	if !ok && b.failures+b.period > 0 {
		if bs.byHost.Len() == maxHosts {
			_, oldest, _ := bs.byHost.GetOldest()
			lost = oldest.state
		}
		bs.byHost.Add(p.host, b)
	}
	bs.mu.Unlock()
	bs.tell(p.host, was, is, failure)
	if lost != Closed {
		bs.o.Observer.Breaker(lost, Closed)
	}
}

// tell reports a change of state.
func (bs *breakers) tell(host string, was, is State, failure error) {
	if was == is {
		return
	}
	bs.o.Observer.Breaker(was, is)
	switch {
	case is == Closed:
		bs.o.Log.Info("a store answers again", "store", bs.o.Name, "host", host)
	case was == Closed:
		bs.o.Log.Warn("a store is left alone", "store", bs.o.Name, "host", host, "for", bs.o.Cooldown, "err", failure)
	}
}

// A refusal is the error of a call that was not made. Its RetryAfter is the time
// until the next one is.
type refusal struct {
	store string
	since time.Time
	why   string
	after time.Duration
}

func (r *refusal) Error() string {
	return fmt.Sprintf("store %s: %v: left alone since %s after failures, the last: %s",
		r.store, origin.ErrUnavailable, r.since.UTC().Format(time.RFC3339), r.why)
}

func (r *refusal) Unwrap() error { return origin.ErrUnavailable }

// RetryAfter returns when a call may go through, from now on.
func (r *refusal) RetryAfter() time.Duration { return r.after }
