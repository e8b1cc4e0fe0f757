package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// A bench is one run of the benchmark.
type bench struct {
	options
	state  string // directory of all files
	images map[string]image
	origin *originServer
	rows   results
	out    io.Writer // gets the rows as they come
	broken error     // the first of out
	log    *slog.Logger
}

// A turn is when and for whom something is measured: the first fields of rows.
type turn struct {
	round                        int
	pin, peer, workload, variant string
}

func (b *bench) image(name string) string { return filepath.Join(b.state, "images", name) }

// serverPlace is where servers run: on core 0, or wherever they like.
func (b *bench) serverPlace(pin string) place {
	if pin == "split" {
		return place{0, b.class("fifo")}
	}
	return place{-1, b.class("rr")}
}

// clientPlace is where client and origin run: on core 1, or wherever they like.
func (b *bench) clientPlace(pin string) place {
	p := b.serverPlace(pin)
	if p.cpu >= 0 {
		p.cpu++
	}
	return p
}

func (b *bench) class(class string) string {
	if b.priority {
		return class
	}
	return "other"
}

// emit writes rows.
func (b *bench) emit(t turn, figures ...figure) {
	for _, f := range figures {
		r := row{t.round, t.pin, t.peer, t.workload, t.variant, f}
		b.rows = append(b.rows, r)
		if b.broken == nil {
			_, b.broken = fmt.Fprintln(b.out, r)
		}
	}
}

// load runs the client.
func (b *bench) load(ctx context.Context, t turn, j job, at func() error) ([]figure, error) {
	j.Aux = b.origin.pids()
	j.Quiet, j.QuietWait = b.quiet, b.quietWait
	if j.Duration > 0 {
		j.Tries = b.tries
	}
	note := func(text string) {
		b.log.Warn("the client met errors", "peer", t.peer, "workload", t.workload, "case", t.variant, "errors", text)
	}
	return runLoad(ctx, b.clientPlace(t.pin), j, note, at)
}

// measure runs the client and writes its figures.
func (b *bench) measure(ctx context.Context, t turn, j job) error {
	figures, err := b.load(ctx, t, j, nil)
	b.emit(t, figures...)
	return err
}

// A step is some workloads that one start of a server does. Servers take turns
// at each step: A B A B.
type step struct {
	pin       string
	workloads []string
	do        func(*bench, context.Context, *server, turn, []string) error
}

var steps = []step{
	{"split", []string{"W1", "W2", "W6", "W7"}, (*bench).warm},
	{"none", []string{"W1"}, (*bench).warm},
	{"none", []string{"W3"}, single((*bench).w3)},
	{"none", []string{"W4"}, single((*bench).w4)},
	{"none", []string{"W5"}, single((*bench).w5)},
	{"none", []string{"W8"}, single((*bench).w8)},
	{"none", []string{"W9"}, single((*bench).w9)},
	{"none", []string{"W10"}, single((*bench).w10)},
}

// single is a step of one workload.
func single(do func(*bench, context.Context, *server, turn) error) func(*bench, context.Context, *server, turn, []string) error {
	return func(b *bench, ctx context.Context, s *server, t turn, workloads []string) error {
		t.workload = workloads[0]
		return do(b, ctx, s, t)
	}
}

