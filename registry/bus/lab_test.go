package bus_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"

	"nearsight/registry"
	"nearsight/registry/bus"
)

// patience ends a test that hangs; no result depends on it.
const patience = 30 * time.Second

func fromLab(t testing.TB, name string) string {
	t.Helper()
	value := os.Getenv(name)
	if value == "" {
		t.Fatalf("%s is not set; deploy/lab/redis.sh start prints it", name)
	}
	return value
}

func parse(t testing.TB, url string) *bus.Server {
	t.Helper()
	s, err := bus.ParseServer(url)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// shared returns the lab's Redis and a stream there for this test.
func shared(t testing.TB) (*bus.Server, redis.UniversalClient, string) {
	t.Helper()
	url, stream := fromLab(t, "REDIS_URL"), "test:"+uuid.NewString()
	options, err := redis.ParseURL(url)
	if err != nil {
		t.Fatal(err)
	}
	c := redis.NewClient(options)
	t.Cleanup(func() {
		c.Del(context.Background(), stream, "{"+stream+"}:beats")
		c.Close()
	})
	return parse(t, url), c, stream
}

// A process is a Redis of the test's own, which may be killed.
type process struct {
	t    testing.TB
	args []string
	port string
	dir  string
	cmd  *exec.Cmd
	read chan struct{} // closed when its output ended
}

// start runs a Redis on a free port.
func start(t testing.TB, args ...string) *process {
	t.Helper()
	return startOn(t, freePort(t), args...)
}

func startOn(t testing.TB, port string, args ...string) *process {
	t.Helper()
	p := &process{t: t, args: args, port: port, dir: t.TempDir()}
	p.start()
	t.Cleanup(func() { p.kill() })
	return p
}

func freePort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

func (p *process) addr() string { return "127.0.0.1:" + p.port }

// start returns when Redis answers.
func (p *process) start() {
	p.t.Helper()
	args := []string{"--bind", "127.0.0.1", "--dir", p.dir, "--save", "", "--port", p.port}
	if len(p.args) > 0 && strings.HasSuffix(p.args[0], ".conf") { // goes first
		args = append([]string{p.args[0]}, append(args, p.args[1:]...)...)
	} else {
		args = append(args, p.args...)
	}
	p.cmd = exec.Command(fromLab(p.t, "REDIS_SERVER"), args...)
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		p.t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	ready := make(chan bool, 1)
	p.read = make(chan struct{})
	var said strings.Builder
	go func() {
		defer close(p.read)
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			if strings.Contains(lines.Text(), "Ready to accept connections") || strings.Contains(lines.Text(), "Sentinel ID is") {
				ready <- true
				io.Copy(io.Discard, out)
				return
			}
			fmt.Fprintln(&said, lines.Text())
		}
		ready <- false
	}()
	select {
	case ok := <-ready:
		if !ok {
			p.t.Fatalf("redis did not start: %s", said.String())
		}
	case <-time.After(patience):
		p.cmd.Process.Kill()
		p.t.Fatal("redis did not start in time")
	}
}

// kill is kill -9.
func (p *process) kill() {
	p.signal(syscall.SIGKILL)
	<-p.read
	p.cmd.Wait()
}

func (p *process) signal(s syscall.Signal) { p.cmd.Process.Signal(s) }

// A table is a log that tests write, with the Local that tells of it.
type table struct {
	mu      sync.Mutex
	events  []registry.Event // after pruned
	pruned  int64
	err     error
	noticed []*bus.Local
}

func newTable() *table { return &table{} }

// local returns a Local that is told of what is added.
func (l *table) local() *bus.Local {
	local := bus.New(l)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.noticed = append(l.noticed, local)
	return local
}

var kinds = []registry.EventKind{registry.EventCreate, registry.EventUpdate, registry.EventData, registry.EventDelete}

// add commits n changes and returns the latest revision.
func (l *table) add(n int) int64 {
	l.mu.Lock()
	revision := l.pruned + int64(len(l.events))
	for range n {
		revision++
		l.events = append(l.events, registry.Event{
			Revision: revision, ImageID: uuid.NewString(), Kind: kinds[revision%4],
			At: time.UnixMicro(1_700_000_000_000_000 + revision).UTC(),
		})
	}
	noticed := l.noticed
	l.mu.Unlock()
	for _, local := range noticed {
		local.Notify(revision)
	}
	return revision
}

// prune forgets all up to a revision.
func (l *table) prune(to int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.events, l.pruned = l.events[to-l.pruned:], to
}

// cut puts the table back to a revision.
func (l *table) cut(to int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.events = l.events[:to-l.pruned]
}

func (l *table) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.err = err
}

