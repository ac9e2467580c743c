package initd

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
)

// wire is the other end of a guest's network card: a DHCP server and a time
// server at 10.0.2.2, and nobody else.
type wire struct {
	t    *testing.T
	conn net.Conn

	mu      sync.Mutex
	address net.IP         // what is given out
	asked   map[string]int // DHCP requests, by the address that the client has
}

const (
	wireLease = 4 * time.Second
	// wireTime is the time server's when the machine starts, seconds since
	// 1970; the machine's own clock says 2001.
	wireTime = 2_000_000_000
)

var (
	wireIP  = net.IPv4(10, 0, 2, 2).To4()
	wireMAC = net.HardwareAddr{0x52, 0x55, 10, 0, 2, 2}
)

// newWire returns it with the file that QEMU gets, a stream of frames with
// their lengths before them.
func newWire(t *testing.T) (*wire, *os.File) {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "wire"), os.NewFile(uintptr(fds[1]), "card")
	defer ours.Close()
	conn, err := net.FileConn(ours)
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{t: t, conn: conn, address: net.IPv4(10, 0, 2, 15).To4(), asked: map[string]int{}}
	ended := make(chan struct{})
	go func() { defer close(ended); w.serve(time.Now()) }()
	t.Cleanup(func() { conn.Close(); theirs.Close(); <-ended })
	return w, theirs
}

// move gives out another address from now on, and refuses the old one.
func (w *wire) move(address string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.address = net.ParseIP(address).To4()
}

func (w *wire) renewals(address string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.asked[address]
}

func (w *wire) serve(start time.Time) {
	for {
		var size [4]byte
		if _, err := io.ReadFull(w.conn, size[:]); err != nil {
			return
		}
		frame := make([]byte, binary.BigEndian.Uint32(size[:]))
		if _, err := io.ReadFull(w.conn, frame); err != nil {
			return
		}
		if len(frame) < 42 { // Ethernet, and ARP or IPv4 with UDP
			continue
		}
		switch from, body := frame[6:12], frame[14:]; binary.BigEndian.Uint16(frame[12:]) {
		case 0x0806:
			if binary.BigEndian.Uint16(body[6:]) == 1 && bytes.Equal(body[24:28], wireIP) {
				w.arp(from, body)
			}
		case 0x0800:
			if body[0] != 0x45 || body[9] != syscall.IPPROTO_UDP {
				continue
			}
			udp := body[20:binary.BigEndian.Uint16(body[2:])]
			switch binary.BigEndian.Uint16(udp[2:]) {
			case dhcpv4.ServerPort:
				w.dhcp(from, udp[8:])
			case 123:
				w.udp(from, body[12:16], 123, binary.BigEndian.Uint16(udp), sntp(udp[8:], wireTime+time.Since(start).Seconds()))
			}
		}
	}
}

func (w *wire) arp(to, question []byte) {
	a := bytes.Clone(question[:28])
	a[7] = 2
	copy(a[8:], wireMAC)
	copy(a[14:], wireIP)
	copy(a[18:], question[8:18]) // to whom it asked
	w.send(to, 0x0806, a)
}

func (w *wire) dhcp(to, message []byte) {
	m, err := dhcpv4.FromBytes(message)
	if err != nil {
		w.t.Errorf("the guest's DHCP: %v", err)
		return
	}
	w.mu.Lock()
	address := w.address
	if m.MessageType() == dhcpv4.MessageTypeRequest && !m.ClientIPAddr.IsUnspecified() {
		w.asked[m.ClientIPAddr.String()]++
	}
	w.mu.Unlock()
	answer := dhcpv4.MessageTypeOffer
	if m.MessageType() == dhcpv4.MessageTypeRequest {
		answer = dhcpv4.MessageTypeAck
		for _, wants := range []net.IP{m.ClientIPAddr, m.RequestedIPAddress()} {
			if wants != nil && !wants.IsUnspecified() && !wants.Equal(address) {
				answer = dhcpv4.MessageTypeNak
			}
		}
	}
	r, err := dhcpv4.NewReplyFromRequest(m, dhcpv4.WithMessageType(answer), dhcpv4.WithServerIP(wireIP),
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier(wireIP)))
	if err != nil {
		w.t.Error(err)
		return
	}
	if answer != dhcpv4.MessageTypeNak {
		r.YourIPAddr = address
		r.UpdateOption(dhcpv4.OptIPAddressLeaseTime(wireLease))
		r.UpdateOption(dhcpv4.OptSubnetMask(net.CIDRMask(24, 32)))
		r.UpdateOption(dhcpv4.OptRouter(wireIP))
		r.UpdateOption(dhcpv4.OptNTPServers(wireIP))
	}
	w.udp(to, net.IPv4bcast.To4(), dhcpv4.ServerPort, dhcpv4.ClientPort, r.ToBytes())
}

