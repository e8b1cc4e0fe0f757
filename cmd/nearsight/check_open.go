package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/prometheus/client_golang/prometheus"

	"nearsight/origin"
	"nearsight/origin/guard"
	"nearsight/registry/db"
)

// openRegistry opens the registry of a server that may be running. It makes none
// and changes no table: a database of another version is an error.
func openRegistry(ctx context.Context, c Config) (*db.DB, error) {
	path := filepath.Join(c.Data, "registry.db")
	records, err := db.Open(ctx, db.Options{Path: path, AsIs: true})
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("there is no registry %s: --data or --config says where it is", path)
	}
	return records, err
}

// openForCheck opens the stores of a server. Directories are not made: one that is
// missing is a mistake, or a disk that is not mounted.
func openForCheck(ctx context.Context, c Config) (*origin.Set, error) {
	for name, s := range c.withImplied() {
		for _, text := range s.Dirs {
			dir, err := parseDir(text)
			if err != nil {
				return nil, fmt.Errorf("store %s: %w", name, err)
			}
			if st, err := os.Stat(dir.Path); err != nil {
				return nil, fmt.Errorf("store %s: %w", name, err)
			} else if !st.IsDir() {
				return nil, fmt.Errorf("store %s: %s is not a directory", name, dir.Path)
			}
		}
	}
	// Findings tell all that the log would.
	quiet := slog.New(slog.DiscardHandler)
	stores, _, err := openStores(ctx, c, guard.NewMetrics(prometheus.NewRegistry()), quiet)
	return stores, err
}
