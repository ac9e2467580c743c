package agent

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// fakeGuest is a Backend that remembers what was asked of it.
type fakeGuest struct {
	mu    sync.Mutex
	calls []string
}

func (g *fakeGuest) note(s string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.calls = append(g.calls, s)
	return nil
}

func (g *fakeGuest) Status() Status {
	return Status{Name: "sql", State: StateReady, BootMS: 1234,
		Services: []Service{{Name: "postgresql", State: ServiceRunning, Healthy: true, PID: 42}}}
}

func (g *fakeGuest) Secret(_ context.Context, service, name string) (string, error) {
	if service != "postgresql" || name != "pass word" {
		return "", fmt.Errorf("secret %s of %s: %w", name, service, fs.ErrNotExist)
	}
	return "s3cret", nil
}

func (g *fakeGuest) Logs(ctx context.Context, service string, follow bool) (io.ReadCloser, error) {
	if !follow {
		return io.NopCloser(strings.NewReader("old line\n")), nil
	}
	r, w := io.Pipe()
	go func() {
		fmt.Fprintln(w, "old line")
		<-ctx.Done()
		g.note("logs ended")
		w.CloseWithError(ctx.Err())
	}()
	return r, nil
}

func (g *fakeGuest) Shutdown(context.Context) error { return g.note("shutdown") }
func (g *fakeGuest) Freeze(_ context.Context, d time.Duration) error {
	return g.note("freeze " + d.String())
}
func (g *fakeGuest) Thaw(context.Context) error { return errors.New("thaw: input/output error") }

func (g *fakeGuest) waitFor(t *testing.T, call string) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for time.Now().Before(deadline) {
		g.mu.Lock()
		for _, c := range g.calls {
			if c == call {
				g.mu.Unlock()
				return
			}
		}
		g.mu.Unlock()
		time.Sleep(time.Millisecond)
	}
	t.Fatalf("guest was never asked: %s", call)
}

// serial is the host's end of a serial line: closing it leaves the line, and
// what is in it, for the next user.
type serial struct{ net.Conn }

func (s serial) Close() error { return s.SetDeadline(time.Unix(1, 0)) }

// line connects a served guest to a socket pair and returns the host's end.
func line(t *testing.T, g Backend) net.Conn {
	t.Helper()
	l, err := net.Listen("unix", t.TempDir()+"/agent")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	host, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	guest, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	serve(t, guest, g)
	return host
}

func serve(t *testing.T, port Port, g Backend) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- ServePort(ctx, port, true, NewHandler(g)) }()
	t.Cleanup(func() {
		cancel()
		// A Unix socket whose other end was closed with bytes unread says so.
		if err := <-ended; err != nil && !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("ServePort: %v", err)
		}
	})
}

