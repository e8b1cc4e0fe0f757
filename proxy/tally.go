package proxy

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"nearsight/cache"
)

// maxTallies is how many images are counted apart.
const maxTallies = 10_000

// tallies count, for each image, what became of requests for its data. They are in
// memory alone, and begin with the process. The zero value is ready.
type tallies struct {
	mu   sync.Mutex
	byID *simplelru.LRU[string, *tally]
}

// A tally is that of one image.
type tally struct {
	hits   atomic.Int64 // answers that came from the cache alone
	filled atomic.Int64 // when something was fetched last, in ns since 1970; 0 for never
}

// of returns the tally of an image.
func (t *tallies) of(id string) *tally {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byID == nil {
		t.byID, _ = simplelru.NewLRU[string, *tally](maxTallies, nil) // fails only for sizes below 1
	}
	one, ok := t.byID.Get(id)
	if !ok {
		one = &tally{}
		t.byID.Add(id, one)
	}
	return one
}

// note counts an answer.
func (t *tally) note(found cache.Outcome, now time.Time) {
	if found.Present < found.Chunks {
		t.filled.Store(now.UnixNano())
		return
	}
	t.hits.Add(1)
}
