// Package crosvm builds and starts machines under crosvm, Android's: a
// vm.Hypervisor.
//
// A vm.Machine comes in and a background crosvm goes out, that is spoken to
// through a socket in the machine's directory and over vsock, and outlives its
// starter. The package gives crosvm no secret on its command line, searches no
// process by name, and decides nothing about guests.
//
// # What differs from QEMU
//
// The guest's agent and the frames of its network card come over vsock, whose
// numbers anybody on the host can dial and take: both ends prove a key first,
// which is made anew for each start and travels on a small read-only disk (package
// machinekey). There is no card, no tap and no rule on the host; the guest makes
// the device itself.
//
// A full file system of the host gives the guest I/O errors, where QEMU holds the
// machine: so disks are to have their room before (vm.RoomTaker), and a machine is
// never vm.State.Full. crosvm takes a writable image for what it begins with; that
// is looked at before every start. The console is a file, into which nobody types.
//
// What a crosvm can do differs by build: its options are asked of it, and one that
// lacks what a machine needs is told plainly. On some processors a guest with
// several CPUs is reset before it is up: after such an end there is a try with two,
// then with one, and what came up is kept for that build.
package crosvm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/internal/atomicfile"
	"github.com/sovereign-build/sovereign/internal/pause"
	"github.com/sovereign-build/sovereign/internal/process"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/machinekey"
	"github.com/sovereign-build/sovereign/pkg/runtime/tail"
	"github.com/sovereign-build/sovereign/pkg/runtime/vm"
)

// AndroidProgram is where Android has crosvm.
const AndroidProgram = "/apex/com.android.virt/bin/crosvm"

// pollEvery is the pause between two looks at what another process is about to
// make, and againEvery that between two tries to reach a guest.
const (
	pollEvery  = 10 * time.Millisecond
	againEvery = 100 * time.Millisecond
	// proofLimit is how long the proof of the key may take, from both sides.
	proofLimit = 10 * time.Second
	// maxCIDs is how many numbers are tried that others turn out to have.
	maxCIDs = 5
)

// Options change how New sets a driver up. The zero value is a phone's.
type Options struct {
	Program string // crosvm; "" is AndroidProgram
	// Cache is a directory, which must exist, that keeps what was found out
	// about the program.
	Cache string
	// Dial leads to guests; nil is DialKernel.
	Dial Dialer
	// Property is the value of one of Android's system properties, "" where it is
	// not set; nil asks getprop.
	Property func(ctx context.Context, name string) string
}

// Driver runs machines under crosvm.
type Driver struct {
	o Options

	mu   sync.Mutex // of the records, of the cache, and of ends
	ends map[string]*ending
}

// ending is how a machine that this program has started ends.
type ending struct {
	process vm.Process
	done    chan struct{} // closed when state is there
	state   *os.ProcessState
}

var (
	_ vm.Hypervisor    = (*Driver)(nil)
	_ vm.Resumer       = (*Driver)(nil)
	_ vm.Ballooner     = (*Driver)(nil)
	_ vm.DiskGrower    = (*Driver)(nil)
	_ vm.NetworkDialer = (*Driver)(nil)
	_ vm.EndTeller     = (*Driver)(nil)
	_ vm.RoomTaker     = (*Driver)(nil)
)

// New returns the driver.
func New(o Options) *Driver {
	if o.Program == "" {
		o.Program = AndroidProgram
	}
	if o.Dial == nil {
		o.Dial = DialKernel
	}
	if o.Property == nil {
		o.Property = getprop
	}
	return &Driver{o: o, ends: map[string]*ending{}}
}

func (d *Driver) cacheFile() string { return filepath.Join(d.o.Cache, "crosvm.json") }

// Name is "crosvm".
func (d *Driver) Name() string { return "crosvm" }

// TakesRoom is true: see the package's comment.
func (d *Driver) TakesRoom() bool { return true }

// plan is what Prepare found.
type plan struct {
	vm.PlanInfo
	build      string
	options    map[string]bool
	hypervisor string // value of --hypervisor; "" for crosvm's own choice
	reporting  bool   // free pages come back to the host
	maxCPUs    int    // see record.MaxCPUs
}

func (p plan) Info() vm.PlanInfo { return p.PlanInfo }

