package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

const (
	startPatience = 20 * time.Second
	portPatience  = 10 * time.Second // a server that was stopped lets go of its port
)

// A server is a peer that may run.
type server struct {
	peer
	site site
	proc *process
	api  *imageAPI // of nearsight, else nil
}

func (s *server) pids() []int { return []int{s.proc.pid()} }

// start starts the server in front of an origin and returns how long it took
// until it answered.
func (s *server) start(ctx context.Context, at place, origin string) (time.Duration, error) {
	// Never measure a stranger: nobody else may be on the port.
	free, cancel := context.WithTimeout(ctx, portPatience)
	defer cancel()
	for {
		c, err := net.Dial("tcp", s.site.listen)
		if err != nil {
			break
		}
		c.Close()
		if sleep(free, 50*time.Millisecond) != nil {
			return 0, fmt.Errorf("%s: another program uses %s (see -port)", s.name, s.site.listen)
		}
	}
	if err := os.MkdirAll(s.site.dir, 0o755); err != nil {
		return 0, err
	}
	s.site.cpus, s.site.origin = at.cpus(), origin
	argv, err := s.command(s.site)
	if err != nil {
		return 0, err
	}
	out, err := os.OpenFile(s.output(), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return 0, err
	}
	defer out.Close() // the child has it
	begun := time.Now()
	if s.proc, err = startProcess(at, argv, out); err != nil {
		return 0, err
	}
	ready := "http://" + s.site.listen + "/ping.txt"
	if s.kind == self {
		ready = "http://" + s.site.admin + "/readyz"
	}
	if err := waitHTTP(ctx, ready, startPatience, s.proc); err != nil {
		s.stop()
		return 0, fmt.Errorf("%s did not come up: %w\n%s", s.name, err, lastBytes(s.output(), 600))
	}
	return time.Since(begun), nil
}

func (s *server) output() string { return s.site.dir + ".log" }

func (s *server) stop() {
	if s.proc != nil {
		s.proc.stop(s.grace)
		s.proc = nil
	}
}

// kill ends it as a crash does.
func (s *server) kill() {
	s.proc.kill()
	s.proc = nil
}

// wipe empties the cache of a server that does not run.
func (s *server) wipe() error {
	return os.RemoveAll(filepath.Join(s.site.dir, "cache"))
}

// lastBytes returns the end of a file, for an error.
func lastBytes(path string, n int) []byte {
	b, err := os.ReadFile(path)
	if err != nil {
		return []byte(err.Error())
	}
	return b[max(0, len(b)-n):]
}

// cold starts the server with an empty cache and returns the URL of an image that
// is at the origin.
func (b *bench) cold(ctx context.Context, s *server, origin, name string, t turn) (string, error) {
	if err := b.origin.reset(ctx, 0); err != nil {
		return "", err
	}
	if s.kind != self {
		defer unix.Sync() // what the last server left is not to be written while this one is measured
		return "http://" + s.site.listen + "/" + name, b.fresh(ctx, s, origin, t)
	}
	s.site.remote = true
	if err := b.fresh(ctx, s, origin, t); err != nil {
		return "", err
	}
	source := origin + "/" + name
	if s.api.ids[source] == "" {
		id, err := s.api.register(ctx, source)
		if err != nil {
			return "", err
		}
		s.api.ids[source] = id
		if err := b.fresh(ctx, s, origin, t); err != nil { // hashing may have filled the cache
			return "", err
		}
	}
	unix.Sync()
	return s.api.data(s.api.ids[source]), b.origin.reset(ctx, 0)
}

// stored starts nearsight with an empty cache and the image in its own store.
func (b *bench) stored(ctx context.Context, s *server, name string, t turn) (string, error) {
	s.site.remote = false
	if err := b.fresh(ctx, s, b.origin.free(), t); err != nil {
		return "", err
	}
	if s.api.ids[name] == "" {
		id, err := s.api.store(ctx, b.image(name))
		if err != nil {
			return "", err
		}
		s.api.ids[name] = id
	}
	return s.api.data(s.api.ids[name]), nil
}

// fresh starts the server with an empty cache.
func (b *bench) fresh(ctx context.Context, s *server, origin string, t turn) error {
	s.stop()
	if err := s.wipe(); err != nil {
		return err
	}
	_, err := b.start(ctx, s, origin, t)
	return err
}

// start starts the server, and the origin where it must be.
func (b *bench) start(ctx context.Context, s *server, origin string, t turn) (time.Duration, error) {
	if err := b.origin.start(ctx, b.clientPlace(t.pin)); err != nil {
		return 0, err
	}
	return s.start(ctx, b.serverPlace(t.pin), origin[len("http://"):])
}
