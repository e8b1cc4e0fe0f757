package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// loadPatience bounds a download that many others slow down.
const loadPatience = 10 * patience

// crowd is the client of those who come in numbers. Each has a connection.
var crowd = &http.Client{
	Transport: &http.Transport{DisableCompression: true, DisableKeepAlives: true},
	Timeout:   loadPatience,
}

// cmdStorm downloads N times at once and compares each byte with a file. The
// download LEAVER, which was begun before, is abandoned as soon as all of them
// get data:
//
//	storm N PATH FILE [LEAVER]
func cmdStorm(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 3 || len(args) > 4 {
		ts.Fatalf("usage: storm N PATH FILE [LEAVER]")
	}
	n, err := strconv.Atoi(args[0])
	ts.Check(err)
	want, unmap, err := mapFile(ts.MkAbs(args[2]))
	ts.Check(err)
	defer unmap()
	p := running(ts)
	stopMeter := siteOf(ts).peaks.watch(p.cmd.Process.Pid, cacheDir(ts))
	defer stopMeter()

	var begun sync.WaitGroup
	begun.Add(n)
	var g errgroup.Group
	start := time.Now()
	for i := range n {
		g.Go(func() error {
			first := sync.OnceFunc(begun.Done)
			defer first() // one that fails keeps nobody waiting
			resp, err := crowd.Get("http://" + p.listen + args[1])
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				return fmt.Errorf("reader %d: %s", i, resp.Status)
			}
			if err := sameBytes(resp.Body, want, first); err != nil {
				return fmt.Errorf("reader %d: %w", i, err)
			}
			return nil
		})
	}
	begun.Wait()
	if len(args) == 4 {
		cmdAbandon(ts, false, args[3:])
	}
	ts.Check(g.Wait())
	ts.Logf("%d readers of %d bytes each: %v", n, len(want), time.Since(start).Round(time.Millisecond))
}

var (
	errWrongBytes = errors.New("wrong bytes")
	errShortBody  = errors.New("the body ends early")
)

// sameBytes reads r to its end and compares it with want; first, if not nil, is
// called whenever some bytes were right. A body that breaks off is
// errShortBody, whatever the cause.
func sameBytes(r io.Reader, want []byte, first func()) error {
	buf := make([]byte, 256<<10)
	for off := 0; ; {
		n, err := r.Read(buf)
		if n > len(want)-off || !bytes.Equal(buf[:n], want[off:off+n]) {
			return fmt.Errorf("%w after %d", errWrongBytes, off)
		}
		if off += n; first != nil && n > 0 {
			first()
		}
		switch {
		case err == io.EOF && off == len(want):
			return nil
		case err != nil:
			return fmt.Errorf("%w: %d bytes of %d: %w", errShortBody, off, len(want), err)
		}
	}
}

// mapFile returns the bytes of a file without reading them.
func mapFile(path string) (text []byte, unmap func(), err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, nil, err
	}
	text, err = unix.Mmap(int(f.Fd()), 0, int(st.Size()), unix.PROT_READ, unix.MAP_SHARED)
	return text, func() { unix.Munmap(text) }, err
}

// cmdTrickle begins a download that takes a byte a second, until it is finished or
// abandoned: trickle NAME PATH.
func cmdTrickle(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: trickle NAME PATH")
	}
	resp, err := crowd.Get("http://" + running(ts).listen + args[1])
	ts.Check(err)
	ctx, cancel := context.WithCancel(context.Background())
	t := &transfer{body: resp.Body, Closer: resp.Body}
	var wg sync.WaitGroup
	wg.Go(func() { t.trickle(ctx) })
	t.hurry = func() {
		cancel()
		wg.Wait()
	}
	siteOf(ts).transfers[args[0]] = t
}

// trickle takes a byte a second until ctx ends.
func (t *transfer) trickle(ctx context.Context) {
	second := time.NewTicker(time.Second)
	defer second.Stop()
	one := make([]byte, 1)
	for {
		n, err := t.body.Read(one)
		t.got = append(t.got, one[:n]...)
		if err != nil {
			return
		}
		select {
		case <-second.C:
		case <-ctx.Done():
			return
		}
	}
}

