package main

import (
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"nearsight/registry"
	"nearsight/registry/client"
)

func newStoreCommand() *cobra.Command {
	cmd := newGroup("store", "Look at the stores of a server", `
Look at the stores of a server: the places where it keeps image data for good.
The server's configuration says which there are.`)
	cmd.Example = "  nearsight store ls"
	cmd.AddCommand(newStoreListCommand())
	return cmd
}

func newStoreListCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "ls",
		Short: "List the stores",
		Long: `
List the stores. One is the default: it takes the uploads that name none. Those
that are read-only take no uploads. Of several stores that have an image, the one
with the greatest weight is read first.`,
		Example: `  nearsight store ls
  nearsight image create --name debian --file debian.qcow2 --store disks`,
		Args: takes(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := newClient(cmd)
			if err != nil {
				return err
			}
			defer c.Close()
			stores, err := c.Stores(cmd.Context())
			if errors.Is(err, registry.ErrNotFound) {
				note(cmd, "the server has one store only, and it has no name")
			} else if err != nil {
				return err
			}
			return printStores(cmd, stores)
		},
	}
}

// printStores writes the stores.
func printStores(cmd *cobra.Command, stores []client.Store) error {
	if asked(cmd, "json") {
		type store struct {
			Name        string            `json:"name"`
			Kind        string            `json:"kind"`
			Weight      int               `json:"weight"`
			Default     bool              `json:"default"`
			ReadOnly    bool              `json:"read_only"`
			Description string            `json:"description"`
			Properties  map[string]string `json:"properties"`
		}
		list := []store{}
		for _, s := range stores {
			list = append(list, store{s.ID, s.Kind, s.Weight, s.Default, s.ReadOnly, s.Description, s.Properties})
		}
		return printJSON(cmd, list)
	}
	if len(stores) == 0 {
		return nil
	}
	rows := [][]string{{"NAME", "KIND", "WEIGHT", "USE", "DESCRIPTION", "PROPERTIES"}}
	for _, s := range stores {
		use := ""
		switch {
		case s.Default:
			use = "default"
		case s.ReadOnly:
			use = "read-only"
		}
		rows = append(rows, []string{
			s.ID, orDash(s.Kind), strconv.Itoa(s.Weight), orDash(use), orDash(s.Description), orDash(pairsText(s.Properties)),
		})
	}
	return printTable(cmd, rows)
}

// pairsText writes KEY=VALUE, sorted, and leaves out what has no value.
func pairsText(m map[string]string) string {
	var pairs []string
	for _, key := range slices.Sorted(maps.Keys(m)) {
		if m[key] != "" {
			pairs = append(pairs, key+"="+m[key])
		}
	}
	return strings.Join(pairs, " ")
}
