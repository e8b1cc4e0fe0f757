package db

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"

	"nearsight/registry"
)

// List implements registry.Reader: one query for the page, and one for the
// properties, tags, locations and members of up to 1000 images.
func (d *DB) List(ctx context.Context, q registry.Query) (images []*registry.Image, err error) {
	w, sets, keys, err := plan(q)
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	err = d.read(ctx, "list images", func(tx txn) error {
		sets, err := narrow(ctx, tx, w, sets, q)
		if err != nil {
			return err
		}
		if q.Marker != "" {
			visible := new(where)
			visible.inAny(shown(q.Caller, registry.AllVisibilities, registry.AllMemberStatuses))
			at, err := position(ctx, tx, "images", visible, keys, q.Marker)
			if err != nil {
				return err
			}
			after, args := afterMarker(keys, at)
			w.and(after, args...)
		}
		images, err = page(ctx, tx, w, sets, keys, q.Limit)
		return err
	})
	if err != nil {
		return nil, err
	}
	return images, nil
}

// page returns whole records, see pageQuery.
func page(ctx context.Context, tx txn, w *where, sets []set, keys []sortKey, limit int) ([]*registry.Image, error) {
	images, err := pageOfRows(ctx, tx, w, sets, keys, limit)
	if err != nil {
		return nil, err
	}
	return images, loadSets(ctx, tx, images)
}

func pageOfRows(ctx context.Context, tx txn, w *where, sets []set, keys []sortKey, limit int) ([]*registry.Image, error) {
	query, args := pageQuery(w, sets, keys, max(limit, 0))
	rows, err := tx.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	images := []*registry.Image{}
	for rows.Next() {
		img := new(registry.Image)
		if err := rows.Scan(dests(img)...); err != nil {
			return nil, err
		}
		images = append(images, img)
	}
	return images, rows.Err()
}

// A sortKey is one column of an order.
type sortKey struct {
	column   string
	desc     bool
	nullable bool
}

// imageKey says whether images are sorted by a column, and whether it may be NULL.
func imageKey(column string) (nullable, ok bool) {
	switch column {
	case "id", "status", "created_at", "updated_at":
		return false, true
	case "name", "container_format", "disk_format", "size":
		return true, true
	}
	return false, false
}

// sortKeys makes the order of a query total: it ends with the id. known says which
// columns there are to sort by.
func sortKeys(order []registry.Order, known func(column string) (nullable, ok bool)) ([]sortKey, error) {
	order = append(slices.Clip(order), registry.Order{Key: "created_at", Desc: true}, registry.Order{Key: "id", Desc: true})
	var keys []sortKey
	for _, o := range order {
		nullable, ok := known(o.Key)
		if !ok {
			return nil, fmt.Errorf("%w: no order by %.80q", registry.ErrInvalid, o.Key)
		}
		k := sortKey{column: o.Key, desc: o.Desc, nullable: nullable}
		if !slices.ContainsFunc(keys, func(have sortKey) bool { return have.column == k.column }) {
			keys = append(keys, k) // a second time it would decide nothing
		}
	}
	return keys, nil
}

// orderBy puts NULL below every value. SQLite does so unasked.
//
// Indexes have all their columns in one direction. So from the first key of another
// one on none can help, but SQLite would think so of those that begin with that key.
func orderBy(keys []sortKey) string {
	terms := make([]string, len(keys))
	turned := false
	for i, k := range keys {
		term := k.column
		if turned = turned || k.desc != keys[0].desc; turned {
			term = "COALESCE(" + k.column + ", NULL)" // what no index has
		}
		switch {
		case k.desc && k.nullable:
			term += " DESC NULLS LAST"
		case k.desc:
			term += " DESC"
		case k.nullable:
			term += " ASC NULLS FIRST"
		default:
			term += " ASC"
		}
		terms[i] = term
	}
	return strings.Join(terms, ", ")
}

// position returns the marker's values of the keys. ErrInvalid if no row of the
// table for which w holds has its id.
func position(ctx context.Context, tx txn, table string, w *where, keys []sortKey, marker string) ([]any, error) {
	names := make([]string, len(keys))
	at, dst := make([]any, len(keys)), make([]any, len(keys))
	for i, k := range keys {
		names[i], dst[i] = k.column, &at[i]
	}
	err := tx.QueryRowContext(ctx, "SELECT "+strings.Join(names, ", ")+" FROM "+table+w.String()+" AND id = ?",
		append(slices.Clip(w.args), marker)...).Scan(dst...)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, fmt.Errorf("%w: marker %.80q is not one of the %s", registry.ErrInvalid, marker, table)
	}
	return at, err
}

// afterMarker returns the condition that an image comes after the one with the
// values at. It is nested from the first key on, each key bounding the whole,
// because that is what lets an index find the place.
func afterMarker(keys []sortKey, at []any) (string, []any) {
	if len(keys) == 0 {
		return "FALSE", nil // equal in all keys: the marker itself
	}
	k, v := keys[0].column, at[0]
	rest, args := afterMarker(keys[1:], at[1:])
	switch {
	case v == nil && keys[0].desc: // nothing is below NULL
		return "(" + k + " IS NULL AND " + rest + ")", args
	case v == nil:
		return "(" + k + " IS NOT NULL OR " + rest + ")", args
	}
	args = append([]any{v, v}, args...)
	switch {
	case !keys[0].desc:
		return "(" + k + " >= ? AND (" + k + " > ? OR " + rest + "))", args
	case keys[0].nullable:
		return "(" + k + " IS NULL OR " + k + " <= ? AND (" + k + " < ? OR " + rest + "))", args
	}
	return "(" + k + " <= ? AND (" + k + " < ? OR " + rest + "))", args
}
