package bus_test

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"nearsight/registry"
	"nearsight/registry/bus"
)

// quickly are the options of a Redis that notices a loss soon.
func quickly(server *bus.Server, stream string, log registry.Log, fallback registry.Events) bus.RedisOptions {
	return bus.RedisOptions{
		Server: server, Stream: stream, Log: log, Fallback: fallback,
		Silence: 500 * time.Millisecond, Logger: slog.New(slog.DiscardHandler),
	}
}

func TestEventsComeInOrderAndWhole(t *testing.T) {
	server, _, stream := shared(t)
	table := newTable()
	table.add(600) // from before; a new stream has nothing of it
	publish(t, bus.PublisherOptions{Server: server, Stream: stream, Local: table.local()})
	r := bus.NewRedis(quickly(server, stream, table, nil))
	w := watch(t, table, r, 0, nil)
	w.untilRevision(600)
	w.untilAlive(1)
	for range 50 {
		w.untilRevision(table.add(1))
	}
	w.untilRevision(table.add(1000)) // more than any batch
	w.untilAlive(3)
	if r.Lost() {
		t.Error("redis counts as lost")
	}
	late := watch(t, table, r, 1200, nil)
	late.untilRevision(1650)
	late.untilAlive(1)
}

func TestTwoPublishersDoubleAndReorderNothing(t *testing.T) {
	server, c, stream := shared(t)
	table := newTable()
	for range 2 {
		publish(t, bus.PublisherOptions{Server: server, Stream: stream, Local: table.local()})
	}
	w := watch(t, table, bus.NewRedis(quickly(server, stream, table, nil)), 0, nil)
	w.untilAlive(1) // both may have begun now, or the second finds the first ahead
	for range 500 {
		table.add(1 + rand.IntN(3))
	}
	last := table.add(1)
	w.untilRevision(last)
	entries, err := c.XRange(t.Context(), stream, "-", "+").Result()
	if err != nil {
		t.Fatal(err)
	}
	first, _, _ := strings.Cut(entries[0].ID, "-")
	from, _ := strconv.ParseInt(first, 10, 64)
	for i, e := range entries {
		if want := strconv.FormatInt(from+int64(i), 10) + "-0"; e.ID != want {
			t.Fatalf("entry %d is %s, want %s", i, e.ID, want)
		}
	}
	if n := int64(len(entries)); from+n-1 != last {
		t.Errorf("%d entries from %d on, want them up to %d", n, from, last)
	}
}

func TestATrimmedStreamIsFilledFromTheLog(t *testing.T) {
	server, c, stream := shared(t)
	table := newTable()
	publish(t, bus.PublisherOptions{Server: server, Stream: stream, Local: table.local(), Keep: 100})
	r := bus.NewRedis(quickly(server, stream, table, nil))
	front := watch(t, table, r, 0, nil)
	front.untilAlive(1)
	front.untilRevision(table.add(2000))
	if n := c.XLen(t.Context(), stream).Val(); n > 400 {
		t.Errorf("the stream has %d entries", n)
	}
	late := watch(t, table, r, 10, nil)
	late.untilRevision(2000)
	late.untilRevision(table.add(1))
	table.prune(1000)
	if err := watch(t, table, r, 10, nil).untilError(); !errors.Is(err, registry.ErrTooOld) {
		t.Errorf("error %v, want that the events are not kept", err)
	}
	watch(t, table, r, 1500, nil).untilRevision(2001)
}

func TestAPublisherThatWasAwayForLongGoesOn(t *testing.T) {
	server, _, stream := shared(t)
	table := newTable()
	options := bus.PublisherOptions{Server: server, Stream: stream, Local: table.local(), Keep: 100}
	_, stop := publish(t, options)
	r := bus.NewRedis(quickly(server, stream, table, bus.New(table)))
	w := watch(t, table, r, 0, nil)
	w.untilAlive(1)
	w.untilRevision(table.add(10))
	stop()
	table.add(500)
	table.prune(400)
	publish(t, options)
	late := watch(t, table, r, 450, nil)
	late.untilRevision(510)
	late.untilRevision(table.add(1))
}

func TestKilledAndRestartedRedisLosesAndDoublesNothing(t *testing.T) {
	for _, tt := range []struct {
		name string
		args []string
	}{
		{"without a memory", nil},
		{"with one that forgets the last second", []string{"--appendonly", "yes", "--appendfsync", "everysec"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := start(t, tt.args...)
			server := parse(t, "redis://"+p.addr())
			table := newTable()
			publisher, _ := publish(t, bus.PublisherOptions{Server: server, Local: table.local()})
			r := bus.NewRedis(quickly(server, "", table, table.local()))
			var watchers []*watcher
			for range 3 {
				watchers = append(watchers, watch(t, table, r, 0, nil))
			}
			writing, stopWriting := context.WithCancel(t.Context())
			var writer sync.WaitGroup
			defer writer.Wait()
			defer stopWriting()
			writer.Go(func() {
				for writing.Err() == nil {
					table.add(1)
					time.Sleep(time.Millisecond) // a rate, nothing waits for it
				}
			})
			for range 4 {
				watchers[0].untilAlive(2)
				p.kill()
				eventually(t, "the loss is noticed", func() bool { return r.Lost() && publisher.Err() != nil })
				watchers[0].untilRevision(table.add(1)) // it comes another way
				p.start()
				eventually(t, "redis is heard again", func() bool { return !r.Lost() && publisher.Err() == nil })
			}
			stopWriting()
			writer.Wait()
			last := table.add(1)
			for _, w := range watchers {
				w.untilRevision(last)
				w.untilAlive(1)
			}
		})
	}
}

