package usernet

import (
	"bytes"
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

// echo4 sends an ICMP echo request, the body of packet, to the world. It reports
// false for anything else.
func (l *Link) echo4(dest netip.Addr, packet, body []byte) bool {
	if len(body) < header.ICMPv4MinimumSize || header.ICMPv4(body).Type() != header.ICMPv4Echo || header.ICMPv4(body).Code() != 0 {
		return false
	}
	return l.ping(l.member.Addr, dest, packet, body)
}

func isEcho6(body []byte) bool {
	return len(body) >= header.ICMPv6EchoMinimumSize && header.ICMPv6(body).Type() == header.ICMPv6EchoRequest && header.ICMPv6(body).Code() == 0
}

// echo6 is echo4 for IPv6.
func (l *Link) echo6(dest netip.Addr, packet, body []byte) bool {
	return isEcho6(body) && l.ping(l.member.Addr6, dest, packet, body)
}

// ping answers an echo request when the world has, or says that it may not be
// sent. Both kinds have an identifier at byte 4.
func (l *Link) ping(from, dest netip.Addr, packet, body []byte) bool {
	if err := l.permit(dest); err != nil {
		l.prohibit(from, packet)
		return true
	}
	if !l.pings.take() {
		return false
	}
	body, packet = bytes.Clone(body), bytes.Clone(quote(packet))
	started := l.start(func() {
		defer l.pings.give()
		reply, err := pingWorld(l.ctx, dest, body)
		switch {
		case err == nil:
			copy(reply[4:6], body[4:6]) // the socket had one of its own
			_ = l.network.sendICMP(dest, from, reply)
		case errors.Is(err, os.ErrDeadlineExceeded) || l.ctx.Err() != nil: // silence for silence
		default: // no ping sockets for this user, or no way there
			l.prohibit(from, packet)
		}
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

// quote is what of a packet goes into an answer: headers, and more than the 8
// bytes beyond that there have to be.
func quote(packet []byte) []byte { return packet[:min(len(packet), 128)] }

// prohibit tells the member that a packet was not passed on: RFC 1812, 5.2.7.1,
// and RFC 4443, 3.1.
func (l *Link) prohibit(from netip.Addr, packet []byte) {
	l.stats.refused.Add(1)
	message := make([]byte, header.ICMPv4MinimumSize, 256)
	message[0], message[1] = byte(header.ICMPv4DstUnreachable), byte(header.ICMPv4AdminProhibited)
	gateway := l.network.gateway4
	if from.Is6() {
		message[0], message[1] = byte(header.ICMPv6DstUnreachable), byte(header.ICMPv6Prohibited)
		gateway = l.network.gateway6
	}
	_ = l.network.sendICMP(gateway, from, append(message, quote(packet)...)) // lost as any packet
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