// Peaks are the most that a server used while storms went over it, in bytes.
type peaks struct {
	mu     sync.Mutex
	memory int64 // resident, without files
	disk   int64 // of the cache
}

// watch looks many times a second until the returned function is called.
func (k *peaks) watch(pid int, dir string) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		often := time.NewTicker(20 * time.Millisecond)
		defer often.Stop()
		for ctx.Err() == nil {
			k.look(pid, dir)
			select {
			case <-often.C:
			case <-ctx.Done():
			}
		}
		k.look(pid, dir)
	})
	return func() {
		cancel()
		wg.Wait()
	}
}

// look ignores errors: the server may just have been killed.
func (k *peaks) look(pid int, dir string) {
	memory, _ := anonymousMemory(pid)
	disk, _ := diskUse(dir)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.memory, k.disk = max(k.memory, memory), max(k.disk, disk)
}

// anonymousMemory returns the bytes of RssAnon.
func anonymousMemory(pid int) (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "RssAnon:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			return kib << 10, err
		}
	}
	return 0, errors.New("no RssAnon")
}

// diskUse returns the bytes of disk that the files below dir have.
func diskUse(dir string) (int64, error) {
	// A small file system of the script's knows by itself, at one moment: files
	// looked at one by one may give up what others take meanwhile.
	var fsys unix.Statfs_t
	if err := unix.Statfs(dir, &fsys); err == nil && fsys.Type == unix.TMPFS_MAGIC {
		return int64(fsys.Blocks-fsys.Bfree) * fsys.Bsize, nil
	}
	sum := int64(0)
	err := filepath.WalkDir(dir, func(path string, de fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := de.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil // removed just now
		}
		if err != nil {
			return err
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok && de.Type().IsRegular() {
			sum += st.Blocks * 512
		}
		return nil
	})
	return sum, err
}

// cacheDir returns where the servers of the script keep their cache.
func cacheDir(ts *testscript.TestScript) string {
	if dir := ts.Getenv("NEARSIGHT_CACHE_DIR"); dir != "" {
		return ts.MkAbs(dir)
	}
	return filepath.Join(ts.Getenv("DATA"), "cache")
}

// cmdPeak compares what was used at most while storms went on: peak memory|disk
// OP BYTES. Memory is that of servers that were built without the race detector
// (compile), or says nothing.
func cmdPeak(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 || args[0] != "memory" && args[0] != "disk" {
		ts.Fatalf("usage: peak memory|disk OP BYTES")
	}
	k := &siteOf(ts).peaks
	got := map[string]int64{"memory": k.memory, "disk": k.disk}[args[0]]
	ts.Logf("at most %d bytes of %s", got, args[0])
	mustHold(ts, args[0], float64(got), args[1], args[2])
}

// cmdDisk compares the disk that the files of a directory have now: disk DIR OP BYTES.
func cmdDisk(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: disk DIR OP BYTES")
	}
	got, err := diskUse(ts.MkAbs(args[0]))
	ts.Check(err)
	mustHold(ts, args[0], float64(got), args[1], args[2])
}

// mustHold fails unless got OP want holds.
func mustHold(ts *testscript.TestScript, what string, got float64, op, text string) {
	if !holds(ts, got, op, text) {
		ts.Fatalf("%s is %.0f, not %s %s", what, got, op, text)
	}
}

// holds reports whether a number is as a script wants it.
func holds(ts *testscript.TestScript, got float64, op, text string) bool {
	want, err := strconv.ParseFloat(text, 64)
	ts.Check(err)
	ops := map[string]bool{"==": got == want, "<": got < want, "<=": got <= want, ">": got > want, ">=": got >= want}
	ok, known := ops[op]
	if !known {
		ts.Fatalf("%q is none of == < <= > >=", op)
	}
	return ok
}
