package network

import (
	"context"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/pkg/runtime/guest/cmdline"
)

// namespace puts the test's thread into a network namespace of its own; the
// thread ends with the test.
func namespace(t *testing.T) {
	t.Helper()
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Skipf("no network namespace without root: %v", err)
	}
}

func TestUp(t *testing.T) {
	namespace(t)
	if err := Loopback(); err != nil {
		t.Fatal(err)
	}
	i, err := net.InterfaceByName("lo")
	if err != nil || i.Flags&net.FlagUp == 0 {
		t.Fatalf("lo: %v, %v", i, err)
	}
	// lo takes addresses and routes as any device does.
	n := &cmdline.Net{Device: "lo", Address: netip.MustParsePrefix("10.0.2.15/24"), Gateway: netip.MustParseAddr("10.0.2.2")}
	for range 2 { // a second time changes nothing
		if err := Up(t.Context(), n); err != nil {
			t.Fatal(err)
		}
	}
	addrs, err := i.Addrs()
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for _, a := range addrs {
		found = found || a.String() == "10.0.2.15/24"
	}
	if !found {
		t.Errorf("addresses: %v", addrs)
	}
	routes, err := os.ReadFile("/proc/thread-self/net/route")
	if err != nil || !strings.Contains(string(routes), "lo\t00000000\t0202000A") {
		t.Errorf("routes: %s, %v", routes, err)
	}
	n.Gateway = netip.MustParseAddr("192.168.9.9")
	if err := Up(t.Context(), n); err == nil || !strings.Contains(err.Error(), "inside 10.0.2.0/24") {
		t.Errorf("gateway outside: got %v", err)
	}
}

// TestCarrier has a cable whose other end is plugged in when this one is up,
// and one whose never is.
func TestCarrier(t *testing.T) {
	namespace(t)
	ip := func(script string) *exec.Cmd {
		cmd := exec.CommandContext(t.Context(), "sh", "-euc", script)
		cmd.Stderr = os.Stderr
		return cmd
	}
	if err := ip("ip link add here0 type veth peer there0; ip link add loose0 type veth peer end0").Run(); err != nil {
		t.Skipf("no veth: %v", err)
	}
	plug := ip("until ip -o link show here0 | grep -q '<.*[,<]UP'; do :; done; ip link set there0 up")
	if err := plug.Start(); err != nil {
		t.Fatal(err)
	}
	if err := Up(t.Context(), &cmdline.Net{Device: "here0", Address: netip.MustParsePrefix("10.0.2.15/24")}); err != nil {
		t.Error(err)
	}
	if out, err := ip("ip -o link show here0").Output(); err != nil || !strings.Contains(string(out), "state UP") {
		t.Errorf("does not pass packets: %s, %v", out, err)
	}
	if err := plug.Wait(); err != nil {
		t.Error(err)
	}
	if err := Up(t.Context(), &cmdline.Net{Device: "loose0", Address: netip.MustParsePrefix("10.0.3.15/24")}); err != nil {
		t.Errorf("without a carrier: %v", err)
	}
	// More news than the socket holds, of which the last is lost.
	r, err := dialRTNL()
	if err != nil {
		t.Fatal(err)
	}
	defer r.close()
	i, err := index("here0")
	if err != nil {
		t.Fatal(err)
	}
	if err := r.linkUp(i); err != nil { // a socket that has asked nothing hears no news
		t.Fatal(err)
	}
	if err := unix.SetsockoptInt(r.fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, unix.RTNLGRP_LINK); err != nil {
		t.Fatal(err)
	}
	if err := unix.SetsockoptInt(r.fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 1); err != nil { // the least there is
		t.Fatal(err)
	}
	if err := ip("for i in 1 2 3 4 5 6 7 8; do ip link set loose0 mtu 140$i; done").Run(); err != nil {
		t.Fatal(err)
	}
	if err := r.carrier(t.Context(), i); err != nil {
		t.Errorf("after an overrun: %v", err)
	}
	if list, err := Addresses("loose0"); err != nil || len(list) != 1 {
		t.Errorf("without a carrier: %v, %v", list, err)
	}
}

func TestUpWithoutTheDevice(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	err := Up(ctx, &cmdline.Net{Device: "nope0"})
	if err == nil || !strings.Contains(err.Error(), "network: nope0") {
		t.Errorf("got %v", err)
	}
}

