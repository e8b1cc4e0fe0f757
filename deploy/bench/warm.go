package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

const (
	rampUp      = 300 * time.Millisecond // before measuring
	retryPause  = 10 * time.Millisecond  // after a failure
	rangeAlign  = 4096                   // of the offsets of ranges
	compareEach = 64                     // one range in so many is compared byte for byte
	maxDocument = 1 << 20                // bytes of metadata
)

// The phases of a closed loop.
const (
	ramping int32 = iota
	measuring
	over
)

// A worker is one connection of a closed loop: it asks, takes the answer whole,
// and asks again.
type worker struct {
	*conn
	n         int // how many requests it has begun
	rng       *rand.Rand
	got, want []byte
	request   []byte
}

// A window is what a closed loop did while it was measured.
type window struct {
	*meter
	bytes     int64
	latencies []int64
}

// closedLoop runs Conns workers which call one again and again. one counts body
// bytes with tick and returns whether the server will close the connection.
func (l *load) closedLoop(ctx context.Context, one func(w *worker, tick func(int64)) (response, error)) (window, error) {
	var phase atomic.Int32
	var total atomic.Int64
	tick := func(n int64) { total.Add(n) }
	latencies := make([][]int64, l.Conns)
	var live sync.Map // of *conn
	var workers sync.WaitGroup
	for i := range l.Conns {
		workers.Go(func() {
			w := &worker{rng: rand.New(rand.NewPCG(l.Seed, uint64(i))), got: make([]byte, l.Size), want: make([]byte, l.Size)}
			for phase.Load() < over {
				err := l.connection(ctx, w, &phase, &live, func() (bool, error) {
					begun := time.Now()
					rs, err := one(w, tick)
					if err == nil && phase.Load() == measuring {
						latencies[i] = append(latencies[i], int64(time.Since(begun)))
					}
					w.n++
					return rs.last, err
				})
				if err != nil && phase.Load() < over {
					l.fail(err)
					time.Sleep(retryPause)
				}
			}
		})
	}
	err := sleep(ctx, rampUp)
	m, before := l.startMeter(), total.Load()
	phase.Store(measuring)
	err = errors.Join(err, sleep(ctx, l.Duration))
	moved := total.Load() - before
	phase.Store(over)
	m.end()
	live.Range(func(c, _ any) bool {
		c.(*conn).tcp.SetDeadline(time.Now())
		return true
	})
	workers.Wait()
	r := window{meter: m, bytes: moved}
	for _, some := range latencies {
		r.latencies = append(r.latencies, some...)
	}
	return r, err
}

// connection uses one connection until it ends or all is over.
func (l *load) connection(ctx context.Context, w *worker, phase *atomic.Int32, live *sync.Map, one func() (last bool, err error)) error {
	c, err := dial(ctx, l.URL)
	if err != nil {
		return err
	}
	defer c.close()
	w.conn = c
	live.Store(c, true)
	defer live.Delete(c)
	for phase.Load() < over {
		if last, err := one(); last || err != nil {
			return err
		}
	}
	return nil
}

// pull takes whole images again and again.
func (l *load) pull(ctx context.Context) error {
	w, err := l.closedLoop(ctx, func(w *worker, tick func(int64)) (response, error) {
		if w.request == nil {
			w.request = w.conn.request("GET", "")
		}
		rs, err := w.ask(w.request)
		if err == nil {
			err = l.whole(w.conn, rs, tick)
		}
		return rs, err
	})
	if err != nil {
		return err
	}
	gib := float64(w.bytes) / (1 << 30)
	l.figure("throughput", round(gib/w.seconds, 5), "GiB/s")
	if gib > 0 && len(w.server) > 0 {
		l.figure("cpu_per_gib", round((w.user+w.system)/gib, 4), "s/GiB")
		l.figure("cpu_user_per_gib", round(w.user/gib, 4), "s/GiB")
		l.figure("cpu_util", round((w.user+w.system)/w.seconds, 4), "cores")
	}
	l.resources(w.meter)
	return nil
}

