package main

import (
	"bufio"
	"context"
	"crypto/md5"
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"fmt"
	"hash"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// upload puts the file Ref to URL and says how fast that went.
func (l *load) upload(ctx context.Context) error {
	c, err := l.connect(ctx)
	if err != nil {
		return err
	}
	defer c.close()
	if _, err := l.ref.Seek(0, io.SeekStart); err != nil {
		return err
	}
	m := l.startMeter()
	begun := time.Now()
	fields := fmt.Sprintf("Content-Type: application/octet-stream\r\nContent-Length: %d\r\n", l.size)
	if _, err := c.tcp.Write(c.request("PUT", fields)); err != nil {
		return err
	}
	if _, err := io.Copy(c.tcp, l.ref); err != nil { // by sendfile
		return err
	}
	rs, err := c.head()
	wall := time.Since(begun)
	m.end()
	if err == nil && (rs.status < 200 || rs.status > 299) {
		err = fmt.Errorf("status %d for an upload", rs.status)
	}
	if err != nil {
		return err
	}
	l.figure("wall", second(int64(wall)), "s")
	l.figure("rate", rate(l.size, wall), "MiB/s")
	if len(m.server) > 0 {
		l.figure("cpu", round(m.user+m.system, 4), "s")
	}
	l.resources(m)
	return nil
}

// rate returns n bytes in d as MiB/s.
func rate(n int64, d time.Duration) float64 {
	return round(float64(n)/(1<<20)/d.Seconds(), 5)
}

// uploadBounds measures what an upload of the file cannot beat: the network, the
// slowest of the hashes on a core of its own, and the store in dir. Each has the
// machine to itself.
func uploadBounds(ctx context.Context, file, dir string) ([]figure, error) {
	var figures []figure
	add := func(name string, mibs float64) { figures = append(figures, figure{name, mibs, "MiB/s"}) }
	network, err := networkRate(ctx, file)
	if err != nil {
		return nil, fmt.Errorf("network: %w", err)
	}
	add("network_rate", network)
	slowest := 0.0
	for _, h := range []struct {
		name string
		hash.Hash
	}{{"md5", md5.New()}, {"sha256", sha256.New()}, {"sha512", sha512.New()}} {
		r, err := timed(file, func(f *os.File) error {
			_, err := io.CopyBuffer(struct{ io.Writer }{h}, struct{ io.Reader }{f}, make([]byte, 1<<20))
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("%s: %w", h.name, err)
		}
		add(h.name+"_rate", r)
		if slowest == 0 || r < slowest {
			slowest = r
		}
	}
	add("slowest_hash_rate", slowest)
	store, err := timed(file, func(f *os.File) error { return store(f, dir) })
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	add("store_rate", store)
	add("bound_rate", min(network, slowest, store))
	return figures, nil
}

// timed returns how fast use deals with the file, in MiB/s.
func timed(file string, use func(*os.File) error) (float64, error) {
	f, err := os.Open(file)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return 0, err
	}
	begun := time.Now()
	if err := use(f); err != nil {
		return 0, err
	}
	return rate(st.Size(), time.Since(begun)), nil
}

// store writes f to a new file in dir as a store must: whole, and on the disk.
func store(f *os.File, dir string) (err error) {
	to, err := os.CreateTemp(dir, "store-*")
	if err != nil {
		return err
	}
	defer os.Remove(to.Name())
	defer func() { err = errors.Join(err, to.Close()) }()
	if _, err := io.CopyBuffer(struct{ io.Writer }{to}, struct{ io.Reader }{f}, make([]byte, 1<<20)); err != nil {
		return err
	}
	return to.Sync()
}

// networkRate sends the file over loopback to a reader that copies it to its own
// memory, as every server must.
func networkRate(ctx context.Context, file string) (float64, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer listener.Close()
	taken := make(chan error, 1)
	go func() {
		c, err := listener.Accept()
		if err == nil {
			_, err = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{c}, make([]byte, 1<<20))
			c.Close()
		}
		taken <- err
	}()
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", listener.Addr().String())
	if err != nil {
		return 0, errors.Join(err, listener.Close(), <-taken)
	}
	return timed(file, func(f *os.File) error {
		_, err := io.Copy(c, f)
		return errors.Join(err, c.Close(), <-taken)
	})
}

// runBounds is uploadBounds as a process of its own, which can be placed: bounds
// FILE DIR. It writes rows of nothing but metric, value and unit.
func runBounds(args []string) error {
	if len(args) != 2 {
		return errors.New("usage: bounds FILE DIR")
	}
	figures, err := uploadBounds(context.Background(), args[0], args[1])
	if err != nil {
		return err
	}
	for _, f := range figures {
		fmt.Printf("%s\t%v\t%s\n", f.Metric, f.Value, f.Unit)
	}
	return nil
}

// w10 uploads the image to nearsight and compares with what bounds that.
func (b *bench) w10(ctx context.Context, s *server, t turn) error {
	t.variant = "1g"
	if err := b.fresh(ctx, s, b.origin.free(), t); err != nil {
		return err
	}
	id, err := s.api.create(ctx, "upload")
	if err != nil {
		return err
	}
	figures, err := b.load(ctx, t, job{
		Kind: "upload", URL: s.api.base + "/v2/images/" + id + "/file", Ref: b.image(bigImage), Server: s.pids(),
	}, nil)
	if err != nil {
		return err
	}
	b.emit(t, figures...)
	if err := s.api.delete(ctx, id); err != nil {
		return err
	}
	s.stop()
	bounds, err := b.bounds(ctx, t)
	if err != nil {
		return err
	}
	b.emit(t, bounds...)
	got, bound := valueOf(figures, "rate"), valueOf(bounds, "bound_rate")
	if bound > 0 {
		b.emit(t, figure{"ratio", round(got/bound, 4), "ratio"})
	}
	return nil
}

// bounds runs runBounds where servers run.
func (b *bench) bounds(ctx context.Context, t turn) ([]figure, error) {
	var out strings.Builder
	p, err := startProcess(b.serverPlace(t.pin), []string{"/proc/self/exe", "bounds", b.image(bigImage), filepath.Join(b.state, "images")}, &out)
	if err != nil {
		return nil, err
	}
	select {
	case <-p.done:
	case <-ctx.Done():
		p.kill()
		return nil, context.Cause(ctx)
	}
	if !p.cmd.ProcessState.Success() {
		return nil, fmt.Errorf("bounds of an upload: %s: %s", p.cmd.ProcessState, strings.TrimSpace(out.String()))
	}
	var figures []figure
	for lines := bufio.NewScanner(strings.NewReader(out.String())); lines.Scan(); {
		var f figure
		if _, err := fmt.Sscanf(lines.Text(), "%s\t%g\t%s", &f.Metric, &f.Value, &f.Unit); err != nil {
			return nil, fmt.Errorf("bounds of an upload said %q: %w", lines.Text(), err)
		}
		figures = append(figures, f)
	}
	return figures, nil
}

// valueOf returns the value of a metric, or 0.
func valueOf(figures []figure, metric string) float64 {
	for _, f := range figures {
		if f.Metric == metric {
			return f.Value
		}
	}
	return 0
}
