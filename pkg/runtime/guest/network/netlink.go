package network

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// rtnl is a route netlink socket: the few requests that a guest needs, and
// not a library for the others.
type rtnl struct {
	fd  int
	seq uint32
}

func dialRTNL() (*rtnl, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("netlink: %w", err)
	}
	return &rtnl{fd: fd}, nil
}

// carrierPatience bounds the wait for a link that has no carrier; the kernel
// itself may take a second to see one.
const carrierPatience = time.Second

// operUp is IF_OPER_UP of linux/if.h, RFC 2863's "up".
const operUp = 6

// carrier waits until the device passes packets, for carrierPatience at most: a
// link without a carrier is no error, and works once it has one. IFF_UP alone
// does not say so. A virtio card's link comes up beside it, and until the
// kernel has seen that it drops what the card sends: the answer to an ARP
// request, say, without which QEMU's user network drops a client's packet.
func (r *rtnl) carrier(ctx context.Context, index int) error {
	ctx, cancel := context.WithTimeout(ctx, carrierPatience)
	defer cancel()
	// The answer to the question and the news of a change are one message.
	if err := unix.SetsockoptInt(r.fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, unix.RTNLGRP_LINK); err != nil {
		return err
	}
	b := make([]byte, unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint32(b[4:], uint32(index))
	buf := make([]byte, 8192)
	for ask := true; ; {
		end, _ := ctx.Deadline()
		left := unix.NsecToTimeval(max(time.Until(end), time.Microsecond).Nanoseconds())
		if err := unix.SetsockoptTimeval(r.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &left); err != nil {
			return err
		}
		flags := 0
		if ask {
			flags = unix.MSG_DONTWAIT
		}
		n, _, err := unix.Recvfrom(r.fd, buf, flags)
		switch {
		case ctx.Err() != nil:
			return nil
		case ask && errors.Is(err, unix.EAGAIN): // all is read: there is room for the answer
			if err := r.send(unix.RTM_GETLINK, 0, b); err != nil {
				return err
			}
			ask = false
			continue
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN):
			continue
		case errors.Is(err, unix.ENOBUFS): // more news than the socket holds: some is lost
			ask = true
			continue
		case err != nil:
			return err
		}
		if passes(buf[:n], index) {
			return nil
		}
	}
}

// passes says whether one of the messages is of the device and says that it
// passes packets. A loopback device does so without a carrier.
func passes(b []byte, index int) bool {
	messages, err := syscall.ParseNetlinkMessage(b)
	if err != nil {
		return false
	}
	for _, m := range messages {
		ne := binary.NativeEndian
		if m.Header.Type != unix.RTM_NEWLINK || len(m.Data) < unix.SizeofIfInfomsg || int(ne.Uint32(m.Data[4:])) != index {
			continue
		}
		if flags := ne.Uint32(m.Data[8:]); flags&unix.IFF_UP == 0 {
			continue
		} else if flags&unix.IFF_LOOPBACK != 0 {
			return true
		}
		attributes, err := syscall.ParseNetlinkRouteAttr(&m)
		if err != nil {
			continue
		}
		for _, a := range attributes {
			if a.Attr.Type == unix.IFLA_OPERSTATE && len(a.Value) > 0 && a.Value[0] == operUp {
				return true
			}
		}
	}
	return false
}

func (r *rtnl) close() error { return unix.Close(r.fd) }

// linkUp sets IFF_UP.
func (r *rtnl) linkUp(index int) error {
	b := make([]byte, unix.SizeofIfInfomsg)
	ne := binary.NativeEndian
	ne.PutUint32(b[4:], uint32(index))
	ne.PutUint32(b[8:], unix.IFF_UP)
	ne.PutUint32(b[12:], unix.IFF_UP)
	return r.request(unix.RTM_NEWLINK, 0, b)
}

