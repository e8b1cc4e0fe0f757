package bus

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// callTimeout bounds each call to Redis, and the dial before it. It is well below
// the 5 s in which a watcher may believe that it hears everything.
const callTimeout = time.Second

// A Server says where Redis is, and who we are to it: one server, one that
// Sentinels know, or a Cluster. It holds no connection. Redis 5 or newer.
type Server struct {
	options redis.UniversalOptions
	name    string
}

// ParseServer reads where Redis is:
//
//	redis://[[USER]:PASSWORD@]HOST[:PORT][/DB]
//	redis://[[USER]:PASSWORD@]HOST[:PORT],HOST[:PORT],...              a Cluster
//	redis+cluster://[[USER]:PASSWORD@]HOST[:PORT]                      a Cluster
//	redis+sentinel://[[USER]:PASSWORD@]HOST[:PORT],.../MASTER[/DB]     of Sentinels
//
// rediss in the place of redis means TLS 1.2 or newer. The port is 6379, that of a
// Sentinel 26379, if none is given. Users and passwords are percent-encoded. Options
// may follow, as in a query:
//
//	password_file      names a file with the password; white space at its end is not part of it
//	sentinel_user, sentinel_password, sentinel_password_file
//	                   for the Sentinels themselves; they are not asked for any by default
//	ca, cert, key      name PEM files, with TLS: whom to trust instead of the system's
//	                   authorities, and who we are
//	server_name        is what the certificate is for, if it is not for the host
//
// The files are read once. No error shows a part of the text, which may hold a
// password in the wrong place; those of files name the file.
func ParseServer(text string) (*Server, error) {
	s, err := parseServer(text)
	if err != nil {
		return nil, fmt.Errorf("address of redis: %w", err)
	}
	return s, nil
}

func parseServer(text string) (*Server, error) {
	scheme, rest, ok := strings.Cut(text, "://")
	if !ok {
		return nil, errors.New("it has no scheme")
	}
	secure, kind, err := parseScheme(scheme)
	if err != nil {
		return nil, err
	}
	port := "6379"
	if kind == "sentinel" {
		port = "26379"
	}
	rest, query, _ := strings.Cut(rest, "?")
	authority, path, _ := strings.Cut(rest, "/")

	// One connection is in use at a time. Nothing is repeated behind our back: what
	// follows a failure is decided here, and soon. Pushes of RESP 3 are of no use.
	o := redis.UniversalOptions{
		ClientName: "nearsight", Protocol: 2, DisableIdentity: true,
		MaxRetries: -1, DialerRetries: 1, DialTimeout: callTimeout, ReadTimeout: callTimeout, WriteTimeout: callTimeout,
		ContextTimeoutEnabled: true, PipelinePoolSize: -1,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	}
	user, hosts := "", authority
	if at := strings.LastIndex(authority, "@"); at >= 0 {
		user, hosts = authority[:at], authority[at+1:]
	}
	if o.Username, o.Password, err = parseUser(user); err != nil {
		return nil, err
	}
	for host := range strings.SplitSeq(hosts, ",") {
		addr, err := parseHost(host, port)
		if err != nil {
			return nil, err
		}
		o.Addrs = append(o.Addrs, addr)
	}
	switch {
	case kind == "sentinel":
		o.MasterName, path, _ = strings.Cut(path, "/")
		if o.MasterName == "" {
			return nil, errors.New("the name of the master is missing: .../MASTER")
		}
	case kind == "cluster" || len(o.Addrs) > 1:
		o.IsClusterMode = true
	}
	if o.DB, err = parseDB(path); err != nil {
		return nil, err
	}
	if o.IsClusterMode && o.DB != 0 {
		return nil, errors.New("a Cluster has no databases but 0")
	}
	if err := parseOptions(&o, query, secure); err != nil {
		return nil, err
	}
	return &Server{options: o, name: strings.Join(o.Addrs, ",")}, nil
}

// parseScheme returns sentinel, cluster or "" as the kind.
func parseScheme(scheme string) (secure bool, kind string, err error) {
	base, kind, plus := strings.Cut(scheme, "+")
	if base != "redis" && base != "rediss" || plus && kind != "sentinel" && kind != "cluster" {
		return false, "", errors.New("the scheme is none of redis and rediss, alone or with +sentinel or +cluster")
	}
	return base == "rediss", kind, nil
}

