// Package avf builds and starts machines by the program vm of Android's own
// service for virtual machines (AVF), for a user who is not root: a
// vm.Hypervisor.
//
// A phone that is not rooted lets adb's shell, and nobody else that we could be,
// have machines with kernels of their own; below it is the very crosvm that a
// rooted phone runs. A vm.Machine comes in and a background vm goes out, which the
// machine lives and dies with. The package knows nothing of guests.
//
// # What differs from crosvm
//
// The service says which number for vsock a machine has, once it runs, and opens
// nothing but what vm hands to it. There is no control socket: a machine is ended
// by the end of vm, its memory and its disks are what they were at the start.
// Its end is told by a word that vm prints, whatever vm's exit code.
//
// The shell may open no vsock: only adbd may, for whoever has debugging of the
// phone. So guests are reached by way of a computer that adb is connected to, and
// not while there is none (DialRelays).
package avf

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/internal/atomicfile"
	"github.com/sovereign-build/sovereign/internal/pause"
	"github.com/sovereign-build/sovereign/internal/process"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime/crosvm"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
	"github.com/sovereign-build/sovereign/pkg/runtime/tail"
	"github.com/sovereign-build/sovereign/pkg/runtime/vm"
)

// AndroidProgram is where Android has vm.
const AndroidProgram = "/apex/com.android.virt/bin/vm"

const (
	configFile = "vm_config.json" // in the machine's directory, where vm runs
	cidFile    = "avf-cid"        // the machine's number, as of its last start
)

const (
	pollEvery  = 20 * time.Millisecond
	againEvery = 200 * time.Millisecond
	// findLimit bounds a look for the process that runs a machine.
	findLimit = 5 * time.Second
	// maxSaid is how much of the console's begin and end is read for what vm
	// says there, bytes.
	maxSaid = 64 << 10
)

// Warning is what whoever starts a machine so has to know.
const Warning = "this phone is not rooted: the machine ends with adbd (the cable, USB settings, a restart of the phone), and has a network and can be reached only while a command of yours is connected, such as forward"

// Options change how New sets a driver up.
type Options struct {
	Program string // vm; "" is AndroidProgram
	// Dial leads to guests: see DialRelays.
	Dial crosvm.Dialer
}

// Driver runs machines by vm.
type Driver struct{ o Options }

var (
	_ vm.Hypervisor    = (*Driver)(nil)
	_ vm.NetworkDialer = (*Driver)(nil)
	_ vm.EndTeller     = (*Driver)(nil)
	_ vm.RoomTaker     = (*Driver)(nil)
)

// New returns the driver.
func New(o Options) *Driver {
	if o.Program == "" {
		o.Program = AndroidProgram
	}
	return &Driver{o}
}

// Name is "AVF": one word, as a machine's record begins with it.
func (d *Driver) Name() string { return "AVF" }

// TakesRoom is true, as it is of crosvm.
func (d *Driver) TakesRoom() bool { return true }

type plan struct{ vm.PlanInfo }

func (p plan) Info() vm.PlanInfo { return p.PlanInfo }

// Prepare says what such a machine cannot have, and settles the rest.
func (d *Driver) Prepare(_ context.Context, m vm.Machine, report func(string)) (vm.Plan, error) {
	switch {
	case m.Accel == "tcg":
		return nil, fault.Errorf(fault.Device, "Android's vm emulates no processor").Hintf("leave the accelerator to it")
	case m.Bounce:
		return nil, fault.Errorf(fault.Device, "bounce buffers without protection are measured under QEMU")
	case m.Protected:
		return nil, fault.Errorf(fault.Device, "without root a protected machine begins with the phone's own firmware, which takes only kernels that its maker has signed").
			Hintf("leave out --protected, or use a phone that is rooted")
	}
	if _, err := os.Stat(d.o.Program); err != nil {
		return nil, fault.Errorf(fault.Environment, "Android's vm: %w", err).
			Hintf("a phone has it in %s where it can run machines", AndroidProgram)
	}
	report(Warning)
	return plan{vm.PlanInfo{Accel: "kvm", Program: d.o.Program, CPUs: m.CPUs}}, nil
}

