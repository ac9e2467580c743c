package usernet

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"syscall"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// tcpHandler takes the first packets of connections to the world. The others
// find theirs, or are answered with RST by the stack.
func (n *Network) tcpHandler() func(stack.TransportEndpointID, *stack.PacketBuffer) bool {
	// The number in flight is bounded per member, so that none keeps the
	// others from connecting; here it only must not be less.
	f := tcp.NewForwarder(n.stack, startBuffer, maxMembers*maxOutbound, func(r *tcp.ForwarderRequest) {
		l := n.linkOf(address(r.ID().RemoteAddress))
		if l == nil || !l.outbound.take() {
			if l != nil {
				l.stats.refused.Add(1)
			}
			r.Complete(true)
			return
		}
		if !l.start(func() { defer l.outbound.give(); l.connect(r) }) {
			l.outbound.give()
			r.Complete(true)
		}
	})
	return f.HandlePacket
}

// connect is a member's connection from its first packet to its end. The
// member's is accepted when the world has accepted this one.
func (l *Link) connect(r *tcp.ForwarderRequest) {
	id := r.ID()
	dest := netip.AddrPortFrom(address(id.LocalAddress), id.LocalPort)
	if dest.Addr() == l.network.gateway4 || dest.Addr() == l.network.gateway6 {
		if dest.Port() != dnsPort {
			l.stats.refused.Add(1)
			r.Complete(true)
			return
		}
		if c := l.accept(r); c != nil {
			defer context.AfterFunc(l.ctx, c.abort)()
			l.serveDNS(c)
			c.finish(l.ctx)
		}
		return
	}
	if err := l.permit(dest.Addr()); err != nil {
		l.stats.refused.Add(1)
		r.Complete(true)
		return
	}
	host, err := l.dialWorld(dest)
	if err != nil {
		r.Complete(true)
		return
	}
	defer host.Close()
	if c := l.accept(r); c != nil {
		relay(l.ctx, host, c)
	}
}

// dialWorld connects to an address that was permitted, and asks again at the
// moment of connecting.
func (l *Link) dialWorld(dest netip.AddrPort) (*net.TCPConn, error) {
	d := net.Dialer{
		Timeout: dialPatience,
		Control: func(_, at string, _ syscall.RawConn) error {
			a, err := netip.ParseAddrPort(at)
			if err != nil {
				return err
			}
			return l.permit(a.Addr())
		},
	}
	conn, err := d.DialContext(l.ctx, "tcp", dest.String())
	if err != nil {
		return nil, err
	}
	return conn.(*net.TCPConn), nil
}

// accept ends the handshake with the member; nil if that has not worked.
func (l *Link) accept(r *tcp.ForwarderRequest) *guestConn {
	id := r.ID()
	defer context.AfterFunc(l.ctx, func() {
		p := protocolOf(address(id.LocalAddress))
		if ep := l.network.stack.FindTransportEndpoint(p, tcp.ProtocolNumber, id, nicID); ep != nil {
			ep.Abort()
		}
	})()
	var wq waiter.Queue
	ep, err := r.CreateEndpoint(&wq)
	r.Complete(err != nil)
	if err != nil {
		return nil
	}
	return newGuestConn(&wq, ep)
}

// dialMember connects to a port of the member, from the gateway's address.
func (l *Link) dialMember(ctx context.Context, port int) (*guestConn, error) {
	dest := netip.AddrPortFrom(l.member.Addr, uint16(port))
	fail := func(err error) error {
		return &net.OpError{Op: "dial", Net: "tcp", Addr: net.TCPAddrFromAddrPort(dest), Err: err}
	}
	var wq waiter.Queue
	ep, terr := l.network.stack.NewEndpoint(tcp.ProtocolNumber, protocolOf(dest.Addr()), &wq)
	if terr != nil {
		return nil, fail(errors.New(terr.String()))
	}
	entry, ready := waiter.NewChannelEntry(waiter.WritableEvents)
	wq.EventRegister(&entry)
	defer wq.EventUnregister(&entry)
	terr = ep.Connect(full(dest))
	if _, started := terr.(*tcpip.ErrConnectStarted); started {
		select {
		case <-ctx.Done():
			ep.Abort()
			return nil, fail(context.Cause(ctx))
		case <-l.ctx.Done():
			ep.Abort()
			return nil, fail(ErrClosed)
		case <-ready:
		}
		terr = ep.LastError()
	}
	if terr != nil {
		ep.Close()
		return nil, fail(hostError(terr))
	}
	return newGuestConn(&wq, ep), nil
}