// sntp answers a question, RFC 5905, at a time in seconds since 1970.
func sntp(question []byte, at float64) []byte {
	const since1900 = 2_208_988_800
	r := make([]byte, 48)
	r[0], r[1] = 4<<3|4, 1 // version 4, server; stratum 1
	seconds := uint64(at)
	stamp := (seconds+since1900)<<32 | uint64((at-float64(seconds))*(1<<32))
	for _, field := range []int{16, 32, 40} { // reference, receive, transmit
		binary.BigEndian.PutUint64(r[field:], stamp)
	}
	copy(r[24:32], question[40:48]) // origin
	return r
}

func (w *wire) udp(to, ip []byte, source, port uint16, data []byte) {
	b := make([]byte, 28, 28+len(data))
	b[0], b[8], b[9] = 0x45, 64, syscall.IPPROTO_UDP
	binary.BigEndian.PutUint16(b[2:], uint16(28+len(data)))
	copy(b[12:], wireIP)
	copy(b[16:], ip)
	var sum uint32
	for i := 0; i < 20; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	binary.BigEndian.PutUint16(b[10:], ^uint16(sum+sum>>16))
	binary.BigEndian.PutUint16(b[20:], source)
	binary.BigEndian.PutUint16(b[22:], port)
	binary.BigEndian.PutUint16(b[24:], uint16(8+len(data))) // and no checksum
	w.send(to, 0x0800, append(b, data...))
}

func (w *wire) send(to []byte, kind uint16, body []byte) {
	b := binary.BigEndian.AppendUint32(nil, uint32(14+len(body)))
	b = append(append(b, to...), wireMAC...)
	b = append(binary.BigEndian.AppendUint16(b, kind), body...)
	if _, err := w.conn.Write(b); err != nil {
		w.t.Logf("to the guest: %v", err)
	}
}

// testNetwork lives through what a DHCP server does in a day, in seconds: the
// lease is renewed, and then refused for another one. The machine's own clock
// is wrong, and the time comes from the server that DHCP names.
func testNetwork(t *testing.T, img image, data string) {
	w, card := newWire(t)
	v := bootOn(t, img, data, dataSerial+"roothash="+img.rootHash+" sovereign.net=eth0,dhcp",
		[]string{"-netdev", "socket,id=n,fd=3", "-rtc", "base=2001-01-01T00:00:00"}, card)
	c := v.client()
	v.until(c, "the server's time", func(s *agent.Status) bool { return s.Clock == agent.ClockNTP && ready(s) })
	_, out := v.exec(c, agent.ExecRequest{Argv: []string{"busybox", "date", "+%s"}})
	if now, err := strconv.Atoi(strings.TrimSpace(out)); err != nil || now < wireTime || now > wireTime+int(vmDeadline.Seconds()) {
		t.Errorf("date: %q, %v; want a little after %d", out, err, wireTime)
	}
	v.until(c, "a second renewal", func(*agent.Status) bool { return w.renewals("10.0.2.15") >= 2 })
	addresses := func() string {
		_, out := v.exec(c, agent.ExecRequest{Argv: []string{"cat", "/proc/net/fib_trie"}})
		return out
	}
	if all := addresses(); !strings.Contains(all, "10.0.2.15\n") {
		t.Errorf("addresses:\n%s", all)
	}
	w.move("10.0.2.77")
	v.until(c, "the other address", func(*agent.Status) bool {
		all := addresses()
		return strings.Contains(all, "10.0.2.77\n") && !strings.Contains(all, "10.0.2.15\n")
	})
	v.until(c, "a renewal of the other address", func(*agent.Status) bool { return w.renewals("10.0.2.77") >= 1 })
	v.until(c, "ready", ready)
	v.shutdown(c)
}