// Prepare finds out what this crosvm can do and how the machine will run.
//
// A protected machine is one that the host's hypervisor (pKVM, Gunyah) keeps the
// host from reading: without firmware in the guest, which would take only kernels
// that the phone's maker has signed. So the guest's memory is isolated while it
// runs, and nothing vouches for what was started: whoever is root on the host
// chooses that, reads its disks and has its key.
func (d *Driver) Prepare(ctx context.Context, m vm.Machine, report func(string)) (vm.Plan, error) {
	if m.Accel == "tcg" {
		return nil, fault.Errorf(fault.Device, "crosvm emulates no processor").Hintf("leave the accelerator to it")
	}
	if m.Bounce {
		return nil, fault.Errorf(fault.Device, "bounce buffers without protection are measured under QEMU, not under crosvm")
	}
	found, err := d.probe(ctx)
	if err != nil {
		return nil, err
	}
	p := plan{build: found.Build, options: map[string]bool{}}
	for _, o := range found.Options {
		p.options[o] = true
	}
	p.PlanInfo = vm.PlanInfo{Version: found.Version, Program: d.o.Program, CPUs: m.CPUs, Protected: m.Protected}
	p.Accel, p.hypervisor = hypervisor(exists)
	property := func(name string) bool {
		v := d.o.Property(ctx, name)
		return v == "1" || v == "true"
	}
	if !p.Protected && d.o.Property(ctx, "ro.boot.hypervisor.vm.supported") == "0" && property("ro.boot.hypervisor.protected_vm.supported") {
		p.Protected = true
		report("this device runs protected machines only: the guest's memory is out of its host's reach, and gets no random numbers from a device")
	}
	p.reporting = property("hypervisor.memory_reclaim.supported")
	rec, err := readRecord(m.Dir)
	if err != nil {
		return nil, err
	}
	end := d.ended(ctx, m.Dir)
	if end != nil && initBegan(m.Dir) {
		end = nil // it ended for a reason of its own
	}
	p.maxCPUs = rec.nextCPUs(p.build, m.KernelDigest, end)
	if p.maxCPUs > 0 && p.maxCPUs < p.CPUs {
		report(fmt.Sprintf("with more than %d of %d CPUs the guest does not come up under this crosvm", p.maxCPUs, p.CPUs))
		p.CPUs = p.maxCPUs
	}
	return p, nil
}

// initBegan says whether the guest of the last start came as far as its init, by
// what it printed: an end that the processor is to blame for comes before that.
func initBegan(dir string) bool {
	f, err := os.Open(filepath.Join(dir, vm.ConsoleFile))
	if err != nil {
		return false
	}
	defer f.Close()
	text, _ := io.ReadAll(io.LimitReader(f, 64<<10)) // what can be read tells enough
	return bytes.Contains(text, []byte("sovereign-init: "))
}

