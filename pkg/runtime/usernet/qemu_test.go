package usernet

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cavaliergopher/cpio"
)

// bundleEnv names a bundle's directory; only its kernel is used.
const bundleEnv = "SOVEREIGN_E2E"

// machine is a real guest: the bundle's kernel with testdata/guest as init.
type machine struct {
	cmd    *exec.Cmd
	socket string // of its network, as a stream
}

// boot starts a machine and waits until its guest serves. Netdev is QEMU's
// option without its id.
func boot(t testing.TB, dir, netdev, device, net string) *machine {
	t.Helper()
	kernel := filepath.Join(os.Getenv(bundleEnv), "bzImage")
	if os.Getenv(bundleEnv) == "" || runtime.GOARCH != "amd64" {
		t.Skipf("%s does not name a bundle for amd64 whose kernel to boot", bundleEnv)
	}
	if _, err := os.Stat(kernel); err != nil {
		t.Skip(err)
	}
	cmd := exec.CommandContext(t.Context(), "qemu-system-x86_64", "-M", "q35,accel=tcg", "-cpu", "max,la57=off,erms=off",
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-m", "256", "-smp", "2", "-serial", "stdio",
		"-kernel", kernel, "-initrd", initramfs(t, dir),
		"-append", "console=ttyS0 quiet rdinit=/init no_timer_check tsc=reliable panic=1 sovereign.net="+net,
		"-netdev", netdev+",id=n", "-device", "virtio-net-pci,netdev=n,romfile=,disable-legacy=on"+device)
	cmd.Dir = dir
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Skip(err)
	}
	ready := make(chan bool, 1)
	go func() {
		defer close(ready)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if strings.Contains(lines.Text(), "guest: ready") {
				t.Log(lines.Text())
				ready <- true
			} else if testing.Verbose() {
				fmt.Fprintln(os.Stderr, lines.Text())
			}
		}
	}()
	t.Cleanup(func() {
		if err := cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			t.Error(err)
		}
		for range ready { // all has been read
		}
		cmd.Wait() // killed
	})
	select {
	case ok := <-ready:
		if !ok {
			t.Fatal("the guest has ended")
		}
	case <-time.After(2 * time.Minute):
		t.Fatal("the guest does not come up")
	}
	return &machine{cmd, filepath.Join(dir, "net.sock")}
}

func initramfs(t testing.TB, dir string) string {
	t.Helper()
	bin := filepath.Join(dir, "init")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags=-s -w", "-o", bin, "./testdata/guest")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	program, err := os.ReadFile(bin)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(dir, "initramfs"))
	if err != nil {
		t.Fatal(err)
	}
	w := cpio.NewWriter(f)
	err = w.WriteHeader(&cpio.Header{Name: "init", Mode: cpio.TypeReg | 0o755, Size: int64(len(program)), Links: 1})
	if err == nil {
		_, err = w.Write(program)
	}
	if err := errors.Join(err, w.Close(), f.Close()); err != nil {
		t.Fatal(err)
	}
	return f.Name()
}

// stream is the netdev of a machine that waits for a network, and connects
// anew to each; its name stays the same over QEMU's versions, unlike the
// options of one that connects.
const stream = "stream,server=on,addr.type=unix,addr.path=net.sock"

// connect plugs a machine into a network, when its socket is there.
func connect(t testing.TB, l *Link, socket string) (served chan error) {
	t.Helper()
	served = make(chan error, 1)
	go func() {
		for {
			conn, err := net.Dial("unix", socket)
			if err == nil {
				served <- l.Serve(t.Context(), conn)
				return
			}
			select {
			case <-t.Context().Done():
				served <- err
				return
			case <-time.After(10 * time.Millisecond):
			}
		}
	}()
	return served
}

func bootUsernet(t testing.TB, n *Network, l *Link) *machine {
	dir := t.TempDir()
	connect(t, l, filepath.Join(dir, "net.sock"))
	device := fmt.Sprintf(",mac=%s,host_mtu=%d", l.mac, n.MTU())
	return boot(t, dir, stream, device, fmt.Sprintf("eth0,%s/24,%s,%s", l.member.Addr, n.gateway4, n.gateway4))
}