// run measures everything. What fails is logged, and the others go on; the error
// then says that something failed.
func (b *bench) run(ctx context.Context) error {
	defer b.origin.stop()
	var servers []*server
	for _, p := range b.peers {
		servers = append(servers, b.newServer(p))
	}
	failed := 0
	for round := 1; round <= b.rounds; round++ {
		for _, st := range steps {
			for _, s := range servers {
				err := b.take(ctx, st, s, round)
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				if b.broken != nil {
					return b.broken
				}
				if err != nil {
					failed++
					b.log.Error("not measured", "peer", s.name, "workloads", st.workloads, "pin", st.pin, "err", err)
				}
			}
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d measurements failed", failed)
	}
	return nil
}

// take lets a server do a step: those of its workloads that are asked for.
func (b *bench) take(ctx context.Context, st step, s *server, round int) (err error) {
	workloads := slices.DeleteFunc(slices.Clone(st.workloads), func(w string) bool {
		return !slices.Contains(b.workloads, w) || !s.kind.takes(w)
	})
	if len(workloads) == 0 {
		return nil
	}
	b.log.Info("measuring", "round", round, "peer", s.name, "workloads", workloads, "pin", st.pin)
	defer func() {
		s.stop()
		err = errors.Join(err, s.wipe())
	}()
	if err := b.origin.start(ctx, b.clientPlace(st.pin)); err != nil {
		return err
	}
	return st.do(b, ctx, s, turn{round: round, pin: st.pin, peer: s.name}, workloads)
}

func (b *bench) newServer(p peer) *server {
	address := func(n int) string { return fmt.Sprintf("127.0.0.1:%d", b.port+n) }
	s := &server{peer: p, site: site{
		dir: filepath.Join(b.state, "peers", p.name), images: filepath.Join(b.state, "images"), binary: b.nearsight,
		listen: address(10), admin: address(11),
	}}
	if p.kind == self {
		s.api = &imageAPI{base: "http://" + s.site.listen, ids: map[string]string{}}
	}
	return s
}

// warm measures a server that has the image in its cache.
func (b *bench) warm(ctx context.Context, s *server, t turn, workloads []string) error {
	var url string
	var err error
	if s.kind == self {
		url, err = b.stored(ctx, s, bigImage, t)
	} else {
		url, err = b.cold(ctx, s, b.origin.free(), bigImage, t)
	}
	if err != nil {
		return err
	}
	for range 2 { // the second time from the cache
		figures, err := b.load(ctx, t, job{Kind: "sum", URL: url, Sum: b.images[bigImage].sum}, nil)
		if err != nil {
			return err
		}
		if valueOf(figures, "sha_ok") != 1 {
			return errors.New("the warm-up brought wrong bytes")
		}
	}
	unix.Sync() // what was filled is not to be written while something is measured
	for _, t.workload = range workloads {
		before, err := b.fetched(ctx, s)
		if err != nil {
			return err
		}
		do := map[string]func(*bench, context.Context, *server, turn, string) error{
			"W1": (*bench).w1, "W2": (*bench).w2, "W6": (*bench).w6, "W7": (*bench).w7,
		}[t.workload]
		if err := do(b, ctx, s, t, url); err != nil {
			return err
		}
		after, err := b.fetched(ctx, s)
		if err != nil {
			return err
		}
		t.variant = "all" // that hits were hits
		b.emit(t, figure{"origin_bytes_warm", float64(after - before), "B"})
	}
	return nil
}

// fetched returns what the server has got from the origin, in bytes.
func (b *bench) fetched(ctx context.Context, s *server) (int64, error) {
	if s.kind == self {
		return s.api.missed(ctx)
	}
	sent, err := b.origin.sent(ctx, b.origin.free())
	return sent.Bytes, err
}

func (b *bench) w1(ctx context.Context, s *server, t turn, url string) error {
	for _, n := range []int{1, 4, 16} {
		t.variant = fmt.Sprintf("c=%d", n)
		j := job{Kind: "pull", URL: url, Ref: b.image(bigImage), Conns: n, Duration: b.dur, Server: s.pids()}
		if err := b.measure(ctx, t, j); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) w2(ctx context.Context, s *server, t turn, url string) error {
	for _, size := range []int64{64 << 10, 1 << 20} {
		for _, n := range []int{1, 16, 64} {
			t.variant = fmt.Sprintf("size=%dk,c=%d", size>>10, n)
			j := job{
				Kind: "ranges", URL: url, Ref: b.image(bigImage), Conns: n, Size: size, Seed: uint64(t.round),
				Duration: b.dur, Server: s.pids(),
			}
			if err := b.measure(ctx, t, j); err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *bench) w6(ctx context.Context, s *server, t turn, url string) error {
	t.variant = "c=16"
	return b.measure(ctx, t, job{Kind: "conditional", URL: url, Conns: 16, Duration: b.dur, Server: s.pids()})
}

func (b *bench) w7(ctx context.Context, s *server, t turn, _ string) error {
	id, err := s.api.populate(ctx)
	if err != nil {
		return err
	}
	for _, what := range []struct{ name, url, must string }{
		{"show", s.api.base + "/v2/images/" + id, id},
		{"list", fmt.Sprintf("%s/v2/images?limit=%d", s.api.base, listPage), `"images"`},
	} {
		for _, n := range []int{1, 16} {
			t.variant = fmt.Sprintf("%s,c=%d", what.name, n)
			j := job{Kind: "metadata", URL: what.url, Conns: n, Contains: what.must, Duration: b.dur, Server: s.pids()}
			if err := b.measure(ctx, t, j); err != nil {
				return err
			}
		}
	}
	return nil
}

// options are what flags say.
type options struct {
	workloads []string
	peers     []peer
	rounds    int
	dur       time.Duration
	limit     time.Duration
	tries     int
	quiet     float64
	quietWait time.Duration
	port      int
	priority  bool
	nearsight string // the program
}
