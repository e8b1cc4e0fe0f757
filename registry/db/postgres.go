package db

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"golang.org/x/sys/unix"
)

const (
	// Changes wait for each other in the database: more than a few at a time would
	// only hold connections.
	postgresWriters = 4
	postgresReaders = 16
	// connectTimeout bounds a connection to each host of the URL, unless it says another.
	connectTimeout = 5 * time.Second
	// silence is how long a server may leave what was sent to it unacknowledged before
	// the connection counts as lost. Without a bound that takes a quarter of an hour.
	silence = 10 * time.Second
	// channel is where revisions are told of.
	channel = "nearsight_events"
)

// postgres is the dialect of a server that several processes share. The row of the
// table counter is a lock that every change takes first: so changes never overlap, see
// what was committed before, and commit in the order of their revisions.
type postgres struct{ config *pgx.ConnConfig }

// openPostgres opens the database at a URL. It does not connect.
func openPostgres(at string) (p *postgres, writer, reader *sql.DB, err error) {
	config, err := postgresConfig(at)
	if err != nil {
		return nil, nil, nil, err
	}
	open := func(most int) *sql.DB {
		pool := stdlib.OpenDB(*config)
		pool.SetMaxOpenConns(most)
		pool.SetMaxIdleConns(most)
		pool.SetConnMaxIdleTime(5 * time.Minute)
		// So that after a failover none stays for ever with the server of before.
		pool.SetConnMaxLifetime(30 * time.Minute)
		return pool
	}
	return &postgres{config}, open(postgresWriters), open(postgresReaders), nil
}

// isPostgres reports whether a URL is of PostgreSQL.
func isPostgres(at string) bool {
	return strings.HasPrefix(at, "postgres://") || strings.HasPrefix(at, "postgresql://")
}

// withoutCredentials returns what a URL of PostgreSQL leaves to show.
func withoutCredentials(at string) string {
	u, err := url.Parse(at)
	if err != nil || !isPostgres(at) {
		return "of a malformed URL"
	}
	return "postgres://" + u.Host + u.EscapedPath()
}

func postgresConfig(at string) (*pgx.ConnConfig, error) {
	u, err := url.Parse(at)
	if err != nil || !isPostgres(at) { // the error would show the password
		return nil, errors.New("its URL is not like postgres://user:password@host:5432/database")
	}
	config, err := pgx.ParseConfig(at)
	if err != nil {
		return nil, fmt.Errorf("its URL cannot be used: %s", parseReason(err, u))
	}
	says := func(parameter string) bool { return u.Query().Has(parameter) }
	if !says("connect_timeout") {
		config.ConnectTimeout = connectTimeout
	}
	if !says("target_session_attrs") { // of several hosts the one that takes writes
		config.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsReadWrite
	}
	for name, value := range map[string]string{
		"application_name": "nearsight",
		// An acknowledged change is never lost, whatever the server's default is.
		"synchronous_commit": "on",
		// A process that was cut off or stopped in the middle of a change keeps
		// nobody from the next.
		"idle_in_transaction_session_timeout": "10s",
		"lock_timeout":                        "10s",
	} {
		if !says(name) {
			config.RuntimeParams[name] = value
		}
	}
	dialer := &net.Dialer{
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: silence / 2, Interval: silence / 4, Count: 2},
		Control:         boundSilence,
	}
	config.DialFunc = dialer.DialContext
	return config, nil
}

// parseReason returns what is wrong with a URL that can be parsed as such, without the
// URL itself.
func parseReason(err error, u *url.URL) string {
	text := err.Error()
	if i := strings.LastIndex(text, "`: "); i >= 0 {
		text = text[i+len("`: "):]
	}
	secrets := u.Query()["password"]
	if password, ok := u.User.Password(); ok {
		secrets = append(secrets, password)
	}
	for _, secret := range secrets {
		if secret != "" && strings.Contains(text, secret) {
			return "a part of it is malformed"
		}
	}
	return text
}

// boundSilence is a net.Dialer's Control.
func boundSilence(network, _ string, c syscall.RawConn) error {
	if !strings.HasPrefix(network, "tcp") {
		return nil
	}
	var failed error
	err := c.Control(func(fd uintptr) {
		failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(silence.Milliseconds()))
	})
	return errors.Join(err, failed)
}

// statement numbers the placeholders. No statement has a question mark elsewhere.
func (*postgres) statement(s string) string {
	var b strings.Builder
	b.Grow(len(s) + 2*strings.Count(s, "?"))
	for n := 1; ; n++ {
		i := strings.IndexByte(s, '?')
		if i < 0 {
			b.WriteString(s)
			return b.String()
		}
		b.WriteString(s[:i])
		b.WriteByte('$')
		b.WriteString(strconv.Itoa(n))
		s = s[i+1:]
	}
}

func (*postgres) look(ctx context.Context, reader *sql.DB) (tx *sql.Tx, err error) {
	err = anew(ctx, reader, postgresReaders, func() error {
		tx, err = reader.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true})
		return err
	})
	return tx, err
}

func (*postgres) begin(ctx context.Context, writer *sql.DB) (tx *sql.Tx, at time.Time, err error) {
	err = anew(ctx, writer, postgresWriters, func() error {
		tx, at, err = lockCounter(ctx, writer)
		return err
	})
	return tx, at, err
}

// lockCounter begins a transaction, and has it to itself once it returns. Its
// statements see what the one before committed, because each sees what is committed
// when it begins (READ COMMITTED). The time is the server's, so that all processes
// have the same one, and is told when the lock is held.
func lockCounter(ctx context.Context, writer *sql.DB) (*sql.Tx, time.Time, error) {
	tx, err := writer.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelReadCommitted})
	if err != nil {
		return nil, time.Time{}, err
	}
	var at time.Time
	err = tx.QueryRowContext(ctx, `SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000000 AS BIGINT)
		FROM (SELECT revision FROM counter FOR UPDATE) AS held`).Scan(micros{&at})
	if err != nil {
		return nil, time.Time{}, errors.Join(err, rollback(tx))
	}
	return tx, at, nil
}

// rollback ends a transaction that did nothing.
func rollback(tx *sql.Tx) error {
	if err := tx.Rollback(); err != nil && !errors.Is(err, sql.ErrTxDone) && !isLost(err) {
		return err
	}
	return nil
}

// anew begins something, and once more if the connection for it was lost: those of a
// pool are all lost when the server was restarted, and are thrown away then.
func anew(ctx context.Context, pool *sql.DB, most int, begin func() error) error {
	err := begin()
	if err == nil || ctx.Err() != nil || !isLost(err) {
		return err
	}
	pool.SetMaxIdleConns(0)
	pool.SetMaxIdleConns(most)
	return begin()
}

func (*postgres) tell(ctx context.Context, tx *sql.Tx, revision int64) error {
	// The channel is the database's, and the tables are those of a schema.
	_, err := tx.ExecContext(ctx, "SELECT pg_notify($1, current_schema() || ' ' || $2)", channel, strconv.FormatInt(revision, 10))
	return err
}