// hypervisor is the host's, by its device: crosvm finds KVM by itself.
func hypervisor(exists func(string) bool) (accel, option string) {
	for _, h := range []struct{ name, device string }{{"gunyah", "/dev/gunyah"}, {"geniezone", "/dev/gzvm"}} {
		if !exists("/dev/kvm") && exists(h.device) {
			return h.name, h.name
		}
	}
	return "kvm", ""
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// Start starts crosvm and waits until it answers on its control socket.
func (d *Driver) Start(ctx context.Context, m vm.Machine, chosen vm.Plan) (vm.Process, error) {
	p, own := chosen.(plan)
	if !own {
		return vm.Process{}, fault.Errorf(fault.Internal, "crosvm was given a plan of another hypervisor: %T", chosen)
	}
	if err := CheckHeads(m); err != nil {
		return vm.Process{}, err
	}
	// Checked before a running machine's socket is removed, and once more, for
	// good, when crosvm is started.
	lock := filepath.Join(m.Dir, vm.LockFile)
	if locked, err := process.Locked(lock); err != nil {
		return vm.Process{}, err
	} else if locked {
		return vm.Process{}, fault.Errorf(fault.Environment, "%s is locked: the machine runs already", lock).
			Hintf("find its process with fuser %s", lock)
	}
	rec, err := readRecord(m.Dir)
	if err != nil {
		return vm.Process{}, err
	}
	if rec.CID == 0 {
		rec.CID = chooseCID()
	}
	for tries := 1; ; {
		proc, err := d.startAt(ctx, m, p, rec.CID)
		var taken *cidTaken
		var early *resetEarly
		switch {
		case errors.As(err, &early) && p.CPUs > 1:
			// It did not even live to answer.
			p.maxCPUs = fewerCPUs(p.CPUs)
			p.CPUs = p.maxCPUs
		case errors.As(err, &taken) && tries < maxCIDs:
			rec.CID = chooseCID()
			tries++
		default:
			return proc, err
		}
	}
}

// startAt starts the machine with a number for vsock. All that is known of it is
// written down before.
func (d *Driver) startAt(ctx context.Context, m vm.Machine, p plan, cid uint32) (vm.Process, error) {
	args, err := arguments(m, p, cid)
	if err != nil {
		return vm.Process{}, err
	}
	rec := record{Program: p.Program, Build: p.build, Kernel: m.KernelDigest, CID: cid, MemoryMiB: m.MemoryMiB, CPUs: p.CPUs, MaxCPUs: p.maxCPUs}
	for _, disk := range m.Disks {
		rec.Disks = append(rec.Disks, disk.Serial)
	}
	if p.Protected {
		rec.MemoryMiB += swiotlbMiB
	}
	d.mu.Lock()
	err = writeRecord(m.Dir, rec)
	d.mu.Unlock()
	if err != nil {
		return vm.Process{}, err
	}
	key, err := MakeKey(m.Dir)
	if err != nil {
		return vm.Process{}, err
	}
	defer key.Close()
	// One that crosvm leaves when it is killed would keep the next from starting.
	if err := os.Remove(filepath.Join(m.Dir, controlSocket)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return vm.Process{}, fault.Wrap(fault.Environment, err)
	}
	log := filepath.Join(m.Dir, vm.LogFile)
	end := &ending{done: make(chan struct{})}
	proc, err := process.Start(process.Command{
		Path: p.Program, Args: args, Dir: m.Dir, Log: log, Lock: filepath.Join(m.Dir, vm.LockFile), Files: Files(m, key),
		Ended: func(s *os.ProcessState) {
			end.state = s
			close(end.done)
		},
	})
	if err != nil {
		return vm.Process{}, err
	}
	end.process = proc
	d.mu.Lock()
	d.ends[m.Dir] = end
	d.mu.Unlock()
	if err := d.up(ctx, m.Dir, end); err != nil {
		// The caller's context may be what ended the wait.
		return vm.Process{}, errors.Join(err, proc.Signal(unix.SIGKILL))
	}
	return proc, nil
}

// MakeKey makes the disk with a new key of the machine in dir, and opens it to be
// read.
func MakeKey(dir string) (*os.File, error) {
	path := filepath.Join(dir, keyFile)
	if err := atomicfile.Write(path, machinekey.New().Disk(), 0o600); err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	return f, fault.Wrap(fault.Environment, err)
}

// up waits for crosvm's first answer or its death. One that listens and does not
// understand the question is up too.
func (d *Driver) up(ctx context.Context, dir string, end *ending) error {
	for {
		if _, err := exchange(ctx, dir, reqAlive.json); err == nil || errors.Is(err, errSilent) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for crosvm: %w", context.Cause(ctx))
		case <-end.done:
			return d.startError(dir, end.state)
		case <-time.After(pollEvery):
		}
	}
}

// cidTaken is the end of a crosvm whose number another machine has.
type cidTaken struct{ error }

func (e *cidTaken) Unwrap() error { return e.error }

// resetEarly is the end of a machine that was reset, or crashed, before crosvm
// answered; see record.nextCPUs.
type resetEarly struct{ error }

func (e *resetEarly) Unwrap() error { return e.error }

// What crosvm prints when it cannot start (devices/src/virtio/vhost/mod.rs,
// disk/src/disk.rs, src/crosvm/sys/linux.rs).
var (
	cidInUse   = regexp.MustCompile(`failed to set CID for guest: .*(in use|os error 98)`)
	diskTaken  = regexp.MustCompile(`failed to lock file`)
	noMemory   = regexp.MustCompile(`(?i)out of memory|cannot allocate memory|os error 12\b`)
	noDevice   = regexp.MustCompile(`/dev/(kvm|gunyah|gzvm|vhost-vsock)`)
	memoryLock = regexp.MustCompile(`(?i)memlock|mlock`)
)