// Start starts vm, and returns when it has said which number the machine has.
func (d *Driver) Start(ctx context.Context, m vm.Machine, _ vm.Plan) (vm.Process, error) {
	if err := crosvm.CheckHeads(m); err != nil {
		return vm.Process{}, err
	}
	lock := filepath.Join(m.Dir, vm.LockFile)
	if locked, err := process.Locked(lock); err != nil {
		return vm.Process{}, err
	} else if locked {
		return vm.Process{}, fault.Errorf(fault.Environment, "%s is locked: the machine runs already", lock)
	}
	c, err := configure(m)
	if err != nil {
		return vm.Process{}, err
	}
	text, err := c.text()
	if err != nil {
		return vm.Process{}, fault.Wrap(fault.Internal, err)
	}
	if err := atomicfile.Write(filepath.Join(m.Dir, configFile), text, 0o600); err != nil {
		return vm.Process{}, err
	}
	// That of the last start is nobody's any more.
	if err := os.Remove(filepath.Join(m.Dir, cidFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return vm.Process{}, fault.Wrap(fault.Environment, err)
	}
	key, err := crosvm.MakeKey(m.Dir)
	if err != nil {
		return vm.Process{}, err
	}
	defer key.Close()
	ways := topologies(m.CPUs)
	for n, topology := range ways {
		p, err := d.start(ctx, m, topology, crosvm.Files(m, key))
		var unknown *unknownTopology
		if errors.As(err, &unknown) && n < len(ways)-1 {
			continue
		}
		return p, err
	}
	return vm.Process{}, fault.Errorf(fault.Internal, "there is no way to say %d CPUs", m.CPUs)
}

// unknownTopology is the end of a vm that did not understand how many CPUs.
type unknownTopology struct{ error }

func (e *unknownTopology) Unwrap() error { return e.error }

func (d *Driver) start(ctx context.Context, m vm.Machine, topology string, open []*os.File) (vm.Process, error) {
	console, log := filepath.Join(m.Dir, vm.ConsoleFile), filepath.Join(m.Dir, vm.LogFile)
	// What it says is behind what stands there.
	at := size(console)
	ended := make(chan struct{})
	proc, err := process.Start(process.Command{
		Path: d.o.Program, Args: arguments(m, topology), Dir: m.Dir, Log: log, Output: console,
		Lock: filepath.Join(m.Dir, vm.LockFile), Files: open,
		Ended: func(*os.ProcessState) { close(ended) },
	})
	if err != nil {
		return vm.Process{}, err
	}
	for {
		if cid, ok := saidCID(console, at); ok {
			text := strconv.FormatUint(uint64(cid), 10) + "\n"
			if err := atomicfile.Write(filepath.Join(m.Dir, cidFile), []byte(text), 0o600); err != nil {
				return vm.Process{}, errors.Join(err, proc.Signal(unix.SIGKILL))
			}
			return proc, nil
		}
		select {
		case <-ctx.Done():
			return vm.Process{}, errors.Join(fmt.Errorf("waiting for vm: %w", context.Cause(ctx)), proc.Signal(unix.SIGKILL))
		case <-ended:
			return vm.Process{}, startError(log, console, topology)
		case <-time.After(pollEvery):
		}
	}
}

func size(path string) int64 {
	info, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return info.Size()
}

// startError is the error of a vm that ended before it had a machine.
func startError(log, console, topology string) error {
	said := strings.TrimSpace(tail.Lines(8, log) + "\n" + tail.Lines(2, console))
	if said == "" {
		said = "it printed nothing"
	}
	err := fault.Errorf(fault.Device, "Android's vm did not start the machine: %s", said)
	switch {
	case notKnown(said, topology):
		return &unknownTopology{err}
	case strings.Contains(said, "MANAGE_VIRTUAL_MACHINE"), strings.Contains(said, "USE_CUSTOM_VIRTUAL_MACHINE"):
		return err.Hintf("only adb's shell may have such machines: start sovereignd by adb, not by an app")
	case strings.Contains(said, "not supported"):
		return err.Hintf("see what this phone can do: adb shell %s info", AndroidProgram)
	}
	return err.Hintf("read %s", log)
}

// created is what vm prints once the service has a machine, ended what it prints at
// its end (android/vm/src/run.rs).
var (
	created = regexp.MustCompile(`(?m)^Created (?:debuggable )?VM from .* with CID (\d+), state is `)
	ended   = regexp.MustCompile(`(?m)^VM ended: (\w+)`)
)

// saidCID looks for the machine's number in what was printed from an offset on. The
// guest prints there too, and may say a wrong one: nobody who has its key answers
// there then.
func saidCID(console string, from int64) (uint32, bool) {
	text, err := part(console, from, maxSaid)
	if err != nil {
		return 0, false
	}
	m := created.FindSubmatch(text)
	if m == nil {
		return 0, false
	}
	n, err := strconv.ParseUint(string(m[1]), 10, 32)
	return uint32(n), err == nil && n >= 3
}

// part reads a part of a file.
func part(path string, from int64, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.NewSectionReader(f, from, limit))
}

