package tap

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/pkg/runtime/guest/cmdline"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/network"
)

var hw = net.HardwareAddr{2, 0, 10, 0, 2, 2}

// card makes one in a network namespace of the test's thread, which ends with the
// test.
func card(t *testing.T) *Card {
	t.Helper()
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Skipf("no network namespace without root: %v", err)
	}
	c, err := Open("eth0", hw, 65520)
	if err != nil {
		t.Skipf("no TUN device: %v", err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// frames reads what a card sends, until the stream ends.
func frames(r io.Reader, each func([]byte)) {
	for {
		var head [lengthSize]byte
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return
		}
		b := make([]byte, binary.BigEndian.Uint32(head[:]))
		if _, err := io.ReadFull(r, b); err != nil {
			return
		}
		each(b)
	}
}

// A card is a device like any other, whose frames come out of one stream and,
// when that has ended, out of the next.
func TestCarry(t *testing.T) {
	c := card(t)
	i, err := net.InterfaceByName("eth0")
	if err != nil || i.HardwareAddr.String() != hw.String() || i.MTU != 65520 {
		t.Fatalf("the device: %+v, %v", i, err)
	}
	for round := range 2 {
		host, guest := net.Pipe()
		ended := make(chan error, 1)
		go func() { ended <- c.Carry(guest) }()
		arps := make(chan []byte, 100)
		go frames(host, func(b []byte) {
			if binary.BigEndian.Uint16(b[12:]) == 0x0806 {
				arps <- b
			}
		})
		if round == 0 {
			err := network.Up(t.Context(), &cmdline.Net{Device: "eth0", Address: netip.MustParsePrefix("10.0.2.2/24")})
			if err != nil {
				t.Fatal(err)
			}
		}
		conn := socket(t)
		send := func() {
			// Its neighbour is asked for: by a frame.
			if err := unix.Sendto(conn, []byte("x"), 0, &unix.SockaddrInet4{Port: 9, Addr: [4]byte{10, 0, 2, byte(100 + round)}}); err != nil {
				t.Fatal(err)
			}
		}
		send()
		select {
		case b := <-arps:
			if !bytes.Equal(b[6:12], hw) || b[41] != byte(100+round) {
				t.Errorf("round %d: the frame %x", round, b)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("round %d: no frame", round)
		}
		// And one comes in: the answer makes the neighbour known.
		reply := append(append([]byte{}, hw...), 2, 0, 0, 0, 0, 1, 8, 6, 0, 1, 8, 0, 6, 4, 0, 2, 2, 0, 0, 0, 0, 1, 10, 0, 2, byte(100+round))
		reply = append(append(reply, hw...), 10, 0, 2, 2)
		if _, err := host.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(reply))), reply...)); err != nil {
			t.Fatal(err)
		}
		host.Close()
		if err := <-ended; err != nil && !strings.Contains(err.Error(), "closed") {
			t.Errorf("round %d: %v", round, err)
		}
	}
}

// socket is one of the test's thread, and so of its network.
func socket(t *testing.T) int {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

// A stream that comes while there is one takes its place; what is no frame ends
// one.
func TestStreams(t *testing.T) {
	c := card(t)
	host1, guest1 := net.Pipe()
	first := make(chan error, 1)
	go func() { first <- c.Carry(guest1) }()
	if _, err := host1.Write([]byte{0, 0, 0}); err != nil { // it is being read
		t.Fatal(err)
	}
	host2, guest2 := net.Pipe()
	second := make(chan error, 1)
	go func() { second <- c.Carry(guest2) }()
	<-first
	if _, err := host1.Write([]byte{0}); err == nil {
		t.Error("the first stream is still open")
	}
	go host2.Write([]byte{0, 1, 0, 0})
	if err := <-second; err == nil || !strings.Contains(err.Error(), "65536 bytes") {
		t.Errorf("a frame that is none: %v", err)
	}
	if _, err := host2.Write([]byte{0}); err == nil {
		t.Error("the second stream is still open")
	}
}
