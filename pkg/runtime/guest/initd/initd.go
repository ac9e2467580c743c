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
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/pkg/runtime/guest/cmdline"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/logs"
)

// InRoot is where the root image has this program.
const InRoot = "/sbin/sovereign-init"

// deviceDeadline is how long disks and network devices may take to appear.
const deviceDeadline = 20 * time.Second

// Main runs as PID 1; it does not return. The role follows from the name it
// was started by: the kernel starts /init of an initramfs as "/init".
func Main() {
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "sovereign-init: runs only as PID 1 of a guest: boot the bundle with sovereign-build run")
		os.Exit(2)
	}
	c := &console{log: logs.New()}
	run := stage2
	if filepath.Base(os.Args[0]) == "init" {
		run = stage1
	}
	line, err := run(context.Background(), c)
	if err != nil {
		c.note("%v", err)
	}
	end(c, line, err)
}

// end powers the machine off. After a failure it reboots instead where the
// command line asks for that with panic=.
func end(c *console, line cmdline.Line, failure error) {
	unix.Sync()
	how, word := unix.LINUX_REBOOT_CMD_POWER_OFF, "power off"
	if failure != nil && line.Panic != "" && line.Panic != "0" {
		how, word = unix.LINUX_REBOOT_CMD_RESTART, "reboot"
	}
	c.note("%s", word)
	c.drain()
	if err := unix.Reboot(how); err != nil {
		c.note("%s: %v", word, err)
	}
	select {} // the machine goes off meanwhile; PID 1 must not return
}

// console writes short lines with the time since the kernel's start, to
// standard output (the kernel's console) and to init's log.
type console struct {
	mu  sync.Mutex
	log *logs.Log
}

func (c *console) note(format string, args ...any) {
	text := fmt.Sprintf("sovereign-init: [%.3f] %s\n", sinceBoot().Seconds(), fmt.Sprintf(format, args...))
	c.mu.Lock()
	defer c.mu.Unlock()
	os.Stdout.WriteString(text) //nolint:errcheck // there is nobody to tell
	c.log.Write([]byte(text))   //nolint:errcheck // never fails
}

// drain waits until the console has sent what was written: a machine that goes
// off at once would swallow its last words.
func (c *console) drain() {
	const tcsbrk = 0x5409          // TCSBRK with 1 is tcdrain(3); a console that is no terminal needs none
	unix.IoctlSetInt(1, tcsbrk, 1) //nolint:errcheck // as above
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
