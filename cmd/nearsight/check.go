package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"nearsight/origin"
	"nearsight/registry"
	"nearsight/registry/task"
)

// checkFlags are the flags of check.
type checkFlags struct {
	config, data string
	deep, repair bool
	minAge       time.Duration
}

func newCheckCommand() *cobra.Command {
	var f checkFlags
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Compare the registry with the stores",
		Long: `
Compare the registry with the stores: is the data of every image where it should
be, and is there anything in the stores that no image needs?

It speaks to no server. It reads the configuration as serve does, opens the
registry and the stores by itself, and may run beside the server: on its machine,
as its user and with its environment. Without --repair it changes nothing.

  missing     a store does not have data that the registry says it has
  changed     the data is not the one that was stored
  wrong-size  the data has another length than the image
  wrong-data  the data has other bytes than the image (--deep)
  unchecked   a store could not be asked
  orphan      a store has data that the registry does not know of
  leftover    a store has a part of an upload that was cut off

--repair deletes orphans and leftovers that are older than --min-age, for good. Run
check without it first, and never use it when another registry keeps images in the
same stores: each is an orphan to the other. No other finding is repaired.

Exit status: 0 nothing wrong, 1 something found, repaired or not, or the check
failed, 2 wrong usage or settings, 130 interrupted.`,
		Example: `  nearsight check --data /var/lib/nearsight
  nearsight check --config /etc/nearsight.yaml --deep
  nearsight check --config /etc/nearsight.yaml --repair --min-age 168h`,
		Args: takes(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error { return runCheck(cmd, f) },
	}
	flags := cmd.Flags()
	flags.StringVar(&f.config, "config", "", "configuration `FILE` of the server; also NEARSIGHT_CONFIG")
	flags.StringVar(&f.data, "data", defaultConfig().Data, "`DIR` of all that the server keeps")
	flags.BoolVar(&f.deep, "deep", false, "read all data and compare every byte; it takes as long as that takes")
	flags.BoolVar(&f.repair, "repair", false, "delete what no image needs, for good")
	flags.DurationVar(&f.minAge, "min-age", 24*time.Hour, "pass over what no image needs and is younger; uploads take their time")
	flags.Bool("json", false, "write one JSON object for each finding, on a line of its own")
	flags.BoolP("quiet", "q", false, "no progress and no notes on standard error")
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	return cmd
}

// runCheck checks, and tells what it found.
func runCheck(cmd *cobra.Command, f checkFlags) error {
	if f.minAge < 0 {
		return usagef("--min-age %v is less than 0", f.minAge)
	}
	c, err := f.load(cmd)
	if err != nil {
		return usageError{err}
	}
	err = checkWith(cmd, c, f)
	var usage usageError
	if err == nil || errors.As(err, &usage) || cmd.Context().Err() != nil {
		return err
	}
	// Whatever it is, to a script it is 1: other kinds of errors have a status of
	// their own where a server is spoken to.
	return errors.New(err.Error())
}

// load returns the configuration of the server that is checked.
func (f checkFlags) load(cmd *cobra.Command) (Config, error) {
	file := os.Getenv("NEARSIGHT_CONFIG")
	if cmd.Flags().Changed("config") {
		file = f.config
	}
	// Nothing is listened on here, and serve may have the leave as a flag.
	set := map[string]string{"server.insecure_allow_remote": "true"}
	if cmd.Flags().Changed("data") {
		set["data"] = f.data
	}
	c, unknown, err := loadConfig(file, os.Environ(), set)
	for _, name := range unknown {
		note(cmd, "there is no such setting: %s", name)
	}
	return c, err
}

// checkWith checks the registry and the stores of a configuration.
func checkWith(cmd *cobra.Command, c Config, f checkFlags) (err error) {
	ctx := cmd.Context()
	records, err := openRegistry(ctx, c)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, records.Close()) }()
	stores, err := openForCheck(ctx, c)
	if err != nil {
		return err
	}
	if f.repair {
		if err := mayRepair(ctx, records); err != nil {
			return err
		}
	}
	r := newReport(cmd, stores.Members())
	t := &tally{Books: records, Reader: records, report: r}
	check := task.Check{
		Books: t, Images: t, Stores: stores,
		Deep: f.deep, Repair: f.repair, MinAge: max(f.minAge, 1), // 0 would be a day
	}
	for found, err := range check.Run(ctx) {
		if err == nil {
			err = r.add(found, nameOf(ctx, records, found.ImageID))
		}
		if err != nil {
			r.line.clear()
			return err
		}
	}
	return r.end(f.repair)
}

// mayRepair refuses to delete what a registry without images does not know of:
// somebody made a mistake about which registry it is.
func mayRepair(ctx context.Context, books registry.Books) error {
	some, err := books.Placed(ctx, "", 1)
	if err != nil {
		return err
	}
	if len(some) == 0 {
		return errors.New("this registry has no image with data, so that all that the stores hold would be deleted: " +
			"if it is the right one, look at what check finds without --repair, and delete that by hand")
	}
	return nil
}

// nameOf returns the name of an image, as far as it has one.
func nameOf(ctx context.Context, images registry.Reader, id string) string {
	if id == "" {
		return ""
	}
	img, err := images.Get(ctx, id)
	if err != nil {
		return "" // its finding says enough
	}
	return deref(img.Name)
}

// A tally is the books and the images of a check, and counts what it asks for.
type tally struct {
	registry.Books
	registry.Reader
	report *report

	read, objects int
}

// Placed implements registry.Books.
func (t *tally) Placed(ctx context.Context, after string, limit int) ([]*registry.Image, error) {
	page, err := t.Books.Placed(ctx, after, limit)
	t.report.images += len(page)
	t.tell()
	return page, err
}

// Manifest implements registry.Reader. It is asked for before data is read.
func (t *tally) Manifest(ctx context.Context, digest origin.Digest) ([]byte, error) {
	t.read++
	t.tell()
	return t.Reader.Manifest(ctx, digest)
}

// Knows implements registry.Books.
func (t *tally) Knows(ctx context.Context, url string) (bool, error) {
	t.objects++
	t.tell()
	return t.Books.Knows(ctx, url)
}

func (t *tally) tell() {
	text := fmt.Sprintf("checking: %d images", t.report.images)
	if t.read > 0 {
		text += fmt.Sprintf(", reading copy %d", t.read)
	}
	if t.objects > 0 {
		text += fmt.Sprintf(", %d objects in the stores", t.objects)
	}
	t.report.line.set("%s; %d findings", text, t.report.findings)
}
