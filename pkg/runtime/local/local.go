// Package local is the machine this program runs on, as a vm.Device.
//
// Commands come in and background processes go out, each identified by PID,
// start time and boot, so that no signal ever reaches a process that merely
// inherited a number. It reads /proc and never searches processes by name.
package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/internal/procstat"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime/vm"
)

// Device is this machine. The zero value is ready for use.
type Device struct{}

var _ vm.Device = Device{}

// Name is "this machine".
func (Device) Name() string { return "this machine" }

// Arch is the architecture this program was built for.
func (Device) Arch() string { return runtime.GOARCH }

// Boot returns the kernel's boot_id.
func (Device) Boot(context.Context) (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fault.Wrap(fault.Environment, err)
	}
	return strings.TrimSpace(string(b)), nil
}

// Environment is what a program in the background gets of this program's
// environment. The rest, in which there may be secrets, is nobody's business for
// as long as a machine runs: any process of this user can read it in /proc.
func Environment() []string {
	var env []string
	for _, name := range []string{
		"PATH",            // sovereignd looks for QEMU in it
		"LD_LIBRARY_PATH", // of a QEMU that is not the system's
	} {
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	return env
}

// Start starts c in a session of its own with /dev/null as its input and
// c.Log as its output.
func (d Device) Start(ctx context.Context, c vm.Command) (vm.Process, error) {
	boot, err := d.Boot(ctx)
	if err != nil {
		return vm.Process{}, err
	}
	log, err := os.OpenFile(c.Log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return vm.Process{}, fault.Wrap(fault.Environment, err)
	}
	defer log.Close()
	// Not CommandContext: the process must outlive the caller.
	cmd := exec.Command(c.Path, c.Args...)
	cmd.Env = Environment()
	cmd.ExtraFiles = slices.Clone(c.Files) // from descriptor 3 on
	if c.Lock != "" {
		lock, err := hold(c.Lock)
		if err != nil {
			return vm.Process{}, err
		}
		// The lock is the open file's, which the process gets too.
		defer lock.Close()
		cmd.ExtraFiles = append(cmd.ExtraFiles, lock)
	}
	cmd.Dir, cmd.Stdout, cmd.Stderr = c.Dir, log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return vm.Process{}, fault.Errorf(fault.Environment, "starting %s: %w", c.Path, err)
	}
	stat, err := procstat.Read(cmd.Process.Pid)
	// Reap it if it ends before this program does. Its status says nothing
	// that its log does not.
	go cmd.Wait()
	if err != nil || stat.Over {
		return vm.Process{}, fault.Errorf(fault.Device, "%s ended at once", c.Path).Hintf("read %s", c.Log)
	}
	return vm.Process{PID: cmd.Process.Pid, Start: stat.Start, Boot: boot}, nil
}

// Alive says whether p runs: it does until its last thread has ended, and with
// it what it holds open.
func (d Device) Alive(ctx context.Context, p vm.Process) (bool, error) {
	boot, err := d.Boot(ctx)
	if err != nil {
		return false, err
	}
	if p.Boot != boot {
		return false, nil
	}
	alive, err := procstat.Alive(p.PID, p.Start)
	return alive, fault.Wrap(fault.Environment, err)
}

// wholeFile is a lock of everything in a file. One of an open file description
// (F_OFD_SETLK) is handed down with the file, lasts until the last process with
// it has ended, and can be asked for without being taken.
func wholeFile() *unix.Flock_t { return &unix.Flock_t{Type: unix.F_WRLCK} }

// hold makes and locks a file.
func hold(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fault.Wrap(fault.Environment, err)
	}
	err = unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, wholeFile())
	if err == nil {
		return f, nil
	}
	closeErr := f.Close()
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
		return nil, fault.Errorf(fault.Environment, "another process has %s locked: the machine runs already", path).
			Hintf("find it with fuser %s", path)
	}
	return nil, fault.Wrap(fault.Environment, errors.Join(&fs.PathError{Op: "lock", Path: path, Err: err}, closeErr))
}

// Locked says whether a process has the lock of a file, which need not be
// there.
func (Device) Locked(_ context.Context, path string) (bool, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fault.Wrap(fault.Environment, err)
	}
	defer f.Close()
	lock := wholeFile()
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, lock); err != nil {
		return false, fault.Wrap(fault.Environment, &fs.PathError{Op: "lock", Path: path, Err: err})
	}
	return lock.Type != unix.F_UNLCK, nil
}

// Signal sends sig to p. The process is held by a pidfd while its start time
// is compared, so that its number cannot change hands in between.
func (d Device) Signal(ctx context.Context, p vm.Process, sig os.Signal) error {
	proc, err := os.FindProcess(p.PID)
	if err != nil {
		return fault.Wrap(fault.Environment, err)
	}
	defer proc.Release()
	alive, err := d.Alive(ctx, p)
	if err != nil || !alive {
		return err
	}
	if err := proc.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fault.Errorf(fault.Environment, "sending %v to process %d: %w", sig, p.PID, err)
	}
	return nil
}

// Dial connects. For network "unix" the path may be longer than the 107 bytes
// of a socket address.
func (Device) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	var dialer net.Dialer
	if network != "unix" || len(address) <= 100 {
		return dialer.DialContext(ctx, network, address)
	}
	dir, err := os.Open(filepath.Dir(address))
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	short := fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(address))
	return dialer.DialContext(ctx, network, short)
}

// PortFree listens on 127.0.0.1:port for a moment.
func (Device) PortFree(ctx context.Context, port int) (int, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		return 0, fault.Errorf(fault.Environment, "port %d of 127.0.0.1 is in use by another program", port).
			Hintf("end that program (ss -ltnp 'sport = :%d' names it) or choose another port", port)
	case errors.Is(err, unix.EACCES):
		return 0, fault.Errorf(fault.Environment, "port %d of 127.0.0.1 needs more rights than this user has", port).
			Hintf("choose a port from 1024 up")
	case err != nil:
		return 0, fault.Errorf(fault.Environment, "port %d of 127.0.0.1: %w", port, err)
	}
	got := l.Addr().(*net.TCPAddr).Port
	return got, l.Close()
}

// Listener returns the process that listens on a socket file; ok is false when
// nobody does.
func (d Device) Listener(ctx context.Context, path string) (p vm.Process, ok bool, err error) {
	conn, err := d.Dial(ctx, "unix", path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ECONNREFUSED) {
		return p, false, nil
	}
	if err != nil {
		return p, false, fault.Wrap(fault.Environment, err)
	}
	defer conn.Close()
	uc, isUnix := conn.(*net.UnixConn)
	if !isUnix {
		return p, false, fault.Errorf(fault.Internal, "%s gave a %T", path, conn)
	}
	raw, err := uc.SyscallConn()
	if err != nil {
		return p, false, fault.Wrap(fault.Environment, err)
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil || credErr != nil {
		return p, false, fault.Wrap(fault.Environment, errors.Join(err, credErr))
	}
	boot, err := d.Boot(ctx)
	if err != nil {
		return p, false, err
	}
	stat, err := procstat.Read(int(cred.Pid))
	if errors.Is(err, fs.ErrNotExist) || err == nil && stat.Over {
		return p, false, nil // it ended a moment ago
	}
	return vm.Process{PID: int(cred.Pid), Start: stat.Start, Boot: boot}, err == nil, fault.Wrap(fault.Environment, err)
}
