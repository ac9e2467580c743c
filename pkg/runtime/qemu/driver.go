// Package qemu builds and starts machines under QEMU: a vm.Hypervisor.
//
// A vm.Machine comes in and a background QEMU goes out, that is spoken to
// through sockets in the machine's directory and outlives its starter. The
// package gives QEMU no secret, searches no process by name, and decides
// nothing about guests.
package qemu

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/internal/pause"
	"github.com/sovereign-build/sovereign/internal/process"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime/qmp"
	"github.com/sovereign-build/sovereign/pkg/runtime/tail"
	"github.com/sovereign-build/sovereign/pkg/runtime/vm"
)

// pollEvery is the pause between two looks at a file or socket that another
// process is about to make.
const pollEvery = 10 * time.Millisecond

// Driver runs machines under QEMU.
type Driver struct {
	cache string        // file of the verdicts on KVM
	limit time.Duration // of a probe
	// change makes another command line of a machine's; see WithArguments.
	change func(m vm.Machine, args []string) ([]string, error)
}

var (
	_ vm.Hypervisor    = (*Driver)(nil)
	_ vm.Resumer       = (*Driver)(nil)
	_ vm.Ballooner     = (*Driver)(nil)
	_ vm.DiskGrower    = (*Driver)(nil)
	_ vm.ConsoleOpener = (*Driver)(nil)
	_ vm.NetworkDialer = (*Driver)(nil)
)

// An Option changes how New sets a driver up.
type Option func(*Driver)

// WithArguments has QEMU started with another command line than the driver's:
// what change makes of it. It is for faults, a disk that loses data or a clock
// that is wrong, which no product should be able to ask for.
func WithArguments(change func(m vm.Machine, args []string) ([]string, error)) Option {
	return func(d *Driver) { d.change = change }
}

// New returns the driver. cacheDir, which must exist, keeps what was found out
// about KVM.
func New(cacheDir string, opts ...Option) *Driver {
	d := &Driver{
		cache: filepath.Join(cacheDir, "accel.json"), limit: probeLimit,
		change: func(_ vm.Machine, args []string) ([]string, error) { return args, nil },
	}
	for _, o := range opts {
		o(d)
	}
	return d
}

// Name is "QEMU".
func (d *Driver) Name() string { return "QEMU" }

// plan is what Prepare found.
type plan struct {
	vm.PlanInfo
	firmware string // file that the machine starts with; empty for QEMU's own choice
}

func (p plan) Info() vm.PlanInfo { return p.PlanInfo }

// Prepare finds QEMU and settles the accelerator; see accelerate.
func (d *Driver) Prepare(ctx context.Context, m vm.Machine, report func(string)) (vm.Plan, error) {
	if m.Protected {
		return nil, fault.Errorf(fault.Device, "QEMU has no protected machines").
			Hintf("they are for devices with crosvm whose kernel can protect them")
	}
	program, err := find(m.Arch)
	if err != nil {
		return nil, err
	}
	v, err := version(ctx, program)
	if err != nil {
		return nil, err
	}
	p := plan{
		PlanInfo: vm.PlanInfo{Program: program, Version: v, Sandbox: sandboxWorks(ctx, program)},
		firmware: firmware(ctx, program, m.Arch),
	}
	if p, err = d.accelerate(ctx, m, p, report); err != nil {
		return nil, err
	}
	return p, nil
}

