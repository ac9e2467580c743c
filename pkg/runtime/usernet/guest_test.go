package usernet

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/pkg/runtime/guest/cmdline"
	guestnet "github.com/sovereign-build/sovereign/pkg/runtime/guest/network"
)

// patience bounds what ends sooner where it works.
const patience = 30 * time.Second

func newNetwork(t testing.TB, c Config) *Network {
	t.Helper()
	if !c.Prefix6.IsValid() {
		c.Prefix6 = netip.MustParsePrefix("fd53:6f76:6572::/64")
	}
	n, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	return n
}

func join(t testing.TB, n *Network, m Member) *Link {
	t.Helper()
	l, err := n.Join(m)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// serve runs a stream until the test ends, and returns the guest's end.
func serve(t testing.TB, l *Link) net.Conn {
	t.Helper()
	here, there := socketPair(t)
	served := make(chan error, 1)
	go func() { served <- l.Serve(t.Context(), here) }()
	t.Cleanup(func() {
		there.Close()
		<-served
	})
	return there
}

// socketPair is a stream like that to a hypervisor.
func socketPair(t testing.TB) (a, b net.Conn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	conns := make([]net.Conn, 2)
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "stream")
		if conns[i], err = net.FileConn(f); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	return conns[0], conns[1]
}

// guest is a kernel with a network card, which sovereign-init's own code sets
// up as it does in a machine.
type guest struct {
	*namespace
	link *Link
}

// newGuest boots a member: a namespace with a TAP device, whose frames go to
// the link.
func newGuest(t testing.TB, l *Link) *guest {
	t.Helper()
	g := &guest{newNamespace(t), l}
	card(t, g.namespace, l, serve(t, l))
	v4, v6 := l.network.Prefixes()
	gateway4, gateway6 := l.network.Gateway()
	g.run(func() error {
		if err := guestnet.Up(t.Context(), &cmdline.Net{
			Device: "eth0", Address: netip.PrefixFrom(l.member.Addr, v4.Bits()), Gateway: gateway4,
		}); err != nil {
			return err
		}
		return guestnet.Up(t.Context(), &cmdline.Net{
			Device: "eth0", Address: netip.PrefixFrom(l.member.Addr6, v6.Bits()), Gateway: gateway6,
		})
	})
	return g
}

// card makes eth0 in a namespace, with a stream as its cable.
func card(t testing.TB, s *namespace, l *Link, stream net.Conn) {
	t.Helper()
	var tap *os.File
	var err error
	s.run(func() error { tap, err = openTAP("eth0"); return nil })
	if err != nil {
		t.Skipf("no TAP device: %v", err)
	}
	s.run(func() error {
		return ip("link set eth0 mtu " + strconv.Itoa(l.network.MTU()) + " address " + l.mac.String())
	})
	t.Cleanup(func() { tap.Close() })
	go func() {
		b := make([]byte, lengthSize+ethernetSize+DefaultMTU)
		for {
			n, err := tap.Read(b[lengthSize:])
			if err != nil {
				return
			}
			binary.BigEndian.PutUint32(b, uint32(n))
			if _, err := stream.Write(b[:lengthSize+n]); err != nil {
				return
			}
		}
	}()
	go func() {
		r := bufio.NewReader(stream)
		for {
			v, err := readFrame(r, l.network.MTU())
			if err != nil {
				return
			}
			_, err = tap.Write(v.AsSlice())
			v.Release()
			if err != nil && !errors.Is(err, unix.EIO) { // EIO: the card is down
				return
			}
		}
	}()
}

