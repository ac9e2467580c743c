package usernet

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

func TestRefusedByNumber(t *testing.T) {
	for a, want := range map[string]string{
		"127.0.0.1": "loopback", "127.255.255.254": "loopback", "0.0.0.0": "this host", "0.1.2.3": "this host",
		"169.254.0.1": "link-local", "169.254.169.254": "link-local", "100.100.100.200": "metadata",
		"168.63.129.16": "metadata", "192.0.0.192": "metadata",
		"224.0.0.1": "multicast", "239.255.255.250": "multicast", "255.255.255.255": "broadcast", "240.0.0.1": "reserved",
		"::": "unspecified", "::1": "loopback", "::7f00:1": "IPv4", "::8.8.8.8": "IPv4",
		"::ffff:127.0.0.1": "loopback", "::ffff:169.254.169.254": "link-local", "::ffff:8.8.8.8": "IPv4", "::ffff:0:7f00:1": "IPv4",
		"fe80::1": "link-local", "febf::1": "link-local", "fe80::1%eth0": "link-local", "2001:db8::1%eth0": "link-local",
		"fec0::1": "site-local", "ff02::1": "multicast", "ff0e::1": "multicast",
		"fd00:ec2::254": "metadata", "fd20:ce::254": "metadata",
		"64:ff9b::127.0.0.1": "loopback", "64:ff9b::a9fe:a9fe": "link-local", "64:ff9b:1::1": "IPv4",
		"2002:7f00:1::1": "IPv4", "2001:0:7f00:1::": "IPv4",

		"8.8.8.8": "", "10.0.0.1": "", "192.168.1.1": "", "172.16.0.1": "", "100.64.0.1": "", "198.51.100.7": "",
		"1.0.0.1": "", "126.255.255.255": "", "128.0.0.1": "", "169.253.255.255": "", "223.255.255.255": "",
		"2606:4700::1111": "", "2001:db8::1": "", "fd00::1": "", "fd7a:115c:a1e0::1": "", "64:ff9b::8.8.8.8": "", "2001:1::1": "",
	} {
		got := refusedByNumber(netip.MustParseAddr(a))
		if (want == "") != (got == "") || !strings.Contains(got, want) {
			t.Errorf("%s: %q, want %q", a, got, want)
		}
	}
	if refusedByNumber(netip.Addr{}) == "" {
		t.Error("no address is permitted")
	}
}

// TestHostHas asks the kernel of a host with several kinds of addresses.
func TestHostHas(t *testing.T) {
	newWorld(t)
	for _, args := range []string{"route add local 203.0.113.0/24 dev lo", "route add blackhole 203.0.114.0/24", "route add prohibit 203.0.115.0/24"} {
		if err := ip(args); err != nil {
			t.Fatal(err)
		}
	}
	for a, want := range map[string]bool{
		"127.0.0.1": true, "127.9.9.9": true, "0.0.0.0": true, hostAddress: true, "198.51.100.255": true, "255.255.255.255": true,
		"224.0.0.1": true, "203.0.113.77": true, // an address by a rule alone
		"::1": true, hostAddress6: true,
		"198.51.100.254": false, "8.8.8.8": false, "2001:db8::fe": false, "2001:db8:7::7": false, "203.0.115.1": false,
	} {
		got, err := hostHas(netip.MustParseAddr(a))
		if got != want || err != nil {
			t.Errorf("%s: %v, %v; want %v", a, got, err, want)
		}
	}
	if _, err := hostHas(netip.MustParseAddr("203.0.114.1")); err == nil {
		t.Error("an address that the kernel has no answer for is taken for a stranger's")
	}
}

