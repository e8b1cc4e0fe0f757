package web

import (
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"nearsight/origin"
)

// discard takes what a server says about clients that hang up.
var discard = log.New(io.Discard, "", 0)

// A lookup is a Resolver that knows these hosts.
type lookup map[string][]string

func (l lookup) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	texts, ok := l[host]
	if !ok {
		return nil, &net.DNSError{Err: "no such host", Name: host, Server: "10.0.0.53", IsNotFound: true}
	}
	return parseAddrs(texts), nil
}

func parseAddrs(texts []string) []netip.Addr {
	var addrs []netip.Addr
	for _, s := range texts {
		addrs = append(addrs, netip.MustParseAddr(s))
	}
	return addrs
}

func TestGuard(t *testing.T) {
	hosts := lookup{
		"images.example":   {"93.184.216.34", "2606:2800:220:1::1"},
		"inside.example":   {"10.0.0.7"},
		"mixed.example":    {"93.184.216.34", "192.168.1.1"},
		"mapped.example":   {"::ffff:127.0.0.1"},
		"metadata.example": {"169.254.169.254"},
		"empty.example":    {},
	}
	net10 := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	for _, tt := range []struct {
		name, url string
		guard     Guard
		says      string // "" means permitted
	}{
		{"a public name", "https://images.example/a?b=c", Guard{}, ""},
		{"a public name in capitals", "HTTPS://Images.Example./", Guard{}, ""},
		{"a public address", "http://93.184.216.34/", Guard{}, ""},
		{"a public address of IPv6", "http://[2606:2800:220:1::1]/", Guard{}, ""},
		{"a public address behind NAT64", "http://[64:ff9b::5db8:d822]/", Guard{}, ""},
		{"port 80 of https", "https://images.example:80/", Guard{}, ""},
		{"an empty port", "https://images.example:/", Guard{}, ""},
		{"a fragment", "http://images.example/#x", Guard{}, ""},
		{"an empty fragment", "http://images.example/#", Guard{}, ""},
		{"a fragment that looks like a host", "http://images.example#@127.0.0.1/", Guard{}, ""},

		{"nothing", "", Guard{}, "scheme"},
		{"no scheme", "images.example/x", Guard{}, "scheme"},
		{"a file", "file:///etc/passwd", Guard{}, "scheme"},
		{"gopher", "gopher://images.example/", Guard{}, "scheme"},
		{"no host", "http:///x", Guard{}, "without a host"},
		{"no slashes", "http:images.example", Guard{}, "without a host"},
		{"a port alone", "http://:80/", Guard{}, "without a host"},
		{"a password", "http://user:pw@images.example/", Guard{}, "password"},
		{"a user", "http://user@images.example/", Guard{}, "password"},
		{"no host but in a fragment", "http://#@images.example/", Guard{}, "without a host"},
		{"loopback, with a fragment", "http://127.0.0.1#@images.example/", Guard{}, "loopback"},
		{"a line break", "http://images.example/\r\nx", Guard{}, "malformed"},
		{"a space in the host", "http://images example/", Guard{}, "malformed"},
		{"a name that is not ASCII", "http://bücher.example/", Guard{}, "ASCII"},
		{"full-width digits", "http://１２７.0.0.1/", Guard{}, "ASCII"},
		{"too long", "http://images.example/" + strings.Repeat("x", maxURL), Guard{}, "more than 8192 bytes"},
		{"a long name", "http://" + strings.Repeat("x.", 127) + "example/", Guard{}, "ASCII"},

		{"loopback", "http://127.0.0.1/", Guard{}, "loopback"},
		{"loopback with a dot", "http://127.0.0.1./", Guard{}, "loopback"},
		{"any loopback", "http://127.9.9.9/", Guard{}, "loopback"},
		{"loopback of IPv6", "http://[::1]/", Guard{}, "loopback"},
		{"loopback, mapped", "http://[::ffff:127.0.0.1]/", Guard{}, "loopback"},
		{"loopback, mapped, in hex", "http://[::ffff:7f00:1]/", Guard{}, "loopback"},
		{"loopback, compatible", "http://[::127.0.0.1]/", Guard{}, "reserved"},
		{"loopback behind NAT64", "http://[64:ff9b::127.0.0.1]/", Guard{}, "loopback"},
		{"a local NAT64", "http://[64:ff9b:1::7f00:1]/", Guard{}, "reserved"},
		{"loopback behind 6to4", "http://[2002:7f00:1::]/", Guard{}, "6to4"},
		{"Teredo", "http://[2001:0:4136:e378:8000:63bf:80ff:fffe]/", Guard{}, "Teredo"},
		{"unspecified", "http://0.0.0.0/", Guard{}, "unspecified"},
		{"unspecified of IPv6", "http://[::]/", Guard{}, "unspecified"},
		{"this network", "http://0.1.2.3/", Guard{}, "reserved"},
		{"private, 10", "http://10.255.0.1/", Guard{}, "private"},
		{"private, 172", "http://172.31.0.1/", Guard{}, "private"},
		{"private, 192", "http://192.168.0.1/", Guard{}, "private"},
		{"private of IPv6", "http://[fd12::1]/", Guard{}, "private"},
		{"site-local", "http://[fec0::1]/", Guard{}, "private"},
		{"link-local", "http://169.254.1.1/", Guard{}, "link-local"},
		{"link-local of IPv6", "http://[fe80::1]/", Guard{}, "link-local"},
		{"link-local with a zone", "http://[fe80::1%25lo]/", Guard{}, "link-local"},
		{"a zone on a public address", "http://[2606:2800:220:1::1%25lo]/", Guard{}, "link-local"},
		{"metadata", "http://169.254.169.254/", Guard{}, "metadata"},
		{"metadata of IPv6", "http://[fd00:ec2::254]/", Guard{}, "metadata"},
		{"metadata that looks public", "http://168.63.129.16/", Guard{}, "metadata"},
		{"a provider's own", "http://100.64.0.1/", Guard{}, "provider"},
		{"benchmarks", "http://198.19.0.1/", Guard{}, "benchmarks"},
		{"benchmarks of IPv6", "http://[2001:2::1]/", Guard{}, "benchmarks"},
		{"documentation", "http://203.0.113.1/", Guard{}, "documentation"},
		{"documentation of IPv6", "http://[2001:db8::1]/", Guard{}, "documentation"},
		{"multicast", "http://224.0.0.1/", Guard{}, "multicast"},
		{"multicast of IPv6", "http://[ff02::1]/", Guard{}, "multicast"},
		{"broadcast", "http://255.255.255.255/", Guard{}, "broadcast"},
		{"the future", "http://240.0.0.1/", Guard{}, "reserved"},
		{"outside of all that is given out", "http://[4000::1]/", Guard{}, "reserved"},
		{"a short address", "http://127.1/", Guard{}, "no usual notation"},
		{"an address in one number", "http://2130706433/", Guard{}, "no usual notation"},
		{"an address in hex", "http://0x7f.0.0.1/", Guard{}, "no usual notation"},
		{"an address in one hex number", "http://0x7f000001/", Guard{}, "no usual notation"},
		{"an address in octal", "http://0177.0.0.1/", Guard{}, "no usual notation"},

		{"a name of a private address", "http://inside.example/", Guard{}, "host inside.example has an address that is private"},
		{"a name of a mapped address", "http://mapped.example/", Guard{}, "loopback"},
		{"a name of metadata", "http://metadata.example/", Guard{}, "metadata"},
		{"a name with one private address", "http://mixed.example/", Guard{}, "private"},
		{"another port", "http://images.example:22/", Guard{}, "port 22"},
		{"no port", "http://images.example:0/", Guard{}, "port"},
		{"a port that is none", "http://images.example:65536/", Guard{}, "port"},

		{"an allowed network", "http://inside.example/", Guard{Allow: net10}, ""},
		{"an allowed network behind NAT64", "http://[64:ff9b::10.0.0.7]/", Guard{Allow: net10}, ""},
		{"beside an allowed network", "http://192.168.0.1/", Guard{Allow: net10}, "private"},
		{"an allowed port", "http://images.example:8080/", Guard{AllowPorts: []Ports{{443, 443}, {1024, 65535}}}, ""},
		{"beside allowed ports", "http://images.example:80/", Guard{AllowPorts: []Ports{{443, 443}, {1024, 65535}}}, "port 80"},
		{"no port at all", "http://images.example:80/", Guard{AllowPorts: []Ports{}}, "port 80"},
		{"a denied port", "http://images.example:6379/", Guard{AllowPorts: []Ports{{1, 65535}}, DenyPorts: []Ports{{6379, 6379}}}, "port 6379"},
		{"an allowed host", "http://images.example/", Guard{AllowHosts: []string{"Images.Example"}}, ""},
		{"a host below an allowed one", "http://images.example/", Guard{AllowHosts: []string{"*.example"}}, ""},
		{"beside allowed hosts", "http://images.example/", Guard{AllowHosts: []string{"example"}}, "not allowed"},
		{"a host that ends alike", "http://images.example/", Guard{AllowHosts: []string{"*.ages.example"}}, "not allowed"},
		{"a denied host", "http://images.example/", Guard{DenyHosts: []string{"images.example"}}, "not allowed"},
		{"a denied address in another spelling", "http://[2606:2800:0220:0001:0::1]/", Guard{DenyHosts: []string{"[2606:2800:220:1::1]"}}, "not allowed"},
		{"an allowed host at a private address", "http://inside.example/", Guard{AllowHosts: []string{"inside.example"}}, "private"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.guard.Resolver = hosts
			err := tt.guard.Check(t.Context(), tt.url)
			switch {
			case tt.says == "" && err != nil:
				t.Errorf("error %v", err)
			case tt.says != "" && (!errors.Is(err, origin.ErrLocation) || !strings.Contains(err.Error(), tt.says)):
				t.Errorf("error %v; want %v that says %q", err, origin.ErrLocation, tt.says)
			}
		})
	}
}

