package usernet

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// TestWorld has a guest talk to the world by TCP and UDP, over IPv4 and IPv6.
func TestWorld(t *testing.T) {
	w := newWorld(t)
	g := newGuest(t, join(t, newNetwork(t, Config{}), Member{Name: "a", Outbound: true}))
	for _, at := range []string{"192.0.2.7:7", "[2001:db8:7::7]:7"} {
		conn, err := g.dial("tcp", at)
		if err != nil {
			t.Fatalf("%s: %v", at, err)
		}
		exchange(t, conn, strings.Repeat("0123456789abcdef", 1<<18))
		w.wait("tcp " + at)
		w.echoUDP(at)
		for _, size := range []int{0, 1, 1472, 9000, 60000} {
			udp, err := g.dial("udp", at)
			if err != nil {
				t.Fatal(err)
			}
			datagram(t, udp, size)
			udp.Close()
		}
	}
	// What nobody serves is refused by the world, and in the guest too.
	for _, at := range []string{"192.0.2.7:9", "[2001:db8:7::7]:9"} {
		if _, err := g.dial("tcp", at); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("%s: %v", at, err)
		}
	}
}

func datagram(t *testing.T, conn net.Conn, size int) {
	t.Helper()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	text := strings.Repeat("x", size)
	b := make([]byte, 65536)
	if _, err := conn.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	n, err := conn.Read(b)
	if err != nil || string(b[:n]) != text {
		t.Errorf("%s: sent %d bytes, got %d back, %v", conn.RemoteAddr(), size, n, err)
	}
}

// TestSmallMTU has packets in fragments both ways.
func TestSmallMTU(t *testing.T) {
	w := newWorld(t)
	g := newGuest(t, join(t, newNetwork(t, Config{MTU: 1280}), Member{Name: "a", Outbound: true}))
	for _, at := range []string{"192.0.2.7:7", "[2001:db8:7::7]:7"} {
		w.echoUDP(at)
		udp, err := g.dial("udp", at)
		if err != nil {
			t.Fatal(err)
		}
		datagram(t, udp, 5000)
		udp.Close()
		conn, err := g.dial("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		exchange(t, conn, strings.Repeat("x", 1<<20))
	}
}

// TestForward has clients of the host reach a guest's port.
func TestForward(t *testing.T) {
	needNamespace(t)
	loopback(t)
	n := newNetwork(t, Config{})
	l := join(t, n, Member{Name: "a"})
	g := newGuest(t, l)
	server := g.listen("tcp", ":5432")
	peers := make(chan string, 100)
	go func() {
		for {
			conn, err := server.Accept()
			if err != nil {
				return
			}
			peers <- conn.RemoteAddr().(*net.TCPAddr).IP.String()
			go echoTCP(conn)
		}
	}()
	f, err := l.Forward(netip.AddrPort{}, 5432)
	if err != nil {
		t.Fatal(err)
	}
	for range 10 {
		conn, err := net.Dial("tcp", f.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		exchange(t, conn, strings.Repeat("0123456789abcdef", 1<<16))
		if got := <-peers; got != "10.0.2.1" {
			t.Errorf("the guest sees a connection from %s", got)
		}
	}
	direct, err := l.Dial(t.Context(), 5432)
	if err != nil {
		t.Fatal(err)
	}
	exchange(t, direct, "hello")
	<-peers

	// A port that is taken is an error at once, with what to do.
	_, err = l.Forward(f.Addr(), 5432)
	if fault.ClassOf(err) != fault.Environment || !strings.Contains(err.Error(), "in use") || !strings.Contains(fault.HintOf(err), "ss -ltnp") {
		t.Errorf("a port that is taken: %v, hint %q", err, fault.HintOf(err))
	}
	if _, err := l.Forward(netip.MustParseAddrPort("192.0.2.1:80"), 5432); fault.ClassOf(err) != fault.Environment {
		t.Errorf("an address of somebody else: %v", err)
	}
	if _, err := l.Forward(netip.AddrPort{}, 65536); fault.ClassOf(err) != fault.Usage {
		t.Errorf("no port: %v", err)
	}

	// A port that nobody serves ends the client's connection.
	none, err := l.Forward(netip.AddrPort{}, 9)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", none.Addr().String())
	if err == nil {
		if err = conn.SetDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		_, err = conn.Read(make([]byte, 1))
		conn.Close()
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("a port that nobody serves: %v", err)
	}
	if _, err := l.Dial(t.Context(), 9); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a port that nobody serves: %v", err)
	}

	// A forward that is closed leaves its connections, and the port.
	open, err := net.Dial("tcp", f.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	<-peers // the guest has it
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if c, err := net.Dial("tcp", f.Addr().String()); err == nil {
		c.Close()
		t.Error("a closed forward listens")
	}
	exchange(t, open, "still here")
	again, err := l.Forward(f.Addr(), 5432)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Close(); err != nil {
		t.Error(err)
	}
}

// loopback brings the host's up, where no newWorld has.
func loopback(t testing.TB) {
	t.Helper()
	if err := ip("link set lo up"); err != nil {
		t.Fatal(err)
	}
}

// TestReset passes a reset on, both ways.
func TestReset(t *testing.T) {
	needNamespace(t)
	loopback(t)
	l := join(t, newNetwork(t, Config{}), Member{Name: "a"})
	g := newGuest(t, l)
	server := g.listen("tcp", ":80")
	f, err := l.Forward(netip.AddrPort{}, 80)
	if err != nil {
		t.Fatal(err)
	}
	for _, byGuest := range []bool{true, false} {
		client, err := net.Dial("tcp", f.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		conn, err := server.Accept()
		if err != nil {
			t.Fatal(err)
		}
		one, other := client, conn
		if byGuest {
			one, other = conn, client
		}
		reset(one)
		if err := other.SetDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		if _, err := other.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("reset by the guest %v: the other end has %v", byGuest, err)
		}
		other.Close()
	}
}

// TestMembers has guests of one network reach each other.
func TestMembers(t *testing.T) {
	n := newNetwork(t, Config{})
	var guests []*guest
	for _, name := range []string{"a", "b", "c"} {
		g := newGuest(t, join(t, n, Member{Name: name}))
		server := g.listen("tcp", ":80")
		go func() {
			for {
				conn, err := server.Accept()
				if err != nil {
					return
				}
				go func() {
					fmt.Fprintf(conn, "%s to %s", name, conn.RemoteAddr().(*net.TCPAddr).IP)
					conn.Close()
				}()
			}
		}()
		guests = append(guests, g)
	}
	for _, from := range guests {
		for _, to := range guests {
			if from == to {
				continue
			}
			m, other := from.link.Member(), to.link.Member()
			for _, a := range [][2]netip.Addr{{m.Addr, other.Addr}, {m.Addr6, other.Addr6}} {
				conn, err := from.dial("tcp", netip.AddrPortFrom(a[1], 80).String())
				if err != nil {
					t.Fatal(err)
				}
				b := make([]byte, 100)
				n, err := conn.Read(b)
				if want := fmt.Sprintf("%s to %s", other.Name, a[0]); string(b[:n]) != want {
					t.Errorf("got %q, %v; want %q", b[:n], err, want)
				}
				conn.Close()
			}
		}
	}
}
