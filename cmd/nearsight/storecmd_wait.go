package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"nearsight/registry"
	"nearsight/registry/client"
)

const (
	// The server is asked again after firstPoll, and then after twice as long
	// each time, up to lastPoll: what is waited for takes seconds to hours.
	firstPoll = 100 * time.Millisecond
	lastPoll  = 2 * time.Second
	// awayAtMost is how long the server may be away while something is waited
	// for: as long as a restart takes.
	awayAtMost = time.Minute
)

// A statusLine is a line on standard error that changes in place. Where nobody
// watches, it shows nothing. It is for one goroutine.
type statusLine struct {
	w     io.Writer // nil: nothing is shown
	shown time.Time // when it was; zero: there is none
}

func newStatusLine(cmd *cobra.Command) *statusLine {
	l := &statusLine{}
	f, ok := cmd.ErrOrStderr().(*os.File)
	if ok && term.IsTerminal(int(f.Fd())) && !asked(cmd, "quiet") {
		l.w = f
	}
	return l
}

// set shows a text, unless the one before is too new to have been read.
func (l *statusLine) set(format string, args ...any) {
	if l.w == nil || time.Since(l.shown) < 100*time.Millisecond {
		return
	}
	l.shown = time.Now()
	fmt.Fprint(l.w, "\r\x1b[K"+printable(fmt.Sprintf(format, args...)))
}

// clear takes the line away, so that something else can be written.
func (l *statusLine) clear() {
	if !l.shown.IsZero() {
		fmt.Fprint(l.w, "\r\x1b[K")
		l.shown = time.Time{}
	}
}

// waitFlags are for commands that order what the server does later.
type waitFlags struct {
	wait    bool
	timeout time.Duration
}

func (f *waitFlags) register(cmd *cobra.Command, until string) {
	cmd.Flags().BoolVar(&f.wait, "wait", false, "wait until "+until+", and show how far it is; --watch is the same")
	cmd.Flags().DurationVar(&f.timeout, "timeout", 0, "with --wait, give up after so long; 0 is never")
}

func (f *waitFlags) check() error {
	switch {
	case f.timeout < 0:
		return usagef("--timeout %v is less than 0", f.timeout)
	case f.timeout > 0 && !f.wait:
		return usagef("--timeout is for --wait")
	}
	return nil
}

// errWaited: what was waited for did not come.
var errWaited = errors.New("it did not come about in time")

// bound returns the context of a command, ended when the user has waited enough.
func (f *waitFlags) bound(cmd *cobra.Command) (context.Context, context.CancelFunc) {
	if f.timeout > 0 {
		return context.WithTimeoutCause(cmd.Context(), f.timeout, errWaited)
	}
	return context.WithCancel(cmd.Context())
}

// goesOn says that the server goes on with what somebody stopped waiting for, if
// that is what err is about. see names the commands that tell of it.
func goesOn(ctx context.Context, what, see string, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%s: %w; the server goes on with it: see %s", what, context.Cause(ctx), see)
	}
	return fmt.Errorf("wait for %s: %w", what, err)
}

// awaitHashed waits until the server has read the data of an image.
func (f *waitFlags) awaitHashed(cmd *cobra.Command, c *client.Client, img *registry.Image) (*registry.Image, error) {
	if !f.wait {
		return img, nil
	}
	const what = "hashing the data"
	ctx, cancel := f.bound(cmd)
	defer cancel()
	line := newStatusLine(cmd)
	defer line.clear()
	began := time.Now()
	heard := began
	for poll := firstPoll; ; poll = min(2*poll, lastPoll) {
		got, err := c.Get(ctx, img.ID)
		switch {
		case err == nil && got.HashValue != "":
			return got, nil
		case err == nil:
			heard = time.Now()
			line.set("%s: %v so far", what, time.Since(began).Round(time.Second))
		case ctx.Err() != nil: // told below
		case !errors.Is(err, registry.ErrUnavailable) || time.Since(heard) > awayAtMost:
			return nil, goesOn(ctx, what, "", err)
		default:
			line.set("%s: %v", what, err)
		}
		timer := time.NewTimer(poll)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, goesOn(ctx, what, "image show "+img.ID+", and the server's log", err)
		}
	}
}
