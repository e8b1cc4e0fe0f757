package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"nearsight/registry"
	"nearsight/registry/client"
)

// withImage calls do with the image that ref names.
func withImage(cmd *cobra.Command, ref string, do func(*client.Client, *registry.Image) error) error {
	c, err := newClient(cmd)
	if err != nil {
		return err
	}
	defer c.Close()
	img, err := findImage(cmd.Context(), c, ref)
	if err != nil {
		return err
	}
	return do(c, img)
}

// findImage returns the image with this id or, if there is none, this name.
func findImage(ctx context.Context, c *client.Client, ref string) (*registry.Image, error) {
	if ref == "" {
		return nil, usagef("the image's id or name is empty")
	}
	if client.IsID(ref) {
		img, err := c.Get(ctx, ref)
		if !errors.Is(err, registry.ErrNotFound) {
			return img, err
		}
	}
	var found []*registry.Image
	for _, hidden := range []bool{false, true} {
		q := registry.Query{
			Match:      []registry.Match{{Column: "name", Values: []string{ref}}},
			Visibility: registry.AllVisibilities, MemberStatus: registry.AllMemberStatuses,
			Hidden: &hidden,
		}
		for img, err := range c.List(ctx, q) {
			if err != nil {
				return nil, err
			}
			found = append(found, img)
		}
	}
	switch len(found) {
	case 0:
		return nil, fmt.Errorf("%q: %w", ref, registry.ErrNotFound)
	case 1:
		return found[0], nil
	}
	const most = 10
	var ids []string
	for _, img := range found[:min(most, len(found))] {
		ids = append(ids, img.ID)
	}
	if len(found) > most {
		ids = append(ids, "...")
	}
	return nil, fmt.Errorf("%q is the name of %d images, say which by id: %s", ref, len(found), strings.Join(ids, ", "))
}
