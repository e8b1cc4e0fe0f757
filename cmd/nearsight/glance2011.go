package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"nearsight/registry/client"
)

// group2011 is the group of the commands that the tools of 2011 had.
const group2011 = "2011"

// newCommandsOf2011 returns what the tools glance and glance-upload of 2011 did, for
// scripts that were written for them. They speak the Images API v1.
func newCommandsOf2011() []*cobra.Command {
	return []*cobra.Command{
		newAddCommand(), newUpdateCommand(), newDelete2011Command(), newClearCommand(),
		newIndexCommand(), newDetailsCommand(), newShow2011Command(), newUploadCommand(),
		newImageMembers2011Command(), newMemberImagesCommand(),
		newMemberAddCommand(), newMemberDeleteCommand(), newMembersReplaceCommand(),
	}
}

// A tool is the flags that all commands of 2011 have.
type tool struct {
	host            string
	port            int
	verbose, dryRun bool
}

// command completes a command of 2011: run gets a client, unless it is a dry run,
// for which it is nil. Any failure is exit status 1.
func (t *tool) command(cmd *cobra.Command, run func(cmd *cobra.Command, args []string, v *client.V1) error) *cobra.Command {
	cmd.GroupID = group2011
	flags := cmd.Flags()
	flags.StringVarP(&t.host, "host", "H", "", "`HOST` of the server, in the place of --server")
	flags.IntVarP(&t.port, "port", "p", 0, "`PORT` of the server (default 9292)")
	flags.BoolVarP(&t.verbose, "verbose", "v", false, "say more")
	flags.BoolVar(&t.dryRun, "dry-run", false, "say what would be done, and do not do it")
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	cmd.Long += `

It is a command of the tools of 2011, for scripts that have it; it speaks the Images
API v1. Exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted.`
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		began := time.Now()
		out := &sink{w: cmd.OutOrStdout()}
		cmd.SetOut(out)
		err := t.run(cmd, args, run)
		if err == nil {
			err = out.err
		}
		var usage usageError
		switch {
		case err == nil && t.verbose:
			note(cmd, "completed in %.4f s", time.Since(began).Seconds())
		case err == nil, errors.As(err, &usage), cmd.Context().Err() != nil:
		default:
			err = errors.New(err.Error())
		}
		return err
	}
	return cmd
}

func (t *tool) run(cmd *cobra.Command, args []string, run func(*cobra.Command, []string, *client.V1) error) error {
	opt, err := t.options(cmd)
	if err != nil {
		return err
	}
	if t.dryRun {
		fmt.Fprintln(cmd.OutOrStdout(), "Dry run. It would be done:")
		return run(cmd, args, nil)
	}
	v, err := client.NewV1(opt)
	if err != nil {
		return usageError{err}
	}
	defer v.Close()
	return run(cmd, args, v)
}

// options returns the options of clients for the command line.
func (t *tool) options(cmd *cobra.Command) (client.Options, error) {
	if t.host == "" && t.port == 0 {
		return clientOptions(cmd)
	}
	host, port := cmp.Or(t.host, "127.0.0.1"), cmp.Or(t.port, 9292)
	if port < 1 || port > 65535 {
		return client.Options{}, usagef("--port %d is none", port)
	}
	if err := cmd.Flags().Set("server", "http://"+net.JoinHostPort(host, strconv.Itoa(port))); err != nil {
		return client.Options{}, err
	}
	return clientOptions(cmd)
}

// A sink writes until that fails, and remembers why, for those who write line by line.
type sink struct {
	w   io.Writer
	err error
}

func (s *sink) Write(b []byte) (n int, err error) {
	if s.err == nil {
		n, s.err = s.w.Write(b)
	}
	return n, s.err
}

// say writes a line for people, in the words of 2011.
func say(cmd *cobra.Command, format string, args ...any) {
	fmt.Fprintln(cmd.OutOrStdout(), printable(fmt.Sprintf(format, args...)))
}

// parseFields reads field=value, and returns the fields by their names in lower case
// with _ for -. A comma at the end goes away.
func parseFields(args []string) (map[string]string, error) {
	fields := make(map[string]string, len(args))
	for _, arg := range args {
		name, value, ok := strings.Cut(strings.TrimSuffix(arg, ","), "=")
		name = strings.ReplaceAll(strings.ToLower(strings.TrimSpace(name)), "-", "_")
		if !ok || name == "" || strings.Contains(value, "=") {
			return nil, usagef("%q is not FIELD=VALUE with one =", arg)
		}
		fields[name] = value
	}
	return fields, nil
}

// record makes a record of fields: those that it does not know are custom
// properties. Notices are told of fields that are the server's. A field without a value
// would not be sent, and so is refused.
func record(fields map[string]string, notice func(field string)) (*client.V1Image, error) {
	img := &client.V1Image{Properties: map[string]string{}}
	for name, value := range fields {
		if value == "" && slices.Contains([]string{"id", "name", "disk_format", "container_format", "location", "copy_from", "store", "owner", "checksum"}, name) {
			return nil, usagef("%s= has no value", name)
		}
		switch name {
		case "id":
			img.ID = value
		case "name":
			img.Name = value
		case "disk_format":
			img.DiskFormat = value
		case "container_format":
			img.ContainerFormat = value
		case "location":
			img.Location = value
		case "copy_from":
			img.CopyFrom = value
		case "store":
			img.Store = value
		case "owner":
			img.Owner = value
		case "checksum":
			img.Checksum = value
		case "is_public":
			img.Public = new(truthy(value))
		case "protected":
			img.Protected = new(truthy(value))
		case "size", "min_ram", "min_disk":
			n, err := strconv.ParseInt(value, 10, 63)
			if err != nil || n < 0 {
				return nil, usagef("%s %q is no number", name, value)
			}
			switch name {
			case "size":
				img.Size = &n
			case "min_ram":
				img.MinRAM = new(int(n))
			case "min_disk":
				img.MinDisk = new(int(n))
			}
		case "status", "uri", "created_at", "updated_at", "deleted_at", "created_on", "updated_on", "deleted_on", "deleted":
			notice(name)
		default:
			img.Properties[name] = value
		}
	}
	return img, nil
}

// sayFields writes fields, sorted.
func sayFields(cmd *cobra.Command, fields map[string]string) {
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		say(cmd, "%30s => %s", name, fields[name])
	}
}

// isData reports whether standard input brings data: a file, a pipe, but neither a
// terminal nor /dev/null.
func isData(cmd *cobra.Command) (bool, error) {
	f, ok := cmd.InOrStdin().(*os.File)
	if !ok {
		return true, nil
	}
	info, err := f.Stat()
	if err != nil {
		return false, err
	}
	return info.Mode()&os.ModeCharDevice == 0, nil
}
