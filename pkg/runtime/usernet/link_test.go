package usernet

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/sovereign-build/sovereign/pkg/runtime/guest/cmdline"
	guestnet "github.com/sovereign-build/sovereign/pkg/runtime/guest/network"
)

func TestConfig(t *testing.T) {
	p := netip.MustParsePrefix
	for _, c := range []struct {
		config Config
		want   string
	}{
		{Config{}, ""},
		{Config{Prefix: p("192.168.127.5/24"), Prefix6: p("fd00::5/64"), MTU: 1280}, ""},
		{Config{Prefix: p("10.0.0.0/30")}, "between /8 and /29"},
		{Config{Prefix: p("fd00::/64")}, "one of IPv4"},
		{Config{Prefix6: p("10.0.0.0/24")}, "one of IPv6"},
		{Config{Prefix6: p("fd00::/127")}, "between /48 and /120"},
		{Config{Prefix: p("127.0.0.0/24")}, "loopback"},
		{Config{Prefix: p("169.254.0.0/16")}, "link-local"},
		{Config{Prefix6: p("fe80::/64")}, "link-local"},
		{Config{MTU: 1279}, "1280 to 65520"},
		{Config{MTU: 65521}, "1280 to 65520"},
	} {
		n, err := New(c.config)
		if err == nil {
			n.Close()
		}
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v", c.config, err)
		}
	}
}

func TestJoin(t *testing.T) {
	n := newNetwork(t, Config{Prefix: netip.MustParsePrefix("10.9.8.0/29")})
	a := netip.MustParseAddr
	first := join(t, n, Member{Name: "first", Addr: a("10.9.8.4"), Addr6: a("fd53:6f76:6572::99")})
	if m := first.Member(); m.MAC.String() != "02:00:0a:09:08:04" || m.Addr6 != a("fd53:6f76:6572::99") {
		t.Errorf("the first member is %+v", m)
	}
	for want, m := range map[string]Member{
		"want 1 to 63":               {Name: "A"},
		"want 1 to 63 of":            {Name: ""},
		"named first already":        {Name: "first"},
		"10.9.8.4 is first's":        {Name: "b", Addr: a("10.9.8.4")},
		"address 10.9.8.1: want":     {Name: "b", Addr: a("10.9.8.1")},
		"address 10.9.8.0: want":     {Name: "b", Addr: a("10.9.8.0")},
		"address 10.9.8.7: want":     {Name: "b", Addr: a("10.9.8.7")},
		"address 10.9.9.4: want":     {Name: "b", Addr: a("10.9.9.4")},
		"::1: want":                  {Name: "b", Addr6: a("fd53:6f76:6572::1")},
		"02:00:0a:09:08:04 is taken": {Name: "b", MAC: first.Member().MAC},
		"02:00:00:00:00:00 is taken": {Name: "b", MAC: gatewayMAC[:]},
		"not a group's":              {Name: "b", MAC: net.HardwareAddr{1, 2, 3, 4, 5, 6}},
		"want 6 bytes":               {Name: "b", MAC: net.HardwareAddr{2, 2}},
	} {
		if _, err := n.Join(m); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v", m, err)
		}
	}
	// The lowest that are free, until none is.
	for _, want := range []string{"10.9.8.2", "10.9.8.3", "10.9.8.5", "10.9.8.6"} {
		if m := join(t, n, Member{Name: "m" + want[7:]}).Member(); m.Addr.String() != want {
			t.Errorf("got %s, want %s", m.Addr, want)
		}
	}
	if _, err := n.Join(Member{Name: "full"}); err == nil || !strings.Contains(err.Error(), "no address of 10.9.8.0/29") {
		t.Errorf("a full network: %v", err)
	}
	if err := first.Close(); err != nil {
		t.Error(err)
	}
	if m := join(t, n, Member{Name: "first"}).Member(); m.Addr.String() != "10.9.8.4" {
		t.Errorf("what a member leaves is not free: got %s", m.Addr)
	}
	if err := n.Close(); err != nil {
		t.Error(err)
	}
	if _, err := n.Join(Member{Name: "late"}); err == nil {
		t.Error("joined a closed network")
	}
	if err := first.Serve(t.Context(), nopConn{}); !errors.Is(err, ErrClosed) {
		t.Errorf("a closed link serves: %v", err)
	}
}

