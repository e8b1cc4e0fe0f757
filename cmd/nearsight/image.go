package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"nearsight/registry"
	"nearsight/registry/client"
)

func newImageCommand() *cobra.Command {
	cmd := newGroup("image", "Store, look at and fetch images", `
Store, look at and fetch images. An image is named by its id or, where ID|NAME
stands, by a name that no other image has.

Exit status: 0 done, 1 failed, 2 wrong usage, 3 not found, 4 refused by the
server, 5 server unreachable or not available now, 6 the bytes are not those
that the image should have, 130 interrupted.`)
	cmd.Example = `  nearsight image create --name debian --file debian.qcow2
  nearsight image list --name debian --long
  nearsight image save debian --file debian.qcow2`
	cmd.AddCommand(
		newImageCreateCommand(),
		newImageUploadCommand(),
		newImageListCommand(),
		newImageShowCommand(),
		newImageSetCommand(),
		newImageUnsetCommand(),
		newImageSaveCommand(),
		newImageViewsCommand(),
		newImageDeleteCommand(),
		newImageStateCommand("deactivate", "Refuse the data of images to all but admins", (*client.Client).Deactivate),
		newImageStateCommand("reactivate", "Hand out the data of images again", (*client.Client).Reactivate),
		newImageShareCommand(),
		newImageUnshareCommand(),
		newImageMembersCommand(),
		newImageAnswerCommand("accept", registry.Accepted, "Accept that images are shared with a project", "It has them in its lists from then on."),
		newImageAnswerCommand("reject", registry.Rejected, "Reject that images are shared with a project", "They stay out of its lists; it could use them all the same."),
		newImageLocationCommand(),
		newImageCopyCommand(),
		newImageSignCommand(),
		newImageStageCommand(),
		newImageImportCommand(),
		newImageTasksCommand(),
	)
	return cmd
}

func newImageShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "show ID|NAME",
		Short: "Show all that is known of an image",
		Example: `  nearsight image show debian
  nearsight image show debian --json | jq -r .os_hash_value`,
		Args: takes(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withImage(cmd, args[0], func(_ *client.Client, img *registry.Image) error {
				return printImage(cmd, img)
			})
		},
	}
}

func newImageSetCommand() *cobra.Command {
	var f imageFlags
	var unset, removeTags []string
	cmd := &cobra.Command{
		Use:   "set ID|NAME",
		Short: "Change fields, properties and tags of an image",
		Long: `
Change fields, properties and tags of an image. Fields and properties change
together or not at all; tags follow, one by one. The formats can be changed
until the image has data.`,
		Example: `  nearsight image set debian --name debian-12 --property os_version=12
  nearsight image set debian --public --protected
  nearsight image set debian --protected=false --remove-tag old`,
		Args: takes(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			changes, err := f.changes(cmd)
			if err != nil {
				return err
			}
			for _, key := range unset {
				changes = append(changes, client.Unset(key))
			}
			if len(changes)+len(f.tags)+len(removeTags) == 0 {
				return usagef("there is nothing to change: see %s --help", cmd.CommandPath())
			}
			return withImage(cmd, args[0], func(c *client.Client, img *registry.Image) error {
				if img, err = changeImage(cmd.Context(), c, img, changes, f.tags, removeTags); err != nil {
					return err
				}
				return printImage(cmd, img)
			})
		},
	}
	f.register(cmd)
	cmd.Flags().StringArrayVar(&unset, "unset-property", nil, "remove the custom property `KEY`; may be repeated")
	cmd.Flags().StringArrayVar(&removeTags, "remove-tag", nil, "remove a `TAG`; may be repeated")
	return cmd
}

func newImageUnsetCommand() *cobra.Command {
	var properties, tags []string
	cmd := &cobra.Command{
		Use:     "unset ID|NAME",
		Short:   "Remove properties and tags of an image",
		Example: `  nearsight image unset debian --property os_version --tag old`,
		Args:    takes(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(properties)+len(tags) == 0 {
				return usagef("there is nothing to remove: say --property KEY or --tag TAG")
			}
			var changes []client.Change
			for _, key := range properties {
				changes = append(changes, client.Unset(key))
			}
			return withImage(cmd, args[0], func(c *client.Client, img *registry.Image) error {
				img, err := changeImage(cmd.Context(), c, img, changes, nil, tags)
				if err != nil {
					return err
				}
				return printImage(cmd, img)
			})
		},
	}
	cmd.Flags().StringArrayVar(&properties, "property", nil, "`KEY` of a custom property; may be repeated")
	cmd.Flags().StringArrayVar(&tags, "tag", nil, "`TAG`; may be repeated")
	return cmd
}

