// Package network brings up the guest's network and keeps it up: the loopback
// device, and one with static addresses, by DHCP (IPv4) or by router
// advertisements (IPv6). In comes the configuration of the kernel command
// line; out goes a configured kernel and the text of a resolv.conf. It opens no
// port and changes no firewall.
package network

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/sovereign-build/sovereign/internal/atomicfile"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/cmdline"
)

// waitEvery is how often a device that is not there yet is looked for.
const waitEvery = 5 * time.Millisecond

// Loopback brings up lo. Without it not even 127.0.0.1 answers.
func Loopback() error {
	r, err := dialRTNL()
	if err != nil {
		return err
	}
	defer r.close()
	i, err := index("lo")
	if err != nil {
		return fmt.Errorf("network: lo: %w", err)
	}
	if err := r.linkUp(i); err != nil {
		return fmt.Errorf("network: lo: %w", err)
	}
	return nil
}

// SetLink gives a device its hardware address and its MTU, in bytes.
func SetLink(device string, hw net.HardwareAddr, mtu int) error {
	i, err := index(device)
	if err != nil {
		return fmt.Errorf("network: %s: %w", device, err)
	}
	r, err := dialRTNL()
	if err != nil {
		return err
	}
	defer r.close() //nolint:errcheck // all was answered
	if err := r.setLink(i, hw, mtu); err != nil {
		return fmt.Errorf("network: %s: hardware address %s, MTU %d: %w", device, hw, mtu, err)
	}
	return nil
}

// Up configures the device statically, or leaves that to the kernel (Auto); it
// waits for the device until ctx ends, and a moment for its carrier.
func Up(ctx context.Context, n *cmdline.Net) error {
	i, err := wait(ctx, n.Device)
	if err != nil {
		return err
	}
	r, err := dialRTNL()
	if err != nil {
		return err
	}
	defer r.close()
	if err := r.linkUp(i); err != nil {
		return fmt.Errorf("network: %s: up: %w", n.Device, err)
	}
	if !n.Auto { // or the kernel does the rest
		if err := r.static(i, n); err != nil {
			return err
		}
	}
	if err := r.carrier(ctx, i); err != nil {
		return fmt.Errorf("network: %s: carrier: %w", n.Device, err)
	}
	return nil
}

// static gives the device its address and the gateway.
func (r *rtnl) static(index int, n *cmdline.Net) error {
	if err := r.addAddress(index, n.Address); err != nil {
		return fmt.Errorf("network: %s: address %s: %w", n.Device, n.Address, err)
	}
	if !n.Gateway.IsValid() {
		return nil
	}
	if err := r.defaultRoute(index, n.Gateway); err != nil {
		return fmt.Errorf("network: %s: gateway %s: %w: it has to be inside %s", n.Device, n.Gateway, err, n.Address.Masked())
	}
	return nil
}

// Addresses returns the addresses of the device by which others reach the
// machine: all but the link's own.
func Addresses(device string) ([]netip.Addr, error) {
	i, err := index(device)
	if err != nil {
		return nil, fmt.Errorf("network: %s: %w", device, err)
	}
	list, err := (&net.Interface{Index: i}).Addrs()
	if err != nil {
		return nil, fmt.Errorf("network: %s: addresses: %w", device, err)
	}
	var global []netip.Addr
	for _, a := range list {
		if p, err := netip.ParsePrefix(a.String()); err == nil && !p.Addr().IsLinkLocalUnicast() {
			global = append(global, p.Addr())
		}
	}
	return global, nil
}

func wait(ctx context.Context, device string) (int, error) {
	for {
		i, err := index(device)
		if err == nil {
			return i, nil
		}
		select {
		case <-ctx.Done():
			return 0, fmt.Errorf("network: %s: %w: attach a virtio network device, or take sovereign.net off the kernel command line", device, err)
		case <-time.After(waitEvery):
		}
	}
}

// ResolvConf is the text of /etc/resolv.conf for the servers.
func ResolvConf(servers []netip.Addr) string {
	var b strings.Builder
	for _, s := range servers {
		fmt.Fprintf(&b, "nameserver %s\n", s)
	}
	return b.String()
}

// WriteResolvConf replaces the file at path.
func WriteResolvConf(path string, servers []netip.Addr) error {
	if err := atomicfile.Write(path, []byte(ResolvConf(servers)), 0o644); err != nil {
		return fmt.Errorf("network: %w", err)
	}
	return nil
}
