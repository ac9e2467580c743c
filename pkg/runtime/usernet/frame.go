package usernet

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"

	"gvisor.dev/gvisor/pkg/buffer"
)

// A stream of frames has each frame's length before it, 4 bytes with the
// highest first, as QEMU's netdevs "stream" and "socket" have it.
const (
	lengthSize   = 4
	ethernetSize = 14
)

// mac is an Ethernet address.
type mac [6]byte

func (m mac) String() string { return net.HardwareAddr(m[:]).String() }

// gatewayMAC is locally administered, as derivedMAC's are, and of 0.0.0.0,
// which no member has.
var gatewayMAC = mac{2}

func derivedMAC(a netip.Addr) mac {
	b := a.As4()
	return mac{2, 0, b[0], b[1], b[2], b[3]}
}

// Types of frames.
const (
	typeIPv4 = 0x0800
	typeARP  = 0x0806
	typeIPv6 = 0x86dd
)

// readFrame reads one frame into memory that the caller releases. What is
// longer than a frame can be ends the stream: where the next one begins would
// be a guess.
func readFrame(r *bufio.Reader, mtu int) (*buffer.View, error) {
	head, err := r.Peek(lengthSize)
	if err != nil {
		if err == io.EOF && len(head) > 0 {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	size := binary.BigEndian.Uint32(head)
	if size < ethernetSize || size > uint32(mtu+ethernetSize) {
		return nil, fmt.Errorf("a frame of %d bytes: want %d to %d", size, ethernetSize, mtu+ethernetSize)
	}
	if _, err := r.Discard(lengthSize); err != nil {
		return nil, err
	}
	v := buffer.NewViewSize(int(size))
	if _, err := io.ReadFull(r, v.AsSlice()); err != nil {
		v.Release()
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	return v, nil
}

// newFrame makes room for a frame with a payload of size bytes, and fills in
// length and Ethernet header. The payload begins at the returned slice.
func newFrame(to, from mac, etherType uint16, size int) (*buffer.View, []byte) {
	v := buffer.NewViewSize(lengthSize + ethernetSize + size)
	b := v.AsSlice()
	binary.BigEndian.PutUint32(b, uint32(ethernetSize+size))
	b = b[lengthSize:]
	copy(b, to[:])
	copy(b[6:], from[:])
	binary.BigEndian.PutUint16(b[12:], etherType)
	return v, b[ethernetSize:]
}
