package usernet

import (
	"encoding/binary"
	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

const (
	dhcpServer = 67
	dhcpClient = 68
	// lease is long for an address that never changes, and short enough that
	// a guest soon has another gateway's.
	lease = time.Hour
	// domain is the search domain, under which members have names too. It is
	// reserved for networks of one's own (ICANN, July 2024).
	domain = "internal"
)

var broadcast4 = netip.AddrFrom4([4]byte{255, 255, 255, 255})

func isDHCP(udp []byte) bool {
	return len(udp) > header.UDPMinimumSize && binary.BigEndian.Uint16(udp[2:]) == dhcpServer
}

// answerDHCP gives the member its one address. It reports false for what is no
// request.
func (l *Link) answerDHCP(message []byte) bool {
	request, err := dhcpv4.FromBytes(message)
	if err != nil || request.OpCode != dhcpv4.OpcodeBootRequest {
		return false
	}
	gateway, prefix := net.IP(l.network.gateway4.AsSlice()), l.network.config.Prefix
	var kind dhcpv4.MessageType
	switch request.MessageType() {
	case dhcpv4.MessageTypeDiscover:
		kind = dhcpv4.MessageTypeOffer
	case dhcpv4.MessageTypeRequest:
		if s := request.ServerIdentifier(); s != nil && !s.Equal(gateway) {
			return true // of another server's offer
		}
		kind = dhcpv4.MessageTypeAck
		wanted := request.RequestedIPAddress()
		if wanted == nil {
			wanted = request.ClientIPAddr
		}
		if !wanted.Equal(net.IP(l.member.Addr.AsSlice())) {
			kind = dhcpv4.MessageTypeNak // it begins anew, and is offered its own
		}
	case dhcpv4.MessageTypeInform:
		kind = dhcpv4.MessageTypeAck
	default:
		return true // decline and release: the address stays the member's
	}
	options := []dhcpv4.Modifier{
		dhcpv4.WithMessageType(kind),
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier(gateway)),
	}
	if kind != dhcpv4.MessageTypeNak {
		options = append(options,
			dhcpv4.WithNetmask(net.CIDRMask(prefix.Bits(), 32)),
			dhcpv4.WithRouter(gateway),
			dhcpv4.WithDNS(gateway),
			dhcpv4.WithDomainSearchList(domain),
			dhcpv4.WithOption(dhcpv4.Option{Code: dhcpv4.OptionInterfaceMTU, Value: dhcpv4.Uint16(l.network.config.MTU)}))
		if request.MessageType() != dhcpv4.MessageTypeInform {
			options = append(options,
				dhcpv4.WithYourIP(l.member.Addr.AsSlice()),
				dhcpv4.WithLeaseTime(uint32(lease/time.Second)))
		}
	}
	reply, err := dhcpv4.NewReplyFromRequest(request, options...)
	if err != nil {
		return false
	}
	to := broadcast4
	if ip := request.ClientIPAddr.To4(); ip != nil && !ip.IsUnspecified() && kind != dhcpv4.MessageTypeNak {
		to = l.member.Addr
	}
	l.sendDHCP(to, reply.ToBytes())
	return true
}

// sendDHCP makes the packet by hand: the stack has no way to a member without
// an address. Broadcast is in the IP header only; other members get none.
func (l *Link) sendDHCP(to netip.Addr, message []byte) {
	size := header.UDPMinimumSize + len(message)
	v, b := newFrame(l.mac, gatewayMAC, typeIPv4, header.IPv4MinimumSize+size)
	source, dest := tcpip.AddrFrom4(l.network.gateway4.As4()), tcpip.AddrFrom4(to.As4())
	ip := header.IPv4(b)
	ip.Encode(&header.IPv4Fields{
		TotalLength: uint16(header.IPv4MinimumSize + size), TTL: 64, Protocol: uint8(header.UDPProtocolNumber),
		SrcAddr: source, DstAddr: dest,
	})
	ip.SetChecksum(^ip.CalculateChecksum())
	udp := header.UDP(b[header.IPv4MinimumSize:])
	udp.Encode(&header.UDPFields{SrcPort: dhcpServer, DstPort: dhcpClient, Length: uint16(size)})
	copy(udp.Payload(), message)
	sum := header.PseudoHeaderChecksum(header.UDPProtocolNumber, source, dest, uint16(size))
	udp.SetChecksum(^udp.CalculateChecksum(checksum.Checksum(message, sum)))
	l.send(v)
}
