package qemu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/sovereign-build/sovereign/internal/process"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime/tail"
	"github.com/sovereign-build/sovereign/pkg/runtime/vm"
)

const (
	// probeLimit is a choice: an idle machine reaches userspace in about 1 s
	// even under TCG, and KVM that is ten times slower is no gain.
	probeLimit    = 10 * time.Second
	probeArgument = "sovereign.probe"
	probeAnswer   = "sovereign-probe: ok"
)

// probe boots the machine's kernel and initramfs under KVM, with no disk and
// no network, and returns why KVM does not work, "" when it does. The error is
// for what says nothing about KVM: ctx ended, QEMU would not start.
func (d *Driver) probe(ctx context.Context, m vm.Machine, p plan) (string, error) {
	limit, cancel := context.WithTimeout(ctx, d.limit)
	defer cancel()
	heard := &listener{answer: []byte(probeAnswer), found: cancel}
	cmd := exec.CommandContext(limit, p.Program, probeArguments(m, p)...)
	cmd.Stdout, cmd.Stderr = heard, heard
	cmd.Env, cmd.ExtraFiles = process.Environment(), []*os.File{m.Kernel, m.Initramfs}
	cmd.WaitDelay = time.Second
	err := runBound(cmd)
	switch {
	case heard.ok():
		return "", nil
	case ctx.Err() != nil:
		return "", fmt.Errorf("probing KVM: %w", context.Cause(ctx))
	case limit.Err() != nil:
		return fmt.Sprintf("no sign of the guest within %v", d.limit), nil
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return "", fault.Errorf(fault.Environment, "probing KVM: starting %s: %w", p.Program, err)
	}
	if last := heard.lastLine(); last != "" {
		return "the guest died: " + last, nil
	}
	return "the guest died without a word", nil
}

// probeArguments is the smallest machine that reaches the initramfs.
func probeArguments(m vm.Machine, p plan) []string {
	m.Cmdline = strings.TrimSpace(m.Cmdline + " " + probeArgument)
	args := []string{"-name", "guest=probe", "-nodefaults", "-no-user-config", "-display", "none"}
	if p.Sandbox {
		args = append(args, "-sandbox", sandbox)
	}
	p.Accel = "kvm"
	args = append(args, machineType(m.Arch, p)...)
	return append(args, "-smp", "1", "-m", "256M", "-no-reboot",
		"-kernel", descriptor(kernelFile), "-initrd", descriptor(initramfsFile), "-append", cmdline(m, "kvm"),
		"-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console")
}

// runBound runs cmd such that it dies with this program: a probe whose starter
// was killed must not spin for ever. The kernel ties that to the thread which
// forked, hence the lock.
func runBound(cmd *exec.Cmd) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		done <- cmd.Run()
	}()
	return <-done
}

// listener waits for the answer in what the probe prints, and keeps the end
// of it.
type listener struct {
	answer []byte
	found  func()

	mu   sync.Mutex
	kept []byte
	yes  bool
}

func (l *listener) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.kept = append(l.kept, p...)
	if !l.yes && bytes.Contains(l.kept, l.answer) {
		l.yes = true
		l.found()
	}
	const keep = 4 << 10
	if n := len(l.kept) - keep; n > 0 {
		l.kept = append(l.kept[:0], l.kept[n:]...)
	}
	return len(p), nil
}

func (l *listener) ok() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.yes
}

// lastLine is the last line that says something, short enough for an error.
func (l *listener) lastLine() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	lines := strings.Split(tail.Clean(string(l.kept)), "\n")
	return fmt.Sprintf("%.200s", lines[len(lines)-1])
}
