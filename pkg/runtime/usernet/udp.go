package usernet

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// handleUDP takes every datagram from a member to the gateway or the world.
// False makes the stack answer that nobody has the port.
func (n *Network) handleUDP(id stack.TransportEndpointID, pkt *stack.PacketBuffer) bool {
	from := netip.AddrPortFrom(address(id.RemoteAddress), id.RemotePort)
	to := netip.AddrPortFrom(address(id.LocalAddress), id.LocalPort)
	l := n.linkOf(from.Addr())
	if l == nil || len(pkt.TransportHeader().Slice()) < header.UDPMinimumSize {
		return true
	}
	h := header.UDP(pkt.TransportHeader().Slice())
	if size := int(h.Length()); size < header.UDPMinimumSize || size-header.UDPMinimumSize > pkt.Data().Size() {
		l.stats.dropped.Add(1)
		return true
	}
	payload := pkt.Data().AsRange().Capped(int(h.Length()) - header.UDPMinimumSize).ToSlice()
	if to.Addr() == n.gateway4 || to.Addr() == n.gateway6 {
		if to.Port() == dnsPort {
			l.queryUDP(from, to, payload)
			return true
		}
		l.stats.refused.Add(1)
		return false
	}
	if err := l.sendWorld(from, to, payload); err != nil {
		l.prohibit(from.Addr(), slices.Concat(pkt.NetworkHeader().Slice(), h, payload))
	}
	return true
}

// flows are a member's UDP sockets in the world: one for each of its own ports,
// whoever it talks to, so that what a peer of it is told of its address by
// another is true (RFC 4787, REQ-1: endpoint-independent mapping). Packets come
// back only from addresses that were sent to (REQ-8: address-dependent
// filtering).
type flows struct {
	mu   sync.Mutex
	from map[netip.AddrPort]*flow
}

func (f *flows) init() { f.from = map[netip.AddrPort]*flow{} }

type flow struct {
	conn *net.UDPConn

	mu      sync.Mutex
	used    time.Time
	remotes map[netip.Addr]time.Time // when each was last permitted
}

// sendWorld sends a datagram if that is permitted. Only a refusal is an error:
// a datagram can get lost.
func (l *Link) sendWorld(from, to netip.AddrPort, payload []byte) error {
	l.flows.mu.Lock()
	f := l.flows.from[from]
	l.flows.mu.Unlock()
	if f == nil || !f.permitted(to.Addr()) {
		if err := l.permit(to.Addr()); err != nil {
			return err
		}
	}
	if f == nil {
		if f = l.newFlow(from); f == nil {
			return nil
		}
	}
	f.touch(to.Addr())
	_, err := f.conn.WriteToUDPAddrPort(payload, to)
	_ = err // as lost as on any cable; the sender has its own way to notice
	return nil
}

// permitted says whether an address was permitted a moment ago.
func (f *flow) permitted(a netip.Addr) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	at, ok := f.remotes[a]
	return ok && time.Since(at) < permitFor
}

// touch notes that an address, which is permitted, is sent to.
func (f *flow) touch(a netip.Addr) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.used = time.Now()
	if at, ok := f.remotes[a]; ok && f.used.Sub(at) < permitFor {
		return
	}
	if _, ok := f.remotes[a]; !ok && len(f.remotes) >= maxRemotes {
		var oldest netip.Addr
		for r, at := range f.remotes {
			if !oldest.IsValid() || at.Before(f.remotes[oldest]) {
				oldest = r
			}
		}
		delete(f.remotes, oldest)
	}
	f.remotes[a] = f.used
}

// hears says whether an address was sent to.
func (f *flow) hears(a netip.Addr) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, ok := f.remotes[a]
	if ok {
		f.used = time.Now()
	}
	return ok
}

func (f *flow) idle() time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	return time.Since(f.used)
}

// newFlow opens a socket for a port of the member; nil where the host has none
// to give, or the link is closed.
func (l *Link) newFlow(from netip.AddrPort) *flow {
	network, any := "udp4", "0.0.0.0:0"
	if from.Addr().Is6() {
		network, any = "udp6", "[::]:0"
	}
	// Go lets every UDP socket send to broadcast addresses.
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) (err error) {
		cerr := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BROADCAST, 0) })
		if cerr != nil {
			return cerr
		}
		return err
	}}
	conn, err := config.ListenPacket(l.ctx, network, any)
	if err != nil {
		return nil
	}
	f := &flow{conn: conn.(*net.UDPConn), used: time.Now(), remotes: map[netip.Addr]time.Time{}}
	l.flows.mu.Lock()
	if len(l.flows.from) >= maxFlows {
		l.flows.evict()
	}
	l.flows.from[from] = f
	l.flows.mu.Unlock()
	if !l.start(func() { l.receiveFlow(from, f) }) {
		conn.Close()
		return nil
	}
	return f
}

// evict closes the flow that was idle for longest, with f.mu held.
func (f *flows) evict() {
	var oldest *flow
	var at netip.AddrPort
	var longest time.Duration = -1
	for from, o := range f.from {
		if idle := o.idle(); idle > longest {
			oldest, at, longest = o, from, idle
		}
	}
	delete(f.from, at)
	oldest.conn.Close()
}

// receiveFlow passes on what comes back until the flow is idle or closed.
func (l *Link) receiveFlow(from netip.AddrPort, f *flow) {
	defer context.AfterFunc(l.ctx, func() { f.conn.Close() })()
	defer func() {
		f.conn.Close()
		l.flows.mu.Lock()
		defer l.flows.mu.Unlock()
		if l.flows.from[from] == f {
			delete(l.flows.from, from)
		}
	}()
	b := copyBuffers.Get().(*[copyBuffer]byte)
	defer copyBuffers.Put(b)
	for {
		if err := f.conn.SetReadDeadline(time.Now().Add(flowIdle - f.idle())); err != nil {
			return
		}
		n, remote, err := f.conn.ReadFromUDPAddrPort(b[:])
		if nerr, ok := err.(net.Error); ok && nerr.Timeout() && f.idle() < flowIdle {
			continue
		}
		if err != nil {
			return
		}
		remote = netip.AddrPortFrom(remote.Addr().Unmap(), remote.Port())
		if remote.Addr().Is4() != from.Addr().Is4() || !f.hears(remote.Addr()) {
			continue
		}
		if l.network.sendUDP(remote, from, b[:n]) != nil {
			return
		}
	}
}
