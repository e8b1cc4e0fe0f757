package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"text/tabwriter"
	"time"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"nearsight/registry"
	"nearsight/registry/client"
)

// Exit statuses. Scripts rely on them.
const (
	exitFailure     = 1
	exitUsage       = 2
	exitNotFound    = 3
	exitRefused     = 4   // the server will not: 401, 403, 409, 412, 413, 415
	exitUnreachable = 5   // no answer, or one that asks to try later: 502, 503, 504
	exitIntegrity   = 6   // the bytes are not those of the record
	exitInterrupted = 130 // as shells have it for SIGINT
)

// A usageError is a mistake on the command line.
type usageError struct{ err error }

func (e usageError) Error() string { return e.err.Error() }
func (e usageError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error {
	return usageError{fmt.Errorf(format, args...)}
}

// exitCode returns the exit status that err means. Of several joined errors the
// first kind in the order below counts.
func exitCode(err error) int {
	var usage usageError
	var refused *client.Error
	switch {
	case err == nil:
		return 0
	case errors.Is(err, context.Canceled):
		return exitInterrupted
	case errors.As(err, &usage):
		return exitUsage
	case errors.Is(err, client.ErrIntegrity):
		return exitIntegrity
	case errors.Is(err, registry.ErrNotFound):
		return exitNotFound
	case errors.Is(err, registry.ErrForbidden), errors.Is(err, registry.ErrConflict), errors.Is(err, registry.ErrTooLarge),
		errors.As(err, &refused) && refused.Status == http.StatusUnsupportedMediaType:
		return exitRefused
	case errors.Is(err, registry.ErrUnavailable):
		return exitUnreachable
	}
	return exitFailure
}

// errorLine returns what the user is told of err: one line, whatever a server
// put into it.
func errorLine(err error) string {
	text := strings.NewReplacer("\n", "; ", context.Canceled.Error(), "interrupted").Replace(err.Error())
	if errors.Is(err, client.ErrUnauthorized) {
		text += "; NEARSIGHT_TOKEN or --token tells it who you are"
	}
	return "nearsight: " + printable(text)
}

// printable replaces all that could move the cursor of a terminal, change its
// colours or the direction of its text, or tell it things, by escapes as in Go.
func printable(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && n == 1:
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case strconv.IsPrint(r):
			b.WriteString(s[i : i+n])
		default:
			q := strconv.QuoteRune(r)
			b.WriteString(q[1 : len(q)-1])
		}
		i += n
	}
	return b.String()
}

// newGroup returns a command that only has commands below it. They share its
// flags --json and --quiet.
func newGroup(use, short, long string) *cobra.Command {
	cmd := &cobra.Command{
		Use: use, Short: short, Long: long,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usagef("%s has no command %q; %s --help lists them", cmd.Name(), args[0], cmd.CommandPath())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	cmd.PersistentFlags().Bool("json", false, "write JSON for programs instead of a table")
	cmd.PersistentFlags().BoolP("quiet", "q", false, "no progress and no notes on standard error")
	return cmd
}

// takes returns a check for the number of arguments; at most < 0 is any number.
func takes(least, most int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < least || most >= 0 && len(args) > most {
			return usagef("%d arguments do not fit: %s", len(args), cmd.UseLine())
		}
		return nil
	}
}

// asked reports whether a flag without a value was given.
func asked(cmd *cobra.Command, flag string) bool {
	on, err := cmd.Flags().GetBool(flag)
	return err == nil && on
}

// note tells the user something that programs do not need.
func note(cmd *cobra.Command, format string, args ...any) {
	if !asked(cmd, "quiet") {
		fmt.Fprintln(cmd.ErrOrStderr(), "nearsight: "+printable(fmt.Sprintf(format, args...)))
	}
}

// printJSON writes v, indented, with escapes for what printable would escape.
func printJSON(cmd *cobra.Command, v any) error {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	_, err = cmd.OutOrStdout().Write(append(escapeJSON(text), '\n'))
	return err
}

// escapeJSON escapes what a terminal could take for commands. Below U+0020 the
// encoder did so.
func escapeJSON(text []byte) []byte {
	var b bytes.Buffer
	for _, r := range string(text) {
		switch {
		case r < utf8.RuneSelf && r != 0x7f, strconv.IsPrint(r):
			b.WriteRune(r)
		default:
			for _, u := range utf16.Encode([]rune{r}) {
				fmt.Fprintf(&b, `\u%04x`, u)
			}
		}
	}
	return b.Bytes()
}

// printTable writes rows in columns.
func printTable(cmd *cobra.Command, rows [][]string) error {
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 8, 2, ' ', 0)
	for _, row := range rows {
		cells := make([]string, len(row))
		for i, cell := range row {
			cells[i] = printable(cell)
		}
		fmt.Fprintln(w, strings.Join(cells, "\t"))
	}
	return w.Flush()
}

// humanBytes writes a number of bytes with three digits or so.
func humanBytes(n int64) string {
	const units = "KMGTPE"
	if n < 1024 {
		return strconv.FormatInt(n, 10) + " B"
	}
	f, i := float64(n)/1024, 0
	for f >= 1024 && i < len(units)-1 {
		f, i = f/1024, i+1
	}
	return strconv.FormatFloat(f, 'f', 1, 64) + " " + units[i:i+1] + "iB"
}

// A bar shows progress with rate and time to go. Where nobody watches, it shows
// nothing.
type bar struct {
	w    io.Writer // nil: nothing is shown
	what string

	mu    sync.Mutex // uploads are read by a goroutine that may outlive its request
	shown *progressbar.ProgressBar
	total int64
	ended bool
}

// newBar returns a bar on standard error. end must be called.
func newBar(cmd *cobra.Command, what string) *bar {
	b := &bar{what: printable(what)}
	f, ok := cmd.ErrOrStderr().(*os.File)
	if ok && term.IsTerminal(int(f.Fd())) && !asked(cmd, "quiet") {
		b.w = f
	}
	return b
}

// set shows that done bytes of total are through; total < 0 is unknown.
func (b *bar) set(done, total int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.w == nil || b.ended || total == 0 {
		return
	}
	total = max(total, -1)
	if b.shown == nil || b.total != total {
		b.total = total
		b.shown = progressbar.NewOptions64(total,
			progressbar.OptionSetWriter(b.w),
			progressbar.OptionSetDescription(b.what),
			progressbar.OptionSetWidth(30),
			progressbar.OptionShowBytes(true),
			progressbar.OptionShowTotalBytes(true),
			progressbar.OptionUseIECUnits(true),
			progressbar.OptionShowCount(),
			progressbar.OptionSetPredictTime(true),
			progressbar.OptionThrottle(100*time.Millisecond),
			progressbar.OptionSpinnerType(14),
			progressbar.OptionSetSpinnerChangeInterval(0), // it turns when bytes come
		)
	}
	if total > 0 {
		done = min(done, total)
	}
	b.shown.Set64(done) // it fails for numbers that the lines above rule out
}

// line goes to the next line, so that something else can be written.
func (b *bar) line() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.shown != nil && !b.ended {
		fmt.Fprintln(b.w)
	}
}

// end leaves the bar as it is.
func (b *bar) end() {
	b.line()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ended = true
}

// A countingReader tells a bar how much was read.
type countingReader struct {
	r     io.Reader
	bar   *bar
	done  int64
	total int64
}

func (r *countingReader) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	r.done += int64(n)
	r.bar.set(r.done, r.total)
	return n, err
}
