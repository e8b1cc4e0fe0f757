package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"nearsight/registry"
	"nearsight/registry/client"
)

// edgesAtOnce is how many edges are told at a time.
const edgesAtOnce = 16

func newEdgeCommand() *cobra.Command {
	cmd := newGroup("edge", "Look after the edges of a registry", `
Look after the edges of a registry: servers elsewhere that serve image data and records
from caches of their own.`)
	cmd.Example = `  nearsight edge ls
  nearsight cache warm debian --edges all`
	cmd.AddCommand(newEdgeListCommand())
	return cmd
}

func newEdgeListCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "ls",
		Short: "List the edges that were there within a day",
		Long: `
List the edges that were there within a day, as they were when they were SEEN last. One
that is cut off hears of no changes. HITS is the part of what it sent that was in its
cache.`,
		Example: "  nearsight edge ls",
		Args:    takes(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := newClient(cmd)
			if err != nil {
				return err
			}
			defer c.Close()
			edges, err := c.Edges(cmd.Context())
			if err != nil {
				return err
			}
			if asked(cmd, "json") {
				return printJSON(cmd, append([]registry.Edge{}, edges...))
			}
			rows := [][]string{{"NAME", "URL", "VERSION", "SEEN", "REVISION", "STATE", "DISK USED", "IMAGES", "HITS"}}
			for _, e := range edges {
				rows = append(rows, edgeRow(e))
			}
			return printTable(cmd, rows)
		},
	}
}

func edgeRow(e registry.Edge) []string {
	state, hits := "cut off", "-"
	if e.Heard {
		state = "hears"
	}
	if all := e.Hits + e.Misses; all > 0 {
		hits = fmt.Sprintf("%d%%", e.Hits*100/all)
	}
	return []string{
		e.Name, orDash(e.URL), orDash(e.Version), e.SeenAt.UTC().Format(time.RFC3339), strconv.FormatInt(e.Revision, 10), state,
		humanBytes(e.Used) + " of " + humanBytes(e.Budget), strconv.Itoa(e.Images), hits,
	}
}

// atEdges gives a command about the cache of a server the flag --edges, with which it is
// about those of edges.
func atEdges(cmd *cobra.Command, order client.EdgeOrder) *cobra.Command {
	const edges, wait = "edges", "wait"
	here := cmd.RunE
	cmd.Flags().StringSlice(edges, nil, "at these edges, `NAMES` with commas between them, or all, and not at the server itself")
	cmd.Flags().Bool(wait, true, "wait until it is done: it always does")
	if err := cmd.Flags().MarkHidden(wait); err != nil {
		panic(err) // the flag is there
	}
	cmd.Example += " --edges all"
	cmd.RunE = func(cmd *cobra.Command, refs []string) error {
		names, err := cmd.Flags().GetStringSlice(edges)
		if err != nil || len(names) == 0 {
			return errors.Join(err, here(cmd, refs))
		}
		return tellEdges(cmd, names, order, refs)
	}
	return cmd
}

// tellEdges has edges do something with images, or with all if refs is empty, and
// reports what each did.
func tellEdges(cmd *cobra.Command, names []string, order client.EdgeOrder, refs []string) error {
	ctx := cmd.Context()
	c, err := newClient(cmd)
	if err != nil {
		return err
	}
	defer c.Close()
	if slices.Contains(names, "all") {
		edges, err := c.Edges(ctx)
		if err != nil {
			return err
		}
		names = nil
		for _, e := range edges {
			if e.URL != "" { // others cannot be told
				names = append(names, e.Name)
			}
		}
		if len(names) == 0 {
			return errors.New("there is no edge that says where it can be reached (edge.advertise)")
		}
	}
	jobs, err := edgeJobs(ctx, c, names, refs)
	f := &fanOut{client: c, order: order, bar: newBar(cmd, string(order)), jobs: jobs}
	failed := errors.Join(err, f.run(ctx))
	if asked(cmd, "json") {
		return errors.Join(failed, printJSON(cmd, f.results()))
	}
	return errors.Join(failed, printTable(cmd, f.rows()))
}

