package main

import (
	"context"
	"errors"
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
	cmd.AddCommand(
		newImageCreateCommand(),
		newImageUploadCommand(),
		newImageListCommand(),
		newImageShowCommand(),
		newImageSetCommand(),
		newImageSaveCommand(),
		newImageDeleteCommand(),
		newImageLocationCommand(),
		newImageCopyCommand(),
	)
	return cmd
}

// imageFlags are the fields of an image that create and set take.
type imageFlags struct {
	name, diskFormat, containerFormat, visibility string
	protected, hidden                             bool
	minRAM, minDisk                               int
	properties, tags                              []string
}

func (f *imageFlags) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.name, "name", "", "name")
	flags.StringVar(&f.diskFormat, "disk-format", "", "raw, qcow2, vmdk, vhd, vhdx, vdi, iso, ...")
	flags.StringVar(&f.containerFormat, "container-format", "", "bare, ova, ...")
	flags.StringVar(&f.visibility, "visibility", "", "public, community, shared or private")
	flags.BoolVar(&f.protected, "protected", false, "refuse to delete it")
	flags.BoolVar(&f.hidden, "hidden", false, "leave it out of lists that do not ask for it")
	flags.IntVar(&f.minRAM, "min-ram", 0, "memory that it needs, in `MiB`")
	flags.IntVar(&f.minDisk, "min-disk", 0, "disk that it needs, in `GiB`")
	flags.StringArrayVar(&f.properties, "property", nil, "custom property `KEY=VALUE`; may be repeated")
	flags.StringArrayVar(&f.tags, "tag", nil, "tag; may be repeated")
}

// image returns the record that the flags describe.
func (f *imageFlags) image(cmd *cobra.Command) (*registry.Image, error) {
	properties, err := parsePairs("--property", f.properties)
	if err != nil {
		return nil, err
	}
	img := &registry.Image{
		Visibility: registry.Visibility(f.visibility),
		Protected:  f.protected, Hidden: f.hidden,
		DiskFormat: f.diskFormat, ContainerFormat: f.containerFormat,
		MinRAM: f.minRAM, MinDisk: f.minDisk,
		Tags: f.tags, Properties: properties,
	}
	if cmd.Flags().Changed("name") {
		img.Name = &f.name
	}
	return img, nil
}

// changes returns what the flags that were given change.
func (f *imageFlags) changes(cmd *cobra.Command) ([]client.Change, error) {
	properties, err := parsePairs("--property", f.properties)
	if err != nil {
		return nil, err
	}
	var changes []client.Change
	for _, field := range []struct {
		flag, name string
		value      any
	}{
		{"name", "name", f.name},
		{"disk-format", "disk_format", f.diskFormat},
		{"container-format", "container_format", f.containerFormat},
		{"visibility", "visibility", f.visibility},
		{"protected", "protected", f.protected},
		{"hidden", "os_hidden", f.hidden},
		{"min-ram", "min_ram", f.minRAM},
		{"min-disk", "min_disk", f.minDisk},
	} {
		if cmd.Flags().Changed(field.flag) {
			changes = append(changes, client.Set(field.name, field.value))
		}
	}
	for _, key := range slices.Sorted(maps.Keys(properties)) {
		changes = append(changes, client.Set(key, properties[key]))
	}
	return changes, nil
}

// parsePairs reads KEY=VALUE. Of equal keys the last counts.
func parsePairs(flag string, pairs []string) (map[string]string, error) {
	m := make(map[string]string, len(pairs))
	for _, pair := range pairs {
		key, value, ok := strings.Cut(pair, "=")
		if !ok || key == "" {
			return nil, usagef("%s %q is not KEY=VALUE", flag, pair)
		}
		m[key] = value
	}
	return m, nil
}

func newImageShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "show ID|NAME",
		Short: "Show all that is known of an image",
		Args:  takes(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := newClient(cmd)
			if err != nil {
				return err
			}
			defer c.Close()
			img, err := findImage(cmd.Context(), c, args[0])
			if err != nil {
				return err
			}
			return printImage(cmd, img)
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
			c, err := newClient(cmd)
			if err != nil {
				return err
			}
			defer c.Close()
			img, err := findImage(cmd.Context(), c, args[0])
			if err != nil {
				return err
			}
			if img, err = changeImage(cmd.Context(), c, img, changes, f.tags, removeTags); err != nil {
				return err
			}
			return printImage(cmd, img)
		},
	}
	f.register(cmd)
	cmd.Flags().StringArrayVar(&unset, "unset-property", nil, "remove a custom property; may be repeated")
	cmd.Flags().StringArrayVar(&removeTags, "remove-tag", nil, "remove a tag; may be repeated")
	return cmd
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
		Args: takes(1, -1),
		RunE: func(cmd *cobra.Command, refs []string) error {
			return eachImage(cmd, refs, func(c *client.Client, id, _ string) error {
				return c.Delete(cmd.Context(), id)
			})
		},
	}
}

// findImage returns the image with this id or, if there is none, this name.
func findImage(ctx context.Context, c *client.Client, ref string) (*registry.Image, error) {
	if ref == "" {
		return nil, usagef("the image's id or name is empty")
	}
	if client.IsID(ref) {
		img, err := c.Get(ctx, ref)
		if !errors.Is(err, registry.ErrNotFound) {
			return img, err
		}
	}
	var found []*registry.Image
	for _, hidden := range []bool{false, true} {
		q := registry.Query{
			Match:      []registry.Match{{Column: "name", Values: []string{ref}}},
			Visibility: registry.AllVisibilities,
			Hidden:     &hidden,
		}
		for img, err := range c.List(ctx, q) {
			if err != nil {
				return nil, err
			}
			found = append(found, img)
		}
	}
	switch len(found) {
	case 0:
		return nil, fmt.Errorf("%q: %w", ref, registry.ErrNotFound)
	case 1:
		return found[0], nil
	}
	const most = 10
	var ids []string
	for _, img := range found[:min(most, len(found))] {
		ids = append(ids, img.ID)
	}
	if len(found) > most {
		ids = append(ids, "...")
	}
	return nil, fmt.Errorf("%q is the name of %d images, say which by id: %s", ref, len(found), strings.Join(ids, ", "))
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