func parseUser(text string) (user, password string, err error) {
	if text == "" {
		return "", "", nil
	}
	user, password, ok := strings.Cut(text, ":")
	if !ok {
		return "", "", errors.New("before the @ is no :PASSWORD")
	}
	for _, part := range []*string{&user, &password} {
		plain, err := url.PathUnescape(*part)
		if err != nil { // it would show a part of the password
			return "", "", errors.New("user or password are not well percent-encoded")
		}
		*part = plain
	}
	return user, password, nil
}

// parseHost returns HOST:PORT, with the default if there is no port.
func parseHost(text, port string) (string, error) {
	malformed := errors.New("a host is malformed")
	host := text
	if h, p, err := net.SplitHostPort(text); err == nil {
		host, port = h, p
	} else if strings.HasPrefix(text, "[") {
		h, ok := strings.CutSuffix(text[1:], "]")
		if !ok || net.ParseIP(h) == nil {
			return "", malformed
		}
		host = h
	} else if strings.Contains(text, ":") {
		return "", malformed
	}
	if host == "" || strings.ContainsAny(host, "@[]%, \t\r\n") || strings.Contains(host, ":") && net.ParseIP(host) == nil {
		return "", malformed
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return "", errors.New("a port is none of 1 to 65535")
	}
	return net.JoinHostPort(host, port), nil
}

func parseDB(text string) (int, error) {
	if text == "" {
		return 0, nil
	}
	db, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return 0, errors.New("the database is no number")
	}
	return int(db), nil
}

// parseOptions reads what follows the question mark.
func parseOptions(o *redis.UniversalOptions, query string, secure bool) error {
	values, err := url.ParseQuery(query)
	if err != nil {
		return errors.New("the options are malformed")
	}
	take := func(name string) string {
		defer values.Del(name)
		return values.Get(name)
	}
	if file := take("password_file"); file != "" {
		if o.Password, err = readSecret(file); err != nil {
			return err
		}
	}
	user, password, file := take("sentinel_user"), take("sentinel_password"), take("sentinel_password_file")
	if file != "" {
		if password, err = readSecret(file); err != nil {
			return err
		}
	}
	if (user != "" || password != "") && o.MasterName == "" {
		return errors.New("sentinel_... is for redis+sentinel")
	}
	o.SentinelUsername, o.SentinelPassword = user, password
	ca, cert, key, name := take("ca"), take("cert"), take("key"), take("server_name")
	if len(values) > 0 {
		return errors.New("an option is none of password_file, sentinel_user, sentinel_password, sentinel_password_file, ca, cert, key, server_name")
	}
	if !secure {
		if ca != "" || cert != "" || key != "" || name != "" {
			return errors.New("ca, cert, key and server_name are for rediss")
		}
		return nil
	}
	o.TLSConfig, err = secured(ca, cert, key, name)
	return err
}

func readSecret(file string) (string, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("read a password: %w", err)
	}
	return strings.TrimRight(string(text), " \t\r\n"), nil
}

func secured(ca, cert, key, name string) (*tls.Config, error) {
	t := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: name}
	if ca != "" {
		pem, err := os.ReadFile(ca)
		if err != nil {
			return nil, fmt.Errorf("read the authorities: %w", err)
		}
		t.RootCAs = x509.NewCertPool()
		if !t.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("read the authorities: %s has no certificate", ca)
		}
	}
	if (cert == "") != (key == "") {
		return nil, errors.New("of cert and key one is missing")
	}
	if cert != "" {
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			return nil, fmt.Errorf("read certificate and key: %w", err)
		}
		t.Certificates = []tls.Certificate{pair}
	}
	return t, nil
}

// String returns the addresses alone: no user, no password.
func (s *Server) String() string { return s.name }

// connect returns a client that ctx closes, also under a call, which the client
// by itself would not notice. done closes it before. Nothing is dialled yet.
func (s *Server) connect(ctx context.Context) (c redis.UniversalClient, done func()) {
	o := s.options
	o.Addrs = append([]string(nil), o.Addrs...)
	c = redis.NewUniversalClient(&o)
	stop := context.AfterFunc(ctx, func() { c.Close() })
	return c, func() {
		if stop() {
			c.Close()
		}
	}
}

// fail says what was being done.
func (s *Server) fail(doing string, err error) error {
	return fmt.Errorf("redis %s: %s: %w", s.name, doing, err)
}

// Quiet keeps the Redis client from writing lines of its own to standard error;
// what they tell is returned as errors. The client has one switch for the whole
// program, which calls it when it starts.
func Quiet() { logging.Disable() }
