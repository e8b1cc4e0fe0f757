// Package db keeps image records in an SQL database. So far that is SQLite, in
// one file; dialect.go holds what is particular to it.
package db

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"time"

	"nearsight/registry"
)

// defaultGrace lets most downloads end whose data is deleted under them, and
// gives the space back before anybody wonders where it is. A longer download
// breaks off as it would if the store failed.
const defaultGrace = time.Minute

// Options of Open. Only Path is needed.
type Options struct {
	// Path names the database file. It is made if there is none; its directory
	// must exist. SQLite keeps two more files beside it.
	Path string
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
	// the latest of their revisions. Calls may overlap and come out of order.
	// It must not block.
	Notify func(revision int64)
	// Now tells the time; nil means time.Now.
	Now func() time.Time
}

// A DB is registry.Images, Uploads, Locations, Stages, Tasks, Usages, Books and Log
// over one database. It is safe for concurrent use. Only one process may have a
// database open, but for those that open it as it is and only read.
type DB struct {
	writer, reader *sql.DB
	path           string
	limits         registry.Limits // with their defaults
	grace          time.Duration
	notify         func(int64)
	now            func() time.Time
}

var (
	_ registry.Images    = (*DB)(nil)
	_ registry.Uploads   = (*DB)(nil)
	_ registry.Locations = (*DB)(nil)
	_ registry.Books     = (*DB)(nil)
	_ registry.Log       = (*DB)(nil)
	_ registry.Tasks     = (*DB)(nil)
	_ registry.Stages    = (*DB)(nil)
	_ registry.Usages    = (*DB)(nil)
)

// Open opens the database and brings its tables up to date. Errors name the
// path. The caller closes the DB.
func Open(ctx context.Context, o Options) (*DB, error) {
	d := &DB{path: o.Path, limits: o.Limits.WithDefaults(), grace: o.Grace, notify: o.Notify, now: o.Now}
	if d.grace == 0 {
		d.grace = defaultGrace
	}
	if d.notify == nil {
		d.notify = func(int64) {}
	}
	if d.now == nil {
		d.now = time.Now
	}
	if o.AsIs {
		if _, err := os.Stat(o.Path); err != nil {
			return nil, fmt.Errorf("open registry database: %w", err)
		}
	}
	var err error
	if d.writer, d.reader, err = openSQLite(o.Path); err != nil {
		return nil, fmt.Errorf("open registry database %s: %w", o.Path, err)
	}
	bring := migrate
	if o.AsIs {
		bring = sameVersion
	}
	if err := bring(ctx, d.writer); err != nil {
		err = fmt.Errorf("open registry database %s: %w", o.Path, err)
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

// Close closes the database. No call may be under way.
func (d *DB) Close() error {
	// Readers first: the last connection folds the write-ahead log into the
	// file, and only the writer's may write.
	return errors.Join(d.reader.Close(), d.writer.Close())
}

// read runs f on one snapshot of the database.
func (d *DB) read(ctx context.Context, doing string, f func(*sql.Tx) error) error {
	tx, err := d.reader.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return d.fail(ctx, doing, err)
	}
	defer tx.Rollback() // nothing was written
	if err := f(tx); err != nil {
		return d.fail(ctx, doing, err)
	}
	return nil
}

// A change is a transaction that writes. They never overlap.
type change struct {
	*sql.Tx
	at       time.Time // when it happens, in UTC and whole microseconds
	revision int64     // of its latest event, 0 while there is none
}

// write runs f in a transaction, commits it and tells of its events. Nothing of
// it is stored when write returns an error, except that the outcome of a commit
// that failed is unknown.
func (d *DB) write(ctx context.Context, doing string, f func(*change) error) error {
	tx, err := d.writer.BeginTx(ctx, nil)
	if err != nil {
		return d.fail(ctx, doing, err)
	}
	defer tx.Rollback() // does nothing after a commit
	c := &change{Tx: tx, at: d.now().UTC().Truncate(time.Microsecond)}
	if err := f(c); err != nil {
		return d.fail(ctx, doing, err)
	}
	if err := tx.Commit(); err != nil {
		return d.fail(ctx, doing, err)
	}
	if c.revision != 0 {
		d.notify(c.revision)
	}
	return nil
}

// A refusal is an error that is meant for the caller as it is.
type refusal struct{ error }

// fail says what was being done. Errors of the database become ours.
func (d *DB) fail(ctx context.Context, doing string, err error) error {
	var r refusal
	switch {
	case errors.As(err, &r):
		return r.error
	case isOurs(err):
		return fmt.Errorf("%s: %w", doing, err)
	case ctx.Err() != nil: // the driver says "interrupted"
		return fmt.Errorf("%s: %w", doing, ctx.Err())
	case isUnavailable(err):
		return fmt.Errorf("%s: %w: %s: %w", doing, registry.ErrUnavailable, d.path, err)
	}
	return fmt.Errorf("%s: database %s: %w", doing, d.path, err)
}

func isOurs(err error) bool {
	for _, ours := range []error{
		registry.ErrNotFound, registry.ErrInvalid, registry.ErrForbidden,
		registry.ErrConflict, registry.ErrTooLarge,
	} {
		if errors.Is(err, ours) {
			return true
		}
	}
	return false
}
