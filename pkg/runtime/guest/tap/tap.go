// Package tap is a guest's network card whose frames come and go over streams:
// what a machine has that its hypervisor gives no card.
//
// A device's name, hardware address and MTU come in and a [Card] goes out, a TAP
// device that is one like any other to the guest's kernel. [Card.Carry] carries
// its frames over one stream after another, each frame with its length before it
// (4 bytes, the highest first), as package usernet of the host has them. The
// package opens no connection and knows nothing of addresses.
package tap

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/pkg/runtime/guest/network"
)

const (
	lengthSize   = 4
	ethernetSize = 14
	// readAhead is how much of a stream is taken at once, and maxBatch how many
	// bytes of frames one write sends at most: many small ones, or a few of the
	// largest.
	readAhead = 64 << 10
	maxBatch  = 256 << 10
)

// Card is a TAP device. Its frames go nowhere while nobody carries them.
type Card struct {
	file *os.File
	mtu  int

	mu      sync.Mutex
	conn    io.WriteCloser // nil: what the guest sends is dropped
	plugged bool           // a first stream has come
	failed  error          // why nothing is sent any more
}

// Open makes the device; Close, or the end of the program, takes it away. It has
// no carrier until the first Carry, and keeps it from then on: a network that
// ends and comes again is a cable that loses frames, not one that is pulled out.
func Open(device string, hw net.HardwareAddr, mtu int) (*Card, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("network card %s: /dev/net/tun: %w: the kernel needs TUN", device, err)
	}
	err = set(fd, device, hw, mtu)
	if err == nil {
		err = unix.SetNonblock(fd, true)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("network card %s: %w", device, err), unix.Close(fd))
	}
	// Only now: a poller that has the file before it is a device hears of errors
	// alone.
	c := &Card{file: os.NewFile(uintptr(fd), "/dev/net/tun"), mtu: mtu}
	go c.send()
	return c, nil
}

func set(fd int, device string, hw net.HardwareAddr, mtu int) error {
	ifr, err := unix.NewIfreq(device)
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
		return err
	}
	if err := setCarrier(fd, false); err != nil {
		return err
	}
	return network.SetLink(device, hw, mtu)
}

func setCarrier(fd int, on bool) error {
	var value int32
	if on {
		value = 1
	}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TUNSETCARRIER, uintptr(unsafe.Pointer(&value)))
	if errno != 0 {
		return fmt.Errorf("carrier: %w", errno)
	}
	return nil
}

// Close takes the device away.
func (c *Card) Close() error {
	c.unplug(nil)
	return c.file.Close()
}

// Carry carries the frames of the device over a stream until that ends, which is
// no error, or there is something in it that is no frame. It closes the stream.
// One that comes while another is there takes its place.
func (c *Card) Carry(conn io.ReadWriteCloser) error {
	defer c.unplug(conn)
	if err := c.plug(conn); err != nil {
		return err
	}
	err := c.receive(conn)
	if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) || errors.Is(err, syscall.ECONNRESET) {
		return nil
	}
	return err
}

func (c *Card) plug(conn io.WriteCloser) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn != nil {
		c.conn.Close()
	}
	c.conn = conn
	if c.failed != nil || c.plugged {
		return c.failed
	}
	raw, err := c.file.SyscallConn()
	if err != nil {
		return err
	}
	var carrierErr error
	err = raw.Control(func(fd uintptr) { carrierErr = setCarrier(int(fd), true) })
	if err = errors.Join(err, carrierErr); err == nil {
		c.plugged = true
	}
	return err
}

// unplug forgets a stream, or whichever there is, and closes it.
func (c *Card) unplug(conn io.WriteCloser) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if conn == nil || c.conn == conn {
		if c.conn != nil {
			c.conn.Close()
		}
		c.conn = nil
		return
	}
	conn.Close()
}

// receive gives the device what comes.
func (c *Card) receive(conn io.Reader) error {
	r := bufio.NewReaderSize(conn, readAhead)
	frame := make([]byte, ethernetSize+c.mtu)
	for {
		var head [lengthSize]byte
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return err
		}
		size := binary.BigEndian.Uint32(head[:])
		if size < ethernetSize || size > uint32(len(frame)) {
			return fmt.Errorf("network card: a frame of %d bytes: want %d to %d", size, ethernetSize, len(frame))
		}
		if _, err := io.ReadFull(r, frame[:size]); err != nil {
			return err
		}
		// A device that is down takes nothing, as a card that is.
		if _, err := c.file.Write(frame[:size]); err != nil && !errors.Is(err, unix.EIO) {
			return fmt.Errorf("network card: %w", err)
		}
	}
}

// send takes what the guest sends, until the device is closed. While the stream
// does not take it, the kernel's queue fills and drops, as any card's.
func (c *Card) send() {
	raw, err := c.file.SyscallConn()
	buf := make([]byte, maxBatch)
	for {
		n := 0
		if err == nil {
			var readErr error
			err = raw.Read(func(fd uintptr) bool {
				n, readErr = c.take(int(fd), buf)
				return n > 0 || readErr != nil
			})
			err = errors.Join(err, readErr)
		}
		c.mu.Lock()
		if c.failed = err; err != nil && c.conn != nil {
			c.conn.Close() // who receives says why
		}
		conn := c.conn
		c.mu.Unlock()
		if err != nil {
			return
		}
		if conn == nil {
			continue
		}
		if _, err := conn.Write(buf[:n]); err != nil {
			c.unplug(conn) // the other direction sees its end
		}
	}
}

// take reads the frames that wait, as many as there is room for.
func (c *Card) take(fd int, buf []byte) (n int, err error) {
	for len(buf)-n >= lengthSize+ethernetSize+c.mtu {
		size, err := unix.Read(fd, buf[n+lengthSize:])
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN), n > 0 && err != nil:
			return n, nil
		case err != nil:
			return n, err
		}
		binary.BigEndian.PutUint32(buf[n:], uint32(size))
		n += lengthSize + size
	}
	return n, nil
}
