package main

import (
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// A versionInfo says which program this is.
type versionInfo struct {
	Version  string `json:"version"`            // of the module, "(devel)" when built in a clone
	Revision string `json:"revision,omitempty"` // of the source, "" when it was not built in a clone
	Time     string `json:"time,omitempty"`     // of the revision
	Modified bool   `json:"modified,omitempty"` // there were changes that are in no revision
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

// readVersion reads what the linker noted.
func readVersion() versionInfo {
	v := versionInfo{Version: "(devel)", Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	if info.Main.Version != "" {
		v.Version = info.Main.Version
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			v.Revision = s.Value
		case "vcs.time":
			v.Time = s.Value
		case "vcs.modified":
			v.Modified = s.Value == "true"
		}
	}
	return v
}

func newVersionCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "version",
		Short:   "Show which version this is",
		Example: "  nearsight version --json",
		Args:    takes(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			v := readVersion()
			if asked(cmd, "json") {
				return printJSON(cmd, v)
			}
			revision := v.Revision
			if v.Modified {
				revision += " with changes"
			}
			rows := [][]string{{"nearsight", v.Version}}
			if revision != "" {
				rows = append(rows, []string{"revision", revision}, []string{"of", v.Time})
			}
			return printTable(cmd, append(rows, []string{"go", v.Go}, []string{"platform", v.Platform}))
		},
	}
	cmd.Flags().Bool("json", false, "write JSON for programs instead of a table")
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	return cmd
}
