package testphone

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/internal/testphone/box"
)

// World is what the phone's networks lead to: a network namespace of its own, with
// a link to the phone for each. It is there until the phone's next boot.
type World struct {
	p     *Phone
	cmd   *exec.Cmd
	links int
}

// Uplink is one of the phone's networks.
type Uplink struct {
	Name string // the phone's interface
	// Phone and World are the addresses at its ends; a server of names is to be at
	// World's port 53.
	Phone, World string
	table        string
}

// NewWorld makes one. Close ends it.
func (p *Phone) NewWorld() (*World, error) {
	w := &World{p: p, cmd: exec.Command("sleep", "infinity")}
	w.cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	// Pdeathsig is about the thread that starts it.
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := w.cmd.Start()
		started <- err
		if err == nil {
			w.cmd.Wait() //nolint:errcheck // it is killed
		}
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	if err := errors.Join(
		ip(w.cmd.Process.Pid, "link", "set", "lo", "up"),
		// As netd has it: nothing that no network claims goes anywhere.
		ip(p.PID(), "rule", "add", "pref", "32000", "unreachable"),
	); err != nil {
		w.Close()
		return nil, err
	}
	return w, nil
}

// Close ends it, and with it all links.
func (w *World) Close() { w.cmd.Process.Kill() } //nolint:errcheck // it has ended

// ip changes a namespace, that of a process.
func ip(pid int, args ...string) error {
	out, err := exec.Command("nsenter", append([]string{"--net=/proc/" + strconv.Itoa(pid) + "/ns/net", "ip"}, args...)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

// Attach gives the phone a network more, which it does not use yet. Its routes are
// in a table of the interface's own, as netd has them.
func (w *World) Attach(name string) (Uplink, error) {
	w.links++
	u := Uplink{
		Name: name, Phone: fmt.Sprintf("10.%d.0.2", 80+w.links), World: fmt.Sprintf("10.%d.0.1", 80+w.links), table: strconv.Itoa(1000 + w.links),
	}
	phone, world, there := w.p.PID(), w.cmd.Process.Pid, fmt.Sprintf("w%d", w.links)
	return u, errors.Join(
		ip(world, "link", "add", "name", there, "type", "veth", "peer", "name", name, "netns", strconv.Itoa(phone)),
		ip(world, "address", "add", u.World+"/24", "dev", there), ip(world, "link", "set", there, "up"),
		ip(phone, "address", "add", u.Phone+"/24", "dev", name), ip(phone, "link", "set", name, "up"),
		ip(phone, "route", "add", fmt.Sprintf("10.%d.0.0/24", 80+w.links), "dev", name, "table", u.table),
		ip(phone, "route", "add", "default", "via", u.World, "dev", name, "onlink", "table", u.table),
	)
}

// Address gives the world an address more, which all networks lead to.
func (w *World) Address(address string) error {
	return ip(w.cmd.Process.Pid, "address", "add", address+"/32", "dev", "lo")
}

// Default makes a network the phone's default one, instead of another.
func (w *World) Default(u Uplink) error {
	for ip(w.p.PID(), "rule", "del", "pref", "31000") == nil {
	}
	return errors.Join(
		ip(w.p.PID(), "rule", "add", "pref", "31000", "fwmark", "0/0xffff", "lookup", u.table),
		w.p.WriteFile(box.DNSFile, u.World+":53\n"))
}

// VPN has all that programs of the phone send go through a network (netd's rule
// SECURE_VPN) until that is dropped.
func (w *World) VPN(u Uplink) error {
	return errors.Join(
		ip(w.p.PID(), "rule", "add", "pref", "13000", "fwmark", "0/0x20000", "uidrange", "0-99999", "lookup", u.table),
		w.p.WriteFile(box.DNSFile, u.World+":53\n"))
}

// Drop takes a network away: its address, and with it whatever is connected by it.
func (w *World) Drop(u Uplink) error {
	for _, pref := range []string{"13000", "31000"} {
		for ip(w.p.PID(), "rule", "del", "pref", pref, "lookup", u.table) == nil {
		}
	}
	return ip(w.p.PID(), "link", "del", u.Name)
}

// Listen listens at a port of all of the world's addresses, and for UDP if packets.
func (w *World) Listen(port int) (net.Listener, net.PacketConn, error) {
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", w.cmd.Process.Pid))
	if err != nil {
		return nil, nil, err
	}
	defer ns.Close()
	type result struct {
		l   net.Listener
		p   net.PacketConn
		err error
	}
	got := make(chan result)
	go func() {
		// The thread is thrown away with the namespace that it has entered.
		runtime.LockOSThread()
		var r result
		if r.err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); r.err == nil {
			r.l, r.err = net.Listen("tcp4", fmt.Sprintf(":%d", port))
		}
		if r.err == nil {
			r.p, r.err = net.ListenPacket("udp4", fmt.Sprintf(":%d", port))
		}
		got <- r
	}()
	r := <-got
	return r.l, r.p, r.err
}
