package usernet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"sync"

	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// DefaultMTU is the largest packet in bytes, Ethernet's header not counted. It
// is near the most that IP can have: every frame costs a system call or two
// and a copy or three, which large ones make few. It is a multiple of 8 less
// than 65535, for fragments.
const DefaultMTU = 65520

// minMTU is the least that IPv6 works with.
const minMTU = 1280

// Config describes a network.
type Config struct {
	// Prefix is the IPv4 network, between /8 and /29. Its first usable
	// address is the gateway's, which is also the DNS server.
	// The zero value is 10.0.2.0/24.
	Prefix netip.Prefix
	// Prefix6 is the IPv6 network, between /48 and /120, with the same rule.
	// The zero value is none, and no IPv6.
	Prefix6 netip.Prefix
	// MTU is the largest packet in bytes, from 1280 to 65520 (the default).
	// Each member's device has to have the same.
	MTU int
	// Resolver answers for the names of the world. The default is the host's
	// way to look up names, which follows changes of /etc/resolv.conf.
	Resolver Resolver
	// Allow are addresses of the host's own that members with Outbound may
	// reach although they are the host's. Loopback, link-local and the other
	// addresses that are refused by their number are refused still.
	Allow []netip.Prefix
}

// A Network is one segment with a gateway. Its methods may be used by several
// goroutines.
type Network struct {
	config   Config
	gateway4 netip.Addr
	gateway6 netip.Addr // invalid without IPv6
	stack    *stack.Stack
	nic      *nic
	local    func(netip.Addr) (bool, error) // whether the host has an address

	ctx context.Context
	end context.CancelFunc

	mu     sync.RWMutex
	names  map[string]*Link
	addrs  map[netip.Addr]*Link
	macs   map[mac]*Link
	closed bool
}

// New makes a network without members. Close ends it.
func New(c Config) (*Network, error) {
	if !c.Prefix.IsValid() {
		c.Prefix = netip.MustParsePrefix("10.0.2.0/24")
	}
	if !c.Prefix.Addr().Is4() || c.Prefix.Bits() < 8 || c.Prefix.Bits() > 29 {
		return nil, fmt.Errorf("network: prefix %s: want one of IPv4 between /8 and /29", c.Prefix)
	}
	if p := c.Prefix6; p.IsValid() && (!p.Addr().Is6() || p.Addr().Is4In6() || p.Bits() < 48 || p.Bits() > 120) {
		return nil, fmt.Errorf("network: prefix %s: want one of IPv6 between /48 and /120", p)
	}
	for _, p := range []netip.Prefix{c.Prefix, c.Prefix6} {
		if reason := refusedByNumber(p.Addr()); p.IsValid() && reason != "" {
			return nil, fmt.Errorf("network: prefix %s: %s", p, reason)
		}
	}
	if c.MTU == 0 {
		c.MTU = DefaultMTU
	}
	if c.MTU < minMTU || c.MTU > DefaultMTU {
		return nil, fmt.Errorf("network: an MTU of %d: want %d to %d bytes", c.MTU, minMTU, DefaultMTU)
	}
	if c.Resolver == nil {
		c.Resolver = HostResolver()
	}
	c.Prefix = c.Prefix.Masked()
	n := &Network{
		config:   c,
		gateway4: c.Prefix.Addr().Next(),
		local:    hostHas,
		names:    map[string]*Link{},
		addrs:    map[netip.Addr]*Link{},
		macs:     map[mac]*Link{},
	}
	if c.Prefix6.IsValid() {
		n.config.Prefix6 = c.Prefix6.Masked()
		n.gateway6 = n.config.Prefix6.Addr().Next()
	}
	n.ctx, n.end = context.WithCancel(context.Background())
	if err := n.startStack(); err != nil {
		n.end()
		return nil, err
	}
	return n, nil
}

// Gateway returns the gateway's addresses; v6 is invalid without IPv6.
func (n *Network) Gateway() (v4, v6 netip.Addr) { return n.gateway4, n.gateway6 }

// Prefixes returns the networks; v6 is invalid without IPv6.
func (n *Network) Prefixes() (v4, v6 netip.Prefix) { return n.config.Prefix, n.config.Prefix6 }

// MTU returns the largest packet in bytes.
func (n *Network) MTU() int { return n.config.MTU }