type nopConn struct{ net.Conn }

func (nopConn) Close() error { return nil }

// TestDHCP has sovereign-init's own client ask, twice.
func TestDHCP(t *testing.T) {
	n := newNetwork(t, Config{MTU: 9000})
	l := join(t, n, Member{Name: "a", Addr: netip.MustParseAddr("10.0.2.15")})
	s := newNamespace(t)
	card(t, s, l, serve(t, l))
	for range 2 {
		var got cmdline.Net
		s.run(func() error {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			return guestnet.DHCP(ctx, ctx, "eth0", func(n cmdline.Net) error { got = n; return nil })
		})
		if got.Address.String() != "10.0.2.15/24" || got.Gateway.String() != "10.0.2.1" || len(got.DNS) != 1 || got.DNS[0] != got.Gateway {
			t.Errorf("got %+v", got)
		}
	}
}

func TestDHCPMessages(t *testing.T) {
	n := newNetwork(t, Config{})
	l := join(t, n, Member{Name: "a"})
	g := newRawGuest(t, l)
	ask := func(what string, from string, options ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
		t.Helper()
		options = append([]dhcpv4.Modifier{dhcpv4.WithHwAddr(l.member.MAC)}, options...)
		m, err := dhcpv4.New(options...)
		if err != nil {
			t.Fatal(err)
		}
		p := udpPacket(netip.MustParseAddrPort(from+":68"), netip.MustParseAddrPort("255.255.255.255:67"), string(m.ToBytes()))
		g.send(mac{255, 255, 255, 255, 255, 255}, l.mac, typeIPv4, p)
		var reply *dhcpv4.DHCPv4
		g.want(n.gateway4, what, func(p tcpip.TransportProtocolNumber, b []byte) bool {
			if p != header.UDPProtocolNumber {
				return false
			}
			reply, err = dhcpv4.FromBytes(header.UDP(b).Payload())
			return err == nil && reply.TransactionID == m.TransactionID
		})
		return reply
	}
	message := dhcpv4.WithMessageType
	if r := ask("offer", "0.0.0.0", message(dhcpv4.MessageTypeDiscover)); r.MessageType() != dhcpv4.MessageTypeOffer || r.YourIPAddr.String() != "10.0.2.2" {
		t.Errorf("discover: %s", r.Summary())
	}
	wrong := dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(net.IPv4(10, 0, 2, 77)))
	if r := ask("refusal", "0.0.0.0", message(dhcpv4.MessageTypeRequest), wrong); r.MessageType() != dhcpv4.MessageTypeNak {
		t.Errorf("another's address: %s", r.Summary())
	}
	r := ask("renewal", "10.0.2.2", message(dhcpv4.MessageTypeRequest), dhcpv4.WithClientIP(net.IPv4(10, 0, 2, 2)))
	if r.MessageType() != dhcpv4.MessageTypeAck || r.IPAddressLeaseTime(0) != lease {
		t.Errorf("renewal: %s", r.Summary())
	}
	if mtu, err := dhcpv4.GetUint16(dhcpv4.OptionInterfaceMTU, r.Options); err != nil || mtu != DefaultMTU {
		t.Errorf("MTU: %d, %v", mtu, err)
	}
	if r := ask("information", "10.0.2.2", message(dhcpv4.MessageTypeInform), dhcpv4.WithClientIP(net.IPv4(10, 0, 2, 2))); r.MessageType() != dhcpv4.MessageTypeAck || !r.YourIPAddr.IsUnspecified() {
		t.Errorf("inform: %s", r.Summary())
	}
	// Of another server, and no message at all: no answer, and no harm.
	before := l.Stats().Sent
	for _, m := range []string{"", "x", strings.Repeat("\x01", 300)} {
		g.packet(udpPacket(netip.MustParseAddrPort("10.0.2.2:68"), netip.MustParseAddrPort("10.0.2.1:67"), m))
	}
	g.packet(echoRequest(l.member.Addr, n.gateway4, "x"))
	g.want(n.gateway4, "echo", func(p tcpip.TransportProtocolNumber, b []byte) bool {
		return p == header.ICMPv4ProtocolNumber && header.ICMPv4(b).Type() == header.ICMPv4EchoReply
	})
	if sent := l.Stats().Sent - before; sent != 2 { // the first is an empty datagram, which is no DHCP: a port that nobody has
		t.Errorf("%d frames were sent for what is no DHCP", sent)
	}
}

