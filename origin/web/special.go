package web

import "net/netip"

var nat64 = netip.MustParsePrefix("64:ff9b::/96")

// specials are the networks that are not for the public, by the IANA registries of
// special-purpose addresses (RFC 6890) and of multicast. The first that holds an
// address names it.
var specials = []struct {
	net  netip.Prefix
	what string
}{
	{netip.MustParsePrefix("169.254.169.254/32"), "that of a cloud's metadata"},
	{netip.MustParsePrefix("168.63.129.16/32"), "that of a cloud's metadata"},
	{netip.MustParsePrefix("100.100.100.200/32"), "that of a cloud's metadata"},
	{netip.MustParsePrefix("fd00:ec2::254/128"), "that of a cloud's metadata"},

	{netip.MustParsePrefix("0.0.0.0/32"), "unspecified"},
	{netip.MustParsePrefix("0.0.0.0/8"), "reserved"},
	{netip.MustParsePrefix("10.0.0.0/8"), "private"},
	{netip.MustParsePrefix("100.64.0.0/10"), "shared by a provider's customers"}, // RFC 6598
	{netip.MustParsePrefix("127.0.0.0/8"), "loopback"},
	{netip.MustParsePrefix("169.254.0.0/16"), "link-local"},
	{netip.MustParsePrefix("172.16.0.0/12"), "private"},
	{netip.MustParsePrefix("192.0.0.0/24"), "reserved"},
	{netip.MustParsePrefix("192.0.2.0/24"), "for documentation"},
	{netip.MustParsePrefix("192.88.99.0/24"), "a 6to4 relay"},
	{netip.MustParsePrefix("192.168.0.0/16"), "private"},
	{netip.MustParsePrefix("198.18.0.0/15"), "for benchmarks"},
	{netip.MustParsePrefix("198.51.100.0/24"), "for documentation"},
	{netip.MustParsePrefix("203.0.113.0/24"), "for documentation"},
	{netip.MustParsePrefix("224.0.0.0/4"), "multicast"},
	{netip.MustParsePrefix("255.255.255.255/32"), "broadcast"},
	{netip.MustParsePrefix("240.0.0.0/4"), "reserved"},

	{netip.MustParsePrefix("::/128"), "unspecified"},
	{netip.MustParsePrefix("::1/128"), "loopback"},
	{netip.MustParsePrefix("2001::/32"), "a Teredo tunnel"}, // to whatever IPv4 address is in it
	{netip.MustParsePrefix("2001:2::/48"), "for benchmarks"},
	{netip.MustParsePrefix("2001::/23"), "reserved"},
	{netip.MustParsePrefix("2001:db8::/32"), "for documentation"},
	{netip.MustParsePrefix("2002::/16"), "a 6to4 tunnel"}, // as Teredo
	{netip.MustParsePrefix("3fff::/20"), "for documentation"},
	{netip.MustParsePrefix("fc00::/7"), "private"}, // RFC 4193
	{netip.MustParsePrefix("fe80::/10"), "link-local"},
	{netip.MustParsePrefix("fec0::/10"), "private"},
	{netip.MustParsePrefix("ff00::/8"), "multicast"},
}

// special says in a word for whom addr is, or "" if it is for the public. addr is
// not IPv4-mapped.
func special(addr netip.Addr) string {
	for _, s := range specials {
		if s.net.Contains(addr) {
			return s.what
		}
	}
	// All of IPv6 that is public so far is in 2000::/3.
	if addr.Is6() && addr.As16()[0]>>5 != 1 {
		return "reserved"
	}
	return ""
}

// embedded returns the IPv4 address that packets to addr end up at: that of NAT64
// (RFC 6052), which is how a machine without IPv4 reaches the public.
func embedded(addr netip.Addr) (netip.Addr, bool) {
	if !nat64.Contains(addr) {
		return netip.Addr{}, false
	}
	b := addr.As16()
	return netip.AddrFrom4([4]byte(b[12:])), true
}
