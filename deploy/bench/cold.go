package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// sparsePart is the part of an image that a lazy boot reads.
const sparsePart = 0.1

// connect dials; the connection ends with ctx.
func (l *load) connect(ctx context.Context) (*conn, error) {
	c, err := dial(ctx, l.URL)
	if err != nil {
		return nil, err
	}
	if deadline, ok := ctx.Deadline(); ok {
		c.tcp.SetDeadline(deadline)
	}
	return c, nil
}

// fill takes one whole image. With StopAt it lets the driver do something when
// so many bytes are here.
func (l *load) fill(ctx context.Context) error {
	m := l.startMeter()
	begun := time.Now()
	var first time.Duration
	var got int64
	var hooked error
	stopped := l.StopAt <= 0
	err := l.take(ctx, func(n int64) {
		if got == 0 {
			first = time.Since(begun)
		}
		if got += n; !stopped && got >= l.StopAt {
			stopped = true
			hooked = l.reached()
		}
	})
	wall := time.Since(begun)
	m.end()
	if hooked != nil {
		return hooked
	}
	if err != nil && !l.Cut {
		l.fail(err)
	}
	l.figure("ttfb", milli(int64(first)), "ms")
	l.figure("wall", second(int64(wall)), "s")
	l.figure("got", float64(got), "B")
	if len(m.server) > 0 {
		l.figure("cpu", round(m.user+m.system, 4), "s")
	}
	l.resources(m)
	return nil
}

// take gets one whole image on a connection of its own.
func (l *load) take(ctx context.Context, tick func(int64)) error {
	c, err := l.connect(ctx)
	if err != nil {
		return err
	}
	defer c.close()
	rs, err := c.ask(c.request("GET", ""))
	if err != nil {
		return err
	}
	return l.whole(c, rs, tick)
}

// sparse reads a random part of the image in ranges of Size bytes, each once,
// and compares every byte.
func (l *load) sparse(ctx context.Context) error {
	if l.Size <= 0 || l.Size > l.size {
		return fmt.Errorf("ranges of %d bytes of an image of %d", l.Size, l.size)
	}
	blocks := rand.New(rand.NewPCG(l.Seed, 0)).Perm(int(l.size / l.Size))
	blocks = blocks[:max(1, int(float64(len(blocks))*sparsePart))]
	got, want := make([]byte, l.Size), make([]byte, l.Size)
	latencies := make([]int64, 0, len(blocks))
	var c *conn
	m := l.startMeter()
	begun := time.Now()
	for i, b := range blocks {
		if ctx.Err() != nil {
			l.fail(fmt.Errorf("gave up after %d of %d ranges", i, len(blocks)))
			break
		}
		var err error
		if c == nil {
			if c, err = l.connect(ctx); err != nil {
				m.end()
				return err
			}
		}
		off := int64(b) * l.Size
		asked := time.Now()
		rs, err := c.ask(appendRange(nil, c, off, l.Size))
		if err == nil {
			err = checkRange(rs, off, l.Size, l.size)
		}
		if err == nil {
			err = l.compare(c, got, want, off)
		}
		latencies = append(latencies, int64(time.Since(asked)))
		if err != nil {
			l.fail(err)
		}
		if err != nil || rs.last {
			c.close()
			c = nil
		}
	}
	wall := time.Since(begun)
	m.end()
	if c != nil {
		c.close()
	}
	l.figure("wall", second(int64(wall)), "s")
	l.figure("asked", float64(int64(len(latencies))*l.Size), "B")
	l.latencies(latencies)
	if len(m.server) > 0 {
		l.figure("cpu", round(m.user+m.system, 4), "s")
	}
	l.resources(m)
	return nil
}

// A crowd is what the clients of a storm have together.
type crowd struct {
	begun time.Time
	total atomic.Int64
	steps []atomic.Int64 // when each progressStep of all bytes was there, nanoseconds

	mu     sync.Mutex
	firsts []int64 // nanoseconds, of those that got all
	ends   []int64
}

// storm lets Conns clients take the image at once.
func (l *load) storm(ctx context.Context) error {
	conns := make([]*conn, l.Conns)
	for i := range conns {
		c, err := l.connect(ctx)
		if err != nil {
			return err
		}
		defer c.close()
		conns[i] = c
	}
	m := l.startMeter()
	cr := &crowd{begun: time.Now(), steps: make([]atomic.Int64, 100/progressStep)}
	var clients sync.WaitGroup
	for _, c := range conns {
		clients.Go(func() {
			if err := l.stormer(c, cr); err != nil {
				l.fail(err)
			}
		})
	}
	clients.Wait()
	wall := time.Since(cr.begun)
	m.end()
	slices.Sort(cr.firsts)
	slices.Sort(cr.ends)
	l.figure("wall", second(int64(wall)), "s")
	if l.Ideal > 0 {
		l.figure("wall_over_ideal", round(wall.Seconds()/l.Ideal, 4), "ratio")
	}
	l.figure("finished", float64(len(cr.ends)), "count")
	l.figure("first_done", second(quantile(cr.ends, 0)), "s")
	l.figure("ttfb_p50", milli(quantile(cr.firsts, .5)), "ms")
	l.figure("ttfb_max", milli(quantile(cr.firsts, 1)), "ms")
	for i := range cr.steps {
		if at := cr.steps[i].Load(); at > 0 {
			l.figure(progressName((i+1)*progressStep), second(at), "s")
		}
	}
	if gib := float64(cr.total.Load()) / (1 << 30); gib > 0 && len(m.server) > 0 {
		l.figure("cpu", round(m.user+m.system, 4), "s")
		l.figure("cpu_per_gib", round((m.user+m.system)/gib, 4), "s/GiB")
	}
	l.resources(m)
	return nil
}

// stormer is one client of a storm.
func (l *load) stormer(c *conn, cr *crowd) error {
	rs, err := c.ask(c.request("GET", ""))
	if err != nil {
		return err
	}
	first := int64(0)
	all := l.size * int64(l.Conns)
	err = l.whole(c, rs, func(n int64) {
		now := int64(time.Since(cr.begun))
		if first == 0 {
			first = now
		}
		sum := cr.total.Add(n)
		steps := int64(len(cr.steps))
		for i := (sum - n) * steps / all; i < sum*steps/all; i++ {
			cr.steps[i].Store(now)
		}
	})
	if err != nil {
		return err
	}
	cr.mu.Lock()
	defer cr.mu.Unlock()
	cr.firsts = append(cr.firsts, first)
	cr.ends = append(cr.ends, int64(time.Since(cr.begun)))
	return nil
}

// sum takes the image once and compares the SHA-256 of all its bytes. An image
// that does not come whole is wrong.
func (l *load) sum(ctx context.Context) error {
	right := 0.0
	if err := l.takeSum(ctx); err != nil {
		l.fail(err)
	} else {
		right = 1
	}
	l.figure("sha_ok", right, "bool")
	return nil
}

func (l *load) takeSum(ctx context.Context) error {
	c, err := l.connect(ctx)
	if err != nil {
		return err
	}
	defer c.close()
	rs, err := c.ask(c.request("GET", ""))
	if err != nil {
		return err
	}
	if rs.status != 200 || rs.length < 0 {
		return fmt.Errorf("status %d, content-length %d", rs.status, rs.length)
	}
	h := sha256.New()
	if n, err := io.CopyN(h, c, rs.length); err != nil {
		return fmt.Errorf("after %d bytes: %w", n, unexpected(err))
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != l.Sum {
		return fmt.Errorf("the SHA-256 is %s, not %s", got, l.Sum)
	}
	return nil
}
