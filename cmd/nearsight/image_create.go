package main

import (
	"errors"
	"path"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"nearsight/registry"
	"nearsight/registry/client"
)

func newImageCreateCommand() *cobra.Command {
	var f imageFlags
	var id string
	var from dataFlags
	cmd := &cobra.Command{
		Use:   "create",
		Short: "Create an image, with its data if there is a file or a URL",
		Long: `
Create an image. With --file it gets its data at once: the container format is
bare then unless said otherwise, and the disk format is guessed from the bytes of
the file.

With --from-url the server fetches the data from an http or https URL and keeps it;
--watch shows how far it is. With --location the data stays where it is: the image
can be used at once, and the server reads the data once to hash it and caches it from
then on. For both the disk format is guessed from the name in the URL.

If that fails or is interrupted, the image is deleted again, but for a --wait that
is interrupted. Not so with --id: a deleted id could never be used again, so the
image stays without data, for image upload, import or location add to try again.`,
		Example: `  nearsight image create --name debian --file debian.qcow2
  nearsight image create --name debian --file debian.qcow2 --store ceph --share-with build
  nearsight image create --name debian --from-url https://mirror.example.org/debian.qcow2 --watch
  nearsight image create --name debian --location https://mirror.example.org/debian.qcow2
  zcat debian.raw.gz | nearsight image create --name debian --file - --public --min-disk 4`,
		Args: takes(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			img, err := f.image(cmd)
			if err != nil {
				return err
			}
			if id != "" && !client.IsID(id) {
				return usagef("--id %q is not a UUID", id)
			}
			if err := from.check(cmd, img); err != nil {
				return err
			}
			img.ID = id
			c, err := newClient(cmd)
			if err != nil {
				return err
			}
			defer c.Close()
			if img, err = from.create(cmd, c, img); err != nil {
				return err
			}
			return printImage(cmd, img)
		},
	}
	f.register(cmd)
	flags := cmd.Flags()
	flags.StringVar(&id, "id", "", "id, a `UUID`; made by the server if it is not given")
	flags.StringVar(&from.file, "file", "", "`FILE` with the data, - for standard input")
	flags.StringVar(&from.url, "from-url", "", "http or https `URL` that the server fetches the data from")
	flags.StringVar(&from.location, "location", "", "http or https `URL` where the data is and stays")
	flags.StringSliceVar(&from.shareWith, "share-with", nil, "`PROJECTS` that can use it too, with commas")
	from.storeFlags.register(cmd)
	from.waitFlags.register(cmd, "the data at the URL is there, or hashed")
	return cmd
}

// dataFlags say where the data of a new image comes from, and who may have it.
type dataFlags struct {
	file, url, location string
	shareWith           []string
	storeFlags
	waitFlags
}

func (f *dataFlags) check(cmd *cobra.Command, img *registry.Image) error {
	given := func(flag string) bool { return cmd.Flags().Changed(flag) }
	sources := 0
	for _, flag := range []string{"file", "from-url", "location"} {
		if given(flag) {
			sources++
		}
	}
	switch {
	case sources > 1:
		return usagef("the data comes either from --file or --from-url or --location, not from several")
	case given("file") && f.file == "":
		return usagef("--file is empty: - is standard input")
	case (len(f.stores) > 0 || f.all || f.allowFails) && f.file == "" && f.url == "":
		return usagef("--store is for --file and --from-url: it says which store takes it")
	case f.wait && f.url == "" && f.location == "":
		return usagef("--wait is for --from-url and --location")
	case len(f.shareWith) > 0 && img.Visibility != "" && img.Visibility != registry.Shared:
		return usagef("--share-with is for images whose visibility is shared")
	case given("from-url"):
		if err := checkWebURL("--from-url", f.url); err != nil {
			return err
		}
	case given("location"):
		if err := checkWebURL("--location", f.location); err != nil {
			return err
		}
	case f.file != "":
		if _, err := f.one(); err != nil {
			return err
		}
	}
	if err := f.storeFlags.check(); err != nil {
		return err
	}
	return f.waitFlags.check()
}

// create creates an image with its data. It leaves nothing behind when that fails,
// unless the user chose the id.
func (f *dataFlags) create(cmd *cobra.Command, c *client.Client, img *registry.Image) (*registry.Image, error) {
	type step func(*registry.Image) (*registry.Image, error)
	same := func(img *registry.Image) (*registry.Image, error) { return img, nil }
	var guess func() (string, error) // nil: it gets no data
	var fill, wait step = same, same
	switch {
	case f.file != "":
		store, _ := f.one() // checked
		s, err := openSource(cmd, f.file)
		if err != nil {
			return nil, err
		}
		defer s.close()
		guess = s.format
		fill = func(img *registry.Image) (*registry.Image, error) { return upload(cmd, c, img.ID, store, s) }
	case f.url != "":
		i := importFlags{storeFlags: f.storeFlags, waitFlags: f.waitFlags, uri: f.url}
		guess = func() (string, error) { return formatOf(f.url) }
		fill = func(img *registry.Image) (*registry.Image, error) { return i.order(cmd, c, img) }
		wait = func(img *registry.Image) (*registry.Image, error) { return i.await(cmd, c, img) }
	case f.location != "":
		guess = func() (string, error) { return formatOf(f.location) }
		fill = func(img *registry.Image) (*registry.Image, error) {
			return c.AddLocation(cmd.Context(), img.ID, f.location, nil)
		}
		wait = func(img *registry.Image) (*registry.Image, error) { return f.awaitHashed(cmd, c, img) }
	}
	if guess != nil {
		if err := setFormats(cmd, img, guess); err != nil {
			return nil, err
		}
	}
	keep := img.ID != ""
	created, err := c.Create(cmd.Context(), img)
	if err != nil {
		return nil, err
	}
	if err = shareWith(cmd.Context(), c, created.ID, f.shareWith); err == nil {
		img, err = fill(created)
	}
	if err == nil {
		if img, err = wait(img); !isTaskError(err) {
			return img, err
		}
	}
	return nil, takeBack(cmd, c, created.ID, keep, err)
}

// setFormats completes the formats of an image that gets data.
func setFormats(cmd *cobra.Command, img *registry.Image, guess func() (string, error)) error {
	if img.ContainerFormat == "" {
		img.ContainerFormat = "bare"
	}
	if img.DiskFormat != "" {
		return nil
	}
	format, err := guess()
	if err != nil {
		return err
	}
	img.DiskFormat = format
	note(cmd, "the disk format seems to be %s", format)
	return nil
}

// isTaskError reports whether the server tried something and failed.
func isTaskError(err error) bool {
	var failed *client.TaskError
	return errors.As(err, &failed)
}

// formatOf returns the disk format that the name in a URL speaks of.
func formatOf(webURL string) (string, error) {
	name, _, _ := strings.Cut(webURL, "?")
	name, _, _ = strings.Cut(name, "#")
	format := strings.ToLower(strings.TrimPrefix(path.Ext(name), "."))
	if !slices.Contains([]string{"qcow2", "raw", "vmdk", "vhd", "vhdx", "vdi", "iso", "ploop"}, format) {
		return "", usagef("say --disk-format: the name in the URL does not tell it")
	}
	return format, nil
}
