package main

import (
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// addClientCommands completes the command line: it adds the commands that main.go
// does not name, and puts all in groups. It comes last.
func addClientCommands(root *cobra.Command) {
	root.AddCommand(newTaskCommand(), newInfoCommand(), newUsageCommand(), newControlCommand(), newMigrateCommand(), newEdgeCommand())
	root.AddCommand(newCommandsOf2011()...)
	const client, server = "client", "server"
	root.AddGroup(
		&cobra.Group{ID: client, Title: "Client commands:"},
		&cobra.Group{ID: server, Title: "Commands on the machine of a server:"},
		&cobra.Group{ID: group2011, Title: "Commands of 2011:"},
	)
	local := map[string]bool{"serve": true, "check": true, "control": true, "migrate": true, "token": true}
	for _, cmd := range root.Commands() {
		switch {
		case cmd.GroupID != "":
		case local[cmd.Name()]:
			cmd.GroupID = server
		default:
			cmd.GroupID = client
		}
	}
	root.SetHelpCommandGroupID(client)
	root.SetCompletionCommandGroupID(client)
	root.SetGlobalNormalizationFunc(flagName)
	completeAll(root)
}

// flagName lets flags be written as other tools have them.
func flagName(_ *pflag.FlagSet, name string) pflag.NormalizedName {
	name = strings.ReplaceAll(name, "_", "-")
	switch name {
	case "watch":
		name = "wait"
	case "auth-token":
		name = "token"
	}
	return pflag.NormalizedName(name)
}
