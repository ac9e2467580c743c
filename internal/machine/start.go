package machine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/snapshot"
	"github.com/sovereign-build/sovereign/pkg/runtime/vm"
)

// checkStart says what is wrong with values that a start is to use.
func checkStart(o UpOptions, name string, m *bundle.Manifest) error {
	switch {
	case !nameForm.MatchString(name):
		return fault.Errorf(fault.Usage, "%q cannot be an instance's name", name).
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

// start starts the machine from the bundle of the record, with the record's
// options.
func (i *Instance) start(ctx context.Context) (err error) {
	o := i.rec.Options
	report := func(e Event) { i.r.report(i.Name(), e) }
	images, err := i.r.openImages(ctx, i.rec.Bundle.Path, i.manifest)
	if err != nil {
		return err
	}
	defer images.Close()
	if o.Isolated {
		i.rec.Ports = nil
	} else if err := i.choosePorts(ctx, o.Ports); err != nil {
		return err
	}
	data, err := i.openData(time.Now().UTC().Truncate(time.Second))
	if err != nil {
		return err
	}
	defer data.Close()
	if err := i.takeRoom(data); err != nil {
		return err
	}
	m := i.machine(o, images, data)
	info, err := data.Stat()
	if err != nil {
		return fault.Wrap(fault.Environment, err)
	}
	recovery, err := i.openRecovery()
	if err != nil {
		return err
	}
	// A machine goes on without snapshots where there can be no sparse file.
	if recovery != nil {
		defer recovery.Close()
		m.Disks = append(m.Disks, vm.Disk{Image: recovery, Serial: recoverySerial, ReadOnly: true})
		m.Cmdline += " sovereign.recovery=" + recoverySerial
	} else if scratch, err := i.openScratch(info.Size()); err == nil {
		defer scratch.Close()
		m.Disks = append(m.Disks, vm.Disk{Image: scratch, Serial: snapshot.Serial, Scratch: true})
	} else {
		tell(report, PhaseStart, fmt.Sprintf("%s has no scratch disk, and no snapshot of it can be taken: %v", i.Name(), err))
	}
	dialer, ok := i.r.hv.(vm.NetworkDialer)
	if o.Isolated && !ok {
		return fault.Errorf(fault.Device, "%s gives every machine a network, and %s was restored to have none", i.r.hv.Name(), i.Name()).
			Hintf("activate it, if it may have one: sovereign-build up %s --activate", i.Name())
	}
	ok = ok && !o.Isolated
	if ok {
		if m.Card, err = i.plugIn(o.Outbound); err != nil {
			return err
		}
		// What goes wrong from here leaves nothing that listens.
		defer func() {
			if err != nil {
				i.r.unplug(i.Name())
			}
		}()
		if err = i.listen(false); err != nil {
			return err
		}
	} else {
		i.rec.Network = nil
	}
	plan, err := i.r.hv.Prepare(ctx, m, func(s string) { tell(report, PhaseProbe, s) })
	if err != nil {
		return err
	}
	if err = i.rotateLogs(); err != nil {
		return err
	}
	found := plan.Info()
	i.rec.Machine = MachineID{
		Arch: m.Arch, MemoryMiB: m.MemoryMiB, CPUs: cmp.Or(found.CPUs, m.CPUs),
		Hypervisor: strings.TrimSpace(i.r.hv.Name() + " " + found.Version), Protected: found.Protected,
		Accel: found.Accel, Why: found.Why, Started: time.Now().UTC().Truncate(time.Second),
	}
	// Written before the start as well: whoever finds the machine by its
	// socket must find what it runs.
	i.rec.Process = nil
	if err = i.save(); err != nil {
		return err
	}
	// Why it is not KVM has been said by Prepare, and stands in the record.
	tell(report, PhaseStart, fmt.Sprintf("starting %s under %s (%s)", i.Name(), i.rec.Machine.Hypervisor, found.Accel))
	if i.proc, err = i.r.hv.Start(ctx, m, plan); err != nil {
		return err
	}
	i.r.did("started")
	if ok {
		i.connect(dialer)
	}
	i.rec.Process = &i.proc
	if err = i.saveRecord(); err != nil {
		return errors.Join(err, i.proc.Signal(unix.SIGKILL))
	}
	return nil
}

// machine puts the manifest, the options and the open files together.
func (i *Instance) machine(o Options, im *images, data *os.File) vm.Machine {
	m := i.manifest
	kernel, _ := m.Artifact(bundle.RoleKernel)
	machine := vm.Machine{
		Name: i.Name(), Arch: m.Arch, MemoryMiB: m.VM.MemoryMiB, CPUs: m.VM.CPUs,
		Kernel: im.kernel, KernelDigest: kernel.Digest, Initramfs: im.initramfs, Cmdline: m.VM.Cmdline + i.historyWord(),
		Disks: []vm.Disk{
			{Image: im.root, Serial: m.Root.Serial, ReadOnly: true},
			{Image: data, Serial: m.VM.Data.Serial, Thin: i.thin()},
		},
		Bounce: o.Bounce, Protected: o.Protected, Dir: i.dir, Accel: o.Accel,
	}
	if o.MemoryMiB != 0 {
		machine.MemoryMiB = o.MemoryMiB
	}
	if o.CPUs != 0 {
		machine.CPUs = o.CPUs
	}
	return machine
}
