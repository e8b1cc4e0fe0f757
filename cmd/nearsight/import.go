package main

import (
	"slices"

	"github.com/spf13/cobra"

	"nearsight/registry"
	"nearsight/registry/client"
)

// storeFlags say where data goes, for commands that can write to several stores.
type storeFlags struct {
	stores          []string
	all, allowFails bool
}

func (f *storeFlags) register(cmd *cobra.Command) {
	cmd.Flags().StringSliceVar(&f.stores, "store", nil, "`NAME` of the store that takes the data; an import takes several, with commas")
	cmd.Flags().BoolVar(&f.all, "all-stores", false, "to all stores that take data")
	cmd.Flags().BoolVar(&f.allowFails, "allow-failures", false, "make do with the stores that could be written, if there is one")
}

func (f *storeFlags) check() error {
	switch {
	case f.all && len(f.stores) > 0:
		return usagef("--all-stores leaves no stores to be named with --store")
	case slices.Contains(f.stores, ""):
		return usagef("--store is empty: store ls lists them")
	}
	return nil
}

// one returns the name of the one store, for data that this command sends.
func (f *storeFlags) one() (string, error) {
	switch {
	case len(f.stores) > 1 || f.all:
		return "", usagef("what this machine sends goes to one store: image copy copies it to others")
	case f.allowFails:
		return "", usagef("--allow-failures is for several stores")
	case len(f.stores) == 1:
		return f.stores[0], nil
	}
	return "", nil
}

func newImageStageCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "stage ID|NAME --file FILE",
		Short: "Send data for an image that is imported later",
		Long: `
Send data for an image that is imported later. The server keeps it aside; the image
can be used after image import --method glance-direct, which can put it into several
stores at once. image upload does both in one step, for one store.`,
		Example: `  nearsight image stage debian --file debian.qcow2
  nearsight image import debian --method glance-direct --all-stores --watch`,
		Args: takes(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if file == "" {
				return usagef("--file is missing: - is standard input")
			}
			return withImage(cmd, args[0], func(c *client.Client, img *registry.Image) error {
				s, err := openSource(cmd, file)
				if err != nil {
					return err
				}
				defer s.close()
				b := newBar(cmd, "stage")
				err = c.Stage(cmd.Context(), img.ID, &countingReader{r: s.r, bar: b, total: s.size}, s.size)
				b.end()
				if err != nil {
					return err
				}
				if img, err = c.Get(cmd.Context(), img.ID); err != nil {
					return err
				}
				return printImage(cmd, img)
			})
		},
	}
	cmd.Flags().StringVar(&file, "file", "", "`FILE` with the data, - for standard input")
	return cmd
}

// importFlags say what to import.
type importFlags struct {
	method, uri, region, remote string
	storeFlags
	waitFlags
}

func newImageImportCommand() *cobra.Command {
	var f importFlags
	cmd := &cobra.Command{
		Use:   "import ID|NAME",
		Short: "Have the server bring data into an image",
		Long: `
Have the server bring data into an image. It does so by itself, after this command
has ended unless it says --watch; image tasks shows how far it is.

  glance-direct    data that image stage sent
  web-download     data at the http or https URL of --uri
  glance-download  the image --remote of another --region, with its formats
  copy-image       copies in further stores, of an image that has its data

The method follows from --uri or --region, and is glance-direct without them; info
lists those that the server has. If it fails the image is as it was before.`,
		Example: `  nearsight image import debian --uri https://mirror.example.org/debian.qcow2 --watch
  nearsight image import debian --method glance-direct --store ceph,disks
  nearsight image import debian --region east --remote 5bd10d31-7b8e-4f40-9ef9-f2b6b3b4a4a1`,
		Args: takes(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.check(); err != nil {
				return err
			}
			return withImage(cmd, args[0], func(c *client.Client, img *registry.Image) error {
				img, err := f.order(cmd, c, img)
				if err == nil {
					img, err = f.await(cmd, c, img)
				}
				if err != nil {
					return err
				}
				return printImage(cmd, img)
			})
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.method, "method", "", "`METHOD`: glance-direct, web-download, glance-download or copy-image")
	flags.StringVar(&f.uri, "uri", "", "http or https `URL` with the data, for web-download")
	flags.StringVar(&f.region, "region", "", "`NAME` of the region that has it, for glance-download")
	flags.StringVar(&f.remote, "remote", "", "`ID` of the image there")
	f.storeFlags.register(cmd)
	f.waitFlags.register(cmd, "the data is there")
	return cmd
}

// way returns the method.
func (f *importFlags) way() string {
	switch {
	case f.method != "":
		return f.method
	case f.uri != "":
		return client.WebDownload
	case f.region != "":
		return client.PeerImage
	}
	return client.Direct
}

func (f *importFlags) check() error {
	method := f.way()
	peer := method == client.PeerImage
	switch {
	case (method == client.WebDownload) != (f.uri != ""):
		return usagef("--uri is for --method web-download, which needs it")
	case peer != (f.region != "") || peer != (f.remote != ""):
		return usagef("--region and --remote are for --method glance-download, which needs them")
	case peer && !client.IsID(f.remote):
		return usagef("--remote %q is not a UUID", f.remote)
	case f.uri != "":
		if err := checkWebURL("--uri", f.uri); err != nil {
			return err
		}
	}
	if err := f.storeFlags.check(); err != nil {
		return err
	}
	return f.waitFlags.check()
}

// order has the server import.
func (f *importFlags) order(cmd *cobra.Command, c *client.Client, img *registry.Image) (*registry.Image, error) {
	err := c.Import(cmd.Context(), img.ID, client.ImportOptions{
		Method: f.way(), URI: f.uri, Region: f.region, RegionImageID: f.remote,
		Stores: f.stores, AllStores: f.all, AllowFailures: f.allowFails,
	})
	if err != nil {
		return nil, err
	}
	return c.Get(cmd.Context(), img.ID)
}

// await waits for the end of the import, if the user wants that.
func (f *importFlags) await(cmd *cobra.Command, c *client.Client, img *registry.Image) (*registry.Image, error) {
	if f.wait {
		return f.awaitImported(cmd, c, img.ID, "import")
	}
	note(cmd, "the server imports; nearsight image tasks %s shows how far it is", img.ID)
	return img, nil
}
