package db_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"sync"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib"

	"nearsight/origin"
	"nearsight/registry"
	"nearsight/registry/bus"
	"nearsight/registry/db"
)

// openAt opens the database of o until the end of the test.
func openAt(t *testing.T, o db.Options) *db.DB {
	t.Helper()
	d, err := db.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeDB(t, d) })
	return d
}

// run runs d until the end of the test, or until the returned function is called.
func run(t *testing.T, d *db.DB) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := d.Run(ctx); err != nil {
			t.Errorf("run: %v", err)
		}
	})
	stop = sync.OnceFunc(func() { cancel(); running.Wait() })
	t.Cleanup(stop)
	return stop
}

func TestOfSeveralThatOpenAtOnceOneMigrates(t *testing.T) {
	at := db.PostgresURL(t, db.PostgresServer(t))
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			d, err := db.Open(t.Context(), db.Options{URL: at})
			if err != nil {
				t.Error(err)
				return
			}
			closeDB(t, d)
		})
	}
	all.Wait()
	pool, err := sql.Open("pgx", at)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	var versions, different int
	err = pool.QueryRowContext(t.Context(), "SELECT count(*), count(DISTINCT version_id) FROM goose_db_version").Scan(&versions, &different)
	if err != nil || versions != different || versions < 2 {
		t.Errorf("%d versions, %d different ones, %v", versions, different, err)
	}
}

// A central is one of several processes on a database, and what it hears.
type central struct {
	*db.DB
	events *bus.Local
}

func openCentral(t *testing.T, at string) *central {
	t.Helper()
	c := new(central)
	c.DB = openAt(t, db.Options{URL: at, Grace: -1, Notify: func(r int64) { c.events.Notify(r) }})
	c.events = bus.New(c.DB)
	return c
}

// TestFourCentralsWriteAtOnce: no revision is lost or given twice, nobody who follows
// the events misses one, no update is lost, and each task is leased by one.
func TestFourCentralsWriteAtOnce(t *testing.T) {
	const centrals, writers, rounds, tasks = 4, 3, 15, 40
	at := db.PostgresURL(t, db.PostgresServer(t))
	ctx := t.Context()
	var all []*central
	for range centrals {
		all = append(all, openCentral(t, at))
	}
	for _, c := range all {
		run(t, c.DB)
	}
	common, err := all[0].Create(ctx, &registry.Image{DiskFormat: "raw", ContainerFormat: "bare"})
	if err != nil {
		t.Fatal(err)
	}
	for range tasks {
		if _, err := all[0].AddTask(ctx, &registry.Task{}, nil); err != nil {
			t.Fatal(err)
		}
	}
	const total = 1 + centrals*writers*rounds*3

	var mu sync.Mutex
	given, leased := map[int64]int{}, map[string]int{}
	var work, watch sync.WaitGroup
	for n, c := range all {
		watch.Go(func() { wantAllEvents(t, c, total) })
		for w := range writers {
			work.Go(func() {
				for range rounds {
					own, err := c.Create(ctx, &registry.Image{})
					if err != nil {
						t.Error(err)
						return
					}
					changed, err := c.Update(ctx, common.ID, func(img *registry.Image) error { img.MinRAM++; return nil })
					if err != nil {
						t.Error(err)
						return
					}
					if err := c.Delete(ctx, own.ID, nil); err != nil {
						t.Error(err)
					}
					mu.Lock()
					given[own.Revision]++
					given[changed.Revision]++
					mu.Unlock()
				}
			})
			work.Go(func() {
				for {
					task, err := c.LeaseTask(ctx, fmt.Sprint(n, w), time.Hour)
					if errors.Is(err, registry.ErrNotFound) {
						return
					}
					if err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					leased[task.ID]++
					mu.Unlock()
				}
			})
		}
	}
	work.Wait()
	if t.Failed() {
		t.FailNow() // the watchers would wait for ever; their context ends with the test
	}
	watch.Wait()
	for r, n := range given {
		if n != 1 {
			t.Errorf("revision %d was given %d times", r, n)
		}
	}
	if len(given) != centrals*writers*rounds*2 {
		t.Errorf("%d revisions", len(given))
	}
	for id, n := range leased {
		if n != 1 {
			t.Errorf("task %s was leased %d times", id, n)
		}
	}
	img, err := all[1].Get(ctx, common.ID)
	if err != nil || len(leased) != tasks || img.MinRAM != centrals*writers*rounds {
		t.Errorf("%d tasks leased, %d updates, %v", len(leased), img.MinRAM, err)
	}
}

// wantAllEvents follows the events to the last, and looks at the log itself between:
// what it ends with is there for good, and so is all before it.
func wantAllEvents(t *testing.T, c *central, last int64) {
	ctx := t.Context()
	var after int64
	for e, err := range c.events.Watch(ctx, 0) {
		if err != nil || e.Revision != after+1 {
			t.Errorf("after %d comes %d, %v", after, e.Revision, err)
			return
		}
		if after = e.Revision; after == last {
			return
		}
		latest, err := c.Revision(ctx)
		if err != nil || latest < after {
			t.Errorf("revision %d after %d, %v", latest, after, err)
			return
		}
	}
}