func (l *table) Since(ctx context.Context, revision int64, limit int) ([]registry.Event, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch at := revision - l.pruned; {
	case l.err != nil:
		return nil, l.err
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case at < 0:
		return nil, fmt.Errorf("read events: %w", registry.ErrTooOld)
	case at >= int64(len(l.events)):
		return nil, nil
	default:
		after := l.events[at:]
		return append([]registry.Event(nil), after[:min(limit, len(after))]...), nil
	}
}

func (l *table) Revision(context.Context) (int64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.pruned + int64(len(l.events)), l.err
}

// at returns the event of a revision.
func (l *table) at(revision int64) registry.Event {
	l.mu.Lock()
	defer l.mu.Unlock()
	if i := revision - l.pruned - 1; i >= 0 && i < int64(len(l.events)) {
		return l.events[i]
	}
	return registry.Event{}
}

// publish runs a publisher until the test ends or stop is called.
func publish(t testing.TB, o bus.PublisherOptions) (p *bus.Publisher, stop func()) {
	t.Helper()
	if o.Beat == 0 {
		o.Beat = 50 * time.Millisecond
	}
	o.Log = slog.New(slog.DiscardHandler)
	p = bus.NewPublisher(o)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := p.Run(ctx); err != nil {
			t.Errorf("run: %v", err)
		}
	})
	stop = func() { cancel(); running.Wait() }
	t.Cleanup(stop)
	return p, stop
}

// A watcher hears events until its watch ends, and checks that none is left out,
// doubled or altered.
type watcher struct {
	t       testing.TB
	table   *table
	stop    func()
	mu      sync.Mutex
	last    int64
	signs   int // of life
	err     error
	ended   bool
	changed chan struct{} // closed with each change, then made anew
}

// watch starts a watcher. each, if not nil, is called before each event counts.
func watch(t testing.TB, table *table, events registry.Events, after int64, each func(registry.Event)) *watcher {
	ctx, cancel := context.WithCancel(context.Background())
	w := &watcher{t: t, table: table, last: after, changed: make(chan struct{})}
	var running sync.WaitGroup
	running.Go(func() {
		for e, err := range events.Watch(ctx, after) {
			if each != nil {
				each(e)
			}
			w.note(e, err)
		}
		w.update(func() { w.ended = true })
	})
	w.stop = func() { cancel(); running.Wait() }
	t.Cleanup(w.stop)
	return w
}

func (w *watcher) update(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
	close(w.changed)
	w.changed = make(chan struct{})
}

func (w *watcher) note(e registry.Event, err error) {
	w.update(func() {
		switch {
		case w.err != nil:
			w.t.Errorf("after the error %v comes %v, %v", w.err, e, err)
		case err != nil:
			w.err = err
		case e.Kind == registry.EventNone:
			if w.signs++; e.Revision != w.last {
				w.t.Errorf("a sign of life at revision %d, after event %d", e.Revision, w.last)
			}
		case e.Revision != w.last+1:
			w.t.Errorf("event %d comes after %d", e.Revision, w.last)
		default:
			if want := w.table.at(e.Revision); e != want && want.Revision != 0 {
				w.t.Errorf("event %+v, want %+v", e, want)
			}
			w.last = e.Revision
		}
	})
}

// until waits until is holds.
func (w *watcher) until(what string, is func(*watcher) bool) {
	w.t.Helper()
	deadline := time.After(patience)
	for {
		w.mu.Lock()
		ok, ended, changed := is(w), w.ended, w.changed
		w.mu.Unlock()
		if ok {
			return
		}
		if ended {
			w.t.Fatalf("the watch ended at %d with %v, before %s", w.last, w.err, what)
		}
		select {
		case <-changed:
		case <-deadline:
			w.mu.Lock()
			defer w.mu.Unlock()
			w.t.Fatalf("waited too long for %s; at %d, error %v", what, w.last, w.err)
		}
	}
}

func (w *watcher) untilRevision(revision int64) {
	w.t.Helper()
	w.until(fmt.Sprintf("revision %d", revision), func(w *watcher) bool { return w.last >= revision })
}

// untilAlive waits for n more signs of life.
func (w *watcher) untilAlive(n int) {
	w.t.Helper()
	w.mu.Lock()
	n += w.signs
	w.mu.Unlock()
	w.until("a sign of life", func(w *watcher) bool { return w.signs >= n })
}

// untilError waits for the end, and returns the error.
func (w *watcher) untilError() error {
	w.t.Helper()
	w.until("an error", func(w *watcher) bool { return w.err != nil })
	return w.err
}

// eventually waits until is holds; asking is all there is to do.
func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited too long until %s", what)
		}
	}
}
