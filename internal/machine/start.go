package machine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime/vm"
)

// StartOptions change how a machine is started. The zero value is the
// manifest's size, ports chosen by us, and KVM where it works.
type StartOptions struct {
	Name      string // the manifest's name when empty
	MemoryMiB int    // 0: the manifest's
	CPUs      int    // 0: the manifest's
	// Ports maps a guest's port of the manifest to the loopback port wanted
	// for it. 0 or absent: the one it had at the last start when that is free,
	// else any free one.
	Ports map[int]int
	Accel string // "auto" (or empty), "kvm", "tcg"
	// Outbound lets the guest connect to the world and to the host's loopback
	// services. Without it only forwarded connections pass.
	Outbound bool
	// Bounce imitates a protected VM's bounce buffers; see vm.Machine.
	Bounce bool
	// NewData takes what is there as the data disk, or makes a blank one, where
	// the machine had another before. Nothing is removed by it.
	NewData bool
	Report  Report
}

// Start starts the bundle in dir and returns when the hypervisor is up; see
// WaitReady for the guest.
//
// An instance that runs already is returned as it is when its bundle is the
// same, and an error (fault.Usage) when it is another. So is one that is wanted
// up; one that is wanted down is not supervised any more. Other errors:
// fault.Verification for a damaged bundle, fault.Environment for a missing
// hypervisor, a port in use or a full file system, fault.Device for a machine
// that does not start.
func (r *Runtime) Start(ctx context.Context, dir string, o StartOptions) (*Instance, error) {
	dir, m, digest, err := readBundle(dir)
	if err != nil {
		return nil, err
	}
	if o.Name == "" {
		o.Name = m.Name
	}
	if err := o.check(m); err != nil {
		return nil, err
	}
	unlock, err := r.lock(ctx, o.Name)
	if err != nil {
		return nil, err
	}
	defer unlock()
	i, err := r.instance(o.Name)
	if err != nil {
		return nil, err
	}
	var alive bool
	if i.proc, alive, err = i.running(ctx); err != nil {
		return nil, err
	}
	if alive {
		return i, i.same(digest, dir, o)
	}
	if i.rec.Wanted == Up {
		return nil, fault.Errorf(fault.Usage, "%s is supervised, and its supervisor starts it", i.Name()).
			Hintf("wait for it with sovereign-build up %s, or take it down first", i.Name())
	}
	i.manifest, i.rec.Bundle = m, BundleRef{Path: dir, Digest: digest}
	i.rec.Wanted, i.rec.Slot = Unsupervised, ""
	i.rec.NewData = i.rec.NewData || o.NewData
	if err := i.start(ctx, o); err != nil {
		return nil, err
	}
	return i, nil
}

func (o StartOptions) check(m *bundle.Manifest) error {
	switch {
	case !nameForm.MatchString(o.Name):
		return fault.Errorf(fault.Usage, "%q cannot be an instance's name", o.Name).
			Hintf("use lower case letters, digits and dashes, beginning with a letter, at most 32")
	case o.MemoryMiB != 0 && (o.MemoryMiB < 64 || o.MemoryMiB > 1<<20):
		return fault.Errorf(fault.Usage, "memory of %d MiB is not from 64 to 1048576", o.MemoryMiB)
	case o.CPUs < 0 || o.CPUs > 64:
		return fault.Errorf(fault.Usage, "%d CPUs are not from 1 to 64", o.CPUs)
	}
	taken := map[int]int{}
	for guest, host := range o.Ports {
		if _, ok := m.Port(guest); !ok {
			return fault.Errorf(fault.Usage, "%s has no port %d to forward", m.Name, guest).
				Hintf("choose one of the ports in its manifest")
		}
		if host < 0 || host > 65535 {
			return fault.Errorf(fault.Usage, "%d is not a TCP port", host)
		}
		if other, ok := taken[host]; ok && host != 0 {
			return fault.Errorf(fault.Usage, "port %d is asked for twice, for %d and %d", host, min(guest, other), max(guest, other))
		}
		taken[host] = guest
	}
	return nil
}

