package db

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"runtime"

	"github.com/mattn/go-sqlite3"
	"github.com/pressly/goose/v3"
)

// All that is SQLite's own is in this file: how a database is opened and
// migrated, and what its errors mean. The statements elsewhere keep to what
// PostgreSQL knows too, but for its numbered placeholders and, in the
// migrations, BYTEA for BLOB.

//go:embed migrations/*.sql
var migrations embed.FS

// openSQLite opens the file at path, made if there is none, for one writer and
// a number of readers.
func openSQLite(path string) (writer, reader *sql.DB, err error) {
	// SQLite's own errors name neither the path nor the reason.
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, nil, err
	}
	if err := f.Close(); err != nil {
		return nil, nil, err
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, nil, err
	}
	file := "file:" + (&url.URL{Path: abs}).EscapedPath()
	// FULL: a commit is on the disk when it returns, so that a finished upload
	// survives a loss of power. NORMAL would only keep the file consistent.
	options := url.Values{
		"_journal_mode": {"WAL"}, "_synchronous": {"FULL"},
		"_foreign_keys": {"on"}, "_busy_timeout": {"5000"}, // ms
		"_stmt_cache_size": {"64"},
	}
	options.Set("_txlock", "immediate") // a reader that turned writer could only fail
	writer, err = sql.Open("sqlite3", file+"?"+options.Encode())
	if err != nil {
		return nil, nil, err
	}
	writer.SetMaxOpenConns(1)
	options.Del("_txlock")
	options.Set("_query_only", "on")
	reader, err = sql.Open("sqlite3", file+"?"+options.Encode())
	if err != nil {
		return nil, nil, errors.Join(err, writer.Close())
	}
	readers := max(4, runtime.GOMAXPROCS(0))
	reader.SetMaxOpenConns(readers)
	reader.SetMaxIdleConns(readers)
	return writer, reader, nil
}

// provider returns what knows the migrations.
func provider(d *sql.DB) (*goose.Provider, error) {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return nil, err
	}
	return goose.NewProvider(goose.DialectSQLite3, d, files, goose.WithDisableGlobalRegistry(true))
}

// sameVersion refuses tables of another form than this program's.
func sameVersion(ctx context.Context, d *sql.DB) error {
	p, err := provider(d)
	if err != nil {
		return err
	}
	sources := p.ListSources()
	knows, has := sources[len(sources)-1].Version, int64(0)
	if err := d.QueryRowContext(ctx, "SELECT max(version_id) FROM goose_db_version WHERE is_applied").Scan(&has); err != nil {
		return fmt.Errorf("it is not the registry of a server, or it cannot be read: %w", err)
	}
	if has != knows {
		return fmt.Errorf("its tables are of version %d, and this program is for version %d: "+
			"use the program that serves it (serve brings older tables up to date)", has, knows)
	}
	return nil
}

// migrate brings the tables to the form that this program knows.
func migrate(ctx context.Context, d *sql.DB) error {
	p, err := provider(d)
	if err != nil {
		return err
	}
	current, target, err := p.GetVersions(ctx)
	if err != nil {
		return err
	}
	if current > target {
		return fmt.Errorf("its tables are of version %d, and this program knows none after %d: it was written by a newer one", current, target)
	}
	_, err = p.Up(ctx)
	return err
}

// isUnavailable reports whether err is about the state of the machine, so that
// the same call may succeed later.
func isUnavailable(err error) bool {
	var e sqlite3.Error
	if !errors.As(err, &e) {
		return false
	}
	switch e.Code {
	case sqlite3.ErrBusy, sqlite3.ErrLocked, sqlite3.ErrFull, sqlite3.ErrIoErr,
		sqlite3.ErrReadonly, sqlite3.ErrCantOpen, sqlite3.ErrNomem:
		return true
	}
	return false
}