// newImageStateCommand returns a command that makes one call for each image.
func newImageStateCommand(name, short string, call func(*client.Client, context.Context, string) error) *cobra.Command {
	return &cobra.Command{
		Use:   name + " ID|NAME...",
		Short: short,
		Long: "\n" + short + `. Those who may do so are its owner and admins. Its
record stays visible, and what is cached of it stays where it is.

After an error it goes on with the next image, and fails in the end.`,
		Example: "  nearsight image " + name + " debian",
		Args:    takes(1, -1),
		RunE: func(cmd *cobra.Command, refs []string) error {
			return eachImage(cmd, refs, func(c *client.Client, id, _ string) error {
				return call(c, cmd.Context(), id)
			})
		},
	}
}

// changeImage changes an image and returns its new record.
func changeImage(ctx context.Context, c *client.Client, img *registry.Image, changes []client.Change, add, remove []string) (*registry.Image, error) {
	var err error
	if len(changes) > 0 {
		if img, err = c.Patch(ctx, img.ID, changes...); err != nil {
			return nil, err
		}
	}
	for _, tag := range add {
		if err := c.AddTag(ctx, img.ID, tag); err != nil {
			return nil, fmt.Errorf("tag %q: %w", tag, err)
		}
	}
	for _, tag := range remove {
		if err := c.RemoveTag(ctx, img.ID, tag); err != nil {
			return nil, fmt.Errorf("remove tag %q: %w", tag, err)
		}
	}
	if len(add)+len(remove) > 0 {
		return c.Get(ctx, img.ID)
	}
	return img, nil
}

func newImageDeleteCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "delete ID|NAME...",
		Short: "Delete images for good",
		Long: `
Delete images for good, with their data in all stores. An id cannot be used again.
After an error it goes on with the next image, and fails in the end.

image location rm deletes the data in one store and leaves it in others.`,
		Example: `  nearsight image delete debian debian-old`,
		Args:    takes(1, -1),
		RunE: func(cmd *cobra.Command, refs []string) error {
			return eachImage(cmd, refs, func(c *client.Client, id, _ string) error {
				return c.Delete(cmd.Context(), id)
			})
		},
	}
}

// printImage writes one image.
func printImage(cmd *cobra.Command, img *registry.Image) error {
	if asked(cmd, "json") {
		raw, err := imageJSON(img)
		if err != nil {
			return err
		}
		return printJSON(cmd, raw)
	}
	rows := [][]string{
		{"id", img.ID},
		{"name", orDash(deref(img.Name))},
		{"status", string(img.Status)},
		{"size", sizeText(img.Size)},
		{"virtual_size", sizeText(img.VirtualSize)},
		{"disk_format", orDash(img.DiskFormat)},
		{"container_format", orDash(img.ContainerFormat)},
		{"visibility", string(img.Visibility)},
		{"owner", orDash(deref(img.Owner))},
		{"protected", strconv.FormatBool(img.Protected)},
		{"os_hidden", strconv.FormatBool(img.Hidden)},
		{"min_ram", strconv.Itoa(img.MinRAM) + " MiB"},
		{"min_disk", strconv.Itoa(img.MinDisk) + " GiB"},
		{"checksum", orDash(img.Checksum)},
		{"os_hash_algo", orDash(img.HashAlgo)},
		{"os_hash_value", orDash(img.HashValue)},
		{"tags", orDash(strings.Join(img.Tags, ", "))},
		{"created_at", img.CreatedAt.UTC().Format(time.RFC3339)},
		{"updated_at", img.UpdatedAt.UTC().Format(time.RFC3339)},
	}
	rows = append(rows, locationRows(img)...)
	for _, key := range slices.Sorted(maps.Keys(img.Properties)) {
		rows = append(rows, []string{"property " + key, img.Properties[key]})
	}
	return printTable(cmd, rows)
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// sizeText writes a size exactly and for people.
func sizeText(n *int64) string {
	switch {
	case n == nil:
		return "-"
	case *n < 1024:
		return humanBytes(*n)
	}
	return fmt.Sprintf("%d (%s)", *n, humanBytes(*n))
}
