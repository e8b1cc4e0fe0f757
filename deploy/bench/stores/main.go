// Stores measures what nearsight costs before an object store: an image goes up to
// the store and comes back, straight and through a server with an empty cache, over a
// link of 1 Gbit/s to the store. See the README of deploy/bench.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintf(os.Stderr, "stores: %v\n", err)
		stop()
		os.Exit(1)
	}
}

// options are the flags.
type options struct {
	stores string
	rounds int
	mib    int64
	mbit   int64
	binary string
}

func run(ctx context.Context, args []string, w io.Writer) (err error) {
	var o options
	flags := flag.NewFlagSet("stores", flag.ContinueOnError)
	flags.StringVar(&o.stores, "stores", "s3,swift", "which stores, with commas")
	flags.IntVar(&o.rounds, "rounds", 5, "how often each is measured")
	flags.Int64Var(&o.mib, "mib", 512, "size of the image")
	flags.Int64Var(&o.mbit, "mbit", 1000, "Mbit/s of the link to the store in each direction; 0 means unbounded")
	flags.StringVar(&o.binary, "nearsight", "", "the program to measure; built if empty")
	if err := flags.Parse(args); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "nearsight-stores")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if o.binary == "" {
		o.binary = filepath.Join(dir, "nearsight")
		build := exec.CommandContext(ctx, "go", "build", "-o", o.binary, "./cmd/nearsight")
		build.Stderr = os.Stderr
		if err := build.Run(); err != nil {
			return fmt.Errorf("build nearsight, in the repository: %w", err)
		}
	}
	im, err := makeImage(filepath.Join(dir, "image"), o.mib<<20)
	if err != nil {
		return err
	}
	var all []result
	for _, name := range strings.Split(o.stores, ",") {
		open := map[string]func(int64) (direct, *relay, error){"s3": newS3, "swift": newSwift}[name]
		if open == nil {
			return fmt.Errorf("-stores %q is neither s3 nor swift", name)
		}
		d, link, err := open(o.mbit * 1e6 / 8)
		if err != nil {
			return err
		}
		results, err := measure(ctx, name, o, d, im, filepath.Join(dir, name))
		link.close()
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		all = append(all, results...)
	}
	return report(w, all)
}

// An image is a file of noise.
type image struct {
	path string
	size int64
	sum  uint32
}

func newSum() hash.Hash32 { return crc32.New(crc32.MakeTable(crc32.Castagnoli)) }

func makeImage(path string, size int64) (*image, error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	sum := newSum()
	_, err = io.CopyN(io.MultiWriter(f, sum), rand.NewChaCha8([32]byte{1}), size)
	return &image{path, size, sum.Sum32()}, errors.Join(err, f.Close())
}

// check runs a download and compares what comes.
func (im *image) check(get func(io.Writer) error) error {
	sum := newSum()
	if err := get(sum); err != nil {
		return err
	}
	if sum.Sum32() != im.sum {
		return errors.New("other bytes came than were sent")
	}
	return nil
}

// A result has the seconds of each round, one way and the other.
type result struct {
	store, direction string
	bar              float64 // of the ratio
	straight, edge   []float64
}

// measure runs all rounds of one store. Which of the two goes first alternates.
func measure(ctx context.Context, name string, o options, d direct, im *image, dir string) (_ []result, err error) {
	if err := d.prepare(ctx); err != nil {
		return nil, err
	}
	s, err := start(ctx, o.binary, dir, d.settings())
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.stop(), d.clean(context.WithoutCancel(ctx))) }()
	up := result{store: name, direction: "up", bar: 1.10}
	down := result{store: name, direction: "down", bar: 1.05}
	for round := range o.rounds {
		id, err := s.create(ctx)
		if err != nil {
			return nil, err
		}
		if err := pair(round, &up,
			func() error { return d.put(ctx, im.path, im.size) },
			func() error { return s.put(ctx, id, im.path, im.size) }); err != nil {
			return nil, err
		}
		if err := s.get(ctx, id, io.Discard); err != nil { // so that there is an entry to forget
			return nil, err
		}
		if err := s.forget(ctx, id); err != nil {
			return nil, err
		}
		if err := pair(round, &down,
			func() error { return im.check(func(w io.Writer) error { return d.get(ctx, w) }) },
			func() error { return im.check(func(w io.Writer) error { return s.get(ctx, id, w) }) }); err != nil {
			return nil, err
		}
		if err := errors.Join(d.remove(ctx), s.remove(ctx, id)); err != nil {
			return nil, err
		}
		fmt.Fprintf(os.Stderr, "%s round %d: up %.2f and %.2f s, down %.2f and %.2f s\n", name, round+1,
			up.straight[round], up.edge[round], down.straight[round], down.edge[round])
	}
	return []result{up, down}, nil
}

// pair times one round of both ways.
func pair(round int, r *result, straight, edge func() error) error {
	ways := []struct {
		do func() error
		to *[]float64
	}{{straight, &r.straight}, {edge, &r.edge}}
	if round%2 == 1 {
		slices.Reverse(ways)
	}
	for _, way := range ways {
		began := time.Now()
		if err := way.do(); err != nil {
			return err
		}
		*way.to = append(*way.to, time.Since(began).Seconds())
	}
	return nil
}

// ratios are those of each round: a machine that gets slower meanwhile slows both.
func (r *result) ratios() []float64 {
	var list []float64
	for i := range r.edge {
		list = append(list, r.edge[i]/r.straight[i])
	}
	return list
}

func median(list []float64) float64 {
	sorted := slices.Sorted(slices.Values(list))
	n := len(sorted)
	if n == 0 {
		return 0
	}
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// report writes the medians.
func report(w io.Writer, all []result) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "store\tdirection\tstraight\tnearsight\tratio\tleast to most\tbar\t")
	for _, r := range all {
		ratios := r.ratios()
		verdict := "reached"
		if median(ratios) > r.bar {
			verdict = "missed"
		}
		fmt.Fprintf(t, "%s\t%s\t%.2f s\t%.2f s\t%.3f\t%.3f to %.3f\t%.2f %s\t\n", r.store, r.direction,
			median(r.straight), median(r.edge), median(ratios), slices.Min(ratios), slices.Max(ratios), r.bar, verdict)
	}
	return t.Flush()
}