// An edgeJob is what one edge does with one image.
type edgeJob struct {
	edge, id, image string // image: how the user calls it

	done, total int64
	result      json.RawMessage
	err         error
}

// edgeJobs returns a job for each edge and image; the error is about images that there
// are not.
func edgeJobs(ctx context.Context, c *client.Client, edges, refs []string) (jobs []*edgeJob, err error) {
	if len(refs) == 0 {
		refs = []string{""}
	}
	var failed []error
	for _, ref := range refs {
		id := ""
		if ref != "" {
			img, err := findImage(ctx, c, ref)
			if err != nil {
				failed = append(failed, err)
				continue
			}
			id = img.ID
		}
		for _, edge := range edges {
			jobs = append(jobs, &edgeJob{edge: edge, id: id, image: ref})
		}
	}
	return jobs, errors.Join(failed...)
}

// A fanOut is an order to several edges, with the progress of all.
type fanOut struct {
	client *client.Client
	order  client.EdgeOrder
	bar    *bar
	jobs   []*edgeJob
	mu     sync.Mutex // of the progress
}

// run returns when all jobs have ended. The error joins theirs.
func (f *fanOut) run(ctx context.Context) error {
	defer f.bar.end()
	var g errgroup.Group
	g.SetLimit(edgesAtOnce)
	for _, j := range f.jobs {
		g.Go(func() error {
			j.result, j.err = f.client.EdgeCache(ctx, j.edge, f.order, j.id, func(done, total int64) { f.note(j, done, total) })
			return nil
		})
	}
	g.Wait() // what fails stops none of the others
	var failed []error
	for _, j := range f.jobs {
		if j.err != nil {
			failed = append(failed, fmt.Errorf("edge %s: %s: %w", j.edge, orAll(j.image), j.err))
		}
	}
	return errors.Join(failed...)
}

func (f *fanOut) note(j *edgeJob, done, total int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	j.done, j.total = done, total
	done, total = 0, 0
	for _, j := range f.jobs {
		done += j.done
		total += j.total
	}
	f.bar.set(done, total)
}

func orAll(image string) string {
	if image == "" {
		return "all images"
	}
	return image
}

// An edgeResult is what one edge did, for programs.
type edgeResult struct {
	Edge   string          `json:"edge"`
	Image  string          `json:"image,omitempty"` // id
	Result json.RawMessage `json:"result,omitempty"`
	Error  string          `json:"error,omitempty"`
}

func (f *fanOut) results() []edgeResult {
	results := []edgeResult{}
	for _, j := range f.jobs {
		r := edgeResult{Edge: j.edge, Image: j.id, Result: j.result}
		if j.err != nil {
			r.Error = j.err.Error()
		}
		results = append(results, r)
	}
	return results
}

func (f *fanOut) rows() [][]string {
	rows := [][]string{{"EDGE", "IMAGE", "RESULT"}}
	for _, j := range f.jobs {
		rows = append(rows, []string{j.edge, orAll(j.image), f.words(j)})
	}
	return rows
}

// words returns the result of a job for people.
func (f *fanOut) words(j *edgeJob) string {
	if j.err != nil {
		return "failed"
	}
	switch f.order {
	case client.EdgeWarm:
		var e client.CacheEntry
		if json.Unmarshal(j.result, &e) == nil {
			return strings.Join([]string{humanBytes(e.Verified), "of", humanBytes(e.Size), "verified,", humanBytes(e.Stored), "on disk"}, " ")
		}
	case client.EdgeScrub:
		var s client.CacheScrub
		if json.Unmarshal(j.result, &s) == nil {
			return fmt.Sprintf("%d chunks looked at, %d damaged", s.Chunks, s.Bad)
		}
	}
	return "done"
}