// TestCommitsOfOthersAreHeardOf: at once, and also when what listens was cut.
func TestCommitsOfOthersAreHeardOf(t *testing.T) {
	server := db.PostgresServer(t)
	at := db.PostgresURL(t, server)
	name := fmt.Sprintf("hear%d", time.Now().UnixNano())
	ours := with(t, at, func(q url.Values) { q.Set("application_name", name) })
	heard := make(chan int64, 1000)
	d := openAt(t, db.Options{URL: ours, Notify: func(r int64) { heard <- r }})
	other := openAt(t, db.Options{URL: at})
	foreign := openAt(t, db.Options{URL: db.PostgresURL(t, server)}) // other tables of the same database
	stop := run(t, d)
	for n := range int64(5) {
		for range 3 {
			if _, err := foreign.Create(t.Context(), &registry.Image{}); err != nil {
				t.Fatal(err)
			}
		}
		img, err := other.Create(t.Context(), &registry.Image{})
		if err != nil {
			t.Fatal(err)
		}
		for r := int64(0); r < img.Revision; { // a test that hears nothing hangs
			if r = <-heard; r > img.Revision {
				t.Errorf("heard of %d after %d", r, img.Revision)
			}
		}
		if n%2 == 0 {
			db.PostgresExec(t, server, fmt.Sprintf("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = '%s'", name))
		}
	}
	stop()
}

// with returns a URL whose parameters were changed.
func with(t *testing.T, at string, change func(url.Values)) string {
	t.Helper()
	u, err := url.Parse(at)
	if err != nil {
		t.Fatal("the URL is malformed")
	}
	q := u.Query()
	change(q)
	u.RawQuery = q.Encode()
	return u.String()
}

// TestUploadsOfAProcessThatIsGoneAreAbandoned: and those of one that is there are not.
func TestUploadsOfAProcessThatIsGoneAreAbandoned(t *testing.T) {
	at := db.PostgresURL(t, db.PostgresServer(t))
	ctx := t.Context()
	var time clock
	open := func() *db.DB { return openAt(t, db.Options{URL: at, Grace: -1, Now: time.now}) }
	begin := func(d *db.DB, n int) registry.Upload {
		img, err := d.Create(ctx, &registry.Image{DiskFormat: "raw", ContainerFormat: "bare"})
		if err != nil {
			t.Fatal(err)
		}
		loc := origin.Location{URL: fmt.Sprintf("file://s/%d", n)}
		if _, err := d.Begin(ctx, img.ID, loc); err != nil {
			t.Fatal(err)
		}
		return registry.Upload{ImageID: img.ID, Location: loc}
	}
	want := func(d *db.DB, uploads ...registry.Upload) {
		t.Helper()
		if got, err := d.Abandoned(ctx); err != nil || !slices.Equal(got, uploads) {
			t.Errorf("abandoned %v, %v; want %v", got, err, uploads)
		}
	}
	beat := func(all ...*db.DB) {
		t.Helper()
		for _, d := range all {
			if err := d.Beat(ctx); err != nil {
				t.Error(err)
			}
		}
	}
	a, b := open(), open()
	ofA, ofB := begin(a, 1), begin(b, 2)
	want(a)
	for range 6 {
		time.pass(10 * second)
		beat(a, b)
	}
	want(a)
	want(b)
	for range 3 { // b is gone
		want(a)
		time.pass(10 * second)
		beat(a)
	}
	want(a, ofB)
	c := open()
	want(c) // it has not been there for long enough to tell
	for range 4 {
		time.pass(10 * second)
		beat(a, c)
	}
	want(c, ofB)
	// The database was away: nobody is gone before all had the time to say something.
	time.pass(1000 * second)
	want(a)
	beat(a)
	want(a)
	for range 3 {
		time.pass(10 * second)
		beat(a, c)
	}
	want(a, ofB)
	if err := a.Abort(ctx, ofB.ImageID, ofB.Location); err != nil {
		t.Error(err)
	}
	want(a)
	if err := a.Abort(ctx, ofA.ImageID, ofA.Location); err != nil {
		t.Error(err)
	}
}

func TestOfAFileAllOtherProcessesAreGone(t *testing.T) {
	path := t.TempDir() + "/registry.db"
	d := open(t, path, nil)
	img, err := d.Create(t.Context(), &registry.Image{DiskFormat: "raw", ContainerFormat: "bare"})
	if err != nil {
		t.Fatal(err)
	}
	loc := origin.Location{URL: "file://s/1"}
	if _, err := d.Begin(t.Context(), img.ID, loc); err != nil {
		t.Fatal(err)
	}
	if uploads, err := d.Abandoned(t.Context()); err != nil || len(uploads) > 0 {
		t.Errorf("abandoned %v, %v", uploads, err)
	}
	closeDB(t, d)
	d = open(t, path, nil)
	defer closeDB(t, d)
	uploads, err := d.Abandoned(t.Context())
	if err != nil || !slices.Equal(uploads, []registry.Upload{{ImageID: img.ID, Location: loc}}) {
		t.Errorf("abandoned %v, %v", uploads, err)
	}
}

const second = time.Second
