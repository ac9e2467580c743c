package machine

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/sovereign-build/sovereign/internal/pause"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime/usernet"
	"github.com/sovereign-build/sovereign/pkg/runtime/vm"
)

// prefix6 is a network of one's own (RFC 4193), which nobody outside sees: the
// same on every host.
var prefix6 = netip.MustParsePrefix("fd53:6f76:6572::/64")

// joined is what a machine that runs has in the host's network, as its record
// says: its guest has these addresses until it ends, whoever keeps it.
type joined struct {
	Address  netip.Addr `json:"address"`
	Address6 netip.Addr `json:"address6"`
	Outbound bool       `json:"outbound,omitempty"`
}

// network is this host's, with the machines that steps of this program were
// taken for. Where another program takes the steps, it has one of its own, and
// the machines with it.
type network struct {
	config usernet.Config
	mu     sync.Mutex
	net    *usernet.Network // nil before the first machine
	plugs  map[string]*plug // by instance
}

// plug is a machine's link, and what keeps its cable in the machine's card.
type plug struct {
	link    *usernet.Link
	end     context.CancelFunc
	ctx     context.Context
	work    sync.WaitGroup
	process vm.Process // whose card the cable is in; zero: none yet
}

// cableRetry is the pause between tries to connect to a machine's card, or to
// listen on a port that was in use when the machine was adopted.
const cableRetry = 250 * time.Millisecond

// plugIn gives the instance its place, with what listens for its ports, before
// its machine starts or when one was adopted.
func (i *Instance) plugIn(outbound bool) (*vm.Card, error) {
	n := &i.r.network
	n.mu.Lock()
	defer n.mu.Unlock()
	n.unplug(i.Name())
	if n.net == nil {
		config := n.config
		config.Prefix6 = prefix6
		var err error
		if n.net, err = usernet.New(config); err != nil {
			return nil, fault.Wrap(fault.Internal, err)
		}
	}
	link, err := i.join(n.net, outbound)
	if err != nil {
		return nil, err
	}
	p := &plug{link: link}
	p.ctx, p.end = context.WithCancel(context.Background())
	n.plugs[i.Name()] = p
	m := link.Member()
	i.rec.Network = &joined{m.Addr, m.Addr6, outbound}
	v4, v6 := n.net.Prefixes()
	gateway4, gateway6 := n.net.Gateway()
	return &vm.Card{
		MAC: m.MAC, MTU: n.net.MTU(),
		Address: netip.PrefixFrom(m.Addr, v4.Bits()), Gateway: gateway4, DNS: gateway4,
		Address6: netip.PrefixFrom(m.Addr6, v6.Bits()), Gateway6: gateway6,
	}, nil
}

// join takes the addresses that the machine had, or some that no machine of the
// host has, one that another program keeps or that was not adopted yet
// included.
func (i *Instance) join(n *usernet.Network, outbound bool) (*usernet.Link, error) {
	m := usernet.Member{Name: i.Name(), Outbound: outbound}
	if had := i.rec.Network; had != nil {
		m.Addr, m.Addr6 = had.Address, had.Address6
		if l, err := n.Join(m); err == nil || i.proc != (vm.Process{}) {
			return l, fault.Wrap(fault.Environment, err) // what runs cannot be given others
		}
		m.Addr, m.Addr6 = netip.Addr{}, netip.Addr{}
	}
	names, err := i.r.Names()
	if err != nil {
		return nil, err
	}
	taken := map[netip.Addr]bool{}
	for _, name := range names {
		// A record that cannot be read is told of where it is kept.
		if other, err := i.r.load(name); err == nil && name != i.Name() && other.rec.Network != nil {
			taken[other.rec.Network.Address] = true
		}
	}
	v4, v6 := n.Prefixes()
	gateway4, gateway6 := n.Gateway()
	for a, b := gateway4.Next(), gateway6.Next(); v4.Contains(a) && v6.Contains(b); a, b = a.Next(), b.Next() {
		if taken[a] {
			continue
		}
		m.Addr, m.Addr6 = a, b
		if l, err := n.Join(m); err == nil {
			return l, nil
		}
	}
	return nil, fault.Errorf(fault.Environment, "no address of %s is free", v4).Hintf("remove machines that are not used")
}