func TestARedisThatHangsIsLeft(t *testing.T) {
	p := start(t)
	server := parse(t, "redis://"+p.addr())
	table := newTable()
	publisher, _ := publish(t, bus.PublisherOptions{Server: server, Local: table.local()})
	r := bus.NewRedis(quickly(server, "", table, table.local()))
	w := watch(t, table, r, 0, nil)
	w.untilAlive(1)
	p.signal(syscall.SIGSTOP)
	eventually(t, "the loss is noticed", r.Lost)
	w.untilRevision(table.add(10))
	eventually(t, "the publisher notices", func() bool { return publisher.Err() != nil })
	p.signal(syscall.SIGCONT)
	eventually(t, "redis is heard again", func() bool { return !r.Lost() })
	w.untilRevision(table.add(10))
	w.untilAlive(1)
}

func TestWithoutPublishersTheFallbackIsFollowed(t *testing.T) {
	server, _, stream := shared(t)
	table := newTable()
	options := bus.PublisherOptions{Server: server, Stream: stream, Local: table.local()}
	_, stop := publish(t, options)
	r := bus.NewRedis(quickly(server, stream, table, table.local()))
	w := watch(t, table, r, 0, nil)
	w.untilAlive(1)
	w.untilRevision(table.add(5))
	for range 2 {
		stop()
		eventually(t, "the silence is noticed", r.Lost)
		w.untilRevision(table.add(300))
		_, stop = publish(t, options)
		eventually(t, "a publisher is heard", func() bool { return !r.Lost() })
		w.untilRevision(table.add(300))
		w.untilAlive(2)
	}
}

func TestWithoutRedisAndFallbackTheRegistryIsUnavailable(t *testing.T) {
	server := parse(t, "redis://:hunter2@127.0.0.1:"+freePort(t))
	table := newTable()
	table.add(1)
	err := watch(t, table, bus.NewRedis(quickly(server, "", table, nil)), 0, nil).untilError()
	if !errors.Is(err, registry.ErrUnavailable) || strings.Contains(err.Error(), "hunter2") || !strings.Contains(err.Error(), server.String()) {
		t.Errorf("error %v", err)
	}
	down := errors.New("the central is down")
	table.fail(down)
	r := bus.NewRedis(quickly(server, "", table, bus.New(table)))
	if err := watch(t, table, r, 0, nil).untilError(); !errors.Is(err, down) {
		t.Errorf("error %v, want that of the fallback", err)
	}
	if r.Lost() {
		t.Error("nobody watches, and it counts as lost")
	}
}

func TestAGapIsAnErrorWhileTheLogCannotBeRead(t *testing.T) {
	server, _, stream := shared(t)
	table, away := newTable(), newTable()
	table.add(10)
	publish(t, bus.PublisherOptions{Server: server, Stream: stream, Local: table.local()})
	down := errors.New("the central is down")
	away.fail(down)
	r := bus.NewRedis(quickly(server, stream, away, away.local()))
	if err := watch(t, table, r, 5, nil).untilError(); !errors.Is(err, down) {
		t.Errorf("error %v, want that of the log", err)
	}
	// Without a gap nobody asks it.
	w := watch(t, table, r, 10, nil)
	w.untilAlive(1)
	w.untilRevision(table.add(20))
}

func TestASlowWatcherIsNotReadAheadOf(t *testing.T) {
	p := start(t)
	server := parse(t, "redis://"+p.addr())
	c := redis.NewClient(&redis.Options{Addr: p.addr()})
	defer c.Close()
	table := newTable()
	publish(t, bus.PublisherOptions{Server: server, Local: table.local(), Keep: 100})
	r := bus.NewRedis(quickly(server, "", table, nil))
	blocked, goOn := make(chan struct{}), make(chan struct{})
	var once sync.Once
	slow := watch(t, table, r, 0, func(e registry.Event) {
		if e.Revision == 1 {
			once.Do(func() { close(blocked); <-goOn })
		}
	})
	slow.untilAlive(1)
	table.add(1)
	<-blocked
	for range 50 {
		table.add(100)
	}
	front := watch(t, table, bus.NewRedis(quickly(server, "", table, nil)), 5000, nil)
	front.untilRevision(5001)
	front.stop()
	heard := calls(t, c, "xread")
	eventually(t, "many beats went by", func() bool {
		return c.XInfoStream(t.Context(), "{"+bus.DefaultStream+"}:beats").Val().EntriesAdded > 30
	})
	if n := calls(t, c, "xread"); n != heard {
		t.Errorf("%d reads while the watcher was kept", n-heard)
	}
	close(goOn)
	slow.untilRevision(5001)
	slow.untilAlive(1)
}

