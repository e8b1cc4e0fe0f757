package api

import (
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

const (
	// maxPages documents of lists are remembered, each of maxPageSize bytes at
	// most, for queries of maxPageQuery bytes at most.
	maxPages     = 64
	maxPageSize  = 256 << 10
	maxPageQuery = 1 << 10
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

// get returns the document for a query, if it is right still. Otherwise now is
// what put needs to know about the one that is made instead.
func (p *pages) get(query string) (d document, now uint64, ok bool) {
	if now = p.generation(); now == 0 {
		return document{}, 0, false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	known, ok := p.kept.Get(query)
	return known.document, now, ok && known.generation == now
}

// put remembers the document that was made after get had said now.
func (p *pages) put(query string, now uint64, d document) {
	if now == 0 || len(d.body) > maxPageSize || len(query) > maxPageQuery {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.kept.Add(query, page{now, d})
}