// TestPing has a guest ping the gateway, the world, and where it may not.
func TestPing(t *testing.T) {
	w := newWorld(t)
	w.has("2001:db8:7::7")
	n := newNetwork(t, Config{})
	g := newRawGuest(t, join(t, n, Member{Name: "a", Outbound: true}))
	isReply := func(p tcpip.TransportProtocolNumber, b []byte) bool {
		kind := byte(header.ICMPv4EchoReply)
		if p == header.ICMPv6ProtocolNumber {
			kind = byte(header.ICMPv6EchoReply)
		}
		return (p == header.ICMPv4ProtocolNumber || p == header.ICMPv6ProtocolNumber) && b[0] == kind &&
			string(b[4:]) == "\x12\x34\x00\x01hello"
	}
	addresses := []netip.Addr{netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("2001:db8:7::7")}
	for _, a := range []netip.Addr{n.gateway4, n.gateway6} {
		g.packet(echoRequest(g.own(a), a, "hello"))
		g.want(a, "reply", isReply)
	}
	// Without a right to ping sockets it is said.
	for i, a := range addresses {
		g.packet(echoRequest(g.own(a), a, "hello"))
		g.want([]netip.Addr{n.gateway4, n.gateway6}[i], "prohibited", isUnreachable)
	}
	if err := os.WriteFile("/proc/sys/net/ipv4/ping_group_range", []byte("0 0"), 0); err != nil {
		t.Fatal(err)
	}
	for _, a := range addresses {
		g.packet(echoRequest(g.own(a), a, "hello"))
		g.want(a, "reply", isReply)
	}
}

