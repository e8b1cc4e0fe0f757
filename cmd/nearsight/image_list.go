package main

import (
	"encoding/json"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"nearsight/registry"
	"nearsight/registry/client"
)

func newImageListCommand() *cobra.Command {
	var f listFlags
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List images",
		Args:  takes(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			q, err := f.query(cmd)
			if err != nil {
				return err
			}
			c, err := newClient(cmd)
			if err != nil {
				return err
			}
			defer c.Close()
			images := []*registry.Image{}
			for img, err := range c.List(cmd.Context(), q) {
				if err != nil {
					return err
				}
				if images = append(images, img); len(images) == f.limit {
					break
				}
			}
			return printImages(cmd, images)
		},
	}
	f.register(cmd)
	return cmd
}

// listFlags say which images a list shows.
type listFlags struct {
	name, status, visibility, owner, diskFormat, containerFormat, sort string
	tags, properties                                                   []string
	hidden, protected                                                  bool
	sizeMin, sizeMax                                                   int64
	limit                                                              int
}

func (f *listFlags) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.name, "name", "", "only images with this name")
	flags.StringVar(&f.status, "status", "", "only images with this status: queued, active, ...")
	flags.StringVar(&f.visibility, "visibility", "", "only public, community, shared or private images; all for all of these")
	flags.StringVar(&f.owner, "owner", "", "only images of this project")
	flags.StringVar(&f.diskFormat, "disk-format", "", "only images in this disk format")
	flags.StringVar(&f.containerFormat, "container-format", "", "only images in this container format")
	flags.StringArrayVar(&f.tags, "tag", nil, "only images with this tag; may be repeated")
	flags.StringArrayVar(&f.properties, "property", nil, "only images with this property `KEY=VALUE`; may be repeated")
	flags.BoolVar(&f.hidden, "hidden", false, "only hidden images, which are not listed otherwise")
	flags.BoolVar(&f.protected, "protected", false, "only protected images, or with =false only others")
	flags.Int64Var(&f.sizeMin, "size-min", 0, "only images of at least so many `bytes`")
	flags.Int64Var(&f.sizeMax, "size-max", 0, "only images of at most so many `bytes`")
	flags.StringVar(&f.sort, "sort", "", "order: `KEY[:asc|:desc],...`, descending unless it says asc; keys are name, status,\nsize, disk_format, container_format, id, created_at, updated_at (default created_at:desc)")
	flags.IntVar(&f.limit, "limit", 0, "at most so many images; 0 is all")
}

func (f *listFlags) query(cmd *cobra.Command) (registry.Query, error) {
	q := registry.Query{Visibility: registry.Visibility(f.visibility), Tags: f.tags, Limit: 500} // a page
	if f.limit < 0 {
		return q, usagef("--limit %d is less than 0", f.limit)
	}
	if f.limit > 0 {
		q.Limit = min(q.Limit, f.limit)
	}
	changed := cmd.Flags().Changed
	for _, m := range []struct{ flag, column, value string }{
		{"name", "name", f.name},
		{"status", "status", f.status},
		{"owner", "owner", f.owner},
		{"disk-format", "disk_format", f.diskFormat},
		{"container-format", "container_format", f.containerFormat},
	} {
		if changed(m.flag) {
			q.Match = append(q.Match, registry.Match{Column: m.column, Values: []string{m.value}})
		}
	}
	if changed("size-min") {
		q.Bounds = append(q.Bounds, registry.Bound{Column: "size", Min: &f.sizeMin})
	}
	if changed("size-max") {
		q.Bounds = append(q.Bounds, registry.Bound{Column: "size", Max: &f.sizeMax})
	}
	if changed("hidden") {
		q.Hidden = &f.hidden
	}
	if changed("protected") {
		q.Protected = &f.protected
	}
	var err error
	if q.Properties, err = parsePairs("--property", f.properties); err != nil {
		return q, err
	}
	q.Sort, err = parseSort(f.sort)
	return q, err
}

// parseSort reads KEY[:asc|:desc],...
func parseSort(s string) ([]registry.Order, error) {
	if s == "" {
		return nil, nil
	}
	var orders []registry.Order
	for item := range strings.SplitSeq(s, ",") {
		key, dir, found := strings.Cut(item, ":")
		if key == "" || found && dir != "asc" && dir != "desc" {
			return nil, usagef("--sort %q is not KEY[:asc|:desc],...", s)
		}
		orders = append(orders, registry.Order{Key: key, Desc: dir != "asc"})
	}
	return orders, nil
}

// printImages writes a list.
func printImages(cmd *cobra.Command, images []*registry.Image) error {
	if asked(cmd, "json") {
		list := []json.RawMessage{}
		for _, img := range images {
			raw, err := client.MarshalImage(img)
			if err != nil {
				return err
			}
			list = append(list, raw)
		}
		return printJSON(cmd, list)
	}
	rows := [][]string{{"ID", "NAME", "STATUS", "FORMAT", "SIZE", "VISIBILITY", "CREATED"}}
	for _, img := range images {
		size := "-"
		if img.Size != nil {
			size = humanBytes(*img.Size)
		}
		rows = append(rows, []string{
			img.ID, orDash(deref(img.Name)), string(img.Status), orDash(img.DiskFormat), size,
			string(img.Visibility), img.CreatedAt.UTC().Format(time.RFC3339),
		})
	}
	return printTable(cmd, rows)
}