// TestRefused has a guest try every way to where it must not come, on a host
// that listens everywhere, in a world that has every address. It is told at
// once, with a reset or that the port cannot be reached.
func TestRefused(t *testing.T) {
	w := newWorld(t)
	n := newNetwork(t, Config{})
	open := newRawGuest(t, join(t, n, Member{Name: "open", Outbound: true}))
	closed := newRawGuest(t, join(t, n, Member{Name: "closed"}))
	if err := ip("addr add fe80::77/64 dev world0 nodad"); err != nil {
		t.Fatal(err)
	}
	for _, a := range []string{"fd00:ec2::254", "fd20:ce::254", "64:ff9b::7f00:1", "64:ff9b::c633:6401", "2002:7f00:1::1", "fec0::1"} {
		w.has(a)
	}
	came := make(chan string, 1000)
	host(t, came)

	const (
		told  = "told"  // with RST, or ICMP
		never = "never" // what goes to many has no answer (RFC 1122, 3.2.2), nor what no kernel sends
	)
	gateway4, gateway6 := n.Gateway()
	gateway := func(family netip.Addr) netip.Addr {
		if family.Is4() {
			return gateway4
		}
		return gateway6
	}
	for _, c := range []struct {
		guest    *rawGuest
		to, want string
	}{
		// The host's loopback, in every way to write it.
		{open, "127.0.0.1", told}, {open, "127.0.0.53", told}, {open, "0.0.0.0", never}, {open, "::1", told}, {open, "::", never},
		{open, "::ffff:127.0.0.1", never}, {open, "::127.0.0.1", told}, {open, "64:ff9b::127.0.0.1", told}, {open, "2002:7f00:1::1", told},
		// The host's own addresses.
		{open, hostAddress, told}, {open, hostAddress6, told}, {open, "64:ff9b::" + hostAddress, told}, {open, "::ffff:" + hostAddress, never},
		// Link-local addresses and cloud metadata.
		{open, "169.254.1.1", told}, {open, "169.254.169.254", told}, {open, "fe80::77", told}, {open, "fec0::1", told},
		{open, "::ffff:169.254.169.254", never}, {open, "64:ff9b::169.254.169.254", told},
		{open, "fd00:ec2::254", told}, {open, "fd20:ce::254", told}, {open, "100.100.100.200", told}, {open, "168.63.129.16", told},
		// Many.
		{open, "224.0.0.251", never}, {open, "255.255.255.255", never}, {open, "198.51.100.255", told}, {open, "ff02::1", never}, {open, "ff0e::1", never},
		{open, "10.0.2.255", told},
		// Nobody of this network, and the gateway but for DNS.
		{open, "10.0.2.77", told}, {open, "fd53:6f76:6572::77", told}, {open, gateway4.String(), told}, {open, gateway6.String(), told},
		// Without outbound: the world.
		{closed, "192.0.2.7", told}, {closed, "2001:db8:7::7", told}, {closed, hostAddress, told}, {closed, "127.0.0.1", told},
	} {
		to := netip.AddrPortFrom(netip.MustParseAddr(c.to), 7)
		from := netip.AddrPortFrom(c.guest.own(to.Addr()), 40000)
		c.guest.packet(syn(from, to))
		if c.want == told {
			c.guest.want(to.Addr(), "reset", isReset)
		}
		c.guest.packet(udpPacket(from, to, "hello"))
		if c.want == told {
			c.guest.want(gateway(to.Addr()), "unreachable for "+c.to, isUnreachable)
		}
		if to.Addr() != gateway4 && to.Addr() != gateway6 { // which answer themselves
			c.guest.packet(echoRequest(from.Addr(), to.Addr(), "hello"))
			if c.want == told {
				c.guest.want(gateway(to.Addr()), "prohibited for "+c.to, isUnreachable)
			}
		}
	}
	// The control: the same ways are open to what is the world's, and what was
	// sent before it has been judged.
	for _, a := range []string{"192.0.2.7:7", "[2001:db8:7::7]:7"} {
		w.echoUDP(a)
		to := netip.MustParseAddrPort(a)
		from := netip.AddrPortFrom(open.own(to.Addr()), 40001)
		open.packet(syn(from, to))
		open.want(to.Addr(), "SYN-ACK", func(p tcpip.TransportProtocolNumber, b []byte) bool {
			return p == header.TCPProtocolNumber && header.TCP(b).Flags() == header.TCPFlagSyn|header.TCPFlagAck
		})
		w.wait("tcp " + a)
		open.packet(udpPacket(from, to, "hello"))
		open.want(to.Addr(), "answer", func(p tcpip.TransportProtocolNumber, b []byte) bool {
			return p == header.UDPProtocolNumber && string(header.UDP(b).Payload()) == "hello"
		})
		w.wait("udp " + a)
	}
	select {
	case at := <-came:
		t.Errorf("the host was reached: %s", at)
	case at := <-w.arrived:
		t.Errorf("the world was reached: %s", at)
	default:
	}
	if s := open.link.Stats(); s.Refused == 0 {
		t.Errorf("nothing was counted: %+v", s)
	}
}

