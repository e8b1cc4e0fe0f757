package db

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"nearsight/origin"
	"nearsight/registry"
)

// openAt opens the database of a URL.
func openAt(tb testing.TB, o Options) *DB {
	tb.Helper()
	d, err := Open(context.Background(), o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := d.Close(); err != nil {
			tb.Errorf("close: %v", err)
		}
	})
	return d
}

func openPostgresTemp(tb testing.TB) *DB {
	tb.Helper()
	return openAt(tb, Options{URL: PostgresURL(tb, PostgresServer(tb))})
}

func TestStatementsGetNumbers(t *testing.T) {
	for _, tt := range []struct{ statement, want string }{
		{"", ""},
		{"SELECT 1", "SELECT 1"},
		{"SELECT ?", "SELECT $1"},
		{"?, ?", "$1, $2"},
		{marks(11), "$1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11"},
	} {
		if got := (*postgres)(nil).statement(tt.statement); got != tt.want {
			t.Errorf("%q became %q, want %q", tt.statement, got, tt.want)
		}
	}
}

// TestWhatIsShownOfADatabaseHasNoCredentials: nor has any error.
func TestWhatIsShownOfADatabaseHasNoCredentials(t *testing.T) {
	at := PostgresServer(t)
	wrong := func(change func(*url.URL)) string {
		return with(t, at, func(u *url.URL) {
			u.User = url.UserPassword(u.User.Username(), "hush")
			change(u)
		})
	}
	for _, tt := range []struct{ name, url string }{
		{"a wrong password", wrong(func(*url.URL) {})},
		{"a wrong password among the parameters", with(t, at, func(u *url.URL) {
			u.User = nil
			u.RawQuery = "user=nearsight&password=hush"
		})},
		{"a database that is not there", wrong(func(u *url.URL) { u.Path = "/none" })},
		{"a server that is not there", "postgres://u:hush@127.0.0.1:1/d"},
		{"an impossible port", "postgres://u:hush@h:port/d"},
		{"an impossible host", "postgres://u:hush@h[/d"},
		{"an impossible escape", "postgres://u:hush%zz@h/d"},
		{"a control character", "postgres://u:hush\x01@h/d"},
		{"an impossible parameter", "postgres://u:hush@h/d?sslmode=hush"},
		{"an impossible timeout", "postgres://u:hush@h/d?connect_timeout=hush"},
		{"another kind of URL", "mysql://u:hush@h/d"},
		{"words", "host=h password=hush"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d, err := Open(t.Context(), Options{URL: tt.url})
			if err == nil {
				d.Close()
				t.Fatal("no error")
			}
			_, _, versionErr := Version(t.Context(), Options{URL: tt.url})
			if versionErr == nil {
				t.Error("it has a version")
			}
			for _, text := range []string{err.Error(), fmt.Sprint(versionErr), Options{URL: tt.url}.Database()} {
				if strings.Contains(text, "hush") {
					t.Errorf("%q shows the password", text)
				}
			}
		})
	}
	if got := (Options{URL: "postgres://u:hush@h:1/d?password=x"}).Database(); got != "postgres://h:1/d" {
		t.Errorf("database %q", got)
	}
}

func TestAServerThatIsGoneIsUnavailable(t *testing.T) {
	d := openPostgresTemp(t)
	d.writer.Close()
	d.reader.Close()
	at := with(t, PostgresServer(t), func(u *url.URL) { u.Host = "127.0.0.1:1" })
	var err error
	if _, d.writer, d.reader, err = openPostgres(at); err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	_, get := d.Get(ctx, "x")
	_, create := d.Create(ctx, &registry.Image{})
	for _, err := range []error{get, create, d.Delete(ctx, "x", nil)} {
		if !errors.Is(err, registry.ErrUnavailable) {
			t.Errorf("error %v", err)
		}
	}
}

