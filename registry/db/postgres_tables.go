package db

import (
	"context"
	"database/sql"
	"errors"
	"io"
	"io/fs"
	"strconv"
	"strings"

	"github.com/pressly/goose/v3"
)

func (*postgres) migrations(d *sql.DB) (*goose.Provider, error) {
	files, err := migrationFolder()
	if err != nil {
		return nil, err
	}
	return goose.NewProvider(goose.DialectPostgres, d, translated{files}, goose.WithDisableGlobalRegistry(true))
}

func (*postgres) version(ctx context.Context, d *sql.DB) (version int64, err error) {
	var made bool
	if err := d.QueryRowContext(ctx, "SELECT to_regclass('goose_db_version') IS NOT NULL").Scan(&made); err != nil || !made {
		return 0, err
	}
	err = d.QueryRowContext(ctx, versionQuery).Scan(&version)
	return version, err
}

// migrationLock is the first half of the key of the lock; the second is the schema.
const migrationLock = 0x6e656172 // "near"

func (*postgres) alone(ctx context.Context, d *sql.DB, f func() error) error {
	tx, err := d.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() // it holds the lock and does nothing else
	for _, statement := range []string{
		"SET LOCAL lock_timeout = 0",
		"SET LOCAL idle_in_transaction_session_timeout = 0",
		"SELECT pg_advisory_xact_lock(" + strconv.Itoa(migrationLock) + ", hashtext(current_schema()))",
	} {
		if _, err := tx.ExecContext(ctx, statement); err != nil {
			return err
		}
	}
	return f()
}

// translated is the migrations as PostgreSQL wants them.
type translated struct{ fs.FS }

var toPostgres = strings.NewReplacer(
	"BLOB", "BYTEA",
	// In the order of bytes, as everywhere else, whatever language the server speaks.
	" TEXT", ` TEXT COLLATE "C"`,
	// What is absent comes first.
	"images (name,", "images (name NULLS FIRST,",
	"images (size,", "images (size NULLS FIRST,",
	"hidden, name,", "hidden, name NULLS FIRST,",
	// A tree has no room for the longest URLs.
	"locations (url)", "locations USING HASH (url)",
)

// Open implements fs.FS.
func (t translated) Open(name string) (fs.File, error) {
	f, err := t.FS.Open(name)
	if err != nil || !strings.HasSuffix(name, ".sql") {
		return f, err
	}
	b, err := io.ReadAll(f)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return translatedFile{f, strings.NewReader(toPostgres.Replace(string(b)))}, nil
}

type translatedFile struct {
	fs.File
	text *strings.Reader
}

func (f translatedFile) Read(p []byte) (int, error) { return f.text.Read(p) }