// TestRefusedByName has names of the world lead to the host, the second time
// they are asked for: what counts is the address.
func TestRefusedByName(t *testing.T) {
	newWorld(t)
	came := make(chan string, 10)
	host(t, came)
	r := &fakeResolver{addresses: map[string][]string{"rebind.example.": {"192.0.2.7"}}}
	g := newGuest(t, join(t, newNetwork(t, Config{Resolver: r}), Member{Name: "a", Outbound: true}))
	conn, err := g.dial("tcp", "192.0.2.7:7")
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	for _, a := range []string{hostAddress, hostAddress6, "169.254.169.254"} {
		r.set("rebind.example.", a)
		network := "ip4"
		if strings.Contains(a, ":") {
			network = "ip6"
		}
		list, err := g.resolver().LookupNetIP(t.Context(), network, "rebind.example.")
		if err != nil || len(list) != 1 || list[0].String() != a {
			t.Fatalf("the name has %v, %v; want %s", list, err, a)
		}
		if _, err := g.dial("tcp", netip.AddrPortFrom(list[0], 7).String()); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("%s: %v", a, err)
		}
	}
	select {
	case at := <-came:
		t.Errorf("the host was reached: %s", at)
	default:
	}
}

// host listens on all addresses of the host, and says who came.
func host(t *testing.T, came chan<- string) {
	t.Helper()
	l, err := net.Listen("tcp", ":7")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	u, err := net.ListenPacket("udp", ":7")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { u.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			came <- "tcp " + conn.LocalAddr().String()
			conn.Close()
		}
	}()
	go func() {
		for {
			_, from, err := u.ReadFrom(make([]byte, 10))
			if err != nil {
				return
			}
			came <- "udp from " + from.String()
		}
	}()
}

// TestAllow permits one address of the host's own, and no loopback.
func TestAllow(t *testing.T) {
	newWorld(t)
	n := newNetwork(t, Config{Allow: []netip.Prefix{netip.MustParsePrefix(hostAddress + "/32"), netip.MustParsePrefix("127.0.0.0/8")}})
	l := join(t, n, Member{Name: "a", Outbound: true})
	for a, want := range map[string]bool{hostAddress: true, "127.0.0.1": false, hostAddress6: false} {
		if err := l.permit(netip.MustParseAddr(a)); (err == nil) != want {
			t.Errorf("%s: %v", a, err)
		}
	}
}

// TestPermitAtConnect has an address become the host's own between the first
// question and the connection.
func TestPermitAtConnect(t *testing.T) {
	newWorld(t)
	n := newNetwork(t, Config{})
	l := join(t, n, Member{Name: "a", Outbound: true})
	dest := netip.MustParseAddrPort("192.0.2.7:7")
	if err := l.permit(dest.Addr()); err != nil {
		t.Fatal(err)
	}
	n.local = func(netip.Addr) (bool, error) { return true, nil }
	if conn, err := l.dialWorld(dest); err == nil || !strings.Contains(err.Error(), "the host's own") {
		t.Errorf("%v, %v", conn, err)
	}
	// Nor is an address that cannot be judged connected to.
	n.local = func(netip.Addr) (bool, error) { return false, context.DeadlineExceeded }
	if err := l.permit(dest.Addr()); err == nil {
		t.Error("an address that could not be judged is permitted")
	}
}
