package remote

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"nearsight/registry"
	"nearsight/registry/identity"
)

const (
	defaultKeep    = 10 * time.Second
	defaultCallers = 10_000

	// MaxKeep bounds how long a caller is believed without asking again.
	MaxKeep = 30 * time.Second
	// strangerFor is how long a token that is not known is not asked about again, and
	// maxStrangers bounds how many of those are remembered: anybody can send any
	// number.
	strangerFor  = 2 * time.Second
	maxStrangers = 1000
	// maxToken bounds a token, in bytes. Those of Keystone have some hundreds.
	maxToken = 16 << 10
	// tryAgain is how often a central that cannot be asked is tried for those whose
	// callers are remembered, and tryFor for how long.
	tryAgain = time.Second
	tryFor   = 2 * time.Second
)

type tokenSum = [sha256.Size]byte

// callers is what is remembered of what a central said about tokens.
type callers struct {
	keep, keepIfError time.Duration
	known             *lru.Cache[tokenSum, knownCaller]
	strangers         *lru.Cache[tokenSum, time.Time] // until when

	mu      sync.Mutex
	asked   map[tokenSum]*question
	retryAt time.Time // zero while the central can be asked
}

// A knownCaller was known when the central was asked, and is believed until a time.
type knownCaller struct {
	caller *registry.Caller
	asked  time.Time
	until  time.Time
}

// A question about a token is asked once for all who want to know. The rest is set
// before done is closed.
type question struct {
	done   chan struct{}
	caller *registry.Caller
	err    error
}

func newCallers(o Options) *callers {
	c := &callers{keep: o.Keep, keepIfError: o.KeepIfError, asked: map[tokenSum]*question{}}
	if c.keep <= 0 {
		c.keep = defaultKeep
	}
	c.keep = min(c.keep, MaxKeep)
	if o.Callers <= 0 {
		o.Callers = defaultCallers
	}
	c.known, _ = lru.New[tokenSum, knownCaller](o.Callers) // fails for sizes below 1 alone
	c.strangers, _ = lru.New[tokenSum, time.Time](maxStrangers)
	return c
}

// Remembered implements identity.Rememberer.
func (c *Central) Remembered(token string) *registry.Caller {
	k, ok := c.callers.known.Get(sha256.Sum256([]byte(token)))
	if !ok || !time.Now().Before(k.until) {
		return nil
	}
	return k.caller
}

// Identify implements identity.Identifier. Of those who ask about one token at a time
// one asks the central, and finds out for the others even if its own request is given up.
func (c *Central) Identify(ctx context.Context, token string) (*registry.Caller, error) {
	if token == "" || len(token) > maxToken || strings.ContainsFunc(token, func(c rune) bool { return c <= ' ' || c >= 0x7f }) {
		return nil, identity.ErrUnknown
	}
	m, sum, now := c.callers, sha256.Sum256([]byte(token)), time.Now()
	k, known := m.known.Get(sum)
	if known && now.Before(k.until) {
		return k.caller, nil
	}
	if until, ok := m.strangers.Get(sum); ok && now.Before(until) {
		return nil, identity.ErrUnknown
	}
	fallback := known && now.Before(k.asked.Add(m.keepIfError))
	q, mine := m.join(sum, fallback)
	switch {
	case q == nil: // the central was found to be away a moment ago
		return k.caller, nil
	case mine:
		c.settle(ctx, sum, q, token, fallback)
	}
	select {
	case <-q.done:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if fallback && errors.Is(q.err, registry.ErrUnavailable) {
		return k.caller, nil
	}
	return q.caller, q.err
}

// join returns the question about a token that is being asked, or a new one, to which
// the caller must find the answer. It is nil for one who can do without, while the
// central is known to be away and it is not yet time to try it again.
func (m *callers) join(sum tokenSum, fallback bool) (q *question, mine bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if fallback && !m.retryAt.IsZero() {
		if time.Now().Before(m.retryAt) {
			return nil, false
		}
		m.retryAt = time.Now().Add(tryAgain)
	}
	if q := m.asked[sum]; q != nil {
		return q, false
	}
	q = &question{done: make(chan struct{})}
	m.asked[sum] = q
	return q, true
}

// settle finds the answer to a question, for all who wait for it.
func (c *Central) settle(ctx context.Context, sum tokenSum, q *question, token string, fallback bool) {
	m, asked := c.callers, time.Now()
	q.err = errors.New("the question about the token was given up") // unless it comes to an end
	defer func() {
		m.mu.Lock()
		delete(m.asked, sum)
		switch away := errors.Is(q.err, registry.ErrUnavailable); {
		case !away:
			m.retryAt = time.Time{}
		case m.retryAt.IsZero():
			m.retryAt = time.Now().Add(tryAgain)
		}
		m.mu.Unlock()
		close(q.done)
	}()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.silence+dialTimeout)
	defer cancel()
	silence := c.silence
	if fallback {
		silence = min(silence, tryFor)
	}
	caller, expires, err := c.identify(ctx, token, silence)
	switch {
	case err != nil:
		q.err = fmt.Errorf("identify: %w", err)
	case caller == nil:
		m.known.Remove(sum)
		m.strangers.Add(sum, asked.Add(strangerFor))
		q.err = identity.ErrUnknown
	default:
		m.known.Add(sum, knownCaller{caller, asked, asked.Add(min(m.keep, expires))})
		q.caller, q.err = caller, nil
	}
}

// identify asks the central whom a token names, nobody if caller is nil, and for how long
// that may be believed.
func (c *Central) identify(ctx context.Context, token string, silence time.Duration) (caller *registry.Caller, expires time.Duration, err error) {
	question := struct {
		Token string `json:"token"`
	}{token}
	a, err := c.post(ctx, "/nearsight/identify", question, silence, maxError)
	if errors.Is(err, context.DeadlineExceeded) {
		return nil, 0, unavailable("the answer takes too long")
	}
	if err != nil {
		return nil, 0, asUnavailable(err)
	}
	var said struct {
		Caller *struct {
			Project string   `json:"project"`
			User    string   `json:"user"`
			Roles   []string `json:"roles"`
		} `json:"caller"`
		ExpiresIn *int64 `json:"expires_in"`
	}
	if err := a.decode(&said); err != nil {
		return nil, 0, err
	}
	if said.ExpiresIn == nil || *said.ExpiresIn < 0 {
		return nil, 0, unavailable("its answer about a token says nothing of time")
	}
	if said.Caller != nil {
		caller = &registry.Caller{Project: said.Caller.Project, User: said.Caller.User, Roles: said.Caller.Roles}
	}
	return caller, time.Duration(min(*said.ExpiresIn, int64(MaxKeep/time.Second))) * time.Second, nil
}

// asUnavailable returns err, which is about the question and not about the token, as one
// of a central that cannot be asked.
func asUnavailable(err error) error {
	if errors.Is(err, registry.ErrUnavailable) {
		return err
	}
	return unavailable("%v", err)
}
