package main

import (
	"context"
	"fmt"
)

// Cases of workloads on a cold cache.
const (
	fillFree    = "1g"
	fillLimited = "1g@500MB/s"
	stormSmall  = "64m@25MB/s,c=32"
	stormBig    = "1g@100MB/s,c=32"
	stormSparse = "1g-sparse@50MB/s,c=32"
)

const (
	stormClients = 32
	lazyRange    = 64 << 10 // bytes
	lazySeed     = 7
	crashRate    = 200_000_000 // bytes a second
)

// w3 takes the image through an empty cache, and straight from the origin just
// before.
func (b *bench) w3(ctx context.Context, s *server, t turn) error {
	for _, c := range []struct {
		variant, origin string
		rate            int64
	}{{fillFree, b.origin.free(), 0}, {fillLimited, b.origin.limited(), 500_000_000}} {
		t.variant = c.variant
		url, err := b.cold(ctx, s, c.origin, bigImage, t)
		if err != nil {
			return err
		}
		if err := b.origin.reset(ctx, c.rate); err != nil {
			return err
		}
		fill := job{Kind: "fill", URL: c.origin + "/" + bigImage, Ref: b.image(bigImage), Limit: b.limit}
		directly := t
		directly.peer = "direct"
		direct, err := b.load(ctx, directly, fill, nil)
		b.emit(directly, direct...)
		if err != nil {
			return err
		}
		if err := b.origin.reset(ctx, c.rate); err != nil {
			return err
		}
		fill.URL, fill.Server = url, s.pids()
		through, err := b.load(ctx, t, fill, nil)
		b.emit(t, through...)
		if err != nil {
			return err
		}
		if d := valueOf(direct, "wall"); d > 0 {
			b.emit(t, figure{"over_direct", round(valueOf(through, "wall")/d, 4), "ratio"})
		}
		if err := b.tallyAndCheck(ctx, s, t, c.origin, bigImage, url); err != nil {
			return err
		}
	}
	return nil
}

// tallyAndCheck writes what the origin sent, and whether the cache now has the
// right bytes.
func (b *bench) tallyAndCheck(ctx context.Context, s *server, t turn, origin, name, url string) error {
	sent, err := b.origin.sent(ctx, origin)
	if err != nil {
		return err
	}
	b.emit(t, sent.figures()...)
	im := b.images[name]
	b.emit(t, figure{"origin_ratio", round(float64(sent.Bytes)/float64(im.nonzero), 4), "ratio"})
	if err := b.origin.reset(ctx, 0); err != nil {
		return err
	}
	figures, err := b.load(ctx, t, job{Kind: "sum", URL: url, Sum: im.sum, Limit: b.limit}, nil)
	for _, f := range figures {
		if f.Metric == "sha_ok" {
			b.emit(t, f)
		}
	}
	return err
}

// w4 lets many clients take one cold image from a slow origin.
func (b *bench) w4(ctx context.Context, s *server, t turn) error {
	for _, c := range []struct {
		variant, image string
		rate           int64
	}{{stormSmall, smallImage, 25_000_000}, {stormBig, bigImage, 100_000_000}, {stormSparse, sparseImage, 50_000_000}} {
		t.variant = c.variant
		url, err := b.cold(ctx, s, b.origin.limited(), c.image, t)
		if err != nil {
			return err
		}
		if err := b.origin.reset(ctx, c.rate); err != nil {
			return err
		}
		err = b.measure(ctx, t, job{
			Kind: "storm", URL: url, Ref: b.image(c.image), Conns: stormClients, Limit: b.limit,
			Ideal: float64(b.images[c.image].nonzero) / float64(c.rate), Server: s.pids(),
		})
		if err != nil {
			return err
		}
		if err := b.tallyAndCheck(ctx, s, t, b.origin.limited(), c.image, url); err != nil {
			return err
		}
	}
	return nil
}

// w5 reads a random tenth of a cold image in small ranges, twice.
func (b *bench) w5(ctx context.Context, s *server, t turn) error {
	url, err := b.cold(ctx, s, b.origin.free(), bigImage, t)
	if err != nil {
		return err
	}
	for pass := 1; pass <= 2; pass++ {
		t.variant = fmt.Sprintf("pass=%d", pass)
		if err := b.origin.reset(ctx, 0); err != nil {
			return err
		}
		figures, err := b.load(ctx, t, job{
			Kind: "sparse", URL: url, Ref: b.image(bigImage), Size: lazyRange, Seed: lazySeed, Limit: b.limit, Server: s.pids(),
		}, nil)
		b.emit(t, figures...)
		if err != nil {
			return err
		}
		if err := b.settle(ctx); err != nil {
			return err
		}
		sent, err := b.origin.sent(ctx, b.origin.free())
		if err != nil {
			return err
		}
		b.emit(t, sent.figures()...)
		if asked := valueOf(figures, "asked"); asked > 0 {
			b.emit(t, figure{"amplification", round(float64(sent.Bytes)/asked, 4), "ratio"})
		}
	}
	return nil
}

// settle waits until the nginx origin has sent what was under way, which it
// counts at the end of each request.
func (b *bench) settle(ctx context.Context) error {
	for last := int64(-1); ; {
		sent, err := b.origin.sent(ctx, b.origin.free())
		if err != nil || sent.Bytes == last {
			return err
		}
		last = sent.Bytes
		if err := sleep(ctx, settlePause); err != nil {
			return err
		}
	}
}

// w8 kills a server halfway through a cold fill, starts it again and takes the
// image once more.
func (b *bench) w8(ctx context.Context, s *server, t turn) error {
	origin := b.origin.limited()
	url, err := b.cold(ctx, s, origin, bigImage, t)
	if err != nil {
		return err
	}
	if err := b.origin.reset(ctx, crashRate); err != nil {
		return err
	}
	im := b.images[bigImage]
	fill := job{Kind: "fill", URL: url, Ref: b.image(bigImage), Server: s.pids(), StopAt: im.size / 2, Cut: true, Limit: b.limit}
	t.variant = "before"
	figures, err := b.load(ctx, t, fill, func() error {
		s.kill()
		return nil
	})
	b.emit(t, figures...)
	if err != nil {
		return err
	}
	before, err := b.origin.sent(ctx, origin)
	if err != nil {
		return err
	}
	b.emit(t, before.figures()...)

	t.variant = "after"
	up, err := b.start(ctx, s, origin, t)
	if err != nil && ctx.Err() == nil { // a result, if a sad one
		b.log.Warn("not up after kill -9", "peer", t.peer, "err", err)
		b.emit(t, figure{"errors", 1, "count"})
		return nil
	}
	if err != nil {
		return err
	}
	b.emit(t, figure{"up", round(up.Seconds(), 4), "s"})
	if err := b.origin.reset(ctx, crashRate); err != nil {
		return err
	}
	fill.Server, fill.StopAt, fill.Cut = s.pids(), 0, false
	if err := b.measure(ctx, t, fill); err != nil {
		return err
	}
	after, err := b.origin.sent(ctx, origin)
	if err != nil {
		return err
	}
	b.emit(t, figure{"refetched", float64(max(0, before.Bytes+after.Bytes-im.nonzero)), "B"})
	return b.tallyAndCheck(ctx, s, t, origin, bigImage, url)
}
