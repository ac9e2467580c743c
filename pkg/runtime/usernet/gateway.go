package usernet

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
)

// nicID is the gateway's only network card.
const nicID = 1

// startStack starts the gateway's TCP/IP stack. It takes whatever comes to it
// for its own (promiscuous) and sends in anybody's name (spoofing), because it
// plays the whole world to the members.
func (n *Network) startStack() error {
	n.nic = &nic{network: n, mtu: uint32(n.config.MTU)}
	n.stack = stack.New(stack.Options{
		NetworkProtocols: []stack.NetworkProtocolFactory{
			// What is sent to 127.0.0.1 is refused, and not ignored.
			ipv4.NewProtocolWithOptions(ipv4.Options{AllowExternalLoopbackTraffic: true}),
			ipv6.NewProtocolWithOptions(ipv6.Options{AllowExternalLoopbackTraffic: true}),
		},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol},
	})
	reuse := tcpip.TCPTimeWaitReuseOption(tcpip.TCPTimeWaitReuseGlobal)
	wait := tcpip.TCPTimeWaitTimeoutOption(timeWait)
	receive := tcpip.TCPReceiveBufferSizeRangeOption{Min: 4 << 10, Default: startBuffer, Max: maxBuffer}
	send := tcpip.TCPSendBufferSizeRangeOption{Min: 4 << 10, Default: startBuffer, Max: maxBuffer}
	congestion := tcpip.CongestionControlOption("cubic")
	retries := tcpip.TCPSynRetriesOption(3) // 15 s: the way is short
	for _, o := range []tcpip.SettableTransportProtocolOption{&reuse, &wait, &receive, &send, &congestion, &retries} {
		if err := n.stack.SetTransportProtocolOption(tcp.ProtocolNumber, o); err != nil {
			return fmt.Errorf("network: %T: %s", o, err)
		}
	}
	n.stack.SetTransportProtocolHandler(tcp.ProtocolNumber, n.tcpHandler())
	n.stack.SetTransportProtocolHandler(udp.ProtocolNumber, n.handleUDP)
	if err := n.stack.CreateNIC(nicID, n.nic); err != nil {
		return fmt.Errorf("network: %s", err)
	}
	for _, a := range []netip.Addr{n.gateway4, n.gateway6} {
		if !a.IsValid() {
			continue
		}
		p := tcpip.ProtocolAddress{Protocol: protocolOf(a), AddressWithPrefix: tcpip.AddrFromSlice(a.AsSlice()).WithPrefix()}
		if err := n.stack.AddProtocolAddress(nicID, p, stack.AddressProperties{}); err != nil {
			return fmt.Errorf("network: %s: %s", a, err)
		}
	}
	for _, err := range []tcpip.Error{n.stack.SetPromiscuousMode(nicID, true), n.stack.SetSpoofing(nicID, true)} {
		if err != nil {
			return fmt.Errorf("network: %s", err)
		}
	}
	var routes []tcpip.Route
	for _, p := range []netip.Prefix{n.config.Prefix, n.config.Prefix6} {
		if !p.IsValid() {
			continue
		}
		mask := tcpip.MaskFromBytes(prefixMask(p))
		subnet, err := tcpip.NewSubnet(tcpip.AddrFromSlice(p.Addr().AsSlice()), mask)
		if err != nil {
			return fmt.Errorf("network: %s: %w", p, err)
		}
		routes = append(routes, tcpip.Route{Destination: subnet, NIC: nicID})
	}
	n.stack.SetRouteTable(routes)
	return nil
}

func prefixMask(p netip.Prefix) []byte {
	b := make([]byte, p.Addr().BitLen()/8)
	for i := range p.Bits() {
		b[i/8] |= 0x80 >> (i % 8)
	}
	return b
}

func protocolOf(a netip.Addr) tcpip.NetworkProtocolNumber {
	if a.Is4() {
		return ipv4.ProtocolNumber
	}
	return ipv6.ProtocolNumber
}

func address(a tcpip.Address) netip.Addr {
	b, _ := netip.AddrFromSlice(a.AsSlice())
	return b
}

func full(a netip.AddrPort) tcpip.FullAddress {
	return tcpip.FullAddress{NIC: nicID, Addr: tcpip.AddrFromSlice(a.Addr().AsSlice()), Port: a.Port()}
}

// nic is the gateway's card. It works with packets: which member one is for
// stands in its IP header.
type nic struct {
	network *Network
	mtu     uint32

	mu         sync.RWMutex
	dispatcher stack.NetworkDispatcher
}

