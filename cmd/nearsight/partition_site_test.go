package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"nearsight/registry/identity"
)

// A machine is a server of a partition test that can be killed, and started again.
type machine interface {
	kill() error
	start() error // returns when it works
}

// A node is one nearsight of a partition test, behind whose links all that it needs is.
type testNode struct {
	name  string
	site  *partitionSite
	flags []string
	env   []string
	links map[string]*link // by what they lead to

	mu  sync.Mutex
	run *server // nil while it does not run
}

// listen returns where the node answers, "" while it does not.
func (n *testNode) listen() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.run == nil {
		return ""
	}
	return n.run.listen
}

func (n *testNode) current() *server {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.run
}

// start starts the node again and again, as a service manager does, until it is ready.
func (n *testNode) start() error {
	var why error
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		p, err := startServer("nearsight", n.site.dir, n.env, n.flags, n.site.log(n.name))
		if err != nil {
			return err
		}
		select {
		case <-p.ready:
			n.mu.Lock()
			n.run = p
			n.mu.Unlock()
			return nil
		case <-p.exited:
			why = fmt.Errorf("%w: %s", p.err, p.last())
		case <-time.After(patience):
			p.kill()
			return fmt.Errorf("%s does not become ready", n.name)
		}
	}
	return fmt.Errorf("%s ends while it starts: %w", n.name, why)
}

// last returns the last line that the server wrote.
func (p *server) last() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := len(p.lines) - 1; i >= 0; i-- {
		if text := strings.TrimSpace(p.lines[i].text); text != "" {
			return text
		}
	}
	return ""
}

func (n *testNode) kill() error {
	n.mu.Lock()
	p := n.run
	n.run = nil
	n.mu.Unlock()
	p.kill()
	return nil
}

// stop ends the node in good order; the race detector has found nothing.
func (n *testNode) stop() error {
	p := n.current()
	p.cmd.Process.Signal(os.Interrupt)
	select {
	case <-p.exited:
	case <-time.After(patience):
		p.kill()
		return fmt.Errorf("%s does not end", n.name)
	}
	if p.err != nil {
		return fmt.Errorf("%s: %w", n.name, p.err)
	}
	return nil
}

// A redisServer is a Redis of its own, at a socket.
type redisServer struct {
	program, dir string
	cmd          *exec.Cmd
}

func (r *redisServer) socket() string { return filepath.Join(r.dir, "redis.sock") }

func (r *redisServer) start() error {
	r.cmd = exec.Command(r.program, "--port", "0", "--unixsocket", r.socket(), "--dir", r.dir, "--save", "", "--daemonize", "no")
	out, err := r.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := r.cmd.Start(); err != nil {
		return err
	}
	said := bufio.NewScanner(out)
	for said.Scan() {
		if strings.Contains(strings.ToLower(said.Text()), "ready to accept connections") {
			go io.Copy(io.Discard, out)
			return nil
		}
	}
	return fmt.Errorf("redis ends while it starts: %w", r.cmd.Wait())
}

func (r *redisServer) kill() error {
	r.cmd.Process.Kill()
	r.cmd.Wait()
	return os.Remove(r.socket())
}

// A postgresServer is a PostgreSQL of its own, which deploy/lab runs.
type postgresServer struct {
	dir   string
	lines map[string]string // that the script printed
}

func newPostgres(dir string) (*postgresServer, error) {
	p := &postgresServer{dir: dir, lines: map[string]string{}}
	text, err := p.script("start")
	for line := range strings.Lines(string(text)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		p.lines[key] = value
	}
	return p, err
}

func (p *postgresServer) script(verb string) ([]byte, error) {
	cmd := exec.Command("../../deploy/lab/postgres.sh", verb)
	cmd.Env = append(os.Environ(), "PG_STATE="+p.dir)
	var said bytes.Buffer
	cmd.Stderr = &said
	lines, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("deploy/lab/postgres.sh %s: %w\n%s", verb, err, said.Bytes())
	}
	return lines, err
}

