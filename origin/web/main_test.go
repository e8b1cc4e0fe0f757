package web

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"nearsight/origin"
	"nearsight/origin/file"
	"nearsight/origin/origintest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// onLoopback permits the servers of the tests.
func onLoopback() Guard {
	return Guard{
		Allow:      []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")},
		AllowPorts: []Ports{{1, 65535}},
	}
}

func newStore(t testing.TB, o Options) *Store {
	t.Helper()
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func serve(t testing.TB, h http.Handler) *httptest.Server {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return srv
}

// A filled store reads by HTTP what a file store writes: object KEY of the latter
// is at base + KEY.
type filled struct {
	*Store
	files *file.Store
	base  string
}

const filePrefix = "file://default/"

func openFiles(t testing.TB, dir string) *file.Store {
	t.Helper()
	files, err := file.Open(file.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func (s *filled) file(loc origin.Location) origin.Location {
	if key, ok := strings.CutPrefix(loc.URL, s.base); ok {
		loc.URL = filePrefix + key
	}
	return loc
}

func (s *filled) Locate(id string) origin.Location {
	return origin.Location{URL: s.base + strings.TrimPrefix(s.files.Locate(id).URL, filePrefix)}
}

func (s *filled) Put(ctx context.Context, loc origin.Location, size int64, r io.Reader) (origin.Location, error) {
	if _, err := s.files.Put(ctx, s.file(loc), size, r); err != nil {
		return loc, err
	}
	info, err := s.Stat(ctx, origin.Location{URL: loc.URL})
	return origin.Location{URL: loc.URL, Validator: info.Validator}, err
}

func (s *filled) Delete(ctx context.Context, loc origin.Location) error {
	return s.files.Delete(ctx, s.file(loc))
}

// directory serves the objects of a file store, with ETags.
func directory(files *file.Store) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		loc := origin.Location{URL: filePrefix + strings.TrimPrefix(r.URL.Path, "/")}
		path, err := files.LocalPath(loc)
		if err != nil {
			http.NotFound(w, r)
			return
		}
		info, err := files.Stat(r.Context(), loc)
		if err != nil {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Etag", `"`+info.Validator+`"`)
		http.ServeFile(w, r, path)
	}
}

// lastModified takes the ETag away from what a handler answers.
type lastModified struct{ http.ResponseWriter }

func (w lastModified) WriteHeader(status int) {
	w.Header().Del("Etag")
	w.ResponseWriter.WriteHeader(status)
}

func TestStore(t *testing.T) {
	for _, tt := range []struct {
		name string
		wrap func(h http.Handler) http.Handler
	}{
		{"an honest server", func(h http.Handler) http.Handler { return h }},
		{"a server that refuses HEAD", func(h http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodHead {
					w.WriteHeader(http.StatusMethodNotAllowed)
					return
				}
				h.ServeHTTP(w, r)
			})
		}},
		{"a server with times alone", func(h http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.ServeHTTP(lastModified{w}, r) })
		}},
		{"a server that ignores ranges and conditions", func(h http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				for _, name := range []string{"Range", "If-Match", "If-Unmodified-Since"} {
					r.Header.Del(name)
				}
				h.ServeHTTP(w, r)
			})
		}},
		{"a server that sends elsewhere", func(h http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if key, ok := strings.CutPrefix(r.URL.Path, "/there/"); ok {
					r.URL.Path = "/" + key
					h.ServeHTTP(w, r)
					return
				}
				http.Redirect(w, r, "/there"+r.URL.Path, http.StatusFound)
			})
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			origintest.TestStore(t, func(t *testing.T) origin.WriteStore {
				files := openFiles(t, t.TempDir())
				srv := serve(t, tt.wrap(directory(files)))
				return &filled{newStore(t, Options{Guard: onLoopback()}), files, srv.URL + "/"}
			})
		})
	}
}

// What another program understands by RFC 9110.
func TestStoreOverNginx(t *testing.T) {
	origintest.TestStore(t, func(t *testing.T) origin.WriteStore {
		dir := t.TempDir()
		return &filled{newStore(t, Options{Guard: onLoopback()}), openFiles(t, dir), nginx(t, dir) + "/"}
	})
}

// What every store does when its server, or the way there, is in trouble.
func TestTrouble(t *testing.T) {
	files := openFiles(t, t.TempDir())
	origintest.TestReadTrouble(t, serve(t, directory(files)).URL, func(t *testing.T, url string) origin.WriteStore {
		return &filled{newStore(t, Options{Guard: onLoopback()}), files, url + "/"}
	})
}

// nginx serves dir and returns its URL.
func nginx(t *testing.T, dir string) string {
	t.Helper()
	program, err := exec.LookPath("nginx")
	if err != nil {
		t.Fatal("nginx is not installed, against which this store is tested (Debian: nginx-light)")
	}
	// It inherits the socket: no port is taken by others, and none is waited for.
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	socket, err := ln.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	home := t.TempDir()
	var temp strings.Builder
	for _, kind := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		fmt.Fprintf(&temp, "%s_temp_path %s/%s;\n", kind, home, kind)
	}
	user := ""
	if os.Geteuid() == 0 {
		user = "user root;" // the files are for their owner alone
	}
	conf := filepath.Join(home, "nginx.conf")
	if err := os.WriteFile(conf, fmt.Appendf(nil, `
		daemon off; worker_processes 1; %[5]s pid %[1]s/pid; error_log %[1]s/error.log;
		events {}
		http {
			%[2]s
			access_log off; default_type application/octet-stream;
			server { listen %[3]s; root %[4]s; }
		}`, home, temp.String(), ln.Addr(), dir, user), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "-e", home+"/error.log", "-c", conf)
	cmd.ExtraFiles = []*os.File{socket}
	cmd.Env = append(os.Environ(), "NGINX=3;")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil { // not Kill: its worker would stay
			t.Errorf("stop nginx: %v", err)
		}
		cmd.Wait()
		if log, err := os.ReadFile(home + "/error.log"); t.Failed() && err == nil {
			t.Logf("nginx: %s", log)
		}
	})
	ln.Close()
	socket.Close()
	// Before its worker answers, nginx may lose the signal above.
	resp, err := http.Get("http://" + ln.Addr().String())
	if err != nil {
		t.Fatalf("nginx: %v", err)
	}
	resp.Body.Close()
	http.DefaultClient.CloseIdleConnections()
	return "http://" + ln.Addr().String()
}

func BenchmarkOpenRead(b *testing.B) {
	const size = 64 << 20
	files := openFiles(b, b.TempDir())
	loc, err := files.Put(b.Context(), files.Locate("bench"), size, strings.NewReader(strings.Repeat("nearsigh", size/8)))
	if err != nil {
		b.Fatal(err)
	}
	loc.URL = serve(b, directory(files)).URL + "/" + strings.TrimPrefix(loc.URL, filePrefix)
	loc.Validator = ""
	s := newStore(b, Options{Guard: onLoopback()})
	buf := make([]byte, 256<<10)
	for _, bb := range []struct {
		name string
		n    int64
	}{{"64MiB", size}, {"16MiB", 16 << 20}, {"64KiB", 64 << 10}} {
		b.Run(bb.name, func(b *testing.B) {
			b.SetBytes(bb.n)
			b.ReportAllocs()
			for b.Loop() {
				o, err := s.Open(b.Context(), loc, 0, bb.n)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, o.Body, buf); err != nil {
					b.Fatal(err)
				}
				o.Body.Close()
			}
		})
	}
}
