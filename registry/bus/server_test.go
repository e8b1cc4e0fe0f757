package bus

import (
	"crypto/tls"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestParseServer(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("from a file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	type want struct {
		addrs                        []string
		user, password               string
		db                           int
		cluster                      bool
		master, sentUser, sentSecret string
		tls                          bool
	}
	for _, tt := range []struct {
		name, text string
		want       want
	}{
		{"a host alone", "redis://redis.example", want{addrs: []string{"redis.example:6379"}}},
		{"a slash and nothing behind", "redis://redis.example/", want{addrs: []string{"redis.example:6379"}}},
		{"port and database", "redis://127.0.0.1:7000/3", want{addrs: []string{"127.0.0.1:7000"}, db: 3}},
		{"an IPv6 address", "redis://[::1]", want{addrs: []string{"[::1]:6379"}}},
		{"an IPv6 address with a port", "redis://[fd00::7]:7000", want{addrs: []string{"[fd00::7]:7000"}}},
		{"a password alone", "redis://:pw@h", want{addrs: []string{"h:6379"}, password: "pw"}},
		{"a user", "redis://u:pw@h:1/0", want{addrs: []string{"h:1"}, user: "u", password: "pw"}},
		{"a password of any octets", "redis://u%3A:p%40%2F%3F+%25@h", want{addrs: []string{"h:6379"}, user: "u:", password: "p@/?+%"}},
		{"an @ that is not encoded", "redis://:p@w@h", want{addrs: []string{"h:6379"}, password: "p@w"}},
		{"the password in a file", "redis://u:@h?password_file=" + secret, want{addrs: []string{"h:6379"}, user: "u", password: "from a file"}},
		{"with TLS", "rediss://h", want{addrs: []string{"h:6379"}, tls: true}},
		{"several addresses are a cluster", "redis://:pw@a,b:7001,[::1]:7002",
			want{addrs: []string{"a:6379", "b:7001", "[::1]:7002"}, password: "pw", cluster: true}},
		{"a cluster of which one is known", "rediss+cluster://a:7000/0", want{addrs: []string{"a:7000"}, cluster: true, tls: true}},
		{"sentinels", "redis+sentinel://:pw@a,b:26380/main/2",
			want{addrs: []string{"a:26379", "b:26380"}, password: "pw", master: "main", db: 2}},
		{"one sentinel, with a user", "rediss+sentinel://a/main?sentinel_user=su&sentinel_password=s%26p",
			want{addrs: []string{"a:26379"}, master: "main", sentUser: "su", sentSecret: "s&p", tls: true}},
		{"a sentinel's password in a file", "redis+sentinel://a/main?sentinel_password_file=" + secret,
			want{addrs: []string{"a:26379"}, master: "main", sentSecret: "from a file"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, err := ParseServer(tt.text)
			if err != nil {
				t.Fatal(err)
			}
			o := s.options
			got := want{o.Addrs, o.Username, o.Password, o.DB, o.IsClusterMode, o.MasterName, o.SentinelUsername, o.SentinelPassword, o.TLSConfig != nil}
			if !reflect.DeepEqual(got, tt.want) {
				t.Errorf("%+v, want %+v", got, tt.want)
			}
			if o.TLSConfig != nil && (o.TLSConfig.MinVersion != tls.VersionTLS12 || o.TLSConfig.InsecureSkipVerify) {
				t.Error("the TLS is weak")
			}
			if s.String() != strings.Join(tt.want.addrs, ",") {
				t.Errorf("its name is %s", s)
			}
		})
	}
}

func TestParseServerRefuses(t *testing.T) {
	for _, tt := range []struct{ name, text, says string }{
		{"nothing", "", "no scheme"},
		{"no scheme", "hunter2@redis.example", "no scheme"},
		{"another scheme", "hunter2://redis.example", "the scheme"},
		{"another kind", "redis+hunter2://redis.example", "the scheme"},
		{"an empty kind", "redis+://redis.example", "the scheme"},
		{"no host", "redis://", "host"},
		{"no host before the port", "redis://:6379", "host"},
		{"an empty host between others", "redis://a,,hunter2", "host"},
		{"an IPv6 address without brackets", "redis://::1", "host"},
		{"brackets around what is none", "redis://[hunter2]", "host"},
		{"a port that is none", "redis://h:hunter2", "port"},
		{"port 0", "redis://h:0", "port"},
		{"a port too large", "redis://h:65536", "port"},
		{"a user without a password", "redis://hunter2@h", "PASSWORD"},
		{"a password badly encoded", "redis://:hunter2%zz@h", "percent-encoded"},
		{"a slash in the password", "redis://:6/hunter2@h", "host"},
		{"a question mark in the password", "redis://u:6?hunter2@h", "option"},
		{"a database that is no number", "redis://h/hunter2", "database"},
		{"a negative database", "redis://h/-1", "database"},
		{"a database of a cluster", "redis://a,b/1", "Cluster"},
		{"sentinels without a master", "redis+sentinel://a", "master"},
		{"sentinel options without sentinels", "redis://h?sentinel_password=hunter2", "sentinel"},
		{"an unknown option", "redis://h?password=hunter2", "option"},
		{"options badly encoded", "redis://h?hunter2=%zz", "options"},
		{"TLS options without TLS", "redis://h?ca=/hunter2", "rediss"},
		{"a certificate without a key", "rediss://h?cert=/x", "cert and key"},
		{"a file that is not there", "redis://:hunter2@h?password_file=/nowhere/else", "/nowhere/else"},
		{"authorities that are not there", "rediss://:hunter2@h?ca=/nowhere/else", "/nowhere/else"},
		{"authorities that are none", "rediss://:hunter2@h?ca=server_test.go", "no certificate"},
		{"a certificate that is not there", "rediss://:hunter2@h?cert=/nowhere/else&key=/x", "/nowhere/else"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := ParseServer(tt.text)
			if err == nil || !strings.Contains(err.Error(), tt.says) || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("error %v, want one of %q", err, tt.says)
			}
		})
	}
}

func FuzzParseServer(f *testing.F) {
	for _, seed := range []string{
		"redis://:pw@h:1/2", "rediss://u:p%40@[::1],b", "redis+sentinel://a,b:2/main/1?sentinel_user=x&sentinel_password=y",
		"redis+cluster://a?server_name=x", "rediss://h?ca=", "redis://a@b@c:1,d", "redis://[::1%25lo]:1",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if strings.Contains(text, "_file") || strings.Contains(text, "ca=") || strings.Contains(text, "cert=") || strings.Contains(text, "%") {
			return // names of files, perhaps encoded, belong into errors
		}
		s, err := ParseServer(text)
		if err != nil {
			if rest, ok := strings.CutPrefix(text, "redis://:"); ok && len(rest) > 12 && strings.Contains(err.Error(), rest) {
				t.Errorf("error %q shows what it read", err)
			}
			return
		}
		for _, addr := range s.options.Addrs {
			if strings.ContainsAny(addr, "@/?, ") {
				t.Errorf("address %q of %q", addr, text)
			}
		}
		if s.options.Password != "" && len(s.options.Password) > 12 && strings.Contains(s.String(), s.options.Password) {
			t.Errorf("the name %s shows the password", s)
		}
	})
}
