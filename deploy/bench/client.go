package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	sampleEvery = 16 << 20 // bytes of a whole image for one compared sample
	sampleSize  = 4096
	quietLook   = 200 * time.Millisecond
	maxErrors   = 20 // kinds of errors that are told apart
)

// A job is what one run of the client does: a line of JSON on its standard
// input. Times are nanoseconds, sizes bytes.
type job struct {
	Kind     string // pull, ranges, conditional, metadata, fill, sparse, storm, sum, upload
	URL      string
	Ref      string // file with the right bytes
	Conns    int
	Size     int64 // of a range
	Seed     uint64
	Duration time.Duration // measured
	Limit    time.Duration // of the whole job
	Ideal    float64       // seconds that a storm needs at best
	StopAt   int64         // tell the driver when so many bytes are here, and wait for a line
	Cut      bool          // the body may end early
	Contains string        // what each metadata document must contain
	Sum      string        // SHA-256 that the image must have

	Server, Aux []int // processes of the server, and of the rest of the benchmark

	Quiet     float64       // cores that others may use
	Tries     int           // for a quiet measurement
	QuietWait time.Duration // for a quiet machine, at most
}

// A report is a line of JSON that the client writes.
type report struct {
	Figures []figure `json:"figures,omitempty"`
	At      bool     `json:"at,omitempty"`   // StopAt is reached
	Note    string   `json:"note,omitempty"` // for people
}

// A load is a job under way.
type load struct {
	job
	ref     *os.File
	size    int64 // of the image
	driver  *bufio.Reader
	out     *json.Encoder
	figures []figure

	mu     sync.Mutex
	failed int
	errors map[string]int
}

// runClient does one job.
func runClient() error {
	ctx := context.Background() // the driver kills it
	l := &load{driver: bufio.NewReader(os.Stdin), out: json.NewEncoder(os.Stdout)}
	line, err := l.driver.ReadBytes('\n')
	if err != nil {
		return err
	}
	if err := json.Unmarshal(line, &l.job); err != nil {
		return err
	}
	if l.Ref != "" {
		if l.ref, err = os.Open(l.Ref); err != nil {
			return err
		}
		defer l.ref.Close()
		st, err := l.ref.Stat()
		if err != nil {
			return err
		}
		l.size = st.Size()
	}
	if l.Limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, l.Limit)
		defer cancel()
	}
	kinds := map[string]func(context.Context) error{
		"pull": l.pull, "ranges": l.ranges, "conditional": l.conditional, "metadata": l.metadata,
		"fill": l.fill, "sparse": l.sparse, "storm": l.storm, "sum": l.sum, "upload": l.upload,
	}
	do := kinds[l.Kind]
	if do == nil {
		return fmt.Errorf("no kind of job is called %q", l.Kind)
	}
	if err := l.measure(ctx, do); err != nil {
		return err
	}
	return l.out.Encode(report{Figures: l.figures})
}

// measure does the work, again while others disturb it, and keeps the figures of
// the quietest try. Work on a cold cache has one try.
func (l *load) measure(ctx context.Context, do func(context.Context) error) error {
	var best []figure
	least := 0.0
	for try := range max(1, l.Tries) {
		l.waitQuiet(ctx)
		l.figures, l.failed, l.errors = nil, 0, map[string]int{}
		if err := do(ctx); err != nil {
			return err
		}
		l.figure("errors", float64(l.failed), "count")
		for text, n := range l.errors {
			if err := l.out.Encode(report{Note: fmt.Sprintf("%d times: %s", n, text)}); err != nil {
				return err
			}
		}
		noise := 0.0
		for _, f := range l.figures {
			if f.Metric == "noise" {
				noise = f.Value
			}
		}
		if try == 0 || noise < least {
			best, least = l.figures, noise
		}
		if noise <= l.Quiet {
			break
		}
	}
	l.figures = best
	return nil
}

// waitQuiet waits until others use little of the machine, or QuietWait is over.
func (l *load) waitQuiet(ctx context.Context) {
	for end := time.Now().Add(l.QuietWait); time.Now().Before(end); {
		watch := l.watchForeign()
		if sleep(ctx, quietLook) != nil || watch.noise() <= l.Quiet {
			return
		}
	}
}

func (l *load) figure(metric string, value float64, unit string) {
	l.figures = append(l.figures, figure{metric, value, unit})
}