func (p *postgresServer) start() error {
	_, err := p.script("start") // where it was
	return err
}

func (p *postgresServer) kill() error {
	_, err := p.script("crash")
	return err
}

func (p *postgresServer) purge() error {
	_, err := p.script("purge")
	return err
}

func (p *postgresServer) address() string { return p.lines["PGHOST"] + ":" + p.lines["PGPORT"] }

// newDatabase makes a database, and returns its URL at another address.
func (p *postgresServer) newDatabase(name string) (at func(address string) string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := pgx.Connect(ctx, p.lines["POSTGRES_DSN"])
	if err != nil {
		return nil, err
	}
	defer c.Close(ctx)
	if _, err := c.Exec(ctx, "create database "+name); err != nil {
		return nil, err
	}
	u, err := url.Parse(p.lines["POSTGRES_DSN"])
	return func(address string) string {
		v := *u
		v.Host, v.Path = address, "/"+name
		return v.String()
	}, err
}

// A partitionSite is two centrals and three edges, and what they need: one PostgreSQL,
// one Redis and an S3 server, all behind links. The first edge has no credentials of
// the store, the third no Redis.
type partitionSite struct {
	dir      string
	redis    *redisServer
	postgres *postgresServer
	nodes    []*testNode // centrals first
	links    []*link
	tokens   map[string]string // by caller
	promise  promise

	mu       sync.Mutex
	logs     map[string]*os.File
	breakers map[machine]*breaker
}

// breakerOf returns the one breaker of a machine.
func (s *partitionSite) breakerOf(m machine) *breaker {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.breakers[m] == nil {
		s.breakers[m] = &breaker{machine: m}
	}
	return s.breakers[m]
}

const testCentrals = 2

func (s *partitionSite) log(name string) *os.File {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.logs[name]
}

// newPartitionSite starts one that keeps a promise.
func newPartitionSite(t *testing.T, postgres *postgresServer, name string, p promise) *partitionSite {
	s := &partitionSite{dir: t.TempDir(), postgres: postgres, promise: p, logs: map[string]*os.File{}, breakers: map[machine]*breaker{}, tokens: map[string]string{}}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	program, err := fromLab("redis", "REDIS_SERVER")
	must(err)
	sockets, err := os.MkdirTemp("", "redis") // the names of sockets are short
	must(err)
	t.Cleanup(func() { os.RemoveAll(sockets) })
	s.redis = &redisServer{program: program, dir: sockets}
	must(s.redis.start())
	t.Cleanup(func() { s.redis.kill() })
	must(s.giveTokens())
	database, err := postgres.newDatabase(name)
	must(err)
	t.Cleanup(s.close)
	for i, name := range []string{"c1", "c2", "e1", "e2", "e3"} {
		must(s.addNode(t, name, i < testCentrals, database))
	}
	var starting sync.WaitGroup
	errs := make([]error, len(s.nodes))
	for i, n := range s.nodes { // all at once, with a database in which nothing is
		starting.Go(func() { errs[i] = n.start() })
	}
	starting.Wait()
	must(errors.Join(errs...))
	return s
}

// giveTokens makes tokens of the callers, and an admin's.
func (s *partitionSite) giveTokens() error {
	var all []identity.Token
	for caller, role := range map[string]string{asOwner: "member", asOther: "member", "admin": "admin"} {
		t, secret := identity.New(identity.Token{Name: caller, Project: caller, Roles: []string{role}, Created: time.Now().UTC()})
		all, s.tokens[caller] = append(all, t), secret
	}
	return identity.Edit(filepath.Join(s.dir, "tokens"), func([]identity.Token) ([]identity.Token, error) { return all, nil })
}

