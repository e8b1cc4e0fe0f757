package main

import (
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"nearsight/registry"
	"nearsight/registry/client"
)

// imageFlags are the fields of an image that create and set take.
type imageFlags struct {
	name, owner, diskFormat, containerFormat, visibility string
	protected, hidden                                    bool
	minRAM, minDisk                                      int
	properties, tags                                     []string
}

// visibilities are the words for who sees an image.
var visibilities = [...]registry.Visibility{registry.Public, registry.Community, registry.Shared, registry.Private}

func (f *imageFlags) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.name, "name", "", "`NAME`")
	flags.StringVar(&f.owner, "owner", "", "`PROJECT` that owns it; for admins")
	flags.StringVar(&f.diskFormat, "disk-format", "", "`FORMAT`: raw, qcow2, vmdk, vhd, vhdx, vdi, iso, ...")
	flags.StringVar(&f.containerFormat, "container-format", "", "`FORMAT`: bare, ova, ...")
	flags.StringVar(&f.visibility, "visibility", "", "`WHO` sees it: public, community, shared or private; --public and so on for short")
	for _, v := range visibilities {
		flags.Bool(string(v), false, "the same as --visibility "+string(v))
		flags.Lookup(string(v)).Hidden = true
	}
	flags.BoolVar(&f.protected, "protected", false, "refuse to delete it")
	flags.BoolVar(&f.hidden, "hidden", false, "leave it out of lists that do not ask for it")
	flags.IntVar(&f.minRAM, "min-ram", 0, "memory that it needs, in `MiB`")
	flags.IntVar(&f.minDisk, "min-disk", 0, "disk that it needs, in `GiB`")
	flags.StringArrayVar(&f.properties, "property", nil, "custom property `KEY=VALUE`; may be repeated")
	flags.StringArrayVar(&f.tags, "tag", nil, "`TAG`; may be repeated")
}

// check finds what does not go together, and brings the short flags of visibility
// into the long one.
func (f *imageFlags) check(cmd *cobra.Command) error {
	for _, v := range visibilities {
		switch {
		case !asked(cmd, string(v)):
		case f.visibility != "" && f.visibility != string(v):
			return usagef("an image is either %s or %s", f.visibility, v)
		default:
			f.visibility = string(v)
		}
	}
	for _, text := range slices.Concat([]string{f.name, f.owner}, f.properties, f.tags) {
		if !utf8.ValidString(text) { // JSON would have something else in its place
			return usagef("%q is not UTF-8", text)
		}
	}
	if cmd.Flags().Changed("owner") && f.owner == "" {
		return usagef("--owner is empty: an image that has an owner keeps one")
	}
	return nil
}

// image returns the record that the flags describe.
func (f *imageFlags) image(cmd *cobra.Command) (*registry.Image, error) {
	if err := f.check(cmd); err != nil {
		return nil, err
	}
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
	if f.owner != "" {
		img.Owner = &f.owner
	}
	return img, nil
}

// changes returns what the flags that were given change.
func (f *imageFlags) changes(cmd *cobra.Command) ([]client.Change, error) {
	if err := f.check(cmd); err != nil {
		return nil, err
	}
	properties, err := parsePairs("--property", f.properties)
	if err != nil {
		return nil, err
	}
	changed := cmd.Flags().Changed
	var changes []client.Change
	for _, field := range []struct {
		given bool
		name  string
		value any
	}{
		{changed("name"), "name", f.name},
		{changed("owner"), "owner", f.owner},
		{changed("disk-format"), "disk_format", f.diskFormat},
		{changed("container-format"), "container_format", f.containerFormat},
		{f.visibility != "" || changed("visibility"), "visibility", f.visibility},
		{changed("protected"), "protected", f.protected},
		{changed("hidden"), "os_hidden", f.hidden},
		{changed("min-ram"), "min_ram", f.minRAM},
		{changed("min-disk"), "min_disk", f.minDisk},
	} {
		if field.given {
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