// startError is the error of a crosvm that ended before it answered.
func (d *Driver) startError(dir string, s *os.ProcessState) error {
	log := tail.Lines(8, filepath.Join(dir, vm.LogFile))
	if log == "" {
		log = "it printed nothing"
	}
	text := fmt.Errorf("crosvm did not start: %s: %s", exitText(s), log)
	with := func(c fault.Class, hint string, args ...any) error {
		return fault.Errorf(c, "%w", text).Hintf(hint, args...)
	}
	switch {
	case s.ExitCode() == exitBadArgs:
		// Another build took the place of the one that was asked.
		return errors.Join(with(fault.Device, "its options are asked anew at the next start"), d.forget())
	case atOdds(s):
		return &resetEarly{with(fault.Device, "read %s", filepath.Join(dir, vm.LogFile))}
	case cidInUse.MatchString(log):
		return &cidTaken{with(fault.Environment, "see what else runs machines here")}
	case diskTaken.MatchString(log):
		return with(fault.Environment, "another program has a disk of this machine open: end it")
	case memoryLock.MatchString(log):
		return with(fault.Environment, "sovereignd has to be root, with no limit of locked memory (ulimit -l)")
	case noMemory.MatchString(log):
		return with(fault.Environment, "give the guest less memory, or end other programs")
	case noDevice.MatchString(log):
		return with(fault.Environment, "the device's kernel has to run machines, and sovereignd has to be root")
	}
	return with(fault.Device, "read %s", filepath.Join(dir, vm.LogFile))
}

// ended is how the last machine of the directory ended that this program has
// started; nil where it did not, or runs. A process that is gone is waited for
// until its state is there, which it is a moment later.
func (d *Driver) ended(ctx context.Context, dir string) *os.ProcessState {
	d.mu.Lock()
	end := d.ends[dir]
	d.mu.Unlock()
	if end == nil {
		return nil
	}
	if alive, err := end.process.Alive(); err != nil || alive {
		return nil
	}
	select {
	case <-end.done:
		return end.state
	case <-ctx.Done():
		return nil
	}
}

// End says how the machine ended, by crosvm's exit code.
func (d *Driver) End(ctx context.Context, dir string, p vm.Process) string {
	d.mu.Lock()
	end := d.ends[dir]
	d.mu.Unlock()
	if end == nil || end.process != p {
		return ""
	}
	if s := d.ended(ctx, dir); s != nil {
		return exitText(s)
	}
	return ""
}

// Find asks the kernel which process listens on the control socket of dir. A
// crosvm that has not come that far shows by its lock, and is waited for.
func (d *Driver) Find(ctx context.Context, dir string) (vm.Process, bool, error) {
	return process.Find(ctx, filepath.Join(dir, controlSocket), filepath.Join(dir, vm.LockFile), process.PacketListener)
}

// State asks crosvm for a sign of life: it knows no more of a machine's state. It
// never holds one for a full disk.
func (d *Driver) State(ctx context.Context, dir string) (vm.State, error) {
	if _, err := d.ask(ctx, dir, reqAlive); err != nil {
		return vm.State{}, err
	}
	return vm.State{Word: "running"}, nil
}

// Resume lets the CPUs go on of a machine that somebody has suspended.
func (d *Driver) Resume(ctx context.Context, dir string) error { return d.do(ctx, dir, reqResume) }

// Quit makes crosvm end at once.
func (d *Driver) Quit(ctx context.Context, dir string) error { return d.do(ctx, dir, reqExit) }

// Balloon sets the size of the balloon, which is what the guest is to go without.
func (d *Driver) Balloon(ctx context.Context, dir string, size int64) error {
	rec, err := readRecord(dir)
	if err != nil {
		return err
	}
	return d.do(ctx, dir, reqBalloon(max(int64(rec.MemoryMiB)<<20-size, 0)))
}

