package db

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"nearsight/registry"
)

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

// with returns w and one condition more; w is left alone.
func (w *where) with(condition string, args ...any) *where {
	all := &where{slices.Clip(w.conditions), slices.Clip(w.args)}
	all.and(condition, args...)
	return all
}

// filter translates everything of q but whom it is for, its order and page.
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

// isNarrow reports whether the filters of q find few images by an index of their
// own.
func isNarrow(q registry.Query) bool {
	for _, m := range q.Match {
		switch m.Column {
		case "id", "name", "owner", "checksum", "os_hash_value":
			return true
		}
	}
	return len(q.Digests) > 0
}

// isIndexed reports whether an index finds a set of images in this order.
func isIndexed(keys []sortKey) bool {
	return keys[0].column == "created_at" || keys[0].column == "name"
}

// plan translates q but for its page: which images, of which sets, in what order.
func plan(q registry.Query) (w *where, sets []set, keys []sortKey, err error) {
	if keys, err = sortKeys(q.Sort, imageKey); err != nil {
		return nil, nil, nil, err
	}
	if w, err = filter(q); err != nil {
		return nil, nil, nil, err
	}
	sets = shown(q.Caller, q.Visibility, q.MemberStatus)
	if isNarrow(q) || !isIndexed(keys) {
		w.inAny(sets)
		sets = everything()
	}
	return w, sets, keys, nil
}

// few images are sorted sooner than they are found among many in order.
const few = 1000

// narrow has the page begin with the images of a tag or property of q that few
// have. Those that many have are better looked for in the order of the page.
func narrow(ctx context.Context, tx txn, w *where, sets []set, q registry.Query) ([]set, error) {
	var rare []set
	for _, tag := range q.Tags {
		rare = append(rare, set{"tags WHERE tag = ?", []any{tag}})
	}
	for name, value := range q.Properties {
		rare = append(rare, set{"properties WHERE name = ? AND substr(value, 1, 64) = substr(?, 1, 64)", []any{name, value}})
	}
	for _, r := range rare {
		var n int
		err := tx.QueryRowContext(ctx, "SELECT COUNT(*) FROM (SELECT 1 FROM "+r.condition+" LIMIT ?) AS part", append(r.args, few+1)...).Scan(&n)
		if err != nil {
			return nil, err
		}
		if n <= few {
			w.inAny(sets)
			w.and("id IN (SELECT image_id FROM "+r.condition+")", r.args...)
			return everything(), nil
		}
	}
	return sets, nil
}
