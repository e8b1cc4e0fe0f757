// Command measure measures a site of several servers, as deploy/lab/up makes it:
//
//	measure lag      how long a change at a central takes until every edge shows it
//	measure memory   what servers need for the records of many images
//	measure shows    how many records a second an edge shows out of its memory
//
// It finds the site by the variables that deploy/lab/up prints; flags tell it of others.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "measure:", err)
		os.Exit(1)
	}
}

// A site is where the servers are, and who may do what there.
type site struct {
	centrals, edges, admins urls // admins are the addresses of metrics
	admin, owner, other     string
}

// urls are base URLs with commas between them.
type urls []string

// Set implements flag.Value.
func (u *urls) Set(text string) error {
	*u = strings.FieldsFunc(text, func(r rune) bool { return r == ',' })
	return nil
}

func (u *urls) String() string { return strings.Join(*u, ",") }

func run(ctx context.Context, args []string, out io.Writer) error {
	var s site
	flags := flag.NewFlagSet("measure", flag.ContinueOnError)
	for name, value := range map[string]*urls{"centrals": &s.centrals, "edges": &s.edges, "admins": &s.admins} {
		variable := "LAB_" + strings.ToUpper(name)
		value.Set(os.Getenv(variable))
		flags.Var(value, name, "`URLS`; also $"+variable)
	}
	for name, value := range map[string]*string{"admin": &s.admin, "owner": &s.owner, "other": &s.other} {
		variable := "LAB_" + strings.ToUpper(name) + "_TOKEN"
		flags.StringVar(value, name+"-token", os.Getenv(variable), "`TOKEN`; also $"+variable)
	}
	changes := flags.Int("changes", 2000, "lag: how many changes")
	pool := flags.Int("pool", 100, "lag, shows: how many images they are about")
	load := flags.Int("load", 300, "lag: requests a second at the edges meanwhile")
	images := flags.Int("images", 100_000, "memory: how many images")
	duration := flags.Duration("duration", 10*time.Second, "shows: how long")
	connections := flags.Int("connections", 4, "shows: how many connections")
	if len(args) == 0 {
		return errors.New("usage: measure lag|memory|shows [flags]")
	}
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	if len(s.centrals) == 0 || len(s.edges) == 0 {
		return errors.New("which site? deploy/lab/up makes one, and prints the variables that say where it is")
	}
	switch args[0] {
	case "lag":
		return measureLag(ctx, &s, *changes, *pool, *load, out)
	case "memory":
		return measureMemory(ctx, &s, *images, out)
	case "shows":
		return measureShows(ctx, &s, *pool, *connections, *duration, out)
	}
	return fmt.Errorf("there is no %q to be measured", args[0])
}
