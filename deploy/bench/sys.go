package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A place says where and how a process runs.
type place struct {
	cpu   int    // the core it is bound to; less than 0: all
	class string // of the scheduler: fifo or rr with priority 5, or other
}

// cpus returns how many cores a process in this place has.
func (p place) cpus() int {
	if p.cpu >= 0 {
		return 1
	}
	return runtime.NumCPU()
}

// command returns the command that runs argv in this place, by way of this
// program (runPinned).
func (p place) command(argv []string) *exec.Cmd {
	args := append([]string{"pin", strconv.Itoa(p.cpu), p.class}, argv...)
	return exec.Command("/proc/self/exe", args...)
}

// runPinned takes the place CPU CLASS and becomes the command that follows:
// affinity and class belong to a thread and outlast exec.
func runPinned(args []string) error {
	if len(args) < 3 {
		return errors.New("usage: pin CPU CLASS COMMAND ARGUMENTS")
	}
	cpu, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	path, err := exec.LookPath(args[2])
	if err != nil {
		return err
	}
	runtime.LockOSThread()
	if cpu >= 0 {
		var set unix.CPUSet
		set.Set(cpu)
		if err := unix.SchedSetaffinity(0, &set); err != nil {
			return fmt.Errorf("bind to core %d: %w", cpu, err)
		}
	}
	if policy, ok := map[string]uint32{"fifo": unix.SCHED_FIFO, "rr": unix.SCHED_RR}[args[1]]; ok {
		attr := &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: policy, Priority: 5}
		if err := unix.SchedSetAttr(0, attr, 0); err != nil {
			return fmt.Errorf("scheduling class %s (-priority=false does without): %w", args[1], err)
		}
	}
	return syscall.Exec(path, args[2:], os.Environ())
}

// A process is a child of this program, with its own children.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
}

// childAttributes give a child a process group of its own, so that Ctrl-C reaches
// this program alone, which then stops its children in order. If this program
// dies the child is killed.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// startProcess starts argv at its place. Output goes to out.
func startProcess(at place, argv []string, out io.Writer) (*process, error) {
	cmd := at.command(argv)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = childAttributes()
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &process{cmd: cmd, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		cmd.Wait() // how it ended is in ProcessState
	}()
	return p, nil
}

func (p *process) pid() int { return p.cmd.Process.Pid }

func (p *process) running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// stop asks the process to end, kills it and its children after the time of
// grace, and returns when none of them is left.
func (p *process) stop(grace time.Duration) {
	tree := findProcesses(p.pid())
	p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	select {
	case <-p.done:
	case <-time.After(grace):
	}
	if !tree.gone(grace) {
		tree.kill()
	}
	<-p.done
	tree.gone(5 * time.Second)
}

// kill ends the process and its children at once.
func (p *process) kill() {
	tree := findProcesses(p.pid())
	tree.kill()
	<-p.done
	tree.gone(5 * time.Second)
}

// kill sends SIGKILL to those that still are what they were.
func (ps processes) kill() {
	for _, p := range ps {
		if p.alive() {
			syscall.Kill(p.pid, syscall.SIGKILL) // it may just have ended
		}
	}
}

// gone reports whether all of them end within d.
func (ps processes) gone(d time.Duration) bool {
	for end := time.Now().Add(d); ; time.Sleep(10 * time.Millisecond) {
		alive := false
		for _, p := range ps {
			alive = alive || p.alive()
		}
		if !alive || time.Now().After(end) {
			return !alive
		}
	}
}

// sleep waits, and reports the error of ctx if that ends first.
func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// congestionFile holds the congestion control of TCP connections.
const congestionFile = "/proc/sys/net/ipv4/tcp_congestion_control"

// setCongestion chooses the congestion control and returns what puts it back. It
// matters on loopback too: bbr paces what it sends, so that a timer is measured and
// not a server. cubic is what Linux has by default.
func setCongestion(name string) (restore func(), err error) {
	was, err := os.ReadFile(congestionFile)
	if err != nil {
		return nil, fmt.Errorf("congestion control: %w", err)
	}
	if err := os.WriteFile(congestionFile, []byte(name), 0); err != nil {
		return nil, fmt.Errorf("congestion control %s (-congestion= leaves it): %w", name, err)
	}
	return func() { os.WriteFile(congestionFile, was, 0) }, nil
}
