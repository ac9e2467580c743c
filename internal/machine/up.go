package machine

import (
	"context"
	"maps"
	"path/filepath"
	"time"

	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime/vm"
)

// apply changes the record as wanting it up does.
func (in *installed) apply(o UpOptions) {
	if in.Policy == (Policy{}) {
		in.Policy = DefaultPolicy()
	}
	if o.Restart != "" {
		in.Policy.Restart = o.Restart
	}
	if o.Limit != nil {
		in.Policy.Limit = *o.Limit
	}
	if o.MemoryMiB != 0 {
		in.Options.MemoryMiB = o.MemoryMiB
	}
	if o.CPUs != 0 {
		in.Options.CPUs = o.CPUs
	}
	if len(o.Ports) > 0 && in.Options.Ports == nil {
		in.Options.Ports = map[int]int{}
	}
	maps.Copy(in.Options.Ports, o.Ports)
	if o.Accel != "" {
		in.Options.Accel = o.Accel
	}
	if o.Outbound != nil {
		in.Options.Outbound = *o.Outbound
	}
}

func checkOptions(o UpOptions, name string, m *bundle.Manifest) error {
	switch {
	case o.Restart != "" && o.Restart != RestartAlways && o.Restart != RestartNever:
		return fault.Errorf(fault.Usage, "restart policy %q is neither always nor never", o.Restart)
	case o.Limit != nil && (*o.Limit < 0 || *o.Limit > 1000000):
		return fault.Errorf(fault.Usage, "a limit of %d restarts is not from 0 to 1000000", *o.Limit)
	}
	return StartOptions{Name: name, MemoryMiB: o.MemoryMiB, CPUs: o.CPUs, Ports: o.Ports}.check(m)
}

// Up writes down that an instance is wanted up, for a supervisor to make it
// true. An instance that is not installed yet is, from its bundle: copied into
// a slot, so that nothing that happens to the bundle's directory reaches it.
// Ends in a row are forgotten.
func (r *Runtime) Up(ctx context.Context, name string, o UpOptions, report Report) (*Instance, error) {
	i, err := r.Instance(ctx, name)
	if err != nil {
		return nil, err
	}
	if i.rec.Active == "" {
		return r.Install(ctx, i.rec.Bundle.Path, name, o, report)
	}
	unlock, err := r.lock(ctx, name)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if i, err = r.load(name); err != nil {
		return nil, err
	}
	return i, i.up(ctx, o)
}

// Install copies the bundle in dir into a slot of a new instance, or of one
// that only ever ran from a bundle's directory, and writes down that it is
// wanted up. An empty name is the manifest's. One that is installed already
// stays as it is when the bundle is the same, and is an error (fault.Usage)
// when it is another: that is an Update.
func (r *Runtime) Install(ctx context.Context, dir, name string, o UpOptions, report Report) (*Instance, error) {
	dir, m, digest, err := readBundle(dir)
	if err != nil {
		return nil, err
	}
	if name == "" {
		name = m.Name
	}
	if err := checkOptions(o, name, m); err != nil {
		return nil, err
	}
	unlockCopy, err := r.lock(ctx, name+".copy")
	if err != nil {
		return nil, err
	}
	defer unlockCopy()
	i, err := r.instance(name)
	if err != nil {
		return nil, err
	}
	copied := ""
	if i.rec.Active == "" {
		if err := i.installable(ctx, digest); err != nil {
			return nil, err
		}
		tell(report, PhaseInstall, "installing "+dir)
		if copied, err = i.copyBundle(ctx, dir, m); err != nil {
			return nil, err
		}
	}
	unlock, err := r.lock(ctx, name)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if i, err = r.instance(name); err != nil {
		return nil, err
	}
	if err := i.installable(ctx, digest); err != nil {
		return nil, err
	}
	if i.rec.Active != "" {
		return i, i.up(ctx, o)
	}
	if err := i.putSlot(copied, "a"); err != nil {
		return nil, err
	}
	i.rec.Slots = map[SlotName]Slot{"a": newSlot(digest, dir)}
	i.rec.Active = "a"
	i.manifest = m
	if i.proc == (vm.Process{}) {
		i.rec.Bundle = BundleRef{Path: i.slotDir("a"), Digest: digest}
	} // else it runs from a directory with the same content
	return i, i.up(ctx, o)
}