// addNode adds a node and its links; it does not start it.
func (s *partitionSite) addNode(t *testing.T, name string, central bool, database func(string) string) error {
	log, err := os.Create(filepath.Join(s.dir, name+".log"))
	if err != nil {
		return err
	}
	t.Cleanup(func() { log.Close() })
	s.logs[name] = log
	n := &testNode{name: name, site: s, links: map[string]*link{}}
	s.nodes = append(s.nodes, n)
	n.flags = []string{"--data", filepath.Join(s.dir, name), "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"}
	set := map[string]string{
		"IDENTITY_KIND": "tokens", "IDENTITY_TOKENS": filepath.Join(s.dir, "tokens"),
		"NODES_SECRET": "partition-tests", "REGISTRY_LISTEN": "off",
		"STALENESS_MAX": s.promise.max.String(), "STALENESS_IF_ERROR": s.promise.unprovedPublic.String(), "STALENESS_IF_ERROR_PRIVATE": s.promise.unproved.String(),
		"CACHE_BUDGET": "64MiB", "CACHE_MIN_FREE": "0", "SERVER_SHUTDOWN_GRACE": "5s",
	}
	join := func(to string, address func() (network, address string)) (string, error) {
		l, err := newLink(name+"-"+to, address)
		if err != nil {
			return "", err
		}
		s.links = append(s.links, l)
		n.links[to] = l
		return l.address(), nil
	}
	redis := func() error {
		at, err := join("redis", func() (string, string) { return "unix", s.redis.socket() })
		set["EVENTS_REDIS"] = "redis://" + at
		return err
	}
	if central {
		n.flags = append(n.flags, "--role", "central")
		var at string
		if at, err = join("postgres", func() (string, string) { return "tcp", s.postgres.address() }); err != nil {
			return err
		}
		set["DATABASE_URL"] = database(at)
		set["ORIGIN_STORE"] = "lab"
		err = errors.Join(redis(), s.addStore(set, join))
	} else {
		n.flags = append(n.flags, "--role", "edge")
		set["EDGE_NAME"], set["EDGE_HEARTBEAT"] = name, "1s"
		var urls []string
		for _, c := range s.nodes[:testCentrals] {
			at, err := join(c.name, func() (string, string) { return "tcp", c.listen() })
			if err != nil {
				return err
			}
			urls = append(urls, "http://"+at)
		}
		set["CENTRAL_URL"] = strings.Join(urls, ",")
		if name != "e3" {
			err = redis()
		}
		if name != "e1" {
			err = errors.Join(err, s.addStore(set, join))
		}
	}
	n.env = append(n.env, "PATH="+os.Getenv("PATH"), "GORACE="+os.Getenv("GORACE"), "GOCOVERDIR="+os.Getenv("GOCOVERDIR"))
	for key, value := range set {
		n.env = append(n.env, envPrefix+key+"="+value)
	}
	return err
}

// addStore tells a node of the S3 server of the lab.
func (s *partitionSite) addStore(set map[string]string, join func(string, func() (string, string)) (string, error)) error {
	set["STORES_LAB_KIND"], set["STORES_LAB_PREFIX"] = "s3", filepath.Base(filepath.Dir(s.dir))+filepath.Base(s.dir)
	for key, name := range map[string]string{
		"ENDPOINT": "S3_ENDPOINT", "REGION": "S3_REGION", "BUCKET": "S3_BUCKET", "ACCESS_KEY": "S3_ACCESS_KEY", "SECRET_KEY": "S3_SECRET_KEY",
	} {
		value, err := fromLab("s3", name)
		if err != nil {
			return err
		}
		set["STORES_LAB_"+key] = value
	}
	u, err := url.Parse(set["STORES_LAB_ENDPOINT"])
	if err != nil {
		return err
	}
	at, err := join("origin", func() (string, string) { return "tcp", u.Host })
	set["STORES_LAB_ENDPOINT"] = "http://" + at
	return err
}

// close ends what runs.
func (s *partitionSite) close() {
	for _, n := range s.nodes {
		if n.current() != nil {
			n.kill()
		}
	}
	for _, l := range s.links {
		l.close()
	}
}
