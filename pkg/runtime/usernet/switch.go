package usernet

import (
	"encoding/binary"
	"net/netip"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// switchFrame takes one frame of the member to where it belongs. There is
// nothing to learn, as all addresses are known: a frame with another sender
// than its member is dropped, and so is one to many, other than the questions
// that the gateway answers for all (ARP, neighbour discovery, DHCP).
func (l *Link) switchFrame(v *buffer.View) {
	frame := v.AsSlice()
	if mac(frame[6:12]) != l.mac {
		l.drop(v)
		return
	}
	to, payload := mac(frame), frame[ethernetSize:]
	switch binary.BigEndian.Uint16(frame[12:]) {
	case typeARP:
		if !l.answerARP(payload) {
			l.stats.dropped.Add(1)
		}
		v.Release()
	case typeIPv4:
		l.switchIPv4(v, to, payload)
	case typeIPv6:
		l.switchIPv6(v, to, payload)
	default:
		l.drop(v)
	}
}

func (l *Link) drop(v *buffer.View) {
	l.stats.dropped.Add(1)
	v.Release()
}

func (l *Link) switchIPv4(v *buffer.View, to mac, packet []byte) {
	h := header.IPv4(packet)
	if !h.IsValid(len(packet)) {
		l.drop(v)
		return
	}
	from, dest := netip.AddrFrom4(h.SourceAddress().As4()), netip.AddrFrom4(h.DestinationAddress().As4())
	whole := !h.More() && h.FragmentOffset() == 0
	protocol := h.TransportProtocol()
	body := packet[h.HeaderLength():h.TotalLength()]
	if protocol == header.UDPProtocolNumber && whole && isDHCP(body) && (dest == l.network.gateway4 || dest == broadcast4) {
		if from != l.member.Addr && !from.IsUnspecified() || !l.answerDHCP(body[header.UDPMinimumSize:]) {
			l.stats.dropped.Add(1)
		}
		v.Release()
		return
	}
	if from != l.member.Addr {
		l.drop(v)
		return
	}
	if to != gatewayMAC {
		l.forward(v, to, dest)
		return
	}
	if protocol == header.ICMPv4ProtocolNumber && dest != l.network.gateway4 {
		// The stack would answer for the whole world.
		if !whole || !l.echo4(dest, packet[:h.TotalLength()], body) {
			l.stats.dropped.Add(1)
		}
		v.Release()
		return
	}
	l.network.nic.deliver(header.IPv4ProtocolNumber, v)
}

func (l *Link) switchIPv6(v *buffer.View, to mac, packet []byte) {
	h := header.IPv6(packet)
	if !l.network.gateway6.IsValid() || !h.IsValid(len(packet)) {
		l.drop(v)
		return
	}
	from, dest := netip.AddrFrom16(h.SourceAddress().As16()), netip.AddrFrom16(h.DestinationAddress().As16())
	body := packet[header.IPv6MinimumSize : header.IPv6MinimumSize+int(h.PayloadLength())]
	next := h.TransportProtocol()
	if next == header.ICMPv6ProtocolNumber && isNeighborSolicitation(body) {
		if !l.answerSolicitation(h, body) {
			l.stats.dropped.Add(1)
		}
		v.Release()
		return
	}
	if from != l.member.Addr6 {
		l.drop(v) // so are link-local addresses: nothing listens on the gateway's
		return
	}
	if to != gatewayMAC {
		l.forward(v, to, dest)
		return
	}
	switch next {
	case header.ICMPv6ProtocolNumber:
		if dest != l.network.gateway6 {
			if !l.echo6(dest, packet, body) {
				l.stats.dropped.Add(1)
			}
			v.Release()
			return
		}
		if !isEcho6(body) { // the rest of neighbour discovery, and errors
			l.drop(v)
			return
		}
	case header.TCPProtocolNumber, header.UDPProtocolNumber, tcpip.TransportProtocolNumber(header.IPv6FragmentExtHdrIdentifier):
	default:
		l.drop(v) // other extension headers are a way around what is looked at above
		return
	}
	l.network.nic.deliver(header.IPv6ProtocolNumber, v)
}

// forward passes a frame on to another member, if the addresses agree.
func (l *Link) forward(v *buffer.View, to mac, dest netip.Addr) {
	other := l.network.linkAt(to)
	if other == nil || other == l || !other.own(dest) {
		l.drop(v)
		return
	}
	frame := v.AsSlice()
	passed, payload := newFrame(to, l.mac, binary.BigEndian.Uint16(frame[12:]), len(frame)-ethernetSize)
	copy(payload, frame[ethernetSize:])
	v.Release()
	other.send(passed)
}