// cid is the number of the machine of a directory. One whose starter was killed
// before it could write that down still has it in its console's begin.
func cid(dir string) (uint32, error) {
	path := filepath.Join(dir, cidFile)
	text, err := part(path, 0, 32)
	if err == nil {
		n, parseErr := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 32)
		if parseErr == nil && n >= 3 {
			return uint32(n), nil
		}
	}
	if n, ok := saidCID(filepath.Join(dir, vm.ConsoleFile), 0); ok {
		return n, nil
	}
	return 0, fault.Errorf(fault.Device, "no number for vsock is known of the machine of %s", dir).
		Hintf("start it again: sovereign-build down, and up")
}

// Find returns the vm that was started with the lock of dir.
func (d *Driver) Find(ctx context.Context, dir string) (vm.Process, bool, error) {
	lock := filepath.Join(dir, vm.LockFile)
	limit, cancel := context.WithTimeout(ctx, findLimit)
	defer cancel()
	for {
		p, ok, err := process.Holder(lock)
		if ok || err != nil {
			return p, ok, err
		}
		// One that is locked and is nobody's is about to end.
		locked, err := process.Locked(lock)
		if err != nil || !locked {
			return vm.Process{}, false, err
		}
		if pause.For(limit, pollEvery) != nil {
			return vm.Process{}, false, fault.Errorf(fault.Device, "%s is locked by a process that is not this user's", lock)
		}
	}
}

// State knows only whether vm runs.
func (d *Driver) State(_ context.Context, dir string) (vm.State, error) {
	locked, err := process.Locked(filepath.Join(dir, vm.LockFile))
	if err == nil && !locked {
		err = fault.Errorf(fault.Device, "the machine of %s does not run", dir)
	}
	return vm.State{Word: "running"}, err
}

// Quit ends vm, and so the machine: the service ends one whose owner is gone.
func (d *Driver) Quit(ctx context.Context, dir string) error {
	p, ok, err := d.Find(ctx, dir)
	if err != nil || !ok {
		return err
	}
	return p.Signal(unix.SIGKILL)
}

// End is the word that vm said last.
func (d *Driver) End(_ context.Context, dir string, _ vm.Process) string {
	console := filepath.Join(dir, vm.ConsoleFile)
	text, err := part(console, max(0, size(console)-maxSaid), maxSaid)
	if err != nil {
		return ""
	}
	all := ended.FindAllSubmatch(text, -1)
	if len(all) == 0 {
		return "vm was ended, and with it the machine"
	}
	return "Android's vm says: " + string(all[len(all)-1][1])
}

// DialAgent opens a connection to the guest's agent, which has proven itself. A
// guest that is not up yet is waited for until ctx or the machine ends.
func (d *Driver) DialAgent(ctx context.Context, dir string) (net.Conn, error) {
	return crosvm.WaitGuest(ctx, dir, func() (net.Conn, error) { return d.dial(ctx, dir, agent.VsockPort) })
}

// DialNetwork opens the stream of the guest's network card.
func (d *Driver) DialNetwork(ctx context.Context, dir string) (net.Conn, error) {
	return d.dial(ctx, dir, agent.NetworkPort)
}

func (d *Driver) dial(ctx context.Context, dir string, port uint32) (net.Conn, error) {
	n, err := cid(dir)
	if err != nil {
		return nil, err
	}
	return crosvm.DialGuest(ctx, d.o.Dial, dir, n, port)
}
