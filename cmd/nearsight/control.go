package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// controlFlags say which server is controlled, and how it is started.
type controlFlags struct {
	checkFlags
	pidFile, logFile string
	timeout          time.Duration
}

func newControlCommand() *cobra.Command {
	var f controlFlags
	cmd := &cobra.Command{
		Use:   "control SERVER start|stop|restart|reload|status [-- FLAGS]",
		Short: "Start and stop a server in the background",
		Long: `
Start and stop a server in the background, where no service manager does. SERVER is
all, api or registry: they are one process, so each means all of it.

start waits until the server answers; FLAGS are those of serve. stop waits until the
transfers under way are done, or their time is up (server.shutdown_grace). restart and
reload are one after the other: settings are read at the start. The pid file is locked
while the server runs, so that no other process is ever taken for it.

Exit status: 0 done, 1 failed, or for status that it does not run, 2 wrong usage, 130
interrupted.`,
		Example: `  nearsight control all start --data /var/lib/nearsight
  nearsight control all start --pid-file /run/nearsight.pid -- --config /etc/nearsight.yaml
  nearsight control all stop --pid-file /run/nearsight.pid`,
		Args: takes(2, -1),
		RunE: func(cmd *cobra.Command, args []string) error { return f.control(cmd, args) },
	}
	flags := cmd.Flags()
	flags.StringVar(&f.config, "config", "", "configuration `FILE` of the server; also NEARSIGHT_CONFIG")
	flags.StringVar(&f.data, "data", defaultConfig().Data, "`DIR` of all that the server keeps")
	flags.StringVar(&f.pidFile, "pid-file", "", "`FILE` with the number of the process (default serve.pid in the data directory)")
	flags.StringVar(&f.logFile, "log-file", "", "`FILE` that the log is added to (default serve.log in the data directory)")
	flags.DurationVar(&f.timeout, "timeout", time.Minute, "how long to wait for a start or a stop; 0 is for ever")
	flags.BoolP("quiet", "q", false, "no notes on standard error")
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	cmd.ValidArgs = []cobra.Completion{"all", "api", "registry", "start", "stop", "restart", "reload", "status"}
	return cmd
}

func (f *controlFlags) control(cmd *cobra.Command, args []string) error {
	server, action, more := strings.TrimPrefix(args[0], "glance-"), args[1], args[2:]
	if !slices.Contains([]string{"all", "api", "registry"}, server) {
		return usagef("%q is no server: all, api and registry are", args[0])
	}
	c, err := f.load(cmd)
	if err != nil {
		return usageError{err}
	}
	p := pidFile(orBelow(f.pidFile, c.Data, "serve.pid"))
	ctx := cmd.Context()
	if f.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, f.timeout, errWaited)
		defer cancel()
	}
	start := func() error { return f.start(ctx, cmd, c.Data, p, more) }
	switch action {
	case "start":
		return start()
	case "stop", "shutdown":
		return p.stop(ctx, cmd)
	case "restart", "reload", "force-reload":
		if err := p.stop(ctx, cmd); err != nil {
			return err
		}
		return start()
	case "status":
		pid, err := p.running()
		switch {
		case err != nil:
			return err
		case pid == 0:
			return errors.New("the server does not run")
		}
		_, err = fmt.Fprintln(cmd.OutOrStdout(), "the server runs, pid", pid)
		return err
	}
	return usagef("%q is none of start, stop, restart, reload and status", action)
}

// start starts a server and waits until it answers.
func (f *controlFlags) start(ctx context.Context, cmd *cobra.Command, data string, p pidFile, more []string) error {
	if err := os.MkdirAll(data, 0o700); err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	lock, err := p.lock()
	if err != nil {
		return err
	}
	defer lock.Close() // the server has it too
	logPath := orBelow(f.logFile, data, "serve.log")
	log, err := os.OpenFile(logPath, os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("log: %w", err)
	}
	defer log.Close()
	at, err := log.Seek(0, io.SeekEnd)
	if err != nil {
		return fmt.Errorf("log: %w", err)
	}
	ready, err := newReadiness()
	if err != nil {
		return err
	}
	defer ready.close()
	args := []string{"serve"}
	for flag, value := range map[string]string{"--config": f.config, "--data": flagText(cmd, "data")} {
		if value != "" {
			args = append(args, flag, value)
		}
	}
	server, err := launch(append(args, more...), ready.path, log, lock)
	if err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Wait() }() // goes on when the server does: this process ends before
	if err := p.write(lock, server.Process.Pid); err != nil {
		return err
	}
	select {
	case err := <-ready.heard:
		if err != nil {
			return fmt.Errorf("pid %d: waiting for it: %w", server.Process.Pid, err)
		}
		note(cmd, "the server runs, pid %d", server.Process.Pid)
		return nil
	case err := <-ended:
		return fmt.Errorf("the server ended: %w: %s", orEnded(err), lastLine(log, at))
	case <-ctx.Done():
		return fmt.Errorf("pid %d is not ready yet, and goes on: %w; its log is %s", server.Process.Pid, context.Cause(ctx), logPath)
	}
}

