package usernet

import (
	"fmt"
	"net/netip"
)

// refused are the addresses that no member may connect to, whatever the host
// has. Those inside of others stand here for their reason.
var refused = []struct {
	prefix netip.Prefix
	reason string
}{
	{netip.MustParsePrefix("0.0.0.0/8"), "this host"}, // RFC 1122; 0.0.0.0 is loopback in Linux
	{netip.MustParsePrefix("127.0.0.0/8"), "loopback"},
	{netip.MustParsePrefix("169.254.0.0/16"), "link-local"},          // with 169.254.169.254, most clouds' metadata
	{netip.MustParsePrefix("100.100.100.200/32"), "cloud metadata"},  // Alibaba
	{netip.MustParsePrefix("168.63.129.16/32"), "cloud metadata"},    // Azure's host agent
	{netip.MustParsePrefix("192.0.0.192/32"), "cloud metadata"},      // Oracle
	{netip.MustParsePrefix("224.0.0.0/4"), "multicast"},              //
	{netip.MustParsePrefix("240.0.0.0/4"), "reserved, or broadcast"}, // RFC 1112; 255.255.255.255

	{netip.MustParsePrefix("::/96"), "loopback, unspecified or an IPv4 address"}, // RFC 4291, 2.5.5.1
	{netip.MustParsePrefix("::ffff:0:0/96"), "an IPv4 address"},                  // mapped: never on a wire
	{netip.MustParsePrefix("::ffff:0:0:0/96"), "an IPv4 address"},                // translated, RFC 2765
	{netip.MustParsePrefix("2001::/32"), "an IPv4 address"},                      // Teredo
	{netip.MustParsePrefix("2002::/16"), "an IPv4 address"},                      // 6to4, RFC 7526: deprecated
	{netip.MustParsePrefix("fe80::/10"), "link-local"},
	{netip.MustParsePrefix("fec0::/10"), "site-local"},             // RFC 3879: deprecated
	{netip.MustParsePrefix("fd00:ec2::254/128"), "cloud metadata"}, // Amazon
	{netip.MustParsePrefix("fd20:ce::254/128"), "cloud metadata"},  // Google
	{netip.MustParsePrefix("ff00::/8"), "multicast"},
}

// nat64 has IPv4 addresses in its last 4 bytes, RFC 6052. On a mobile network
// without IPv4 it may be the only way to one, so it is judged by that.
var nat64 = netip.MustParsePrefix("64:ff9b::/96")

// localNAT64 has them at a place that each network chooses, RFC 8215.
var localNAT64 = netip.MustParsePrefix("64:ff9b:1::/48")

// refusedByNumber returns why no member may connect to an address, or "".
func refusedByNumber(a netip.Addr) string {
	if !a.IsValid() {
		return "no address"
	}
	if a.Zone() != "" {
		return "link-local"
	}
	for _, r := range refused {
		if r.prefix.Contains(a) || a.Is4In6() && r.prefix.Contains(a.Unmap()) {
			return r.reason
		}
	}
	switch {
	case a.Is4In6():
		return "an IPv4 address"
	case localNAT64.Contains(a):
		return "an IPv4 address"
	case nat64.Contains(a):
		b := a.As16()
		return refusedByNumber(netip.AddrFrom4([4]byte(b[12:])))
	}
	return ""
}

// embedded returns the IPv4 address that a NAT64 address stands for, or the
// address itself.
func embedded(a netip.Addr) netip.Addr {
	if !nat64.Contains(a) {
		return a
	}
	b := a.As16()
	return netip.AddrFrom4([4]byte(b[12:]))
}

// permit says why the member may not connect to an address, or nil. It is asked
// for each connection and each address of a UDP flow, with the number that is
// connected to: names play no part.
func (l *Link) permit(a netip.Addr) error {
	n := l.network
	if reason := refusedByNumber(a); reason != "" {
		return fmt.Errorf("%s: %s", a, reason)
	}
	for _, a := range []netip.Addr{a, embedded(a)} {
		if n.config.Prefix.Contains(a) || n.config.Prefix6.Contains(a) {
			return fmt.Errorf("%s: of this network, and not a member", a)
		}
	}
	if !l.member.Outbound {
		return fmt.Errorf("%s: outbound is off", a)
	}
	for _, a := range []netip.Addr{a, embedded(a)} {
		own, err := n.local(a)
		if err != nil {
			return fmt.Errorf("%s: %w", a, err) // not known: no
		}
		if own && !n.allowed(a) {
			return fmt.Errorf("%s: the host's own", a)
		}
	}
	return nil
}

func (n *Network) allowed(a netip.Addr) bool {
	for _, p := range n.config.Allow {
		if p.Contains(a) {
			return true
		}
	}
	return false
}