// TestForeignFrames has a guest send what is not its own, next to another.
func TestForeignFrames(t *testing.T) {
	n := newNetwork(t, Config{})
	a, b := newRawGuest(t, join(t, n, Member{Name: "a", Outbound: true})), newRawGuest(t, join(t, n, Member{Name: "b"}))
	from, other := a.link.member, b.link.member
	port := func(x netip.Addr) netip.AddrPort { return netip.AddrPortFrom(x, 7) }
	arp := func(hw mac, sender, target netip.Addr) []byte {
		p := header.ARP(make([]byte, header.ARPSize))
		p.SetIPv4OverEthernet()
		p.SetOp(header.ARPRequest)
		copy(p.HardwareAddressSender(), hw[:])
		copy(p.ProtocolAddressSender(), sender.AsSlice())
		copy(p.ProtocolAddressTarget(), target.AsSlice())
		return p
	}
	all := mac{255, 255, 255, 255, 255, 255}
	frames := map[string]func(){
		"another's hardware address": func() { a.send(gatewayMAC, b.link.mac, typeIPv4, syn(port(other.Addr), port(n.gateway4))) },
		"the gateway's":              func() { a.send(b.link.mac, gatewayMAC, typeIPv4, syn(port(from.Addr), port(other.Addr))) },
		"another's IPv4":             func() { a.packet(syn(port(other.Addr), port(n.gateway4))) },
		"another's IPv6":             func() { a.packet(syn(port(other.Addr6), port(n.gateway6))) },
		"a stranger's IPv4":          func() { a.packet(syn(port(netip.MustParseAddr("192.0.2.1")), port(n.gateway4))) },
		"a link-local sender":        func() { a.packet(syn(port(netip.MustParseAddr("fe80::1")), port(n.gateway6))) },
		"to another, by the wrong IP": func() {
			a.send(b.link.mac, a.link.mac, typeIPv4, syn(port(from.Addr), port(netip.MustParseAddr("192.0.2.1"))))
		},
		"to a stranger":       func() { a.send(mac{2, 9, 9, 9, 9, 9}, a.link.mac, typeIPv4, syn(port(from.Addr), port(other.Addr))) },
		"to itself":           func() { a.send(a.link.mac, a.link.mac, typeIPv4, syn(port(from.Addr), port(from.Addr))) },
		"to all":              func() { a.send(all, a.link.mac, typeIPv4, udpPacket(port(from.Addr), port(broadcast4), "x")) },
		"another's ARP":       func() { a.send(all, a.link.mac, typeARP, arp(a.link.mac, other.Addr, n.gateway4)) },
		"ARP of another card": func() { a.send(all, a.link.mac, typeARP, arp(b.link.mac, from.Addr, n.gateway4)) },
		"short ARP":           func() { a.send(all, a.link.mac, typeARP, make([]byte, 10)) },
		"no IPv4":             func() { a.send(gatewayMAC, a.link.mac, typeIPv4, make([]byte, 10)) },
		"no IPv6":             func() { a.send(gatewayMAC, a.link.mac, typeIPv6, make([]byte, 39)) },
		"another protocol":    func() { a.send(gatewayMAC, a.link.mac, 0x88cc, make([]byte, 100)) },
		"an extension header": func() {
			a.packet(ipPacket(from.Addr6, n.gateway6, 0, append([]byte{58, 0, 1, 4, 0, 0, 0, 0}, make([]byte, 24)...)))
		},
		"a router advertisement": func() {
			a.packet(ipPacket(from.Addr6, n.gateway6, header.ICMPv6ProtocolNumber, append([]byte{134}, make([]byte, 15)...)))
		},
	}
	for what, send := range frames {
		before := a.link.Stats()
		send()
		// What came before has been looked at when this is answered.
		a.packet(echoRequest(from.Addr, n.gateway4, "x"))
		a.want(n.gateway4, "echo", func(p tcpip.TransportProtocolNumber, _ []byte) bool { return p == header.ICMPv4ProtocolNumber })
		after := a.link.Stats()
		if after.Dropped != before.Dropped+1 || after.Sent != before.Sent+1 {
			t.Errorf("%s: before %+v, after %+v", what, before, after)
		}
	}
	if s := b.link.Stats(); s.Sent != 0 {
		t.Errorf("the other member got %d frames", s.Sent)
	}
}

