package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"

	"nearsight/origin"
	"nearsight/origin/guard"
	"nearsight/registry/db"
)

// openRegistry opens the registry of a server that may be running. It makes none
// and changes no table: a database of another version is an error.
func openRegistry(ctx context.Context, c Config) (*db.DB, error) {
	o := c.database()
	o.AsIs = true
	records, err := db.Open(ctx, o)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("there is no registry %s: --data or --config says where it is", o.Database())
	}
	return records, err
}

// openForCheck opens the stores of a server as they are. Directories are not made:
// one that is missing is a mistake, or a disk that is not mounted.
func openForCheck(ctx context.Context, c Config) (*origin.Set, error) {
	// Findings tell all that the log would.
	quiet := slog.New(slog.DiscardHandler)
	stores, _, err := openStores(ctx, c, true, guard.NewMetrics(prometheus.NewRegistry()), quiet)
	return stores, err
}
