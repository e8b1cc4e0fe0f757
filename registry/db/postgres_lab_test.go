package db

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// PostgresServer returns the URL of a database on the server that the tests use.
func PostgresServer(tb testing.TB) string {
	tb.Helper()
	at := os.Getenv("POSTGRES_DSN")
	if at == "" {
		tb.Fatal("POSTGRES_DSN is not set: deploy/lab/postgres.sh start prints it")
	}
	return at
}

// PostgresURL returns the URL of an empty schema of the database at a URL, which goes
// with the test.
func PostgresURL(tb testing.TB, server string) string {
	tb.Helper()
	schema := "test_" + strings.ReplaceAll(uuid.NewString(), "-", "")
	PostgresExec(tb, server, "CREATE SCHEMA "+schema)
	tb.Cleanup(func() { PostgresExec(tb, server, "DROP SCHEMA "+schema+" CASCADE") })
	return with(tb, server, func(u *url.URL) {
		q := u.Query()
		q.Set("search_path", schema)
		u.RawQuery = q.Encode()
	})
}

// PostgresDatabase returns the URL of an empty database beside that at a URL, which
// sorts as Americans do. It goes with the test.
func PostgresDatabase(tb testing.TB, server string) string {
	tb.Helper()
	name := "test_" + strings.ReplaceAll(uuid.NewString(), "-", "")
	PostgresExec(tb, server, fmt.Sprintf("CREATE DATABASE %s TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'en-US'", name))
	tb.Cleanup(func() { PostgresExec(tb, server, fmt.Sprintf("DROP DATABASE %s WITH (FORCE)", name)) })
	return with(tb, server, func(u *url.URL) { u.Path = "/" + name })
}

// with returns a URL that was changed.
func with(tb testing.TB, at string, change func(*url.URL)) string {
	tb.Helper()
	u, err := url.Parse(at)
	if err != nil {
		tb.Fatal("the URL of the server is malformed")
	}
	change(u)
	return u.String()
}

// PostgresExec runs a statement on a connection of its own.
func PostgresExec(tb testing.TB, at, statement string) {
	tb.Helper()
	ctx := context.Background() // cleanups use it
	conn, err := pgx.Connect(ctx, at)
	if err != nil {
		tb.Fatal(err)
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, statement); err != nil {
		tb.Fatalf("%s: %v", statement, err)
	}
}
