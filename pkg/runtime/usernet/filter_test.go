package usernet

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"
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
		"::1": true, hostAddress6: true, "ff02::1": true,
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
// that listens everywhere, in a world that has every address.
func TestRefused(t *testing.T) {
	w := newWorld(t)
	n := newNetwork(t, Config{})
	open := newGuest(t, join(t, n, Member{Name: "open", Outbound: true}))
	closed := newGuest(t, join(t, n, Member{Name: "closed"}))
	if err := ip("addr add fe80::77/64 dev world0 nodad"); err != nil {
		t.Fatal(err)
	}
	for _, a := range []string{"fd00:ec2::254", "fd20:ce::254", "64:ff9b::7f00:1", "64:ff9b::c633:6401", "2002:7f00:1::1", "fec0::1"} {
		w.has(a)
	}
	var came = make(chan string, 100)
	host(t, came)

	gateway4, gateway6 := n.Gateway()
	for _, a := range []string{
		"127.0.0.1", "127.0.0.53", "::1", // by routes that the guest makes itself, see below
		hostAddress, hostAddress6, "64:ff9b::198.51.100.1", // the host's own
		"169.254.169.254", "169.254.1.1", "fe80::77%eth0", "fd00:ec2::254", "fd20:ce::254", "100.100.100.200", "168.63.129.16",
		"64:ff9b::127.0.0.1", "2002:7f00:1::1", "fec0::1",
		"10.0.2.77", "fd53:6f76:6572::77", // nobody
		gateway4.String(), gateway6.String(),
		"198.51.100.255",
	} {
		ap := net.JoinHostPort(a, "7")
		if strings.HasPrefix(a, "127.") || a == "::1" {
			open.throughCard(a)
		}
		conn, err := open.dial("tcp", ap)
		if err == nil {
			conn.Close()
		}
		// Link-local addresses do not leave the guest's link, nor are there
		// others on it; nor has a nobody a hardware address.
		refused := errors.Is(err, syscall.ECONNREFUSED)
		nowhere := errors.Is(err, syscall.EHOSTUNREACH)
		if !refused && !nowhere {
			t.Errorf("tcp to %s: %v", a, err)
		}
		udp, err := open.dial("udp", ap)
		if err != nil {
			if !errors.Is(err, syscall.EACCES) { // its own kernel's answer
				t.Errorf("udp to %s: %v", a, err)
			}
			continue
		}
		if err := told(udp); !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, syscall.EHOSTUNREACH) {
			t.Errorf("udp to %s: %v", a, err)
		}
		udp.Close()
	}
	// Without outbound there is no world at all, and it is said at once.
	for _, a := range []string{"192.0.2.7:7", "[2001:db8:7::7]:7"} {
		if _, err := closed.dial("tcp", a); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("tcp to %s without outbound: %v", a, err)
		}
		udp, err := closed.dial("udp", a)
		if err != nil {
			t.Fatal(err)
		}
		if err := told(udp); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("udp to %s without outbound: %v", a, err)
		}
		udp.Close()
	}
	// The control: the same way is open to what is the world's.
	conn, err := open.dial("tcp", "192.0.2.7:7")
	if err != nil {
		t.Fatal(err)
	}
	exchange(t, conn, "hello")
	w.wait("tcp 192.0.2.7:7")
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

// told sends a datagram and returns what the kernel is told of it.
func told(conn net.Conn) error {
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if _, err := conn.Write([]byte("x")); err != nil {
		return err
	}
	_, err := conn.Read(make([]byte, 10))
	return err
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

// throughCard makes the guest send what is for an address of its loopback to
// the gateway, as a hostile one would.
func (g *guest) throughCard(a string) {
	g.run(func() error {
		gateway4, gateway6 := g.link.network.Gateway()
		if strings.Contains(a, ":") {
			if err := ip("-6 addr flush dev lo"); err != nil {
				return err
			}
			return ip("-6 route replace " + a + "/128 via " + gateway6.String() + " dev eth0")
		}
		// Loopback is routed by a rule before all others.
		for _, args := range []string{
			"link set lo down", "route replace 127.0.0.0/8 via " + gateway4.String() + " dev eth0",
		} {
			if err := ip(args); err != nil {
				return err
			}
		}
		return sysctl("net/ipv4/conf/eth0/route_localnet", "1")
	})
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
