package db

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"

	"nearsight/registry"
)

// taskColumns are those of the table tasks that everybody may read, in the order of
// taskDests.
const taskColumns = `id, type, status, owner, user_id, image_id, request_id, input, result, message,
	attempts, created_at, updated_at, expires_at`

func taskDests(t *registry.Task) []any {
	return []any{
		&t.ID, &t.Type, &t.Status, &t.Owner, &t.User, &t.ImageID, &t.RequestID,
		object{&t.Input}, object{&t.Result}, &t.Message,
		&t.Attempts, micros{&t.CreatedAt}, micros{&t.UpdatedAt}, micros{&t.ExpiresAt},
	}
}

// object scans the text of a JSON object, nil for ”.
type object struct{ o *json.RawMessage }

func (o object) Scan(v any) error {
	var s string
	if err := (text[string]{&s}).Scan(v); err != nil {
		return err
	}
	*o.o = nil
	if s != "" {
		*o.o = json.RawMessage(s)
	}
	return nil
}

// AddTask implements registry.Tasks. ErrInvalid for a malformed id, input or
// result; ErrConflict also if the id is taken, or if begin moves an image from
// uploading whose data is not all there. Tasks that are expired it deletes.
func (d *DB) AddTask(ctx context.Context, t *registry.Task, begin func(*registry.Image) error) (*registry.Task, error) {
	next := *t
	if next.ID == "" {
		next.ID = uuid.NewString()
	}
	doing := fmt.Sprintf("add task %.80q", next.ID)
	if err := checkTask(&next); err != nil {
		return nil, fmt.Errorf("%s: %w", doing, err)
	}
	next.Status, next.Attempts, next.ExpiresAt = registry.TaskPending, 0, time.Time{}
	next.Message, next.RequestID = toText(next.Message), toText(next.RequestID)
	err := d.write(ctx, doing, func(c *change) error {
		if _, err := c.ExecContext(ctx, "DELETE FROM tasks WHERE expires_at <= ?", toMicros(c.at)); err != nil {
			return err
		}
		if err := c.mayAddTask(ctx, &next); err != nil {
			return err
		}
		if begin != nil || next.ImageID != "" {
			if err := d.beginTask(ctx, c, next.ImageID, begin); err != nil {
				return err
			}
		}
		next.CreatedAt, next.UpdatedAt = c.at, c.at
		_, err := c.ExecContext(ctx, `INSERT INTO tasks (id, type, status, owner, user_id, image_id, request_id, input, result, message,
			secret, attempts, holder, created_at, updated_at) VALUES (`+marks(15)+")",
			next.ID, next.Type, next.Status, next.Owner, next.User, next.ImageID, next.RequestID, string(next.Input), string(next.Result),
			next.Message, next.Secret, 0, "", toMicros(c.at), toMicros(c.at))
		return err
	})
	if err != nil {
		return nil, err
	}
	next.Secret = ""
	return &next, nil
}

func checkTask(t *registry.Task) error {
	if !registry.ValidID(t.ID) {
		return fmt.Errorf("%w: id %.80q is not a UUID", registry.ErrInvalid, t.ID)
	}
	if err := checkObject("input", t.Input); err != nil {
		return err
	}
	return checkObject("result", t.Result)
}

func checkObject(field string, o json.RawMessage) error {
	var fields map[string]json.RawMessage
	if len(o) > 0 && (json.Unmarshal(o, &fields) != nil || fields == nil || !utf8.Valid(o)) {
		return fmt.Errorf("%w: the %s of the task is no JSON object", registry.ErrInvalid, field)
	}
	return nil
}

// mayAddTask sees that the id is free, and that the image has no other task.
func (c *change) mayAddTask(ctx context.Context, t *registry.Task) error {
	var taken, busy bool
	err := c.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM tasks WHERE id = ?),
		EXISTS (SELECT 1 FROM tasks WHERE image_id = ? AND image_id <> '' AND expires_at IS NULL)`, t.ID, t.ImageID).Scan(&taken, &busy)
	switch {
	case err != nil:
		return err
	case taken:
		return fmt.Errorf("%w: there is a task of this id", registry.ErrConflict)
	case busy:
		return fmt.Errorf("%w: the image has a task that has not ended", registry.ErrConflict)
	}
	return nil
}

// beginTask alters the image of a task that begins.
func (d *DB) beginTask(ctx context.Context, c *change, id string, begin func(*registry.Image) error) error {
	old, err := load(ctx, c.txn, id)
	if err != nil || begin == nil {
		return err
	}
	next, err := d.amend(old, begin, step{registry.Queued, registry.Importing}, step{registry.Uploading, registry.Importing})
	if err != nil {
		return err
	}
	if old.Status == registry.Uploading && next.Status == registry.Importing {
		_, _, err := staged(ctx, c.txn, id)
		if errors.Is(err, registry.ErrNotFound) {
			return fmt.Errorf("%w: the data of the image is being staged still", registry.ErrConflict)
		}
		if err != nil {
			return err
		}
	}
	return c.storeAmended(ctx, old, next)
}

// GetTask implements registry.Tasks.
func (d *DB) GetTask(ctx context.Context, id string) (*registry.Task, error) {
	t := new(registry.Task)
	err := d.read(ctx, fmt.Sprintf("get task %.80q", id), func(tx txn) error {
		if !isText(id) {
			return registry.ErrNotFound
		}
		err := tx.QueryRowContext(ctx, "SELECT "+taskColumns+" FROM tasks WHERE id = ? AND (expires_at IS NULL OR expires_at > ?)",
			id, toMicros(d.now())).Scan(taskDests(t)...)
		if errors.Is(err, sql.ErrNoRows) {
			return registry.ErrNotFound
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return t, nil
}

// taskKey says whether tasks are sorted by a column, and whether it may be NULL.
func taskKey(column string) (nullable, ok bool) {
	switch column {
	case "id", "type", "status", "created_at", "updated_at":
		return false, true
	case "expires_at":
		return true, true
	}
	return false, false
}

// ListTasks implements registry.Tasks.
func (d *DB) ListTasks(ctx context.Context, q registry.TaskQuery) ([]*registry.Task, error) {
	keys, err := sortKeys(q.Sort, taskKey)
	if err != nil {
		return nil, fmt.Errorf("list tasks: %w", err)
	}
	tasks := []*registry.Task{}
	err = d.read(ctx, "list tasks", func(tx txn) error {
		w := new(where)
		w.and("(expires_at IS NULL OR expires_at > ?)", toMicros(d.now()))
		if q.Marker != "" {
			at, err := position(ctx, tx, "tasks", w, keys, q.Marker)
			if err != nil {
				return err
			}
			after, args := afterMarker(keys, at)
			w.and(after, args...)
		}
		for _, m := range []struct{ column, value string }{
			{"image_id", q.ImageID}, {"owner", q.Owner}, {"type", q.Type}, {"status", string(q.Status)},
		} {
			if m.value != "" {
				w.and(m.column+" = ?", m.value)
			}
		}
		rows, err := tx.QueryContext(ctx, "SELECT "+taskColumns+" FROM tasks"+w.String()+" ORDER BY "+orderBy(keys)+" LIMIT ?",
			append(w.args, max(q.Limit, 0))...)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			t := new(registry.Task)
			if err := rows.Scan(taskDests(t)...); err != nil {
				return err
			}
			tasks = append(tasks, t)
		}
		return rows.Err()
	})
	if err != nil {
		return nil, err
	}
	return tasks, nil
}
