package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"nearsight/proxy"
	"nearsight/proxy/wire"
)

// flagNames are the settings that are flags of serve.
var flagNames = map[string]string{
	"data":                         "data",
	"role":                         "role",
	"server.listen":                "listen",
	"server.admin":                 "admin",
	"server.insecure_allow_remote": "insecure-allow-remote",
	"registry.listen":              "registry-listen",
}

func newServeCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the server",
		Long: `
Run the server: the registry, the store of image data, the API and the cache in
one process. It needs no configuration. Every setting is in the configuration
file as section.key and in the environment as NEARSIGHT_SECTION_KEY; flags
override the environment, which overrides the file.

The line "ready" with the addresses goes to the log when requests are answered.
SIGTERM and SIGINT stop it when the transfers under way are done, or their time
is up (server.shutdown_grace); a second signal stops it at once.

Exit status: 0 stopped by a signal, 1 failed, 2 wrong configuration.`,
		Example: `  nearsight serve
  nearsight serve --data /var/lib/nearsight --config /etc/nearsight.yaml`,
		Args: takes(0, 0),
		RunE: runServe,
	}
	d := defaultConfig()
	flags := cmd.Flags()
	flags.String("config", "", "configuration `FILE`; also NEARSIGHT_CONFIG")
	flags.String("data", d.Data, "`DIR` of all that the server keeps")
	flags.String("role", d.Role, "`ROLE` of the server: none, central or edge")
	flags.String("listen", string(d.Server.Listen), "`HOST:PORT` of the API; port 0 picks a free one")
	flags.String("admin", string(d.Server.Admin), "`HOST:PORT` of health and metrics")
	flags.String("registry-listen", string(d.Registry.Listen), "`HOST:PORT` of the Registry API of 2011, or off")
	flags.Bool("insecure-allow-remote", false, "allow addresses that other machines can reach: whoever does is admin")
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	return cmd
}

func runServe(cmd *cobra.Command, _ []string) error {
	file := os.Getenv("NEARSIGHT_CONFIG")
	if f := cmd.Flag("config"); f.Changed {
		file = f.Value.String()
	}
	set := map[string]string{}
	for name, flag := range flagNames {
		if f := cmd.Flag(flag); f.Changed {
			set[name] = f.Value.String()
		}
	}
	c, unknown, err := loadConfig(file, os.Environ(), set)
	if err != nil {
		return usageError{err}
	}
	log := newLog(c)
	slog.SetDefault(log) // for what libraries write
	for _, name := range unknown {
		log.Warn("there is no such setting", "environment", name)
	}
	return serve(cmd.Context(), c, log)
}

func newLog(c Config) *slog.Logger {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.Log.Level)); err != nil {
		panic("config let pass log.level " + c.Log.Level)
	}
	o := &slog.HandlerOptions{Level: level}
	if c.Log.Format == "text" {
		return slog.New(slog.NewTextHandler(os.Stderr, o))
	}
	return slog.New(slog.NewJSONHandler(os.Stderr, o))
}

// serve runs the server until ctx ends.
func serve(ctx context.Context, c Config, log *slog.Logger) (err error) {
	lock, err := lockData(c.Data)
	if err != nil {
		return err
	}
	defer lock.Close()
	listener, err := listen("server.listen", c.Server.Listen)
	if err != nil {
		return err
	}
	defer listener.Close()
	admin, err := listen("server.admin", c.Server.Admin)
	if err != nil {
		return err
	}
	defer admin.Close()
	records, err := listenRegistry(c.Registry.Listen, c.Registry.Listen == defaultRegistry, log)
	if err != nil {
		return err
	}
	if records != nil {
		defer records.Close()
	}

	n, err := newNode(ctx, c, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.close()) }()
	return n.run(ctx, listener, admin, records)
}

func listen(name string, addr HostPort) (net.Listener, error) {
	l, err := net.Listen("tcp", string(addr))
	if err != nil {
		return nil, listenError(name, addr, err)
	}
	return l, nil
}