// deliver hands a frame, which it takes over, to the stack.
func (c *nic) deliver(protocol tcpip.NetworkProtocolNumber, frame *buffer.View) {
	c.mu.RLock()
	to := c.dispatcher
	c.mu.RUnlock()
	if to == nil {
		frame.Release()
		return
	}
	frame.TrimFront(ethernetSize)
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithView(frame)})
	to.DeliverNetworkPacket(protocol, pkt)
	pkt.DecRef()
}

// WritePackets sends packets to members. One for nobody is dropped, as is what
// the stack sends to groups.
func (c *nic) WritePackets(list stack.PacketBufferList) (int, tcpip.Error) {
	n := 0
	for _, pkt := range list.AsSlice() {
		c.write(pkt)
		n++
	}
	return n, nil
}

func (c *nic) write(pkt *stack.PacketBuffer) {
	var dest tcpip.Address
	var etherType uint16
	switch pkt.NetworkProtocolNumber {
	case header.IPv4ProtocolNumber:
		dest, etherType = header.IPv4(pkt.NetworkHeader().Slice()).DestinationAddress(), typeIPv4
	case header.IPv6ProtocolNumber:
		dest, etherType = header.IPv6(pkt.NetworkHeader().Slice()).DestinationAddress(), typeIPv6
	default:
		return
	}
	l := c.network.linkOf(address(dest))
	if l == nil {
		return
	}
	v, b := newFrame(l.mac, gatewayMAC, etherType, pkt.Size())
	for _, s := range pkt.AsSlices() {
		b = b[copy(b, s):]
	}
	l.send(v)
}

func (c *nic) Attach(d stack.NetworkDispatcher) { c.mu.Lock(); c.dispatcher = d; c.mu.Unlock() }
func (c *nic) IsAttached() bool                 { c.mu.RLock(); defer c.mu.RUnlock(); return c.dispatcher != nil }
func (c *nic) MTU() uint32                      { return c.mtu }
func (c *nic) SetMTU(uint32)                    {}
func (c *nic) MaxHeaderLength() uint16          { return 0 }
func (c *nic) LinkAddress() tcpip.LinkAddress   { return tcpip.LinkAddress(gatewayMAC[:]) }

// Capabilities: a stream of bytes damages none, and the checksums of a guest
// that lies harm only itself.
func (c *nic) Capabilities() stack.LinkEndpointCapabilities {
	return stack.CapabilityRXChecksumOffload
}
func (c *nic) SetLinkAddress(tcpip.LinkAddress)        {}
func (c *nic) Wait()                                   {}
func (c *nic) Close()                                  {}
func (c *nic) SetOnCloseAction(func())                 {}
func (c *nic) ARPHardwareType() header.ARPHardwareType { return header.ARPHardwareNone }
func (c *nic) AddHeader(*stack.PacketBuffer)           {}
func (c *nic) ParseHeader(*stack.PacketBuffer) bool    { return true }

// sendUDP sends a datagram to a member in anybody's name.
func (n *Network) sendUDP(from, to netip.AddrPort, payload []byte) error {
	return n.send(from.Addr(), to.Addr(), udp.ProtocolNumber, header.UDPMinimumSize, payload, func(r *stack.Route, pkt *stack.PacketBuffer) {
		h := header.UDP(pkt.TransportHeader().Push(header.UDPMinimumSize))
		length := uint16(header.UDPMinimumSize + len(payload))
		h.Encode(&header.UDPFields{SrcPort: from.Port(), DstPort: to.Port(), Length: length})
		sum := checksum.Checksum(payload, r.PseudoHeaderChecksum(udp.ProtocolNumber, length))
		sum = ^h.CalculateChecksum(sum)
		if sum == 0 {
			sum = 0xffff // RFC 768: 0 is "none"
		}
		h.SetChecksum(sum)
	})
}

// send sends a packet to a member in anybody's name, in fragments where it is
// too large. Push adds the transport's header of size bytes.
func (n *Network) send(from, to netip.Addr, protocol tcpip.TransportProtocolNumber, size int, payload []byte,
	push func(*stack.Route, *stack.PacketBuffer)) error {
	r, err := n.stack.FindRoute(nicID, full(netip.AddrPortFrom(from, 0)).Addr, full(netip.AddrPortFrom(to, 0)).Addr, protocolOf(to), false)
	if err != nil {
		return errors.New(err.String())
	}
	defer r.Release()
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{
		ReserveHeaderBytes: size + int(r.MaxHeaderLength()),
		Payload:            buffer.MakeWithData(payload),
	})
	defer pkt.DecRef()
	pkt.TransportProtocolNumber = protocol
	push(r, pkt)
	if err := r.WritePacket(stack.NetworkHeaderParams{Protocol: protocol, TTL: r.DefaultTTL()}, pkt); err != nil {
		return errors.New(err.String())
	}
	return nil
}
