package main

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// emptySchema returns the URL of a PostgreSQL database without tables, and its
// password. It goes with the test.
func emptySchema(t *testing.T) (at, password string) {
	t.Helper()
	server, err := fromLab("postgres", "POSTGRES_DSN")
	if err != nil {
		t.Fatal(err)
	}
	schema := fmt.Sprintf("cmd_%d", time.Now().UnixNano())
	execute := func(statement string) {
		conn, err := pgx.Connect(context.Background(), server)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(context.Background())
		if _, err := conn.Exec(context.Background(), statement); err != nil {
			t.Fatal(err)
		}
	}
	execute("CREATE SCHEMA " + schema)
	t.Cleanup(func() { execute("DROP SCHEMA " + schema + " CASCADE") })
	u, err := url.Parse(server)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	q.Set("search_path", schema)
	u.RawQuery = q.Encode()
	password, _ = u.User.Password()
	return u.String(), password
}

// TestTablesOnAServerAreMigrated: by its URL, which nothing shows the password of.
func TestTablesOnAServerAreMigrated(t *testing.T) {
	at, password := emptySchema(t)
	t.Setenv("NEARSIGHT_DATABASE_URL", at)
	t.Chdir(t.TempDir())
	if err := os.MkdirAll("nearsight-data/images", 0o700); err != nil { // for check
		t.Fatal(err)
	}
	for _, tt := range []struct {
		line string
		code int
		want string
	}{
		{"migrate version", 1, "there is no registry"},
		{"migrate upgrade", 0, "were of version 0 and are of version"},
		{"migrate version --json", 0, `"current": true`},
		{"migrate upgrade", 0, "postgres://127.0.0.1:"},
		{"migrate downgrade 1", 1, "pg_dump"},
		{"check", 0, ""},
	} {
		var out strings.Builder
		root := newRoot()
		root.SetOut(&out)
		root.SetErr(&out)
		root.SetArgs(strings.Fields(tt.line))
		err := root.ExecuteContext(t.Context())
		text := fmt.Sprint(out.String(), err)
		if exitCode(err) != tt.code || !strings.Contains(text, tt.want) || strings.Contains(text, password) {
			t.Errorf("%s: %d, %s; want %d, %q", tt.line, exitCode(err), text, tt.code, tt.want)
		}
	}
}
