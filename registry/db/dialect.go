package db

import (
	"context"
	"database/sql"
	"embed"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/pressly/goose/v3"
)

// A dialect is all that is particular to a kind of database. The statements elsewhere
// keep to what SQLite and PostgreSQL both know.
type dialect interface {
	// statement returns s, which has a ? for each value, as the database wants it.
	statement(s string) string
	// look begins a transaction that reads, and sees one state of the database.
	look(ctx context.Context, reader *sql.DB) (*sql.Tx, error)
	// begin begins a change and returns its time, zero if that is for this process to
	// tell. It waits until no other change is under way, also of other processes, and
	// sees what they have committed. If it fails nothing was begun.
	begin(ctx context.Context, writer *sql.DB) (*sql.Tx, time.Time, error)
	// tell tells other processes, when tx commits, that there is a revision.
	tell(ctx context.Context, tx *sql.Tx, revision int64) error
	// migrations returns what knows the migrations of d.
	migrations(d *sql.DB) (*goose.Provider, error)
	// version returns that of the tables, 0 if there are none, and changes nothing.
	version(ctx context.Context, d *sql.DB) (int64, error)
	// alone runs f while no other process does, so that one of them migrates.
	alone(ctx context.Context, d *sql.DB, f func() error) error
	// unavailable reports whether err is about the state of the database, so that the
	// same call may succeed later.
	unavailable(err error) bool
	// lostRace reports whether the database undid a transaction for the sake of another.
	lostRace(err error) bool
	// meaning returns the error of the registry for one that refuses a value which this
	// database, unlike others, cannot hold; nil if err is no such error.
	meaning(err error) error
}

// A txn is a transaction. Its statements have a ? for each value.
type txn struct {
	*sql.Tx
	dialect dialect
}

func (t txn) ExecContext(ctx context.Context, statement string, args ...any) (sql.Result, error) {
	return t.Tx.ExecContext(ctx, t.dialect.statement(statement), args...)
}

func (t txn) QueryContext(ctx context.Context, statement string, args ...any) (*sql.Rows, error) {
	return t.Tx.QueryContext(ctx, t.dialect.statement(statement), args...)
}

func (t txn) QueryRowContext(ctx context.Context, statement string, args ...any) *sql.Row {
	return t.Tx.QueryRowContext(ctx, t.dialect.statement(statement), args...)
}

//go:embed migrations/*.sql
var migrationFiles embed.FS

// migrationFolder is what the providers of the dialects read.
func migrationFolder() (fs.FS, error) { return fs.Sub(migrationFiles, "migrations") }

// latestMigration returns the version that the last of the migrations makes.
func latestMigration() (int64, error) {
	entries, err := fs.ReadDir(migrationFiles, "migrations")
	if err != nil {
		return 0, err
	}
	var last int64
	for _, e := range entries {
		n, err := goose.NumericComponent(e.Name())
		if err != nil {
			return 0, err
		}
		last = max(last, n)
	}
	return last, nil
}

const versionQuery = "SELECT max(version_id) FROM goose_db_version WHERE is_applied"

// sameVersion refuses tables of another form than this program's.
func (d *DB) sameVersion(ctx context.Context) error {
	knows, err := latestMigration()
	if err != nil {
		return err
	}
	has, err := d.dialect.version(ctx, d.reader)
	if err != nil {
		return fmt.Errorf("it is not the registry of a server, or it cannot be read: %w", err)
	}
	if has != knows {
		return fmt.Errorf("its tables are of version %d, and this program is for version %d: "+
			"use the program that serves it (serve brings older tables up to date)", has, knows)
	}
	return nil
}

// migrate brings the tables to the form that this program knows.
func (d *DB) migrate(ctx context.Context) error {
	p, err := d.dialect.migrations(d.writer)
	if err != nil {
		return err
	}
	return d.dialect.alone(ctx, d.writer, func() error {
		current, target, err := p.GetVersions(ctx)
		if err != nil {
			return err
		}
		if current > target {
			return fmt.Errorf("its tables are of version %d, and this program knows none after %d: it was written by a newer one", current, target)
		}
		_, err = p.Up(ctx)
		return err
	})
}

// marks returns n placeholders.
func marks(n int) string {
	if n == 0 {
		return ""
	}
	return "?" + strings.Repeat(", ?", n-1)
}