func openTAP(name string) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	request, err := unix.NewIfreq(name)
	if err == nil {
		request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

// dial connects from the guest.
func (g *guest) dial(network, address string) (conn net.Conn, err error) {
	g.run(func() error {
		ctx, cancel := context.WithTimeout(g.t.Context(), patience)
		defer cancel()
		var d net.Dialer
		conn, err = d.DialContext(ctx, network, address)
		return nil
	})
	return conn, err
}

func (g *guest) listen(network, address string) (l net.Listener) {
	g.run(func() (err error) {
		var c net.ListenConfig
		l, err = c.Listen(g.t.Context(), network, address)
		return err
	})
	g.t.Cleanup(func() { l.Close() })
	return l
}

// world is what is beyond the host: a kernel that has every address.
type world struct {
	*namespace
	arrived chan string // "tcp 192.0.2.1:80", for each that came
}

// hostAddress and hostAddress6 are the host's own, in the world's network.
const (
	hostAddress  = "198.51.100.1"
	hostAddress6 = "2001:db8::1"
)

// newWorld gives the test's namespace, the host, a way to the world. On port 7
// of TCP and UDP everything answers with what it gets.
func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{newNamespace(t), make(chan string, 1000)}
	if err := ip("link add world0 type veth peer name host0 netns " + strconv.Itoa(w.tid)); err != nil {
		t.Skipf("no veth: %v", err)
	}
	for _, args := range []string{
		"link set lo up",
		"addr add " + hostAddress + "/24 dev world0",
		"addr add " + hostAddress6 + "/64 dev world0 nodad",
		"link set world0 up",
	} {
		if err := ip(args); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if err := ip("link del world0"); err != nil {
			t.Error(err)
		}
	})
	w.run(func() error {
		for _, args := range []string{
			"addr add 198.51.100.254/24 dev host0", "addr add 2001:db8::fe/64 dev host0 nodad", "link set host0 up",
			"route add local 0.0.0.0/0 dev lo", "-6 route add local 2001:db8:7::/48 dev lo",
		} {
			if err := ip(args); err != nil {
				return err
			}
		}
		return nil
	})
	for _, args := range []string{"route add default via 198.51.100.254", "-6 route add default via 2001:db8::fe"} {
		if err := ip(args); err != nil {
			t.Fatal(err)
		}
	}
	own := netip.MustParseAddr(hostAddress6) // the kernel makes it the host's a moment after the link is up
	for begin := time.Now(); ; {
		out, err := exec.Command("ip", "-6", "route", "get", own.String()).CombinedOutput()
		if err == nil && strings.HasPrefix(string(out), "local ") {
			break
		}
		if time.Since(begin) > time.Minute {
			t.Fatalf("%s does not become the host's: %v, %s", own, err, out)
		}
		time.Sleep(10 * time.Millisecond)
	}
	w.run(func() error {
		var c net.ListenConfig
		for _, network := range []string{"tcp4", "tcp6"} {
			l, err := c.Listen(t.Context(), network, ":7")
			if err != nil {
				return err
			}
			t.Cleanup(func() { l.Close() })
			go func() {
				for {
					conn, err := l.Accept()
					if err != nil {
						return
					}
					w.arrived <- "tcp " + conn.LocalAddr().String()
					go echoTCP(conn)
				}
			}()
		}
		return nil
	})
	return w
}

// has gives the world an address of IPv6, of which it has not all: Linux takes no
// packets by a local route for much of them.
func (w *world) has(a string) {
	w.run(func() error { return ip("-6 route add local " + a + "/128 dev lo") })
}

// wait waits until something has arrived.
func (w *world) wait(what string) {
	w.t.Helper()
	deadline := time.After(patience)
	for {
		select {
		case got := <-w.arrived:
			if got == what {
				return
			}
		case <-deadline:
			w.t.Fatalf("%s has not arrived", what)
		}
	}
}

// echoUDP answers on one address of the world.
func (w *world) echoUDP(at string) *net.UDPConn {
	var conn net.PacketConn
	w.run(func() (err error) {
		c := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) (err error) {
			cerr := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_FREEBIND, 1) })
			return errors.Join(err, cerr)
		}}
		conn, err = c.ListenPacket(w.t.Context(), "udp", at)
		return err
	})
	w.t.Cleanup(func() { conn.Close() })
	go func() {
		b := make([]byte, 65536)
		for {
			n, from, err := conn.ReadFrom(b)
			if err != nil {
				return
			}
			w.arrived <- "udp " + conn.LocalAddr().String()
			if _, err := conn.WriteTo(b[:n], from); err != nil {
				return
			}
		}
	}()
	return conn.(*net.UDPConn)
}

// echoTCP sends back all that comes, and its end.
func echoTCP(conn net.Conn) {
	defer conn.Close()
	if _, err := io.Copy(conn, conn); err != nil {
		return
	}
	conn.(*net.TCPConn).CloseWrite()
}

// exchange sends text, ends that direction, and wants it back with an end.
func exchange(t testing.TB, conn net.Conn, text string) {
	t.Helper()
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Error(err)
	}
	sent := make(chan error, 1)
	go func() {
		_, err := io.Copy(conn, strings.NewReader(text))
		if err == nil {
			err = conn.(interface{ CloseWrite() error }).CloseWrite()
		}
		sent <- err
	}()
	got, err := io.ReadAll(conn)
	if serr := <-sent; serr != nil || err != nil || string(got) != text {
		t.Errorf("sent %d bytes (%v), got %d back (%v)", len(text), serr, len(got), err)
	}
}
