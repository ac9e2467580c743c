package usernet

import (
	"bufio"
	"net"
	"net/netip"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// rawGuest is a guest that sends the frames it likes.
type rawGuest struct {
	t      testing.TB
	link   *Link
	conn   net.Conn
	frames chan []byte // without length
}

func newRawGuest(t testing.TB, l *Link) *rawGuest {
	g := &rawGuest{t, l, serve(t, l), make(chan []byte, 1000)}
	go func() {
		defer close(g.frames)
		r := bufio.NewReader(g.conn)
		for {
			v, err := readFrame(r, l.network.MTU())
			if err != nil {
				return
			}
			g.frames <- append([]byte(nil), v.AsSlice()...)
			v.Release()
		}
	}()
	return g
}

// send sends a frame.
func (g *rawGuest) send(to, from mac, etherType uint16, payload []byte) {
	g.t.Helper()
	v, b := newFrame(to, from, etherType, len(payload))
	copy(b, payload)
	if _, err := g.conn.Write(v.AsSlice()); err != nil {
		g.t.Fatal(err)
	}
	v.Release()
}

// packet sends an IP packet to the gateway.
func (g *rawGuest) packet(p []byte) {
	g.t.Helper()
	etherType := uint16(typeIPv4)
	if p[0]>>4 == 6 {
		etherType = typeIPv6
	}
	g.send(gatewayMAC, g.link.mac, etherType, p)
}

// own returns the member's address of a family.
func (g *rawGuest) own(family netip.Addr) netip.Addr {
	if family.Is4() {
		return g.link.member.Addr
	}
	return g.link.member.Addr6
}

// want waits for a packet that f likes, from an address.
func (g *rawGuest) want(from netip.Addr, what string, f func(protocol tcpip.TransportProtocolNumber, body []byte) bool) {
	g.t.Helper()
	deadline := time.After(patience)
	for {
		select {
		case b, ok := <-g.frames:
			if !ok {
				g.t.Fatalf("the stream ended before %s of %s", what, from)
			}
			b = b[ethernetSize:]
			if b[0]>>4 == 4 {
				h := header.IPv4(b)
				if address(h.SourceAddress()) == from && f(h.TransportProtocol(), h.Payload()) {
					return
				}
			} else {
				h := header.IPv6(b)
				if address(h.SourceAddress()) == from && f(h.TransportProtocol(), h.Payload()) {
					return
				}
			}
		case <-deadline:
			g.t.Fatalf("no %s of %s", what, from)
		}
	}
}

// ipPacket makes a packet. Body is the transport's part, with its checksum left
// out, which sum puts in.
func ipPacket(from, to netip.Addr, protocol tcpip.TransportProtocolNumber, body []byte) []byte {
	source, dest := tcpip.AddrFromSlice(from.AsSlice()), tcpip.AddrFromSlice(to.AsSlice())
	sum := checksum.Checksum(body, header.PseudoHeaderChecksum(protocol, source, dest, uint16(len(body))))
	switch protocol {
	case header.TCPProtocolNumber:
		header.TCP(body).SetChecksum(^sum)
	case header.UDPProtocolNumber:
		header.UDP(body).SetChecksum(^sum)
	case header.ICMPv4ProtocolNumber:
		header.ICMPv4(body).SetChecksum(^checksum.Checksum(body, 0))
	case header.ICMPv6ProtocolNumber:
		header.ICMPv6(body).SetChecksum(^sum)
	}
	if to.Is4() {
		b := make([]byte, header.IPv4MinimumSize)
		h := header.IPv4(b)
		h.Encode(&header.IPv4Fields{
			TotalLength: uint16(len(b) + len(body)), TTL: 64, Protocol: uint8(protocol), SrcAddr: source, DstAddr: dest,
		})
		h.SetChecksum(^h.CalculateChecksum())
		return append(b, body...)
	}
	b := make([]byte, header.IPv6MinimumSize)
	header.IPv6(b).Encode(&header.IPv6Fields{
		PayloadLength: uint16(len(body)), TransportProtocol: protocol, HopLimit: 255, SrcAddr: source, DstAddr: dest,
	})
	return append(b, body...)
}

func syn(from, to netip.AddrPort) []byte {
	b := make([]byte, header.TCPMinimumSize)
	header.TCP(b).Encode(&header.TCPFields{
		SrcPort: from.Port(), DstPort: to.Port(), SeqNum: 1000, DataOffset: header.TCPMinimumSize, Flags: header.TCPFlagSyn, WindowSize: 65535,
	})
	return ipPacket(from.Addr(), to.Addr(), header.TCPProtocolNumber, b)
}

func udpPacket(from, to netip.AddrPort, payload string) []byte {
	b := make([]byte, header.UDPMinimumSize, header.UDPMinimumSize+len(payload))
	b = append(b, payload...)
	header.UDP(b).Encode(&header.UDPFields{SrcPort: from.Port(), DstPort: to.Port(), Length: uint16(len(b))})
	return ipPacket(from.Addr(), to.Addr(), header.UDPProtocolNumber, b)
}

func echoRequest(from, to netip.Addr, payload string) []byte {
	b := append([]byte{8, 0, 0, 0, 0x12, 0x34, 0, 1}, payload...)
	if to.Is4() {
		return ipPacket(from, to, header.ICMPv4ProtocolNumber, b)
	}
	b[0] = byte(header.ICMPv6EchoRequest)
	return ipPacket(from, to, header.ICMPv6ProtocolNumber, b)
}

func isReset(protocol tcpip.TransportProtocolNumber, body []byte) bool {
	return protocol == header.TCPProtocolNumber && header.TCP(body).Flags().Contains(header.TCPFlagRst)
}

func isUnreachable(protocol tcpip.TransportProtocolNumber, body []byte) bool {
	return protocol == header.ICMPv4ProtocolNumber && header.ICMPv4(body).Type() == header.ICMPv4DstUnreachable ||
		protocol == header.ICMPv6ProtocolNumber && header.ICMPv6(body).Type() == header.ICMPv6DstUnreachable
}