// setLink sets the hardware address and the MTU.
func (r *rtnl) setLink(index int, hw []byte, mtu int) error {
	b := make([]byte, unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint32(b[4:], uint32(index))
	b = attribute(b, unix.IFLA_ADDRESS, hw)
	b = attribute(b, unix.IFLA_MTU, binary.NativeEndian.AppendUint32(nil, uint32(mtu)))
	return r.request(unix.RTM_NEWLINK, 0, b)
}

// addAddress adds an address; one that is there is no error.
func (r *rtnl) addAddress(index int, p netip.Prefix) error {
	return r.request(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, addressMessage(index, p))
}

// removeAddress removes an address; one that is not there is no error.
func (r *rtnl) removeAddress(index int, p netip.Prefix) error {
	err := r.request(unix.RTM_DELADDR, 0, addressMessage(index, p))
	if errors.Is(err, unix.EADDRNOTAVAIL) {
		return nil
	}
	return err
}

func addressMessage(index int, p netip.Prefix) []byte {
	b := make([]byte, unix.SizeofIfAddrmsg)
	b[0], b[1] = family(p.Addr()), byte(p.Bits())
	if p.Addr().Is6() {
		b[2] = unix.IFA_F_NODAD // nobody else is on this link; do not wait a second
	}
	binary.NativeEndian.PutUint32(b[4:], uint32(index))
	b = attribute(b, unix.IFA_LOCAL, p.Addr().AsSlice())
	return attribute(b, unix.IFA_ADDRESS, p.Addr().AsSlice())
}

// defaultRoute sets the route to everywhere else.
func (r *rtnl) defaultRoute(index int, gateway netip.Addr) error {
	b := make([]byte, unix.SizeofRtMsg)
	b[0] = family(gateway)
	b[4], b[5], b[6], b[7] = unix.RT_TABLE_MAIN, unix.RTPROT_BOOT, unix.RT_SCOPE_UNIVERSE, unix.RTN_UNICAST
	b = attribute(b, unix.RTA_GATEWAY, gateway.AsSlice())
	b = attribute(b, unix.RTA_OIF, binary.NativeEndian.AppendUint32(nil, uint32(index)))
	return r.request(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, b)
}

func family(a netip.Addr) byte {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// attribute appends a route attribute, padded to 4 bytes.
func attribute(b []byte, kind uint16, value []byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(unix.SizeofRtAttr+len(value)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = append(b, value...)
	return append(b, make([]byte, -len(value)&3)...)
}

// send sends one message.
func (r *rtnl) send(kind, flags uint16, body []byte) error {
	r.seq++
	ne := binary.NativeEndian
	m := ne.AppendUint32(nil, uint32(unix.SizeofNlMsghdr+len(body)))
	m = ne.AppendUint16(m, kind)
	m = ne.AppendUint16(m, unix.NLM_F_REQUEST|flags)
	m = ne.AppendUint32(m, r.seq)
	m = ne.AppendUint32(m, 0)
	m = append(m, body...)
	return unix.Sendto(r.fd, m, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
}

// request sends one message and waits for the kernel's answer.
func (r *rtnl) request(kind, flags uint16, body []byte) error {
	// It comes at once; nothing may hold up the guest for ever.
	limit := unix.Timeval{Sec: 5}
	if err := unix.SetsockoptTimeval(r.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit); err != nil {
		return err
	}
	if err := r.send(kind, unix.NLM_F_ACK|flags, body); err != nil {
		return err
	}
	ne := binary.NativeEndian
	buf := make([]byte, 8192)
	for {
		n, _, err := unix.Recvfrom(r.fd, buf, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		const header = unix.SizeofNlMsghdr
		if n < header+4 || ne.Uint16(buf[4:]) != unix.NLMSG_ERROR || ne.Uint32(buf[8:]) != r.seq {
			continue
		}
		if errno := int32(ne.Uint32(buf[header:])); errno != 0 {
			return unix.Errno(-errno)
		}
		return nil
	}
}

// index returns the number of a network device. It asks for that one; package
// net would have the kernel describe all of them.
func index(name string) (int, error) {
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return 0, err
	}
	r, err := dialRTNL() // any socket will do
	if err != nil {
		return 0, err
	}
	defer r.close() //nolint:errcheck // nothing was written
	if err := unix.IoctlIfreq(r.fd, unix.SIOCGIFINDEX, ifr); err != nil {
		return 0, err
	}
	return int(ifr.Uint32()), nil
}
