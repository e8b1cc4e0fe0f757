package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"text/tabwriter"
	"time"
)

// workers is how many requests of a kind are made at a time.
const workers = 8

// measureMemory makes images, has every edge and central show each of them, and tells
// what memory the servers take before and after.
func measureMemory(ctx context.Context, s *site, images int, out io.Writer) error {
	c := newClient()
	defer c.close()
	before, err := s.memory(ctx, c)
	if err != nil {
		return err
	}
	ids := make([]string, images)
	err = spread(images, func(i int) (err error) {
		ids[i], err = c.create(ctx, s, s.centrals[i%len(s.centrals)], "")
		return err
	})
	if err != nil {
		return err
	}
	for _, node := range append(append(urls{}, s.edges...), s.centrals...) {
		err := spread(images, func(i int) error {
			_, err := c.must(ctx, s.owner, http.MethodGet, node+"/v2/images/"+ids[i], "", "")
			return err
		})
		if err != nil {
			return err
		}
	}
	after, err := s.memory(ctx, c)
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "server\trecords in memory\tMiB before\tMiB after %d images\n", images)
	for i, node := range s.admins {
		fmt.Fprintf(w, "%s\t%.0f\t%.0f\t%.0f\n", node, after[i].records, before[i].resident/(1<<20), after[i].resident/(1<<20))
	}
	return w.Flush()
}

// spread does n things, several at a time, until one fails.
func spread(n int, do func(i int) error) error {
	var next atomic.Int64
	var all sync.WaitGroup
	errs := make([]error, workers)
	for k := range workers {
		all.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				if errs[k] = do(i); errs[k] != nil {
					next.Store(int64(n))
				}
			}
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

// A use is what a server needs.
type use struct{ resident, records, cpu float64 }

// memory asks all servers.
func (s *site) memory(ctx context.Context, c *client) ([]use, error) {
	all := make([]use, len(s.admins))
	for i, node := range s.admins {
		u, err := useOf(ctx, c, node)
		if err != nil {
			return nil, err
		}
		all[i] = u
	}
	return all, nil
}

// useOf asks one.
func useOf(ctx context.Context, c *client, admin string) (u use, err error) {
	text, err := c.must(ctx, "", http.MethodGet, admin+"/metrics", "", "")
	if err != nil {
		return u, err
	}
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		v, _ := strconv.ParseFloat(value, 64)
		switch name {
		case "process_resident_memory_bytes":
			u.resident = v
		case "process_cpu_seconds_total":
			u.cpu = v
		case "nearsight_records_known":
			u.records = v
		}
	}
	return u, nil
}

// measureShows has the first edge show records that it remembers, as fast as it can.
func measureShows(ctx context.Context, s *site, pool, connections int, duration time.Duration, out io.Writer) error {
	c := newClient()
	defer c.close()
	at, err := url.Parse(s.edges[0])
	if err != nil {
		return err
	}
	requests := make([]string, pool)
	for i := range requests {
		id, err := c.create(ctx, s, s.centrals[0], "data")
		if err != nil {
			return err
		}
		requests[i] = "GET /v2/images/" + id + " HTTP/1.1\r\nHost: " + at.Host + "\r\nX-Auth-Token: " + s.owner + "\r\n\r\n"
	}
	admin := ""
	for _, a := range s.admins {
		if u, err := url.Parse(a); err == nil && u.Hostname() == at.Hostname() {
			admin = a
		}
	}
	var answers, hits atomic.Int64
	end := time.Now().Add(time.Second) // to warm up
	load := func(count bool) error {
		return spread(connections, func(i int) error {
			return showAll(ctx, at.Host, requests[i%pool:], end, func(hit bool) {
				if count {
					answers.Add(1)
				}
				if count && hit {
					hits.Add(1)
				}
			})
		})
	}
	if err := load(false); err != nil {
		return err
	}
	before, err := useOf(ctx, c, admin)
	if err != nil {
		return err
	}
	began := time.Now()
	end = began.Add(duration)
	if err := load(true); err != nil {
		return err
	}
	took := time.Since(began).Seconds()
	after, err := useOf(ctx, c, admin)
	if err != nil {
		return err
	}
	n := float64(answers.Load())
	_, err = fmt.Fprintf(out, "%.0f shows (%d from memory) on %d connections in %.1f s: %.0f a second, %.0f a second and core (%.1f us of CPU each)\n",
		n, hits.Load(), connections, took, n/took, n/(after.cpu-before.cpu), (after.cpu-before.cpu)/n*1e6)
	return err
}

// showAll sends requests on one connection until a time, one after the other.
func showAll(ctx context.Context, host string, requests []string, end time.Time, each func(hit bool)) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", host)
	if err != nil {
		return err
	}
	defer conn.Close()
	in := bufio.NewReaderSize(conn, 16<<10)
	get := &http.Request{Method: http.MethodGet}
	for i := 0; time.Now().Before(end) && ctx.Err() == nil; i++ {
		if _, err := io.WriteString(conn, requests[i%len(requests)]); err != nil {
			return err
		}
		resp, err := http.ReadResponse(in, get)
		if err != nil {
			return err
		}
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			return err
		}
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("show: %s", resp.Status)
		}
		each(strings.Contains(resp.Header.Get("Cache-Status"), "hit"))
	}
	return ctx.Err()
}