// TestConnectionsThatWereCutAreMadeAgain: all of them at once, as by a restart.
func TestConnectionsThatWereCutAreMadeAgain(t *testing.T) {
	server := PostgresServer(t)
	at := PostgresURL(t, server)
	name := fmt.Sprintf("cut%d", time.Now().UnixNano())
	d := openAt(t, Options{URL: with(t, at, func(u *url.URL) {
		q := u.Query()
		q.Set("application_name", name)
		u.RawQuery = q.Encode()
	})})
	ctx := t.Context()
	for range 10 {
		img, err := d.Create(ctx, &registry.Image{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := d.Get(ctx, img.ID); err != nil {
			t.Fatal(err)
		}
		PostgresExec(t, server, fmt.Sprintf("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = '%s'", name))
	}
}

// TestAProcessThatStandsStillKeepsNobodyElse: one that holds the lock and was cut off.
func TestAProcessThatStandsStillKeepsNobodyElse(t *testing.T) {
	at := PostgresURL(t, PostgresServer(t))
	slow := openAt(t, Options{URL: at + "&idle_in_transaction_session_timeout=300ms"})
	d := openAt(t, Options{URL: at})
	ctx := t.Context()
	id := createDraft(t, d)
	begun, stopped := make(chan struct{}), make(chan error, 1)
	free := make(chan struct{})
	go func() {
		_, err := slow.Update(ctx, id, func(img *registry.Image) error {
			close(begun)
			<-free
			img.MinRAM = 1
			return nil
		})
		stopped <- err
	}()
	<-begun
	if _, err := d.Update(ctx, id, func(img *registry.Image) error { img.MinDisk = 2; return nil }); err != nil {
		t.Error(err)
	}
	close(free)
	if err := <-stopped; !errors.Is(err, registry.ErrUnavailable) {
		t.Errorf("error %v", err)
	}
	if img, err := slow.Get(ctx, id); err != nil || img.MinRAM != 0 || img.MinDisk != 2 || img.Revision != 2 {
		t.Errorf("image %+v, %v", img, err)
	}
}

func TestAChangeThatLosesIsMadeAgain(t *testing.T) {
	d := openPostgresTemp(t)
	ctx := t.Context()
	for _, tt := range []struct {
		state     string
		fails     int
		calls     int
		want      error
		made      bool
		unwrapped bool
	}{
		{state: "40001", fails: 2, calls: 3, made: true},
		{state: "40P01", fails: 4, calls: 5, made: true},
		{state: "40001", fails: 9, calls: 5, want: registry.ErrUnavailable},
		{state: "53100", fails: 9, calls: 1, want: registry.ErrUnavailable},
		{state: "22021", fails: 9, calls: 1, want: registry.ErrInvalid},
		{state: "54000", fails: 9, calls: 1, want: registry.ErrTooLarge},
	} {
		before, err := d.Revision(ctx)
		if err != nil {
			t.Fatal(err)
		}
		calls := 0
		err = d.write(ctx, "try", func(c *change) error {
			if _, err := c.event(ctx, "x", registry.EventUpdate, ""); err != nil {
				return err
			}
			if calls++; calls <= tt.fails {
				return &pgconn.PgError{Code: tt.state}
			}
			return nil
		})
		if calls != tt.calls || !errors.Is(err, tt.want) || (err == nil) != tt.made {
			t.Errorf("%s: %d calls, %v", tt.state, calls, err)
		}
		if after, err := d.Revision(ctx); err != nil || after != before+map[bool]int64{true: 1}[tt.made] {
			t.Errorf("%s: revision %d after %d, %v", tt.state, after, before, err)
		}
	}
}

// TestTheTimeOfAChangeIsTheServers: so that leases of several processes compare.
func TestTheTimeOfAChangeIsTheServers(t *testing.T) {
	d := openPostgresTemp(t)
	d.now = func() time.Time { return time.Date(2001, 1, 1, 0, 0, 0, 0, time.UTC) }
	img, err := d.Create(t.Context(), &registry.Image{})
	if err != nil {
		t.Fatal(err)
	}
	if age := time.Since(img.CreatedAt); age < -time.Hour || age > time.Hour {
		t.Errorf("created at %v", img.CreatedAt)
	}
}

func TestLocationsMayBeLong(t *testing.T) {
	d := openPostgresTemp(t)
	ctx := t.Context()
	var b strings.Builder
	for n := range 6000 { // nothing that could be compressed
		b.WriteString(fmt.Sprintf("%x", n*n*2654435761%1e9))
	}
	long := origin.Location{URL: "https://h/" + b.String()}
	for range 2 {
		id := createDraft(t, d)
		if _, err := d.AddLocation(ctx, id, long, 4, nil); err != nil {
			t.Fatal(err)
		}
		if known, err := d.Knows(ctx, long.URL); err != nil || !known {
			t.Errorf("known %v, %v", known, err)
		}
	}
	img, err := d.AddLocation(ctx, createDraft(t, d), origin.Location{URL: "https://h/1"}, 4, nil)
	if err != nil {
		t.Fatal(err)
	}
	ours := origin.Location{URL: "file://s/" + b.String()}
	if err := d.BeginCopy(ctx, img.ID, ours); !errors.Is(err, registry.ErrTooLarge) {
		t.Errorf("error %v", err)
	}
}

// TestPagesAreFoundByAnIndexOnPostgreSQL looks at the plans of the lists that clients
// ask for, among as many images as make a scan dear.
func TestPagesAreFoundByAnIndexOnPostgreSQL(t *testing.T) {
	d := openPostgresTemp(t)
	ctx := t.Context()
	fillWith(t, d, 5000, manyImage)
	if _, err := d.writer.ExecContext(ctx, "ANALYZE"); err != nil {
		t.Fatal(err)
	}
	project := &registry.Caller{Project: "p7", Roles: []string{"member"}}
	for _, tt := range []struct {
		name   string
		q      registry.Query
		marker []any
		want   string
	}{
		{"the default order", registry.Query{}, nil, "Index Scan Backward using images_created"},
		{"the default order after a marker", registry.Query{}, []any{time.Now().UnixMicro(), "x"}, "images_created"},
		{"by name", registry.Query{Sort: []registry.Order{{Key: "name", Desc: true}}}, nil, "Index Scan Backward using images_name"},
		{"by size", registry.Query{Sort: []registry.Order{{Key: "size", Desc: true}}}, nil, "Index Scan Backward using images_size"},
		{"of a project", registry.Query{Caller: project}, nil, "images_owner"},
		{"of a project by name", registry.Query{Caller: project, Sort: []registry.Order{{Key: "name"}}}, nil, "images_owner_name"},
		{"of a checksum", registry.Query{Match: []registry.Match{{Column: "checksum", Values: []string{"x"}}}}, nil, "images_checksum"},
		{"of a rare property", registry.Query{Properties: map[string]string{"rare": "17"}}, nil, "properties_value"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			plan := explainOn(t, d, tt.q, tt.marker)
			// The images of a page that is found by its sets are few, and so are all here.
			if !strings.Contains(plan, tt.want) || strings.Contains(plan, "Seq Scan on images images_") ||
				tt.q.Caller == nil && strings.Contains(plan, "Seq Scan on images") {
				t.Errorf("plan:\n%s", plan)
			}
		})
	}
}

// explainOn is explain for PostgreSQL.
func explainOn(t *testing.T, d *DB, q registry.Query, marker []any) string {
	t.Helper()
	query, args := pageOf(t, d, q, marker)
	rows, err := d.reader.QueryContext(t.Context(), "EXPLAIN "+d.dialect.statement(query), args...)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var plan strings.Builder
	for rows.Next() {
		var line string
		if err := rows.Scan(&line); err != nil {
			t.Fatal(err)
		}
		plan.WriteString(line + "\n")
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return plan.String()
}
