package api

import (
	"strings"
	"testing"
)

func TestPagesAreRememberedUntilSomethingChanges(t *testing.T) {
	now := uint64(1)
	p := newPages(func() uint64 { return now })
	_, before, ok := p.get("limit=2")
	if ok {
		t.Fatal("it knows what it was never told")
	}
	p.put("limit=2", before, newDocument([]byte("a")))
	if d, _, ok := p.get("limit=2"); !ok || string(d.body) != "a" {
		t.Errorf("forgotten: %q", d.body)
	}
	if _, _, ok := p.get("limit=3"); ok {
		t.Error("one query's page for another")
	}
	now++
	if _, _, ok := p.get("limit=2"); ok {
		t.Error("remembered over a change")
	}
	p.put("limit=2", before, newDocument([]byte("a"))) // a list that was slower than the change
	if _, _, ok := p.get("limit=2"); ok {
		t.Error("a list from before the change is given after it")
	}
	now = 0
	_, before, _ = p.get("limit=2")
	p.put("limit=2", before, newDocument([]byte("a")))
	if _, _, ok := p.get("limit=2"); ok {
		t.Error("remembered although changes are not heard of")
	}
}

func TestPagesTakeBoundedMemory(t *testing.T) {
	p := newPages(func() uint64 { return 1 })
	p.put("large", 1, document{body: make([]byte, maxPageSize+1)})
	p.put(strings.Repeat("x", maxPageKey+1), 1, document{})
	for i := range 3 * maxPages {
		p.put(strings.Repeat("y", i), 1, document{})
	}
	if n := p.kept.Len(); n > maxPages {
		t.Errorf("%d pages", n)
	}
	if _, _, ok := p.get("large"); ok {
		t.Error("a page of more than the bound")
	}
}
