package cache

import (
	"context"
	"crypto/sha256"
	"fmt"
	"math/bits"
	"time"

	"golang.org/x/time/rate"

	"nearsight/origin"
)

// A ScrubResult counts what a scrub did.
type ScrubResult struct {
	Chunks int64 `json:"chunks"` // read and hashed
	Bad    int64 `json:"bad"`    // forgotten because they were damaged
}

// Scrub hashes what is on disk of one entry, or of all when digest is "", at
// full speed, and forgets what is damaged: it is fetched anew when it is asked
// for. progress, if not nil, is called from the calling goroutine with bytes
// done and in all. ErrNotCached if there is no such entry.
func (c *Cache) Scrub(ctx context.Context, digest origin.Digest, progress func(done, total int64)) (ScrubResult, error) {
	end, err := c.begin()
	if err != nil {
		return ScrubResult{}, err
	}
	defer end()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(c.ctx, func() { cancel(ErrClosed) })()
	entries := c.all()
	if digest != "" {
		e, err := c.known(digest)
		if err != nil {
			return ScrubResult{}, err
		}
		entries = []*entry{e}
	}
	s := scrub{c: c, progress: progress}
	for _, e := range entries {
		if df := e.onDisk(ctx); df != nil {
			s.total += df.had()
		}
	}
	for _, e := range entries {
		if err := s.entry(ctx, e); err != nil {
			return s.result, context.Cause(ctx)
		}
	}
	s.report(true)
	return s.result, nil
}

// scrubForever goes over all entries at the configured pace, again and again.
func (c *Cache) scrubForever(ctx context.Context) error {
	for c.scrubEvery > 0 {
		if sleep(ctx, c.scrubEvery) != nil {
			return nil
		}
		burst := int(max(c.scrubRate, 1<<20))
		s := scrub{c: c, pace: rate.NewLimiter(rate.Limit(c.scrubRate), burst)}
		for _, e := range c.all() {
			if err := s.entry(ctx, e); err != nil {
				break
			}
		}
		if s.result.Chunks > 0 {
			c.log.Info("scrubbed", "chunks", s.result.Chunks, "bad", s.result.Bad)
		}
	}
	<-ctx.Done()
	return nil
}

// scrub is one pass.
type scrub struct {
	c           *Cache
	pace        *rate.Limiter // nil: at full speed
	progress    func(done, total int64)
	done, total int64
	reported    time.Time
	result      ScrubResult
	buf         []byte
}

func (s *scrub) entry(ctx context.Context, e *entry) error {
	df := e.onDisk(ctx)
	if df == nil {
		return ctx.Err()
	}
	for i := range df.extents {
		if df.extents[i].have.Load() == 0 || df.retired() {
			continue
		}
		if err := s.extent(ctx, &df.extents[i]); err != nil {
			return err
		}
	}
	return nil
}

func (s *scrub) extent(ctx context.Context, x *extent) error {
	df, e := x.df, x.df.e
	x.pin()
	defer x.unpin()
	sums, err := e.sums(ctx, x.index, nil)
	if err != nil {
		return ctx.Err()
	}
	f, err := df.file()
	if err != nil {
		return ctx.Err()
	}
	defer f.release()
	if int64(len(s.buf)) < e.chunk {
		s.buf = make([]byte, e.chunk)
	}
	for have := x.have.Load(); have != 0; have &= have - 1 {
		bit := bits.TrailingZeros64(have)
		i := x.index*chunksPerExtent + bit
		buf := s.buf[:e.chunkLen(i)]
		if err := s.wait(ctx, len(buf)); err != nil {
			return err
		}
		if df.readChunk(f.File, i, buf) == nil && sha256.Sum256(buf) == sum(sums, i) {
			x.ok.Or(1 << bit)
			s.c.counters.verified.Add(1)
		} else if x.have.Load()&(1<<bit) != 0 {
			x.forget(1 << bit)
			s.result.Bad++
			s.c.damaged(df, i)
		}
		s.result.Chunks++
		s.done += int64(len(buf))
		s.report(false)
	}
	return nil
}

func (s *scrub) wait(ctx context.Context, n int) error {
	if s.pace == nil {
		return ctx.Err()
	}
	return s.pace.WaitN(ctx, min(n, s.pace.Burst()))
}

func (s *scrub) report(last bool) {
	if s.progress == nil || !last && time.Since(s.reported) < 200*time.Millisecond {
		return
	}
	s.reported = time.Now()
	s.progress(s.done, max(s.total, s.done))
}

// had returns the bytes that seem to be in the data file.
func (df *dataFile) had() (n int64) {
	for i := range df.extents {
		n += df.e.bytes(i, df.extents[i].have.Load())
	}
	return n
}

// onDisk returns the entry's data file, or nil where there is none, or no right
// manifest: the next user of the entry brings another.
func (e *entry) onDisk(ctx context.Context) *dataFile {
	if e.data.Load() == nil && !e.coldData {
		return nil
	}
	df, err := e.open(ctx, noSource{})
	if err != nil {
		return nil
	}
	return df
}

// noSource is for those who only look at what is here.
type noSource struct{}

func (noSource) Manifest(context.Context) ([]byte, error) {
	return nil, fmt.Errorf("manifest: %w", ErrNotCached)
}

func (noSource) Open(context.Context, int64, int64) (*origin.Object, error) {
	return nil, fmt.Errorf("data: %w", ErrNotCached)
}

func (noSource) Local() string { return "" }
