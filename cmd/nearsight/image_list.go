package main

import (
	"encoding/json"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"nearsight/registry"
)

func newImageListCommand() *cobra.Command {
	var f listFlags
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List images",
		Long: `
List images: those that you may use and that are not hidden. Of images that other
projects share with yours, those that were accepted, unless --member-status says
otherwise; of community images your own, unless --visibility is community or all.

Columns are the fields of the API, such as id, name, size, os_hash_value or tags,
stores, properties for all custom properties, and the name of any one of them.`,
		Example: `  nearsight image list --tag lts --property os_distro=debian --sort name:asc
  nearsight image list --status active,deactivated --columns id,name,os_distro
  nearsight image list --visibility shared --member-status pending
  nearsight image list --created-after 2026-01-01 --size-min 1GiB --json`,
		Args: takes(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			q, err := f.query(cmd)
			if err != nil {
				return err
			}
			columns, err := f.columns(cmd)
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
			return printImages(cmd, images, columns)
		},
	}
	f.register(cmd)
	return cmd
}

// listFlags say which images a list shows, and what of them.
type listFlags struct {
	names, ids, statuses, diskFormats, containerFormats      []string
	visibility, memberStatus, owner, checksum, hash, sort    string
	createdAfter, createdBefore, updatedAfter, updatedBefore string
	tags, properties                                         []string
	hidden, protected                                        bool
	sizeMin, sizeMax, virtualMin, virtualMax                 Size
	ram, disk                                                int64
	limit                                                    int
	marker, shown                                            string
	long                                                     bool
}

func (f *listFlags) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringArrayVar(&f.names, "name", nil, "only images with this name; may be repeated, for any of these")
	flags.StringSliceVar(&f.ids, "id", nil, "only images with one of these `IDS`")
	flags.StringSliceVar(&f.statuses, "status", nil, "only images with one of these `STATUSES`: queued, active, ...")
	flags.StringVar(&f.visibility, "visibility", "", "only public, community, shared or private images; all for all of these")
	flags.StringVar(&f.memberStatus, "member-status", "", "of images that others share: pending, accepted, rejected or all (default accepted)")
	flags.StringVar(&f.owner, "owner", "", "only images of this `PROJECT`")
	flags.StringSliceVar(&f.diskFormats, "disk-format", nil, "only images in one of these `FORMATS`")
	flags.StringSliceVar(&f.containerFormats, "container-format", nil, "only images in one of these container `FORMATS`")
	flags.StringArrayVar(&f.tags, "tag", nil, "only images with this tag; may be repeated, for all of these")
	flags.StringArrayVar(&f.properties, "property", nil, "only images with this property `KEY=VALUE`; may be repeated, for all of these")
	flags.StringVar(&f.checksum, "checksum", "", "only images whose data has this `MD5` sum")
	flags.StringVar(&f.hash, "hash", "", "only images whose data has this os_hash_value, a `SHA-512` sum")
	flags.BoolVar(&f.hidden, "hidden", false, "only hidden images, which are not listed otherwise")
	flags.BoolVar(&f.protected, "protected", false, "only protected images, or with =false only others")
	for _, size := range []struct {
		to         *Size
		name, text string
	}{
		{&f.sizeMin, "size-min", "only images of at least this `SIZE`: bytes, or a number with KiB, MiB, ..."},
		{&f.sizeMax, "size-max", "only images of at most this `SIZE`"},
		{&f.virtualMin, "virtual-size-min", "only images that are disks of at least this `SIZE`"},
		{&f.virtualMax, "virtual-size-max", "only images that are disks of at most this `SIZE`"},
	} {
		flags.Var((*sizeFlag)(size.to), size.name, size.text)
	}
	flags.Int64Var(&f.ram, "fits-ram", 0, "only images that need no more memory than so many `MiB`")
	flags.Int64Var(&f.disk, "fits-disk", 0, "only images that need no more disk than so many `GiB`")
	const when = " this `TIME`: 2026-12-31 or 2026-12-31T23:59:59Z"
	flags.StringVar(&f.createdAfter, "created-after", "", "only images created at or after"+when)
	flags.StringVar(&f.createdBefore, "created-before", "", "only images created before"+when)
	flags.StringVar(&f.updatedAfter, "updated-after", "", "only images changed at or after"+when)
	flags.StringVar(&f.updatedBefore, "updated-before", "", "only images changed before"+when)
	flags.StringVar(&f.sort, "sort", "", "order: `KEY[:asc|:desc],...`, descending unless it says asc; keys are name, status,\nsize, disk_format, container_format, id, created_at, updated_at (default created_at:desc)")
	flags.IntVar(&f.limit, "limit", 0, "at most so many images; 0 is all")
	flags.StringVar(&f.marker, "marker", "", "only images that come after the one with this `ID`")
	flags.StringVar(&f.shown, "columns", "", "what is shown: `NAME,...`")
	flags.BoolVar(&f.long, "long", false, "show more columns")
}

// A sizeFlag is a size on the command line.
type sizeFlag Size