// instance loads the instance's record, or begins one.
func (r *Runtime) instance(name string) (*Instance, error) {
	i, err := r.load(name)
	if !errors.Is(err, fs.ErrNotExist) {
		return i, err
	}
	dir := r.instanceDir(name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fault.Wrap(fault.Environment, err)
	}
	if err := syncDirs(filepath.Dir(dir)); err != nil {
		return nil, err
	}
	now := time.Now().UTC().Truncate(time.Second)
	return &Instance{r: r, dir: dir, rec: record{Schema: recordSchema, Name: name, Created: now}}, nil
}

// same says why a running machine is not what was asked for.
func (i *Instance) same(digest, dir string, o StartOptions) error {
	var why string
	if i.rec.Bundle.Digest != digest {
		why = fmt.Sprintf("the bundle %.19s… of %s, and %s is %.19s…", i.rec.Bundle.Digest, i.rec.Bundle.Path, dir, digest)
	}
	if o.NewData {
		why = "the data disk that it has"
	}
	for guest, host := range o.Ports {
		if now, ok := i.HostPort(guest); ok && host != 0 && now != host {
			why = fmt.Sprintf("port %d at %d, not %d", guest, now, host)
		}
	}
	if why == "" {
		tell(o.Report, PhaseStart, i.Name()+" runs already")
		return nil
	}
	return fault.Errorf(fault.Usage, "%s runs already, with %s", i.Name(), why).
		Hintf("stop it first: sovereign-build stop %s", i.Name())
}

func (i *Instance) start(ctx context.Context, o StartOptions) error {
	images, err := i.r.openImages(ctx, i.rec.Bundle.Path, i.manifest)
	if err != nil {
		return err
	}
	defer images.Close()
	if err := i.choosePorts(ctx, o.Ports); err != nil {
		return err
	}
	data, err := i.openData(time.Now().UTC().Truncate(time.Second))
	if err != nil {
		return err
	}
	defer data.Close()
	m := i.machine(o, images, data)
	plan, err := i.r.hv.Prepare(ctx, m, func(s string) { tell(o.Report, PhaseProbe, s) })
	if err != nil {
		return err
	}
	if err := i.rotateLogs(); err != nil {
		return err
	}
	i.rec.Machine = MachineID{
		Arch: m.Arch, MemoryMiB: m.MemoryMiB, CPUs: m.CPUs, Hypervisor: i.r.hv.Name() + " " + plan.Version,
		Accel: plan.Accel, Why: plan.Why, Started: time.Now().UTC().Truncate(time.Second),
	}
	// Written before the start as well: whoever finds the machine by its
	// socket must find what it runs.
	i.rec.Process = nil
	if err := i.save(); err != nil {
		return err
	}
	// Why it is not KVM has been said by Prepare, and stands in the record.
	tell(o.Report, PhaseStart, fmt.Sprintf("starting %s under %s (%s)", i.Name(), i.rec.Machine.Hypervisor, plan.Accel))
	if i.proc, err = i.r.hv.Start(ctx, m, plan); err != nil {
		return err
	}
	i.r.did("started")
	i.rec.Process = &i.proc
	if err := i.saveRecord(); err != nil {
		return errors.Join(err, i.r.device.Signal(context.WithoutCancel(ctx), i.proc, unix.SIGKILL))
	}
	return nil
}

// machine puts the manifest, the options and the open files together.
func (i *Instance) machine(o StartOptions, im *images, data *os.File) vm.Machine {
	m := i.manifest
	kernel, _ := m.Artifact(bundle.RoleKernel)
	machine := vm.Machine{
		Name: i.Name(), Arch: m.Arch, MemoryMiB: m.VM.MemoryMiB, CPUs: m.VM.CPUs,
		Kernel: im.kernel, KernelDigest: kernel.Digest, Initramfs: im.initramfs, Cmdline: m.VM.Cmdline,
		Disks: []vm.Disk{
			{Image: im.root, Serial: m.Root.Serial, ReadOnly: true},
			{Image: data, Serial: m.VM.Data.Serial},
		},
		Outbound: o.Outbound, Bounce: o.Bounce, Dir: i.dir, Accel: o.Accel,
	}
	if o.MemoryMiB != 0 {
		machine.MemoryMiB = o.MemoryMiB
	}
	if o.CPUs != 0 {
		machine.CPUs = o.CPUs
	}
	for _, p := range i.rec.Ports {
		machine.Forwards = append(machine.Forwards, vm.Forward{Guest: p.Guest, Host: p.Host})
	}
	return machine
}