func dial(t *testing.T, conn io.ReadWriteCloser) *Client {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	c, err := Dial(ctx, conn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func checkStatus(t *testing.T, c *Client) {
	t.Helper()
	s, err := c.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if v, ok := s.Service("postgresql"); s.State != StateReady || !ok || v.PID != 42 {
		t.Fatalf("status: got %+v", s)
	}
}

func TestEndpoints(t *testing.T) {
	g := &fakeGuest{}
	host, guest := net.Pipe()
	serve(t, guest, g)
	c := dial(t, host)
	ctx := t.Context()
	checkStatus(t, c)
	if v, err := c.Secret(ctx, "postgresql", "pass word"); err != nil || v != "s3cret" {
		t.Errorf("secret: got %q, %v", v, err)
	}
	_, err := c.Secret(ctx, "postgresql", "nope")
	if err == nil || fault.ClassOf(err) != fault.Device || !strings.Contains(err.Error(), "404") ||
		!strings.Contains(err.Error(), "nope") {
		t.Errorf("unknown secret: got %v", err)
	}
	if err := c.Freeze(ctx, 30*time.Second); err != nil {
		t.Error(err)
	}
	g.waitFor(t, "freeze 30s")
	if err := c.Freeze(ctx, time.Hour); err == nil || !strings.Contains(err.Error(), "1 to 600") {
		t.Errorf("freeze for an hour: got %v", err)
	}
	if err := c.Thaw(ctx); err == nil || !strings.Contains(err.Error(), "input/output") {
		t.Errorf("thaw: got %v", err)
	}
	if err := c.Shutdown(ctx); err != nil {
		t.Error(err)
	}
	g.waitFor(t, "shutdown")
	log, err := c.Logs(ctx, "postgresql", false)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(log); err != nil || string(b) != "old line\n" {
		t.Errorf("logs: got %q, %v", b, err)
	}
}

func TestFollowEndsWithTheCaller(t *testing.T) {
	g := &fakeGuest{}
	c := dial(t, line(t, g))
	ctx, cancel := context.WithCancel(t.Context())
	log, err := c.Logs(ctx, "postgresql", true)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	if l, err := bufio.NewReader(log).ReadString('\n'); l != "old line\n" {
		t.Fatalf("follow: got %q, %v", l, err)
	}
	cancel()
	g.waitFor(t, "logs ended")
	checkStatus(t, c)
}

func TestGarbageBeforeHello(t *testing.T) {
	for _, garbage := range []string{
		"login: \r\n", strings.Repeat("\x00\x01S", 5000), "SOVEREIGN-AGENT 2 00", "SOVEREIGN-AGENT 1 x\nSOVEREIGN-AGENT 2 ",
		greeting("a") + "\x00\x00\x00\x01",
		greeting("a") + "junk" + greeting("b") + "\x00",
		greeting("a") + hello{version: Version, host: strings.Repeat("a", nonceLen), guest: newNonce()}.String() + "not the answer",
		hello{version: oldest, host: strings.Repeat("a", nonceLen)}.String() + "\x00\x01",
	} {
		host := line(t, &fakeGuest{})
		if _, err := io.WriteString(host, garbage); err != nil {
			t.Fatal(err)
		}
		checkStatus(t, dial(t, serial{host}))
	}
}

// A host that is killed in the middle of a frame leaves a session that waits
// for the rest; the next host must not.
func TestNewHelloTakesOver(t *testing.T) {
	host := line(t, &fakeGuest{})
	for range 3 {
		c := dial(t, serial{host})
		checkStatus(t, c)
		c.Close()
		if err := host.SetDeadline(time.Time{}); err != nil {
			t.Fatal(err)
		}
		// A data frame for stream 1 that promises 200,000 bytes and ends early.
		if _, err := host.Write([]byte{0, 0, 0, 0, 0, 0, 0, 1, 0, 3, 0xd, 0x40, 'x'}); err != nil {
			t.Fatal(err)
		}
	}
	checkStatus(t, dial(t, serial{host}))
}

func TestHangUpOnAPersistentPort(t *testing.T) {
	port := newHangUp()
	serve(t, port, &fakeGuest{})
	for range 2 {
		host := port.plug()
		c := dial(t, host)
		checkStatus(t, c)
		c.Close()
	}
}

// The end of the host before is seen only when this one has a session.
func TestLateHangUp(t *testing.T) {
	port := newHangUp()
	serve(t, port, &fakeGuest{})
	c := dial(t, port.plug())
	defer c.Close()
	for range 3 {
		port.mu.Lock()
		port.late = 2
		port.mu.Unlock()
		checkStatus(t, c)
	}
}

func TestDialGivesUp(t *testing.T) {
	host, guest := net.Pipe()
	defer guest.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err := Dial(ctx, host)
	if err == nil || fault.ClassOf(err) != fault.Device || fault.HintOf(err) == "" {
		t.Errorf("deadline: got %v", err)
	}
	ctx, stop := context.WithCancel(t.Context())
	stop()
	host, guest = net.Pipe()
	defer guest.Close()
	if _, err := Dial(ctx, host); fault.ClassOf(err) != fault.Cancelled {
		t.Errorf("cancelled: got %v", err)
	}
	host, guest = net.Pipe()
	guest.Close()
	if _, err := Dial(t.Context(), host); fault.ClassOf(err) != fault.Device {
		t.Errorf("closed: got %v", err)
	}
}

// hangUp is a port whose other end comes and goes, as a virtio-serial port's:
// without a host, reads return EOF at once.
type hangUp struct {
	mu     sync.Mutex
	conn   net.Conn
	closed bool
	late   int // reads that return EOF although there is a host
}

func newHangUp() *hangUp { return &hangUp{} }

func (p *hangUp) plug() net.Conn {
	host, guest := net.Pipe()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conn = guest
	return host
}

func (p *hangUp) at() (net.Conn, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, os.ErrClosed
	}
	if p.conn == nil {
		return nil, io.EOF
	}
	return p.conn, nil
}

func (p *hangUp) isLate() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.late == 0 {
		return false
	}
	p.late--
	return true
}

func (p *hangUp) Read(b []byte) (int, error) {
	c, err := p.at()
	if err == nil && p.isLate() {
		err = io.EOF
	}
	if err != nil {
		return 0, err
	}
	return c.Read(b)
}

func (p *hangUp) Write(b []byte) (int, error) {
	c, err := p.at()
	if err != nil {
		return 0, err
	}
	return c.Write(b)
}

func (p *hangUp) SetWriteDeadline(t time.Time) error {
	c, err := p.at()
	if err != nil {
		return nil //nolint:nilerr // nobody is there to write to
	}
	return c.SetWriteDeadline(t)
}

func (p *hangUp) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	if p.conn != nil {
		return p.conn.Close()
	}
	return nil
}
