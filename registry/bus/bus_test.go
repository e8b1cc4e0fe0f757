package bus_test

import (
	"context"
	"errors"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"nearsight/registry"
	"nearsight/registry/bus"
)

func TestMain(m *testing.M) {
	bus.Quiet()
	goleak.VerifyTestMain(m)
}

// A memoryLog is a log whose events and errors the test chooses.
type memoryLog struct {
	mu     sync.Mutex
	events []registry.Event
	err    error
	reads  chan struct{} // one for each Since that found nothing
}

func (l *memoryLog) add(revision int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.events = append(l.events, registry.Event{Revision: revision})
}

func (l *memoryLog) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.err = err
}

func (l *memoryLog) Since(ctx context.Context, revision int64, limit int) (after []registry.Event, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.events {
		if e.Revision > revision && len(after) < limit {
			after = append(after, e)
		}
	}
	if len(after) == 0 && l.reads != nil {
		l.reads <- struct{}{}
	}
	return after, errors.Join(l.err, ctx.Err())
}

func (l *memoryLog) Revision(ctx context.Context) (int64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.events) == 0 {
		return 0, l.err
	}
	return l.events[len(l.events)-1].Revision, l.err
}

func TestAnErrorOfTheLogIsTheLastThingYielded(t *testing.T) {
	broken := errors.New("broken")
	log := &memoryLog{reads: make(chan struct{}, 10)}
	log.add(1)
	local := bus.New(log)
	var got []error
	for e, err := range local.Watch(t.Context(), 0) {
		got = append(got, err)
		if e.Revision == 1 {
			log.fail(broken)
		}
	}
	if len(got) != 2 || got[0] != nil || !errors.Is(got[1], broken) {
		t.Errorf("yielded %v", got)
	}
}

func TestAGapIsAnError(t *testing.T) {
	log := &memoryLog{}
	log.add(1)
	log.add(3)
	n := 0
	for e, err := range bus.New(log).Watch(t.Context(), 0) {
		if n++; n == 1 && (err != nil || e.Revision != 1) || n == 2 && err == nil {
			t.Errorf("yield %d: %v, %v", n, e, err)
		}
	}
	if n != 2 {
		t.Errorf("%d yields", n)
	}
}

func TestALostNotifyLosesNothing(t *testing.T) {
	log := &memoryLog{reads: make(chan struct{}, 10)}
	local := bus.New(log)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	seen := make(chan int64)
	var watcher sync.WaitGroup
	watcher.Go(func() {
		for e := range local.Watch(ctx, 0) {
			seen <- e.Revision
		}
	})
	<-log.reads // the watcher found nothing
	log.add(1)  // nobody is told
	log.add(2)
	local.Notify(2)
	for want := int64(1); want <= 2; want++ {
		if got := <-seen; got != want {
			t.Errorf("saw %d, want %d", got, want)
		}
	}
	stop()
	watcher.Wait()
}

func TestNotifyOfTheOldWakesNobodyAndNeverBlocks(t *testing.T) {
	log := &memoryLog{reads: make(chan struct{}, 10)}
	local := bus.New(log)
	local.Notify(5) // before there is a watcher
	for range 100 {
		local.Notify(4)
	}
	ctx, stop := context.WithCancel(t.Context())
	var watcher sync.WaitGroup
	watcher.Go(func() {
		for e := range local.Watch(ctx, 0) {
			t.Errorf("yielded %v", e)
		}
	})
	<-log.reads
	local.Notify(5)
	local.Notify(3)
	stop()
	watcher.Wait()
	if len(log.reads) != 0 {
		t.Errorf("%d more reads", len(log.reads))
	}
}
