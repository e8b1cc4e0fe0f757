package main

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"nearsight/registry"
	"nearsight/registry/client"
)

func newAddCommand() *cobra.Command {
	t := &tool{}
	return t.command(&cobra.Command{
		Use:   "add name=NAME [FIELD=VALUE...] [< FILE]",
		Short: "Add an image, with its data from standard input",
		Long: `
Add an image, with its data from standard input, or at location=URL, or from
copy_from=URL. Fields are id, name, disk_format (raw if it is not given),
container_format (ovf), is_public (False), protected, min_ram, min_disk, owner, store,
size and checksum; any other is a custom property.`,
		Example: `  nearsight add name=debian disk_format=qcow2 container_format=bare is_public=True < debian.qcow2
  nearsight add name=debian location=https://mirror.example.org/debian.raw distro=debian`,
		Args: takes(1, -1),
	}, func(cmd *cobra.Command, args []string, v *client.V1) error {
		fields, err := parseFields(args)
		if err != nil {
			return err
		}
		for name, value := range map[string]string{"disk_format": "raw", "container_format": "ovf", "is_public": "False"} {
			fields[name] = cmp.Or(fields[name], value)
		}
		if fields["name"] == "" {
			return usagef("an image needs a name: name=NAME")
		}
		img, err := record(fields, func(field string) { note(cmd, "%s is the server's to say; it is left out", field) })
		if err != nil {
			return err
		}
		data, err := dataFor(cmd, img)
		if err != nil {
			return err
		}
		if data != nil {
			defer data.close()
		}
		if v == nil {
			say(cmd, "Add new image with metadata:")
			sayFields(cmd, fields)
			return nil
		}
		if img, err = add(cmd, v, img, data); err != nil {
			return err
		}
		say(cmd, "Added new image with ID: %s", img.ID)
		if t.verbose {
			sayImage(cmd, img)
		}
		return nil
	})
}

// dataFor opens the data of a new image, nil if it is elsewhere or comes later.
func dataFor(cmd *cobra.Command, img *client.V1Image) (*source, error) {
	there, err := isData(cmd)
	if err != nil || !there {
		return nil, err
	}
	elsewhere := img.Location != "" || img.CopyFrom != ""
	f, isFile := cmd.InOrStdin().(*os.File)
	if elsewhere && !isFile {
		return nil, nil
	}
	if elsewhere {
		info, err := f.Stat()
		if err != nil {
			return nil, err
		}
		if info.Mode().IsRegular() && info.Size() > 0 { // whether a pipe has data nobody knows
			return nil, usagef("the data is either on standard input or at a URL, not both")
		}
		return nil, nil
	}
	return openSource(cmd, "-")
}

// add sends an image with its data, which may be nil.
func add(cmd *cobra.Command, v *client.V1, img *client.V1Image, data *source) (*client.V1Image, error) {
	if data == nil {
		return v.AddImage(cmd.Context(), img, nil)
	}
	if img.Size == nil && data.size >= 0 {
		img.Size = &data.size
	}
	b := newBar(cmd, "upload")
	defer b.end()
	return v.AddImage(cmd.Context(), img, &countingReader{r: data.r, bar: b, total: data.size})
}

func newUpdateCommand() *cobra.Command {
	t := &tool{}
	return t.command(&cobra.Command{
		Use:   "update ID FIELD=VALUE...",
		Short: "Change fields of an image, and replace its custom properties",
		Long: `
Change fields of an image: name, is_public, protected, min_ram, min_disk, owner, and
before it has data disk_format, container_format and location. Other fields are custom
properties; those that are not named are removed.`,
		Example: `  nearsight update 5bd10d31-7b8e-4f40-9ef9-f2b6b3b4a4a1 is_public=True distro=debian`,
		Args:    takes(2, -1),
	}, func(cmd *cobra.Command, args []string, v *client.V1) error {
		fields, err := parseFields(args[1:])
		if err != nil {
			return err
		}
		for _, field := range []string{"id", "size", "checksum"} {
			if _, ok := fields[field]; ok {
				note(cmd, "%s cannot be changed; it is left out", field)
				delete(fields, field)
			}
		}
		img, err := record(fields, func(field string) { note(cmd, "%s cannot be changed; it is left out", field) })
		if err != nil {
			return err
		}
		if v == nil {
			say(cmd, "Update existing image with metadata:")
			sayFields(cmd, fields)
			return nil
		}
		if img, err = v.UpdateImage(cmd.Context(), args[0], img, nil, true); err != nil {
			return err
		}
		say(cmd, "Updated image %s", args[0])
		if t.verbose {
			sayImage(cmd, img)
		}
		return nil
	})
}

func newDelete2011Command() *cobra.Command {
	t := &tool{}
	cmd := t.command(&cobra.Command{
		Use:     "delete ID",
		Short:   "Delete an image",
		Long:    "\nDelete an image for good. image delete deletes several, by name too.",
		Example: `  nearsight delete 5bd10d31-7b8e-4f40-9ef9-f2b6b3b4a4a1`,
		Args:    takes(1, 1),
	}, func(cmd *cobra.Command, args []string, v *client.V1) error {
		if v == nil {
			say(cmd, "Delete image %s", args[0])
			return nil
		}
		err := v.DeleteImage(cmd.Context(), args[0])
		switch {
		case errors.Is(err, registry.ErrNotFound):
			return fmt.Errorf("no image with ID %s was found", args[0])
		case err != nil:
			return err
		}
		say(cmd, "Deleted image %s", args[0])
		return nil
	})
	cmd.Flags().BoolP("force", "f", false, "do not ask, which it never does")
	return cmd
}

