// Package db keeps image records in an SQL database: SQLite in one file, or
// PostgreSQL for several processes at once. A dialect is what is particular to either.
package db

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"nearsight/registry"
)

// defaultGrace lets most downloads end whose data is deleted under them, and
// gives the space back before anybody wonders where it is. A longer download
// breaks off as it would if the store failed.
const defaultGrace = time.Minute

// attempts bounds how often a change is made that loses against another one. Changes
// wait for each other, so only something foreign in the database can bring that about.
const attempts = 5

// Options of Open. Only Path or URL is needed.
type Options struct {
	// Path names the file of an SQLite database. It is made if there is none; its
	// directory must exist. SQLite keeps two more files beside it.
	Path string
	// URL is that of a PostgreSQL database (12 or newer), and takes the place of Path:
	// postgres://user:password@host:5432/database, with the parameters of libpq.
	// Several hosts are tried in order for the one that takes writes. Tables are made
	// in the first schema of the search path. A pooler between must keep sessions.
	URL string
	// AsIs makes and changes nothing: the database must be there, with the tables
	// that this program makes. It is for looking into that of a server which may
	// be running.
	AsIs bool
	// Limits are what records are checked against; the zero value means the
	// defaults.
	Limits registry.Limits
	// Grace is how long the data of a deleted image is kept from being an
	// orphan, so that downloads under way can end; 0 means a minute and less
	// than 0 means none.
	Grace time.Duration
	// Notify, if not nil, is called after each commit that made events, with
	// the latest of their revisions; while Run runs also after those of other
	// processes. Calls may overlap, come out of order and come twice. It must not
	// block.
	Notify func(revision int64)
	// Now tells the time. nil means time.Now, and for changes in PostgreSQL the clock
	// of the server, which is the same one for all processes.
	Now func() time.Time
	// Log hears when the connection over which others tell of commits is lost; nil
	// means slog.Default().
	Log *slog.Logger
}

// Database names the database, without credentials.
func (o Options) Database() string {
	if o.URL != "" {
		return withoutCredentials(o.URL)
	}
	return o.Path
}

// A DB is registry.Images, Uploads, Locations, Stages, Tasks, Usages, Books, Log,
// Pruner and Edges over one database. It is safe for concurrent use. A file may be open
// in one process only, but for those that open it as it is and only read.
type DB struct {
	dialect        dialect
	server         *postgres // the dialect, or nil: the database is a file
	writer, reader *sql.DB
	name           string // of the database
	process        string // the name of this process among those that write
	limits         registry.Limits
	grace          time.Duration
	notify         func(int64)
	now            func() time.Time
	timed          bool // now tells the time of changes, whatever the database says
	log            *slog.Logger
	heard          atomic.Int64 // the latest revision that notify was told of
}

var (
	_ registry.Images    = (*DB)(nil)
	_ registry.Uploads   = (*DB)(nil)
	_ registry.Locations = (*DB)(nil)
	_ registry.Books     = (*DB)(nil)
	_ registry.Log       = (*DB)(nil)
	_ registry.Pruner    = (*DB)(nil)
	_ registry.Tasks     = (*DB)(nil)
	_ registry.Stages    = (*DB)(nil)
	_ registry.Usages    = (*DB)(nil)
	_ registry.Edges     = (*DB)(nil)
)

// Open opens the database and brings its tables up to date; of several processes that
// do so at once one does it and the others wait. Errors name the database. The caller
// closes the DB.
func Open(ctx context.Context, o Options) (*DB, error) {
	d := &DB{
		name: o.Database(), process: uuid.NewString(), limits: o.Limits.WithDefaults(),
		grace: o.Grace, notify: o.Notify, now: o.Now, timed: o.Now != nil, log: o.Log,
	}
	if d.grace == 0 {
		d.grace = defaultGrace
	}
	if d.notify == nil {
		d.notify = func(int64) {}
	}
	if d.now == nil {
		d.now = time.Now
	}
	if d.log == nil {
		d.log = slog.Default()
	}
	if o.AsIs && o.URL == "" {
		if _, err := os.Stat(o.Path); err != nil {
			return nil, fmt.Errorf("open registry database: %w", err)
		}
	}
	if err := d.connect(o); err != nil {
		return nil, fmt.Errorf("open registry database %s: %w", d.name, err)
	}
	if err := d.ready(ctx, o.AsIs); err != nil {
		err = fmt.Errorf("open registry database %s: %w", d.name, err)
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

// connect sets the dialect and the connections.
func (d *DB) connect(o Options) error {
	var err error
	if o.URL == "" {
		d.dialect = sqlite{}
		d.writer, d.reader, err = openSQLite(o.Path)
		return err
	}
	d.server, d.writer, d.reader, err = openPostgres(o.URL)
	d.dialect = d.server
	return err
}

// ready makes sure that the tables are those of this program.
func (d *DB) ready(ctx context.Context, asIs bool) error {
	if asIs {
		return d.sameVersion(ctx)
	}
	if err := d.migrate(ctx); err != nil || d.server == nil {
		return err
	}
	return d.beat(ctx)
}

// Close closes the database. No call may be under way.
func (d *DB) Close() error {
	// Readers first: the last connection folds the write-ahead log of SQLite into
	// the file, and only the writer's may write.
	return errors.Join(d.reader.Close(), d.writer.Close())
}

// read runs f on one snapshot of the database.
func (d *DB) read(ctx context.Context, doing string, f func(txn) error) error {
	tx, err := d.dialect.look(ctx, d.reader)
	if err != nil {
		return d.fail(ctx, doing, err)
	}
	defer tx.Rollback() // nothing was written
	if err := f(txn{tx, d.dialect}); err != nil {
		return d.fail(ctx, doing, err)
	}
	return nil
}

// A change is a transaction that writes. They never overlap.
type change struct {
	txn
	process  string    // that makes it
	at       time.Time // when it happens, in UTC and whole microseconds
	revision int64     // of its latest event, 0 while there is none
}

// write runs f in a transaction, commits it and tells of its events. Nothing of
// it is stored when write returns an error, except that the outcome of a commit
// that failed is unknown. f may be called more than once.
func (d *DB) write(ctx context.Context, doing string, f func(*change) error) error {
	for n := 1; ; n++ {
		revision, err := d.once(ctx, f)
		switch {
		case err == nil:
			if revision != 0 {
				d.told(revision)
			}
			return nil
		case n == attempts || ctx.Err() != nil || !d.dialect.lostRace(err):
			return d.fail(ctx, doing, err)
		}
	}
}

// once is write without a second attempt. It returns the latest revision, 0 for none.
func (d *DB) once(ctx context.Context, f func(*change) error) (revision int64, err error) {
	tx, at, err := d.dialect.begin(ctx, d.writer)
	if err != nil {
		return 0, err
	}
	defer tx.Rollback() // does nothing after a commit
	if at.IsZero() || d.timed {
		at = d.now()
	}
	c := &change{txn: txn{tx, d.dialect}, process: d.process, at: at.UTC().Truncate(time.Microsecond)}
	if err := f(c); err != nil {
		return 0, err
	}
	if c.revision != 0 {
		if err := d.dialect.tell(ctx, tx, c.revision); err != nil {
			return 0, err
		}
	}
	return c.revision, tx.Commit()
}

// told notes that a revision is committed, and tells who wants to know.
func (d *DB) told(revision int64) {
	for heard := d.heard.Load(); revision > heard; heard = d.heard.Load() {
		if d.heard.CompareAndSwap(heard, revision) {
			break
		}
	}
	d.notify(revision)
}