// hostError is the stack's error as the host's kernel would have it.
func hostError(err tcpip.Error) error {
	switch err.(type) {
	case *tcpip.ErrConnectionRefused:
		return syscall.ECONNREFUSED
	case *tcpip.ErrConnectionReset:
		return syscall.ECONNRESET
	case *tcpip.ErrTimeout:
		return syscall.ETIMEDOUT
	}
	return errors.New(err.String())
}

// guestConn is a member's end of a connection, in the gateway's stack.
type guestConn struct {
	*gonet.TCPConn
	ep tcpip.Endpoint
	wq *waiter.Queue
}

func newGuestConn(wq *waiter.Queue, ep tcpip.Endpoint) *guestConn {
	ep.SocketOptions().SetDelayOption(false) // Nagle's algorithm was the sender's to use
	return &guestConn{gonet.NewTCPConn(wq, ep), ep, wq}
}

// abort ends the connection with RST.
func (c *guestConn) abort() { c.ep.Abort() }

// finish closes the connection and waits until the stack has forgotten it: what
// is on its way to the member still counts as the member's.
func (c *guestConn) finish(ctx context.Context) {
	entry, changed := waiter.NewChannelEntry(waiter.EventHUp)
	c.wq.EventRegister(&entry)
	defer c.wq.EventUnregister(&entry)
	c.ep.Close()
	for {
		switch tcp.EndpointState(c.ep.State()) {
		case tcp.StateClose, tcp.StateError, tcp.StateInitial:
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			c.ep.Abort()
			return
		}
	}
}

// relay passes bytes both ways until both ends have said that they are done.
// One that fails ends the other with a reset, as a cable would. It closes both.
func relay(ctx context.Context, host *net.TCPConn, guest *guestConn) {
	abort := func() {
		host.SetLinger(0) // fails where the connection has ended: all the better
		host.Close()
		guest.abort()
	}
	stop := context.AfterFunc(ctx, abort)
	var toGuest, toHost error
	var both sync.WaitGroup
	both.Go(func() {
		if toGuest = copyTo(guest, host); toGuest == nil {
			toGuest = guest.CloseWrite()
		} else {
			guest.abort()
		}
	})
	var readFailed bool
	if readFailed, toHost = guest.copyTo(host); toHost == nil {
		toHost = host.CloseWrite()
	} else if readFailed {
		host.SetLinger(0)
		host.Close()
	} // else the host's end has failed, and what it sent before still comes
	both.Wait()
	if !stop() { // abort runs
		return
	}
	if toGuest != nil || toHost != nil {
		abort()
		return
	}
	host.Close()
	guest.finish(ctx)
}

var copyBuffers = sync.Pool{New: func() any { return new([copyBuffer]byte) }}

// copyTo copies until EOF. (io.Copy takes a buffer of its own where the writer
// is a socket.)
func copyTo(w io.Writer, r io.Reader) error {
	b := copyBuffers.Get().(*[copyBuffer]byte)
	defer copyBuffers.Put(b)
	for {
		n, err := r.Read(b[:])
		if n > 0 {
			if _, err := w.Write(b[:n]); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// copyTo copies what the member sends until it has ended its stream. It says
// which side an error is of, and holds no buffer while it waits. (The stack
// could write to w itself, but would lock the endpoint until w has taken all.)
func (c *guestConn) copyTo(w io.Writer) (readFailed bool, err error) {
	entry, more := waiter.NewChannelEntry(waiter.ReadableEvents | waiter.EventHUp | waiter.EventErr)
	c.wq.EventRegister(&entry)
	defer c.wq.EventUnregister(&entry)
	for {
		err := c.copyReady(w)
		switch {
		case err == nil:
			<-more
		case errors.Is(err, io.EOF):
			return false, nil
		default:
			var read *readError
			return errors.As(err, &read), err
		}
	}
}

type readError struct{ error }

// copyReady copies what is there, and returns nil when nothing is left.
func (c *guestConn) copyReady(w io.Writer) error {
	b := copyBuffers.Get().(*[copyBuffer]byte)
	defer copyBuffers.Put(b)
	for {
		into := tcpip.SliceWriter(b[:])
		got, terr := c.ep.Read(&into, tcpip.ReadOptions{})
		switch terr.(type) {
		case nil:
		case *tcpip.ErrWouldBlock:
			return nil
		case *tcpip.ErrClosedForReceive:
			return io.EOF
		default:
			return &readError{hostError(terr)}
		}
		c.ep.ModerateRecvBuf(got.Count)
		if _, err := w.Write(b[:got.Count]); err != nil {
			return err
		}
	}
}