// Close takes all members out and ends all that the network runs.
func (n *Network) Close() error {
	n.mu.Lock()
	n.closed = true
	var links []*Link
	for _, l := range n.names {
		links = append(links, l)
	}
	n.mu.Unlock()
	var errs []error
	for _, l := range links {
		errs = append(errs, l.Close())
	}
	n.end()
	n.stack.Destroy()
	return errors.Join(errs...)
}

// A Member describes a guest.
type Member struct {
	// Name is what the others call it: 1 to 63 of a-z, 0-9 and "-", unique
	// in the network.
	Name string
	// Addr and Addr6 are its addresses in the network's prefixes. A zero one
	// is the lowest that is free; a guest that outlives this process needs
	// its own again.
	Addr, Addr6 netip.Addr
	// MAC is the hardware address, by default 02:00 and the IPv4 address.
	MAC net.HardwareAddr
	// Outbound permits connections to the world, and lets DNS answer for
	// more than members.
	Outbound bool
}

var nameForm = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// Join adds a member. Its link's Close takes it out.
func (n *Network) Join(m Member) (*Link, error) {
	if !nameForm.MatchString(m.Name) {
		return nil, fmt.Errorf("network: a member named %q: want 1 to 63 of a-z, 0-9 and -", m.Name)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return nil, errors.New("network: closed")
	}
	if len(n.names) >= maxMembers {
		return nil, fmt.Errorf("network: %d members already", maxMembers)
	}
	if n.names[m.Name] != nil {
		return nil, fmt.Errorf("network: there is a member named %s already", m.Name)
	}
	var err error
	if m.Addr, err = n.assign(m.Addr, n.config.Prefix); err != nil {
		return nil, err
	}
	if n.gateway6.IsValid() {
		if m.Addr6, err = n.assign(m.Addr6, n.config.Prefix6); err != nil {
			return nil, err
		}
	} else if m.Addr6.IsValid() {
		return nil, fmt.Errorf("network: %s: the network has no IPv6", m.Addr6)
	}
	hw := derivedMAC(m.Addr)
	if m.MAC != nil {
		if len(m.MAC) != len(hw) || m.MAC[0]&1 != 0 {
			return nil, fmt.Errorf("network: hardware address %s: want 6 bytes, and not a group's", m.MAC)
		}
		hw = mac(m.MAC)
	}
	if other := n.macs[hw]; other != nil || hw == gatewayMAC {
		return nil, fmt.Errorf("network: hardware address %s is taken", hw)
	}
	m.MAC = net.HardwareAddr(hw[:])
	l := newLink(n, m, hw)
	n.names[m.Name], n.macs[hw], n.addrs[m.Addr] = l, l, l
	if m.Addr6.IsValid() {
		n.addrs[m.Addr6] = l
	}
	return l, nil
}

// assign checks an address, or chooses one, with n.mu held.
func (n *Network) assign(a netip.Addr, p netip.Prefix) (netip.Addr, error) {
	if a.IsValid() {
		if !p.Contains(a) || !n.usable(a, p) {
			return a, fmt.Errorf("network: address %s: want one of a member in %s", a, p)
		}
		if other := n.addrs[a]; other != nil {
			return a, fmt.Errorf("network: address %s is %s's", a, other.member.Name)
		}
		return a, nil
	}
	for a = p.Addr().Next(); p.Contains(a); a = a.Next() {
		if n.usable(a, p) && n.addrs[a] == nil {
			return a, nil
		}
	}
	return a, fmt.Errorf("network: no address of %s is free", p)
}

// usable says whether an address of a prefix can be a member's.
func (n *Network) usable(a netip.Addr, p netip.Prefix) bool {
	if a == p.Addr() || a == n.gateway4 || a == n.gateway6 {
		return false
	}
	return a.Is6() || p.Contains(a.Next()) // the last of IPv4 is the broadcast address
}

func (n *Network) linkOf(a netip.Addr) *Link {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return n.addrs[a]
}

func (n *Network) linkAt(hw mac) *Link {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return n.macs[hw]
}

func (n *Network) linkNamed(name string) *Link {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return n.names[name]
}

func (n *Network) remove(l *Link) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.names, l.member.Name)
	delete(n.macs, l.mac)
	delete(n.addrs, l.member.Addr)
	delete(n.addrs, l.member.Addr6)
}
