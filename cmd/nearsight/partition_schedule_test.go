package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"
)

// A fault is something that breaks for some time.
type fault struct {
	name       string
	at, lasts  time.Duration
	begin, end func() error
}

// A schedule is the faults of one test, which may overlap.
type schedule []fault

func (s schedule) String() string {
	var b strings.Builder
	for _, f := range s {
		fmt.Fprintf(&b, "\t%v: %s for %v\n", f.at, f.name, f.lasts)
	}
	return b.String()
}

// run has everything break and be mended, and returns when all is whole again.
func (s schedule) run() error {
	var all sync.WaitGroup
	errs := make([]error, len(s))
	for i, f := range s {
		all.Go(func() {
			time.Sleep(f.at)
			if errs[i] = f.begin(); errs[i] == nil {
				time.Sleep(f.lasts)
				errs[i] = f.end()
			}
			if errs[i] != nil {
				errs[i] = fmt.Errorf("%s: %w", f.name, errs[i])
			}
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

// A breaker kills a machine, and starts it when nobody wants it dead any more.
type breaker struct {
	machine
	mu   sync.Mutex
	down int
}

func (b *breaker) begin() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.down++; b.down > 1 {
		return nil
	}
	return b.kill()
}

func (b *breaker) end() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.down--; b.down > 0 {
		return nil
	}
	return b.start()
}

// faultsOf returns all that can break at a site; those that stand there more often
// break more often.
func faultsOf(s *partitionSite) []fault {
	var all []fault
	network := func(name string, links ...*link) {
		each := func(do func(*link)) func() error {
			return func() error {
				for _, l := range links {
					do(l)
				}
				return nil
			}
		}
		all = append(all,
			fault{name: name + " cut", begin: each((*link).cut), end: each((*link).mend)},
			fault{name: name + " held", begin: each((*link).hold), end: each((*link).release)})
	}
	death := func(name string, machines ...*breaker) {
		all = append(all, fault{
			name: name + " killed",
			begin: func() (err error) {
				for _, m := range machines {
					err = errors.Join(err, m.begin())
				}
				return err
			},
			end: func() (err error) {
				for _, m := range machines {
					err = errors.Join(err, m.end())
				}
				return err
			},
		})
	}
	centrals, edges := s.nodes[:testCentrals], s.nodes[testCentrals:]
	for _, n := range s.nodes {
		for _, to := range []string{"redis", "origin", "postgres", "c1"} {
			if l := n.links[to]; l != nil {
				network(l.name, l)
			}
		}
		death(n.name, s.breakerOf(n))
	}
	for _, e := range edges {
		network(e.name+" from the centrals", e.links["c1"], e.links["c2"])
		if redis := e.links["redis"]; redis != nil {
			network(e.name+" from the centrals and redis", e.links["c1"], e.links["c2"], redis)
		}
	}
	network("the centrals from postgres", centrals[0].links["postgres"], centrals[1].links["postgres"])
	death("both centrals", s.breakerOf(centrals[0]), s.breakerOf(centrals[1]))
	for range 3 { // one each, against several edges
		death("redis", s.breakerOf(s.redis))
		death("postgres", s.breakerOf(s.postgres))
	}
	return all
}

// draw returns a schedule that is random, and the same for the same seed.
func draw(s *partitionSite, r *rand.Rand) schedule {
	all := faultsOf(s)
	faults := make(schedule, 3+r.IntN(6))
	for i := range faults {
		f := all[r.IntN(len(all))]
		f.at = time.Duration(200+r.IntN(4800)) * time.Millisecond
		switch r.IntN(3) {
		case 0: // a hiccup
			f.lasts = time.Duration(20+r.IntN(480)) * time.Millisecond
		case 1:
			f.lasts = time.Duration(500+r.IntN(2500)) * time.Millisecond
		default: // longer than anything is believed
			f.lasts = time.Duration(4000+r.IntN(4000)) * time.Millisecond
		}
		faults[i] = f
	}
	return faults
}
