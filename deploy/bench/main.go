// Command bench measures nearsight beside the servers that one would otherwise
// put before image data: nginx, Varnish and Squid, on this machine and in the
// same run. README.md says what it measures and how.
//
//	go run ./deploy/bench [flags]                  measure, then print tables and bars
//	go run ./deploy/bench -tables rows.tsv         Markdown tables of an earlier run
//	go run ./deploy/bench -bars rows.tsv           what has to be reached, and whether it is
//	go run ./deploy/bench -plots rows.tsv DIR      SVG plots of it in DIR
//
// Exit status: 0 measured, 1 something failed, 2 wrong flags. Whether bars are
// met does not change it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

// parts are what this program becomes in processes of its own.
var parts = map[string]func([]string) error{
	"pin":    runPinned,
	"client": func([]string) error { return runClient() },
	"origin": runOrigin,
	"bounds": runBounds,
}

func main() {
	if len(os.Args) > 1 {
		if part := parts[os.Args[1]]; part != nil {
			if err := part(os.Args[2:]); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			return
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := command(ctx, os.Args[1:], os.Stdout)
	if errors.As(err, new(usageError)) {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

type usageError struct{ error }

// command does what the flags say.
func command(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	var o options
	var names []string
	for _, p := range allPeers() {
		names = append(names, p.name)
	}
	workloads := flags.String("run", "W1,W2,W3,W4,W5,W6,W7,W8,W9,W10", "`WORKLOADS` to run")
	peers := flags.String("peers", strings.Join(names, ","), "`SERVERS` to measure")
	flags.IntVar(&o.rounds, "rounds", 5, "rounds; servers take turns in each")
	flags.DurationVar(&o.dur, "dur", 2*time.Second, "measured time of each load on a warm cache")
	flags.DurationVar(&o.limit, "limit", time.Minute, "the longest that a load on a cold cache may take")
	flags.IntVar(&o.tries, "tries", 3, "tries for a quiet measurement on a warm cache; the quietest counts")
	flags.Float64Var(&o.quiet, "quiet", 0.15, "`CORES` that other programs may use in a quiet measurement")
	flags.DurationVar(&o.quietWait, "quiet-wait", 2*time.Second, "wait at most so long for a quiet machine")
	flags.IntVar(&o.port, "port", 18000, "first of the `PORTS` to use: PORT, +1, +10 and +11")
	congestion := flags.String("congestion", "cubic", "TCP congestion control while measuring (root): `NAME`, or empty to leave it")
	flags.BoolVar(&o.priority, "priority", os.Geteuid() == 0, "run servers, client and origin in a real-time class (root)")
	flags.StringVar(&o.nearsight, "nearsight", "", "`PROGRAM` to measure; empty: build it")
	install := flags.Bool("install", true, "install Debian packages that are missing (root)")
	state := flags.String("state", "", "`DIR` for images, caches and programs, which keeps the images; empty: a temporary one")
	rows := flags.String("out", "rows.tsv", "`FILE` for the rows")
	tables := flags.String("tables", "", "print tables of the rows in `FILE`, and measure nothing")
	bars := flags.String("bars", "", "print the bars for the rows in `FILE`, and measure nothing")
	plots := flags.String("plots", "", "draw plots of the rows in `FILE` into the directory that follows, and measure nothing")
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return nil
	} else if err != nil {
		return usageError{err}
	}
	if read := *tables + *bars + *plots; read != "" {
		return show(*tables, *bars, *plots, flags.Args(), out)
	}
	if flags.NArg() > 0 {
		return usageError{fmt.Errorf("unexpected %q", flags.Arg(0))}
	}
	if err := o.choose(*workloads, *peers); err != nil {
		return usageError{err}
	}
	if *congestion != "" && os.Geteuid() == 0 {
		restore, err := setCongestion(*congestion)
		if err != nil {
			return err
		}
		defer restore()
	}
	return measureAll(ctx, o, *install, *state, *rows, out)
}

// choose sets what to measure.
func (o *options) choose(workloads, peers string) error {
	known := map[string]bool{}
	for _, st := range steps {
		for _, w := range st.workloads {
			known[w] = true
		}
	}
	for w := range strings.SplitSeq(workloads, ",") {
		if !known[w] {
			return fmt.Errorf("no workload is called %q", w)
		}
		o.workloads = append(o.workloads, w)
	}
	for name := range strings.SplitSeq(peers, ",") {
		all := allPeers()
		i := slices.IndexFunc(all, func(p peer) bool { return p.name == name })
		if i < 0 {
			return fmt.Errorf("no server is called %q", name)
		}
		o.peers = append(o.peers, all[i])
	}
	if o.rounds < 1 || o.dur <= 0 || o.limit <= 0 {
		return errors.New("-rounds, -dur and -limit must be positive")
	}
	if runtime.NumCPU() < 2 {
		return errors.New("this needs two cores: one for the server, one for the client")
	}
	return nil
}

// show prints or draws what an earlier run measured.
func show(tables, bars, plots string, args []string, out io.Writer) error {
	for _, what := range []struct {
		file string
		do   func(io.Writer, results) error
	}{{tables, writeTables}, {bars, writeBars}} {
		if what.file == "" {
			continue
		}
		rows, err := readRowFile(what.file)
		if err != nil {
			return err
		}
		if err := what.do(out, rows); err != nil {
			return err
		}
	}
	if plots == "" {
		return nil
	}
	if len(args) != 1 {
		return usageError{errors.New("-plots FILE DIR: the directory is missing")}
	}
	rows, err := readRowFile(plots)
	if err != nil {
		return err
	}
	return writePlots(args[0], rows)
}

// measureAll prepares everything, measures, and prints what came of it. It leaves
// nothing behind but the rows, and the images in a state directory that was asked
// for.
func measureAll(ctx context.Context, o options, installing bool, state, rows string, out io.Writer) (err error) {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	if installing {
		need := []string{"nginx"} // the origin
		for _, p := range o.peers {
			if p.program != "" {
				need = append(need, p.program)
			}
		}
		slices.Sort(need)
		if err := install(ctx, log, slices.Compact(need)); err != nil {
			return err
		}
	}
	if state == "" {
		if state, err = os.MkdirTemp("", "nearsight-bench-"); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(state)) }()
	} else if state, err = filepath.Abs(state); err != nil {
		return err
	}
	b := &bench{options: o, state: state, log: log}
	dirs := []string{filepath.Join(state, "peers"), filepath.Join(state, "origin"), filepath.Join(state, "bin")}
	remove := func() (err error) {
		for _, dir := range dirs {
			err = errors.Join(err, os.RemoveAll(dir))
		}
		return err
	}
	if err := remove(); err != nil { // of a run that was killed
		return err
	}
	defer func() { err = errors.Join(err, remove()) }()
	if err := makeDirs(state, "peers", "origin", "bin"); err != nil {
		return err
	}
	if err := os.Chmod(state, 0o755); err != nil { // Squid is another user
		return err
	}
	if slices.ContainsFunc(o.peers, func(p peer) bool { return p.kind == self }) {
		if b.nearsight, err = build(ctx, o.nearsight, filepath.Join(state, "bin")); err != nil {
			return err
		}
	}
	if b.images, err = makeImages(ctx, log, filepath.Join(state, "images")); err != nil {
		return err
	}
	b.origin = &originServer{dir: filepath.Join(state, "origin"), images: filepath.Join(state, "images"), port: o.port}
	f, err := os.Create(rows)
	if err != nil {
		return err
	}
	b.out = f
	err = errors.Join(b.run(ctx), f.Close())
	return errors.Join(err, writeTables(out, b.rows), writeBars(out, b.rows))
}
