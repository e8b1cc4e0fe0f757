package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// patience bounds every wait of a script for something that must come. It is no
// measure of speed.
const patience = 60 * time.Second

// TestMain lets the test program be nearsight itself when a script runs it under
// that name: the real program, with the race detector if the tests have it.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"nearsight": main})
}

// TestScripts runs testdata/*.txtar: one behaviour of the whole program a script.
func TestScripts(t *testing.T) {
	p := scripts(t)
	p.Dir = "testdata"
	testscript.Run(t, p)
}

// scripts returns what scripts can do.
func scripts(t *testing.T) testscript.Params {
	return testscript.Params{
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			s := &site{dir: env.WorkDir, transfers: map[string]*transfer{}}
			env.Values[siteKey{}] = s
			env.Defer(s.close)
			newShelf(t, env)
			env.Values[fleetKey{}] = &fleet{}
			env.Setenv("NEARSIGHT_REGISTRY_LISTEN", "off") // its default is one for all scripts
			env.Setenv("DATA", filepath.Join(env.WorkDir, "data"))
			env.Setenv("IMAGES", machineImages())
			return nil
		},
		Condition: func(cond string) (bool, error) {
			if cond == "root" {
				return os.Geteuid() == 0, nil
			}
			return false, fmt.Errorf("unknown condition %q", cond)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"serve":    cmdServe,
			"shutdown": cmdShutdown,
			"signal":   cmdSignal,
			"ended":    cmdEnded,
			"kill9":    cmdKill9,
			"logged":   cmdLogged,
			"relay":    cmdRelay,
			"crashed":  cmdCrashed,
			"daemon":   cmdDaemon,
			"edge":     cmdEdge,
			"edges":    cmdEdges,
			"at":       cmdAt,
			"until":    cmdUntil,
			"becomes":  cmdBecomes,

			"get":     cmdMethod("GET"),
			"gethit":  cmdGetHit,
			"head":    cmdMethod("HEAD"),
			"request": cmdRequest,
			"begin":   cmdBegin,
			"trickle": cmdTrickle,
			"storm":   cmdStorm,
			"finish":  cmdFinish,
			"upload":  cmdUpload,
			"abandon": cmdAbandon,
			"etag":    cmdETag,
			"status":  cmdStatus,
			"header":  cmdHeader,
			"cmpbody": cmdCmpBody,
			"metric":  cmdMetric,
			"measure": cmdMeasure,
			"peak":    cmdPeak,
			"disk":    cmdDisk,

			"compile": cmdCompile,
			"trace":   cmdTrace,
			"untrace": cmdUntrace,
			"traced":  cmdTraced,

			"mkimage":   cmdMkImage,
			"nonzero":   cmdNonzero,
			"findbytes": cmdFindBytes,
			"mkentries": cmdMkEntries,
			"tmpfs":     cmdTmpfs,
			"mkmachine": cmdMkMachine,
			"flip":      cmdFlip,
			"field":     cmdField,
			"glob":      cmdGlob,
			"powerless": cmdPowerless,

			"raw":    cmdRaw,
			"drip":   cmdDrip,
			"repeat": cmdRepeat,

			"gate":   cmdGate,
			"peer":   cmdPeer,
			"tasked": cmdTasked,

			"store":     cmdStore,
			"holds":     cmdHolds,
			"lose":      cmdLose,
			"overwrite": cmdOverwrite,
			"front":     cmdFront,
			"fault":     cmdFault,
			"publish":   cmdPublish,
			"create":    cmdCreate,
			"keep":      cmdKeep,
			"hashed":    cmdHashed,
			"recorded":  cmdRecorded,
			"pour":      cmdPour,
			"drain":     cmdDrain,
			"frugal":    cmdFrugal,
			"highwater": cmdHighWater,
		},
	}
}

type siteKey struct{}

// A site is what one script has: a server, and what it answered last.
type site struct {
	dir       string
	answer    answer
	transfers map[string]*transfer // downloads under way, by name
	relays    []*relay
	peaks     peaks
	tracer    *tracer // the last one
	program   string  // what serve runs; empty: the test program as nearsight
	gates     gates

	mu     sync.Mutex
	server *server // nil when none runs
}

func siteOf(ts *testscript.TestScript) *site { return ts.Value(siteKey{}).(*site) }

func (s *site) current() *server {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.server
}

func (s *site) set(p *server) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.server = p
}

func (s *site) close() {
	for _, t := range s.transfers {
		t.abandon()
	}
	if p := s.current(); p != nil {
		p.kill()
	}
	for _, r := range s.relays {
		r.close()
	}
}

// A server is one run of nearsight serve.
type server struct {
	cmd           *exec.Cmd
	listen, admin string        // addresses, once ready is closed
	registry      string        // another one, or off
	ready         chan struct{} // closed when it answers
	exited        chan struct{} // closed when it ended; err is set then
	err           error

	mu    sync.Mutex
	lines []logLine
	more  chan struct{} // closed at the next line, then made anew
}

type logLine struct {
	Msg    string `json:"msg"`
	Listen string `json:"listen"`
	Admin  string `json:"admin"`

	Registry string `json:"registry"`
	text     string
}

// startServer starts serve of a program; it does not wait until it is ready.
func startServer(program, dir string, env, args []string, log io.Writer) (*server, error) {
	p := &server{
		cmd:   exec.Command(program, append([]string{"serve"}, args...)...),
		ready: make(chan struct{}), exited: make(chan struct{}), more: make(chan struct{}),
	}
	p.cmd.Dir, p.cmd.Env = dir, env
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		defer close(p.exited)
		in := bufio.NewReader(io.TeeReader(stderr, log))
		for {
			text, err := in.ReadString('\n')
			p.note(text)
			if err != nil {
				break
			}
		}
		p.err = p.cmd.Wait()
	}()
	return p, nil
}

