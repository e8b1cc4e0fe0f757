package main

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"nearsight/origin"
)

// settlePause is the time between two looks at what is to come to rest.
const settlePause = 500 * time.Millisecond

// w9 starts nearsight with caches of an earlier life: few and many entries, of
// little and much in all. Their data files are sparse: each has one page.
func (b *bench) w9(ctx context.Context, s *server, t turn) error {
	url, err := b.stored(ctx, s, smallImage, t)
	if err != nil {
		return err
	}
	for _, total := range []int64{10 << 30, 1 << 40} {
		for _, entries := range []int{10, 1000, 20000} {
			t.variant = fmt.Sprintf("entries=%d,bytes=%dGiB", entries, total>>30)
			s.stop()
			if err := s.wipe(); err != nil {
				return err
			}
			if err := makeEntries(ctx, filepath.Join(s.site.dir, "cache"), entries, total/int64(entries)); err != nil {
				return err
			}
			if err := b.scaled(ctx, s, t, url); err != nil {
				return err
			}
		}
	}
	return nil
}

// scaled measures one size of cache: the start, memory after it, and hits on an
// image that is filled beside all others.
func (b *bench) scaled(ctx context.Context, s *server, t turn, url string) error {
	took, err := b.start(ctx, s, b.origin.free(), t)
	if err != nil {
		return err
	}
	all, anonymous := findProcesses(s.pids()...).memory()
	b.emit(t, figure{"start", round(took.Seconds(), 4), "s"}, figure{"rss", round(all, 4), "MiB"},
		figure{"rss_anon", round(anonymous, 4), "MiB"})
	figures, err := b.load(ctx, t, job{Kind: "sum", URL: url, Sum: b.images[smallImage].sum, Limit: b.limit}, nil)
	if err != nil {
		return err
	}
	b.emit(t, figure{"sha_ok", valueOf(figures, "sha_ok"), "bool"})
	return b.measure(ctx, t, job{
		Kind: "ranges", URL: url, Ref: b.image(smallImage), Conns: 1, Size: lazyRange, Seed: uint64(t.round),
		Duration: b.dur, Server: s.pids(),
	})
}

// makeEntries fills dir with n entries of so many bytes each, as a server leaves
// them that filled a page of each. No two have the same digest.
func makeEntries(ctx context.Context, dir string, n int, size int64) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	m := &origin.Manifest{Size: size, Sums: make([]byte, origin.Chunks(size)*sha256.Size)}
	for i := range n {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		binary.LittleEndian.PutUint32(m.Sums, uint32(i))
		encoded := m.Encode()
		base := filepath.Join(dir, string(origin.DigestOf(encoded)))
		if err := os.WriteFile(base+".manifest", encoded, 0o600); err != nil {
			return err
		}
		if err := os.WriteFile(base+".data", make([]byte, 4096), 0o600); err != nil {
			return err
		}
		if err := os.Truncate(base+".data", size); err != nil {
			return err
		}
	}
	return nil
}
