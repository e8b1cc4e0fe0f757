package main

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"nearsight/registry"
)

const (
	// completionPatience is how long a shell waits for what a server knows. Whoever
	// types goes on without it.
	completionPatience = time.Second
	// completionImages is how many images are offered, those that came last.
	completionImages = 200
)

// completeAll tells the shell what may stand for the arguments and flags of all
// commands below root.
func completeAll(root *cobra.Command) {
	words := map[string][]cobra.Completion{
		"visibility":       {"public", "community", "shared", "private"},
		"member-status":    {"pending", "accepted", "rejected", "all"},
		"disk-format":      {"raw", "qcow2", "vmdk", "vhd", "vhdx", "vdi", "iso", "ploop", "ami", "ari", "aki"},
		"container-format": {"bare", "ovf", "ova", "docker", "compressed", "ami", "ari", "aki"},
		"method":           {"glance-direct", "web-download", "glance-download", "copy-image"},
		"sort":             {"name:asc", "created_at:desc", "updated_at:desc", "size:desc"},
	}
	for _, cmd := range root.Commands() {
		completeAll(cmd)
		if cmd.ValidArgsFunction == nil && (strings.Contains(cmd.Use, "ID|NAME") || strings.Contains(cmd.Use, "IMAGE")) {
			cmd.ValidArgsFunction = completeImages
		} else if cmd.ValidArgsFunction == nil {
			cmd.ValidArgsFunction = cobra.NoFileCompletions
		}
		for flag, list := range words {
			complete(cmd, flag, cobra.FixedCompletions(list, cobra.ShellCompDirectiveNoFileComp))
		}
		for _, flag := range []string{"store", "to", "prefer"} {
			complete(cmd, flag, completeStores)
		}
	}
}

// complete says what may stand for a flag, if the command has it and says nothing
// itself.
func complete(cmd *cobra.Command, flag string, with cobra.CompletionFunc) {
	if f := cmd.LocalNonPersistentFlags().Lookup(flag); f == nil {
		return
	}
	if _, ok := cmd.GetFlagCompletionFunc(flag); ok {
		return
	}
	if err := cmd.RegisterFlagCompletionFunc(flag, with); err != nil {
		panic("completion: " + err.Error()) // the flag is there
	}
}

// completeImages offers the names of images, and their ids when what was typed
// begins like one. Only commands that take several images take a second.
func completeImages(cmd *cobra.Command, args []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
	several := strings.Contains(cmd.Use, "NAME...") || strings.Contains(cmd.Use, "IMAGE...")
	if len(args) > 0 && !several {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), completionPatience)
	defer cancel()
	c, err := newClient(cmd)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	defer c.Close()
	q := registry.Query{Visibility: registry.AllVisibilities, MemberStatus: registry.AllMemberStatuses, Limit: completionImages}
	var offers []cobra.Completion
	seen := 0
	for img, err := range c.List(ctx, q) {
		if seen++; err != nil || seen > completionImages {
			break // what came so far is better than nothing
		}
		// One that needs quotes would be taken apart on the way to the shell.
		if name := deref(img.Name); name != "" && strings.HasPrefix(name, typed) && name == printable(name) && !strings.ContainsAny(name, " \t:") {
			offers = append(offers, cobra.CompletionWithDesc(name, img.ID))
		}
		if typed != "" && strings.HasPrefix(img.ID, typed) {
			offers = append(offers, cobra.CompletionWithDesc(img.ID, printable(deref(img.Name))))
		}
	}
	return offers, cobra.ShellCompDirectiveNoFileComp
}

// completeStores offers the names of stores.
func completeStores(cmd *cobra.Command, _ []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
	ctx, cancel := context.WithTimeout(cmd.Context(), completionPatience)
	defer cancel()
	c, err := newClient(cmd)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	defer c.Close()
	stores, err := c.Stores(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	// Of NAME,NAME,... the last is still typed.
	before := typed[:strings.LastIndexByte(typed, ',')+1]
	var offers []cobra.Completion
	for _, s := range stores {
		if strings.HasPrefix(before+s.ID, typed) {
			offers = append(offers, cobra.CompletionWithDesc(before+s.ID, s.Description))
		}
	}
	return offers, cobra.ShellCompDirectiveNoFileComp
}
