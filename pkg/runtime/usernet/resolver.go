package usernet

import (
	"context"
	"net"
	"net/netip"
)

// A Resolver looks up names of the world. Names end with a dot. *net.Resolver
// is one; the methods are its own, with its errors: a *net.DNSError with
// IsNotFound says that there is no such name.
type Resolver interface {
	// LookupNetIP returns addresses; network is "ip4" or "ip6".
	LookupNetIP(ctx context.Context, network, name string) ([]netip.Addr, error)
	LookupCNAME(ctx context.Context, name string) (string, error)
	LookupMX(ctx context.Context, name string) ([]*net.MX, error)
	LookupNS(ctx context.Context, name string) ([]*net.NS, error)
	LookupSRV(ctx context.Context, service, proto, name string) (string, []*net.SRV, error)
	LookupTXT(ctx context.Context, name string) ([]string, error)
	LookupAddr(ctx context.Context, address string) ([]string, error)
}

// HostResolver looks up names as this program does: by /etc/hosts and the servers
// of /etc/resolv.conf, or whom net.DefaultResolver dials instead (package netd, on
// a phone). Go reads both files again when they have changed, every 5 seconds at
// most, so that it follows a laptop from network to network. It has no IPv6
// addresses to give while the host has no way to any: a guest would try those first.
func HostResolver() Resolver {
	return &hostResolver{&net.Resolver{PreferGo: true, Dial: net.DefaultResolver.Dial}}
}

type hostResolver struct{ *net.Resolver }

// somewhere6 is an address of the IPv6 internet (a root name server's); nothing
// is sent to it.
const somewhere6 = "[2001:500:2::c]:53"

func (r *hostResolver) LookupNetIP(ctx context.Context, network, name string) ([]netip.Addr, error) {
	if network == "ip6" {
		var d net.Dialer
		conn, err := d.DialContext(ctx, "udp6", somewhere6) // finds the route
		if err != nil {
			return nil, nil
		}
		conn.Close()
	}
	return r.Resolver.LookupNetIP(ctx, network, name)
}