// orEnded returns err, or that there was none.
func orEnded(err error) error {
	if err == nil {
		return errors.New("without an error")
	}
	return err
}

// launch starts this program in a session of its own, which outlives the terminal.
func launch(args []string, notify string, log, lock *os.File) (*exec.Cmd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	server := exec.Command(self, args...)
	server.Args[0] = os.Args[0]
	server.Env = append(os.Environ(), notifyVariable+"="+notify)
	server.Stdout, server.Stderr = log, log
	server.ExtraFiles = []*os.File{lock} // open in the server, and so locked, until it ends
	server.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := server.Start(); err != nil {
		return nil, fmt.Errorf("start the server: %w", err)
	}
	return server, nil
}

// lastLine returns the last line of a log that came after an offset.
func lastLine(log io.ReaderAt, after int64) string {
	const most = 64 << 10
	text, err := io.ReadAll(io.NewSectionReader(log, after, most))
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return lines[len(lines)-1]
}

// A readiness is a socket on which a server says that it answers.
type readiness struct {
	path  string
	heard chan error // nil: it answers
	conn  *net.UnixConn
}

func newReadiness() (*readiness, error) {
	// A name that is in no file system: nothing is left behind, and no path is too long.
	r := &readiness{path: "@nearsight-control-" + rand.Text(), heard: make(chan error, 1)}
	var err error
	if r.conn, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: r.path, Net: "unixgram"}); err != nil {
		return nil, err
	}
	go func() {
		buffer := make([]byte, 4096)
		for {
			n, err := r.conn.Read(buffer)
			if err != nil || slices.Contains(strings.Split(string(buffer[:n]), "\n"), "READY=1") {
				r.heard <- err
				return
			}
		}
	}()
	return r, nil
}

// close ends the listening.
func (r *readiness) close() { r.conn.Close() }

// A pidFile holds the number of a process, which has it locked as long as it runs.
type pidFile string

// lock makes the file and locks it. It is an error if a server runs.
func (p pidFile) lock() (*os.File, error) {
	f, err := os.OpenFile(string(p), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("pid file: %w", err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	switch {
	case errors.Is(err, unix.EWOULDBLOCK):
		err = fmt.Errorf("the server runs already%s", holder(f))
	case err != nil:
		err = fmt.Errorf("pid file %s cannot be locked: %w", p, err)
	default:
		err = f.Truncate(0) // nobody may take the number of the one before for ours
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func (p pidFile) write(f *os.File, pid int) error {
	if _, err := f.WriteAt([]byte(strconv.Itoa(pid)+"\n"), 0); err != nil {
		return fmt.Errorf("pid file %s: %w", p, err)
	}
	return nil
}

// running returns the number of the process that has the file locked, 0 if none has.
func (p pidFile) running() (int, error) {
	f, err := os.OpenFile(string(p), os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	} else if err != nil {
		return 0, fmt.Errorf("pid file: %w", err)
	}
	defer f.Close()
	err = unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB)
	switch {
	case err == nil:
		return 0, nil
	case !errors.Is(err, unix.EWOULDBLOCK):
		return 0, fmt.Errorf("pid file %s cannot be locked: %w", p, err)
	}
	text, err := io.ReadAll(io.LimitReader(f, 32))
	if err != nil {
		return 0, fmt.Errorf("pid file: %w", err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || pid <= 1 {
		return 0, fmt.Errorf("pid file %s is locked, but holds no number of a process", p)
	}
	return pid, nil
}

// stop asks the server to stop and waits until it has ended. It is no error if none
// runs.
func (p pidFile) stop(ctx context.Context, cmd *cobra.Command) error {
	pid, err := p.running()
	switch {
	case err != nil:
		return err
	case pid == 0:
		note(cmd, "the server does not run")
		return nil
	}
	// From here on the number means this one process, even when it has ended and
	// another has the number. That it was the server's is what the lock still says.
	process, err := os.FindProcess(pid)
	if err != nil {
		return fmt.Errorf("pid %d: %w", pid, err)
	}
	defer process.Release()
	if still, err := p.running(); err != nil {
		return err
	} else if still == pid {
		if err := process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return fmt.Errorf("stop pid %d: %w", pid, err)
		}
	}
	for poll := firstPoll; ; poll = min(2*poll, lastPoll) {
		switch still, err := p.running(); {
		case err != nil:
			return err
		case still != pid:
			note(cmd, "the server has stopped, pid %d", pid)
			return nil
		}
		timer := time.NewTimer(poll)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return fmt.Errorf("pid %d has not stopped yet, and will: %w", pid, context.Cause(ctx))
		}
	}
}
