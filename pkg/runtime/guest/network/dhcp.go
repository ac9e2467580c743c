package network

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"

	"github.com/sovereign-build/sovereign/pkg/runtime/guest/cmdline"
)

const (
	// renewRetry is the pause after a renewal that failed.
	renewRetry = 30 * time.Second
	// defaultLease holds for a server that names no lease time.
	defaultLease = time.Hour
)

// DHCP configures the device by DHCP over IPv4. It returns when the device has
// its first lease, or with an error when ctx ends first; renewals go on until
// keep ends. Changed is called for each lease, with what the device has now.
func DHCP(ctx, keep context.Context, device string, changed func(cmdline.Net) error) error {
	if err := Up(ctx, &cmdline.Net{Device: device, Auto: true}); err != nil { // without an address yet
		return err
	}
	i, err := index(device)
	if err != nil {
		return fmt.Errorf("network: %s: %w", device, err)
	}
	client, err := nclient4.New(device, nclient4.WithTimeout(2*time.Second))
	if err != nil {
		return fmt.Errorf("network: %s: dhcp: %w: the kernel needs PACKET", device, err)
	}
	var has netip.Prefix // the device's address
	take := func(ctx context.Context, ack *dhcpv4.DHCPv4) error {
		n, err := fromACK(device, ack)
		if err == nil {
			err = Up(ctx, &n)
		}
		if err == nil && has.IsValid() && has != n.Address {
			err = forget(i, has)
		}
		if err != nil {
			return err
		}
		has = n.Address
		return changed(n)
	}
	lease, err := request(ctx, client)
	if err == nil {
		err = take(ctx, lease.ACK)
	}
	if err != nil {
		client.Close()
		return fmt.Errorf("network: %s: dhcp: %w: is there a DHCP server on that network?", device, err)
	}
	go func() {
		defer client.Close()
		renew(keep, client, lease, func(ack *dhcpv4.DHCPv4) error { return take(keep, ack) })
	}()
	return nil
}

// request asks until there is an answer or ctx ends: a switch may take some
// seconds to forward from a new port.
func request(ctx context.Context, client *nclient4.Client) (*nclient4.Lease, error) {
	for {
		lease, err := client.Request(ctx)
		if err == nil || ctx.Err() != nil {
			return lease, err
		}
	}
}

// renew asks again after half of each lease, as RFC 2131, 4.4.5. A server that
// does not answer is asked again; the address is kept meanwhile.
func renew(ctx context.Context, client *nclient4.Client, lease *nclient4.Lease, apply func(*dhcpv4.DHCPv4) error) {
	pause := lease.ACK.IPAddressLeaseTime(defaultLease) / 2
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(max(pause, time.Second)):
		}
		next, err := client.Renew(ctx, lease)
		if err != nil {
			next, err = client.Request(ctx)
		}
		if err == nil {
			err = apply(next.ACK)
		}
		if err != nil {
			pause = renewRetry
			continue
		}
		lease, pause = next, next.ACK.IPAddressLeaseTime(defaultLease)/2
	}
}

// forget takes an address from a device.
func forget(index int, p netip.Prefix) error {
	r, err := dialRTNL()
	if err != nil {
		return err
	}
	defer r.close()
	return r.removeAddress(index, p)
}

// fromACK takes address, gateway, DNS servers (at most 3) and NTP servers (at
// most 4) of an answer.
func fromACK(device string, ack *dhcpv4.DHCPv4) (cmdline.Net, error) {
	n := cmdline.Net{Device: device, DHCP: true}
	address, ok := netip.AddrFromSlice(ack.YourIPAddr.To4())
	if !ok || address.IsUnspecified() {
		return n, fmt.Errorf("answer without an address")
	}
	bits, size := net.IPMask(ack.SubnetMask()).Size()
	if size != 32 {
		bits = 24 // no mask, or none that is a prefix
	}
	n.Address = netip.PrefixFrom(address, bits)
	if r := ack.Router(); len(r) > 0 {
		n.Gateway, _ = netip.AddrFromSlice(r[0].To4())
	}
	for _, s := range ack.DNS() {
		if a, ok := netip.AddrFromSlice(s.To4()); ok && len(n.DNS) < 3 {
			n.DNS = append(n.DNS, a)
		}
	}
	for _, s := range ack.NTPServers() {
		if a, ok := netip.AddrFromSlice(s.To4()); ok && len(n.NTP) < 4 {
			n.NTP = append(n.NTP, a)
		}
	}
	return n, nil
}