// TestBrokenStreams ends a link's stream by what is no frame, and serves the
// next one.
func TestBrokenStreams(t *testing.T) {
	n := newNetwork(t, Config{})
	l := join(t, n, Member{Name: "a"})
	for what, c := range map[string]struct {
		bytes, want string
	}{
		"nothing":              {"", ""},
		"half a length":        {"\x00\x00", "unexpected EOF"},
		"half a frame":         {"\x00\x00\x00\x20hello", "unexpected EOF"},
		"no room for a header": {"\x00\x00\x00\x0d0123456789012", "a frame of 13 bytes"},
		"a giant":              {"\x7f\xff\xff\xff", "a frame of 2147483647 bytes"},
		"one byte too many":    {"\x00\x00\xff\xff", "a frame of 65535 bytes"},
	} {
		here, there := socketPair(t)
		served := make(chan error)
		go func() { served <- l.Serve(t.Context(), here) }()
		if _, err := io.WriteString(there, c.bytes); err != nil {
			t.Fatal(err)
		}
		if err := there.(*net.UnixConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if err := <-served; (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", what, err, c.want)
		}
		there.Close()
	}
	first := newRawGuest(t, l)
	first.packet(echoRequest(l.member.Addr, n.gateway4, "x"))
	first.want(n.gateway4, "echo", func(p tcpip.TransportProtocolNumber, _ []byte) bool { return p == header.ICMPv4ProtocolNumber })
	here, there := socketPair(t)
	defer there.Close()
	if err := l.Serve(t.Context(), here); err == nil || !strings.Contains(err.Error(), "a stream already") {
		t.Errorf("a second stream: %v", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	l2 := join(t, n, Member{Name: "b"})
	here, there2 := socketPair(t)
	defer there2.Close()
	why := errors.New("why")
	cancel(why)
	if err := l2.Serve(ctx, here); !errors.Is(err, why) {
		t.Errorf("cancelled: %v", err)
	}
}

// TestReconnect has a stream break and another come: connections go on. A
// network that is new, as after a restart of this program, ends them at once.
func TestReconnect(t *testing.T) {
	needNamespace(t)
	loopback(t)
	n := newNetwork(t, Config{})
	m := Member{Name: "a", Addr: netip.MustParseAddr("10.0.2.15")}
	l := join(t, n, m)
	// The guest's end of the cable is plugged in here.
	cable := make(chan net.Conn)
	g := &guest{newNamespace(t), l}
	var broken net.Conn
	plug := func(l *Link) (served chan error, stop func()) {
		here, there := socketPair(t)
		served = make(chan error, 1)
		go func() { served <- l.Serve(t.Context(), here) }()
		cable <- there
		broken = there
		return served, func() { there.Close() }
	}
	pluggable(t, g, l, cable)
	served, _ := plug(l)
	g.run(func() error {
		return guestnet.Up(t.Context(), &cmdline.Net{Device: "eth0", Address: netip.MustParsePrefix("10.0.2.15/24"), Gateway: n.gateway4})
	})
	server := g.listen("tcp", ":80")
	conn, err := l.Dial(t.Context(), 80)
	if err != nil {
		t.Fatal(err)
	}
	inGuest, err := server.Accept()
	if err != nil {
		t.Fatal(err)
	}
	broken.Close()
	<-served
	served, _ = plug(l)
	go echoTCP(inGuest)
	exchange(t, conn, strings.Repeat("over the second cable ", 10000))

	// Restart: the guest's connection is one that nobody knows.
	conn, err = l.Dial(t.Context(), 80)
	if err != nil {
		t.Fatal(err)
	}
	if inGuest, err = server.Accept(); err != nil {
		t.Fatal(err)
	}
	broken.Close()
	<-served
	restarted := newNetwork(t, Config{})
	l2 := join(t, restarted, m)
	served, stop := plug(l2)
	if err := inGuest.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := inGuest.Write([]byte("hello?")); err != nil {
		t.Fatal(err)
	}
	if _, err := inGuest.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("after a restart the guest's connection has %v", err)
	}
	// And a new one works.
	conn.Close()
	again, err := l2.Dial(t.Context(), 80)
	if err != nil {
		t.Fatal(err)
	}
	if inGuest, err = server.Accept(); err != nil {
		t.Fatal(err)
	}
	go echoTCP(inGuest)
	exchange(t, again, "hello")
	stop()
	<-served
}

// pluggable is card with a cable that can be changed.
func pluggable(t *testing.T, g *guest, l *Link, cable <-chan net.Conn) {
	t.Helper()
	here, there := socketPair(t)
	card(t, g.namespace, l, here)
	t.Cleanup(func() { there.Close() })
	var to = make(chan net.Conn, 1)
	go func() {
		for conn := range cable {
			select {
			case <-to:
			default:
			}
			to <- conn
			go func() { // frames to the guest
				r := bufio.NewReader(conn)
				for {
					v, err := readFrame(r, l.network.MTU())
					if err != nil {
						return
					}
					_, err = there.Write(binary.BigEndian.AppendUint32(nil, uint32(v.Size())))
					if err == nil {
						_, err = there.Write(v.AsSlice())
					}
					v.Release()
					if err != nil {
						return
					}
				}
			}()
		}
	}()
	go func() { // frames from the guest, to the cable of the moment
		r := bufio.NewReader(there)
		for {
			v, err := readFrame(r, l.network.MTU())
			if err != nil {
				return
			}
			select {
			case conn := <-to:
				b := append(binary.BigEndian.AppendUint32(nil, uint32(v.Size())), v.AsSlice()...)
				conn.Write(b) // what finds no cable is lost, as in QEMU
				select {
				case to <- conn:
				default: // changed meanwhile
				}
			default:
			}
			v.Release()
		}
	}()
}

// TestStuckMember has a guest that reads nothing: others are not held up, and
// what waits for it is bounded.
func TestStuckMember(t *testing.T) {
	n := newNetwork(t, Config{})
	stuck := join(t, n, Member{Name: "stuck"})
	serve(t, stuck) // nobody reads from this
	a := newRawGuest(t, join(t, n, Member{Name: "a"}))
	p := udpPacket(netip.AddrPortFrom(a.link.member.Addr, 1), netip.AddrPortFrom(stuck.member.Addr, 1), strings.Repeat("x", 60000))
	for range 2 * maxQueue / 60000 {
		a.send(stuck.mac, a.link.mac, typeIPv4, p)
	}
	a.packet(echoRequest(a.link.member.Addr, n.gateway4, "x"))
	a.want(n.gateway4, "echo", func(p tcpip.TransportProtocolNumber, _ []byte) bool { return p == header.ICMPv4ProtocolNumber })
	stuck.queue.mu.Lock()
	held := stuck.queue.bytes
	stuck.queue.mu.Unlock()
	if s := stuck.Stats(); held > maxQueue || held < maxQueue/2 || s.Dropped == 0 {
		t.Errorf("%d bytes wait, %+v", held, s)
	}
	closed := make(chan error, 1)
	go func() { closed <- stuck.Close() }()
	select {
	case err := <-closed:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(patience):
		t.Fatal("a link with a stuck stream does not close")
	}
	stuck.queue.mu.Lock()
	defer stuck.queue.mu.Unlock()
	if stuck.queue.bytes != 0 || len(stuck.queue.frames) != 0 {
		t.Errorf("after the end %d bytes wait", stuck.queue.bytes)
	}
}

// TestLimits has a guest open more than it may.
func TestLimits(t *testing.T) {
	w := newWorld(t)
	n := newNetwork(t, Config{})
	l := join(t, n, Member{Name: "a", Outbound: true})
	l.outbound.max = 8
	g := newGuest(t, l)
	var open []net.Conn
	for range 8 {
		conn, err := g.dial("tcp", "192.0.2.7:7")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close() // also: one that nothing refers to is closed
		open = append(open, conn)
	}
	if _, err := g.dial("tcp", "192.0.2.7:7"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("the ninth connection: %v", err)
	}
	// Its owner still reaches it.
	server := g.listen("tcp", ":80")
	go func() {
		if conn, err := server.Accept(); err == nil {
			echoTCP(conn)
		}
	}()
	conn, err := l.Dial(t.Context(), 80)
	if err != nil {
		t.Fatal(err)
	}
	exchange(t, conn, "hello")
	// One that has ended, and is forgotten, makes room.
	exchange(t, open[0], "hello")
	waitFor(t, func() bool { return used(&l.outbound) == 7 })
	if conn, err = g.dial("tcp", "192.0.2.7:7"); err != nil {
		t.Errorf("after one has ended: %v", err)
	} else {
		conn.Close()
	}

	// UDP sockets: the one that was idle for longest makes room.
	w.echoUDP("192.0.2.7:7")
	var first net.Conn
	for i := range maxFlows + 10 {
		conn, err := g.dial("udp", "192.0.2.7:7")
		if err != nil {
			t.Fatal(err)
		}
		datagram(t, conn, 10)
		if i == 0 {
			first = conn
		} else {
			defer conn.Close()
		}
	}
	l.flows.mu.Lock()
	flows := len(l.flows.from)
	_, kept := l.flows.from[first.LocalAddr().(*net.UDPAddr).AddrPort()]
	l.flows.mu.Unlock()
	if flows != maxFlows || kept {
		t.Errorf("%d flows, the first kept: %v", flows, kept)
	}
	datagram(t, first, 10) // it gets another
	first.Close()
}

func used(s *slots) int64 { return atomic.LoadInt64(&s.used) }

// waitFor waits for a condition that nothing reports.
func waitFor(t testing.TB, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !f(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("waited for too long")
		}
	}
}

// TestStrangerUDP sends to a guest's flow from where it has not sent to.
func TestStrangerUDP(t *testing.T) {
	w := newWorld(t)
	l := join(t, newNetwork(t, Config{}), Member{Name: "a", Outbound: true})
	g := newGuest(t, l)
	friend, stranger := w.echoUDP("192.0.2.7:7"), w.echoUDP("192.0.2.8:7")
	other := w.echoUDP("192.0.2.7:8") // the same host's other port, as in a NAT's traversal
	var conn net.PacketConn
	g.run(func() (err error) {
		var c net.ListenConfig
		conn, err = c.ListenPacket(t.Context(), "udp4", ":0")
		return err
	})
	defer conn.Close()
	if _, err := conn.WriteTo([]byte("hello"), net.UDPAddrFromAddrPort(netip.MustParseAddrPort("192.0.2.7:7"))); err != nil {
		t.Fatal(err)
	}
	w.wait("udp 192.0.2.7:7")
	l.flows.mu.Lock()
	var port int
	for _, f := range l.flows.from {
		port = f.conn.LocalAddr().(*net.UDPAddr).Port
	}
	l.flows.mu.Unlock()
	at := &net.UDPAddr{IP: net.ParseIP(hostAddress), Port: port}
	for who, from := range map[string]*net.UDPConn{"stranger": stranger, "friend": friend, "other": other} {
		if _, err := from.WriteTo([]byte(who), at); err != nil {
			t.Fatal(err)
		}
	}
	got := map[string]bool{}
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 100)
	for len(got) < 3 { // hello, friend, other
		n, _, err := conn.ReadFrom(b)
		if err != nil {
			t.Fatal(err)
		}
		got[string(b[:n])] = true
	}
	if got["stranger"] || !got["friend"] || !got["other"] {
		t.Errorf("got %v", got)
	}
}

