package main

import (
	"strings"

	"github.com/spf13/cobra"

	"nearsight/registry/client"
)

func newImageMembers2011Command() *cobra.Command {
	t := &tool{}
	return t.command(&cobra.Command{
		Use:     "image-members ID",
		Short:   "List the projects that an image is shared with",
		Long:    "\nList the projects that an image is shared with.",
		Example: `  nearsight image-members 5bd10d31-7b8e-4f40-9ef9-f2b6b3b4a4a1`,
		Args:    takes(1, 1),
	}, func(cmd *cobra.Command, args []string, v *client.V1) error {
		if v == nil {
			say(cmd, "List the members of image %s", args[0])
			return nil
		}
		members, err := v.Members(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		for _, m := range members {
			say(cmd, "%s%s", m.Project, canShare(m.CanShare))
		}
		return nil
	})
}

func canShare(can bool) string {
	if can {
		return " (can share)"
	}
	return ""
}

func newMemberImagesCommand() *cobra.Command {
	t := &tool{}
	return t.command(&cobra.Command{
		Use:     "member-images PROJECT",
		Short:   "List the images that are shared with a project",
		Long:    "\nList the images that are shared with a project.",
		Example: `  nearsight member-images build`,
		Args:    takes(1, 1),
	}, func(cmd *cobra.Command, args []string, v *client.V1) error {
		if v == nil {
			say(cmd, "List the images that are shared with %s", args[0])
			return nil
		}
		shared, err := v.MemberImages(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		for _, s := range shared {
			say(cmd, "%s%s", s.ImageID, canShare(s.CanShare))
		}
		return nil
	})
}

func newMemberAddCommand() *cobra.Command {
	t := &tool{}
	var can bool
	cmd := t.command(&cobra.Command{
		Use:     "member-add ID PROJECT",
		Short:   "Share an image with a project",
		Long:    "\nShare an image with a project.",
		Example: `  nearsight member-add 5bd10d31-7b8e-4f40-9ef9-f2b6b3b4a4a1 build`,
		Args:    takes(2, 2),
	}, func(cmd *cobra.Command, args []string, v *client.V1) error {
		if v == nil {
			say(cmd, "Share image %s with %s%s", args[0], args[1], canShare(can))
			return nil
		}
		return v.AddMember(cmd.Context(), args[0], client.V1Member{Project: args[1], CanShare: can})
	})
	cmd.Flags().BoolVar(&can, "can-share", false, "the project may share it with others")
	return cmd
}

func newMemberDeleteCommand() *cobra.Command {
	t := &tool{}
	return t.command(&cobra.Command{
		Use:     "member-delete ID PROJECT",
		Short:   "Share an image with a project no more",
		Long:    "\nShare an image with a project no more.",
		Example: `  nearsight member-delete 5bd10d31-7b8e-4f40-9ef9-f2b6b3b4a4a1 build`,
		Args:    takes(2, 2),
	}, func(cmd *cobra.Command, args []string, v *client.V1) error {
		if v == nil {
			say(cmd, "Share image %s with %s no more", args[0], args[1])
			return nil
		}
		return v.DeleteMember(cmd.Context(), args[0], args[1])
	})
}

func newMembersReplaceCommand() *cobra.Command {
	t := &tool{}
	var can bool
	cmd := t.command(&cobra.Command{
		Use:     "members-replace ID PROJECT...",
		Short:   "Share an image with these projects, and with no other",
		Long:    "\nShare an image with these projects, and with no other.",
		Example: `  nearsight members-replace 5bd10d31-7b8e-4f40-9ef9-f2b6b3b4a4a1 build test`,
		Args:    takes(2, -1),
	}, func(cmd *cobra.Command, args []string, v *client.V1) error {
		if v == nil {
			say(cmd, "Share image %s with %s alone%s", args[0], strings.Join(args[1:], ", "), canShare(can))
			return nil
		}
		var members []client.V1Member
		for _, project := range args[1:] {
			members = append(members, client.V1Member{Project: project, CanShare: can})
		}
		return v.ReplaceMembers(cmd.Context(), args[0], members)
	})
	cmd.Flags().BoolVar(&can, "can-share", false, "the projects may share it with others")
	return cmd
}
