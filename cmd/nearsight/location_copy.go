package main

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"nearsight/registry"
	"nearsight/registry/client"
)

func newImageCopyCommand() *cobra.Command {
	var to []string
	var all bool
	var w waitFlags
	cmd := &cobra.Command{
		Use:   "copy ID|NAME --to STORE[,STORE...] | copy ID|NAME --to-all",
		Short: "Copy the data of an image to further stores",
		Long: `
Copy the data of an image to further stores. The server does so by itself, after
this command has ended unless it says --wait, and verifies every byte. A copy
shows among the locations when it is whole.

With --wait the exit status tells whether it succeeded; without it image tasks does.
After a failure the same command tries again what is missing.`,
		Example: `  nearsight image copy debian --to ceph,disks --wait --timeout 1h
  nearsight image copy debian --to-all`,
		Args: takes(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case all && len(to) > 0:
				return usagef("--to-all leaves no stores to be named with --to")
			case !all && (len(to) == 0 || slices.Contains(to, "")):
				return usagef("copy to which stores? Say --to STORE[,STORE...] or --to-all; store ls lists them")
			}
			if err := w.check(); err != nil {
				return err
			}
			return withImage(cmd, args[0], func(c *client.Client, img *registry.Image) error {
				return copyImage(cmd, c, img, to, &w)
			})
		},
	}
	cmd.Flags().StringSliceVar(&to, "to", nil, "`STORES` to copy it to, with commas")
	cmd.Flags().BoolVar(&all, "to-all", false, "copy it to all stores that lack it and take data")
	w.register(cmd, "the copies are whole")
	return cmd
}

// copyImage has an image copied to stores, or to all if none are named.
func copyImage(cmd *cobra.Command, c *client.Client, img *registry.Image, to []string, w *waitFlags) error {
	if err := c.CopyTo(cmd.Context(), img.ID, to...); err != nil {
		return err
	}
	if !w.wait {
		note(cmd, "the server copies; nearsight image location ls %s shows what is done", img.ID)
		return nil
	}
	what := "copying to all stores"
	if len(to) > 0 {
		what = "copying to " + strings.Join(to, ", ")
	}
	img, err := w.awaitImported(cmd, c, img.ID, what)
	if err != nil {
		return err
	}
	return printLocations(cmd, locationsOf(img))
}