// Memory asks for what the guest's balloon holds. A guest that hangs, or has no
// driver for it, gives no answer.
func (d *Driver) Memory(ctx context.Context, dir string) (int64, error) {
	rec, err := readRecord(dir)
	if err != nil {
		return 0, err
	}
	answer, err := d.ask(ctx, dir, reqStats)
	if err == nil {
		err = answer.err()
	}
	if err == nil && answer.Balloon == nil {
		err = fault.Errorf(fault.Device, "crosvm answers %q where it was asked for the balloon", answer.Other)
	}
	if err != nil {
		return 0, err
	}
	return int64(rec.MemoryMiB)<<20 - answer.Balloon.Actual, nil
}

// GrowDisk has crosvm give the disk its new size, and the image too where that is
// still shorter.
func (d *Driver) GrowDisk(ctx context.Context, dir, serial string, size int64) error {
	rec, err := readRecord(dir)
	if err != nil {
		return err
	}
	i := slices.Index(rec.Disks, serial)
	if i < 0 {
		return fault.Errorf(fault.Device, "the machine has no disk with the serial %q", serial)
	}
	return d.do(ctx, dir, reqResize(i, size))
}

// DialAgent opens a connection to the guest's agent, which has proven itself. A
// guest that is not up yet is waited for until ctx or the machine ends.
func (d *Driver) DialAgent(ctx context.Context, dir string) (net.Conn, error) {
	conn, err := WaitGuest(ctx, dir, func() (net.Conn, error) { return d.dial(ctx, dir, agent.VsockPort) })
	if err != nil {
		return nil, err
	}
	return conn, d.noteUp(dir)
}

// WaitGuest dials a guest's agent until it answers, or until ctx or the machine of
// that directory ends. A stranger in the guest's place is not waited for.
func WaitGuest(ctx context.Context, dir string, dial func() (net.Conn, error)) (net.Conn, error) {
	for {
		conn, err := dial()
		if err == nil {
			return conn, nil
		}
		if errors.Is(err, machinekey.ErrStranger) {
			return nil, err
		}
		if locked, lockErr := process.Locked(filepath.Join(dir, vm.LockFile)); lockErr != nil || !locked {
			return nil, errors.Join(err, lockErr)
		}
		if pause.For(ctx, againEvery) != nil {
			return nil, err
		}
	}
}

// DialNetwork opens the stream of the guest's network card.
func (d *Driver) DialNetwork(ctx context.Context, dir string) (net.Conn, error) {
	return d.dial(ctx, dir, agent.NetworkPort)
}

// dial connects to a port of the guest, and has both ends prove the key.
func (d *Driver) dial(ctx context.Context, dir string, port uint32) (net.Conn, error) {
	rec, err := readRecord(dir)
	if err != nil {
		return nil, err
	}
	if rec.CID == 0 {
		return nil, fault.Errorf(fault.Device, "the machine of %s was not started under crosvm", dir)
	}
	return DialGuest(ctx, d.o.Dial, dir, rec.CID, port)
}

// DialGuest connects to a port of the guest with a number, whose machine was
// started in dir with MakeKey's disk, and has both ends prove the key.
func DialGuest(ctx context.Context, dial Dialer, dir string, cid, port uint32) (net.Conn, error) {
	f, err := os.Open(filepath.Join(dir, keyFile))
	if err != nil {
		return nil, fault.Wrap(fault.Environment, err)
	}
	key, err := machinekey.ReadDisk(f)
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, fault.Wrap(fault.Environment, err)
	}
	conn, err := dial(ctx, cid, port)
	if err != nil {
		return nil, fault.Errorf(fault.Device, "vsock: port %d of machine %d: %w", port, cid, err).Hintf("%s", fault.HintOf(err))
	}
	limit, cancel := context.WithTimeout(ctx, proofLimit)
	defer cancel()
	if err := key.Host(limit, conn, port); err != nil {
		return nil, fault.Errorf(fault.Device, "vsock: port %d of machine %d: %w", port, cid, err).
			Hintf("a guest of an older image proves nothing: build it anew; else see who has taken that number")
	}
	return conn, nil
}

// noteUp writes down that the guest has come up, once a start.
func (d *Driver) noteUp(dir string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	rec, err := readRecord(dir)
	if err != nil || rec.Up {
		return err
	}
	rec.Up = true
	return writeRecord(dir, rec)
}
