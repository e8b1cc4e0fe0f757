package main

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/rogpeppe/go-internal/testscript"
)

// cmdDaemon makes sure that the server in the background with this pid file, below
// the default data directory, ends with the script, however that ends: daemon serve.pid.
func cmdDaemon(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: daemon PIDFILE")
	}
	file := pidFile(filepath.Join(ts.MkAbs("."), "nearsight-data", args[0]))
	ts.Defer(func() {
		pid, err := file.running()
		if err != nil || pid == 0 {
			return // it has ended, or what it wrote says nothing: the log of the script has it
		}
		program, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cmdline")
		if err == nil && strings.Contains(string(program), "serve") {
			syscall.Kill(pid, syscall.SIGKILL)
		}
	})
}
