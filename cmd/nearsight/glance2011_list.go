package main

import (
	"context"
	"iter"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"nearsight/registry/client"
)

// pageFlags say which images the lists of 2011 show.
type pageFlags struct {
	limit                    int
	marker, sortKey, sortDir string
}

func (f *pageFlags) register(cmd *cobra.Command) {
	cmd.Flags().IntVar(&f.limit, "limit", 0, "at most so many images; 0 is all")
	cmd.Flags().StringVar(&f.marker, "marker", "", "only images that come after the one with this `ID`")
	cmd.Flags().StringVar(&f.sortKey, "sort-key", "", "order by this `FIELD`")
	cmd.Flags().StringVar(&f.sortDir, "sort-dir", "", "asc or desc")
}

// query returns the query of a list. Only public images are listed unless a filter
// says otherwise.
func (f *pageFlags) query(args []string) (client.V1Query, error) {
	filters, err := parseFields(args)
	if err != nil {
		return client.V1Query{}, err
	}
	if f.limit < 0 {
		return client.V1Query{}, usagef("--limit %d is less than 0", f.limit)
	}
	if _, ok := filters["is_public"]; !ok {
		filters["is_public"] = "True"
	}
	return client.V1Query{Filters: filters, Marker: f.marker, SortKey: f.sortKey, SortDir: f.sortDir, Limit: f.limit}, nil
}

// list2011 returns a list, at most limit images of it unless that is 0.
func list2011(cmd *cobra.Command, list func(context.Context, client.V1Query) iter.Seq2[*client.V1Image, error], q client.V1Query, limit int) ([]*client.V1Image, error) {
	var images []*client.V1Image
	for img, err := range list(cmd.Context(), q) {
		if err != nil {
			return nil, err
		}
		if images = append(images, img); len(images) == limit {
			break
		}
	}
	return images, nil
}

func newIndexCommand() *cobra.Command {
	t, f := &tool{}, &pageFlags{}
	cmd := t.command(&cobra.Command{
		Use:   "index [FIELD=VALUE...]",
		Short: "List public images",
		Long: `
List public images, or those of which all the fields have these values. is_public=None
lists those that are not public too.`,
		Example: `  nearsight index
  nearsight index disk_format=qcow2 --sort_key name --sort_dir asc`,
	}, func(cmd *cobra.Command, args []string, v *client.V1) error {
		q, err := f.query(args)
		if err != nil {
			return err
		}
		if v == nil {
			say(cmd, "List images with %s", pairsText(q.Filters))
			return nil
		}
		images, err := list2011(cmd, v.Images, q, f.limit)
		if err != nil {
			return err
		}
		if len(images) == 0 {
			say(cmd, "No public images found.")
			return nil
		}
		const row = "%-36s %-30s %-20s %-20s %14s"
		say(cmd, row, "ID", "Name", "Disk Format", "Container Format", "Size")
		dashes := func(n int) string { return strings.Repeat("-", n) }
		say(cmd, row, dashes(36), dashes(30), dashes(20), dashes(20), dashes(14))
		for _, img := range images {
			say(cmd, row, img.ID, img.Name, img.DiskFormat, img.ContainerFormat, numberText(img.Size))
		}
		return nil
	})
	f.register(cmd)
	return cmd
}

func newDetailsCommand() *cobra.Command {
	t, f := &tool{}, &pageFlags{}
	cmd := t.command(&cobra.Command{
		Use:     "details [FIELD=VALUE...]",
		Short:   "List public images with all their fields",
		Long:    "\nList public images with all their fields. Its arguments are those of index.",
		Example: `  nearsight details name=debian`,
	}, func(cmd *cobra.Command, args []string, v *client.V1) error {
		q, err := f.query(args)
		if err != nil {
			return err
		}
		if v == nil {
			say(cmd, "List images with %s", pairsText(q.Filters))
			return nil
		}
		images, err := list2011(cmd, v.ImagesDetailed, q, f.limit)
		if err != nil {
			return err
		}
		if len(images) == 0 {
			say(cmd, "No public images found.")
		}
		for i, img := range images {
			if i == 0 {
				say(cmd, "%s", ruler)
			}
			sayImage(cmd, img)
			say(cmd, "%s", ruler)
		}
		return nil
	})
	f.register(cmd)
	return cmd
}

func newShow2011Command() *cobra.Command {
	t := &tool{}
	return t.command(&cobra.Command{
		Use:     "show ID",
		Short:   "Show an image",
		Long:    "\nShow an image. image show takes its name too, and shows more.",
		Example: `  nearsight show 5bd10d31-7b8e-4f40-9ef9-f2b6b3b4a4a1`,
		Args:    takes(1, 1),
	}, func(cmd *cobra.Command, args []string, v *client.V1) error {
		if v == nil {
			say(cmd, "Show image %s", args[0])
			return nil
		}
		img, err := v.ImageMeta(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		say(cmd, "%s", ruler)
		sayImage(cmd, img)
		say(cmd, "%s", ruler)
		return nil
	})
}

// ruler stands between images.
const ruler = "================================================================================"

// sayImage writes an image as a block of lines.
func sayImage(cmd *cobra.Command, img *client.V1Image) {
	public := "No"
	if img.Public != nil && *img.Public {
		public = "Yes"
	}
	uri := img.URI
	if conn, err := connectionOf(cmd); uri == "" && err == nil {
		uri = conn.server + "/images/" + img.ID
	}
	for _, line := range []struct{ name, value string }{
		{"URI", uri},
		{"Id", img.ID},
		{"Public", public},
		{"Name", img.Name},
		{"Status", string(img.Status)},
		{"Size", numberText(img.Size)},
		{"Checksum", img.Checksum},
		{"Location", img.Location},
		{"Disk format", img.DiskFormat},
		{"Container format", img.ContainerFormat},
		{"Owner", img.Owner},
		{"Created at", timeOf2011(img.CreatedAt)},
		{"Updated at", timeOf2011(img.UpdatedAt)},
	} {
		if line.value != "" {
			say(cmd, "%s: %s", line.name, line.value)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(img.Properties)) {
		say(cmd, "Property '%s': %s", name, img.Properties[name])
	}
}

func numberText(n *int64) string {
	if n == nil {
		return ""
	}
	return strconv.FormatInt(*n, 10)
}

func timeOf2011(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}
