package main

import (
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// A kind of server says which workloads it takes.
type kind int

const (
	static kind = iota // files of its own: W1 W2 W6
	cache              // what its origin has: all but those of an image service
	self               // nearsight: all
)

func (k kind) takes(workload string) bool {
	switch workload {
	case "W1", "W2", "W6":
		return true
	case "W3", "W4", "W5", "W8":
		return k != static
	}
	return k == self
}

// A site is where a server finds and puts things.
type site struct {
	dir    string // of its own; dir/cache is what a reset removes
	images string // directory of the images
	listen string // HOST:PORT
	admin  string // HOST:PORT, for nearsight
	origin string // HOST:PORT
	cpus   int
	binary string // of nearsight
	remote bool   // nearsight is to take images by URL
}

// A peer is a kind of server that is measured.
type peer struct {
	name    string
	kind    kind
	program string        // that must be installed
	grace   time.Duration // from the polite request to end to the other
	// command writes the configuration and returns the command.
	command func(site) ([]string, error)
}

// allPeers returns every server, in the order in which they take turns.
func allPeers() []peer {
	return []peer{
		{staticPeer, static, "nginx", 5 * time.Second, nginx("root %s; etag on;", "")},
		{"nginx-slice4m", cache, "nginx", 5 * time.Second, nginx(nginxSlice, "4m")},
		{"nginx-slice1m", cache, "nginx", 5 * time.Second, nginx(nginxSlice, "1m")},
		{"nginx-whole", cache, "nginx", 5 * time.Second, nginx(nginxWhole, "")},
		{varnishPeer, cache, "varnishd", 2 * time.Second, varnish},
		{"squid-rock", cache, "squid", 8 * time.Second, squid},
		{selfPeer, self, "", 5 * time.Second, nearsight},
	}
}

const (
	nginxProxy = `proxy_pass http://origin; proxy_http_version 1.1; proxy_set_header Connection '';
    proxy_cache z; proxy_cache_valid 200 206 1d;
    proxy_cache_lock on; proxy_cache_lock_timeout 600s; proxy_cache_lock_age 600s;
    proxy_cache_revalidate on; proxy_buffers 32 32k; proxy_buffer_size 32k; `
	nginxWhole = nginxProxy + "proxy_cache_key $uri;"
	nginxSlice = "slice %s; " + nginxProxy + "proxy_cache_key $uri$slice_range; proxy_set_header Range $slice_range;"
)

// nginxHead is the beginning that all configurations of nginx here share, up to
// and in the block http.
//
// tcp_nopush is off (its default): with slices it leaves small ranges corked for
// some 40 ms each, and whole files on loopback lose a third of the throughput.
func nginxHead(dir string, workers int) string {
	as := ""
	if os.Geteuid() == 0 {
		as = "user root;\n"
	}
	return as + fmt.Sprintf(`daemon off;
worker_processes %d;
pid %[2]s/nginx.pid;
error_log %[2]s/error.log warn;
worker_rlimit_nofile 16384;
events { worker_connections 4096; }
http {
  keepalive_requests 1000000000; keepalive_timeout 300s;
  client_body_temp_path %[2]s/tmp/a; proxy_temp_path %[2]s/tmp/b; fastcgi_temp_path %[2]s/tmp/c;
  uwsgi_temp_path %[2]s/tmp/d; scgi_temp_path %[2]s/tmp/e;`, workers, dir)
}

// nginx returns the command of nginx with a location; slice, or the folder of
// the images if that is empty, takes the place of a %s in it.
func nginx(location, slice string) func(site) ([]string, error) {
	return func(s site) ([]string, error) {
		if err := makeDirs(s.dir, "cache", "tmp"); err != nil {
			return nil, err
		}
		what := slice
		if what == "" {
			what = s.images
		}
		text := nginxHead(s.dir, s.cpus) + `
  access_log off;
  sendfile on; tcp_nopush off;
  open_file_cache max=4096 inactive=300s; open_file_cache_valid 60s;
  proxy_cache_path ` + s.dir + `/cache levels=1:2 keys_zone=z:32m max_size=16g inactive=7d use_temp_path=off;
  upstream origin { server ` + s.origin + `; keepalive 32; }
  server { listen ` + s.listen + ` backlog=4096; location / { ` + strings.Replace(location, "%s", what, 1) + ` } }
}
`
		conf := filepath.Join(s.dir, "nginx.conf")
		return []string{"nginx", "-c", conf, "-p", s.dir}, os.WriteFile(conf, []byte(text), 0o644)
	}
}

// varnish keeps everything in memory.
func varnish(s site) ([]string, error) {
	if err := makeDirs(s.dir, "work"); err != nil {
		return nil, err
	}
	host, port, _ := strings.Cut(s.origin, ":")
	text := fmt.Sprintf(`vcl 4.1;
backend default { .host = "%s"; .port = "%s"; .first_byte_timeout = 600s; .between_bytes_timeout = 600s; .max_connections = 1000; }
sub vcl_backend_response { set beresp.ttl = 1d; set beresp.grace = 1h; }
`, host, port)
	conf := filepath.Join(s.dir, "default.vcl")
	return []string{"varnishd", "-F", "-n", filepath.Join(s.dir, "work"), "-j", "none", "-a", s.listen, "-T", "none", "-f", conf,
		"-s", "malloc,3G", "-p", "thread_pools=" + strconv.Itoa(s.cpus), "-p", "thread_pool_min=50", "-p", "thread_pool_max=500",
		"-p", "send_timeout=600", "-p", "idle_send_timeout=600", "-p", "nuke_limit=1000"}, os.WriteFile(conf, []byte(text), 0o644)
}

// squid keeps images in a rock store.
func squid(s site) ([]string, error) {
	if err := makeDirs(s.dir, "cache", "run"); err != nil {
		return nil, err
	}
	// After kill -9 a zombie that nobody has collected would count as running.
	if err := os.RemoveAll(filepath.Join(s.dir, "run", "squid.pid")); err != nil {
		return nil, err
	}
	host, port, _ := strings.Cut(s.origin, ":")
	text := fmt.Sprintf(`http_port %s accel no-vhost defaultsite=%[1]s
cache_peer %s parent %s 0 no-query no-digest originserver name=o
http_access allow all
cache_peer_access o allow all
never_direct allow all
maximum_object_size 8 GB
cache_mem 256 MB
maximum_object_size_in_memory 1 MB
cache_dir rock %[4]s/cache 6000 max-size=4294967296 slot-size=32768
collapsed_forwarding on
range_offset_limit none
quick_abort_min -1 KB
read_ahead_gap 16 MB
access_log none
cache_store_log none
cache_log %[4]s/cache.log
pid_filename %[4]s/run/squid.pid
coredump_dir %[4]s
netdb_filename none
pinger_enable off
shutdown_lifetime 1 seconds
client_persistent_connections on
server_persistent_connections on
max_filedescriptors 4096
refresh_pattern . 1440 50%% 14400
`, s.listen, host, port, s.dir)
	root := os.Geteuid() == 0
	if root {
		text += "cache_effective_user proxy\n"
	}
	conf := filepath.Join(s.dir, "squid.conf")
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		return nil, err
	}
	if root {
		if err := giveTo("proxy", s.dir); err != nil {
			return nil, err
		}
	}
	if made, err := os.ReadDir(filepath.Join(s.dir, "cache")); err != nil {
		return nil, err
	} else if len(made) == 0 {
		if text, err := exec.Command("squid", "-N", "-z", "-f", conf).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("squid -z: %w: %s", err, text)
		}
	}
	return []string{"squid", "-N", "-f", conf}, nil
}

func makeDirs(dir string, names ...string) error {
	for _, name := range names {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			return err
		}
	}
	return nil
}

// giveTo makes a user the owner of all in dir.
func giveTo(name, dir string) error {
	u, err := user.Lookup(name)
	if err != nil {
		return err
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		return err
	}
	gid, err := strconv.Atoi(u.Gid)
	if err != nil {
		return err
	}
	return filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, uid, gid)
	})
}
