package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"nearsight/registry/client"
)

func newCacheCommand() *cobra.Command {
	cmd := newGroup("cache", "Look after the cache of a server", `
Look after the cache of a server. IMAGE is an image's id or its name.`)
	cmd.Example = `  nearsight cache ls
  nearsight cache warm debian
  nearsight cache queue debian ubuntu`
	cmd.AddCommand(
		newCacheListCommand(),
		newCacheStatsCommand(),
		atEdges(newCacheWorkCommand("warm IMAGE...", "Fetch what is missing of images", takes(1, -1), warm), client.EdgeWarm),
		atEdges(newCacheWorkCommand("scrub [IMAGE...]", "Verify the cached bytes of images, or of all", takes(0, -1), scrub), client.EdgeScrub),
		newCacheQueueCommand(),
		atEdges(newCacheEachCommand("pin IMAGE...", "Keep images from eviction", (*client.Client).CachePin), client.EdgePin),
		atEdges(newCacheEachCommand("unpin IMAGE...", "Let images be evicted again", (*client.Client).CacheUnpin), client.EdgeUnpin),
		atEdges(newCacheEachCommand("drop IMAGE...", "Forget the cached bytes of images, pinned or not", (*client.Client).CacheDrop), client.EdgeDrop),
	)
	return cmd
}

func newCacheListCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "ls",
		Short:   "List what is cached",
		Example: "  nearsight cache ls --json",
		Args:    takes(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := newClient(cmd)
			if err != nil {
				return err
			}
			defer c.Close()
			entries, err := c.Cache(cmd.Context())
			if err != nil {
				return err
			}
			if asked(cmd, "json") {
				return printJSON(cmd, append([]client.CacheEntry{}, entries...))
			}
			rows := [][]string{{"DIGEST", "SIZE", "STORED", "VERIFIED", "ZEROS", "STATE", "LAST USED", "IMAGES"}}
			for _, e := range entries {
				rows = append(rows, cacheRow(e))
			}
			return printTable(cmd, rows)
		},
	}
}

func cacheRow(e client.CacheEntry) []string {
	zeros, used := "?", "-"
	if e.Zero >= 0 {
		zeros = humanBytes(e.Zero)
	}
	if e.LastUsed != nil && !e.LastUsed.IsZero() {
		used = e.LastUsed.UTC().Format(time.RFC3339)
	}
	var state, images []string
	if e.Pinned {
		state = append(state, "pinned")
	}
	if e.Local {
		state = append(state, "local")
	}
	for _, img := range e.Images {
		name := img.ID
		if img.Name != nil && *img.Name != "" {
			name = fmt.Sprintf("%s (%s)", img.ID, *img.Name)
		}
		images = append(images, name)
	}
	digest := string(e.Digest)
	return []string{
		digest[:min(16, len(digest))], humanBytes(e.Size), humanBytes(e.Stored), humanBytes(e.Verified), zeros,
		orDash(strings.Join(state, ",")), used, orDash(strings.Join(images, ", ")),
	}
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func newCacheStatsCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "stats",
		Short:   "Show the counters of the cache since the server started",
		Example: "  nearsight cache stats",
		Args:    takes(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := newClient(cmd)
			if err != nil {
				return err
			}
			defer c.Close()
			s, err := c.CacheStats(cmd.Context())
			if err != nil {
				return err
			}
			if asked(cmd, "json") {
				return printJSON(cmd, s)
			}
			number := func(n int64) string { return strconv.FormatInt(n, 10) }
			return printTable(cmd, [][]string{
				{"disk used", humanBytes(s.Used) + " of " + humanBytes(s.Budget)},
				{"reserved by fills", humanBytes(s.Reserved)},
				{"entries", number(s.Entries)},
				{"fills under way", number(s.Flights)},
				{"sent from the cache", humanBytes(s.HitBytes)},
				{"of that, zeros", humanBytes(s.ZeroBytes)},
				{"sent after a fill", humanBytes(s.MissBytes)},
				{"sent without being kept", humanBytes(s.UncachedBytes)},
				{"fetched from origins", humanBytes(s.FilledBytes)},
				{"zeros read over", humanBytes(s.OverreadBytes)},
				{"evicted", humanBytes(s.EvictedBytes)},
				{"chunks verified", number(s.VerifiedChunks)},
				{"chunks damaged on disk", number(s.DamagedChunks)},
				{"chunks wrong from an origin", number(s.CorruptChunks)},
				{"files lost on disk", number(s.LostFiles)},
				{"stalls", number(s.Stalls)},
				{"failed fills", number(s.FillErrors)},
				{"failed writes", number(s.WriteErrors)},
			})
		},
	}
}

