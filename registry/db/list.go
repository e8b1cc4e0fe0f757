package db

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"nearsight/registry"
)

// List implements registry.Reader: one query for the page, and one for the
// properties, tags and locations of up to 1000 images.
func (d *DB) List(ctx context.Context, q registry.Query) (images []*registry.Image, err error) {
	keys, err := sortKeys(q.Sort)
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	w, err := filter(q)
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	err = d.read(ctx, "list images", func(tx *sql.Tx) error {
		if q.Marker != "" {
			at, err := position(ctx, tx, keys, q.Marker)
			if err != nil {
				return err
			}
			after, args := afterMarker(keys, at)
			w.and(after, args...)
		}
		images, err = page(ctx, tx, w, keys, max(q.Limit, 0))
		if err != nil {
			return err
		}
		return loadSets(ctx, tx, images)
	})
	if err != nil {
		return nil, err
	}
	return images, nil
}

func page(ctx context.Context, tx *sql.Tx, w *where, keys []sortKey, limit int) ([]*registry.Image, error) {
	rows, err := tx.QueryContext(ctx, "SELECT id, "+columns+" FROM images"+w.String()+
		" ORDER BY "+orderBy(keys)+" LIMIT ?", append(w.args, limit)...)
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

// Bounds of a query, far below those of the databases (SQLite: an expression
// 1000 deep and 32766 values).
const (
	maxConditions = 500
	maxValues     = 10_000
)

// A where is a conjunction of conditions and the values for their placeholders.
type where struct {
	conditions []string
	args       []any
}

func (w *where) and(condition string, args ...any) {
	w.conditions = append(w.conditions, condition)
	w.args = append(w.args, args...)
}

func (w *where) String() string {
	if len(w.conditions) == 0 {
		return ""
	}
	return " WHERE " + strings.Join(w.conditions, " AND ")
}

// filter translates everything of q but its order and page.
func filter(q registry.Query) (*where, error) {
	w := new(where)
	for _, m := range q.Match {
		switch m.Column {
		case "id", "name", "status", "disk_format", "container_format", "owner", "checksum":
			in(w, m.Column, m.Values)
		case "os_hash_value":
			in(w, "hash_value", m.Values)
		default:
			return nil, fmt.Errorf("%w: no filter on %.80q", registry.ErrInvalid, m.Column)
		}
	}
	for _, b := range q.Bounds {
		switch b.Column {
		case "size", "virtual_size", "min_ram", "min_disk":
		default:
			return nil, fmt.Errorf("%w: no bounds on %.80q", registry.ErrInvalid, b.Column)
		}
		if b.Min != nil {
			w.and(b.Column+" >= ?", *b.Min)
		}
		if b.Max != nil {
			w.and(b.Column+" <= ?", *b.Max)
		}
	}
	for _, b := range q.Times {
		if err := timeBound(w, b); err != nil {
			return nil, err
		}
	}
	switch q.Visibility {
	case "":
		w.and("(visibility <> 'community' OR owner IS NULL)")
	case registry.AllVisibilities:
	default:
		w.and("visibility = ?", q.Visibility)
	}
	w.and("hidden = ?", q.Hidden != nil && *q.Hidden)
	if q.Protected != nil {
		w.and("protected = ?", *q.Protected)
	}
	for _, tag := range q.Tags {
		w.and("EXISTS (SELECT 1 FROM tags WHERE image_id = images.id AND tag = ?)", tag)
	}
	for name, value := range q.Properties {
		w.and("EXISTS (SELECT 1 FROM properties WHERE image_id = images.id AND name = ? AND value = ?)", name, value)
	}
	if len(q.Digests) > 0 {
		in(w, "digest", q.Digests)
	}
	if len(w.conditions) > maxConditions || len(w.args) > maxValues {
		return nil, fmt.Errorf("%w: the query has %d conditions with %d values, more than %d with %d",
			registry.ErrInvalid, len(w.conditions), len(w.args), maxConditions, maxValues)
	}
	return w, nil
}

// in adds that the column is one of values.
func in[S ~string](w *where, column string, values []S) {
	if len(values) == 0 {
		w.and("FALSE")
		return
	}
	args := make([]any, len(values))
	for i, v := range values {
		args[i] = string(v)
	}
	w.and(column+" IN ("+marks(len(args))+")", args...)
}

// timeBound compares whole seconds without computing on the column, so that an
// index helps: a second is the microseconds from one up to the next.
func timeBound(w *where, b registry.TimeBound) error {
	if b.Column != "created_at" && b.Column != "updated_at" {
		return fmt.Errorf("%w: no bounds on %.80q", registry.ErrInvalid, b.Column)
	}
	// Within what microseconds of 64 bits can express.
	second := min(max(b.Time.Unix(), -1<<43), 1<<43)
	from, to := second*int64(time.Second/time.Microsecond), (second+1)*int64(time.Second/time.Microsecond)
	switch b.Op {
	case "gt":
		w.and(b.Column+" >= ?", to)
	case "gte":
		w.and(b.Column+" >= ?", from)
	case "lt":
		w.and(b.Column+" < ?", from)
	case "lte":
		w.and(b.Column+" < ?", to)
	case "eq":
		w.and("("+b.Column+" >= ? AND "+b.Column+" < ?)", from, to)
	case "neq":
		w.and("("+b.Column+" < ? OR "+b.Column+" >= ?)", from, to)
	default:
		return fmt.Errorf("%w: no operator %.80q on times", registry.ErrInvalid, b.Op)
	}
	return nil
}

// A sortKey is one column of an order.
type sortKey struct {
	column   string
	desc     bool
	nullable bool
}

// sortKeys makes the order of a query total: it ends with the id.
func sortKeys(order []registry.Order) ([]sortKey, error) {
	order = append(slices.Clip(order), registry.Order{Key: "created_at", Desc: true}, registry.Order{Key: "id", Desc: true})
	var keys []sortKey
	for _, o := range order {
		k := sortKey{column: o.Key, desc: o.Desc}
		switch o.Key {
		case "id", "status", "created_at", "updated_at":
		case "name", "container_format", "disk_format", "size":
			k.nullable = true
		default:
			return nil, fmt.Errorf("%w: no order by %.80q", registry.ErrInvalid, o.Key)
		}
		if !slices.ContainsFunc(keys, func(have sortKey) bool { return have.column == k.column }) {
			keys = append(keys, k) // a second time it would decide nothing
		}
	}
	return keys, nil
}

// orderBy puts NULL below every value. SQLite does so unasked.
func orderBy(keys []sortKey) string {
	terms := make([]string, len(keys))
	for i, k := range keys {
		switch {
		case k.desc && k.nullable:
			terms[i] = k.column + " DESC NULLS LAST"
		case k.desc:
			terms[i] = k.column + " DESC"
		case k.nullable:
			terms[i] = k.column + " ASC NULLS FIRST"
		default:
			terms[i] = k.column + " ASC"
		}
	}
	return strings.Join(terms, ", ")
}

// position returns the marker's values of the keys.
func position(ctx context.Context, tx *sql.Tx, keys []sortKey, marker string) ([]any, error) {
	names := make([]string, len(keys))
	at, dst := make([]any, len(keys)), make([]any, len(keys))
	for i, k := range keys {
		names[i], dst[i] = k.column, &at[i]
	}
	err := tx.QueryRowContext(ctx, "SELECT "+strings.Join(names, ", ")+" FROM images WHERE id = ?", marker).Scan(dst...)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, fmt.Errorf("%w: marker %.80q names no image", registry.ErrInvalid, marker)
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