func listenError(name string, addr HostPort, err error) error {
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("another program uses %s; choose another address with --%s (%s)", addr, flagNames[name], name)
	}
	return fmt.Errorf("listen on %s, set by --%s (%s): %w", addr, flagNames[name], name, err)
}

// run serves on the listeners until ctx ends, and then stops in good order: what is
// being transferred may end within the grace, then the parts that serve it stop, the
// admin listener last. records is nil if there is no Registry API.
func (n *node) run(ctx context.Context, listener, admin net.Listener, records *registryListener) error {
	parts, stopParts := context.WithCancel(context.Background())
	defer stopParts()
	g, failed := errgroup.WithContext(parts)
	for _, part := range n.parts {
		g.Go(func() error { return part(failed) })
	}

	f := newFront(n)
	health := proxy.Server(proxy.Patient(n.admin, n.stall), n.log)
	g.Go(func() error { return ignoreClosed(f.wires.Serve(listener)) })
	g.Go(func() error { return ignoreClosed(f.server.Serve(n.face.over(f.wires.Rest(listener)))) })
	if records != nil {
		g.Go(func() error {
			return ignoreClosed(f.server.Serve(&registryListener{n.face.over(wire.Patient(records, n.stall))}))
		})
	}
	g.Go(func() error { return ignoreClosed(health.Serve(n.face.over(wire.Patient(admin, n.stall)))) })
	g.Go(func() error {
		select {
		case <-ctx.Done():
		case <-failed.Done():
		}
		n.stopping.Store(true)
		listener.Close() // who reads the next line finds the door closed
		n.log.Info("stopping", "grace", n.grace.String())
		if !f.stop(n.grace) {
			n.log.Warn("transfers were cut")
		}
		stopParts()
		health.Close() // nobody depends on the last word of /metrics
		return nil
	})
	n.log.Info("ready", "listen", listener.Addr().String(), "admin", admin.Addr().String(), "registry", records.addr(), "data", n.data)
	if err := notifyReady(); err != nil {
		n.log.Warn("whoever started the server was not told that it is ready", "err", err)
	}
	err := g.Wait()
	n.log.Info("stopped")
	return err
}

func ignoreClosed(err error) error {
	if errors.Is(err, http.ErrServerClosed) || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// A front is the HTTP server of the API and of image data: the short way, and
// net/http for the rest. http.Server cuts connections without waiting for their
// handlers; a front waits, since handlers use what is closed next.
type front struct {
	wires  *wire.Server
	server *http.Server
	cut    context.CancelFunc // ends the contexts of all requests
	busy   sync.RWMutex       // read-locked by every handler; stop takes it for good
}

func newFront(n *node) *front {
	requests, cut := context.WithCancel(context.Background())
	f := &front{wires: &wire.Server{NewAnswerer: n.direct, Stall: n.stall, Log: n.log}, cut: cut}
	f.server = proxy.Server(proxy.Patient(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !f.busy.TryRLock() {
			panic(http.ErrAbortHandler) // its connection is closed already
		}
		defer f.busy.RUnlock()
		n.handlerOf(r).ServeHTTP(w, r)
	}), n.stall), n.log)
	f.server.BaseContext = func(l net.Listener) context.Context { return baseContext(requests, l) }
	return f
}

// stop accepts nothing new, lets transfers end for the time of grace, cuts the
// others, and returns when no handler runs. It reports whether none was cut.
func (f *front) stop(grace time.Duration) bool {
	ctx, done := context.WithTimeout(context.Background(), grace)
	defer done()
	wires := make(chan error, 1)
	go func() { wires <- f.wires.Shutdown(ctx) }()
	err := f.server.Shutdown(ctx)
	f.cut()
	f.server.Close() // what Shutdown left; its errors are those of closing sockets
	f.busy.Lock()
	return errors.Join(err, <-wires) == nil
}
