// Package initd is sovereign-init: PID 1 of the guest, in the initramfs (where
// it brings up the verified root) and in the root image (where it brings up
// everything else). In come the kernel command line and the guest spec; out
// goes a machine that runs its services, answers the agent, and ends in order.
//
// It starts no shell and reads no file that a service could write. What fails
// before there is an agent is told on the console and ends the machine; what
// fails later is a state that the agent tells.
package initd

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/pkg/runtime/guest/cmdline"
)

// InRoot is where the root image has this program, for a kernel that is told
// to start it without an initramfs.
const InRoot = "/sbin/sovereign-init"

// deviceDeadline is how long disks and network devices may take to appear.
const deviceDeadline = 20 * time.Second

// bootThreads is how many goroutines may run at a time: at boot each of the
// main one, both network devices, the data disk, the console and the reaper
// waits in the kernel, and Go may give the turn of one that does so to another
// only milliseconds later.
const bootThreads = 6

// Main runs as PID 1; it does not return. The kernel starts /init of an
// initramfs as "/init"; then the root has to be found first. The same process
// goes on in the root image: to execute the image's own copy would be the same
// program again, read through verity once more, for nothing.
func Main() {
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "sovereign-init: runs only as PID 1 of a guest: boot the bundle with sovereign-build run")
		os.Exit(2)
	}
	runtime.GOMAXPROCS(max(bootThreads, runtime.NumCPU()))
	var p phases
	p.beginAt("kernel", 0)()
	c := newConsole()
	line, err := run(context.Background(), c, &p)
	if err != nil {
		c.note("%v", err)
	}
	end(c, line, err)
}

// run returns when the machine is to go off; the error is for what failed
// before there was an agent to tell it.
func run(ctx context.Context, c *console, p *phases) (cmdline.Line, error) {
	initramfs := filepath.Base(os.Args[0]) == "init"
	first := mountSystem
	if initramfs {
		first = mountEarly
	}
	if err := first(p); err != nil {
		return cmdline.Line{}, err
	}
	line, err := readCmdline()
	if err != nil {
		return line, err
	}
	if line.Probe {
		c.print(cmdline.ProbeLine + "\n")
		return line, nil
	}
	g := newGuest(c, p, line)
	if err := g.serveTap(ctx); err != nil {
		c.note("%v", err) // the network says what it lacks
	}
	if !g.addressed() {
		g.network(ctx)
	}
	taken := make(chan error, 1) // the root does not wait for it
	go func() { taken <- g.takeOver() }()
	if line.DataSerial != "" {
		g.openData(ctx, line.DataSerial)
	}
	if initramfs {
		if err := g.openRoot(ctx); err != nil {
			return line, err
		}
		if err := mountSystem(p); err != nil {
			return line, err
		}
	} else {
		close(g.verified)
	}
	if err := <-taken; err != nil {
		return line, err
	}
	if err := delegate(cgroupRoot); err != nil {
		return line, err
	}
	g.live(ctx)
	return line, nil
}

// Limits of the last steps, each of which the kernel may not return from.
const (
	syncLimit    = 30 * time.Second
	consoleLimit = 2 * time.Second
)

// end powers the machine off. After a failure it reboots instead where the
// command line asks for that with panic=.
func end(c *console, line cmdline.Line, failure error) {
	if !within(syncLimit, unix.Sync) {
		c.note("sync: a disk does not answer: going on without it")
	}
	how, word := unix.LINUX_REBOOT_CMD_POWER_OFF, "power off"
	if failure != nil && line.Panic != "" && line.Panic != "0" {
		how, word = unix.LINUX_REBOOT_CMD_RESTART, "reboot"
	}
	c.note("%s", word)
	c.drain(consoleLimit)
	if err := unix.Reboot(how); err != nil {
		c.note("%s: %v", word, err)
	}
	select {} // the machine goes off meanwhile; PID 1 must not return
}

// sinceBoot is the time since the kernel's start.
func sinceBoot() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0 // only without the syscall; the stamp is for people
	}
	return time.Duration(ts.Nano())
}

// readCmdline reads the kernel's command line.
func readCmdline() (cmdline.Line, error) {
	b, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return cmdline.Line{}, err
	}
	return cmdline.Parse(string(b))
}

// openConsole makes the console standard input, output and error, if the
// kernel could not: an initramfs need not have /dev/console.
func openConsole() error {
	fd, err := unix.Open("/dev/console", unix.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return fmt.Errorf("/dev/console: %w", err)
	}
	for i := range 3 {
		if fd == i {
			continue
		}
		if err := unix.Dup3(fd, i, 0); err != nil {
			return fmt.Errorf("/dev/console: %w", err)
		}
	}
	if fd > 2 {
		return unix.Close(fd)
	}
	return nil
}
