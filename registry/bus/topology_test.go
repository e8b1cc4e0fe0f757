package bus_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"nearsight/registry/bus"
)

// delivers checks that events go through a stream of a server, and returns the parts.
func delivers(t *testing.T, server *bus.Server, stream string) (*table, *bus.Redis, *watcher) {
	t.Helper()
	table := newTable()
	publish(t, bus.PublisherOptions{Server: server, Stream: stream, Local: table.local()})
	o := quickly(server, stream, table, table.local())
	o.Silence = 2 * time.Second // they may be slow to find each other
	r := bus.NewRedis(o)
	w := watch(t, table, r, 0, nil)
	w.untilAlive(1)
	w.untilRevision(table.add(300))
	eventually(t, "it is heard", func() bool { return !r.Lost() })
	return table, r, w
}

func TestSentinelsLeadToTheMasterAndToTheNext(t *testing.T) {
	master := start(t, "--requirepass", "hunter2", "--masterauth", "hunter2")
	replica := start(t, "--requirepass", "hunter2", "--masterauth", "hunter2", "--replicaof", "127.0.0.1 "+master.port)
	c := redis.NewClient(&redis.Options{Addr: replica.addr(), Password: "hunter2"})
	defer c.Close()
	eventually(t, "the replica follows", func() bool {
		return strings.Contains(c.Info(t.Context(), "replication").Val(), "master_link_status:up")
	})
	port := freePort(t)
	conf := filepath.Join(t.TempDir(), "sentinel.conf")
	err := os.WriteFile(conf, []byte("requirepass s3cret\n"+
		"sentinel sentinel-pass s3cret\n"+
		"sentinel monitor main 127.0.0.1 "+master.port+" 1\n"+
		"sentinel auth-pass main hunter2\n"+
		"sentinel down-after-milliseconds main 500\n"+
		"sentinel failover-timeout main 2000\n"), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	sentinel := startOn(t, port, conf, "--sentinel")
	s := redis.NewSentinelClient(&redis.Options{Addr: sentinel.addr(), Password: "s3cret"})
	defer s.Close()
	eventually(t, "the sentinel knows the replica", func() bool {
		replicas, err := s.Replicas(t.Context(), "main").Result()
		return err == nil && len(replicas) == 1 && replicas[0]["flags"] == "slave" && replicas[0]["master-link-status"] == "ok"
	})

	url := "redis+sentinel://:hunter2@" + sentinel.addr() + ",127.0.0.1:" + freePort(t) + "/main"
	table, r, w := delivers(t, parse(t, url+"?sentinel_password=s3cret"), "")
	master.kill()
	w.untilRevision(table.add(100))
	eventually(t, "the replica is the master", func() bool {
		return strings.Contains(c.Info(t.Context(), "replication").Val(), "role:master")
	})
	eventually(t, "it is heard", func() bool { return !r.Lost() && c.Exists(t.Context(), bus.DefaultStream).Val() == 1 })
	w.untilRevision(table.add(100))
	w.untilAlive(2)

	server := parse(t, url+"?sentinel_password=wrong")
	err = watch(t, table, bus.NewRedis(quickly(server, "", table, nil)), 0, nil).untilError()
	if strings.Contains(err.Error(), "wrong") || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("error %v shows a password", err)
	}
}

func TestAClusterKeepsBothStreams(t *testing.T) {
	var nodes []*process
	var addrs []string
	buses := make(map[*process]string) // ports on which nodes meet
	for range 3 {
		port := freePort(t)
		p := start(t, "--cluster-enabled", "yes", "--cluster-port", port)
		nodes, addrs, buses[p] = append(nodes, p), append(addrs, p.addr()), port
	}
	ctx := t.Context()
	for i, p := range nodes {
		c := redis.NewClient(&redis.Options{Addr: p.addr()})
		defer c.Close()
		if err := c.ClusterAddSlotsRange(ctx, i*16384/3, (i+1)*16384/3-1).Err(); err != nil {
			t.Fatal(err)
		}
		for _, other := range nodes[:i] {
			if err := c.Do(ctx, "cluster", "meet", "127.0.0.1", other.port, buses[other]).Err(); err != nil {
				t.Fatal(err)
			}
		}
		eventually(t, "the node knows the others", func() bool {
			return strings.Contains(c.ClusterInfo(ctx).Val(), fmt.Sprintf("cluster_known_nodes:%d", i+1))
		})
	}
	for _, p := range nodes {
		c := redis.NewClient(&redis.Options{Addr: p.addr()})
		defer c.Close()
		eventually(t, "all slots are there", func() bool {
			return strings.Contains(c.ClusterInfo(ctx).Val(), "cluster_slots_ok:16384")
		})
	}
	for _, url := range []string{"redis://" + strings.Join(addrs, ","), "redis+cluster://" + addrs[2]} {
		t.Run(strings.SplitN(url, ":", 2)[0], func(t *testing.T) {
			_, _, w := delivers(t, parse(t, url), url)
			w.untilAlive(2)
		})
	}
}