func TestFromACK(t *testing.T) {
	ack, err := dhcpv4.New(dhcpv4.WithYourIP(net.IPv4(10, 0, 2, 15)), dhcpv4.WithNetmask(net.CIDRMask(20, 32)),
		dhcpv4.WithRouter(net.IPv4(10, 0, 2, 2)),
		dhcpv4.WithDNS(net.IPv4(1, 1, 1, 1), net.IPv4(1, 1, 1, 2), net.IPv4(1, 1, 1, 3), net.IPv4(1, 1, 1, 4)))
	if err != nil {
		t.Fatal(err)
	}
	n, err := fromACK("eth0", ack)
	if err != nil || n.Address.String() != "10.0.2.15/20" || n.Gateway.String() != "10.0.2.2" || len(n.DNS) != 3 {
		t.Errorf("got %+v, %v", n, err)
	}
	if ack, err = dhcpv4.New(); err != nil {
		t.Fatal(err)
	}
	if _, err := fromACK("eth0", ack); err == nil {
		t.Error("an answer without an address was taken")
	}
}

// What was taken from a device comes back.
func TestPresent(t *testing.T) {
	namespace(t)
	n := &cmdline.Net{Device: "lo", Address: netip.MustParsePrefix("10.0.2.15/24")}
	if err := present("lo", n.Address); err == nil || !strings.Contains(err.Error(), "set down") {
		t.Errorf("lo is down: %v", err)
	}
	if err := Up(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	if err := present("lo", n.Address); err != nil {
		t.Error(err)
	}
	i, err := index("lo")
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // a second time changes nothing
		if err := forget(i, n.Address); err != nil {
			t.Fatal(err)
		}
	}
	if err := present("lo", n.Address); err == nil || !strings.Contains(err.Error(), "lost its address") {
		t.Errorf("address is gone: %v", err)
	}
	if err := present("nope0", n.Address); err == nil || !strings.Contains(err.Error(), "lost") {
		t.Errorf("no device: %v", err)
	}
	n6 := &cmdline.Net{Device: "lo", Address: netip.MustParsePrefix("fd00::2/64")}
	if err := Up(t.Context(), n6); err != nil || present("lo", n6.Address) != nil {
		t.Errorf("IPv6: %v, %v", err, present("lo", n6.Address))
	}
}

func TestAddresses(t *testing.T) {
	namespace(t)
	for _, a := range []string{"10.0.2.15/24", "fe80::2/64", "fd00::2/64"} {
		if err := Up(t.Context(), &cmdline.Net{Device: "lo", Address: netip.MustParsePrefix(a)}); err != nil {
			t.Fatal(err)
		}
	}
	list, err := Addresses("lo")
	for _, a := range []string{"10.0.2.15", "fd00::2"} {
		if !slices.Contains(list, netip.MustParseAddr(a)) {
			t.Errorf("%s is not in %v, %v", a, list, err)
		}
	}
	if slices.ContainsFunc(list, netip.Addr.IsLinkLocalUnicast) {
		t.Errorf("an address of the link only: %v", list)
	}
	if list, err := Addresses("nope0"); err == nil || !strings.Contains(err.Error(), "nope0") {
		t.Errorf("no device: %v, %v", list, err)
	}
}

// A try that fails leaves nothing in the way of the next.
func TestConfigure(t *testing.T) {
	namespace(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	k := &keeper{Options: Options{Resolv: t.TempDir() + "/resolv.conf", Up: func(cmdline.Net) {}}, dns: map[string][]netip.Addr{}}
	n := cmdline.Net{Device: "lo", Address: netip.MustParsePrefix("10.0.2.15/24"), Gateway: netip.MustParseAddr("192.168.9.9"),
		DNS: []netip.Addr{netip.MustParseAddr("10.0.2.3")}}
	if _, err := k.configure(ctx, ctx, "network", n); err == nil {
		t.Error("a gateway outside was taken")
	}
	n.Gateway = netip.Addr{}
	has, err := k.configure(ctx, ctx, "network", n)
	if err != nil || has() != n.Address {
		t.Errorf("got %v", err)
	}
	if err := k.resolv("network6", []netip.Addr{netip.MustParseAddr("fd00::3")}); err != nil {
		t.Error(err)
	}
	if b, err := os.ReadFile(k.Resolv); err != nil || string(b) != "nameserver 10.0.2.3\nnameserver fd00::3\n" {
		t.Errorf("got %q, %v", b, err)
	}
}

func TestWriteResolvConf(t *testing.T) {
	path := t.TempDir() + "/resolv.conf"
	if err := WriteResolvConf(path, []netip.Addr{netip.MustParseAddr("10.0.2.3"), netip.MustParseAddr("fd00::3")}); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "nameserver 10.0.2.3\nnameserver fd00::3\n" {
		t.Errorf("got %q, %v", b, err)
	}
}
