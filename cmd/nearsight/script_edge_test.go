package main

import (
	"cmp"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// A fleet is the servers of a script that has more than one: all but the current one,
// by name. The first that runs is called central.
type fleet struct {
	current string
	others  map[string]*server
}

type fleetKey struct{}

func fleetOf(ts *testscript.TestScript) *fleet {
	f := ts.Value(fleetKey{}).(*fleet)
	if f.others == nil {
		f.current, f.others = "central", map[string]*server{}
		ts.Defer(func() {
			for _, p := range f.others {
				if p != nil {
					p.kill()
				}
			}
		})
	}
	return f
}

// turn makes another server the current one, nil if it does not run.
func (f *fleet) turn(ts *testscript.TestScript, name string) {
	s := siteOf(ts)
	f.others[f.current] = s.current()
	p := f.others[name]
	delete(f.others, name)
	f.current = name
	s.set(p)
	if p != nil {
		announceServer(ts, p)
	}
}

// announceServer tells the commands of a script where the server is.
func announceServer(ts *testscript.TestScript, p *server) {
	ts.Setenv("LISTEN", p.listen)
	ts.Setenv("SERVER", "http://"+p.listen)
	ts.Setenv("NEARSIGHT_SERVER", "http://"+p.listen)
	ts.Setenv("ADMIN", "http://"+p.admin)
}

// cmdAt makes another server the current one, to which all commands go: at NAME. One
// that does not run is started by serve or edge.
func cmdAt(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: at NAME")
	}
	fleetOf(ts).turn(ts, args[0])
}

// cmdEdge starts an edge of the central, which becomes the current server:
// edge NAME [VARIABLE=VALUE...] [flags]. It can be told to listen where it did before.
func cmdEdge(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: edge NAME [VARIABLE=VALUE...] [flags]")
	}
	name, f := args[0], fleetOf(ts)
	if central := siteOf(ts).current(); f.current == "central" && central != nil {
		ts.Setenv("CENTRAL", "http://"+central.listen)
		ts.Setenv("CENTRAL_LISTEN", central.listen)
	}
	if f.current != name {
		f.turn(ts, name)
	}
	if siteOf(ts).current() != nil {
		ts.Fatalf("edge %s runs already", name)
	}
	env := append(environ(ts), "NEARSIGHT_CENTRAL_URL="+ts.Getenv("CENTRAL"), "NEARSIGHT_EDGE_NAME="+name)
	flags := []string{"--role", "edge", "--data", filepath.Join(ts.MkAbs("."), name), "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"}
	for _, arg := range args[1:] {
		if strings.HasPrefix(arg, envPrefix) {
			env = append(env, arg)
		} else {
			flags = append(flags, arg)
		}
	}
	log, err := os.OpenFile(filepath.Join(ts.MkAbs("."), name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	ts.Check(err)
	ts.Defer(func() { log.Close() })
	p, err := startServer(cmp.Or(siteOf(ts).program, "nearsight"), ts.MkAbs("."), env, flags, log)
	ts.Check(err)
	select {
	case <-p.ready:
	case <-p.exited:
		ts.Fatalf("edge: %v\n%s", p.err, ts.ReadFile(log.Name()))
	case <-time.After(patience):
		p.kill()
		ts.Fatalf("edge: not ready\n%s", ts.ReadFile(log.Name()))
	}
	siteOf(ts).set(p)
	announceServer(ts, p)
}

// cmdUntil waits until a metric, summed over its labels, is as wanted: until NAME OP
// VALUE.
func cmdUntil(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: until NAME ==|<|<=|>|>= VALUE")
	}
	often := time.NewTicker(50 * time.Millisecond)
	defer often.Stop()
	deadline := time.After(patience)
	for {
		got := metricOf(ts, args[0])
		if holds(ts, got, args[1], args[2]) {
			return
		}
		select {
		case <-often.C:
		case <-deadline:
			ts.Fatalf("%s stays %v, and does not become %s %s", args[0], got, args[1], args[2])
		}
	}
}

// cmdBecomes makes a request again and again until its status is as wanted: becomes
// STATUS METHOD PATH ['Name: value'...].
func cmdBecomes(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 3 {
		ts.Fatalf("usage: becomes STATUS METHOD PATH ['Name: value'...]")
	}
	often := time.NewTicker(50 * time.Millisecond)
	defer often.Stop()
	deadline := time.After(patience)
	for {
		exchange(ts, false, args[1], args[2], args[3:])
		if strconv.Itoa(siteOf(ts).answer.status) == args[0] {
			return
		}
		select {
		case <-often.C:
		case <-deadline:
			ts.Fatalf("%s %s stays %d", args[1], args[2], siteOf(ts).answer.status)
		}
	}
}

// cmdEdges waits until the server lists a number of edges that hear it: edges N.
func cmdEdges(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: edges N")
	}
	often := time.NewTicker(50 * time.Millisecond)
	defer often.Stop()
	deadline := time.After(patience)
	for {
		exchange(ts, false, "GET", "/nearsight/edges", nil)
		list := ts.ReadFile(siteOf(ts).answer.body)
		if strconv.Itoa(strings.Count(list, `"heard":true`)) == args[0] {
			return
		}
		select {
		case <-often.C:
		case <-deadline:
			ts.Fatalf("there are not %s edges: %s", args[0], list)
		}
	}
}
