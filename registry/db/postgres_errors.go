package db

import (
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"nearsight/registry"
)

// stateOf returns the SQLSTATE of what the server said (PostgreSQL, appendix A), "" if
// err is of another kind.
func stateOf(err error) string {
	var e *pgconn.PgError
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}

// isLost reports whether a connection is lost, or could not be made.
func isLost(err error) bool {
	switch state := stateOf(err); {
	case strings.HasPrefix(state, "08"), // connection exceptions
		strings.HasPrefix(state, "57P"), // the server is being stopped or started
		state == "25P03":                // idle in a transaction for too long
		return true
	}
	var connect *pgconn.ConnectError
	var network net.Error
	if errors.As(err, &connect) || errors.As(err, &network) {
		return true
	}
	for _, end := range []error{io.EOF, io.ErrUnexpectedEOF, net.ErrClosed, pgconn.ErrConnClosed, driver.ErrBadConn, sql.ErrConnDone} {
		if errors.Is(err, end) {
			return true
		}
	}
	return false
}

func (p *postgres) unavailable(err error) bool {
	state := stateOf(err)
	for _, class := range []string{
		"53",    // out of disk, memory or connections
		"57",    // told to stop
		"58",    // its system failed
		"25006", // it takes no writes: not the primary any more
		"55P03", // a lock was not to be had in time
	} {
		if strings.HasPrefix(state, class) {
			return true
		}
	}
	return isLost(err) || p.lostRace(err)
}

func (*postgres) lostRace(err error) bool {
	state := stateOf(err)
	return state == "40001" || state == "40P01" // serialization failure, deadlock
}

func (*postgres) meaning(err error) error {
	switch stateOf(err) {
	case "22021", "22P05":
		return fmt.Errorf("%w: a text is not UTF-8, or has a NUL character", registry.ErrInvalid)
	case "54000":
		return fmt.Errorf("%w: a text is too long to be looked up", registry.ErrTooLarge)
	}
	return nil
}
