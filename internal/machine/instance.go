package machine

import (
	"context"
	"path/filepath"
	"slices"
	"strings"

	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime/tail"
	"github.com/sovereign-build/sovereign/pkg/runtime/vm"
)

// Instance is one machine with its state, running or not. Its methods may be
// called from several goroutines and several programs: none of them changes
// it. So one that was got before the machine was stopped and started again
// knows the old ports: get it anew.
type Instance struct {
	r        *Runtime
	dir      string
	rec      record
	manifest *bundle.Manifest
	// proc ran the machine when the instance was got; zero where none did.
	proc vm.Process
}

// Name is the instance's name.
func (i *Instance) Name() string { return i.rec.Name }

// Dir is the instance's directory.
func (i *Instance) Dir() string { return i.dir }

// Bundle is the bundle it was last started from.
func (i *Instance) Bundle() BundleRef { return i.rec.Bundle }

// Machine says how it was last started.
func (i *Instance) Machine() MachineID { return i.rec.Machine }

// Runs says whether a process ran the machine when the instance was got.
func (i *Instance) Runs() bool { return i.proc != (vm.Process{}) }

// SameMachine says whether the machine that ran when i was got is the one that
// ran when other was got.
func (i *Instance) SameMachine(other *Instance) bool { return i.proc == other.proc }

// Manifest is the manifest of its bundle as it was at the start. It must not
// be changed.
func (i *Instance) Manifest() *bundle.Manifest { return i.manifest }

// Ports are the forwarded ports, in the order of the manifest.
func (i *Instance) Ports() []Port { return slices.Clone(i.rec.Ports) }

// HostPort is the loopback port that leads to a port of the guest.
func (i *Instance) HostPort(guest int) (int, bool) {
	for _, p := range i.rec.Ports {
		if p.Guest == guest {
			return p.Host, true
		}
	}
	return 0, false
}

// ConsoleFile is the log of what the guest prints. It is cut off at 4 MiB while
// the machine runs; what was before is in the file with ".0" at its end.
func (i *Instance) ConsoleFile() string { return filepath.Join(i.dir, vm.ConsoleFile) }

// console is the end of the console log, for errors.
func (i *Instance) console() string {
	if s := tail.Lines(12, i.consoleFiles()...); s != "" {
		return "the console's last lines:\n" + s
	}
	if s := tail.Lines(12, filepath.Join(i.dir, vm.LogFile)); s != "" {
		return "the guest printed nothing; the hypervisor's last lines:\n" + s
	}
	return "the guest printed nothing"
}

// running returns the process that runs the machine, if any: the one in the
// record, or one whose starter was killed before it wrote the record.
func (i *Instance) running(ctx context.Context) (p vm.Process, alive bool, err error) {
	if p := i.rec.Process; p != nil {
		alive, err := p.Alive()
		if err == nil && alive {
			err = i.ours()
		}
		if err != nil || alive {
			return *p, alive, err
		}
	}
	p, alive, err = i.r.hv.Find(ctx, i.dir)
	if err != nil || !alive {
		return vm.Process{}, false, err
	}
	return p, true, nil
}

// ours says whether the machine that runs is one of this program's hypervisor,
// who alone can speak with it.
func (i *Instance) ours() error {
	name, _, _ := strings.Cut(i.rec.Machine.Hypervisor, " ")
	if name == "" || name == i.r.hv.Name() {
		return nil
	}
	return fault.Errorf(fault.Environment, "%s runs under %s, and this sovereignd runs machines under %s", i.Name(), name, i.r.hv.Name()).
		Hintf("start sovereignd with --hypervisor %s, and stop the machine with that", strings.ToLower(name))
}

// able is the driver as one that can do more than every one can.
func able[T any](i *Instance, what string) (T, error) {
	can, ok := i.r.hv.(T)
	if !ok {
		return can, fault.Errorf(fault.Device, "%s cannot %s", i.r.hv.Name(), what).Hintf("take %s down first", i.Name())
	}
	return can, nil
}

// resume lets a machine go on that was held still.
func (i *Instance) resume(ctx context.Context) error {
	r, err := able[vm.Resumer](i, "let a machine go on that was held still")
	if err != nil {
		return err
	}
	return r.Resume(ctx, i.dir)
}