// Start starts QEMU and waits until it answers on its control socket: by then
// it has opened the disks and set up the machine.
func (d *Driver) Start(ctx context.Context, m vm.Machine, chosen vm.Plan) (vm.Process, error) {
	p, own := chosen.(plan)
	if !own {
		return vm.Process{}, fault.Errorf(fault.Internal, "QEMU was given a plan of another hypervisor: %T", chosen)
	}
	args, err := d.change(m, arguments(m, p))
	if err != nil {
		return vm.Process{}, err
	}
	// Checked before a running machine's sockets are removed, and once more,
	// for good, when QEMU is started.
	lock := filepath.Join(m.Dir, vm.LockFile)
	if locked, err := process.Locked(lock); err != nil {
		return vm.Process{}, err
	} else if locked {
		return vm.Process{}, fault.Errorf(fault.Environment, "%s is locked: the machine runs already", lock).
			Hintf("find its process with fuser %s", lock)
	}
	for _, name := range []string{controlSocket, qmpSocket, agentSocket, networkSocket} {
		if err := os.Remove(filepath.Join(m.Dir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return vm.Process{}, fault.Wrap(fault.Environment, err)
		}
	}
	log := filepath.Join(m.Dir, vm.LogFile)
	proc, err := process.Start(process.Command{Path: p.Program, Args: args, Dir: m.Dir, Log: log, Lock: lock, Files: files(m)})
	if err != nil {
		return vm.Process{}, err
	}
	if err := d.up(ctx, m, proc); err != nil {
		// The caller's context may be what ended the wait.
		killErr := proc.Signal(unix.SIGKILL)
		return vm.Process{}, errors.Join(err, killErr)
	}
	return proc, nil
}

// up waits for QEMU's greeting or its death.
func (d *Driver) up(ctx context.Context, m vm.Machine, proc vm.Process) error {
	for {
		c, err := d.connectOnce(ctx, m.Dir)
		if err == nil {
			return c.Close()
		}
		if ctx.Err() != nil {
			return fmt.Errorf("waiting for QEMU: %w", context.Cause(ctx))
		}
		alive, aliveErr := proc.Alive()
		if aliveErr != nil {
			return aliveErr
		}
		if !alive {
			return startError(named(tail.Lines(8, filepath.Join(m.Dir, vm.LogFile)), m))
		}
		if err := pause.For(ctx, pollEvery); err != nil {
			return fmt.Errorf("waiting for QEMU: %w", err)
		}
	}
}

// What QEMU prints when it cannot start. The first was seen with 7.2. A
// version with other words gives the general error with its log.
var (
	diskTaken = regexp.MustCompile(`Failed to get (shared )?"(write|consistent read)" lock`)
	noMemory  = regexp.MustCompile(`[Cc]annot (set up guest memory|allocate memory)`)
)

// startError turns the last words of a QEMU that did not start into an error.
func startError(log string) error {
	if diskTaken.MatchString(log) {
		return fault.Errorf(fault.Environment, "another program has a disk of this machine open: %s", log).
			Hintf("end the program that uses it")
	}
	if noMemory.MatchString(log) {
		return fault.Errorf(fault.Environment, "this machine has too little memory for the guest: %s", log).
			Hintf("give the guest less memory, or end other programs")
	}
	if log == "" {
		log = "it printed nothing"
	}
	return fault.Errorf(fault.Device, "QEMU did not start: %s", log)
}

// Find asks the kernel which process listens on the control socket of dir. A
// QEMU that has not come that far shows by its lock, and is waited for.
func (d *Driver) Find(ctx context.Context, dir string) (vm.Process, bool, error) {
	return process.Find(ctx, filepath.Join(dir, qmpSocket), filepath.Join(dir, vm.LockFile), process.Listener)
}

// State asks QEMU for the state of the machine.
func (d *Driver) State(ctx context.Context, dir string) (vm.State, error) {
	var s struct {
		Status  string `json:"status"`
		Running bool   `json:"running"`
	}
	if err := d.execute(ctx, dir, "query-status", nil, &s); err != nil {
		return vm.State{}, err
	}
	return vm.State{Held: !s.Running, Full: s.Status == ioError, Word: s.Status}, nil
}

// ioError is what QEMU says of a machine that it paused for a disk. Our disks
// have werror=enospc: no other error does that.
const ioError = "io-error"

// Resume lets the machine go on, with the write that failed first.
func (d *Driver) Resume(ctx context.Context, dir string) error {
	return d.execute(ctx, dir, "cont", nil, nil)
}

// Quit makes QEMU end at once. Its disks' caches are written first; the
// guest's are lost.
func (d *Driver) Quit(ctx context.Context, dir string) error {
	return d.execute(ctx, dir, "quit", nil, nil)
}

// DialNetwork opens the socket of the card.
func (d *Driver) DialNetwork(ctx context.Context, dir string) (net.Conn, error) {
	return dial(ctx, filepath.Join(dir, networkSocket))
}

// DialAgent opens the socket of the agent's port.
func (d *Driver) DialAgent(ctx context.Context, dir string) (net.Conn, error) {
	return dial(ctx, filepath.Join(dir, agentSocket))
}

// dial opens one of QEMU's sockets that serve one at a time. A former connection
// that QEMU has not done away with yet shows as EAGAIN.
func dial(ctx context.Context, path string) (net.Conn, error) {
	for {
		conn, err := process.Dial(ctx, path)
		if !errors.Is(err, unix.EAGAIN) {
			return conn, fault.Wrap(fault.Device, err)
		}
		if err := pause.For(ctx, pollEvery); err != nil {
			return nil, fault.Wrap(fault.Device, err)
		}
	}
}

// OpenConsole opens the socket of the console.
func (d *Driver) OpenConsole(ctx context.Context, dir string) (io.ReadWriteCloser, error) {
	conn, err := process.Dial(ctx, filepath.Join(dir, consoleSocket))
	return conn, fault.Wrap(fault.Device, err)
}

// execute runs one command in a control session of its own; see qmp.Client.
func (d *Driver) execute(ctx context.Context, dir, command string, args, result any) error {
	c, err := d.connect(ctx, dir)
	if err != nil {
		return err
	}
	defer c.Close()
	return c.Execute(ctx, command, args, result)
}

// connect opens a control session of the driver's own. QEMU serves one at a
// time; while another command has it, this one waits until ctx ends.
func (d *Driver) connect(ctx context.Context, dir string) (*qmp.Client, error) {
	for {
		c, err := d.connectOnce(ctx, dir)
		if !errors.Is(err, unix.EAGAIN) {
			return c, err
		}
		if err := pause.For(ctx, pollEvery); err != nil {
			return nil, fmt.Errorf("waiting for QEMU's control socket: %w", err)
		}
	}
}

func (d *Driver) connectOnce(ctx context.Context, dir string) (*qmp.Client, error) {
	conn, err := process.Dial(ctx, filepath.Join(dir, controlSocket))
	if errors.Is(err, os.ErrNotExist) {
		// A machine that an older version has started.
		conn, err = process.Dial(ctx, filepath.Join(dir, qmpSocket))
	}
	if err != nil {
		return nil, fault.Wrap(fault.Device, err)
	}
	return qmp.New(ctx, conn)
}
