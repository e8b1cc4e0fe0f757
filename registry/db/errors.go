package db

import (
	"context"
	"errors"
	"fmt"

	"nearsight/registry"
)

// A refusal is an error that is meant for the caller as it is.
type refusal struct{ error }

// fail says what was being done. Errors of the database become ours.
func (d *DB) fail(ctx context.Context, doing string, err error) error {
	var r refusal
	switch {
	case errors.As(err, &r):
		return r.error
	case isOurs(err):
		return fmt.Errorf("%s: %w", doing, err)
	case ctx.Err() != nil: // drivers say "interrupted", "conn closed", ...
		return fmt.Errorf("%s: %w", doing, ctx.Err())
	case d.dialect.unavailable(err):
		return fmt.Errorf("%s: %w: %s: %w", doing, registry.ErrUnavailable, d.name, err)
	}
	if ours := d.dialect.meaning(err); ours != nil {
		return fmt.Errorf("%s: %w", doing, ours)
	}
	return fmt.Errorf("%s: database %s: %w", doing, d.name, err)
}

func isOurs(err error) bool {
	for _, ours := range []error{
		registry.ErrNotFound, registry.ErrInvalid, registry.ErrForbidden,
		registry.ErrConflict, registry.ErrTooLarge, registry.ErrTooOld,
	} {
		if errors.Is(err, ours) {
			return true
		}
	}
	return false
}
