package main

import (
	"bufio"
	"crypto/sha256"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"nearsight/origin"
)

// cmdCompile makes the servers that follow the program as it is installed: without
// the race detector, which costs a multiple of memory. compile.
func cmdCompile(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: compile")
	}
	s := siteOf(ts)
	s.program = filepath.Join(s.dir, "compiled-nearsight")
	build := exec.Command("go", "build", "-buildvcs=false", "-o", s.program, ".")
	text, err := build.CombinedOutput()
	if err != nil {
		ts.Fatalf("go build: %v\n%s", err, text)
	}
}

// cmdTmpfs mounts a small file system, or changes it: tmpfs DIR SIZE, tmpfs DIR
// ro|rw. It is gone after the script. Only root can.
func cmdTmpfs(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: tmpfs DIR SIZE|ro|rw")
	}
	dir := ts.MkAbs(args[0])
	switch args[1] {
	case "ro":
		ts.Check(unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	case "rw":
		ts.Check(unix.Mount("", dir, "", unix.MS_REMOUNT, ""))
	default:
		ts.Check(os.Mkdir(dir, 0o700))
		ts.Check(unix.Mount("nearsight-test", dir, "tmpfs", 0, "size="+args[1]))
		ts.Defer(func() { ts.Check(unix.Unmount(dir, unix.MNT_DETACH)) })
	}
}

// cmdMkEntries makes cache entries of an earlier life: mkentries DIR N SIZE. Each
// has a page of data and is sparse else.
func cmdMkEntries(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: mkentries DIR N SIZE")
	}
	dir := ts.MkAbs(args[0])
	n, err := strconv.Atoi(args[1])
	ts.Check(err)
	var size Size
	ts.Check(size.UnmarshalText([]byte(args[2])))
	ts.Check(os.MkdirAll(dir, 0o700))
	m := &origin.Manifest{Size: int64(size), Sums: make([]byte, origin.Chunks(int64(size))*sha256.Size)}
	for i := range n {
		m.Sums[0], m.Sums[1] = byte(i), byte(i>>8)
		encoded := m.Encode()
		base := filepath.Join(dir, string(origin.DigestOf(encoded)))
		ts.Check(os.WriteFile(base+".manifest", encoded, 0o600))
		ts.Check(os.WriteFile(base+".data", make([]byte, 4096), 0o600))
		ts.Check(os.Truncate(base+".data", m.Size))
	}
}

// A tracer is an strace of the server.
type tracer struct {
	cmd   *exec.Cmd
	lines *bufio.Scanner // what it says of itself
	file  string
}

// cmdTrace begins to write down what the server reads and sends: trace FILE.
func cmdTrace(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: trace FILE")
	}
	pid := strconv.Itoa(running(ts).cmd.Process.Pid)
	t := &tracer{file: ts.MkAbs(args[0])}
	t.cmd = exec.Command("strace", "-f", "-p", pid, "-o", t.file, "-e", "trace=sendfile,read,pread64,write,writev")
	stderr, err := t.cmd.StderrPipe()
	ts.Check(err)
	ts.Check(t.cmd.Start())
	ts.Defer(func() { t.cmd.Process.Kill() })
	giveUp := time.AfterFunc(patience, func() { t.cmd.Process.Kill() })
	defer giveUp.Stop()
	for t.lines = bufio.NewScanner(stderr); t.lines.Scan(); {
		if strings.Contains(t.lines.Text(), " attached") {
			siteOf(ts).tracer = t
			return
		}
		ts.Logf("%s", t.lines.Text())
	}
	ts.Fatalf("strace cannot attach: %v", t.cmd.Wait())
}

// cmdUntrace ends it.
func cmdUntrace(ts *testscript.TestScript, neg bool, args []string) {
	t := siteOf(ts).tracer
	if neg || len(args) != 0 || t == nil {
		ts.Fatalf("usage: untrace, after trace")
	}
	ts.Check(t.cmd.Process.Signal(os.Interrupt))
	for t.lines.Scan() { // it lets go of every thread
	}
	t.cmd.Wait() // its status is that of a program that was interrupted
}

// tracedCall matches the end of a call: its name, and what it returned.
var tracedCall = regexp.MustCompile(`(?m)^\d+ +(?:<\.\.\. )?(\w+)(?:\(| resumed>).*= (\d+)$`)

// cmdTraced compares how many bytes calls of some kinds moved together while the
// server was traced: traced CALL[,CALL] OP BYTES.
func cmdTraced(ts *testscript.TestScript, neg bool, args []string) {
	t := siteOf(ts).tracer
	if neg || len(args) != 3 || t == nil {
		ts.Fatalf("usage: traced CALL[,CALL] OP BYTES, after untrace")
	}
	calls, sum := 0, 0.0
	for _, m := range tracedCall.FindAllStringSubmatch(ts.ReadFile(t.file), -1) {
		n, err := strconv.ParseFloat(m[2], 64)
		ts.Check(err)
		if strings.Contains(","+args[0]+",", ","+m[1]+",") {
			calls, sum = calls+1, sum+n
		}
	}
	ts.Logf("%d calls of %s moved %.0f bytes", calls, args[0], sum)
	mustHold(ts, "bytes by "+args[0], sum, args[1], args[2])
}