func TestWrongPasswordsAreToldAndNotShown(t *testing.T) {
	p := start(t, "--requirepass", "hunter2")
	for _, tt := range []struct{ name, user, says string }{
		{"none", "", "NOAUTH"},
		{"a wrong one", ":topsecret@", "WRONGPASS"},
		{"a user whom nobody knows", "topsecret:hunter2@", "WRONGPASS"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			table := newTable()
			server := parse(t, "redis://"+tt.user+p.addr())
			publisher, _ := publish(t, bus.PublisherOptions{Server: server, Local: table.local()})
			err := watch(t, table, bus.NewRedis(quickly(server, "", table, nil)), 0, nil).untilError()
			eventually(t, "the publisher tells", func() bool {
				return publisher.Err() != nil && strings.Contains(publisher.Err().Error(), tt.says)
			})
			if !strings.Contains(err.Error(), tt.says) || !strings.Contains(err.Error(), p.addr()) {
				t.Errorf("error %v, want one of %s", err, tt.says)
			}
			for _, text := range []string{err.Error(), publisher.Err().Error(), server.String()} {
				if strings.Contains(text, "hunter2") || strings.Contains(text, "topsecret") {
					t.Errorf("%s shows a password", text)
				}
			}
		})
	}
	t.Run("the right one", func(t *testing.T) {
		table, _, _ := delivers(t, parse(t, "redis://:hunter2@"+p.addr()), "")
		// An edge needs no more than to read two streams.
		c := redis.NewClient(&redis.Options{Addr: p.addr(), Password: "hunter2"})
		defer c.Close()
		err := c.Do(t.Context(), "acl", "setuser", "edge", "on", ">s3cret",
			"~"+bus.DefaultStream, "~{"+bus.DefaultStream+"}:beats", "+xread", "+xrevrange", "+client|setname").Err()
		if err != nil {
			t.Fatal(err)
		}
		r := bus.NewRedis(quickly(parse(t, "redis://edge:s3cret@"+p.addr()), "", table, nil))
		w := watch(t, table, r, 290, nil)
		w.untilRevision(300)
		w.untilAlive(2)
	})
}

func TestTLS(t *testing.T) {
	dir := t.TempDir()
	authority(t, dir, "ours")
	authority(t, dir, "other")
	port := freePort(t)
	p := startOn(t, "0", "--tls-port", port, "--tls-cert-file", filepath.Join(dir, "ours-server.pem"),
		"--tls-key-file", filepath.Join(dir, "ours-server.key"), "--tls-ca-cert-file", filepath.Join(dir, "ours.pem"))
	p.port = port
	file := func(name string) string { return filepath.Join(dir, name) }
	client := "&cert=" + file("ours-client.pem") + "&key=" + file("ours-client.key")
	delivers(t, parse(t, "rediss://"+p.addr()+"?ca="+file("ours.pem")+client), "")
	delivers(t, parse(t, "rediss://"+p.addr()+"?server_name=redis.example&ca="+file("ours.pem")+client), "another")
	for _, tt := range []struct{ name, url, says string }{
		{"a certificate of strangers", "rediss://:hunter2@" + p.addr() + "?ca=" + file("other.pem") + client, "x509: certificate signed by unknown authority"},
		{"the system's authorities do not know it", "rediss://:hunter2@" + p.addr() + "?server_name=redis.example" + client, "x509: certificate signed by unknown authority"},
		{"a certificate for another name", "rediss://:hunter2@" + p.addr() + "?server_name=elsewhere.example&ca=" + file("ours.pem") + client, "not elsewhere.example"},
		{"no certificate of ours", "rediss://:hunter2@" + p.addr() + "?ca=" + file("ours.pem"), p.addr()},
		{"a certificate of ours from strangers", "rediss://:hunter2@" + p.addr() + "?ca=" + file("ours.pem") +
			"&cert=" + file("other-client.pem") + "&key=" + file("other-client.key"), p.addr()},
		{"no TLS at all", "redis://:hunter2@" + p.addr(), p.addr()},
	} {
		t.Run(tt.name, func(t *testing.T) {
			table := newTable()
			err := watch(t, table, bus.NewRedis(quickly(parse(t, tt.url), "", table, nil)), 0, nil).untilError()
			if !strings.Contains(err.Error(), tt.says) || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("error %v, want one of %q", err, tt.says)
			}
		})
	}
}

// authority makes NAME.pem, and a server and a client that it knows.
func authority(t *testing.T, dir, name string) {
	t.Helper()
	write := func(file, kind string, der []byte) {
		if err := os.WriteFile(filepath.Join(dir, file), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	newKey := func() *ecdsa.PrivateKey {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	certify := func(c, parent *x509.Certificate, key, by *ecdsa.PrivateKey) []byte {
		der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, by)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	now := time.Now()
	root := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	rootKey := newKey()
	write(name+".pem", "CERTIFICATE", certify(root, root, rootKey, rootKey))
	for i, who := range []string{"server", "client"} {
		key := newKey()
		c := &x509.Certificate{
			SerialNumber: big.NewInt(int64(i + 2)), Subject: pkix.Name{CommonName: who}, NotBefore: root.NotBefore, NotAfter: root.NotAfter,
			KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
			IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"redis.example"},
		}
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		write(name+"-"+who+".pem", "CERTIFICATE", certify(c, root, key, rootKey))
		write(name+"-"+who+".key", "PRIVATE KEY", der)
	}
}