// TestNothingStays has a link close while everything of it is busy: no
// goroutine, no descriptor is left.
func TestNothingStays(t *testing.T) {
	w := newWorld(t)
	w.echoUDP("192.0.2.7:7")
	n := newNetwork(t, Config{})
	// Once before, for what stays for good: the runtime's, and the stack's.
	for round := range 2 {
		l := join(t, n, Member{Name: "a", Outbound: true})
		before, files := runtime.NumGoroutine(), descriptors(t)
		func() {
			here, there := socketPair(t)
			defer there.Close()
			served := make(chan error, 1)
			go func() { served <- l.Serve(t.Context(), here) }()
			g := &rawGuest{t, l, there, make(chan []byte, 1000)}
			go func() {
				r := bufio.NewReader(there)
				for {
					v, err := readFrame(r, n.MTU())
					if err != nil {
						return
					}
					g.frames <- append([]byte(nil), v.AsSlice()...)
					v.Release()
				}
			}()
			f, err := l.Forward(netip.AddrPort{}, 80)
			if err != nil {
				t.Fatal(err)
			}
			client, err := net.Dial("tcp", f.Addr().String()) // that the guest never answers
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			dial := make(chan error, 1)
			go func() { _, err := l.Dial(t.Context(), 81); dial <- err }()
			to := netip.MustParseAddrPort("192.0.2.7:7")
			for i := range 50 {
				from := netip.AddrPortFrom(l.member.Addr, uint16(1000+i))
				g.packet(syn(from, to)) // and never what follows
				g.packet(udpPacket(from, to, "hello"))
				g.packet(echoRequest(from.Addr(), netip.MustParseAddr("203.0.113.1"), "x"))
			}
			g.want(to.Addr(), "answer", func(p tcpip.TransportProtocolNumber, b []byte) bool { return p == header.UDPProtocolNumber })
			w.wait("tcp " + to.String())
			if err := l.Close(); err != nil {
				t.Error(err)
			}
			if err := <-served; err == nil {
				t.Error("served to the end")
			}
			if err := <-dial; err == nil {
				t.Error("dialled a guest that does not answer")
			}
		}()
		if round == 0 {
			continue
		}
		waitFor(t, func() bool { return runtime.NumGoroutine() <= before && descriptors(t) <= files })
	}
	before := runtime.NumGoroutine()
	if err := n.Close(); err != nil {
		t.Error(err)
	}
	if after := runtime.NumGoroutine(); after >= before {
		t.Errorf("%d goroutines after the network's end, %d before", after, before)
	}
}

