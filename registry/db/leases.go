package db

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"nearsight/registry"
)

// Who took a lease holds it until the next one takes it, also after its time: it is
// the only one at work all the same.

// LeaseTask implements registry.Tasks. No two take the same task, and none is passed
// over because another one looks at it: changes never overlap, so there are no locks of
// rows to skip.
func (d *DB) LeaseTask(ctx context.Context, holder string, lease time.Duration) (*registry.Task, error) {
	if holder == "" {
		return nil, fmt.Errorf("lease a task: %w: nobody would hold it", registry.ErrInvalid)
	}
	t := new(registry.Task)
	err := d.write(ctx, "lease a task", func(c *change) error {
		err := c.QueryRowContext(ctx, `UPDATE tasks SET status = 'processing', holder = ?, lease_until = ?, attempts = attempts + 1, updated_at = ?
			WHERE id = (SELECT id FROM tasks WHERE expires_at IS NULL AND (lease_until IS NULL OR lease_until <= ?) ORDER BY created_at, id LIMIT 1)
			RETURNING `+taskColumns+", secret",
			holder, toMicros(c.at.Add(lease)), toMicros(c.at), toMicros(c.at)).Scan(append(taskDests(t), &t.Secret)...)
		if errors.Is(err, sql.ErrNoRows) {
			return fmt.Errorf("%w: there is no task to do", registry.ErrNotFound)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return t, nil
}

// RenewTask implements registry.Tasks. ErrConflict also if there is no such task.
func (d *DB) RenewTask(ctx context.Context, id, holder string, lease time.Duration, message string, result json.RawMessage) error {
	doing := fmt.Sprintf("renew the lease of task %.80q", id)
	if err := checkObject("result", result); err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	return d.write(ctx, doing, func(c *change) error {
		if _, err := c.held(ctx, id, holder); err != nil {
			return err
		}
		_, err := c.ExecContext(ctx, "UPDATE tasks SET lease_until = ?, message = ?, result = ?, updated_at = ? WHERE id = ?",
			toMicros(c.at.Add(lease)), toText(message), string(result), toMicros(c.at), id)
		return err
	})
}

// ReleaseTask implements registry.Tasks. The task is pending again.
func (d *DB) ReleaseTask(ctx context.Context, id, holder string) error {
	return d.write(ctx, fmt.Sprintf("release task %.80q", id), func(c *change) error {
		_, err := c.ExecContext(ctx, `UPDATE tasks SET status = 'pending', holder = '', lease_until = NULL, updated_at = ?
			WHERE id = ? AND holder = ? AND holder <> '' AND expires_at IS NULL`, toMicros(c.at), id, holder)
		return err
	})
}

// EndTask implements registry.Tasks. Of t it takes id, status, message and result,
// and the image id of a task that had none. ErrInvalid for a status that is no end.
func (d *DB) EndTask(ctx context.Context, t *registry.Task, holder string, end func(*registry.Image) error) error {
	doing := fmt.Sprintf("end task %.80q", t.ID)
	if t.Status != registry.TaskSuccess && t.Status != registry.TaskFailure {
		return fmt.Errorf("%s: %w: status %.80q is no end", doing, registry.ErrInvalid, t.Status)
	}
	if err := checkObject("result", t.Result); err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	return d.write(ctx, doing, func(c *change) error {
		image, err := c.held(ctx, t.ID, holder)
		if err != nil {
			return err
		}
		if image == "" {
			image = t.ImageID
		}
		_, err = c.ExecContext(ctx, `UPDATE tasks SET status = ?, image_id = ?, message = ?, result = ?, secret = '', holder = '',
			lease_until = NULL, updated_at = ?, expires_at = ? WHERE id = ?`,
			t.Status, image, toText(t.Message), string(t.Result), toMicros(c.at), toMicros(c.at.Add(registry.TaskLife)), t.ID)
		if err != nil || end == nil || image == "" {
			return err
		}
		return d.finishTask(ctx, c, image, end)
	})
}

// finishTask alters the image of a task that ends. That limits were lowered meanwhile
// keeps no image importing.
func (d *DB) finishTask(ctx context.Context, c *change, id string, end func(*registry.Image) error) error {
	old, err := load(ctx, c.txn, id)
	if errors.Is(err, registry.ErrNotFound) {
		return nil // deleted meanwhile
	}
	if err != nil {
		return err
	}
	next, err := altered(old, end, step{registry.Importing, registry.Queued})
	if err != nil {
		return err
	}
	if err := c.storeAmended(ctx, old, next); err != nil || next.Status != registry.Queued {
		return err
	}
	return c.unstage(ctx, id)
}

// held returns the image of the task id whose lease holder has. ErrConflict if
// another one has it, or if the task was ended, a while ago perhaps.
func (c *change) held(ctx context.Context, id, holder string) (image string, err error) {
	var by string
	var ended bool
	err = c.QueryRowContext(ctx, "SELECT image_id, holder, expires_at IS NOT NULL FROM tasks WHERE id = ?", id).Scan(&image, &by, &ended)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return "", fmt.Errorf("%w: there is no such task", registry.ErrConflict)
	case err != nil:
		return "", err
	case ended:
		return "", fmt.Errorf("%w: the task was ended", registry.ErrConflict)
	case by == "" || by != holder:
		return "", fmt.Errorf("%w: the lease of the task is lost", registry.ErrConflict)
	}
	return image, nil
}

// failTasks ends the task of the image id, if it has one.
func (c *change) failTasks(ctx context.Context, id, why string) error {
	_, err := c.ExecContext(ctx, `UPDATE tasks SET status = 'failure', message = ?, secret = '', holder = '', lease_until = NULL,
		updated_at = ?, expires_at = ? WHERE image_id = ? AND image_id <> '' AND expires_at IS NULL`,
		why, toMicros(c.at), toMicros(c.at.Add(registry.TaskLife)), id)
	return err
}