func (s *sizeFlag) Set(text string) error { return (*Size)(s).UnmarshalText([]byte(text)) }
func (s *sizeFlag) String() string        { return strconv.FormatInt(int64(*s), 10) }
func (s *sizeFlag) Type() string          { return "size" }

// columns returns what is shown, nil for the usual.
func (f *listFlags) columns(cmd *cobra.Command) ([]column, error) {
	switch {
	case cmd.Flags().Changed("columns") && f.long:
		return nil, usagef("either --long or --columns says what is shown")
	case cmd.Flags().Changed("columns"):
		return parseColumns(f.shown)
	case f.long && !asked(cmd, "json"): // which has all there is
		return parseColumns(longColumns)
	}
	return nil, nil
}

// pageOf returns the length of the pages that are asked for when at most so many
// are wanted.
func pageOf(limit int) (int, error) {
	const most = 500
	switch {
	case limit < 0:
		return 0, usagef("--limit %d is less than 0", limit)
	case limit == 0:
		return most, nil
	}
	return min(most, limit), nil
}

func (f *listFlags) query(cmd *cobra.Command) (registry.Query, error) {
	q := registry.Query{
		Visibility: registry.Visibility(f.visibility), MemberStatus: registry.MemberStatus(f.memberStatus),
		Tags: f.tags, Marker: f.marker,
	}
	var err error
	if q.Limit, err = pageOf(f.limit); err != nil {
		return q, err
	}
	changed := cmd.Flags().Changed
	for _, m := range []struct {
		flag, column string
		values       []string
	}{
		{"name", "name", f.names},
		{"id", "id", f.ids},
		{"status", "status", f.statuses},
		{"owner", "owner", []string{f.owner}},
		{"disk-format", "disk_format", f.diskFormats},
		{"container-format", "container_format", f.containerFormats},
		{"checksum", "checksum", []string{f.checksum}},
		{"hash", "os_hash_value", []string{f.hash}},
	} {
		if changed(m.flag) {
			q.Match = append(q.Match, registry.Match{Column: m.column, Values: m.values})
		}
	}
	q.Bounds = f.bounds(changed)
	if changed("hidden") {
		q.Hidden = &f.hidden
	}
	if changed("protected") {
		q.Protected = &f.protected
	}
	if q.Times, err = f.times(); err != nil {
		return q, err
	}
	if q.Properties, err = parsePairs("--property", f.properties); err != nil {
		return q, err
	}
	q.Sort, err = parseSort(f.sort)
	return q, err
}

func (f *listFlags) bounds(changed func(flag string) bool) []registry.Bound {
	var bounds []registry.Bound
	for _, b := range []struct {
		flag, column string
		value        int64
		least        bool
	}{
		{"size-min", "size", int64(f.sizeMin), true},
		{"size-max", "size", int64(f.sizeMax), false},
		{"virtual-size-min", "virtual_size", int64(f.virtualMin), true},
		{"virtual-size-max", "virtual_size", int64(f.virtualMax), false},
		{"fits-ram", "min_ram", f.ram, false},
		{"fits-disk", "min_disk", f.disk, false},
	} {
		switch {
		case !changed(b.flag):
		case b.least:
			bounds = append(bounds, registry.Bound{Column: b.column, Min: &b.value})
		default:
			bounds = append(bounds, registry.Bound{Column: b.column, Max: &b.value})
		}
	}
	return bounds
}

func (f *listFlags) times() ([]registry.TimeBound, error) {
	var times []registry.TimeBound
	for _, t := range []struct{ flag, column, op, text string }{
		{"created-after", "created_at", "gte", f.createdAfter},
		{"created-before", "created_at", "lt", f.createdBefore},
		{"updated-after", "updated_at", "gte", f.updatedAfter},
		{"updated-before", "updated_at", "lt", f.updatedBefore},
	} {
		if t.text == "" {
			continue
		}
		at, err := time.Parse(time.DateOnly, t.text)
		if err != nil {
			if at, err = time.Parse(time.RFC3339, t.text); err != nil {
				return nil, usagef("--%s %q is not like 2026-12-31 or 2026-12-31T23:59:59Z", t.flag, t.text)
			}
		}
		times = append(times, registry.TimeBound{Column: t.column, Op: t.op, Time: at})
	}
	return times, nil
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

// printImages writes a list: of each image what columns say, or for nil the usual.
func printImages(cmd *cobra.Command, images []*registry.Image, columns []column) error {
	if asked(cmd, "json") {
		list := []json.RawMessage{}
		for _, img := range images {
			raw, err := imageJSON(img)
			if err == nil && columns != nil {
				raw, err = only(img, raw, columns)
			}
			if err != nil {
				return err
			}
			list = append(list, raw)
		}
		return printJSON(cmd, list)
	}
	if columns == nil {
		var err error
		if columns, err = parseColumns(briefColumns); err != nil {
			return err
		}
	}
	var heads []string
	for _, c := range columns {
		heads = append(heads, c.heading())
	}
	rows := [][]string{heads}
	for _, img := range images {
		var row []string
		for _, c := range columns {
			row = append(row, orDash(c.text(img)))
		}
		rows = append(rows, row)
	}
	return printTable(cmd, rows)
}
