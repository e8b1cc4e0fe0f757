package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"text/tabwriter"
	"time"
)

// pollEvery is how often an edge is asked whether it shows a change, and
// lagPatience how long.
const (
	pollEvery   = 500 * time.Microsecond
	lagPatience = 30 * time.Second
)

// An image is one of the pool, in the state that the last change left.
type image struct {
	id           string
	n            int
	hidden       bool // private
	unshared     bool
	off, deleted bool // deactivated
}

// status is that of its data for the other project.
func (i *image) status() int {
	switch {
	case i.deleted, i.hidden, i.unshared:
		return http.StatusNotFound
	case i.off:
		return http.StatusForbidden
	}
	return http.StatusOK
}

// A change is a request to a central, and the image afterwards.
type change struct {
	kind                     string
	method, path, mime, body string
	after                    image
}

const patchKind = "application/openstack-images-v2.1-json-patch"

// changeOf returns a random change that the other project can see.
func changeOf(i image, r *rand.Rand) change {
	c := change{method: http.MethodPatch, path: "/v2/images/" + i.id, mime: patchKind, after: i}
	replace := func(name, value string) {
		c.body = fmt.Sprintf(`[{"op":"replace","path":"/%s","value":"%s"}]`, name, value)
	}
	action := func(name string) {
		c.kind, c.method, c.mime = name, http.MethodPost, ""
		c.path += "/actions/" + name
	}
	switch {
	case i.hidden:
		c.kind, c.after.hidden = "PATCH visibility (show)", false
		replace("visibility", "shared")
	case i.unshared:
		c.kind, c.method, c.mime, c.body = "add member", http.MethodPost, "application/json", `{"member":"other"}`
		c.path += "/members"
		c.after.unshared = false
	case i.off:
		action("reactivate")
		c.after.off = false
	default:
		switch k := r.IntN(10); {
		case k < 2:
			c.kind, c.after.n = "PATCH property", i.n+1
			replace("n", strconv.Itoa(i.n+1))
		case k < 4:
			c.kind, c.after.hidden = "PATCH visibility (hide)", true
			replace("visibility", "private")
		case k < 6:
			c.kind, c.method, c.mime = "remove member", http.MethodDelete, ""
			c.path += "/members/other"
			c.after.unshared = true
		case k < 8:
			action("deactivate")
			c.after.off = true
		default:
			c.kind, c.method, c.mime, c.after.deleted = "DELETE", http.MethodDelete, "", true
		}
	}
	return c
}

// measureLag makes changes at the centrals, and measures the time from each answer to
// that of the last edge that shows it.
func measureLag(ctx context.Context, s *site, changes, pool, load int, out io.Writer) error {
	r := rand.New(rand.NewPCG(1, 2))
	writer := newClient()
	defer writer.close()
	p := &lagPool{}
	for i := range pool {
		id, err := writer.create(ctx, s, s.centrals[i%len(s.centrals)], "data")
		if err != nil {
			return err
		}
		p.images = append(p.images, image{id: id})
	}
	ctx, stop := context.WithCancel(ctx)
	var readers sync.WaitGroup
	defer readers.Wait()
	defer stop()
	for _, edge := range s.edges {
		readers.Go(func() { p.read(ctx, s, edge, time.Second*time.Duration(len(s.edges))/time.Duration(max(1, load))) })
	}
	watchers := make([]*client, len(s.edges))
	for i := range watchers {
		watchers[i] = newClient()
		defer watchers[i].close()
	}
	lags := map[string][]time.Duration{}
	for range changes {
		k := r.IntN(pool)
		central := s.centrals[r.IntN(len(s.centrals))]
		kind, lag, err := p.change(ctx, s, k, central, writer, watchers, r)
		if err != nil {
			return err
		}
		lags[kind] = append(lags[kind], lag)
		if p.images[k].deleted {
			id, err := writer.create(ctx, s, central, "data")
			if err != nil {
				return err
			}
			p.set(k, image{id: id})
		}
	}
	return report(out, lags)
}

