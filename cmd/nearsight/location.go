package main

import (
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"nearsight/registry"
	"nearsight/registry/client"
)

// storeKey is the key in the metadata of a location under which a server with
// several stores says which one it is.
const storeKey = "store"

func newImageLocationCommand() *cobra.Command {
	cmd := newGroup("location", "Say where the data of an image is", `
Say where the data of an image is. It can be in several places that hold the same
bytes: stores of the server, and URLs of others. If one fails the next is read.`)
	cmd.Example = `  nearsight image location ls debian
  nearsight image location add debian https://mirror.example.org/debian.qcow2
  nearsight image location rm debian --store disks`
	cmd.AddCommand(newLocationListCommand(), newLocationAddCommand(), newLocationRemoveCommand())
	return cmd
}

func newLocationListCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "ls ID|NAME",
		Short:   "List the locations of an image, the one that is read first first",
		Example: "  nearsight image location ls debian",
		Args:    takes(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withImage(cmd, args[0], func(c *client.Client, img *registry.Image) error {
				locations, err := c.Locations(cmd.Context(), img.ID)
				if err != nil {
					return err
				}
				return printLocations(cmd, locations)
			})
		},
	}
}

// printLocations writes locations.
func printLocations(cmd *cobra.Command, locations []client.Location) error {
	if asked(cmd, "json") {
		return printJSON(cmd, append([]client.Location{}, locations...))
	}
	rows := [][]string{{"STORE", "URL", "METADATA"}}
	for _, l := range locations {
		rows = append(rows, []string{orDash(l.Metadata[storeKey]), l.URL, orDash(metadataText(l.Metadata))})
	}
	return printTable(cmd, rows)
}

// metadataText writes the metadata that clients gave.
func metadataText(metadata map[string]string) string {
	own := make(map[string]string, len(metadata))
	for key, value := range metadata {
		if key != storeKey {
			own[key] = value
		}
	}
	return pairsText(own)
}

func newLocationAddCommand() *cobra.Command {
	var metadata []string
	var w waitFlags
	cmd := &cobra.Command{
		Use:   "add ID|NAME URL",
		Short: "Tell the server a URL that has the data of an image",
		Long: `
Tell the server an http or https URL that has the data of an image. An image
without data becomes active with it: the server reads the data once to hash it,
and keeps no copy. For an image with data it is a further place, which must hold
the same bytes; what it hands out is verified.

URLs hold no credentials. The server's configuration has them, and says which
hosts and networks may be read at all.`,
		Example: `  nearsight image location add debian https://mirror.example.org/debian.qcow2 --wait`,
		Args:    takes(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := w.check(); err != nil {
				return err
			}
			if err := checkWebURL("URL", args[1]); err != nil {
				return err
			}
			pairs, err := parsePairs("--metadata", metadata)
			if err != nil {
				return err
			}
			return withImage(cmd, args[0], func(c *client.Client, img *registry.Image) error {
				if img, err = c.AddLocation(cmd.Context(), img.ID, args[1], pairs); err != nil {
					return err
				}
				if img, err = w.awaitHashed(cmd, c, img); err != nil {
					return err
				}
				return printImage(cmd, img)
			})
		},
	}
	cmd.Flags().StringArrayVar(&metadata, "metadata", nil, "what is kept beside the location, `KEY=VALUE`; may be repeated")
	w.register(cmd, "the data is hashed")
	return cmd
}

func newLocationRemoveCommand() *cobra.Command {
	var store string
	cmd := &cobra.Command{
		Use:   "rm ID|NAME URL | rm ID|NAME --store NAME",
		Short: "Delete the data of an image in one place, and leave it in others",
		Long: `
Delete the data of an image in one place: in a store, or at a URL as image
location ls shows it. What the server did not write it only forgets. The last
place cannot go: image delete deletes the image with all its data.`,
		Example: `  nearsight image location rm debian --store disks
  nearsight image location rm debian https://mirror.example.org/debian.qcow2`,
		Args: takes(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			byStore := cmd.Flags().Changed("store")
			switch {
			case byStore && len(args) == 2:
				return usagef("either a URL or --store says which location goes, not both")
			case !byStore && len(args) == 1, byStore && store == "":
				return usagef("which location? Give its URL, or --store NAME")
			}
			return withImage(cmd, args[0], func(c *client.Client, img *registry.Image) error {
				if byStore {
					return c.RemoveFrom(cmd.Context(), img.ID, store)
				}
				_, err := c.RemoveLocation(cmd.Context(), img.ID, args[1])
				return err
			})
		},
	}
	cmd.Flags().StringVar(&store, "store", "", "`NAME` of the store whose data goes")
	return cmd
}

// locationsOf returns where the data of an image is, as its record tells.
func locationsOf(img *registry.Image) []client.Location {
	var locations []client.Location
	for _, l := range img.Locations {
		metadata := img.LocationMetadata[l.URL]
		if metadata == nil {
			metadata = map[string]string{} // as the API shows none
		}
		locations = append(locations, client.Location{URL: l.URL, Metadata: metadata})
	}
	return locations
}

// storesOf returns the names of the stores that have the data of an image, each
// once. It is nothing where there is one store only.
func storesOf(img *registry.Image) []string {
	var names []string
	for _, l := range locationsOf(img) {
		if name := l.Metadata[storeKey]; name != "" && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

// locationRows are the rows of an image that say where its data is.
func locationRows(img *registry.Image) [][]string {
	var rows [][]string
	if names := storesOf(img); len(names) > 0 {
		rows = append(rows, []string{"stores", strings.Join(names, ", ")})
	}
	for _, l := range locationsOf(img) {
		rows = append(rows, []string{"location", strings.TrimSpace(l.URL + " " + metadataText(l.Metadata))})
	}
	return rows
}

// imageJSON returns the JSON form of an image with where its data is, as far as
// the server tells.
func imageJSON(img *registry.Image) (json.RawMessage, error) {
	raw, err := client.MarshalImage(img)
	if err != nil || len(img.Locations) == 0 {
		return raw, err
	}
	type places struct {
		Locations []client.Location `json:"locations"`
		Stores    string            `json:"stores,omitempty"` // as the API has it
	}
	more, err := json.Marshal(places{locationsOf(img), strings.Join(storesOf(img), ",")})
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", img.ID, err)
	}
	return slices.Concat(raw[:len(raw)-1], []byte(","), more[1:]), nil
}

// checkWebURL refuses early what the server would not take.
func checkWebURL(what, text string) error {
	u, err := url.Parse(text)
	switch {
	case err != nil, u.Host == "", u.Scheme != "http" && u.Scheme != "https":
		return usagef("%s is not like https://mirror.example.org/debian.qcow2", what)
	case u.User != nil:
		return usagef("%s holds credentials, and everybody would see them: they belong into the server's configuration", what)
	}
	return nil
}
