package db

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
)

// Version returns the version of the tables in the database at path, and that of the
// tables that this program makes. It changes nothing, and may look beside a server.
// A database that is not there has version 0.
func Version(ctx context.Context, path string) (has, makes int64, err error) {
	if makes, err = latestMigration(); err != nil {
		return 0, 0, err
	}
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return 0, makes, nil
	}
	writer, reader, err := openSQLite(path)
	if err != nil {
		return 0, makes, fmt.Errorf("open registry database %s: %w", path, err)
	}
	defer func() { err = errors.Join(err, reader.Close(), writer.Close()) }()
	err = reader.QueryRowContext(ctx, "SELECT max(version_id) FROM goose_db_version WHERE is_applied").Scan(&has)
	if err != nil {
		return 0, makes, fmt.Errorf("registry database %s: it is not the registry of a server, or it cannot be read: %w", path, err)
	}
	return has, makes, nil
}

// latestMigration returns the version that the last of the migrations makes.
func latestMigration() (int64, error) {
	entries, err := fs.ReadDir(migrations, "migrations")
	if err != nil {
		return 0, err
	}
	var last int64
	for _, e := range entries {
		number, _, _ := strings.Cut(e.Name(), "_")
		n, err := strconv.ParseInt(number, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("migration %s has no number", e.Name())
		}
		last = max(last, n)
	}
	return last, nil
}