// newCacheEachCommand returns a command that makes one call for each image. It
// goes on after an error, and fails in the end.
func newCacheEachCommand(use, short string, call func(*client.Client, context.Context, string) error) *cobra.Command {
	return &cobra.Command{
		Use:     use,
		Short:   short,
		Example: "  nearsight cache " + strings.Fields(use)[0] + " debian",
		Args:    takes(1, -1),
		RunE: func(cmd *cobra.Command, refs []string) error {
			return eachImage(cmd, refs, func(c *client.Client, id, _ string) error {
				return call(c, cmd.Context(), id)
			})
		},
	}
}

// work is something at the server that takes its time. It returns its result,
// and that in words.
type work func(ctx context.Context, c *client.Client, id string, progress func(done, total int64)) (any, string, error)

func warm(ctx context.Context, c *client.Client, id string, progress func(done, total int64)) (any, string, error) {
	e, err := c.CacheWarm(ctx, id, progress)
	return e, fmt.Sprintf("%s of %s verified, %s on disk", humanBytes(e.Verified), humanBytes(e.Size), humanBytes(e.Stored)), err
}

func scrub(ctx context.Context, c *client.Client, id string, progress func(done, total int64)) (any, string, error) {
	s, err := c.CacheScrub(ctx, id, progress)
	return s, fmt.Sprintf("%d chunks looked at, %d damaged", s.Chunks, s.Bad), err
}

// newCacheWorkCommand returns a command that does work for images, or for all of
// them if args allows to name none. It shows progress and results.
func newCacheWorkCommand(use, short string, args cobra.PositionalArgs, do work) *cobra.Command {
	return &cobra.Command{
		Use:     use,
		Short:   short,
		Example: "  nearsight cache " + strings.Fields(use)[0] + " debian",
		Args:    args,
		RunE: func(cmd *cobra.Command, refs []string) error {
			one := func(c *client.Client, id, name string) error {
				b := newBar(cmd, name)
				result, text, err := do(cmd.Context(), c, id, b.set)
				b.end()
				switch {
				case err != nil:
					return err
				case asked(cmd, "json"):
					return printJSON(cmd, result)
				}
				return printTable(cmd, [][]string{{name, text}})
			}
			if len(refs) > 0 {
				return eachImage(cmd, refs, one)
			}
			c, err := newClient(cmd)
			if err != nil {
				return err
			}
			defer c.Close()
			return one(c, "", "all images")
		},
	}
}

func newCacheQueueCommand() *cobra.Command {
	var clear bool
	cmd := &cobra.Command{
		Use:   "queue [IMAGE...] | queue --clear",
		Short: "Have the server fetch images by itself, or list what it will",
		Long: `
Have the server fetch images into its cache by itself, one after the other, when this
command has ended; cache warm waits. Without IMAGE it lists the images that it will
fetch.`,
		Example: `  nearsight cache queue debian ubuntu
  nearsight cache queue
  nearsight cache queue --clear`,
		RunE: func(cmd *cobra.Command, refs []string) error {
			switch {
			case clear && len(refs) > 0:
				return usagef("--clear is for the whole queue, and takes no images")
			case len(refs) > 0:
				return eachImage(cmd, refs, func(c *client.Client, id, _ string) error {
					return c.GlanceCacheQueue(cmd.Context(), id)
				})
			}
			c, err := newClient(cmd)
			if err != nil {
				return err
			}
			defer c.Close()
			if clear {
				return c.GlanceCacheClear(cmd.Context(), "queue")
			}
			_, queued, err := c.GlanceCache(cmd.Context())
			if err != nil {
				return err
			}
			if asked(cmd, "json") {
				return printJSON(cmd, append([]string{}, queued...))
			}
			rows := [][]string{{"ID"}}
			for _, id := range queued {
				rows = append(rows, []string{id})
			}
			return printTable(cmd, rows)
		},
	}
	cmd.Flags().BoolVar(&clear, "clear", false, "forget the queue")
	return cmd
}

// eachImage calls do for each image that refs name, and joins the errors, each
// with what it is about. It stops early when the user wants it to.
func eachImage(cmd *cobra.Command, refs []string, do func(c *client.Client, id, name string) error) error {
	c, err := newClient(cmd)
	if err != nil {
		return err
	}
	defer c.Close()
	var failed []error
	for _, ref := range refs {
		img, err := findImage(cmd.Context(), c, ref)
		if err == nil {
			if err = do(c, img.ID, ref); err != nil {
				err = fmt.Errorf("%s: %w", ref, err)
			}
		}
		if err != nil {
			failed = append(failed, err)
		}
		if cmd.Context().Err() != nil {
			break
		}
	}
	return errors.Join(failed...)
}