// listen listens for the record's ports. What fails ends it, before a start;
// for a machine that runs, it is tried again until it works.
func (i *Instance) listen(again bool) error {
	n := &i.r.network
	n.mu.Lock()
	defer n.mu.Unlock()
	p := n.plugs[i.Name()]
	for _, port := range i.rec.Ports {
		at := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(port.Host))
		_, err := p.link.Forward(at, port.Guest)
		if err == nil {
			continue
		}
		if !again {
			return err
		}
		tell(func(e Event) { i.r.report(i.Name(), e) }, PhaseStart, err.Error()+"; it is tried again")
		p.work.Go(func() {
			for err != nil && !errors.Is(err, usernet.ErrClosed) && pause.For(p.ctx, cableRetry) == nil {
				_, err = p.link.Forward(at, port.Guest)
			}
		})
	}
	return nil
}

// connect puts the cable into the card of the machine that runs, and keeps it
// there until the machine has ended or is unplugged.
func (i *Instance) connect(dialer vm.NetworkDialer) {
	n := &i.r.network
	n.mu.Lock()
	defer n.mu.Unlock()
	p, proc, dir := n.plugs[i.Name()], i.proc, i.dir
	p.process = proc
	p.work.Go(func() {
		said := ""
		for p.ctx.Err() == nil {
			var conn net.Conn
			conn, err := dialer.DialNetwork(p.ctx, dir)
			if err == nil {
				err = p.link.Serve(p.ctx, conn)
			}
			if alive, aerr := proc.Alive(); aerr == nil && !alive {
				return
			}
			if err != nil && p.ctx.Err() == nil && err.Error() != said {
				said = err.Error()
				tell(func(e Event) { i.r.report(i.Name(), e) }, PhaseStart, fmt.Sprintf("the network's cable: %v", err))
			}
			if pause.For(p.ctx, cableRetry) != nil {
				return
			}
		}
	})
}

// unplug takes an instance's machine out, with n.mu held.
func (n *network) unplug(name string) {
	p := n.plugs[name]
	if p == nil {
		return
	}
	delete(n.plugs, name)
	p.end()
	_ = p.link.Close() // it has no error to give
	p.work.Wait()
}

// unplug takes an instance's machine out of the network.
func (r *Runtime) unplug(name string) {
	r.network.mu.Lock()
	defer r.network.mu.Unlock()
	r.network.unplug(name)
}

// keepPlugged takes out a machine that has ended, and puts in one that was
// started by another program.
func (i *Instance) keepPlugged(alive bool) error {
	dialer, ok := i.r.hv.(vm.NetworkDialer)
	if !ok {
		return nil
	}
	if !alive {
		i.r.unplug(i.Name())
		return nil
	}
	i.r.network.mu.Lock()
	p := i.r.network.plugs[i.Name()]
	here := p != nil && p.process == i.proc
	i.r.network.mu.Unlock()
	// One without was started by a version whose hypervisor had the network.
	if here || i.rec.Network == nil {
		return nil
	}
	if _, err := i.plugIn(i.rec.Network.Outbound); err != nil {
		return err
	}
	if err := i.listen(true); err != nil {
		return err
	}
	i.connect(dialer)
	return nil
}

// Close ends what this program has of the host's network; the machines run on
// without one until somebody takes steps for them again.
func (r *Runtime) Close() error {
	r.network.mu.Lock()
	defer r.network.mu.Unlock()
	for name := range r.network.plugs {
		r.network.unplug(name)
	}
	if r.network.net == nil {
		return nil
	}
	n := r.network.net
	r.network.net = nil
	return n.Close()
}
