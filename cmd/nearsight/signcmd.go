package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"nearsight/registry"
	"nearsight/registry/client"
)

func newImageSignCommand() *cobra.Command {
	var opt client.SignOptions
	var notBefore string
	cmd := &cobra.Command{
		Use:   "sign ID|NAME",
		Short: "Make a URL with which anybody can fetch an image",
		Long: `
Make a URL with which anybody can fetch the data of an image, without a token: for
curl, qemu-img, and caches in front of the server. Those who may download the image
may sign it.

The URL is a secret as long as it is good. It ends with its time, when the image is
deleted or deactivated, and when the server no longer has the key by which it was
signed; not when the one who signed it loses the right to download.`,
		Example: `  nearsight image sign debian --expires 1h
  qemu-img convert "$(nearsight image sign debian)" debian.raw`,
		Args: takes(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if opt.Life < time.Second {
				return usagef("--expires %v: it must be a second at least", opt.Life)
			}
			if notBefore != "" {
				t, err := time.Parse(time.RFC3339, notBefore)
				if err != nil {
					return usagef("--not-before %q is not a time like 2026-01-02T15:04:05Z", notBefore)
				}
				opt.NotBefore = t
			}
			return withImage(cmd, args[0], func(c *client.Client, img *registry.Image) error {
				signed, err := c.Sign(cmd.Context(), img.ID, opt)
				if err != nil {
					return err
				}
				if asked(cmd, "json") {
					return printJSON(cmd, signed)
				}
				_, err = fmt.Fprintln(cmd.OutOrStdout(), signed.URL)
				return err
			})
		},
	}
	flags := cmd.Flags()
	flags.DurationVar(&opt.Life, "expires", time.Hour, "how `LONG` it is good for, a week at most")
	flags.StringVar(&opt.Method, "method", "GET", "GET, which allows HEAD too, or HEAD")
	flags.StringVar(&notBefore, "not-before", "", "`TIME` from when on it is good, as 2026-01-02T15:04:05Z")
	complete(cmd, "method", cobra.FixedCompletions([]cobra.Completion{"GET", "HEAD"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}
