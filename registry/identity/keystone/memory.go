package keystone

import (
	"crypto/sha256"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"nearsight/registry"
)

// rejectedFor is how long a token that is not known is not asked about again. A token
// that Keystone has given out is known to all of it, so nobody waits for so long; but
// its parts may hear of new keys at different times.
const rejectedFor = 5 * time.Second

// maxRejected bounds how many of those are remembered: strangers can send any number.
const maxRejected = 1000

type tokenHash = [sha256.Size]byte

// A memory knows what was found out about tokens, and what is being found out.
type memory struct {
	keepFor  time.Duration
	callers  *lru.Cache[tokenHash, remembered]
	rejected *lru.Cache[tokenHash, time.Time] // until when

	mu    sync.Mutex
	asked map[tokenHash]*question
}

type remembered struct {
	caller *registry.Caller
	until  time.Time
}

// A question about a token is asked once for all who want to know.
type question struct {
	done   chan struct{} // closed when the rest is set
	caller *registry.Caller
	err    error
}

func newMemory(keepFor time.Duration, size int) memory {
	callers, _ := lru.New[tokenHash, remembered](size) // fails for sizes below 1 alone
	rejected, _ := lru.New[tokenHash, time.Time](maxRejected)
	return memory{keepFor: keepFor, callers: callers, rejected: rejected, asked: map[tokenHash]*question{}}
}

// recall returns the caller of a token that is remembered. known without a caller: the
// token was not known a moment ago.
func (m *memory) recall(sum tokenHash, now time.Time) (caller *registry.Caller, known bool) {
	if r, ok := m.callers.Get(sum); ok && now.Before(r.until) {
		return r.caller, true
	}
	until, ok := m.rejected.Get(sum)
	return nil, ok && now.Before(until)
}

// keep remembers what was asked for at a time, while that is right.
func (m *memory) keep(sum tokenHash, caller *registry.Caller, asked, expires time.Time) {
	until := asked.Add(m.keepFor)
	if expires.Before(until) {
		until = expires
	}
	m.callers.Add(sum, remembered{caller, until})
}

// reject remembers that a token was not known.
func (m *memory) reject(sum tokenHash, asked time.Time) {
	m.callers.Remove(sum)
	m.rejected.Add(sum, asked.Add(min(rejectedFor, m.keepFor)))
}

// join returns the question about a token that is being asked, or one that the caller
// must find the answer to, and then leave.
func (m *memory) join(sum tokenHash) (q *question, mine bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if q := m.asked[sum]; q != nil {
		return q, false
	}
	q = &question{done: make(chan struct{})}
	m.asked[sum] = q
	return q, true
}

// leave ends a question. What is remembered of it must be so already.
func (m *memory) leave(sum tokenHash, q *question) {
	m.mu.Lock()
	delete(m.asked, sum)
	m.mu.Unlock()
	close(q.done)
}
