package main

import (
	"encoding/json"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"nearsight/registry"
	"nearsight/registry/client"
)

func newImageTasksCommand() *cobra.Command {
	var w waitFlags
	cmd := &cobra.Command{
		Use:   "tasks ID|NAME",
		Short: "Show what the server does, or did, for an image",
		Long: `
Show what the server does for an image, and what it did in the last two days:
imports and copies, the latest last. With --watch it waits for the one under way,
and fails if that does.`,
		Example: `  nearsight image tasks debian
  nearsight image tasks debian --watch`,
		Args: takes(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := w.check(); err != nil {
				return err
			}
			return withImage(cmd, args[0], func(c *client.Client, img *registry.Image) error {
				if w.wait {
					if _, err := w.awaitImported(cmd, c, img.ID, args[0]); err != nil {
						return err
					}
				}
				tasks, err := c.Tasks(cmd.Context(), img.ID)
				if err != nil {
					return err
				}
				slices.SortStableFunc(tasks, func(a, b *registry.Task) int { return a.CreatedAt.Compare(b.CreatedAt) })
				return printTasks(cmd, tasks)
			})
		},
	}
	w.register(cmd, "the task under way has ended")
	return cmd
}

func newTaskCommand() *cobra.Command {
	cmd := newGroup("task", "Look at the slow work of a server", `
Look at the slow work of a server: imports and copies, each a task of its own, for
admins. image tasks shows everybody those of one image.`)
	cmd.Example = `  nearsight task ls --status failure
  nearsight task show 5bd10d31-7b8e-4f40-9ef9-f2b6b3b4a4a1 --watch`
	cmd.AddCommand(newTaskListCommand(), newTaskShowCommand())
	return cmd
}

func newTaskListCommand() *cobra.Command {
	var q registry.TaskQuery
	var status, sort string
	var limit int
	cmd := &cobra.Command{
		Use:   "ls",
		Short: "List the tasks of all images",
		Example: `  nearsight task ls --status processing
  nearsight task ls --sort created_at:asc --limit 10`,
		Args: takes(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			q.Status = registry.TaskStatus(status)
			var err error
			if q.Sort, err = parseSort(sort); err != nil {
				return err
			}
			if q.Limit, err = pageOf(limit); err != nil {
				return err
			}
			c, err := newClient(cmd)
			if err != nil {
				return err
			}
			defer c.Close()
			tasks := []*registry.Task{}
			for t, err := range c.ListTasks(cmd.Context(), q) {
				if err != nil {
					return err
				}
				if tasks = append(tasks, t); len(tasks) == limit {
					break
				}
			}
			return printTasks(cmd, tasks)
		},
	}
	cmd.Flags().StringVar(&status, "status", "", "only tasks with this status: pending, processing, success, failure")
	cmd.Flags().StringVar(&q.Type, "type", "", "only tasks of this type: api_image_import, location_import, import")
	cmd.Flags().StringVar(&sort, "sort", "", "order: `KEY[:asc|:desc],...`; keys are id, type, status, created_at, updated_at, expires_at")
	cmd.Flags().IntVar(&limit, "limit", 0, "at most so many tasks; 0 is all")
	return cmd
}

func newTaskShowCommand() *cobra.Command {
	var w waitFlags
	cmd := &cobra.Command{
		Use:     "show ID",
		Short:   "Show all that is known of a task",
		Example: `  nearsight task show 5bd10d31-7b8e-4f40-9ef9-f2b6b3b4a4a1 --watch`,
		Args:    takes(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := w.check(); err != nil {
				return err
			}
			c, err := newClient(cmd)
			if err != nil {
				return err
			}
			defer c.Close()
			if w.wait {
				if _, err := w.awaitTask(cmd, c, args[0]); err != nil {
					return err
				}
			}
			t, err := c.Task(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return printTask(cmd, t)
		},
	}
	w.register(cmd, "it has ended")
	return cmd
}

// shownTask is the JSON form of a task.
type shownTask struct {
	ID        string              `json:"id"`
	Type      string              `json:"type"`
	Status    registry.TaskStatus `json:"status"`
	ImageID   string              `json:"image_id"`
	Owner     string              `json:"owner"`
	User      string              `json:"user_id"`
	RequestID string              `json:"request_id"`
	Message   string              `json:"message"`
	Input     json.RawMessage     `json:"input"`
	Result    json.RawMessage     `json:"result"`
	CreatedAt time.Time           `json:"created_at"`
	UpdatedAt time.Time           `json:"updated_at"`
	ExpiresAt *time.Time          `json:"expires_at"`
}

func showTask(t *registry.Task) shownTask {
	s := shownTask{t.ID, t.Type, t.Status, t.ImageID, t.Owner, t.User, t.RequestID, t.Message, t.Input, t.Result, t.CreatedAt, t.UpdatedAt, nil}
	if !t.ExpiresAt.IsZero() {
		s.ExpiresAt = &t.ExpiresAt
	}
	return s
}

// printTasks writes tasks.
func printTasks(cmd *cobra.Command, tasks []*registry.Task) error {
	if asked(cmd, "json") {
		list := []shownTask{}
		for _, t := range tasks {
			list = append(list, showTask(t))
		}
		return printJSON(cmd, list)
	}
	rows := [][]string{{"ID", "TYPE", "STATUS", "IMAGE", "DONE", "CREATED", "MESSAGE"}}
	for _, t := range tasks {
		rows = append(rows, []string{t.ID, t.Type, string(t.Status), orDash(t.ImageID), doneText(t), timeText(t.CreatedAt), orDash(t.Message)})
	}
	return printTable(cmd, rows)
}

// doneText says how far a task is.
func doneText(t *registry.Task) string {
	switch done, total := taskBytes(t); {
	case total > 0:
		return humanBytes(done) + " of " + humanBytes(total)
	case done > 0:
		return humanBytes(done)
	}
	return "-"
}

// printTask writes one task.
func printTask(cmd *cobra.Command, t *registry.Task) error {
	if asked(cmd, "json") {
		return printJSON(cmd, showTask(t))
	}
	return printTable(cmd, [][]string{
		{"id", t.ID},
		{"type", t.Type},
		{"status", string(t.Status)},
		{"image", orDash(t.ImageID)},
		{"done", doneText(t)},
		{"message", orDash(t.Message)},
		{"owner", orDash(t.Owner)},
		{"user", orDash(t.User)},
		{"request", orDash(t.RequestID)},
		{"input", orDash(string(t.Input))},
		{"result", orDash(string(t.Result))},
		{"created_at", timeText(t.CreatedAt)},
		{"updated_at", timeText(t.UpdatedAt)},
		{"expires_at", timeText(t.ExpiresAt)},
	})
}