func TestGuardWithoutAddress(t *testing.T) {
	g := Guard{Resolver: lookup{"empty.example": {}}}
	for _, host := range []string{"empty.example", "missing.example"} {
		err := g.Check(t.Context(), "http://"+host+"/")
		if !errors.Is(err, origin.ErrUnavailable) || !strings.Contains(err.Error(), host) || strings.Contains(err.Error(), "10.0.0.53") {
			t.Errorf("error %v", err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := g.Check(ctx, "http://empty.example/"); !errors.Is(err, context.Canceled) || errors.Is(err, origin.ErrUnavailable) {
		t.Errorf("after the end of ctx: %v", err)
	}
}

// A rebinding resolver answers each question with the next list of addresses, and
// then with the last.
type rebinding struct {
	answers [][]string
	asked   atomic.Int64
}

func (r *rebinding) LookupNetIP(context.Context, string, string) ([]netip.Addr, error) {
	n := min(int(r.asked.Add(1)), len(r.answers))
	return parseAddrs(r.answers[n-1]), nil
}

func TestRebinding(t *testing.T) {
	var hits atomic.Int64
	srv := serve(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { hits.Add(1) }))
	loc := origin.Location{URL: strings.Replace(srv.URL, "127.0.0.1", "images.example", 1)}

	// The name is public when it is checked, and leads here when it is read.
	r := &rebinding{answers: [][]string{{"93.184.216.34"}, {"127.0.0.1"}}}
	g := Guard{AllowPorts: []Ports{{1, 65535}}, Resolver: r}
	s := newStore(t, Options{Guard: g})
	if err := g.Check(t.Context(), loc.URL); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Open(t.Context(), loc, 0, -1); !errors.Is(err, origin.ErrLocation) || !strings.Contains(err.Error(), "loopback") {
		t.Errorf("error %v", err)
	}
	if hits.Load() != 0 || r.asked.Load() != 2 {
		t.Errorf("%d requests, %d look-ups; want 0, 2", hits.Load(), r.asked.Load())
	}

	// What was checked is what is dialled: there is no second look-up.
	r = &rebinding{answers: [][]string{{"127.0.0.1"}, {"127.0.0.2"}}}
	g = onLoopback()
	g.Resolver = r
	s = newStore(t, Options{Guard: g})
	o, err := s.Open(t.Context(), loc, 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	o.Body.Close()
	if hits.Load() != 1 || r.asked.Load() != 1 {
		t.Errorf("%d requests, %d look-ups; want 1, 1", hits.Load(), r.asked.Load())
	}
}

func TestDialTriesEveryAddress(t *testing.T) {
	srv := serve(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	addr := srv.Listener.Addr().(*net.TCPAddr)
	g := onLoopback()
	g.Allow = append(g.Allow, netip.MustParsePrefix("127.0.0.0/8"))
	g.Resolver = lookup{"images.example": {"127.0.0.9", "127.0.0.1"}, "down.example": {"127.0.0.9"}}
	_, port, _ := net.SplitHostPort(addr.String())
	conn, err := g.DialContext(t.Context(), "tcp", "images.example:"+port)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if got := conn.RemoteAddr().String(); got != addr.String() {
		t.Errorf("connected to %s; want %s", got, addr)
	}
	if _, err := g.DialContext(t.Context(), "tcp", "down.example:"+port); !errors.Is(err, origin.ErrUnavailable) {
		t.Errorf("where nobody listens: %v", err)
	}
	for _, addr := range []string{"10.0.0.1:80", "images.example", "images.example:http", "127.1:80"} {
		if _, err := g.DialContext(t.Context(), "tcp", addr); !errors.Is(err, origin.ErrLocation) {
			t.Errorf("%s: %v", addr, err)
		}
	}
}

func TestPortsText(t *testing.T) {
	for _, tt := range []struct {
		text string
		want Ports
		bad  bool
	}{
		{"80", Ports{80, 80}, false},
		{"1024-65535", Ports{1024, 65535}, false},
		{"", Ports{}, true},
		{"0", Ports{}, true},
		{"http", Ports{}, true},
		{"90-80", Ports{}, true},
		{"80-", Ports{}, true},
		{"65536", Ports{}, true},
	} {
		var p Ports
		err := p.UnmarshalText([]byte(tt.text))
		if p != tt.want || (err != nil) != tt.bad {
			t.Errorf("%q: %v, %v", tt.text, p, err)
		}
		if text, _ := p.MarshalText(); err == nil && string(text) != tt.text {
			t.Errorf("%q became %q", tt.text, text)
		}
	}
}

// Whatever URL the guard lets through is one of http to a public address or to a
// name, at a web port, without a password.
func FuzzURL(f *testing.F) {
	for _, s := range []string{
		"http://images.example/a", "https://93.184.216.34:443/", "http://[::ffff:127.0.0.1]/", "http://127.1/", "http://a@b/",
		"http://[fe80::1%25lo]/", "http://[64:ff9b::a00:1]/", "http://0x7f.1/", "HTTP://A.:80/#x", "//a", "http:a",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var g Guard
		u, err := g.parse(s)
		if err != nil {
			if !errors.Is(err, origin.ErrLocation) {
				t.Errorf("%q: %v", s, err)
			}
			return
		}
		host := hostOf(u)
		port, _ := strconv.Atoi(portOf(u))
		if u.Scheme != "http" && u.Scheme != "https" || u.User != nil || u.Fragment != "" || host == "" || port != 80 && port != 443 {
			t.Errorf("%q became %q", s, u)
		}
		if ip := net.ParseIP(host); ip != nil && (!ip.IsGlobalUnicast() || ip.IsPrivate()) {
			t.Errorf("%q leads to %s", s, ip)
		}
		// What is sent is what was checked.
		again, err := url.Parse(u.String())
		if err != nil || serverOf(again) != serverOf(u) {
			t.Errorf("%q became %q", s, u)
		}
	})
}