func (p *server) note(text string) {
	line := logLine{text: text}
	if json.Unmarshal([]byte(text), &line) != nil {
		line.Msg = text // a panic, say
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lines = append(p.lines, line)
	if line.Msg == "ready" && p.listen == "" {
		p.listen, p.admin, p.registry = line.Listen, line.Admin, line.Registry
		close(p.ready)
	}
	close(p.more)
	p.more = make(chan struct{})
}

func (p *server) kill() {
	p.cmd.Process.Kill() // it may have ended already
	<-p.exited
}

func cmdServe(ts *testscript.TestScript, neg bool, args []string) {
	s := siteOf(ts)
	if neg || s.current() != nil {
		ts.Fatalf("usage: serve [flags], when no server runs; for one that must fail use: ! exec nearsight serve")
	}
	log, err := os.OpenFile(filepath.Join(s.dir, "server.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	ts.Check(err)
	ts.Defer(func() { log.Close() })
	args = append([]string{"--data", ts.Getenv("DATA"), "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"}, args...)
	p, err := startServer(cmp.Or(s.program, "nearsight"), ts.MkAbs("."), environ(ts), args, log)
	ts.Check(err)
	select {
	case <-p.ready:
	case <-p.exited:
		ts.Fatalf("serve: %v\n%s", p.err, ts.ReadFile(log.Name()))
	case <-time.After(patience):
		p.kill()
		ts.Fatalf("serve: not ready\n%s", ts.ReadFile(log.Name()))
	}
	s.set(p)
	ts.Setenv("LISTEN", p.listen)
	ts.Setenv("SERVER", "http://"+p.listen)
	ts.Setenv("NEARSIGHT_SERVER", "http://"+p.listen)
	ts.Setenv("ADMIN", "http://"+p.admin)
	ts.Setenv("REGISTRY", p.registry)
}

// environ returns the environment of the script as far as a server sees it.
func environ(ts *testscript.TestScript) []string {
	var c Config
	names := []string{"PATH", "HOME", "TMPDIR", "GORACE", "GOCOVERDIR"}
	for _, s := range settingsOf(&c) {
		names = append(names, s.env())
	}
	var env []string
	for _, name := range names {
		if v := ts.Getenv(name); v != "" {
			env = append(env, name+"="+v)
		}
	}
	return env
}

func running(ts *testscript.TestScript) *server {
	p := siteOf(ts).current()
	if p == nil {
		ts.Fatalf("no server runs")
	}
	return p
}

// cmdSignal sends a signal: signal TERM.
func cmdSignal(ts *testscript.TestScript, neg bool, args []string) {
	signals := map[string]syscall.Signal{"TERM": syscall.SIGTERM, "INT": syscall.SIGINT, "STOP": syscall.SIGSTOP, "CONT": syscall.SIGCONT}
	if neg || len(args) != 1 || signals[args[0]] == 0 {
		ts.Fatalf("usage: signal TERM|INT|STOP|CONT")
	}
	ts.Check(running(ts).cmd.Process.Signal(signals[args[0]]))
}

// cmdEnded waits for the end of the server, which must be a clean one: ended. Or
// by a signal: ! ended.
func cmdEnded(ts *testscript.TestScript, neg bool, _ []string) {
	p := running(ts)
	select {
	case <-p.exited:
	case <-time.After(patience):
		ts.Fatalf("the server does not end\n%s", ts.ReadFile(filepath.Join(siteOf(ts).dir, "server.log")))
	}
	siteOf(ts).set(nil)
	if (p.err != nil) != neg {
		ts.Fatalf("the server ended with %v\n%s", p.err, ts.ReadFile(filepath.Join(siteOf(ts).dir, "server.log")))
	}
}

// cmdShutdown stops the server in good order.
func cmdShutdown(ts *testscript.TestScript, neg bool, args []string) {
	cmdSignal(ts, neg, []string{"TERM"})
	cmdEnded(ts, false, nil)
}

func cmdKill9(ts *testscript.TestScript, _ bool, _ []string) {
	running(ts).kill()
	siteOf(ts).set(nil)
}

// cmdLogged waits until the server has logged a message, or a line that
// contains the text: logged stopping.
func cmdLogged(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: logged TEXT")
	}
	p := running(ts)
	deadline := time.After(patience)
	for seen := 0; ; {
		p.mu.Lock()
		lines, more := p.lines[seen:], p.more
		p.mu.Unlock()
		for _, l := range lines {
			if strings.Contains(l.text, args[0]) {
				return
			}
		}
		seen += len(lines)
		select {
		case <-more:
		case <-p.exited:
			ts.Fatalf("the server ended before it logged %q", args[0])
		case <-deadline:
			ts.Fatalf("the server does not log %q", args[0])
		}
	}
}

// cmdPowerless runs a command without the right of root to pass over
// permissions: powerless PROGRAM ARGS.
func cmdPowerless(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) == 0 {
		ts.Fatalf("usage: powerless PROGRAM [args]")
	}
	if os.Geteuid() == 0 {
		const caps = "-dac_override,-dac_read_search"
		args = append([]string{"setpriv", "--inh-caps", caps, "--bounding-set", caps}, args...)
	}
	err := ts.Exec(args[0], args[1:]...)
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		ts.Check(err)
	}
	if (err != nil) != neg {
		ts.Fatalf("%s: %v", strings.Join(args, " "), err)
	}
}
