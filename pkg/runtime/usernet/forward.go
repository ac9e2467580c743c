package usernet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// A Forward is a listener of the host whose connections go to a port of a
// member.
type Forward struct {
	link     *Link
	listener net.Listener
	port     int

	end     context.CancelFunc
	ctx     context.Context
	accepts sync.WaitGroup
}

// Forward listens on a TCP address of the host, and takes each connection to a
// port of the member, which sees it come from the gateway. Port 0 is any that
// is free, and an address of zero 127.0.0.1. Connections that find nobody in
// the guest are reset; both directions end on their own. An address that is
// taken is an error here and now, of class fault.Environment.
func (l *Link) Forward(at netip.AddrPort, port int) (*Forward, error) {
	if port < 1 || port > 65535 {
		return nil, fault.Errorf(fault.Usage, "network: port %d of %s: want 1 to 65535", port, l.member.Name)
	}
	if !at.Addr().IsValid() {
		at = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), at.Port())
	}
	var config net.ListenConfig
	config.SetMultipathTCP(false)
	listener, err := config.Listen(l.ctx, "tcp", at.String())
	if err != nil {
		return nil, listenError(at, err)
	}
	f := &Forward{link: l, listener: listener, port: port}
	f.ctx, f.end = context.WithCancel(l.ctx)
	f.accepts.Add(1)
	if !l.start(f.accept) {
		f.accepts.Done()
		f.end()
		listener.Close()
		return nil, ErrClosed
	}
	return f, nil
}

func listenError(at netip.AddrPort, err error) error {
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		return fault.Errorf(fault.Environment, "port %d of %s is in use by another program", at.Port(), at.Addr()).
			Hintf("end that program (ss -ltnp 'sport = :%d' names it) or choose another port", at.Port())
	case errors.Is(err, unix.EACCES):
		return fault.Errorf(fault.Environment, "port %d of %s needs more rights than this user has", at.Port(), at.Addr()).
			Hintf("choose a port from 1024 up")
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return fault.Errorf(fault.Environment, "%s is no address of this machine", at.Addr()).
			Hintf("ip address shows those that are")
	}
	return fault.Errorf(fault.Environment, "port %d of %s: %w", at.Port(), at.Addr(), err)
}

// Addr is where the host listens.
func (f *Forward) Addr() netip.AddrPort { return f.listener.Addr().(*net.TCPAddr).AddrPort() }

// Port is the member's port.
func (f *Forward) Port() int { return f.port }

// Close stops listening. Connections that are open stay until they end, or
// the member's link does.
func (f *Forward) Close() error {
	f.end()
	f.accepts.Wait()
	return nil
}

func (f *Forward) accept() {
	defer f.accepts.Done()
	defer f.listener.Close()
	defer context.AfterFunc(f.ctx, func() { f.listener.Close() })()
	for {
		conn, err := f.listener.Accept()
		if f.ctx.Err() != nil {
			if err == nil {
				reset(conn)
			}
			return
		}
		if err != nil {
			// Out of file descriptors, or a client that has gone: accept
			// would fail at once again while the first lasts.
			if !waitForFile(f.ctx, err) {
				return
			}
			continue
		}
		l := f.link
		if !l.inbound.take() {
			reset(conn)
			continue
		}
		if !l.start(func() { defer l.inbound.give(); l.serveForward(conn.(*net.TCPConn), f.port) }) {
			l.inbound.give()
			reset(conn)
		}
	}
}

// serveForward is one connection of a client of the host.
func (l *Link) serveForward(host *net.TCPConn, port int) {
	ctx, cancel := context.WithTimeout(l.ctx, dialPatience)
	guest, err := l.dialMember(ctx, port)
	cancel()
	if err != nil {
		reset(host)
		return
	}
	relay(l.ctx, host, guest)
}

func reset(c net.Conn) {
	if t, ok := c.(*net.TCPConn); ok {
		t.SetLinger(0) // fails where it has ended already
	}
	c.Close()
}

// Dial connects to a port of the member, which sees the connection come from
// the gateway. The connection has CloseWrite; it is reset when the link ends.
func (l *Link) Dial(ctx context.Context, port int) (net.Conn, error) {
	if port < 1 || port > 65535 {
		return nil, fault.Errorf(fault.Usage, "network: port %d of %s: want 1 to 65535", port, l.member.Name)
	}
	if !l.inbound.take() {
		return nil, fmt.Errorf("network: %s: %d connections are open", l.member.Name, maxInbound)
	}
	guest, err := l.dialMember(ctx, port)
	if err != nil {
		l.inbound.give()
		return nil, err
	}
	c := &dialed{guestConn: guest, closed: make(chan struct{})}
	if !l.start(func() { c.wait(l) }) {
		guest.abort()
		l.inbound.give()
		return nil, ErrClosed
	}
	return c, nil
}

// dialed is a connection to a member that the caller of Dial owns.
type dialed struct {
	*guestConn
	once   sync.Once
	closed chan struct{}
}

func (c *dialed) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.TCPConn.Close()
}

func (c *dialed) wait(l *Link) {
	defer l.inbound.give()
	select {
	case <-c.closed:
		c.finish(l.ctx)
	case <-l.ctx.Done():
		c.abort()
	}
}

// acceptRetry is the pause after an accept that has failed.
const acceptRetry = 100 * time.Millisecond

// waitForFile waits a little before the next accept; false where there is none.
func waitForFile(ctx context.Context, err error) bool {
	if errors.Is(err, net.ErrClosed) {
		return false
	}
	select {
	case <-ctx.Done():
		return false
	case <-time.After(acceptRetry):
		return true
	}
}