func descriptors(t *testing.T) int {
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

// FuzzFrames has a guest send any bytes; the gateway still answers.
func FuzzFrames(f *testing.F) {
	n := newNetwork(f, Config{})
	l := join(f, n, Member{Name: "a", Outbound: true})
	n.local = func(netip.Addr) (bool, error) { return true, nil } // nowhere to go
	port := func(a netip.Addr) netip.AddrPort { return netip.AddrPortFrom(a, 53) }
	frame := func(etherType uint16, p []byte) []byte {
		b := append(append([]byte(nil), gatewayMAC[:]...), l.mac[:]...)
		return append(binary.BigEndian.AppendUint16(b, etherType), p...)
	}
	world := netip.MustParseAddr("192.0.2.7")
	for _, p := range [][]byte{
		syn(port(l.member.Addr), port(n.gateway4)), syn(port(l.member.Addr6), port(n.gateway6)), syn(port(l.member.Addr), port(world)),
		udpPacket(port(l.member.Addr), port(n.gateway4), "query"), udpPacket(port(l.member.Addr6), port(n.gateway6), "query"),
		echoRequest(l.member.Addr, n.gateway4, "x"), echoRequest(l.member.Addr6, n.gateway6, "x"), echoRequest(l.member.Addr, world, "x"),
		udpPacket(netip.AddrPortFrom(l.member.Addr, 68), netip.AddrPortFrom(broadcast4, 67), strings.Repeat("\x01", 300)),
	} {
		etherType := uint16(typeIPv4)
		if p[0]>>4 == 6 {
			etherType = typeIPv6
		}
		f.Add(frame(etherType, p))
	}
	f.Add(frame(typeARP, make([]byte, 28)))
	f.Fuzz(func(t *testing.T, b []byte) {
		// The bytes as one frame of the member's, then as a stream.
		if len(b) >= ethernetSize && len(b) <= ethernetSize+n.MTU() {
			copy(b[6:], l.mac[:])
			v, err := readFrame(bufio.NewReader(strings.NewReader(string(binary.BigEndian.AppendUint32(nil, uint32(len(b))))+string(b))), n.MTU())
			if err != nil {
				t.Fatal(err)
			}
			l.switchFrame(v)
		}
		r := bufio.NewReader(strings.NewReader(string(b)))
		for {
			v, err := readFrame(r, n.MTU())
			if err != nil {
				break
			}
			l.switchFrame(v)
		}
		if got := used(&l.outbound); got > maxOutbound {
			t.Errorf("%d connections", got)
		}
	})
}