// installable says whether the bundle can become what the instance runs.
func (i *Instance) installable(ctx context.Context, digest string) error {
	if active, ok := i.rec.Slots[i.rec.Active]; ok {
		if active.Digest != digest {
			return fault.Errorf(fault.Usage, "%s is installed already, with the bundle %.19s… of %s", i.Name(), active.Digest, active.Source).
				Hintf("change it with sovereign-build update %s BUNDLE", i.Name())
		}
		return nil
	}
	process, alive, err := i.running(ctx)
	if err != nil {
		return err
	}
	i.proc = process
	if alive && i.rec.Bundle.Digest != digest {
		return fault.Errorf(fault.Usage, "%s runs already, with the bundle %.19s… of %s", i.Name(), i.rec.Bundle.Digest, i.rec.Bundle.Path).
			Hintf("stop it first: sovereign-build stop %s", i.Name())
	}
	return nil
}

// up is the write that makes an instance wanted. The caller has the lock.
func (i *Instance) up(ctx context.Context, o UpOptions) error {
	if err := checkOptions(o, i.Name(), i.manifest); err != nil {
		return err
	}
	process, alive, err := i.running(ctx)
	if err != nil {
		return err
	}
	i.proc = process
	if alive && i.rec.Wanted == Unsupervised && i.rec.Bundle.Digest != i.rec.Slots[i.rec.Active].Digest {
		return fault.Errorf(fault.Usage, "%s runs from %s, which is not the bundle that is installed", i.Name(), i.rec.Bundle.Path).
			Hintf("stop it first: sovereign-build stop %s", i.Name())
	}
	if alive && i.rec.Wanted == Unsupervised {
		i.rec.Slot = i.rec.Active
	}
	if alive && o.NewData {
		return fault.Errorf(fault.Usage, "%s runs, with the data disk that it has", i.Name()).
			Hintf("take it down first: sovereign-build down %s", i.Name())
	}
	if err := i.removeLitter(); err != nil {
		return err
	}
	i.rec.apply(o)
	i.rec.NewData = i.rec.NewData || o.NewData
	i.rec.Wanted = Up
	i.rec.fresh()
	return i.save()
}

// readBundle reads a bundle's manifest and names both it and its directory.
func readBundle(dir string) (abs string, m *bundle.Manifest, digest string, err error) {
	if abs, err = filepath.Abs(dir); err != nil {
		return "", nil, "", fault.Wrap(fault.Environment, err)
	}
	if m, err = bundle.Load(abs); err != nil {
		return "", nil, "", err
	}
	digest, err = bundle.Digest(abs)
	return abs, m, digest, err
}

// Restart stops a supervised machine in order; its supervisor starts it again
// at once. grace is as in Stop. Ends in a row are forgotten.
func (i *Instance) Restart(ctx context.Context, grace time.Duration) (StopResult, error) {
	return i.halted(ctx, func(now *Instance) error {
		if now.rec.Wanted != Up {
			return fault.Errorf(fault.Usage, "%s is not supervised", i.Name()).
				Hintf("start it with sovereign-build up %s", i.Name())
		}
		return nil
	}, grace)
}

// Halt stops the machine in order and leaves it to its supervisor when it is
// started again: what a supervisor does that is itself about to end with its
// host. grace is as in Stop.
func (i *Instance) Halt(ctx context.Context, grace time.Duration) (StopResult, error) {
	return i.halted(ctx, func(*Instance) error { return nil }, grace)
}
