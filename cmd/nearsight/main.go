// Command nearsight stores virtual machine images and serves them from a
// verified cache. serve runs the server, check compares what it keeps with its
// registry, and the other commands are its clients.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

func main() { os.Exit(run()) }

// run is main with an exit status.
func run() int {
	ctx, cancel := untilSignal()
	defer cancel()
	err := newRoot().ExecuteContext(ctx)
	if err != nil {
		fmt.Fprintln(os.Stderr, errorLine(err))
	}
	return exitCode(err)
}

// untilSignal returns a context that SIGINT and SIGTERM end, so that what runs can
// stop in good order. Another signal need not wait for that: when the context
// has ended, signals do what they do to any program.
func untilSignal() (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	go func() {
		select {
		case <-signals:
		case <-ctx.Done():
		}
		signal.Stop(signals)
		cancel()
	}()
	return ctx, cancel
}

// newRoot returns the command line.
func newRoot() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "nearsight",
		Short: "Store virtual machine images and serve them from a verified cache",
		Long: `
Store virtual machine images and serve them from a verified cache.

nearsight serve runs the server, and nearsight check compares what it keeps with its
registry. The other commands are clients of a server, by default of one on this
machine.`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usagef("there is no command %q; nearsight --help lists them", args[0])
			}
			return nil
		},
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		Version:       readVersion().Version,
		SilenceErrors: true, // run tells them
		SilenceUsage:  true,
	}
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	registerConnection(cmd)
	cmd.AddCommand(newServeCommand(), newImageCommand(), newCacheCommand(), newStoreCommand(), newCheckCommand(), newTokenCommand(), newVersionCommand())
	addClientCommands(cmd)
	return cmd
}
