package db

import (
	"context"
	"database/sql"
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/mattn/go-sqlite3"
	"github.com/pressly/goose/v3"
)

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

// sqlite is the dialect of a file that one process has open. Its one writer has the
// database to itself from the beginning of a transaction on.
type sqlite struct{}

func (sqlite) statement(s string) string { return s }

func (sqlite) look(ctx context.Context, reader *sql.DB) (*sql.Tx, error) {
	return reader.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
}

func (sqlite) begin(ctx context.Context, writer *sql.DB) (*sql.Tx, time.Time, error) {
	tx, err := writer.BeginTx(ctx, nil)
	return tx, time.Time{}, err
}

func (sqlite) tell(context.Context, *sql.Tx, int64) error { return nil }

func (sqlite) migrations(d *sql.DB) (*goose.Provider, error) {
	files, err := migrationFolder()
	if err != nil {
		return nil, err
	}
	return goose.NewProvider(goose.DialectSQLite3, d, files, goose.WithDisableGlobalRegistry(true))
}

func (sqlite) version(ctx context.Context, d *sql.DB) (version int64, err error) {
	err = d.QueryRowContext(ctx, versionQuery).Scan(&version)
	return version, err
}

func (sqlite) alone(_ context.Context, _ *sql.DB, f func() error) error { return f() }

func (sqlite) unavailable(err error) bool {
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

func (sqlite) lostRace(error) bool { return false }

func (sqlite) meaning(error) error { return nil }