// calls returns how often Redis ran a command.
func calls(t *testing.T, c *redis.Client, command string) int {
	t.Helper()
	text, err := c.Info(t.Context(), "commandstats").Result()
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(text, "cmdstat_"+command+":calls=")
	number, _, _ := strings.Cut(rest, ",")
	n, err := strconv.Atoi(number)
	if err != nil {
		t.Fatalf("no calls of %s in %s", command, text)
	}
	return n
}

func TestWhatOthersWroteIntoTheStreamIsReplaced(t *testing.T) {
	for _, tt := range []struct {
		name, id string
		values   []any
	}{
		{"a later revision", "1000-0", []any{"image", "x"}},
		{"an id of redis's own", "*", []any{"a", "b"}},
		{"the next revision, malformed", "2-0", []any{"image", "x", "kind", "create"}},
		{"the next revision, a sign of life", "2-0", []any{"image", "5a2b7ab3-8ef2-4f6b-8b3d-0a3d6e2a7e4b", "kind", "", "at", "1"}},
		{"the latest revision again", "1-7", []any{"image", "x"}},
		{"a beat that is none", "beats", []any{"revision", "-1"}},
		{"a beat of the future", "beats", []any{"revision", "1000"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			server, c, stream := shared(t)
			table := newTable()
			publish(t, bus.PublisherOptions{Server: server, Stream: stream, Local: table.local()})
			w := watch(t, table, bus.NewRedis(quickly(server, stream, table, table.local())), 0, nil)
			w.untilAlive(1)
			w.untilRevision(table.add(1))
			add := &redis.XAddArgs{Stream: stream, ID: tt.id, Values: tt.values}
			if tt.id == "beats" {
				add.Stream, add.ID = "{"+stream+"}:beats", "*"
			}
			if err := c.XAdd(t.Context(), add).Err(); err != nil {
				t.Fatal(err)
			}
			w.untilRevision(table.add(1))
			w.untilRevision(table.add(300))
			w.untilAlive(3)
		})
	}
}

func TestARegistryPutBackEndsTheWatches(t *testing.T) {
	server, c, stream := shared(t)
	table := newTable()
	options := bus.PublisherOptions{Server: server, Stream: stream, Local: table.local()}
	_, stop := publish(t, options)
	r := bus.NewRedis(quickly(server, stream, table, bus.New(table)))
	w := watch(t, table, r, 0, nil)
	w.untilAlive(1)
	w.untilRevision(table.add(100))
	stop()
	table.cut(50)
	publish(t, options)
	if err := w.untilError(); err == nil {
		t.Error("no error")
	}
	again := watch(t, table, r, 50, nil)
	again.untilAlive(1)
	again.untilRevision(table.add(5))
	if n := c.XLen(t.Context(), stream).Val(); n != 5 {
		t.Errorf("the stream has %d entries, want the 5 since", n)
	}
}

func TestAWatchEndsWithItsContext(t *testing.T) {
	p := start(t)
	table := newTable()
	o := quickly(parse(t, "redis://"+p.addr()), "", table, nil)
	o.Silence = time.Hour // it would wait for so long
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		for e, err := range bus.NewRedis(o).Watch(ctx, 0) {
			t.Errorf("yielded %v, %v", e, err)
		}
	})
	c := redis.NewClient(&redis.Options{Addr: p.addr()})
	defer c.Close()
	eventually(t, "it reads", func() bool {
		return strings.Contains(c.ClientList(t.Context()).Val(), "cmd=xread")
	})
	stop()
	ended := make(chan struct{})
	go func() { running.Wait(); close(ended) }()
	select {
	case <-ended:
	case <-time.After(patience):
		t.Fatal("it goes on")
	}
}

func TestThePublisherOutlastsTheLog(t *testing.T) {
	server, _, stream := shared(t)
	table := newTable()
	p, _ := publish(t, bus.PublisherOptions{Server: server, Stream: stream, Local: table.local()})
	if err := bus.NewPublisher(bus.PublisherOptions{}).Err(); err == nil {
		t.Error("no error before anything was published")
	}
	w := watch(t, table, bus.NewRedis(bus.RedisOptions{Server: server, Stream: stream, Log: table}), 0, nil)
	w.untilRevision(table.add(3))
	broken := errors.New("broken")
	table.fail(broken)
	eventually(t, "it tells", func() bool { return errors.Is(p.Err(), broken) })
	table.fail(nil)
	eventually(t, "it goes on", func() bool { return p.Err() == nil })
	w.untilRevision(table.add(3))
}