func newClearCommand() *cobra.Command {
	t := &tool{}
	var force bool
	cmd := t.command(&cobra.Command{
		Use:   "clear",
		Short: "Delete all public images",
		Long: `
Delete all public images that the caller may delete, for good. It asks, unless
--force is given, and fails in the end if one could not be deleted.`,
		Example: `  nearsight clear --dry-run
  nearsight clear --force`,
		Args: takes(0, 0),
	}, func(cmd *cobra.Command, _ []string, v *client.V1) error {
		if v == nil {
			opt, err := t.options(cmd)
			if err != nil {
				return err
			}
			if v, err = client.NewV1(opt); err != nil { // looking changes nothing
				return usageError{err}
			}
			defer v.Close()
		}
		images, err := list2011(cmd, v.Images, client.V1Query{Filters: map[string]string{"is_public": "True"}}, 0)
		if err != nil {
			return err
		}
		if t.dryRun || len(images) == 0 {
			for _, img := range images {
				say(cmd, "Delete image %s (%s)", img.ID, img.Name)
			}
			return nil
		}
		if !force {
			if err := confirm(cmd, fmt.Sprintf("Delete %d public images? [y/N] ", len(images))); err != nil {
				return err
			}
		}
		return clearAll(cmd, v, images)
	})
	cmd.Flags().BoolVarP(&force, "force", "f", false, "do not ask")
	return cmd
}

// clearAll deletes images. It goes on after an error.
func clearAll(cmd *cobra.Command, v *client.V1, images []*client.V1Image) error {
	var failed []error
	for _, img := range images {
		err := v.DeleteImage(cmd.Context(), img.ID)
		switch {
		case err == nil:
			say(cmd, "Deleted image %s (%s)", img.ID, img.Name)
		case !errors.Is(err, registry.ErrNotFound): // else another was faster
			failed = append(failed, fmt.Errorf("image %s (%s): %w", img.ID, img.Name, err))
		}
		if cmd.Context().Err() != nil {
			break
		}
	}
	return errors.Join(failed...)
}

// confirm asks a question. Anything but yes is an error.
func confirm(cmd *cobra.Command, question string) error {
	fmt.Fprint(cmd.ErrOrStderr(), question)
	line, err := bufio.NewReader(cmd.InOrStdin()).ReadString('\n')
	switch answer := strings.ToLower(strings.TrimSpace(line)); {
	case answer == "y" || answer == "yes":
		return nil
	case answer != "" || err == nil:
		return errors.New("nothing was deleted")
	case err == io.EOF:
		fmt.Fprintln(cmd.ErrOrStderr())
		return usagef("nothing was deleted: there was no answer; --force does not ask")
	default:
		return err
	}
}

// formatsOfTypes are the formats of what glance-upload knew as types.
var formatsOfTypes = map[string][2]string{
	"kernel":  {"aki", "aki"},
	"ramdisk": {"ari", "ari"},
	"machine": {"ami", "ami"},
	"raw":     {"raw", "bare"},
	"vhd":     {"vhd", "ovf"},
}

func newUploadCommand() *cobra.Command {
	t := &tool{}
	var kind, kernel, ramdisk, disk, container string
	cmd := t.command(&cobra.Command{
		Use:   "upload FILENAME NAME",
		Short: "Add a public image with the data of a file",
		Long: `
Add a public image with the data of a file, of a type: kernel, ramdisk, machine, raw
or vhd. --kernel and --ramdisk say which images a machine starts with.`,
		Example: `  nearsight upload vmlinuz linux --type kernel
  nearsight upload disk.img debian --type machine --kernel 5bd10d31-7b8e-4f40-9ef9-f2b6b3b4a4a1`,
		Args: takes(2, 2),
	}, func(cmd *cobra.Command, args []string, v *client.V1) error {
		formats, ok := formatsOfTypes[kind]
		if !ok {
			return usagef("--type %q is not kernel, ramdisk, machine, raw or vhd", kind)
		}
		img := &client.V1Image{
			Name: args[1], Public: new(true), Properties: map[string]string{},
			DiskFormat: cmp.Or(disk, formats[0]), ContainerFormat: cmp.Or(container, formats[1]),
		}
		for name, id := range map[string]string{"kernel_id": kernel, "ramdisk_id": ramdisk} {
			if id != "" {
				img.Properties[name] = id
			}
		}
		data, err := openSource(cmd, args[0])
		if err != nil {
			return err
		}
		defer data.close()
		if v == nil {
			say(cmd, "Upload %s as image %s, %s in %s", args[0], img.Name, img.DiskFormat, img.ContainerFormat)
			return nil
		}
		if img, err = add(cmd, v, img, data); err != nil {
			return err
		}
		say(cmd, "Stored image. Got identifier: %s", img.ID)
		sayImage(cmd, img)
		return nil
	})
	flags := cmd.Flags()
	flags.StringVar(&kind, "type", "raw", "`TYPE`: kernel, ramdisk, machine, raw or vhd")
	flags.StringVar(&kernel, "kernel", "", "`ID` of the kernel of a machine")
	flags.StringVar(&ramdisk, "ramdisk", "", "`ID` of the ramdisk of a machine")
	flags.StringVar(&disk, "disk-format", "", "disk format, in the place of that of the type")
	flags.StringVar(&container, "container-format", "", "container format, in the place of that of the type")
	return cmd
}
