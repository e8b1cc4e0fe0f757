package db_test

import (
	"os"
	"path/filepath"
	"testing"

	"nearsight/registry/db"
)

func TestVersion(t *testing.T) {
	path := filepath.Join(t.TempDir(), "registry.db")
	has, makes, err := db.Version(t.Context(), db.Options{Path: path})
	if err != nil || has != 0 || makes == 0 {
		t.Errorf("of no database: %d, %d, %v", has, makes, err)
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("looking made a database")
	}
	d, err := db.Open(t.Context(), db.Options{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	if has, makes, err := db.Version(t.Context(), db.Options{Path: path}); err != nil || has != makes {
		t.Errorf("beside a server: %d, %d, %v", has, makes, err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if has, makes, err := db.Version(t.Context(), db.Options{Path: path}); err != nil || has != makes {
		t.Errorf("afterwards: %d, %d, %v", has, makes, err)
	}
	if err := os.WriteFile(path, []byte("something else altogether"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := db.Version(t.Context(), db.Options{Path: path}); err == nil {
		t.Error("a file that is no database has a version")
	}
}

func TestVersionOfADatabaseOnAServer(t *testing.T) {
	o := db.Options{URL: db.PostgresURL(t, db.PostgresServer(t))}
	has, makes, err := db.Version(t.Context(), o)
	if err != nil || has != 0 || makes == 0 {
		t.Errorf("of no tables: %d, %d, %v", has, makes, err)
	}
	asIs := o
	asIs.AsIs = true
	if d, err := db.Open(t.Context(), asIs); err == nil {
		closeDB(t, d)
		t.Error("a database without tables was opened as it is")
	}
	d, err := db.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer closeDB(t, d)
	if has, makes, err := db.Version(t.Context(), o); err != nil || has != makes {
		t.Errorf("beside a server: %d, %d, %v", has, makes, err)
	}
	looking, err := db.Open(t.Context(), asIs)
	if err != nil {
		t.Fatal(err)
	}
	closeDB(t, looking)
}
