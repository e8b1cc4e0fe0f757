package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"nearsight/registry"
	"nearsight/registry/client"
)

func newImageShareCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "share ID|NAME PROJECT...",
		Short: "Let other projects use an image",
		Long: `
Let other projects use an image whose visibility is shared. They can use it at once;
it is in their lists when they accept it.`,
		Example: `  nearsight image share debian 7a1d41e0b4d84ac8a7a9b1b8c2bf7c2c
  nearsight image create --name debian --file debian.qcow2 --share-with build,test`,
		Args: takes(2, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withImage(cmd, args[0], func(c *client.Client, img *registry.Image) error {
				err := shareWith(cmd.Context(), c, img.ID, args[1:])
				if err != nil && img.Visibility != registry.Shared && errors.Is(err, registry.ErrForbidden) {
					err = fmt.Errorf("%w; its visibility is %s: image set %s --shared changes that", err, img.Visibility, img.ID)
				}
				return err
			})
		},
	}
}

// shareWith shares an image with projects. It goes on after an error.
func shareWith(ctx context.Context, c *client.Client, id string, projects []string) error {
	return eachProject(ctx, projects, func(project string) error {
		_, err := c.AddMember(ctx, id, project)
		return err
	})
}

// eachProject calls do for each project, and joins the errors, each with what it is
// about. It stops early when the user wants it to.
func eachProject(ctx context.Context, projects []string, do func(project string) error) error {
	var failed []error
	for _, project := range projects {
		if err := do(project); err != nil {
			failed = append(failed, fmt.Errorf("project %s: %w", project, err))
		}
		if ctx.Err() != nil {
			break
		}
	}
	return errors.Join(failed...)
}

func newImageUnshareCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "unshare ID|NAME PROJECT...",
		Short: "Let projects use an image no more",
		Long: `
Let projects use an image no more that it was shared with. What they copied of it
they keep.`,
		Example: `  nearsight image unshare debian test`,
		Args:    takes(2, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withImage(cmd, args[0], func(c *client.Client, img *registry.Image) error {
				return eachProject(cmd.Context(), args[1:], func(project string) error {
					return c.RemoveMember(cmd.Context(), img.ID, project)
				})
			})
		},
	}
}

func newImageMembersCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "members ID|NAME",
		Short: "List the projects that an image is shared with",
		Long: `
List the projects that an image is shared with, and what they say to that. Who is
one of them sees itself alone.`,
		Example: `  nearsight image members debian`,
		Args:    takes(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withImage(cmd, args[0], func(c *client.Client, img *registry.Image) error {
				members, err := c.Members(cmd.Context(), img.ID)
				if err != nil {
					return err
				}
				return printMembers(cmd, members)
			})
		},
	}
}

// printMembers writes members.
func printMembers(cmd *cobra.Command, members []registry.Member) error {
	if asked(cmd, "json") {
		type member struct {
			Project   string                `json:"project"`
			Status    registry.MemberStatus `json:"status"`
			CreatedAt time.Time             `json:"created_at"`
			UpdatedAt time.Time             `json:"updated_at"`
		}
		list := []member{}
		for _, m := range members {
			list = append(list, member{m.Project, m.Status, m.CreatedAt, m.UpdatedAt})
		}
		return printJSON(cmd, list)
	}
	rows := [][]string{{"PROJECT", "STATUS", "SINCE"}}
	for _, m := range members {
		rows = append(rows, []string{m.Project, string(m.Status), timeText(m.UpdatedAt)})
	}
	return printTable(cmd, rows)
}

// newImageAnswerCommand returns a command by which a project says what it thinks of
// being shared images with.
func newImageAnswerCommand(name string, status registry.MemberStatus, short, then string) *cobra.Command {
	var project string
	cmd := &cobra.Command{
		Use:   name + " ID|NAME...",
		Short: short,
		Long: "\n" + short + ".\n" + then + `

The project is that of --project, of OS_PROJECT_ID, or the one that the server tells
the caller about.`,
		Example: "  nearsight image list --visibility shared --member-status all\n  nearsight image " + name + " debian",
		Args:    takes(1, -1),
		RunE: func(cmd *cobra.Command, refs []string) error {
			return eachImage(cmd, refs, func(c *client.Client, id, _ string) error {
				who, err := answering(cmd.Context(), c, id, cmp.Or(project, os.Getenv("OS_PROJECT_ID")))
				if err != nil {
					return err
				}
				_, err = c.SetMember(cmd.Context(), id, who, status)
				return err
			})
		},
	}
	cmd.Flags().StringVar(&project, "project", "", "id of the `PROJECT` that says so")
	return cmd
}

// answering returns the project that answers for itself: that which was named or
// else the one member that the caller sees.
func answering(ctx context.Context, c *client.Client, id, named string) (string, error) {
	if named != "" {
		return named, nil
	}
	members, err := c.Members(ctx, id)
	switch {
	case err != nil:
		return "", err
	case len(members) == 1:
		return members[0].Project, nil
	}
	var projects []string
	for _, m := range members {
		projects = append(projects, m.Project)
	}
	return "", usagef("for which project? Say --project; the image is shared with %s", cmp.Or(strings.Join(projects, ", "), "none"))
}

// timeText writes a time for people, - for none.
func timeText(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format(time.RFC3339)
}
