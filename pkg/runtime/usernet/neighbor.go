package usernet

import (
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// neighbor returns the hardware address of whoever has an address.
func (n *Network) neighbor(a netip.Addr) (hw mac, ok bool) {
	if a == n.gateway4 || a == n.gateway6 {
		return gatewayMAC, true
	}
	if l := n.linkOf(a); l != nil {
		return l.mac, true
	}
	return hw, false
}

// answerARP answers for everybody, so that no request has to go to all. It
// reports false for what is wrong; a question that has no answer is not.
func (l *Link) answerARP(packet []byte) bool {
	request := header.ARP(packet)
	if !request.IsValid() || mac(request.HardwareAddressSender()) != l.mac {
		return false
	}
	from := netip.AddrFrom4([4]byte(request.ProtocolAddressSender()))
	if from != l.member.Addr && !from.IsUnspecified() { // 0.0.0.0: is it free? (RFC 5227)
		return false
	}
	target := netip.AddrFrom4([4]byte(request.ProtocolAddressTarget()))
	hw, ok := l.network.neighbor(target)
	if request.Op() != header.ARPRequest || !ok || target == l.member.Addr {
		return true
	}
	v, b := newFrame(l.mac, hw, typeARP, header.ARPSize)
	reply := header.ARP(b)
	reply.SetIPv4OverEthernet()
	reply.SetOp(header.ARPReply)
	copy(reply.HardwareAddressSender(), hw[:])
	copy(reply.ProtocolAddressSender(), target.AsSlice())
	copy(reply.HardwareAddressTarget(), l.mac[:])
	copy(reply.ProtocolAddressTarget(), from.AsSlice())
	l.send(v)
	return true
}

func isNeighborSolicitation(body []byte) bool {
	return len(body) >= header.ICMPv6NeighborSolicitMinimumSize && header.ICMPv6(body).Type() == header.ICMPv6NeighborSolicit
}

// answerSolicitation is answerARP for IPv6 (RFC 4861, 7.2).
func (l *Link) answerSolicitation(ip header.IPv6, body []byte) bool {
	from := netip.AddrFrom16(ip.SourceAddress().As16())
	if ip.HopLimit() != header.NDPHopLimit {
		return false
	}
	if from.IsUnspecified() {
		return true // a member that asks whether its own address is free
	}
	if from != l.member.Addr6 && !from.IsLinkLocalUnicast() {
		return false
	}
	target := netip.AddrFrom16(header.NDPNeighborSolicit(header.ICMPv6(body).MessageBody()).TargetAddress().As16())
	hw, ok := l.network.neighbor(target)
	if !ok || target == l.member.Addr6 {
		return true
	}
	const size = header.ICMPv6NeighborAdvertMinimumSize + header.NDPLinkLayerAddressSize
	v, b := newFrame(l.mac, hw, typeIPv6, header.IPv6MinimumSize+size)
	source, dest := tcpip.AddrFromSlice(target.AsSlice()), ip.SourceAddress()
	header.IPv6(b).Encode(&header.IPv6Fields{
		PayloadLength: size, TransportProtocol: header.ICMPv6ProtocolNumber, HopLimit: header.NDPHopLimit,
		SrcAddr: source, DstAddr: dest,
	})
	clear(b[header.IPv6MinimumSize:]) // the memory is used again
	m := header.ICMPv6(b[header.IPv6MinimumSize:])
	m.SetType(header.ICMPv6NeighborAdvert)
	advert := header.NDPNeighborAdvert(m.MessageBody())
	advert.SetRouterFlag(hw == gatewayMAC)
	advert.SetSolicitedFlag(true)
	advert.SetOverrideFlag(true)
	advert.SetTargetAddress(source)
	advert.Options().Serialize(header.NDPOptionsSerializer{header.NDPTargetLinkLayerAddressOption(hw[:])})
	m.SetChecksum(header.ICMPv6Checksum(header.ICMPv6ChecksumParams{Header: m, Src: source, Dst: dest}))
	l.send(v)
	return true
}
