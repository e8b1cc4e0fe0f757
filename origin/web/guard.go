package web

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"nearsight/origin"
)

// maxURL bounds a URL, in bytes. Signed ones have some thousand.
const maxURL = 8 << 10

// A Guard says to which servers a stranger's URL may lead: without one, whoever
// registers an image could read what only this machine can reach. The zero Guard
// permits all hosts at public addresses, at ports 80 and 443. It is safe for
// concurrent use as long as its fields do not change.
//
// What is refused is an error that wraps origin.ErrLocation and names the reason
// for the one who gave the URL; it does not tell the addresses of a host.
type Guard struct {
	// Allow are networks that may be dialled although they are not public.
	Allow []netip.Prefix
	// AllowHosts, unless empty, are all the hosts that may be named. DenyHosts
	// are refused in any case. *.example.org means every name below that one.
	AllowHosts, DenyHosts []string
	// AllowPorts are all the ports that may be named; nil means 80 and 443.
	// DenyPorts are refused in any case.
	AllowPorts, DenyPorts []Ports
	// Resolver finds the addresses of a host; nil means net.DefaultResolver.
	Resolver Resolver
}

// A Resolver is what a Guard needs of a net.Resolver.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// Ports are the ports from First to Last, both among them. As text they are 80 or
// 1024-65535.
type Ports struct{ First, Last uint16 }

// UnmarshalText implements encoding.TextUnmarshaler.
func (p *Ports) UnmarshalText(text []byte) error {
	from, to, isRange := strings.Cut(string(text), "-")
	if !isRange {
		to = from
	}
	first, err1 := strconv.ParseUint(from, 10, 16)
	last, err2 := strconv.ParseUint(to, 10, 16)
	if err1 != nil || err2 != nil || first == 0 || last < first {
		return fmt.Errorf("ports %.40q: want a number from 1 to 65535, or two with '-' between", text)
	}
	p.First, p.Last = uint16(first), uint16(last)
	return nil
}

// MarshalText implements encoding.TextMarshaler.
func (p Ports) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

func (p Ports) String() string {
	if p.First == p.Last {
		return strconv.Itoa(int(p.First))
	}
	return fmt.Sprintf("%d-%d", p.First, p.Last)
}

// Check says whether rawURL may be read now: it looks at the URL and at all
// addresses of its host. A host without an address is origin.ErrUnavailable.
// Permission is not for good, since a name may point elsewhere later:
// DialContext checks again.
func (g *Guard) Check(ctx context.Context, rawURL string) error {
	u, err := g.parse(rawURL)
	if err != nil {
		return err
	}
	_, err = g.addresses(ctx, hostOf(u))
	return err
}

// DialContext connects to addr, HOST:PORT, at an address that was checked. It
// refuses a host of which any address is refused. The time that ctx leaves is
// shared among the addresses.
func (g *Guard) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, fmt.Errorf("%w: malformed address", origin.ErrLocation)
	}
	host = canonical(host)
	if err := g.permitHost(host); err != nil {
		return nil, err
	}
	if err := g.permitPort(port); err != nil {
		return nil, err
	}
	addrs, err := g.addresses(ctx, host)
	if err != nil {
		return nil, err
	}
	var first error
	for i, a := range addrs {
		conn, err := dial(ctx, network, net.JoinHostPort(a.String(), port), len(addrs)-i)
		if err == nil {
			return conn, nil
		}
		if end := ctx.Err(); end != nil {
			return nil, fmt.Errorf("connect to %s: %w", host, end)
		}
		if first == nil {
			first = fmt.Errorf("%w: %v", origin.ErrUnavailable, err)
		}
	}
	return nil, first
}

// dial takes at most its share of the time that ctx has left.
func dial(ctx context.Context, network, addr string, shares int) (net.Conn, error) {
	var d net.Dialer
	if end, ok := ctx.Deadline(); ok {
		d.Timeout = time.Until(end) / time.Duration(shares)
	}
	return d.DialContext(ctx, network, addr)
}

// parse returns the URL if all that it says by itself is permitted, without its
// fragment: that is not for servers (RFC 3986, section 3.5). No error shows it,
// for it may hold a password.
func (g *Guard) parse(rawURL string) (*url.URL, error) {
	if len(rawURL) > maxURL {
		return nil, fmt.Errorf("%w: a URL of more than %d bytes", origin.ErrLocation, maxURL)
	}
	u, err := url.Parse(rawURL)
	if err != nil {
		return nil, fmt.Errorf("%w: malformed URL", origin.ErrLocation)
	}
	u.Fragment, u.RawFragment = "", ""
	return u, g.permit(u)
}

// permit checks all of u but the addresses of its host.
func (g *Guard) permit(u *url.URL) error {
	switch {
	case u.Scheme != "http" && u.Scheme != "https":
		return fmt.Errorf("%w: scheme %.20q is neither http nor https", origin.ErrLocation, u.Scheme)
	case u.User != nil:
		return fmt.Errorf("%w: a URL with a user name or password", origin.ErrLocation)
	case u.Opaque != "" || u.Hostname() == "":
		return fmt.Errorf("%w: a URL without a host", origin.ErrLocation)
	}
	if err := g.permitHost(hostOf(u)); err != nil {
		return err
	}
	return g.permitPort(portOf(u))
}