// TestQEMU boots a real guest: both directions work, and again after its
// network was replaced by another, as when this program starts anew.
func TestQEMU(t *testing.T) {
	newWorld(t)
	n := newNetwork(t, Config{})
	l := join(t, n, Member{Name: "a", Outbound: true})
	m := bootUsernet(t, n, l)
	check := func(n *Network, l *Link) {
		t.Helper()
		f, err := l.Forward(netip.AddrPort{}, 5003)
		if err != nil {
			t.Fatal(err)
		}
		conn, err := net.Dial("tcp", f.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		exchange(t, conn, strings.Repeat("0123456789abcdef", 1<<16))
		if got := tell(t, l, "sink", hostAddress+":7"); !strings.Contains(got, "connection refused") {
			t.Errorf("the host's own address from the guest: %q", got)
		}
		if got := tell(t, l, "sink", "192.0.2.7:9"); !strings.Contains(got, "connection refused") {
			t.Errorf("a port of the world that nobody has: %q", got)
		}
	}
	check(n, l)
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	n2 := newNetwork(t, Config{})
	l2 := join(t, n2, Member{Name: "a", Outbound: true})
	connect(t, l2, m.socket)
	check(n2, l2)
}

// tell has the guest do something, and returns its words.
func tell(t testing.TB, l *Link, what, address string) string {
	t.Helper()
	conn, err := l.Dial(t.Context(), 5004)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, what+address); err != nil {
		t.Fatal(err)
	}
	if err := conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// BenchmarkQEMU measures what passes between a real guest and this host, by
// QEMU's own user-mode network and by this package, in both directions and
// over connections that either has opened. Beside the throughput it reports the
// CPU time of QEMU, guest included, and of this process, per gigabyte.
func BenchmarkQEMU(b *testing.B) {
	newWorld(b)
	kinds := []struct {
		name string
		dial func(b *testing.B) (dial func(port int) (net.Conn, error), m *machine)
	}{
		{"slirp", func(b *testing.B) (func(int) (net.Conn, error), *machine) {
			var forwards strings.Builder
			at := map[int]string{}
			for port := 5001; port <= 5004; port++ {
				l, err := net.Listen("tcp", "127.0.0.1:0")
				if err != nil {
					b.Fatal(err)
				}
				at[port] = l.Addr().String()
				l.Close()
				fmt.Fprintf(&forwards, ",hostfwd=tcp:%s-10.0.2.15:%d", at[port], port)
			}
			m := boot(b, b.TempDir(), "user,ipv6=off,net=10.0.2.0/24,host=10.0.2.2"+forwards.String(), "", "eth0,10.0.2.15/24,10.0.2.2,10.0.2.3")
			return func(port int) (net.Conn, error) { return net.Dial("tcp", at[port]) }, m
		}},
		{"usernet", func(b *testing.B) (func(int) (net.Conn, error), *machine) {
			n := newNetwork(b, Config{Allow: []netip.Prefix{netip.MustParsePrefix(hostAddress + "/32")}})
			l := join(b, n, Member{Name: "a", Outbound: true})
			m := bootUsernet(b, n, l)
			at := map[int]string{}
			for port := 5001; port <= 5004; port++ {
				f, err := l.Forward(netip.AddrPort{}, port)
				if err != nil {
					b.Fatal(err)
				}
				at[port] = f.Addr().String()
			}
			return func(port int) (net.Conn, error) { return net.Dial("tcp", at[port]) }, m
		}},
	}
	for _, k := range kinds {
		b.Run(k.name, func(b *testing.B) {
			dial, m := k.dial(b)
			b.Run("forward/to-guest", func(b *testing.B) { m.measure(b, func(size int64) error { return upload(dial, size) }) })
			b.Run("forward/from-guest", func(b *testing.B) { m.measure(b, func(size int64) error { return download(dial, size) }) })
			b.Run("outbound/from-guest", func(b *testing.B) { m.measure(b, func(size int64) error { return outbound(dial, "flow", size) }) })
			b.Run("outbound/to-guest", func(b *testing.B) { m.measure(b, func(size int64) error { return outbound(dial, "sink", size) }) })
			b.Run("forward/request", func(b *testing.B) { requests(b, dial) })
		})
	}
}

const chunk = 64 << 20 // bytes of one round

func (m *machine) measure(b *testing.B, round func(size int64) error) {
	b.SetBytes(chunk)
	before := m.cpu(b)
	for b.Loop() {
		if err := round(chunk); err != nil {
			b.Fatal(err)
		}
	}
	gigabytes := float64(b.N) * chunk / 1e9
	b.ReportMetric((m.cpu(b)-before).Seconds()/gigabytes, "cpu-s/GB")
}

// cpu is what QEMU and this process have used.
func (m *machine) cpu(b *testing.B) time.Duration {
	b.Helper()
	var self syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &self); err != nil {
		b.Fatal(err)
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", m.cmd.Process.Pid))
	if err != nil {
		b.Fatal(err)
	}
	var user, system int64
	// proc_pid_stat(5): utime and stime are fields 14 and 15, the name is 2.
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')'):]))
	if _, err := fmt.Sscan(fields[12]+" "+fields[13], &user, &system); err != nil {
		b.Fatal(err)
	}
	const tick = 10 * time.Millisecond // USER_HZ is 100 on every architecture of ours
	return time.Duration(self.Utime.Nano()+self.Stime.Nano()) + time.Duration(user+system)*tick
}