// fail counts an error.
func (l *load) fail(err error) {
	text := err.Error()
	if len(text) > 160 {
		text = text[:160]
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failed++
	if len(l.errors) < maxErrors || l.errors[text] > 0 {
		l.errors[text]++
	}
}

// resources adds what the meter saw of the server.
func (l *load) resources(m *meter) {
	if len(m.server) > 0 {
		l.figure("rss_peak", round(m.memory, 4), "MiB")
		l.figure("rss_anon_peak", round(m.anon, 4), "MiB")
	}
	l.figure("noise", round(m.outside, 3), "cores")
}

// latencies adds quantiles of nanoseconds.
func (l *load) latencies(all []int64) {
	slices.Sort(all)
	for _, q := range []struct {
		name string
		at   float64
	}{{"p50", .5}, {"p99", .99}, {"p999", .999}, {"max", 1}} {
		l.figure(q.name, micro(quantile(all, q.at)), "us")
	}
}

func micro(ns int64) float64  { return round(float64(ns)/1e3, 4) }
func milli(ns int64) float64  { return round(float64(ns)/1e6, 4) }
func second(ns int64) float64 { return round(float64(ns)/1e9, 5) }

// whole takes the body of a whole image: it drops all but a sample in every
// sampleEvery bytes, at random places, which it compares.
func (l *load) whole(c *conn, rs response, tick func(int64)) error {
	if rs.status != 200 {
		return fmt.Errorf("status %d", rs.status)
	}
	if rs.length != l.size {
		return fmt.Errorf("content-length %d, not %d", rs.length, l.size)
	}
	var got, want [sampleSize]byte
	for start := int64(0); start < l.size; start += sampleEvery {
		part := min(sampleEvery, l.size-start)
		n := min(sampleSize, part)
		skip := rand.Int64N(part - n + 1)
		if err := c.discard(skip, tick); err != nil {
			return err
		}
		if err := l.compare(c, got[:n], want[:n], start+skip); err != nil {
			return err
		}
		if tick != nil {
			tick(n)
		}
		if err := c.discard(part-n-skip, tick); err != nil {
			return err
		}
	}
	return nil
}

// compare reads len(got) bytes, which must be those at off.
func (l *load) compare(c *conn, got, want []byte, off int64) error {
	if err := c.readFull(got); err != nil {
		return err
	}
	if _, err := l.ref.ReadAt(want, off); err != nil {
		return err
	}
	if !bytes.Equal(got, want) {
		return fmt.Errorf("wrong bytes at %d", off)
	}
	return nil
}

// reached tells the driver that StopAt is reached and waits for its answer.
func (l *load) reached() error {
	if err := l.out.Encode(report{At: true}); err != nil {
		return err
	}
	_, err := l.driver.ReadString('\n')
	return err
}

// runLoad runs the client for a job at its place and returns its figures. at is
// called when StopAt is reached.
func runLoad(ctx context.Context, where place, j job, note func(string), at func() error) ([]figure, error) {
	cmd := where.command([]string{"/proc/self/exe", "client"})
	cmd.Env = append(os.Environ(), "GOGC=400") // it is to load others, not itself
	cmd.SysProcAttr = childAttributes()
	var complaints bytes.Buffer
	cmd.Stderr = &complaints
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	defer context.AfterFunc(ctx, func() { cmd.Process.Kill() })()
	figures, err := converse(stdin, stdout, j, note, at)
	stdin.Close() // a client that waits for an answer gets none
	if err != nil {
		cmd.Process.Kill()
	}
	if ended := cmd.Wait(); ended != nil {
		err = errors.Join(err, fmt.Errorf("%w: %s", ended, strings.TrimSpace(complaints.String())))
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return figures, fmt.Errorf("client %s %s: %w", j.Kind, j.URL, err)
	}
	return figures, nil
}

// converse gives the client its job and hears its reports to the end.
func converse(in io.Writer, out io.Reader, j job, note func(string), at func() error) (figures []figure, err error) {
	if err := json.NewEncoder(in).Encode(j); err != nil {
		return nil, err
	}
	for reports := json.NewDecoder(out); ; {
		var r report
		if err := reports.Decode(&r); errors.Is(err, io.EOF) {
			return figures, nil
		} else if err != nil {
			return figures, err
		}
		if r.Note != "" {
			note(r.Note)
		}
		figures = append(figures, r.Figures...)
		if r.At {
			if err := at(); err != nil {
				return figures, err
			}
			if _, err := io.WriteString(in, "\n"); err != nil {
				return figures, err
			}
		}
	}
}
