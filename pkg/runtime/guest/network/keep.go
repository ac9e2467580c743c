package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/sovereign-build/sovereign/pkg/runtime/guest/cmdline"
)

const (
	// attempt is how long one try to configure a device may take.
	attempt = 20 * time.Second
	// retryMin and retryMax are the pauses between failed tries.
	retryMin, retryMax = time.Second, 30 * time.Second
	// lookEvery is how often a configured device is looked at.
	lookEvery = 10 * time.Second
)

// sysctls is where the kernel has a device's IPv6 settings.
const sysctls = "/proc/sys/net/ipv6/conf"

// Options say what to keep up.
type Options struct {
	Net, Net6 *cmdline.Net // nil: nothing
	Resolv    string       // path of the resolv.conf to write
	// After holds back Up and the writing of Resolv until it is closed; nil holds
	// nothing back.
	After <-chan struct{}
	// Up is told whenever a device was configured; Report what is wrong with
	// one of "network" and "network6", and nil when it is well again.
	Up     func(cmdline.Net)
	Report func(topic string, err error)
}

// Keep brings up the devices, and again when they were lost, until ctx ends.
// The returned channel is closed when each of them was tried once.
func Keep(ctx context.Context, o Options) (tried <-chan struct{}) {
	k := &keeper{Options: o, dns: map[string][]netip.Addr{}}
	var first sync.WaitGroup
	for topic, n := range map[string]*cmdline.Net{"network": o.Net, "network6": o.Net6} {
		if n == nil {
			continue
		}
		first.Add(1)
		go k.keep(ctx, topic, *n, sync.OnceFunc(first.Done))
	}
	done := make(chan struct{})
	go func() { first.Wait(); close(done) }()
	return done
}

type keeper struct {
	Options
	mu  sync.Mutex
	dns map[string][]netip.Addr // by topic
}

func (k *keeper) keep(ctx context.Context, topic string, n cmdline.Net, tried func()) {
	for pause := retryMin; ; {
		life, end := context.WithCancel(ctx)
		has, err := k.configure(ctx, life, topic, n)
		tried()
		if ctx.Err() != nil {
			end()
			return
		}
		k.Report(topic, err)
		if err == nil {
			pause = retryMin
			err = hold(life, n.Device, has)
			k.Report(topic, err)
		}
		end() // renewals of a device that is gone
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		pause = min(2*pause, retryMax)
	}
}

// configure tries once. It returns a function for the address that the device
// has, which DHCP may change; renewals go on until life ends.
func (k *keeper) configure(ctx, life context.Context, topic string, n cmdline.Net) (has func() netip.Prefix, err error) {
	ctx, cancel := context.WithTimeout(ctx, attempt)
	defer cancel()
	if _, err := wait(ctx, n.Device); err != nil {
		return nil, err
	}
	if err := k.advertisements(n.Device); err != nil {
		return nil, err
	}
	var mu sync.Mutex
	var address netip.Prefix
	up := func(n cmdline.Net) error {
		mu.Lock()
		address = n.Address
		mu.Unlock()
		if k.After != nil {
			select {
			case <-k.After:
			case <-life.Done():
				return context.Cause(life)
			}
		}
		k.Up(n)
		return k.resolv(topic, n.DNS)
	}
	has = func() netip.Prefix { mu.Lock(); defer mu.Unlock(); return address }
	if n.DHCP {
		return has, DHCP(ctx, life, n.Device, up)
	}
	if err := Up(ctx, &n); err != nil {
		return nil, err
	}
	return has, up(n)
}

// advertisements says whether the kernel is to configure IPv6 by router
// advertisements: 2 is also where it forwards, as for a VPN. A device without
// a word about IPv6 on the command line keeps the kernel's default with DHCP.
func (k *keeper) advertisements(device string) error {
	value := "0"
	switch {
	case k.Net6 != nil && k.Net6.Device == device && k.Net6.Auto:
		value = "2"
	case k.Net6 == nil && k.Net != nil && k.Net.DHCP:
		return nil
	}
	err := os.WriteFile(filepath.Join(sysctls, device, "accept_ra"), []byte(value), 0)
	if errors.Is(err, os.ErrNotExist) && value == "0" {
		return nil // a kernel without IPv6
	}
	if err != nil {
		return fmt.Errorf("network: %s: router advertisements: %w: the kernel needs IPV6", device, err)
	}
	return nil
}

// resolv writes the servers of all topics, those of IPv4 first.
func (k *keeper) resolv(topic string, servers []netip.Addr) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.dns[topic] = servers
	all := append(append([]netip.Addr(nil), k.dns["network"]...), k.dns["network6"]...)
	return WriteResolvConf(k.Resolv, all[:min(len(all), 3)])
}

// hold returns when the device has lost its address, or ctx ends.
func hold(ctx context.Context, device string, has func() netip.Prefix) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if err := present(device, has()); err != nil {
			return err
		}
	}
}

// present says what is missing of a configured device. A link without a
// carrier is whole: it works again when that comes back.
func present(device string, address netip.Prefix) error {
	i, err := net.InterfaceByName(device)
	if err != nil {
		return fmt.Errorf("network: %s: lost: %w", device, err)
	}
	if i.Flags&net.FlagUp == 0 {
		return fmt.Errorf("network: %s: was set down", device)
	}
	if !address.IsValid() {
		return nil
	}
	list, err := i.Addrs()
	if err != nil {
		return fmt.Errorf("network: %s: %w", device, err)
	}
	for _, a := range list {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p == address {
			return nil
		}
	}
	return fmt.Errorf("network: %s: lost its address %s", device, address)
}
