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

// A serverInfo is what a server says about itself to its clients.
type serverInfo struct {
	Server   string                  `json:"server"`
	Versions []string                `json:"versions"` // of the API
	Methods  []string                `json:"import_methods"`
	Stores   []string                `json:"stores"` // none: there is one, without a name
	Default  string                  `json:"default_store"`
	Usage    map[string]client.Quota `json:"usage"` // none: there are no limits
}

func newInfoCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "info",
		Short: "Show what a server can do",
		Long: `
Show what a server can do: the versions of its API, its ways to import, its stores,
and what your project may have and has.`,
		Example: `  nearsight info
  nearsight info --json | jq -r '.import_methods[]'`,
		Args: takes(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := newClient(cmd)
			if err != nil {
				return err
			}
			defer c.Close()
			info, err := readInfo(cmd, c)
			if err != nil {
				return err
			}
			return printInfo(cmd, info)
		},
	}
	return lone(cmd)
}

// lone gives a command that is in no group the flags of those that are.
func lone(cmd *cobra.Command) *cobra.Command {
	cmd.Flags().Bool("json", false, "write JSON for programs instead of a table")
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	return cmd
}

func readInfo(cmd *cobra.Command, c *client.Client) (*serverInfo, error) {
	ctx := cmd.Context()
	conn, err := connectionOf(cmd)
	if err != nil {
		return nil, err
	}
	info := &serverInfo{Server: conn.server, Versions: []string{}, Stores: []string{}}
	versions, err := c.Versions(ctx)
	if err != nil {
		return nil, err
	}
	for _, v := range versions {
		info.Versions = append(info.Versions, v.ID)
	}
	if info.Methods, err = c.ImportMethods(ctx); err != nil {
		return nil, err
	}
	info.Methods = append([]string{}, info.Methods...)
	stores, err := c.Stores(ctx)
	if err != nil && !errors.Is(err, registry.ErrNotFound) {
		return nil, err
	}
	for _, s := range stores {
		info.Stores = append(info.Stores, s.ID)
		if s.Default {
			info.Default = s.ID
		}
	}
	if info.Usage, err = c.Usage(ctx); err != nil && !errors.Is(err, registry.ErrNotFound) { // older servers
		return nil, err
	}
	return info, nil
}

func printInfo(cmd *cobra.Command, info *serverInfo) error {
	if asked(cmd, "json") {
		return printJSON(cmd, info)
	}
	rows := [][]string{
		{"server", info.Server},
		{"API versions", orDash(strings.Join(info.Versions, ", "))},
		{"import methods", orDash(strings.Join(info.Methods, ", "))},
	}
	stores := "one, without a name"
	if len(info.Stores) > 0 {
		stores = strings.Join(info.Stores, ", ") + "; by default " + orDash(info.Default)
	}
	rows = append(rows, []string{"stores", stores})
	for _, name := range slices.Sorted(maps.Keys(info.Usage)) {
		q := info.Usage[name]
		rows = append(rows, []string{quotaName(name), quotaText(name, q.Usage) + " of " + limitText(name, q.Limit)})
	}
	if len(info.Usage) == 0 {
		rows = append(rows, []string{"limits", "none"})
	}
	return printTable(cmd, rows)
}

func newUsageCommand() *cobra.Command {
	return lone(&cobra.Command{
		Use:   "usage",
		Short: "Show what your project has of what it may have",
		Long: `
Show what your project has of what it may have, where the server sets limits.`,
		Example: `  nearsight usage`,
		Args:    takes(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := newClient(cmd)
			if err != nil {
				return err
			}
			defer c.Close()
			usage, err := c.Usage(cmd.Context())
			if err != nil {
				return err
			}
			if asked(cmd, "json") {
				if usage == nil {
					usage = map[string]client.Quota{}
				}
				return printJSON(cmd, usage)
			}
			rows := [][]string{{"OF", "USED", "LIMIT"}}
			for _, name := range slices.Sorted(maps.Keys(usage)) {
				rows = append(rows, []string{quotaName(name), quotaText(name, usage[name].Usage), limitText(name, usage[name].Limit)})
			}
			return printTable(cmd, rows)
		},
	})
}

// quotaName says for people what a quota is about.
func quotaName(name string) string {
	switch name {
	case "image_size_total":
		return "stored data"
	case "image_stage_total":
		return "staged data"
	case "image_count_total":
		return "images"
	case "image_count_uploading":
		return "images on their way"
	}
	return name
}

// quotaText writes so much of a quota: sizes are in MiB.
func quotaText(name string, n int64) string {
	if strings.Contains(name, "size") || strings.Contains(name, "stage") {
		return humanBytes(n << 20)
	}
	return strconv.FormatInt(n, 10)
}

func limitText(name string, n int64) string {
	if n < 0 {
		return "any"
	}
	return quotaText(name, n)
}
