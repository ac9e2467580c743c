package usernet

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// echo4 sends an ICMP echo request to the world. It reports false for anything
// else.
func (l *Link) echo4(dest netip.Addr, body []byte) bool {
	if len(body) < header.ICMPv4MinimumSize || header.ICMPv4(body).Type() != header.ICMPv4Echo || header.ICMPv4(body).Code() != 0 {
		return false
	}
	return l.ping(l.member.Addr, dest, body)
}

func isEcho6(body []byte) bool {
	return len(body) >= header.ICMPv6EchoMinimumSize && header.ICMPv6(body).Type() == header.ICMPv6EchoRequest && header.ICMPv6(body).Code() == 0
}

// echo6 is echo4 for IPv6.
func (l *Link) echo6(dest netip.Addr, body []byte) bool {
	return isEcho6(body) && l.ping(l.member.Addr6, dest, body)
}

// ping answers an echo request when the world has, or says that it may not be
// sent. Both kinds have an identifier at byte 4.
func (l *Link) ping(from, dest netip.Addr, request []byte) bool {
	if !l.pings.take() {
		return false
	}
	request = append([]byte(nil), request...)
	started := l.start(func() {
		defer l.pings.give()
		err := l.permit(dest)
		if err == nil {
			var reply []byte
			if reply, err = pingWorld(l.ctx, dest, request); err == nil {
				copy(reply[4:6], request[4:6]) // the socket had one of its own
				_ = l.network.sendICMP(dest, from, reply)
				return
			}
			if errors.Is(err, os.ErrDeadlineExceeded) || l.ctx.Err() != nil {
				return
			}
		}
		l.stats.refused.Add(1)
		_ = l.network.sendICMP(dest, from, prohibited(from, dest, request))
	})
	if !started {
		l.pings.give()
	}
	return true
}

// pingWorld uses a ping socket, which the kernel gives to users in
// net.ipv4.ping_group_range, for IPv6 too.
func pingWorld(ctx context.Context, dest netip.Addr, request []byte) ([]byte, error) {
	family, protocol := unix.AF_INET, unix.IPPROTO_ICMP
	if dest.Is6() {
		family, protocol = unix.AF_INET6, unix.IPPROTO_ICMPV6
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	file := os.NewFile(uintptr(fd), "ping")
	conn, err := net.FilePacketConn(file)
	file.Close()
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if err := conn.SetDeadline(time.Now().Add(echoPatience)); err != nil {
		return nil, err
	}
	if _, err := conn.WriteTo(request, &net.UDPAddr{IP: dest.AsSlice()}); err != nil {
		return nil, err
	}
	b := make([]byte, len(request))
	for {
		n, remote, err := conn.ReadFrom(b)
		if err != nil {
			return nil, err
		}
		u, ok := remote.(*net.UDPAddr)
		if ok && n >= 8 && u.AddrPort().Addr().Unmap() == dest {
			return b[:n], nil
		}
	}
}

// prohibited is the answer to a request that may not be sent: RFC 1812, 5.2.7.1,
// and RFC 4443, 3.1. It quotes the request with a header for it.
func prohibited(from, dest netip.Addr, request []byte) []byte {
	const quoted = 64 // bytes of the request: more than the 8 that there have to be
	request = request[:min(len(request), quoted)]
	source, target := tcpip.AddrFromSlice(from.AsSlice()), tcpip.AddrFromSlice(dest.AsSlice())
	if dest.Is4() {
		b := make([]byte, header.ICMPv4MinimumSize+header.IPv4MinimumSize, 128)
		b[0], b[1] = byte(header.ICMPv4DstUnreachable), byte(header.ICMPv4AdminProhibited)
		header.IPv4(b[header.ICMPv4MinimumSize:]).Encode(&header.IPv4Fields{
			TotalLength: uint16(header.IPv4MinimumSize + len(request)), TTL: 64, Protocol: uint8(header.ICMPv4ProtocolNumber),
			SrcAddr: source, DstAddr: target,
		})
		return append(b, request...)
	}
	b := make([]byte, header.ICMPv6MinimumSize+header.IPv6MinimumSize, 128)
	b[0], b[1] = byte(header.ICMPv6DstUnreachable), byte(header.ICMPv6Prohibited)
	header.IPv6(b[header.ICMPv6MinimumSize:]).Encode(&header.IPv6Fields{
		PayloadLength: uint16(len(request)), TransportProtocol: header.ICMPv6ProtocolNumber, HopLimit: 64,
		SrcAddr: source, DstAddr: target,
	})
	return append(b, request...)
}

// sendICMP sends a message to a member in anybody's name, with its checksum.
func (n *Network) sendICMP(from, to netip.Addr, message []byte) error {
	message[2], message[3] = 0, 0
	protocol := header.ICMPv4ProtocolNumber
	var sum uint16
	if from.Is4() {
		sum = ^checksum.Checksum(message, 0)
	} else {
		protocol = header.ICMPv6ProtocolNumber
		sum = header.ICMPv6Checksum(header.ICMPv6ChecksumParams{
			Header: message, Src: tcpip.AddrFromSlice(from.AsSlice()), Dst: tcpip.AddrFromSlice(to.AsSlice()),
		})
	}
	binary.BigEndian.PutUint16(message[2:], sum)
	return n.send(from, to, protocol, 0, message, func(*stack.Route, *stack.PacketBuffer) {})
}
