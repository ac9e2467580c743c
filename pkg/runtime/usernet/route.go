package usernet

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// hostHas asks the host's kernel whether packets to an address stay on the host
// or go to many: its own addresses, those that it answers for by a rule, and
// the broadcast addresses of its networks. It knows better than a list of
// interfaces, and right now.
func hostHas(a netip.Addr) (bool, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return false, fmt.Errorf("netlink: %w", err)
	}
	defer unix.Close(fd)
	family := byte(unix.AF_INET)
	if a.Is6() {
		family = unix.AF_INET6
	}
	address := a.AsSlice()
	b := make([]byte, unix.SizeofNlMsghdr+unix.SizeofRtMsg, 64)
	ne := binary.NativeEndian
	ne.PutUint16(b[4:], unix.RTM_GETROUTE)
	ne.PutUint16(b[6:], unix.NLM_F_REQUEST)
	b[16], b[17] = family, byte(a.BitLen()) // rtm_family, rtm_dst_len
	b = ne.AppendUint16(b, uint16(unix.SizeofRtAttr+len(address)))
	b = ne.AppendUint16(b, unix.RTA_DST)
	b = append(b, address...)
	ne.PutUint32(b, uint32(len(b)))
	if err := unix.Sendto(fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return false, fmt.Errorf("netlink: %w", err)
	}
	answer := make([]byte, 4096)
	var size int
	for {
		size, _, err = unix.Recvfrom(fd, answer, 0)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		return false, fmt.Errorf("netlink: %w", err)
	}
	messages, err := syscall.ParseNetlinkMessage(answer[:size])
	if err != nil {
		return false, fmt.Errorf("netlink: %w", err)
	}
	for _, m := range messages {
		switch {
		case m.Header.Type == unix.NLMSG_ERROR && len(m.Data) >= 4:
			// No route, or one that refuses: whoever connects is told so.
			return false, noRoute(unix.Errno(-int32(ne.Uint32(m.Data))))
		case m.Header.Type == unix.RTM_NEWROUTE && len(m.Data) >= unix.SizeofRtMsg:
			return m.Data[7] != unix.RTN_UNICAST, nil // rtm_type
		}
	}
	return false, errors.New("netlink: no answer")
}

func noRoute(err unix.Errno) error {
	switch err {
	case unix.ENETUNREACH, unix.EHOSTUNREACH, unix.EACCES:
		return nil
	}
	return fmt.Errorf("netlink: %w", err)
}
