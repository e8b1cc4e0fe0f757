package main

import (
	"strconv"

	"github.com/spf13/cobra"

	"nearsight/registry"
	"nearsight/registry/client"
)

func newImageViewsCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "views ID|NAME",
		Short: "List the formats in which the disk in an image can be had",
		Long: `
List the formats in which the disk in an image can be had, with their lengths in
bytes. Whatever the image is stored as, the server computes the others as they are
read: each has a URL with ranges, from which programs like qemu-img read what they
need. There is none for encrypted disks, nor within archives.`,
		Example: `  nearsight image views debian
  nearsight image save debian --as vmdk --file debian.vmdk`,
		Args: takes(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withImage(cmd, args[0], func(c *client.Client, img *registry.Image) error {
				views, err := c.Views(cmd.Context(), img.ID)
				if err != nil {
					return err
				}
				if asked(cmd, "json") {
					return printJSON(cmd, append([]client.View{}, views...))
				}
				rows := [][]string{{"NAME", "SIZE", "URL"}}
				for _, v := range views {
					rows = append(rows, []string{v.Name, strconv.FormatInt(v.Size, 10), v.URL})
				}
				return printTable(cmd, rows)
			})
		},
	}
}