func upload(dial func(int) (net.Conn, error), size int64) error {
	conn, err := dial(5001)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := send(conn, size); err != nil {
		return err
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		return err
	}
	var got int64
	if err := binary.Read(conn, binary.BigEndian, &got); err != nil || got != size {
		return fmt.Errorf("the guest got %d bytes, %w", got, err)
	}
	return nil
}

func send(w io.Writer, size int64) error {
	b := make([]byte, 128<<10)
	for ; size > 0; size -= int64(len(b)) {
		if _, err := w.Write(b[:min(size, int64(len(b)))]); err != nil {
			return err
		}
	}
	return nil
}

func download(dial func(int) (net.Conn, error), size int64) error {
	conn, err := dial(5002)
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = io.CopyN(io.Discard, conn, size)
	return err
}

// outbound has the guest connect to the host's address and send or read.
func outbound(dial func(int) (net.Conn, error), what string, size int64) error {
	l, err := net.Listen("tcp", hostAddress+":0")
	if err != nil {
		return err
	}
	defer l.Close()
	order, err := dial(5004)
	if err != nil {
		return err
	}
	defer order.Close()
	if _, err := io.WriteString(order, what+l.Addr().String()); err != nil {
		return err
	}
	if err := order.(*net.TCPConn).CloseWrite(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	defer context.AfterFunc(ctx, func() { l.Close() })()
	conn, err := l.Accept()
	if err != nil {
		words, _ := io.ReadAll(order)
		return fmt.Errorf("%w: %s", err, words)
	}
	defer conn.Close()
	if what == "flow" {
		_, err = io.CopyN(io.Discard, conn, size)
		return err
	}
	if err := send(conn, size); err != nil {
		return err
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		return err
	}
	_, err = io.ReadAll(order) // ends when the guest has read all
	return err
}

// requests measures one small question and its answer over an open connection.
func requests(b *testing.B, dial func(int) (net.Conn, error)) {
	conn, err := dial(5003)
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	text := make([]byte, 100)
	for b.Loop() {
		if _, err := conn.Write(text); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(conn, text); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkStack measures the gateway alone: from a socket of this host to a
// guest that is a kernel in a namespace, and back.
func BenchmarkStack(b *testing.B) {
	needNamespace(b)
	loopback(b)
	l := join(b, newNetwork(b, Config{}), Member{Name: "a"})
	g := newGuest(b, l)
	server := g.listen("tcp", ":80")
	go func() {
		for {
			conn, err := server.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				if n, err := io.Copy(io.Discard, conn); err == nil {
					_ = binary.Write(conn, binary.BigEndian, n) // the other end misses it
				}
			}()
		}
	}()
	f, err := l.Forward(netip.AddrPort{}, 80)
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(chunk)
	for b.Loop() {
		if err := upload(func(int) (net.Conn, error) { return net.Dial("tcp", f.Addr().String()) }, chunk); err != nil {
			b.Fatal(err)
		}
	}
}
