package main

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"testing"
	"time"
)

// An edge that cannot reach its centrals serves what it has cached of public images,
// byte for byte, until the time for that is over, and what is not public until the
// time for that is; and everything again when they are back.
func TestAnEdgeAloneServesForAsLongAsItMay(t *testing.T) {
	lanes := startPostgres(t, 1)
	p := promise{max: 3 * time.Second, unproved: 6 * time.Second, unprovedPublic: 12 * time.Second}
	s := newPartitionSite(t, <-lanes, "alone", p)
	l := &load{site: s, seed: 1, done: make(chan struct{})}
	r := rand.New(rand.NewPCG(1, 0))
	c := newPartitionClient("the client")
	defer c.close()
	central, edge := s.nodes[0], s.nodes[testCentrals]
	open, closed := l.create(c, central, r), l.create(c, central, r)
	if open == nil || closed == nil {
		t.Fatal("no images", l.wrong)
	}
	resp, text, err := c.send(central, s.tokens["admin"], http.MethodPatch, "/v2/images/"+open.id, patchKind,
		[]byte(`[{"op":"replace","path":"/visibility","value":"public"}]`))
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatal(resp, string(text), err)
	}
	whole := func(h *history) *observation { return l.observe(c, edge, asOwner, theData, h, r) }
	fresh := func() error {
		for _, h := range []*history{open, closed} {
			if o := whole(h); o.status/100 != 2 || o.wrong || o.stale {
				return fmt.Errorf("%v", o)
			}
		}
		return nil
	}
	becomesTrue(t, fresh)
	for range 100 { // all of it, in whichever pieces
		if err := fresh(); err != nil {
			t.Fatal(err)
		}
	}

	alone := time.Now()
	for _, l := range edge.links {
		l.cut()
	}
	for range 20 { // so that nothing of before is still under way
		whole(open)
	}
	earliest := time.Now()
	heard, err := readMetric("http://"+edge.current().admin+"/metrics", "nearsight_records_heard_seconds")
	if err != nil {
		t.Fatal(err)
	}
	// What the edge knew was known to be right at some time from earliest to alone.
	earliest = earliest.Add(-time.Duration(heard * float64(time.Second)))
	served := 0
	for over := false; !over; {
		for h, limit := range map[*history]time.Duration{open: p.unprovedPublic, closed: p.unproved} {
			o := whole(h)
			good := o.status/100 == 2
			switch {
			case good && o.wrong:
				t.Fatalf("wrong bytes: %v", o)
			case !good && o.ended.Before(earliest.Add(limit)):
				t.Fatalf("refused %v too early: %v", earliest.Add(limit).Sub(o.ended), o)
			case good && o.began.After(alone.Add(limit)):
				t.Fatalf("served %v too late: %v", o.began.Sub(alone.Add(limit)), o)
			case good && !o.stale && o.began.After(alone.Add(p.max)):
				t.Fatalf("does not say that it is unproved: %v", o)
			case !good && o.status != http.StatusServiceUnavailable:
				t.Fatalf("%v", o)
			case good:
				served++
			}
			over = over || h == open && !good
		}
	}
	t.Logf("%d answers without a central", served)

	for _, l := range edge.links {
		l.mend()
	}
	becomesTrue(t, fresh)
}

// becomesTrue waits until a check is passed.
func becomesTrue(t *testing.T, check func() error) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if err = check(); err == nil {
			return
		}
	}
	t.Fatal(err)
}
