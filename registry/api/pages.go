package api

import (
	"strconv"
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"nearsight/registry"
)

const (
	// maxPages documents of lists are remembered, each of maxPageSize bytes at
	// most, under keys of maxPageKey bytes at most.
	maxPages    = 64
	maxPageSize = 256 << 10
	maxPageKey  = 1 << 10
)

// pages remembers the documents of lists for as long as no image changes: any
// image may be on any page, and lists are asked for far more often than images
// change.
type pages struct {
	// generation returns a number that is another one after every change, and 0
	// while that cannot be said.
	generation func() uint64

	mu   sync.Mutex
	kept *simplelru.LRU[string, page]
}

type page struct {
	generation uint64
	document   document
}

func newPages(generation func() uint64) *pages {
	kept, _ := simplelru.NewLRU[string, page](maxPages, nil) // fails only for sizes below 1
	return &pages{generation: generation, kept: kept}
}

// pageKey says whose page of which query it is. Callers share one only if they have
// the same project and the same roles, as far as those count for what is seen.
func pageKey(c *registry.Caller, query string) string {
	b := make([]byte, 0, 16+len(c.Project)+len(query))
	for _, role := range []string{"admin", "member", "reader", "service"} {
		b = strconv.AppendBool(b, c.Is(role))
	}
	b = strconv.AppendBool(b, c.Stranger)
	b = strconv.AppendQuote(b, c.Project) // no query can continue it
	return string(append(b, query...))
}

// get returns the document for a key, if it is right still. Otherwise now is
// what put needs to know about the one that is made instead.
func (p *pages) get(key string) (d document, now uint64, ok bool) {
	if now = p.generation(); now == 0 {
		return document{}, 0, false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	known, ok := p.kept.Get(key)
	return known.document, now, ok && known.generation == now
}

// put remembers the document that was made after get had said now.
func (p *pages) put(key string, now uint64, d document) {
	if now == 0 || len(d.body) > maxPageSize || len(key) > maxPageKey {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.kept.Add(key, page{now, d})
}
