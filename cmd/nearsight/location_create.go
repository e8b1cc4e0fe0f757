package main

import (
	"path"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"nearsight/registry"
	"nearsight/registry/client"
)

// formatOf returns the disk format that the name in a URL speaks of, or "".
func formatOf(webURL string) string {
	name, _, _ := strings.Cut(webURL, "?")
	name, _, _ = strings.Cut(name, "#")
	format := strings.ToLower(strings.TrimPrefix(path.Ext(name), "."))
	if slices.Contains([]string{"qcow2", "raw", "vmdk", "vhd", "vhdx", "vdi", "iso"}, format) {
		return format
	}
	return ""
}

// createFromURL creates an image whose data is at a URL. It leaves nothing behind
// when that fails, unless the user chose the id.
func createFromURL(cmd *cobra.Command, c *client.Client, img *registry.Image, from *dataFlags) (*registry.Image, error) {
	if img.ContainerFormat == "" {
		img.ContainerFormat = "bare"
	}
	if img.DiskFormat == "" {
		if img.DiskFormat = formatOf(from.url); img.DiskFormat == "" {
			return nil, usagef("say --disk-format: the name in the URL does not tell it")
		}
		note(cmd, "the disk format seems to be %s", img.DiskFormat)
	}
	keep := img.ID != ""
	created, err := c.Create(cmd.Context(), img)
	if err != nil {
		return nil, err
	}
	if img, err = c.AddLocation(cmd.Context(), created.ID, from.url, nil); err != nil {
		return nil, takeBack(cmd, c, created.ID, keep, err)
	}
	return from.awaitHashed(cmd, c, img)
}