// A lagPool is the images that are changed.
type lagPool struct {
	mu     sync.Mutex
	images []image
}

func (p *lagPool) set(k int, i image) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.images[k] = i
}

func (p *lagPool) any() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.images[rand.IntN(len(p.images))].id
}

// read reads what it finds at an edge, one request each interval.
func (p *lagPool) read(ctx context.Context, s *site, edge string, interval time.Duration) {
	c := newClient()
	defer c.close()
	t := time.NewTicker(interval)
	defer t.Stop()
	for i := 0; ; i++ {
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
		url := edge + "/v2/images/" + p.any()
		if i%2 == 0 {
			url += "/file"
		}
		c.do(ctx, s.other, http.MethodGet, url, "", "") // it may fail: it is load
	}
}

// change changes one image, and returns how long the last edge took to show it.
func (p *lagPool) change(ctx context.Context, s *site, k int, central string, writer *client, watchers []*client, r *rand.Rand) (kind string, lag time.Duration, err error) {
	before := p.images[k]
	c := changeOf(before, r)
	for i, edge := range s.edges { // which knows it, therefore
		if err := watch(ctx, watchers[i], s, edge, before); err != nil {
			return "", 0, fmt.Errorf("before a change: %w", err)
		}
	}
	if _, err := writer.must(ctx, s.admin, c.method, central+c.path, c.mime, c.body); err != nil {
		return "", 0, err
	}
	answered := time.Now()
	lags, errs := make([]time.Duration, len(s.edges)), make([]error, len(s.edges))
	var all sync.WaitGroup
	for i, edge := range s.edges {
		all.Go(func() {
			errs[i] = watch(ctx, watchers[i], s, edge, c.after)
			lags[i] = time.Since(answered)
		})
	}
	all.Wait()
	p.set(k, c.after)
	return c.kind, slices.Max(lags), errors.Join(errs...)
}

// watch waits until an edge shows an image as it is.
func watch(ctx context.Context, c *client, s *site, edge string, i image) error {
	began := time.Now()
	for {
		at := edge + "/v2/images/" + i.id
		status, _, err := c.do(ctx, s.other, http.MethodHead, at+"/file", "", "")
		if err == nil && status == i.status() && status == http.StatusOK {
			var text string
			status, text, err = c.do(ctx, s.other, http.MethodGet, at, "", "")
			if !strings.Contains(text, fmt.Sprintf(`"n":"%d"`, i.n)) && !strings.Contains(text, fmt.Sprintf(`"n": "%d"`, i.n)) {
				status = 0
			}
		}
		if err == nil && status == i.status() {
			return nil
		}
		if err == nil && time.Since(began) > lagPatience {
			err = fmt.Errorf("image %s at %s: status %d, want %d, and the change is not shown for %v", i.id, edge, status, i.status(), lagPatience)
		}
		if err != nil {
			return err
		}
		time.Sleep(pollEvery)
	}
}

// report writes the percentiles of each kind of change, and of all.
func report(out io.Writer, lags map[string][]time.Duration) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "change\tnumber\tp50 ms\tp99 ms\tmax ms")
	row := func(name string, all []time.Duration) {
		slices.Sort(all)
		ms := func(q float64) float64 { return float64(percentile(all, q).Microseconds()) / 1000 }
		fmt.Fprintf(w, "%s\t%d\t%.1f\t%.1f\t%.1f\n", name, len(all), ms(0.5), ms(0.99), ms(1))
	}
	var all []time.Duration
	for _, kind := range slices.Sorted(maps.Keys(lags)) {
		row(kind, lags[kind])
		all = append(all, lags[kind]...)
	}
	row("all", all)
	return w.Flush()
}

// percentile returns the least value that a share q of the sorted values does not
// exceed.
func percentile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	i := int(q*float64(len(sorted))+0.999999) - 1
	return sorted[min(max(i, 0), len(sorted)-1)]
}