// hostOf returns the host of u as every other spelling of it is compared.
func hostOf(u *url.URL) string { return canonical(u.Hostname()) }

func canonical(host string) string {
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	if addr, err := netip.ParseAddr(host); err == nil {
		return addr.Unmap().String()
	}
	return host
}

func portOf(u *url.URL) string {
	switch port := u.Port(); {
	case port != "":
		return port
	case u.Scheme == "https":
		return "443"
	}
	return "80"
}

func (g *Guard) permitHost(host string) error {
	if host == "" || len(host) > 253 || strings.ContainsFunc(host, func(c rune) bool { return c <= ' ' || c >= 0x7f }) {
		return fmt.Errorf("%w: host %.80q is no name in ASCII", origin.ErrLocation, host)
	}
	addr, err := netip.ParseAddr(host)
	switch {
	case err == nil:
		if err := g.permitAddr(addr); err != nil {
			return err
		}
	case strings.Contains(host, ":") || endsInNumber(host):
		// 127.1, 0x7f000001 and the like, which some resolvers understand.
		return fmt.Errorf("%w: host %.80q is an address in no usual notation", origin.ErrLocation, host)
	}
	is := func(pattern string) bool { return matches(pattern, host) }
	if slices.ContainsFunc(g.DenyHosts, is) || len(g.AllowHosts) > 0 && !slices.ContainsFunc(g.AllowHosts, is) {
		return fmt.Errorf("%w: host %.80q is not allowed here", origin.ErrLocation, host)
	}
	return nil
}

// endsInNumber says whether the last label of host is a number, decimal or
// hexadecimal, as no top-level domain is.
func endsInNumber(host string) bool {
	label := host[strings.LastIndexByte(host, '.')+1:]
	digits := "0123456789"
	if hex, ok := strings.CutPrefix(label, "0x"); ok {
		label, digits = hex, "0123456789abcdef"
	}
	return strings.Trim(label, digits) == ""
}

func matches(pattern, host string) bool {
	if domain, ok := strings.CutPrefix(pattern, "*."); ok {
		return strings.HasSuffix(host, "."+canonical(domain))
	}
	return host == canonical(strings.Trim(pattern, "[]"))
}

func (g *Guard) permitPort(port string) error {
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return fmt.Errorf("%w: port %.20q is none", origin.ErrLocation, port)
	}
	in := func(p Ports) bool { return p.First <= uint16(n) && uint16(n) <= p.Last }
	allowed := n == 80 || n == 443
	if g.AllowPorts != nil {
		allowed = slices.ContainsFunc(g.AllowPorts, in)
	}
	if !allowed || slices.ContainsFunc(g.DenyPorts, in) {
		return fmt.Errorf("%w: port %d is not allowed here", origin.ErrLocation, n)
	}
	return nil
}

// permitAddr checks an address that stands in a URL.
func (g *Guard) permitAddr(addr netip.Addr) error {
	if why := g.refuses(addr); why != "" {
		return fmt.Errorf("%w: address %s is %s", origin.ErrLocation, addr, why)
	}
	return nil
}

// addresses returns all addresses of host, if all are permitted.
func (g *Guard) addresses(ctx context.Context, host string) ([]netip.Addr, error) {
	if addr, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{addr.Unmap()}, g.permitAddr(addr)
	}
	var r Resolver = net.DefaultResolver
	if g.Resolver != nil {
		r = g.Resolver
	}
	addrs, err := r.LookupNetIP(ctx, "ip", host)
	var dns *net.DNSError
	switch {
	case ctx.Err() != nil:
		return nil, fmt.Errorf("addresses of %s: %w", host, ctx.Err())
	case errors.As(err, &dns): // the rest of it names our own resolver
		return nil, fmt.Errorf("%w: host %s: %s", origin.ErrUnavailable, host, dns.Err)
	case err != nil:
		return nil, fmt.Errorf("%w: host %s: %v", origin.ErrUnavailable, host, err)
	case len(addrs) == 0:
		return nil, fmt.Errorf("%w: host %s has no address", origin.ErrUnavailable, host)
	}
	for i, a := range addrs {
		addrs[i] = a.Unmap()
		if why := g.refuses(a); why != "" {
			return nil, fmt.Errorf("%w: host %s has an address that is %s", origin.ErrLocation, host, why)
		}
	}
	return addrs, nil
}

// refuses returns what is wrong with an address, or "".
func (g *Guard) refuses(addr netip.Addr) string {
	if addr.Zone() != "" {
		return "link-local"
	}
	addr = addr.Unmap()
	if slices.ContainsFunc(g.Allow, func(p netip.Prefix) bool { return p.Contains(addr) }) {
		return ""
	}
	if inner, ok := embedded(addr); ok {
		return g.refuses(inner)
	}
	return special(addr)
}
