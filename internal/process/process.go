// Package process is about processes that outlive the program that started
// them: it tells them apart for good, starts them, and watches and ends them.
//
// A command comes in and a Process goes out: a number, a start time and a boot,
// so that no signal ever reaches a process that merely inherited a number. The
// package reads /proc, waits by pidfd (Linux 5.3 or newer), and never searches
// processes by name.
package process

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// A Process is one process of one boot of this machine. A PID alone is not: it
// is used again.
type Process struct {
	PID int `json:"pid"`
	// Start is when it started, in clock ticks since boot (field 22 of
	// /proc/PID/stat).
	Start uint64 `json:"start"`
	Boot  string `json:"boot"` // the kernel's boot_id
}

// Boot identifies the present boot of this machine: the kernel's boot_id.
func Boot() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fault.Wrap(fault.Environment, err)
	}
	return strings.TrimSpace(string(b)), nil
}

// Running is the process that has the number now; ok is false where none has.
func Running(pid int) (p Process, ok bool, err error) { return running(pid) }

// running is the process that has the number now; ok is false where none has.
func running(pid int) (p Process, ok bool, err error) {
	boot, err := Boot()
	if err != nil {
		return Process{}, false, err
	}
	stat, err := ReadStat(pid)
	if errors.Is(err, fs.ErrNotExist) || err == nil && stat.Over {
		return Process{}, false, nil
	}
	if err != nil {
		return Process{}, false, fault.Wrap(fault.Environment, err)
	}
	return Process{PID: pid, Start: stat.Start, Boot: boot}, true, nil
}

// Alive says whether exactly this process runs: it does until its last thread
// has ended, and with it what it holds open.
func (p Process) Alive() (bool, error) {
	boot, err := Boot()
	if err != nil {
		return false, err
	}
	if p.Boot != boot {
		return false, nil
	}
	alive, err := Alive(p.PID, p.Start)
	return alive, fault.Wrap(fault.Environment, err)
}

// Signal sends sig to exactly this process. That it has ended is no error. The
// process is held by a pidfd while its start time is compared, so that its
// number cannot change hands in between.
func (p Process) Signal(sig os.Signal) error {
	proc, err := os.FindProcess(p.PID)
	if err != nil {
		return fault.Wrap(fault.Environment, err)
	}
	defer proc.Release()
	alive, err := p.Alive()
	if err != nil || !alive {
		return err
	}
	if err := proc.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fault.Errorf(fault.Environment, "sending %v to process %d: %w", sig, p.PID, err)
	}
	return nil
}

// Wait returns when the process has ended, or with the reason why ctx did
// before. It need not be a child of this one. Waiting costs nothing until then:
// the kernel tells.
func (p Process) Wait(ctx context.Context) error {
	if p.PID <= 0 {
		return nil
	}
	fd, err := unix.PidfdOpen(p.PID, unix.PIDFD_NONBLOCK)
	if errors.Is(err, unix.EINVAL) { // before Linux 5.10
		if fd, err = unix.PidfdOpen(p.PID, 0); err == nil {
			err = unix.SetNonblock(fd, true)
		}
	}
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fault.Errorf(fault.Environment, "watching process %d: %w", p.PID, os.NewSyscallError("pidfd_open", err)).
			Hintf("a kernel from Linux 5.3 on can do this, unless something forbids it")
	}
	f := os.NewFile(uintptr(fd), "pidfd")
	defer f.Close()
	// It is this process now, and stays so: else it has ended already.
	if alive, err := p.Alive(); err != nil || !alive {
		return err
	}
	conn, err := f.SyscallConn()
	if err != nil {
		return fault.Wrap(fault.Environment, err)
	}
	stop := context.AfterFunc(ctx, func() {
		// It can only fail on a file that cannot be waited for, and then Read does.
		_ = f.SetReadDeadline(time.Unix(1, 0))
	})
	defer stop()
	var pollErr error
	err = conn.Read(func(fd uintptr) bool {
		var over bool
		over, pollErr = readable(int(fd))
		return over || pollErr != nil
	})
	switch {
	case err != nil && ctx.Err() != nil:
		return fmt.Errorf("waiting for process %d: %w", p.PID, context.Cause(ctx))
	case err != nil || pollErr != nil:
		return fault.Wrap(fault.Environment, errors.Join(err, pollErr))
	}
	return nil
}

// readable asks, without waiting, whether a descriptor is.
func readable(fd int) (bool, error) {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(fds, 0)
		if !errors.Is(err, unix.EINTR) {
			return n > 0, err
		}
	}
}