// requests adds the figures of many requests.
func (l *load) requests(w window) {
	n := float64(len(w.latencies))
	l.figure("rate", round(n/w.seconds, 5), "req/s")
	l.latencies(w.latencies)
	if n > 0 && len(w.server) > 0 {
		l.figure("cpu_per_req", round((w.user+w.system)/n*1e6, 4), "us")
		l.figure("cpu_util", round((w.user+w.system)/w.seconds, 4), "cores")
	}
	l.resources(w.meter)
}

// ranges takes random ranges of Size bytes.
func (l *load) ranges(ctx context.Context) error {
	if l.Size <= 0 || l.Size > l.size {
		return fmt.Errorf("ranges of %d bytes of an image of %d", l.Size, l.size)
	}
	w, err := l.closedLoop(ctx, func(w *worker, tick func(int64)) (response, error) {
		off := w.rng.Int64N((l.size-l.Size)/rangeAlign+1) * rangeAlign
		w.request = appendRange(w.request[:0], w.conn, off, l.Size)
		rs, err := w.ask(w.request)
		if err == nil {
			err = checkRange(rs, off, l.Size, l.size)
		}
		switch {
		case err != nil:
		case w.n%compareEach == 0:
			err = l.compare(w.conn, w.got, w.want, off)
		default:
			err = w.discard(l.Size, tick)
		}
		return rs, err
	})
	if err != nil {
		return err
	}
	l.requests(w)
	return nil
}

// appendRange writes a request for n bytes from off on.
func appendRange(b []byte, c *conn, off, n int64) []byte {
	b = append(b, "GET "...)
	b = append(b, c.path...)
	b = append(b, " HTTP/1.1\r\nHost: "...)
	b = append(b, c.host...)
	b = append(b, "\r\nRange: bytes="...)
	b = strconv.AppendInt(b, off, 10)
	b = append(b, '-')
	b = strconv.AppendInt(b, off+n-1, 10)
	return append(b, "\r\n\r\n"...)
}

// conditional asks for an image that it has.
func (l *load) conditional(ctx context.Context) error {
	c, err := dial(ctx, l.URL)
	if err != nil {
		return err
	}
	first, err := c.ask(c.request("HEAD", ""))
	c.close()
	if err != nil {
		return err
	}
	if first.etag == "" {
		return fmt.Errorf("HEAD: status %d without an ETag", first.status)
	}
	w, err := l.closedLoop(ctx, func(w *worker, _ func(int64)) (response, error) {
		if w.request == nil {
			w.request = w.conn.request("GET", "If-None-Match: "+first.etag+"\r\n")
		}
		rs, err := w.ask(w.request)
		if err == nil && rs.status != 304 {
			err = fmt.Errorf("status %d, not 304", rs.status)
		}
		return rs, err
	})
	if err != nil {
		return err
	}
	l.requests(w)
	return nil
}

// metadata takes small documents.
func (l *load) metadata(ctx context.Context) error {
	must := []byte(l.Contains)
	w, err := l.closedLoop(ctx, func(w *worker, _ func(int64)) (response, error) {
		if w.request == nil {
			w.request = w.conn.request("GET", "")
		}
		rs, err := w.ask(w.request)
		switch {
		case err != nil:
			return rs, err
		case rs.status != 200 || rs.length < 0 || rs.length > maxDocument:
			return rs, fmt.Errorf("status %d, content-length %d", rs.status, rs.length)
		case int64(len(w.got)) < rs.length:
			w.got = make([]byte, rs.length)
		}
		if err := w.readFull(w.got[:rs.length]); err != nil {
			return rs, err
		}
		if !bytes.Contains(w.got[:rs.length], must) {
			return rs, fmt.Errorf("the document lacks %s", must)
		}
		return rs, nil
	})
	if err != nil {
		return err
	}
	l.requests(w)
	return nil
}
