package db

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// Version returns the version of the tables in a database, and that of the tables that
// this program makes. It changes nothing, and may look beside a server. A database
// without tables has version 0, and so has a file that is not there.
func Version(ctx context.Context, o Options) (has, makes int64, err error) {
	if makes, err = latestMigration(); err != nil {
		return 0, 0, err
	}
	if o.URL == "" {
		if _, err := os.Stat(o.Path); errors.Is(err, fs.ErrNotExist) {
			return 0, makes, nil
		}
	}
	d := &DB{name: o.Database()}
	if err := d.connect(o); err != nil {
		return 0, makes, fmt.Errorf("open registry database %s: %w", d.name, err)
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	if has, err = d.dialect.version(ctx, d.reader); err != nil {
		return 0, makes, fmt.Errorf("registry database %s: it is not the registry of a server, or it cannot be read: %w", d.name, err)
	}
	return has, makes, nil
}
