package machine

import (
	"context"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sovereign-build/sovereign/internal/machine/machinetest"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// TestNetwork follows a machine's place in the network through its start, the
// end of its keeper, its adoption, and its own end.
func TestNetwork(t *testing.T) {
	f := setup(t, "")
	open := func() *Runtime {
		r, err := Open(f.state, WithHypervisor(machinetest.NetworkHV{HV: f.hv}))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := r.Close(); err != nil {
				t.Error(err)
			}
		})
		f.Runtime = r
		return r
	}
	r := open()
	i := f.start(t, UpOptions{Ports: map[int]int{5432: 0}})
	card := f.hv.Last.Card
	if card == nil || card.Address.String() != "10.0.2.2/24" || card.Gateway.String() != "10.0.2.1" || card.DNS != card.Gateway ||
		card.Address6.String() != "fd53:6f76:6572::2/64" || card.MAC.String() != "02:00:0a:00:02:02" || card.MTU != 65520 {
		t.Fatalf("the card is %+v", card)
	}
	plugged(t, i, 1)

	// Another machine has another address, whoever keeps the first.
	other, err := run(t.Context(), r, f.bundle, "other", UpOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := other.Stop(context.Background(), time.Nanosecond); err != nil {
			t.Error(err)
		}
	})
	if other.rec.Network.Address.String() != "10.0.2.3" {
		t.Errorf("the second machine has %s", other.rec.Network.Address)
	}

	// The keeper ends, and nobody listens; the next one adopts the machine.
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if listens(i) {
		t.Error("without a keeper somebody listens")
	}
	r = open()
	third, err := run(t.Context(), r, f.bundle, "third", UpOptions{}) // before the others were adopted
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := third.Stop(context.Background(), time.Nanosecond); err != nil {
			t.Error(err)
		}
	})
	if third.rec.Network.Address.String() != "10.0.2.4" {
		t.Errorf("the third machine has %s", third.rec.Network.Address)
	}
	before := *i.rec.Network
	if i, err = r.Settle(t.Context(), "sql"); err != nil || *i.rec.Network != before {
		t.Fatalf("adopted with %+v, %v", i.rec.Network, err)
	}
	plugged(t, i, 2)

	// Where a port was taken meanwhile the rest goes on, and it comes back.
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	port := i.rec.Ports[0].Host
	l, err := net.Listen("tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		t.Fatal(err)
	}
	r = open()
	if i, err = r.Settle(t.Context(), "sql"); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	plugged(t, i, 3)

	// The machine's end is that of its place.
	if _, err := i.Stop(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	if i, err = r.Settle(t.Context(), "sql"); err != nil {
		t.Fatal(err)
	}
	if listens(i) {
		t.Error("after the machine's end somebody listens")
	}
}

// TestNetworkPortTaken starts a machine on a port that is in use: it says so,
// and nothing of it stays.
func TestNetworkPortTaken(t *testing.T) {
	f := setup(t, "")
	r, err := Open(f.state, WithHypervisor(machinetest.NetworkHV{HV: f.hv}))
	if err != nil {
		t.Fatal(err)
	}
	f.Runtime = r
	t.Cleanup(func() { r.Close() })
	_, err = f.Start(t.Context(), f.bundle, UpOptions{Ports: map[int]int{9187: takenPort(t)}})
	if fault.ClassOf(err) != fault.Environment || !strings.Contains(err.Error(), "in use") {
		t.Errorf("got %v", err)
	}
	r.network.mu.Lock()
	defer r.network.mu.Unlock()
	if len(r.network.plugs) != 0 {
		t.Errorf("%v stays", r.network.plugs)
	}
}

func listens(i *Instance) bool {
	for _, p := range i.rec.Ports {
		if c, err := net.Dial("tcp4", netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(p.Host)).String()); err == nil {
			c.Close()
			return true
		}
	}
	return false
}

// plugged waits until all of the machine's ports listen, and its card has had a
// number of cables.
func plugged(t *testing.T, i *Instance, number int) {
	t.Helper()
	until(t, func() bool {
		for _, p := range i.rec.Ports {
			c, err := net.Dial("tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(p.Host)))
			if err != nil {
				return false
			}
			c.Close()
		}
		text, err := os.ReadFile(filepath.Join(i.Dir(), machinetest.Cables))
		return err == nil && strings.Count(string(text), "cable") == number
	})
}

func until(t *testing.T, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !f(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("waited for too long")
		}
	}
}
